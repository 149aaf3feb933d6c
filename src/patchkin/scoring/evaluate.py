"""Scores of a model, or of a folder of translations, under named protocols.

Every result carries all that it depends on: protocols with the hashes of the extractors' weights,
files and counts, the checkpoint and its step. A Frechet distance never stands alone: beside it are
content scores, because outputs that have nothing to do with their inputs can have a good one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchkin.config import to_plain
from patchkin.data.config import DataConfig
from patchkin.data.download import file_sha256
from patchkin.data.layouts import Domains, image_files
from patchkin.errors import ConfigError
from patchkin.images import Ranges, ValueRange
from patchkin.metrics.content import (
    class_rate,
)
from patchkin.metrics.extractors import Extractor, make_extractor
from patchkin.metrics.perceptual import PerceptualDistance, PerceptualNet
from patchkin.metrics.protocols import Protocol, find_protocol
from patchkin.metrics.statistics import (
    Statistics,
    cached_statistics,
    compare,
    file_statistics,
    fill_statistics,
)
from patchkin.metrics.statistics import output_statistics as statistics_of_outputs
from patchkin.networks.drn import DRNName
from patchkin.parallel.shards import Shard
from patchkin.scoring.held_out import Split, find_held_out
from patchkin.scoring.kept import KeptTranslations
from patchkin.scoring.own_data import name_of_data
from patchkin.scoring.pairs import (
    Translations,
    collapse_scores,
    content_scores,
    counterpart_scores,
    gallery,
    masked_scores,
    pairs_of,
    segmentation_scores,
    warnings_of,
)
from patchkin.scoring.results import Result
from patchkin.scoring.scores import Scores
from patchkin.translation.record import makers_of
from patchkin.translation.translator import Translator

STATISTICS_FOLDER = "statistics"
"""Of features, in the folder that keeps an evaluation."""
BATCH_SIZE = 16
"""Of the extractors, and of the blocks that processes share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """What to score, and with what."""

    protocols: tuple[str, ...] = ("pytorch-fid",)
    """Names of protocols; each gives a Frechet and a kernel distance. Without any, only what needs
    no weights is scored, at the images' own size."""
    split: Split = "test"
    """Which held-out images of the source domain are translated."""
    extractor_weights: Path | None = None
    """File of the extractor's weights; downloaded unless given."""
    classes: tuple[int, ...] = ()
    """Classes of ImageNet that outputs should be taken for (340: zebra)."""
    masks: Path | None = None
    """Folder of masks with the stems of the inputs: white where the change belongs."""
    lpips: PerceptualNet | None = None
    """Backbone of LPIPS, for the mode collapse score. None: not scored."""
    lpips_weights: Path | None = None
    """File of that backbone's weights; downloaded unless given."""
    judge: DRNName | None = None
    """Segmentation network that reads translations of Cityscapes label maps. None: not scored."""
    judge_weights: Path | None = None
    """File of its weights; downloaded unless given."""


def evaluate(
    subject: Translator | Path,
    data: DataConfig,
    config: EvaluationConfig,
    *,
    model: str = "",
    keep: Path | None = None,
) -> Result:
    """Score a model on the held-out images of a set, or a folder of translations that are there.

    Args:
        subject: a translator, or a folder of images. Those with the stem of an input are compared
            with it.
        data: the set, whose held-out images are scored, or two folders, `source` and `target`, of
            which all are; beside these only `direction` and the value ranges matter, and those of a
            model are its own unless some are given here.
        config: what to score.
        model: where the translator came from, for the result.
        keep: folder where translations and features are looked for and kept, so that what was
            interrupted, or shared by `evaluate_part`, goes on. The scores are the same without.

    Raises:
        DataError: fewer than 2 images, NaN outputs, sizes that differ under a protocol that does
            not resize, missing masks.
        ConfigError: an unknown protocol or class, weights of another extractor.
        DownloadError: weights that cannot be fetched.
    """
    held_out = find_held_out(data, config.split)
    domains, inputs = held_out.domains, held_out.inputs
    source: Translations = subject
    if isinstance(subject, Translator) and keep is not None:
        source = KeptTranslations(subject, keep)
    ranges = _value_ranges(subject, data)
    found = _distances(source, inputs, domains, config, keep=keep, value_ranges=ranges)
    size = _common_size(map(find_protocol, config.protocols))
    pairs = list(pairs_of(source, inputs, size=size, value_ranges=ranges))
    content, ranking = content_scores(pairs, found.extractor)
    scores = found.scores | content | masked_scores(pairs, config.masks, size)
    perceptual = None
    if config.lpips is not None:
        perceptual = PerceptualDistance(config.lpips, weights=config.lpips_weights)
        scores |= collapse_scores(pairs, perceptual)
    scores |= counterpart_scores(pairs, inputs, perceptual, size=size, value_range=ranges[1])
    if config.judge is not None:
        scores |= segmentation_scores(pairs, config.judge, config.judge_weights)
    return Result(
        scores=scores,
        warnings=held_out.warnings + warnings_of(pairs) + _mixture(subject),
        protocols=found.protocols,
        subject=_describe(subject, model),
        data={
            "root": name_of_data(data),
            "direction": data.direction,
            "split": held_out.split,
            **({"value_ranges": list(ranges)} if any(ranges) else {}),
            "counts": {"inputs": len(inputs)} | found.counts,
        },
        evaluation=to_plain(config),
        worst_and_best=ranking,
        gallery=gallery(pairs, ranking),
    )


@dataclass(frozen=True, kw_only=True)
class _Distances:
    """What the protocols say, and how."""

    scores: Scores
    protocols: dict[str, Any]
    """In full, by name."""
    counts: dict[str, int]
    """Of images."""
    extractor: Extractor | None
    """Of the last protocol."""


def _distances(
    source: Translations,
    inputs: Sequence[Path],
    domains: Domains,
    config: EvaluationConfig,
    *,
    keep: Path | None,
    value_ranges: Ranges,
) -> _Distances:
    """Distances to the real images, and class rates, by each protocol."""
    scores: Scores = {}
    protocols: dict[str, Any] = {}
    counts: dict[str, int] = {}
    extractor: Extractor | None = None
    for name in config.protocols:
        protocol = find_protocol(name)
        if extractor is None or extractor.name != protocol.extractor:
            extractor = make_extractor(protocol.extractor, config.extractor_weights)
        real = cached_statistics(
            protocol.real_files(domains),
            protocol,
            extractor,
            value_range=value_ranges[1],
            batch_size=BATCH_SIZE,
        )
        outputs = _output_statistics(
            source, inputs, protocol, extractor, keep=keep, value_ranges=value_ranges
        )
        distances = compare(real, outputs)
        scores |= {f"{name}/frechet": distances.frechet, f"{name}/kernel": distances.kernel}
        counts |= {f"{name}/real": len(real), f"{name}/outputs": len(outputs)}
        protocols[name] = to_plain(distances.protocol)
        if config.classes and outputs.logits_NK is not None:
            rate = class_rate(outputs.logits_NK, config.classes)
            scores |= {
                f"{name}/class_top1": rate.top1_percent,
                f"{name}/class_top5": rate.top5_percent,
            }
    if config.classes and not any("class_top1" in name for name in scores):
        raise ConfigError(
            "`classes` needs a protocol whose extractor classifies, such as squeezenet-224; got "
            f"{', '.join(config.protocols)}."
        )
    return _Distances(scores=scores, protocols=protocols, counts=counts, extractor=extractor)


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
    held_out = find_held_out(data, config.split)
    domains, inputs = held_out.domains, held_out.inputs
    ranges = _value_ranges(subject, data)
    protocols = [find_protocol(name) for name in config.protocols]
    source = subject if isinstance(subject, Path) else KeptTranslations(subject, keep)
    translated = 0
    if isinstance(source, KeptTranslations):
        mine = shard.of(inputs, block=BATCH_SIZE)
        sizes = dict.fromkeys([p.image_size for p in protocols] + [_common_size(protocols)])
        translated = sum(source.fill(mine, size, shared=True) for size in sizes)
    for protocol in protocols:
        extractor = make_extractor(protocol.extractor, config.extractor_weights)
        real, outputs = protocol.real_files(domains), _output_files(source, inputs, protocol)
        for paths, folder, value_range in (
            (real, None, ranges[1]),
            (outputs, keep / STATISTICS_FOLDER, _range_of_files(source, ranges)),
        ):
            fill_statistics(
                paths,
                protocol,
                extractor,
                shard,
                value_range=value_range,
                folder=folder,
                batch_size=BATCH_SIZE,
            )
    return translated


def _value_ranges(subject: Translator | Path, data: DataConfig) -> Ranges:
    """Those of the model, unless the data has some: of inputs, and of real images and outputs."""
    if isinstance(subject, Translator) and not any(data.value_ranges):
        return subject.value_ranges
    return data.value_ranges


def _describe(subject: Translator | Path, model: str) -> dict[str, Any]:
    if isinstance(subject, Path):
        return {"folder": str(subject), **makers_of(image_files(subject)).plain()}
    return described_model(subject, model)


def described_model(translator: Translator, model: str) -> dict[str, Any]:
    """The subject of a result."""
    header, file = translator.header, translator.file
    return {
        "model": model,
        "method": translator.method.name,
        "step": header.step if header is not None else None,
        "sha256": None if file is None else file_sha256(file),
        "weights": translator.weights,
    }


def _mixture(subject: Translator | Path) -> tuple[str, ...]:
    """That a folder holds translations of several models."""
    warning = makers_of(image_files(subject)).warning if isinstance(subject, Path) else ""
    return (warning,) if warning else ()


def _output_statistics(
    source: Translations,
    inputs: Sequence[Path],
    protocol: Protocol,
    extractor: Extractor,
    *,
    keep: Path | None,
    value_ranges: Ranges,
) -> Statistics:
    if isinstance(source, Translator):
        pairs = pairs_of(source, inputs, size=protocol.image_size)
        outputs = ((pair.name, pair.levels_CHW) for pair in pairs)
        return statistics_of_outputs(outputs, protocol, extractor, batch_size=BATCH_SIZE)
    if isinstance(source, KeptTranslations):
        source.fill(inputs, protocol.image_size)
    files = _output_files(source, inputs, protocol)
    of_files = _range_of_files(source, value_ranges)
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


def _range_of_files(source: Translations, value_ranges: Ranges) -> ValueRange | None:
    """Of translations: those that are kept have 8 bits."""
    return value_ranges[1] if isinstance(source, Path) else None


def _output_files(
    source: Path | KeptTranslations, inputs: Sequence[Path], protocol: Protocol
) -> Sequence[Path]:
    if isinstance(source, Path):
        return image_files(source)
    return source.files(inputs, protocol.image_size)


def _common_size(protocols: Iterable[Protocol]) -> int | None:
    """The size that content is scored at: that of the first protocol which has one."""
    return next((p.image_size for p in protocols if p.image_size is not None), None)
