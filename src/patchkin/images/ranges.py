"""Value ranges: which values of a file become -1 and 1, as a model was told when it was trained.

They concern files of more than 8 bits: 12-bit data in 16-bit files (0 to 4095), computed tomography
(-1000 to 3000), floats. 8 bits are 0 to 255 always.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from patchkin.errors import CheckpointError
from patchkin.images.picture import Encoding, ValueRange

_FEW_LEVELS = 255
"""A range with fewer whole numbers than 8 bits have is one of floats."""

Ranges = tuple["ValueRange | None", "ValueRange | None"]
"""Of the images that a model takes, and of those that it makes."""


def declared_ranges(encoding: Mapping[str, Any], *, where: str = "The model") -> Ranges:
    """What the header of a model says of its data: one range for each domain, or one for both.

    Args:
        encoding: `ModelHeader.encoding`.
        where: the model, for messages.

    Raises:
        CheckpointError: what is there is no range.

    >>> declared_ranges({"value_range": [0, 4095]})
    ((0.0, 4095.0), (0.0, 4095.0))
    >>> declared_ranges({"value_ranges": [None, [-1000, 3000]]})
    (None, (-1000.0, 3000.0))
    """
    both = encoding.get("value_range")
    ranges = encoding.get("value_ranges", [both, both])
    try:
        source, target = ranges
        return _range(source), _range(target)
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"{where} declares the value ranges {ranges!r}; expected low and high for each domain."
        ) from error


def _range(plain: Any) -> ValueRange | None:
    if plain is None:
        return None
    low, high = map(float, plain)
    if not -np.inf < low < high < np.inf:
        raise ValueError
    return low, high


class OutputForm(NamedTuple):
    """How a translation is stored."""

    encoding: Encoding
    value_range: ValueRange | None
    """What -1 and 1 become."""
    note: str = ""
    """Why it has another type than its input, if it has."""


def output_form(encoding: Encoding, channels: int, ranges: Ranges = (None, None)) -> OutputForm:
    """The type of the input with the channels and the range of the model.

    Where the type cannot hold the range, it is int16 or float32, and the note says so.

    Args:
        encoding: of the input.
        channels: of the translation.
        ranges: of the model.

    >>> output_form(Encoding(16, 1), 3).encoding
    Encoding(bits=16, channels=3, kind='unsigned')
    >>> output_form(Encoding(16, 1), 1, (None, (-1000, 3000))).note
    'stored as int16: uint16 does not hold the values from -1000 to 3000 of the model'
    """
    of_input, of_output = ranges
    same = replace(encoding, channels=channels)
    if encoding.dtype == np.uint8:
        return OutputForm(same, None)
    if of_output is None:
        if same.default_range is not None:
            return OutputForm(same, None)
        whole = Encoding(16, channels)
        return OutputForm(
            whole,
            None,
            f"stored as {whole.dtype} from 0 to 65535: the model declares no range of values for "
            f"{encoding.dtype}",
        )
    if of_output == of_input or _holds(encoding.dtype, of_output):
        return OutputForm(same, of_output)
    signed = Encoding(16, channels, "signed")
    other = signed if _holds(signed.dtype, of_output) else Encoding(32, channels)
    low, high = of_output
    note = (
        f"stored as {other.dtype}: {encoding.dtype} does not hold the values from {low:g} to "
        f"{high:g} of the model"
    )
    return OutputForm(other, of_output, note)


def _holds(dtype: np.dtype[Any], value_range: ValueRange) -> bool:
    low, high = value_range
    if dtype.kind == "f":
        return max(abs(low), abs(high)) <= float(np.finfo(dtype).max)
    limits = np.iinfo(dtype)
    return limits.min <= low and high <= limits.max and high - low >= _FEW_LEVELS
