"""Branches at once or in turn: the same numbers, and in turn only one branch's maps at a time."""

import gc
import weakref

import pytest
import torch

from patchkin.terms.branches import Branches, at_once, of_branch

INPUTS = {"a": torch.rand(2, 1, 3, 3), "b": torch.rand(2, 1, 3, 3)}


def forward(x_BCHW):
    return 2 * x_BCHW, [x_BCHW**2]


def sums(names, outputs_BCHW, keys):
    chunks = zip(outputs_BCHW.chunk(len(names)), keys[0].chunk(len(names)), strict=True)
    return {name: out.sum() + key.sum() for name, (out, key) in zip(names, chunks, strict=True)}


@pytest.mark.parametrize(("together", "passes"), [(True, [4]), (False, [2, 2])])
def test_every_branch_is_seen_once_in_as_many_passes(together, passes):
    seen = []

    def counted(x_BCHW):
        seen.append(len(x_BCHW))
        return forward(x_BCHW)

    branches = Branches(INPUTS, counted, together=together)
    assert seen == passes[:1], "later parts wait for their loss"
    torch.testing.assert_close(branches.first_BCHW, 2 * INPUTS["a"])
    terms = {}
    for loss in branches.losses(sums):
        terms |= loss()
    assert seen == passes
    expected = {name: (2 * x).sum() + (x**2).sum() for name, x in INPUTS.items()}
    torch.testing.assert_close(terms, expected)


def test_in_turn_the_maps_of_a_branch_are_gone_before_the_next_is_computed():
    alive, maps = [], []

    def watched(x_BCHW):
        gc.collect()
        alive.append([ref() is not None for ref in maps])
        outputs, features = forward(x_BCHW)
        maps.append(weakref.ref(features[0]))
        return outputs, features

    branches = Branches(INPUTS, watched, together=False)
    for loss in branches.losses(sums):
        loss()
    assert alive == [[], [False]]


def test_a_branch_is_a_slice_of_the_images():
    pairs = [(torch.arange(12.0).view(6, 2, 1), -torch.arange(12.0).view(6, 2, 1))]
    for index, name in enumerate("xyz"):
        ((query_BKC, key_BKC),) = of_branch(pairs, ["x", "y", "z"], name)
        expected = [4.0 * index + step for step in range(4)]
        assert query_BKC.flatten().tolist() == expected
        assert torch.equal(key_BKC, -query_BKC)


@pytest.mark.parametrize(
    ("order", "size", "device", "expected"),
    [
        ("auto", 255, "cpu", True),
        ("auto", 256, "cpu", False),
        ("auto", 256, "meta", True),
        ("in_turn", 8, "cpu", False),
        ("at_once", 256, "cpu", True),
    ],
)
def test_large_batches_go_in_turn_on_a_processor_only(order, size, device, expected):
    assert at_once(order, torch.empty(1, 3, size, 256, device=device)) is expected
