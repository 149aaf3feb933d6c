"""`patchkin evaluate MODEL --data ROOT`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from patchkin.checkpoint import CheckpointStore, find_model
from patchkin.cli.parsing import parse
from patchkin.data.config import DataConfig
from patchkin.devices import Device, Precision
from patchkin.errors import ConfigError
from patchkin.evaluation import (
    SCORES_FILE,
    EvaluationConfig,
    Result,
    as_plain,
    evaluate,
    write_result,
)
from patchkin.images import is_image_file, write_pillow
from patchkin.method import Method, StyledMethod
from patchkin.metrics.perceptual import PerceptualNet
from patchkin.networks.drn import DRNName
from patchkin.report import write_report
from patchkin.style_evaluation import evaluate_styles
from patchkin.translator import Translator


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of `evaluate`."""

    model: tyro.conf.Positional[Path]
    """A run folder, a checkpoint folder or a .safetensors file; or a folder of translations."""
    data: str = "toy"
    """The set: its held-out source images are translated, its target images compared with."""
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """Which domain is translated into which."""
    protocol: tuple[str, ...] = ("pytorch-fid",)
    """How images become scores; several may be named. Without a name after it: only the scores that
    need no weights."""
    weights: Path | None = None
    """File of the extractor's weights, instead of a download."""
    split: Literal["test", "val"] = "test"
    """Held-out images to translate."""
    classes: tuple[int, ...] = ()
    """Classes of ImageNet that outputs should be taken for (340: zebra)."""
    masks: Path | None = None
    """Folder of masks with the stems of the inputs: white where the change belongs."""
    samples: int | None = None
    """Translations of each image in other styles, for methods that have styles; their diversity is
    scored by LPIPS. With several domains by default as many as the protocol says."""
    lpips: PerceptualNet | None = None
    """Backbone of LPIPS, for the mode collapse score and the diversity of styles."""
    lpips_weights: Path | None = None
    """File of that backbone's weights, instead of a download."""
    judge: DRNName | None = None
    """Segmentation network that reads translations of Cityscapes label maps."""
    judge_weights: Path | None = None
    """File of its weights, instead of a download."""
    which: Literal["last", "best", "all"] = "last"
    """Checkpoints of a run folder: the last, the best on validation, or each that is kept."""
    output: Path | None = None
    """File that results are added to; by default scores.json in the run folder."""
    device: Device = "auto"
    """Where to compute."""
    precision: Precision = "32-true"
    """Of the network that translates."""
    json: bool = False
    """Print one JSON object."""


def run(arguments: Sequence[str], methods: Mapping[str, type[Method]]) -> int:
    """Score as the arguments say."""
    options = parse(
        EvaluateOptions,
        arguments,
        prog="patchkin evaluate",
        about="Score a model by a named protocol.",
    )
    config = EvaluationConfig(
        protocols=options.protocol,
        split=options.split,
        weights=options.weights,
        classes=options.classes,
        masks=options.masks,
        lpips=options.lpips,
        lpips_weights=options.lpips_weights,
        judge=options.judge,
        judge_weights=options.judge_weights,
    )
    results = []
    for subject, name in _subjects(options, methods):
        data = _data(options, subject)
        results.append(_evaluated(subject, data, config, name, options.samples))
        target = _target(options)
        if target is not None:
            write_result(results[-1], target)
            _write_gallery(results[-1], target.parent)
    if CheckpointStore(options.model).steps():
        write_report(options.model)
    if options.json:
        print(json.dumps({"results": [as_plain(result) for result in results]}))
        return 0
    for result in results:
        _tell(result)
    return 0


def _evaluated(
    subject: Translator | Path,
    data: DataConfig,
    config: EvaluationConfig,
    name: str,
    samples: int | None,
) -> Result:
    if isinstance(subject, Translator) and isinstance(subject.method, StyledMethod):
        return evaluate_styles(subject, data, config, model=name, samples=samples)
    if samples is not None:
        what = subject if isinstance(subject, Path) else f"the method {subject.method.name}"
        raise ConfigError(
            f"--samples compares translations in several styles, and `{what}` has one per image."
        )
    return evaluate(subject, data, config, model=name)


def _subjects(
    options: EvaluateOptions, methods: Mapping[str, type[Method]]
) -> list[tuple[Translator | Path, str]]:
    folder = options.model
    holds_images = folder.is_dir() and any(is_image_file(path) for path in folder.iterdir())
    if holds_images and not CheckpointStore(folder).steps():
        return [(folder, str(folder))]
    if options.which == "all":
        store = CheckpointStore(folder)
        paths = [store.path(step) for step in store.steps()] or [find_model(folder)]
    else:
        paths = [find_model(folder, which=options.which)]
    return [
        (
            Translator.load(
                path, methods=methods, device=options.device, precision=options.precision
            ),
            str(options.model),
        )
        for path in paths
    ]


def _data(options: EvaluateOptions, subject: Translator | Path) -> DataConfig:
    header = subject.header if isinstance(subject, Translator) else None
    size = header.size if header is not None else 256
    return DataConfig(root=options.data, direction=options.direction, size=size)


def _target(options: EvaluateOptions) -> Path | None:
    if options.output is not None:
        return options.output
    return options.model / SCORES_FILE if CheckpointStore(options.model).steps() else None


def _write_gallery(result: Result, folder: Path) -> None:
    if result.gallery is not None:
        step = result.subject.get("step")
        name = "outputs" if step is None else f"step_{step:08d}"
        write_pillow(folder / "evaluation" / f"{name}_{result.data['split']}.png", result.gallery)


def _tell(result: Result) -> None:
    subject = result.subject.get("folder") or result.subject["model"]
    step = result.subject.get("step")
    print(f"{subject}{'' if step is None else f', step {step}'}")
    counts = result.data["counts"]
    print(f"  data: {result.data['root']}, {result.data['split']}, {counts['inputs']} inputs")
    for name, value in result.scores.items():
        print(f"  {name:<28} {value:>12.5g}")
    for warning in result.warnings:
        print(f"patchkin: warning: {warning}", file=sys.stderr)
