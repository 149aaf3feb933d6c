"""The kinds of networks that released files hold, and which of them an unnamed file is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from patchkin.errors import CheckpointError
from patchkin.upstream.compressed import COMPRESSED
from patchkin.upstream.discriminators import PATCHGAN, PIXEL
from patchkin.upstream.files import read_weight_file
from patchkin.upstream.generators import RESNET, UNET
from patchkin.upstream.heads import GRAPHS, NEGATIVES, PREDICTOR, PROJECTION, SELECTOR, SUMMARY
from patchkin.upstream.kinds import Layout, NetworkKind, Taken, take
from patchkin.upstream.munit import MUNIT_DISCRIMINATOR, MUNIT_GENERATOR
from patchkin.upstream.starganv2 import STARGAN_KINDS
from patchkin.upstream.stylegan2 import STYLEGAN2_DISCRIMINATOR, STYLEGAN2_GENERATOR

KINDS: tuple[NetworkKind, ...] = (
    COMPRESSED,
    RESNET,
    UNET,
    PATCHGAN,
    PIXEL,
    SUMMARY,
    PREDICTOR,
    GRAPHS,
    NEGATIVES,
    PROJECTION,
    SELECTOR,
    STYLEGAN2_GENERATOR,
    STYLEGAN2_DISCRIMINATOR,
    MUNIT_GENERATOR,
    MUNIT_DISCRIMINATOR,
    *STARGAN_KINDS,
)
"""In the order in which a file is asked: narrower signatures first."""

_GENERATOR_TITLES = tuple(
    dict.fromkeys(
        kind.title for kind in (RESNET, UNET, STYLEGAN2_GENERATOR, MUNIT_GENERATOR, COMPRESSED)
    )
)

_STRANGERS: tuple[tuple[str, tuple[int, ...], str], ...] = (
    ("model.0.weight", (7, 7), "a network padded with zeros, such as DistanceGAN's generator"),
    ("head_0.conv_0.weight", (), "GauGAN's generator"),
    ("head_0.conv_0.weight_orig", (), "GauGAN's generator"),
    ("mlp.0.weight", (), "a header network that compression trains with"),
    ("weight", (), "one layer alone, such as an adaptor that compression trains with"),
    ("features.0.weight", (), "a classifier"),
    ("conv1.weight", (), "a classifier"),
)
"""What a file without a known network may be, by a tensor that it has, and its kernel."""


def recognize(tensors: Mapping[str, Tensor], role: str | None = None) -> NetworkKind:
    """The kind of network that these tensors are, by names and shapes.

    Args:
        tensors: of one network.
        role: what the file's name calls it (`G_A`), if anything.

    Raises:
        CheckpointError: none that is known, or one that cannot have this name.
    """
    layout: Layout = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    fitting = [kind for kind in KINDS if kind.signature(layout)]
    if not fitting:
        stranger = next(
            (
                what
                for name, kernel, what in _STRANGERS
                if name in layout and layout[name][2 : 2 + len(kernel)] == kernel
            ),
            None,
        )
        raise CheckpointError(
            f"holds {stranger}, which patchkin does not import."
            if stranger
            else f"holds no network that patchkin knows: {len(layout)} tensors, the first of them "
            f"`{min(layout)}`. It would need those of a {_or(_GENERATOR_TITLES)}, or of a network "
            "trained with one, under the names of the released code."
        )
    named = [kind for kind in fitting if role in kind.roles]
    if role and not named:
        raise CheckpointError(
            f"is called {role} but holds a {fitting[0].title}; if the name is wrong, give the "
            f"file as {fitting[0].roles[0]}=FILE."
        )
    return (named or fitting)[0]


def _or(names: Sequence[str]) -> str:
    """In a sentence.

    >>> _or(["a", "b", "c"])
    'a, b or c'
    """
    return f"{', '.join(names[:-1])} or {names[-1]}"


def is_known(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are tensors of a kind of network that is known.

    >>> import torch
    >>> is_known({"head.weight": torch.zeros(2)})
    False
    """
    layout: Layout = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return any(kind.signature(layout) for kind in KINDS)


def kind_of(network: nn.Module) -> NetworkKind:
    """The kind that a network of ours is released as.

    Raises:
        CheckpointError: no upstream project has such a network.
    """
    for kind in KINDS:
        if type(network) is kind.network:
            return kind
    raise CheckpointError(f"No upstream project has a network like {type(network).__name__}.")


def released_weights(network: nn.Module) -> dict[str, Tensor]:
    """A network's weights under the names of the released files, fixed filters included.

    The way back: what upstream code loads with `load_state_dict`.

    >>> from patchkin.networks import ProjectionHead
    >>> list(released_weights(ProjectionHead([3], width=4)))
    ['mlp_0.0.weight', 'mlp_0.0.bias', 'mlp_0.2.weight', 'mlp_0.2.bias']
    """
    kind = kind_of(network)
    weights = {kind.released_name(name): tensor for name, tensor in network.state_dict().items()}
    fixed = {name: tensor.contiguous() for name, tensor in kind.fixed(network).items()}
    return weights | fixed


def read_network(
    file: str | Path, *, role: str | None = None, part: str | None = None
) -> nn.Module:
    """The network that an upstream file holds, in evaluation mode.

    Args:
        file: `.pth`, `.pt` or `.safetensors`. Nothing in it is executed.
        role: what upstream calls the network (`N`), where names and shapes leave a choice.
        part: which network, of a file that holds several.

    Raises:
        CheckpointError: it cannot be read, or holds no network that is known. One line.
    """
    path = Path(file)
    parts = read_weight_file(path).parts
    if part is None and len(parts) == 1:
        part = next(iter(parts))
    if part not in parts:
        raise CheckpointError(
            f"`{path}` holds several networks ({', '.join(parts)}); say which `part` to read."
        )
    return take_from(path, parts[part], role=role).module()


def take_from(path: Path, tensors: Mapping[str, Tensor], *, role: str | None) -> Taken:
    """The network that tensors of a file are, with the file's name in what is wrong with it.

    Raises:
        CheckpointError: as `recognize` and `take`.
    """
    try:
        return take(recognize(tensors, role), tensors)
    except CheckpointError as error:
        raise CheckpointError(f"`{path}` {error}") from error
