"""Terms of the steps since the last line of the log, which a GPU still holds.

Looking at them waits for all that was asked of the GPU before, so it is done for many steps at a
time, in one copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from patchkin.errors import DivergenceError
from patchkin.training.log import Window
from patchkin.training.updater import Judged


class DivergedAtError(DivergenceError):
    """A term became NaN or infinite, at a step that is over."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True)
class _Step:
    number: int
    names: tuple[str, ...]
    judged: Sequence[Judged]
    values_N: Tensor
    """Of the terms, then of what is to be judged."""
    images: int
    waited: float


class Unread:
    """Steps whose terms have not been looked at.

    >>> unread, window = Unread(), Window()
    >>> for step in range(2):
    ...     unread.add(step, {"D.real": torch.tensor(step / 2)}, [], images=1, waited=0.0)
    >>> unread.read_into(window)
    >>> window.summary()["terms"]
    {'D.real': 0.25}
    """

    def __init__(self) -> None:
        self._steps: list[_Step] = []

    def add(
        self,
        number: int,
        terms: Mapping[str, Tensor],
        judged: Sequence[Judged],
        *,
        images: int,
        waited: float,
    ) -> None:
        """A step: its number from 1, and what `Window.add` is given.

        Args:
            number: of the step.
            terms: means over all processes.
            judged: what `Updater.judged` holds after the step.
            images: of the step.
            waited: seconds that the loader let it wait.
        """
        values = [value for part in judged for value in part.values]
        values_N = torch.stack([value.float() for value in (*terms.values(), *values)])
        self._steps.append(_Step(number, tuple(terms), judged, values_N, images, waited))

    def read_into(self, window: Window) -> None:
        """Look at all of them.

        Raises:
            DivergedAtError: a term that was differentiated is not finite.
        """
        if not self._steps:
            return
        steps, self._steps = self._steps, []
        values = iter(torch.cat([step.values_N for step in steps]).tolist())
        for step in steps:
            terms = {name: next(values) for name in step.names}
            for judged in step.judged:
                try:
                    judged.judge([next(values) for _ in judged.values])
                except DivergenceError as error:
                    raise DivergedAtError(str(error), step.number) from error
            window.add(terms, images=step.images, waited=step.waited)
