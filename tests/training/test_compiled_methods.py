"""Compiled steps of every method are plain ones: three of them, in float64."""

from __future__ import annotations

import copy
import functools

import pytest
import torch

from methods.test_contract import SLOW, VARIANTS, batch_for, build, progress, training_size
from patchkin.methods import METHODS
from patchkin.randomness import SeededDraws
from patchkin.training import TrainingConfig, Updater, compilation
from patchkin.training.compilation import CompiledSteps
from support import cpu_fabric

FIRST = [
    next(variant for variant, (of, _) in VARIANTS.items() if of == name and variant not in SLOW)
    for name in METHODS
]
OTHER_ORDERS = ["fastcut", "fastnegcut", "drit-every-third", "lsesim", "dclgan-relation"]
"""A coin decides what is flipped, networks rest in some steps, a selector learns between others."""


class CountingBackend:
    """`aot_eager`: traced forward and backward, run as they are. Counts what it is given."""

    def __init__(self):
        self.graphs = 0
        self.compile_ = torch._dynamo.lookup_backend("aot_eager")

    def __call__(self, graph, inputs, **options):
        self.graphs += 1
        return self.compile_(graph, inputs, **options)


def terms_of(method, batch, steps):
    """Of three steps; the networks are frozen and not, update after update, as the method goes."""
    update, said, terms = Updater(method, cpu_fabric()), [], []
    run = CompiledSteps(
        method,
        update,
        TrainingConfig(compile=steps == "compiled"),
        torch.device("cpu"),
        say=said.append,
    )
    assert run.active == (steps == "compiled")

    def step(number):
        torch.manual_seed(number)
        update.begin_step(1.0)
        method.train_step(batch, update, progress(number))

    for number in range(3):
        run(functools.partial(step, number))
        terms.append({name: value.clone() for name, value in update.terms.items()})
    assert not said
    return terms


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch warns itself while it compiles
@pytest.mark.parametrize("variant", [*FIRST, *OTHER_ORDERS])
def test_three_compiled_steps_are_three_plain_ones(variant, monkeypatch):
    torch._dynamo.reset()
    backend = CountingBackend()
    monkeypatch.setattr(
        compilation,
        "compiler",
        lambda **_: functools.partial(torch.compile, dynamic=False, backend=backend),
    )
    plain = build(variant, dtype=torch.float64).train()
    size = training_size(plain, (32, 40))
    batch = batch_for(plain, 2, size=size, dtype=torch.float64)
    plain.prepare((batch for _ in range(20)), SeededDraws(0, -1))
    compiled = copy.deepcopy(plain)
    expected = terms_of(plain, batch, "plain")
    found = terms_of(compiled, batch, "compiled")
    assert backend.graphs > 0
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
