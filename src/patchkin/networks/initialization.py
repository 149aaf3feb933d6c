"""Initial weights of the convolutional networks and of the projection head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from patchkin.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class InitConfig:
    """Defaults are CUT's, for all three networks; CycleGAN's are `normal` with the same gain."""

    kind: Literal["xavier", "normal", "kaiming", "orthogonal"] = "xavier"
    """Distribution of the weights of convolutions and linear layers."""
    gain: float = 0.02
    """xavier: N(0, gain^2 * 2 / (fan_in + fan_out)); normal: N(0, gain^2); a factor for orthogonal;
    unused by kaiming. At 0.02 with xavier the head's outputs are 1e-5 to 1e-2 long before they are
    scaled to 1, so the start of training depends on it."""

    def __post_init__(self) -> None:
        if self.gain <= 0:
            raise ConfigError(f"`gain` must be positive; got {self.gain}.")


def initialize(
    module: nn.Module, config: InitConfig | None = None, generator: torch.Generator | None = None
) -> None:
    """Draw all weights of `module` anew, in place.

    Convolutions and linear layers as `config` says, their biases 0; scales of batch norm from
    N(1, gain^2), their shifts 0 (CycleGAN's `init_net`).

    Args:
        module: a network on the generator's device.
        config: the distribution; CUT's by default.
        generator: source of the draws; torch's global one by default.

    >>> layer = nn.Linear(100, 300)
    >>> initialize(layer, InitConfig(kind="xavier", gain=1.0), torch.Generator().manual_seed(0))
    >>> round(layer.weight.std().item(), 3), layer.bias.abs().max().item()  # sqrt(2 / 400)
    (0.071, 0.0)
    """
    config = config or InitConfig()
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            _draw(layer.weight, config, generator)
        elif isinstance(layer, nn.BatchNorm2d) and layer.affine:
            nn.init.normal_(layer.weight, 1.0, config.gain, generator=generator)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _draw(weight: Tensor, config: InitConfig, generator: torch.Generator | None) -> None:
    match config.kind:
        case "xavier":
            nn.init.xavier_normal_(weight, gain=config.gain, generator=generator)
        case "normal":
            nn.init.normal_(weight, 0.0, config.gain, generator=generator)
        case "kaiming":
            nn.init.kaiming_normal_(weight, a=0, mode="fan_in", generator=generator)
        case "orthogonal":
            nn.init.orthogonal_(weight, gain=config.gain, generator=generator)
