"""Safetensors files of anybody: what they hold is known before anything is allocated.

The library checks that the tensors lie in the file, one behind the other without gaps. What it
leaves open is checked here: the size of the table of contents, and that what it says is text.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from patchkin.errors import CheckpointError, PatchkinError

MOST_CONTENTS_BYTES = 16 << 20
"""Largest table of contents that is read. A model of a thousand tensors has 0.1 MB."""
_LENGTH_BYTES = 8
_WEB_PAGE = (b"<!doctype", b"<html", b"<head", b"<?xml")
_POINTER = b"version https://git-lfs"
_OF_TORCH = (b"PK\x03\x04", b"\x80\x02")
"""Beginnings of what `torch.save` and `torch.export.save` write."""
_TYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


def printable(text: str, limit: int = 160) -> str:
    r"""What of a file's text may reach a terminal.

    >>> printable("two\x1b[2J lines\nhere")
    'two[2J lineshere'
    """
    return "".join(filter(str.isprintable, text[: 4 * limit]))[:limit]


@dataclass(frozen=True, kw_only=True)
class TensorFile:
    """An open file."""

    path: Path
    metadata: Mapping[str, str]
    outlines: Mapping[str, Tensor]
    """Its tensors without numbers (on torch's `meta` device), by name."""
    file: Any
    """The library's handle."""

    def read(self, name: str) -> Tensor:
        """A tensor, on the CPU; its memory is the file's until it is written to."""
        tensor: Tensor = self.file.get_tensor(name)
        return tensor


@contextmanager
def open_tensors(path: Path, *, as_what: str = "a model", advice: str = "") -> Iterator[TensorFile]:
    """A safetensors file, open until the end of the block.

    Args:
        path: the file.
        as_what: what it should be, for the message.
        advice: a sentence at the end of the message.

    Raises:
        CheckpointError: it cannot be read, or a part of it in the block. One line.
    """
    try:
        _check_beginning(path)
        with _opened(path) as file:
            yield TensorFile(
                path=path,
                metadata=file.metadata() or {},
                outlines={name: _outline(file, name) for name in file.keys()},  # noqa: SIM118
                file=file,
            )
    except PatchkinError:
        raise
    except (SafetensorError, OSError, MemoryError, RuntimeError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        line = f"`{path}` cannot be read as {as_what}: {printable(reason.rstrip('. '))}. {advice}"
        raise CheckpointError(line.strip()) from error


def _opened(path: Path) -> Any:
    """The library's handle. Of any trouble with opening it says that no file is there: the system
    is asked again, for its own word.
    """
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        with path.open("rb"):
            return safe_open(path, framework="pt")


def _check_beginning(path: Path) -> None:
    """Of a file: a length, and a table of contents of that length.

    Raises:
        ValueError: it has none.
    """
    with path.open("rb") as file:
        beginning = file.read(64)
        held = os.fstat(file.fileno()).st_size
    if not beginning:
        raise ValueError("the file is empty")
    check_is_no_stand_in(beginning)
    if path.suffix.lower() == ".onnx":
        raise ValueError("it is an exported model, and this wants the run or the .safetensors file")
    if beginning.startswith(_OF_TORCH):
        raise ValueError(
            "it is a file of torch. `patchkin import-weights` makes a model of those of other "
            "projects; a .pt2 file is for `torch.export.load`"
        )
    length = int.from_bytes(beginning[:_LENGTH_BYTES], "little")
    if len(beginning) <= _LENGTH_BYTES or length > held - _LENGTH_BYTES:
        raise ValueError("it is no safetensors file, or was not downloaded to its end")
    if length > MOST_CONTENTS_BYTES:
        raise ValueError(
            f"its table of contents has {length / (1 << 20):.0f} MiB; at most "
            f"{MOST_CONTENTS_BYTES >> 20} MiB are read"
        )


def check_is_no_stand_in(beginning: bytes) -> None:
    """Of a file of weights: what is often saved in its place.

    Raises:
        ValueError: it is a web page, or a pointer of Git LFS.

    >>> check_is_no_stand_in(b"<!DOCTYPE html>")
    Traceback (most recent call last):
    ValueError: it is a web page. Download the file itself, not the page that shows it
    """
    text = beginning.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if text.startswith(_WEB_PAGE):
        raise ValueError("it is a web page. Download the file itself, not the page that shows it")
    if text.startswith(_POINTER):
        raise ValueError("it is a pointer of Git LFS. Fetch the file itself with `git lfs pull`")


def _outline(file: Any, name: str) -> Tensor:
    told = file.get_slice(name)
    dtype = _TYPES.get(told.get_dtype())
    if dtype is None:
        raise ValueError(f"the tensor `{name}` has the type {told.get_dtype()}")
    return torch.empty(told.get_shape(), dtype=dtype, device="meta")
