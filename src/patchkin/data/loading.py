"""The order of the images over a run, and the processes that decode them.

Step s of a run uses the same images and views whatever the number of loader workers, of training
processes, and wherever the run was resumed: nothing here has a state.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from patchkin.data.config import DataConfig
from patchkin.data.datasets import (
    ImageBatch,
    Place,
    UnpairedBatch,
    UnpairedDataset,
    UnpairedItem,
    collate,
    finished,
    transformable,
)
from patchkin.data.layouts import MIN_UNPAIRED_IMAGES, Domains, find_domains
from patchkin.data.single import SingleImageDataset
from patchkin.data.transforms import resized
from patchkin.data.verify import Broken, verify_images, without_broken
from patchkin.errors import ConfigError, DataError
from patchkin.images import ValueRange, read_image
from patchkin.randomness import derive_seed


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a run trains on, and what is held out."""

    dataset: UnpairedDataset | SingleImageDataset
    domains: Domains
    """All files, in this order; broken ones are left out of the training splits."""
    broken: tuple[Broken, ...]
    """Training files that cannot be used; keep the list beside the run, and pass it on resume."""


def open_training_data(
    config: DataConfig,
    *,
    seed: int,
    channels: tuple[int, int] = (3, 3),
    known_broken: Sequence[Broken] | None = None,
    validate: bool = False,
    threads: int | None = None,
) -> TrainingData:
    """Find the files, decode each once, leave out the broken ones.

    Args:
        config: where the files are, and how views are made.
        seed: of the run.
        channels: of the source and the target domain.
        known_broken: of the run that is resumed; nothing is decoded then, and the order of the
            images is the same even if a file broke in between.
        validate: whether validation images are needed; a set without a val split gives some of its
            training images.
        threads: for decoding.

    Raises:
        DataError: if folders are missing or empty, or more than 1 % of a domain is broken.
    """
    domains = find_domains(config)
    if domains.single:
        return _single_images(config, domains, seed=seed, channels=channels, validate=validate)
    broken: list[Broken] = list(known_broken or ())
    if known_broken is None:
        for files, wanted in zip((domains.train_a, domains.train_b), channels, strict=True):
            broken += verify_images(
                files, channels=wanted, value_range=config.value_range, threads=threads
            )
    usable = replace(
        domains,
        train_a=without_broken(domains.train_a, broken),
        train_b=without_broken(domains.train_b, broken),
    )
    if validate and not usable.val_a:
        train_a, val_a = _held_out(usable.train_a, config.validation_images, seed, "a")
        train_b, val_b = _held_out(usable.train_b, config.validation_images, seed, "b")
        usable = replace(usable, train_a=train_a, train_b=train_b, val_a=val_a, val_b=val_b)
    dataset = UnpairedDataset(usable.train_a, usable.train_b, config, seed=seed, channels=channels)
    return TrainingData(dataset, usable, tuple(broken))


def _single_images(
    config: DataConfig, domains: Domains, *, seed: int, channels: tuple[int, int], validate: bool
) -> TrainingData:
    if validate and not domains.val_a:
        raise DataError(
            "One image per domain leaves none to score; add valA and valB, or leave out "
            "--score-every."
        )
    (source,), (target,) = domains.train_a, domains.train_b
    dataset = SingleImageDataset(source, target, config, seed=seed, channels=channels)
    return TrainingData(dataset, domains, ())


def _held_out(
    files: tuple[Path, ...], number: int, seed: int, domain: str
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Training and validation files, each in the old order."""
    number = min(number, len(files) // 4)
    if number < MIN_UNPAIRED_IMAGES:
        raise DataError(
            f"{len(files)} training images are too few to hold some out for scores; add valA and "
            "valB, or leave out --score-every."
        )
    generator = torch.Generator().manual_seed(derive_seed(seed, "validation", domain))
    chosen = set(torch.randperm(len(files), generator=generator)[:number].tolist())
    return (
        tuple(path for index, path in enumerate(files) if index not in chosen),
        tuple(path for index, path in enumerate(files) if index in chosen),
    )


def steps_per_epoch(num_items: int, batch_size: int, world_size: int = 1) -> int:
    """Steps in a pass over the larger domain; what does not fill a batch is left for another pass.

    >>> steps_per_epoch(1334, 4), steps_per_epoch(10, 2, world_size=2), steps_per_epoch(3, 8)
    (333, 2, 1)
    """
    return max(1, num_items // (batch_size * world_size))


class StepBatches:
    """The places of every step from `start_step` to `total_steps`, across epochs.

    The images of an epoch are a permutation that belongs to it (their order, if `shuffle` is off).
    A set smaller than a batch is passed through several times, each time with other views. Process
    r of N takes rows r, r + N, ... of the global batch.

    >>> batches = StepBatches(5, batch_size=2, total_steps=3, seed=0)
    >>> [[(place.epoch, place.item) for place in step] for step in batches]
    [[(0, 0), (0, 4)], [(0, 1), (0, 2)], [(1, 0), (1, 2)]]
    """

    def __init__(
        self,
        num_items: int,
        *,
        batch_size: int,
        total_steps: int,
        seed: int,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        jitter_steps: int | None = None,
    ) -> None:
        self.num_items = num_items
        self.global_batch = batch_size * world_size
        self.steps_per_epoch = steps_per_epoch(num_items, batch_size, world_size)
        self.steps = range(start_step, total_steps)
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        self.jitter_steps = jitter_steps

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Place]]:
        epoch, order = -1, [0]
        for step in self.steps:
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = self._order(epoch)
            start = step % self.steps_per_epoch * self.global_batch
            share = order[start : start + self.global_batch][self.rank :: self.world_size]
            jitter = self.jitter_steps is None or step < self.jitter_steps
            yield [Place(epoch, item, jitter) for item in share]

    def _order(self, epoch: int) -> list[int]:
        order: list[int] = []
        passes = -(-self.global_batch // self.num_items)
        for number in range(max(1, passes)):
            offset = number * self.num_items
            if self.shuffle:
                seed = derive_seed(self.seed, "order", epoch, number)
                generator = torch.Generator().manual_seed(seed)
                shuffled = torch.randperm(self.num_items, generator=generator)
                order += (shuffled + offset).tolist()
            else:
                order += range(offset, offset + self.num_items)
        return order


class _Guarded(Dataset[Any]):
    """Hands errors about data over to the training process as values.

    A worker's exception would arrive wrapped in its traceback, twenty lines instead of one.
    """

    def __init__(self, dataset: UnpairedDataset | SingleImageDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, place: Place) -> UnpairedItem | DataError:
        try:
            return self.dataset[place]
        except DataError as error:
            return error


def _collate_guarded(items: Sequence[UnpairedItem | DataError]) -> UnpairedBatch | DataError:
    good = []
    for item in items:
        if isinstance(item, DataError):
            return item
        good.append(item)
    try:
        return collate(good)
    except DataError as error:
        return error


def start_worker(_: int) -> None:
    """What a decoding process does first."""
    torch.set_num_threads(1)  # one core per worker: the others belong to the training process
    # Ctrl-C reaches every process of a terminal. The training process finishes its step and saves,
    # for which it may still need a batch.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class TrainingLoader(DataLoader[Any]):
    """A `DataLoader` of `UnpairedBatch` that raises errors about data as one line."""

    def __iter__(self) -> Iterator[UnpairedBatch]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, DataError):
                raise batch
            yield batch


def training_loader(
    dataset: UnpairedDataset | SingleImageDataset,
    *,
    batch_size: int,
    total_steps: int,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
    jitter_steps: int | None = None,
) -> TrainingLoader:
    """One pass over the batches of steps `start_step` to `total_steps - 1`.

    Args:
        dataset: its seed decides the order.
        batch_size: images per process.
        total_steps: of the run.
        start_step: the first step to run; that of the checkpoint on resume.
        rank: of this process.
        world_size: number of processes; N with a batch of b see the images of one with N * b.
        workers: processes that decode; they live for the whole run.
        pin_memory: for GPUs.
        jitter_steps: steps before the learning rate falls; from then on `load_size` is `size`,
            unless the configuration has `jitter_in_decay`. None: scale and crop in all steps.
    """
    if not 0 <= rank < world_size:
        raise ConfigError(f"`rank` must be from 0 to {world_size - 1}; got {rank}.")
    config = dataset.config
    batches = StepBatches(
        len(dataset),
        batch_size=batch_size,
        total_steps=total_steps,
        seed=dataset.seed,
        start_step=start_step,
        rank=rank,
        world_size=world_size,
        shuffle=config.pairing == "random",  # CUT's serial batches are not shuffled either
        jitter_steps=None if config.jitter_in_decay else jitter_steps,
    )
    return TrainingLoader(
        _Guarded(dataset),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_collate_guarded,
        worker_init_fn=start_worker if workers else None,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator().manual_seed(dataset.seed),  # leaves the global one untouched
    )


def evaluation_images(
    paths: Sequence[Path],
    *,
    size: int,
    channels: int = 3,
    value_range: ValueRange | None = None,
    batch_size: int = 1,
) -> Iterator[ImageBatch]:
    """Whole images at size x size, in order, without crop or flip: the published test view.

    Raises:
        DataError: if a file cannot be used.
    """
    for start in range(0, len(paths), batch_size):
        chunk = paths[start : start + batch_size]
        pictures = [transformable(read_image(path, channels), value_range) for path in chunk]
        images = [finished(resized(picture.pixels, size, size)) for picture in pictures]
        yield ImageBatch(torch.stack(images), tuple(path.stem for path in chunk))
