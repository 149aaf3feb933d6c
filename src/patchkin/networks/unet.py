"""The U-Net generator of pix2pix (Isola et al. 2017, Sec. 6.1.1).

Every level halves the map, hands it to the level inside it, doubles what comes back, and passes its
own input on beside it. Layer names are those of the released network, so its weights load by name:

    model.model.0              convolution of the outermost level
    model.model.1              the level inside, `.model.` of its own
    model.model.1.model.{1,5}  convolution and transposed convolution of the second level, ...

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from patchkin.config import check_halvings, flag
from patchkin.errors import ConfigError, ShapeError
from patchkin.networks.normalization import (
    NormKind,
    contiguous_gradient,
    norm_layer,
    uses_bias,
)
from patchkin.networks.whole_batch import BatchNorm2d, Dropout
from patchkin.networks.whole_image import given_moments, normalized_by

_KERNEL = 4
_SLOPE = 0.2
_WIDEST = 8
_FIRST_DROPOUT_LEVEL = 4
_TAPPED_LEVELS = 6
UNET_TAPS = (
    "model.model.1.model.3.model.0",
    "model.model.1.model.3.model.3.model.3.model.0",
    "model.model.1.model.3.model.3.model.4",
    "model.model.1.model.4",
)
"""Rectifiers of a plain U-Net whose maps OMGD compares, widths 2, 8, 16 and 4 times `ngf`."""
UNET_TAP_WIDTHS = (2, 8, 16, 4)


@dataclass(frozen=True, kw_only=True, slots=True)
class UNetConfig:
    """Defaults are pix2pix's generator for 256 pixels: 54,413,955 parameters."""

    in_channels: int = 3
    """Channels of the source domain."""
    out_channels: int = 3
    """Channels of the target domain."""
    ngf: Annotated[int, flag("--ngf")] = 64
    """Channels at half resolution; each level doubles them, up to eight times."""
    levels: int = 8
    """Halvings: 8 for 256 pixels, 7 for 128 (released: unet_256, unet_128). Sides must be multiples
    of 2^levels."""
    norm: NormKind = "batch"
    """Batch norm, with batches of one image: statistics of the image itself."""
    dropout: bool = True
    """Drop half of the values of the inner levels, pix2pix's only source of randomness."""
    dropout_at_test: bool = False
    """Go on dropping when translating, as paper and released test script do (they see little
    randomness from it). Off, the same image gives the same translation."""
    statistics_at_test: Literal["image", "running"] = "image"
    """With batch norm: normalise by the image's own statistics when translating, as the published
    results, or by those collected in training."""

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "ngf"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if self.levels < 2:
            raise ConfigError(f"`levels` must be at least 2; got {self.levels}.")
        check_halvings(self, "levels")


_Layers = Callable[[int], list[nn.Module]]
"""Layers of a width."""


def _no_layers(width: int) -> list[nn.Module]:
    return []


class UNet(nn.Module):
    """A generator with a connection across at every resolution.

    Args:
        config: its sizes.
        behind: makes further layers of a width, which stand behind the halving and the doubling of
            every level but the innermost; before the last ReLU of the outermost. None unless given.

    >>> generator = UNet(UNetConfig(ngf=2, levels=3))
    >>> generator(torch.zeros(1, 3, 16, 24)).shape, generator.multiple_of
    (torch.Size([1, 3, 16, 24]), 8)
    """

    sees_whole_image: ClassVar[bool] = True
    """At its innermost level a map has few places; see `Method.tiling_faults`."""
    multiple_of: int
    """Sides must be multiples of this."""
    min_size: int
    """Shortest side."""

    def __init__(self, config: UNetConfig | None = None, *, behind: _Layers | None = None) -> None:
        super().__init__()
        self.config = config = config or UNetConfig()
        self.multiple_of = self.min_size = 2**config.levels
        self.model = _Level(config, level=0, behind=behind or _no_layers)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Translate `x_BCHW`.

        Raises:
            ShapeError: if the channels are not `in_channels` or a side is no multiple of
                `multiple_of`.
        """
        if not torch.compiler.is_compiling():
            self._check(x_BCHW)
        y_BCHW: Tensor = self.model(x_BCHW)
        return y_BCHW

    def forward_with_taps(self, x_BCHW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The translation, and the four maps that OMGD compares: what the halvings of the third and
        the fifth level are given, and the doublings of the fourth and the second, rectified.

        They have 2, 8, 16 and 4 times `ngf` channels. There must be at least six levels.

        Raises:
            ConfigError: there are fewer.
            ShapeError: as `forward`.
        """
        if self.config.levels < _TAPPED_LEVELS:
            raise ConfigError(
                f"The maps of a U-Net are compared from {_TAPPED_LEVELS} `levels` on; got "
                f"{self.config.levels}."
            )
        maps: dict[str, Tensor] = {}
        hooks = [
            self.get_submodule(tap).register_forward_hook(
                lambda _, inputs, output, tap=tap: maps.update({tap: output})
            )
            for tap in UNET_TAPS
        ]
        try:
            y_BCHW = self(x_BCHW)
        finally:
            for hook in hooks:
                hook.remove()
        return y_BCHW, [maps[tap] for tap in UNET_TAPS]

    def _check(self, x_BCHW: Tensor) -> None:
        if x_BCHW.ndim != 4 or x_BCHW.shape[1] != self.config.in_channels:
            raise ShapeError(
                f"`x_BCHW` must be [B, {self.config.in_channels}, H, W] for this generator; "
                f"got {tuple(x_BCHW.shape)}."
            )
        height, width = x_BCHW.shape[2:]
        if height % self.multiple_of or width % self.multiple_of:
            raise ShapeError(
                f"A U-Net of {self.config.levels} levels takes sides that are multiples of "
                f"{self.multiple_of}; got {height} x {width}. Use a `size` that is, or fewer "
                "`levels`."
            )


class _Level(nn.Module):
    """Halve, go inside, double; all but the outermost pass their input on beside the result."""

    def __init__(self, config: UNetConfig, level: int, behind: _Layers) -> None:
        super().__init__()
        self.outermost = level == 0
        innermost = level == config.levels - 1
        width_in = min(2 ** (level - 1), _WIDEST) * config.ngf if level else config.in_channels
        width_out = config.out_channels if self.outermost else width_in
        width = min(2**level, _WIDEST) * config.ngf
        bias = uses_bias(config.norm)
        halve = nn.Conv2d(width_in, width, _KERNEL, stride=2, padding=1, bias=bias)
        double = nn.ConvTranspose2d(
            width if innermost else 2 * width,
            width_out,
            _KERNEL,
            stride=2,
            padding=1,
            bias=bias or self.outermost,
        )
        inside = [] if innermost else [_Level(config, level + 1, behind)]
        layers: list[nn.Module]
        if self.outermost:
            layers = [halve, *behind(width), *inside, *behind(2 * width), nn.ReLU(), double]
            layers.append(nn.Tanh())
        else:
            layers = [nn.LeakyReLU(_SLOPE), halve]
            layers += [] if innermost else [_norm(config, width), *behind(width)]
            layers += [*inside, nn.ReLU(), double, _norm(config, width_out)]
            layers += [] if innermost else behind(width_out)
            if config.dropout and level >= _FIRST_DROPOUT_LEVEL and not innermost:
                layers.append(_Dropout(at_test=config.dropout_at_test))
        self.model = nn.Sequential(*layers)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The released network rectifies x in place, which the ReLU after it makes no matter."""
        y_BCHW: Tensor = self.model(x_BCHW)
        return y_BCHW if self.outermost else torch.cat([x_BCHW, y_BCHW], dim=1)


class _ImageStatisticsBatchNorm2d(BatchNorm2d):
    """Batch norm that in evaluation takes each image for a batch of its own."""

    whole_image: ClassVar[bool] = True

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            return super().forward(input)
        moments = given_moments(input)
        if moments is not None:
            return normalized_by(
                input, moments, weight_C=self.weight, bias_C=self.bias, epsilon=self.eps
            )
        y_BCHW = nnf.instance_norm(input, weight=self.weight, bias=self.bias, eps=self.eps)
        if y_BCHW.requires_grad and torch.is_grad_enabled():
            y_BCHW = contiguous_gradient(y_BCHW)  # see InstanceNorm2d
        return y_BCHW


class _Dropout(Dropout):
    """Drops half of the values while training, and afterwards too if `at_test`."""

    def __init__(self, *, at_test: bool) -> None:
        super().__init__()
        self.at_test = at_test

    def forward(self, input: Tensor) -> Tensor:
        if self.at_test and not self.training:
            return nnf.dropout(input, self.p)
        return super().forward(input)


def _norm(config: UNetConfig, channels: int) -> nn.Module:
    if config.norm == "batch" and config.statistics_at_test == "image":
        return _ImageStatisticsBatchNorm2d(channels)
    return norm_layer(config.norm, channels)
