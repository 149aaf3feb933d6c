"""Draws that depend on nothing but their seed and place."""

from __future__ import annotations

import hashlib
from collections import Counter

import torch

from card import CARD, card
from patchkin.randomness import SeededDraws, derive_seed, sent


def test_draws_do_not_touch_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    SeededDraws(1, 2).places(100, 10)
    assert torch.equal(torch.rand(3), expected)


def test_places_are_distinct_and_every_place_is_as_likely():
    counts = Counter()
    for step in range(2000):
        places = SeededDraws(3, step).places(10, 4).tolist()
        assert len(set(places)) == 4
        counts.update(places)
    assert set(counts) == set(range(10))
    assert all(700 < count < 900 for count in counts.values())  # 800 expected


def test_coins_are_fair():
    heads = sum(SeededDraws(4, step).coin() for step in range(2000))
    assert 900 < heads < 1100


def test_seeds_differ_by_every_part():
    seeds = {derive_seed(*parts) for parts in [(0, 1), (1, 0), (0, "1"), (0, 1, 0), ("01",), (1,)]}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_rows_of_processes_are_the_rows_of_one_draw():
    for kind in ("normal_rows", "uniform_rows"):
        whole = getattr(SeededDraws(0, 5), kind)(6, 2)
        for rank in range(3):
            draws = SeededDraws(0, 5, rank=rank, world_size=3)
            assert torch.equal(getattr(draws, kind)(2, 2), whole[rank::3])
            # What follows is again the same in all processes.
            assert draws.integer(1000) == _after_rows(kind)


def _after_rows(kind: str) -> int:
    draws = SeededDraws(0, 5)
    getattr(draws, kind)(6, 2)
    return draws.integer(1000)


def test_seeds_are_those_of_every_version():
    """A run of an earlier version goes on with the numbers that it would have drawn."""
    digest = hashlib.sha256(b"(0, 'order', 3)").hexdigest()
    assert derive_seed(0, "order", 3) == int(digest[:16], 16) // 2


def test_draws_are_those_of_torch_from_the_seed_of_the_step():
    generator = torch.Generator().manual_seed(derive_seed(3, "step", 8))
    draws = SeededDraws(3, 8)
    for _ in range(3):
        assert torch.equal(draws.places(10, 4), torch.randperm(10, generator=generator)[:4])
        assert draws.coin() == (torch.rand((), generator=generator).item() < 0.5)
        assert draws.integer(10**6) == torch.randint(10**6, (), generator=generator).item()
        assert torch.equal(draws.normal(2, 3), torch.randn(2, 3, generator=generator))
        assert torch.equal(draws.uniform(2, 3), torch.rand(2, 3, generator=generator))
        orders = [torch.randperm(5, generator=generator).tolist() for _ in range(3)]
        assert draws.order_rows(3, 5).tolist() == orders


def test_numbers_go_to_a_card_without_a_wait():
    """And get the type that they are to have."""
    with card() as seen:
        numbers = torch.ones(3)
        wide = torch.zeros(1, dtype=torch.float64, device=CARD)
        for to, dtype in ((CARD, torch.float32), (wide, torch.float64)):
            there = sent(numbers, to)
            assert (there.device, there.dtype) == (CARD, dtype)
            assert sent(there, to).device == CARD
    assert not seen.waits
    assert not seen.strangers
