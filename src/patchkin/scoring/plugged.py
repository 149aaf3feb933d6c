"""Metrics of a user's own, from installed packages: `patchkin evaluate --metric NAME`.

    from patchkin.scoring import Score, mean_over_pairs

    darkening = mean_over_pairs(
        Score(name="darkening", unit="levels", better=None, meaning="How much darker it became."),
        lambda input_CHW, output_CHW: float((input_CHW - output_CHW).mean() * 127.5),
    )

and in the package's `pyproject.toml`

    [project.entry-points."patchkin.metrics"]
    darkening = "my_package:darkening"
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from patchkin import plugins
from patchkin.errors import ConfigError, DataError, PatchkinError
from patchkin.scoring.pairs import Pair
from patchkin.scoring.scores import Score, Scores


class Metric(Protocol):
    """What an entry of `patchkin.metrics` makes, called without arguments for each evaluation."""

    declares: tuple[Score, ...]
    """The scores that it gives. A class or function that makes metrics has it too."""

    def add(self, pair: Pair) -> None:
        """The next input and its translation; `pair.input_CHW` is None where there is no input."""
        ...

    def scores(self) -> Scores:
        """Of all pairs so far, by declared names; empty where there is nothing to say."""
        ...


class mean_over_pairs:  # noqa: N801 - read as a function
    """Makes metrics that are the mean of a function over images.

    >>> import torch
    >>> score = Score(name="mean", unit="1", better=None, meaning="Of outputs.")
    >>> metric = mean_over_pairs(score, lambda input_CHW, output_CHW: float(output_CHW.mean()))()
    >>> for value in (0.0, 0.5):
    ...     metric.add(Pair("a", torch.zeros(3, 2, 2), torch.full((3, 2, 2), value)))
    >>> metric.scores()
    {'mean': 0.25}
    """

    def __init__(self, score: Score, function: Callable[[Tensor, Tensor], float]) -> None:
        """For a function of an input and its translation, [C, H, W] in [-1, 1]."""
        self.declares = (score,)
        self._function = function

    def __call__(self) -> Metric:
        """A metric that has seen nothing yet."""
        return _Mean(self.declares, self._function)


class _Mean:
    def __init__(
        self, declares: tuple[Score, ...], function: Callable[[Tensor, Tensor], float]
    ) -> None:
        self.declares = declares
        self._function = function
        self._values: list[float] = []

    def add(self, pair: Pair) -> None:
        if pair.input_CHW is not None:
            self._values.append(float(self._function(pair.input_CHW, pair.output_CHW)))

    def scores(self) -> Scores:
        if not self._values:
            return {}
        return {self.declares[0].name: math.fsum(self._values) / len(self._values)}


class _Checked:
    """A metric whose faults are told in one line."""

    def __init__(self, name: str, metric: Metric) -> None:
        self._name, self._metric = name, metric
        self._declared = {score.name for score in metric.declares}

    def add(self, pair: Pair) -> None:
        """See `Metric`."""
        try:
            self._metric.add(pair)
        except PatchkinError:
            raise
        except Exception as error:
            raise DataError(
                f"The metric `{self._name}` of a plug-in fails on `{pair.name}`: "
                f"{type(error).__name__}: {error}"
            ) from error

    def scores(self) -> Scores:
        """See `Metric`."""
        found = {str(name): float(value) for name, value in self._metric.scores().items()}
        for name in found:
            if name.rpartition("/")[2] not in self._declared:
                raise ConfigError(
                    f"The metric `{self._name}` of a plug-in gives the score `{name}`, which it "
                    "does not declare."
                )
        return found


def plugged_metrics(names: Sequence[str]) -> list[Any]:
    """Fresh metrics by name.

    Raises:
        ConfigError: there is none of a name, or it cannot be used.
    """
    makers = [
        plugins.find_plugin(plugins.METRICS, name, what="metric", check=no_metric) for name in names
    ]
    return [_Checked(name, make()) for name, make in zip(names, makers, strict=True)]


def no_metric(found: Any) -> str | None:
    """Why something is no maker of metrics; None if it is one."""
    declares = getattr(found, "declares", None)
    if not callable(found) or not isinstance(declares, tuple):
        return (
            "it is no metric: it needs `declares`, a tuple of `scoring.Score`, and to be callable"
        )
    return None if all(isinstance(each, Score) for each in declares) else "it declares no scores"
