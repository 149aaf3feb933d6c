"""Scores of pairs of an input and its translation, which come one at a time and are not kept.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol as Interface

import torch
from PIL import Image
from torch import Tensor

from patchkin.data.folders import cache_folder
from patchkin.data.toy import mask_file, truth_file
from patchkin.data.transforms import resized
from patchkin.devices import choose_device
from patchkin.errors import DataError
from patchkin.images import ValueRange, image_grid, to_uint8
from patchkin.metrics.cityscapes import fetch_judge
from patchkin.metrics.content import (
    masked_change,
    mean_change,
    relation_change,
    translation_warnings,
)
from patchkin.metrics.counterpart import (
    PIXEL_LEVELS,
    CounterpartScores,
    mean_scores,
    score_against_counterpart,
)
from patchkin.metrics.diversity import CollapseCollector
from patchkin.metrics.extractors import Extractor, SqueezeNetExtractor
from patchkin.metrics.perceptual import PerceptualDistance
from patchkin.metrics.segmentation import CityscapesScorer
from patchkin.metrics.similarity import (
    WINDOW_PIXELS,
    peak_signal_to_noise,
    structural_similarity,
)
from patchkin.networks.drn import DRNName, read_drn
from patchkin.scoring.held_out import Inputs, Truths
from patchkin.scoring.matching import files_by_name, missing_file
from patchkin.scoring.pairs import Pair
from patchkin.scoring.reading import load_at, load_mask
from patchkin.scoring.scores import Scores
from patchkin.scoring.settings import EvaluationConfig
from patchkin.sides import Sides

_SHOWN = 6
_SHOWN_PIXELS = 512
"""Of the longer side of a picture in the gallery; larger ones are shown smaller."""


class PairScore(Interface):
    """What is asked of every pair, in turn."""

    def add(self, pair: Pair) -> None:
        """The next pair.

        Raises:
            DataError: it cannot be scored.
        """
        ...

    def scores(self) -> Scores:
        """Of all so far; empty if there is nothing to say."""
        ...


class ContentScore:
    """Change, and relation consistency where the extractor has feature maps.

    Args:
        extractor: of the features.
        shown: whether the pairs that were kept least and best are kept for a picture.
    """

    def __init__(self, extractor: Extractor | None, *, shown: bool = True) -> None:
        self._extractor = extractor if isinstance(extractor, SqueezeNetExtractor) else None
        self._changes: dict[str, float] = {}
        self._relations: dict[str, float] = {}
        self._is_shown = shown
        self._pictures: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, pair: Pair) -> None:
        """See `PairScore`."""
        if pair.input_CHW is None or pair.input_CHW.shape != pair.output_CHW.shape:
            return
        change = mean_change(pair.output_CHW[None], pair.input_CHW[None])
        self._changes[pair.name] = float(change)
        if self._extractor is not None:
            maps = [
                self._extractor.feature_map((_in_colour(image) + 1)[None] * 127.5)
                for image in (pair.output_CHW, pair.input_CHW)
            ]
            self._relations[pair.name] = float(relation_change(*maps))
        if self._is_shown:
            self._pictures[pair.name] = (_shrunk(pair.input_CHW), _shrunk(pair.output_CHW))
            ranked = self._ranked(list(self._pictures))
            kept = {*ranked[:_SHOWN], *ranked[-_SHOWN:]}
            self._pictures = {n: picture for n, picture in self._pictures.items() if n in kept}

    def scores(self) -> Scores:
        """See `PairScore`."""
        if not self._changes:
            return {}
        scores = {"change": sum(self._changes.values()) / len(self._changes)}
        if self._relations:
            scores["relation_change"] = sum(self._relations.values()) / len(self._relations)
        return scores

    @property
    def ranking(self) -> dict[str, list[str]]:
        """Names of the pairs that were kept least and best, six of each; of fewer than twelve at
        most half, so that none is both. One alone is the least kept.
        """
        ranked = self._ranked(list(self._changes))
        if len(ranked) < 2:
            return {"least_kept": ranked} if ranked else {}
        shown = min(_SHOWN, len(ranked) // 2)
        return {"least_kept": ranked[:shown], "best_kept": ranked[::-1][:shown]}

    def _ranked(self, names: Sequence[str]) -> list[str]:
        """The least kept first."""
        values = self._relations or self._changes
        return sorted(names, key=lambda name: -values[name])

    def gallery(self) -> Image.Image | None:
        """Rows of input and translation: the least kept, then the best kept."""
        columns = {}
        for kind, names in self.ranking.items():
            inputs, outputs = zip(*(self._pictures[name] for name in names), strict=True)
            columns[f"{kind.replace('_', ' ')}: input"] = [_as_image(x) for x in inputs]
            columns["output" if kind == "least_kept" else "output "] = [
                _as_image(x) for x in outputs
            ]
        if not columns:
            return None
        return image_grid(list(zip(*columns.values(), strict=True)), captions=list(columns))


def perceptual_distance(config: EvaluationConfig) -> PerceptualDistance | None:
    """LPIPS as configured; None where it is not asked for.

    Raises:
        ConfigError, DownloadError, CheckpointError: as `PerceptualDistance`.
    """
    if config.lpips is None:
        return None
    return PerceptualDistance(
        config.lpips, weights=config.lpips_weights, device=choose_device(config.device)
    )


def content_scores(pairs: Iterable[Pair], extractor: Extractor | None) -> Scores:
    """`ContentScore` of all pairs."""
    content = ContentScore(extractor, shown=False)
    for pair in pairs:
        content.add(pair)
    return content.scores()


class MaskedScore:
    """Change inside and outside masks that are named as the inputs.

    Args:
        folder: of the masks.
        names: of the inputs.
        size: that images are brought to.

    Raises:
        DataError: there are no masks.
    """

    def __init__(self, folder: Path, names: Sequence[str], size: Sides | None) -> None:
        self._folder = folder
        self._files = files_by_name(folder, names, "mask", all_needed=False)
        self._size = size
        self._inside: list[Tensor] = []
        self._outside: list[Tensor] = []

    def add(self, pair: Pair) -> None:
        """See `PairScore`."""
        if pair.input_CHW is None:
            return
        if pair.name not in self._files:
            raise missing_file(self._folder, pair.name, "mask")
        mask_HW = load_mask(self._files[pair.name], self._size)
        change = masked_change(pair.output_CHW[None], pair.input_CHW[None], mask_HW[None])
        self._inside.append(change.inside_B)
        self._outside.append(change.outside_B)

    def scores(self) -> Scores:
        """See `PairScore`."""
        if not self._inside:
            return {}
        return {
            "change_inside": float(torch.cat(self._inside).nanmean()),
            "change_outside": float(torch.cat(self._outside).nanmean()),
        }


class CollapseScore:
    """Whether outputs are as different from each other as their inputs are."""

    def __init__(self, distance: PerceptualDistance) -> None:
        self._collector = CollapseCollector(distance)

    def add(self, pair: Pair) -> None:
        """See `PairScore`."""
        if pair.input_CHW is not None:
            self._collector.inputs.add(_in_colour(pair.input_CHW)[None])
            self._collector.outputs.add(_in_colour(pair.output_CHW)[None])

    def scores(self) -> Scores:
        """See `PairScore`."""
        collapse = self._collector.scores()
        return {"collapse_outputs": collapse.outputs, "collapse_ratio": collapse.ratio}


class CounterpartScore:
    """Against the hidden truth of the toy set; nothing where an image has none.

    Args:
        perceptual: for LPIPS.
        size: that images are brought to.
        value_range: of the truths.
    """

    def __init__(
        self,
        perceptual: PerceptualDistance | None,
        *,
        size: Sides | None,
        value_range: ValueRange | None,
    ) -> None:
        self._perceptual = perceptual
        self._size, self._value_range = size, value_range
        self._is_whole = True
        self._rows: list[CounterpartScores] = []
        self._distances: list[float] = []

    def add(self, pair: Pair) -> None:
        """See `PairScore`."""
        source = pair.path
        if pair.input_CHW is None or source is None or not truth_file(source).is_file():
            self._is_whole = False
        if not self._is_whole or source is None or pair.input_CHW is None:
            return
        truth_CHW = load_at(
            truth_file(source),
            pair.output_CHW.shape[0],
            size=self._size,
            value_range=self._value_range,
        )
        mask_HW = load_at(mask_file(source), 1, size=self._size, value_range=None)[0] > 0
        row = score_against_counterpart(pair.output_CHW, pair.input_CHW, truth_CHW, mask_HW)
        self._rows.append(row)
        if self._perceptual is not None:
            images = (_in_colour(pair.output_CHW)[None], _in_colour(truth_CHW)[None])
            self._distances.append(float(self._perceptual(*images)))

    def scores(self) -> Scores:
        """See `PairScore`."""
        if not self._is_whole or not self._rows:
            return {}
        scores = mean_scores(self._rows)
        if self._distances:
            scores["lpips"] = sum(self._distances) / len(self._distances)
        return {f"counterpart/{name}": value for name, value in scores.items()}


class TruthScore:
    """Against the truth of paired data: PSNR, SSIM, mean difference, and LPIPS.

    Args:
        truths: of the inputs.
        perceptual: for LPIPS; None: not scored.
        size: that images are brought to.
        value_range: of the truths.
    """

    def __init__(
        self,
        truths: Truths,
        perceptual: PerceptualDistance | None,
        *,
        size: Sides | None,
        value_range: ValueRange | None,
    ) -> None:
        self._truths = truths
        self._perceptual = perceptual
        self._size, self._value_range = size, value_range
        self._rows: list[Scores] = []

    def add(self, pair: Pair) -> None:
        """See `PairScore`."""
        path = self._truths.files.get(pair.name)
        if path is None:
            return
        truth_CHW = self._truths.read(
            path, pair.output_CHW.shape[0], size=self._size, value_range=self._value_range
        )
        if truth_CHW.shape != pair.output_CHW.shape:
            raise DataError(
                f"The translation of `{pair.name}` and the truth `{path}` differ in size; choose a "
                "protocol that resizes."
            )
        scores = against_truth(pair.output_CHW, truth_CHW)
        if self._perceptual is not None:
            images = (_in_colour(pair.output_CHW)[None], _in_colour(truth_CHW)[None])
            scores["lpips"] = float(self._perceptual(*images))
        self._rows.append(scores)

    def scores(self) -> Scores:
        """See `PairScore`."""
        return {f"truth/{name}": value for name, value in mean_rows(self._rows).items()}


def against_truth(output_CHW: Tensor, truth_CHW: Tensor) -> Scores:
    """PSNR, mean difference, and SSIM where the image is large enough, of images in [-1, 1]."""
    difference = (output_CHW.double() - truth_CHW.double()).abs().mean()
    scores = {
        "psnr": peak_signal_to_noise(output_CHW, truth_CHW),
        "truth_distance": PIXEL_LEVELS * float(difference),
    }
    if min(output_CHW.shape[1:]) >= WINDOW_PIXELS:
        scores["ssim"] = structural_similarity(output_CHW, truth_CHW)
    return scores


def mean_rows(rows: Sequence[Scores]) -> Scores:
    """Means over images, of what every image has."""
    names = [name for name in rows[0] if all(name in row for row in rows)] if rows else []
    return {name: sum(row[name] for row in rows) / len(rows) for name in names}


class SegmentationScore:
    """Both forms of the label-map scores; the inputs are label maps in Cityscapes' colours.

    The labels are those of the files, whatever size the network was shown: a colour between two
    labels is no label.

    Args:
        inputs: the label maps.
        judge: the segmentation network.
        weights: file of its weights; downloaded unless given.
        device: to compute on.
    """

    def __init__(
        self,
        inputs: Inputs,
        judge: DRNName,
        weights: Path | None,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        path = weights or fetch_judge(judge, cache_folder() / "weights")[0]
        self._network = read_drn(path, judge).to(device)
        self._inputs = inputs
        self._scorer = CityscapesScorer()

    def add(self, pair: Pair) -> None:
        """See `PairScore`."""
        if pair.path is None:
            return
        label_CHW = self._inputs.read(pair.path, 3, size=None, value_range=None)
        label, photo = (
            Image.fromarray(to_uint8(_in_colour(x)).permute(1, 2, 0).contiguous().numpy())
            for x in (label_CHW, pair.output_CHW)
        )
        self._scorer.add_photos(self._network, [(label, photo)])

    def scores(self) -> Scores:
        """See `PairScore`."""
        scores = self._scorer.scores()
        return {
            f"segmentation-{form}/{name}": float(value)
            for form in ("released", "correct")
            for name, value in scores[form].items()
            if isinstance(value, (int, float))
        }


class Suspicions:
    """What at least half of the outputs suffer from."""

    def __init__(self) -> None:
        self._found: dict[str, int] = {}
        self._known = 0

    def add(self, pair: Pair) -> None:
        """See `PairScore`."""
        if pair.input_CHW is not None:
            self.notice(pair.output_CHW, pair.input_CHW)

    def notice(self, output_CHW: Tensor, input_CHW: Tensor) -> None:
        """An output as it is saved."""
        self._known += 1
        for warning in translation_warnings(output_CHW[None], input_CHW[None]):
            kind = warning.removeprefix("1 of 1 outputs ")
            self._found[kind] = self._found.get(kind, 0) + 1

    def scores(self) -> Scores:
        """None; see `warnings`."""
        return {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """In words."""
        return tuple(
            f"{count} of {self._known} outputs {kind}"
            for kind, count in self._found.items()
            if 2 * count >= self._known
        )


def _in_colour(image_CHW: Tensor) -> Tensor:
    return image_CHW.expand(3, -1, -1) if image_CHW.shape[0] == 1 else image_CHW


def _shrunk(image_CHW: Tensor) -> Tensor:
    """uint8, for the gallery."""
    longest = max(image_CHW.shape[1:])
    if longest > _SHOWN_PIXELS:
        height, width = (round(side * _SHOWN_PIXELS / longest) for side in image_CHW.shape[1:])
        pixels = resized(image_CHW, max(1, width), max(1, height))
        assert isinstance(pixels, Tensor)
        image_CHW = pixels
    return to_uint8(_in_colour(image_CHW))


def _as_image(levels_CHW: Tensor) -> Tensor:
    return levels_CHW.float() / 127.5 - 1
