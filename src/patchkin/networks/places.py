"""Places that each image has for itself: gathering them, and choosing them by a discriminator.

A place is a position y * W + x on a map. `projection.py` has the places that images share.

Shape suffixes: B images, C channels, H and W pixels of a map, K places.
"""

from __future__ import annotations

import torch
from torch import Tensor

from patchkin.errors import ShapeError


def gather_each(feature_BCHW: Tensor, places_BK: Tensor) -> Tensor:
    """The feature vectors at places that differ between the images; a place may come twice.

    Args:
        feature_BCHW: a map; receives the gradient.
        places_BK: int64 positions y * W + x, as many for each image.

    Returns:
        [B, K, C].

    Raises:
        ShapeError: if images and places differ in number, or a place is outside the map (which is
            not checked on an accelerator, nor in compiled code).

    >>> gather_each(torch.arange(6.0).reshape(1, 1, 2, 3), torch.tensor([[5, 0, 5]]))
    tensor([[[5.],
             [0.],
             [5.]]])
    """
    images, _, height, width = feature_BCHW.shape
    if places_BK.ndim != 2 or len(places_BK) != images:
        raise ShapeError(
            f"`places_BK` must be [{images}, K], a row for each image; "
            f"got {tuple(places_BK.shape)}."
        )
    checked = places_BK.device.type == "cpu" and not torch.compiler.is_compiling()
    if checked and places_BK.numel():
        low, high = int(places_BK.min()), int(places_BK.max())
        if low < 0 or high >= height * width:
            raise ShapeError(
                f"`places_BK` must be positions on a map of {height} x {width}, that is 0 to "
                f"{height * width - 1}; got {low} to {high}. Were they drawn for another tap?"
            )
    return select_each(feature_BCHW.flatten(2).mT, places_BK)


def select_each(rows_BNC: Tensor, places: Tensor) -> Tensor:
    """Rows of each image at its own places.

    The gradient of a row that comes twice is summed in a fixed order on every device, unlike that
    of `torch.gather`.

    Args:
        rows_BNC: receives the gradient.
        places: int64 numbers of rows, [B, ...].

    Returns:
        [B, ..., C].

    >>> select_each(torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]]), torch.tensor([[1], [0]]))
    tensor([[[2.]],
            [[3.]]])
    """
    images = torch.arange(len(rows_BNC), device=rows_BNC.device)
    return rows_BNC[images.view(-1, *[1] * (places.ndim - 1)), places.to(rows_BNC.device)]
