"""Patches of two sides at the same places."""

import pytest
import torch

from patchkin.errors import ConfigError
from patchkin.networks import ProjectionHead
from patchkin.terms.patches import check_patches, embedded_pairs


def test_both_sides_are_read_at_the_same_places_by_their_own_heads():
    torch.manual_seed(0)
    query_head, key_head = ProjectionHead([3, 2], width=4), ProjectionHead([3, 2], width=4)
    queries, keys = (
        [torch.rand(2, 3, 4, 5, requires_grad=True), torch.rand(2, 2, 2, 3, requires_grad=True)]
        for _ in range(2)
    )
    places = [torch.tensor([19, 0, 7]), torch.tensor([5])]
    pairs = embedded_pairs(queries, keys, places, query_head=query_head, key_head=key_head)
    for tap, (pair, places_K) in enumerate(zip(pairs, places, strict=True)):
        for rows, head, maps in zip(pair, (query_head, key_head), (queries, keys), strict=True):
            for k, place in enumerate(places_K.tolist()):
                y, x = divmod(place, maps[tap].shape[3])
                row_BC = head.mlps[tap](maps[tap][:, :, y, x])
                row_BC = row_BC / row_BC.norm(dim=1, keepdim=True)
                torch.testing.assert_close(rows[:, k], row_BC, rtol=1e-4, atol=1e-6)
        pair[0].sum().backward()
        assert not pair[1].requires_grad
    assert all(parameter.grad is not None for parameter in query_head.parameters())
    assert all(parameter.grad is None for parameter in key_head.parameters())
    assert all(feature.grad is None for feature in keys)


def test_wording_of_errors():
    with pytest.raises(ConfigError, match="`taps` must name at least one layer"):
        check_patches((), 4)
    with pytest.raises(ConfigError, match="`num_patches` must be at least 2; got 1"):
        check_patches((0,), 1, fewest=2)
