"""Views of other sizes than squares, from the flag to the scores."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from patchkin.storage.checkpoint import find_model, read_model
from patchkin.translation.scale import training_size

SMALL = (
    *("--workers", "0", "--ngf", "4", "--ndf", "4", "--blocks", "5", "--method.num-patches", "8"),
    *("--method.head-width", "8", "--device", "cpu", "--steps", "2"),
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images of unequal sizes, none of them square."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, sizes in (
        ("trainA", ((70, 40), (64, 48), (90, 50))),
        ("trainB", ((50, 80), (40, 60))),
        ("testA", ((72, 44),)),
        ("testB", ((44, 60), (48, 64))),
    ):
        (root / name).mkdir()
        for index, (width, height) in enumerate(sizes):
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def test_height_and_width_from_the_flag_to_the_scores(command, photos, tmp_path):
    run_dir = tmp_path / "run"
    code, _, err = command(
        "train", "cut", "--data", photos, "--run-dir", run_dir, "--size", "32", "48", *SMALL
    )
    assert code == 0, err
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["data"]["size"] == [32, 48]
    header, _ = read_model(find_model(run_dir))
    assert header.height_width == (32, 48)
    assert training_size(header) == (54, 36), "of the loaded image: 286 / 256 times the view"
    (preview,) = sorted((run_dir / "previews").glob("step_00000002.png"))
    with Image.open(preview) as image:
        assert image.width == 4 * 48 + 3 * 2, "four columns and the gaps between them"
    code, text, err = command("evaluate", run_dir, "--data", photos, "--protocol", "--json")
    assert code == 0, err
    assert json.loads(text)["results"][0]["scores"]
    code, _, err = command("train", "--resume", run_dir, "--steps", "3")
    assert code == 0, err


def test_one_number_stays_a_square(command, photos, tmp_path):
    code, text, _ = command("train", "cut", "--data", photos, "--size", "64", "--print-config")
    assert code == 0
    assert yaml.safe_load(text)["data"]["size"] == 64
    code, text, _ = command(
        "train", "cut", "--data", photos, "--size", "64", "64", "--print-config"
    )
    assert yaml.safe_load(text)["data"]["size"] == 64


def test_an_image_smaller_than_the_crop_is_told_at_the_start(command, photos, tmp_path):
    run_dir = tmp_path / "run"
    code, _, err = command(
        *("train", "cut", "--data", photos, "--run-dir", run_dir, "--size", "44"),
        *("--data.preprocess", "crop", *SMALL),
    )
    assert code == 2
    assert "1 of 3 images are smaller than the crop of 44 pixels" in err
    first = photos / "trainA" / "0.png"
    assert f"`{first}` has 70 x 40; choose a smaller --size, or --data.preprocess resize" in err
    assert not run_dir.exists()


@pytest.mark.parametrize("method", ["cut", "semantic-relation", "negcut"])
@pytest.mark.parametrize("preprocess", ["none", "scale_width"])
def test_domains_of_unequal_sizes_train(command, photos, tmp_path, method, preprocess):
    code, _, err = command(
        *("train", method, "--data", photos, "--run-dir", tmp_path / "run", "--size", "32"),
        *("--data.preprocess", preprocess, *SMALL),
    )
    assert code == 0, err


def test_what_a_method_does_not_take_is_told_at_the_start(command, photos, tmp_path):
    code, _, err = command(
        *("train", "cyclegan", "--data", photos, "--run-dir", tmp_path / "run", "--size", "32"),
        *("--data.preprocess", "none", "--ngf", "4", "--ndf", "4", "--blocks", "1"),
        *("--method.pool.side", "48", "--device", "cpu", "--steps", "2"),
    )
    assert code == 2
    assert "Views of 4224 pixels do not fit the image pool; set --method.pool.side 65" in err
    assert not (tmp_path / "run").exists()


def test_methods_of_several_domains_take_squares(command, photos, tmp_path):
    code, _, err = command(
        "train", "starganv2", "--data", photos, "--size", "64", "128", "--run-dir", tmp_path / "run"
    )
    assert code == 2
    assert "`--size 64 128`: methods of several domains take squares; give one number." in err
