"""What a run says before its first step, and what its log keeps of each time it was started."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from patchkin._version import __version__
from patchkin.config import to_plain
from patchkin.data.layouts import TOY
from patchkin.data.record import SplitFiles
from patchkin.data.scale import is_scaled_in_decay
from patchkin.devices import device_name
from patchkin.errors import ConfigError
from patchkin.method import Method, Preset
from patchkin.runs.channels import with_channels
from patchkin.runs.config import RunConfig
from patchkin.runs.resuming import HARMLESS, PLACES, flag_of, leaves, shown
from patchkin.sides import in_pixels
from patchkin.training.fabric import Fabric

_MOST_CHANGES = 6
"""Settings told that differ from the preset."""


def header(
    method: Method,
    config: RunConfig[Any],
    run_dir: Path,
    files: Mapping[str, SplitFiles],
    *,
    fabric: Fabric,
    steps_per_epoch: int,
) -> list[str]:
    """Lines that say what is about to be trained on what, and where it is kept."""
    kind = type(method)
    images = config.data.batch_size * fabric.world_size
    rows = {
        "method": f"{kind.name} ({kind.paper})",
        "preset": _preset(kind, config),
        "data": _where(config),
        "images": counts(
            {name: (len(splits.train), len(splits.val)) for name, splits in files.items()}
        ),
        **_views(config),
        "parameters": _parameters(method),
        "device": f"{_device(fabric)}, precision {config.training.precision}",
        "steps": _steps(config, steps_per_epoch, images),
        "folder": str(run_dir),
    }
    return [f"{name:<11} {value}" for name, value in rows.items()]


def session(method: Method, config: RunConfig[Any], fabric: Fabric) -> dict[str, Any]:
    """Where and when a run was started or resumed."""
    return {
        "date": datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
        "patchkin": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": _device(fabric),
        "precision": config.training.precision,
        "parameters": _count(method.networks(method.adam())),
    }


def counts(images: Mapping[str, tuple[int, int]]) -> str:
    """Training and validation images of every domain.

    >>> counts({"a": (1067, 0), "b": (1334, 32)})
    'a 1067, b 1334 and 32 for validation'
    """
    told = []
    for name, (train, val) in images.items():
        told.append(f"{name} {train}" + (f" and {val} for validation" if val else ""))
    return ", ".join(told)


def _preset(kind: type[Method], config: RunConfig[Any]) -> str:
    """The preset that is nearest, and what was changed of it."""
    told_of = {name: _changes(kind, preset, config) for name, preset in kind.presets.items()}
    name = min(told_of, key=lambda preset: len(told_of[preset]))
    told = told_of[name]
    if not told:
        return name
    more = len(told) - _MOST_CHANGES
    others = f" and {more} more" if more > 0 else ""
    return f"{name}, but {', '.join(told[:_MOST_CHANGES])}{others}"


def _changes(kind: type[Method], preset: Preset, config: RunConfig[Any]) -> list[str]:
    """As flags; what one flag sets in several networks, by this flag."""
    changed = dict(_changed(preset, config))
    channels = {value for key, value in changed.items() if key.endswith("channels")}
    told: list[str] = []
    for number in sorted(channels):
        try:
            with_number = replace(preset, method=with_channels(kind, preset.method, number))
        except ConfigError:  # a number that not all networks can have
            continue
        fewer = dict(_changed(with_number, config))
        if not any(key.endswith("channels") for key in fewer):
            told, changed = [f"--channels {number}"], fewer
            break
    return told + [f"{flag_of(kind, key)} {shown(value)}" for key, value in changed.items()]


def _changed(preset: Preset, config: RunConfig[Any]) -> Iterator[tuple[str, Any]]:
    for part in ("method", "data", "schedule"):
        before = dict(leaves(to_plain(getattr(preset, part)), part))
        for name, value in leaves(to_plain(getattr(config, part)), part):
            if before.get(name) != value and name not in HARMLESS | PLACES:
                yield name, value


def _where(config: RunConfig[Any]) -> str:
    data = config.data
    if data.source is not None:
        return f"{data.source} to {data.target}"
    return "the built-in toy set" if data.root == TOY else data.root


def _views(config: RunConfig[Any]) -> dict[str, str]:
    """Of what, where CUT's decay phase changes their scale by much."""
    data, decays = config.data, config.schedule.decay_fraction > 0
    if data.jitter_in_decay or not decays or not is_scaled_in_decay(data):
        return {}
    size, loaded = in_pixels(data.size), in_pixels(data.resolved_load_size)
    told = f"{size} pixels of images at {loaded}; of images at {size} once the rate falls, as in "
    return {"views": f"{told}CUT's code (--data.jitter-in-decay: at {loaded} to the end)"}


def _count(networks: list[torch.nn.Module]) -> int:
    return sum(p.numel() for network in networks for p in network.parameters())


def _parameters(method: Method) -> str:
    learning, translating = (
        _count(method.networks(names)) for names in (method.adam(), method.translating)
    )
    return f"{learning:,} that learn; {translating:,} translate"


def _device(fabric: Fabric) -> str:
    processes = f", {fabric.world_size} processes" if fabric.world_size > 1 else ""
    return f"{device_name(fabric.device)}{processes}"


def _steps(config: RunConfig[Any], steps_per_epoch: int, images: int) -> str:
    schedule = config.schedule
    each = f"{images} image{'s' if images > 1 else ''}"
    if schedule.steps is not None:
        return f"{schedule.steps:,} of {each}; an epoch has {steps_per_epoch:,}"
    total = schedule.epochs * steps_per_epoch
    return f"{total:,} of {each}: {schedule.epochs} epochs of {steps_per_epoch:,}"
