"""What several tests need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from patchkin.data.datasets import UnpairedBatch
from patchkin.data.domains import DomainBatch
from patchkin.training.fabric import Fabric


class FixedDraws:
    """`Draws` that hands out what a test wrote down, in order."""

    def __init__(
        self,
        places: Sequence[Tensor] = (),
        coins: Sequence[bool] = (),
        integers: Sequence[int] = (),
        normals: Sequence[Tensor] = (),
        uniforms: Sequence[Tensor] = (),
    ) -> None:
        self._places = iter(places)
        self._coins = iter(coins)
        self._integers = iter(integers)
        self._normals = iter(normals)
        self._uniforms = iter(uniforms)

    def places(self, num_positions: int, num_patches: int) -> Tensor:
        """The next places; they must fit the map."""
        places_K = next(self._places)
        assert len(places_K) == min(num_positions, num_patches)
        assert int(places_K.max()) < num_positions
        return places_K

    def coin(self) -> bool:
        """The next coin."""
        return next(self._coins)

    def integer(self, below: int) -> int:
        """The next integer; it must be in range."""
        integer = next(self._integers)
        assert 0 <= integer < below
        return integer

    def normal(self, *shape: int) -> Tensor:
        """The next normal numbers; a file may have them for each image, in front of `shape`."""
        numbers = next(self._normals)
        assert tuple(numbers.shape[-len(shape) :]) == shape
        return numbers

    def normal_rows(self, num_images: int, *shape: int) -> Tensor:
        """The next normal numbers."""
        return self.normal(num_images, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """The next uniform numbers."""
        numbers = next(self._uniforms)
        assert tuple(numbers.shape) == shape
        return numbers

    def uniform_rows(self, num_images: int, *shape: int) -> Tensor:
        """The next uniform numbers."""
        return self.uniform(num_images, *shape)

    def order_rows(self, num_images: int, length: int) -> Tensor:
        """The next places, for each image."""
        return torch.stack([self.places(length, length) for _ in range(num_images)])


def one_process(device: str, precision: str = "32-true") -> Fabric:
    """One process on a device."""
    return Fabric(accelerator=device, devices=1, precision=precision)


def cpu_fabric(precision: str = "32-true") -> Fabric:
    """One process on the CPU."""
    return one_process("cpu", precision)


def random_batch(
    num_images: int = 1,
    *,
    size: tuple[int, int] = (32, 32),
    channels: tuple[int, int] = (3, 3),
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> UnpairedBatch:
    """Smooth random images in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)

    def images(number: int) -> Tensor:
        noise = torch.rand(num_images, number, *size, generator=generator, dtype=torch.float64)
        return (noise * 2 - 1).to(dtype)

    return UnpairedBatch(images(channels[0]), images(channels[1]))


def random_domain_batch(
    num_images: int = 1,
    *,
    domains: int = 2,
    size: tuple[int, int] = (32, 32),
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> DomainBatch:
    """Random images in [-1, 1] of all domains in turn, each with references of the next one."""
    rows = [
        random_batch(num_images, size=size, seed=3 * seed + turn, dtype=dtype).a_BCHW
        for turn in range(3)
    ]
    domain_B = torch.arange(num_images) % domains
    return DomainBatch(rows[0], domain_B, rows[1], rows[2], (domain_B + 1) % domains)


class ListData:
    """A `BatchSource` of batches that a test made."""

    def __init__(self, batches: Sequence[UnpairedBatch], *, steps_per_epoch: int = 2) -> None:
        self._batches = list(batches)
        self.steps_per_epoch = steps_per_epoch

    def batches(self, start_step: int, total_steps: int) -> Iterator[UnpairedBatch]:
        """Round and round."""
        for step in range(start_step, total_steps):
            yield self._batches[step % len(self._batches)]

    def preview_batch(self) -> UnpairedBatch | None:
        """The first one."""
        return self._batches[0]
