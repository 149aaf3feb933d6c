"""How a batch comes from the process that decoded it: by shared memory, or by a pipe.

Linux keeps shared memory in `/dev/shm`, which in a container of Docker has 64 MB unless asked for
more. A batch that does not fit there is lost on its way, and training would wait for it for ever.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch")

SHARED_MEMORY = Path("/dev/shm")
"""Where Linux keeps it; elsewhere there is no such folder and no such limit."""

_KEPT_FREE = 4
"""The share, one of so many, that is left to others, such as the network between GPUs."""


@dataclass(frozen=True, slots=True)
class Piped(Generic[Batch]):
    """A batch in pieces that are copied through a pipe, for want of shared memory."""

    batch: Batch
    """Its fields, without the tensors."""
    pieces: dict[str, Any]
    """Those, as arrays by name."""
    num_bytes: int
    room_bytes: int
    """All that there is of shared memory."""

    def unpacked(self) -> Batch:
        """The batch as it was."""
        tensors = {name: torch.as_tensor(piece) for name, piece in self.pieces.items()}
        whole: Batch = replace(self.batch, **tensors)  # type: ignore[type-var]
        return whole

    def pin_memory(self) -> Piped[Batch]:
        """In page-locked memory; called by the `DataLoader`."""
        pinned = {name: torch.as_tensor(piece).pin_memory() for name, piece in self.pieces.items()}
        return replace(self, pieces=pinned)

    def reason(self, workers: int, prefetch: int) -> str:
        """Why, in one line.

        >>> Piped(None, {}, num_bytes=6_291_456, room_bytes=64 * 2**20).reason(4, 4)
        '/dev/shm has 64 MB, too little for 4 workers with 4 batches of 6.3 MB each: batches come \
through pipes, a little slower (Docker: --shm-size 1g; or fewer --workers).'
        """
        return (
            f"{SHARED_MEMORY} has {self.room_bytes / 2**20:.0f} MB, too little for {workers} "
            f"workers with {prefetch} batches of {self.num_bytes / 1e6:.1f} MB each: batches come "
            "through pipes, a little slower (Docker: --shm-size 1g; or fewer --workers)."
        )


def shared_or_piped(batch: Batch) -> Batch | Piped[Batch]:
    """The batch in shared memory if there is room, else in pieces.

    Args:
        batch: a dataclass whose tensors are fields; anything else is left as it is.

    >>> from patchkin.data.datasets import UnpairedBatch
    >>> batch = UnpairedBatch(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2))
    >>> shared_or_piped(batch).a_BCHW.is_shared()
    True
    """
    tensors = _tensors(batch)
    if not tensors:
        return batch
    num_bytes = sum(tensor.nbytes for tensor in tensors.values())
    room_bytes, free_bytes = shared_memory_bytes()
    try:
        if free_bytes is not None and free_bytes - num_bytes < room_bytes / _KEPT_FREE:
            raise MemoryError
        for tensor in tensors.values():
            tensor.share_memory_()  # type: ignore[no-untyped-call]
    except (MemoryError, RuntimeError):  # torch's word for a full /dev/shm is RuntimeError
        pieces = {name: tensor.numpy() for name, tensor in tensors.items()}
        without: Batch = replace(batch, **dict.fromkeys(pieces))  # type: ignore[type-var]
        return Piped(without, pieces, num_bytes, room_bytes)
    return batch


def shared_memory_bytes() -> tuple[int, int | None]:
    """All shared memory of this machine, and what is free; 0 and None where nothing limits it."""
    if not SHARED_MEMORY.is_dir():
        return 0, None
    usage = shutil.disk_usage(SHARED_MEMORY)
    return usage.total, usage.free


def _tensors(batch: Any) -> dict[str, Tensor]:
    if not is_dataclass(batch):
        return {}
    values = {entry.name: getattr(batch, entry.name) for entry in fields(batch)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}
