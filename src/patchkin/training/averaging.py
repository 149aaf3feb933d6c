"""Exponential moving average of the weights that translate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from patchkin.method import Method
from patchkin.storage.checkpoint import EMA_PREFIX


class WeightAverage:
    """Averaged copies of the translating networks, weights and buffers."""

    def __init__(self, method: Method) -> None:
        self._method = method
        self._average = {name: tensor.clone() for name, tensor in self._live().items()}

    def _live(self) -> dict[str, Tensor]:
        state = self._method.state_dict()
        prefixes = tuple(f"{name}." for name in self._method.translating)
        return {name: tensor for name, tensor in state.items() if name.startswith(prefixes)}

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move the average a share of 1 - decay towards the live weights."""
        live = self._live()
        floating = [name for name, tensor in live.items() if tensor.is_floating_point()]
        torch._foreach_lerp_(
            [self._average[name] for name in floating],
            [live[name] for name in floating],
            1 - decay,
        )
        for name in live.keys() - set(floating):
            self._average[name].copy_(live[name])

    def tensors(self) -> dict[str, Tensor]:
        """The average under the names of a checkpoint."""
        return {EMA_PREFIX + name: tensor for name, tensor in self._average.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        for name, tensor in self._average.items():
            tensor.copy_(tensors[EMA_PREFIX + name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The averaged weights stand in for the live ones."""
        live = {name: tensor.clone() for name, tensor in self._live().items()}
        self._method.load_state_dict(self._average, strict=False)
        try:
            yield
        finally:
            self._method.load_state_dict(live, strict=False)
