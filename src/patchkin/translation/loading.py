"""A method out of a model file, compared with it before memory is claimed (`storage.outlines`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from patchkin.compression import COMPRESSED_METHODS
from patchkin.config import from_plain, read_yaml
from patchkin.errors import CheckpointError, ConfigError, nearest
from patchkin.method import Method
from patchkin.methods import METHODS
from patchkin.storage.checkpoint import EMA_PREFIX, ModelFile
from patchkin.storage.outlines import check_fit, fill_constants, load_strictly, outline

Weights = Literal["averaged", "live"]

_FOLDERS_ABOVE = 3
"""Of a model file in a run: its checkpoint, the checkpoints, the run."""
MOST_UNHELD_BYTES = 1 << 30
"""What a method of a user may take beyond four times its file."""


def load_method(
    file: ModelFile,
    known: Mapping[str, type[Method]],
    *,
    weights: Weights = "averaged",
    complete: bool = False,
) -> tuple[Method, Weights]:
    """The method that a file is a model of, with its weights on the CPU.

    Its networks are built without numbers and compared with the file's tensors. Those of patchkin
    then take the file's; a user's method is built once more, as its constructor may make tensors
    that no file holds.

    Args:
        file: open.
        known: methods by name.
        weights: averaged weights where there are any, or the live ones.
        complete: load all that the file has, not only what translates.

    Returns:
        The method, and which weights it has. A network that was not loaded raises when it is used.

    Raises:
        CheckpointError: the method is not known, or the file does not fit its own header.
    """
    source, kind = f"`{file.path}`", _kind(file, known)
    method, prefixes, lacking = _outlined(file, kind, weights=weights, complete=complete)
    is_ours = _is_ours(kind)
    if not is_ours:
        _check_room(method, file)
        method = _built(kind, file.header.config)
    if complete:
        for name in lacking:
            setattr(method, name, _AbsentNetwork(_missing(name, file.path)))
        live = {n: tensor for n, tensor in file.tensors().items() if not n.startswith(EMA_PREFIX)}
        load_strictly(method, live, source=source)
    elif is_ours:
        _leave_out(method, kind.translating, file.path)
    for name, prefix in prefixes.items():
        tensors = _under(file.tensors(prefix), prefix)
        load_strictly(method.get_submodule(name), tensors, source=f"{source}, network {name},")
    if is_ours:
        fill_constants(method.modules())
    averaged = any(prefix.startswith(EMA_PREFIX) for prefix in prefixes.values())
    return method, "averaged" if averaged else "live"


def check_method(file: ModelFile, known: Mapping[str, type[Method]]) -> None:
    """Refuse what `load_method` would refuse, in milliseconds and without reading a weight.

    Args:
        file: open.
        known: methods by name.

    Raises:
        CheckpointError: as `load_method`.
    """
    kind = _kind(file, known)
    method, _, _ = _outlined(file, kind, weights="averaged", complete=True)
    if not _is_ours(kind):
        _check_room(method, file)


def _outlined(
    file: ModelFile, kind: type[Method], *, weights: Weights, complete: bool
) -> tuple[Method, dict[str, str], list[str]]:
    """The method without numbers, which fit the file's tensors; what the names of its chosen
    weights begin with, by network; and networks that the file has nothing of, if all are wanted.
    """
    method = outline(partial(_built, kind, file.header.config), source=f"`{file.path}`")
    prefixes = {name: _prefix(file.outlines, name, weights) for name in kind.translating}
    lacking = _lacking(method, file.outlines) if complete else []
    _compare(method, file, prefixes, lacking if complete else None)
    return method, prefixes, lacking


def _is_ours(kind: type[Method]) -> bool:
    return kind in {*METHODS.values(), *COMPRESSED_METHODS.values()}


def _kind(file: ModelFile, known: Mapping[str, type[Method]]) -> type[Method]:
    name = file.header.method
    if name not in known:
        raise CheckpointError(
            f"`{file.path}` is a model of the method `{name}`, which is not known here. "
            f"{nearest(name, known)} {_where_it_runs(file.path, name)}"
        )
    return known[name]


def _where_it_runs(model: Path, method: str) -> str:
    """Of a method that is not known: its file, if the run that the model lies in names it."""
    plain: Mapping[str, Any] = {}
    for folder in list(model.absolute().parents)[:_FOLDERS_ABOVE]:
        with contextlib.suppress(ConfigError):  # it may be anybody's file
            plain = plain or read_yaml(folder / "config.yaml")
    if plain.get("name") == method and plain.get("file"):
        return f"It is the method of the file `{plain['file']}`: python {plain['file']} VERB ..."
    return "A method of your own runs from its own file: python FILE.py VERB ..."


def _built(kind: type[Method], config: Mapping[str, Any]) -> Method:
    return kind(from_plain(kind.config_type, config, where="its settings"))


def _prefix(outlines: Mapping[str, Tensor], network: str, weights: Weights) -> str:
    """That the names of a network's chosen weights begin with."""
    averaged = f"{EMA_PREFIX}{network}."
    if weights == "averaged" and any(name.startswith(averaged) for name in outlines):
        return averaged
    return f"{network}."


def _lacking(method: Method, outlines: Mapping[str, Tensor]) -> list[str]:
    """Networks that a file has nothing of."""
    return [
        name
        for name, network in method.named_children()
        if network.state_dict() and not _under(outlines, f"{name}.")
    ]


def _compare(
    method: Method, file: ModelFile, prefixes: Mapping[str, str], lacking: list[str] | None
) -> None:
    """Shapes of a method without numbers with those of the file.

    Raises:
        CheckpointError: they differ.
    """
    source = f"`{file.path}`"
    if lacking is not None:
        skipped = tuple(f"{name}." for name in lacking)
        expected = {n: t for n, t in method.state_dict().items() if not n.startswith(skipped)}
        live = {n: t for n, t in file.outlines.items() if not n.startswith(EMA_PREFIX)}
        check_fit(expected, live, source=source)
    for name, prefix in prefixes.items():
        check_fit(
            method.get_submodule(name).state_dict(),
            _under(file.outlines, prefix),
            source=f"{source}, network {name},",
        )


def _check_room(method: Method, file: ModelFile) -> None:
    """Refuse a method much larger than its file, whose networks are not all compared.

    Raises:
        CheckpointError: it is.
    """
    needed, held = _bytes(method.state_dict().values()), _bytes(file.outlines.values())
    if needed > 4 * held + MOST_UNHELD_BYTES:
        raise CheckpointError(
            f"`{file.path}` holds {held / 1e6:.0f} MB and asks for networks of "
            f"{needed / 1e6:.0f} MB."
        )


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _leave_out(method: Method, wanted: Iterable[str], path: Path) -> None:
    """Replace what takes no part in translations and so has no numbers."""
    first = {name.partition(".")[0] for name in wanted}
    for name, network in list(method.named_children()):
        if name not in first and network.state_dict():
            message = f"The network {name} of `{path}` was not loaded: load it with complete=True."
            setattr(method, name, _AbsentNetwork(message))
    own = [*method.named_parameters(recurse=False), *method.named_buffers(recurse=False)]
    for name in [name for name, _ in own if name in method.state_dict()]:
        delattr(method, name)


def _missing(name: str, path: Path) -> str:
    return (
        f"The network {name}, which this needs, is missing from `{path}`. If the model was "
        f"imported, import it once more together with {name}'s file."
    )


class _AbsentNetwork(nn.Module):
    """Stands for a network that was not loaded."""

    def __init__(self, message: str) -> None:
        super().__init__()
        self._message = message

    def forward(self, *_: object) -> Tensor:
        raise CheckpointError(self._message)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):
            return super().__getattr__(attribute)
        raise CheckpointError(self._message)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
