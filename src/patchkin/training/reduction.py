"""Gradients averaged over processes, in buckets, while the backward pass goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class _Bucket:
    """Parameters whose gradients are sent together."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.missing = set(parameters)
        self.stale = False
        """A gradient has changed since it was sent."""
        self._sent: list[Tensor] = []
        self._sums: Tensor | None = None
        self._work: Any = None

    def send(self, *more: Tensor) -> None:
        """Begin to add up over processes the gradients that there are, and `more`."""
        self._sent = [p.grad for p in self.parameters if p.grad is not None]
        if not (self._sent or more):
            return
        self._sums = torch.cat([part.detach().flatten() for part in (*self._sent, *more)])
        self._work = torch.distributed.all_reduce(self._sums, async_op=True)
        self.stale = False

    def wait(self) -> None:
        """Until what was sent last has come back."""
        if self._work is not None:
            self._work.wait()

    def take(self, processes: int) -> Tensor:
        """Give the gradients the means over processes; the means of what was sent beside them."""
        if self._sums is None:
            return torch.empty(0)
        self.wait()
        means = self._sums.div_(processes)
        sizes = [gradient.numel() for gradient in self._sent]
        parts: tuple[Tensor, ...] = torch.split(means, [*sizes, means.numel() - sum(sizes)])
        *of_gradients, more = parts
        if self._sent:
            shaped = [m.view_as(g) for m, g in zip(of_gradients, self._sent, strict=True)]
            torch._foreach_copy_(self._sent, shaped)
        return more


class Reduction:
    """The averaging of one update's gradients over all processes.

    Backward passes reach the last layers first, so buckets are filled from the last parameter on. A
    bucket is sent when all its gradients are there and all buckets before it have been sent, so
    that every process sends them in one order. The last one waits for `finish`: nothing is left to
    overlap with, and the sum of the terms goes along with it.

    A gradient that is added to after its bucket was sent (a network that is differentiated a second
    time inside of one backward pass) has its bucket sent again, which the processes must agree on:
    they do if they take the same path through the step.
    """

    bucket_bytes = 8 * 2**20
    """A bucket has at least as many, but the last one."""

    def __init__(self, parameters: Sequence[nn.Parameter], processes: int) -> None:
        """For one update.

        Args:
            parameters: in the order of the forward pass, as far as there is one.
            processes: of the default process group.
        """
        self._processes = processes
        self._buckets = [_Bucket(group) for group in _groups(parameters, self.bucket_bytes)]
        self._bucket_of = {p: bucket for bucket in self._buckets for p in bucket.parameters}
        self._num_sent = 0

    @contextmanager
    def during_backward(self) -> Iterator[None]:
        """Send what is complete while a backward pass goes on: the last one of the update."""
        hooks = [
            p.register_post_accumulate_grad_hook(self._arrived)  # type: ignore[no-untyped-call]
            for p in self._bucket_of
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def finish(self, total: Tensor) -> Tensor:
        """Put the means into all gradients that there are; the mean of `total` (no axis)."""
        for bucket in self._buckets[: self._num_sent]:
            if bucket.stale:
                bucket.wait()
                bucket.send()
        *rest, last = self._buckets[self._num_sent :]
        for bucket in rest:
            bucket.send()
        last.send(total)
        more = [bucket.take(self._processes) for bucket in self._buckets]
        return more[-1].view(())

    def _arrived(self, parameter: nn.Parameter) -> None:
        bucket = self._bucket_of[parameter]
        bucket.stale = True
        bucket.missing.discard(parameter)
        while self._num_sent < len(self._buckets) - 1:
            following = self._buckets[self._num_sent]
            if following.missing:
                return
            following.send()
            self._num_sent += 1


def _groups(parameters: Sequence[nn.Parameter], least: int) -> Iterator[list[nn.Parameter]]:
    """The parameters from the last one on, in lists of at least so many bytes."""
    group: list[nn.Parameter] = []
    for parameter in reversed(parameters):
        group.append(parameter)
        if sum(p.numel() * p.element_size() for p in group) >= least:
            yield group
            group = []
    yield group
