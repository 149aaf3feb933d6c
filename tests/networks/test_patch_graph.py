import pytest
import torch
import torch.nn.functional as nnf

from patchkin.errors import ShapeError
from patchkin.losses.patch_graph import patch_adjacency, propagation, two_step_adjacency
from patchkin.networks.patch_graph import GraphConvolution, PatchGraph, PatchGraphs, ScorePooling


def rows(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return nnf.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _same_weights_in_every_run():
    torch.manual_seed(0)


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_a_convolution_matches_node_by_node_sums(hops):
    convolution = GraphConvolution(4, hops).double()
    nodes = rows(2, 5, 4)
    carried = propagation(patch_adjacency(nodes, 0.2), torch.float64)
    found = convolution(nodes, carried)
    for b in range(2):
        parts = [list(nodes[b])]
        for _ in range(hops):
            parts.append([sum(carried[b, i, j] * parts[-1][j] for j in range(5)) for i in range(5)])
        for i in range(5):
            joined = torch.cat([part[i] for part in parts])
            expected = convolution.linear.weight @ joined + convolution.linear.bias
            torch.testing.assert_close(found[b, i], expected / expected.norm())


def test_a_pooling_keeps_the_best_scored_nodes_of_each_image():
    pooling, source, target = ScorePooling(4).double(), rows(2, 6, 4, seed=1), rows(2, 6, 4, seed=2)
    adjacency = patch_adjacency(source, 0.3)
    kept_source, kept_target, kept_adjacency = pooling(source, target, adjacency, kept=3)
    weight, bias = pooling.linear.weight[0].detach(), pooling.linear.bias[0].detach()
    for b in range(2):
        scores = [torch.sigmoid(row @ weight + bias) for row in source[b]]
        best = sorted(range(6), key=lambda i: -float(scores[i]))[:3]
        for place, i in enumerate(best):
            torch.testing.assert_close(kept_source[b, place], scores[i] * source[b, i])
            torch.testing.assert_close(kept_target[b, place], scores[i] * target[b, i])
        assert torch.equal(kept_adjacency[b], two_step_adjacency(adjacency)[b][best][:, best])


def test_equal_scores_keep_the_lowest_nodes():
    pooling = ScorePooling(4).double()
    torch.nn.init.zeros_(pooling.linear.weight)
    source = rows(1, 5, 4)
    kept, *_ = pooling(source, source, patch_adjacency(source, 0.1), kept=2)
    torch.testing.assert_close(kept / kept.norm(dim=-1, keepdim=True), source[:, :2])


def test_what_learns_and_what_is_constant():
    """The scores learn through the translation's nodes; nothing reaches the source."""
    graph = PatchGraph(4, hops=2, poolings=1, threshold=0.2, down_scale=2).double()
    source, target = rows(1, 6, 4, seed=1).requires_grad_(), rows(1, 6, 4, seed=2).requires_grad_()
    first, second = graph(source, target)
    assert not first.source_BKC.requires_grad
    assert not second.source_BKC.requires_grad
    (second.target_BKC * maps(1, 3, 4)).sum().backward()
    assert source.grad is None
    assert target.grad.abs().max() > 0
    for name, parameter in graph.named_parameters():
        assert parameter.grad is not None, name
    assert torch.autograd.gradcheck(
        lambda z: [level.target_BKC for level in graph(source, z)], (target,)
    )


@pytest.mark.parametrize(
    ("nodes", "down_scale", "poolings", "sizes"),
    [
        (256, 4, 1, [256, 64]),
        (256, 8, 2, [256, 32, 16]),
        (12, 8, 1, [12, 2]),
        (9, 2, 3, [9, 4, 2, 2]),
        (1, 4, 1, [1, 1]),
        (5, 4, 0, [5]),
    ],
)
def test_how_many_nodes_are_kept(nodes, down_scale, poolings, sizes):
    graph = PatchGraph(3, hops=1, poolings=poolings, threshold=0.1, down_scale=down_scale).double()
    levels = graph(rows(1, nodes, 3, seed=1), rows(1, nodes, 3, seed=2))
    assert [level.target_BKC.shape[1] for level in levels] == sizes


def test_an_image_has_its_own_graph():
    """As if alone; with maps that are not square and fewer places than the published number."""
    graphs = PatchGraphs([3, 5], width=6, threshold=0.2, poolings=2, down_scale=2).double()
    sources = [maps(3, 3, 4, 7, seed=1), maps(3, 5, 2, 3, seed=2)]
    targets = [maps(3, 3, 4, 7, seed=3), maps(3, 5, 2, 3, seed=4)]
    places = [torch.tensor([27, 0, 9, 3, 14, 11, 8]), torch.arange(6)]
    together = graphs(sources, targets, places)
    for b in range(3):
        one = slice(b, b + 1)
        alone = graphs([s[one] for s in sources], [t[one] for t in targets], places)
        for levels, lone_levels in zip(together, alone, strict=True):
            for level, lone in zip(levels, lone_levels, strict=True):
                torch.testing.assert_close(level.source_BKC[one], lone.source_BKC)
                torch.testing.assert_close(level.target_BKC[one], lone.target_BKC)
                assert torch.equal(level.adjacency_BKK[one], lone.adjacency_BKK)


def test_the_graph_is_that_of_the_source():
    graphs = PatchGraphs([3], width=6, threshold=0.5).double()
    source, target, places = maps(1, 3, 4, 4, seed=1), maps(1, 3, 4, 4, seed=2), torch.arange(16)
    ((level, _),) = graphs([source], [target], [places])
    embedded = graphs.embedder(0)(source.flatten(2).mT)
    assert torch.equal(level.adjacency_BKK, patch_adjacency(embedded, 0.5))
    assert 0.1 < level.adjacency_BKK.double().mean() < 0.9
    ((again, _),) = graphs([source], [source], [places])
    torch.testing.assert_close(again.target_BKC, again.source_BKC)


def test_features_of_zero_stay_finite():
    """A place whose VGG features are all zero: the release gives NaN while biases are zero."""
    graphs = PatchGraphs([3], width=6).double()
    torch.nn.init.zeros_(graphs.embeddings[0].bias)
    target = torch.zeros(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    levels = graphs([target.detach()], [target], [torch.arange(4)])[0]
    sum(level.target_BKC.sum() for level in levels).backward()
    assert target.grad.isfinite().all()


def test_it_runs_in_float32_under_autocast():
    graphs = PatchGraphs([3], width=6)
    source, target = (maps(1, 3, 4, 4, seed=seed).bfloat16() for seed in (1, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (levels,) = graphs([source], [target], [torch.arange(16)])
    (expected,) = graphs([source.float()], [target.float()], [torch.arange(16)])
    for level, other in zip(levels, expected, strict=True):
        torch.testing.assert_close(level.target_BKC, other.target_BKC, rtol=0, atol=0)


def test_wording_of_errors():
    graphs = PatchGraphs([3, 5], width=6).double()
    source = maps(1, 3, 4, 4)
    with pytest.raises(
        ShapeError, match="have 2 taps and need two maps and places for each; got 1"
    ):
        graphs([source], [source], [torch.arange(3)])
    with pytest.raises(ShapeError, match="Map 1 must have 5 channels for these graphs; got 3"):
        graphs([source] * 2, [source] * 2, [torch.arange(3)] * 2)
