"""Training steps with compiled networks (`--compile`), replayed as CUDA graphs (`--cuda-graphs`).

What is compiled are the entry points of each network, forward and backward; the method's own order,
its draws, losses and schedules stay as they are. The compiled entry points stand on the instances
during a step only: state dicts, averages, previews and scores see the networks of the method.

Whatever goes wrong, nothing is lost. A step is a function of the state, the batch and its number,
so in the steps in which something may have to be compiled the state before is kept; a step that
fails is done again from there without the compiler, and so are all later ones.
"""

from __future__ import annotations

import copy
import functools
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from patchkin.errors import PatchkinError
from patchkin.method import Method
from patchkin.training.config import TrainingConfig
from patchkin.training.updater import Updater

ENTRY_POINTS = (
    "forward", "forward_with_taps", "encode", "decode", "encodings", "decoded",
)  # fmt: skip
"""What methods call of their networks. A function under another name is not compiled."""

TRIAL_STEPS = 32
"""The first steps of a process, in which the shapes and branches that come up are compiled: enough
to meet what a coin decides (FastCUT's flip) and what is due every 16 steps (the lazy gradient
penalty). What comes up later runs as it is, so that no run compiles for ever."""

_LOGGERS = ("torch._dynamo", "torch._functorch", "torch._inductor", "torch.utils.cpp_extension")

Function = Callable[..., Any]


class CompiledSteps:
    """Runs training steps, with compiled networks where that was asked for and works.

    With several processes the compiler must fail in all of them or in none, as it does on machines
    of one kind: a step that only one of them repeats would not meet the others.

    Args:
        method: in the middle of a run; its networks are not changed.
        updater: of the method; its optimizers and scaler are part of the state.
        training: `compile` and `cuda_graphs`.
        device: where the method computes.
        say: takes the one line that says why there is no compiled code.
        trial_steps: as `TRIAL_STEPS`.
    """

    def __init__(
        self,
        method: Method,
        updater: Updater,
        training: TrainingConfig,
        device: torch.device,
        *,
        say: Callable[[str], None],
        trial_steps: int = TRIAL_STEPS,
    ) -> None:
        self._method = method
        self._updater = updater
        self._say = say
        self._trial_steps = trial_steps
        self._cuda_graphs = training.cuda_graphs and device.type == "cuda"
        if training.cuda_graphs and not self._cuda_graphs:
            say(f"--cuda-graphs: the device is {device.type}, not cuda; training goes on without.")
        self._entries: list[tuple[nn.Module, str, Function]] = []
        if training.compile or self._cuda_graphs:
            _quiet()
            self._entries = list(_entries(method, compiler(cuda_graphs=self._cuda_graphs)))

    @property
    def active(self) -> bool:
        """Whether the next step runs compiled code."""
        return bool(self._entries)

    def __call__(self, step: Callable[[], None]) -> None:
        """Run a step: a function that does the same again if it is called again.

        Raises:
            Whatever the step raises without compiled code.
        """
        if not self.active:
            step()
        elif self._trial_steps > 0:
            self._trial_steps -= 1
            self._try(step)
        else:
            with torch.compiler.set_stance("eager_on_recompile"), self._compiled():
                step()

    def _try(self, step: Callable[[], None]) -> None:
        before = _State(self._method, self._updater)
        try:
            with self._compiled():
                step()
        except PatchkinError:
            raise
        except Exception as error:  # noqa: BLE001 - the step alone shows whose fault it is
            reason = _reason(error)
        else:
            return
        self._entries.clear()
        before.restore()
        step()  # where this fails too, the compiler was not at fault
        self._say(f"--compile: {reason} Training goes on uncompiled; no step is lost.")

    @contextmanager
    def _compiled(self) -> Iterator[None]:
        if self._cuda_graphs:
            # Else the replays of one update could overwrite maps that the next one still needs.
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        entries = list(self._entries)
        for network, name, function in entries:
            vars(network)[name] = function
        try:
            yield
        finally:
            for network, name, _ in entries:
                del vars(network)[name]


def compiler(*, cuda_graphs: bool) -> Callable[[Function], Function]:
    """What compiles one function, for fixed shapes: networks see few, and each pays by itself.

    Dropout draws the numbers that it draws uncompiled.
    """
    options = {"fallback_random": True, "triton.cudagraphs": cuda_graphs}
    return functools.partial(torch.compile, dynamic=False, options=options)


class _State:
    """Everything that a step changes, as it was."""

    def __init__(self, method: Method, updater: Updater) -> None:
        self._updater = updater
        self._tensors = [(t, t.detach().clone()) for t in (*method.parameters(), *method.buffers())]
        self._optimizers = {
            name: copy.deepcopy(optimizer.state_dict())
            for name, optimizer in updater.optimizers.items()
        }
        self._scaler = None if updater.scaler is None else updater.scaler.state_dict()

    @torch.no_grad()
    def restore(self) -> None:
        for tensor, value in self._tensors:
            tensor.copy_(value)
        for name, optimizer in self._updater.optimizers.items():
            optimizer.load_state_dict(self._optimizers[name])
        if self._scaler is not None:
            self._updater.scaler.load_state_dict(self._scaler)


def _entries(
    method: Method, compile_: Callable[[Function], Function]
) -> Iterator[tuple[nn.Module, str, Function]]:
    """The entry points of networks with weights: an image pool, say, only moves images about."""
    for network in method.children():
        if not any(True for _ in network.parameters()):
            continue
        for name in ENTRY_POINTS:
            if callable(getattr(type(network), name, None)):  # and not an inner network
                function = getattr(network, name)
                yield network, name, _unless_differentiated_twice(function, compile_(function))


def _unless_differentiated_twice(function: Function, compiled: Function) -> Function:
    """Compiled code but for gradient penalties, whose backward pass torch cannot differentiate."""

    @functools.wraps(function)
    def entry(*arguments: Any, **named: Any) -> Any:
        given = (*arguments, *named.values())
        if torch.compiler.is_compiling() or any(_leads_to_images(value) for value in given):
            return function(*arguments, **named)
        return compiled(*arguments, **named)

    return entry


def _leads_to_images(value: Any) -> bool:
    """Whether the gradient of a tensor goes to one that is no weight, as that of a penalty does."""
    if not isinstance(value, Tensor) or not value.requires_grad:
        return False
    if value.grad_fn is None:
        return not isinstance(value, nn.Parameter)
    nodes, seen = [value.grad_fn], {value.grad_fn}
    while nodes:
        node = nodes.pop()
        leaf = getattr(node, "variable", None)
        if leaf is not None and not isinstance(leaf, nn.Parameter):
            return True
        following = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= following
        nodes.extend(following)
    return False


def _reason(error: Exception) -> str:
    """What the compiler says, in one line."""
    error = getattr(error, "inner_exception", error)
    lines: Iterable[str] = (line.strip() for line in str(error).splitlines())
    first = next((line for line in lines if line), "no message")
    return f"{type(error).__name__}: {first.rstrip('.')}."


def _quiet() -> None:
    """The compiler's own warnings, unless they were asked for: one line says what counts."""
    if "TORCH_LOGS" not in os.environ:
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
