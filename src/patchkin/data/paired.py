"""Pairs: files that show a source image and its translation side by side (pix2pix).

    train/*  [val/*]  [test/*]     A is the left half of a file, B the right half

The toy set has true pairs too, `toy`: every plain-coated scene once more with a striped coat.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from patchkin.data.cache import ReadImage, from_file, open_cache
from patchkin.data.config import DataConfig
from patchkin.data.datasets import Place, finished, transformable
from patchkin.data.depth import warn_of_depth
from patchkin.data.folders import made_once
from patchkin.data.grey import GreyWatch
from patchkin.data.layouts import (
    SPLITS,
    TOY,
    PairedImages,
    detect_layout,
    images_in,
    notes_on,
    say_which_toy,
)
from patchkin.data.record import as_recorded
from patchkin.data.scale import check_views
from patchkin.data.steps import StepBatches, StepLoader, held_out
from patchkin.data.toy import MAX_SIZE, MIN_SIZE, TOY_VERSION, Scene
from patchkin.data.transforms import Pixels, SeededViewDraws, resized, view
from patchkin.data.verify import Broken, verify_images, without_broken
from patchkin.errors import DataError
from patchkin.images import Picture, read_image, write_pillow
from patchkin.randomness import derive_seed
from patchkin.sides import Sides, height_width
from patchkin.storage.atomic import storage_errors, sync_tree

logger = logging.getLogger(__name__)
Side: TypeAlias = Literal["left", "right"]
SIDES: tuple[Side, Side] = ("left", "right")
_TOY_COUNTS = {"train": 300, "val": 24, "test": 24}


@dataclass(frozen=True, slots=True)
class PairedBatch:
    """Images of both domains in [-1, 1]; row i of `b` is the translation of row i of `a`."""

    a_BCHW: Tensor
    """Source domain, float32."""
    b_BCHW: Tensor
    """Target domain, float32, as large as the source."""
    names: tuple[str, ...] = ()
    """Stems of the files."""

    def __len__(self) -> int:
        return self.a_BCHW.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PairedBatch:
        """The batch on a device."""
        return PairedBatch(
            self.a_BCHW.to(device, non_blocking=non_blocking),
            self.b_BCHW.to(device, non_blocking=non_blocking),
            self.names,
        )

    def pin_memory(self) -> PairedBatch:
        """The batch in page-locked memory; called by the `DataLoader`."""
        return PairedBatch(self.a_BCHW.pin_memory(), self.b_BCHW.pin_memory(), self.names)


class PairedItem(NamedTuple):
    """One row of a batch."""

    a_CHW: Tensor
    b_CHW: Tensor
    name: str


class PairedDataset(Dataset[PairedItem]):
    """Training views of side-by-side pairs: one crop and one flip for both halves.

    Args:
        files: one per pair.
        config: how views are made. `direction` BtoA makes the right half the source.
        seed: of the run.
        channels: of a and of b; grey files are repeated, colour files become luma.
        read: where the pixels of a file come from.
    """

    def __init__(
        self,
        files: Sequence[Path],
        config: DataConfig,
        *,
        seed: int,
        channels: tuple[int, int] = (3, 3),
        read: ReadImage = from_file,
    ) -> None:
        self.files = tuple(files)
        self.config = config
        self.seed = seed
        self.channels = channels
        self.read = read

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: Place) -> PairedItem:
        path = self.files[place.item % len(self)]
        config = self.config
        seed = derive_seed(self.seed, "view", "pair", place.epoch, place.item)
        load_size = config.resolved_load_size if place.jitter else config.size
        halves = read_pair(path, config, self.channels, partial(self.read, load_size=load_size))
        try:
            a_CHW, b_CHW = (
                finished(
                    view(
                        half,
                        SeededViewDraws(seed),  # of its own, so that both make the same choices
                        preprocess=config.preprocess,
                        load_size=load_size,
                        crop_size=config.size,
                        flip=config.flip,
                    )
                )
                for half in halves
            )
        except DataError as error:
            raise DataError(f"`{path}`: {error}") from error
        return PairedItem(a_CHW, b_CHW, path.stem)


def read_pair(
    path: Path,
    config: DataConfig,
    channels: tuple[int, int] = (3, 3),
    read: Callable[[Path, int], Picture] = read_image,
) -> tuple[Pixels, Pixels]:
    """Source and target of a file, equally large; the middle column of an odd width is left out.

    Raises:
        DataError: if the file cannot be used.
    """
    forward = config.direction == "AtoB"
    wanted = list(zip(channels, config.value_ranges, strict=True))[:: 1 if forward else -1]
    halves: list[Pixels] = []
    for side, (number, value_range) in zip(SIDES, wanted, strict=True):
        halves.append(transformable(half_of(read(path, number), side, path), value_range))
    left, right = halves
    return (left, right) if forward else (right, left)


def half_of(picture: Picture, side: Side, path: Path) -> Picture:
    """The left or the right half; the middle column of an odd width is left out.

    Raises:
        DataError: it is one pixel wide.
    """
    width, height = picture.size
    if width < 2:
        raise DataError(f"`{path}` is {width} pixel wide and cannot hold a pair side by side.")
    start = 0 if side == "left" else width - width // 2
    if isinstance(picture.pixels, Image.Image):
        return replace(picture, pixels=picture.pixels.crop((start, 0, start + width // 2, height)))
    return replace(picture, pixels=picture.pixels[:, :, start : start + width // 2])


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Files of pairs, in order; a split may be empty."""

    train: tuple[Path, ...]
    val: tuple[Path, ...] = ()
    test: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    """One line each: what was ignored."""


def find_pairs(config: DataConfig) -> Pairs:
    """The files of all splits.

    A missing test split is the validation split. `max_images` cuts the training files.

    Raises:
        DataError: if a folder is missing or empty, or the layout is another one.
    """
    if config.source is not None:
        raise DataError(
            "This method needs pairs; `source` and `target` are two folders without any. Give "
            "`root`, a folder with side-by-side pairs in train/."
        )
    if config.root == TOY:
        say_which_toy()
        root = cached_paired_toy(max(config.height_width))
    else:
        root = Path(config.root)
    layout = detect_layout(root)
    if not isinstance(layout, PairedImages):
        raise DataError(
            f"`{root}` holds no pairs; this method needs files in train/ that show A (left half) "
            "and B (right half) side by side."
        )
    found = {split: images_in(root / split) for split in SPLITS if (root / split).is_dir()}
    val, test = (found[split].files if split in found else () for split in ("val", "test"))
    return Pairs(
        train=found["train"].files[: config.max_images],
        val=val,
        test=test or val,
        notes=notes_on([found["train"]]),
    )


@dataclass(frozen=True, slots=True)
class PairedData:
    """What a run trains on, and what is held out."""

    dataset: PairedDataset
    pairs: Pairs
    """All files; broken ones are left out of the training split."""
    broken: tuple[Broken, ...]
    """Training files that cannot be used; keep the list beside the run, and pass it on resume."""


def open_paired_data(
    config: DataConfig,
    *,
    seed: int,
    channels: tuple[int, int] = (3, 3),
    known_broken: Sequence[Broken] | None = None,
    known_val: Mapping[str, Collection[str]] | None = None,
    validate: bool = False,
    threads: int | None = None,
) -> PairedData:
    """Find the files, decode each once (those in the cache were), leave out the broken ones.

    Args:
        config: where the files are, and how views are made.
        seed: of the run.
        channels: of the source and the target domain.
        known_broken: of the run that is resumed; nothing is decoded then.
        known_val: names (`record.name_of`) of its validation pairs, as `pairs`; no others are held
            out.
        validate: whether validation pairs are needed; a set without a val split gives some of its
            training pairs. A run that is resumed has those that it had.
        threads: for decoding.

    Raises:
        DataError: if folders are missing or empty, or more than 1 % of the files are broken.
        StorageError: the cache of decoded images cannot be written.
    """
    pairs = find_pairs(config)
    broken = list(known_broken or ())
    numbers = tuple(dict.fromkeys(channels))
    sides = dict.fromkeys(zip(channels, config.value_ranges, strict=True))
    cache = open_cache(
        config,
        [(path, number) for number in numbers for path in pairs.train],
        left_out=broken,
        side_by_side=True,
        threads=threads,
    )
    if known_broken is None:
        for note in pairs.notes:
            logger.warning("%s", note)
        check_views(pairs.train, config, side_by_side=True)
        watch = GreyWatch(cache.check if cache else read_image)
        for number, value_range in sides:
            broken += verify_images(
                pairs.train,
                channels=number,
                value_range=value_range,
                threads=threads,
                read=watch,
            )
        warn_of_depth(pairs.train, config.value_ranges[0])
        watch.warn(channels)
    usable = replace(pairs, train=without_broken(pairs.train, broken, config.max_broken))
    if known_val is not None:
        train, val = as_recorded(usable.train, known_val.get("pairs", ()), config)
        usable = replace(usable, train=train, val=usable.val or val)
    elif validate and not usable.val and known_broken is None:
        number = config.validation_images
        train, val = held_out(usable.train, number, seed=seed, domain="pairs", folder="val")
        usable = replace(usable, train=train, val=val)
    dataset = PairedDataset(
        usable.train, config, seed=seed, channels=channels, read=cache or from_file
    )
    return PairedData(dataset, usable, tuple(broken))


def collate_pairs(items: Sequence[PairedItem]) -> PairedBatch:
    """Items to a batch.

    Raises:
        DataError: if the images have different sizes.
    """
    names = tuple(item.name for item in items)
    if len({item.a_CHW.shape[1:] for item in items}) > 1:
        raise DataError(
            f"The images {', '.join(names)} of one batch have different sizes; use `batch_size` 1, "
            "or a `preprocess` that crops."
        )
    return PairedBatch(
        torch.stack([item.a_CHW for item in items]),
        torch.stack([item.b_CHW for item in items]),
        names,
    )


def paired_loader(
    dataset: PairedDataset,
    *,
    batch_size: int,
    total_steps: int,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
    jitter_steps: int | None = None,
) -> StepLoader:
    """One pass over the `PairedBatch`es of steps `start_step` to `total_steps - 1`.

    Args:
        dataset: its seed decides the order.
        batch_size: as `training_loader`.
        total_steps: as `training_loader`.
        start_step: as `training_loader`.
        rank: as `training_loader`.
        world_size: as `training_loader`.
        workers: as `training_loader`.
        pin_memory: as `training_loader`.
        jitter_steps: as `training_loader`.
    """
    config = dataset.config
    batches = StepBatches(
        len(dataset),
        batch_size=batch_size,
        total_steps=total_steps,
        seed=dataset.seed,
        start_step=start_step,
        rank=rank,
        world_size=world_size,
        shuffle=config.pairing == "random",
        jitter_steps=None if config.jitter_in_decay else jitter_steps,
    )
    return StepLoader(
        dataset,
        batches,
        collate=collate_pairs,
        seed=dataset.seed,
        workers=workers,
        pin_memory=pin_memory,
    )


def evaluation_pairs(
    paths: Sequence[Path],
    config: DataConfig,
    channels: tuple[int, int] = (3, 3),
    *,
    size: Sides | None = None,
) -> PairedBatch:
    """Whole pairs at one size, by default `config.size`, in order, without crop or flip: the
    published test view.

    Raises:
        DataError: if a file cannot be used.
    """
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    height, width = height_width(config.size if size is None else size)
    for path in paths:
        for images, half in zip(sides, read_pair(path, config, channels), strict=True):
            images.append(finished(resized(half, width, height)))
    return PairedBatch(
        torch.stack(sides[0]), torch.stack(sides[1]), tuple(path.stem for path in paths)
    )


def cached_paired_toy(size: int = 64) -> Path:
    """The toy set as pairs for this training size, rendered on first use beside the toy set.

    Held-out pairs are those of the toy set; training pairs show its plain-coated scenes with the
    striped coat that the unpaired methods never see.

    Raises:
        StorageError: if the cache cannot be written.
    """
    size = min(max(size, MIN_SIZE), MAX_SIZE)
    return made_once(
        f"toy-paired-{size}-{TOY_VERSION}", lambda root: write_paired_toy(root, size=size)
    )


def write_paired_toy(
    root: Path, *, size: int = 64, counts: dict[str, int] | None = None, seed: int = 0
) -> None:
    """Render side-by-side pairs, plain-coated and striped, into train, val and test.

    Args:
        root: folder; existing files of the same names are replaced.
        size: side of a half in pixels, 64 to 256.
        counts: pairs per split; those of the toy set by default.
        seed: of the toy set.

    Raises:
        ConfigError: if the size is out of range.
        StorageError: if a file cannot be written.
    """
    for split, number in (counts or _TOY_COUNTS).items():
        for index in range(number):
            scene = Scene(size, derive_seed(seed, "toy", f"{split}A", index))
            pair = Image.new("RGB", (2 * size, size))
            pair.paste(scene.plain(), (0, 0))
            pair.paste(scene.striped(), (size, 0))
            write_pillow(root / split / f"{index:04d}.png", pair, synced=False)
    with storage_errors(root):
        sync_tree(root)
