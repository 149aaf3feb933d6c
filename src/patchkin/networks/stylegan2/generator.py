"""SinCUT's generator.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

import torch
from torch import Tensor, nn

from patchkin.errors import ConfigError, ShapeError
from patchkin.networks.stylegan2.config import StyleGan2GeneratorConfig
from patchkin.networks.stylegan2.layers import BLUR_TAPS, ResidualBlock, StyledConv, conv_layer

_NOISE_SIDE = 256
_NOISE_SEED = 0


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
        self.register_buffer("noise_tiles", self.constants()["noise_tiles"], persistent=False)

    noise_tiles: Tensor

    @property
    def noise_of_place(self) -> bool:
        """Whether translations have noise by the place in the image; see `Method.tiling_faults`."""
        return self.config.noise

    def constants(self) -> dict[str, Tensor]:
        """The noise of translations: no file holds it."""
        noise = torch.Generator().manual_seed(_NOISE_SEED)
        shape = (self.config.num_downsampling, 1, 1, _NOISE_SIDE, _NOISE_SIDE)
        return {"noise_tiles": torch.randn(shape, generator=noise)}

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
                field += (BLUR_TAPS - 1 + 2 if layer.down else 2) * step  # conv2 and its blur
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


class _Convs(nn.Module):
    """A sequence under the released name."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.convs = nn.Sequential(*layers)
