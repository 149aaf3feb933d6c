"""A card that is not there: tensors that pretend to lie on one, of which only the sizes are known.

`card()` is entered around code that should run on a GPU. Tensors that are made on `cuda` there, or
moved there, are stand-ins without numbers, and every operator goes through `Card`, which notes

- operators that are given tensors of the card together with tensors of the host;
- what makes the host wait: values that are read, and copies between host and card unless they
  start in pinned memory and are `non_blocking`. Sizes that depend on values are an error.

To Python the stand-ins lie on the card; to autograd they are meta tensors, so that backward passes
need no driver. torch's own autocast would see that, so `autocast` here is written anew, by the
lists of operators in torch's documentation of `torch.amp` for CUDA.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

import patchkin

CARD = torch.device("cuda", 0)
_PACKAGE = Path(patchkin.__file__).parent
_META = torch.device("meta")
_aten = torch.ops.aten
_READS = {_aten._local_scalar_dense.default, _aten.is_nonzero.default, _aten.equal.default}
"""Operators that hand a value to the host."""
_DEPENDS_ON_VALUES = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_COPIES = {_aten._to_copy.default, _aten.copy_.default}


class OnCard(Tensor):
    """A tensor of the card, around a meta tensor of its size."""

    meta: Tensor

    @staticmethod
    def __new__(cls, meta: Tensor) -> OnCard:
        made = Tensor._make_subclass(cls, meta, False, device_for_backend_keys=CARD)
        made.meta = meta
        return made

    @property
    def device(self) -> torch.device:
        return CARD

    def cuda(self, *_: Any, **__: Any) -> Tensor:
        return self

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} outside of `Card`")

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnCard({tuple(self.shape)}, {self.dtype})"


class Card(TorchDispatchMode):
    """Runs operators on stand-ins and notes what a real card would have had to complain about."""

    _sizes: ClassVar[dict[Any, Any]] = {}
    """Operator and what it is given -> what it gives. Most operators come up often."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: collections.Counter[str] = collections.Counter()
        """Kind and place -> how often."""
        self.strangers: collections.Counter[str] = collections.Counter()
        """Operator and place of tensors of two devices -> how often."""
        self._pinned: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = _tensors((*args, *kwargs.values()))
        on_card = [tensor for tensor in tensors if isinstance(tensor, OnCard)]
        to_card = _is_card(kwargs["device"]) if kwargs.get("device") is not None else bool(on_card)
        if not on_card and not to_card:
            return self._on_host(func, args, kwargs)
        if func in _READS:
            self._wait("value read")
            return _read(func, on_card[0])
        if func in _COPIES:
            return self._copied(func, args, kwargs, to_card)
        if on_card and any(t.ndim for t in tensors if not isinstance(t, OnCard)):
            self.strangers[f"{func} at {_place()}"] += 1
        if _DEPENDS_ON_VALUES.intersection(func.tags) and not _indexes_by_numbers(func, args):
            raise AssertionError(f"{func} needs values of the card, at {_place()}")
        return self._computed(func, args, kwargs, on_card)

    def _on_host(self, func, args, kwargs):
        if func is _aten.is_pinned.default:
            return id(args[0]) in self._pinned
        if func is _aten._pin_memory.default:
            pinned = args[0].clone()
            self._pinned[id(pinned)] = pinned  # kept, so that no other gets its number
            return pinned
        return func(*args, **kwargs)

    def _copied(self, func, args, kwargs, to_card):
        """Copies may cross from one device to the other."""
        in_place = func is _aten.copy_.default
        source = args[1] if in_place else args[0]
        to_card = isinstance(args[0], OnCard) if in_place else to_card
        queued = (args[2] if len(args) > 2 else False) if in_place else kwargs.get("non_blocking")
        if isinstance(source, OnCard) and not to_card:
            self._wait("copy to the host")
        elif to_card and not isinstance(source, OnCard):
            if not queued:
                self._wait("copy to the card that is waited for")
            elif id(source) not in self._pinned:
                self._wait("copy to the card from memory that is not pinned")
        if in_place:
            return args[0]
        options = {k: v for k, v in kwargs.items() if k in ("dtype", "memory_format")}
        moved = func(_meta(source), **options)
        return OnCard(moved) if to_card else torch.zeros_like(moved, device="cpu")

    def _computed(self, func, args, kwargs, on_card):
        if torch.Tag.inplace_view in func.tags:  # such as `unsqueeze_`
            func(*_meta(args))
            with torch._C._DisableTorchDispatch():
                return func(*args)
        returns = func._schema.returns
        if func._schema.is_mutable and all(part.alias_info is not None for part in returns):
            return _changed(func._schema, args, kwargs)  # and keeps its size
        key = (func, _key(args), _key(tuple(kwargs.items())))
        if key not in self._sizes:
            metas = {name: _meta(value) for name, value in kwargs.items() if name != "pin_memory"}
            if "device" in metas:
                metas["device"] = _META
            self._sizes[key] = _size(func(*_meta(args), **metas))
        return _made(self._sizes[key])

    def _wait(self, kind: str) -> None:
        self.waits[f"{kind} at {_place()}"] += 1


def _changed(schema, args, kwargs):
    """What an operator changes in place, which it returns."""
    given = {**dict(zip((a.name for a in schema.arguments), args, strict=False)), **kwargs}
    changed = [
        given[a.name]
        for a in schema.arguments
        if a.alias_info is not None and a.alias_info.is_write and a.name in given
    ]
    if len(schema.returns) > 1:
        return tuple(changed)
    return changed[0] if schema.returns else None


def _indexes_by_numbers(func, args) -> bool:
    return func is _aten.index.Tensor and not any(
        index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
    )


def _is_card(device: Any) -> bool:
    return torch.device(device).type in ("cuda", "meta")


def _tensors(values) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _tensors(value)
    return found


def _meta(value):
    """What an operator is given, without the stand-ins."""
    if isinstance(value, OnCard):
        return value.meta
    if isinstance(value, Tensor):
        return value.to(_META) if value.ndim else value
    return type(value)(map(_meta, value)) if isinstance(value, (list, tuple)) else value


def _size(value):
    """All that there is to know of a tensor of the card."""
    if isinstance(value, Tensor):
        return _Size(value.size(), value.stride(), value.dtype)
    return type(value)(map(_size, value)) if isinstance(value, (list, tuple)) else value


def _key(value):
    if isinstance(value, Tensor):
        return (*_size(value), isinstance(value, OnCard), value.storage_offset())
    if isinstance(value, (list, tuple)):
        return tuple(map(_key, value))
    return type(value), value


def _made(value):
    if isinstance(value, _Size):
        size, stride, dtype = value
        return OnCard(torch.empty_strided(size, stride, dtype=dtype, device=_META))
    return type(value)(map(_made, value)) if isinstance(value, (list, tuple)) else value


class _Size(NamedTuple):
    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


def _read(func, tensor):
    """Of a value that nobody knows."""
    if func is not _aten._local_scalar_dense.default or tensor.dtype == torch.bool:
        return True
    return 0.5 if tensor.is_floating_point() else 0


def _place() -> str:
    """The line of patchkin that is at work."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(_PACKAGE):
            return f"{path.relative_to(_PACKAGE).as_posix()}:{frame.lineno}"
    return "a test"


_NARROW = {
    torch.addbmm, torch.addmm, torch.addmv, torch.baddbmm, torch.bmm, torch.matmul, torch.mm,
    torch.mv, torch.einsum, nnf.conv1d, nnf.conv2d, nnf.conv_transpose2d, nnf.linear, nnf.prelu,
    Tensor.__matmul__, Tensor.__rmatmul__, Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.mv,
}  # fmt: skip
"""What autocast computes in 16 bit."""
_WIDE = {
    torch.cdist, torch.cosine_similarity, torch.cumsum, torch.cumprod, torch.exp, torch.expm1,
    torch.log, torch.log1p, torch.log2, torch.log10, torch.log_softmax, torch.logsumexp,
    torch.norm, torch.pow, torch.prod, torch.reciprocal, torch.rsqrt, torch.softmax, torch.sum,
    torch.linalg.vector_norm, nnf.binary_cross_entropy_with_logits, nnf.cosine_similarity,
    nnf.cross_entropy, nnf.group_norm, nnf.interpolate, nnf.kl_div, nnf.l1_loss, nnf.layer_norm,
    nnf.log_softmax, nnf.mse_loss, nnf.nll_loss, nnf.normalize, nnf.smooth_l1_loss, nnf.softmax,
    nnf.softplus, Tensor.__pow__, Tensor.__rpow__, Tensor.__rtruediv__, Tensor.cumsum, Tensor.exp,
    Tensor.log, Tensor.log_softmax, Tensor.logsumexp, Tensor.norm, Tensor.pow, Tensor.prod,
    Tensor.reciprocal, Tensor.rsqrt, Tensor.softmax, Tensor.sum,
}  # fmt: skip
"""What it computes in float32."""
_LISTED = _NARROW | _WIDE


class _Autocasting(TorchFunctionMode):
    """Casts what operators on the card are given, inside of `autocast`."""

    def __init__(self) -> None:
        super().__init__()
        self.dtype: torch.dtype | None = None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is Tensor.tolist:  # which torch refuses for tensors of other classes
            return func(args[0].cpu())
        if self.dtype is None or func not in _LISTED:
            return func(*args, **kwargs)
        dtype = self.dtype if func in _NARROW else torch.float32
        kinds = (torch.float32, torch.float16, torch.bfloat16)

        def cast(leaf):
            known = isinstance(leaf, OnCard) and leaf.dtype in kinds
            return leaf.to(dtype) if known and leaf.dtype != dtype else leaf

        args, kwargs = tree_map(cast, (args, kwargs))
        kept, self.dtype = self.dtype, None  # an operator made of others casts once
        try:
            return func(*args, **kwargs)
        finally:
            self.dtype = kept

    @contextlib.contextmanager
    def autocast(
        self, device_type: str, dtype: torch.dtype | None = None, enabled: bool = True, **_: Any
    ) -> Iterator[None]:
        """As `torch.autocast`, on the card; on the host, nothing is cast."""
        before = self.dtype
        if device_type == "cuda":
            self.dtype = (dtype or torch.float16) if enabled else None
        try:
            yield
        finally:
            self.dtype = before


@contextlib.contextmanager
def card() -> Iterator[Card]:
    """A card for the time of a block."""
    made_on_host, casting = torch.tensor, _Autocasting()

    @functools.wraps(made_on_host)
    def tensor(data, *, device=None, **options):
        made = made_on_host(data, **options)
        return made if device is None else made.to(device)

    with (
        mock.patch.object(torch.cuda, "_lazy_init"),
        mock.patch.object(
            torch.cuda.amp.common, "amp_definitely_not_available", return_value=False
        ),
        mock.patch.object(torch, "tensor", tensor),
        mock.patch.object(torch, "autocast", casting.autocast),
        casting,
        Card() as mode,
    ):
        yield mode


def moved_to_card(module: nn.Module) -> nn.Module:
    """A network on the card, inside of `card`: `.to("cuda")` does not take stand-ins."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                stand_in = torch.empty_like(parameter, device=CARD)
                part._parameters[name] = nn.Parameter(stand_in, parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty_like(buffer, device=CARD)
    return module
