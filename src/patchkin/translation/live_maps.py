"""What memory a computation holds, and how to put it away for a while.

Shape suffixes: none; maps of any shape.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from patchkin.errors import ConfigError
from patchkin.translation.memory import TooLargeError


class LiveMaps(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Knows the memory of all tensors that were made inside and are still there.

    >>> with LiveMaps() as live:
    ...     kept = torch.zeros(10)
    ...     kept = (kept + 1).exp()
    >>> sum(storage.nbytes() for storage in live.storages()), live.peak
    (40, 120)
    """

    def __init__(self, compute: ThreadPoolExecutor | None = None) -> None:
        """Everything is computed by the thread of `compute`, if one is given: it has the cores."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        """The most bytes that were there at once; not counted with `compute`."""
        self._compute = compute
        self._own = WeakTensorKeyDictionary()
        self._keeps_track = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        borrowed = {_address(tensor) for tensor in given if tensor not in self._own}
        if any(tensor.numel() and not tensor.untyped_storage().nbytes() for tensor in given):
            raise ConfigError(
                "This model keeps maps of one image for the next, so the parts of an image cannot "
                "share its norms; use --tile-norm tile."
            )
        if self._compute is None:
            result = func(*args, **(kwargs or {}))
        else:
            keys = torch._C._dispatch_tls_local_include_set(), _excluded()
            result = self._compute.submit(_computed, func, args, kwargs or {}, keys).result()
        for leaf in tree_leaves(result):
            is_own = isinstance(leaf, Tensor) and _address(leaf) not in borrowed
            if is_own and self._keeps_track:
                self._own[leaf] = None
        if self._compute is None:
            self.peak = max(self.peak, sum(storage.nbytes() for storage in self.storages()))
        return result

    def storages(self) -> list[torch.UntypedStorage]:
        """What there is, each once."""
        return list({_address(tensor): tensor.untyped_storage() for tensor in self._own}.values())

    @contextmanager
    def for_all(self) -> Iterator[None]:
        """What is made inside belongs to all parts."""
        self._keeps_track = False
        try:
            yield
        finally:
            self._keeps_track = True

    def put_away(self, file: Path, most: int) -> list[_Stored]:
        """Write to a file what the part holds, if that is more than `most` bytes.

        Raises:
            TooLargeError: it cannot be written.
        """
        stored = [_Stored(each) for each in self.storages() if each.resizable()]
        if sum(each.size for each in stored) <= most:
            return []
        try:
            with file.open("wb") as out:
                for each in stored:
                    each.write(out)
        except OSError as error:
            raise TooLargeError(
                f"needs more room for temporary files than `{file.parent.parent}` has "
                f"({error.strerror or error}); TMPDIR names another folder, and --tile-norm tile "
                "needs none"
            ) from error
        for each in stored:
            each.storage.resize_(0)
        return stored

    def take_back(self, file: Path, stored: list[_Stored]) -> None:
        """The opposite."""
        if not stored:
            return
        with file.open("rb") as source:
            for each in stored:
                each.read(source)
        file.unlink()


def _excluded() -> Any:
    return torch._C._dispatch_tls_local_exclude_set()


def _computed(func: Any, args: Any, kwargs: Any, keys: Any) -> Any:
    """In the state of the thread that asks, which autograd has been through."""
    with torch._C._ForceDispatchKeyGuard(*keys):
        return func(*args, **kwargs)


class _Stored:
    """The memory of tensors."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.storage = storage
        self.size = storage.nbytes()

    def write(self, out: BinaryIO) -> None:
        """To a file."""
        is_host = self.storage.device.type == "cpu"
        host = self.storage if is_host else self.storage.cpu()  # type: ignore[no-untyped-call]
        out.write((ctypes.c_char * self.size).from_address(host.data_ptr()))

    def read(self, source: BinaryIO) -> None:
        """Back from it."""
        self.storage.resize_(self.size)
        is_host = self.storage.device.type == "cpu"
        host = (
            self.storage if is_host else torch.empty(self.size, dtype=torch.uint8).untyped_storage()
        )
        source.readinto((ctypes.c_char * self.size).from_address(host.data_ptr()))  # type: ignore[attr-defined]
        if not is_host:
            self.storage.copy_(host)


def _address(tensor: Tensor) -> int:
    """Tells memory apart, also where none is taken."""
    return int(tensor.untyped_storage()._cdata)
