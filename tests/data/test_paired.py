from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from patchkin.data.config import DataConfig
from patchkin.data.datasets import Place
from patchkin.data.paired import (
    PairedBatch,
    PairedDataset,
    collate_pairs,
    evaluation_pairs,
    find_pairs,
    open_paired_data,
    paired_loader,
    read_pair,
    write_paired_toy,
)
from patchkin.data.toy import write_toy
from patchkin.errors import ConfigError, DataError
from patchkin.images import pillow_to_tensor


def write_pair(path, value: int, *, side: int = 20, width: int | None = None) -> None:
    """Left: a ramp that names its columns. Right: the same ramp, 100 brighter."""
    ramp_W = np.arange(side) + value
    left_HW = np.repeat(ramp_W[None], side, axis=0) + np.arange(side)[:, None]
    whole_HW = np.concatenate([left_HW, left_HW + 100], axis=1)
    if width is not None:
        whole_HW = whole_HW[:, :width]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(whole_HW.astype(np.uint8)).convert("RGB").save(path)


@pytest.fixture
def root(tmp_path):
    for split, number in (("train", 5), ("val", 2)):
        for index in range(number):
            write_pair(tmp_path / "set" / split / f"{index}.png", 10 * index)
    return tmp_path / "set"


def config_for(root, **settings) -> DataConfig:
    return DataConfig(**({"root": str(root), "size": 12, "load_size": 16} | settings))


def test_both_halves_get_one_crop_and_one_flip(root):
    """Where the halves differ by a constant, so do the views, whatever was drawn."""
    dataset = PairedDataset(find_pairs(config_for(root)).train, config_for(root), seed=3)
    views = [dataset[Place(epoch, 1)] for epoch in range(40)]
    for item in views:
        torch.testing.assert_close(
            item.b_CHW - item.a_CHW, torch.full_like(item.a_CHW, 200 / 255), rtol=0, atol=0.02
        )
    flipped = {bool(item.a_CHW[0, 0, 0] > item.a_CHW[0, 0, -1]) for item in views}
    corners = {round(float(item.a_CHW.mean()), 3) for item in views}
    assert flipped == {True, False}
    assert len(corners) > 4


def test_direction_exchanges_the_halves(root):
    path = root / "train" / "3.png"
    a, b = (pillow_to_tensor(half) for half in read_pair(path, config_for(root)))
    assert torch.equal(b, a + 200 / 255) or torch.allclose(b, a + 200 / 255, atol=1e-6)
    back = read_pair(path, config_for(root, direction="BtoA"))
    assert torch.equal(pillow_to_tensor(back[0]), b)
    assert torch.equal(pillow_to_tensor(back[1]), a)


def test_channels_follow_the_domains(root):
    path = root / "train" / "0.png"
    a, b = (pillow_to_tensor(half) for half in read_pair(path, config_for(root), (1, 3)))
    assert (a.shape[0], b.shape[0]) == (1, 3)
    config = config_for(root, direction="BtoA")
    a, b = (pillow_to_tensor(half) for half in read_pair(path, config, (1, 3)))
    assert (a.shape[0], b.shape[0]) == (1, 3)
    assert a.mean() > b.mean()


def test_an_odd_width_loses_its_middle_column(tmp_path):
    write_pair(tmp_path / "x.png", 0, side=20, width=39)
    halves = read_pair(tmp_path / "x.png", config_for(tmp_path))
    assert [half.size for half in halves] == [(19, 20), (19, 20)]


def test_a_file_one_pixel_wide_is_refused(tmp_path):
    write_pair(tmp_path / "x.png", 0, side=20, width=1)
    with pytest.raises(DataError, match="cannot hold a pair"):
        read_pair(tmp_path / "x.png", config_for(tmp_path))


def test_splits(root):
    pairs = find_pairs(config_for(root))
    assert [len(files) for files in (pairs.train, pairs.val, pairs.test)] == [5, 2, 2]
    assert len(find_pairs(config_for(root, max_images=3)).train) == 3


def test_other_layouts_are_refused(root, unpaired):
    with pytest.raises(DataError, match="holds no pairs"):
        find_pairs(config_for(unpaired))
    with pytest.raises(DataError, match="two folders without any"):
        find_pairs(DataConfig(source=str(root), target=str(root)))


def test_batches_do_not_depend_on_workers_or_resuming(root):
    dataset = open_paired_data(config_for(root), seed=1).dataset

    def steps(**settings):
        loader = paired_loader(dataset, **({"batch_size": 2, "total_steps": 6} | settings))
        return [(batch.names, batch.a_BCHW, batch.b_BCHW) for batch in loader]

    whole = steps()
    assert len(whole) == 6
    for settings, part in (
        ({"workers": 2}, whole),
        ({"start_step": 4}, whole[4:]),
    ):
        for ours, theirs in zip(steps(**settings), part, strict=True):
            assert ours[0] == theirs[0]
            assert torch.equal(ours[1], theirs[1])
            assert torch.equal(ours[2], theirs[2])
    ranks = [steps(batch_size=1, rank=rank, world_size=2) for rank in range(2)]
    for step, (names, a_BCHW, _) in enumerate(whole):
        assert names == ranks[0][step][0] + ranks[1][step][0]
        assert torch.equal(a_BCHW, torch.cat([ranks[rank][step][1] for rank in range(2)]))
    with pytest.raises(ConfigError, match="`rank` must be from 0 to 0; got 1"):
        paired_loader(dataset, batch_size=1, total_steps=1, rank=1)


def test_a_broken_file_is_left_out_and_named(root, tmp_path):
    for index in range(200):
        write_pair(tmp_path / "many" / "train" / f"{index}.png", index % 100, side=4)
    bad = tmp_path / "many" / "train" / "0.png"
    bad.write_bytes(b"no image")
    data = open_paired_data(config_for(tmp_path / "many"), seed=0)
    assert [entry.path for entry in data.broken] == [bad]
    assert len(data.dataset) == 199
    again = open_paired_data(config_for(tmp_path / "many"), seed=0, known_broken=data.broken)
    assert again.pairs == data.pairs
    (root / "train" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="1 of 5 images cannot be used"):
        open_paired_data(config_for(root), seed=0)


def test_errors_reach_the_training_process_as_one_line(root):
    dataset = PairedDataset(
        find_pairs(config_for(root)).train, config_for(root, preprocess="crop", size=40), seed=0
    )
    with pytest.raises(DataError, match=r"png`: 20 x 20 pixels are smaller than the crop of 40"):
        list(paired_loader(dataset, batch_size=1, total_steps=1))


def test_different_sizes_cannot_share_a_batch(root):
    write_pair(root / "train" / "9.png", 0, side=24)
    dataset = PairedDataset(
        find_pairs(config_for(root)).train, config_for(root, preprocess="none"), seed=0
    )
    with pytest.raises(DataError, match="0, 9 of one batch have different sizes"):
        collate_pairs([dataset[Place(0, 0)], dataset[Place(0, 5)]])


def test_evaluation_shows_whole_pairs(root):
    pairs = find_pairs(config_for(root))
    batch = evaluation_pairs(pairs.val, config_for(root, size=20, load_size=20))
    assert batch.names == ("0", "1")
    a, b = read_pair(pairs.val[1], config_for(root))
    assert torch.equal(batch.a_BCHW[1], pillow_to_tensor(a))
    assert torch.equal(batch.b_BCHW[1], pillow_to_tensor(b))


def test_a_batch_moves_and_counts():
    batch = PairedBatch(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), ("x", "y"))
    assert len(batch.to("cpu")) == 2
    assert batch.to("cpu").names == ("x", "y")


def test_paired_toy_shows_the_scenes_of_the_toy_set(tmp_path):
    write_toy(tmp_path / "toy", train=2, test=1)
    write_paired_toy(tmp_path / "pairs", counts={"train": 2, "val": 1})
    for split, domains in (("train", ("trainA",)), ("val", ("valA", "valA_true"))):
        pair = read_pair(tmp_path / "pairs" / split / "0000.png", config_for(tmp_path))
        for half, domain in zip(pair, domains, strict=False):
            with Image.open(tmp_path / "toy" / domain / "0000.png") as expected:
                assert np.array_equal(np.asarray(half), np.asarray(expected.convert("RGB")))


def test_pairs_are_held_out_where_scores_are_asked_for(tmp_path):
    for index in range(12):
        write_pair(tmp_path / "set" / "train" / f"{index:02d}.png", index)
    config = config_for(tmp_path / "set", validation_images=3)

    def opened(seed=0, **settings):
        return open_paired_data(config, seed=seed, **settings)

    whole = opened().pairs
    assert (len(whole.train), whole.val) == (12, ())
    first, other = (opened(seed, validate=True) for seed in (0, 1))
    assert first.pairs == opened(validate=True).pairs
    assert first.pairs.val != other.pairs.val
    assert len(first.pairs.val) == 3
    assert {*first.pairs.train, *first.pairs.val} == set(whole.train)
    assert not {*first.pairs.train} & {*first.pairs.val}
    assert first.dataset.files == first.pairs.train

    names = [f"train/{path.name}" for path in first.pairs.val]
    again = opened(1, validate=True, known_broken=(), known_val={"pairs": names})
    assert again.pairs == first.pairs
    assert opened(validate=True, known_broken=()).pairs == whole  # a run that had none held out
    few = config_for(tmp_path / "set", max_images=7)
    with pytest.raises(DataError, match=r"`pairs` has 7 training images, too few.*add val, or"):
        open_paired_data(few, seed=0, validate=True)


def test_pairs_of_a_validation_folder_stay(root):
    opened = open_paired_data(config_for(root), seed=0, validate=True)
    assert [path.parent.name for path in opened.pairs.val] == ["val", "val"]
    assert len(opened.pairs.train) == 5
