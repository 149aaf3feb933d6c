import contextlib
import math

import pytest
import torch

from patchkin.errors import ConfigError, ShapeError
from patchkin.losses import patch_graph
from patchkin.losses.patch_graph import (
    patch_adjacency,
    propagation,
    two_step_adjacency,
    two_way_contrast,
)
from patchkin.numerics import unit_rows


def rows(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return unit_rows(torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)


def graph_by_loops(rows_KC, threshold):
    places = range(len(rows_KC))
    return [[i == j or float(rows_KC[i] @ rows_KC[j]) > threshold for j in places] for i in places]


@pytest.mark.parametrize("threshold", [-2.0, 0.1, 0.6, 0.999])
def test_graphs_match_loops(threshold):
    source = rows(3, 7, 4)
    adjacency = patch_adjacency(source, threshold)
    two_steps, carried = two_step_adjacency(adjacency), propagation(adjacency, torch.float64)
    places = range(7)
    for b in range(3):
        joined = graph_by_loops(source[b], threshold)
        assert adjacency[b].tolist() == joined
        assert two_steps[b].tolist() == [
            [any(joined[i][m] and joined[m][j] for m in places) for j in places] for i in places
        ]
        degrees = [1 + sum(row) for row in joined]  # the diagonal counts twice
        for i in places:
            for j in places:
                entry = (joined[i][j] + (i == j)) / math.sqrt(degrees[i] * degrees[j])
                assert carried[b, i, j].item() == pytest.approx(entry, rel=1e-12)


def test_a_node_is_joined_with_itself_whatever_rounding_says():
    short = 0.99 * rows(1, 3, 4)
    assert patch_adjacency(short, 0.999).tolist() == [torch.eye(3).bool().tolist()]


def test_an_equal_similarity_is_not_enough():
    source = torch.tensor([[[1.0, 0.0], [0.5, 0.75**0.5]]])
    assert not patch_adjacency(source, 0.5)[0, 0, 1]
    assert patch_adjacency(source, 0.4999)[0, 0, 1]


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 5, 4)])
def test_contrast_matches_loops(shape):
    source, target = rows(*shape, seed=1), rows(*shape, seed=2)
    losses = two_way_contrast(source, target, temperature=0.2)
    assert losses.shape == shape[:1]
    for b in range(shape[0]):
        places = range(shape[1])
        s = [[float(v @ z) / 0.2 for z in target[b]] for v in source[b]]
        expected = 0.0
        for i in places:
            forth = math.log(sum(math.exp(s[i][j]) for j in places)) - s[i][i]
            back = math.log(sum(math.exp(s[j][i]) for j in places)) - s[i][i]
            expected += (forth + back) / shape[1]
        assert losses[b].item() == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_gradient_of_the_contrast():
    source, target = rows(2, 4, 3, seed=1).requires_grad_(), rows(2, 4, 3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: two_way_contrast(source, z, temperature=0.3), (target,)
    )
    two_way_contrast(source, target, temperature=0.3).sum().backward()
    assert source.grad is None


def test_permuting_nodes_changes_nothing():
    source, target, order = rows(2, 6, 4, seed=1), rows(2, 6, 4, seed=2), torch.randperm(6)
    torch.testing.assert_close(
        two_way_contrast(source[:, order], target[:, order], temperature=0.07),
        two_way_contrast(source, target, temperature=0.07),
    )
    mixed = propagation(patch_adjacency(source[:, order], 0.2), torch.float64)
    plain = propagation(patch_adjacency(source, 0.2), torch.float64)
    torch.testing.assert_close(mixed, plain[:, order][:, :, order])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_rows_are_compared_in_float32(dtype):
    source, target = rows(2, 9, 16, seed=1, dtype=dtype), rows(2, 9, 16, seed=2, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = two_way_contrast(source, target, temperature=0.07)
        adjacency = patch_adjacency(source, 0.1)
        steps = two_step_adjacency(adjacency)
    assert loss.dtype is torch.float32
    expected = two_way_contrast(source.float(), target.float(), temperature=0.07)
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    assert torch.equal(adjacency, patch_adjacency(source.float(), 0.1))
    assert torch.equal(steps, two_step_adjacency(adjacency))


def test_wording_of_errors():
    source, target = rows(2, 3, 4, seed=1), rows(2, 3, 4, seed=2)
    with pytest.raises(ConfigError, match="`threshold` must be below 1; got 1"):
        patch_adjacency(source, 1.0)
    with pytest.raises(ShapeError, match=r"`rows_BKC` must be \[B, K, C\].* got \(3, 4\)"):
        patch_adjacency(source[0], 0.1)
    with pytest.raises(ShapeError, match=r"got \(2, 3, 4\) and \(2, 2, 4\)"):
        two_way_contrast(source, target[:, :2], temperature=0.07)
    with pytest.raises(ShapeError, match=r"`source_BKC` must be \[B, K, C\].* got \(3, 4\)"):
        two_way_contrast(source[0], target[0], temperature=0.07)
    with pytest.raises(ConfigError, match="`temperature` must be positive; got 0"):
        two_way_contrast(source, target, temperature=0)


def test_what_it_makes_is_where_the_rows_are(monkeypatch):
    """torch's `meta` stands for a card: it meets no tensor of the host either."""
    monkeypatch.setattr(patch_graph, "without_autocast", contextlib.nullcontext)
    rows_BKC = torch.zeros(2, 4, 3, device="meta")
    adjacency_BKK = patch_adjacency(rows_BKC, 0.1)
    for graph_BKK in (adjacency_BKK, two_step_adjacency(adjacency_BKK), propagation(adjacency_BKK)):
        assert graph_BKK.device.type == "meta"
