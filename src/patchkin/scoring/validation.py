"""Scores of a method while it trains, on the same validation images each time.

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path

import torch
from torch import Tensor

from patchkin.data.domains import domain_images
from patchkin.data.toy import domain_truth_file
from patchkin.images import Ranges, ValueRange, safe_levels
from patchkin.method import Method
from patchkin.metrics.content import class_rate
from patchkin.metrics.extractors import Extractor
from patchkin.metrics.protocols import Protocol
from patchkin.metrics.statistics import cached_statistics, compare, output_statistics
from patchkin.scoring.pairs import content_scores, pairs_of
from patchkin.scoring.tasks import (
    MODES,
    Mode,
    Scores,
    counterpart_scores,
    mean_over,
    outputs_of,
    score_outputs,
    styles_by_mode,
)
from patchkin.translation.translator import Translator

_COUNTERPART = ("tone_inside", "detail_distance", "change_outside")
"""Scores of several domains that are also told for each target domain."""


@dataclass(frozen=True)
class ValidationScores:
    """Scores of a method while it trains, on the same images each time."""

    inputs: tuple[Path, ...]
    real: tuple[Path, ...]
    size: int
    """Of the images, in pixels."""
    value_ranges: Ranges = (None, None)
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
        translator = Translator(method, device=device, value_ranges=self.value_ranges)
        pairs = list(pairs_of(translator, self.inputs, self.size))
        scores = {}
        if self.protocol is not None and self.extractor is not None:
            protocol = replace(self.protocol, value_range=self.value_ranges[1])
            real = cached_statistics(self.real, protocol, self.extractor)
            outputs = output_statistics(
                ((pair.name, pair.levels_CHW) for pair in pairs), protocol, self.extractor
            )
            distances = compare(real, outputs)
            scores[f"{self.protocol.name}/frechet"] = distances.frechet
            scores[f"{self.protocol.name}/kernel"] = distances.kernel
            if self.classes and outputs.logits_NK is not None:
                rate = class_rate(outputs.logits_NK, self.classes)
                scores[f"{self.protocol.name}/class_top1"] = rate.top1_percent
        return scores | content_scores(pairs, self.extractor)[0]


@dataclass(frozen=True, kw_only=True)
class DomainValidation:
    """Scores of a method of several domains while it trains, on the same images each time.

    For both kinds of styles, means over the target domains: change and spread of the styles; the
    counterpart scores where the set has hidden truths, for latent styles also for each target; the
    distance of all outputs to the target's validation images where there is an extractor. One hopes
    for a `change_outside` near 0 and a `style_spread` well above it.
    """

    names: tuple[str, ...]
    paths: tuple[tuple[Path, ...], ...]
    """Validation images of each domain."""
    size: int
    channels: int = 3
    value_range: ValueRange | None = None
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
        """The score that decides, lower is better; None without truths and extractor."""
        if self.has_truth:
            return "latent/distance"
        return None if self.protocol is None else f"latent/{self.protocol.name}/frechet"

    def __call__(self, method: Method) -> Scores:
        """Score the method as it stands."""
        translator = Translator(method, device=next(method.parameters()).device)
        images = self._images()
        styles = styles_by_mode(translator, images, seed=0)
        return self._scores(
            images,
            lambda mode, source, target: outputs_of(
                translator, images[source], styles[mode], target, self.num_outputs
            ),
        )

    def baseline(self) -> Scores:
        """The scores of leaving every image as it is."""
        images = self._images()
        copies = (self.num_outputs, -1, -1, -1)
        return self._scores(
            images, lambda _, source, __: (image.expand(copies) for image in images[source])
        )

    def _images(self) -> list[Tensor]:
        return [
            domain_images(
                paths, size=self.size, channels=self.channels, value_range=self.value_range
            )
            for paths in self.paths
        ]

    def _scores(
        self, images: Sequence[Tensor], outputs: Callable[[Mode, int, int], Iterable[Tensor]]
    ) -> Scores:
        scores: Scores = {}
        for mode in MODES:
            by_target = {}
            for target, name in enumerate(self.names):
                rows, levels = [], []
                for source in range(len(self.names)):
                    if source == target:
                        continue
                    task = score_outputs(outputs(mode, source, target), images[source])
                    levels.append(task.levels_NKCHW.flatten(0, 1))
                    truth = counterpart_scores(
                        task.levels_NKCHW, images[source], self.paths[source], name
                    )
                    rows.append(task.scores | truth)
                by_target[name] = mean_over(rows) | self._distances(levels, target)
            scores |= {f"{mode}/{n}": value for n, value in mean_over(by_target.values()).items()}
            scores |= {
                f"{mode}/{name}/{score}": found[score]
                for name, found in by_target.items()
                for score in _COUNTERPART
                if score in found and mode == "latent"
            }
        return scores

    def _distances(self, levels: Sequence[Tensor], target: int) -> Scores:
        if self.protocol is None or self.extractor is None:
            return {}
        protocol = replace(self.protocol, value_range=self.value_range)
        real = cached_statistics(self.paths[target], protocol, self.extractor)
        outputs = ((str(i), safe_levels(image)) for i, image in enumerate(torch.cat(list(levels))))
        found = output_statistics(outputs, protocol, self.extractor)
        return {f"{self.protocol.name}/frechet": compare(real, found).frechet}
