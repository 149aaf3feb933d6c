"""What changes over a run: learning rates and curricula, as functions of progress.

Progress has two units. With epochs (the published runs) everything changes from one epoch to the
next, counted from 1; with steps it changes at every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from patchkin.config import flag
from patchkin.errors import ConfigError

GammaLine = Literal["divisor", "gamma"]
"""In what the hardness of negatives changes along a line: in the divisor of similarities, as
released, or in its inverse, the paper's gamma, which hardens later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamConfig:
    """Adam for one network. Defaults are those of CycleGAN, CUT and their successors."""

    learning_rate: float = 2e-4
    """Before decay. CUT's text says 0.002, its code and numbers use 0.0002."""
    beta1: float = 0.5
    """Decay of the first moment."""
    beta2: float = 0.999
    """Decay of the second moment."""
    weight_decay: float = 0.0
    """L2 penalty inside the gradient (Adam, not AdamW)."""
    clip_norm: float | None = None
    """Largest gradient norm of this network (DRIT's content discriminator: 5). None leaves it to
    the training's `clip_norm`."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ConfigError(f"`learning_rate` must be positive; got {self.learning_rate}.")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ConfigError(f"`clip_norm` must be positive; got {self.clip_norm}.")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be in [0, 1); got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """How long a run is, and how its learning rate falls."""

    epochs: Annotated[int, flag("--epochs")] = 400
    """Passes over the larger domain, decaying ones included (CUT: 200 constant + 200 decaying)."""
    steps: Annotated[int | None, flag("--steps")] = None
    """Optimisation steps; replaces `epochs` and lets everything change per step."""
    max_steps: int | None = None
    """Optimisation steps after which the run ends, wherever it stands: learning rates and curricula
    go on falling as if it did not (DRIT: 500,000). None lets it finish."""
    decay_fraction: float = 0.5
    """Share of the run, at its end, over which the learning rate falls linearly to zero."""
    halve_every: int | None = None
    """Epochs (or steps) after which the learning rate is halved, again and again (MUNIT: 100,000
    steps, without a linear fall). None never halves it."""
    warmup: int = 0
    """Epochs (or steps) at the start over which the learning rate rises linearly, whatever it would
    be otherwise (EnCo: 20 epochs)."""
    ema_decay: float = 0.0
    """Of the averaged weights of the translating networks, kept beside the live ones and used to
    translate. 0 keeps none, as published (StarGAN v2: 0.999)."""
    ema_warmup: bool = False
    """Whether the average reaches back over the last tenth of the steps so far until `ema_decay`
    reaches no further, so that short runs are not averaged with their beginning."""

    def __post_init__(self) -> None:
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"`ema_decay` must be in [0, 1); got {self.ema_decay}.")
        if self.epochs < 1:
            raise ConfigError(f"`epochs` must be at least 1; got {self.epochs}.")
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"`steps` must be at least 1; got {self.steps}.")
        if self.max_steps is not None and self.max_steps < 1:
            raise ConfigError(f"`max_steps` must be at least 1; got {self.max_steps}.")
        if not 0 <= self.decay_fraction <= 1:
            raise ConfigError(f"`decay_fraction` must be in [0, 1]; got {self.decay_fraction}.")
        if self.warmup < 0:
            raise ConfigError(f"`warmup` must not be negative; got {self.warmup}.")
        if self.halve_every is not None and self.halve_every < 1:
            raise ConfigError(f"`halve_every` must be at least 1; got {self.halve_every}.")

    def planned_steps(self, steps_per_epoch: int) -> int:
        """Optimisation steps of the whole schedule, by which everything changes.

        >>> ScheduleConfig(epochs=3).planned_steps(7), ScheduleConfig(steps=5).planned_steps(7)
        (21, 5)
        """
        return self.steps or self.epochs * steps_per_epoch

    def last_step(self, steps_per_epoch: int) -> int:
        """Optimisation steps after which the run ends, `planned_steps` or sooner.

        >>> ScheduleConfig(epochs=1200, max_steps=500_000).last_step(1000)
        500000
        """
        planned = self.planned_steps(steps_per_epoch)
        return planned if self.max_steps is None else min(planned, self.max_steps)

    def averaging_decay(self, step: int) -> float:
        """The decay of averaged weights after optimisation step `step`, from 1.

        The warm-up is that of TensorFlow's ExponentialMovingAverage with `num_updates`.

        >>> warmed = ScheduleConfig(ema_decay=0.9, ema_warmup=True)
        >>> [round(warmed.averaging_decay(step), 3) for step in (1, 10, 80, 81, 1000)]
        [0.182, 0.55, 0.9, 0.9, 0.9]
        """
        if not self.ema_warmup:
            return self.ema_decay
        return min(self.ema_decay, (1 + step) / (10 + step))

    def learning_rate_factor(self, unit: int, total_units: int) -> float:
        """The factor on the learning rate in epoch (or step) `unit` of `total_units`, from 1.

        >>> halving = ScheduleConfig(decay_fraction=0.0, halve_every=2)
        >>> [halving.learning_rate_factor(step, 5) for step in range(1, 6)]
        [1.0, 0.5, 0.5, 0.25, 0.25]
        >>> [ScheduleConfig(warmup=4).learning_rate_factor(epoch, 9) for epoch in range(1, 6)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
        """
        if unit <= self.warmup:
            return unit / self.warmup
        decaying = round(total_units * self.decay_fraction)
        factor = linear_decay(unit, total_units - decaying, decaying)
        # Released MUNIT counts before it trains: step 100,000 is the first at half the rate.
        return factor if self.halve_every is None else factor * 0.5 ** (unit // self.halve_every)


def linear_decay(epoch: int, constant_epochs: int, decay_epochs: int) -> float:
    """CycleGAN's factor for epoch 1, 2, ...: 1 while constant, then linear, never 0 while training.

    >>> [linear_decay(epoch, 2, 3) for epoch in range(1, 6)]
    [1.0, 1.0, 0.75, 0.5, 0.25]
    """
    return 1.0 - max(0, epoch - constant_epochs) / (decay_epochs + 1)


def gamma_curriculum(
    fraction: float,
    start: float,
    end: float,
    *,
    late: float | None = None,
    late_from: float = 0.5,
    linear_in: GammaLine = "divisor",
) -> float:
    """The hard-negative parameter gamma after `fraction` of a run (Jung et al. 2022, Sec. 3.3).

    Args:
        fraction: share of the run done at the end of this epoch (or step), in (0, 1]. It is never 0
            in the released code, so `start` itself is never used.
        start: value at fraction 0.
        end: value at fraction 1.
        late: if given, replaces the line beyond `late_from` (released code: `step_gamma`).
        late_from: share of the run after which `late` holds.
        linear_in: what the line is of: the values, or their inverses, which are the paper's gamma
            where the values are divisors. Both positive then.

    >>> gamma_curriculum(100 / 400, 50.0, 10.0)  # epoch 100 of horse2zebra
    40.0
    >>> gamma_curriculum(201 / 400, 50.0, 10.0, late=1.0)  # epoch 201 of cityscapes
    1.0
    >>> round(1 / gamma_curriculum(0.5, 50.0, 10.0, linear_in="gamma"), 6)  # between 1/50 and 1/10
    0.06
    """
    if late is not None and fraction > late_from:
        return late
    if linear_in == "gamma":
        return 1 / (1 / start + (1 / end - 1 / start) * fraction)
    return start + (end - start) * fraction
