"""`patchkin compress distill TEACHER --data ROOT`, `search RUN`, `export RUN`, `cost MODEL`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import torch
import tyro
from rich.console import Console

from patchkin.cli.parsing import MaxPixels, parse, refuse_files_as_weights
from patchkin.cli.printing import print_json, progress_bar
from patchkin.cli.train import (
    TrainOptions,
    default_options,
    option_value,
    saved_config,
    tell_run,
    with_resume_folder,
)
from patchkin.compression import Distillation, DistillationConfig, OnlineDistillation
from patchkin.compression.cost import Cost, Latency
from patchkin.compression.search import Candidate, EvolutionSearch, SearchConfig
from patchkin.config import flag, read_yaml, shown, to_plain, to_yaml
from patchkin.devices import Device
from patchkin.errors import ConfigError, nearest
from patchkin.method import Direction, Method
from patchkin.networks.drn import DRNName
from patchkin.networks.separable import format_channels, parse_channels
from patchkin.runs.compression import (
    PLOT_FILE,
    Costed,
    Runtime,
    distill,
    found_best,
    read_teacher,
    search,
    taught,
    timed,
)
from patchkin.runs.config import RunConfig, config_to_plain
from patchkin.runs.fitness import ScoringConfig, open_supernet
from patchkin.runs.small_models import export, export_student, open_student
from patchkin.runs.train import train
from patchkin.scoring.report import write_report
from patchkin.sides import height_width
from patchkin.storage.checkpoint import ModelHeader

C = TypeVar("C")
SEARCH_FOLDER = "search"
"""Of a run, unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class DistillOptions(TrainOptions[C], Generic[C]):
    """Options of `compress distill`."""

    teacher: Annotated[tyro.conf.Positional[Path | None], shown("TEACHER")] = None
    """The model to learn from: a run folder, a checkpoint folder or a .safetensors file. Not with
    the presets whose name begins with `online`: their teachers learn beside the student."""
    teacher_direction: Direction = "AtoB"
    """BtoA learns the way back of a teacher that has one; then --direction BtoA fits."""
    start: Path | None = None
    """Start from the weights of this supernet, such as to fine-tune one configuration of it
    (--method.space 16_16_32_16_16_64_16_24)."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of `compress search`."""

    run: Annotated[tyro.conf.Positional[Path], shown("RUN")]
    """The run of `compress distill`."""
    search: SearchConfig = field(default_factory=SearchConfig)
    output: Annotated[Path | None, flag("-o")] = None
    """Folder of search.json and pareto.png; RUN/search unless given. A search in it goes on."""
    space: str | None = None
    """Where to search, by name or written out; where the supernet was trained unless given."""
    data: str | None = None
    """The set to score on; the one of the run unless given. Validation images, never test ones."""
    protocol: str = "squeezenet-256"
    """With --extractor-weights: how images become a Frechet distance."""
    extractor_weights: Path | None = None
    """File of that protocol's extractor. Not needed where counterparts are known."""
    judge: DRNName | None = None
    """Segmentation network that reads translations of Cityscapes label maps: its mean IoU
    decides."""
    judge_weights: Path | None = None
    """File of its weights, instead of a download."""
    score: str | None = None
    """The score that decides, instead of the usual one."""
    size: int | None = None
    """Side of the image whose cost is counted, in pixels; that of training unless given."""
    which: Literal["last", "best"] = "last"
    """The checkpoint of the run."""
    workers: int = 1
    """Processes that score."""
    max_pixels: MaxPixels = None
    device: Device = "auto"
    """Where to translate."""
    overwrite: bool = False
    """Forget the search that the folder holds."""
    json: bool = False
    """Print one JSON object at the end."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of `compress export`."""

    run: Annotated[tyro.conf.Positional[Path], shown("RUN")]
    """The run of `compress distill`."""
    output: Annotated[Path, flag("-o")]
    """The .safetensors file to write."""
    channels: str | None = None
    """The configuration, such as 16_16_32_16_16_64_16_24; the best of RUN/search unless given."""
    which: Literal["last", "best"] = "last"
    """The checkpoint of the run."""
    time_calls: int = 0
    """Also time so many translations of one image of the training size."""
    runtime: tuple[Runtime, ...] = ("torch",)
    """Where these are timed: torch on --device, onnx (the extra `onnx`) on the CPU."""
    device: Device = "cpu"
    """Where torch is timed."""
    overwrite: bool = False
    """Replace the file."""
    json: bool = False
    """Print one JSON object."""


@dataclass(frozen=True, kw_only=True)
class CostOptions:
    """Options of `compress cost`."""

    model: Annotated[tyro.conf.Positional[Path], shown("MODEL")]
    """Any model: a run folder, a checkpoint folder or a .safetensors file. A supernet counts at its
    widest configuration."""
    against: Path | None = None
    """Another model, such as the teacher, that it is compared with."""
    size: int = 256
    """Height and width of the image, in pixels; 256 is that of the published numbers."""
    time_calls: int = 0
    """Also time so many translations of one image."""
    runtime: tuple[Runtime, ...] = ("torch",)
    """Where these are timed: torch on --device, onnx (the extra `onnx`) on the CPU."""
    threads: int = 0
    """Of the CPU, in both runtimes; 0 leaves torch's own choice."""
    direction: Direction = "AtoB"
    """BtoA for the way back of a model that has one."""
    which: Literal["last", "best"] = "last"
    """The checkpoint of a run."""
    device: Device = "cpu"
    """Where torch is timed."""
    json: bool = False
    """Print one JSON object."""


def run(arguments: Sequence[str], methods: Mapping[str, type[Method]]) -> int:
    """Distil, search, export or count as the arguments say."""
    actions = {"distill": _distill, "search": _search, "export": _export, "cost": _cost}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            "usage: patchkin compress {distill,search,export,cost} ...\n\n"
            "A small generator from a trained one.\n\n"
            "  distill TEACHER --data ROOT     train a student of many widths (a supernet)\n"
            "  distill --preset online --data ROOT\n"
            "                                  train a narrow student beside its teachers\n"
            "  search RUN --budget 3e9         find its best widths within a budget of MACs\n"
            "  export RUN --output FILE        write one of them as a model\n"
            "  cost MODEL                      parameters, MACs and speed of any model\n\n"
            "`patchkin compress ACTION --help` tells the options of each."
        )
        return 0
    action, *rest = arguments
    if action not in actions:
        raise ConfigError(f"Unknown action `compress {action}`. {nearest(action, actions)}")
    return actions[action](rest, methods)


def _distill(arguments: Sequence[str], methods: Mapping[str, type[Method]]) -> int:
    arguments = with_resume_folder(list(arguments))
    kind = _student(arguments)
    default = default_options(kind, arguments)
    options: DistillOptions[Any] = parse(
        DistillOptions[kind.config_type],  # type: ignore[name-defined]
        arguments,
        prog="patchkin compress distill",
        default=DistillOptions(
            method=default.method,
            data=default.data,
            schedule=default.schedule,
            training=default.training,
        ),
        about="Distil a trained generator into one of many widths, or with --preset online one "
        "that learns beside its student into one of a single width.",
    )
    online = kind is OnlineDistillation
    config = RunConfig(
        method=_without_teacher(options) if online else _with_teacher(options, methods),
        data=options.data,
        schedule=options.schedule,
        training=options.training,
    )
    if options.print_config:
        print(to_yaml(config_to_plain(kind, config)), end="")
        return 0
    run_dir = options.run_dir or Path("runs", f"{kind.name}_{Path(config.data.root).name}")
    how: dict[str, Any] = {
        "resume": options.resume,
        "overwrite": options.overwrite,
        "change": options.change,
        "allow_changed_data": options.allow_changed_data,
    }
    if online:
        report = train(kind, config, run_dir, **how)
    else:
        report = distill(config, run_dir, start=options.start, methods=methods, **how)
    if report is not None:
        tell_run(run_dir, report, as_json=options.json)
    return 0


def _student(arguments: Sequence[str]) -> type[Method]:
    """Which distillation the preset, the run to resume or the file with settings is of."""
    kinds: tuple[type[Method], ...] = (Distillation, OnlineDistillation)
    preset, file = option_value(arguments, "--preset"), option_value(arguments, "--config")
    if preset is not None:
        owners = [kind for kind in kinds if preset in kind.presets]
        if not owners:
            known = [name for kind in kinds for name in kind.presets]
            raise ConfigError(f"There is no preset `{preset}`. {nearest(preset, known)}")
        return owners[0]
    saved = saved_config(arguments) or (read_yaml(Path(file)) if file else {})
    online = saved.get("name") == OnlineDistillation.name
    return OnlineDistillation if online else Distillation


def _without_teacher(options: DistillOptions[Any]) -> Any:
    """The settings of online distillation, which knows no trained teacher."""
    if options.teacher is not None or options.teacher_direction != "AtoB":
        raise ConfigError(
            "The teachers of online distillation learn beside the student: leave out TEACHER, or "
            "choose a preset whose name does not begin with `online`."
        )
    if options.start is not None:
        raise ConfigError("--start is a supernet's, which online distillation does not train.")
    return options.method


def _with_teacher(
    options: DistillOptions[DistillationConfig], methods: Mapping[str, type[Method]]
) -> DistillationConfig:
    """The settings with the teacher that was named, or with the one they have."""
    known = options.method.teacher
    if options.teacher is None:
        if not known.path:
            raise ConfigError(
                "Name the teacher: patchkin compress distill TEACHER --data ROOT, where TEACHER is "
                "a run folder or a model file. With --preset online none is needed."
            )
        return options.method
    teacher = read_teacher(options.teacher, direction=options.teacher_direction, methods=methods)
    if options.resume and teacher.sha256 != known.sha256:
        raise ConfigError(
            f"The run to resume learns from `{known.path}`, not from `{teacher.path}`. Leave out "
            "the teacher, or start another run."
        )
    return taught(options.method, teacher if not options.resume else known)


def _search(arguments: Sequence[str], methods: Mapping[str, type[Method]]) -> int:
    refuse_files_as_weights(arguments)
    options = parse(
        SearchOptions,
        arguments,
        prog="patchkin compress search",
        about="Find the widths of a supernet that score best within a budget.",
    )
    output = options.output or options.run / SEARCH_FOLDER
    scoring = ScoringConfig(
        run=options.run,
        which=options.which,
        data=options.data,
        protocol=options.protocol,
        extractor_weights=options.extractor_weights,
        judge=options.judge,
        judge_weights=options.judge_weights,
        score=options.score,
        device=options.device,
        max_pixels=options.max_pixels,
    )
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with progress_bar(console) as bar:
        task = bar.add_task("")

        def on_scored(generation: int, done: int, total: int) -> None:
            name = f"generation {generation} of {options.search.generations}"
            bar.update(task, description=name, completed=done, total=total)

        evolution, best = search(
            scoring,
            options.search,
            output,
            space=options.space,
            size=options.size,
            workers=options.workers,
            overwrite=options.overwrite,
            on_generation=lambda found: console.print(_line(found), markup=False),
            on_scored=on_scored,
        )
    if output == options.run / SEARCH_FOLDER:
        write_report(options.run)
    if options.json:
        print_json(_summary(evolution, best, output))
        return 0
    print("\nbest at its cost:")
    for candidate in evolution.pareto():
        print(f"  {_line(candidate)}")
    print(f"best: {_line(best)}\nplot: {output / PLOT_FILE}")
    return 0


def _line(candidate: Candidate) -> str:
    return (
        f"{format_channels(candidate.channels):<26}{candidate.score:>12.5g}"
        f"{candidate.cost.macs / 1e9:>9.4f} G MACs{candidate.cost.parameters / 1e6:>9.4f} M"
    )


def _summary(evolution: EvolutionSearch, best: Candidate, output: Path) -> dict[str, Any]:
    def plain(candidate: Candidate) -> dict[str, Any]:
        named = {"channels": format_channels(candidate.channels), "score": candidate.score}
        return {**named, **to_plain(candidate.cost)}

    return {
        "best": plain(best),
        "pareto": [plain(candidate) for candidate in evolution.pareto()],
        "scored": len(evolution.state.scores),
        "generations": evolution.state.generation,
        "output": str(output),
    }


def _export(arguments: Sequence[str], methods: Mapping[str, type[Method]]) -> int:
    options = parse(
        ExportOptions,
        arguments,
        prog="patchkin compress export",
        about="Write one configuration of a supernet as a model that translates.",
    )
    if options.output.suffix != ".safetensors":
        raise ConfigError(
            f"--output must name a .safetensors file; got `{options.output}`. `patchkin export` "
            "makes a .onnx or .pt2 file of that."
        )
    if options.output.exists() and not options.overwrite:
        raise ConfigError(f"`{options.output}` is there already; replace it with --overwrite.")
    channels, header, cost = _exported(options)
    told = {
        "model": str(options.output),
        "channels": channels,
        "size": header.size,
        **to_plain(cost),
    }
    if options.time_calls:
        opened = Costed.open(options.output, size=header.size, device=options.device)
        told["latency"] = _latencies({"": opened}, options)[""]
    if options.json:
        print_json(told)
        return 0
    print(f"model:      {told['model']} ({told['channels']})")
    _tell_cost(told)
    return 0


def _exported(options: ExportOptions) -> tuple[str, ModelHeader, Cost]:
    """What was written: its widths, where it came from, what it costs."""
    student, header = open_student(options.run, which=options.which)
    if student is not None and header is not None:
        if options.channels is not None:
            raise ConfigError(
                f"`{options.run}` was distilled online and has one width: leave out --channels."
            )
        small, cost = export_student(student, header, options.output)
        widths = getattr(small.config, "channels", None)
        return format_channels(widths) if widths else small.name, header, cost
    channels = (
        found_best(options.run / SEARCH_FOLDER)
        if options.channels is None
        else parse_channels(options.channels)
    )
    supernet, header = open_supernet(options.run, which=options.which)
    _, cost = export(supernet, header, channels, options.output)
    return format_channels(channels), header, cost


def _cost(arguments: Sequence[str], methods: Mapping[str, type[Method]]) -> int:
    options = parse(
        CostOptions,
        arguments,
        prog="patchkin compress cost",
        about="Count what one translation of a model costs, and time it.",
    )
    if options.threads < 0:
        raise ConfigError(f"`--threads` must not be negative; got {options.threads}.")
    if options.threads:
        torch.set_num_threads(options.threads)
    models = {"model": options.model} | ({"against": options.against} if options.against else {})
    opened = {
        name: Costed.open(
            path,
            size=options.size,
            direction=options.direction,
            which=options.which,
            device=options.device,
            methods=methods,
        )
        for name, path in models.items()
    }
    told = {name: _as_plain(model, model.cost()) for name, model in opened.items()}
    if options.time_calls:
        for name, times in _latencies(opened, options).items():
            told[name]["latency"] = times
    summary = told["model"]
    if "against" in told:
        summary |= {"against": told["against"], "ratios": _ratios(**told)}
    if options.json:
        print_json(summary)
        return 0
    for plain in told.values():
        named = plain["method"] if plain["channels"] is None else plain["channels"]
        print(f"model:      {plain['model']} ({named})")
        _tell_cost(plain)
    if "ratios" in summary:
        ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in summary["ratios"].items())
        print(f"times less: {ratios}")
    return 0


def _as_plain(model: Costed, cost: Cost) -> dict[str, Any]:
    named = {"model": str(model.model), "method": model.method, "channels": model.channels}
    return {**named, "size": model.size, **to_plain(cost)}


def _latencies(
    models: Mapping[str, Costed], options: ExportOptions | CostOptions
) -> dict[str, dict[str, Any]]:
    """Model -> runtime -> times."""
    found: dict[str, dict[str, Any]] = {name: {} for name in models}
    for runtime in options.runtime:
        for name, times in timed(models, runtime, calls=options.time_calls).items():
            found[name][runtime] = _with_rate(times)
    return found


def _with_rate(times: Latency) -> dict[str, Any]:
    return {**to_plain(times), "images_per_second": 1000 / times.median_ms}


def _ratios(model: Mapping[str, Any], against: Mapping[str, Any]) -> dict[str, float]:
    """How many times less the model costs and takes."""
    counts = {name: against[name] / model[name] for name in ("parameters", "macs", "macs_exact")}
    times = {
        runtime: against["latency"][runtime]["median_ms"] / found["median_ms"]
        for runtime, found in model.get("latency", {}).items()
    }
    return counts | times


def _tell_cost(told: Mapping[str, Any]) -> None:
    height, width = height_width(told["size"])
    print(f"parameters: {told['parameters']:,}")
    print(
        f"MACs:       {told['macs']:,} as published, {told['macs_exact']:,} exactly, for one image "
        f"of {width} x {height}"
    )
    for runtime, times in told.get("latency", {}).items():
        print(
            f"{runtime + ':':<11} {times['median_ms']:.2f} ms, 95 % within {times['p95_ms']:.2f} "
            f"ms, {times['images_per_second']:.1f} images/s"
        )
