"""The StyleGAN2-style generator and discriminator of SinCUT (Park et al., ECCV 2020).

Blocks of StyleGAN2 (Karras et al., CVPR 2020) without its styles, custom kernels and minibatch
statistics. Weights are drawn from N(0, 1) and scaled by 1 / sqrt(fan in) whenever they are used, so
that all learn at one speed; `initialize` leaves them alone. Names are those of the released
networks, so released weights load by name.

    encoder.convs   0                  identity
                    1                  convolution 1x1
                    2 ...              residual blocks that halve the sides
                    ...                half of the plain residual blocks
    decoder.convs   0 ...              the other half
                    ...                modulated convolutions that double the sides, with noise
                    last               convolution 1x1, activated: outputs have no upper bound

A width belongs to a resolution: the networks have the widths of StyleGAN2's layers from
`working_size` pixels down, whatever the size of the images they are given.

Differs from the released code: its generator draws new noise in every forward pass, so that the
same image never gives the same translation twice. Here noise is an argument, and without one every
pass uses the same (ours): a translation depends on the image alone.

Shape suffixes: B images, C channels, H and W pixels, O output and I input channels of a weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Annotated

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from patchkin.config import flag
from patchkin.errors import ConfigError, ShapeError
from patchkin.networks.resampling import binomial_filter

_SLOPE = 0.2
_GAIN = math.sqrt(2)
"""Of the activation: keeps the variance that the leaky slope takes away."""
_BLUR_TAPS = 4
_FINAL_SIDE = 4
_LARGEST_WORKING_SIZE = 1024
_NOISE_SIDE = 256
_NOISE_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class StyleGan2GeneratorConfig:
    """Defaults are SinCUT's generator: 3,068,404 parameters.

    The released small form (`smallstylegan2`) has `blocks` 2 and no `noise`.
    """

    in_channels: int = 3
    """Channels of the source domain."""
    out_channels: int = 3
    """Channels of the target domain."""
    ngf: Annotated[int, flag("--ngf")] = 10
    """Width: 8 ngf channels at 64 pixels, 16 ngf (at most 512) from 32 pixels down."""
    blocks: Annotated[int, flag("--blocks")] = 6
    """Plain residual blocks, half of them before the taps end; an even number."""
    num_downsampling: int = 1
    """How often the sides are halved and doubled."""
    working_size: int = 64
    """The resolution whose widths the outermost layers have, a power of 2. Released: the one
    nearest to the crop. Images may have any size."""
    noise: bool = True
    """Add noise behind each doubling, by a learned weight that starts at 0."""

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "ngf"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if self.blocks < 0 or self.blocks % 2:
            raise ConfigError(f"`blocks` must be even, half before the middle; got {self.blocks}.")
        _check_working_size(self.working_size)
        deepest = int(math.log2(self.working_size // _FINAL_SIDE))
        if not 0 <= self.num_downsampling <= deepest:
            raise ConfigError(
                f"`num_downsampling` must be 0 to {deepest} at `working_size` "
                f"{self.working_size}; got {self.num_downsampling}."
            )
        if self.width(self.working_size) < 1:
            raise ConfigError(
                f"`ngf` {self.ngf} leaves no channel at `working_size` {self.working_size}; "
                f"use at least {self.working_size // 512}."
            )

    def width(self, resolution: int) -> int:
        """Channels at a resolution.

        >>> [StyleGan2GeneratorConfig().width(resolution) for resolution in (4, 32, 64, 128)]
        [512, 160, 80, 40]
        """
        return round(_width(resolution, self.ngf / 32, widest=512))


@dataclass(frozen=True, kw_only=True, slots=True)
class StyleGan2DiscriminatorConfig:
    """Defaults are SinCUT's discriminator: 5,885,473 parameters."""

    in_channels: int = 3
    """Channels of the images it judges."""
    ndf: Annotated[int, flag("--ndf")] = 8
    """Width: 4 ndf channels at 64 pixels, 8 ndf at 32, and so on to at most 384."""
    working_size: int = 64
    """Side of the square images that it judges, a power of 2. It takes no others."""

    def __post_init__(self) -> None:
        for name in ("in_channels", "ndf"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        _check_working_size(self.working_size)
        if self.width(self.working_size) < 1:
            raise ConfigError(
                f"`ndf` {self.ndf} leaves no channel at `working_size` {self.working_size}; "
                f"use at least {self.working_size // 256}."
            )

    def width(self, resolution: int) -> int:
        """Channels at a resolution.

        >>> [StyleGan2DiscriminatorConfig().width(resolution) for resolution in (4, 16, 32, 64)]
        [384, 128, 64, 32]
        """
        return int(_width(resolution, self.ndf / 64, widest=384))


def _width(resolution: int, multiplier: float, *, widest: int) -> float:
    """StyleGAN2's channels; they double from one resolution to the next lower, up to `widest`."""
    doubling = 16384 * multiplier / resolution
    return min(widest, doubling) if resolution <= 32 else doubling  # as released: no limit above


def _check_working_size(size: int) -> None:
    if not _FINAL_SIDE <= size <= _LARGEST_WORKING_SIZE or size & (size - 1):
        raise ConfigError(
            f"`working_size` must be a power of 2 from {_FINAL_SIDE} to {_LARGEST_WORKING_SIZE}; "
            f"got {size}."
        )


# Layers


def leaky(x: Tensor) -> Tensor:
    """sqrt(2) LeakyReLU(x), slope 0.2: the activation of all layers here.

    >>> leaky(torch.tensor([1.0, -1.0]))
    tensor([ 1.4142, -0.2828])
    """
    return nnf.leaky_relu(x, _SLOPE) * _GAIN


class EqualConv2d(nn.Module):
    """A convolution without bias whose N(0, 1) weight is scaled by 1 / sqrt(C k k) at run time."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in, kernel, kernel))
        self.stride, self.padding = stride, padding

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Convolve `x_BCHW`."""
        scale = 1 / math.sqrt(self.weight[0].numel())
        return nnf.conv2d(x_BCHW, self.weight * scale, stride=self.stride, padding=self.padding)


class EqualLinear(nn.Module):
    """A linear layer whose N(0, 1) weight is scaled by 1 / sqrt(C) at run time."""

    def __init__(self, width_in: int, width_out: int, *, activate: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width_out, width_in))
        self.bias = nn.Parameter(torch.zeros(width_out))
        self.activate = activate

    def forward(self, x_BC: Tensor) -> Tensor:
        """Map `x_BC`."""
        scale = 1 / math.sqrt(self.weight.shape[1])
        y_BC = nnf.linear(x_BC, self.weight * scale, self.bias)
        return leaky(y_BC) if self.activate else y_BC


class BiasedLeaky(nn.Module):
    """A bias per channel, then `leaky`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Activate `x_BCHW`."""
        return leaky(x_BCHW + self.bias)


class Blur(nn.Module):
    """Each channel with [1, 3, 3, 1] x [1, 3, 3, 1], with zeros around the map.

    >>> Blur(padding=1, gain=1.0)(torch.ones(1, 1, 4, 4))[0, 0, 1]
    tensor([0.8750, 1.0000, 0.8750])
    """

    def __init__(self, *, padding: int, gain: float = 1.0, stride: int = 1) -> None:
        super().__init__()
        self.padding, self.stride = padding, stride
        self.register_buffer("kernel", gain * binomial_filter(_BLUR_TAPS), persistent=False)

    kernel: Tensor

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """H x W becomes (H + 2 padding - 3) x (W + 2 padding - 3), then every `stride`-th."""
        channels = x_BCHW.shape[1]
        kernel_C1HW = self.kernel.expand(channels, 1, _BLUR_TAPS, _BLUR_TAPS)
        return nnf.conv2d(
            x_BCHW, kernel_C1HW, padding=self.padding, stride=self.stride, groups=channels
        )


def conv_layer(
    channels_in: int, channels_out: int, kernel: int, *, down: bool = False, activate: bool = True
) -> nn.Sequential:
    """A convolution that keeps the sides, or (`down`) a blur and one of stride 2 that halves them.

    >>> conv_layer(3, 5, 3)(torch.zeros(1, 3, 7, 6)).shape
    torch.Size([1, 5, 7, 6])
    >>> conv_layer(3, 5, 1, down=True)(torch.zeros(1, 3, 7, 6)).shape
    torch.Size([1, 5, 3, 3])
    """
    layers: list[nn.Module] = []
    if not down:
        layers.append(EqualConv2d(channels_in, channels_out, kernel, padding=kernel // 2))
    elif kernel == 1:  # the blur skips what the convolution would
        layers += [Blur(padding=1, stride=2), EqualConv2d(channels_in, channels_out, 1)]
    else:
        padding = (_BLUR_TAPS - 2 + kernel - 1) // 2
        layers += [Blur(padding=padding), EqualConv2d(channels_in, channels_out, kernel, stride=2)]
    if activate:
        layers.append(BiasedLeaky(channels_out))
    return nn.Sequential(*layers)


class ResidualBlock(nn.Module):
    """(conv2(conv1(x)) + skip(x)) / sqrt(2); with `down` both ways halve the sides."""

    def __init__(self, channels_in: int, channels_out: int, *, down: bool = False) -> None:
        super().__init__()
        self.down = down
        self.conv1 = conv_layer(channels_in, channels_in, 3)
        self.conv2 = conv_layer(channels_in, channels_out, 3, down=down)
        keeps = channels_in == channels_out and not down
        self.skip = (
            nn.Identity()
            if keeps
            else conv_layer(channels_in, channels_out, 1, down=down, activate=False)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The scaled sum; the variance of `x_BCHW` is kept."""
        y_BCHW: Tensor = (self.conv2(self.conv1(x_BCHW)) + self.skip(x_BCHW)) / _GAIN
        return y_BCHW


class ModulatedUpConv2d(nn.Module):
    """Double the sides by a transposed convolution of normalised weights, then blur.

    StyleGAN2's modulated convolution where all styles are 1: the weights of an output channel are
    divided by their length.

    >>> ModulatedUpConv2d(2, 3)(torch.zeros(1, 2, 5, 4)).shape
    torch.Size([1, 3, 10, 8])
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, channels_out, channels_in, kernel, kernel))
        self.blur = Blur(padding=1, gain=4.0)  # three of four values to blur are new zeros

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Enlarge `x_BCHW`."""
        weight_OIHW = self.weight[0] / math.sqrt(self.weight[0, 0].numel())
        energy_O111 = weight_OIHW.square().sum(dim=(1, 2, 3), keepdim=True)
        weight_OIHW = weight_OIHW * (energy_O111 + 1e-8).rsqrt()
        wide_BCHW = nnf.conv_transpose2d(x_BCHW, weight_OIHW.transpose(0, 1), stride=2)
        y_BCHW: Tensor = self.blur(wide_BCHW)
        return y_BCHW


class Noise(nn.Module):
    """Noise times a learned weight, the same for all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x_BCHW: Tensor, noise_B1HW: Tensor) -> Tensor:
        """The sum of `x_BCHW` and its noise."""
        return x_BCHW + self.weight * noise_B1HW.to(x_BCHW)


class StyledConv(nn.Module):
    """Doubled sides, noise, bias and activation."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = ModulatedUpConv2d(channels_in, channels_out)
        self.noise = Noise()
        self.activate = BiasedLeaky(channels_out)

    def forward(self, x_BCHW: Tensor, noise_B1HW: Tensor | None) -> Tensor:
        """Enlarge `x_BCHW`; without noise if there is none."""
        y_BCHW = self.conv(x_BCHW)
        if noise_B1HW is not None:
            y_BCHW = self.noise(y_BCHW, noise_B1HW)
        activated_BCHW: Tensor = self.activate(y_BCHW)
        return activated_BCHW


class _Convs(nn.Module):
    """A sequence under the released name."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.convs = nn.Sequential(*layers)


# Networks


class StyleGan2Generator(nn.Module):
    """An encoder of residual blocks and a decoder with noise, for images of any size.

    Images are in [-1, 1]. The last activation is `leaky`, as released: outputs are unbounded above,
    and values below zero are damped. The output is as large as the input if its sides are multiples
    of `multiple_of`, and rounded down to the next multiples otherwise.

    >>> generator = StyleGan2Generator(StyleGan2GeneratorConfig(ngf=1))
    >>> output_BCHW, (rgb_BCHW, block_BCHW) = generator.forward_with_taps(
    ...     torch.zeros(1, 3, 16, 24), taps=(0, 2)
    ... )
    >>> output_BCHW.shape, rgb_BCHW.shape, block_BCHW.shape
    (torch.Size([1, 3, 16, 24]), torch.Size([1, 3, 16, 24]), torch.Size([1, 16, 8, 12]))
    """

    multiple_of: int
    """Sides of which the output keeps the size."""
    min_size: int
    """Shortest side: one place must be left in the middle."""

    def __init__(self, config: StyleGan2GeneratorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or StyleGan2GeneratorConfig()
        self.multiple_of = self.min_size = 2**config.num_downsampling
        sides = [config.working_size >> halvings for halvings in range(config.num_downsampling + 1)]
        widths = [config.width(side) for side in sides]
        self.encoder = _Convs(
            [
                nn.Identity(),
                conv_layer(config.in_channels, widths[0], 1),
                *(ResidualBlock(wide, deep, down=True) for wide, deep in pairwise(widths)),
                *(ResidualBlock(widths[-1], widths[-1]) for _ in range(config.blocks // 2)),
            ]
        )
        self.decoder = _Convs(
            [
                *(ResidualBlock(widths[-1], widths[-1]) for _ in range(config.blocks // 2)),
                *(StyledConv(deep, wide) for deep, wide in pairwise(widths[::-1])),
                conv_layer(widths[0], config.out_channels, 1),
            ]
        )
        noise = torch.Generator().manual_seed(_NOISE_SEED)
        tiles = torch.randn(
            config.num_downsampling, 1, 1, _NOISE_SIDE, _NOISE_SIDE, generator=noise
        )
        self.register_buffer("noise_tiles", tiles, persistent=False)

    noise_tiles: Tensor

    def forward(self, x_BCHW: Tensor, noise: Sequence[Tensor] | None = None) -> Tensor:
        """Translate `x_BCHW`.

        Args:
            x_BCHW: images; receive the gradient.
            noise: [B, 1, h, w] for each of `noise_sizes`; by default `fixed_noise`.

        Raises:
            ShapeError: if the channels are not `in_channels`, a side is below `min_size`, or the
                noise does not fit.
        """
        return self.forward_with_taps(x_BCHW, (), noise)[0]

    def encode(self, x_BCHW: Tensor, taps: Sequence[int]) -> list[Tensor]:
        """The encoder's maps at `taps`, in their order; layers after the last tap are not run.

        Raises:
            ConfigError: if `taps` is empty or names a layer that does not exist.
            ShapeError: as `forward`.
        """
        if not taps:
            raise ConfigError("`taps` must name at least one layer of the generator; got none.")
        return self._encoded(x_BCHW, taps, length=max(taps) + 1)[1]

    def forward_with_taps(
        self, x_BCHW: Tensor, taps: Sequence[int], noise: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """`forward` and `encode` in one pass.

        Raises:
            ConfigError: if `taps` names a layer that does not exist.
            ShapeError: as `forward`.
        """
        height, width = x_BCHW.shape[-2:]
        if noise is None:
            noise = self.fixed_noise(height, width)
        self._check_noise(noise, x_BCHW)
        y_BCHW, maps = self._encoded(x_BCHW, taps, length=len(self.encoder.convs))
        drawn = iter(noise)
        for layer in self.decoder.convs:
            if isinstance(layer, StyledConv):
                y_BCHW = layer(y_BCHW, next(drawn, None))
            else:
                y_BCHW = layer(y_BCHW)
        return y_BCHW, maps

    def noise_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Height and width of the noise that each doubling takes, for an image of this size.

        >>> StyleGan2Generator(StyleGan2GeneratorConfig(ngf=1, num_downsampling=2)).noise_sizes(
        ...     64, 36
        ... )
        [(32, 18), (64, 36)]
        """
        if not self.config.noise:
            return []
        step = 2**self.config.num_downsampling
        return [
            (height // step * 2**doublings, width // step * 2**doublings)
            for doublings in range(1, self.config.num_downsampling + 1)
        ]

    def fixed_noise(self, height: int, width: int) -> list[Tensor]:
        """The noise of a translation, [1, 1, h, w] each, always the same (ours).

        A tile of normal numbers from a fixed seed, repeated from the upper left corner: the noise
        of a pixel depends on where the pixel is, and not on how large the image is.
        """
        sizes, device = self.noise_sizes(height, width), self.noise_tiles.device
        tiles = self.noise_tiles[: len(sizes)]
        return [
            tile_11HW[..., torch.arange(h, device=device) % _NOISE_SIDE, :][
                ..., torch.arange(w, device=device) % _NOISE_SIDE
            ]
            for tile_11HW, (h, w) in zip(tiles, sizes, strict=True)
        ]

    def tap_channels(self, taps: Sequence[int]) -> list[int]:
        """How many channels the map at each tap has.

        >>> StyleGan2Generator().tap_channels((0, 1, 2, 4))
        [3, 80, 160, 160]
        """
        config = self.config
        sides = [config.working_size >> halving for halving in range(config.num_downsampling + 1)]
        per_layer = [config.in_channels, *(config.width(side) for side in sides)]
        per_layer += [per_layer[-1]] * (config.blocks // 2)
        return [per_layer[tap] for tap in self._checked(taps)]

    def tap_sizes(self, taps: Sequence[int], height: int, width: int) -> list[tuple[int, int]]:
        """Height and width of the map at each tap, for an image of `height` x `width`.

        >>> StyleGan2Generator(StyleGan2GeneratorConfig(ngf=1)).tap_sizes((0, 2, 4), 20, 11)
        [(20, 11), (10, 5), (10, 5)]
        """
        halvings = [places for places, _ in self._places()]
        return [(height // halvings[tap], width // halvings[tap]) for tap in self._checked(taps)]

    def tap_origin(self, tap: int) -> int:
        """Row and column of the image's first pixel on the map at `tap`: no map is padded."""
        self._checked([tap])
        return 0

    def tap_fields(self, taps: Sequence[int]) -> list[int]:
        """Side of the square of the image that a place of each map depends on, in pixels.

        >>> StyleGan2Generator(StyleGan2GeneratorConfig(ngf=1)).tap_fields((0, 1, 2, 4))
        [1, 1, 8, 24]
        """
        fields = [field for _, field in self._places()]
        return [fields[tap] for tap in self._checked(taps)]

    def _places(self) -> Iterator[tuple[int, int]]:
        """Pixels between neighbouring places behind each layer, and the receptive field there."""
        step, field = 1, 1
        for layer in self.encoder.convs:
            if isinstance(layer, ResidualBlock):
                field += 2 * step  # conv1
                field += (_BLUR_TAPS - 1 + 2 if layer.down else 2) * step  # conv2 and its blur
                step *= 2 if layer.down else 1
            yield step, field

    def _encoded(
        self, x_BCHW: Tensor, taps: Sequence[int], *, length: int
    ) -> tuple[Tensor, list[Tensor]]:
        """The output of the encoder's first `length` layers, and the maps at `taps`."""
        self._check(x_BCHW)
        taps = self._checked(taps)
        maps: dict[int, Tensor] = {}
        for index, layer in enumerate(islice(self.encoder.convs, length)):
            x_BCHW = layer(x_BCHW)
            if index in taps:
                maps[index] = x_BCHW
        return x_BCHW, [maps[tap] for tap in taps]

    def _checked(self, taps: Sequence[int]) -> Sequence[int]:
        for tap in taps:
            if not 0 <= tap < len(self.encoder.convs):
                raise ConfigError(
                    f"`taps` must be layers of the generator's encoder, 0 to "
                    f"{len(self.encoder.convs) - 1} with {self.config.blocks} blocks; got {tap}."
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

    def _check_noise(self, noise: Sequence[Tensor], x_BCHW: Tensor) -> None:
        if torch.compiler.is_compiling():
            return
        wanted = self.noise_sizes(*x_BCHW.shape[-2:])
        fits = len(noise) == len(wanted) and all(
            given.ndim == 4
            and given.shape[0] in (1, len(x_BCHW))
            and tuple(given.shape[1:]) == (1, *size)
            for given, size in zip(noise, wanted, strict=True)
        )
        if not fits:
            expected = ", ".join(f"({len(x_BCHW)}, 1, {h}, {w})" for h, w in wanted) or "none"
            got = ", ".join(str(tuple(given.shape)) for given in noise) or "none"
            raise ShapeError(
                f"`noise` must have the shapes {expected} for these images; got {got}."
            )


class StyleGan2Discriminator(nn.Module):
    """Residual blocks down to 4 x 4, then two linear layers: one logit per image.

    >>> network = StyleGan2Discriminator(StyleGan2DiscriminatorConfig(ndf=1, working_size=16))
    >>> network(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 1])
    """

    size: int
    """Side of the images it takes."""

    def __init__(self, config: StyleGan2DiscriminatorConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or StyleGan2DiscriminatorConfig()
        self.size = config.working_size
        halvings = int(math.log2(self.size // _FINAL_SIDE))
        widths = [config.width(self.size >> halving) for halving in range(halvings + 1)]
        self.convs = nn.Sequential(
            conv_layer(config.in_channels, widths[0], 1),
            *(ResidualBlock(wide, deep, down=True) for wide, deep in pairwise(widths)),
        )
        last = widths[-1]
        self.final_conv = conv_layer(last, last, 3)
        self.final_linear = nn.Sequential(
            EqualLinear(last * _FINAL_SIDE**2, last, activate=True), EqualLinear(last, 1)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits [B, 1].

        Raises:
            ShapeError: if the images are not square of the side `working_size`.
        """
        wanted = (self.config.in_channels, self.size, self.size)
        if x_BCHW.ndim != 4 or tuple(x_BCHW.shape[1:]) != wanted:
            raise ShapeError(
                f"The discriminator judges images [B, {wanted[0]}, {self.size}, {self.size}]; got "
                f"{tuple(x_BCHW.shape)}. Train at its `working_size` (--size {self.size}), or set "
                "`working_size` to the size of the images."
            )
        y_BCHW: Tensor = self.final_conv(self.convs(x_BCHW))
        logits_B1: Tensor = self.final_linear(y_BCHW.flatten(1))
        return logits_B1
