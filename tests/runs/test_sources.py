"""Paired data, both directions, and images held out for scores."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import squeezenet1_1

from cli.conftest import TINY
from patchkin import Translator
from patchkin.data.config import DataConfig
from patchkin.data.loading import open_training_data
from patchkin.errors import DataError
from patchkin.images import read_image, to_tensor
from patchkin.methods import METHODS
from patchkin.runs.config import RunConfig
from patchkin.runs.sources import PairedSource, UnpairedSource
from patchkin.schedules import ScheduleConfig
from patchkin.scoring.report import read_log
from patchkin.storage.checkpoint import CheckpointStore
from patchkin.training import TrainingConfig

NETWORKS = ("--ngf", "4", "--ndf", "4", "--device", "cpu", "--workers", "0")


@pytest.fixture
def pairs(tmp_path):
    rng = np.random.default_rng(0)
    for split, number in (("train", 4), ("test", 2)):
        folder = tmp_path / "pairs" / split
        folder.mkdir(parents=True)
        for index in range(number):
            left = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            both = np.concatenate([left, 255 - left], axis=1)
            Image.fromarray(both).save(folder / f"{index}.png")
    return tmp_path / "pairs"


@pytest.fixture
def unpaired(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("trainA", "trainB", "testA", "testB"):
        folder = tmp_path / "set" / name
        folder.mkdir(parents=True)
        for index in range(12):
            pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "set"


def test_pix2pix_learns_from_pairs_and_only_from_pairs(command, pairs, toy_root, tmp_path):
    arguments = ("--size", "32", "--data.load-size", "32", "--steps", "2", *NETWORKS)
    code, _, err = command(
        *("train", "pix2pix", "--data", pairs, "--run-dir", tmp_path / "r", *arguments),
        *("--method.generator.levels", "5"),
    )
    assert code == 0, err
    terms = next(r["terms"] for r in read_log(tmp_path / "r") if "terms" in r)
    assert {"G.adversarial", "D.fake", "D.real"} < set(terms)
    code, _, err = command(
        *("train", "pix2pix", "--data", toy_root, "--run-dir", tmp_path / "x", *arguments),
        *("--method.generator.levels", "5"),
    )
    assert code == 2
    assert len(err.splitlines()) == 1


def test_a_run_of_pairs_that_held_none_out_tells_of_no_scores(command, pairs, tmp_path, caplog):
    run_dir = tmp_path / "r"
    code, _, err = command(
        *("train", "pix2pix", "--data", pairs, "--run-dir", run_dir, "--steps", "1", *NETWORKS),
        *("--size", "32", "--data.load-size", "32", "--method.generator.levels", "5"),
    )
    assert code == 0, err
    assert "no scores" not in caplog.text
    code, _, err = command(
        *("train", "--resume", run_dir, "--steps", "2", "--change", "--score-every", "1")
    )
    assert code == 0, err
    assert caplog.text.count("--score-every: no scores, because this run began without pairs") == 1
    assert not any("scores" in record for record in read_log(run_dir))


def test_a_size_that_is_no_multiple_of_the_networks(command, pairs, tmp_path):
    code, _, err = command(
        *("train", "pix2pix", "--data", pairs, "--run-dir", tmp_path / "r", "--size", "300"),
        *("--data.load-size", "300", "--steps", "1", *NETWORKS),
    )
    assert code == 2
    assert "--size 300: the networks of `pix2pix` take multiples of" in err


def test_the_way_back(command, unpaired, tmp_path):
    run_dir = tmp_path / "r"
    code, _, err = command(
        *("train", "cyclegan", "--data", unpaired, "--run-dir", run_dir, "--steps", "1"),
        *("--size", "32", "--data.load-size", "36", "--blocks", "2", *NETWORKS),
    )
    assert code == 0, err
    x_BCHW = torch.rand(1, 3, 32, 32) * 2 - 1
    translator = Translator.load(run_dir, direction="BtoA", device="cpu")
    with torch.no_grad():
        expected = translator.method.eval().G_BA(x_BCHW)
    assert torch.equal(translator(x_BCHW), expected)
    code, _, err = command(
        *("translate", run_dir, unpaired / "testB", "--output", tmp_path / "o"),
        *("--direction", "BtoA"),
    )
    assert code == 0, err


def test_one_sided_methods_have_no_way_back(command, finished_run, toy_root, tmp_path):
    code, _, err = command(
        *("translate", finished_run, toy_root / "testB", "--output", tmp_path),
        *("--direction", "BtoA"),
    )
    assert code == 2
    assert "`cut` translates AtoB only; got --direction BtoA." in err


def test_held_out_images_leave_training_and_depend_on_the_seed_alone(unpaired):
    config = DataConfig(root=str(unpaired), size=32, validation_images=3)

    def opened(seed):
        return open_training_data(config, seed=seed, validate=True).domains

    first, again, other = opened(0), opened(0), opened(1)
    assert first == again
    assert first.val_a != other.val_a
    assert len(first.val_a) == len(first.val_b) == 3
    assert set(first.train_a) | set(first.val_a) == set((unpaired / "trainA").iterdir())
    assert not set(first.train_a) & set(first.val_a)
    whole = open_training_data(config, seed=0).domains
    assert len(whole.train_a) == 12
    assert not whole.val_a


def test_whole_images_keep_their_pixels_where_views_are_crops(unpaired, pairs):
    crops = DataConfig(root=str(unpaired), size=16, preprocess="crop")
    config = RunConfig(
        method=METHODS["cut"].presets["toy"].method,
        data=crops,
        schedule=ScheduleConfig(steps=10),
        training=TrainingConfig(score_every=5),
    )
    source = UnpairedSource(config, channels=(3, 3))
    shown = source.preview_batch()
    assert shown is not None
    for found_BCHW, files in (
        (shown.a_BCHW, source.opened.domains.val_a),
        (shown.b_BCHW, source.opened.domains.val_b),
    ):
        pixels = [to_tensor(read_image(path, 3)) for path in files]
        torch.testing.assert_close(found_BCHW, torch.stack(pixels), rtol=0, atol=0)
    scale = UnpairedSource(config, channels=(3, 3), multiple_of=32).whole_size
    assert (source.whole_size, scale) == (40, 32)

    reduced = replace(crops, root=str(pairs), preprocess="resize_and_crop", load_size=64)
    for schedule, jitter, expected in (
        (ScheduleConfig(steps=10), True, 64),
        (ScheduleConfig(steps=10), False, 16),  # CUT's decay phase ends at 16
        (ScheduleConfig(steps=10, decay_fraction=0.0), False, 64),
    ):
        data = replace(reduced, jitter_in_decay=jitter)
        unscored = replace(config, data=data, schedule=schedule, training=TrainingConfig())
        paired = PairedSource(unscored, channels=(3, 3))
        batch = paired.preview_batch()
        assert batch is not None
        assert batch.a_BCHW.shape == batch.b_BCHW.shape == (2, 3, expected, expected)
        torch.testing.assert_close(batch.a_BCHW, -batch.b_BCHW, rtol=0, atol=1e-6 + 2 / 255)


def test_too_few_images_to_hold_some_out(unpaired):
    for path in sorted((unpaired / "trainA").iterdir())[7:]:
        path.unlink()
    with pytest.raises(DataError, match="7 training images, too few to hold some out"):
        open_training_data(DataConfig(root=str(unpaired), size=32), seed=0, validate=True)


def test_scores_during_training_choose_the_best_checkpoint(
    command, unpaired, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATCHKIN_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / "squeezenet.pth")
    run_dir = tmp_path / "r"
    for path in [*(unpaired / "testA").iterdir(), *(unpaired / "testB").iterdir()]:
        path.write_bytes(b"no image")  # reading a test image would be an error
    code, out, err = command(
        *("train", "cut", "--data", unpaired, "--run-dir", run_dir, *TINY, "--steps", "4"),
        *("--score-every", "1", "--data.validation-images", "3", "--json"),
        *("--training.score-weights", tmp_path / "squeezenet.pth"),
    )
    assert code == 0, err
    distances = {
        int(step): scores["squeezenet-256/frechet"]
        for step, scores in json.loads(out)["scores"].items()
    }
    assert set(distances) == {0, 1, 2, 3, 4}
    best = min((step for step in distances if step), key=distances.get)
    assert CheckpointStore(run_dir).pointed("best").name == f"step_{best:08d}"
