"""Momentum copies of networks: encoders of keys that change slowly (MoCo; He et al. 2020)."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def follow(copied: nn.Module, live: nn.Module, *, momentum: float) -> None:
    """Move a copy's parameters towards those of the network that learns.

    Args:
        copied: keeps this share of itself.
        live: of the same shape; constant.
        momentum: in [0, 1).

    >>> copied, live = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> _ = nn.init.constant_(copied.weight, 1.0), nn.init.constant_(live.weight, 2.0)
    >>> follow(copied, live, momentum=0.75)
    >>> copied.weight.item()
    1.25
    """
    torch._foreach_lerp_(list(copied.parameters()), list(live.parameters()), 1 - momentum)
