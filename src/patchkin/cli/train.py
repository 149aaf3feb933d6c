"""`patchkin train METHOD --data ROOT`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from patchkin.cli.parsing import parse
from patchkin.cli.printing import print_json
from patchkin.cli.released_flags import refuse_released_flags
from patchkin.config import read_yaml, to_yaml
from patchkin.data.config import DataConfig
from patchkin.data.layouts import TOY
from patchkin.errors import ConfigError, nearest
from patchkin.method import Method
from patchkin.runs.channels import with_channels
from patchkin.runs.config import (
    METHOD_FILE,
    TAKEN_FROM_DATA,
    RunConfig,
    choose_preset,
    config_from_plain,
    config_to_plain,
    preset_config,
)
from patchkin.runs.train import train
from patchkin.schedules import ScheduleConfig
from patchkin.scoring.report import read_log
from patchkin.training import TrainingConfig

C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Generic[C]):
    """Options of `train`; the dotted ones are the fields of the configuration."""

    method: C
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    channels: int | None = None
    """Of the images of both domains, such as 1 for grey: short for the channels of each network."""
    run_dir: Path | None = None
    """Folder of the run. By default runs/METHOD_DATA."""
    preset: str | None = None
    """Where the settings start from; see `patchkin methods NAME`. By default the first one, of what
    was published, or `toy` for toy data. This help tells the defaults of the one that is named, or
    of the first; add `--preset NAME` or `--data toy`. With --resume it must be what the run has."""
    config: Path | None = None
    """YAML file with settings, complete or partial, laid over the preset."""
    resume: bool = False
    """Continue the run in --run-dir (or --resume DIR) exactly."""
    change: bool = False
    """With --resume: let settings that change what is computed hold from here on. The log, the
    report and config.yaml say from which step."""
    allow_changed_data: bool = False
    """With --resume: go on although the files are not those of the run. The log says so."""
    overwrite: bool = False
    """Replace the run in --run-dir."""
    print_config: bool = False
    """Print the resolved settings as YAML and stop."""
    json: bool = False
    """Print one JSON object at the end."""


def run(arguments: Sequence[str], methods: Mapping[str, type[Method]], default_method: str) -> int:
    """Train as the arguments say."""
    refuse_released_flags(arguments, methods)
    if not arguments:
        _say_what(default_method)
    arguments = with_resume_folder(list(arguments))
    word = arguments[0] if arguments else ""
    kind, arguments = _method(arguments, methods, default_method)
    default = default_options(kind, arguments)
    options = parse(
        TrainOptions[_told_config(kind, arguments)],  # type: ignore[arg-type, misc]
        arguments,
        prog=f"patchkin train {word if word in kind.presets else kind.name}",
        default=default,
        about=f"Train {kind.name}: {kind.paper}.",
    )
    config = RunConfig(
        method=options.method,
        data=options.data,
        schedule=options.schedule,
        training=options.training,
    )
    if options.print_config:
        print(to_yaml(config_to_plain(kind, config)), end="")
        return 0
    run_dir = options.run_dir or Path("runs", f"{kind.name}_{Path(config.data.root).name}")
    report = train(
        kind,
        config,
        run_dir,
        resume=options.resume,
        overwrite=options.overwrite,
        change=options.change,
        allow_changed_data=options.allow_changed_data,
    )
    if report is not None:
        tell_run(run_dir, report, as_json=options.json)
    return 0


def _told_config(kind: type[Method], arguments: Sequence[str]) -> Any:
    """The type of a method's settings; its help names the preset whose defaults it tells."""
    preset = option_value(arguments, "--preset")
    if preset is None:
        return kind.config_type
    told = f"Defaults are those of the preset `{preset}`: {kind.presets[preset].summary}."
    return Annotated[kind.config_type, tyro.conf.arg(help=told)]


def _say_what(default_method: str) -> None:
    """What is trained where nothing was said, before it begins."""
    print(
        f"No method and no data were named: {default_method} is trained on the built-in toy set. "
        "For images of yours: patchkin train METHOD --data ROOT, where ROOT has trainA and trainB; "
        "`patchkin methods` lists the methods. Ctrl-C stops.",
        file=sys.stderr,
    )


def with_resume_folder(arguments: list[str]) -> list[str]:
    """`--resume DIR` is `--resume --run-dir DIR`."""
    expanded = []
    for place, argument in enumerate(arguments):
        if argument.startswith("--resume="):
            expanded += ["--resume", "--run-dir", argument.removeprefix("--resume=")]
        elif place > 0 and arguments[place - 1] == "--resume" and not argument.startswith("-"):
            expanded += ["--run-dir", argument]
        else:
            expanded.append(argument)
    return expanded


def option_value(arguments: Sequence[str], *names: str) -> str | None:
    """The value of an option that decides what the others default to."""
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in names:
            if equals:
                return value
            return arguments[place + 1] if place + 1 < len(arguments) else None
    return None


def saved_config(arguments: Sequence[str]) -> dict[str, Any] | None:
    """The settings of the run to resume, where one is resumed.

    Raises:
        ConfigError: it is not named, or is none.
    """
    if "--resume" not in arguments:
        return None
    run_dir = option_value(arguments, "--run-dir")
    if run_dir is None:
        raise ConfigError("--resume needs the run: --resume DIR.")
    path = Path(run_dir, "config.yaml")
    if not path.is_file():
        raise ConfigError(
            f"`{run_dir}` holds no run to resume: it has no config.yaml. Start one: train METHOD "
            f"--data ROOT --run-dir {run_dir}"
        )
    return read_yaml(path)


def _method(
    arguments: list[str], methods: Mapping[str, type[Method]], default_method: str
) -> tuple[type[Method], list[str]]:
    """The method named first, or in the configuration, and the other arguments.

    The name of a preset that only one method has stands for both: `fastcut`.
    """
    name = None
    if arguments and not arguments[0].startswith("-"):
        name, *arguments = arguments
    if name is None:
        saved = saved_config(arguments)
        file = option_value(arguments, "--config")
        named_in = saved or (read_yaml(Path(file)) if file else {})
        name = named_in.get("name", default_method)
    if name in methods:
        return methods[name], arguments
    owners = [method for method, kind in methods.items() if name in kind.presets]
    if len(owners) == 1:
        return methods[owners[0]], ["--preset", name, *arguments]
    if owners:
        raise ConfigError(
            f"`{name}` is a preset of several methods; name one: "
            f"{', '.join(f'{owner} --preset {name}' for owner in owners)}."
        )
    raise ConfigError(_unknown(name, arguments, methods))


def _unknown(name: str, arguments: Sequence[str], methods: Mapping[str, type[Method]]) -> str:
    """What is said of a method that is not known here: it may have a file of its own."""
    saved = saved_config(arguments) or {}
    if saved.get("name") == name and saved.get(METHOD_FILE):
        run_dir = option_value(arguments, "--run-dir")
        return (
            f"`{name}` is the method of the file `{saved[METHOD_FILE]}`: "
            f"python {saved[METHOD_FILE]} train --resume {run_dir}"
        )
    return f"Unknown method `{name}`. {nearest(name, methods)}"


def default_options(kind: type[Method], arguments: Sequence[str]) -> TrainOptions[Any]:
    """What the options start from: the preset, then the file or the run to resume."""
    file = option_value(arguments, "--config")
    layered = []
    saved = saved_config(arguments)
    named = option_value(arguments, "--preset")
    if saved is not None:
        layered.append(("the run to resume", saved))
        if named is not None:  # its settings are asked for: compared with the run, not passed over
            layered.append((f"the preset `{named}`", _plain_preset(kind, named)))
    if file is not None:  # after the run, whose settings it may not change in silence
        layered.append((f"`{file}`", read_yaml(Path(file))))
    root = option_value(arguments, "--data", "--data.root")
    for _, plain in reversed(layered):
        root = root or (plain.get("data") or {}).get("root")
    elsewhere = option_value(arguments, "--data.source") is not None
    toys = (TOY,) if {"-h", "--help"} & set(arguments) else (None, TOY)  # help: what is published
    preset = choose_preset(kind, named, toy=not elsewhere and root in toys)
    config = preset_config(preset)
    for where, plain in layered:
        config = config_from_plain(kind, config, plain, where=where)
    training = config.training
    if option_value(arguments, "--from", "--training.start-from") and saved is None:
        training = replace(training, start_sha256=None)  # that of a file's model
    channels = option_value(arguments, "--channels")
    return TrainOptions(
        method=config.method if channels is None else _for_channels(kind, config.method, channels),
        data=config.data,
        schedule=config.schedule,
        training=training,
    )


def _plain_preset(kind: type[Method], name: str) -> dict[str, Any]:
    """The settings of a preset, but for where the images are and what a run takes from them.

    Raises:
        ConfigError: the method has no preset of this name.
    """
    plain = config_to_plain(kind, preset_config(choose_preset(kind, name, toy=False)))
    return {
        "name": kind.name,
        "method": _without(plain["method"], TAKEN_FROM_DATA),
        "data": _without(plain["data"], {"root", "source", "target"}),
        "schedule": plain["schedule"],
    }


def _without(plain: Mapping[str, Any], names: Set[str]) -> dict[str, Any]:
    """Settings without those of some names, in whichever of their parts they stand."""
    return {
        key: _without(value, names) if isinstance(value, dict) else value
        for key, value in plain.items()
        if key not in names
    }


def _for_channels(kind: type[Method], config: Any, channels: str) -> Any:
    """A method's configuration for images with so many channels, as they were typed.

    Raises:
        ConfigError: not a positive number.
    """
    if not channels.isdecimal() or int(channels) < 1:
        raise ConfigError(f"`--channels` must be a positive number; got {channels}.")
    return with_channels(kind, config, int(channels))


def tell_run(run_dir: Path, report: Path, *, as_json: bool) -> None:
    """Where a run's model and report are, and its first and last scores."""
    records = read_log(run_dir)
    scored = [record for record in records if "scores" in record]
    if as_json:
        last: dict[str, Any] = next((r for r in reversed(records) if "terms" in r), {})
        summary = {
            "run_dir": str(run_dir),
            "steps": last.get("step"),
            "terms": last.get("terms"),
            "scores": {str(record["step"]): record["scores"] for record in scored},
            "report": str(report),
        }
        print_json(summary)
        return
    if len(scored) > 1:
        columns = {
            "untrained": scored[0]["scores"],
            f"step {scored[-1]['step']}": scored[-1]["scores"],
        }
        if "baseline" in scored[0]:
            columns = {"unchanged": scored[0]["baseline"], **columns}
        print(
            f"\n{'validation scores':<18}" + "".join(f"{c:>12}" for c in columns), file=sys.stderr
        )
        for name in scored[-1]["scores"]:
            cells = "".join(f"{scores[name]:>12.4g}" for scores in columns.values())
            print(f"{name:<18}{cells}", file=sys.stderr)
    print(f"model:  {run_dir}", file=sys.stderr)
    print(f"report: {report}", file=sys.stderr)
