"""Inputs beside their translations, and the scores of such pairs.

Translations come from a model, from what a model made earlier, or from a folder.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image
from torch import Tensor

from patchkin.data.folders import cache_folder
from patchkin.data.layouts import image_files
from patchkin.data.toy import mask_file, truth_file
from patchkin.errors import DataError
from patchkin.images import Ranges, ValueRange, image_grid, safe_levels, to_uint8
from patchkin.metrics import diversity
from patchkin.metrics.cityscapes import fetch_judge
from patchkin.metrics.content import (
    masked_change,
    mean_change,
    relation_change,
    translation_warnings,
)
from patchkin.metrics.counterpart import mean_scores, score_against_counterpart
from patchkin.metrics.extractors import Extractor, SqueezeNetExtractor
from patchkin.metrics.perceptual import PerceptualDistance
from patchkin.metrics.segmentation import CityscapesScorer
from patchkin.networks.drn import DRNName, read_drn
from patchkin.scoring.kept import KeptTranslations, load_at, translation
from patchkin.scoring.scores import Scores
from patchkin.sides import Sides
from patchkin.translation.translator import Translator


@dataclass(frozen=True, eq=False)
class Pair:
    """An input and its translation, both in [-1, 1] as 8-bit files hold them."""

    name: str
    input_CHW: Tensor | None
    output_CHW: Tensor

    @property
    def levels_CHW(self) -> Tensor:
        """The output for a protocol, which makes 8 bits of it again."""
        return safe_levels(to_uint8(self.output_CHW))


Translations: TypeAlias = Translator | KeptTranslations | Path
"""Where translations come from: a model, one that keeps what it has done, or a folder."""


def pairs_of(
    source: Translations,
    inputs: Sequence[Path],
    *,
    size: Sides | None,
    value_ranges: Ranges = (None, None),
) -> Iterator[Pair]:
    """Inputs at a size and their translations; of a folder, the images that are there.

    Args:
        source: of the translations.
        inputs: files; those of a folder's images have the same stems.
        size: height and width that images are brought to; None: as they are.
        value_ranges: of inputs and of translations in a folder; a model knows its own.

    Raises:
        DataError: an image cannot be read, a translation holds NaN or infinity, or one in a folder
            has another size than its input.
    """
    if isinstance(source, Translator):
        for path in inputs:
            input_CHW, output_CHW = translation(source, path, size=size)
            yield Pair(path.stem, input_CHW, _as_saved(output_CHW))
        return
    if isinstance(source, KeptTranslations):
        source.fill(inputs, size)
        of_input, of_output = source.translator.channels
        value_range = source.translator.value_ranges[0]
        for path, target in zip(inputs, source.files(inputs, size), strict=True):
            input_CHW = load_at(path, of_input, size=size, value_range=value_range)
            output_CHW = load_at(target, of_output, size=None, value_range=None)
            yield Pair(path.stem, input_CHW, _as_saved(output_CHW))
        return
    by_stem = {path.stem: path for path in inputs}
    for path in image_files(source):
        input_path = by_stem.get(path.stem)
        output_CHW = load_at(path, 3, size=size, value_range=value_ranges[1])
        given_CHW = None
        if input_path is not None:
            given_CHW = load_at(input_path, 3, size=size, value_range=value_ranges[0])
        if given_CHW is not None and given_CHW.shape != output_CHW.shape:
            raise DataError(
                f"`{path}` and `{input_path}` differ in size; choose a protocol that resizes."
            )
        yield Pair(path.stem, given_CHW, output_CHW)


def _as_saved(image_CHW: Tensor) -> Tensor:
    return to_uint8(image_CHW).float() / 127.5 - 1


def _in_colour(image_CHW: Tensor) -> Tensor:
    return image_CHW.expand(3, -1, -1) if image_CHW.shape[0] == 1 else image_CHW


def content_scores(
    pairs: Sequence[Pair], extractor: Extractor | None
) -> tuple[Scores, dict[str, list[str]]]:
    """Change, and relation consistency where the extractor has feature maps.

    Returns:
        The means; and the names of the pairs that were kept least and best, six of each.
    """
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


def gallery(pairs: Sequence[Pair], ranking: dict[str, list[str]]) -> Image.Image | None:
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


def masked_scores(pairs: Sequence[Pair], folder: Path | None, size: int | None) -> Scores:
    """Change inside and outside masks that have the stems of the inputs; nothing without a folder.

    Raises:
        DataError: an input has no mask.
    """
    if folder is None:
        return {}
    files = {path.stem: path for path in image_files(folder)}
    inside, outside = [], []
    for pair in pairs:
        if pair.input_CHW is None:
            continue
        if pair.name not in files:
            raise DataError(f"`{folder}` has no mask with the stem `{pair.name}`.")
        mask_BHW = load_at(files[pair.name], 1, size=size, value_range=None) > 0
        change = masked_change(pair.output_CHW[None], pair.input_CHW[None], mask_BHW)
        inside.append(change.inside_B)
        outside.append(change.outside_B)
    if not inside:
        return {}
    return {
        "change_inside": float(torch.cat(inside).nanmean()),
        "change_outside": float(torch.cat(outside).nanmean()),
    }


def counterpart_scores(
    pairs: Sequence[Pair],
    inputs: Sequence[Path],
    perceptual: PerceptualDistance | None,
    *,
    size: int | None,
    value_range: ValueRange | None,
) -> Scores:
    """Against the hidden truth, where the set has one; `size` and `value_range` as `pairs_of`."""
    by_stem = {path.stem: path for path in inputs}
    rows, distances = [], []
    for pair in pairs:
        source = by_stem.get(pair.name)
        if pair.input_CHW is None or source is None or not truth_file(source).is_file():
            return {}
        truth_CHW = load_at(
            truth_file(source), pair.output_CHW.shape[0], size=size, value_range=value_range
        )
        mask_HW = load_at(mask_file(source), 1, size=size, value_range=None)[0] > 0
        rows.append(score_against_counterpart(pair.output_CHW, pair.input_CHW, truth_CHW, mask_HW))
        if perceptual is not None:
            images = (_in_colour(pair.output_CHW)[None], _in_colour(truth_CHW)[None])
            distances.append(float(perceptual(*images)))
    scores = mean_scores(rows)
    if distances:
        scores["lpips"] = sum(distances) / len(distances)
    return {f"counterpart/{name}": value for name, value in scores.items()}


def segmentation_scores(pairs: Sequence[Pair], judge: DRNName, weights: Path | None) -> Scores:
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


def collapse_scores(pairs: Sequence[Pair], distance: PerceptualDistance) -> Scores:
    """Whether outputs are as different from each other as their inputs are."""
    known = [pair for pair in pairs if pair.input_CHW is not None]
    collapse = diversity.collapse_scores(
        (_in_colour(pair.input_CHW)[None] for pair in known if pair.input_CHW is not None),
        (_in_colour(pair.output_CHW)[None] for pair in known),
        distance,
    )
    return {"collapse_outputs": collapse.outputs, "collapse_ratio": collapse.ratio}


def warnings_of(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """What at least half of the outputs suffer from, in words."""
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
