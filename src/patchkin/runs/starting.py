"""`--from MODEL`: a fresh run begins with the weights of another model, as far as they fit.

Tensors go by name and shape. A network that the model has under another name, because one of the
two methods translates both ways, is found there. Optimizers, schedules and pools of images are
fresh, and so is what does not fit, such as the first layer for images of other channels.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from patchkin.errors import CheckpointError
from patchkin.method import Method
from patchkin.storage.checkpoint import EMA_PREFIX, ModelFile, find_model, open_model
from patchkin.translation.record import sha256_of

_OTHER_NAMES: Mapping[str, str] = {
    **{"G": "G_AB", "D": "D_B", "F": "F_A"},
    **{"G_AB": "G", "D_B": "D", "F_A": "F"},
}
"""A network of a one-sided method and that of a two-sided one which does the same, both ways."""
_UPSTREAM_SUFFIXES = (".pth", ".pt", ".ckpt", ".pkl", ".bin")
_STORES = ("pool", "bank")
"""Beginnings of what a model file holds beside networks: images and features of its own run."""
_MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What a run took of another model."""

    model: str
    """As it was named."""
    file: str
    sha256: str
    """Of the file."""
    method: str
    step: int
    taken: dict[str, int]
    """Tensors by network."""
    left: dict[str, str]
    """Tensors that keep the numbers of a fresh run, with the reason."""
    unused: tuple[str, ...]
    """Networks of the model that have no place here."""
    homeless: dict[str, int] = field(default_factory=dict)
    """Tensors of the model's other networks that have no place here, by network: of further layers,
    or of domains that this method does not have."""

    def plain(self) -> dict[str, Any]:
        """For the log."""
        return asdict(self)

    def told(self) -> list[str]:
        """For people: where from, and what was not taken."""
        taken = ", ".join(f"{name} ({number})" for name, number in self.taken.items())
        lines = [
            f"begun from  `{self.model}`: {self.method}, step {self.step}; tensors taken: {taken}"
        ]
        by_network: dict[str, list[str]] = {}
        for name in self.left:
            by_network.setdefault(name.partition(".")[0], []).append(name)
        for network, names in by_network.items():
            first = "; ".join(f"{name} {self.left[name]}" for name in names[:_MOST_NAMED])
            more = len(names) - _MOST_NAMED
            others = f" and {more} more" if more > 0 else ""
            lines.append(f"left fresh  {network} ({len(names)}): {first}{others}")
        not_used = [*self.unused, *(f"{n} tensors of {name}" for name, n in self.homeless.items())]
        if not_used:
            lines.append(f"not used    {', '.join(not_used)} of the model")
        return lines


def begin_from(method: Method, model: str, *, sha256: str | None = None) -> Beginning:
    """Fill the networks of an untrained method from a run, a checkpoint, a file or a shipped model.

    Averaged weights are taken where there are any.

    Args:
        method: filled in place.
        model: where the weights are.
        sha256: that the file must have; any unless given.

    Raises:
        CheckpointError: there is no such model, nothing of it fits, or it is another file than
            `sha256` says.
    """
    path = find_model(Path(model))
    found = sha256_of(path)
    if sha256 not in (None, found):
        raise CheckpointError(
            f"`{model}` is not the model that these settings begin from: its SHA-256 is "
            f"{found[:12]}..., theirs {str(sha256)[:12]}.... Name the model anew with --from."
        )
    with _open(path, model) as file:
        return _fill(method, file, model, found)


@contextmanager
def _open(path: Path, model: str) -> Iterator[ModelFile]:
    """`open_model`, with advice for files of other projects."""
    if path.suffix in _UPSTREAM_SUFFIXES:
        raise CheckpointError(
            f"`{model}` is no model of patchkin. If it is one of another project, make one of it "
            f"first: patchkin import-weights {shlex.quote(model)}"
        )
    with open_model(path) as file:
        yield file


def _fill(method: Method, file: ModelFile, model: str, sha256: str) -> Beginning:
    own = method.state_dict()
    names = dict(_places(method, own, file.outlines))
    fitting = {
        name: source
        for name, source in names.items()
        if source in file.outlines and file.outlines[source].shape == own[name].shape
    }
    taken: dict[str, int] = {}
    with torch.no_grad():
        for name, source in fitting.items():
            own[name].copy_(_tensor(file, source))
            network = name.partition(".")[0]
            taken[network] = taken.get(network, 0) + 1
    if not any(own[name].is_floating_point() and own[name].ndim > 1 for name in fitting):
        raise CheckpointError(
            f"No weights of `{model}`, a model of `{file.header.method}`, fit `{method.name}` with "
            "these settings: no network has the names and shapes. Take --config of its run, or "
            "leave --from out."
        )
    used = {source.removeprefix(EMA_PREFIX).partition(".")[0] for source in fitting.values()}
    has = {name.removeprefix(EMA_PREFIX).partition(".")[0] for name in file.outlines}
    has = {name for name in has if not name.startswith(_STORES)}
    return Beginning(
        model=model,
        file=str(file.path.absolute()),
        sha256=sha256,
        method=file.header.method,
        step=file.header.step,
        taken=taken,
        left={
            name: _why(name, source, own, file.outlines)
            for name, source in names.items()
            if name not in fitting
        },
        unused=tuple(sorted(has - used)),
        homeless=_homeless(file.outlines, set(names.values()), used),
    )


def _homeless(
    outlines: Mapping[str, Tensor], asked: set[str], networks: set[str]
) -> dict[str, int]:
    """How many tensors of these networks of a file nothing asks for; live weights are not counted
    where averaged ones are taken.
    """
    found: dict[str, int] = {}
    for name in outlines:
        network = name.removeprefix(EMA_PREFIX).partition(".")[0]
        if name not in asked and network in networks and EMA_PREFIX + name not in outlines:
            found[network] = found.get(network, 0) + 1
    return found


def _places(
    method: Method, own: Mapping[str, Tensor], outlines: Mapping[str, Tensor]
) -> Iterator[tuple[str, str]]:
    """Name of each tensor that is learned (or goes with what is), and where a file may have it."""
    for network in _learned(method):
        tensors = [name for name in own if name.startswith(f"{network}.")]
        source = network
        if not _has(outlines, network) and _has(outlines, _OTHER_NAMES.get(network, network)):
            source = _OTHER_NAMES[network]
        averaged = f"{EMA_PREFIX}{source}."
        prefix = averaged if any(n.startswith(averaged) for n in outlines) else f"{source}."
        for name in tensors:
            yield name, prefix + name.removeprefix(f"{network}.")


def _learned(method: nn.Module) -> Iterable[str]:
    """Networks with weights: pools of images have none."""
    return [n for n, part in method.named_children() if any(True for _ in part.parameters())]


def _has(outlines: Mapping[str, Tensor], network: str) -> bool:
    return any(name.removeprefix(EMA_PREFIX).startswith(f"{network}.") for name in outlines)


def _tensor(file: ModelFile, name: str) -> Tensor:
    return file.tensors(name)[name]


def _why(name: str, source: str, own: Mapping[str, Tensor], outlines: Mapping[str, Tensor]) -> str:
    if source not in outlines:
        return "is not in the model"
    here, there = list(own[name].shape), list(outlines[source].shape)
    return f"is {here} here and {there} in the model"
