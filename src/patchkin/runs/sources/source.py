"""What the sources of all kinds of data have in common: opened once, loaded step by step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar
from typing import Protocol as Interface

from patchkin.data.record import SplitFiles
from patchkin.data.scale import whole_size
from patchkin.data.steps import steps_per_epoch
from patchkin.data.verify import Broken
from patchkin.metrics.extractors import Extractor, make_extractor
from patchkin.metrics.protocols import Protocol, find_protocol
from patchkin.runs.config import RunConfig
from patchkin.sides import Sides
from patchkin.training import Scorer


class Opened(Interface):
    """Training data of any kind, as the `open_...` functions of `patchkin.data` return it."""

    @property
    def dataset(self) -> Sized:
        """What the loader draws from."""
        ...

    @property
    def broken(self) -> tuple[Broken, ...]:
        """Training files that were left out."""
        ...


OpenedData = TypeVar("OpenedData", bound=Opened)


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """The process that trains: alone, or one of several."""

    rank: int = 0
    world_size: int = 1
    """Number of processes."""
    pin_memory: bool = False
    """Whether its batches go to a GPU."""


ALONE = Process()
PREVIEW_IMAGES = 6


class LoaderSettings(TypedDict):
    """What every loader of `patchkin.data` is told."""

    start_step: int
    total_steps: int
    batch_size: int
    workers: int
    rank: int
    world_size: int
    pin_memory: bool


class Source(ABC, Generic[OpenedData]):
    """The data of a run as a `BatchSource` of the training loop, and its scores.

    Args:
        config: of the run.
        channels: of the source and the target domain.
        multiple_of: the networks translate images whose sides are multiples of it.
        process: that loads.
        known_broken: training files that the run to resume left out; None decodes and checks all.
        known_val: names of its validation images, by domain; no others are held out.

    Raises:
        DataError: the images are not there, too few, or too many of them are broken.
        StorageError: the cache of decoded images cannot be written.
    """

    def __init__(
        self,
        config: RunConfig[Any],
        *,
        channels: tuple[int, int],
        multiple_of: int = 1,
        process: Process = ALONE,
        known_broken: Sequence[Broken] | None = None,
        known_val: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self._known_val = known_val
        self._config = config
        self._channels = channels
        self._multiple_of = multiple_of
        self._process = process
        self.opened = self._open(known_broken)
        self.steps_per_epoch = steps_per_epoch(
            len(self.opened.dataset), config.data.batch_size, process.world_size
        )

    @abstractmethod
    def _open(self, known_broken: Sequence[Broken] | None) -> OpenedData:
        """Find the files, decode each once, hold out what is needed."""

    @abstractmethod
    def files(self) -> dict[str, SplitFiles]:
        """What the run takes of each domain."""

    @abstractmethod
    def batches(self, start_step: int, total_steps: int) -> Iterable[Any]:
        """See `patchkin.training.BatchSource`."""

    @abstractmethod
    def preview_batch(self) -> Any | None:
        """See `patchkin.training.BatchSource`."""

    @abstractmethod
    def typical_sizes(self) -> tuple[tuple[int, int] | None, ...]:
        """Width and height of whole training images of each domain, as views are cut from them."""

    @abstractmethod
    def scorer(self) -> Scorer | None:
        """Scores of the validation images; None if there is nothing to score."""

    def _loading(self, start_step: int, total_steps: int) -> LoaderSettings:
        return LoaderSettings(
            start_step=start_step,
            total_steps=total_steps,
            batch_size=self._config.data.batch_size,
            workers=self._config.data.workers,
            rank=self._process.rank,
            world_size=self._process.world_size,
            pin_memory=self._process.pin_memory,
        )

    def _protocol(self) -> tuple[Protocol | None, Extractor | None]:
        """How scores during training become distances, if there are weights for it."""
        training = self._config.training
        if training.score_weights is None:
            return None, None
        protocol = find_protocol(training.score_protocol)
        return protocol, make_extractor(protocol.extractor, training.score_weights)

    def _whole_size(self, files: Sequence[Path], *, side_by_side: bool = False) -> Sides:
        """Of held-out images, by the training images of the source domain."""
        decays = self._config.schedule.decay_fraction > 0
        return whole_size(
            files,
            self._config.data,
            jitters=self._config.data.jitter_in_decay or not decays,
            multiple=self._multiple_of,
            side_by_side=side_by_side,
        )

    @property
    def _jitter_steps(self) -> int:
        """Steps before the learning rate falls."""
        schedule = self._config.schedule
        units = schedule.steps or schedule.epochs
        constant_units = units - round(units * schedule.decay_fraction)
        return constant_units * (1 if schedule.steps else self.steps_per_epoch)
