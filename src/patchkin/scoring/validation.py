"""Scores of a method while it trains, on the same validation images each time.

    ProtocolValidation      two domains: distance to real images, and content
    CounterpartValidation   two domains whose images have hidden counterparts (the toy set)
    PairValidation          pairs: distance from the truth
    DomainValidation        several domains

All read images with the value range of the run, so that a network is shown what it was trained on.

Shape suffixes: B images of a batch, N images, K outputs per image, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from pathlib import Path
from typing import Protocol as Interface

import torch
from torch import Tensor

from patchkin.data.domains import Images, ImagesInFiles
from patchkin.data.loading import evaluation_images
from patchkin.data.paired import PairedBatch
from patchkin.data.toy import domain_truth_file, mask_file, truth_file
from patchkin.images import Ranges, ValueRange
from patchkin.method import Method
from patchkin.metrics.content import class_rate
from patchkin.metrics.counterpart import mean_scores, score_against_counterpart
from patchkin.metrics.extractors import Extractor
from patchkin.metrics.protocols import Protocol
from patchkin.metrics.statistics import cached_statistics, compare, output_statistics
from patchkin.scoring.held_out import Inputs
from patchkin.scoring.pair_scores import against_truth, content_scores, mean_rows
from patchkin.scoring.pairs import pairs_of
from patchkin.scoring.scores import Scores, declared, find_score
from patchkin.scoring.tasks import (
    MODES,
    ChangeScore,
    DomainTruthScore,
    Made,
    Mode,
    OutputScore,
    RealDistance,
    all_scores,
    mean_over,
    outputs_of,
    scored,
    styles_by_mode,
)
from patchkin.sides import Sides
from patchkin.training import Scorer
from patchkin.translation.translator import Translator

TRUTH_DISTANCE = "truth_distance"
"""How pairs are scored."""
_TOLD_BY_TARGET = ("tone_inside", "detail_distance", "change_outside")
"""Scores of several domains that are also told for each target domain."""


class Validation(Interface):
    """What the training loop is given to score with, through `as_scorer`."""

    @property
    def primary(self) -> str | None:
        """The score that decides which checkpoint is the best; None if none can."""
        ...

    def __call__(self, method: Method) -> Scores:
        """Score the method as it stands."""
        ...

    def baseline(self) -> Scores | None:
        """The scores of leaving every image as it is; None where they are not told."""
        ...


def as_scorer(validation: Validation) -> Scorer:
    """For the training loop, which knows no scores.

    The scorer raises `ConfigError` for a score that is not declared in `scores`.
    """
    primary = validation.primary
    return Scorer(
        score=lambda method: declared(validation(method)),
        primary=primary,
        higher_is_better=primary is not None and find_score(primary).better == "higher",
        baseline=validation.baseline(),
    )


def translations(method: Method, inputs_NCHW: Tensor) -> list[Tensor]:
    """Of images one at a time, [C, H, W] on the CPU."""
    device = next(method.parameters()).device
    return [method.translate(x_CHW[None].to(device))[0].float().cpu() for x_CHW in inputs_NCHW]


@dataclass(frozen=True, kw_only=True)
class ProtocolValidation:
    """Distance of the translations to real images, where there is an extractor, and content."""

    inputs: tuple[Path, ...]
    real: tuple[Path, ...]
    size: Sides
    """Of the images, in pixels."""
    value_ranges: Ranges
    """Of inputs and of real images, of more than 8 bits; see `images.to_tensor`."""
    extractor: Extractor | None = None
    protocol: Protocol | None = None
    classes: tuple[int, ...] = ()
    """Of ImageNet, that outputs should be taken for."""

    @property
    def primary(self) -> str | None:
        """The Frechet distance, if there is one."""
        return None if self.protocol is None else f"{self.protocol.name}/frechet"

    def __call__(self, method: Method) -> Scores:
        """Score the method as it stands."""
        device = next(method.parameters()).device
        translator = Translator(method, device=device, value_ranges=self.value_ranges)
        pairs = list(pairs_of(translator, Inputs(self.inputs), size=self.size))
        scores: Scores = {}
        if self.protocol is not None and self.extractor is not None:
            real = cached_statistics(
                self.real, self.protocol, self.extractor, value_range=self.value_ranges[1]
            )
            outputs = output_statistics(
                ((pair.name, pair.levels_CHW) for pair in pairs), self.protocol, self.extractor
            )
            distances = compare(real, outputs)
            scores[f"{self.protocol.name}/frechet"] = distances.frechet
            scores[f"{self.protocol.name}/kernel"] = distances.kernel
            if self.classes and outputs.logits_NK is not None:
                rate = class_rate(outputs.logits_NK, self.classes)
                scores[f"{self.protocol.name}/class_top1"] = rate.top1_percent
        return scores | content_scores(pairs, self.extractor)

    def baseline(self) -> Scores | None:
        """Not told."""
        return None


@dataclass(frozen=True, kw_only=True)
class CounterpartValidation:
    """Translations against the hidden counterparts of their inputs."""

    inputs: tuple[Path, ...]
    size: Sides
    """Of the images, in pixels."""
    channels: tuple[int, int]
    """Of inputs and of translations."""
    value_ranges: Ranges
    """Of inputs and of translations, of more than 8 bits; see `images.to_tensor`."""
    primary: str = "tone_inside"

    @staticmethod
    def fits(inputs: Sequence[Path]) -> bool:
        """Whether every image has its hidden counterpart."""
        return bool(inputs) and all(truth_file(path).is_file() for path in inputs)

    def __call__(self, method: Method) -> Scores:
        """Score the method as it stands."""
        return self._scores(translations(method, self._inputs_NCHW))

    def baseline(self) -> Scores:
        """The scores of leaving every image as it is."""
        return self._scores(self._inputs_NCHW)

    def _scores(self, outputs: Iterable[Tensor]) -> Scores:
        rows = zip(outputs, self._inputs_NCHW, self._truths_NCHW, self._masks_NHW, strict=True)
        return mean_scores([score_against_counterpart(*row) for row in rows])

    @cached_property
    def _inputs_NCHW(self) -> Tensor:
        return self._read(self.inputs, self.channels[0], self.value_ranges[0])

    @cached_property
    def _truths_NCHW(self) -> Tensor:
        truths = [truth_file(path) for path in self.inputs]
        return self._read(truths, self.channels[1], self.value_ranges[1])

    @cached_property
    def _masks_NHW(self) -> Tensor:
        return self._read([mask_file(path) for path in self.inputs], 1, None)[:, 0] > 0

    def _read(self, files: Sequence[Path], channels: int, value_range: ValueRange | None) -> Tensor:
        batches = evaluation_images(
            files, size=self.size, channels=channels, value_range=value_range
        )
        return torch.cat([batch.images_BCHW for batch in batches])


@dataclass(frozen=True, kw_only=True, eq=False)
class PairValidation:
    """Translations against the other halves of their pairs: mean difference, PSNR and SSIM."""

    pairs: PairedBatch
    primary: str = TRUTH_DISTANCE

    def __call__(self, method: Method) -> Scores:
        """Score the method as it stands."""
        return self._scores(translations(method, self.pairs.a_BCHW))

    def baseline(self) -> Scores | None:
        """The scores of leaving every image as it is, where both halves have as many channels."""
        if self.pairs.a_BCHW.shape != self.pairs.b_BCHW.shape:
            return None
        return self._scores(self.pairs.a_BCHW)

    def _scores(self, outputs: Iterable[Tensor]) -> Scores:
        rows = zip(outputs, self.pairs.b_BCHW, strict=True)
        scores = mean_rows([against_truth(y_CHW, b_CHW) for y_CHW, b_CHW in rows])
        return {TRUTH_DISTANCE: scores.pop(TRUTH_DISTANCE), **scores}


@dataclass(frozen=True, kw_only=True)
class DomainValidation:
    """Translations between several domains, in latent styles and in those of references.

    For both kinds of styles, means over the target domains: change and spread of the styles; the
    counterpart scores where the set has hidden truths, for latent styles also for each target; the
    distance of all outputs to the target's validation images where there is an extractor. One hopes
    for a `change_outside` near 0 and a `style_spread` well above it.
    """

    names: tuple[str, ...]
    paths: tuple[tuple[Path, ...], ...]
    """Validation images of each domain."""
    size: int
    """Of the images, in pixels."""
    value_range: ValueRange | None
    """Of 16-bit and float files, see `images.to_tensor`."""
    channels: int = 3
    extractor: Extractor | None = None
    protocol: Protocol | None = None
    num_outputs: int = 2
    """Of each image in each other domain."""

    @property
    def has_truth(self) -> bool:
        """Whether every image has its hidden counterparts."""
        return all(
            domain_truth_file(path, self.names[target]).is_file()
            for source, target in permutations(range(len(self.names)), 2)
            for path in self.paths[source]
        )

    @property
    def primary(self) -> str | None:
        """The distance to the truths, else that to real images, if there is one."""
        if self.has_truth:
            return "latent/distance"
        return None if self.protocol is None else f"latent/{self.protocol.name}/frechet"

    def __call__(self, method: Method) -> Scores:
        """Score the method as it stands."""
        translator = Translator(method, device=next(method.parameters()).device)
        images = self._images()
        styles = styles_by_mode(translator, images, seed=0)
        return self._scores(
            lambda mode, source, target: outputs_of(
                translator, images[source], styles[mode], target, self.num_outputs
            ),
        )

    def baseline(self) -> Scores | None:
        """The scores of leaving every image as it is, where there are hidden truths."""
        if not self.has_truth:
            return None
        images, copies = self._images(), (self.num_outputs, -1, -1, -1)
        return self._scores(
            lambda _, source, __: (
                Made(image_CHW, image_CHW.expand(copies))
                for image_CHW in map(images[source].__getitem__, range(len(images[source])))
            )
        )

    def _images(self) -> list[Images]:
        return [
            ImagesInFiles(paths, self.size, self.channels, self.value_range) for paths in self.paths
        ]

    def _scores(self, outputs: Callable[[Mode, int, int], Iterable[Made]]) -> Scores:
        scores: Scores = {}
        for mode in MODES:
            by_target = {}
            for target, name in enumerate(self.names):
                rows, distances = [], self._distances(target)
                for source in range(len(self.names)):
                    if source == target:
                        continue
                    truth = DomainTruthScore(self.paths[source], name, value_range=self.value_range)
                    of_source: list[OutputScore] = [ChangeScore(), truth]
                    scored(outputs(mode, source, target), [*of_source, *distances])
                    rows.append(all_scores(of_source))
                by_target[name] = mean_over(rows) | all_scores(distances)
            scores |= {f"{mode}/{n}": value for n, value in mean_over(by_target.values()).items()}
            scores |= {
                f"{mode}/{name}/{score}": found[score]
                for name, found in by_target.items()
                for score in _TOLD_BY_TARGET
                if score in found and mode == "latent"
            }
        return scores

    def _distances(self, target: int) -> list[RealDistance]:
        if self.protocol is None or self.extractor is None:
            return []
        real = cached_statistics(
            self.paths[target], self.protocol, self.extractor, value_range=self.value_range
        )
        return [RealDistance(self.protocol, self.extractor, real, kernel=False)]
