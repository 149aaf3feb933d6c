"""Where a run tells its values beside `log.jsonl`: `--log tensorboard`, `--log wandb`.

A logger is anything with the three methods of `Logger`; what opens one is a function of a
`LoggedRun`. A package adds one by the entry point `patchkin.loggers`, a program hands it to
`patchkin.fit`. One that fails, for want of a disk or a network, is left out from there on with one
line: it never ends a training.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from patchkin import plugins
from patchkin.config import read_yaml
from patchkin.errors import ConfigError, missing_extra
from patchkin.storage.strict_json import parsed

_PREVIEWS = "previews"


class Logger(Protocol):
    """Takes what a run measures."""

    def values(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step: `terms/G.copy`, `scores/frechet`, `learning_rates/G`, ..."""
        ...

    def image(self, step: int, file: Path) -> None:
        """The preview of a step, a PNG."""
        ...

    def close(self) -> None:
        """The run ends, or is interrupted."""
        ...


@dataclass(frozen=True, kw_only=True)
class LoggedRun:
    """What a logger is told when it is opened, before the first value."""

    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    """`config.yaml`."""
    history: Sequence[tuple[int, Mapping[str, float]]] = ()
    """Step and values of what stands in the log: of a run that was resumed, what it has done."""
    previews: Sequence[tuple[int, Path]] = ()
    """Step and file of those that are there."""


OpenLogger: TypeAlias = Callable[[LoggedRun], Logger]


def values_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of the log, with the names of what they stand in.

    >>> values_of({"step": 3, "epoch": 1, "terms": {"G.nce": 0.5}, "best": True, "device": "cpu"})
    {'epoch': 1.0, 'terms/G.nce': 0.5}
    """
    found: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping) and name in ("terms", "scores", "baseline", "learning_rates"):
            numbers = {f"{name}/{inner}": number for inner, number in value.items()}
        else:
            numbers = {} if name == "step" else {name: value}
        for tag, number in numbers.items():
            if isinstance(number, (int, float)) and not isinstance(number, bool):
                with contextlib.suppress(OverflowError):  # of a whole number beyond all floats
                    found[tag] = float(number)
    return found


class TensorBoard:
    """Event files in the folder `tensorboard` of the run.

    They are made from `log.jsonl` each time a run is started, and hold every step of it once.
    """

    def __init__(self, run: LoggedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / "tensorboard"
        old = sorted(folder.glob("events.out.tfevents.*"))
        # `purge_step` lets a TensorBoard that is looking on forget what is told again.
        self._writer: Any = SummaryWriter(str(folder), purge_step=0)
        for step, values in run.history:
            self.values(step, values)
        for step, file in run.previews:
            self.image(step, file)
        self._writer.flush()
        for file in old:
            file.unlink()

    def values(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def image(self, step: int, file: Path) -> None:
        """See `Logger`."""
        import numpy as np
        from PIL import Image

        with Image.open(file) as image:
            pixels_HWC = np.asarray(image.convert("RGB"))
        self._writer.add_image("previews", pixels_HWC, step, dataformats="HWC")

    def close(self) -> None:
        """See `Logger`."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, the same one when it is resumed. `WANDB_PROJECT` names another
    project than `patchkin`.
    """

    def __init__(self, run: LoggedRun) -> None:
        import os

        import wandb

        folder = run.folder.absolute()
        self._wandb: Any = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "patchkin"),
            name=folder.name,
            id=hashlib.sha256(str(folder).encode()).hexdigest()[:16],
            resume="allow",
            dir=str(folder),
            config=dict(run.settings),
        )

    def values(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`. Steps that it was told before the run was resumed are passed over there."""
        self._run.log(dict(values), step=step)

    def image(self, step: int, file: Path) -> None:
        """See `Logger`."""
        self._run.log({"previews": self._wandb.Image(str(file))}, step=step)

    def close(self) -> None:
        """See `Logger`."""
        self._run.finish()


OWN: Mapping[str, OpenLogger] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
_LIBRARIES = {"tensorboard": "tensorboard", "wandb": "wandb"}


def find_loggers(names: Sequence[str]) -> dict[str, OpenLogger]:
    """What opens the loggers of these names.

    Raises:
        ConfigError: an unknown one, one that needs a library that is not there, or a plug-in that
            cannot be used.
    """
    found: dict[str, OpenLogger] = {}
    for name in names:
        if name in OWN:
            if importlib.util.find_spec(_LIBRARIES[name]) is None:
                raise ConfigError(
                    missing_extra(f"--log {name}", package=_LIBRARIES[name], extra=name)
                )
            found[name] = OWN[name]
            continue
        if name not in plugins.plugins(plugins.LOGGERS):
            known = [*OWN, *plugins.plugins(plugins.LOGGERS)]
            raise ConfigError(f"Unknown logger `{name}` (--log). Known: {', '.join(known)}.")
        found[name] = plugins.find_plugin(
            plugins.LOGGERS,
            name,
            what="logger",
            check=lambda it: None if callable(it) else "it cannot be called",
        )
    return found


class Loggers:
    """The loggers of a run, opened before the first value. None of them ends it.

    Args:
        openers: what opens them, by name.
        log: `log.jsonl` of the run.
        say: a line for people.
    """

    def __init__(
        self, openers: Mapping[str, OpenLogger], log: Path, *, say: Callable[[str], None]
    ) -> None:
        self._openers = dict(openers)
        self._log = log
        self._say = say
        self._open: dict[str, Logger] = {}

    def begin(self) -> None:
        """Open those that are not open yet, with what stands in the log."""
        if not self._openers:
            return
        openers, self._openers = self._openers, {}
        run = logged_run(self._log)
        for name, opener in openers.items():
            try:
                self._open[name] = opener(run)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - anybody's code
                self._fails(name, error)

    def write(self, record: Mapping[str, Any]) -> None:
        """The numbers of a line of the log."""
        values = values_of(record)
        if values:
            self._each(lambda logger: logger.values(int(record["step"]), values))

    def image(self, step: int, file: Path) -> None:
        """A preview."""
        self._each(lambda logger: logger.image(step, file))

    def close(self) -> None:
        """Close those that are open."""
        self._each(lambda logger: logger.close())
        self._open = {}

    def _each(self, tell: Callable[[Logger], None]) -> None:
        for name, logger in list(self._open.items()):
            try:
                tell(logger)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - anybody's code
                self._fails(name, error)

    def _fails(self, name: str, error: BaseException) -> None:
        self._open.pop(name, None)
        lines = str(error).strip().splitlines()
        why = f"{type(error).__name__}{f': {lines[0]}' if lines else ''}"
        self._say(
            f"Warning: the logger `{name}` fails and is told nothing more ({why.rstrip('.')}). "
            "Training goes on, and log.jsonl has everything."
        )


def logged_run(log: Path) -> LoggedRun:
    """What there is of a run, from its folder."""
    folder = log.parent
    config = folder / "config.yaml"
    history = [(record["step"], values_of(record)) for record in _records(log)]
    history = [(step, values) for step, values in history if values]
    last = max((step for step, _ in history), default=-1)
    previews = sorted((folder / _PREVIEWS).glob("step_*.png"))
    steps = [(int(file.stem.removeprefix("step_")), file) for file in previews]
    return LoggedRun(
        folder=folder,
        settings=read_yaml(config) if config.is_file() else {},
        history=history,
        previews=[(step, file) for step, file in steps if step <= last],
    )


def _records(log: Path) -> Iterator[dict[str, Any]]:
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
        try:
            record = parsed(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            yield record
