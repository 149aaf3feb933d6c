"""Pairs of views from two unpaired domains, each a pure function of where it stands in the run.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from patchkin.data.cache import ReadImage, from_file
from patchkin.data.config import DataConfig
from patchkin.data.transforms import Pixels, SeededViewDraws, view
from patchkin.errors import DataError
from patchkin.images import Picture, pillow_to_tensor, to_tensor
from patchkin.randomness import derive_seed


@dataclass(frozen=True, slots=True)
class UnpairedBatch:
    """Images of both domains in [-1, 1]; row i of `a` and row i of `b` have nothing in common."""

    a_BCHW: Tensor
    """Source domain, float32."""
    b_BCHW: Tensor
    """Target domain, float32."""
    a_names: tuple[str, ...] = ()
    """Stems of the files."""
    b_names: tuple[str, ...] = ()
    """Stems of the files."""

    def __len__(self) -> int:
        return self.a_BCHW.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> UnpairedBatch:
        """The batch on a device."""
        return UnpairedBatch(
            self.a_BCHW.to(device, non_blocking=non_blocking),
            self.b_BCHW.to(device, non_blocking=non_blocking),
            self.a_names,
            self.b_names,
        )

    def pin_memory(self) -> UnpairedBatch:
        """The batch in page-locked memory; called by the `DataLoader`."""
        return UnpairedBatch(
            self.a_BCHW.pin_memory(), self.b_BCHW.pin_memory(), self.a_names, self.b_names
        )


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Images of one domain, for previews and scores."""

    images_BCHW: Tensor
    """In [-1, 1], float32."""
    names: tuple[str, ...]
    """Stems of the files."""

    def __len__(self) -> int:
        return self.images_BCHW.shape[0]


class Place(NamedTuple):
    """Where an item stands in the run; all its random choices follow from this and the seed."""

    epoch: int
    """From 0."""
    item: int
    """From 0; a number beyond the last item is another draw of item `item % num_items`."""
    jitter: bool = True
    """Whether the view is scaled and cropped, or (CUT's decay phase) `load_size` is `size`."""


class UnpairedItem(NamedTuple):
    """One row of a batch."""

    a_CHW: Tensor
    b_CHW: Tensor
    a_name: str
    b_name: str


class UnpairedDataset(Dataset[UnpairedItem]):
    """The training images of two domains.

    Item i of an epoch: source image i modulo their number, and a target image drawn uniformly (or
    i modulo their number, if `pairing` is serial); each with its own crop and its own flip.

    Args:
        train_a: files of the source domain.
        train_b: files of the target domain.
        config: how views are made.
        seed: of the run.
        channels: of a and of b; grey files are repeated, colour files become luma.
        read: where the pixels of a file come from.
    """

    def __init__(
        self,
        train_a: Sequence[Path],
        train_b: Sequence[Path],
        config: DataConfig,
        *,
        seed: int,
        channels: tuple[int, int] = (3, 3),
        read: ReadImage = from_file,
    ) -> None:
        self.train_a = tuple(train_a)
        self.train_b = tuple(train_b)
        self.config = config
        self.seed = seed
        self.channels = channels
        self.read = read

    def __len__(self) -> int:
        return max(len(self.train_a), len(self.train_b))

    def files(self, place: Place) -> tuple[Path, Path]:
        """The source and target file of an item."""
        item = place.item % len(self)
        partner = item
        if self.config.pairing == "random":
            seed = derive_seed(self.seed, "pair", place.epoch, place.item)
            partner = int(np.random.default_rng(seed).integers(len(self.train_b)))
        return self.train_a[item % len(self.train_a)], self.train_b[partner % len(self.train_b)]

    def __getitem__(self, place: Place) -> UnpairedItem:
        a, b = self.files(place)
        return UnpairedItem(
            self._view(a, "a", place),
            self._view(b, "b", place),
            a.stem,
            b.stem,
        )

    def _view(self, path: Path, domain: str, place: Place) -> Tensor:
        config, side = self.config, "ab".index(domain)
        channels, value_range = self.channels[side], self.config.value_ranges[side]
        load_size = config.resolved_load_size if place.jitter else config.size
        whole = transformable(self.read(path, channels, load_size), value_range)
        draws = SeededViewDraws(derive_seed(self.seed, "view", domain, place.epoch, place.item))
        try:
            pixels = view(
                whole,
                draws,
                preprocess=config.preprocess,
                load_size=load_size,
                crop_size=config.size,
                flip=config.flip,
            )
        except DataError as error:
            raise DataError(f"`{path}`: {error}") from error
        return finished(pixels)


def transformable(picture: Picture, value_range: tuple[float, float] | None) -> Pixels:
    """The pixels in the form that `transforms` take: Pillow stays, arrays move to [-1, 1]."""
    if isinstance(picture.pixels, Image.Image):
        return picture.pixels
    return to_tensor(picture, value_range)


def finished(pixels: Pixels) -> Tensor:
    """The result of `transforms` as float32 [C, H, W] in [-1, 1]."""
    return pixels.contiguous() if isinstance(pixels, Tensor) else pillow_to_tensor(pixels)


def collate(items: Sequence[UnpairedItem]) -> UnpairedBatch:
    """Items to a batch.

    Raises:
        DataError: if the images of a domain have different sizes.
    """
    a_CHW, b_CHW, a_names, b_names = zip(*items, strict=True)
    return UnpairedBatch(_stacked(a_CHW, a_names), _stacked(b_CHW, b_names), a_names, b_names)


def _stacked(images_CHW: Sequence[Tensor], names: Sequence[str]) -> Tensor:
    sizes = {tuple(image.shape[1:]) for image in images_CHW}
    if len(sizes) > 1:
        found = ", ".join(f"{width} x {height}" for height, width in sorted(sizes))
        raise DataError(
            f"The images {', '.join(names)} of one batch have different sizes ({found}); use "
            "`batch_size` 1, or a `preprocess` that crops."
        )
    return torch.stack(list(images_CHW))
