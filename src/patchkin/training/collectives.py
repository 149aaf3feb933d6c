"""What the processes of a run tell each other. With one process nothing is said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from patchkin.errors import PatchkinError
from patchkin.training.fabric import Fabric

Batch = TypeVar("Batch", bound=Any)


def mean_over_processes(fabric: Fabric, tensor: Tensor) -> Tensor:
    """The mean of each process's tensor, without graph."""
    if fabric.world_size == 1:
        return tensor.detach()
    total = tensor.detach().to(fabric.device, copy=True).contiguous()
    torch.distributed.all_reduce(total)  # Fabric's lets all wait for each other before it begins
    return total.div_(fabric.world_size)


@torch.no_grad()
def take_from_first(fabric: Fabric, tensors: Iterable[Tensor]) -> None:
    """Give the tensors of all processes the numbers of the first one's, one after the other."""
    if fabric.world_size == 1:
        return
    for tensor in tensors:
        sent = tensor.clone(memory_format=torch.contiguous_format)
        torch.distributed.broadcast(sent, src=0)
        tensor.copy_(sent)


def any_process(fabric: Fabric, flag: bool) -> bool:
    """Whether the flag is up in one of them."""
    return bool(mean_over_processes(fabric, torch.tensor(float(flag))) > 0)


def by_first_process(fabric: Fabric, act: Callable[[], object]) -> None:
    """Let the first process act on files that all share; all learn whether it went well.

    Raises:
        PatchkinError: what the first process raised, in all of them. None is left waiting.
    """
    problem: PatchkinError | None = None
    if fabric.is_global_zero:
        try:
            act()
        except PatchkinError as error:
            problem = error
    if fabric.world_size > 1:
        problem = fabric.broadcast(problem)
    if problem is not None:
        problem.told = not fabric.is_global_zero
        raise problem


def whole_batch(fabric: Fabric, tensor: Tensor) -> Tensor:
    """Rows of all processes in the order of the whole batch: process r has rows r, r + N, ..."""
    if fabric.world_size == 1:
        return tensor
    gathered = fabric.all_gather(tensor.detach())
    assert isinstance(gathered, Tensor)
    return gathered.transpose(0, 1).flatten(0, 1)


def batch_of_all(fabric: Fabric, batch: Batch) -> Batch:
    """A batch (a dataclass of tensors, and names) with the images of all processes, unnamed."""
    if fabric.world_size == 1:
        return batch
    parts = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return replace(
        batch,
        **{
            name: whole_batch(fabric, part) if isinstance(part, Tensor) else type(part)()
            for name, part in parts.items()
        },
    )


def whole_batch_with_graph(fabric: Fabric, tensor: Tensor) -> Tensor:
    """`whole_batch` for losses over the whole batch, which every process then computes.

    Only the rows of this process have a graph, whose gradient counts once for each process: the
    mean over processes of the gradients is that of one process with all rows.
    """
    if fabric.world_size == 1:
        return tensor
    gathered = fabric.all_gather(tensor.detach())
    assert isinstance(gathered, Tensor)
    rows = list(gathered)
    rows[fabric.global_rank] = _learning(tensor, fabric.world_size)
    return torch.stack(rows, dim=1).flatten(0, 1)


class SharingProcesses:
    """The processes of a run as layers see them: `networks.whole_batch.Processes`."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._devices = [fabric.device] if fabric.device.type == "cuda" else []
        self._seed = 0
        self._states: list[Tensor] | None = None

    @property
    def rank(self) -> int:
        """Of this one."""
        return self._fabric.global_rank

    @property
    def count(self) -> int:
        """Of all."""
        return self._fabric.world_size

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over processes. Its gradient is the sum of the gradients of all of them."""
        total: Tensor = _Total.apply(tensor, self._fabric)
        return total

    def seed(self, seed: int) -> None:
        """Start the numbers that all draw alike, such as at the beginning of a step."""
        self._seed, self._states = seed, None

    @contextmanager
    def drawing_alike(self) -> Iterator[None]:
        """Numbers of one stream in all processes; the generators' own go on behind the block."""
        with torch.random.fork_rng(self._devices):
            if self._states is None:
                torch.manual_seed(self._seed)
            else:
                torch.set_rng_state(self._states[0])
                for device, state in zip(self._devices, self._states[1:], strict=True):
                    torch.cuda.set_rng_state(state, device)
            yield
            on_devices = [torch.cuda.get_rng_state(device) for device in self._devices]
            self._states = [torch.get_rng_state(), *on_devices]


class _Total(torch.autograd.Function):
    """The sum of all processes' tensors, to any order of derivatives."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, fabric: Fabric) -> Tensor:
        ctx.fabric = fabric
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        if fabric.world_size > 1:
            torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Total.apply(gradients[0], ctx.fabric), None


def _learning(tensor: Tensor, times: int) -> Tensor:
    """The same numbers, with a gradient that many times as large."""
    same = tensor.view_as(tensor)
    if same.requires_grad:
        same.register_hook(lambda gradient: gradient * times)  # type: ignore[no-untyped-call]
    return same
