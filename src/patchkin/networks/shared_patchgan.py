"""The discriminator of two generators at once (OMGD; Ren et al., ICCV 2021).

Two PatchGANs whose layers are one from the outside in, as far as is wanted. Layer names are those
of the released network, `block{1..5}s.{0,1}.block.{0,1,2}`, of which it has also those that are
never used; here they are not there.

Shape suffixes: B images, C channels, H and W pixels, h and w patches.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor, nn

from patchkin.errors import ConfigError
from patchkin.networks.normalization import norm_layer, uses_bias
from patchkin.networks.patchgan import PatchGANConfig

_WIDTHS = (1, 2, 4, 8)
_HALVINGS = 3
SHARED_BLOCKS = len(_WIDTHS) + 1
"""Blocks of a branch: all of them shared make one discriminator."""


class _Block(nn.Module):
    """A 4 x 4 convolution, perhaps a norm, perhaps a LeakyReLU."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.block = nn.Sequential(*layers)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW: Tensor = self.block(x_BCHW)
        return y_BCHW


class SharedPatchGAN(nn.Module):
    """Branch 0 judges the wider teacher, branch 1 the deeper one; shared blocks are branch 1's.

    Args:
        config: of each branch, a PatchGAN of three halvings without antialiasing.
        shared: blocks that both branches have in common, 0 to 5 counted from the image on.

    >>> import torch
    >>> network = SharedPatchGAN(PatchGANConfig(ndf=2, in_channels=6, antialias=False), shared=4)
    >>> network(torch.zeros(1, 6, 64, 32), branch=0).shape
    torch.Size([1, 1, 6, 2])
    """

    min_size: int
    """Shortest side that yields a logit."""

    def __init__(self, config: PatchGANConfig, shared: int) -> None:
        super().__init__()
        if not 0 <= shared <= SHARED_BLOCKS:
            raise ConfigError(f"A discriminator shares 0 to {SHARED_BLOCKS} blocks; got {shared}.")
        if config.kind != "basic" or config.layers != _HALVINGS or config.antialias:
            raise ConfigError(
                "The discriminator of two teachers is the basic one of 3 `layers` without "
                f"`antialias`; got {config.kind}, {config.layers}, {config.antialias}."
            )
        if config.features != "none":
            raise ConfigError("The discriminator of two teachers judges without `features`.")
        self.min_size = 3 * 2**_HALVINGS
        self.shared = shared
        for place in range(SHARED_BLOCKS):
            branches = ("1",) if place < shared else ("0", "1")
            blocks = nn.ModuleDict({branch: _block(config, place) for branch in branches})
            self.add_module(f"block{place + 1}s", blocks)

    def forward(self, x_BCHW: Tensor, branch: int = 1) -> Tensor:
        """Logits [B, 1, h, w] of a branch, one per patch."""
        for block in self._branch(branch):
            x_BCHW = block(x_BCHW)
        return x_BCHW

    def rectified(self, x_BCHW: Tensor, branch: int = 1) -> list[Tensor]:
        """The maps behind the rectifiers of a branch, as `PatchGAN.rectified`."""
        maps: list[Tensor] = []
        for block in list(self._branch(branch))[:-1]:
            x_BCHW = block(x_BCHW)
            maps.append(x_BCHW)
        return maps

    def _branch(self, branch: int) -> Iterator[nn.Module]:
        for place in range(SHARED_BLOCKS):
            blocks = self.get_submodule(f"block{place + 1}s")
            assert isinstance(blocks, nn.ModuleDict)
            yield blocks["1" if place < self.shared else str(branch)]


def _block(config: PatchGANConfig, place: int) -> _Block:
    widths = [config.in_channels, *(factor * config.ndf for factor in _WIDTHS), 1]
    width_in, width = list(pairwise(widths))[place]
    first, last = place == 0, place == SHARED_BLOCKS - 1
    bias = first or last or uses_bias(config.norm)
    stride = 2 if place < _HALVINGS else 1
    layers: list[nn.Module] = [nn.Conv2d(width_in, width, 4, stride=stride, padding=1, bias=bias)]
    if not first and not last:
        layers.append(norm_layer(config.norm, width))
    if not last:
        layers.append(nn.LeakyReLU(0.2))
    return _Block(*layers)
