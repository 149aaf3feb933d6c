"""Checkpoints: atomic, verified, without pickle.

A run folder keeps `checkpoints/step_XXXXXXXX/` with

    model.safetensors       every network, and averaged weights under `ema.`; alone a complete model
    optimizers.safetensors  both moments and the step count of every parameter
    state.json              step, checksums of the two files above, and what else a run must know

and the pointers `checkpoints/last` and `checkpoints/best`, text files with the name of a folder. A
folder that has its final name is whole (`storage.atomic`). Its checksums are verified when it is
read, and a damaged one gives way to the one before.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from patchkin.errors import CheckpointError
from patchkin.sides import Sides, height_width
from patchkin.storage.atomic import (
    new_folder,
    remove_folder,
    remove_remains,
    set_apart,
    write_bytes,
    write_text,
)
from patchkin.storage.hashes import file_sha256
from patchkin.storage.headers import checked_header
from patchkin.storage.hub import fetch_model, hub_name
from patchkin.storage.names import current_names, with_pool_sizes
from patchkin.storage.shipped import find_shipped, named_so
from patchkin.storage.strict_json import parsed
from patchkin.storage.tensor_files import TensorFile, open_tensors

MODEL_FILE = "model.safetensors"
OPTIMIZERS_FILE = "optimizers.safetensors"
STATE_FILE = "state.json"
EMA_PREFIX = "ema."
_FOLDER = re.compile(r"step_(\d{8,})")
Value = TypeVar("Value")
_OS_ERROR = re.compile(r"([^:]+) \(os error (\d+)\)")
"""How safetensors tells what the operating system said."""


@dataclass(frozen=True, kw_only=True)
class ModelHeader:
    """What must be known to build a model, stored in the metadata of its weights."""

    method: str
    """A name in `patchkin methods`, or of a user's own method."""
    config: dict[str, Any]
    """The method's configuration."""
    step: int = 0
    """Optimisation steps behind the weights."""
    size: Sides = 256
    """Side of the square that it was trained at, in pixels, or height and width."""
    encoding: dict[str, Any] = field(default_factory=dict)
    """What the data was: value range of float images, names of domains, and width and height of
    whole training images of each domain when views are cut from them."""
    version: int = 2
    """Of this header, and of the names of the tensors (`storage.names`)."""

    @property
    def height_width(self) -> tuple[int, int]:
        """That it was trained at."""
        return height_width(self.size)

    def to_metadata(self) -> dict[str, str]:
        """As safetensors metadata (text to text).

        One entry: safetensors writes several in random order, and equal models should be equal
        files.
        """
        return {"patchkin": json.dumps(self.__dict__)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str] | None, path: Path) -> ModelHeader:
        """The inverse of `to_metadata`.

        Raises:
            CheckpointError: it is of no patchkin model, or not what `to_metadata` writes.
        """
        if not metadata or "patchkin" not in metadata:
            raise CheckpointError(
                f"`{path}` is a safetensors file, but no patchkin model: it names no method."
            )
        header = checked_header(metadata["patchkin"], path, newest=cls.version)
        return cls(**header)

    def renamed(self, tensors: Mapping[str, Value]) -> dict[str, Value]:
        """Tensors of a file with this header, or what stands for them, under today's names."""
        return current_names(tensors, method=self.method, version=self.version, prefix=EMA_PREFIX)

    def current(self) -> ModelHeader:
        """The header of the same model under today's names."""
        return replace(self, version=type(self).version)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All that a run needs to go on as if it had never stopped."""

    step: int
    header: ModelHeader
    model: dict[str, Tensor]
    optimizers: dict[str, Tensor]
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one run folder."""

    def __init__(self, run_dir: Path, *, keep: int = 3) -> None:
        self.folder = run_dir / "checkpoints"
        self._keep = keep

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of a step."""
        return self.folder / f"step_{step:08d}"

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        if not self.folder.is_dir():
            return []
        matches = (_FOLDER.fullmatch(entry.name) for entry in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def total_steps(self, step: int) -> int | None:
        """The length of the run when a checkpoint was saved; None if it cannot be read."""
        try:
            state = parsed((self.path(step) / STATE_FILE).read_text(encoding="utf-8"))
            total = state["run"]["total_steps"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return total if isinstance(total, int) else None

    def save(self, snapshot: Snapshot, *, best: bool = False) -> Path:
        """Write a checkpoint, point `last` (and `best`) at it, and remove those beyond `keep`.

        Raises:
            StorageError: full disk or no permission. Everything saved before is untouched.
        """
        target = self.path(snapshot.step)
        remove_remains(self.folder)
        with new_folder(target, replace=True) as unfinished:
            self._write_files(unfinished, snapshot)
        self.point("last", snapshot.step)
        if best:
            self.point("best", snapshot.step)
        self.remove_old()
        return target

    def point(self, name: str, step: int) -> None:
        """Let `last` or `best` name the checkpoint of a step."""
        write_text(self.folder / name, self.path(step).name + "\n")

    def pointed(self, name: str) -> Path | None:
        """The folder of a checkpoint that a pointer names, if both are there."""
        pointer = self.folder / name
        if not pointer.is_file():
            return None
        named = pointer.read_text(encoding="utf-8", errors="replace").strip()
        target = self.folder / named
        return target if _FOLDER.fullmatch(named) and target.is_dir() else None

    def load_newest(self) -> tuple[Snapshot, list[str]]:
        """The newest undamaged checkpoint, and one line for each damaged one passed over.

        Raises:
            CheckpointError: there is none.
        """
        damaged: list[str] = []
        for step in reversed(self.steps()):
            try:
                return self.load(step), damaged
            except CheckpointError as error:
                damaged.append(str(error))
        if damaged:
            raise CheckpointError(
                f"Every checkpoint in `{self.folder}` is damaged; the newest: {damaged[0]}"
            )
        raise CheckpointError(f"There is no checkpoint in `{self.folder}` to resume from.")

    def load(self, step: int) -> Snapshot:
        """A checkpoint, verified.

        Raises:
            CheckpointError: a file is missing or not what was written.
        """
        folder = self.path(step)
        try:
            state = parsed((folder / STATE_FILE).read_text(encoding="utf-8"))
            for name in (MODEL_FILE, OPTIMIZERS_FILE):
                if file_sha256(folder / name) != state["sha256"][name]:
                    raise CheckpointError(f"`{folder / name}` is damaged: its checksum differs.")
            run = state["run"]
            if state.get("run_sha256") not in (None, _sha256_of(run)):  # None: of a version before
                raise CheckpointError(f"`{folder / STATE_FILE}` is damaged: its checksum differs.")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"`{folder}` is damaged: {error}.") from error
        with _open(folder / MODEL_FILE) as (header, file):
            model = _tensors(file)
        with open_tensors(folder / OPTIMIZERS_FILE, as_what="a checkpoint") as file:
            optimizers = {name: file.read(name) for name in file.outlines}
        return Snapshot(
            step=step,
            header=header.current(),
            model=with_pool_sizes(header.renamed(model)),
            optimizers=header.renamed(optimizers),
            state=run,
        )

    def _write_files(self, folder: Path, snapshot: Snapshot) -> None:
        tensors = {
            MODEL_FILE: (snapshot.model, snapshot.header.to_metadata()),
            OPTIMIZERS_FILE: (snapshot.optimizers, None),
        }
        for name, (content, metadata) in tensors.items():
            write_tensors(folder / name, content, metadata)
        state = {
            "step": snapshot.step,
            "sha256": {name: file_sha256(folder / name) for name in tensors},
            "run": snapshot.state,
            "run_sha256": _sha256_of(snapshot.state),
        }
        write_bytes(folder / STATE_FILE, json.dumps(state, indent=1).encode(), synced=False)

    def remove_old(self) -> None:
        """Remove checkpoints beyond `keep`, but those that a pointer names."""
        if self._keep == 0:
            return
        pinned = {self.pointed("best"), self.pointed("last")}
        for step in self.steps()[: -self._keep]:
            if self.path(step) not in pinned:
                remove_folder(self.path(step))


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None
) -> None:
    """A safetensors file, as readable as its folder.

    Raises:
        OSError: it cannot be written.
    """
    contiguous = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    try:
        with set_apart(path) as part:  # safetensors has names of its own, which nobody would remove
            save_file(contiguous, part, metadata)
    except SafetensorError as error:
        told = _OS_ERROR.search(str(error))
        raise OSError(*((int(told[2]), told[1].strip()) if told else (str(error),))) from error
    path.chmod(path.parent.stat().st_mode & 0o666)  # safetensors lets only its owner read it


def find_model(path: Path, *, which: str = "last") -> Path:
    """The weights that a run folder, a checkpoint folder, a file or a shipped model stands for.

    Args:
        path: `runs/x`, `runs/x/checkpoints/step_00001000`, a `.safetensors` file, or if nothing of
            this name is there the name of a shipped model; or `hf:OWNER/NAME` (`storage.hub`).
        which: `last` or `best`, for a run folder.

    Raises:
        CheckpointError: nothing of the kind is there.
    """
    on_hub = hub_name(path)
    if on_hub is not None:
        return fetch_model(on_hub)
    if path.is_file():
        return path
    if not path.exists():
        if str(path) == path.name:
            return find_shipped(path.name)
        raise CheckpointError(f"There is no model at `{path}`: no such file or folder.")
    if (path / MODEL_FILE).is_file():
        return path / MODEL_FILE
    store = CheckpointStore(path)
    folder = store.pointed(which)
    if folder is None and which == "last" and store.steps():
        folder = store.path(store.steps()[-1])
    if folder is None:
        raise CheckpointError(
            f"`{path}` is neither a model nor a run folder with a `{which}` checkpoint. "
            f"Give a run folder, a checkpoint folder or a .safetensors file.{_hint(path)}"
        )
    return folder / MODEL_FILE


def _hint(path: Path) -> str:
    """For a folder, such as a data set, that hides the shipped model of its name."""
    hidden = named_so(path.name) if str(path) == path.name else None
    if hidden is None:
        return ""
    return f" For the shipped model `{hidden}`, call from a folder without a `{path}`."


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """An open model file. Files of earlier versions have today's names."""

    path: Path
    header: ModelHeader
    outlines: Mapping[str, Tensor]
    """Its tensors without numbers, by name."""
    file: TensorFile
    names: Mapping[str, str]
    """Those in the file, by today's."""

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """The tensors whose names begin so; those in float16 (of shipped models) as float32."""
        chosen = {now: old for now, old in self.names.items() if now.startswith(prefix)}
        return with_pool_sizes({now: _read(self.file, old) for now, old in chosen.items()})


@contextmanager
def open_model(path: Path) -> Iterator[ModelFile]:
    """A model file, open until the end of the block. Of its tensors none is read yet.

    Raises:
        CheckpointError: it cannot be read or is no patchkin model.
    """
    with _open(path) as (header, file):
        names = header.renamed({name: name for name in file.outlines})
        outlines = with_pool_sizes({now: file.outlines[old] for now, old in names.items()})
        yield ModelFile(
            path=path, header=header.current(), outlines=outlines, file=file, names=names
        )


def read_model(path: Path) -> tuple[ModelHeader, dict[str, Tensor]]:
    """Header and tensors of a model file; those in float16 (of shipped models) as float32.

    Raises:
        CheckpointError: it cannot be read or is no patchkin model.
    """
    with open_model(path) as file:
        return file.header, file.tensors()


def read_header(path: Path) -> ModelHeader:
    """The header of a model file.

    Raises:
        CheckpointError: it cannot be read or is no patchkin model.
    """
    with open_model(path) as file:
        return file.header


@contextmanager
def _open(path: Path) -> Iterator[tuple[ModelHeader, TensorFile]]:
    with open_tensors(path) as file:
        yield ModelHeader.from_metadata(file.metadata, path), file


def _tensors(file: TensorFile) -> dict[str, Tensor]:
    """As the file has them, but for float16."""
    return {name: _read(file, name) for name in file.outlines}


def _read(file: TensorFile, name: str) -> Tensor:
    tensor = file.read(name)
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def optimizer_tensors(
    optimizers: Mapping[str, torch.optim.Optimizer], networks: Mapping[str, nn.Module]
) -> dict[str, Tensor]:
    """State of optimizers as `network.parameter.quantity` -> tensor."""
    tensors = {}
    for network_name, optimizer in optimizers.items():
        for name, parameter in networks[network_name].named_parameters():
            for quantity, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{network_name}.{name}.{quantity}"] = value
    return tensors


def load_optimizer_tensors(
    tensors: Mapping[str, Tensor],
    optimizers: Mapping[str, torch.optim.Optimizer],
    networks: Mapping[str, nn.Module],
    *,
    source: str = "The state of optimizers",
) -> None:
    """The inverse of `optimizer_tensors`.

    Args:
        tensors: of a checkpoint.
        optimizers: that get them, by the network that they train.
        networks: by name.
        source: where the tensors are from, for the message.

    Raises:
        CheckpointError: one has another shape than its weight.
    """
    for network_name, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for index, (name, weight) in enumerate(networks[network_name].named_parameters()):
            prefix = f"{network_name}.{name}."
            quantities = {q: tensors.get(prefix + q) for q in ("step", "exp_avg", "exp_avg_sq")}
            present = {
                q: _laid_out_as(weight, tensor, f"{source}: {prefix}{q}")
                for q, tensor in quantities.items()
                if tensor is not None
            }
            if present:
                state[index] = present
        optimizer.load_state_dict(
            {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
        )


def _laid_out_as(weight: Tensor, tensor: Tensor, name: str) -> Tensor:
    """In the memory layout of its weight: fused optimizers go through both side by side."""
    if name.endswith(".step") and tensor.shape == ():
        return tensor
    if tensor.shape != weight.shape:
        raise CheckpointError(
            f"{name} is {tuple(tensor.shape)}, where the weight is {tuple(weight.shape)}."
        )
    return torch.empty_like(weight, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def _sha256_of(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
