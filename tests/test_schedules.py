"""Learning rates and curricula over a run."""

from __future__ import annotations

import pytest

from patchkin.errors import ConfigError
from patchkin.method import Progress
from patchkin.schedules import AdamConfig, ScheduleConfig, gamma_curriculum, linear_decay


def test_the_published_schedule():
    """200 constant and 200 decaying epochs; FastCUT: 150 and 50."""
    schedule = ScheduleConfig(epochs=400, decay_fraction=0.5)
    factors = [schedule.learning_rate_factor(epoch, 400) for epoch in range(1, 401)]
    assert factors[:200] == [1.0] * 200
    assert factors[200] == pytest.approx(1 - 1 / 201)
    assert factors[399] == pytest.approx(1 / 201)
    fast = ScheduleConfig(epochs=200, decay_fraction=0.25)
    assert [fast.learning_rate_factor(e, 200) for e in (150, 151)] == [1.0, 1 - 1 / 51]


def test_halving_multiplies_the_linear_fall():
    schedule = ScheduleConfig(steps=6, decay_fraction=0.5, halve_every=2)
    factors = [schedule.learning_rate_factor(step, 6) for step in range(1, 7)]
    assert factors == pytest.approx([1, 0.5, 0.5, 0.25 * 0.75, 0.25 * 0.5, 0.125 * 0.25])


def test_a_warm_up_outlasts_the_constant_part():
    schedule = ScheduleConfig(epochs=6, decay_fraction=0.5, warmup=4)
    factors = [schedule.learning_rate_factor(epoch, 6) for epoch in range(1, 7)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.5, 0.25])


def test_it_never_reaches_zero_while_training():
    assert linear_decay(3, 0, 3) == pytest.approx(0.25)
    assert linear_decay(7, 7, 0) == 1.0


@pytest.mark.parametrize(
    ("epoch", "gamma"), [(1, 49.9), (100, 40), (200, 30), (201, 29.9), (400, 10)]
)
def test_the_released_curriculum_of_horse2zebra(epoch, gamma):
    assert gamma_curriculum(epoch / 400, 50, 10) == pytest.approx(gamma)


@pytest.mark.parametrize(("epoch", "gamma"), [(200, 30), (201, 1), (400, 1)])
def test_the_released_curriculum_of_cityscapes(epoch, gamma):
    assert gamma_curriculum(epoch / 400, 50, 10, late=1.0) == pytest.approx(gamma)


def test_progress_in_epochs_changes_between_epochs_only():
    run = {"total_steps": 12, "steps_per_epoch": 3, "counts_epochs": True}
    units = [(Progress.of_step(s, **run).unit, Progress.of_step(s, **run).total_units)
             for s in range(12)]  # fmt: skip
    assert units == [(1 + s // 3, 4) for s in range(12)]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (AdamConfig, {"learning_rate": 0.0}),
        (AdamConfig, {"beta1": 1.0}),
        (AdamConfig, {"clip_norm": 0.0}),
        (ScheduleConfig, {"epochs": 0}),
        (ScheduleConfig, {"halve_every": 0}),
        (ScheduleConfig, {"warmup": -1}),
        (ScheduleConfig, {"steps": 0}),
        (ScheduleConfig, {"decay_fraction": 1.5}),
        (ScheduleConfig, {"ema_decay": 1.0}),
    ],
)
def test_what_is_out_of_range(kind, values):
    ((name, value),) = values.items()
    with pytest.raises(ConfigError, match=rf"`{name}` must (not )?be .*; got {value}"):
        kind(**values)
