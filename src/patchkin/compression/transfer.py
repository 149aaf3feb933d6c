"""Narrower generators that start from the weights of wider ones (GAN Compression's pruning).

The output channels of a layer are ranked by the sum of their absolute weights over the channels
that are kept of its input; the first so many stay, in that order. All blocks must give the channels
of the trunk in one order, so their second convolution is not ranked. At equal widths this only
reorders channels and leaves the function as it is, but it puts the important channels first, which
is where a supernet slices.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from patchkin.errors import ConfigError
from patchkin.networks.separable import (
    Channels,
    SeparableBlock,
    SeparableConv,
    SeparableGenerator,
    format_channels,
)
from patchkin.networks.supernet import Supernet


@torch.no_grad()
def transfer_weights(
    source: SeparableGenerator | Supernet, target: SeparableGenerator | Supernet
) -> None:
    """Fill a generator or supernet from a wider one, its most important channels first.

    Args:
        source: the wider one; left as it is.
        target: as wide or narrower in every layer; its weights are replaced.

    Raises:
        ConfigError: the target is wider somewhere, or has other image channels.

    >>> wide, narrow = SeparableGenerator((8,) * 8), SeparableGenerator((5,) * 8)
    >>> transfer_weights(wide, narrow)
    >>> strength_C = wide.model[1].weight.abs().sum(dim=(1, 2, 3))
    >>> bool((narrow.model[1].weight[0] == wide.model[1].weight[strength_C.argmax()]).all())
    True
    """
    _check(source.channels, target.channels)
    if (source.in_channels, source.out_channels) != (target.in_channels, target.out_channels):
        raise ConfigError(
            "Weights can be transferred between generators of the same images only; got "
            f"{source.in_channels} -> {source.out_channels} channels and {target.in_channels} -> "
            f"{target.out_channels}."
        )
    kept = torch.arange(source.in_channels, device=next(source.parameters()).device)
    layers = list(zip(source.model, target.model, strict=True))
    last = max(place for place, (layer, _) in enumerate(layers) if isinstance(layer, nn.Conv2d))
    for place, (wide, narrow) in enumerate(layers):
        if isinstance(wide, (nn.Conv2d, nn.ConvTranspose2d)):
            assert isinstance(narrow, (nn.Conv2d, nn.ConvTranspose2d))
            outputs = torch.arange(wide.out_channels, device=kept.device)
            kept = _convolution(wide, narrow, kept, outputs if place == last else None)
        elif isinstance(wide, SeparableBlock):
            assert isinstance(narrow, SeparableBlock)
            first, second = (_pair(wide, narrow, place) for place in (1, 6))
            inner = _separable(*first, kept, None)
            _separable(*second, inner, kept)


def _check(source: Channels, target: Channels) -> None:
    if any(narrow > wide for wide, narrow in zip(source, target, strict=True)):
        raise ConfigError(
            f"Weights go from wide to narrow; got {format_channels(source)} -> "
            f"{format_channels(target)}."
        )


def _pair(
    wide: SeparableBlock, narrow: SeparableBlock, place: int
) -> tuple[SeparableConv, SeparableConv]:
    pair = wide.conv_block[place], narrow.conv_block[place]
    assert isinstance(pair[0], SeparableConv)
    assert isinstance(pair[1], SeparableConv)
    return pair[0], pair[1]


def _separable(
    wide: SeparableConv, narrow: SeparableConv, inputs: Tensor, outputs: Tensor | None
) -> Tensor:
    """Both of its convolutions; returns the outputs that are kept."""
    for name in ("weight", "bias"):
        narrow.conv[0].get_parameter(name).copy_(wide.conv[0].get_parameter(name)[inputs])
    pointwise, target = wide.conv[2], narrow.conv[2]
    assert isinstance(pointwise, nn.Conv2d)
    assert isinstance(target, nn.Conv2d)
    return _convolution(pointwise, target, inputs, outputs)


def _convolution(
    wide: nn.Conv2d | nn.ConvTranspose2d,
    narrow: nn.Conv2d | nn.ConvTranspose2d,
    inputs: Tensor,
    outputs: Tensor | None,
) -> Tensor:
    """Copy what is kept; unless told which outputs these are, the strongest. Returns them."""
    in_axis, out_axis = (0, 1) if isinstance(wide, nn.ConvTranspose2d) else (1, 0)
    weight = wide.weight.index_select(in_axis, inputs)
    if outputs is None:
        other_axes = [axis for axis in range(4) if axis != out_axis]
        strength_C = weight.abs().sum(dim=other_axes)
        outputs = strength_C.sort(descending=True, stable=True).indices[: narrow.out_channels]
    narrow.weight.copy_(weight.index_select(out_axis, outputs))
    assert wide.bias is not None
    assert narrow.bias is not None
    narrow.bias.copy_(wide.bias[outputs])
    return outputs
