"""Scores of a model, or of a folder of translations, under named protocols.

Every result carries all that it depends on: protocols with the hashes of the extractors' weights,
files and counts, the checkpoint and its step. A Frechet distance never stands alone: beside it are
content scores, because outputs that have nothing to do with their inputs can have a good one.

Images are translated, scored and forgotten one after another; each is translated once for all
protocols that bring it to the same size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from patchkin.config import to_plain
from patchkin.data.config import DataConfig
from patchkin.data.paired import PairedBatch
from patchkin.devices import choose_device
from patchkin.images import Ranges, ValueRange
from patchkin.metrics.extractors import Extractor
from patchkin.metrics.protocols import Protocol, find_protocol
from patchkin.parallel.shards import Shard
from patchkin.scoring import distances
from patchkin.scoring.distances import (
    OutputFeatures,
    common_size,
    distances_of,
    extractors_of,
    fill_part,
    kept_statistics,
    real_statistics,
)
from patchkin.scoring.held_out import HeldOut, Inputs, find_held_out
from patchkin.scoring.kept import KeptTranslations
from patchkin.scoring.own_data import name_of_data
from patchkin.scoring.pair_scores import (
    CollapseScore,
    ContentScore,
    CounterpartScore,
    MaskedScore,
    PairScore,
    SegmentationScore,
    Suspicions,
    TruthScore,
    perceptual_distance,
)
from patchkin.scoring.pairs import Pair, Translations, pairs_of, unmatched
from patchkin.scoring.plugged import plugged_metrics
from patchkin.scoring.results import Result
from patchkin.scoring.scores import Scores
from patchkin.scoring.settings import EvaluationConfig, Progress, silent
from patchkin.scoring.subjects import described, mixture
from patchkin.sides import in_pixels
from patchkin.translation.translator import Translator

__all__ = ["EvaluationConfig", "evaluate", "evaluate_part"]


def evaluate(
    subject: Translator | Path,
    data: DataConfig,
    config: EvaluationConfig,
    *,
    model: str = "",
    keep: Path | None = None,
    progress: Progress = silent,
) -> Result:
    """Score a model on the held-out images of a set, or a folder of translations that are there.

    Args:
        subject: a translator, or a folder of images. Those with the path of an input, each below
            its folder, are compared with it.
        data: the set, whose held-out images are scored, or two folders, `source` and `target`, of
            which all are; beside these only `direction` and the value ranges matter, and those of a
            model are its own unless some are given here.
        config: what to score.
        model: where the translator came from, for the result.
        keep: folder where translations and features are looked for and kept, so that what was
            interrupted, or shared by `evaluate_part`, goes on. The scores are the same without.
        progress: for a progress bar.

    Raises:
        DataError: fewer than 2 images, NaN outputs, sizes that differ under a protocol that does
            not resize, missing masks or truths.
        ConfigError: an unknown protocol or class, weights of another extractor.
        DownloadError: weights that cannot be fetched.
    """
    held_out = _held_out(subject, data, config)
    source: Translations = subject
    if isinstance(subject, Translator) and keep is not None:
        source = _keeping(subject, held_out.inputs, config, keep)
    ranges = _value_ranges(subject, data)
    protocols = [find_protocol(name) for name in config.protocols]
    extractors = extractors_of(protocols, config)
    real = real_statistics(held_out, protocols, extractors, ranges[1], progress)
    size = common_size(protocols)
    scoring = _PairScoring(held_out, config, extractors, protocols, ranges[1])
    outputs = OutputFeatures(source, protocols, extractors)
    for of_size in dict.fromkeys([*outputs.sizes, size]):
        pairs = pairs_of(
            source, held_out.inputs, size=of_size, value_ranges=ranges, batch_size=config.batch_size
        )
        for number, pair in enumerate(pairs, start=1):
            outputs.add(pair, of_size)
            if of_size == size:
                scoring.add(pair)
            progress("translating", number, len(held_out.inputs.files))
    by_protocol = {
        protocol.name: outputs.statistics(protocol)
        if outputs.in_memory
        else kept_statistics(
            source, held_out.inputs, protocol, extractors, keep=keep, value_ranges=ranges
        )
        for protocol in protocols
    }
    found = distances_of(real, by_protocol, config, rounds="nearest" if outputs.rounds else None)
    return Result(
        scores=found.scores | scoring.scores(),
        warnings=(
            held_out.warnings
            + _size_warnings(subject, protocols)
            + unmatched(source, held_out.inputs)
            + scoring.warnings
            + mixture(subject)
        ),
        protocols=found.protocols,
        subject=described(subject, model),
        data={
            "root": name_of_data(data),
            "direction": data.direction,
            "split": held_out.split,
            **({"value_ranges": list(ranges)} if any(ranges) else {}),
            "counts": {"inputs": len(held_out.inputs.files)} | found.counts,
        },
        evaluation=to_plain(config),
        worst_and_best=scoring.content.ranking,
        gallery=scoring.content.gallery(),
    )


class _PairScoring:
    """All that is asked of pairs, of the size that content is scored at."""

    def __init__(
        self,
        held_out: HeldOut,
        config: EvaluationConfig,
        extractors: dict[str, Extractor],
        protocols: Sequence[Protocol],
        of_outputs: ValueRange | None,
    ) -> None:
        size = common_size(protocols)
        perceptual = perceptual_distance(config)
        self.content = ContentScore(extractors[protocols[-1].extractor] if protocols else None)
        self._suspicions = Suspicions()
        self._all: list[PairScore] = [self.content]
        if config.masks is not None:
            names = list(held_out.inputs.names.values())
            self._all.append(MaskedScore(config.masks, names, size))
        if perceptual is not None:
            self._all.append(CollapseScore(perceptual))
        self._all += [
            CounterpartScore(perceptual, size=size, value_range=of_outputs),
            TruthScore(held_out.truths, perceptual, size=size, value_range=of_outputs),
        ]
        if config.judge is not None:
            device = choose_device(config.device)
            self._all.append(
                SegmentationScore(
                    held_out.inputs, config.judge, config.judge_weights, device=device
                )
            )
        self._all += plugged_metrics(config.metrics)
        self._all.append(self._suspicions)

    def add(self, pair: Pair) -> None:
        for score in self._all:
            score.add(pair)

    def scores(self) -> Scores:
        found: Scores = {}
        for score in self._all:
            found |= score.scores()
        return found

    @property
    def warnings(self) -> tuple[str, ...]:
        return self._suspicions.warnings


def evaluate_part(
    subject: Translator | Path,
    data: DataConfig,
    config: EvaluationConfig,
    *,
    keep: Path,
    shard: Shard,
) -> int:
    """Translations and features of one part, for `evaluate` with the same folder to find.

    Parts are blocks of one batch of the extractor, so that its batches are those of one process.

    Args:
        subject: as `evaluate`.
        data: as `evaluate`.
        config: as `evaluate`.
        keep: folder of the results; the same for all parts.
        shard: the part.

    Returns:
        Number of images that were translated; the others were there.

    Raises:
        PatchkinError: as `evaluate`.
    """
    held_out = _held_out(subject, data, config)
    inputs = held_out.inputs
    ranges = _value_ranges(subject, data)
    protocols = [find_protocol(name) for name in config.protocols]
    source = subject if isinstance(subject, Path) else _keeping(subject, inputs, config, keep)
    translated = 0
    if isinstance(source, KeptTranslations):
        mine = shard.of(inputs.files, block=distances.BATCH_SIZE)
        sizes = dict.fromkeys([p.image_size for p in protocols] + [common_size(protocols)])
        translated = sum(source.fill(mine, size, shared=True) for size in sizes)
    extractors = extractors_of(protocols, config)
    fill_part(source, held_out, protocols, extractors, keep=keep, shard=shard, value_ranges=ranges)
    return translated


def _held_out(subject: Translator | Path, data: DataConfig, config: EvaluationConfig) -> HeldOut:
    paired = isinstance(subject, Translator) and subject.method.batch_type is PairedBatch
    return find_held_out(data, config.split, truth=config.truth, paired=paired)


def _keeping(
    translator: Translator, inputs: Inputs, config: EvaluationConfig, keep: Path
) -> KeptTranslations:
    return KeptTranslations(translator, keep, read=inputs.read, batch_size=config.batch_size)


def _value_ranges(subject: Translator | Path, data: DataConfig) -> Ranges:
    """Those of the model, unless the data has some: of inputs, and of real images and outputs."""
    if isinstance(subject, Translator) and not any(data.value_ranges):
        return subject.value_ranges
    return data.value_ranges


def _size_warnings(subject: Translator | Path, protocols: Iterable[Protocol]) -> tuple[str, ...]:
    """That a protocol shows a model images of another size than it was trained at."""
    if isinstance(subject, Path) or subject.header is None:
        return ()
    header = subject.header
    return tuple(
        f"protocol `{protocol.name}` translates images at {protocol.image_size} pixels, and the "
        f"model was trained at {in_pixels(header.size)}"
        for protocol in protocols
        if protocol.image_size is not None and header.height_width != (protocol.image_size,) * 2
    )
