"""Draws that depend on nothing but their seed and place."""

from __future__ import annotations

from collections import Counter

import torch

from patchkin.randomness import SeededDraws, derive_seed


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
