"""Graphs in fewer bits: float16, and int8 with ranges that were seen on images.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from patchkin.images import Array

if TYPE_CHECKING:
    from onnx import ModelProto

_WIDE_OPERATORS = (
    "InstanceNormalization",
    "LayerNormalization",
    "GroupNormalization",
    "BatchNormalization",
    "ReduceMean",
    "ReduceSum",
    "ReduceL2",
    "ReduceSumSquare",
    "Pow",
    "Sqrt",
    "Reciprocal",
    "Softmax",
    "Exp",
    "Resize",
)
"""That stay in float32: sums over an image and squares leave the range of float16, and kernels of
`Resize` in float16 are rare."""


def in_float16(model: ModelProto) -> ModelProto:
    """A graph whose weights and convolutions are float16; what it takes and gives stays float32.

    Norms stay float32: the variance of a map whose values go to 300 is beyond float16.
    """
    from onnxruntime.transformers.float16 import (
        DEFAULT_OP_BLOCK_LIST,
        convert_float_to_float16,
    )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which numbers are rounded to zero
        small: ModelProto = convert_float_to_float16(
            model,
            keep_io_types=True,
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_WIDE_OPERATORS],
        )
    return small


class _Images:
    """Hands images to the calibration, one after another."""

    def __init__(self, feeds: Sequence[dict[str, Array]]) -> None:
        self._feeds: Iterator[dict[str, Array]] = iter(feeds)

    def get_next(self) -> dict[str, Array] | None:
        """The next, or None at the end."""
        return next(self._feeds, None)


def in_int8(model: ModelProto, feeds: Sequence[dict[str, Array]]) -> ModelProto:
    """A graph whose convolutions multiply 8-bit numbers.

    Weights have a scale for each output channel; the ranges of the maps are those that occur for
    the images given. Everything between the convolutions stays float32.

    Args:
        model: in float32.
        feeds: inputs by name, of one image each.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory(prefix="patchkin-int8-") as folder, _no_advice():
        target = Path(folder) / "int8.onnx"
        source = Path(folder) / "float32.onnx"
        onnx.save_model(model, source)
        quantize_static(
            str(source),
            str(target),
            _Images(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        small: ModelProto = onnx.load_model(target)
    return small


def times_faster(new: Callable[[], object], old: Callable[[], object], *, rounds: int = 7) -> float:
    """How many times as fast one call is as another, from the quickest of alternating rounds."""
    best_new = best_old = float("inf")
    for number in range(rounds + 1):
        old_seconds, new_seconds = _seconds(old), _seconds(new)
        if number:  # the first round allocates
            best_old, best_new = min(best_old, old_seconds), min(best_new, new_seconds)
    return best_old / best_new


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@contextmanager
def _no_advice() -> Iterator[None]:
    """Without what the quantiser advises through the root logger and warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
