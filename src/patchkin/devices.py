"""Where to compute, and in which precision.

torch is imported by the functions that need it: the names of devices are needed without it too.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from patchkin.errors import ConfigError

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["32-true", "tf32", "bf16-mixed", "16-mixed"]
"""Of the networks. Weights, losses and optimizers are float32 always. `32-true` is IEEE float32;
`tf32` rounds the factors of convolutions and products to 10 bits, which is faster on a GPU."""


def choose_device(device: Device) -> torch.device:
    """The device of a name; `auto` takes an accelerator if there is one.

    Raises:
        ConfigError: the machine does not have it.

    >>> choose_device("cpu")
    device(type='cpu')
    """
    import torch

    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    if not available[device]:
        raise ConfigError(f"--device {device}: this machine has none. Use --device cpu.")
    return torch.device(device)


def take_accelerator(device: Device, number: int, precision: Precision = "32-true") -> None:
    """Let process `number` of this machine, from 0, use an accelerator of its own.

    With more processes than GPUs they share. On other devices there is nothing to take.

    Raises:
        ConfigError: the machine does not have the device.
    """
    import torch

    set_float32(precision)
    if choose_device(device).type == "cuda":
        torch.cuda.set_device(number % torch.cuda.device_count())


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """The type that networks compute in; None for that of the weights.

    Raises:
        ConfigError: the device cannot compute in it.
    """
    import torch

    if precision == "16-mixed" and device.type == "cpu":
        raise ConfigError("--precision 16-mixed needs a GPU. Use bf16-mixed or 32-true.")
    if precision == "tf32" and device.type != "cuda":
        raise ConfigError("--precision tf32 needs an NVIDIA GPU. Use 32-true or bf16-mixed.")
    return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)


def set_float32(precision: Precision) -> None:
    """Let float32 on GPUs be what the precision says, in this process.

    torch's own default computes convolutions in TF32 and products of matrices in IEEE float32.

    >>> import torch
    >>> set_float32("32-true")
    >>> torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    (False, False)
    """
    import torch

    # The newer `fp32_precision` leaves torch's own exporter and compiler behind: they read these.
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def set_deterministic(wanted: bool) -> None:
    """Let every operation of this process give equal bits on equal inputs and equal machines.

    Operations that cannot raise. On a CPU all of ours can, and nothing gets slower.
    """
    import torch

    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its start
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.benchmark = False


def peak_memory_bytes(device: torch.device) -> int | None:
    """The most memory that this process has held: of a GPU, or else of the machine.

    None where the operating system does not say, as Windows.
    """
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with contextlib.suppress(OSError, IndexError, ValueError):
        # Linux lets a process begin with the `ru_maxrss` of the one that started it.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    try:
        import resource
    except ModuleNotFoundError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, the others KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_name(device: torch.device) -> str:
    """A device for people: its kind, and what it is called as far as the system says.

    >>> import torch
    >>> device_name(torch.device("meta"))
    'meta'
    """
    import torch

    name = ""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        threads = torch.get_num_threads()
        name = f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"
    return f"{device.type} ({name})" if name else device.type


def _processor() -> str:
    """The name of the processor; Python knows it on few systems."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_MMAP_THRESHOLD, _LARGE_BYTES = -3, 1 << 20  # M_MMAP_THRESHOLD of malloc.h
"""Parameters of glibc's `mallopt`."""
_MMAP_USUAL = 1 << 16
"""Its own number of mapped blocks."""


def keep_freed_memory() -> bool:
    """Let the C library keep what this process frees, instead of returning it to the system.

    glibc maps every large block anew and unmaps it when freed, so that each map of a network costs
    page faults: a fifth to a quarter of a training step on a CPU (`benchmarks/speed`). Held back,
    the memory is reused at once; the process stays as large as it was at its peak. Elsewhere than
    with glibc nothing is done.

    Returns:
        Whether the C library could be told.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))


def return_freed_memory() -> bool:
    """Let the C library return every large block that this process frees to the system at once.

    glibc learns to keep blocks of up to 32 MB, and large images one after another then leave gaps
    that the next one does not fit into. What it keeps so far, such as what decoding an image took,
    is returned too. The opposite of `keep_freed_memory`, for work that should stay small. Elsewhere
    than with glibc nothing is done.

    Returns:
        Whether the C library could be told.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    library.mallopt(_MMAP_MAX, _MMAP_USUAL)
    library.mallopt(_TRIM_THRESHOLD, _LARGE_BYTES)
    told = bool(library.mallopt(_MMAP_THRESHOLD, _LARGE_BYTES))
    library.malloc_trim(0)
    return told
