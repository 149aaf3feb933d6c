"""`patchkin evaluate MODEL --data ROOT`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from patchkin.cli.parsing import parse
from patchkin.config import flag, shown
from patchkin.data.config import DataConfig
from patchkin.devices import Device, Precision, take_accelerator
from patchkin.errors import ConfigError
from patchkin.images import write_pillow
from patchkin.images.folders import find_images
from patchkin.method import Method, StyledMethod
from patchkin.metrics.perceptual import PerceptualNet
from patchkin.networks.drn import DRNName
from patchkin.parallel.processes import in_processes
from patchkin.parallel.shards import Shard, chosen_shard, local_number
from patchkin.scoring.evaluate import EvaluationConfig, evaluate, evaluate_part
from patchkin.scoring.report import write_report
from patchkin.scoring.results import SCORES_FILE, Result, as_plain, write_result
from patchkin.scoring.styles import evaluate_styles, is_multi_domain
from patchkin.storage.checkpoint import MODEL_FILE, CheckpointStore, find_model
from patchkin.translation.translator import Translator


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of `evaluate`."""

    model: Annotated[tyro.conf.Positional[Path], shown("MODEL")]
    """A run folder, a checkpoint folder or a .safetensors file; or a folder of translations."""
    data: str = "toy"
    """The set: its held-out source images are translated, its target images compared with."""
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """Which domain is translated into which."""
    value_range: tuple[float, float] | None = None
    """Values that are black and white in files of more than 8 bits (12 bits: 0 4095), where a model
    does not know them, or translations come from a folder."""
    value_range_a: tuple[float, float] | None = None
    """Instead of `value_range`, in the files of domain A."""
    value_range_b: tuple[float, float] | None = None
    """Instead of `value_range`, in the files of domain B, and in those of a folder of translations
    into it."""
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
    keep: Path | None = None
    """Folder that keeps translations and features, so that an interrupted evaluation goes on."""
    shard: str | None = None
    """Only translate and compute features of one part, such as 2/8, for a later call with the same
    --keep. `torchrun` and Slurm's `srun` are recognised and need no part here; 1/1 is all."""
    processes: int = 1
    """Processes of this machine that share that work; needs --keep."""
    output: Annotated[Path | None, flag("-o")] = None
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
    if options.processes < 1:
        raise ConfigError(f"`--processes` must be at least 1; got {options.processes}.")
    shard = chosen_shard(options.shard)
    if options.keep is None and (options.processes > 1 or not shard.is_all):
        raise ConfigError(
            "Processes share an evaluation through a folder: add --keep FOLDER, the same for all "
            "of them."
        )
    if options.processes > 1 or not shard.is_all:
        translated = _share(options, methods, config, shard)
        if not shard.is_all:
            _tell_part(options, shard, translated)
            return 0
    results = []
    for subject, name in _subjects(options, methods):
        data = _data(options, subject)
        results.append(_evaluated(subject, data, config, name, options))
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
    options: EvaluateOptions,
) -> Result:
    samples, keep = options.samples, options.keep
    if keep is not None:
        _check_one_each(subject, samples)
        return evaluate(subject, data, config, model=name, keep=keep)
    if isinstance(subject, Translator) and isinstance(subject.method, StyledMethod):
        return evaluate_styles(subject, data, config, model=name, samples=samples)
    if samples is not None:
        what = subject if isinstance(subject, Path) else f"the method {subject.method.name}"
        raise ConfigError(
            f"--samples compares translations in several styles, and `{what}` has one per image."
        )
    return evaluate(subject, data, config, model=name)


def _check_one_each(subject: Translator | Path, samples: int | None) -> None:
    """What is kept is one translation of each image."""
    several = isinstance(subject, Translator) and is_multi_domain(subject.method)
    if several or samples is not None:
        raise ConfigError(
            "--keep, --shard and --processes are for one translation of each image; leave out "
            f"{'them' if several else '--samples'}."
        )


def _share(
    options: EvaluateOptions,
    methods: Mapping[str, type[Method]],
    config: EvaluationConfig,
    shard: Shard,
) -> int:
    """A part by `options.processes`: how many images they translated."""
    if options.processes == 1:
        return _fill(options, methods, config, shard, 1)
    threads = max(1, torch.get_num_threads() // options.processes)
    work = partial(_fill, options, methods, config, shard)
    return sum(in_processes(work, options.processes, threads=threads))


def _fill(
    options: EvaluateOptions,
    methods: Mapping[str, type[Method]],
    config: EvaluationConfig,
    shard: Shard,
    number: int,
    _: Callable[[object], None] = lambda _: None,
) -> int:
    """The work of process `number` of `options.processes`: how many images it translated."""
    assert options.keep is not None
    take_accelerator(options.device, local_number() * options.processes + number - 1)
    mine = shard.divided(number, options.processes)
    translated = 0
    for subject, _name in _subjects(options, methods):
        _check_one_each(subject, options.samples)
        data = _data(options, subject)
        translated += evaluate_part(subject, data, config, keep=options.keep, shard=mine)
    return translated


def _subjects(
    options: EvaluateOptions, methods: Mapping[str, type[Method]]
) -> list[tuple[Translator | Path, str]]:
    folder = options.model
    has_model = CheckpointStore(folder).steps() or (folder / MODEL_FILE).is_file()
    if folder.is_dir() and not has_model and find_images(folder).files:
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
    return DataConfig(
        root=options.data,
        direction=options.direction,
        size=header.size if header is not None else 256,
        value_range=options.value_range,
        value_range_a=options.value_range_a,
        value_range_b=options.value_range_b,
    )


def _target(options: EvaluateOptions) -> Path | None:
    if options.output is not None:
        return options.output
    return options.model / SCORES_FILE if CheckpointStore(options.model).steps() else None


def _write_gallery(result: Result, folder: Path) -> None:
    if result.gallery is not None:
        step = result.subject.get("step")
        name = "outputs" if step is None else f"step_{step:08d}"
        write_pillow(folder / "evaluation" / f"{name}_{result.data['split']}.png", result.gallery)


def _tell_part(options: EvaluateOptions, shard: Shard, translated: int) -> None:
    if options.json:
        summary = {"shard": str(shard), "kept": str(options.keep), "translated": translated}
        print(json.dumps(summary))
    print(
        f"part {shard} is in {options.keep}, {translated} images translated now; when all parts "
        "are, the same command with --shard 1/1 gives the scores",
        file=sys.stderr,
    )


def _tell(result: Result) -> None:
    subject = result.subject.get("folder") or result.subject["model"]
    step = result.subject.get("step")
    print(f"{subject}{'' if step is None else f', step {step}'}")
    for maker in result.subject.get("made_by", ()):
        made = f"{maker['model']} ({maker['method']}, step {maker['step']}, {maker['weights']})"
        print(f"  made by: {made}, {maker['files']} files")
    counts = result.data["counts"]
    print(f"  data: {result.data['root']}, {result.data['split']}, {counts['inputs']} inputs")
    for name, value in result.scores.items():
        print(f"  {name:<28} {value:>12.5g}")
    for warning in result.warnings:
        print(f"patchkin: warning: {warning}", file=sys.stderr)
