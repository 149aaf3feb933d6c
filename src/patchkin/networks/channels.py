"""Domains with different numbers of channels."""

from __future__ import annotations

from torch import Tensor

from patchkin.errors import ShapeError


def match_channels(x_BCHW: Tensor, channels: int) -> Tensor:
    """Images with another number of channels: grey is repeated, colour is averaged to grey.

    The encoder of a one-sided method reads source images and, as queries, translations. Where the
    domains differ in channels a translation is shown to it in the source's. The published methods
    have no answer to this (they need equal channels); this one is ours.

    Raises:
        ShapeError: neither number is 1 and they differ.

    >>> import torch
    >>> match_channels(torch.tensor([0.0, 3.0]).view(1, 2, 1, 1), 1).item()
    1.5
    """
    present = x_BCHW.shape[1]
    if present == channels:
        return x_BCHW
    if present == 1:
        return x_BCHW.expand(-1, channels, -1, -1)
    if channels == 1:
        return x_BCHW.mean(dim=1, keepdim=True)
    raise ShapeError(
        f"Images with {present} channels cannot stand for images with {channels}; one of the "
        "numbers must be 1, or both equal."
    )
