"""Scores of methods whose translations have a style.

Of several domains, as StarGAN v2 (Choi et al., CVPR 2020) defines them: for each ordered pair of
domains, 10 translations of every held-out image of the one into the other, with styles

- `latent`: drawn at random, new for each image and output;
- `reference`: of the target domain's held-out images, in an order shuffled again and again that
  goes on over images, outputs and source domains.

Frechet distance of all outputs of a pair to the target's training images, and diversity: the mean
LPIPS of the 45 pairs of outputs of an image, of unclamped outputs. Both are averaged over the pairs
of domains. Between two domains, the ordinary scores (`evaluation`) and the diversity.

Shape suffixes: N images, K outputs per image, B images of a batch, S entries of a style,
C channels, H and W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from PIL import Image
from torch import Tensor

from patchkin.config import to_plain
from patchkin.data.config import DataConfig
from patchkin.data.domains import DomainBatch, DomainFiles, domain_images, find_domain_files
from patchkin.data.layouts import Domains, find_domains
from patchkin.data.toy import domain_mask_file, domain_truth_file
from patchkin.errors import ConfigError, DataError, nearest
from patchkin.images import ValueRange, image_grid, safe_levels, to_uint8
from patchkin.method import Method, StyledMethod
from patchkin.metrics.content import mean_change, relation_change, translation_warnings
from patchkin.metrics.counterpart import score_against_counterpart
from patchkin.metrics.diversity import diversity_scores, output_distances
from patchkin.metrics.extractors import Extractor, SqueezeNetExtractor, make_extractor
from patchkin.metrics.perceptual import PerceptualDistance
from patchkin.metrics.protocols import Protocol, find_protocol
from patchkin.metrics.statistics import Statistics, cached_statistics, compare
from patchkin.metrics.statistics import output_statistics as statistics_of_outputs
from patchkin.randomness import SeededDraws, derive_seed
from patchkin.scoring.evaluate import EvaluationConfig, Result, evaluate
from patchkin.translation.translator import Translator

Mode: TypeAlias = Literal["latent", "reference"]
Scores: TypeAlias = dict[str, float]
Styles: TypeAlias = Callable[[int, int], Tensor]
"""Target domain, number of images -> their styles [B, S]; others at every call."""

MODES: tuple[Mode, ...] = ("latent", "reference")
BATCH_SIZE = 32
"""Images of a batch of StarGAN v2's evaluation; what it reports is a mean over batches."""
_CHUNK = 8
"""Images translated at once; no effect on the scores."""
_DIVERSE_PROTOCOL = "stargan-v2"
_COUNTERPART = ("tone_inside", "detail_distance", "change_outside")
"""Scores that are also told for each target domain during training."""
_GALLERY_IMAGES = 2


def is_multi_domain(method: Method) -> bool:
    """Whether a method learns from images of several domains."""
    return isinstance(method, StyledMethod) and method.batch_type is DomainBatch


def evaluate_styles(
    translator: Translator,
    data: DataConfig,
    config: EvaluationConfig,
    *,
    model: str = "",
    samples: int | None = None,
) -> Result:
    """Score a model of a `StyledMethod` on the held-out images of a set.

    Args:
        translator: the model.
        data: the set; of several domains only `root` matters. Images are brought to the size that
            the model was trained at.
        config: what to score. With the protocol `stargan-v2`, LPIPS is that of AlexNet unless
            another is named; with other protocols it is scored if it is named.
        model: where the translator came from, for the result.
        samples: outputs per image; by default those of the protocol.

    Raises:
        DataError: as `evaluate`; or a domain that the model knows is missing.
        ConfigError: as `evaluate`; fewer than 2 samples; scores that one translation per image
            has and several do not.
    """
    if samples is not None and samples < 2:
        raise ConfigError(f"`--samples` must be at least 2 to differ; got {samples}.")
    if is_multi_domain(translator.method):
        return _evaluate_domains(translator, data, config, model=model, samples=samples)
    result = evaluate(translator, data, config, model=model)
    if samples is None:
        return result
    if config.lpips is None:
        raise ConfigError("--samples are compared by LPIPS; name its backbone: --lpips alex.")
    perceptual = PerceptualDistance(config.lpips, weights=config.lpips_weights)
    domains = find_domains(data)
    held_out = domains.test_a if config.split == "test" else domains.val_a
    inputs_NCHW = domain_images(held_out, size=_size(translator), channels=translator.channels[0])
    styles = LatentStyles(translator, seed=0)
    task = score_outputs(
        outputs_of(translator, inputs_NCHW, styles, 0, samples), inputs_NCHW, perceptual=perceptual
    )
    diversity = {name: task.scores[name] for name in task.scores if name != "change"}
    return replace(result, scores=result.scores | diversity)


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
        saved_KCHW = _as_images(levels[-1])
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
    warnings = translation_warnings(_as_images(levels_NKCHW[:, 0]), inputs_NCHW)
    return Task(scores, levels_NKCHW, warnings)


def counterpart_scores(
    levels_NKCHW: Tensor, inputs_NCHW: Tensor, paths: Sequence[Path], target: str
) -> Scores:
    """Against the hidden truths of the toy set; nothing for other sets.

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
    truths_NCHW = domain_images(truths, size=size, channels=channels)
    masks_NHW = domain_images(masks, size=size, channels=1)[:, 0] > 0
    rows = [
        score_against_counterpart(output_CHW, input_CHW, truth_CHW, mask_HW)
        for outputs_KCHW, input_CHW, truth_CHW, mask_HW in zip(
            _as_images(levels_NKCHW), inputs_NCHW, truths_NCHW, masks_NHW, strict=True
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


def _as_images(levels: Tensor) -> Tensor:
    return levels.float() / 127.5 - 1


def mean_over(tasks: Iterable[Scores]) -> Scores:
    """Unweighted mean over pairs of domains, of what every pair has."""
    tasks = list(tasks)
    names = [name for name in tasks[0] if all(name in task for task in tasks)]
    return {name: sum(task[name] for task in tasks) / len(tasks) for name in names}


# A trained model


def _evaluate_domains(
    translator: Translator,
    data: DataConfig,
    config: EvaluationConfig,
    *,
    model: str,
    samples: int | None,
) -> Result:
    _refuse_scores_of_pairs(config)
    files = _known_domains(translator, find_domain_files(data))
    held_out = files.test if config.split == "test" else files.val
    if not held_out:
        raise DataError(f"`{data.root}` has no {config.split} images.")
    size = _size(translator)
    images = [
        domain_images(paths, size=size, channels=translator.channels[0]) for paths in held_out
    ]
    protocols = [find_protocol(name) for name in config.protocols]
    num_outputs = samples or max([2, *(protocol.outputs_per_input for protocol in protocols)])
    extractors = _extractors(protocols, config.weights)
    bound = [protocol.with_extractor(extractors[protocol.extractor]) for protocol in protocols]
    real = _RealStatistics(files, held_out, bound, extractors)
    net = config.lpips or ("alex" if _DIVERSE_PROTOCOL in config.protocols else None)
    perceptual = PerceptualDistance(net, weights=config.lpips_weights) if net else None
    styles = styles_by_mode(translator, images, seed=protocols[0].seed if protocols else 0)
    tasks: dict[str, Scores] = {}
    shown: dict[tuple[Mode, int, int], Tensor] = {}
    warnings: list[str] = []
    for mode in MODES:
        for source, target in permutations(range(len(files.names)), 2):
            name = f"{files.names[source]}2{files.names[target]}"
            outputs = outputs_of(translator, images[source], styles[mode], target, num_outputs)
            task = score_outputs(outputs, images[source], perceptual=perceptual)
            scores = task.scores | _content(task, images[source], extractors)
            for protocol in bound:
                scores |= real.distances(protocol, target, task, held_out[source])
            scores |= counterpart_scores(
                task.levels_NKCHW, images[source], held_out[source], files.names[target]
            )
            tasks[f"{mode}/{name}"] = scores
            shown[mode, source, target] = task.levels_NKCHW[:_GALLERY_IMAGES, 0]
            warnings += [f"{mode} {name}: {warning}" for warning in task.warnings]
    header = translator.header
    return Result(
        scores={
            f"{mode}/{name}": value
            for mode in MODES
            for name, value in mean_over(
                scores for task_name, scores in tasks.items() if task_name.startswith(mode)
            ).items()
        },
        tasks=tasks,
        warnings=tuple(warnings),
        protocols={protocol.name: to_plain(protocol) for protocol in bound},
        subject={
            "model": model,
            "method": translator.method.name,
            "step": header.step if header is not None else None,
        },
        data={
            "root": data.root,
            "direction": "all pairs",
            "split": config.split,
            "domains": list(files.names),
            "size": size,
            "counts": {
                "inputs": sum(map(len, held_out)),
                "outputs_per_input": num_outputs,
                **real.counts(),
            },
        },
        evaluation=to_plain(replace(config, lpips=net)),
        gallery=_gallery(files.names, images, shown),
    )


def _refuse_scores_of_pairs(config: EvaluationConfig) -> None:
    for name in ("classes", "masks", "judge"):
        if getattr(config, name):
            raise ConfigError(f"`{name}` is a score of two domains; this model has several.")


def _known_domains(translator: Translator, files: DomainFiles) -> DomainFiles:
    """The files in the order of the model's domains.

    Raises:
        DataError: one is missing, or the numbers differ where the model knows no names.
    """
    names = translator.domains or files.names
    number = translator.styled.num_domains
    if len(names) != number:
        raise DataError(
            f"The model has {number} domains, the data {len(names)}: {', '.join(names)}."
        )
    for name in names:
        if name not in files.names:
            raise DataError(
                f"The model translates into `{name}`, which the data does not have. "
                f"{nearest(name, files.names)}"
            )
    order = [files.names.index(name) for name in names]

    def ordered(split: tuple[tuple[Path, ...], ...]) -> tuple[tuple[Path, ...], ...]:
        return tuple(split[place] for place in order) if split else ()

    return replace(
        files,
        names=tuple(names),
        train=ordered(files.train),
        val=ordered(files.val),
        test=ordered(files.test),
    )


def _size(translator: Translator) -> int:
    return translator.header.size if translator.header is not None else 256


def _extractors(protocols: Sequence[Protocol], weights: Path | None) -> dict[str, Extractor]:
    names = dict.fromkeys(protocol.extractor for protocol in protocols)
    return {name: make_extractor(name, weights) for name in names}


class _RealStatistics:
    """Statistics of the real images, once for each domain and protocol."""

    def __init__(
        self,
        files: DomainFiles,
        held_out: Sequence[tuple[Path, ...]],
        protocols: Sequence[Protocol],
        extractors: dict[str, Extractor],
    ) -> None:
        self._extractors = extractors
        self._names = files.names
        self._known: dict[tuple[str, int], Statistics] = {}
        for protocol in protocols:
            for domain in range(len(files.names)):
                real = protocol.real_files(
                    Domains(train_a=(), train_b=files.train[domain], test_b=held_out[domain])
                )
                self._known[protocol.name, domain] = cached_statistics(
                    real, protocol, extractors[protocol.extractor]
                )

    def distances(
        self, protocol: Protocol, target: int, task: Task, sources: Sequence[Path]
    ) -> Scores:
        """Of all outputs of a pair of domains to the real images of its target."""
        outputs = (
            (f"{path.stem}_{index:02d}", safe_levels(levels_CHW))
            for path, levels_KCHW in zip(sources, task.levels_NKCHW, strict=True)
            for index, levels_CHW in enumerate(levels_KCHW)
        )
        found = statistics_of_outputs(outputs, protocol, self._extractors[protocol.extractor])
        distances = compare(self._known[protocol.name, target], found)
        return {
            f"{protocol.name}/frechet": distances.frechet,
            f"{protocol.name}/kernel": distances.kernel,
        }

    def counts(self) -> dict[str, int]:
        """Real images, by protocol and domain."""
        return {
            f"{protocol}/real/{self._names[domain]}": len(statistics)
            for (protocol, domain), statistics in self._known.items()
        }


def _content(task: Task, inputs_NCHW: Tensor, extractors: dict[str, Extractor]) -> Scores:
    """Relation consistency of the first output of each image, where an extractor has maps."""
    extractor = next((e for e in extractors.values() if isinstance(e, SqueezeNetExtractor)), None)
    if extractor is None:
        return {}
    changes = [
        relation_change(
            extractor.feature_map(levels_KCHW[:1].expand(-1, 3, -1, -1)),
            extractor.feature_map((input_CHW[None].expand(-1, 3, -1, -1) + 1) * 127.5),
        )
        for levels_KCHW, input_CHW in zip(task.levels_NKCHW, inputs_NCHW, strict=True)
    ]
    return {"relation_change": float(torch.cat([change.reshape(1) for change in changes]).mean())}


def _gallery(
    names: Sequence[str], images: Sequence[Tensor], shown: dict[tuple[Mode, int, int], Tensor]
) -> Image.Image:
    """The first images of each domain, and their first latent and reference outputs."""
    rows = []
    for source in range(len(names)):
        for index in range(min(_GALLERY_IMAGES, len(images[source]))):
            row = [images[source][index]]
            for target in range(len(names)):
                for mode in MODES:
                    if target == source:
                        row.append(torch.ones(3, 4, 4))
                    else:
                        row.append(_as_images(shown[mode, source, target][index]))
            rows.append(row)
    captions = ["input", *(f"{name} {mode[:3]}." for name in names for mode in MODES)]
    return image_grid(rows, captions)


# During training


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
        real = cached_statistics(self.paths[target], self.protocol, self.extractor)
        outputs = ((str(i), safe_levels(image)) for i, image in enumerate(torch.cat(list(levels))))
        found = statistics_of_outputs(outputs, self.protocol, self.extractor)
        return {f"{self.protocol.name}/frechet": compare(real, found).frechet}
