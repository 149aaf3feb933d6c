"""One image per domain: crops, their order, and what is refused."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from patchkin.data.config import DataConfig
from patchkin.data.datasets import Place, UnpairedDataset, finished
from patchkin.data.layouts import find_domains
from patchkin.data.loading import open_training_data, training_loader
from patchkin.data.single import Crop, SingleImageDataset, cropped
from patchkin.data.transforms import view
from patchkin.errors import ConfigError, DataError
from patchkin.images import pillow_to_tensor

SIZE = 16


def photo(width, height, *, seed=0):
    """Smooth and without symmetry, so that a shifted or mirrored crop shows."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (max(2, height // 4), max(2, width // 4), 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def root(tmp_path):
    """One image per domain, of different sizes, neither square."""
    for name, size, seed in (
        ("trainA/monet.png", (70, 45), 0),
        ("trainB/etretat.png", (33, 52), 1),
    ):
        path = tmp_path / "pair" / name
        path.parent.mkdir(parents=True)
        photo(*size, seed=seed).save(path)
    return tmp_path / "pair"


def settings(root, **changes) -> DataConfig:
    changes = {"size": SIZE, "batch_size": 4, "crops_per_epoch": 40} | changes
    return DataConfig(root=str(root), preprocess="zoom_and_patch", **changes)


def opened(root, *, seed=3, channels=(3, 3), **changes) -> SingleImageDataset:
    dataset = open_training_data(settings(root, **changes), seed=seed, channels=channels).dataset
    assert isinstance(dataset, SingleImageDataset)
    return dataset


def steps(dataset, **how):
    how = {"batch_size": 4, "total_steps": 25} | how
    return [(batch.a_BCHW, batch.b_BCHW) for batch in training_loader(dataset, **how)]


def same(ours, theirs):
    return len(ours) == len(theirs) and all(
        torch.equal(x[0], y[0]) and torch.equal(x[1], y[1])
        for x, y in zip(ours, theirs, strict=True)
    )


# Crops


class _Pinned:
    """`ViewDraws` that lead to a given crop of an image."""

    def __init__(self, crop: Crop, size: tuple[int, int]) -> None:
        self.crop, self.size = crop, size

    def zoom(self) -> tuple[float, float]:
        return self.crop.width / self.size[0], self.crop.height / self.size[1]

    def patch(self, width: int, height: int, patch_size: int) -> tuple[int, int, int]:
        assert (width, height) == self.crop[:2]
        column, row = self.crop.left // patch_size, self.crop.top // patch_size
        across, down = width // patch_size, height // patch_size
        column, row = min(column, across - 1), min(row, down - 1)
        left, top = self.crop.left - column * patch_size, self.crop.top - row * patch_size
        assert left <= width - across * patch_size
        assert top <= height - down * patch_size
        return left, top, column * down + row

    def coin(self) -> bool:
        return self.crop.mirrored


@pytest.mark.parametrize("kind", ["pillow", "float"])
def test_crops_are_the_published_views(root, kind):
    """Zoom, patch and mirror of the whole image; Pillow's box is in float32."""
    dataset = opened(root)
    for domain, item in [(d, i) for d in ("a", "b") for i in range(40)]:
        pixels = dataset.pixels[domain]
        size = pixels.size
        if kind == "float":
            pixels = pillow_to_tensor(pixels)
        crop = dataset.crop(domain, Place(1, item))
        expected = view(
            pixels, _Pinned(crop, size), preprocess="zoom_and_patch", load_size=1,
            crop_size=SIZE, resize_filter="bilinear",
        )  # fmt: skip
        actual = finished(cropped(pixels, crop, SIZE))
        levels = 2.01 / 127.5 if kind == "pillow" else 0
        torch.testing.assert_close(actual, finished(expected), rtol=0, atol=levels)


def test_crops_lie_inside_images_of_the_drawn_scales(root):
    dataset = opened(root)
    crops = [dataset.crop("a", Place(epoch, item)) for epoch in range(20) for item in range(40)]
    for crop in crops:
        assert max(SIZE, round(70 / 3)) <= crop.width <= 70
        assert max(SIZE, round(45 / 3)) <= crop.height <= 45
        assert 0 <= crop.left <= crop.width - SIZE
        assert 0 <= crop.top <= crop.height - SIZE
    assert abs(np.mean([crop.width for crop in crops]) - 70 * 2 / 3) < 2
    assert np.corrcoef([c.width for c in crops], [c.height for c in crops])[0, 1] < 0.15
    assert abs(sum(crop.mirrored for crop in crops) - 400) < 4 * 200**0.5
    reach = {crop.left + SIZE for crop in crops if crop.width == 70}
    assert len(reach) > 1


def test_every_place_of_the_grid_is_as_likely():
    """Without reduction: 3 x 2 patches, and 3 columns of room."""
    pixels = photo(3 * SIZE + 3, 2 * SIZE)
    dataset = SingleImageDataset.__new__(SingleImageDataset)
    dataset.config, dataset.seed = settings("x", max_reduction=1.0), 0
    dataset.pixels = {"a": pixels, "b": pixels}
    crops = [dataset.crop("a", Place(0, item)) for item in range(2400)]
    cells = Counter((crop.left // SIZE, crop.top // SIZE) for crop in crops)
    tops = Counter(crop.top for crop in crops)
    lefts = Counter(crop.left % SIZE for crop in crops)
    assert set(tops) == {0, SIZE}
    assert set(lefts) == {0, 1, 2, 3}
    assert all(abs(count - 400) < 5 * 400**0.5 for count in cells.values())
    assert len(cells) == 6


def test_domains_are_cropped_independently(root):
    dataset = opened(root)
    crops = [[dataset.crop(d, Place(0, i)).mirrored for d in ("a", "b")] for i in range(400)]
    counts = Counter(map(tuple, crops))
    assert len(counts) == 4
    assert all(60 < count < 140 for count in counts.values())


def test_no_flips_if_there_are_to_be_none(root):
    dataset = opened(root, flip=False)
    assert not any(dataset.crop("b", Place(0, item)).mirrored for item in range(50))


def test_in_order_the_crops_of_a_batch_share_their_scale_and_no_patch(root):
    dataset = opened(root, pairing="serial", max_reduction=1.5)
    for group in range(30):
        crops = [dataset.crop("a", Place(2, 4 * group + position)) for position in range(4)]
        assert len({crop[:2] for crop in crops}) == 1
        width, height = crops[0][:2]
        across, down = width // SIZE, height // SIZE
        cells = set()
        for crop in crops:
            columns = {c for c in range(across) if 0 <= crop.left - c * SIZE <= width % SIZE}
            rows = {r for r in range(down) if 0 <= crop.top - r * SIZE <= height % SIZE}
            assert len(columns) == len(rows) == 1
            cells.add((columns.pop(), rows.pop()))
        assert len(cells) == min(4, across * down)
    scales = {dataset.crop("a", Place(2, 4 * group))[:2] for group in range(30)}
    assert len(scales) > 20


def test_at_random_the_crops_of_a_batch_have_scales_of_their_own(root):
    dataset = opened(root)
    assert len({dataset.crop("a", Place(0, item))[:2] for item in range(8)}) > 4


# Order


def test_an_item_is_a_pure_function_of_its_place(root):
    dataset = opened(root)
    copy = pickle.loads(pickle.dumps(dataset))
    for place in (Place(0, 3), Place(2, 3), Place(0, 45), Place(0, 3, jitter=False)):
        assert torch.equal(dataset[place].a_CHW, copy[place].a_CHW)
        assert torch.equal(dataset[place].b_CHW, copy[place].b_CHW)
    assert not torch.equal(dataset[Place(0, 3)].a_CHW, dataset[Place(1, 3)].a_CHW)
    assert not torch.equal(dataset[Place(0, 3)].a_CHW, opened(root, seed=4)[Place(0, 3)].a_CHW)
    assert dataset[Place(0, 0)][2:] == ("monet", "etretat")


def test_workers_resuming_and_processes_change_nothing(root):
    whole = steps(opened(root))
    assert len(whole) == 25  # across three epochs of ten steps
    assert whole[0][0].shape == (4, 3, SIZE, SIZE)
    assert same(steps(opened(root), start_step=13), whole[13:])
    assert same(steps(opened(root), workers=2, start_step=7), whole[7:])
    halves = [
        steps(opened(root, batch_size=2), batch_size=2, rank=rank, world_size=2)
        for rank in range(2)
    ]
    for (a, b), first, second in zip(whole, *halves, strict=True):
        assert torch.equal(a[0::2], first[0])
        assert torch.equal(b[1::2], second[1])


def test_an_epoch_has_as_many_crops_as_asked_for(root):
    assert DataConfig().crops_per_epoch == 100_000
    dataset = opened(root)
    assert len(dataset) == 40
    first, second = steps(dataset, total_steps=20)[:10], steps(dataset, total_steps=20)[10:]
    assert not same(first, second)


def test_images_are_decoded_once(root):
    dataset = opened(root)
    before = dataset[Place(0, 0)].a_CHW
    for path in root.rglob("*.png"):
        path.unlink()
    assert torch.equal(dataset[Place(0, 0)].a_CHW, before)


def test_16_bits_and_other_channels(tmp_path):
    generator = np.random.default_rng(0)
    for name, shape, highest in (("trainA", (30, 40, 5), 65536), ("trainB", (25, 30), 4096)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", generator.integers(0, highest, shape, dtype=np.uint16))
    dataset = opened(tmp_path, channels=(5, 1), value_range=(0, 4095), max_reduction=1.0)
    item = dataset[Place(0, 0)]
    assert item.a_CHW.shape == (5, SIZE, SIZE)
    assert item.b_CHW.shape == (1, SIZE, SIZE)
    assert item.a_CHW.dtype is torch.float32
    assert item.b_CHW.unique().numel() > 200, "more than 8 bits' worth, not rounded"
    assert float(item.b_CHW.abs().max()) <= 1


def test_the_overview_shows_both_images_whole_and_at_the_smallest_scale(root):
    batch = opened(root).overview()
    assert batch.a_BCHW.shape == (1, 3, 16, 24)
    assert batch.b_BCHW.shape == (1, 3, 16, 16)
    assert (batch.a_names, batch.b_names) == (("monet",), ("etretat",))


# Where the images are


def test_the_layout_and_its_direction(root):
    forward = find_domains(settings(root))
    assert forward.single
    assert [path.name for path in forward.train_a] == ["monet.png"]
    assert find_domains(settings(root, direction="BtoA")).train_a == forward.train_b


@pytest.mark.parametrize("target", ["trainB/etretat.png", "trainB"])
def test_two_files_anywhere(root, target):
    config = DataConfig(
        source=str(root / "trainA" / "monet.png"), target=str(root / target),
        preprocess="zoom_and_patch", size=SIZE,
    )  # fmt: skip
    dataset = open_training_data(config, seed=0).dataset
    assert isinstance(dataset, SingleImageDataset)
    assert dataset.names == ("monet", "etretat")


def test_several_images_are_an_unpaired_set(unpaired):
    dataset = open_training_data(settings(unpaired, size=12), seed=0).dataset
    assert isinstance(dataset, UnpairedDataset)
    assert dataset[Place(0, 1)].a_CHW.shape == (3, 12, 12)


def refusal(config, **how):
    with pytest.raises(DataError) as caught:
        open_training_data(config, seed=0, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_image_and_several_do_not_go_together(unpaired):
    for path in sorted((unpaired / "trainA").iterdir())[1:]:
        path.unlink()
    message = refusal(settings(unpaired, size=12))
    assert "trainA` gives 1 image; unpaired training needs at least 2 per domain" in message
    assert "one in trainB" in message


def test_a_single_image_without_crops_says_which_setting_crops(root):
    message = refusal(DataConfig(root=str(root), size=SIZE))
    assert message.endswith("or train with --data.preprocess zoom_and_patch.")


def test_an_image_smaller_than_a_crop(root):
    message = refusal(settings(root, size=36))
    path = root / "trainB" / "etretat.png"
    assert message == (
        f"`{path}` has 33 x 52 pixels and is smaller than the crops of 36; take a larger image, "
        "or a smaller --size."
    )


def test_an_image_that_is_missing_or_broken(root):
    source = root / "trainA" / "monet.png"
    files = {"preprocess": "zoom_and_patch", "size": SIZE, "target": str(root / "trainB")}
    message = refusal(DataConfig(source=str(source.with_name("mnet.png")), **files))
    assert message.endswith("mnet.png` does not exist. Did you mean `monet.png`?")
    source.write_bytes(b"no image")
    assert "cannot be decoded" in refusal(DataConfig(source=str(source), **files))


def test_scores_need_other_images(root):
    assert "leave out --score-every" in refusal(settings(root), validate=True)
    photo(20, 20).save((root / "trainA").parent / "x.png")
    for name in ("valA", "valB"):
        (root / name).mkdir()
        photo(20, 20).save(root / name / "x.png")
    data = open_training_data(settings(root), seed=0, validate=True)
    assert [path.name for path in data.domains.val_a] == ["x.png"]


@pytest.mark.parametrize("name", ["max_reduction", "crops_per_epoch"])
def test_settings_out_of_range(name):
    with pytest.raises(ConfigError, match=f"`{name}` must be at least 1; got 0"):
        DataConfig(**{name: 0})
