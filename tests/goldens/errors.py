"""The largest errors of the golden tests, for programs.

With `PATCHKIN_GOLDEN_ERRORS=FILE` every test of a golden adds a line of JSON to that file: its
name, the schema of its golden, how many numbers or tensors were compared within a tolerance, the
largest share of its tolerance that an error took (the test fails above 1), and the largest error
relative to the largest number of its tensor. What is compared for equality is not counted.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from goldens.fixtures import schema_of

VARIABLE = "PATCHKIN_GOLDEN_ERRORS"
_DEFAULTS = {torch.float32: (1.3e-6, 1e-5), torch.float64: (1e-7, 1e-7)}
"""Of `torch.testing.assert_close`: relative, absolute."""


@dataclass
class Largest:
    """Of the errors of a test."""

    comparisons: int = 0
    share: float = 0.0
    error: float = 0.0

    def add(self, actual: Any, expected: Any, *, rtol: float, atol: float) -> None:
        """What was compared, and within which tolerance."""
        a, e = (
            torch.as_tensor(x, dtype=torch.float64).detach().flatten() for x in (actual, expected)
        )
        if not e.numel():
            return
        self.add_errors((a - e).abs(), atol + rtol * e.abs(), largest=float(e.abs().max()))

    def add_errors(self, error_N: Tensor, allowed_N: Tensor, *, largest: float) -> None:
        """Errors, what each may be, and the largest number that was expected.

        Where a number may be wrong by more than it is, its relative error tells nothing.
        """
        self.comparisons += 1
        shares = torch.where(error_N == 0, torch.zeros_like(error_N), error_N / allowed_N)
        self.share = max(self.share, float(shares.max()))
        if largest > float(allowed_N.max()):
            self.error = max(self.error, float(error_N.max()) / largest)


_watching: list[Largest] = []


def note(actual: Any, expected: Any, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """A comparison that a test makes by itself."""
    for found in _watching:
        found.add(actual, expected, rtol=rtol, atol=atol)


def note_most(error_N: Tensor, *, share: float, allowed: float) -> None:
    """A comparison that only a share of the numbers has to pass: the error of the last of these."""
    for found in _watching:
        place = max(1, math.ceil(share * error_N.numel()))
        last = error_N.double().flatten().kthvalue(place).values[None]
        found.add_errors(last, torch.full_like(last, allowed), largest=0.0)


class _Approximate:
    """What `pytest.approx` gave, which tells what it is compared with."""

    __hash__ = None
    __array_ufunc__ = None  # NumPy's numbers leave the comparison to this

    def __init__(self, approximate: Any, expected: float) -> None:
        self._approximate, self._expected = approximate, expected

    def __eq__(self, actual: object) -> bool:
        note(actual, self._expected, atol=self._approximate.tolerance)
        return bool(actual == self._approximate)

    def __repr__(self) -> str:
        return repr(self._approximate)


@contextmanager
def watched() -> Iterator[Largest]:
    """Looks at the comparisons that are made inside."""
    found = Largest()
    close, approx = torch.testing.assert_close, pytest.approx

    def assert_close(
        actual: Any, expected: Any, *, rtol: float | None = None, atol: float | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        defaults = _DEFAULTS.get(getattr(expected, "dtype", None), (0.0, 0.0))
        note(
            actual, expected,
            rtol=defaults[0] if rtol is None else rtol, atol=defaults[1] if atol is None else atol,
        )  # fmt: skip
        close(actual, expected, rtol=rtol, atol=atol, **options)

    def approximate(expected: Any, *arguments: Any, **options: Any) -> Any:
        made = approx(expected, *arguments, **options)
        single = isinstance(expected, (int, float, np.number)) and not isinstance(expected, bool)
        return _Approximate(made, float(expected)) if single else made

    torch.testing.assert_close, pytest.approx = assert_close, approximate
    _watching.append(found)
    try:
        yield found
    finally:
        _watching.remove(found)
        torch.testing.assert_close, pytest.approx = close, approx


@contextmanager
def written(request: pytest.FixtureRequest) -> Iterator[None]:
    """The line of a test, where a file is named for them."""
    target = os.environ.get(VARIABLE)
    parameters = getattr(request.node, "callspec", None)
    files = [p for p in (parameters.params.values() if parameters else ()) if isinstance(p, Path)]
    if target is None or not files:
        yield
        return
    with watched() as found:
        yield
    line = {"test": request.node.nodeid, "schema": schema_of(files[0]), **found.__dict__}
    with Path(target).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
