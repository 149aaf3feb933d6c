"""`patchkin train sincut` on one image per domain, from files to a translation."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from patchkin.scoring.report import read_log
from patchkin.storage.checkpoint import CheckpointStore, read_model

TINY = (
    *("--size", "32", "--batch-size", "3", "--workers", "0", "--device", "cpu"),
    *("--method.generator.working-size", "32", "--method.discriminator.working-size", "32"),
    *("--ngf", "1", "--ndf", "1", "--method.head-width", "8"),
)


def save_photo(path, width, height, *, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def pair(tmp_path):
    """One source and one target image."""
    save_photo(tmp_path / "pair" / "trainA" / "painting.png", 77, 50, seed=0)
    save_photo(tmp_path / "pair" / "trainB" / "photo.png", 60, 64, seed=1)
    return tmp_path / "pair"


def one_line_error(command, *arguments):
    code, out, err = command(*arguments)
    assert code == 2, err
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("patchkin: error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0].removeprefix("patchkin: error: ")


def test_train_resume_and_translate(command, pair, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    start = ("train", "sincut", "--data", pair, *TINY, "--save-every", "2")
    assert command(*start, "--run-dir", whole, "--steps", "4")[0] == 0
    (record,) = [r for r in read_log(whole) if "terms" in r][-1:]
    assert np.isfinite(list(record["terms"].values())).all()
    assert command(*start, "--run-dir", stopped, "--steps", "4")[0] == 0
    newest = CheckpointStore(stopped).path(4)
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    code, _, err = command("train", "--resume", stopped, "--workers", "2")
    assert code == 0, err
    models = [read_model(CheckpointStore(run).path(4) / "model.safetensors")[1]
              for run in (whole, stopped)]  # fmt: skip
    assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())

    picture = pair / "trainA" / "painting.png"
    outputs = []
    for name in ("once", "twice"):
        code, _, err = command("translate", whole, picture, "--output", tmp_path / name)
        assert code == 0, err
        outputs.append((tmp_path / name / "painting.png").read_bytes())
    assert outputs[0] == outputs[1], "the noise of a translation is always the same"
    with Image.open(tmp_path / "once" / "painting.png") as image:
        assert image.size == (77, 50)


@pytest.mark.parametrize("preset", ["semantic-relation", "semantic-relation-fixed"])
def test_two_files_and_the_other_direction(command, pair, tmp_path, preset):
    code, out, err = command(
        "train", "sincut", *TINY, "--steps", "1", "--run-dir", tmp_path / "run", "--json",
        "--preset", preset,
        "--data.source", pair / "trainA" / "painting.png",
        "--data.target", pair / "trainB" / "photo.png", "--direction", "BtoA",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["steps"] == 1


def test_previews_show_the_whole_images(command, pair, tmp_path):
    assert command("train", "sincut", "--data", pair, *TINY, "--steps", "1",
                   "--run-dir", tmp_path / "run")[0] == 0  # fmt: skip
    with Image.open(tmp_path / "run" / "previews" / "step_00000001.png") as grid:
        assert grid.height > 32
        assert grid.width == 4 * 32 + 3 * 2  # 77/3 x 50/3 and 60/3 x 64/3, at least a crop each


def test_many_images_are_unpaired_data(command, toy_root, tmp_path):
    code, _, err = command(
        "train", "sincut", "--preset", "toy", "--data", toy_root, *TINY, "--data.load-size", "36",
        "--steps", "2", "--run-dir", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, err
    code, _, err = command(
        "train", "sincut", "--data", toy_root, *TINY, "--steps", "1", "--run-dir", tmp_path / "two"
    )
    assert code == 0, err


# What a user can mend


def test_a_domain_without_an_image(command, pair):
    (pair / "trainB" / "photo.png").unlink()
    message = one_line_error(command, "train", "sincut", "--data", pair, *TINY)
    assert "trainB` holds no image" in message


def test_an_image_smaller_than_the_crops(command, pair):
    save_photo(pair / "trainA" / "painting.png", 40, 30, seed=0)
    message = one_line_error(command, "train", "sincut", "--data", pair, *TINY)
    assert "painting.png` has 40 x 30 pixels and is smaller than the crops of 32" in message


def test_an_image_that_cannot_be_read(command, pair):
    (pair / "trainA" / "painting.png").write_bytes(b"no image")
    message = one_line_error(command, "train", "sincut", "--data", pair, *TINY)
    assert "painting.png`: cannot be decoded" in message


def test_a_missing_file(command, pair):
    message = one_line_error(
        command, "train", "sincut", *TINY, "--data.source", pair / "trainA" / "pianting.png",
        "--data.target", pair / "trainB",
    )  # fmt: skip
    assert message.endswith("does not exist. Did you mean `painting.png`?")


def test_one_image_and_several(command, pair):
    save_photo(pair / "trainB" / "another.png", 64, 64, seed=2)
    message = one_line_error(command, "train", "sincut", "--data", pair, *TINY)
    assert "trainA` gives 1 image" in message


def test_a_method_that_takes_many_images(command, pair):
    message = one_line_error(command, "train", "cut", "--data", pair)
    assert "one image per domain (single-image layout), not supported yet" in message
    assert message.endswith("or train with --data.preprocess zoom_and_patch.")


def test_a_size_that_the_discriminator_does_not_take(command, pair):
    for size in ("24", "48"):
        message = one_line_error(command, "train", "sincut", "--data", pair, *TINY, "--size", size)
        assert message == (
            f"--size {size}: the networks of `sincut` are made for views of 32 x 32 pixels; use "
            "--size 32, or networks for another size."
        )


def test_one_crop_per_batch(command, pair):
    message = one_line_error(command, "train", "sincut", "--data", pair, *TINY, "--batch-size", "1")
    assert message.startswith("--batch-size 1: `sincut` compares the images of a batch;")


def test_scores_of_a_single_image(command, pair, tmp_path):
    message = one_line_error(
        command, "train", "sincut", "--data", pair, *TINY, "--score-every", "1",
        "--run-dir", tmp_path / "run",
    )  # fmt: skip
    assert "One image per domain leaves none to score" in message
