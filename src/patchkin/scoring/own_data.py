"""The data of a run: what its configuration names, found again from wherever one is.

A relative path in `config.yaml` is one of the folder where the run was trained, which `data.json`
holds. What is no longer there is looked for below the current folder, and below the folders above
the run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from patchkin.config import from_plain, read_yaml
from patchkin.data.config import DataConfig
from patchkin.data.layouts import TOY
from patchkin.errors import CheckpointError, DataError
from patchkin.storage.checkpoint import CheckpointStore
from patchkin.storage.strict_json import parsed

CONFIG_FILE = "config.yaml"
MANIFEST_FILE = "data.json"
TRAINED_IN = "trained_in"
"""Entry of that file: the folder that relative paths start from."""
_FOLDERS_ABOVE = 3
_JOIN = " -> "


def run_of(model: Path) -> Path | None:
    """The run folder that a run, a checkpoint of it or its model file belongs to; None if none.

    A folder is one if it has a configuration and checkpoints.
    """
    if not model.exists():  # the name of a shipped model
        return None
    above = (model, *list(model.resolve().parents)[:_FOLDERS_ABOVE])
    for folder in above:
        if (folder / CONFIG_FILE).is_file() and CheckpointStore(folder).steps():
            return folder
    return None


def configured_data(run: Path) -> DataConfig:
    """The settings of the data of a run, as they are written there.

    Raises:
        ConfigError: `config.yaml` is damaged, or has settings that are not known here.
    """
    file = run / CONFIG_FILE
    return from_plain(DataConfig, read_yaml(file).get("data") or {}, where=f"`{file}`")


def own_data(run: Path) -> DataConfig:
    """The settings of the data of a run, with the paths where it is now.

    Raises:
        ConfigError: as `configured_data`.
        DataError: it is not to be found.
    """
    config = configured_data(run)
    if config.source is not None and config.target is not None:
        source, target = (str(_found(run, path)) for path in (config.source, config.target))
        return replace(config, source=source, target=target)
    if config.root == TOY:
        return config
    return replace(config, root=str(_found(run, config.root)))


def names_of_own_data(run: Path) -> set[str]:
    """What results may call the data of a run: as it was written, and in full, where it was and
    where it is.

    Raises:
        ConfigError: `config.yaml` is no YAML.
    """
    plain = read_yaml(run / CONFIG_FILE).get("data") or {}
    parts = [plain["source"], plain["target"]] if plain.get("source") else [plain.get("root", TOY)]
    names = {_JOIN.join(parts), full_name(_JOIN.join(parts), _trained_in(run))}
    with contextlib.suppress(DataError):  # it was moved
        names.add(_JOIN.join(p if p == TOY else str(_found(run, p)) for p in parts))
    return names


def own_name(run: Path) -> str:
    """The `name_of_data` of a run, in full: where it is now, or where it was if it is not found.

    Raises:
        ConfigError: `config.yaml` is no YAML.
    """
    plain = read_yaml(run / CONFIG_FILE).get("data") or {}
    parts = [plain["source"], plain["target"]] if plain.get("source") else [plain.get("root", TOY)]
    try:
        return full_name(_JOIN.join(p if p == TOY else str(_found(run, p)) for p in parts))
    except DataError:  # it was moved
        return full_name(_JOIN.join(parts), _trained_in(run))


def name_of_data(config: DataConfig) -> str:
    """A set in a result: its root, or both folders.

    >>> name_of_data(DataConfig(source="a", target="b"))
    'a -> b'
    """
    return config.root if config.source is None else f"{config.source}{_JOIN}{config.target}"


def full_name(name: str, folder: Path | None = None) -> str:
    """A `name_of_data` with absolute paths, so that it is the same from everywhere.

    >>> full_name("toy"), full_name("/data/a -> b", Path("/tmp"))
    ('toy', '/data/a -> /tmp/b')
    """
    if name == TOY:
        return name
    start = folder or Path.cwd()
    return _JOIN.join(_normal(start / part) for part in name.split(_JOIN))


def _normal(path: Path) -> str:
    return str(path.resolve()) if path.exists() else str(path)


def _found(run: Path, written: str) -> Path:
    """A path of the configuration where it is.

    Raises:
        DataError: nowhere.
    """
    path = Path(written)
    places = [path] if path.is_absolute() else [start / path for start in _starts(run)]
    for place in places:
        if place.exists():
            return place.resolve()
    trained_in = _trained_in(run)
    relative = "" if path.is_absolute() or trained_in is None else f" (in `{trained_in}`)"
    raise DataError(
        f"`{run}` was trained on `{written}`{relative}, which is not there any more; name the set "
        "to score on: --data ROOT."
    )


def _starts(run: Path) -> Iterator[Path]:
    """Folders that a relative path may start from."""
    trained_in = _trained_in(run)
    if trained_in is not None:
        yield trained_in
    yield Path.cwd()
    yield from run.resolve().parents


def _trained_in(run: Path) -> Path | None:
    file = run / MANIFEST_FILE
    try:
        folder = parsed(file.read_text(encoding="utf-8")).get(TRAINED_IN)
        return None if folder is None else Path(folder)
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"`{file}` is damaged: {error}.") from error
