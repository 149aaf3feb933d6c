"""Images of several domains, each with references of a domain to translate into.

    train/<domain>/  [val/<domain>/]  [test/<domain>/]     any number of domains (StarGAN v2)
    trainA trainB  [valA valB]  [testA testB]              two of them, named A and B
    <domain>/                                              no splits: nothing is held out

The label of an image is the place of its folder among the sorted names of the domain folders;
other files beside these folders are reported and change no label.

Each domain is equally likely, whatever its number of images (StarGAN v2's balanced sampler, with
replacement). Source, target domain, both references and all views are functions of the seed, the
epoch and the place in it: nothing here has a state. The released code pairs references once when
the data set is built; here the partner is drawn per access, so that styles are compared with more
than one other.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from patchkin.data.cache import ReadImage, from_file, open_cache
from patchkin.data.config import DataConfig
from patchkin.data.datasets import Place, finished, transformable
from patchkin.data.layouts import (
    MIN_UNPAIRED_IMAGES,
    TOY,
    DomainFolders,
    Layout,
    SingleImages,
    UnpairedFolders,
    detect_layout,
    entries_beside,
    flat_domains,
    image_files,
)
from patchkin.data.steps import StepBatches, StepLoader, held_out
from patchkin.data.toy import cached_domain_toy
from patchkin.data.transforms import mirrored, resized, size_of
from patchkin.data.verify import Broken, verify_images, without_broken
from patchkin.errors import ConfigError, DataError
from patchkin.images import Pixels, ValueRange, read_image
from patchkin.randomness import derive_seed

CROP_AREA = (0.8, 1.0)
"""Share of the picture that a crop keeps (StarGAN v2)."""
CROP_RATIO = (0.9, 1.1)
"""Width over height of a crop (StarGAN v2)."""
_CROP_ATTEMPTS = 10

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DomainBatch:
    """Images to translate, and for each two references of one other (or the same) domain."""

    x_BCHW: Tensor
    """Images in [-1, 1], float32."""
    domain_B: Tensor
    """Their domains, int64."""
    reference_BCHW: Tensor
    """Images whose style is taken, in [-1, 1], float32."""
    second_reference_BCHW: Tensor
    """Other images of the same domains, for the diversity of styles."""
    target_B: Tensor
    """Domains of both references, int64."""
    names: tuple[str, ...] = ()
    """Stems of the files of `x_BCHW`."""

    def __len__(self) -> int:
        return self.x_BCHW.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> DomainBatch:
        """The batch on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> DomainBatch:
        """The batch in page-locked memory; called by the `DataLoader`."""
        return self._each(Tensor.pin_memory)

    def _each(self, moved: Callable[[Tensor], Tensor]) -> DomainBatch:
        return DomainBatch(
            x_BCHW=moved(self.x_BCHW),
            domain_B=moved(self.domain_B),
            reference_BCHW=moved(self.reference_BCHW),
            second_reference_BCHW=moved(self.second_reference_BCHW),
            target_B=moved(self.target_B),
            names=self.names,
        )


# Files


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainFiles:
    """The files of every domain, in order; a split is empty or has all domains."""

    names: tuple[str, ...]
    """Sorted; the label of an image is the place of its domain here."""
    train: tuple[tuple[Path, ...], ...]
    val: tuple[tuple[Path, ...], ...] = ()
    test: tuple[tuple[Path, ...], ...] = ()
    notes: tuple[str, ...] = ()
    """One line each: what beside the domains was found and left out, or how they were read."""


def find_domain_files(config: DataConfig) -> DomainFiles:
    """The files of all domains and splits.

    A missing test split is the validation split. `max_images` cuts the training files of each
    domain.

    Raises:
        DataError: a folder is missing or empty, there are fewer than two domains, or the layout is
            another one.
        ConfigError: a setting that only two domains have.
    """
    _refuse_settings_of_two_domains(config)
    root = cached_domain_toy(config.size) if config.root == TOY else Path(config.root)
    layout = domain_layout(root)
    if isinstance(layout, DomainFolders):
        names, notes = layout.names, _notes(layout)
        pattern = "{name}" if layout.flat else "{split}/{name}"
    else:
        names, notes, pattern = ("A", "B"), (), "{split}{name}"
    splits = ("train", "val", "test") if "{split}" in pattern else ("train",)
    found = {split: _split(root, split, names, pattern) for split in splits}
    train = tuple(files[: config.max_images] for files in found["train"])
    for name, files in zip(names, train, strict=True):
        if len(files) < MIN_UNPAIRED_IMAGES:
            raise DataError(
                f"Domain `{name}` of `{root}` has {len(files)} training image; at least "
                f"{MIN_UNPAIRED_IMAGES} are needed, since two references are drawn at a time."
            )
    val, test = found.get("val", ()), found.get("test", ())
    return DomainFiles(names=names, train=train, val=val, test=test or val, notes=notes)


def domain_layout(root: Path) -> DomainFolders | UnpairedFolders:
    """The layout of a root as domains.

    Raises:
        DataError: it has no domains, or only one.
    """
    layout: Layout | None = flat_domains(root)
    if layout is None and any((root / name).is_dir() for name in ("train", "trainA", "trainB")):
        layout = detect_layout(root)
    if isinstance(layout, SingleImages):
        layout = UnpairedFolders(root)  # said by the caller: too few images
    if isinstance(layout, UnpairedFolders):
        return layout
    if not isinstance(layout, DomainFolders):
        raise DataError(
            f"`{root}` holds no domains; this method needs a folder for each domain in "
            f"`{root / 'train'}`: train/cat, train/dog and so on."
        )
    if len(layout.names) < 2:
        folder = root if layout.flat else root / "train"
        raise DataError(
            f"`{folder}` has one domain, `{layout.names[0]}`; at least two are needed, each in a "
            "folder of its own."
        )
    return layout


def _split(
    root: Path, split: str, names: Sequence[str], pattern: str
) -> tuple[tuple[Path, ...], ...]:
    folders = [root / pattern.format(split=split, name=name) for name in names]
    if split != "train" and not any(folder.is_dir() for folder in folders):
        return ()
    return tuple(image_files(folder) for folder in folders)


def _notes(layout: DomainFolders) -> tuple[str, ...]:
    notes = []
    if layout.flat:
        notes.append(
            f"`{layout.root}` has no folder train; its folders {', '.join(layout.names)} are taken "
            "as domains, and nothing is held out."
        )
    stray = entries_beside(layout)
    if stray:
        first = ", ".join(stray[:5]) + (", ..." if len(stray) > 5 else "")
        notes.append(f"`{layout.root}`: {first} are in no folder of a domain; left out.")
    return tuple(notes)


def _refuse_settings_of_two_domains(config: DataConfig) -> None:
    """Say so where a setting would have no effect."""
    if config.source is not None:
        raise DataError(
            "This method takes any number of domains; `source` and `target` are two folders. "
            "Give `root`, a folder with train/<domain> for each domain."
        )
    default = DataConfig()
    for name, instead in (
        ("direction", "every domain is translated into every other"),
        ("load_size", "`crop_probability` says how often a part of the picture is cut out"),
        ("preprocess", "`crop_probability` says how often a part of the picture is cut out"),
        ("pairing", "images and references are always drawn at random"),
    ):
        if getattr(config, name) != getattr(default, name):
            raise ConfigError(f"`{name}` is a setting of two domains; with several, {instead}.")


# Views


def domain_view(
    pixels: Pixels,
    rng: np.random.Generator,
    *,
    size: int,
    crop_probability: float = 0.5,
    flip: bool = True,
) -> Pixels:
    """StarGAN v2's training view: sometimes a crop; resized to a square; mirrored or not.

    A crop keeps 80 to 100 % of the area, its width over height is from 0.9 to 1.1, evenly in the
    logarithm. Resizing is bilinear and does not keep the ratio of the sides.

    Args:
        pixels: Pillow image, or float tensor [C, H, W] in [-1, 1].
        rng: where every random choice comes from.
        size: side of the view.
        crop_probability: of a crop; else the whole picture.
        flip: whether to toss a coin for a mirrored view.
    """
    crops, mirrors = rng.random(2)
    if crops < crop_probability:
        pixels = _cut(pixels, *crop_box(*size_of(pixels), rng))
    pixels = resized(pixels, size, size, "bilinear")
    return mirrored(pixels) if flip and mirrors < 0.5 else pixels


def crop_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, width and height of a random crop of an image of this width and height.

    If none of 10 shapes fits, as in a long strip, the largest crop in the middle whose ratio is
    allowed.
    """
    low, high = CROP_RATIO
    for _ in range(_CROP_ATTEMPTS):
        area = width * height * rng.uniform(*CROP_AREA)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    ratio = min(max(width / height, low), high)
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (width - w) // 2, (height - h) // 2, w, h


def _cut(pixels: Pixels, left: int, top: int, width: int, height: int) -> Pixels:
    if isinstance(pixels, Image.Image):
        return pixels.crop((left, top, left + width, top + height))
    return pixels[:, top : top + height, left : left + width]


def domain_images(
    paths: Iterable[Path], *, size: int, channels: int = 3, value_range: ValueRange | None = None
) -> Tensor:
    """Whole images as [B, C, size, size], in order, without crop or flip: StarGAN v2's test view.

    Raises:
        DataError: if a file cannot be used.
    """
    pictures = (transformable(read_image(path, channels), value_range) for path in paths)
    return torch.stack(
        [finished(resized(picture.pixels, size, size, "bilinear")) for picture in pictures]
    )


# Training


class Chosen(NamedTuple):
    """What an item is made of."""

    domain: int
    source: Path
    target: int
    reference: Path
    second_reference: Path


class DomainItem(NamedTuple):
    """One row of a batch."""

    x_CHW: Tensor
    domain: int
    reference_CHW: Tensor
    second_reference_CHW: Tensor
    target: int
    name: str


class DomainDataset(Dataset[DomainItem]):
    """Training views of several domains.

    Args:
        train: files of each domain.
        config: how views are made.
        seed: of the run.
        channels: of all images; grey files are repeated, colour files become luma.
        read: where the pixels of a file come from.
    """

    def __init__(
        self,
        train: Sequence[Sequence[Path]],
        config: DataConfig,
        *,
        seed: int,
        channels: int = 3,
        read: ReadImage = from_file,
    ) -> None:
        self.train = tuple(tuple(files) for files in train)
        self.config = config
        self.seed = seed
        self.channels = channels
        self.read = read

    def __len__(self) -> int:
        """Images of all domains: so many are drawn in an epoch."""
        return sum(map(len, self.train))

    def choose(self, place: Place) -> Chosen:
        """The files of an item: a domain, then an image in it; a target domain, then two images."""
        rng = np.random.default_rng(derive_seed(self.seed, "domains", place.epoch, place.item))
        domain, target = (int(label) for label in rng.integers(len(self.train), size=2))
        sources, references = self.train[domain], self.train[target]
        source, first = int(rng.integers(len(sources))), int(rng.integers(len(references)))
        second = (first + 1 + int(rng.integers(len(references) - 1))) % len(references)
        return Chosen(domain, sources[source], target, references[first], references[second])

    def __getitem__(self, place: Place) -> DomainItem:
        chosen = self.choose(place)
        return DomainItem(
            self._view(chosen.source, "source", place),
            chosen.domain,
            self._view(chosen.reference, "reference", place),
            self._view(chosen.second_reference, "second reference", place),
            chosen.target,
            chosen.source.stem,
        )

    def _view(self, path: Path, role: str, place: Place) -> Tensor:
        config = self.config
        picture = transformable(self.read(path, self.channels), config.value_range)
        seed = derive_seed(self.seed, "view", role, place.epoch, place.item)
        pixels = domain_view(
            picture.pixels,
            np.random.default_rng(seed),
            size=config.size,
            crop_probability=config.crop_probability,
            flip=config.flip,
        )
        return finished(pixels)


@dataclass(frozen=True, slots=True)
class DomainData:
    """What a run trains on, and what is held out."""

    dataset: DomainDataset
    files: DomainFiles
    """All files; broken ones are left out of the training split."""
    broken: tuple[Broken, ...]
    """Training files that cannot be used; keep the list beside the run, and pass it on resume."""


def open_domain_data(
    config: DataConfig,
    *,
    seed: int,
    channels: int = 3,
    known_broken: Sequence[Broken] | None = None,
    validate: bool = False,
    threads: int | None = None,
) -> DomainData:
    """Find the files, decode each once (those in the cache were), leave out the broken ones.

    Args:
        config: where the files are, and how views are made.
        seed: of the run.
        channels: of the images.
        known_broken: of the run that is resumed; nothing is decoded then.
        validate: whether validation images are needed; a set without a val split gives some of its
            training images.
        threads: for decoding.

    Raises:
        DataError: as `find_domain_files`; or more than 1 % of a domain is broken.
        StorageError: the cache of decoded images cannot be written.
    """
    files = find_domain_files(config)
    broken: list[Broken] = list(known_broken or ())
    cache = open_cache(
        config,
        [(path, channels) for paths in files.train for path in paths],
        left_out=broken,
        takes_first_step=False,
        threads=threads,
    )
    if known_broken is None:
        for note in files.notes:
            logger.warning("%s", note)
        for paths in files.train:
            broken += verify_images(
                paths,
                channels=channels,
                value_range=config.value_range,
                threads=threads,
                read=cache.check if cache else read_image,
            )
    files = replace(files, train=tuple(without_broken(paths, broken) for paths in files.train))
    if validate and not files.val:
        files = _held_out(files, config.validation_images, seed)
    dataset = DomainDataset(
        files.train, config, seed=seed, channels=channels, read=cache or from_file
    )
    return DomainData(dataset, files, tuple(broken))


def _held_out(files: DomainFiles, number: int, seed: int) -> DomainFiles:
    """Some training images of each domain as validation images, chosen by the seed."""
    split = [
        held_out(paths, number, seed=seed, domain=name, folder=f"val/{name}")
        for name, paths in zip(files.names, files.train, strict=True)
    ]
    train, val = zip(*split, strict=True)
    return replace(files, train=train, val=val)


def collate_domains(items: Sequence[DomainItem]) -> DomainBatch:
    """Items to a batch."""
    return DomainBatch(
        x_BCHW=torch.stack([item.x_CHW for item in items]),
        domain_B=torch.tensor([item.domain for item in items]),
        reference_BCHW=torch.stack([item.reference_CHW for item in items]),
        second_reference_BCHW=torch.stack([item.second_reference_CHW for item in items]),
        target_B=torch.tensor([item.target for item in items]),
        names=tuple(item.name for item in items),
    )


def domain_loader(
    dataset: DomainDataset,
    *,
    batch_size: int,
    total_steps: int,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> StepLoader:
    """One pass over the `DomainBatch`es of steps `start_step` to `total_steps - 1`.

    Args:
        dataset: its seed decides everything.
        batch_size: images per process.
        total_steps: of the run.
        start_step: the first step to run; that of the checkpoint on resume.
        rank: of this process.
        world_size: number of processes; N with a batch of b see the images of one with N * b.
        workers: processes that decode.
        pin_memory: for GPUs.
    """
    places = StepBatches(
        len(dataset),
        batch_size=batch_size,
        total_steps=total_steps,
        seed=dataset.seed,
        start_step=start_step,
        rank=rank,
        world_size=world_size,
        shuffle=False,  # a place is only a number here: what it shows is drawn with replacement
    )
    return StepLoader(
        dataset,
        places,
        collate=collate_domains,
        seed=dataset.seed,
        workers=workers,
        pin_memory=pin_memory,
    )
