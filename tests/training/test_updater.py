"""The mechanics of one update, with two linear networks."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from patchkin.errors import DivergenceError
from patchkin.method import Method, in_parts
from patchkin.schedules import AdamConfig
from patchkin.training import Updater, updater
from support import cpu_fabric


@dataclass(frozen=True)
class TwoConfig:
    rate: float = 0.1


class Two(Method):
    name = "two"
    paper = "none"
    config_type = TwoConfig
    presets = {}

    def __init__(self):
        super().__init__()
        self.G = nn.Linear(3, 2)
        self.D = nn.Linear(2, 1)
        self.momentum = nn.Linear(3, 2)

    def adam(self):
        return {"G": AdamConfig(learning_rate=0.1), "D": AdamConfig(learning_rate=0.01)}

    def train_step(self, batch, update, progress):
        raise AssertionError

    def translate(self, x_BCHW):
        return self.G(x_BCHW)


def snapshot(module):
    return [p.detach().clone() for p in module.parameters()]


def test_steps_the_named_network_down_the_sum_of_its_terms():
    method = Two().double()
    x = torch.randn(4, 3, dtype=torch.float64)
    expected = Two().double()
    expected.load_state_dict(method.state_dict())
    optimizer = torch.optim.Adam(expected.G.parameters(), lr=0.1, betas=(0.5, 0.999))
    for _ in range(3):
        optimizer.zero_grad()
        (2 * expected.G(x).square().mean() + expected.G(x).abs().mean()).backward()
        optimizer.step()

    update = Updater(method, cpu_fabric())
    for _ in range(3):
        update.begin_step(1.0)
        update(
            "G",
            loss=lambda: {
                "square": 2 * method.G(x).square().mean(),
                "absolute": method.G(x).abs().mean(),
            },
        )
    torch.testing.assert_close(method.state_dict(), expected.state_dict())


def test_parts_of_a_batch_are_one_step_and_their_terms_are_summed():
    x = torch.randn(5, 3, dtype=torch.float64)
    whole, parted = Two().double(), Two().double()
    parted.load_state_dict(whole.state_dict())
    logged = []
    for method, sizes in ((whole, [5]), (parted, [2, 2, 1])):
        alive = []

        def terms(part, method=method, alive=alive):
            assert not any(graph() is not None for graph in alive)  # one graph at a time
            y = method.G(part)
            alive.append(weakref.ref(y))
            return {"square": y.square().mean(), "absolute": y.abs().mean()}

        update = Updater(method, cpu_fabric())
        for _ in range(2):
            update.begin_step(1.0)
            update("G", loss=in_parts(terms, x.split(sizes)))
        logged.append(dict(update.terms))
    torch.testing.assert_close(parted.state_dict(), whole.state_dict())
    torch.testing.assert_close(logged[0], logged[1])
    assert set(logged[1]) == {"G.square", "G.absolute"}


def test_a_part_that_diverges_is_named_and_nothing_is_stepped():
    method = Two()
    before = snapshot(method.G)
    update = Updater(method, cpu_fabric())
    total = method.G.weight.sum
    losses = [
        lambda: {"good": total(), "bad": total()},
        lambda: {"good": total(), "bad": total() / 0},
    ]
    with pytest.raises(DivergenceError, match="term `bad` of the update of G became"):
        update("G", loss=losses)
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(method.G), strict=True))


def test_leaves_every_other_network_alone_and_without_gradients():
    method = Two()
    update = Updater(method, cpu_fabric())
    before = snapshot(method.D), snapshot(method.momentum)
    x = torch.randn(4, 3)
    graph_flags = []

    def loss():
        graph_flags.extend(p.requires_grad for p in method.D.parameters())
        return {"adversarial": method.D(method.G(x)).mean()}

    update("G", loss=loss)
    assert graph_flags == [False, False]
    assert all(p.grad is None for p in method.D.parameters())
    assert all(p.requires_grad for p in method.D.parameters())
    assert not any(p.requires_grad for p in method.momentum.parameters())
    torch.testing.assert_close((snapshot(method.D), snapshot(method.momentum)), before)


def test_a_graph_made_before_an_update_of_another_network_is_still_good_after_it():
    method = Two().double()
    x = torch.randn(4, 3, dtype=torch.float64)
    update = Updater(method, cpu_fabric())
    fake = method.G(x)
    update("D", loss=lambda: {"fake": method.D(fake.detach()).square().mean()})
    update("G", loss=lambda: {"adversarial": method.D(fake).mean()})  # by the D just updated
    weight_gradient = method.D.weight.detach().T @ torch.full((1, 4), 0.25).double() @ x
    torch.testing.assert_close(method.G.weight.grad, weight_gradient)


def test_logged_terms_add_up_to_what_was_differentiated():
    method = Two()
    update = Updater(method, cpu_fabric())
    x = torch.randn(4, 3)
    seen = {}

    def loss():
        seen["terms"] = {"a": method.G(x).square().mean(), "b": 3 * method.G(x).abs().mean()}
        return seen["terms"]

    update.begin_step(1.0)
    update("G", loss=loss)
    assert update.terms.keys() == {"G.a", "G.b"}
    assert float(sum(update.terms.values())) == pytest.approx(
        float(sum(t.detach() for t in seen["terms"].values()))
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_term_that_is_not_finite_stops_before_anything_moves(bad):
    method = Two()
    update = Updater(method, cpu_fabric())
    before = snapshot(method.G)
    with pytest.raises(DivergenceError, match="The term `wild` of the update of G became"):
        update(
            "G",
            loss=lambda: {
                "tame": method.G(torch.ones(1, 3)).mean(),
                "wild": method.G(torch.ones(1, 3)).mean() * bad,
            },
        )
    torch.testing.assert_close(snapshot(method.G), before)


def scaled(update):
    """With the scaler of 16-bit precision."""
    precision = update._fabric.strategy.precision
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    backward = precision.backward
    precision.backward = lambda tensor, model, *a, **k: backward(
        precision.scaler.scale(tensor), model, *a, **k
    )
    return update


@pytest.mark.parametrize("prepare", [lambda update: update, scaled])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_judged_later_nothing_is_stepped_from_a_bad_term_on(prepare, bad):
    """Good steps first, which are those of a run that judges at once; then G, then D stands still.

    The bad term is a constant, so that every gradient is finite and none gives it away.
    """
    x = torch.randn(5, 3)
    plain, later = Two(), Two()
    later.load_state_dict(plain.state_dict())
    updates = [
        prepare(Updater(method, cpu_fabric(), clip_norm=1.0, judges_later=judges_later))
        for method, judges_later in ((plain, False), (later, True))
    ]

    def step(method, update, constant):
        update.begin_step(1.0)
        update("G", loss=lambda: {"a": method.D(method.G(x)).mean(), "b": x.mean() + constant})
        update("D", loss=lambda: {"c": method.D(method.G(x).detach()).square().mean()})

    for _ in range(2):
        for method, update in zip((plain, later), updates, strict=True):
            step(method, update, 0.0)
        for judged in updates[1].judged:
            judged.judge([float(value) for value in judged.values])
    assert all(torch.equal(t, later.state_dict()[n]) for n, t in plain.state_dict().items())
    before = snapshot(later)
    step(later, updates[1], bad)
    first = updates[1].judged
    step(later, updates[1], 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(later), strict=True))
    steps = {float(s["step"]) for o in updates[1].optimizers.values() for s in o.state.values()}
    assert steps == {2.0}
    assert [judged.updated for judged in first] == ["G", "D"]
    with pytest.raises(DivergenceError, match=f"The term `b` of the update of G became {bad}"):
        first[0].judge([float(value) for value in first[0].values])


def test_learning_rates_follow_the_factor():
    method = Two()
    update = Updater(method, cpu_fabric())
    update.begin_step(0.25)
    rates = {name: o.param_groups[0]["lr"] for name, o in update.optimizers.items()}
    assert rates == {"G": 0.025, "D": 0.0025}


def test_clipping_bounds_the_gradient_of_each_network():
    method = Two()
    update = Updater(method, cpu_fabric(), clip_norm=1e-3)
    update("G", "D", loss=lambda: {"big": 1e4 * method.D(method.G(torch.ones(2, 3))).sum()})
    for network in (method.G, method.D):
        norm = torch.cat([p.grad.flatten() for p in network.parameters()]).norm()
        assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_a_network_may_have_a_bound_of_its_own():
    method = Two()
    rates = method.adam()
    rates["G"] = replace(rates["G"], clip_norm=1e-4)
    method.adam = lambda: rates
    update = Updater(method, cpu_fabric(), clip_norm=1e-3)
    update("G", "D", loss=lambda: {"big": 1e4 * method.D(method.G(torch.ones(2, 3))).sum()})
    for network, bound in ((method.G, 1e-4), (method.D, 1e-3)):
        norm = torch.cat([p.grad.flatten() for p in network.parameters()]).norm()
        assert float(norm) == pytest.approx(bound, rel=1e-2)


def test_one_scale_serves_all_optimizers_of_a_backward_pass():
    """In 16-bit precision the scale may change only after the last of them has stepped."""
    plain, scaled = Two(), Two()
    scaled.load_state_dict(plain.state_dict())
    updates = Updater(plain, cpu_fabric()), Updater(scaled, cpu_fabric())
    precision = updates[1]._fabric.strategy.precision
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
    backward = precision.backward
    precision.backward = lambda tensor, model, *a, **k: backward(
        precision.scaler.scale(tensor), model, *a, **k
    )
    x = torch.randn(5, 3)
    for _ in range(3):
        for method, update in zip((plain, scaled), updates, strict=True):
            update("G", "D", loss=lambda m=method: {"sum": m.D(m.G(x)).square().mean()})
    assert precision.scaler.get_scale() == 1024 * 2**3
    torch.testing.assert_close(plain.state_dict(), scaled.state_dict(), rtol=1e-5, atol=1e-6)


def test_bfloat16_copies_of_weights_are_forgotten_once_the_weights_moved():
    """Autocast caches its casts; a stale one would judge with the weights before the step."""
    method = Two()
    fabric = cpu_fabric("bf16-mixed")
    update = Updater(method, fabric)
    x = torch.randn(4, 2)
    with fabric.autocast():
        update("D", loss=lambda: {"real": 1e3 * method.D(x).float().square().mean()})
        after = method.D(x)
    with fabric.autocast():
        fresh = method.D(x)
    torch.testing.assert_close(after, fresh)


@pytest.mark.parametrize(("device", "fused"), [("cpu", True), ("meta", False)])
def test_adam_is_fused_where_it_can_be_and_goes_by_lists_elsewhere(device, fused):
    network = nn.Linear(2, 2, device=device)
    defaults = updater._adam(network, AdamConfig(learning_rate=0.1)).defaults
    assert (defaults["fused"], defaults["foreach"]) == (fused, not fused)
