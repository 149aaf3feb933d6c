"""Weight files of other projects, read without executing anything in them.

Accepted are tensors by name: `.pth` or `.pt` (torch's pickled state dict, read with
`weights_only=True`), `.safetensors`, and the partial models that patchkin itself has imported. One
file holds one network, or several by a name each (MUNIT).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchkin.errors import CheckpointError
from patchkin.storage.checkpoint import ModelHeader
from patchkin.storage.pickled import EXPECTED, is_whole, read_pickled
from patchkin.storage.tensor_files import open_tensors, printable

SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
_PARALLEL, _COMPILED = "module.", "_orig_mod."
"""In the names of a network that was wrapped for several devices, or compiled."""
_STATE_DICTS = ("state_dict", "model_state_dict", "params_ema", "params")
"""What checkpoints of training frameworks call the state dict among the rest (Lightning, plain
torch, BasicSR); the first that is there is taken."""


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """The tensors of a file."""

    path: Path
    parts: dict[str, dict[str, Tensor]]
    """Networks by the file's own names for them; one without a name in most files."""
    unwrapped: bool = False
    """Whether each name began with `module.`, as of a network wrapped for several devices."""
    header: ModelHeader | None = None
    """Of a patchkin model."""
    notes: list[str] = field(default_factory=list)
    """What was changed in reading, one line each."""


def read_weight_file(path: Path) -> WeightFile:
    """The tensors of a file, in float32 on the CPU.

    Raises:
        CheckpointError: it is missing, damaged, or holds anything but tensors by name. One line;
            nothing in the file is executed.
    """
    if path.is_dir():
        found = sorted(file.name for file in path.iterdir() if file.suffix in SUFFIXES)
        example = f"`{path / found[0]}`" if found else "`latest_net_G.pth`"
        raise CheckpointError(f"`{path}` is a folder; name its files, such as {example}.")
    if not path.is_file():
        raise CheckpointError(f"`{path}`: no such file.")
    header = None
    if path.suffix == ".safetensors":
        header, content = _read_safetensors(path)
    else:
        content = read_pickled(path)
    notes: list[str] = []
    parts = _parts(_out_of_checkpoint(content, notes), path)
    if any(_COMPILED in name for part in parts.values() for name in part):
        parts = {
            part: {name.replace(_COMPILED, ""): tensor for name, tensor in tensors.items()}
            for part, tensors in parts.items()
        }
        notes.append("`_orig_mod.` cut off the names")
    unwrapped = all(name.startswith(_PARALLEL) for part in parts.values() for name in part)
    if unwrapped:
        parts = {
            part: {name.removeprefix(_PARALLEL): tensor for name, tensor in tensors.items()}
            for part, tensors in parts.items()
        }
        notes.append("`module.` cut off the names")
    parts = {part: _plain(tensors, path, notes) for part, tensors in parts.items()}
    return WeightFile(path=path, parts=parts, unwrapped=unwrapped, header=header, notes=notes)


def _read_safetensors(path: Path) -> tuple[ModelHeader | None, dict[str, Tensor]]:
    with open_tensors(path, as_what="weights", advice=EXPECTED) as file:
        tensors = {name: file.read(name) for name in file.outlines}
        if "patchkin" not in file.metadata:
            return None, tensors
        header = ModelHeader.from_metadata(file.metadata, path)
        return header.current(), header.renamed(tensors)


def _out_of_checkpoint(content: Any, notes: list[str]) -> Any:
    """The state dict of a training framework's checkpoint, or the content as it is."""
    if isinstance(content, Mapping):
        for name in _STATE_DICTS:
            inner = content.get(name)
            if isinstance(inner, Mapping) and inner and _is_tensors(inner):
                notes.append(f"taken from `{name}` of a checkpoint")
                return inner
    return content


def _parts(content: Any, path: Path) -> dict[str, dict[str, Tensor]]:
    """One network without a name, or several."""
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"`{path}` holds a {type(content).__name__}, not the tensors of a network by name."
        )
    if not content:
        raise CheckpointError(f"`{path}` is empty: it holds no tensors.")
    if _is_tensors(content):
        return {"": dict(content)}
    if {"state", "param_groups"} <= content.keys() or any(
        isinstance(part, Mapping) and {"state", "param_groups"} <= part.keys()
        for part in content.values()
    ):
        what = "DRIT's networks together" if "disContent" in content else "an optimizer's state"
        raise CheckpointError(f"`{path}` holds {what}, which patchkin does not import.")
    if all(isinstance(part, Mapping) and part and _is_tensors(part) for part in content.values()):
        return {str(name): dict(part) for name, part in content.items()}
    name, value = next(
        (name, value) for name, value in content.items() if not _is_tensors({name: value})
    )
    raise CheckpointError(
        f"`{path}` holds more than tensors by name (`{printable(str(name))}` is a "
        f"{type(value).__name__}); "
        "expected is the state dict of one network."
    )


def _is_tensors(content: Mapping[Any, Any]) -> bool:
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())


def _plain(tensors: dict[str, Tensor], path: Path, notes: list[str]) -> dict[str, Tensor]:
    """Dense, finite, and floats in float32."""
    converted: dict[str, int] = {}
    plain = {}
    for name, tensor in tensors.items():
        if name != printable(name):
            raise CheckpointError(
                f"`{path}` holds no network: a tensor is called `{printable(name)}`, with signs "
                "that are no text."
            )
        if not is_whole(tensor):
            raise CheckpointError(f"`{path}`: `{name}` is not a plain tensor with all its numbers.")
        if tensor.is_complex() or (tensor.is_floating_point() and not tensor.isfinite().all()):
            raise CheckpointError(f"`{path}`: `{name}` holds numbers that are not finite and real.")
        if tensor.is_floating_point() and tensor.dtype is not torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            converted[kind] = converted.get(kind, 0) + 1
        plain[name] = (tensor.float() if tensor.is_floating_point() else tensor).detach()
    notes += [f"{count} tensors converted from {kind}" for kind, count in converted.items()]
    return plain
