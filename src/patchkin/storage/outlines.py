"""Networks of a file's settings, built and compared with the file before memory is claimed.

A file says how its networks are built, and 1 KB can ask for 29 GB. So they are built on torch's
`meta` device first, where tensors have shapes and no numbers; what has the shapes of the file's
tensors takes as much memory as the file, and is filled from it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.overrides import TorchFunctionMode

from patchkin.errors import CheckpointError, PatchkinError
from patchkin.storage.tensor_files import printable

MOST_PARTS = 10_000
"""Layers and weights of a model that a file may ask for. DRIT's has some 600."""
_FILLING = frozenset(
    ("normal_", "uniform_", "zero_", "fill_", "copy_", "mul_", "div_", "add_", "sub_", "clamp_")
)
_FILLED = frozenset(("randn", "rand"))
_Network = TypeVar("_Network", bound=nn.Module)


def outline(build: Callable[[], _Network], *, source: str) -> _Network:
    """What `build` returns, on the `meta` device.

    Args:
        build: makes a network from what a file says.
        source: the file, for the message.

    Raises:
        CheckpointError: no such network can be built, or it has more than `MOST_PARTS` parts.

    >>> outline(lambda: nn.Linear(10**6, 10**6), source="`m`").weight.shape
    torch.Size([1000000, 1000000])
    >>> outline(lambda: nn.Sequential(*(nn.Linear(1, 1) for _ in range(10**6))), source="`m`")
    Traceback (most recent call last):
    patchkin.errors.CheckpointError: `m` describes no network that can be built: it has more than
    10000 layers and weights.
    """
    try:
        with torch.device("meta"), _Unfilled(), _counted():
            return build()
    except PatchkinError as error:
        raise CheckpointError(f"{source}: {printable(str(error), 400)}") from error
    except Exception as error:  # settings that make no sense can end in anything
        reason = printable(str(error).strip().split("\n")[0] or type(error).__name__)
        raise CheckpointError(
            f"{source} describes no network that can be built: {reason.rstrip('. ')}."
        ) from error


class _Unfilled(TorchFunctionMode):
    """Leaves out the numbers that weights begin with.

    They are not kept, and on the `meta` device the first of them would import a compiler (1 s).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What fills a tensor does nothing, and what makes a filled one makes an empty one."""
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in _FILLING or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if name in _FILLED:
            kwargs.pop("generator", None)
            func = torch.empty
        return func(*args, **kwargs)


@contextmanager
def _counted() -> Iterator[None]:
    """Ends what builds more than `MOST_PARTS` parts: each takes memory on any device."""
    thread, count = threading.get_ident(), 0

    def another(*_: object) -> None:
        nonlocal count
        if threading.get_ident() != thread:
            return
        count += 1
        if count > MOST_PARTS:
            raise ValueError(f"it has more than {MOST_PARTS} layers and weights")

    hooks = [
        torch_module.register_module_parameter_registration_hook(another),
        torch_module.register_module_module_registration_hook(another),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_fit(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], *, source: str
) -> None:
    """Compare tensors with those of a network, by name, shape and kind of number.

    Args:
        expected: `module.state_dict()`.
        tensors: those that it should be given. Numbers are not looked at.
        source: where they are from, for the message.

    Raises:
        CheckpointError: a tensor is missing, unexpected, of another shape or another kind.
    """
    both = [name for name in expected if name in tensors]
    reshaped = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(expected[name].shape)}"
        for name in both
        if tensors[name].shape != expected[name].shape
    ]
    retyped = [
        f"{name} {_type_of(tensors[name])} for {_type_of(expected[name])}"
        for name in both
        if not _converts(tensors[name].dtype, expected[name].dtype)
    ]
    found = (
        ("missing", sorted(expected.keys() - tensors.keys())),
        ("unexpected", sorted(tensors.keys() - expected.keys())),
        ("of another shape", reshaped),
        ("of another type", retyped),
    )
    problems = [
        f"{len(names)} {kind} (first: {printable(names[0])})" for kind, names in found if names
    ]
    if problems:
        raise CheckpointError(
            f"{source} does not fit this method and configuration: tensors {', '.join(problems)}."
        )


def _type_of(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _converts(given: torch.dtype, wanted: torch.dtype) -> bool:
    """Real numbers of any precision are taken; others must be of the type."""
    return given == wanted or (given.is_floating_point and wanted.is_floating_point)


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """`module.load_state_dict` that says in one line what does not fit.

    A module of `outline` gets tensors of its own, and its constants.

    Raises:
        CheckpointError: as `check_fit`. The module is as it was.
    """
    expected = module.state_dict()
    check_fit(expected, tensors, source=source)
    if not any(tensor.is_meta for tensor in expected.values()):
        module.load_state_dict(dict(tensors))
        return
    own = {name: tensor.to(expected[name].dtype, copy=True) for name, tensor in tensors.items()}
    module.load_state_dict(own, assign=True)
    fill_constants(module.modules())


def fill_constants(modules: Iterable[nn.Module]) -> None:
    """Give modules of `outline` the buffers that no file holds, because they are always the same.

    A module with such buffers has a method `constants` that returns them by name.
    """
    for module in modules:
        constants = getattr(type(module), "constants", None)
        if constants is not None:
            for name, value in constants(module).items():
                module.register_buffer(name, value, persistent=False)
