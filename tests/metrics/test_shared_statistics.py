"""Features in the cache, batch by batch: by several processes, or after an interruption."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from patchkin.metrics.extractors import Features
from patchkin.metrics.protocols import Protocol
from patchkin.metrics.statistics import cached_statistics, file_statistics, fill_statistics
from patchkin.parallel.shards import Shard

PROTOCOL = Protocol(name="tiny", image_size=8, input_size=None, extractor="batch-aware")


class BatchAware:
    """Features that depend on the company an image is in, as rounding may make them."""

    name = "batch-aware"
    sha256 = "0" * 64

    def __init__(self, fail_at=None):
        self.batches = 0
        self.fail_at = fail_at

    def __call__(self, levels_BCHW):
        self.batches += 1
        if self.batches == self.fail_at:
            raise KeyboardInterrupt
        pooled_BD = levels_BCHW.float().mean(dim=(2, 3))
        return Features(pooled_BD + pooled_BD.mean(), pooled_BD[:, :2] * len(pooled_BD))


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for index in range(11):
        pixels = rng.integers(0, 256, (9, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index:02d}.png")
    return sorted((tmp_path / "images").iterdir())


def check_equal(found, expected):
    assert found.names == expected.names
    assert torch.equal(found.features_ND, expected.features_ND)
    assert torch.equal(found.logits_NK, expected.logits_NK)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_parts_joined_are_what_one_process_computes(paths, tmp_path, count):
    """11 images are 4 batches, the last of 2; with 5 processes one has nothing to do."""
    expected = file_statistics(paths, PROTOCOL, BatchAware(), batch_size=3)
    options = {"folder": tmp_path / "cache", "batch_size": 3}
    worked = []
    for number in range(1, count + 1):
        extractor = BatchAware()
        fill_statistics(paths, PROTOCOL, extractor, Shard(number, count), **options)
        worked.append(extractor.batches)
    assert worked == {1: [4], 2: [2, 2], 5: [1, 1, 1, 1, 0]}[count]
    idle = BatchAware(fail_at=1)
    check_equal(cached_statistics(paths, PROTOCOL, idle, **options), expected)
    assert len(list((tmp_path / "cache").iterdir())) == 1  # the parts are gone
    fill_statistics(paths, PROTOCOL, idle, Shard(1, 2), **options)
    check_equal(cached_statistics(paths, PROTOCOL, idle, **options), expected)


def test_what_was_interrupted_goes_on(paths, tmp_path):
    expected = file_statistics(paths, PROTOCOL, BatchAware(), batch_size=3)
    options = {"folder": tmp_path / "cache", "batch_size": 3}
    with pytest.raises(KeyboardInterrupt):
        cached_statistics(paths, PROTOCOL, BatchAware(fail_at=3), **options)
    rest = BatchAware()
    check_equal(cached_statistics(paths, PROTOCOL, rest, **options), expected)
    assert rest.batches == 2


def test_files_of_other_parts_need_not_be_there(paths, tmp_path):
    missing = [path.rename(path.with_suffix(".later")) for path in paths[3:6]]
    options = {"folder": tmp_path / "cache", "batch_size": 3}
    fill_statistics(paths, PROTOCOL, BatchAware(), Shard(1, 2), **options)
    for path in missing:
        path.rename(path.with_suffix(".png"))
    rest = BatchAware()
    cached_statistics(paths, PROTOCOL, rest, **options)
    assert rest.batches == 2


def test_a_changed_image_is_computed_again(paths, tmp_path):
    options = {"folder": tmp_path / "cache", "batch_size": 3}
    fill_statistics(paths, PROTOCOL, BatchAware(), Shard(1, 1), **options)
    Image.new("RGB", (9, 10), "red").save(paths[4])
    again = BatchAware()
    found = cached_statistics(paths, PROTOCOL, again, **options)
    assert again.batches == 1
    check_equal(found, file_statistics(paths, PROTOCOL, BatchAware(), batch_size=3))


def test_images_of_several_sizes_are_seen_together(paths, tmp_path):
    """Under a protocol that does not resize they are an error, in whatever batches they are."""
    protocol = Protocol(name="tiny", image_size=None, input_size=None, extractor="batch-aware")
    Image.new("RGB", (9, 11)).save(paths[10])
    options = {"folder": tmp_path / "cache", "batch_size": 3}
    fill_statistics(paths, protocol, BatchAware(), Shard(1, 1), **options)
    with pytest.raises(ValueError, match=r"is 10 x 9 and .* 9 x 11"):
        cached_statistics(paths, protocol, BatchAware(), **options)
