"""PatchGCL's head: embeddings, graph convolutions and poolings of patches (Jung et al., AAAI 2024).

Per tap, patches at sampled places become nodes; a topology-adaptive convolution mixes those that
the source joins; a score per node, of the source, chooses which go into a coarser graph. Graphs are
dense matrices, [B, K, K]: with a few hundred nodes that is faster than a sparse library, and needs
none.

Shape suffixes: B images, C channels, H and W pixels, K nodes, L nodes kept by a pooling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from patchkin.errors import ShapeError
from patchkin.losses.patch_graph import patch_adjacency, propagation, two_step_adjacency
from patchkin.networks.places import select_each
from patchkin.networks.projection import gather_places
from patchkin.numerics import without_autocast

_EPSILON = 1e-12
_FEWEST_NODES = 2


class GraphLevel(NamedTuple):
    """The nodes of both images, after the convolution."""

    source_BKC: Tensor
    """Unit rows, without graph."""
    target_BKC: Tensor
    """Unit rows; carry the gradient."""
    adjacency_BKK: Tensor
    """Of the source."""


class GraphConvolution(nn.Module):
    """A topology-adaptive convolution (Du et al. 2017): k hops side by side, one linear layer.

    >>> convolution = GraphConvolution(width=4, hops=2)
    >>> convolution(torch.ones(1, 3, 4), torch.eye(3).unsqueeze(0)).shape
    torch.Size([1, 3, 4])
    """

    def __init__(self, width: int, hops: int) -> None:
        super().__init__()
        self.hops = hops
        self.linear = nn.Linear((hops + 1) * width, width)

    def forward(self, rows_BKC: Tensor, propagation_BKK: Tensor) -> Tensor:
        """Nodes of unit length, [B, K, C]: W [X | P X | ... | P^k X] + b."""
        hops = [rows_BKC]
        for _ in range(self.hops):
            hops.append(propagation_BKK @ hops[-1])
        return _unit(self.linear(torch.cat(hops, dim=-1)))


class ScorePooling(nn.Module):
    """Keeps the nodes that score highest, multiplied by their scores; one linear layer scores.

    >>> pooling = ScorePooling(width=4)
    >>> nodes_BKC, joined_BKK = torch.randn(2, 6, 4), torch.eye(6).bool().expand(2, -1, -1)
    >>> source_BLC, target_BLC, _ = pooling(nodes_BKC, nodes_BKC, joined_BKK, kept=3)
    >>> source_BLC.shape, source_BLC.requires_grad, target_BLC.requires_grad
    (torch.Size([2, 3, 4]), False, True)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)

    def scores(self, source_BKC: Tensor) -> Tensor:
        """Of each node of the source, in (0, 1): [B, K]."""
        logits_BK1: Tensor = self.linear(source_BKC.detach())
        return logits_BK1[..., 0].sigmoid()

    def forward(
        self, source_BKC: Tensor, target_BKC: Tensor, adjacency_BKK: Tensor, *, kept: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The nodes kept of both images, by falling score (ties: lowest index first).

        Args:
            source_BKC: unit rows; constant.
            target_BKC: unit rows; receives the gradient.
            adjacency_BKK: truth values; nodes at most two steps apart are joined afterwards.
            kept: how many.

        Returns:
            The source's nodes without graph, the target's, [B, L, C], and their adjacency. The
            scores learn through the target's nodes.
        """
        scores_BK = self.scores(source_BKC)
        falling = scores_BK.detach().sort(dim=1, descending=True, stable=True).indices
        chosen_BL = falling[:, :kept]
        scores_BL1 = scores_BK.gather(1, chosen_BL)[..., None]
        source_BLC = select_each(source_BKC.detach(), chosen_BL) * scores_BL1.detach()
        target_BLC = select_each(target_BKC, chosen_BL) * scores_BL1
        rows_BLK = select_each(two_step_adjacency(adjacency_BKK), chosen_BL)
        return source_BLC, target_BLC, select_each(rows_BLK.mT, chosen_BL).mT


class PatchGraph(nn.Module):
    """The graph of one tap: a convolution, and one behind each pooling.

    Args:
        width: of a node.
        hops: of the first convolution; those behind a pooling have one.
        poolings: how often the graph is pooled.
        threshold: of `patch_adjacency`.
        down_scale: the first pooling keeps one node in so many, each further one half as many of
            the first graph's nodes, but 2 at least.
    """

    def __init__(
        self, width: int, *, hops: int, poolings: int, threshold: float, down_scale: int
    ) -> None:
        super().__init__()
        self.threshold, self.down_scale = threshold, down_scale
        self.convolution = GraphConvolution(width, hops)
        self.poolings = nn.ModuleList(ScorePooling(width) for _ in range(poolings))
        self.pooled_convolutions = nn.ModuleList(
            GraphConvolution(width, 1) for _ in range(poolings)
        )

    def forward(self, source_BKC: Tensor, target_BKC: Tensor) -> list[GraphLevel]:
        """The levels of the graph, the finest first.

        Args:
            source_BKC: unit rows of the source's embedded patches; constant.
            target_BKC: the translation's at the same places; receives the gradient.
        """
        with without_autocast(target_BKC):
            adjacency_BKK = patch_adjacency(source_BKC, self.threshold)
            levels = [_convolved(self.convolution, source_BKC, target_BKC, adjacency_BKK)]
            stages = zip(self.poolings, self.pooled_convolutions, strict=True)
            for number, (pooling, convolution) in enumerate(stages):
                kept = max(_FEWEST_NODES, source_BKC.shape[1] // (self.down_scale * 2**number))
                levels.append(_convolved(convolution, *pooling(*levels[-1], kept=kept)))
            return levels


class PatchGraphs(nn.Module):
    """An embedding and a graph per tap; weights are shared by source and translation, not by taps.

    It runs in float32 or wider under autocast: what is joined hangs on a threshold.

    Args:
        channels: of the map at each tap.
        width: of a node.
        hops: as `PatchGraph`.
        poolings: as `PatchGraph`.
        threshold: as `PatchGraph`.
        down_scale: as `PatchGraph`.

    >>> graphs = PatchGraphs([256, 512, 512], width=256)
    >>> sum(weight.numel() for weight in graphs.parameters())
    1313795
    """

    def __init__(
        self,
        channels: Sequence[int],
        width: int = 256,
        *,
        hops: int = 2,
        poolings: int = 1,
        threshold: float = 0.1,
        down_scale: int = 4,
    ) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Linear(count, width) for count in channels)
        self.graphs = nn.ModuleList(
            PatchGraph(
                width, hops=hops, poolings=poolings, threshold=threshold, down_scale=down_scale
            )
            for _ in channels
        )

    def forward(
        self, sources: Sequence[Tensor], targets: Sequence[Tensor], places: Sequence[Tensor]
    ) -> list[list[GraphLevel]]:
        """The levels of the graph of each tap, the finest first.

        Args:
            sources: a map [B, C, H, W] of the source per tap; constant.
            targets: the translation's; receive the gradient.
            places: int64 positions [K] per tap, shared by the images.

        Raises:
            ShapeError: if the numbers of maps, places and taps differ, a map has other channels
                than its tap, or a place is outside its map.
        """
        if not len(sources) == len(targets) == len(places) == len(self.graphs):
            raise ShapeError(
                f"The graphs have {len(self.graphs)} taps and need two maps and places for each; "
                f"got {len(sources)} and {len(targets)} maps and {len(places)} sets of places."
            )
        levels = []
        for tap, graph in enumerate(self.graphs):
            with torch.no_grad():
                source_BKC = self._embed(tap, gather_places(sources[tap], places[tap]))
            target_BKC = self._embed(tap, gather_places(targets[tap], places[tap]))
            levels.append(graph(source_BKC, target_BKC))
        return levels

    def embedder(self, tap: int) -> Callable[[Tensor], Tensor]:
        """What embeds feature vectors [..., C] of the tap at this place in the list of taps."""
        return partial(self._embed, tap)

    def _embed(self, tap: int, rows: Tensor) -> Tensor:
        linear: nn.Module = self.embeddings[tap]
        weight = linear.get_parameter("weight")
        if rows.shape[-1] != weight.shape[1]:
            raise ShapeError(
                f"Map {tap} must have {weight.shape[1]} channels for these graphs; got "
                f"{rows.shape[-1]}. Were they made for other taps?"
            )
        with without_autocast(rows):
            return _unit(linear(rows.to(weight.dtype)))


def _convolved(
    convolution: nn.Module, source_BKC: Tensor, target_BKC: Tensor, adjacency_BKK: Tensor
) -> GraphLevel:
    propagation_BKK = propagation(adjacency_BKK, target_BKC.dtype)
    with torch.no_grad():
        source_BKC = convolution(source_BKC, propagation_BKK)
    return GraphLevel(source_BKC, convolution(target_BKC, propagation_BKK), adjacency_BKK)


def _unit(rows: Tensor) -> Tensor:
    return nnf.normalize(rows, dim=-1, eps=_EPSILON)
