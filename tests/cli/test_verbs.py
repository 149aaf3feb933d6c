"""The verbs, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cli.conftest import TINY
from patchkin import Translator
from patchkin.methods import METHODS
from patchkin.storage.checkpoint import CheckpointStore

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_method.py"


def test_help_answers_at_once():
    times = []
    for _ in range(3):
        began = time.perf_counter()
        result = subprocess.run(
            [sys.executable, "-m", "patchkin", "--help"], capture_output=True, text=True, check=True
        )
        times.append(time.perf_counter() - began)
    assert "translate" in result.stdout
    assert min(times) < 0.5


def test_help_needs_no_torch():
    script = (
        "import sys; from patchkin.cli import main; main(['--help']); print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "False"


def test_help_of_a_verb_names_the_short_flags(command, capsys):
    with pytest.raises(SystemExit) as stop:
        command("train", "cut", "--help")
    assert stop.value.code == 0
    said = capsys.readouterr().out
    flags = (
        *("--data", "--run-dir", "--steps", "--epochs", "--seed", "--size", "--batch-size"),
        *("--precision", "--device", "--devices", "--workers", "--save-every", "--score-every"),
        *("--preset", "--config", "--resume", "--overwrite", "--direction"),
        *("--ngf", "--ndf", "--blocks", "--json"),
    )
    assert [flag for flag in flags if f"{flag} " not in said and f"{flag}," not in said] == []


def test_train_writes_a_run(finished_run):
    names = {path.name for path in finished_run.iterdir()}
    assert names == {
        "checkpoints",
        "config.yaml",
        "data.json",
        "log.jsonl",
        "previews",
        "report.html",
    }
    config = yaml.safe_load((finished_run / "config.yaml").read_text())
    assert config["name"] == "cut"
    assert config["method"]["generator"]["ngf"] == 4
    assert config["data"]["size"] == 32
    assert config["schedule"]["steps"] == 3
    page = (finished_run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "untrained" in page


def test_train_json_is_all_there_is_on_standard_output(command, toy_root, tmp_path):
    code, out, _ = command(
        *("train", "cut", "--data", toy_root, "--run-dir", tmp_path / "r", *TINY, "--steps", "2"),
        "--json",
    )
    assert code == 0
    summary = json.loads(out)
    assert summary["steps"] == 2
    assert summary["scores"].keys() == {"0", "2"}
    assert np.isfinite(list(summary["terms"].values())).all()


def test_print_config_is_a_config(command, toy_root, tmp_path):
    _, out, _ = command("train", "cut", "--preset", "fastcut", "--data", toy_root, "--print-config")
    path = tmp_path / "fast.yaml"
    path.write_text(out)
    assert yaml.safe_load(out)["method"]["contrast_weight"] == 10.0
    _, again, _ = command("train", "--config", path, "--print-config")
    assert again == out
    _, changed, _ = command("train", "--config", path, "--seed", "5", "--print-config")
    assert yaml.safe_load(changed)["training"]["seed"] == 5


def test_a_preset_is_chosen_by_the_data(command, toy_root):
    _, out, _ = command("train", "semantic-relation", "--print-config")
    assert yaml.safe_load(out)["data"]["size"] == 64
    _, out, _ = command("train", "semantic-relation", "--data", toy_root, "--print-config")
    plain = yaml.safe_load(out)
    assert (plain["data"]["size"], plain["method"]["relation_weight"]) == (256, 0.05)
    assert plain["schedule"] == {
        "epochs": 400, "steps": None, "max_steps": None, "decay_fraction": 0.5,
        "halve_every": None, "warmup": 0,
        "ema_decay": 0.0, "ema_warmup": False,
    }  # fmt: skip


def test_resume_continues_to_more_steps(command, run_copy, toy_root, tmp_path):
    code, _, err = command("train", "--resume", run_copy, "--steps", "5")
    assert code == 0
    assert "after step 3/5" in err
    assert CheckpointStore(run_copy).steps() == [3, 5]


def test_resume_of_a_complete_run_says_so(command, run_copy):
    code, _, err = command("train", "--run-dir", run_copy, "--resume")
    assert code == 0
    assert "is complete: 3 steps" in err


def test_overwrite_starts_anew(command, run_copy, toy_root):
    code, _, _ = command(
        *("train", "cut", "--data", toy_root, "--run-dir", run_copy, *TINY, "--steps", "2"),
        "--overwrite",
    )
    assert code == 0
    assert CheckpointStore(run_copy).steps() == [2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_saves_and_leaves_with_130(toy_root, tmp_path, number):
    """Ctrl-C in a terminal, or the end of a job: both reach the loader's workers too."""
    run_dir = tmp_path / "run"
    arguments = [*TINY, "--workers", "2", "--steps", "100000", "--training.log-every", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "patchkin", "train", "cut", "--data", str(toy_root),
         "--run-dir", str(run_dir), *arguments],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    log = run_dir / "log.jsonl"
    while process.poll() is None and not (log.is_file() and log.read_text().count("\n") > 3):
        time.sleep(0.05)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    last = json.loads(log.read_text().splitlines()[-1])
    assert err.splitlines()[-1] == (
        f"patchkin: interrupted; step {last['step']} is saved: "
        f"patchkin train --resume {run_dir} goes on from there"
    )
    assert CheckpointStore(run_dir).steps() == [last["step"]]


def test_translate_keeps_names_folders_and_sizes(command, finished_run, tmp_path):
    source = tmp_path / "in"
    (source / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    sizes = {"a.png": (30, 41), "deep/b.jpg": (64, 20), "c.webp": (9, 9)}
    for name, (height, width) in sizes.items():
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(source / name)
    code, out, _ = command(
        "translate", finished_run, source, "--output", tmp_path / "out", "--json"
    )
    assert code == 0
    assert len(json.loads(out)["written"]) == 3
    for name, (height, width) in sizes.items():
        with Image.open(tmp_path / "out" / name) as image:
            assert image.size == (width, height)
    with Image.open(source / "a.png") as image:
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    y = Translator.load(finished_run, device="cpu")(x)[0].clamp(-1, 1)
    with Image.open(tmp_path / "out" / "a.png") as image:
        written = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
    assert float((written - y).abs().max()) <= 0.5 / 127.5 + 1e-4


def test_translate_skips_what_is_there_unless_told(command, finished_run, toy_root, tmp_path):
    arguments = (
        "translate",
        finished_run,
        toy_root / "testA",
        "--output",
        tmp_path / "o",
        "--json",
    )
    _, first, _ = command(*arguments)
    _, second, _ = command(*arguments)
    _, third, _ = command(*arguments, "--overwrite", "--batch-size", "2")
    counts = [
        (len(json.loads(out)["written"]), len(json.loads(out)["skipped"]))
        for out in (first, second, third)
    ]
    assert counts == [(3, 0), (0, 3), (3, 0)]


def test_one_bad_file_does_not_stop_the_others(command, finished_run, toy_root, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    code, out, err = command(
        "translate", finished_run, bad, toy_root / "testA", "--output", tmp_path / "o", "--json"
    )
    assert code == 2
    summary = json.loads(out)
    assert list(summary["failed"]) == [str(bad)]
    assert len(summary["written"]) == 3
    assert "bad.png" in err


def test_translate_keeps_sixteen_bits(command, finished_run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (24, 20, 3), dtype=np.uint16)
    np.save(tmp_path / "deep.npy", pixels)
    code, _, err = command(
        "translate", finished_run, tmp_path / "deep.npy", "--output", tmp_path / "o"
    )
    assert code == 0, err
    translated = np.load(tmp_path / "o" / "deep.npy")
    assert translated.dtype == np.uint16
    assert translated.shape == (24, 20, 3)
    assert len(np.unique(translated)) > 256


def test_inputs_are_never_overwritten(command, finished_run, toy_root):
    code, _, err = command(
        "translate", finished_run, toy_root / "testA", "--output", toy_root / "testA", "--overwrite"
    )
    assert code == 2
    assert "would be overwritten" in err


def test_two_inputs_for_one_output(command, finished_run, toy_root, tmp_path):
    code, _, err = command(
        "translate", finished_run, toy_root / "testA", toy_root / "testB", "--output", tmp_path
    )
    assert code == 2
    assert "would both be written to" in err


def test_data_check(command, toy_root):
    code, out, _ = command("data", "check", toy_root, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["ok"]
    counts = {folder["folder"]: folder["num_images"] for folder in report["folders"]}
    assert counts == {"trainA": 6, "trainB": 6, "valA": 3, "valB": 3, "testA": 3, "testB": 3}


def test_data_toy(command, tmp_path):
    code, _, _ = command(
        "data", "toy", tmp_path / "t", "--train", "2", "--test", "1", "--size", "64"
    )
    assert code == 0
    assert len(list((tmp_path / "t").rglob("*.png"))) == 2 * 2 + 2 * (2 + 2)
    code, _, err = command("data", "toy", tmp_path / "t")
    assert code == 2
    assert "is not empty" in err


def test_public_sets_are_listed(command):
    code, out, _ = command("data", "download", "--json")
    assert code == 0
    assert "horse2zebra" in json.loads(out)
    _, out, _ = command("data", "download")
    assert out.splitlines()[0].startswith("horse2zebra ")


def test_methods_lists_all(command):
    _, out, _ = command("methods", "--json")
    listed = json.loads(out)
    assert list(listed["semantic-relation"]["presets"]) == [
        "horse2zebra", "cityscapes", "paper", "stable", "toy",
    ]  # fmt: skip
    code, out, _ = command("methods")
    assert code == 0
    assert all(name in out for name in METHODS)
    code, out, _ = command("methods", "cut")
    assert code == 0
    assert "fastcut" in out


def test_methods_counts_networks_and_parameters(command):
    _, out, _ = command("methods", "--json")
    listed = json.loads(out)
    cut = listed["cut"]
    assert (cut["networks"], cut["parameters"]) == (3, 11_378_179 + 2_764_737 + 560_384)
    assert listed["pix2pix"]["parameters"] > 54_413_955
    assert {name for name, row in listed.items() if row["data"] == "paired"} == {"pix2pix"}
    sides = {name: row["sides"] for name, row in listed.items()}
    assert sides["gcgan"] == "one-sided"
    assert sides["dclgan"] == "two-sided"
    assert sides["starganv2"] == "any domain"
    assert all(row["released code"] for row in listed.values())
    tiling = {name: row["tiling"] for name, row in listed.items()}
    assert (tiling["cut"], tiling["travelgan"]) == ("discouraged", "supported")
    assert "norms take statistics" in cut["tiling faults"][0]


def test_methods_with_an_unknown_name(command):
    code, _, err = command("methods", "cyclgan")
    assert code == 2
    assert "Did you mean `cyclegan`?" in err


def test_doctor(command):
    _, out, _ = command("doctor", "--json")
    assert json.loads(out)["torch"] == torch.__version__.split("+")[0]


def test_a_method_in_a_file_of_its_own_has_the_whole_command_line(toy_root, tmp_path):
    def run(*arguments):
        command = [sys.executable, str(EXAMPLE), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    run_dir = tmp_path / "own"
    trained = run(
        *("train", "--data", toy_root, "--run-dir", run_dir, "--size", "32", "--workers", "0"),
        *("--steps", "2", "--ngf", "4", "--method.colour-weight", "2", "--device", "cpu"),
    )
    assert trained.returncode == 0, trained.stderr
    resumed = run("train", "--resume", run_dir, "--steps", "3")
    assert resumed.returncode == 0, resumed.stderr
    assert CheckpointStore(run_dir).steps() == [2, 3]
    translated = run("translate", run_dir, toy_root / "testA", "--output", tmp_path / "out")
    assert translated.returncode == 0, translated.stderr
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


def test_negatives_and_places_of_a_contrast_are_options(command, toy_root):
    options = ("--data", toy_root, "--print-config")
    _, out, _ = command(
        *("train", "cut", *options, "--method.negatives", "optimal-transport"),
        *("--method.places", "attention", "--method.transport.epsilon", "0.5"),
    )
    config = yaml.safe_load(out)["method"]
    assert (config["negatives"], config["places"]) == ("optimal-transport", "attention")
    assert (config["transport"]["epsilon"], config["negatives_from"]) == (0.5, "internal")
    _, out, _ = command("train", "cut", *options, "--method.negatives", "both")  # until now
    config = yaml.safe_load(out)["method"]
    assert (config["negatives"], config["negatives_from"]) == ("uniform", "both")
    code, _, error = command(
        *("train", "semantic-relation", *options, "--method.negatives", "paper"),
        "--method.no-hard-negatives",
    )
    assert (code, error.count("\n")) == (2, 1)
    assert "`--method.negatives` replaces `--method.hard-negatives` and `--method.weights`" in error
    code, _, error = command("train", "cut", *options, "--method.places", "atention")
    assert (code, error.count("\n")) == (2, 1)
    assert "attention" in error
