"""What a resumed run must find as it was: its settings, its files, its domains.

`config.yaml` holds the settings, and under `history` from which step they hold if they were changed
on the way. `data.json` holds the files. What differs is refused, or is told in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchkin.config import read_yaml, short_flag, to_yaml
from patchkin.data.config import DataConfig
from patchkin.data.record import DataRecord, Difference, difference, from_json, to_json
from patchkin.data.verify import Broken
from patchkin.errors import CheckpointError, ConfigError, DataError
from patchkin.method import Method
from patchkin.runs.config import (
    HISTORY,
    RunConfig,
    config_from_plain,
    config_to_plain,
    from_anywhere,
)
from patchkin.schedules import ScheduleConfig
from patchkin.scoring.own_data import MANIFEST_FILE, TRAINED_IN
from patchkin.storage.atomic import storage_errors, write_json, write_text
from patchkin.storage.checkpoint import CheckpointStore
from patchkin.storage.strict_json import parsed
from patchkin.training import TrainingConfig

CONFIG_FILE, DATA_FILE = "config.yaml", MANIFEST_FILE
HARMLESS = frozenset(
    {
        *("data.workers", "data.cache", "data.max_broken", "data.max_pixels"),
        *("training.device", "training.devices", "training.nodes"),
        *("training.compile", "training.cuda_graphs", "training.deterministic"),
        *(
            "training.log",
            "training.log_every",
            "training.save_every",
            "training.keep",
            "training.preview_every",
        ),
    }
)
"""Settings that change nothing of what is computed, up to the rounding of another machine."""
PLACES = frozenset({"data.root", "data.source", "data.target"})
"""Where the files are: these themselves are compared."""
_LENGTH = frozenset({"schedule.steps", "schedule.epochs"})

logger = logging.getLogger(__name__)
Changes = Mapping[str, tuple[Any, Any]]
"""Dotted names of settings, with the value before and now."""


@dataclass(frozen=True, slots=True)
class KnownData:
    """What a run remembers of its data; None where it is from before such was remembered."""

    broken: list[Broken] | None
    val: dict[str, frozenset[str]] | None
    """Names of validation images, by domain."""


class Resumption:
    """A run that goes on, with settings and files that may not be what they were.

    Args:
        kind: the method.
        run_dir: of the run; it has a checkpoint.
        config: with which it is to go on.
        images_per_step: in all processes.
        change: whether settings may change what is computed.
        allow_changed_data: whether the files may be others.
    """

    def __init__(
        self,
        kind: type[Method],
        run_dir: Path,
        config: RunConfig[Any],
        *,
        images_per_step: int,
        change: bool = False,
        allow_changed_data: bool = False,
    ) -> None:
        self._kind = kind
        self._run_dir = run_dir
        self._config = config
        self._images_per_step = images_per_step
        self._change = change
        self._allow_changed_data = allow_changed_data
        self._changes = changed_settings(kind, run_dir, config)
        self._difference: Difference | None = None

    def check_settings(self) -> None:
        """Refuse settings with which the steps that are left would be those of another run.

        Raises:
            ConfigError: there are such, and they may not; names them and what they were.
        """
        if self._change:
            return
        computed = [
            f"{flag_of(self._kind, name)} {shown(before)}, now {shown(now)}"
            for name, (before, now) in _computed(self._run_dir, self._changes).items()
        ]
        known = read_data(self._run_dir).get("images_per_step", self._images_per_step)
        if known != self._images_per_step:
            now = f"{known} images per step, now {self._images_per_step}"
            computed.append(f"--batch-size x processes: {now}")
        if computed:
            raise ConfigError(
                f"The run in `{self._run_dir}` has other settings: {'; '.join(computed)}. Leave "
                "out what says so (--preset and --config do too), start another run, or add "
                "--change: they hold from here on, and the report says so."
            )

    def known_data(self) -> KnownData:
        """What it takes over.

        Raises:
            CheckpointError: `data.json` is damaged.
        """
        config = self._config.data
        broken = _read_broken(self._run_dir)
        record = read_record(self._run_dir)
        if broken is not None:
            broken = [
                Broken(_moved(entry.path, self._run_dir, config), entry.reason) for entry in broken
            ]
        val = {name: frozenset(part.val) for name, part in record.items()} if record else {}
        return KnownData(broken, val if any(val.values()) else None)

    def check_files(self, now: DataRecord) -> None:
        """Refuse other files, unless they are allowed.

        Raises:
            DataError: they are not; names the first difference.
        """
        before = read_record(self._run_dir)
        self._difference = None if before is None else difference(before, now)
        chosen = any(name.startswith("data.") for name in _computed(self._run_dir, self._changes))
        if self._difference is not None and not (self._allow_changed_data or chosen):
            raise DataError(
                f"The data is not that of the run in `{self._run_dir}`: {self._difference}. "
                "Restore it, start another run, or add --allow-changed-data, which goes on and "
                "says so in the log."
            )

    def told(self, step: int) -> list[dict[str, Any]]:
        """What is to be logged of a run that goes on from a step otherwise than it began."""
        told: list[dict[str, Any]] = []
        if self._difference is not None:
            logger.warning("from step %d on the data is another: %s", step, self._difference)
            told.append({"changed_data": str(self._difference)})
        changes = _computed(self._run_dir, self._changes)
        for name, (before, now) in changes.items():
            flag = flag_of(self._kind, name)
            logger.warning(
                "from step %d on: %s %s (before: %s)", step, flag, shown(now), shown(before)
            )
        if changes:
            told.append({"changed_settings": {name: list(pair) for name, pair in changes.items()}})
        return told

    def write(self, step: int) -> None:
        """Write the settings that hold from a step on, and what they were.

        Raises:
            StorageError: they cannot be written; they are as they were.
        """
        passing = HARMLESS if read_record(self._run_dir) is None else HARMLESS | PLACES
        changes = {name: each for name, each in self._changes.items() if name not in passing}
        history = _with_changes(history_of(self._run_dir), step, changes)
        write_config(self._kind, self._config, self._run_dir, history)


# Settings


def changed_settings(kind: type[Method], run_dir: Path, config: RunConfig[Any]) -> Changes:
    """What differs from the settings of the run; what it did not know yet does not count."""
    path = run_dir / CONFIG_FILE
    saved = from_anywhere(config_from_plain(kind, config, read_yaml(path), where=f"`{path}`"))
    before, now = (dict(leaves(config_to_plain(kind, each))) for each in (saved, config))
    names = [*now, *(name for name in before if name not in now)]
    return {
        name: (before.get(name), now.get(name))
        for name in names
        if before.get(name) != now.get(name)
    }


def _computed(run_dir: Path, changes: Changes) -> Changes:
    """Those that change what is computed."""
    harmless = set(HARMLESS)
    record = read_record(run_dir)
    if record is not None:
        harmless |= PLACES
        if any(part.val for part in record.values()):  # else images would leave the training
            harmless.add("training.score_every")
    if "images_per_step" in read_data(run_dir):  # it is compared instead
        harmless.add("data.batch_size")
    if _is_complete(run_dir):
        harmless |= _LENGTH
    return {name: values for name, values in changes.items() if name not in harmless}


def _is_complete(run_dir: Path) -> bool:
    store = CheckpointStore(run_dir)
    newest = store.steps()[-1]
    return store.total_steps(newest) in range(newest + 1)


def leaves(plain: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of settings, and their values."""
    if isinstance(plain, dict) and plain:
        for key, value in plain.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, list(plain) if isinstance(plain, tuple) else plain


def shown(value: Any) -> str:
    """A setting as it is typed."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value)


def flag_of(kind: type[Method], dotted: str) -> str:
    """The flag of a setting; its short name if it has one.

    >>> from patchkin.methods import METHODS
    >>> flag_of(METHODS["cut"], "method.contrast_weight"), flag_of(METHODS["cut"], "schedule.steps")
    ('--method.contrast-weight', '--steps')
    """
    part, _, field = dotted.partition(".")
    parts = {
        "method": kind.config_type,
        "data": DataConfig,
        "schedule": ScheduleConfig,
        "training": TrainingConfig,
    }
    return short_flag(parts.get(part), field) or f"--{dotted.replace('_', '-')}"


def write_config(
    kind: type[Method], config: RunConfig[Any], run_dir: Path, history: Sequence[Any] = ()
) -> None:
    """Write `config.yaml`.

    Raises:
        StorageError: it cannot be written; it is as it was.
    """
    plain = config_to_plain(kind, config)
    if history:
        plain[HISTORY] = list(history)
    write_text(run_dir / CONFIG_FILE, to_yaml(plain))


def history_of(run_dir: Path) -> list[dict[str, Any]]:
    """The changes of a run's settings so far: from which step, before and after."""
    return list(read_yaml(run_dir / CONFIG_FILE).get(HISTORY) or ())


def _with_changes(
    history: Sequence[Mapping[str, Any]], step: int, changes: Changes
) -> list[dict[str, Any]]:
    """A history and what holds from a step on; earlier changes cannot hold from a later one."""
    kept = [{**entry, "from_step": min(int(entry["from_step"]), step)} for entry in history]
    if changes:
        before, after = (
            {name: values[place] for name, values in changes.items()} for place in (0, 1)
        )
        kept.append({"from_step": step, "before": before, "after": after})
    return kept


# Files


def _moved(path: Path, run_dir: Path, config: DataConfig) -> Path:
    """Where a file is, if the data is in another place by now."""
    before = read_yaml(run_dir / CONFIG_FILE).get("data") or {}
    for name in ("root", "source", "target"):
        old, new = before.get(name), getattr(config, name)
        if old and new and path.is_relative_to(old):
            return Path(new) / path.relative_to(old)
    return path


def write_data(
    run_dir: Path,
    *,
    broken: Sequence[Broken],
    domains: Sequence[str],
    record: DataRecord,
    images_per_step: int,
) -> None:
    """Write `data.json`: what a resumed run must find again, and from where the data was found.

    Raises:
        StorageError: it cannot be written; it is as it was.
    """
    listed = [{"path": str(entry.path), "reason": entry.reason} for entry in broken]
    plain = {
        TRAINED_IN: str(Path.cwd()),
        "broken": listed,
        **({"domains": list(domains)} if domains else {}),
        "images_per_step": images_per_step,
        "files": to_json(record),
    }
    with storage_errors(run_dir / DATA_FILE):
        write_json(run_dir / DATA_FILE, plain)


def read_data(run_dir: Path) -> dict[str, Any]:
    """`data.json`; empty for a run from before there was one.

    Raises:
        CheckpointError: it is damaged.
    """
    path = run_dir / DATA_FILE
    try:
        return dict(parsed(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"`{path}` is damaged: {error}.") from error


def read_record(run_dir: Path) -> DataRecord | None:
    """The files of a run, if it remembers them.

    Raises:
        CheckpointError: `data.json` is damaged.
    """
    files = read_data(run_dir).get("files")
    if files is None:
        return None
    try:
        return from_json(files)
    except CheckpointError as error:
        raise CheckpointError(f"`{run_dir / DATA_FILE}` is damaged: {error}.") from error


def _read_broken(run_dir: Path) -> list[Broken] | None:
    if not (run_dir / DATA_FILE).is_file():
        return None
    try:
        listed = read_data(run_dir)["broken"]
        return [Broken(Path(entry["path"]), entry["reason"]) for entry in listed]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"`{run_dir / DATA_FILE}` is damaged: {error}.") from error


def check_domains_of_run(domains: tuple[str, ...], run_dir: Path) -> None:
    """Raise `DataError` unless the data has the domains of the run."""
    known = tuple(read_data(run_dir).get("domains", domains))
    if known != domains:
        raise DataError(
            f"The run in `{run_dir}` has the domains {', '.join(known)}; the data now has "
            f"{', '.join(domains)}. Restore the folders, or start another run."
        )
