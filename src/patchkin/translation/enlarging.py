"""Translations made at a smaller size, brought back to that of the input.

`plain` enlarges the translation: as sharp as its few pixels allow. `joint` also looks at the input,
which has the detail that the small translation lost: around every pixel of the small pair the
translation is written as a linear function of the input's colours plus what that leaves over,

    y = a . x + b + r,

where a and b fit best within a window (guided filter: He, Sun and Tang, ECCV 2010, with colour
guides). a, b and r are enlarged, and a meets the large input (joint upsampling: Kopf et al.,
SIGGRAPH 2007; coefficients computed at the small size: He and Sun, arXiv 1505.00996). Since r is
kept, nothing that the model has put in is lost: made small again, the result is the translation.

`resampled` does the same with arrays.

Shape suffixes: B images, C channels, X channels of the input, H and W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor

from patchkin.errors import ShapeError
from patchkin.translation.resizing import EPSILON, RADIUS


def reduced(x_BCHW: Tensor, side: int) -> Tensor:
    """Images whose shorter side is `side`, by the antialiased bicubic filter.

    >>> reduced(torch.zeros(1, 3, 100, 250), 40).shape
    torch.Size([1, 3, 40, 100])
    """
    height, width = x_BCHW.shape[-2:]
    scale = side / min(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small_BCHW = nnf.interpolate(x_BCHW, size, mode="bicubic", align_corners=False, antialias=True)
    return small_BCHW.clamp(-1, 1)


def enlarged(y_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Images at another height and width, by the bicubic filter; no value leaves [-1, 1], or where
    they left it already, their range.
    """
    large_BCHW = nnf.interpolate(y_BCHW, size, mode="bicubic", align_corners=False)
    return _within_range_of(y_BCHW, large_BCHW)


def jointly_enlarged(
    y_BCHW: Tensor,
    small_BXHW: Tensor,
    large_BXHW: Tensor,
    *,
    radius: int = RADIUS,
    epsilon: float = EPSILON,
) -> Tensor:
    """Translations at the size of the input that they were made of, with its detail.

    Args:
        y_BCHW: translations.
        small_BXHW: what they were made of.
        large_BXHW: what that was made of.
        radius: of the windows.
        epsilon: below which variance a window counts as flat.

    Raises:
        ShapeError: `y_BCHW` and `small_BXHW` differ in size.

    >>> large = torch.rand(1, 1, 40, 40) * 2 - 1
    >>> small = reduced(large, 10)
    >>> same = jointly_enlarged(small, small, large, epsilon=1e-9)  # translated into itself
    >>> bool((same - large).abs().max() < 0.01)
    True
    """
    if y_BCHW.shape[-2:] != small_BXHW.shape[-2:]:
        raise ShapeError(
            f"`y_BCHW` and `small_BXHW` must have the same size; got {tuple(y_BCHW.shape)} and "
            f"{tuple(small_BXHW.shape)}."
        )
    a_BCXHW, b_BCHW = guided_coefficients(small_BXHW, y_BCHW, radius=radius, epsilon=epsilon)
    size = (large_BXHW.shape[-2], large_BXHW.shape[-1])
    explained_BCHW = (a_BCXHW * small_BXHW[:, None]).sum(dim=2) + b_BCHW
    joint_BCHW = nnf.interpolate(
        b_BCHW, size, mode="bilinear", align_corners=False
    ) + nnf.interpolate(y_BCHW - explained_BCHW, size, mode="bicubic", align_corners=False)
    for channel in range(large_BXHW.shape[1]):  # one after another: large images fill the memory
        a_BCHW = nnf.interpolate(a_BCXHW[:, :, channel], size, mode="bilinear", align_corners=False)
        joint_BCHW += a_BCHW * large_BXHW[:, channel, None]
    return _within_range_of(y_BCHW, joint_BCHW)


def guided_coefficients(
    guide_BXHW: Tensor, y_BCHW: Tensor, *, radius: int, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Slope and offset of the guided filter, each the mean over the windows that hold a pixel.

    In a window k with means mu and y_k and covariance S of the guide: a_k = (S + epsilon 1)^-1
    cov(guide, y) and b_k = y_k - a_k . mu.

    Args:
        guide_BXHW: in [-1, 1].
        y_BCHW: to be explained by it.
        radius: windows have 2 radius + 1 pixels a side; what lies outside the image is left out.
        epsilon: added to the variance of every channel.

    Returns:
        The slope a [B, C, X, H, W] and the offset b [B, C, H, W].
    """
    guide, y = guide_BXHW.double(), y_BCHW.double()
    guide_mean, y_mean = _window_means(guide, radius), _window_means(y, radius)
    variance_BXXHW = _window_means(guide[:, :, None] * guide[:, None], radius) - (
        guide_mean[:, :, None] * guide_mean[:, None]
    )
    covariance_BCXHW = _window_means(y[:, :, None] * guide[:, None], radius) - (
        y_mean[:, :, None] * guide_mean[:, None]
    )
    eye_XX = torch.eye(guide.shape[1], dtype=guide.dtype, device=guide.device)
    left_BHWXX = variance_BXXHW.permute(0, 3, 4, 1, 2) + epsilon * eye_XX
    a_BHWXC = torch.linalg.solve(left_BHWXX, covariance_BCXHW.permute(0, 3, 4, 2, 1))
    a_BCXHW = a_BHWXC.permute(0, 4, 3, 1, 2)
    b_BCHW = y_mean - (a_BCXHW * guide_mean[:, None]).sum(dim=2)
    return (
        _window_means(a_BCXHW, radius).to(y_BCHW.dtype),
        _window_means(b_BCHW, radius).to(y_BCHW.dtype),
    )


def _window_means(maps: Tensor, radius: int) -> Tensor:
    """Of maps [..., H, W], over what of each window lies inside."""
    side = 2 * radius + 1
    flat_NHW = maps.reshape(-1, *maps.shape[-2:])
    means_NHW = nnf.avg_pool2d(flat_NHW, side, stride=1, padding=radius, count_include_pad=False)
    return means_NHW.view(maps.shape)


def _within_range_of(y_BCHW: Tensor, large_BCHW: Tensor) -> Tensor:
    low_B111, high_B111 = (
        extreme(y_BCHW, dim=(1, 2, 3), keepdim=True) for extreme in (torch.amin, torch.amax)
    )
    return large_BCHW.clamp(low_B111.clamp(max=-1), high_B111.clamp(min=1))
