"""Replays the optimisation steps of a file on a method whose networks come from the file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from goldens.errors import note, note_most
from goldens.fixtures import Golden, own_name
from patchkin.method import Method, Progress
from patchkin.training import Updater
from support import FixedDraws, one_process

MODES = {
    "lsgan": "lsgan",
    "vanilla": "vanilla",
    "nonsaturating": "nonsaturating",
    "wgangp": "wgan",
    "hinge": "hinge-clipped",
}
"""The released names of the adversarial losses -> ours."""


@dataclass
class Steps:
    """What our code did, per step."""

    terms: list[dict[str, float]] = field(default_factory=list)
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)
    """State after each step, running statistics included."""


def replay(method: Method, batches: Sequence[Any], draws: FixedDraws) -> Steps:
    """Every step, in float64 if the method is, on the device of `PATCHKIN_TEST_DEVICE`."""
    steps = Steps()
    fabric = one_process(os.environ.get("PATCHKIN_TEST_DEVICE", "cpu"))
    update = Updater(method.to(fabric.device), fabric)
    for step, batch in enumerate(batches):
        update.begin_step(1.0)
        method.train_step(
            batch.to(fabric.device),
            update,
            Progress.of_step(step, total_steps=len(batches), draws=draws),
        )
        steps.terms.append({name: float(value) for name, value in update.terms.items()})
        steps.gradients.append(
            {
                name: parameter.grad.cpu().clone()
                for name, parameter in method.named_parameters()
                if parameter.grad is not None
            }
        )
        steps.weights.append({n: t.cpu().clone() for n, t in method.state_dict().items()})
    return steps


def own_names(arrays: Mapping[str, Any], networks: Mapping[str, str]) -> dict[str, Any]:
    """`netX/key` of a file under the names of our method.

    Args:
        arrays: by the file's names, without what stands before `net`.
        networks: the file's name of each network (`F1`) -> ours (`F_A`).
    """
    renamed = {}
    for name, array in arrays.items():
        network, key = name.removeprefix("net").split("/", 1)
        if key.endswith((".filt", ".kernel")):
            continue
        assert network in networks, f"unknown network {network}"
        renamed[f"{networks[network]}.{own_name(key)}"] = array
    return renamed


def networks_of(golden: Golden, prefix: str) -> list[str]:
    """The networks whose weights stand under a prefix: `netG_A` as `G_A`."""
    return [n.removeprefix("net") for n in golden.children(prefix) if n.startswith("net")]


def assert_gradients(
    actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, relative: float, floor: float
) -> None:
    """Per tensor within a share of its norm, or of its network's largest entry times `floor`."""
    largest: dict[str, float] = {}
    for name, gradient in expected.items():
        network = name.split(".")[0]
        largest[network] = max(largest.get(network, 0.0), float(gradient.abs().max()))
    assert expected
    for name, gradient in expected.items():
        error = float((actual[name] - gradient).norm())
        least = floor * largest[name.split(".")[0]]
        nothing = max(float(g.abs().max()) for g in (actual[name], gradient)) <= least
        allowed = max(relative * float(gradient.norm()), least)
        if not nothing:
            note(error, 0.0, atol=allowed)
        assert nothing or error <= allowed, f"{name}: {error} > {allowed}"


def assert_after_adam(
    actual: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    skip: set[str],
    rate: float,
    steps: int,
    close: float,
) -> None:
    """At least 99.9 % of the entries are close, and none is beyond what Adam can move."""
    near = total = 0
    differences = []
    for name, value in expected.items():
        if name in skip:
            continue
        difference = (actual[name] - value).abs()
        assert float(difference.max()) <= 2.1 * rate * steps, name
        near += int((difference <= close).sum())
        total += difference.numel()
        differences.append(difference.flatten())
    assert total
    note_most(torch.cat(differences), share=0.999, allowed=close)
    assert near >= 0.999 * total, f"{total - near} of {total} weights differ by more than {close}"


def real_images(golden: Golden, name: str) -> list[Tensor]:
    """Per step, float64."""
    return list(golden.tensor(name, torch.float64))
