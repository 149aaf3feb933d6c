"""Images of several domains, each with references of a domain to translate into.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

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
        return DomainBatch(
            *(tensor.to(device, non_blocking=non_blocking) for tensor in self._tensors()),
            names=self.names,
        )

    def pin_memory(self) -> DomainBatch:
        """The batch in page-locked memory; called by the `DataLoader`."""
        return DomainBatch(*(tensor.pin_memory() for tensor in self._tensors()), names=self.names)

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return (
            self.x_BCHW,
            self.domain_B,
            self.reference_BCHW,
            self.second_reference_BCHW,
            self.target_B,
        )
