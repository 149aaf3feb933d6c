"""`patchkin compress`, from a teacher to a small model that translates."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from patchkin.cli import main
from patchkin.compression import Distillation
from patchkin.compression.cost import configuration_cost
from patchkin.config import read_yaml
from patchkin.data.paired import write_paired_toy
from patchkin.images import read_image, to_tensor, to_uint8
from patchkin.scoring.validation import TRUTH_DISTANCE
from patchkin.storage.checkpoint import read_model
from patchkin.translation.translator import Translator

SMALL = (
    *("--size", "32", "--data.load-size", "36", "--workers", "0", "--device", "cpu"),
    *("--ndf", "4", "--method.num-patches", "8"),
)
STUDENT = (*SMALL, "--ngf", "4", "--method.space", "4,2_4,2_4,2_4,2_4,2_4,2_4,2_4,2")


def trained(method, root, folder, *options):
    arguments = ["train", method, "--data", root, "--run-dir", folder, *options]
    assert main([str(argument) for argument in arguments]) == 0
    return folder


@pytest.fixture(scope="module")
def teacher(toy_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers") / "cut"
    narrow = ("--ngf", "4", "--blocks", "3", "--method.head-width", "8", "--steps", "2")
    return trained("cut", toy_root, folder, *SMALL, *narrow)


@pytest.fixture(scope="module")
def supernet(teacher, toy_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("supernets") / "run"
    arguments = ["compress", "distill", teacher, "--data", toy_root, "--run-dir", folder, *STUDENT]
    assert main([*map(str, arguments), "--steps", "3"]) == 0
    return folder


def test_a_teacher_becomes_a_small_model(supernet, toy_root, command, tmp_path):
    code, out, _ = command(
        *("compress", "search", supernet, "--output", tmp_path / "search", "--budget", "3e6"),
        *("--population", "4", "--generations", "2", "--device", "cpu", "--json"),
    )
    assert code == 0
    found = json.loads(out)
    assert found["best"]["macs"] <= 3e6
    assert found["pareto"][-1]["channels"] == found["best"]["channels"]
    state = json.loads((tmp_path / "search" / "search.json").read_text())
    assert len(state["history"]) == found["generations"] == 2
    assert (tmp_path / "search" / "pareto.png").read_bytes().startswith(b"\x89PNG")

    model = tmp_path / "small.safetensors"
    channels = found["best"]["channels"]
    code, out, _ = command(
        *("compress", "export", supernet, "--channels", channels, "-o", model),
        *("--time-calls", "2", "--json"),
    )
    assert code == 0
    told = json.loads(out)
    assert told["macs"] == found["best"]["macs"]
    assert told["latency"]["torch"]["median_ms"] > 0
    small = Translator.load(model, device="cpu")
    whole = Translator.load(supernet, device="cpu").method
    x_BCHW = torch.rand(2, 3, 32, 48) * 2 - 1
    numbers = tuple(map(int, channels.split("_")))
    with torch.no_grad():
        assert torch.equal(small(x_BCHW), whole.G(x_BCHW, numbers))
    assert sum(w.numel() for w in small.method.parameters()) == told["parameters"]
    assert configuration_cost(numbers, height=32, width=32).macs == told["macs"]

    code, _, _ = command("translate", model, toy_root / "testA", "-o", tmp_path / "out")
    assert code == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


def test_the_run_holds_the_teacher_and_where_it_came_from(teacher, supernet, tmp_path):
    source = teacher / "checkpoints" / "step_00000002" / "model.safetensors"
    recorded = read_yaml(supernet / "config.yaml")["method"]["teacher"]
    assert recorded["path"] == str(source)
    assert recorded["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert recorded["generator"]["blocks"] == 3
    _, taught = read_model(source)
    header, weights = read_model(supernet / "checkpoints" / "step_00000003" / "model.safetensors")
    assert header.method == Distillation.name
    for name, weight in taught.items():
        if name.startswith("G."):
            assert torch.equal(weights[f"T.{name.removeprefix('G.')}"], weight)


@pytest.mark.slow
def test_a_run_goes_on_without_the_teachers_file(teacher, toy_root, command, tmp_path):
    moved = tmp_path / "teacher.safetensors"
    source = teacher / "checkpoints" / "step_00000002" / "model.safetensors"
    moved.write_bytes(source.read_bytes())
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    for run_dir in (whole, parted):
        start = ("compress", "distill", moved, "--data", toy_root, "--run-dir", run_dir, *STUDENT)
        steps = "4" if run_dir == whole else "2"
        # A constant rate, so that the shorter run is a part of the longer one.
        constant = ("--schedule.decay-fraction", "0", "--method.gamma-divisor-start", "10")
        assert command(*start, *constant, "--steps", steps)[0] == 0
    moved.unlink()
    code, _, _ = command("compress", "distill", "--resume", parted, "--steps", "4")
    assert code == 0
    states = [
        read_model(run / "checkpoints" / "step_00000004" / "model.safetensors")[1]
        for run in (whole, parted)
    ]
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


@pytest.mark.slow
def test_the_way_back_of_a_teacher(toy_root, command, tmp_path):
    options = ("--ngf", "4", "--blocks", "3", "--steps", "1")
    plain = ("--size", "32", "--data.load-size", "36", "--workers", "0", "--device", "cpu")
    cyclegan = trained("cyclegan", toy_root, tmp_path / "c", *plain, "--ndf", "4", *options)
    code, _, _ = command(
        *("compress", "distill", cyclegan, "--teacher-direction", "BtoA", "--direction", "BtoA"),
        *("--data", toy_root, "--run-dir", tmp_path / "s", *STUDENT, "--steps", "1"),
    )
    assert code == 0
    _, taught = read_model(cyclegan / "checkpoints" / "step_00000001" / "model.safetensors")
    _, weights = read_model(tmp_path / "s" / "checkpoints" / "step_00000001" / "model.safetensors")
    assert torch.equal(weights["T.model.1.weight"], taught["G_BA.model.1.weight"])


@pytest.mark.slow
def test_a_residual_pix2pix_trains_resumes_and_teaches(command, tmp_path):
    write_paired_toy(tmp_path / "pairs", counts={"train": 8, "val": 2, "test": 2})
    data, run = ("--data", tmp_path / "pairs"), tmp_path / "teacher"
    narrow = ("--ngf", "4", "--blocks", "3", "--preset", "teacher-map2sat")
    code, _, _ = command(
        *("train", "pix2pix", *data, "--run-dir", run, *SMALL[:-2], *narrow, "--steps", "1")
    )
    assert code == 0
    code, _, _ = command("train", "pix2pix", "--resume", run, "--steps", "2")
    assert code == 0, "although the method's first preset has a U-Net"
    code, _, _ = command(
        *("compress", "distill", run, "--preset", "map2sat", *data, "--steps", "1", *STUDENT),
        *("--run-dir", tmp_path / "student"),
    )
    assert code == 0
    (model,) = (tmp_path / "student" / "checkpoints").glob("*/model.safetensors")
    header, weights = read_model(model)
    _, taught = read_model(run / "checkpoints" / "step_00000002" / "model.safetensors")
    assert torch.equal(weights["T.model.1.weight"], taught["G.model.1.weight"])
    assert (header.config["paired"], header.config["adversarial"]) == (True, "hinge")
    code, out, _ = command("compress", "cost", run, "--json")
    assert code == 0, "a teacher's work is counted"
    assert json.loads(out)


@pytest.mark.slow
def test_paired_data_is_scored_against_the_truth(teacher, toy_root, command, tmp_path):
    write_paired_toy(tmp_path / "pairs", size=64)
    run = tmp_path / "run"
    code, _, _ = command(
        *("compress", "distill", teacher, "--data", tmp_path / "pairs", "--run-dir", run),
        *(*STUDENT, "--method.paired", "--method.discriminator.in-channels", "6"),
        *("--steps", "1"),
    )
    assert code == 0
    code, out, _ = command(
        *("compress", "search", run, "--budget", "3e6", "--population", "4"),
        *("--generations", "1", "--json"),
    )
    assert code == 0
    assert 0 < json.loads(out)["best"]["score"] < 255
    state = json.loads((run / "search" / "search.json").read_text())
    assert state["settings"]["scored"]["score"] == TRUTH_DISTANCE
    code, _, _ = command("compress", "export", run, "-o", tmp_path / "best.safetensors")
    assert code == 0


def test_a_search_goes_on_where_it_stopped(supernet, command, tmp_path):
    options = ("--budget", "3e6", "--population", "4", "--device", "cpu")
    for name, steps in (("a", ("1", "3")), ("b", ("3",))):
        for generations in steps:
            code, _, _ = command(
                *("compress", "search", supernet, "-o", tmp_path / name, *options),
                *("--generations", generations),
            )
            assert code == 0
    first, second = ((tmp_path / name / "search.json").read_text() for name in "ab")
    assert first == second
    code, _, error = command(
        "compress", "search", supernet, "-o", tmp_path / "a", *options, "--seed", "5"
    )
    assert (code, error.count("\n")) == (2, 1)
    assert "other settings" in error


def test_one_configuration_is_fine_tuned(teacher, supernet, toy_root, command, tmp_path):
    """At a rate of nearly nothing it stays what it was."""
    tuned = tmp_path / "tuned"
    options = (*SMALL, "--ngf", "4", "--method.space", "2_4_2_2_4_2_4_2", "--steps", "1")
    rates = ("--method.generator-adam.learning-rate", "1e-12")
    run = ("compress", "distill", teacher, "--data", toy_root, "--run-dir", tuned, *options)
    assert command(*run, *rates, "--start", supernet)[0] == 0
    before, after = (Translator.load(folder, device="cpu").method for folder in (supernet, tuned))
    x_BCHW = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        expected = before.G(x_BCHW, (2, 4, 2, 2, 4, 2, 4, 2))
        torch.testing.assert_close(after.translate(x_BCHW), expected, rtol=0, atol=1e-5)
    error = complaint(command, *run, "--overwrite", "--start", teacher)
    assert "a model of `cut`, not a supernet" in error
    narrow = ("--method.space", "2_2_2_2_2_2_2_2", "--method.student-ngf", "2")
    run = ("compress", "distill", teacher, "--data", toy_root, "--run-dir", tmp_path / "x", *SMALL)
    assert "does not fit" in complaint(command, *run, *narrow, "--start", supernet)


def test_printed_settings_can_be_read(teacher, command, tmp_path):
    code, out, _ = command("compress", "distill", teacher, *STUDENT, "--print-config")
    assert code == 0
    file = tmp_path / "config.yaml"
    file.write_text(out)
    code, again, _ = command("compress", "distill", "--config", file, "--print-config")
    assert (code, again) == (0, out)


def complaint(command, *arguments):
    code, _, error = command(*arguments)
    assert code == 2, error
    assert error.startswith("patchkin: error: ")
    assert error.count("\n") == 1
    return error


def test_an_impossible_budget(supernet, command, tmp_path):
    error = complaint(
        command, "compress", "search", supernet, "--budget", "1e5", "-o", tmp_path / "s"
    )
    assert "2_2_2_2_2_2_2_2, costs" in error
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("channels", "words"),
    [
        ("4_4_4", "8 numbers"),
        ("4_4_4_4_4_4_4_x", "joined by `_`"),
        ("4_4_4_4_8_4_4_4", "entry 5 is 8, but this supernet has 4"),
    ],
)
def test_a_wrong_channel_string(supernet, command, tmp_path, channels, words):
    model = tmp_path / "m.safetensors"
    arguments = ("compress", "export", supernet, "--channels", channels, "-o", model)
    assert words in complaint(command, *arguments)
    assert not model.exists()


def test_teachers_of_another_family(finished_run, supernet, command, toy_root, tmp_path):
    options = ("--data", toy_root, "--run-dir", tmp_path / "run", *STUDENT)
    error = complaint(command, "compress", "distill", finished_run, *options)
    assert "multiple of 3; got 5" in error
    error = complaint(command, "compress", "distill", supernet, *options)
    assert "whose generator is a Supernet" in error
    error = complaint(command, "compress", "distill", tmp_path / "nothing", *options)
    assert "no such file" in error
    assert "Name the teacher" in complaint(command, "compress", "distill", *options)
    error = complaint(
        *(command, "compress", "distill", finished_run, "--teacher-direction", "BtoA", *options)
    )
    assert "translates AtoB only" in error
    assert not (tmp_path / "run").exists()


def test_sets_that_cannot_be_scored_on(supernet, command, toy_root, tmp_path):
    search = ("compress", "search", supernet, "--budget", "3e6", "-o", tmp_path / "s")
    assert "nothing" in complaint(command, *search, "--data", tmp_path / "nothing")
    for name, source in {
        "trainA": "trainA",
        "trainB": "trainB",
        "valA": "testA",
        "valB": "testB",
    }.items():
        (tmp_path / "set" / name).mkdir(parents=True)
        for file in (toy_root / source).glob("*.png"):
            (tmp_path / "set" / name / file.name).write_bytes(file.read_bytes())
    error = complaint(command, *search, "--data", tmp_path / "set")
    assert "give --extractor-weights" in error
    assert not (tmp_path / "s").exists()


def test_runs_that_are_no_supernets_and_files_that_are_there(
    finished_run, supernet, command, tmp_path
):
    error = complaint(command, "compress", "search", finished_run, "--budget", "3e6")
    assert "a model of `cut`, not a supernet" in error
    error = complaint(command, "compress", "export", supernet, "-o", tmp_path / "m.safetensors")
    assert "holds no finished search" in error
    taken = tmp_path / "taken.safetensors"
    taken.write_bytes(b"")
    arguments = ("compress", "export", supernet, "--channels", "2_2_2_2_2_2", "-o")
    assert "--overwrite" in complaint(command, *arguments, taken)
    assert ".safetensors" in complaint(command, *arguments, tmp_path / "m.pth")
    assert command(*arguments, taken, "--overwrite")[0] == 0


def test_actions(command):
    assert "Did you mean `distill`?" in complaint(command, "compress", "distil")
    code, out, _ = command("compress")
    assert code == 0
    assert "search RUN" in out


def test_it_is_not_offered_by_train(command):
    assert "Unknown method" in complaint(command, "train", Distillation.name)


def test_what_the_released_model_costs(command, tmp_path):
    """Counted at 64 pixels, a sixteenth of the published count at 256."""
    from patchkin.compression import CompressedResNet
    from patchkin.config import to_plain
    from patchkin.storage.checkpoint import ModelHeader, write_tensors

    released = CompressedResNet()
    model = tmp_path / "released.safetensors"
    header = ModelHeader(method=released.name, config=to_plain(released.config), size=256)
    write_tensors(model, released.state_dict(), header.to_metadata())
    code, out, _ = command("compress", "cost", model, "--size", "64", "--json")
    assert code == 0
    told = json.loads(out)
    assert (told["channels"], told["parameters"]) == ("16_16_32_16_32_32_16_16", 356_867)
    assert (16 * told["macs"], 16 * told["macs_exact"]) == (2_525_233_152, 1_845_755_904)
    assert 16 * (told["macs"] + told["norm_elements"]) == 2_546_204_672
    code, out, _ = command("compress", "cost", model, "--size", "64")
    assert "parameters: 356,867\n" in out
    assert "157,827,072 as published, 115,359,744 exactly" in out


def test_a_model_against_its_teacher(teacher, supernet, command, tmp_path):
    model = tmp_path / "small.safetensors"
    export = ("compress", "export", supernet, "--channels", "2_2_2_2_2_2", "-o", model)
    assert command(*export)[0] == 0
    code, out, _ = command(
        *("compress", "cost", model, "--against", teacher, "--size", "16", "--json"),
        *("--time-calls", "2", "--runtime", "torch", "onnx", "--threads", "1"),
    )
    assert code == 0
    small = json.loads(out)
    large = small["against"]
    network = Translator.load(teacher, device="cpu").method.G
    assert large["parameters"] == sum(weight.numel() for weight in network.parameters())
    assert small["macs"] == configuration_cost((2,) * 8, height=16, width=16).macs
    assert small["ratios"]["macs"] == large["macs"] / small["macs"]
    for runtime in ("torch", "onnx"):
        times = small["latency"][runtime]
        assert times["images_per_second"] == pytest.approx(1000 / times["median_ms"])
        expected = large["latency"][runtime]["median_ms"] / times["median_ms"]
        assert small["ratios"][runtime] == pytest.approx(expected)
    # A supernet translates with its widest configuration, so that is what it costs.
    code, out, _ = command("compress", "cost", supernet, "--size", "16", "--json")
    assert json.loads(out)["macs"] == configuration_cost((4,) * 8, height=16, width=16).macs


def test_wrong_questions_about_cost(finished_run, command, tmp_path):
    cost = ("compress", "cost", finished_run)
    assert "at least 5 pixels" in complaint(command, *cost, "--size", "4")
    assert "no such file" in complaint(command, "compress", "cost", tmp_path / "nothing")
    assert "AtoB only" in complaint(command, *cost, "--direction", "BtoA")
    assert "`--threads`" in complaint(command, *cost, "--threads", "-1")
    assert "at least 1" in complaint(command, *cost, "--time-calls", "-1", "--size", "16")


def test_a_small_model_is_evaluated(supernet, toy_root, command, tmp_path):
    """As it translates: the change is that of the files that `translate` writes."""
    model, output = tmp_path / "small.safetensors", tmp_path / "out"
    export = ("compress", "export", supernet, "--channels", "2_4_2_2_2_2", "-o", model)
    assert command(*export)[0] == 0
    code, out, _ = command("evaluate", model, "--data", toy_root, "--protocol", "--json")
    assert code == 0
    of_model = json.loads(out)["results"][0]
    assert command("translate", model, toy_root / "testA", "-o", output)[0] == 0
    code, out, _ = command("evaluate", output, "--data", toy_root, "--protocol", "--json")
    assert code == 0
    of_files = json.loads(out)["results"][0]
    assert of_model["subject"]["method"] == "compressed-resnet"
    assert of_model["scores"]["counterpart/tone_inside"] > 0
    for name, value in of_model["scores"].items():
        assert value == pytest.approx(of_files["scores"][name], rel=1e-6), name


def test_the_report_shows_the_search(supernet, command, tmp_path):
    run = shutil.copytree(supernet, tmp_path / "run")
    search = ("compress", "search", run, "--budget", "3e6", "--population", "4")
    code, _, error = command(*search, "--generations", "1", "--device", "cpu")
    assert code == 0
    assert error.count("G MACs") == 1
    page = (run / "report.html").read_text()
    assert "Score against cost" in page
    plot = base64.b64encode((run / "search" / "pareto.png").read_bytes()).decode()
    assert plot in page
    assert "patchkin compress distill --config " in page


def test_a_score_that_cannot_decide(supernet, command, tmp_path):
    search = ("compress", "search", supernet, "--budget", "3e6", "-o", tmp_path / "s")
    error = complaint(command, *search, "--score", "tone_inide")
    assert "Did you mean `tone_inside`?" in error
    error = complaint(command, *search, "--score", "detail_inside")
    assert "`detail_inside` cannot decide, because neither less nor more of it is better" in error
    assert not (tmp_path / "s").exists()


def test_a_segmentation_network_decides(supernet, toy_root, command, tmp_path, monkeypatch):
    """Mean IoU counted by hand, with a judge that sees sky where an image is bright, else road."""
    from patchkin.metrics import segmentation
    from patchkin.runs import fitness as compression_scoring
    from patchkin.runs.fitness import RunFitness, ScoringConfig

    class Judge:
        def to(self, _device):
            return self

    road, sky = (128, 64, 128), (70, 130, 180)
    for folder in ("trainA", "valA", "testA"):
        (tmp_path / "labels" / folder).mkdir(parents=True)
        for number in range(3):
            picture = Image.new("RGB", (32, 32), road)
            picture.paste(sky, (0, 0, 32, 8 * (number + 1)))
            picture.save(tmp_path / "labels" / folder / f"{number}.png")
    for folder in ("trainB", "valB"):
        shutil.copytree(toy_root / "trainB", tmp_path / "labels" / folder)

    def sees(_judge, photo):
        gray = torch.from_numpy(np.array(photo.convert("L").resize((256, 128))))
        return torch.where(gray > 127, 10, 0)

    monkeypatch.setattr(compression_scoring, "read_drn", lambda path, name: Judge())
    monkeypatch.setattr(segmentation, "segment", sees)
    scoring = ScoringConfig(
        run=supernet, data=str(tmp_path / "labels"), judge="drn-d-22", judge_weights=tmp_path
    )
    fitness = RunFitness(scoring)
    assert (fitness.name, fitness.higher_is_better) == ("segmentation-correct/mIoU", True)

    channels = (2, 4, 2, 2, 4, 2, 4, 2)
    network = Translator.load(supernet, device="cpu").method.G
    hits, wrong = {0: 0, 10: 0}, 0
    for number in range(3):
        label = read_image(tmp_path / "labels" / "valA" / f"{number}.png", 3)
        with torch.no_grad():
            image_CHW = network(to_tensor(label)[None], channels)[0]
        seen = sees(None, Image.fromarray(to_uint8(image_CHW).permute(1, 2, 0).numpy()))
        truth = torch.zeros(128, 256, dtype=torch.int64)
        truth[: 32 * (number + 1)] = 10
        wrong += int((seen != truth).sum())
        for name in hits:
            hits[name] += int(((seen == name) & (truth == name)).sum())
    expected = 50 * sum(count / (count + wrong) for count in hits.values())
    assert fitness(channels) == pytest.approx(expected)
    assert 0 < expected < 100
