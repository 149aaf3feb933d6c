"""`patchkin evaluate RUN` scores on the data of the run, and says which images these are."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from PIL import Image

from cli.conftest import TINY
from patchkin.cli import main
from patchkin.data.config import DataConfig
from patchkin.data.record import SplitFiles, record_files, to_json
from patchkin.scoring.seen import trained_on


def evaluated(command, run, *options):
    """Scores that need no weights."""
    code, out, err = command("evaluate", run, "--protocol", "--json", *options)
    assert code == 0, err
    (result,) = json.loads(out)["results"]
    return result, err


@pytest.fixture(scope="module")
def trained_elsewhere(toy_root, tmp_path_factory):
    """A run that was trained with relative paths: `sets/small` in a folder of its own."""
    folder = tmp_path_factory.mktemp("workplace")
    shutil.copytree(toy_root, folder / "sets" / "small")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        arguments = ("--data", "sets/small", "--run-dir", "runs/a", *TINY, "--steps", "1")
        assert main(["train", "cut", *arguments]) == 0
    return folder


def test_the_data_of_a_run_is_found_from_anywhere(
    command, trained_elsewhere, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(trained_elsewhere / "runs" / "a", tmp_path / "moved")
    own, _ = evaluated(command, run)
    assert own["data"]["root"] == str(trained_elsewhere / "sets" / "small")
    assert (own["data"]["direction"], own["data"]["split"]) == ("AtoB", "test")
    assert own["data"]["counts"] == {"inputs": 3}
    named, _ = evaluated(command, run, "--data", trained_elsewhere / "sets" / "small")
    assert own["scores"] == named["scores"]
    assert own["key"] == named["key"]
    assert len(json.loads((run / "scores.json").read_text())) == 1
    of_checkpoint, _ = evaluated(command, run / "checkpoints" / "step_00000001")
    assert of_checkpoint["data"] == own["data"]


def test_data_that_moved_is_looked_for_and_never_replaced_by_the_toy_set(
    command, trained_elsewhere, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(trained_elsewhere / "runs" / "a", tmp_path / "runs" / "a")
    manifest = json.loads((run / "data.json").read_text())
    assert manifest["trained_in"] == str(trained_elsewhere)
    (run / "data.json").write_text(json.dumps({**manifest, "trained_in": "/gone"}))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["root"] = "sets/small"  # as runs of before have it
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    code, out, err = command("evaluate", run, "--protocol")
    assert (code, out) == (2, "")
    assert "was trained on `sets/small` (in `/gone`), which is not there any more" in err
    assert "--data ROOT" in err
    assert not (run / "scores.json").exists()
    shutil.copytree(trained_elsewhere / "sets", tmp_path / "sets")  # beside `runs`, as before
    monkeypatch.chdir("/")
    found, _ = evaluated(command, run)
    assert found["data"]["root"] == str(tmp_path / "sets" / "small")


def test_a_model_file_and_a_folder_know_no_data(command, finished_run, toy_root, tmp_path):
    file = tmp_path / "model.safetensors"
    shutil.copy(finished_run / "checkpoints" / "step_00000003" / "model.safetensors", file)
    for subject in (file, toy_root / "testB"):
        code, _, err = command("evaluate", subject, "--protocol")
        assert code == 2
        assert "--data ROOT" in err


def test_the_direction_of_a_run_is_kept(command, toy_root, tmp_path):
    run = tmp_path / "run"
    arguments = ("--data", toy_root, "--run-dir", run, *TINY, "--steps", "1")
    assert command("train", "cut", *arguments, "--direction", "BtoA")[0] == 0
    result, err = evaluated(command, run)
    assert result["data"]["direction"] == "BtoA"
    assert "warning: the model was trained" not in err
    result, err = evaluated(command, run, "--direction", "AtoB")
    assert "the model was trained BtoA and has no way back" in err
    assert len(json.loads((run / "scores.json").read_text())) == 2


def test_two_folders_are_scored_whole_and_training_images_are_told(
    command, toy_root, run_copy, tmp_path
):
    folders = ("--data.source", toy_root / "testA", "--data.target", toy_root / "testB")
    result, _ = evaluated(command, run_copy, *folders)
    assert result["data"]["split"] == "all"
    assert result["data"]["root"] == f"{toy_root / 'testA'} -> {toy_root / 'testB'}"
    own, _ = evaluated(command, run_copy)
    assert result["scores"]["change"] == own["scores"]["change"]
    assert len(json.loads((run_copy / "scores.json").read_text())) == 2
    code, _, err = command("evaluate", run_copy, "--protocol", *folders, "--split", "val")
    assert code == 2
    assert "Two folders have no splits" in err

    run = tmp_path / "of_two"
    trained = ("--data.source", toy_root / "trainA", "--data.target", toy_root / "trainB")
    assert command("train", "cut", *trained, "--run-dir", run, *TINY, "--steps", "1")[0] == 0
    code, _, err = command("evaluate", run, "--protocol")
    assert code == 2
    assert "of which no image is held out" in err
    result, _ = evaluated(command, run, *trained)
    assert result["data"]["split"] == "all, images that trained the model"


def test_weights_are_chosen_and_told_and_files_have_another_name(command, toy_root, tmp_path):
    run = tmp_path / "run"
    arguments = ("--data", toy_root, "--run-dir", run, *TINY, "--steps", "3")
    assert command("train", "cut", *arguments, "--schedule.ema-decay", "0.5")[0] == 0
    by_weights = {}
    for weights in ("averaged", "live"):
        result, _ = evaluated(command, run, "--weights", weights)
        assert result["subject"]["weights"] == weights
        by_weights[weights] = result["scores"]["change"]
    assert by_weights["averaged"] != by_weights["live"]
    assert evaluated(command, run)[0]["scores"]["change"] == by_weights["averaged"]
    stored = json.loads((run / "scores.json").read_text())
    assert [entry["key"]["weights"] for entry in stored] == ["live", "averaged"]
    assert "live weights" in (run / "report.html").read_text()
    for verb in (("evaluate",), ("compress", "search")):
        code, _, err = command(*verb, run, "--weights", "inception.pth")
        assert code == 2
        assert "with --extractor-weights inception.pth now" in err
    code, _, err = command("evaluate", run, "--weights=inception.pth")
    assert "--extractor-weights inception.pth" in err


def test_overwrite_removes_what_was_said_of_the_old_model(command, toy_root, run_copy):
    evaluated(command, run_copy)
    for name in ("search/pareto.png", "inspection/a.png"):
        (run_copy / name).parent.mkdir()
        Image.new("RGB", (2, 2)).save(run_copy / name)
    assert list((run_copy / "evaluation").glob("*.png"))
    arguments = ("--data", toy_root, "--run-dir", run_copy, *TINY, "--steps", "1")
    assert command("train", "cut", *arguments)[0] == 2
    assert (run_copy / "scores.json").is_file()
    assert command("train", "cut", *arguments, "--overwrite")[0] == 0
    for name in ("scores.json", "evaluation", "search", "inspection"):
        assert not (run_copy / name).exists(), name
    page = (run_copy / "report.html").read_text()
    assert "Scores of held-out images" not in page
    shutil.rmtree(run_copy / "checkpoints")
    (run_copy / "scores.json").write_text("[]")
    code, _, err = command("train", "cut", *arguments)
    assert code == 2
    assert "holds the scores of an earlier run" in err


def test_images_that_choose_checkpoints_are_told(command, toy_root, tmp_path):
    """Without a test split: on the page, in the JSON and in a line."""
    root = tmp_path / "set"
    for split, name in (("train", "train"), ("test", "val")):
        for domain in "AB":
            shutil.copytree(toy_root / f"{split}{domain}", root / f"{name}{domain}")
    run = tmp_path / "run"
    arguments = ("--data", root, "--run-dir", run, *TINY, "--steps", "1")
    assert command("train", "cut", *arguments)[0] == 0
    result, err = evaluated(command, run)
    assert result["data"]["split"] == "val, also used for selection"
    assert "the set has no test split" in result["warnings"][0]
    _, out, err = command("evaluate", run, "--protocol")
    assert "split: val, also used for selection" in out
    assert "no test scores" in err
    page = (run / "report.html").read_text()
    assert "val, also used for selection" in page
    assert "no test scores" in page
    _code, out, _ = command("compare", run, "--json", "--output", tmp_path / "page.html")
    images = {row["images"] for row in json.loads(out)["rows"]}
    assert images == {"val, also used for selection"}


def test_old_runs_have_no_record_of_their_folder(command, trained_elsewhere, tmp_path):
    run = shutil.copytree(trained_elsewhere / "runs" / "a", tmp_path / "old")
    (run / "data.json").write_text('{"broken": []}')
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["root"] = str(trained_elsewhere / "sets" / "small")
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert evaluated(command, run)[0]["data"]["counts"] == {"inputs": 3}


SEEN = "images that trained the model"


def test_images_that_trained_the_model_are_told(command, toy_root, run_copy, tmp_path):
    """Named as folders, as copies under other names, and where the run's own are gone."""
    folders = ("--data.source", toy_root / "trainA", "--data.target", toy_root / "trainB")
    result, _ = evaluated(command, run_copy, *folders)
    assert result["data"]["split"] == f"all, {SEEN}"
    assert result["warnings"][0] == f"all inputs are {SEEN}; the scores are no test scores"
    page = (run_copy / "report.html").read_text()
    assert f"<h2>Scores of {SEEN}</h2>" in page
    assert "held-out" not in page.partition("<h2>Previews")[0].partition("<h2>Scores")[2]
    evaluated(command, run_copy)  # its own test images
    page = (run_copy / "report.html").read_text()
    assert f"<h2>Scores of held-out images, and of {SEEN}</h2>" in page

    copies = tmp_path / "copies"
    shutil.copytree(toy_root / "testA", copies)
    for number in range(2):
        shutil.copy(toy_root / "trainA" / f"{number:04d}.png", copies / f"mine{number}.png")
    mixed = ("--data.source", copies, "--data.target", toy_root / "testB")
    code, _, err = command("evaluate", run_copy, "--protocol", *mixed)
    assert code == 0
    assert f"warning: 2 of 5 inputs are {SEEN}; the scores are no test scores" in err
    manifest = json.loads((run_copy / "data.json").read_text())
    (run_copy / "data.json").write_text(json.dumps({**manifest, "trained_in": "/gone"}))
    config = yaml.safe_load((run_copy / "config.yaml").read_text())
    config["data"]["root"] = "/gone/set"
    (run_copy / "config.yaml").write_text(yaml.safe_dump(config))
    assert f"2 of 5 inputs are {SEEN}" in evaluated(command, run_copy, *mixed)[0]["warnings"][0]


def test_a_test_image_of_the_same_name_and_size_is_not_taken_for_one(tmp_path):
    """Files without compression all have one size."""
    run, root = tmp_path / "run", tmp_path / "set"
    for split, level in (("trainA", 10), ("testA", 20)):
        (root / split).mkdir(parents=True)
        for number in range(40):
            Image.new("L", (4, 4), level + number).save(root / split / f"{number}.bmp")
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump({"data": {"root": str(root)}}))
    files = {"a": SplitFiles(sorted((root / "trainA").iterdir()))}
    record = to_json(record_files(files, DataConfig(root=str(root))))
    (run / "data.json").write_text(json.dumps({"files": record}))
    train, test = (sorted((root / split).iterdir()) for split in ("trainA", "testA"))
    assert trained_on(run, train) == train
    moved = shutil.copytree(root / "trainA", tmp_path / "moved")
    assert trained_on(run, sorted(moved.iterdir())) == sorted(moved.iterdir())
    same = {file.read_bytes() for file in train}
    assert len([file for file in test if file.read_bytes() in same]) == 30
    assert {file.name for file in trained_on(run, test)} < {f"{n}.bmp" for n in range(30)}
    shutil.rmtree(root / "trainA")
    assert 0 < len(trained_on(run, sorted(moved.iterdir()))) < 40  # by the hashes that were kept


def test_a_set_without_test_images_is_told_what_it_needs(command, toy_root, tmp_path):
    root, run = tmp_path / "set", tmp_path / "run"
    for name in ("trainA", "trainB"):
        shutil.copytree(toy_root / name, root / name)
    arguments = ("--data", root, "--run-dir", run, *TINY, "--steps", "1")
    assert command("train", "cut", *arguments)[0] == 0
    code, out, err = command("evaluate", run, "--protocol")
    assert (code, out) == (2, "")
    assert "has no test images of the source domain. Give it testA and testB" in err
    assert "--data.source FOLDER --data.target FOLDER" in err
    assert err.count("\n") == 1
