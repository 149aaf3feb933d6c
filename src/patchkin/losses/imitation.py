"""How far a student's image and maps are from its teacher's (OMGD; Ren et al., ICCV 2021).

With `pixel_distance` of features beside them these are the whole loss of a student that sees
neither a discriminator nor the truth (arXiv 2108.06908, as released). The teacher's side is always
a constant.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as nnf
from torch import Tensor

from patchkin.errors import ShapeError, check_same_shape
from patchkin.numerics import widened, without_autocast

_SIDE = 11
"""Of the window of SSIM, in pixels."""
_DEVIATION = 1.5
_LUMINANCE, _CONTRAST = 0.01**2, 0.03**2
"""C1 and C2 for values of range 1, as released, although images have range 2."""
_EPSILON = 1e-8
"""Added to what a relative distance divides by."""


def image_similarities(output_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """SSIM of each image, as OMGD's students maximise it (Wang et al. 2004; released `SSIM`).

    A Gaussian window of 11 x 11 pixels with a deviation of 1.5 stands on every pixel, with zeros
    beyond the border, so images may be smaller than it. Released, the constants are those of values
    of range 1, and images stay in [-1, 1], whose means may differ in sign: the same faint texture
    around -0.1 and around 0.1 then counts as very unlike (-0.6 to -0.8), around 0.6 and 0.8 as
    alike. A score of images is `metrics.similarity.structural_similarity` instead.

    Args:
        output_BCHW: the student's images in [-1, 1]; receive the gradient.
        target_BCHW: the teacher's, of the same shape; constant.

    Returns:
        [B], the mean over channels and pixels, at most 1, in float32 or float64.

    Raises:
        ShapeError: if the shapes differ.

    >>> image_BCHW = torch.linspace(-1, 1, 50).view(2, 1, 5, 5)
    >>> image_similarities(image_BCHW, image_BCHW)
    tensor([1., 1.])
    """
    check_same_shape(output_BCHW=output_BCHW, target_BCHW=target_BCHW)
    with without_autocast(output_BCHW):
        s_BCHW, t_BCHW = widened(output_BCHW), widened(target_BCHW).detach()
        maps_NBCHW = torch.stack([s_BCHW, t_BCHW, s_BCHW**2, t_BCHW**2, s_BCHW * t_BCHW])
        height, width = s_BCHW.shape[2:]
        means = nnf.conv2d(
            maps_NBCHW.reshape(-1, 1, height, width), _window(s_BCHW), padding=_SIDE // 2
        ).view(maps_NBCHW.shape)
        s, t, square_s, square_t, product = means
        variance_s, variance_t, covariance = square_s - s * s, square_t - t * t, product - s * t
        similarity_BCHW: Tensor = ((2 * s * t + _LUMINANCE) * (2 * covariance + _CONTRAST)) / (
            (s * s + t * t + _LUMINANCE) * (variance_s + variance_t + _CONTRAST)
        )
        return similarity_BCHW.mean(dim=(1, 2, 3))


def _window(like: Tensor) -> Tensor:
    """Weights [1, 1, 11, 11] that sum to 1; in float32, as released, whatever the images have."""
    bell = [math.exp(-((place - _SIDE // 2) ** 2) / (2 * _DEVIATION**2)) for place in range(_SIDE)]
    weights = torch.tensor(bell, dtype=torch.float32, device=like.device)
    weights = weights / weights.sum()
    return torch.outer(weights, weights).to(like.dtype)[None, None]


def similarity_distance(output_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """OMGD's L_SSIM: 1 - the mean of `image_similarities`, whose arguments and errors it has.

    Returns:
        Scalar, at least 0, in float32 or float64.

    >>> black_BCHW = torch.full((1, 1, 4, 6), -1.0)
    >>> similarity_distance(black_BCHW, black_BCHW).item()
    0.0
    """
    return 1 - image_similarities(output_BCHW, target_BCHW).mean()


def gram_matrices(feature_BCHW: Tensor) -> Tensor:
    """How the channels of a map go together (Gatys et al. 2016): f f^T / (C H W).

    Args:
        feature_BCHW: a map of any range; receives the gradient.

    Returns:
        [B, C, C], in float32 or float64.

    Raises:
        ShapeError: if it is no such map.

    >>> gram_matrices(torch.tensor([[[[1.0, 1.0]], [[2.0, 0.0]]]]))
    tensor([[[0.5000, 0.5000],
             [0.5000, 1.0000]]])
    """
    if feature_BCHW.ndim != 4:
        raise ShapeError(f"`feature_BCHW` must be [B, C, H, W]; got {tuple(feature_BCHW.shape)}.")
    with without_autocast(feature_BCHW):
        rows_BCN = widened(feature_BCHW).flatten(2)
        return rows_BCN @ rows_BCN.mT / (rows_BCN.shape[1] * rows_BCN.shape[2])


def gram_distance(output_BCHW: Tensor, target_BCHW: Tensor, *, relative: bool = False) -> Tensor:
    """One map's part of OMGD's L_style: mean |G(output) - G(target)| of `gram_matrices`.

    Args:
        output_BCHW: features of the student's images; receive the gradient.
        target_BCHW: those of the teacher's, with as many channels; constant.
        relative: divide by the mean |G(target)| + 1e-8, so that features of any scale weigh alike.
            Ours, for features that are not VGG16's.

    Returns:
        Scalar, the mean over images and both channel axes, in float32 or float64.

    Raises:
        ShapeError: if the numbers of images or channels differ.

    >>> ramp_BCHW = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]])
    >>> gram_distance(2 * ramp_BCHW, ramp_BCHW).item()  # 30 - 7.5
    22.5
    >>> round(gram_distance(2 * ramp_BCHW, ramp_BCHW, relative=True).item(), 4)
    3.0
    """
    output_BCC, target_BCC = gram_matrices(output_BCHW), gram_matrices(target_BCHW).detach()
    check_same_shape(output_BCC=output_BCC, target_BCC=target_BCC)
    return _distance(output_BCC, target_BCC, relative=relative)


def feature_distance(output_BCHW: Tensor, target_BCHW: Tensor, *, relative: bool = False) -> Tensor:
    """OMGD's L_feature: mean |output - target| of one map.

    Args:
        output_BCHW: features of the student's images; receive the gradient.
        target_BCHW: those of the teacher's; constant.
        relative: as `gram_distance`, by the mean |target|.

    Returns:
        Scalar, the mean over all values, in float32 or float64.

    Raises:
        ShapeError: if the shapes differ.

    >>> feature_BCHW = torch.tensor([[[[1.0, -3.0]]]])
    >>> feature_distance(feature_BCHW + 1, feature_BCHW).item()
    1.0
    >>> feature_distance(feature_BCHW + 1, feature_BCHW, relative=True).item()
    0.5
    """
    check_same_shape(output_BCHW=output_BCHW, target_BCHW=target_BCHW)
    with without_autocast(output_BCHW):
        return _distance(widened(output_BCHW), widened(target_BCHW).detach(), relative=relative)


def _distance(output: Tensor, target: Tensor, *, relative: bool) -> Tensor:
    distance = (output - target).abs().mean()
    return distance / (target.abs().mean() + _EPSILON) if relative else distance


def total_variation(output_BCHW: Tensor) -> Tensor:
    """OMGD's L_tv: |differences| of neighbouring pixels, along rows and columns.

    Args:
        output_BCHW: the student's images in [-1, 1]; receive the gradient.

    Returns:
        Scalar, the *sum* over images, channels and pixels, as released, so that it grows with size
        and batch; in float32 or float64.

    Raises:
        ShapeError: if they are no images.

    >>> total_variation(torch.tensor([[[[0.0, 1.0], [0.5, 0.5]]]])).item()
    2.0
    """
    if output_BCHW.ndim != 4:
        raise ShapeError(f"`output_BCHW` must be [B, C, H, W]; got {tuple(output_BCHW.shape)}.")
    with without_autocast(output_BCHW):
        x_BCHW = widened(output_BCHW)
        across, down = x_BCHW.diff(dim=3), x_BCHW.diff(dim=2)
        return across.abs().sum() + down.abs().sum()


def channel_mean_distance(adapted_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """One map's part of OMGD's L_CD: the squared distance of how strong each channel is.

        mean over images and channels of (mean_HW adapted - mean_HW target)^2

    Args:
        adapted_BCHW: the student's map in the teacher's channels; receives the gradient.
        target_BCHW: the teacher's map, of any size; constant.

    Returns:
        Scalar, in float32 or float64.

    Raises:
        ShapeError: if the numbers of images or channels differ.

    >>> adapted_BCHW = torch.tensor([[[[1.0, 3.0]], [[0.0, 0.0]]]])
    >>> channel_mean_distance(adapted_BCHW, torch.zeros(1, 2, 4, 4)).item()  # (2^2 + 0) / 2
    2.0
    """
    with without_autocast(adapted_BCHW):
        adapted_BC = widened(adapted_BCHW).mean(dim=(2, 3))
        target_BC = widened(target_BCHW).detach().mean(dim=(2, 3))
        check_same_shape(adapted_BC=adapted_BC, target_BC=target_BC)
        return (adapted_BC - target_BC).square().mean()
