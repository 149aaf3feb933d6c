"""What the processes of a run tell each other. With one process nothing is said."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from patchkin.errors import PatchkinError
from patchkin.training.fabric import Fabric


def mean_over_processes(fabric: Fabric, tensor: Tensor) -> Tensor:
    """The mean of each process's tensor, without graph."""
    if fabric.world_size == 1:
        return tensor.detach()
    reduced = fabric.all_reduce(tensor.detach().clone(), reduce_op="mean")
    assert isinstance(reduced, Tensor)
    return reduced


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
        raise problem


def whole_batch(fabric: Fabric, tensor: Tensor) -> Tensor:
    """Rows of all processes in the order of the whole batch: process r has rows r, r + N, ..."""
    if fabric.world_size == 1:
        return tensor
    gathered = fabric.all_gather(tensor)
    assert isinstance(gathered, Tensor)
    return gathered.transpose(0, 1).flatten(0, 1)
