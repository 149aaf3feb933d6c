"""Scores of methods whose translations have a style.

Of several domains, as StarGAN v2 (Choi et al., CVPR 2020) defines them: for each ordered pair of
domains, 10 translations of every held-out image of the one into the other, in latent styles and in
those of references (`tasks`). Scored are the Frechet distance of all outputs of a pair to the
target's training images, and diversity: the mean LPIPS of the 45 pairs of outputs of an image, of
unclamped outputs. Both are averaged over the pairs of domains. Between two domains, the ordinary
scores (`evaluate`) and the diversity.

Shape suffixes: N images, K outputs per image, B images of a batch, S entries of a style,
C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from patchkin.config import to_plain
from patchkin.data.config import DataConfig
from patchkin.data.domains import (
    DomainBatch,
    DomainFiles,
    Images,
    ImagesInFiles,
    find_domain_files,
)
from patchkin.data.layouts import Domains
from patchkin.devices import choose_device
from patchkin.errors import ConfigError, DataError, nearest
from patchkin.images import ValueRange, image_grid
from patchkin.method import Method, StyledMethod
from patchkin.metrics.collecting import Statistics
from patchkin.metrics.extractors import Extractor, make_extractor
from patchkin.metrics.perceptual import PerceptualDistance, PerceptualNet
from patchkin.metrics.protocols import Protocol, find_protocol
from patchkin.metrics.statistics import cached_statistics
from patchkin.scoring.distances import recorded, telling
from patchkin.scoring.evaluate import EvaluationConfig, evaluate
from patchkin.scoring.held_out import find_held_out, told_split
from patchkin.scoring.results import Result
from patchkin.scoring.scores import Scores
from patchkin.scoring.settings import Progress, silent
from patchkin.scoring.subjects import described_model
from patchkin.scoring.tasks import (
    MODES,
    ChangeScore,
    DomainTruthScore,
    LatentStyles,
    Made,
    Mode,
    RealDistance,
    RelationScore,
    mean_over,
    outputs_of,
    scored,
    styles_by_mode,
)
from patchkin.translation.translator import Translator

_DIVERSE_PROTOCOL = "stargan-v2"
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
    progress: Progress = silent,
) -> Result:
    """Score a model of a `StyledMethod` on the held-out images of a set.

    Args:
        translator: the model.
        data: the set; of several domains only `root` matters. Images are brought
            to the size that the model was trained at.
        config: what to score. With the protocol `stargan-v2`, LPIPS is that of AlexNet unless
            another is named; with other protocols it is scored if it is named.
        model: where the translator came from, for the result.
        samples: outputs per image; by default those of the protocol.
        progress: for a progress bar.

    Raises:
        DataError: as `evaluate`; or a domain that the model knows is missing.
        ConfigError: as `evaluate`; fewer than 2 samples; scores that one translation per image
            has and several do not.
    """
    if samples is not None and samples < 2:
        raise ConfigError(f"`--samples` must be at least 2 to differ; got {samples}.")
    if is_multi_domain(translator.method):
        return _evaluate_domains(
            translator, data, config, model=model, samples=samples, progress=progress
        )
    result = evaluate(translator, data, config, model=model, progress=progress)
    if samples is None:
        return result
    if config.lpips is None:
        raise ConfigError("--samples are compared by LPIPS; name its backbone: --lpips alex.")
    perceptual = _perceptual(config.lpips, config)
    inputs = _images(translator, find_held_out(data, config.split).inputs.files)
    styles = LatentStyles(translator, seed=0)
    diversity = scored(
        _counted(
            outputs_of(translator, inputs, styles, 0, samples),
            telling(progress, "styles", len(inputs)),
        ),
        [ChangeScore(perceptual)],
    )
    diversity.pop("change", None)
    return replace(result, scores=result.scores | diversity)


def _images(translator: Translator, paths: Sequence[Path]) -> ImagesInFiles:
    """Files as the model takes them, at the size that it was trained at."""
    return ImagesInFiles(
        paths, _size(translator), translator.channels[0], translator.value_ranges[0]
    )


def _evaluate_domains(
    translator: Translator,
    data: DataConfig,
    config: EvaluationConfig,
    *,
    model: str,
    samples: int | None,
    progress: Progress,
) -> Result:
    _refuse_scores_of_pairs(config)
    files = _known_domains(translator, find_domain_files(data))
    held_out = files.test if config.split == "test" else files.val
    if not held_out:
        raise DataError(f"`{data.root}` has no {config.split} images.")
    split, told = told_split(config.split, test=files.test, val=files.val)
    images = [_images(translator, paths) for paths in held_out]
    of_real = translator.value_ranges[1]
    protocols = [find_protocol(name) for name in config.protocols]
    num_outputs = samples or max([2, *(protocol.outputs_per_input for protocol in protocols)])
    extractors = _extractors(protocols, config)
    bound = [protocol.with_extractor(extractors[protocol.extractor]) for protocol in protocols]
    real = _RealStatistics(files, held_out, bound, extractors, of_real)
    net = config.lpips or ("alex" if _DIVERSE_PROTOCOL in config.protocols else None)
    perceptual = _perceptual(net, config) if net else None
    styles = styles_by_mode(translator, images, seed=protocols[0].seed if protocols else 0)
    tasks: dict[str, Scores] = {}
    shown: dict[tuple[Mode, int, int], list[Tensor]] = {}
    warnings: list[str] = []
    for mode in MODES:
        for source, target in permutations(range(len(files.names)), 2):
            name = f"{files.names[source]}2{files.names[target]}"
            outputs = outputs_of(translator, images[source], styles[mode], target, num_outputs)
            change, first = ChangeScore(perceptual), _FirstOutputs()
            tasks[f"{mode}/{name}"] = scored(
                _counted(outputs, telling(progress, f"{mode} {name}", len(images[source]))),
                [
                    change,
                    RelationScore(extractors),
                    *(real.distance(protocol, target) for protocol in bound),
                    DomainTruthScore(held_out[source], files.names[target], value_range=of_real),
                    first,
                ],
            )
            shown[mode, source, target] = first.images
            warnings += [f"{mode} {name}: {warning}" for warning in change.warnings]
    return Result(
        scores={
            f"{mode}/{name}": value
            for mode in MODES
            for name, value in mean_over(
                scores for task_name, scores in tasks.items() if task_name.startswith(mode)
            ).items()
        },
        tasks=tasks,
        warnings=told + tuple(warnings),
        protocols={protocol.name: recorded(protocol, rounds="nearest") for protocol in bound},
        subject=described_model(translator, model),
        data={
            "root": data.root,
            "direction": "all pairs",
            "split": split,
            **({"value_ranges": list(ranges)} if any(ranges := translator.value_ranges) else {}),
            "domains": list(files.names),
            "size": _size(translator),
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
    return max(translator.header.height_width) if translator.header is not None else 256


def _extractors(protocols: Sequence[Protocol], config: EvaluationConfig) -> dict[str, Extractor]:
    names, device = (p.extractor for p in protocols), choose_device(config.device)
    return {
        name: make_extractor(name, config.extractor_weights, device=device)
        for name in dict.fromkeys(names)
    }


def _perceptual(net: PerceptualNet, config: EvaluationConfig) -> PerceptualDistance:
    device = choose_device(config.device)
    return PerceptualDistance(net, weights=config.lpips_weights, device=device)


class _RealStatistics:
    """Statistics of the real images, once for each domain and protocol."""

    def __init__(
        self,
        files: DomainFiles,
        held_out: Sequence[tuple[Path, ...]],
        protocols: Sequence[Protocol],
        extractors: dict[str, Extractor],
        value_range: ValueRange | None,
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
                    real, protocol, extractors[protocol.extractor], value_range=value_range
                )

    def distance(self, protocol: Protocol, target: int) -> RealDistance:
        """For all outputs of a pair of domains, to the real images of its target."""
        extractor = self._extractors[protocol.extractor]
        return RealDistance(protocol, extractor, self._known[protocol.name, target])

    def counts(self) -> dict[str, int]:
        """Real images, by protocol and domain."""
        return {
            f"{protocol}/real/{self._names[domain]}": len(statistics)
            for (protocol, domain), statistics in self._known.items()
        }


def _counted(made: Iterable[Made], tell: Callable[[int], None]) -> Iterator[Made]:
    for number, each in enumerate(made, start=1):
        yield each
        tell(number)


class _FirstOutputs:
    """Keeps those of the first inputs for the gallery."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []

    def add(self, made: Made) -> None:
        """See `OutputScore`."""
        if len(self.images) < _GALLERY_IMAGES:
            self.images.append(made.saved_KCHW[0])

    def scores(self) -> Scores:
        """None; see `images`."""
        return {}


def _gallery(
    names: Sequence[str], images: Sequence[Images], shown: dict[tuple[Mode, int, int], list[Tensor]]
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
                        row.append(shown[mode, source, target][index])
            rows.append(row)
    captions = ["input", *(f"{name} {mode[:3]}." for name in names for mode in MODES)]
    return image_grid(rows, captions)
