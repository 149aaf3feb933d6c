"""Images of several domains, each with references of a domain to translate into.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class DomainBatch:
    """Images to translate, and for each two references of one other (or the same) domain."""

    x_BCHW: Tensor
    """Images in [-1, 1], float32."""
    domain_B: Tensor
    """Their domains, int64."""
    reference_BCHW: Tensor
    """Images whose style is taken, in [-1, 1], float32."""
    second_reference_BCHW: Tensor
    """Other images of the same domains, for the diversity of styles."""
    target_B: Tensor
    """Domains of both references, int64."""
    names: tuple[str, ...] = ()
    """Stems of the files of `x_BCHW`."""

    def __len__(self) -> int:
        return self.x_BCHW.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> DomainBatch:
        """The batch on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> DomainBatch:
        """The batch in page-locked memory; called by the `DataLoader`."""
        return self._each(Tensor.pin_memory)

    def _each(self, moved: Callable[[Tensor], Tensor]) -> DomainBatch:
        return DomainBatch(
            x_BCHW=moved(self.x_BCHW),
            domain_B=moved(self.domain_B),
            reference_BCHW=moved(self.reference_BCHW),
            second_reference_BCHW=moved(self.second_reference_BCHW),
            target_B=moved(self.target_B),
            names=self.names,
        )
