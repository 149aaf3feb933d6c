"""What a kind of released network is: how to know it from names and shapes, and how to build it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from patchkin.config import to_plain
from patchkin.errors import CheckpointError, ConfigError
from patchkin.networks import BlurDownsample, BlurUpsample, InstanceNorm2d
from patchkin.networks.resampling import binomial_filter
from patchkin.storage.outlines import outline

Shape = tuple[int, ...]
Layout = Mapping[str, Shape]
"""Names and shapes of the tensors of a network, as released."""

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def unchanged(name: str) -> str:
    """The same name."""
    return name


@dataclass(frozen=True, kw_only=True)
class NetworkKind:
    """A network that released files hold.

    Names of tensors are those of the released file (`released`) or of our network (`ours`).
    """

    title: str
    """What a user calls it."""
    roles: tuple[str, ...]
    """The names that released files give such a network (`G_A` of `latest_net_G_A.pth`); the first
    is taken where a file has none."""
    network: type[nn.Module]
    signature: Callable[[Layout], bool]
    """Whether these are tensors of such a network. The first kind that says so is taken."""
    configure: Callable[[Layout], Any]
    """Its configuration, from the shapes. May raise `CheckpointError` without a file's name."""
    build: Callable[[Any], nn.Module]
    released_name: Callable[[str], str] = unchanged
    """Ours -> released."""
    current_name: Callable[[str], str] = unchanged
    """Released under an older name -> released."""
    fixed: Callable[[nn.Module], dict[str, Tensor]] = field(default_factory=lambda: blur_filters)
    """Constants in a released file that our network makes anew, by released name."""
    unused: Callable[[nn.Module, str], str] = field(default_factory=lambda: norm_statistics)
    """Why a released tensor is of no use to the network; empty if it is not known to be so."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A network out of a file, every tensor accounted for."""

    kind: NetworkKind
    config: Any
    tensors: dict[str, Tensor]
    """By our names."""
    dropped: dict[str, str]
    """Tensors of the file that our network has no place for -> why."""
    filled: dict[str, str]
    """Tensors that some files have and this one has not -> where they come from."""

    @property
    def options(self) -> dict[str, Any]:
        """What the shapes told about the network."""
        return dict(to_plain(self.config))

    def module(self) -> nn.Module:
        """The network with these weights, in evaluation mode."""
        network = self.kind.build(self.config)
        network.load_state_dict(self.tensors)
        return network.eval()


def take(kind: NetworkKind, tensors: Mapping[str, Tensor]) -> Taken:
    """The network of this kind, sized as its tensors are.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape. One sentence, without
            the name of the file.
    """
    released = {kind.current_name(name): tensor for name, tensor in tensors.items()}
    try:
        config = kind.configure({name: tuple(t.shape) for name, t in released.items()})
    except ConfigError as error:
        raise CheckpointError(f"is no {kind.title} that can be built: {error}") from error
    network = outline(partial(kind.build, config), source=f"as a {kind.title}")
    fixed = kind.fixed(network)
    expected = {kind.released_name(name): name for name in network.state_dict()}
    shapes = {name: tuple(network.state_dict()[ours].shape) for name, ours in expected.items()}

    dropped, unexpected, unlike = {}, [], []
    for name in sorted(released.keys() - expected.keys()):
        tensor = released[name]
        if name in fixed and tensor.shape != fixed[name].shape:
            unlike.append(f"{name} {tuple(tensor.shape)} for {tuple(fixed[name].shape)}")
        elif name in fixed and not torch.allclose(tensor.float(), fixed[name], atol=1e-6):
            raise CheckpointError(
                f"is no {kind.title} that patchkin knows: the fixed filter `{name}` is another one."
            )
        elif name in fixed:
            dropped[name] = "fixed blur filter, made anew"
        elif reason := kind.unused(network, name):
            dropped[name] = reason
        else:
            unexpected.append(name)
    filled = {name: "fixed blur filter, made anew" for name in fixed if name not in released}
    missing = []
    taken = {}
    for name, ours in expected.items():
        if name not in released and name.endswith("num_batches_tracked"):
            taken[ours] = torch.zeros((), dtype=torch.int64)
            filled[name] = "counter of batches, from 0; no output depends on it"
        elif name not in released:
            missing.append(name)
        elif tuple(released[name].shape) != shapes[name]:
            unlike.append(f"{name} {tuple(released[name].shape)} for {shapes[name]}")
        elif released[name].dtype != network.state_dict()[ours].dtype:
            unlike.append(f"{name} as {released[name].dtype}")
        else:
            taken[ours] = released[name]
    problems = [
        f"{len(names)} {what} ({_first(names)})"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", unlike),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"looks like a {kind.title} but does not fit one: tensors {', '.join(problems)}."
        )
    return Taken(kind=kind, config=config, tensors=taken, dropped=dropped, filled=filled)


def _first(names: list[str]) -> str:
    """A few names.

    >>> _first(["a", "b", "c", "d"])
    'a, b, c, ...'
    """
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def norm_statistics(network: nn.Module, name: str) -> str:
    """Why the running statistics of an instance norm are dropped; empty for other tensors.

    Files of PyTorch before 0.4 have them. They were never used: the norm takes its statistics from
    the image.
    """
    owner, _, last = name.rpartition(".")
    if last not in _STATISTICS:
        return ""
    try:
        is_ours = isinstance(network.get_submodule(owner), InstanceNorm2d)
    except AttributeError:
        return ""
    return "running statistics of an instance norm, which uses the image's" if is_ours else ""


def blur_filters(network: nn.Module) -> dict[str, Tensor]:
    """The filters of CUT's antialiased layers, as its files hold them.

    >>> from patchkin.networks import PatchGAN, PatchGANConfig
    >>> filters = blur_filters(PatchGAN(PatchGANConfig(ndf=4)))
    >>> {name: tuple(tensor.shape) for name, tensor in filters.items()}
    {'model.2.filt': (4, 1, 3, 3), 'model.6.filt': (8, 1, 3, 3), 'model.10.filt': (16, 1, 3, 3)}
    """
    filters = {}
    for path, sequence in network.named_modules():
        if not isinstance(sequence, nn.Sequential):
            continue
        layers = list(sequence)
        for index, layer in enumerate(layers):
            if isinstance(layer, BlurDownsample):
                blur, channels = binomial_filter(layer.taps), layer.channels
            elif isinstance(layer, BlurUpsample):
                blur = 4 * binomial_filter(4)  # each output pixel is reached by a quarter of it
                channels = _channels_into(layers[index:])
            else:
                continue
            filters[f"{path}.{index}.filt"] = blur.expand(channels, 1, -1, -1)  # takes no memory
    return filters


def _channels_into(layers: list[nn.Module]) -> int:
    return next(layer.in_channels for layer in layers if isinstance(layer, nn.Conv2d))


def shape_of(layout: Layout, name: str, dimensions: int) -> Shape:
    """The shape of a tensor that must be there.

    Raises:
        CheckpointError: it is not, or has another number of dimensions.
    """
    if name not in layout:
        raise CheckpointError(f"lacks the tensor `{name}`.")
    if len(layout[name]) != dimensions:
        raise CheckpointError(
            f"has `{name}` of shape {layout[name]}; expected are {dimensions} dimensions."
        )
    return layout[name]


def numbers(layout: Layout, pattern: str) -> list[int]:
    r"""The different numbers that the pattern's group finds in names, ascending.

    >>> numbers({"model.10.weight": (1,), "model.2.bias": (1,)}, r"model\.(\d+)\.")
    [2, 10]
    """
    matches = (re.match(pattern, name) for name in layout)
    return sorted({int(match[1]) for match in matches if match})
