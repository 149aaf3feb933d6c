"""`patchkin evaluate MODEL [--data ROOT]`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.progress import TaskID

from patchkin.cli.parsing import MaxPixels, parse, refuse_files_as_weights
from patchkin.cli.printing import print_json, progress_bar
from patchkin.config import flag, shown
from patchkin.data.config import DataConfig
from patchkin.data.paired import PairedBatch
from patchkin.devices import Device, Precision, return_freed_memory, take_accelerator
from patchkin.errors import ConfigError, DownloadError
from patchkin.images import write_pillow
from patchkin.images.folders import find_images
from patchkin.images.limits import allow_pixels
from patchkin.method import Direction, Method, StyledMethod
from patchkin.metrics.perceptual import PerceptualNet
from patchkin.networks.drn import DRNName
from patchkin.parallel.processes import in_processes
from patchkin.parallel.shards import Shard, chosen_shard, local_number
from patchkin.scoring.evaluate import EvaluationConfig, evaluate, evaluate_part
from patchkin.scoring.held_out import find_held_out
from patchkin.scoring.own_data import (
    configured_data,
    names_of_own_data,
    own_data,
    run_of,
)
from patchkin.scoring.report import write_report
from patchkin.scoring.results import (
    SCORES_FILE,
    Result,
    as_plain,
    digest_of,
    result_key,
    write_result,
)
from patchkin.scoring.seen import tell_trained
from patchkin.scoring.settings import Progress
from patchkin.scoring.styles import evaluate_styles, is_multi_domain
from patchkin.scoring.two_folders import compare_folders
from patchkin.storage.checkpoint import MODEL_FILE, CheckpointStore, find_model
from patchkin.translation.translator import Translator


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of `evaluate`."""

    model: Annotated[tyro.conf.Positional[Path], shown("MODEL")]
    """A run folder, a checkpoint folder or a .safetensors file; or a folder of translations."""
    data: str | None = None
    """The set: its held-out source images are translated, its target images compared with. By
    default the one that the run was trained on."""
    source: Annotated[str | None, tyro.conf.arg(name="data.source")] = None
    """With --data.target, instead of --data: folder of images that are all translated."""
    target: Annotated[str | None, tyro.conf.arg(name="data.target")] = None
    """Folder of real images that all are compared with."""
    against: Path | None = None
    """Compare a folder of images with this folder of images, by the protocols alone."""
    truth: Path | None = None
    """Folder with what each translation should be, named as the inputs: PSNR, SSIM, and LPIPS with
    --lpips. The other halves of side-by-side pairs are found without it."""
    direction: Direction | None = None
    """Which domain is translated into which; by default as the run was trained, else AtoB. The
    other direction takes the way back of methods that have one."""
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
    weights: Literal["averaged", "live"] = "averaged"
    """Averaged weights if the model has them, or the live ones."""
    extractor_weights: Path | None = None
    """File of the extractor's weights, instead of a download."""
    split: Literal["test", "val"] = "test"
    """Held-out images to translate."""
    classes: tuple[int, ...] = ()
    """Classes of ImageNet that outputs should be taken for (340: zebra)."""
    masks: Path | None = None
    """Folder of masks named as the inputs: white where the change belongs."""
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
    metric: tuple[str, ...] = ()
    """Metrics of installed packages, by name; see `patchkin doctor`."""
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
    """Where to translate, and where extractors, LPIPS and the judge compute."""
    precision: Precision = "32-true"
    """Of the network that translates."""
    max_pixels: MaxPixels = None
    batch_size: int = 1
    """Images of one size translated at once."""
    json: bool = False
    """Print one JSON object."""


def run(arguments: Sequence[str], methods: Mapping[str, type[Method]]) -> int:
    """Score as the arguments say."""
    refuse_files_as_weights(arguments)
    options = parse(
        EvaluateOptions,
        arguments,
        prog="patchkin evaluate",
        about="Score a model by a named protocol.",
    )
    config = EvaluationConfig(
        protocols=options.protocol,
        split=options.split,
        extractor_weights=options.extractor_weights,
        classes=options.classes,
        masks=options.masks,
        truth=options.truth,
        lpips=options.lpips,
        lpips_weights=options.lpips_weights,
        judge=options.judge,
        judge_weights=options.judge_weights,
        metrics=options.metric,
        batch_size=options.batch_size,
        device=options.device,
    )
    if options.against is not None:
        return _compare(options, config)
    if options.processes < 1:
        raise ConfigError(f"`--processes` must be at least 1; got {options.processes}.")
    return_freed_memory()  # large images, one after another
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
    with _shown() as progress:
        for subject, name in _subjects(options, methods):
            data = _data(options, subject)
            with _with_advice(options):
                result = _evaluated(
                    subject, data, config, name=name, options=options, progress=progress
                )
            results.append(_told(result, subject, data, options))
            target = _target(options)
            if target is not None:
                write_result(results[-1], target)
                _write_gallery(results[-1], target.parent, options)
    if CheckpointStore(options.model).steps():
        write_report(options.model)
    _print(results, options)
    return 0


@contextmanager
def _with_advice(options: EvaluateOptions) -> Iterator[None]:
    """Where weights cannot be fetched: the scores that need none."""
    try:
        yield
    except DownloadError as error:
        if not options.protocol:
            raise
        raise DownloadError(
            f"{error} `--protocol` with no name after it gives the scores that need no weights."
        ) from error


def _print(results: Sequence[Result], options: EvaluateOptions) -> None:
    if options.json:
        print_json({"results": [as_plain(result) for result in results]})
        return
    for result in results:
        _tell(result)


def _compare(options: EvaluateOptions, config: EvaluationConfig) -> int:
    """The distances between two plain folders."""
    assert options.against is not None
    given = [name for name in ("data", "source", "target", "direction") if getattr(options, name)]
    if given or options.keep is not None or options.samples is not None:
        raise ConfigError(
            "--against compares two folders of images, of which nothing else is known; leave out "
            "--data, --direction, --keep and --samples."
        )
    if not _is_of_images(options.model):
        raise ConfigError(
            f"--against compares two folders of images, and `{options.model}` is none; translate "
            "with the model first, or name real images with --data.source DIR --data.target DIR."
        )
    with _shown() as progress:
        result = compare_folders(
            options.model,
            options.against,
            config,
            value_range=options.value_range_b or options.value_range,
            progress=progress,
        )
    if options.output is not None:
        write_result(result, options.output)
    _print([result], options)
    return 0


@contextmanager
def _shown() -> Iterator[Progress]:
    """A progress bar on a terminal; nothing anywhere else."""
    with progress_bar() as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield show


def _evaluated(
    subject: Translator | Path,
    data: DataConfig,
    config: EvaluationConfig,
    *,
    name: str,
    options: EvaluateOptions,
    progress: Progress,
) -> Result:
    samples, keep = options.samples, options.keep
    if keep is not None:
        _check_one_each(subject, samples)
        return evaluate(subject, data, config, model=name, keep=keep, progress=progress)
    if isinstance(subject, Translator) and isinstance(subject.method, StyledMethod):
        if options.metric:
            raise ConfigError(
                "--metric scores one translation of each image, and this method has styles: "
                "translate with it, and evaluate the folder."
            )
        return evaluate_styles(
            subject, data, config, model=name, samples=samples, progress=progress
        )
    if samples is not None:
        what = subject if isinstance(subject, Path) else f"the method {subject.method.name}"
        raise ConfigError(
            f"--samples compares translations in several styles, and `{what}` has one per image."
        )
    return evaluate(subject, data, config, model=name, progress=progress)


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
    place = local_number() * options.processes + number - 1
    take_accelerator(options.device, place, options.precision)
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
    if _is_of_images(folder):
        return [(folder, str(folder))]
    if options.which == "all":
        store = CheckpointStore(folder)
        paths = [store.path(step) for step in store.steps()] or [find_model(folder)]
    else:
        paths = [find_model(folder, which=options.which)]
    return [(_loaded(path, options, methods), str(options.model)) for path in paths]


def _is_of_images(folder: Path) -> bool:
    has_model = CheckpointStore(folder).steps() or (folder / MODEL_FILE).is_file()
    return folder.is_dir() and not has_model and bool(find_images(folder).files)


def _loaded(
    path: Path, options: EvaluateOptions, methods: Mapping[str, type[Method]]
) -> Translator:
    """The model, on the way that the direction asks for."""
    load = partial(
        Translator.load,
        path,
        methods=methods,
        weights=options.weights,
        device=options.device,
        precision=options.precision,
    )
    translator = load()
    trained = _trained_direction(options)
    if options.direction in (None, trained or "AtoB"):
        return translator
    if "BtoA" in translator.method.directions:
        return load(direction="BtoA")
    if trained is not None:
        print(
            f"patchkin: warning: the model was trained {trained} and has no way back; with "
            f"--direction {options.direction} it is given images of the other domain",
            file=sys.stderr,
        )
    return translator


def _trained_direction(options: EvaluateOptions) -> Direction | None:
    """That of the run; None where there is none."""
    run = run_of(options.model)
    return None if run is None else configured_data(run).direction


def _data(options: EvaluateOptions, subject: Translator | Path) -> DataConfig:
    """The set that the options name, or else the run's own."""
    header = subject.header if isinstance(subject, Translator) else None
    settings: dict[str, Any] = {
        "direction": options.direction or _trained_direction(options) or "AtoB",
        "size": header.size if header is not None else 256,
        "load_size": None,
        "value_range": options.value_range,
        "value_range_a": options.value_range_a,
        "value_range_b": options.value_range_b,
    }
    if options.source is not None or options.target is not None:
        if options.data is not None:
            raise ConfigError("--data names one set, --data.source and --data.target two folders.")
        return DataConfig(source=options.source, target=options.target, **settings)
    if options.data is not None:
        return DataConfig(root=options.data, **settings)
    run = None if isinstance(subject, Path) else run_of(options.model)
    if run is None:
        what = "is a folder of translations" if isinstance(subject, Path) else "is no run"
        raise ConfigError(
            f"`{options.model}` {what} and does not say on which data it should be scored; name "
            "the set: --data ROOT"
            f"{', or another folder: --against DIR' if isinstance(subject, Path) else ''}."
        )
    own = own_data(run)
    if own.source is not None:
        raise ConfigError(
            f"`{run}` was trained on two folders, `{own.source}` and `{own.target}`, of which no "
            "image is held out; name others: --data.source DIR --data.target DIR, or --data ROOT."
        )
    if options.max_pixels is None:
        allow_pixels(own.max_pixels)
    return replace(own, max_images=None, **settings)


def _told(
    result: Result, subject: Translator | Path, data: DataConfig, options: EvaluateOptions
) -> Result:
    """With what is to be said of images that trained the model."""
    run = run_of(options.model)
    several = isinstance(subject, Translator) and is_multi_domain(subject.method)
    if run is None or several:
        return result
    paired = isinstance(subject, Translator) and subject.method.batch_type is PairedBatch
    return tell_trained(result, run, find_held_out(data, options.split, paired=paired).inputs.files)


def _target(options: EvaluateOptions) -> Path | None:
    if options.output is not None:
        return options.output
    return options.model / SCORES_FILE if CheckpointStore(options.model).steps() else None


def _write_gallery(result: Result, folder: Path, options: EvaluateOptions) -> None:
    if result.gallery is None:
        return
    step = result.subject.get("step")
    parts = ["outputs" if step is None else f"step_{step:08d}"]
    parts.append(result.data["split"].partition(",")[0])
    key = result_key(as_plain(result))
    run = run_of(options.model)
    own = run is not None and key["data"] in names_of_own_data(run)
    if not own or options.direction or options.weights == "live":  # beside those of the run itself
        parts.append(digest_of([key[name] for name in ("data", "direction", "weights")]))
    write_pillow(folder / "evaluation" / f"{'_'.join(parts)}.png", result.gallery)


def _tell_part(options: EvaluateOptions, shard: Shard, translated: int) -> None:
    if options.json:
        summary = {"shard": str(shard), "kept": str(options.keep), "translated": translated}
        print_json(summary)
    print(
        f"part {shard} is in {options.keep}, {translated} images translated now; when all parts "
        "are, the same command with --shard 1/1 gives the scores",
        file=sys.stderr,
    )


def _tell(result: Result) -> None:
    subject = result.subject.get("folder") or result.subject["model"]
    step = result.subject.get("step")
    weights = result.subject.get("weights")
    print(
        f"{subject}{'' if step is None else f', step {step}'}"
        f"{'' if weights is None else f', {weights} weights'}"
    )
    for maker in result.subject.get("made_by", ()):
        made = f"{maker['model']} ({maker['method']}, step {maker['step']}, {maker['weights']})"
        print(f"  made by: {made}, {maker['files']} files")
    counts = result.data["counts"]
    data = result.data
    direction = "" if data["direction"] is None else f", {data['direction']}"
    print(f"  data: {data['root']}{direction}, {counts['inputs']} inputs")
    print(f"  split: {data['split']}")
    for name, value in result.scores.items():
        print(f"  {name:<28} {value:>12.5g}")
    for warning in result.warnings:
        print(f"patchkin: warning: {warning}", file=sys.stderr)
