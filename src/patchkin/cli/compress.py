"""`patchkin compress distill TEACHER --data ROOT`, `compress search RUN`, `compress export RUN`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from patchkin.cli.parsing import parse
from patchkin.cli.train import TrainOptions, default_options, tell_run, with_resume_folder
from patchkin.compression import Distillation, DistillationConfig
from patchkin.compression.cost import Cost, network_latency
from patchkin.compression.search import Candidate, EvolutionSearch, SearchConfig
from patchkin.compression_runs import (
    PLOT_FILE,
    ScoringConfig,
    distill,
    export,
    found_best,
    open_supernet,
    read_teacher,
    search,
    taught,
)
from patchkin.config import flag, to_plain, to_yaml
from patchkin.devices import Device
from patchkin.errors import ConfigError, nearest
from patchkin.method import Direction, Method
from patchkin.networks.separable import format_channels, parse_channels
from patchkin.recipes import RunConfig, config_to_plain

SEARCH_FOLDER = "search"
"""Of a run, unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class DistillOptions(TrainOptions[DistillationConfig]):
    """Options of `compress distill`."""

    teacher: tyro.conf.Positional[Path | None] = None
    """The model to learn from: a run folder, a checkpoint folder or a .safetensors file."""
    teacher_direction: Direction = "AtoB"
    """BtoA learns the way back of a teacher that has one; then --direction BtoA fits."""
    start: Path | None = None
    """Start from the weights of this supernet, such as to fine-tune one configuration of it
    (--method.space 16_16_32_16_16_64_16_24)."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of `compress search`."""

    run: tyro.conf.Positional[Path]
    """The run of `compress distill`."""
    search: SearchConfig = field(default_factory=SearchConfig)
    output: Annotated[Path | None, flag("-o")] = None
    """Folder of search.json and pareto.png; RUN/search unless given. A search in it goes on."""
    space: str | None = None
    """Where to search, by name or written out; where the supernet was trained unless given."""
    data: str | None = None
    """The set to score on; the one of the run unless given. Validation images, never test ones."""
    protocol: str = "squeezenet-256"
    """With --weights: how images become a Frechet distance."""
    weights: Path | None = None
    """File of that protocol's extractor. Not needed where counterparts are known."""
    score: str | None = None
    """The score that decides, instead of the usual one."""
    size: int | None = None
    """Side of the image whose cost is counted, in pixels; that of training unless given."""
    which: Literal["last", "best"] = "last"
    """The checkpoint of the run."""
    workers: int = 1
    """Processes that score."""
    device: Device = "auto"
    """Where to translate."""
    overwrite: bool = False
    """Forget the search that the folder holds."""
    json: bool = False
    """Print one JSON object at the end."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of `compress export`."""

    run: tyro.conf.Positional[Path]
    """The run of `compress distill`."""
    output: Annotated[Path, flag("-o")]
    """The .safetensors file to write."""
    channels: str | None = None
    """The configuration, such as 16_16_32_16_16_64_16_24; the best of RUN/search unless given."""
    which: Literal["last", "best"] = "last"
    """The checkpoint of the run."""
    time_calls: int = 0
    """Also time so many translations of one image of the training size on --device."""
    device: Device = "cpu"
    """Where these are timed."""
    overwrite: bool = False
    """Replace the file."""
    json: bool = False
    """Print one JSON object."""


def run(arguments: Sequence[str], methods: Mapping[str, type[Method]]) -> int:
    """Distil, search or export as the arguments say."""
    actions = {"distill": _distill, "search": _search, "export": _export}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            "usage: patchkin compress {distill,search,export} ...\n\n"
            "A small generator from a trained one.\n\n"
            "  distill TEACHER --data ROOT     train a student of many widths (a supernet)\n"
            "  search RUN --budget 3e9         find its best widths within a budget of MACs\n"
            "  export RUN --output FILE        write one of them as a model\n\n"
            "`patchkin compress ACTION --help` tells the options of each."
        )
        return 0
    action, *rest = arguments
    if action not in actions:
        raise ConfigError(f"Unknown action `compress {action}`. {nearest(action, actions)}")
    return actions[action](rest, methods)


def _distill(arguments: Sequence[str], methods: Mapping[str, type[Method]]) -> int:
    arguments = with_resume_folder(list(arguments))
    default = default_options(Distillation, arguments)
    options = parse(
        DistillOptions,
        arguments,
        prog="patchkin compress distill",
        default=DistillOptions(
            method=default.method,
            data=default.data,
            schedule=default.schedule,
            training=default.training,
        ),
        about="Distil a trained generator into one of many widths.",
    )
    config = RunConfig(
        method=_with_teacher(options, methods),
        data=options.data,
        schedule=options.schedule,
        training=options.training,
    )
    if options.print_config:
        print(to_yaml(config_to_plain(Distillation, config)), end="")
        return 0
    run_dir = options.run_dir or Path("runs", f"{Distillation.name}_{Path(config.data.root).name}")
    report = distill(
        config,
        run_dir,
        start=options.start,
        resume=options.resume,
        overwrite=options.overwrite,
        methods=methods,
    )
    if report is not None:
        tell_run(run_dir, report, as_json=options.json)
    return 0


def _with_teacher(
    options: DistillOptions, methods: Mapping[str, type[Method]]
) -> DistillationConfig:
    """The settings with the teacher that was named, or with the one they have."""
    known = options.method.teacher
    if options.teacher is None:
        if not known.path:
            raise ConfigError(
                "Name the teacher: patchkin compress distill TEACHER --data ROOT, where TEACHER is "
                "a run folder or a model file."
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
    options = parse(
        SearchOptions,
        arguments,
        prog="patchkin compress search",
        about="Find the widths of a supernet that score best within a budget.",
    )
    output = options.output or options.run / SEARCH_FOLDER
    evolution, best = search(
        ScoringConfig(
            run=options.run,
            which=options.which,
            data=options.data,
            protocol=options.protocol,
            weights=options.weights,
            score=options.score,
            device=options.device,
        ),
        options.search,
        output,
        space=options.space,
        size=options.size,
        workers=options.workers,
        overwrite=options.overwrite,
        on_generation=lambda found: print(_line(found), file=sys.stderr),
    )
    if options.json:
        print(json.dumps(_summary(evolution, best, output)))
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
        raise ConfigError(f"--output must name a .safetensors file; got `{options.output}`.")
    if options.output.exists() and not options.overwrite:
        raise ConfigError(f"`{options.output}` is there already; replace it with --overwrite.")
    channels = (
        found_best(options.run / SEARCH_FOLDER)
        if options.channels is None
        else parse_channels(options.channels)
    )
    supernet, header = open_supernet(options.run, which=options.which)
    small, cost = export(supernet, header, channels, options.output)
    told = {
        "model": str(options.output),
        "channels": format_channels(channels),
        "size": header.size,
        **to_plain(cost),
    }
    if options.time_calls:
        told["latency"] = _times(small, options, header.size)
    if options.json:
        print(json.dumps(told))
        return 0
    _tell_export(told, cost)
    return 0


def _times(small: Method, options: ExportOptions, size: int) -> dict[str, Any]:
    from patchkin.devices import choose_device

    network = small.get_submodule("G").to(choose_device(options.device))
    times = network_latency(
        network, height=size, width=size, in_channels=small.channels[0], calls=options.time_calls
    )
    return dict(to_plain(times))


def _tell_export(told: Mapping[str, Any], cost: Cost) -> None:
    print(f"model:      {told['model']} ({told['channels']})")
    print(f"parameters: {cost.parameters:,}")
    print(
        f"MACs:       {cost.macs:,} as published, {cost.macs_exact:,} exactly, for one image of "
        f"{told['size']} x {told['size']}"
    )
    if "latency" in told:
        times = told["latency"]
        print(f"latency:    {times['median_ms']:.2f} ms, 95 % within {times['p95_ms']:.2f} ms")
