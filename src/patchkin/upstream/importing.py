"""Files of upstream projects become one patchkin model."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchkin.config import from_plain, to_plain
from patchkin.errors import CheckpointError, ConfigError, nearest
from patchkin.storage.atomic import new_file
from patchkin.storage.checkpoint import ModelHeader, write_tensors
from patchkin.storage.outlines import outline
from patchkin.upstream.families import FAMILIES, Family
from patchkin.upstream.files import WeightFile, read_weight_file
from patchkin.upstream.inside import Inside, look_inside, named_networks
from patchkin.upstream.kinds import Taken
from patchkin.upstream.table import kind_of, recognize, take_from

_ROLES = sorted({role for family in FAMILIES for role in family.networks}, key=len, reverse=True)
_ROLE_IN_NAME = re.compile(rf"(?:^|[_-])(?:net_?)?({'|'.join(map(re.escape, _ROLES))})$")
_EPOCH_IN_NAME = re.compile(r"(?:^|[_-])(?:latest|best|iter_?\d+|\d+)$")
_NO_NAMES = ("", "gen", "dis", "checkpoints", "model")
_ONE_WAY = (
    {"G_A": "G", "D_A": "D", "F1": "F"},
    {"G_B": "G", "D_B": "D", "F2": "F"},
)
"""One direction of a method that has both, as the networks of a one-sided one."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file to import from."""

    path: Path
    role: str | None = None
    """What upstream calls its network (`G_A`); from the file's name unless given."""

    @classmethod
    def of(cls, text: str) -> Source:
        """`FILE`, or `ROLE=FILE` where the file's name says nothing or something wrong.

        >>> Source.of("G_A=pretrained/horse2zebra.pth").role
        'G_A'
        >>> Source.of("runs/x/latest_net_G_A.pth").role is None
        True
        """
        role, equals, path = text.partition("=")
        return (
            cls(path=Path(path), role=role) if equals and role in _ROLES else cls(path=Path(text))
        )


@dataclass(frozen=True, kw_only=True)
class ImportedNetwork:
    """A network of the model, and where it came from."""

    path: Path
    released: str
    """Upstream's name."""
    name: str
    """Ours, in the method."""
    taken: Taken
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ImportedModel:
    """What `import_weights` made of the files."""

    header: ModelHeader
    networks: tuple[ImportedNetwork, ...]
    missing: tuple[str, ...]
    """Networks of the method that no file held. They are left out of the model."""
    can_translate: bool
    notes: tuple[str, ...] = ()

    def tensors(self) -> dict[str, Tensor]:
        """As a model file holds them."""
        return {
            f"{network.name}.{name}": tensor
            for network in self.networks
            for name, tensor in network.taken.tensors.items()
        }

    def save(self, path: Path, *, overwrite: bool = False) -> None:
        """Write the model file, whole or not at all.

        Raises:
            ConfigError: there is one already, and `overwrite` is off.
            StorageError: full disk or no permission.
        """
        check_target(path, overwrite=overwrite)
        with new_file(path, advice="Nothing was changed.") as part:
            write_tensors(part, self.tensors(), self.header.to_metadata())


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace a file that nobody asked to.

    Raises:
        ConfigError: it exists.
    """
    if path.is_dir():
        raise ConfigError(f"`{path}` is a folder; choose another --output.")
    if path.exists() and not overwrite:
        raise ConfigError(
            f"`{path}` exists; replace it with --overwrite, or choose another --output."
        )


def import_weights(
    sources: Sequence[Source],
    *,
    method: str | None = None,
    preset: str | None = None,
    taps: Sequence[int] | None = None,
    size: int = 256,
) -> ImportedModel:
    """The model that the networks in these files are.

    Every tensor is taken, or dropped for a reason that `ImportedNetwork.taken` tells; a file with
    a tensor too many or too few is refused.

    Args:
        sources: a file per network, or one that holds several. Nothing in them is executed.
        method: whose networks they are; inferred from names and kinds unless given.
        preset: of the method, for what no file tells, such as the weights of its losses.
        taps: layers that the projection head reads, if not the published ones.
        size: height and width that the networks were trained at, in pixels.

    Raises:
        CheckpointError: a file cannot be read, is of another family, or does not go with the
            others.
        ConfigError: no such method or preset.
    """
    if not sources:
        raise ConfigError("Nothing to import: give the files of the networks.")
    found: dict[str, ImportedNetwork] = {}
    headers = []
    for source in sources:
        file = read_weight_file(source.path)
        for network in _networks(source, file):
            other = found.get(network.released)
            if other is not None:
                raise CheckpointError(
                    f"`{other.path}` and `{network.path}` both hold {network.released}; give one, "
                    f"or say which is which, as in G_A={network.path}."
                )
            found[network.released] = network
        if file.header is not None:
            headers.append(file.header)
    notes: list[str] = []
    family = _family(method, found, headers)
    found = _renamed(found, family, notes)
    ours = {
        family.networks[role]: replace(network, name=family.networks[role])
        for role, network in found.items()
    }
    _forget_copied_generator(ours, notes)
    base = _base(family, preset, headers)
    networks = {name: network.taken for name, network in ours.items()}
    config = family.configure(base, networks, taps)
    if family.note:
        notes.append(family.note)
    expected = _check(family, config, ours)
    missing = tuple(name for name in expected if name not in ours)
    return ImportedModel(
        header=ModelHeader(method=family.method.name, config=to_plain(config), size=size),
        networks=tuple(ours.values()),
        missing=missing,
        can_translate=not set(missing) & set(family.method.translating),
        notes=tuple(notes),
    )


def model_name(sources: Sequence[Source]) -> str:
    """A name for the model: what a file is called apart from network and epoch, or its folder.

    >>> model_name([Source.of("downloads/horse2zebra.pth")])
    'horse2zebra'
    >>> model_name([Source.of("checkpoints/maps_cut/latest_net_G.pth")])
    'maps_cut'
    """
    path = sources[0].path
    name = _EPOCH_IN_NAME.sub("", _ROLE_IN_NAME.sub("", path.stem)).strip("_-")
    names = (name, *(parent.name for parent in path.absolute().parents))
    return next((name for name in names if name not in _NO_NAMES), "model")


def _networks(source: Source, file: WeightFile) -> Iterator[ImportedNetwork]:
    """What a file holds."""
    if file.header is not None:
        yield from _of_partial_model(source, file, file.header)
        return
    in_name = _ROLE_IN_NAME.search(source.path.stem)
    role = source.role or (in_name[1] if in_name else None)
    inside = look_inside(file.parts[""]) if file.parts.keys() == {""} else Inside()
    if inside.networks and "" not in inside.networks:
        yield from _behind_prefixes(source, file, inside)
        return
    for part, tensors in file.parts.items():
        if part:
            role = _role_of_part(file, part)
        taken = take_from(file.path, tensors, role=role)
        yield ImportedNetwork(
            path=file.path,
            released=role or taken.kind.roles[0],
            name="",
            taken=taken,
            notes=tuple(file.notes),
        )


def _behind_prefixes(source: Source, file: WeightFile, inside: Inside) -> Iterator[ImportedNetwork]:
    """The networks of a Lightning module, or of another that holds several."""
    notes = [*file.notes, *filter(None, [inside.note])]
    for role, (prefix, tensors) in named_networks(inside, source.role, file.path).items():
        taken = take_from(file.path, tensors, role=role)
        yield ImportedNetwork(
            path=file.path,
            released=role,
            name="",
            taken=taken,
            notes=(*notes, f"`{prefix}.` cut off the names"),
        )


def _role_of_part(file: WeightFile, part: str) -> str:
    """The released name of one network of several in a file (MUNIT: `a` and `b`).

    Raises:
        CheckpointError: no network that is known stands in a file under this name.
    """
    try:
        kind = recognize(file.parts[part])
    except CheckpointError as error:
        raise CheckpointError(f"`{file.path}`, part `{part}`, {error}") from error
    for role in kind.roles:
        if role.endswith(f".{part}"):
            return role
    raise CheckpointError(
        f"`{file.path}` holds several networks ({', '.join(file.parts)}), `{part}` a "
        f"{kind.title}: no method that patchkin imports has such files."
    )


def _of_partial_model(
    source: Source, file: WeightFile, header: ModelHeader
) -> Iterator[ImportedNetwork]:
    """The networks of a model that was imported before."""
    if source.role is not None:
        raise CheckpointError(
            f"`{file.path}` is a patchkin model, which names its networks itself; leave out "
            f"`{source.role}=`."
        )
    family = next((family for family in FAMILIES if family.method.name == header.method), None)
    rest = dict(file.parts[""])
    if family is not None:
        config = _config_of(header, family, file.path)
        method = outline(partial(family.method, config), source=f"`{file.path}`")
        for role, name in family.networks.items():
            inside = {key: rest.pop(key) for key in list(rest) if key.startswith(f"{name}.")}
            if inside:
                kind = kind_of(method.get_submodule(name))
                tensors = {
                    kind.released_name(key.removeprefix(f"{name}.")): tensor
                    for key, tensor in inside.items()
                }
                taken = take_from(file.path, tensors, role=role)
                yield ImportedNetwork(path=file.path, released=role, name=name, taken=taken)
    if rest:
        raise CheckpointError(
            f"`{file.path}` is a patchkin model of `{header.method}` already, with more than "
            f"imported networks (first: {min(rest)}); there is nothing to import."
        )


def _config_of(header: ModelHeader, family: Family, path: Path) -> Any:
    return from_plain(family.method.config_type, header.config, where=f"`{path}`")


def _family(
    method: str | None, found: Mapping[str, ImportedNetwork], headers: Sequence[ModelHeader]
) -> Family:
    """The method that was named, or else the first that has such networks."""
    known = {family.method.name: family for family in FAMILIES}
    if method is not None and method not in known:
        raise ConfigError(f"`{method}` is no method with released files. {nearest(method, known)}")
    networks = {role: network.taken for role, network in found.items()}
    one_way = {role: network.taken for role, network in _one_way(found).items()}
    candidates = [known[method]] if method is not None else list(FAMILIES)
    fitting = [
        family
        for given in (one_way, networks)
        for family in candidates
        if given and family.fits(given)
    ]
    for header in headers:
        fitting = [f for f in fitting if f.method.name == header.method] or fitting
    if fitting:
        return fitting[0]
    given = ", ".join(f"{role} ({taken.kind.title})" for role, taken in networks.items())
    if method is not None:
        networks_of = ", ".join(known[method].networks)
        raise CheckpointError(
            f"`{method}` has the networks {networks_of}; these files hold {given}. Name a file's "
            f"network as in {next(iter(known[method].networks))}=FILE."
        )
    raise CheckpointError(
        f"No method has these networks together: {given}. Give the files of one model, each "
        "named as upstream names it (latest_net_G_A.pth) or as in G_A=FILE."
    )


def _one_way(found: Mapping[str, ImportedNetwork]) -> dict[str, ImportedNetwork]:
    """The networks under the names of a one-sided method, if they are one direction of two."""
    for names in _ONE_WAY:
        generator = next(iter(names))
        if generator in found and found.keys() <= names.keys():
            return {names[role]: network for role, network in found.items()}
    return {}


def _renamed(
    found: dict[str, ImportedNetwork], family: Family, notes: list[str]
) -> dict[str, ImportedNetwork]:
    """The networks by their names in the family's released files."""
    if found.keys() <= family.networks.keys():
        return found
    notes.append(
        f"{', '.join(found)} translate one way, so this is a model of `{family.method.name}`; for "
        "both directions give G_A and G_B together"
    )
    return _one_way(found)


def _forget_copied_generator(ours: dict[str, ImportedNetwork], notes: list[str]) -> None:
    """GcGAN's released code saves G_AB's weights in G_gc_AB's file too."""
    if not {"G", "G_gc"} <= ours.keys():
        return
    first, second = ours["G"].taken.tensors, ours["G_gc"].taken.tensors
    if first.keys() == second.keys() and all(first[n].equal(second[n]) for n in first):
        del ours["G_gc"]
        notes.append(
            "G_gc_AB holds G_AB's weights, as the released code saves it; the second generator "
            "is lost, and left out"
        )


def _base(family: Family, preset: str | None, headers: Sequence[ModelHeader]) -> Any:
    """What no file tells: of the preset, of a model imported before, or of the first preset."""
    presets = family.method.presets
    if preset is not None:
        if preset not in presets:
            raise ConfigError(
                f"`{family.method.name}` has no preset `{preset}`. {nearest(preset, presets)}"
            )
        return presets[preset].method
    for header in headers:
        if header.method == family.method.name:
            return from_plain(family.method.config_type, header.config)
    return next(iter(presets.values())).method


def _check(family: Family, config: Any, ours: Mapping[str, ImportedNetwork]) -> list[str]:
    """The networks that the method has with this configuration; those given must fit.

    Raises:
        CheckpointError: one does not.
    """
    method = outline(partial(family.method, config), source="What the files tell")
    expected = []
    for name in family.networks.values():
        with contextlib.suppress(AttributeError):  # a network that this configuration is without
            if method.get_submodule(name).state_dict():
                expected.append(name)
    for name, network in ours.items():
        shapes = {n: t.shape for n, t in method.get_submodule(name).state_dict().items()}
        tensors = {n: t.shape for n, t in network.taken.tensors.items()}
        unlike = sorted(
            n for n in shapes.keys() | tensors.keys() if shapes.get(n) != tensors.get(n)
        )
        if unlike:
            raise CheckpointError(
                f"`{network.path}` does not go with the other files: as {name} of "
                f"`{family.method.name}` its `{unlike[0]}` must be "
                f"{_shape(shapes.get(unlike[0]))}; got {_shape(tensors.get(unlike[0]))}."
            )
    return expected


def _shape(size: torch.Size | None) -> str:
    return "absent" if size is None else str(tuple(size))
