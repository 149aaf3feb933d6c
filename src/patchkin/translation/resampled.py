"""Images made smaller and larger as `enlarging` does, with arrays. Imports no torch.

Every filter here works along one axis at a time, so that each is a matrix: rows are new pixels,
columns the old ones that they are made of.

Shape suffixes: B images, C channels, X channels of the input, H and W pixels, N new, O old pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from patchkin.images import Array
from patchkin.translation.resizing import EPSILON, RADIUS, Resizing

_SHARP, _SOFT = -0.75, -0.5
"""The slope of the cubic at 1: of enlarging, and of the antialiased filter, as torch has it."""


def resized_translation(
    translate: Callable[[Array], Array], large_BXHW: Array, resizing: Resizing
) -> Array:
    """Images translated at a smaller size, at their own.

    Args:
        translate: images of that size.
        large_BXHW: in [-1, 1].
        resizing: their shorter side then, and how the result is put back.

    >>> large = np.zeros((1, 3, 20, 40), np.float32)
    >>> resized_translation(lambda small: small + 0.5, large, Resizing(side=10)).shape
    (1, 3, 20, 40)
    """
    size = (large_BXHW.shape[-2], large_BXHW.shape[-1])
    if min(size) <= resizing.side:
        return translate(large_BXHW)
    small_BXHW = reduced_array(large_BXHW, resizing.side)
    y_BCHW = translate(small_BXHW)
    if resizing.enlarging == "plain":
        return _within_range_of(y_BCHW, _resized(y_BCHW, size, _cubic_enlarging))
    return jointly_enlarged_array(y_BCHW, small_BXHW, large_BXHW)


def reduced_array(x_BCHW: Array, side: int) -> Array:
    """As `enlarging.reduced`.

    >>> reduced_array(np.zeros((1, 3, 100, 250), np.float32), 40).shape
    (1, 3, 40, 100)
    """
    height, width = x_BCHW.shape[-2:]
    scale = side / min(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return np.clip(_resized(x_BCHW, size, _cubic_antialiased), -1, 1)


def jointly_enlarged_array(
    y_BCHW: Array,
    small_BXHW: Array,
    large_BXHW: Array,
    *,
    radius: int = RADIUS,
    epsilon: float = EPSILON,
) -> Array:
    """As `enlarging.jointly_enlarged`."""
    size = (large_BXHW.shape[-2], large_BXHW.shape[-1])
    a_BCXHW, b_BCHW = _guided_coefficients(small_BXHW, y_BCHW, radius=radius, epsilon=epsilon)
    explained_BCHW = (a_BCXHW * small_BXHW[:, None]).sum(axis=2) + b_BCHW
    joint_BCHW = _resized(b_BCHW, size, _linear)
    joint_BCHW += _resized(y_BCHW - explained_BCHW, size, _cubic_enlarging)
    for channel in range(large_BXHW.shape[1]):  # one after another: large images fill the memory
        a_BCHW = _resized(a_BCXHW[:, :, channel], size, _linear)
        joint_BCHW += a_BCHW * large_BXHW[:, channel, None]
    return _within_range_of(y_BCHW, joint_BCHW)


def _guided_coefficients(
    guide_BXHW: Array, y_BCHW: Array, *, radius: int, epsilon: float
) -> tuple[Array, Array]:
    """As `enlarging.guided_coefficients`: slope a [B, C, X, H, W], offset b [B, C, H, W]."""
    means = partial(_filtered, filters=[_windows(n, radius) for n in y_BCHW.shape[-2:]])
    guide, y = guide_BXHW.astype(np.float64), y_BCHW.astype(np.float64)
    guide_mean, y_mean = means(guide), means(y)
    variance_BXXHW = means(guide[:, :, None] * guide[:, None])
    variance_BXXHW -= guide_mean[:, :, None] * guide_mean[:, None]
    covariance_BCXHW = means(y[:, :, None] * guide[:, None])
    covariance_BCXHW -= y_mean[:, :, None] * guide_mean[:, None]
    left_BHWXX = variance_BXXHW.transpose(0, 3, 4, 1, 2) + epsilon * np.eye(guide.shape[1])
    a_BHWXC = np.linalg.solve(left_BHWXX, covariance_BCXHW.transpose(0, 3, 4, 2, 1))
    a_BCXHW = a_BHWXC.transpose(0, 4, 3, 1, 2)
    b_BCHW = y_mean - (a_BCXHW * guide_mean[:, None]).sum(axis=2)
    return means(a_BCXHW).astype(y_BCHW.dtype), means(b_BCHW).astype(y_BCHW.dtype)


def _resized(x_BCHW: Array, size: tuple[int, int], kind: Callable[[int, int], Array]) -> Array:
    filters = [kind(old, new) for old, new in zip(x_BCHW.shape[-2:], size, strict=True)]
    return _filtered(x_BCHW, filters=[matrix.astype(x_BCHW.dtype) for matrix in filters])


def _filtered(maps: Array, *, filters: list[Array]) -> Array:
    """Maps [..., H, W] through one matrix for each axis."""
    down_NO, across_NO = filters
    result: Array = down_NO @ (maps @ across_NO.T)
    return result


def _places(old: int, new: int) -> Array:
    """Of the middles of the new pixels among those of the old."""
    places: Array = (np.arange(new) + 0.5) * old / new - 0.5
    return places


def _cubic(distance: Array, slope: float) -> Array:
    """Keys' kernel.

    >>> _cubic(np.array([0.0, 2.0]), -0.5).tolist()
    [1.0, 0.0]
    """
    x = np.abs(distance)
    near = ((slope + 2) * x - (slope + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * slope
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _cubic_antialiased(old: int, new: int) -> Array:
    """Weights [N, O] of a filter as wide as a new pixel, over what of it lies inside."""
    stretch = max(1.0, old / new)
    distance_NO = (np.arange(old) - _places(old, new)[:, None]) / stretch
    weights_NO = _cubic(distance_NO, _SOFT)
    weights_NO /= weights_NO.sum(axis=1, keepdims=True)
    return weights_NO


def _cubic_enlarging(old: int, new: int) -> Array:
    """Weights [N, O] of the four next pixels; beyond the border it is repeated."""
    return _gathered(old, _places(old, new), range(-1, 3), lambda x: _cubic(x, _SHARP))


def _linear(old: int, new: int) -> Array:
    """Weights [N, O] of the two next pixels; beyond the border it is repeated."""
    places_N = np.clip(_places(old, new), 0, None)
    return _gathered(old, places_N, range(2), lambda x: 1 - np.abs(x))


def _gathered(old: int, places_N: Array, offsets: range, kernel: Callable[[Array], Array]) -> Array:
    weights_NO = np.zeros((len(places_N), old))
    first_N = np.floor(places_N).astype(int)
    for offset in offsets:
        column_N = np.clip(first_N + offset, 0, old - 1)
        np.add.at(
            weights_NO, (np.arange(len(places_N)), column_N), kernel(places_N - first_N - offset)
        )
    return weights_NO


def _windows(length: int, radius: int) -> Array:
    """Means over windows of `2 radius + 1` pixels, over what of each lies inside, [N, O].

    >>> _windows(4, 1)[:2].round(2).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.33, 0.33, 0.33, 0.0]]
    """
    inside_NO = np.abs(np.arange(length) - np.arange(length)[:, None]) <= radius
    weights: Array = inside_NO / inside_NO.sum(axis=1, keepdims=True)
    return weights


def _within_range_of(y_BCHW: Array, large_BCHW: Array) -> Array:
    low_B111 = np.minimum(y_BCHW.min(axis=(1, 2, 3), keepdims=True), -1)
    high_B111 = np.maximum(y_BCHW.max(axis=(1, 2, 3), keepdims=True), 1)
    within: Array = np.clip(large_BCHW, low_B111, high_B111)
    return within
