"""One pair of domains: outputs in several styles, and what can be said of them alone.

Styles are

- `latent`: drawn at random, new for each image and output;
- `reference`: of the target domain's held-out images, in an order shuffled again and again that
  goes on over images, outputs and source domains.

Shape suffixes: N images, K outputs per image, B images of a batch, S entries of a style,
C channels, H and W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from patchkin.data.domains import domain_images
from patchkin.data.toy import domain_mask_file, domain_truth_file
from patchkin.errors import DataError
from patchkin.images import ValueRange, to_uint8
from patchkin.metrics.content import mean_change, translation_warnings
from patchkin.metrics.counterpart import score_against_counterpart
from patchkin.metrics.diversity import diversity_scores, output_distances
from patchkin.metrics.perceptual import PerceptualDistance
from patchkin.randomness import SeededDraws, derive_seed
from patchkin.scoring.scores import Scores
from patchkin.translation.translator import Translator

Mode: TypeAlias = Literal["latent", "reference"]
Styles: TypeAlias = Callable[[int, int], Tensor]
"""Target domain, number of images -> their styles [B, S]; others at every call."""

MODES: tuple[Mode, ...] = ("latent", "reference")
BATCH_SIZE = 32
"""Images of a batch of StarGAN v2's evaluation; what it reports is a mean over batches."""
_CHUNK = 8
"""Images translated at once; no effect on the scores."""


# Styles


class LatentStyles:
    """`Styles` drawn at random; the first call gives the same whatever is asked for later."""

    def __init__(self, translator: Translator, *, seed: int) -> None:
        self._translator = translator
        self._seed = seed
        self._calls = 0

    def __call__(self, target: int, count: int) -> Tensor:
        """See `Styles`."""
        draws = SeededDraws(derive_seed(self._seed, "latent styles", self._calls), 0)
        self._calls += 1
        return self._translator.latent_styles(draws, count=count, domain=target)


class ReferenceStyles:
    """`Styles` of a set of images of each domain, shuffled again after each pass.

    Args:
        translator: whose style encoder is used; once for each image.
        references: of each domain, [N, C, H, W].
        seed: of the order.
    """

    def __init__(self, translator: Translator, references: Sequence[Tensor], *, seed: int) -> None:
        self._styles = [
            torch.cat(
                [
                    translator.reference_styles(part_BCHW, domain=domain)
                    for part_BCHW in _chunks(images_NCHW, _CHUNK)
                ]
            )
            for domain, images_NCHW in enumerate(references)
        ]
        self._order = [
            _shuffled(len(styles_NS), derive_seed(seed, "reference styles", domain))
            for domain, styles_NS in enumerate(self._styles)
        ]

    def __call__(self, target: int, count: int) -> Tensor:
        """See `Styles`."""
        return self._styles[target][[next(self._order[target]) for _ in range(count)]]


def _shuffled(number: int, seed: int) -> Iterator[int]:
    """0 to number - 1 in random order, again and again."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(number, generator=generator).tolist()


def styles_by_mode(
    translator: Translator, held_out: Sequence[Tensor], *, seed: int
) -> dict[Mode, Styles]:
    """Both kinds of styles, from the beginning."""
    return {
        "latent": LatentStyles(translator, seed=seed),
        "reference": ReferenceStyles(translator, held_out, seed=seed),
    }


# One pair of domains


def outputs_of(
    translator: Translator, inputs_NCHW: Tensor, styles: Styles, target: int, num_outputs: int
) -> Iterator[Tensor]:
    """The outputs [K, C, H, W] of each input, not clamped, in order.

    Raises:
        DataError: NaN or infinity.
    """
    for batch_BCHW in _chunks(inputs_NCHW, BATCH_SIZE):
        columns = []
        for _ in range(num_outputs):
            styles_BS = styles(target, len(batch_BCHW))
            parts = zip(_chunks(batch_BCHW, _CHUNK), _chunks(styles_BS, _CHUNK), strict=True)
            columns.append(torch.cat([translator(x, s).cpu() for x, s in parts]))
        outputs_BKCHW = torch.stack(columns, dim=1)
        if not outputs_BKCHW.isfinite().all():
            raise DataError("A translation holds NaN or infinity; did the training diverge?")
        yield from outputs_BKCHW


def _chunks(rows: Tensor, size: int) -> Iterator[Tensor]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


@dataclass(frozen=True, eq=False)
class Task:
    """What one pair of domains gave."""

    scores: Scores
    levels_NKCHW: Tensor
    """The outputs as 8-bit files hold them, uint8."""
    warnings: tuple[str, ...] = ()
    """About the first output of each image."""


def score_outputs(
    outputs: Iterable[Tensor],
    inputs_NCHW: Tensor,
    *,
    perceptual: PerceptualDistance | None = None,
) -> Task:
    """Change and diversity of the outputs of some inputs.

    `change` is the mean absolute change, `style_spread` the same between outputs of one input; 0
    to 255 of 8-bit outputs. `lpips_diversity` is StarGAN v2's mean over batches of 32, in
    `lpips_diversity_per_image` a short last batch counts for what it holds.
    """
    levels, distances, changes, spreads = [], [], [], []
    for outputs_KCHW, input_CHW in zip(outputs, inputs_NCHW, strict=True):
        levels.append(to_uint8(outputs_KCHW))
        saved_KCHW = as_images(levels[-1])
        if saved_KCHW.shape[1:] == input_CHW.shape:
            changes.append(mean_change(saved_KCHW, input_CHW.expand_as(saved_KCHW)).mean())
        if len(saved_KCHW) > 1:
            spreads.append(mean_change(saved_KCHW[1:], saved_KCHW[:-1]).mean())
        if perceptual is not None:
            coloured_KCHW = outputs_KCHW.expand(-1, 3, -1, -1)
            distances.append(output_distances(coloured_KCHW[None], perceptual)[0])
    scores: Scores = {}
    if changes:
        scores["change"] = float(torch.stack(changes).mean())
    if spreads:
        scores["style_spread"] = float(torch.stack(spreads).mean())
    if distances:
        diversity = diversity_scores(torch.stack(distances), batch_size=BATCH_SIZE)
        scores["lpips_diversity"] = diversity.batch_mean
        scores["lpips_diversity_per_image"] = diversity.image_mean
    levels_NKCHW = torch.stack(levels)
    warnings = translation_warnings(as_images(levels_NKCHW[:, 0]), inputs_NCHW)
    return Task(scores, levels_NKCHW, warnings)


def counterpart_scores(
    levels_NKCHW: Tensor,
    inputs_NCHW: Tensor,
    paths: Sequence[Path],
    target: str,
    *,
    value_range: ValueRange | None,
) -> Scores:
    """Against the hidden truths of the toy set, read with this value range; nothing for other sets.

    Means over all outputs of `CounterpartScores`' `tone_inside` and `change_outside`; of
    `detail_distance`, how many times the detail inside must be doubled or halved to be the truth's
    (0 is right, and too much for one coat does not make up for too little for another); and
    `distance`, tone plus change outside. A coat has other colours in another style, so a tone that
    differs a little is no fault.
    """
    truths = [domain_truth_file(path, target) for path in paths]
    masks = [domain_mask_file(path) for path in paths]
    if not all(path.is_file() for path in (*truths, *masks)):
        return {}
    channels, size = inputs_NCHW.shape[1], inputs_NCHW.shape[-1]
    truths_NCHW = domain_images(truths, size=size, channels=channels, value_range=value_range)
    masks_NHW = domain_images(masks, size=size, channels=1)[:, 0] > 0
    rows = [
        score_against_counterpart(output_CHW, input_CHW, truth_CHW, mask_HW)
        for outputs_KCHW, input_CHW, truth_CHW, mask_HW in zip(
            as_images(levels_NKCHW), inputs_NCHW, truths_NCHW, masks_NHW, strict=True
        )
        for output_CHW in outputs_KCHW
    ]
    tone, outside, detail = (
        sum(values) / len(rows)
        for values in zip(
            *(
                (row.tone_inside, row.change_outside, abs(math.log2(max(row.detail_inside, 1e-3))))
                for row in rows
            ),
            strict=True,
        )
    )
    return {
        "distance": tone + outside,
        "tone_inside": tone,
        "detail_distance": detail,
        "change_outside": outside,
    }


def as_images(levels: Tensor) -> Tensor:
    """8-bit levels of any shape as images in [-1, 1]."""
    return levels.float() / 127.5 - 1


def mean_over(tasks: Iterable[Scores]) -> Scores:
    """Unweighted mean over pairs of domains, of what every pair has."""
    tasks = list(tasks)
    names = [name for name in tasks[0] if all(name in task for task in tasks)]
    return {name: sum(task[name] for task in tasks) / len(tasks) for name in names}
