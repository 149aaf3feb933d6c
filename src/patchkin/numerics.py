"""Arithmetic that keeps at least float32, whatever the precision of the run.

Softmaxes, log-sum-exps and divisions by small norms lose their meaning in 16 bits, so the losses
and the projection head leave autocast and widen what they are given.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

NORM_EPSILON = 1e-7
"""Added to a row's length before dividing by it, not under the root (CUT's released code)."""


def without_autocast(like: Tensor) -> torch.autocast:
    """A context in which autocast is off on the device of `like`."""
    return torch.autocast(like.device.type, enabled=False)


@contextmanager
def constants() -> Iterator[None]:
    """A context whose results have no graph; what follows is as if it had not been.

    Up to torch 2.10 autocast keeps the copies of weights that it casts here, and hands them, which
    have no graph either, to the next pass of the same network: it learns nothing through them.
    """
    with torch.no_grad():
        yield
    torch.clear_autocast_cache()


def widened(x: Tensor) -> Tensor:
    """A 16-bit tensor as float32; float32 and float64 as they are.

    >>> widened(torch.ones(1, dtype=torch.bfloat16)).dtype
    torch.float32
    >>> widened(torch.ones(1, dtype=torch.float64)).dtype
    torch.float64
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def unit_rows(x: Tensor) -> Tensor:
    """Scale the last axis to unit length: x / (||x|| + 1e-7).

    A row much shorter than 1e-7 stays near zero instead of being blown up; its gradient is finite.

    Args:
        x: any shape; receives the gradient. 16-bit inputs come back in float32.

    >>> unit_rows(torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """
    with without_autocast(x):
        x = widened(x)
        length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x / (length + NORM_EPSILON)
