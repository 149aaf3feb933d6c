"""What studies keep of runs that ended, and what differences between them say.

Shape suffixes: S seeds, N images, D draws of the bootstrap.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
"""Of the bootstrap."""


def four_digits(value: float) -> float:
    """Four digits."""
    return float(f"{value:.4g}")


def rounded(scores: Mapping[str, float]) -> dict[str, float]:
    """All of them to four digits."""
    return {name: four_digits(value) for name, value in scores.items()}


def per_image(values: Sequence[float | None]) -> NDArray[np.float64]:
    """Of a number per image; NaN for None, where nothing can be seen."""
    return np.array(values, dtype=np.float64)


def mean_seen(values: NDArray[np.float64]) -> float:
    """Of what can be seen."""
    return float(np.nanmean(values))


def over_seeds(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds, in words."""
    if len(values) == 1:
        return f"{values[0]:.4g}"
    return f"{statistics.mean(values):.4g} ± {statistics.stdev(values):.2g}"


def interval(
    difference_SN: NDArray[np.float64], *, draws: int = DRAWS
) -> tuple[float, float, float]:
    """Mean difference and its 95 % interval by the bootstrap over seeds and images.

    Seeds and images are both drawn with replacement (a seed's images are those of every other, so
    one draw of images serves all seeds). With one seed the interval is of images alone.

    Args:
        difference_SN: of S seeds and N images; NaN where nothing can be seen.
        draws: how often.

    >>> mean, low, high = interval(np.array([[1.0, 1.0], [3.0, 3.0]]))
    >>> mean, low, high
    (2.0, 1.0, 3.0)
    """
    chance = np.random.default_rng(0)
    seeds, images = difference_SN.shape
    seen_SN = (~np.isnan(difference_SN)).astype(float)
    value_SN = np.where(seen_SN > 0, difference_SN, 0.0)
    of_seed_DS = chance.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
    of_image_DN = chance.multinomial(images, np.full(images, 1 / images), size=draws)
    total_D, count_D = (
        np.einsum("ds,sn,dn->d", of_seed_DS, x_SN, of_image_DN, optimize=True)
        for x_SN in (value_SN, seen_SN)
    )
    low, high = np.nanpercentile(total_D / np.where(count_D > 0, count_D, np.nan), [2.5, 97.5])
    return float(np.nanmean(difference_SN)), float(low), float(high)
