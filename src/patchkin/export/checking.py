"""Whether an exported file translates as the network does.

Shape suffixes: B images, C channels, H and W pixels, S numbers of a style.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from patchkin.errors import CheckpointError, ConfigError
from patchkin.images import Array
from patchkin.method import StyledMethod
from patchkin.randomness import SeededDraws
from patchkin.translation.translator import Translator

MOST_DIFFERENCE = 1e-4
"""Of images in [-1, 1], for a graph in float32: an eightieth of a level of 255."""
MOST_MEAN_DIFFERENCE = {"float16": 1 / 255, "int8": 8 / 255}
"""For graphs that round on purpose: half a level of 255 on the mean of random images, and four on
that of images such as will be translated, which ranges of int8 are made for."""
_SIZES = ((1, 23, 60), (2, 56, 33), (1, 41, 89))
"""Images, and height and width beyond the smallest side."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Between two translations of the same images, in [-1, 1]."""

    mean: float
    largest: float

    def __str__(self) -> str:
        return f"{self.mean:.2g} on the mean, {self.largest:.2g} at most"


@dataclass(frozen=True)
class Case:
    """Inputs of a graph in [-1, 1], and what the network makes of them."""

    image_BCHW: Tensor
    style_BS: Tensor | None
    expected_BCHW: Tensor


def cases_of(translator: Translator, *, minimum: int) -> list[Case]:
    """Random images of three sizes, with odd sides and none square.

    Raises:
        ConfigError: the network gives two answers to one question, as dropout that stays on does.
    """
    made = []
    for image_BCHW, style_BS in _inputs(translator, minimum):
        expected_BCHW, again_BCHW = (translator(image_BCHW, style_BS).cpu() for _ in range(2))
        if not torch.equal(expected_BCHW, again_BCHW):
            raise ConfigError(
                "This model draws random numbers when it translates, such as dropout that stays "
                "on: no file can be compared with it, and none is written."
            )
        made.append(Case(image_BCHW, style_BS, expected_BCHW))
    return made


def _inputs(translator: Translator, minimum: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    generator = torch.Generator().manual_seed(0)
    for count, height, width in _SIZES:
        shape = (count, translator.channels[0], (minimum + height) | 1, minimum + width)
        image_BCHW = torch.rand(shape, generator=generator) * 2 - 1
        yield image_BCHW, example_styles(translator, count)


def example_styles(translator: Translator, count: int) -> Tensor | None:
    """Random styles, one for each image; None for a method without."""
    if not isinstance(translator.method, StyledMethod):
        return None
    return translator.latent_styles(SeededDraws(0, 0), count=count)


def difference(cases: list[Case], run: Callable[[Array, Array | None], Array]) -> Difference:
    """How far the answers of a file are from those of the network.

    Args:
        cases: of `cases_of`.
        run: the file, for images and styles in [-1, 1].

    Raises:
        CheckpointError: an answer has another size, or is no number.
    """
    sums, numbers, largest = 0.0, 0, 0.0
    for case in cases:
        style_BS = None if case.style_BS is None else case.style_BS.numpy()
        y_BCHW = run(case.image_BCHW.numpy(), style_BS)
        expected_BCHW = case.expected_BCHW.numpy()
        if y_BCHW.shape != expected_BCHW.shape:
            raise CheckpointError(
                f"The exported model makes {y_BCHW.shape} where the network makes "
                f"{expected_BCHW.shape}; nothing is written."
            )
        apart = np.abs(y_BCHW.astype(np.float64) - expected_BCHW)
        if not np.isfinite(apart).all():
            raise CheckpointError(
                "The exported model makes NaN or infinity where the network makes numbers; "
                "nothing is written."
            )
        sums, numbers = sums + float(apart.sum()), numbers + apart.size
        largest = max(largest, float(apart.max()))
    return Difference(sums / numbers, largest)
