"""Errors a user can mend: the command line prints them as one line and leaves with exit code 2.

Every message says which thing, what was expected, what came, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class PatchkinError(Exception):
    """Base of every error that a change of input, option or environment mends."""

    told: bool = False
    """Whether another process of the same run says it."""


class ConfigError(PatchkinError, ValueError):
    """An option is unknown, out of range, or does not fit another option."""


class ShapeError(PatchkinError, ValueError):
    """A tensor has a shape that the function cannot take."""


class DataError(PatchkinError, ValueError):
    """An image or a folder of images is missing, broken, or of the wrong kind."""


class CheckpointError(PatchkinError, RuntimeError):
    """A checkpoint is missing, damaged, or belongs to another method or configuration."""


class StorageError(PatchkinError, OSError):
    """A file could not be written; whatever had been saved before is still there."""


class InUseError(StorageError):
    """Another process writes into the folder."""


class DownloadError(PatchkinError, OSError):
    """A file could not be fetched, or what came is not what was asked for."""


class DivergenceError(PatchkinError, ArithmeticError):
    """A term of a loss became NaN or infinite."""


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop, and saved its last step first."""

    def __init__(self, run_dir: Path, step: int) -> None:
        super().__init__(f"step {step} of {run_dir} is saved")
        self.run_dir, self.step = run_dir, step


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the known name nearest to a mistyped one.

    >>> nearest("semantic-relaton", ["cut", "semantic-relation"])
    'Did you mean `semantic-relation`?'
    >>> nearest("zzz", ["cut", "semantic-relation"])
    'Known: cut, semantic-relation.'
    """
    known = sorted(known)
    match = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean `{match[0]}`?" if match else f"Known: {', '.join(known)}."


def missing_extra(what: str, *, package: str, extra: str) -> str:
    """A sentence that says how to get what an extra brings, in a checkout and anywhere else.

    >>> missing_extra("LPIPS", package="torchmetrics", extra="metrics")
    "LPIPS needs torchmetrics: pip install torchmetrics, or in a checkout of patchkin
    pip install -c constraints.txt '.[metrics]'."
    >>> missing_extra("`patchkin train`", package="torch", extra="torch")
    "`patchkin train` needs torch: in a checkout of patchkin
    pip install -c constraints.txt '.[torch]' brings it and all that goes with it."
    """
    if extra == "torch":  # one package of several that are needed together
        return (
            f"{what} needs {package}: in a checkout of patchkin "
            "pip install -c constraints.txt '.[torch]' brings it and all that goes with it."
        )
    return (
        f"{what} needs {package}: pip install {package}, or in a checkout of patchkin "
        f"pip install -c constraints.txt '.[{extra}]'."
    )


def check_same_shape(**tensors: Tensor) -> None:
    """Raise `ShapeError` unless all named tensors have one shape.

    >>> import torch
    >>> check_same_shape(a_BKC=torch.zeros(1, 2, 3), b_BKC=torch.zeros(1, 2, 4))
    Traceback (most recent call last):
    patchkin.errors.ShapeError: `a_BKC` and `b_BKC` must have the same shape;
    got (1, 2, 3) and (1, 2, 4).
    """
    shapes = [tuple(tensor.shape) for tensor in tensors.values()]
    if len(set(shapes)) > 1:
        names = " and ".join(f"`{name}`" for name in tensors)
        raise ShapeError(f"{names} must have the same shape; got {' and '.join(map(str, shapes))}.")
