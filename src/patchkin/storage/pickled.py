"""The only place that reads a pickle: PyTorch's files of other projects. Nothing in them runs.

torch reads such files with an interpreter of its own that knows tensors and containers only
(`weights_only=True`). Before torch 2.10 that interpreter could be tricked (CVE-2026-24747), so an
older torch reads none.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchkin.errors import CheckpointError
from patchkin.storage.tensor_files import check_is_no_stand_in

SAFE_SINCE = (2, 10)
"""The first torch, major and minor, whose restricted reader has no known hole."""
EXPECTED = "Expected are .pth, .pt or .safetensors with tensors by name."
"""What a message about a file of weights ends with."""
_FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")
_REASON = re.compile(r"WeightsUnpickler error:\s*(.+)")


def read_pickled(path: Path) -> Any:
    """What `torch.save` wrote into a file, of tensors, containers, numbers and text, on the CPU.

    Raises:
        CheckpointError: the file is missing or damaged, holds anything that could run code, or the
            installed torch cannot read it safely. One line.
    """
    if _version() < SAFE_SINCE:
        raise CheckpointError(
            f"`{path}` is not read: torch {torch.__version__} can be made to execute code by such "
            f"files. Update to torch {SAFE_SINCE[0]}.{SAFE_SINCE[1]} or newer, or convert the file "
            "to .safetensors elsewhere."
        )
    if path.is_dir():
        raise CheckpointError(f"`{path}` cannot be read as weights: it is a folder.")
    if not path.is_file():
        raise CheckpointError(f"`{path}`: no such file.")
    try:
        with path.open("rb") as file:
            check_is_no_stand_in(file.read(64))
    except (ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        line = f"`{path}` cannot be read as weights: {reason}. {EXPECTED}"
        raise CheckpointError(line) from error
    try:
        _check_packing(path)
        with warnings.catch_warnings():  # of pickle protocols; what matters is raised
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        forbidden = _FORBIDDEN.search(str(error))
        if forbidden:
            raise CheckpointError(
                f"`{path}` holds more than tensors (`{forbidden[1]}`); such files can run code, so "
                "nothing of it was loaded. Save the state dict alone, with "
                "torch.save(network.state_dict(), FILE)."
            ) from error
        raise _unreadable(path, error) from error


def is_whole(tensor: Tensor) -> bool:
    """Whether a tensor of a file has all its numbers: its shape alone can promise any number.

    >>> is_whole(torch.zeros(2, 3)), is_whole(torch.zeros(1).expand(10**9))
    (True, False)
    """
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        return False
    return tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()


def _check_packing(path: Path) -> None:
    """Torch packs its parts one behind the other, uncompressed; others unpack to any size.

    Raises:
        ValueError: they take more than the file.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as packed:
        if sum(part.file_size for part in packed.infolist()) > path.stat().st_size:
            raise ValueError("its parts are larger than the file")


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    """One line about a file of weights that a parser stumbled over."""
    text = _of_the_disk(error) or str(error).strip() or type(error).__name__
    inner = _REASON.search(text)  # around it torch advises to switch the protection off
    reason = inner[1] if inner else text.splitlines()[0]
    if "weights_only" in reason:
        reason = "not a file that torch.save wrote"
    reason = "".join(letter if letter.isprintable() else " " for letter in reason)
    return CheckpointError(
        f"`{path}` cannot be read as weights ({reason.rstrip('. ')}). Is it damaged "
        f"or not fully downloaded? {EXPECTED}"
    )


def _of_the_disk(error: BaseException | None) -> str | None:
    """What the operating system said, where a parser took a disk that fails for a damaged file."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        error = error.__cause__ or error.__context__
    return None


def _version() -> tuple[int, int]:
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)
