"""Branches of a step that share a loss but no images: at once, or one after the other.

CUT and the methods that follow it contrast A with G(A) and, for the identity, B with G(B). As one
batch that keeps an accelerator busy, but the maps of both are in memory together; one after the
other it needs about half. Without batch norm and dropout the numbers are the same within rounding;
batch norm takes the statistics of what is computed together: of both branches, or of each.

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


def stacked(inputs: Sequence[Tensor]) -> list[Tensor]:
    """The images of all branches as one batch; where they differ in size, a batch for each.

    >>> small, large = torch.zeros(1, 3, 4, 8), torch.zeros(1, 3, 8, 4)
    >>> [len(x) for x in stacked([small, small])], [len(x) for x in stacked([small, large])]
    ([2], [1, 1])
    """
    alike = len({x.shape[1:] for x in inputs}) == 1
    return [torch.cat(list(inputs))] if alike else list(inputs)


def unstacked(passes: Sequence[Sequence[Tensor]], names: Sequence[str]) -> dict[str, list[Tensor]]:
    """Maps per tap of each branch, from what the batches of `stacked` gave.

    >>> both = [torch.arange(2.0).view(2, 1, 1, 1)]
    >>> {name: maps[0].item() for name, maps in unstacked([both], ["a", "b"]).items()}
    {'a': 0.0, 'b': 1.0}
    """
    if len(passes) == len(names):
        return {name: list(maps) for name, maps in zip(names, passes, strict=True)}
    (together,) = passes
    chunks = [feature.chunk(len(names)) for feature in together]
    return {name: [parts[place] for parts in chunks] for place, name in enumerate(names)}


class Branches:
    """A generator's outputs and features for several branches, as late as memory asks for them.

    The first part is computed here. The others are when their loss is evaluated, when the maps of
    the part before are gone.

    Args:
        inputs: images of each branch, by name; as many each, perhaps of other sizes.
        forward: images -> outputs, and features of the images per tap without graph.
        together: all branches in one pass, if they have one size; else a pass for each.

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
        alike = len({x_BCHW.shape[1:] for x_BCHW in inputs.values()}) == 1
        self._parts = [list(inputs)] if together and alike else [[name] for name in inputs]
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
