"""Training from Python: `patchkin.fit(config) -> Run`, what `patchkin train` does.

run = patchkin.fit({"name": "cut", "data": {"root": "datasets/horse2zebra"}}, "runs/h2z")
zebra = run.translator()("horse.jpg")
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from patchkin.config import read_yaml
from patchkin.data.layouts import TOY
from patchkin.errors import ConfigError, nearest
from patchkin.method import Method
from patchkin.methods import known_methods
from patchkin.runs.config import (
    RunConfig,
    choose_preset,
    config_from_plain,
    preset_config,
)
from patchkin.runs.resuming import CONFIG_FILE
from patchkin.runs.train import train
from patchkin.scoring.report import read_log
from patchkin.storage.checkpoint import CheckpointStore, find_model
from patchkin.training import OpenLogger
from patchkin.translation.translator import Translator

_PRESET = "preset"


@dataclass(frozen=True)
class Run:
    """A run folder."""

    folder: Path
    methods: Mapping[str, type[Method]] | None = None
    """Known methods by name; those of patchkin and of plug-ins unless given."""

    @property
    def config(self) -> dict[str, Any]:
        """The settings, as `config.yaml` holds them."""
        return read_yaml(self.folder / CONFIG_FILE)

    @property
    def log(self) -> list[dict[str, Any]]:
        """The records of `log.jsonl`."""
        return read_log(self.folder)

    @property
    def steps(self) -> int:
        """Done so far, as far as they are saved."""
        return max(CheckpointStore(self.folder).steps(), default=0)

    @property
    def scores(self) -> dict[int, dict[str, float]]:
        """Validation scores by step."""
        return {record["step"]: record["scores"] for record in self.log if "scores" in record}

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.folder / "report.html"

    def model(self, which: Literal["last", "best"] = "last") -> Path:
        """The model file of a checkpoint.

        Raises:
            CheckpointError: there is none.
        """
        return find_model(self.folder, which=which)

    def translator(self, which: Literal["last", "best"] = "last", **options: Any) -> Translator:
        """The trained model; options are those of `Translator.load`.

        Raises:
            CheckpointError: there is no such checkpoint.
        """
        return Translator.load(self.folder, which=which, methods=self.methods, **options)


def fit(
    config: RunConfig[Any] | Mapping[str, Any] | Path | str,
    run_dir: Path | str | None = None,
    *,
    method: type[Method] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    loggers: Mapping[str, OpenLogger] | None = None,
) -> Run:
    """Train as configured; what `patchkin train` does, with its files and its exactness.

    Args:
        config: a mapping with the keys of `config.yaml` (`name` of the method, and of `method`,
            `data`, `schedule` and `training` what differs from the preset), and `preset` where it
            is not the method's first; or the path of such a file; or a `RunConfig`.
        run_dir: folder of the run; runs/METHOD_DATA unless given.
        method: the class, where it is one of your own; else the configuration tells it.
        resume: continue the run that the folder holds.
        overwrite: replace the run that the folder holds.
        loggers: told beside the log, by name.

    Returns:
        The run, trained to its end. In several processes each gets it.

    Raises:
        ConfigError: a key or value that does not belong; the nearest is offered.
        PatchkinError: as `patchkin train`: data, folder or machine do not allow it.
        KeyboardInterrupt: after Ctrl-C, once a checkpoint is saved.
    """
    kind, built = _configured(config, method)
    folder = Path(run_dir) if run_dir is not None else _usual_folder(kind, built)
    train(kind, built, folder, resume=resume, overwrite=overwrite, loggers=loggers)
    return Run(folder, None if method is None else {**known_methods(), kind.name: kind})


def _usual_folder(kind: type[Method], config: RunConfig[Any]) -> Path:
    return Path("runs", f"{kind.name}_{Path(config.data.root).name}")


def _configured(
    config: RunConfig[Any] | Mapping[str, Any] | Path | str, method: type[Method] | None
) -> tuple[type[Method], RunConfig[Any]]:
    if isinstance(config, RunConfig):
        return method or _kind_of(config), config
    where = "the configuration"
    if isinstance(config, (str, Path)):
        where, config = f"`{config}`", read_yaml(Path(config))
    plain = dict(config)
    preset = plain.pop(_PRESET, None)
    kind = method or _named(plain.get("name"), where)
    root = (plain.get("data") or {}).get("root")
    start = preset_config(choose_preset(kind, preset, toy=root == TOY))
    if isinstance(root, Path):
        plain["data"] = {**plain["data"], "root": str(root)}
    return kind, config_from_plain(kind, start, plain, where=where)


def _named(name: Any, where: str) -> type[Method]:
    methods = known_methods()
    if name not in methods:
        said = f"Unknown method `{name}` in {where}." if name else f"{where} names no method."
        hint = nearest(str(name), methods) if name else 'Add its `name`, such as "cut".'
        raise ConfigError(f"{said[0].upper()}{said[1:]} {hint}")
    return methods[name]


def _kind_of(config: RunConfig[Any]) -> type[Method]:
    """The only method whose settings are of this type."""
    kinds = [k for k in known_methods().values() if k.config_type is type(config.method)]
    if len(kinds) != 1:
        raise ConfigError(
            f"`config.method` is a {type(config.method).__name__}, which tells no method of "
            "patchkin; pass the class as `method`."
        )
    return kinds[0]
