"""Geometric transforms and the consistency that GcGAN asks for under them.

A translator should commute with a transform that changes no meaning: G(f(x)) = f(G(x)).

Shape suffixes: B images, C channels, H and W pixels; the transformed image may be [B, C, W, H].
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from patchkin.errors import ConfigError, ShapeError, nearest
from patchkin.numerics import widened, without_autocast

Transform = Literal["rotation", "flip"]
"""By 90 degrees clockwise (released: `rot`), or upside down (released: `vf`)."""


def transformed(x_BCHW: Tensor, transform: Transform) -> Tensor:
    """f(x). A rotation exchanges height and width.

    Raises:
        ConfigError: if the transform is unknown.

    >>> x_BCHW = torch.tensor([[[[1, 2, 3], [4, 5, 6]]]])
    >>> transformed(x_BCHW, "rotation")[0, 0]
    tensor([[4, 1],
            [5, 2],
            [6, 3]])
    >>> transformed(x_BCHW, "flip")[0, 0]
    tensor([[4, 5, 6],
            [1, 2, 3]])
    """
    match transform:
        case "rotation":
            return torch.rot90(x_BCHW, -1, (2, 3))
        case "flip":
            return x_BCHW.flip(2)
    raise _unknown(transform)


def restored(x_BCHW: Tensor, transform: Transform) -> Tensor:
    """The inverse of `transformed`.

    Raises:
        ConfigError: if the transform is unknown.

    >>> x_BCHW = torch.arange(6).view(1, 1, 2, 3)
    >>> torch.equal(restored(transformed(x_BCHW, "rotation"), "rotation"), x_BCHW)
    True
    """
    match transform:
        case "rotation":
            return torch.rot90(x_BCHW, 1, (2, 3))
        case "flip":
            return x_BCHW.flip(2)
    raise _unknown(transform)


def geometry_consistency(
    output_BCHW: Tensor, output_of_transformed: Tensor, transform: Transform
) -> Tensor:
    """Geometry consistency L_geo (Fu et al. 2019, as released).

        mean |a - sg f^-1(b)| + mean |b - sg f(a)|,   a = G(x), b = G(f(x)).

    As each target is a constant (sg), the value is twice, and the gradient equal to, that of one
    L1 distance that both outputs follow.

    Args:
        output_BCHW: a; receives the gradient of the first summand.
        output_of_transformed: b, [B, C, W, H] for a rotation; receives that of the second.
        transform: f.

    Returns:
        Scalar, the mean over all entries, so over images too.

    Raises:
        ShapeError: if b has not the shape of f(a).
        ConfigError: if the transform is unknown.

    >>> a_BCHW = torch.tensor([[[[1.0, 2.0]]]])
    >>> geometry_consistency(a_BCHW, torch.zeros(1, 1, 2, 1), "rotation").item()
    3.0
    """
    with without_autocast(output_BCHW):
        a_BCHW, b_BCHW = widened(output_BCHW), widened(output_of_transformed)
        target_b = transformed(a_BCHW.detach(), transform)
        if target_b.shape != b_BCHW.shape:
            raise ShapeError(
                "`output_of_transformed` must have the shape of the transformed output, "
                f"{tuple(target_b.shape)}; got {tuple(b_BCHW.shape)}. "
                "Was the input transformed in the same way?"
            )
        target_a = restored(b_BCHW.detach(), transform)
        return (a_BCHW - target_a).abs().mean() + (b_BCHW - target_b).abs().mean()


def _unknown(transform: str) -> ConfigError:
    return ConfigError(
        f"Unknown transform `{transform}`. {nearest(transform, get_args(Transform))}"
    )
