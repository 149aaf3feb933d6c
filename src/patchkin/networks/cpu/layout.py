"""How maps and weights lie in memory: plane by plane, or channels-last (pixel by pixel).

Convolutions take the layout of their weights and hand it on, and on a CPU they are faster in
channels-last layout, in 16 bit several times. It pays if every layer between them keeps it, so a
network says so itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def layout_of(x_BCHW: Tensor) -> torch.memory_format:
    """Contiguous, or channels-last where it is that and not both.

    >>> layout_of(torch.zeros(1, 3, 4, 4))
    torch.contiguous_format
    >>> layout_of(torch.zeros(1, 4, 4, 3).permute(0, 3, 1, 2))
    torch.channels_last
    """
    if not x_BCHW.is_contiguous() and x_BCHW.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def lay_out(module: nn.Module, device: torch.device) -> None:
    """Put the weights of networks whose type has `keeps_channels_last` in that layout, on a CPU.

    Values, names and files stay the same: what is saved is contiguous.

    >>> class Network(nn.Conv2d):
    ...     keeps_channels_last = True
    >>> network = Network(3, 4, 3)
    >>> lay_out(network, torch.device("cpu"))
    >>> layout_of(network.weight)
    torch.channels_last
    """
    if device.type != "cpu":
        return
    for network in module.modules():
        if getattr(type(network), "keeps_channels_last", False):
            network.to(memory_format=torch.channels_last)
