"""Scores of a model, or of a folder of translations, under named protocols.

Every result carries all that it depends on: protocols with the hashes of the extractors' weights,
files and counts, the checkpoint and its step. A Frechet distance never stands alone: beside it are
content scores, because outputs that have nothing to do with their inputs can have a good one.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from PIL import Image
from torch import Tensor

from patchkin._version import __version__
from patchkin.config import to_plain
from patchkin.data.config import DataConfig
from patchkin.data.folders import cache_folder
from patchkin.data.layouts import Domains, find_domains, image_files
from patchkin.data.toy import mask_file, truth_file
from patchkin.errors import ConfigError, DataError
from patchkin.images import image_grid, safe_levels, to_uint8
from patchkin.method import Method
from patchkin.metrics.cityscapes import fetch_judge
from patchkin.metrics.content import (
    class_rate,
    masked_change,
    mean_change,
    relation_change,
    translation_warnings,
)
from patchkin.metrics.counterpart import mean_scores, score_against_counterpart
from patchkin.metrics.diversity import collapse_scores
from patchkin.metrics.extractors import Extractor, SqueezeNetExtractor, make_extractor
from patchkin.metrics.perceptual import PerceptualDistance, PerceptualNet
from patchkin.metrics.protocols import Protocol, find_protocol
from patchkin.metrics.segmentation import CityscapesScorer
from patchkin.metrics.statistics import (
    Statistics,
    cached_statistics,
    compare,
    file_statistics,
    fill_statistics,
)
from patchkin.metrics.statistics import output_statistics as statistics_of_outputs
from patchkin.networks.drn import DRNName, read_drn
from patchkin.parallel.shards import Shard
from patchkin.scoring.kept import KeptTranslations, load_at, translation
from patchkin.storage.atomic import write_json
from patchkin.storage.locks import alone_at
from patchkin.translation.translator import Translator

SCORES_FILE = "scores.json"
STATISTICS_FOLDER = "statistics"
"""Of features, in the folder that keeps an evaluation."""
BATCH_SIZE = 16
"""Of the extractors, and of the blocks that processes share."""
HIGHER_IS_BETTER = frozenset(
    {
        *("class_top1", "class_top5", "collapse_ratio", "change_inside"),
        *("psnr", "psnr_inside", "stripe_iou"),
        *("lpips_diversity", "lpips_diversity_per_image", "style_spread"),
        *("mAP", "pixAcc", "classAcc", "mIoU"),
    }
)
"""Last part of the names of scores; all others are the better the lower."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """What to score, and with what."""

    protocols: tuple[str, ...] = ("pytorch-fid",)
    """Names of protocols; each gives a Frechet and a kernel distance. Without any, only what needs
    no weights is scored, at the images' own size."""
    split: Literal["test", "val"] = "test"
    """Which held-out images of the source domain are translated."""
    weights: Path | None = None
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


@dataclass(frozen=True, kw_only=True)
class Result:
    """Scores with all they depend on."""

    scores: dict[str, float]
    warnings: tuple[str, ...]
    protocols: dict[str, Any]
    subject: dict[str, Any]
    """Model, method and step; or the folder of translations."""
    data: dict[str, Any]
    """Root, direction, split, counts."""
    evaluation: dict[str, Any]
    tasks: dict[str, dict[str, float]] = field(default_factory=dict)
    """Scores of each pair of domains, where there are several: `scores` holds their means."""
    patchkin: str = __version__
    worst_and_best: dict[str, list[str]] = field(default_factory=dict)
    """Names of inputs that were kept least and best, by the relation of their patches where the
    extractor has feature maps, else by the change."""
    gallery: Image.Image | None = None
    """Those inputs and their translations, as a picture."""


@dataclass(frozen=True, eq=False)
class _Pair:
    """An input and its translation, both in [-1, 1] as 8-bit files hold them."""

    name: str
    input_CHW: Tensor | None
    output_CHW: Tensor

    @property
    def levels_CHW(self) -> Tensor:
        """The output for a protocol, which makes 8 bits of it again."""
        return safe_levels(to_uint8(self.output_CHW))


_Source: TypeAlias = Translator | Path | KeptTranslations


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
        data: the set; only `root`, `source`, `target` and `direction` matter.
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
    domains, inputs = _held_out(data, config)
    source: _Source = subject
    if isinstance(subject, Translator) and keep is not None:
        source = KeptTranslations(subject, keep)
    scores: dict[str, float] = {}
    protocols: dict[str, Any] = {}
    counts: dict[str, int] = {"inputs": len(inputs)}
    extractor: Extractor | None = None
    outputs: Statistics | None = None
    for name in config.protocols:
        protocol = find_protocol(name)
        if extractor is None or extractor.name != protocol.extractor:
            extractor = make_extractor(protocol.extractor, config.weights)
        real_files = protocol.real_files(domains)
        real = cached_statistics(real_files, protocol, extractor, batch_size=BATCH_SIZE)
        outputs = _output_statistics(source, inputs, protocol, extractor, keep)
        distances = compare(real, outputs)
        scores[f"{name}/frechet"] = distances.frechet
        scores[f"{name}/kernel"] = distances.kernel
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
    size = _common_size(map(find_protocol, config.protocols))
    pairs = list(_pairs(source, inputs, size))
    content, ranking = _content_scores(pairs, extractor)
    scores |= content
    scores |= _masked_scores(pairs, config.masks, size)
    perceptual = None
    if config.lpips is not None:
        perceptual = PerceptualDistance(config.lpips, weights=config.lpips_weights)
        scores |= _collapse_scores(pairs, perceptual)
    scores |= _counterpart_scores(pairs, inputs, size, perceptual)
    if config.judge is not None:
        scores |= _segmentation_scores(pairs, config.judge, config.judge_weights)
    return Result(
        scores=scores,
        warnings=_warnings(pairs),
        protocols=protocols,
        subject=_describe(subject, model),
        data={
            "root": data.root if data.source is None else f"{data.source} -> {data.target}",
            "direction": data.direction,
            "split": config.split,
            "counts": counts,
        },
        evaluation=to_plain(config),
        worst_and_best=ranking,
        gallery=_gallery(pairs, ranking),
    )


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
    domains, inputs = _held_out(data, config)
    protocols = [find_protocol(name) for name in config.protocols]
    source = subject if isinstance(subject, Path) else KeptTranslations(subject, keep)
    translated = 0
    if isinstance(source, KeptTranslations):
        mine = shard.of(inputs, block=BATCH_SIZE)
        sizes = dict.fromkeys([p.image_size for p in protocols] + [_common_size(protocols)])
        translated = sum(source.fill(mine, size) for size in sizes)
    for protocol in protocols:
        extractor = make_extractor(protocol.extractor, config.weights)
        real, outputs = protocol.real_files(domains), _output_files(source, inputs, protocol)
        for paths, folder in ((real, None), (outputs, keep / STATISTICS_FOLDER)):
            fill_statistics(paths, protocol, extractor, shard, folder=folder, batch_size=BATCH_SIZE)
    return translated


@dataclass(frozen=True)
class ValidationScores:
    """Scores of a method while it trains, on the same images each time."""

    inputs: tuple[Path, ...]
    real: tuple[Path, ...]
    size: int
    """Of the images, in pixels."""
    extractor: Extractor | None = None
    protocol: Protocol | None = None
    classes: tuple[int, ...] = ()

    @property
    def primary(self) -> str | None:
        """The score that decides, if there is a distance to the real images."""
        return None if self.protocol is None else f"{self.protocol.name}/frechet"

    def __call__(self, method: Method) -> dict[str, float]:
        """Score the method as it stands."""
        device = next(method.parameters()).device
        pairs = list(_pairs(Translator(method, device=device), self.inputs, self.size))
        scores = {}
        if self.protocol is not None and self.extractor is not None:
            real = cached_statistics(self.real, self.protocol, self.extractor)
            outputs = statistics_of_outputs(
                ((pair.name, pair.levels_CHW) for pair in pairs), self.protocol, self.extractor
            )
            distances = compare(real, outputs)
            scores[f"{self.protocol.name}/frechet"] = distances.frechet
            scores[f"{self.protocol.name}/kernel"] = distances.kernel
            if self.classes and outputs.logits_NK is not None:
                rate = class_rate(outputs.logits_NK, self.classes)
                scores[f"{self.protocol.name}/class_top1"] = rate.top1_percent
        return scores | _content_scores(pairs, self.extractor)[0]


def as_plain(result: Result) -> dict[str, Any]:
    """For JSON: everything but the picture."""
    plain = {f.name: getattr(result, f.name) for f in fields(result) if f.name != "gallery"}
    return dict(json.loads(json.dumps(plain)))


def write_result(result: Result, path: Path) -> None:
    """Add a result to a file of results; one of the same step, split and protocols is replaced.

    Raises:
        StorageError: the file cannot be written.
    """

    def key(entry: dict[str, Any]) -> tuple[Any, ...]:
        return (entry["subject"], entry["data"]["split"], sorted(entry["protocols"]))

    entry = as_plain(result)
    with alone_at(path, f"adds to `{path}`"):
        kept = [other for other in read_results(path) if key(other) != key(entry)]
        write_json(path, [*kept, entry])


def read_results(path: Path) -> list[dict[str, Any]]:
    """The results in a file; none if it is not there.

    Raises:
        DataError: it is not a file of results.
    """
    if not path.is_file():
        return []
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        return [entry for entry in results if entry["scores"] is not None]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"`{path}` holds no results: {error}.") from error


def _describe(subject: Translator | Path, model: str) -> dict[str, Any]:
    if isinstance(subject, Path):
        return {"folder": str(subject)}
    header = subject.header
    return {
        "model": model,
        "method": subject.method.name,
        "step": header.step if header is not None else None,
    }


def _held_out(data: DataConfig, config: EvaluationConfig) -> tuple[Domains, tuple[Path, ...]]:
    """The set, and the images of the source domain that are translated."""
    domains = find_domains(data)
    inputs = domains.test_a if config.split == "test" else domains.val_a
    if not inputs:
        raise DataError(f"`{data.root}` has no {config.split} images of the source domain.")
    return domains, inputs


def _output_statistics(
    source: _Source,
    inputs: Sequence[Path],
    protocol: Protocol,
    extractor: Extractor,
    keep: Path | None,
) -> Statistics:
    if isinstance(source, Translator):
        outputs = (
            (pair.name, pair.levels_CHW) for pair in _pairs(source, inputs, protocol.image_size)
        )
        return statistics_of_outputs(outputs, protocol, extractor, batch_size=BATCH_SIZE)
    if isinstance(source, KeptTranslations):
        source.fill(inputs, protocol.image_size)
    files = _output_files(source, inputs, protocol)
    if keep is None:
        return file_statistics(files, protocol, extractor, batch_size=BATCH_SIZE)
    return cached_statistics(
        files, protocol, extractor, folder=keep / STATISTICS_FOLDER, batch_size=BATCH_SIZE
    )


def _output_files(
    source: Path | KeptTranslations, inputs: Sequence[Path], protocol: Protocol
) -> Sequence[Path]:
    if isinstance(source, Path):
        return image_files(source)
    return source.files(inputs, protocol.image_size)


def _common_size(protocols: Iterable[Protocol]) -> int | None:
    """The size that content is scored at: that of the first protocol which has one."""
    return next((p.image_size for p in protocols if p.image_size is not None), None)


def _pairs(source: _Source, inputs: Sequence[Path], size: int | None) -> Iterable[_Pair]:
    """Inputs at `size` and their translations; of a folder, the images that are there."""
    if isinstance(source, Translator):
        for path in inputs:
            input_CHW, output_CHW = translation(source, path, size)
            yield _Pair(path.stem, input_CHW, _as_saved(output_CHW))
        return
    if isinstance(source, KeptTranslations):
        source.fill(inputs, size)
        of_input, of_output = source.translator.channels
        for path, target in zip(inputs, source.files(inputs, size), strict=True):
            output_CHW = load_at(target, of_output, None)
            yield _Pair(path.stem, load_at(path, of_input, size), _as_saved(output_CHW))
        return
    by_stem = {path.stem: path for path in inputs}
    for path in image_files(source):
        input_path = by_stem.get(path.stem)
        output_CHW = load_at(path, 3, size)
        given_CHW = None if input_path is None else load_at(input_path, 3, size)
        if given_CHW is not None and given_CHW.shape != output_CHW.shape:
            raise DataError(
                f"`{path}` and `{input_path}` differ in size; choose a protocol that resizes."
            )
        yield _Pair(path.stem, given_CHW, output_CHW)


def _as_saved(image_CHW: Tensor) -> Tensor:
    return to_uint8(image_CHW).float() / 127.5 - 1


def _in_colour(image_CHW: Tensor) -> Tensor:
    return image_CHW.expand(3, -1, -1) if image_CHW.shape[0] == 1 else image_CHW


def _content_scores(
    pairs: Sequence[_Pair], extractor: Extractor | None
) -> tuple[dict[str, float], dict[str, list[str]]]:
    """Change, and relation consistency where the extractor has feature maps."""
    changes, relations = {}, {}
    for pair in pairs:
        if pair.input_CHW is None or pair.input_CHW.shape != pair.output_CHW.shape:
            continue
        input_BCHW, output_BCHW = pair.input_CHW[None], pair.output_CHW[None]
        changes[pair.name] = float(mean_change(output_BCHW, input_BCHW))
        if isinstance(extractor, SqueezeNetExtractor):
            maps = [
                extractor.feature_map((_in_colour(image) + 1)[None] * 127.5)
                for image in (pair.output_CHW, pair.input_CHW)
            ]
            relations[pair.name] = float(relation_change(*maps))
    if not changes:
        return {}, {}
    scores = {"change": sum(changes.values()) / len(changes)}
    if relations:
        scores["relation_change"] = sum(relations.values()) / len(relations)
    ranked = sorted(relations or changes, key=lambda name: -(relations or changes)[name])
    return scores, {"least_kept": ranked[:6], "best_kept": ranked[::-1][:6]}


def _gallery(pairs: Sequence[_Pair], ranking: dict[str, list[str]]) -> Image.Image | None:
    """Rows of input and translation: the least kept, then the best kept."""
    if not ranking:
        return None
    by_name = {pair.name: pair for pair in pairs}
    columns = {}
    for kind, names in ranking.items():
        chosen = [by_name[name] for name in names]
        columns[f"{kind.replace('_', ' ')}: input"] = [
            _in_colour(pair.input_CHW) for pair in chosen if pair.input_CHW is not None
        ]
        columns["output" if kind == "least_kept" else "output "] = [
            _in_colour(pair.output_CHW) for pair in chosen
        ]
    return image_grid(list(zip(*columns.values(), strict=True)), captions=list(columns))


def _masked_scores(
    pairs: Sequence[_Pair], folder: Path | None, size: int | None
) -> dict[str, float]:
    if folder is None:
        return {}
    files = {path.stem: path for path in image_files(folder)}
    inside, outside = [], []
    for pair in pairs:
        if pair.input_CHW is None:
            continue
        if pair.name not in files:
            raise DataError(f"`{folder}` has no mask with the stem `{pair.name}`.")
        mask_BHW = load_at(files[pair.name], 1, size) > 0
        change = masked_change(pair.output_CHW[None], pair.input_CHW[None], mask_BHW)
        inside.append(change.inside_B)
        outside.append(change.outside_B)
    if not inside:
        return {}
    return {
        "change_inside": float(torch.cat(inside).nanmean()),
        "change_outside": float(torch.cat(outside).nanmean()),
    }


def _counterpart_scores(
    pairs: Sequence[_Pair],
    inputs: Sequence[Path],
    size: int | None,
    perceptual: PerceptualDistance | None,
) -> dict[str, float]:
    """Against the hidden truth, where the set has one."""
    by_stem = {path.stem: path for path in inputs}
    rows, distances = [], []
    for pair in pairs:
        source = by_stem.get(pair.name)
        if pair.input_CHW is None or source is None or not truth_file(source).is_file():
            return {}
        truth_CHW = load_at(truth_file(source), pair.output_CHW.shape[0], size)
        mask_HW = load_at(mask_file(source), 1, size)[0] > 0
        rows.append(score_against_counterpart(pair.output_CHW, pair.input_CHW, truth_CHW, mask_HW))
        if perceptual is not None:
            images = (_in_colour(pair.output_CHW)[None], _in_colour(truth_CHW)[None])
            distances.append(float(perceptual(*images)))
    scores = mean_scores(rows)
    if distances:
        scores["lpips"] = sum(distances) / len(distances)
    return {f"counterpart/{name}": value for name, value in scores.items()}


def _segmentation_scores(
    pairs: Sequence[_Pair], judge: DRNName, weights: Path | None
) -> dict[str, float]:
    """Both forms of the label-map scores; the inputs are label maps in Cityscapes' colours."""
    path = weights or fetch_judge(judge, cache_folder() / "weights")[0]
    network = read_drn(path, judge)
    scorer = CityscapesScorer()
    for pair in pairs:
        if pair.input_CHW is not None:
            label, photo = (
                Image.fromarray(to_uint8(_in_colour(x)).permute(1, 2, 0).contiguous().numpy())
                for x in (pair.input_CHW, pair.output_CHW)
            )
            scorer.add_photos(network, [(label, photo)])
    scores = scorer.scores()
    return {
        f"segmentation-{form}/{name}": float(value)
        for form in ("released", "correct")
        for name, value in scores[form].items()
        if isinstance(value, (int, float))
    }


def _collapse_scores(pairs: Sequence[_Pair], distance: PerceptualDistance) -> dict[str, float]:
    known = [pair for pair in pairs if pair.input_CHW is not None]
    collapse = collapse_scores(
        (_in_colour(pair.input_CHW)[None] for pair in known if pair.input_CHW is not None),
        (_in_colour(pair.output_CHW)[None] for pair in known),
        distance,
    )
    return {"collapse_outputs": collapse.outputs, "collapse_ratio": collapse.ratio}


def _warnings(pairs: Sequence[_Pair]) -> tuple[str, ...]:
    found: dict[str, int] = {}
    known = [pair for pair in pairs if pair.input_CHW is not None]
    for pair in known:
        assert pair.input_CHW is not None
        for warning in translation_warnings(pair.output_CHW[None], pair.input_CHW[None]):
            kind = warning.removeprefix("1 of 1 outputs ")
            found[kind] = found.get(kind, 0) + 1
    return tuple(
        f"{count} of {len(known)} outputs {kind}"
        for kind, count in found.items()
        if 2 * count >= len(known)
    )
