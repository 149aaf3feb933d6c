"""The order of the images over a run, and the processes that decode them.

Step s of a run uses the same images and views whatever the number of loader workers, of training
processes, and wherever the run was resumed: nothing here has a state.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from patchkin.data.datasets import Place
from patchkin.data.layouts import MIN_UNPAIRED_IMAGES
from patchkin.data.shared_memory import Piped, shared_or_piped
from patchkin.errors import ConfigError, DataError
from patchkin.randomness import derive_seed

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Batch = TypeVar("Batch")
_WORKER_SECONDS = 5.0
"""For all workers to end by themselves: one may hang on a file system that does not answer."""

_PREFETCH = 4
"""Batches that each worker has ready."""


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
        if not 0 <= rank < world_size:
            raise ConfigError(f"`rank` must be from 0 to {world_size - 1}; got {rank}.")
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

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, place: Place) -> Any:
        try:
            return self.dataset[place]
        except DataError as error:
            return error


class _Collated(Generic[Item, Batch]):
    """A batch of the items, or the error that takes its place."""

    def __init__(self, collate: Callable[[Sequence[Item]], Batch]) -> None:
        self.collate = collate

    def __call__(self, items: Sequence[Item | DataError]) -> Batch | Piped[Batch] | DataError:
        good: list[Item] = []
        for item in items:
            if isinstance(item, DataError):
                return item
            good.append(item)
        try:
            batch = self.collate(good)
        except DataError as error:
            return error
        return batch if get_worker_info() is None else shared_or_piped(batch)


def start_worker(_: int) -> None:
    """What a decoding process does first."""
    torch.set_num_threads(1)  # one core per worker: the others belong to the training process
    # Ctrl-C reaches every process of a terminal, and a scheduler's SIGTERM every process of a job.
    # The training process finishes its step and saves, for which it may still need a batch. Later
    # it may have to end a process that hangs: the second SIGTERM counts.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))


class StepLoader(DataLoader[Any]):
    """The batches of steps, by processes that decode; errors about data are raised as one line.

    Args:
        dataset: item of a `Place`.
        places: those of every step.
        collate: items to a batch.
        seed: of the run.
        workers: processes; they live for the whole run. 0 decodes in this one.
        pin_memory: for GPUs.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        places: StepBatches,
        *,
        collate: Callable[[Sequence[Any]], Any],
        seed: int,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            _Guarded(dataset),
            batch_sampler=places,
            num_workers=workers,
            collate_fn=_Collated(collate),
            worker_init_fn=start_worker if workers else None,
            pin_memory=pin_memory,
            prefetch_factor=_PREFETCH if workers else None,
            generator=torch.Generator().manual_seed(seed),  # leaves the global one untouched
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches, told = super().__iter__(), False
        try:
            for batch in batches:
                if isinstance(batch, DataError):
                    raise batch
                if isinstance(batch, Piped):
                    if not told:
                        logger.warning("%s", batch.reason(self.num_workers, _PREFETCH))
                        told = True
                    yield batch.unpacked()
                else:
                    yield batch
        finally:
            _end_workers(batches)


def _end_workers(batches: Any) -> None:
    """End the workers of a loader's iterator now.

    It would do so when it is collected. With an error of the training step that is too late: the
    traceback keeps the iterator, and Python waits for the workers before it lets the traceback go.
    """
    workers = getattr(batches, "_workers", ())
    if not workers:
        return

    def kill() -> None:
        for worker in workers:
            worker.kill()

    ender = threading.Thread(target=batches._shutdown_workers, daemon=True)
    ender.start()
    # A worker that was killed is told of by an error in this thread, which has one already.
    with contextlib.suppress(RuntimeError):
        ender.join(_WORKER_SECONDS)
    kill()
    with contextlib.suppress(RuntimeError):
        ender.join(_WORKER_SECONDS)


def held_out(
    files: tuple[Path, ...], number: int, *, seed: int, domain: str, folder: str
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Training and validation files, each in the old order; at most a quarter is held out.

    Args:
        files: of one domain.
        number: to hold out.
        seed: of the run; it chooses them.
        domain: its name.
        folder: that the user may add instead.

    Raises:
        DataError: too few files.
    """
    number = min(number, len(files) // 4)
    if number < MIN_UNPAIRED_IMAGES:
        raise DataError(
            f"Domain `{domain}` has {len(files)} training images, too few to hold some out for "
            f"scores; add {folder}, or leave out --score-every."
        )
    generator = torch.Generator().manual_seed(derive_seed(seed, "validation", domain))
    chosen = set(torch.randperm(len(files), generator=generator)[:number].tolist())
    return (
        tuple(path for index, path in enumerate(files) if index not in chosen),
        tuple(path for index, path in enumerate(files) if index in chosen),
    )
