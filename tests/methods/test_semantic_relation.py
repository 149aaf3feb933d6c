"""What is special to semantic relation: A and B at once, or one after the other."""

from dataclasses import replace

import pytest
import torch

from patchkin.method import Progress
from patchkin.methods.semantic_relation import SemanticRelation, SemanticRelationConfig
from patchkin.networks import PatchGANConfig, ResNetConfig
from patchkin.randomness import SeededDraws
from patchkin.terms import branches
from patchkin.training import Updater
from support import cpu_fabric, random_batch

SMALL = SemanticRelationConfig(
    generator=ResNetConfig(ngf=4, blocks=2),
    discriminator=PatchGANConfig(ndf=4, layers=2),
    taps=(0, 4, 8, 12),
    head_width=8,
    num_patches=7,
)


def step(config, num_images):
    """Terms and gradients of one step in float64."""
    torch.manual_seed(0)
    method = SemanticRelation(config).double()
    update = Updater(method, cpu_fabric("64-true"))
    update.begin_step(1.0)
    batch = random_batch(num_images, size=(32, 24), dtype=torch.float64)
    progress = Progress.of_step(3, total_steps=10, draws=SeededDraws(0, 3))
    method.train_step(batch, update, progress)
    return update.terms, {name: w.grad for name, w in method.named_parameters()}


@pytest.mark.parametrize("num_images", [1, 3])
@pytest.mark.parametrize(
    "changes",
    [{}, {"identity": False}, {"contrast_weight": 0.0}, {"relation_weight": 0.0}],
    ids=["all", "no-identity", "src-only", "no-src"],
)
def test_in_turn_and_at_once_are_the_same_step(changes, num_images):
    config = replace(SMALL, **changes)
    at_once, in_turn = (
        step(replace(config, branches=order), num_images) for order in ("at_once", "in_turn")
    )
    assert at_once[0].keys() == in_turn[0].keys()
    torch.testing.assert_close(in_turn[0], at_once[0], rtol=1e-10, atol=1e-13)
    # A bias before an instance norm has no gradient but the rounding of sums of large numbers,
    # which differs between processors.
    largest = max(float(gradient.abs().max()) for gradient in at_once[1].values())
    torch.testing.assert_close(in_turn[1], at_once[1], rtol=1e-8, atol=max(1e-13, 1e-17 * largest))


@pytest.mark.parametrize(
    "changes",
    [
        {"places": "discriminator", "augmentation": ("color",)},
        {"places": "attention", "negatives": "optimal-transport"},
    ],
    ids=["guided", "attended"],
)
def test_places_that_are_chosen_are_the_same_in_turn_and_at_once(changes):
    config = replace(SMALL, **changes)
    at_once, in_turn = (step(replace(config, branches=o), 2) for o in ("at_once", "in_turn"))
    torch.testing.assert_close(in_turn[0], at_once[0], rtol=1e-10, atol=1e-13)
    largest = max(float(gradient.abs().max()) for gradient in at_once[1].values())
    close = 1e-12 * largest  # of biases before a norm, rounding is all that there is
    torch.testing.assert_close(in_turn[1], at_once[1], rtol=1e-8, atol=close)


@pytest.mark.parametrize(("pixels", "calls"), [(2 * 32 * 24, 2), (2 * 32 * 24 + 1, 1)])
def test_large_batches_go_in_turn_on_a_cpu(pixels, calls, monkeypatch):
    seen = []
    forward = SemanticRelation._forward
    monkeypatch.setattr(branches, "IN_TURN_PIXELS", pixels)
    monkeypatch.setattr(
        SemanticRelation, "_forward", lambda self, x: seen.append(len(x)) or forward(self, x)
    )
    step(SMALL, 2)
    assert seen == ([2, 2] if calls == 2 else [4])


def test_a_mean_of_relations_is_a_sum_over_as_many_patches():
    """Where a map has fewer, the mean does not weigh it less."""
    terms = {
        (reduction, num_patches): step(
            replace(SMALL, relation_reduction=reduction, num_patches=num_patches), 2
        )[0]["G+F.relation"]
        for reduction in ("sum", "mean")
        for num_patches in (7, 500)
    }
    torch.testing.assert_close(terms["sum", 7], 7 * terms["mean", 7])
    assert terms["sum", 500] < 500 * terms["mean", 500], "the last maps have 192 and 48 places"
