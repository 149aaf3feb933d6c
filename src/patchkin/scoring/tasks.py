"""One pair of domains: outputs in several styles, and what can be said of them alone.

Inputs are read, translated, scored and forgotten one after another.

Styles are

- `latent`: drawn at random, new for each image and output;
- `reference`: of the target domain's held-out images, in an order shuffled again and again that
  goes on over images, outputs and source domains.

Shape suffixes: N images, K outputs per image, B images of a batch, S entries of a style,
C channels, H and W pixels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar
from typing import Protocol as Interface

import torch
from torch import Tensor

from patchkin.data.domains import Images, domain_image
from patchkin.data.toy import domain_mask_file, domain_truth_file
from patchkin.errors import DataError
from patchkin.images import ValueRange, safe_levels, to_uint8
from patchkin.metrics.collecting import FeatureCollector, Statistics
from patchkin.metrics.content import mean_change, relation_change
from patchkin.metrics.counterpart import CounterpartScores, score_against_counterpart
from patchkin.metrics.diversity import diversity_scores, output_distances
from patchkin.metrics.extractors import Extractor, SqueezeNetExtractor
from patchkin.metrics.perceptual import PerceptualDistance
from patchkin.metrics.protocols import Protocol
from patchkin.metrics.statistics import compare
from patchkin.randomness import SeededDraws, derive_seed
from patchkin.scoring.pair_scores import Suspicions
from patchkin.scoring.scores import Scores
from patchkin.translation.translator import Translator

Mode: TypeAlias = Literal["latent", "reference"]
Item = TypeVar("Item")
Styles: TypeAlias = Callable[[int, int], Tensor]
"""Target domain, number of images -> their styles [B, S]; others at every call."""

MODES: tuple[Mode, ...] = ("latent", "reference")
BATCH_SIZE = 32
"""Images of a batch of StarGAN v2's evaluation; what it reports is a mean over batches."""
_CHUNK, _CHUNK_PIXELS = 8, 8 * 256 * 256
"""Images translated at once, and their pixels; no effect on the scores."""


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
        references: images of each domain.
        seed: of the order.
    """

    def __init__(self, translator: Translator, references: Sequence[Images], *, seed: int) -> None:
        self._styles = [
            torch.cat(
                [
                    translator.reference_styles(torch.stack(list(part)), domain=domain)
                    for part in _chunks((images[i] for i in range(len(images))), _CHUNK)
                ]
            )
            for domain, images in enumerate(references)
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
    translator: Translator, held_out: Sequence[Images], *, seed: int
) -> dict[Mode, Styles]:
    """Both kinds of styles, from the beginning."""
    return {
        "latent": LatentStyles(translator, seed=seed),
        "reference": ReferenceStyles(translator, held_out, seed=seed),
    }


# One pair of domains


@dataclass(frozen=True, eq=False)
class Made:
    """The outputs of one input."""

    input_CHW: Tensor
    outputs_KCHW: Tensor
    """Not clamped."""

    @cached_property
    def levels_KCHW(self) -> Tensor:
        """The outputs as 8-bit files hold them, uint8."""
        return to_uint8(self.outputs_KCHW)

    @cached_property
    def saved_KCHW(self) -> Tensor:
        """The same in [-1, 1]."""
        return as_images(self.levels_KCHW)


def outputs_of(
    translator: Translator, inputs: Images, styles: Styles, target: int, num_outputs: int
) -> Iterator[Made]:
    """The outputs of each input, in order.

    Raises:
        DataError: NaN or infinity, or an input cannot be read.
    """
    shares = _shares(inputs, styles, target, num_outputs)
    waiting: list[Tensor] = []
    for part in _chunks(shares, _at_once(inputs)):
        x_BCHW, styles_BS = map(torch.stack, zip(*part, strict=True))
        y_BCHW = translator(x_BCHW, styles_BS).cpu()
        if not y_BCHW.isfinite().all():
            raise DataError("A translation holds NaN or infinity; did the training diverge?")
        for x_CHW, y_CHW in zip(x_BCHW, y_BCHW, strict=True):
            waiting.append(y_CHW)
            if len(waiting) == num_outputs:
                yield Made(x_CHW, torch.stack(waiting))
                waiting = []


def _shares(
    inputs: Images, styles: Styles, target: int, num_outputs: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every input with each of its styles, which are drawn by batches."""
    for start in range(0, len(inputs), BATCH_SIZE):
        count = min(BATCH_SIZE, len(inputs) - start)
        columns = [styles(target, count) for _ in range(num_outputs)]
        for row in range(count):
            input_CHW = inputs[start + row]
            yield from ((input_CHW, styles_BS[row]) for styles_BS in columns)


def _at_once(inputs: Images) -> int:
    height, width = inputs[0].shape[-2:] if len(inputs) else (1, 1)
    return max(1, min(_CHUNK, _CHUNK_PIXELS // (height * width)))


def _chunks(rows: Iterable[Item], size: int) -> Iterator[list[Item]]:
    chunk: list[Item] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class OutputScore(Interface):
    """What is asked of the outputs of every input, in turn."""

    def add(self, made: Made) -> None:
        """Of the next input."""
        ...

    def scores(self) -> Scores:
        """Of all so far; empty if there is nothing to say."""
        ...


def scored(made: Iterable[Made], parts: Sequence[OutputScore]) -> Scores:
    """All that is asked of the outputs, in one pass."""
    for each in made:
        for part in parts:
            part.add(each)
    return all_scores(parts)


def all_scores(parts: Iterable[OutputScore]) -> Scores:
    """Of what was added so far."""
    found: Scores = {}
    for part in parts:
        found |= part.scores()
    return found


class ChangeScore:
    """Change and diversity.

    `change` is the mean absolute change, `style_spread` the same between outputs of one input; 0
    to 255 of 8-bit outputs. `lpips_diversity` is StarGAN v2's mean over batches of 32, in
    `lpips_diversity_per_image` a short last batch counts for what it holds.

    Args:
        perceptual: for LPIPS; None: not scored.
    """

    def __init__(self, perceptual: PerceptualDistance | None = None) -> None:
        self._perceptual = perceptual
        self._changes: list[Tensor] = []
        self._spreads: list[Tensor] = []
        self._distances: list[Tensor] = []
        self._suspicions = Suspicions()

    def add(self, made: Made) -> None:
        """See `OutputScore`."""
        saved_KCHW, input_CHW = made.saved_KCHW, made.input_CHW
        if saved_KCHW.shape[1:] == input_CHW.shape:
            self._changes.append(mean_change(saved_KCHW, input_CHW.expand_as(saved_KCHW)).mean())
        if len(saved_KCHW) > 1:
            self._spreads.append(mean_change(saved_KCHW[1:], saved_KCHW[:-1]).mean())
        if self._perceptual is not None:
            coloured_KCHW = made.outputs_KCHW.expand(-1, 3, -1, -1)
            self._distances.append(output_distances(coloured_KCHW[None], self._perceptual)[0])
        self._suspicions.notice(saved_KCHW[0], input_CHW)

    def scores(self) -> Scores:
        """See `OutputScore`."""
        scores: Scores = {}
        if self._changes:
            scores["change"] = float(torch.stack(self._changes).mean())
        if self._spreads:
            scores["style_spread"] = float(torch.stack(self._spreads).mean())
        if self._distances:
            diversity = diversity_scores(torch.stack(self._distances), batch_size=BATCH_SIZE)
            scores["lpips_diversity"] = diversity.batch_mean
            scores["lpips_diversity_per_image"] = diversity.image_mean
        return scores

    @property
    def warnings(self) -> tuple[str, ...]:
        """About the first output of each input."""
        return self._suspicions.warnings


class RelationScore:
    """Relation consistency of the first output of each input, where an extractor has maps."""

    def __init__(self, extractors: Mapping[str, Extractor]) -> None:
        known = (e for e in extractors.values() if isinstance(e, SqueezeNetExtractor))
        self._extractor = next(known, None)
        self._changes: list[Tensor] = []

    def add(self, made: Made) -> None:
        """See `OutputScore`."""
        if self._extractor is None:
            return
        levels_1CHW = made.levels_KCHW[:1].expand(-1, 3, -1, -1)
        input_1CHW = (made.input_CHW[None].expand(-1, 3, -1, -1) + 1) * 127.5
        maps = map(self._extractor.feature_map, (levels_1CHW, input_1CHW))
        self._changes.append(relation_change(*maps).reshape(1))

    def scores(self) -> Scores:
        """See `OutputScore`."""
        if not self._changes:
            return {}
        return {"relation_change": float(torch.cat(self._changes).mean())}


class RealDistance:
    """Distances of all outputs to real images.

    Args:
        protocol: that says how.
        extractor: the one that it names.
        real: of the real images.
        kernel: whether the kernel distance is told too.
    """

    def __init__(
        self, protocol: Protocol, extractor: Extractor, real: Statistics, *, kernel: bool = True
    ) -> None:
        self._protocol = protocol
        self._kernel = kernel
        self._collector = FeatureCollector(protocol, extractor)
        self._real = real
        self._count = 0

    def add(self, made: Made) -> None:
        """See `OutputScore`."""
        for levels_CHW in made.levels_KCHW:
            prepared = self._protocol.prepare_output(safe_levels(levels_CHW))
            self._collector.add(str(self._count), prepared)
            self._count += 1

    def scores(self) -> Scores:
        """See `OutputScore`."""
        distances = compare(self._real, self._collector.statistics())
        scores = {f"{self._protocol.name}/frechet": distances.frechet}
        if self._kernel:
            scores[f"{self._protocol.name}/kernel"] = distances.kernel
        return scores


class DomainTruthScore:
    """Against the hidden truths of the toy set; nothing for other sets.

    Means over all outputs of `CounterpartScores`' `tone_inside` and `change_outside`; of
    `detail_distance`, how many times the detail inside must be doubled or halved to be the truth's
    (0 is right, and too much for one coat does not make up for too little for another); and
    `distance`, tone plus change outside. A coat has other colours in another style, so a tone that
    differs a little is no fault.

    Args:
        paths: of the inputs, in their order.
        target: domain.
        value_range: of the truths.
    """

    def __init__(
        self, paths: Sequence[Path], target: str, *, value_range: ValueRange | None
    ) -> None:
        files = [(domain_truth_file(path, target), domain_mask_file(path)) for path in paths]
        is_whole = all(path.is_file() for pair in files for path in pair)
        self._files = iter(files if is_whole else ())
        self._value_range = value_range
        self._rows: list[CounterpartScores] = []

    def add(self, made: Made) -> None:
        """See `OutputScore`."""
        for truth_file, mask_file in itertools.islice(self._files, 1):
            input_CHW = made.input_CHW
            channels, size = input_CHW.shape[0], input_CHW.shape[-1]
            truth_CHW = domain_image(
                truth_file, size=size, channels=channels, value_range=self._value_range
            )
            mask_HW = domain_image(mask_file, size=size, channels=1)[0] > 0
            self._rows += [
                score_against_counterpart(output_CHW, input_CHW, truth_CHW, mask_HW)
                for output_CHW in made.saved_KCHW
            ]

    def scores(self) -> Scores:
        """See `OutputScore`."""
        rows = self._rows
        if not rows:
            return {}
        tone = sum(row.tone_inside for row in rows) / len(rows)
        outside = sum(row.change_outside for row in rows) / len(rows)
        doublings = (abs(math.log2(max(row.detail_inside, 1e-3))) for row in rows)
        return {
            "distance": tone + outside,
            "tone_inside": tone,
            "detail_distance": sum(doublings) / len(rows),
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
