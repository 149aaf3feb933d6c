"""Honest scores: of models, of folders, while training, and runs side by side.

The names below are for metrics of a user's own (`scoring.plugged`), and imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchkin.scoring.pairs import Pair
    from patchkin.scoring.plugged import Metric, mean_over_pairs
    from patchkin.scoring.scores import Score

__all__ = ["Metric", "Pair", "Score", "mean_over_pairs"]

_HOMES = {"Pair": "pairs", "Score": "scores"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"patchkin.scoring.{_HOMES.get(name, 'plugged')}"), name)
    raise AttributeError(f"module `patchkin.scoring` has no attribute `{name}`")
