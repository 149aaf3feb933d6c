"""Training steps of every method on a GPU that is not there (`card`).

What is looked for: tensors of another device in an operator, places where the host waits inside of
a step, and terms or gradients of another type than float32. Nothing is computed, so numbers and
speed stay unknown.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch

from card import CARD, card, moved_to_card
from methods.test_contract import SLOW, VARIANTS, batch_for, build, marked, training_size
from patchkin.method import Progress
from patchkin.methods import METHODS
from patchkin.randomness import SeededDraws
from patchkin.schedules import ScheduleConfig
from patchkin.storage.checkpoint import ModelHeader
from patchkin.training import TrainingConfig, Updater, fit

PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
FIRST = [
    next(variant for variant, (of, _) in VARIANTS.items() if of == name and variant not in SLOW)
    for name in METHODS
]
"""A variant of each method."""


class CardFabric:
    """One process with a card."""

    world_size, global_rank, is_global_zero = 1, 0, True
    device = CARD

    def __init__(self, precision="32-true"):
        self.dtype = PRECISIONS[precision]
        self.scaler = None
        if precision == "16-mixed":
            self.scaler = torch.amp.GradScaler("cuda")
            assert self.scaler.is_enabled()

    @property
    def strategy(self):
        return self

    precision = strategy

    def autocast(self):
        return torch.autocast("cuda", dtype=self.dtype, enabled=self.dtype is not None)

    def backward(self, total):
        (total if self.scaler is None else self.scaler.scale(total)).backward()


def faults_of(method, batch, precision="32-true", *, steps=2):
    """What a card would have had to complain about, in words.

    Waits of the first step are left out: what a run does once may wait.
    """
    with card() as seen:
        method, batch = moved_to_card(method.train()), batch.to(CARD)
        fabric = CardFabric(precision)
        update = Updater(method, fabric)
        for step in range(steps):
            seen.waits.clear()
            update.begin_step(1.0)
            progress = Progress.of_step(step, total_steps=10, draws=SeededDraws(7, step))
            with fabric.autocast():
                method.train_step(batch, update, progress)
    faults = [f"waits: {what}" for what in seen.waits]
    faults += [f"another device: {what}" for what in seen.strangers]
    gradients = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
    assert update.terms
    assert gradients
    for name, tensor in {**update.terms, **gradients}.items():
        if tensor.device != CARD:
            faults.append(f"not on the card: {name}")
        if tensor.dtype != torch.float32:
            faults.append(f"{tensor.dtype}: {name}")
    return faults


def small(variant):
    method = build(variant)
    return method, batch_for(method, 2, size=training_size(method, (32, 40)))


@pytest.mark.parametrize("variant", marked(VARIANTS))
def test_a_step_stays_on_the_card_and_waits_for_nothing(variant):
    assert faults_of(*small(variant)) == []


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("variant", FIRST)
def test_terms_and_gradients_are_wide_in_16_bits(variant, precision):
    assert faults_of(*small(variant), precision) == []


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in FIRST])
def test_every_variant_in_16_bits(variant, precision):
    assert faults_of(*small(variant), precision) == []


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("name", "preset"), [(name, preset) for name in METHODS for preset in METHODS[name].presets]
)
def test_every_preset(name, preset, precision):
    """At its own size and batch, with features that need no file of weights."""
    chosen = METHODS[name].presets[preset]
    config = chosen.method
    if getattr(config, "features", None) == "vgg16":
        config = replace(config, features="random")
    if getattr(config, "content", None) == "lsesim":
        config = replace(config, structure=replace(config.structure, features="random"))
    method = METHODS[name](config)
    size = training_size(method, (chosen.data.size,) * 2)
    batch = batch_for(method, chosen.data.batch_size, size=size)
    assert faults_of(method, batch, precision) == []


def _reads_a_value(name, terms):
    if terms[name].item() > 0.1:
        return terms
    return {**terms, name: 2 * terms[name]}


def _takes_a_tensor_of_the_host(name, terms):
    return {**terms, name: (terms[name] * torch.ones(3)).mean()}


def _copies_from_the_host(name, terms):
    return {**terms, name: terms[name] * torch.ones(()).to(terms[name].device)}


def _narrows(name, terms):
    return {**terms, name: terms[name].half()}


class Mutating:
    """An update whose terms, in the order in which they come up, are handed to `mutate`."""

    def __init__(self, update, mutate):
        self._update, self._mutate = update, mutate

    def __call__(self, *networks, loss):
        def mutated(part):
            terms = part()
            for name in list(terms):
                terms = self._mutate(name, terms)
            return terms

        parts = [loss] if callable(loss) else loss
        self._update(*networks, loss=[partial(mutated, part) for part in parts])

    def __getattr__(self, name):
        return getattr(self._update, name)


def mutated(variant, mutate):
    """A method of a variant, whose every term is handed to `mutate`, and a batch for it."""
    method, batch = small(variant)
    train_step = method.train_step
    method.train_step = lambda batch, update, progress: train_step(
        batch, Mutating(update, mutate), progress
    )
    return method, batch


@functools.cache
def number_of_terms(variant):
    count = itertools.count()
    assert faults_of(*mutated(variant, lambda _, terms: (next(count), terms)[1])) == []
    return next(count) // 2  # of two steps


@pytest.mark.parametrize("variant", ["cut", "relation", "munit"])
@pytest.mark.parametrize(
    ("mutate", "fault"),
    [
        (_reads_a_value, "waits: value read"),
        (_takes_a_tensor_of_the_host, "another device: aten.mul"),
        (_copies_from_the_host, "waits: copy to the card"),
        (_narrows, "torch.float16: "),
    ],
)
def test_a_fault_in_the_first_or_last_term_of_a_method_is_found(variant, mutate, fault):
    total = number_of_terms(variant)
    for wanted in (0, total - 1):
        count = itertools.count()

        def once(name, terms, wanted=wanted, count=count):
            return mutate(name, terms) if next(count) == wanted else terms

        found = faults_of(*mutated(variant, once), steps=1)
        assert found
        assert all(line.startswith(fault) for line in found)


class PinnedData:
    """A `BatchSource` as a loader with pinned memory."""

    steps_per_epoch = 4

    def __init__(self, batch):
        self.batch = batch

    def batches(self, start_step, total_steps):
        for _ in range(start_step, total_steps):
            yield self.batch.pin_memory()

    def preview_batch(self):
        return None


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_a_run_waits_once_per_line_of_its_log(tmp_path, precision):
    """With averaged weights, clipped gradients and an image pool; up to the end of its 6th step."""

    class EnoughError(Exception):
        pass

    method, batch = small("cyclegan-pool")
    waits = []
    train_step = method.train_step

    def counting(batch, update, progress):
        waits.append(dict(seen.waits))
        seen.waits.clear()
        if len(waits) > 6:
            raise EnoughError
        train_step(batch, update, progress)

    with card() as seen:
        moved_to_card(method)
        method.train_step, method.to = counting, lambda *_: method
        with contextlib.suppress(EnoughError):
            fit(
                method,
                PinnedData(batch),
                tmp_path,
                fabric=CardFabric(precision),
                schedule=ScheduleConfig(steps=20, ema_decay=0.9),
                training=TrainingConfig(log_every=2, clip_norm=1.0),
                header=ModelHeader(method="cyclegan", config={}),
            )
    assert len(waits) == 7
    after = waits[2:]  # what steps 2 to 6 waited for, each with what came after it
    lines = [step for step, seen in enumerate(after, start=2) if seen]
    assert lines == [2, 4, 6]
    assert [sum(seen.values()) for seen in after if seen] == [1, 1, 1]
