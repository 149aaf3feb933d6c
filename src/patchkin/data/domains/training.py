"""Items of several domains drawn for training, and batches of them.

Each domain is equally likely, whatever its number of images (StarGAN v2's balanced sampler, with
replacement). Source, target domain, both references and all views are functions of the seed, the
epoch and the place in it: nothing here has a state. The released code pairs references once when
the data set is built; here the partner is drawn per access, so that styles are compared with more
than one other.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from patchkin.data.cache import ReadImage, from_file, open_cache
from patchkin.data.config import DataConfig
from patchkin.data.datasets import Place, finished, transformable
from patchkin.data.depth import warn_of_depth
from patchkin.data.domains.files import DomainFiles, find_domain_files
from patchkin.data.domains.views import domain_view
from patchkin.data.grey import GreyWatch
from patchkin.data.record import as_recorded
from patchkin.data.steps import StepBatches, StepLoader, held_out
from patchkin.data.verify import Broken, verify_images, without_broken
from patchkin.images import read_image
from patchkin.randomness import derive_seed

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
        whole = transformable(self.read(path, self.channels), config.value_range)
        seed = derive_seed(self.seed, "view", role, place.epoch, place.item)
        pixels = domain_view(
            whole,
            np.random.default_rng(seed),
            size=max(config.height_width),
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
    known_val: Mapping[str, Collection[str]] | None = None,
    validate: bool = False,
    threads: int | None = None,
) -> DomainData:
    """Find the files, decode each once (those in the cache were), leave out the broken ones.

    Args:
        config: where the files are, and how views are made.
        seed: of the run.
        channels: of the images.
        known_broken: of the run that is resumed; nothing is decoded then.
        known_val: names (`record.name_of`) of its validation images, by domain; no others are held
            out.
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
        watch = GreyWatch(cache.check if cache else read_image)
        for paths in files.train:
            broken += verify_images(
                paths,
                channels=channels,
                value_range=config.value_range,
                threads=threads,
                read=watch,
            )
            warn_of_depth(paths, config.value_range)
        watch.warn((channels,))
    files = replace(
        files,
        train=tuple(without_broken(paths, broken, config.max_broken) for paths in files.train),
    )
    if known_val is not None:
        files = _as_recorded(files, known_val, config)
    elif validate and not files.val:
        files = _held_out(files, config.validation_images, seed)
    dataset = DomainDataset(
        files.train, config, seed=seed, channels=channels, read=cache or from_file
    )
    return DomainData(dataset, files, tuple(broken))


def _as_recorded(
    files: DomainFiles, known_val: Mapping[str, Collection[str]], config: DataConfig
) -> DomainFiles:
    split = [
        as_recorded(paths, known_val.get(name, ()), config)
        for name, paths in zip(files.names, files.train, strict=True)
    ]
    train, val = zip(*split, strict=True)
    return replace(files, train=train, val=files.val or (val if any(val) else ()))


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
