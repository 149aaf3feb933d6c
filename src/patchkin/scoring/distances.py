"""Distances between translations and real images, by named protocols.

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patchkin.config import to_plain
from patchkin.data.layouts import image_files
from patchkin.devices import choose_device
from patchkin.errors import ConfigError
from patchkin.images import Ranges, ValueRange
from patchkin.metrics.collecting import FeatureCollector, Statistics
from patchkin.metrics.content import class_rate
from patchkin.metrics.extractors import Extractor, make_extractor
from patchkin.metrics.protocols import Protocol
from patchkin.metrics.statistics import (
    cached_statistics,
    compare,
    file_statistics,
    fill_statistics,
)
from patchkin.parallel.shards import Shard
from patchkin.scoring.held_out import HeldOut, Inputs
from patchkin.scoring.kept import KeptTranslations
from patchkin.scoring.pairs import Pair, Translations
from patchkin.scoring.scores import Scores
from patchkin.scoring.settings import EvaluationConfig, Progress
from patchkin.translation.translator import Translator

STATISTICS_FOLDER = "statistics"
"""Of features, in the folder that keeps an evaluation."""
BATCH_SIZE = 16
"""Of the extractors, and of the blocks that processes share."""


def extractors_of(protocols: Iterable[Protocol], config: EvaluationConfig) -> dict[str, Extractor]:
    """Those that the protocols name, on the device of the configuration.

    Raises:
        ConfigError, DownloadError, CheckpointError: as `make_extractor`.
    """
    device = choose_device(config.device)
    return {
        name: make_extractor(name, config.extractor_weights, device=device)
        for name in dict.fromkeys(protocol.extractor for protocol in protocols)
    }


def common_size(protocols: Iterable[Protocol]) -> int | None:
    """The size that content is scored at: that of the first protocol which has one."""
    return next((p.image_size for p in protocols if p.image_size is not None), None)


class OutputFeatures:
    """Features of translations that come from a model, by protocol.

    Args:
        source: of the translations; those in files are left to `kept_statistics`.
        protocols: of the features.
        extractors: by name.
    """

    def __init__(
        self,
        source: Translations,
        protocols: Sequence[Protocol],
        extractors: dict[str, Extractor],
    ) -> None:
        self.in_memory = isinstance(source, Translator)
        self.rounds = not isinstance(source, Path)
        """Whether outputs are brought to 8 bits here, as `translate` writes them."""
        self._collectors = {
            protocol.name: (
                protocol,
                FeatureCollector(protocol, extractors[protocol.extractor], batch_size=BATCH_SIZE),
            )
            for protocol in (protocols if self.in_memory else ())
        }

    @property
    def sizes(self) -> list[int | None]:
        """That images are translated at."""
        return [protocol.image_size for protocol, _ in self._collectors.values()]

    def add(self, pair: Pair, size: int | None) -> None:
        """A pair, for the protocols that translate at this size.

        Raises:
            DataError: as `FeatureCollector.add`.
        """
        for protocol, collector in self._collectors.values():
            if protocol.image_size == size:
                collector.add(pair.name, protocol.prepare_output(pair.levels_CHW))

    def statistics(self, protocol: Protocol) -> Statistics:
        """Of all pairs."""
        return self._collectors[protocol.name][1].statistics()


@dataclass(frozen=True, kw_only=True)
class Distances:
    """What the protocols say, and how."""

    scores: Scores = field(default_factory=dict)
    protocols: dict[str, Any] = field(default_factory=dict)
    """In full, by name."""
    counts: dict[str, int] = field(default_factory=dict)
    """Of images."""


def distances_of(
    real: dict[str, Statistics],
    outputs: dict[str, Statistics],
    config: EvaluationConfig,
    *,
    rounds: str | None,
) -> Distances:
    """Distances to the real images, and class rates, by each protocol.

    `rounds`: how outputs came to 8 bits; None for files, which are as they are, or are rounded by
    the protocol if they have more.
    """
    found = Distances()
    for name, statistics in outputs.items():
        distances = compare(real[name], statistics)
        found.scores.update(
            {f"{name}/frechet": distances.frechet, f"{name}/kernel": distances.kernel}
        )
        found.counts.update({f"{name}/real": len(real[name]), f"{name}/outputs": len(statistics)})
        found.protocols[name] = recorded(distances.protocol, rounds=rounds)
        if config.classes and statistics.logits_NK is not None:
            rate = class_rate(statistics.logits_NK, config.classes)
            found.scores[f"{name}/class_top1"] = rate.top1_percent
            found.scores[f"{name}/class_top5"] = rate.top5_percent
    if config.classes and not any("class_top1" in name for name in found.scores):
        raise ConfigError(
            "`classes` needs a protocol whose extractor classifies, such as squeezenet-224; got "
            f"{', '.join(config.protocols)}."
        )
    return found


def recorded(protocol: Protocol, *, rounds: str | None) -> dict[str, Any]:
    """A protocol for a result, with the rounding of outputs to 8 bits that was used."""
    plain: dict[str, Any] = to_plain(protocol)
    return plain | ({} if rounds is None else {"rounding": rounds})


def real_statistics(
    held_out: HeldOut,
    protocols: Iterable[Protocol],
    extractors: dict[str, Extractor],
    value_range: ValueRange | None,
    progress: Progress,
) -> dict[str, Statistics]:
    """Of the real images; those of pairs, which are halves of files, are not kept."""
    found = {}
    for protocol in protocols:
        files, extractor = protocol.real_files(held_out.domains), extractors[protocol.extractor]
        tell = telling(progress, "real images", len(files))
        if held_out.real is None:
            found[protocol.name] = cached_statistics(
                files,
                protocol,
                extractor,
                value_range=value_range,
                batch_size=BATCH_SIZE,
                progress=tell,
            )
            continue
        collector = FeatureCollector(protocol, extractor, batch_size=BATCH_SIZE, progress=tell)
        for path in files:
            picture = held_out.real.picture(path, 3)
            collector.add(str(path), protocol.prepare(picture, value_range))
        found[protocol.name] = collector.statistics()
    return found


def telling(progress: Progress, what: str, total: int) -> Callable[[int], None]:
    """Progress of one kind of work."""
    return lambda done: progress(what, done, total)


def kept_statistics(
    source: Translations,
    inputs: Inputs,
    protocol: Protocol,
    extractors: dict[str, Extractor],
    *,
    keep: Path | None,
    value_ranges: Ranges,
) -> Statistics:
    """Of translations in files."""
    assert not isinstance(source, Translator)
    if isinstance(source, KeptTranslations):
        source.fill(inputs.files, protocol.image_size)
    files, extractor = output_files(source, inputs, protocol), extractors[protocol.extractor]
    of_files = range_of_files(source, value_ranges)
    if keep is None:
        return file_statistics(
            files, protocol, extractor, value_range=of_files, batch_size=BATCH_SIZE
        )
    return cached_statistics(
        files,
        protocol,
        extractor,
        value_range=of_files,
        folder=keep / STATISTICS_FOLDER,
        batch_size=BATCH_SIZE,
    )


def range_of_files(source: Translations, value_ranges: Ranges) -> ValueRange | None:
    """Of translations: those that are kept have 8 bits."""
    return value_ranges[1] if isinstance(source, Path) else None


def output_files(
    source: Path | KeptTranslations, inputs: Inputs, protocol: Protocol
) -> Sequence[Path]:
    """Of translations: those in a folder, or where those that are kept are or will be."""
    if isinstance(source, Path):
        return image_files(source)
    return source.files(inputs.files, protocol.image_size)


def fill_part(
    source: Path | KeptTranslations,
    held_out: HeldOut,
    protocols: Sequence[Protocol],
    extractors: dict[str, Extractor],
    *,
    keep: Path,
    shard: Shard,
    value_ranges: Ranges,
) -> None:
    """Features of one part of the real images and of the translations, for `cached_statistics`."""
    for protocol in protocols:
        real = () if held_out.real is not None else protocol.real_files(held_out.domains)
        outputs = output_files(source, held_out.inputs, protocol)
        for paths, folder, value_range in (
            (real, None, value_ranges[1]),
            (outputs, keep / STATISTICS_FOLDER, range_of_files(source, value_ranges)),
        ):
            if paths:
                fill_statistics(
                    paths,
                    protocol,
                    extractors[protocol.extractor],
                    shard,
                    value_range=value_range,
                    folder=folder,
                    batch_size=BATCH_SIZE,
                )
