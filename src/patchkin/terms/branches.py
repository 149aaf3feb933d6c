"""Branches of a step that share a loss but no images: at once, or one after the other.

CUT and the methods that follow it contrast A with G(A) and, for the identity, B with G(B). As one
batch that keeps an accelerator busy, but the maps of both are in memory together; one after the
other it needs about half, for the same numbers within rounding.

Shape suffixes: B images, C channels, H and W pixels, K patches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

Pairs = list[tuple[Tensor, Tensor]]
"""Embedded patches of outputs and inputs [B, K, C], per tap."""

Order = Literal["auto", "at_once", "in_turn"]

IN_TURN_PIXELS = 256 * 256
"""Of a batch, from which on a CPU computes its branches in turn (benchmarks/speed)."""


def at_once(order: Order, x_BCHW: Tensor) -> bool:
    """Whether the branches of a batch are one pass; `auto` decides by device and size.

    >>> at_once("auto", torch.zeros(1, 3, 64, 64)), at_once("auto", torch.zeros(1, 3, 256, 256))
    (True, False)
    """
    if order == "auto":
        return x_BCHW.device.type != "cpu" or x_BCHW[:, 0].numel() < IN_TURN_PIXELS
    return order == "at_once"


class Branches:
    """A generator's outputs and features for several branches, as late as memory asks for them.

    The first part is computed here. The others are when their loss is evaluated, when the maps of
    the part before are gone.

    Args:
        inputs: images of each branch, by name; as many each.
        forward: images -> outputs, and features of the images per tap without graph.
        together: all branches in one pass; else a pass for each.

    >>> one, two = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    >>> branches = Branches({"a": one, "b": two}, lambda x: (x + 1, [x]), together=False)
    >>> branches.first_BCHW.mean().item()
    1.0
    >>> losses = branches.losses(lambda names, outputs, keys: {names[0]: outputs.mean()})
    >>> [loss() for loss in losses]
    [{'a': tensor(1.)}, {'b': tensor(2.)}]
    """

    def __init__(
        self,
        inputs: Mapping[str, Tensor],
        forward: Callable[[Tensor], tuple[Tensor, list[Tensor]]],
        *,
        together: bool,
    ) -> None:
        self._inputs = inputs
        self._forward = forward
        self._parts = [list(inputs)] if together else [[name] for name in inputs]
        self._made = [self._passed(self._parts[0])]
        self.first_BCHW = self._made[0][0][: len(next(iter(inputs.values())))]
        """The outputs of the first branch, with their graph."""

    def losses(
        self, terms: Callable[[Sequence[str], Tensor, list[Tensor]], dict[str, Tensor]]
    ) -> list[Callable[[], dict[str, Tensor]]]:
        """A loss per part for `Update`, to be evaluated and differentiated in this order.

        Args:
            terms: of the names of a part's branches, their outputs, one branch behind the other,
                and the features of their inputs.
        """

        def of_part(names: Sequence[str]) -> dict[str, Tensor]:
            return terms(names, *self._taken(names))

        return [partial(of_part, names) for names in self._parts]

    def _taken(self, names: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        return self._made.pop() if self._made else self._passed(names)

    def _passed(self, names: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        return self._forward(torch.cat([self._inputs[name] for name in names]))


def of_branch(pairs: Pairs, names: Sequence[str], name: str) -> Pairs:
    """The patches of one branch, from those of branches one behind the other.

    >>> pairs = [(torch.arange(4.0).view(2, 2, 1), torch.zeros(2, 2, 1))]
    >>> ((query_BKC, _),) = of_branch(pairs, ["a", "b"], "b")
    >>> query_BKC.flatten().tolist()
    [2.0, 3.0]
    """
    num_images = len(pairs[0][0]) // len(names)
    first = names.index(name) * num_images
    images = slice(first, first + num_images)
    return [(query_BKC[images], key_BKC[images]) for query_BKC, key_BKC in pairs]
