"""`patchkin compress distill --preset online`, from two folders to a small model."""

from __future__ import annotations

import json

import pytest
import torch

from patchkin.cli import main
from patchkin.compression.cost import configuration_cost
from patchkin.config import read_yaml
from patchkin.storage.checkpoint import read_header, read_model
from patchkin.translation.translator import Translator

SMALL = (
    *("--size", "32", "--data.load-size", "36", "--workers", "0", "--device", "cpu"),
    *("--ndf", "2", "--ngf", "2", "--method.wider-ngf", "3", "--method.pool.side", "32"),
    *("--method.block", "2", "--method.student-steps", "1", "--training.log-every", "2"),
)


@pytest.fixture(scope="module")
def online(toy_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("students") / "run"
    arguments = ["compress", "distill", "--preset", "online", "--data", toy_root, *SMALL]
    assert main([*map(str, arguments), "--run-dir", str(folder), "--steps", "3"]) == 0
    return folder


def test_teachers_and_student_take_turns_and_a_resumed_run_goes_on(online, toy_root, command):
    config = read_yaml(online / "config.yaml")
    assert config["name"] == "online-distillation"
    assert config["method"]["wider_ngf"] == 3
    assert command("compress", "distill", "--resume", online, "--steps", "4")[0] == 0
    records = [json.loads(line) for line in (online / "log.jsonl").read_text().splitlines()]
    first, last = (
        record["terms"] for record in records if record.get("step") in (2, 4) and "terms" in record
    )
    assert "T+T_back.cycle_A" in first
    assert not any(name.startswith("G") for name in first)
    assert {name for name in last if "adversarial" in name} == set()
    assert "G+A.similarity" in last
    report = (online / "report.html").read_text()
    assert "patchkin compress distill --config" in report


def test_the_student_is_exported_and_translates(online, toy_root, command, tmp_path):
    model = tmp_path / "small.safetensors"
    code, out, _ = command("compress", "export", online, "-o", model, "--json")
    assert code == 0
    told, expected = json.loads(out), configuration_cost((2,) * 8, height=32, width=32)
    assert (told["channels"], told["macs"]) == ("2_2_2_2_2_2_2_2", expected.macs)
    assert told["parameters"] == expected.parameters
    assert read_header(model).method == "compressed-resnet"
    (checkpoint,) = sorted((online / "checkpoints").glob("step_*"))[-1:]
    _, whole = read_model(checkpoint / "model.safetensors")
    _, small = read_model(model)
    assert all(torch.equal(whole[name], weight) for name, weight in small.items())
    assert {name.split(".")[0] for name in small} == {"G"}
    x_BCHW = torch.rand(1, 3, 32, 48) * 2 - 1
    both = [Translator.load(path, device="cpu")(x_BCHW) for path in (online, model)]
    assert torch.equal(*both)
    code, out, _ = command("compress", "cost", online, "--size", "32", "--json")
    assert code == 0
    assert json.loads(out)["parameters"] == expected.parameters
    code, _, err = command("compress", "export", online, "-o", model, "--overwrite",
                           "--channels", "1_1_1_1_1_1_1_1")  # fmt: skip
    assert code == 2
    assert "has one width: leave out --channels" in err


def test_what_does_not_fit_is_refused_in_a_line(online, toy_root, command):
    refused = {
        ("distill", online, "--preset", "online"): "learn beside the student: leave out TEACHER",
        ("distill", "--preset", "online", "--start", online): "--start is a supernet's",
        ("distill", "--preset", "onlin"): "There is no preset `onlin`. Did you mean `online`?",
        ("search", online, "--budget", "3e6"): "not a supernet",
    }
    for arguments, message in refused.items():
        data = () if arguments[0] == "search" else ("--data", toy_root)
        code, _, err = command("compress", *arguments, *data)
        assert code == 2
        assert message in err
