"""Several processes share the files of a folder, and together do what one does."""

from __future__ import annotations

import json
import multiprocessing
import os

import pytest
import torch
from PIL import Image
from torchvision.models import squeezenet1_1

from patchkin.scoring import distances
from patchkin.translation.files import plan, translate_files
from patchkin.translation.record import RECORD_FOLDER
from patchkin.translation.translator import Translator


@pytest.fixture(scope="session")
def photos(toy_root, tmp_path_factory):
    """Seven images of several sizes, in folders."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(7):
        target = folder / "ab"[index % 2] / f"{index}.png"
        target.parent.mkdir(exist_ok=True)
        with Image.open(toy_root / "testA" / f"000{index % 3}.png") as image:
            image.crop((0, 0, 64 - 8 * (index // 3), 60 - index)).save(target)
    return folder


@pytest.fixture(scope="session")
def whole(finished_run, photos, tmp_path_factory):
    """Translations by one process: bytes of files by name."""
    output = tmp_path_factory.mktemp("whole")
    translate_files(Translator.load(finished_run, device="cpu"), plan([str(photos)], output).jobs)
    return contents(output)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and RECORD_FOLDER not in path.parts
    }


def translated(command, *arguments):
    code, out, err = command("translate", *arguments, "--device", "cpu", "--json")
    assert code == 0, err
    return json.loads(out)


def test_parts_write_what_one_process_writes(command, finished_run, photos, whole, tmp_path):
    assert len(whole) == 7
    written = []
    for number in (1, 2, 3):
        told = translated(
            *(command, finished_run, photos, "-o", tmp_path / "out"),
            *("--shard", f"{number}/3", "--batch-size", "2"),
        )
        assert told["skipped"] == []
        assert told["shard"] == f"{number}/3"
        written.append(told["written"])
    assert sorted(map(len, written)) == [2, 2, 3]  # blocks of two: files 1 2 7, 3 4, 5 6
    assert len({path for part in written for path in part}) == 7
    assert contents(tmp_path / "out") == whole


def test_a_part_that_was_killed_is_finished_by_the_same_command(
    command, finished_run, photos, whole, tmp_path
):
    arguments = (command, finished_run, photos, "-o", tmp_path / "out", "--shard", "2/2")
    first = translated(*arguments)["written"]
    assert len(first) == 3
    lost = tmp_path / "out" / "b" / "3.png"
    lost.unlink()
    (lost.parent / ".3.png.4711.part").write_bytes(b"half of it")
    again = translated(*arguments)
    assert again["written"] == [str(lost)]
    assert len(again["skipped"]) == 2
    assert lost.read_bytes() == whole["b/3.png"]


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"},
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"},
    ],
)
def test_launchers_are_recognised(command, run_copy, photos, environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    told = translated(command, run_copy, photos, "-o", run_copy / "out")
    assert told["shard"] == "2/4"
    files = sorted(path.relative_to(photos) for path in photos.rglob("*.png"))
    assert told["written"] == [str(run_copy / "out" / name) for name in files[1::4]]
    everything = translated(command, run_copy, photos, "-o", run_copy / "out", "--shard", "1/1")
    assert (len(everything["written"]), len(everything["skipped"])) == (5, 2)


def test_more_parts_than_files(command, finished_run, photos, tmp_path):
    told = translated(command, finished_run, photos, "-o", tmp_path / "out", "--shard", "9/9")
    assert told["written"] == told["skipped"] == []


def test_an_output_inside_the_input_is_no_input_the_second_time(
    command, finished_run, photos, tmp_path
):
    """Else the list would grow while the parts are at work."""
    (tmp_path / "in").mkdir()
    for index in range(2):
        with Image.open(photos / "a" / f"{2 * index}.png") as image:
            image.save(tmp_path / "in" / f"{index}.png")
    for inputs in (tmp_path / "in", tmp_path / "in" / "**" / "*.png"):
        arguments = (command, finished_run, inputs, "-o", tmp_path / "in" / "out")
        translated(*arguments)
        assert translated(*arguments)["written"] == []
    assert set(contents(tmp_path / "in")) == {"0.png", "1.png", "out/0.png", "out/1.png"}


@pytest.mark.parametrize("shard", ["0/4", "5/4", "2", "two/4", "-1/4"])
def test_a_bad_part_is_one_line(command, finished_run, photos, tmp_path, shard):
    code, out, err = command(
        *("translate", finished_run, photos, "-o", tmp_path / "out", f"--shard={shard}")
    )
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "part" in err
    assert not (tmp_path / "out").exists()


def test_bad_numbers_of_processes_are_one_line(command, finished_run, photos, tmp_path):
    code, _, err = command(
        *("translate", finished_run, photos, "-o", tmp_path / "out", "--processes", "0")
    )
    assert code == 2
    assert err == "patchkin: error: `--processes` must be at least 1; got 0.\n"


def test_a_grid_shows_all_inputs(command, finished_run, photos, tmp_path):
    code, _, err = command(
        *("translate", finished_run, photos, "-o", tmp_path / "out", "--shard", "1/2"),
        *("--grid", tmp_path / "grid.png"),
    )
    assert code == 2
    assert "--grid shows all inputs" in err


def test_processes_of_this_machine(command, finished_run, photos, whole, tmp_path):
    """One exit code, one JSON object; a file that cannot be read is told once."""
    (tmp_path / "broken.png").write_bytes(b"no image")
    code, out, err = command(
        *("translate", finished_run, photos, tmp_path / "broken.png", "-o", tmp_path / "out"),
        *("--processes", "2", "--device", "cpu", "--json"),
    )
    assert code == 2
    told = json.loads(out)
    assert told["written"] == sorted(str(tmp_path / "out" / name) for name in whole)
    assert list(told["failed"]) == [str(tmp_path / "broken.png")]
    assert err.count("broken.png") == 1
    assert contents(tmp_path / "out") == whole


# Evaluation


@pytest.fixture
def evaluated(command, run_copy, toy_root, tmp_path, monkeypatch):
    """`patchkin evaluate` of a run in batches of two, with a SqueezeNet of random weights."""
    torch.manual_seed(0)
    weights = tmp_path / "squeezenet.pth"
    torch.save(squeezenet1_1(weights=None).state_dict(), weights)
    monkeypatch.setattr(distances, "BATCH_SIZE", 2)
    monkeypatch.setenv("PATCHKIN_CACHE", str(tmp_path / "cache"))

    def run(*arguments, model=run_copy, code=0):
        found, out, err = command(
            *(
                "evaluate",
                model,
                "--data",
                toy_root,
                "--extractor-weights",
                weights,
                "--device",
                "cpu",
            ),
            *("--protocol", "squeezenet-224", "squeezenet-256", "--json", *arguments),
        )
        assert found == code, err
        return json.loads(out) if code == 0 else err

    return run


def test_parts_of_an_evaluation_give_the_scores_of_one_process(evaluated, tmp_path, monkeypatch):
    """To the last bit; what the parts did is not done again."""
    (expected,) = evaluated()["results"]
    keep = ("--keep", tmp_path / "kept")
    told = [evaluated(*keep, "--shard", f"{number}/2") for number in (1, 2)]
    # Three test images in two sizes, in blocks of two.
    assert [part["translated"] for part in told] == [4, 2]
    assert evaluated(*keep, "--shard", "1/2")["translated"] == 0

    def translate(*_):
        raise AssertionError("translated again")

    monkeypatch.setattr(Translator, "__call__", translate)
    (found,) = evaluated(*keep)["results"]
    assert found["scores"] == expected["scores"]
    assert found["data"] == expected["data"]
    assert found["worst_and_best"] == expected["worst_and_best"]
    (again,) = evaluated(*keep)["results"]
    assert again["scores"] == expected["scores"]


def test_a_part_that_is_missing_is_made_in_the_end(evaluated, tmp_path):
    (expected,) = evaluated()["results"]
    keep = ("--keep", tmp_path / "kept")
    evaluated(*keep, "--shard", "2/2")
    (found,) = evaluated(*keep)["results"]
    assert found["scores"] == expected["scores"]


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_two_evaluations_with_one_folder(evaluated, run_copy, tmp_path):
    """At once: one waits for the other, each image is translated once, and both say the same."""
    (expected,) = evaluated()["results"]
    context = multiprocessing.get_context("fork")
    start, counted = context.Event(), tmp_path / "counted"
    translate = Translator.__call__

    def counting(self, *arguments):
        with counted.open("a") as file:
            file.write("x")
        return translate(self, *arguments)

    def work(name: str) -> None:
        Translator.__call__ = counting
        start.wait(60)
        evaluated("--keep", tmp_path / "kept", "--output", tmp_path / name)

    processes = [context.Process(target=work, args=(name,)) for name in ("a.json", "b.json")]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    for name in ("a.json", "b.json"):
        (found,) = json.loads((tmp_path / name).read_text())
        assert found["scores"] == expected["scores"]
    assert counted.read_text() == "x" * 6  # three images in two sizes
    left = [path.name for path in (tmp_path / "kept").rglob("*") if path.name.startswith(".")]
    assert left == []


def test_another_model_in_the_same_folder(evaluated, run_copy, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    keep = ("--keep", tmp_path / "kept")
    evaluated(*keep)
    path = next((run_copy / "checkpoints").glob("*/model.safetensors"))
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    other = tmp_path / "other.safetensors"
    save_file({name: tensor * 1.5 for name, tensor in tensors.items()}, other, metadata)
    (expected,) = evaluated(model=other)["results"]
    (found,) = evaluated(*keep, model=other)["results"]
    assert found["scores"] == expected["scores"]


def test_a_folder_of_translations_by_parts(evaluated, toy_root, tmp_path):
    (expected,) = evaluated(model=toy_root / "testA_true")["results"]
    keep = ("--keep", tmp_path / "kept")
    for number in (1, 2):
        told = evaluated(*keep, "--shard", f"{number}/2", model=toy_root / "testA_true")
        assert told["translated"] == 0
    assert len(list((tmp_path / "kept" / "statistics").iterdir())) == 4  # 2 batches, 2 protocols
    (found,) = evaluated(*keep, model=toy_root / "testA_true")["results"]
    assert found["scores"] == expected["scores"]


def test_parts_of_an_evaluation_need_a_folder(evaluated):
    for flags in (("--shard", "1/2"), ("--processes", "2")):
        err = evaluated(*flags, code=2)
        assert len(err.splitlines()) == 1
        assert "add --keep FOLDER" in err
    assert "There is no part 3 of 2" in evaluated("--shard", "3/2", code=2)


def test_what_is_kept_is_one_translation_of_each_image(evaluated, tmp_path):
    err = evaluated("--keep", tmp_path / "kept", "--samples", "3", code=2)
    assert "for one translation of each image; leave out --samples" in err


@pytest.mark.slow
def test_processes_share_an_evaluation(evaluated, tmp_path):
    (expected,) = evaluated()["results"]
    (found,) = evaluated("--keep", tmp_path / "kept", "--processes", "2")["results"]
    for name, value in expected["scores"].items():  # the processes have batches of 16
        assert found["scores"][name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
