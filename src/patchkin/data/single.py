"""One source and one target image: crops of them at many scales stand for two domains (SinCUT).

A crop is a patch of the image reduced by a factor of its own per axis. Both images are decoded once
and stay in memory, and of a reduced image only the patch is computed.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from patchkin.data.config import DataConfig
from patchkin.data.datasets import Place, UnpairedBatch, UnpairedItem, finished, transformable
from patchkin.data.transforms import Pixels, mirrored, resized, rounded_sides, size_of
from patchkin.errors import DataError
from patchkin.images import ValueRange, read_image
from patchkin.randomness import derive_seed
from patchkin.sides import Sides, height_width, in_pixels

Domain = Literal["a", "b"]


class Crop(NamedTuple):
    """Where a view lies in a reduced image."""

    width: int
    """Of the reduced image."""
    height: int
    left: int
    top: int
    mirrored: bool


class SingleImageDataset(Dataset[UnpairedItem]):
    """Crops of one image per domain, `crops_per_epoch` of them in an epoch.

    As released: factors uniform in [1 / `max_reduction`, 1] per axis; a grid of patches with a
    random offset in the room that is left; a coin for the mirror.

    With `pairing` serial, the crops of a batch share their factors and no patch of the grid comes
    twice before all have come. That is what the released data set is made for, but its loader
    shuffles, so that every crop of a batch has factors of its own: `pairing` random.

    Args:
        source: file of the source domain.
        target: file of the target domain.
        config: how crops are made.
        seed: of the run; with it, a crop is a function of its `Place`.
        channels: of a and of b; grey files are repeated, colour files become luma.

    Raises:
        DataError: if a file cannot be used, or is smaller than a crop.
    """

    def __init__(
        self,
        source: Path,
        target: Path,
        config: DataConfig,
        *,
        seed: int,
        channels: tuple[int, int] = (3, 3),
    ) -> None:
        self.config = config
        self.seed = seed
        self.names = (source.stem, target.stem)
        self.pixels: dict[Domain, Pixels] = {
            "a": _decoded(source, config, channels[0], config.value_ranges[0]),
            "b": _decoded(target, config, channels[1], config.value_ranges[1]),
        }

    def __len__(self) -> int:
        return self.config.crops_per_epoch

    def __getitem__(self, place: Place) -> UnpairedItem:
        a, b = (
            cropped(self.pixels[domain], self.crop(domain, place), self.config.size)
            for domain in self.pixels
        )
        return UnpairedItem(finished(a), finished(b), *self.names)

    def crop(self, domain: Domain, place: Place) -> Crop:
        """The crop of a domain at a place of the run."""
        config, of_view = self.config, self.config.height_width
        in_order = config.pairing == "serial"
        group, position = divmod(place.item, config.batch_size) if in_order else (place.item, 0)
        shared = self._generator("group", domain, place.epoch, group)
        factors = shared.uniform(1 / config.max_reduction, 1, size=2)
        width, height = (
            round(max(least, length * factor))
            for least, length, factor in zip(
                (of_view[1], of_view[0]),
                size_of(self.pixels[domain]),
                factors.tolist(),
                strict=True,
            )
        )
        across, down = width // of_view[1], height // of_view[0]
        order = shared.permutation(across * down)
        column, row = divmod(int(order[position % len(order)]), down)
        own = self._generator("crop", domain, place.epoch, place.item)
        left = int(own.integers(width - across * of_view[1] + 1)) + column * of_view[1]
        top = int(own.integers(height - down * of_view[0] + 1)) + row * of_view[0]
        return Crop(width, height, left, top, mirrored=config.flip and bool(own.random() < 0.5))

    def overview(self) -> UnpairedBatch:
        """Both images whole, at the smallest scale that crops have: for people to look at."""
        images = []
        for pixels in self.pixels.values():
            height, width = (
                max(side, round(length / self.config.max_reduction))
                for side, length in zip(
                    self.config.height_width, size_of(pixels)[::-1], strict=True
                )
            )
            images.append(finished(rounded_sides(resized(pixels, width, height)))[None])
        return UnpairedBatch(images[0], images[1], self.names[:1], self.names[1:])

    def _generator(self, *what: int | str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.seed, *what))


def cropped(pixels: Pixels, crop: Crop, sides: Sides) -> Pixels:
    """The patch of the image reduced by the bilinear filter, as `transforms.view` makes it.

    Of a Pillow image only the patch is reduced, which is some 20 times faster. Pillow keeps the
    patch's place in float32, hence a few pixels in a hundred differ, by at most two levels.

    >>> cropped(Image.new("L", (30, 40)), Crop(20, 25, 4, 17, mirrored=False), 8).size
    (8, 8)
    """
    height, width = height_width(sides)
    right, bottom = crop.left + width, crop.top + height
    patch: Pixels
    if isinstance(pixels, Image.Image):
        x, y = pixels.width / crop.width, pixels.height / crop.height
        box = (
            *(crop.left * x, crop.top * y),
            *(min(right * x, pixels.width), min(bottom * y, pixels.height)),
        )
        patch = pixels.resize((width, height), Image.Resampling.BILINEAR, box=box)
    else:
        reduced = resized(pixels, crop.width, crop.height, "bilinear")
        assert isinstance(reduced, Tensor)
        patch = reduced[:, crop.top : bottom, crop.left : right]
    return mirrored(patch) if crop.mirrored else patch


def _decoded(
    path: Path, config: DataConfig, channels: int, value_range: ValueRange | None
) -> Pixels:
    pixels = transformable(read_image(path, channels), value_range)
    width, height = size_of(pixels)
    if any(have < want for have, want in zip((height, width), config.height_width, strict=True)):
        raise DataError(
            f"`{path}` has {width} x {height} pixels and is smaller than the crops of "
            f"{in_pixels(config.size)}; take a larger image, or a smaller --size."
        )
    return pixels
