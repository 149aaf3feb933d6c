"""Every random number of a run is a function of its seed and of where it is drawn.

No state of a random generator is ever saved: the draws of step s are made by a generator seeded
from (seed, s), those of a file's augmentation from (seed, epoch, index). A run that was killed and
resumed therefore draws the same numbers as one that was not.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

import torch
from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from a list of numbers and names, the same on every machine.

    >>> derive_seed(0, "order", 3) == derive_seed(0, "order", 3)
    True
    >>> derive_seed(0, "order", 3) == derive_seed(0, "order", 4)
    False
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def sent(numbers: Tensor, to: torch.device | Tensor) -> Tensor:
    """Numbers of the host on a device, without waiting until they are there.

    A GPU fetches them by itself from pinned memory, and from no other.

    Args:
        numbers: anywhere.
        to: the device, or a tensor whose device and type they are to have.

    >>> sent(torch.ones(2), torch.zeros(1, dtype=torch.float64))
    tensor([1., 1.], dtype=torch.float64)
    """
    device = to.device if isinstance(to, Tensor) else to
    if numbers.device.type == "cpu" and device.type == "cuda":
        numbers = numbers.pin_memory().to(device, non_blocking=True)
    return numbers.to(to)


class Draws(Protocol):
    """The random choices of one training step. A test passes its own to pin them.

    All processes of a run make the same choices, so N processes with a batch of b images do what
    one process does with a batch of N * b.
    """

    def places(self, num_positions: int, num_patches: int) -> Tensor:
        """Distinct positions y * W + x of a map, int64 [K], K = min(num_patches, num_positions)."""
        ...

    def coin(self) -> bool:
        """True with probability one half."""
        ...

    def integer(self, below: int) -> int:
        """One of 0, 1, ..., below - 1, each as likely."""
        ...

    def normal(self, *shape: int) -> Tensor:
        """Independent standard normal numbers, float32 on the CPU."""
        ...

    def normal_rows(self, num_images: int, *shape: int) -> Tensor:
        """Standard normal numbers for each image of this process, [num_images, *shape].

        They are this process's rows of one draw for the whole batch.
        """
        ...

    def uniform(self, *shape: int) -> Tensor:
        """Independent numbers between 0 and 1, float32 on the CPU."""
        ...

    def uniform_rows(self, num_images: int, *shape: int) -> Tensor:
        """Numbers between 0 and 1 for each image of this process, [num_images, *shape].

        They are this process's rows of one draw for the whole batch.
        """
        ...

    def order_rows(self, num_images: int, length: int) -> Tensor:
        """An order of 0, ..., length - 1 for each image of this process, [num_images, length].

        They are this process's rows of those drawn for the whole batch.
        """
        ...


class SeededDraws:
    """`Draws` from a generator that belongs to one step."""

    def __init__(self, seed: int, step: int, *, rank: int = 0, world_size: int = 1) -> None:
        self._rank, self._world_size = rank, world_size
        self._generator = torch.Generator().manual_seed(derive_seed(seed, "step", step))

    def places(self, num_positions: int, num_patches: int) -> Tensor:
        """See `Draws.places`.

        >>> sorted(SeededDraws(0, 0).places(4, 256).tolist())
        [0, 1, 2, 3]
        """
        return torch.randperm(num_positions, generator=self._generator)[:num_patches]

    def coin(self) -> bool:
        """See `Draws.coin`."""
        return bool(torch.rand((), generator=self._generator) < 0.5)

    def integer(self, below: int) -> int:
        """See `Draws.integer`.

        >>> draws = SeededDraws(0, 0)
        >>> sorted({draws.integer(3) for _ in range(50)})
        [0, 1, 2]
        """
        return int(torch.randint(below, (), generator=self._generator))

    def normal(self, *shape: int) -> Tensor:
        """See `Draws.normal`.

        >>> SeededDraws(0, 0).normal(2, 3).shape
        torch.Size([2, 3])
        """
        return torch.randn(shape, generator=self._generator)

    def normal_rows(self, num_images: int, *shape: int) -> Tensor:
        """See `Draws.normal_rows`.

        >>> whole = SeededDraws(0, 0).normal_rows(4, 3)
        >>> second = SeededDraws(0, 0, rank=1, world_size=2).normal_rows(2, 3)
        >>> torch.equal(second, whole[1::2])
        True
        """
        return self._own_rows(self.normal(self._world_size * num_images, *shape))

    def uniform(self, *shape: int) -> Tensor:
        """See `Draws.uniform`.

        >>> draws_U = SeededDraws(0, 0).uniform(100)
        >>> bool((draws_U >= 0).all() and (draws_U < 1).all())
        True
        """
        return torch.rand(shape, generator=self._generator)

    def uniform_rows(self, num_images: int, *shape: int) -> Tensor:
        """See `Draws.uniform_rows`.

        >>> whole = SeededDraws(0, 0).uniform_rows(4, 3)
        >>> second = SeededDraws(0, 0, rank=1, world_size=2).uniform_rows(2, 3)
        >>> torch.equal(second, whole[1::2])
        True
        """
        return self._own_rows(self.uniform(self._world_size * num_images, *shape))

    def order_rows(self, num_images: int, length: int) -> Tensor:
        """See `Draws.order_rows`.

        >>> whole = SeededDraws(0, 0).order_rows(4, 3)
        >>> second = SeededDraws(0, 0, rank=1, world_size=2).order_rows(2, 3)
        >>> torch.equal(second, whole[1::2]), whole.sort().values[3]
        (True, tensor([0, 1, 2]))
        """
        orders = [self.places(length, length) for _ in range(self._world_size * num_images)]
        return self._own_rows(torch.stack(orders))

    def _own_rows(self, rows: Tensor) -> Tensor:
        return rows[self._rank :: self._world_size]  # processes take turns in the batch
