"""Lightning Fabric, without what it imports to ask for a version.

On import, Fabric wants to know the version of torchmetrics and imports it whole, and with it
torchvision, SciPy and Matplotlib: seconds, and 0.1 GB of memory in every process. It does well
without the answer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _absent(package: str) -> Iterator[None]:
    """Importing a package fails, unless it was imported before."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


with _absent("torchmetrics"):
    from lightning_fabric import Fabric

__all__ = ["Fabric"]
