"""The training loop. It knows the contract of `patchkin.method` and no method."""

from patchkin.training.config import TrainingConfig
from patchkin.training.loggers import LoggedRun, Logger, OpenLogger
from patchkin.training.loop import BatchSource, Scorer, fit
from patchkin.training.updater import Updater

__all__ = [
    "BatchSource",
    "LoggedRun",
    "Logger",
    "OpenLogger",
    "Scorer",
    "TrainingConfig",
    "Updater",
    "fit",
]
