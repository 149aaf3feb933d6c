"""The ResNet generator of CycleGAN and CUT, and the taps that patch losses read.

`ResNetGenerator.model` is one flat sequence whose indices are those of the released networks, so
released weights load by name and `taps` mean what they mean in the papers:

    0             reflection padding 3
    1, 2, 3       convolution 7x7, norm, ReLU
    4 ...         two stages: convolution 3x3, norm, ReLU, BlurDownsample   (antialiased)
                  or convolution 3x3 with stride 2, norm, ReLU
    12 or 10 ...  residual blocks
    ...           two stages: BlurUpsample, convolution 3x3, norm, ReLU     (antialiased)
                  or transposed convolution 3x3, norm, ReLU
    last three    reflection padding 3, convolution 7x7, tanh

With `output` change (ours) the tanh gives way to a sum with the input, clamped to [-1, 1].

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from patchkin.config import flag
from patchkin.errors import ConfigError, ShapeError
from patchkin.networks.cpu.winograd import Conv3x3
from patchkin.networks.normalization import NormKind, apply_layers, norm_layer, uses_bias
from patchkin.networks.resampling import BlurDownsample, BlurUpsample, ReflectionPad2d
from patchkin.networks.whole_batch import Dropout


@dataclass(frozen=True, kw_only=True, slots=True)
class ResNetConfig:
    """Defaults are CUT's generator: 11,378,179 parameters."""

    in_channels: int = 3
    """Channels of the source domain."""
    out_channels: int = 3
    """Channels of the target domain."""
    ngf: Annotated[int, flag("--ngf")] = 64
    """Channels at full resolution; four times as many in the residual blocks."""
    blocks: Annotated[int, flag("--blocks")] = 9
    """Residual blocks: 9 for 256 pixels, 6 for 128 (CycleGAN); CUT uses 9 throughout."""
    norm: NormKind = "instance"
    """After every convolution but the last."""
    antialias_down: bool = True
    """Blur before subsampling (CUT); CycleGAN strides the convolution instead."""
    antialias_up: bool = True
    """Enlarge, then convolve (CUT); CycleGAN uses a transposed convolution instead."""
    output: Literal["image", "change"] = "image"
    """What the last convolution makes: the image, or what is added to the input, which then is kept
    where nothing needs to change, from the first step on. Ours; not in the papers."""
    dropout: bool = False
    """Drop half of the channels' pixels inside each residual block (released: `no_dropout` is the
    default of every published run)."""
    recompute: bool = False
    """Keep only the input of each residual block for the backward pass and compute its inside
    again: less memory, more time, the same numbers."""

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "ngf", "blocks"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if self.output == "change" and self.in_channels != self.out_channels:
            raise ConfigError(
                "`output` change is added to the input: `in_channels` and `out_channels` must be "
                f"equal; got {self.in_channels} and {self.out_channels}."
            )
        if self.recompute and self.norm == "batch":
            raise ConfigError(
                "`recompute` would count every batch twice in the running statistics; use `norm` "
                "instance or none with it."
            )


class ResNetBlock(nn.Module):
    """x + conv_block(x), without an activation after the sum."""

    def __init__(
        self, channels: int, *, norm: NormKind, dropout: bool, recompute: bool = False
    ) -> None:
        super().__init__()
        self.recompute = recompute
        bias = uses_bias(norm)
        # What is computed again must drop the same values, which torch's own generator provides.
        dropped = nn.Dropout if recompute else Dropout
        self.conv_block = nn.Sequential(
            ReflectionPad2d(1),
            Conv3x3(channels, channels, bias=bias),
            norm_layer(norm, channels),
            nn.ReLU(),
            *([dropped(0.5)] if dropout else []),
            ReflectionPad2d(1),
            Conv3x3(channels, channels, bias=bias),
            norm_layer(norm, channels),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The sum of `x_BCHW` and what the block makes of it; same shape."""
        if self.recompute and x_BCHW.requires_grad and torch.is_grad_enabled():
            change_BCHW: Tensor = checkpoint(
                apply_layers, self.conv_block, x_BCHW, use_reentrant=False
            )
            return x_BCHW + change_BCHW
        return x_BCHW + apply_layers(self.conv_block, x_BCHW)


class ResNetGenerator(nn.Module):
    """Two strided stages, residual blocks, two enlarging stages (Johnson et al. 2016; CycleGAN).

    Images are in [-1, 1]. The output is as large as the input if its sides are multiples of 4, and
    rounded up to the next multiples otherwise; with `output` change it always is.

    >>> generator = ResNetGenerator(ResNetConfig(ngf=2, blocks=2))
    >>> output_BCHW, (rgb_BCHW, block_BCHW) = generator.forward_with_taps(
    ...     torch.zeros(1, 3, 16, 24), taps=(0, 12)
    ... )
    >>> output_BCHW.shape, rgb_BCHW.shape, block_BCHW.shape
    (torch.Size([1, 3, 16, 24]), torch.Size([1, 3, 22, 30]), torch.Size([1, 8, 4, 6]))
    """

    keeps_channels_last: ClassVar[bool] = True
    """See `networks.cpu.layout`."""
    multiple_of: ClassVar[int] = 4
    """Sides of which the output keeps the size."""
    min_size: ClassVar[int] = 5
    """Shortest side: a quarter of it, rounded up, must exceed the blocks' reflection of 1 pixel."""

    def __init__(self, config: ResNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ResNetConfig()
        bias, norm = uses_bias(config.norm), config.norm
        ngf = config.ngf
        layers: list[nn.Module] = [
            ReflectionPad2d(3),
            nn.Conv2d(config.in_channels, ngf, 7, bias=bias),
            norm_layer(norm, ngf),
            nn.ReLU(),
        ]
        for width in (ngf, 2 * ngf):
            layers += [
                Conv3x3(width, 2 * width, padding=1, bias=bias)
                if config.antialias_down
                else nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=bias),
                norm_layer(norm, 2 * width),
                nn.ReLU(),
            ]
            if config.antialias_down:
                layers.append(BlurDownsample(2 * width))
        layers += [
            ResNetBlock(4 * ngf, norm=norm, dropout=config.dropout, recompute=config.recompute)
            for _ in range(config.blocks)
        ]
        for width in (4 * ngf, 2 * ngf):
            layers += _enlarging(width, bias=bias, antialias=config.antialias_up)
            layers += [norm_layer(norm, width // 2), nn.ReLU()]
        layers += [ReflectionPad2d(3), nn.Conv2d(ngf, config.out_channels, 7)]
        layers.append(nn.Tanh() if config.output == "image" else nn.Identity())
        self.model = nn.Sequential(*layers)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Translate `x_BCHW`.

        Raises:
            ShapeError: if the channels are not `in_channels` or a side is below `min_size`.
        """
        self._check(x_BCHW)
        return self._ended(apply_layers(self.model, x_BCHW), x_BCHW)

    def encode(self, x_BCHW: Tensor, taps: Sequence[int]) -> list[Tensor]:
        """The maps at `taps`, in their order; layers after the last tap are not run.

        A tap that feeds a ReLU is read after it unless it is the last one. The released networks
        rectify in place, so that is what their taps of pre-activation maps show, and published
        settings without antialiasing (tap 8) depend on it.

        Raises:
            ConfigError: if `taps` is empty or names a layer that does not exist.
            ShapeError: as `forward`.
        """
        if not taps:
            raise ConfigError("`taps` must name at least one layer of the generator; got none.")
        return self._walk(x_BCHW, taps, length=max(taps) + 1)[1]

    def forward_with_taps(self, x_BCHW: Tensor, taps: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """`forward` and `encode` in one pass.

        Raises:
            ConfigError: if `taps` names a layer that does not exist.
            ShapeError: as `forward`.
        """
        y_BCHW, maps = self._walk(x_BCHW, taps, length=len(self.model))
        return self._ended(y_BCHW, x_BCHW), maps

    def tap_channels(self, taps: Sequence[int]) -> list[int]:
        """How many channels the map at each tap has.

        >>> ResNetGenerator(ResNetConfig(ngf=2, blocks=1)).tap_channels((0, 4, 8, 12))
        [3, 4, 8, 8]
        """
        channels, per_layer = self.config.in_channels, []
        for layer in self.model:
            channels = getattr(layer, "out_channels", channels)
            per_layer.append(channels)
        return [per_layer[tap] for tap in self._checked(taps)]

    def tap_sizes(self, taps: Sequence[int], height: int, width: int) -> list[tuple[int, int]]:
        """Height and width of the map at each tap, for an image of `height` x `width`.

        >>> ResNetGenerator(ResNetConfig(ngf=2, blocks=1)).tap_sizes((0, 4, 8, 12), 20, 10)
        [(26, 16), (20, 10), (10, 5), (5, 3)]
        """
        heights, widths = list(self._sides(height)), list(self._sides(width))
        return [(heights[tap], widths[tap]) for tap in self._checked(taps)]

    def tap_origin(self, tap: int) -> int:
        """Row and column of the image's first pixel on the map at `tap`: 3 on a padded map, or 0.

        >>> generator = ResNetGenerator(ResNetConfig(ngf=2, blocks=1))
        >>> generator.tap_origin(0), generator.tap_origin(4)
        (3, 0)
        """
        layer = self.model[self._checked([tap])[0]]
        return layer.padding if isinstance(layer, ReflectionPad2d) else 0

    def tap_fields(self, taps: Sequence[int]) -> list[int]:
        """Side of the square of the image that a place of each map depends on, in pixels.

        By the kernels; norms look further, since they take the mean of the whole map. Behind the
        enlarging layers places differ, and this is their mean.

        >>> ResNetGenerator(ResNetConfig(ngf=2)).tap_fields((0, 4, 8, 12, 16))
        [1, 9, 15, 35, 99]
        """
        fields = list(self._fields())
        return [fields[tap] for tap in self._checked(taps)]

    def _ended(self, y_BCHW: Tensor, x_BCHW: Tensor) -> Tensor:
        """The output: what the layers made of the input, or the input changed by it."""
        if self.config.output == "image":
            return y_BCHW
        height, width = x_BCHW.shape[2:]
        changed_BCHW = x_BCHW + y_BCHW[..., :height, :width]
        return changed_BCHW.clamp(-1, 1)

    def _walk(
        self, x_BCHW: Tensor, taps: Sequence[int], *, length: int
    ) -> tuple[Tensor, list[Tensor]]:
        """The output of the first `length` layers, and the maps at `taps`."""
        self._check(x_BCHW)
        sources = self._sources(taps)
        maps: dict[int, Tensor] = {}
        layers, start = list(self.model), 0
        for stop in sorted({source + 1 for source in sources} | {length}):
            x_BCHW = apply_layers(layers[start:stop], x_BCHW)
            maps[stop - 1] = x_BCHW
            start = stop
        return x_BCHW, [maps[source] for source in sources]

    def _sources(self, taps: Sequence[int]) -> list[int]:
        """The layer whose output each tap shows: a ReLU right behind it, if a later tap follows."""
        taps = self._checked(taps)
        sources = []
        for tap in taps:
            after = tap + 1
            while after < len(self.model) and isinstance(self.model[after], nn.Identity):
                after += 1  # norm "none" hands the same tensor on
            rectified = after <= max(taps) and isinstance(self.model[after], nn.ReLU)
            sources.append(after if rectified else tap)
        return sources

    def _checked(self, taps: Sequence[int]) -> Sequence[int]:
        for tap in taps:
            if not 0 <= tap < len(self.model):
                raise ConfigError(
                    f"`taps` must be layers of the generator, 0 to {len(self.model) - 1} with "
                    f"{self.config.blocks} blocks; got {tap}."
                )
        return taps

    def _check(self, x_BCHW: Tensor) -> None:
        if torch.compiler.is_compiling():
            return  # sizes are symbols there, and a test on them would fix their range
        if x_BCHW.ndim != 4 or x_BCHW.shape[1] != self.config.in_channels:
            raise ShapeError(
                f"`x_BCHW` must be [B, {self.config.in_channels}, H, W] for this generator; "
                f"got {tuple(x_BCHW.shape)}."
            )
        if min(x_BCHW.shape[2:]) < self.min_size:
            raise ShapeError(
                f"Images must be at least {self.min_size} x {self.min_size} pixels for the "
                f"generator; got {x_BCHW.shape[2]} x {x_BCHW.shape[3]}. Pad or enlarge them."
            )

    def _sides(self, side: int) -> Iterator[int]:
        """The length of one side of the map after each layer."""
        for layer in self.model:
            match layer:
                case ReflectionPad2d():
                    side += 2 * layer.padding
                case BlurUpsample() | nn.ConvTranspose2d():
                    side *= 2
                case BlurDownsample():
                    side = -(-side // 2)
                case nn.Conv2d(kernel_size=(kernel, _), stride=(stride, _), padding=(padding, _)):
                    side = (side + 2 * padding - kernel) // stride + 1
            yield side

    def _fields(self) -> Iterator[int]:
        """The receptive field behind each layer."""
        field, step = 1.0, 1.0  # `step`: pixels between neighbouring places
        for layer in self.model:
            match layer:
                case nn.ConvTranspose2d() | BlurUpsample():
                    field += step  # every output depends on two inputs of either axis
                    step /= 2
                case BlurDownsample():
                    field += 2 * step
                    step *= 2
                case ResNetBlock():
                    field += 4 * step
                case nn.Conv2d(kernel_size=(kernel, _), stride=(stride, _)):
                    field += (kernel - 1) * step
                    step *= stride
            yield round(field)


def _enlarging(width: int, *, bias: bool, antialias: bool) -> list[nn.Module]:
    """The layers that double the sides and halve the channels."""
    if antialias:
        return [BlurUpsample(), Conv3x3(width, width // 2, padding=1, bias=bias)]
    return [
        nn.ConvTranspose2d(width, width // 2, 3, stride=2, padding=1, output_padding=1, bias=bias)
    ]
