"""Networks inside a state dict of more: a Lightning module, a model that wraps its generator.

Their tensors stand behind the names of attributes, `netG.model.1.weight` or
`model.net.model.1.weight`. A network is whatever is known behind the shortest such prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from patchkin.errors import CheckpointError
from patchkin.upstream.table import is_known, recognize

_DEEPEST = 4
"""Attributes within attributes that are looked into."""
_ROLES = {"generator": "G", "gen": "G", "discriminator": "D", "disc": "D"}
"""What authors call networks that released files name by a letter."""


@dataclass(frozen=True)
class Inside:
    """What a state dict holds."""

    networks: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """Prefix -> tensors of a known network, by their names behind it."""
    others: dict[str, int] = field(default_factory=dict)
    """Prefix -> number of tensors that belong to none."""

    @property
    def note(self) -> str:
        """What was left out; empty if nothing was.

        >>> Inside(others={"loss": 26, "scale": 1}).note
        'left out, as no networks that patchkin knows: loss (26 tensors), scale (1 tensor)'
        """
        if not self.others:
            return ""
        counts = (f"{name} ({n} tensor{'s' * (n != 1)})" for name, n in self.others.items())
        return f"left out, as no networks that patchkin knows: {', '.join(counts)}"


def look_inside(tensors: Mapping[str, Tensor]) -> Inside:
    """The networks behind prefixes; none if none is known there.

    >>> from patchkin.networks import ProjectionHead
    >>> from patchkin.upstream.table import released_weights
    >>> head = released_weights(ProjectionHead([3], width=2))
    >>> wrapped = {f"model.netF.{name}": tensor for name, tensor in head.items()}
    >>> list(look_inside(wrapped).networks)
    ['model.netF']
    """
    found = Inside()
    _search("", dict(tensors), found, _DEEPEST)
    return found


def _search(prefix: str, tensors: dict[str, Tensor], found: Inside, depth: int) -> None:
    if is_known(tensors):
        found.networks[prefix] = tensors
        return
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        first, _, rest = name.partition(".")
        groups.setdefault(first, {})[rest] = tensor
    inner = Inside()
    for first, group in groups.items():
        path = f"{prefix}.{first}" if prefix else first
        if depth > 1 and "" not in group:
            _search(path, group, inner, depth - 1)
        else:
            inner.others[path] = len(group)
    if not inner.networks and prefix:
        found.others[prefix] = len(tensors)
        return
    found.networks.update(inner.networks)
    found.others.update(inner.others)


def named_networks(
    inside: Inside, role: str | None, path: Path
) -> dict[str, tuple[str, dict[str, Tensor]]]:
    """The networks by the names that released files give them, each with its prefix.

    Args:
        inside: of a file.
        role: the one that is wanted; all unless given.
        path: of the file, for messages.

    Raises:
        CheckpointError: two would have one name, or none has the one that is wanted.
    """
    named: dict[str, tuple[str, dict[str, Tensor]]] = {}
    for prefix, tensors in inside.networks.items():
        kind = recognize(tensors)
        own = role if role and len(inside.networks) == 1 else _role_of(prefix, kind.roles)
        if own in named:
            raise CheckpointError(
                f"`{path}` holds two networks that may be {own}, `{named[own][0]}` and `{prefix}`. "
                "Save each as a file of its own, with torch.save(network.state_dict(), FILE), and "
                f"give the one that is wanted as {own}=FILE."
            )
        named[own] = (prefix, tensors)
    if role is None:
        return named
    if role not in named:
        held = ", ".join(f"{own} (`{prefix}`)" for own, (prefix, _) in named.items())
        raise CheckpointError(f"`{path}` holds {held}, and no {role}.")
    return {role: named[role]}


def _role_of(prefix: str, roles: tuple[str, ...]) -> str:
    """The last name of a prefix that is a role of its kind, or else the kind's first.

    >>> _role_of("model.netG_B", ("G", "G_A", "G_B")), _role_of("model", ("G", "G_A"))
    ('G_B', 'G')
    """
    for part in reversed(prefix.split(".")):
        name = part.removeprefix("net").removeprefix("_")
        name = _ROLES.get(name, name)
        if name in roles:
            return name
    return roles[0]
