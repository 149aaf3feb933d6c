"""Memory that is left. Imports no torch unless asked about an accelerator."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class TooLargeError(MemoryError):
    """An image that cannot be translated in the room that there is; says why, as a predicate."""


_MEMORY_WORDS = (
    *("not enough memory", "can't allocate memory", "out of memory", "bad alloc"),
    "could not create a primitive",  # oneDNN's convolutions on a CPU
)
_CGROUPS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""Files with the limit and the use of a container, of version 2 and 1."""


def is_memory_trouble(error: BaseException) -> bool:
    """Whether it says that there is not enough memory, on whatever device.

    >>> is_memory_trouble(MemoryError()), is_memory_trouble(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return any(words in text for words in _MEMORY_WORDS)


def free_bytes(device: torch.device | None = None) -> int | None:
    """What a process can still take: of a GPU, or else of the machine, its container and its own
    limit. None where the system does not say.

    A container's use counts files that are only cached, so that there may be more than this.

    Args:
        device: where; the machine unless given.
    """
    if device is not None and device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + kept)
    if device is not None and device.type != "cpu":
        return None
    return min((*_of_machine(), *_of_container(), *_of_process()), default=None)


def _of_machine() -> Iterator[int]:
    """Free, or taken by what can be dropped; elsewhere than on Linux half of all."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024
                return
    with contextlib.suppress(AttributeError, OSError, ValueError):
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _of_container(root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    for folder in (root, root / "memory"):
        for limit, used in _CGROUPS:
            with contextlib.suppress(OSError, ValueError):  # `max` is no number: no limit
                most = int((folder / limit).read_text(encoding="ascii"))
                yield max(most - int((folder / used).read_text(encoding="ascii")), 0)


def _of_process() -> Iterator[int]:
    """Of addresses (`ulimit -v`)."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            yield max(most - pages * os.sysconf("SC_PAGE_SIZE"), 0)


def in_gigabytes(number: float) -> str:
    """For people.

    >>> in_gigabytes(12.34e9), in_gigabytes(3.21e8)
    ('12 GB', '0.3 GB')
    """
    return f"{number / 1e9:.0f} GB" if number >= 9.95e9 else f"{number / 1e9:.1f} GB"
