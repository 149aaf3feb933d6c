"""The configuration of a run: what `config.yaml` holds, where it starts from, and back."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from patchkin.config import from_plain, merge, to_plain
from patchkin.data.config import AUTO, DataConfig
from patchkin.data.layouts import TOY
from patchkin.errors import ConfigError, nearest
from patchkin.method import Method, Preset
from patchkin.schedules import ScheduleConfig
from patchkin.storage.hub import hub_name
from patchkin.training import TrainingConfig

C = TypeVar("C")
HISTORY = "history"
"""Key of `config.yaml`: how the settings were changed on the way (`runs.resuming`)."""
METHOD_FILE = "file"
"""Key of `config.yaml`: the file of a method that is not one of patchkin's."""
TAKEN_FROM_DATA = frozenset({"num_domains", "image_size"})
"""Settings of a method that a run takes from its data (`with_domains`), not from its preset."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig(Generic[C]):
    """Everything a run depends on; `config.yaml` of a run folder."""

    method: C
    """Of the method's own type."""
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


def choose_preset(kind: type[Method], name: str | None, *, toy: bool) -> Preset:
    """A preset by name; unless named, `toy` for toy data, else the method's first.

    Raises:
        ConfigError: the method has no preset of this name; the nearest is offered.
    """
    if name is None:
        name = TOY if toy and TOY in kind.presets else next(iter(kind.presets))
    if name not in kind.presets:
        raise ConfigError(f"`{kind.name}` has no preset `{name}`. {nearest(name, kind.presets)}")
    return kind.presets[name]


def preset_config(preset: Preset) -> RunConfig[Any]:
    """The run that a preset stands for."""
    return RunConfig(method=preset.method, data=preset.data, schedule=preset.schedule)


def config_to_plain(kind: type[Method], config: RunConfig[Any]) -> dict[str, Any]:
    """As written to `config.yaml`: the method's name, then the four parts."""
    parts = {
        part: to_plain(getattr(config, part)) for part in ("method", "data", "schedule", "training")
    }
    file = method_file(kind)
    return {"name": kind.name, **({METHOD_FILE: file} if file else {}), **parts}


def method_file(kind: type[Method]) -> str | None:
    """The file of a method that is not one of patchkin's, if it has one."""
    if kind.__module__.partition(".")[0] == __name__.partition(".")[0]:
        return None
    try:
        return os.path.abspath(inspect.getfile(kind))  # noqa: PTH100 - links stay
    except (TypeError, OSError):  # of a notebook
        return None


def from_anywhere(config: RunConfig[Any]) -> RunConfig[Any]:
    """The configuration with absolute paths, which hold in every folder."""
    data = config.data
    data = replace(
        data,
        root=data.root if data.root == TOY else _absolute(data.root),
        source=None if data.source is None else _absolute(data.source),
        target=None if data.target is None else _absolute(data.target),
        cache=data.cache if data.cache in (None, AUTO) else _absolute(data.cache),
    )
    training = config.training
    if training.score_weights is not None:
        training = replace(training, score_weights=Path(_absolute(training.score_weights)))
    start = training.start_from
    is_path = start is not None and (Path(start).exists() or Path(start).name != start)
    if start is not None and is_path and hub_name(start) is None:  # else a name
        training = replace(training, start_from=_absolute(start))
    return replace(
        config, method=_with_files(config.method, _absolute), data=data, training=training
    )


def without_folders(method: Any) -> Any:
    """A method's configuration with the names of its files of weights alone: a model is passed on,
    and does without them.

    >>> from patchkin.methods.cut import CutConfig
    >>> from patchkin.networks import PatchGANConfig
    >>> judge = PatchGANConfig(features="alexnet", alexnet_weights="/home/me/alexnet.pth")
    >>> without_folders(CutConfig(discriminator=judge)).discriminator.alexnet_weights
    'alexnet.pth'
    """
    return _with_files(method, lambda path: Path(path).name)


def _with_files(config: Any, changed: Callable[[str], str]) -> Any:
    """A configuration whose `..._weights` that name files are changed, in its parts too."""
    changes: dict[str, Any] = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            changes[entry.name] = _with_files(value, changed)
        elif entry.name.endswith("_weights") and isinstance(value, str):
            changes[entry.name] = changed(value)
    return replace(config, **changes)


def _absolute(path: str | Path) -> str:
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - links stay


def config_from_plain(
    kind: type[Method], default: RunConfig[Any], plain: Mapping[str, Any], *, where: str
) -> RunConfig[Any]:
    """A configuration with the settings of a (partial) mapping laid over a default.

    The history of a run, and the file of its method, are passed over.

    Raises:
        ConfigError: a key or value that does not belong; the nearest key is offered.
    """
    parts = {
        "method": kind.config_type,
        "data": DataConfig,
        "schedule": ScheduleConfig,
        "training": TrainingConfig,
    }
    for key in plain:
        if key not in (*parts, "name", HISTORY, METHOD_FILE):
            raise ConfigError(f"Unknown key `{key}` in {where}. {nearest(key, (*parts, 'name'))}")
    named = plain.get("name", kind.name)
    if named != kind.name:
        raise ConfigError(f"{where} configures `{named}`, not `{kind.name}`.")
    built: dict[str, Any] = {
        part: from_plain(
            part_kind,
            merge(to_plain(getattr(default, part)), plain.get(part) or {}),
            where=f"`{part}` of {where}",
        )
        for part, part_kind in parts.items()
    }
    return RunConfig(**built)


def with_domains(config: RunConfig[Any], domains: Sequence[str]) -> RunConfig[Any]:
    """The configuration with as many domains as the data has, and networks no larger than views.

    What changes is logged as a warning.
    """
    method = _with_setting(config.method, "num_domains", len(domains))
    if method != config.method:
        logger.warning("%d domains, as the data has: %s", len(domains), ", ".join(domains))
    side = max(config.data.height_width)
    if side < _smallest_setting(method, "image_size"):
        logger.warning("networks for images of %d pixels, as --size says", side)
        method = _with_setting(method, "image_size", side)
    return replace(config, method=method)


def _with_setting(config: Any, name: str, value: Any) -> Any:
    """A configuration with a setting changed, in whichever of its parts it stands."""
    parts = {f.name: getattr(config, f.name) for f in fields(config)}
    nested = {
        key: _with_setting(part, name, value) for key, part in parts.items() if is_dataclass(part)
    }
    own = {name: value} if name in parts else {}
    return replace(config, **nested, **own)


def _smallest_setting(config: Any, name: str) -> int:
    """The least value of a setting among the parts of a configuration that have it; 0 if none."""
    values = [getattr(config, name)] if hasattr(config, name) else []
    parts = [getattr(config, f.name) for f in fields(config)]
    values += [_smallest_setting(part, name) for part in parts if is_dataclass(part)]
    return min((value for value in values if value), default=0)
