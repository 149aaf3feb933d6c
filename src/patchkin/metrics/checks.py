"""What every score asks of its input."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from patchkin.errors import DataError, ShapeError

MIN_IMAGES = 2
"""A covariance, or a mean over pairs, of fewer is not defined."""


def check_colour_batch(images_BCHW: Tensor, what: str) -> None:
    """Raise `ShapeError` unless these are images [B, 3, H, W]."""
    if images_BCHW.ndim != 4 or images_BCHW.shape[1] != 3:
        raise ShapeError(
            f"{what} takes images [B, 3, H, W]; got {tuple(images_BCHW.shape)}. Grey images are "
            "repeated to 3 channels first."
        )


def check_finite(values_B: Tensor, what: str, names: Sequence[str] = ()) -> None:
    """Raise `DataError` if an entry along the first axis holds NaN or infinity; says which."""
    if not values_B.dtype.is_floating_point:
        return
    bad_B = ~values_B.isfinite().flatten(1).all(dim=1)
    if bad_B.any():
        first = int(bad_B.nonzero()[0])
        name = f"`{names[first]}`" if names else f"number {first}"
        raise DataError(
            f"{int(bad_B.sum())} of {len(bad_B)} {what} hold NaN or infinity (first: {name}); "
            "a score of them would mean nothing. Did the training diverge?"
        )


def check_count(count: int, what: str) -> None:
    """Raise `DataError` for fewer than two images."""
    if count < MIN_IMAGES:
        raise DataError(f"{what} needs at least {MIN_IMAGES} images; got {count}.")
