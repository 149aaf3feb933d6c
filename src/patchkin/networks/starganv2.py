"""The networks of StarGAN v2 (Choi et al. 2020): one generator for any number of domains.

    G   images and a style -> images
    F   latents and a domain -> styles                        (mapping network)
    E   images and their domain -> styles                     (style encoder)
    D   images and a domain -> logits: real in this domain?

All modules have the names of the released networks, so released weights load by name. The part for
aligned faces (heat maps, high-pass filter: `w_hpf` above 0) is left out.

The semantic-relation release has another generator with the same parts (`generator="released"`):

    paper      a ResBlock that halves per level, two more; the same upwards, each with the style.
               log2(image_size) - 4 levels, so that the innermost map is 16 x 16 at `image_size`
    released   two convolutions that halve, four ResBlocks; four blocks with the style, two that
               enlarge and do not see it

Shape suffixes: B images, C channels, H and W pixels, D domains, L numbers of a latent, S numbers of
a style.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from patchkin.config import flag
from patchkin.errors import CheckpointError, ConfigError, ShapeError
from patchkin.networks.normalization import EPSILON, contiguous_gradient
from patchkin.randomness import Draws

StyleGeneratorForm = Literal["paper", "released"]
"""StarGAN v2's generator, or that of the semantic-relation release."""

_SLOPE = 0.2
"""Of the leaky rectifiers."""
_WIDTH_BUDGET = 2**14
"""Channels of the first layer times `image_size` (released)."""
_INNERMOST = 4
"""Side of the last map of E and D at `image_size`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StyleNetworksConfig:
    """Sizes of the four networks. Defaults are the published ones at 256 pixels."""

    num_domains: Annotated[int, flag("--num-domains")] = 2
    """Domains to translate between, as many as the data has."""
    image_size: Annotated[int, flag("--image-size")] = 256
    """A power of two that decides how deep the networks are. E and D take this size and larger
    ones: of the map that they then end with, they take the mean (ours)."""
    channels: int = 3
    """Of all images."""
    generator: StyleGeneratorForm = "paper"
    """StarGAN v2's (33.9 million weights at 256), or the semantic-relation release's (10.7)."""
    base_width: Annotated[int | None, flag("--ngf")] = None
    """Channels of the first layer of G, E and D; 2^14 / image_size unless given, so 64 at 256."""
    max_width: int = 512
    """Channels double from level to level up to this number."""
    style_width: int = 64
    """Numbers of a style."""
    latent_width: int = 16
    """Numbers of a latent."""
    hidden_width: int = 512
    """Of the layers of F."""

    def __post_init__(self) -> None:
        size = self.image_size
        if size < 16 or size & (size - 1):
            raise ConfigError(f"`image_size` must be a power of two from 16 on; got {size}.")
        for name in ("channels", "max_width", "style_width", "latent_width", "hidden_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if self.num_domains < 2:
            raise ConfigError(
                f"`num_domains` must be at least 2, to translate between; got {self.num_domains}."
            )
        if self.base_width is not None and self.base_width < 1:
            raise ConfigError(f"`base_width` must be at least 1; got {self.base_width}.")

    def widths(self, levels: int) -> list[int]:
        """Channels of the first layer and after each of these levels.

        >>> StyleNetworksConfig().widths(4)
        [64, 128, 256, 512, 512]
        """
        base = self.base_width or max(1, _WIDTH_BUDGET // self.image_size)
        return [base] + [min(base << level, self.max_width) for level in range(1, levels + 1)]


class AffineInstanceNorm2d(nn.Module):
    """Instance norm with a learned scale and shift per channel.

    >>> AffineInstanceNorm2d(2)(torch.arange(16.0).reshape(1, 2, 2, 4)).shape
    torch.Size([1, 2, 2, 4])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise each image over its pixels, then scale and shift."""
        return _normalized(x_BCHW, self.weight, self.bias)


class AdaptiveInstanceNorm2d(nn.Module):
    """Instance norm whose scale and shift come from a style: (1 + gamma) norm(x) + beta.

    >>> norm = AdaptiveInstanceNorm2d(channels=4, style_width=3)
    >>> norm(torch.randn(2, 4, 5, 5), torch.zeros(2, 3)).shape
    torch.Size([2, 4, 5, 5])
    """

    def __init__(self, channels: int, style_width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(style_width, 2 * channels)

    def forward(self, x_BCHW: Tensor, style_BS: Tensor) -> Tensor:
        """Normalise each image over its pixels and dress it in its style."""
        gamma_BC, beta_BC = self.fc(style_BS).to(x_BCHW.dtype).chunk(2, dim=1)
        # All maps of the batch as channels of one image: one operation that keeps one map.
        maps_1NHW = x_BCHW.reshape(1, -1, *x_BCHW.shape[2:])
        y_1NHW = _normalized(maps_1NHW, (1 + gamma_BC).flatten(), beta_BC.flatten())
        return y_1NHW.view(x_BCHW.shape)


class ResBlock(nn.Module):
    """Two convolutions beside a shortcut, their sum scaled by 1 / sqrt(2); `down` halves."""

    def __init__(self, channels: int, out: int, *, norm: bool = False, down: bool = False) -> None:
        super().__init__()
        self.down = down
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, out, 3, padding=1)
        self.norm1 = AffineInstanceNorm2d(channels) if norm else nn.Identity()
        self.norm2 = AffineInstanceNorm2d(channels) if norm else nn.Identity()
        self.conv1x1 = nn.Conv2d(channels, out, 1, bias=False) if channels != out else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The next map."""
        shortcut_BCHW = x_BCHW if self.conv1x1 is None else self.conv1x1(x_BCHW)
        y_BCHW = self.conv1(_rectified(self.norm1(x_BCHW)))
        if self.down:
            shortcut_BCHW = nnf.avg_pool2d(shortcut_BCHW, 2)
            y_BCHW = nnf.avg_pool2d(y_BCHW, 2)
        y_BCHW = self.conv2(_rectified(self.norm2(y_BCHW)))
        sum_BCHW: Tensor = shortcut_BCHW + y_BCHW
        return sum_BCHW / math.sqrt(2)


class StyledResBlock(nn.Module):
    """A `ResBlock` whose norms follow a style; `up` doubles before anything is learned."""

    def __init__(self, channels: int, out: int, style_width: int, *, up: bool = False) -> None:
        super().__init__()
        self.up = up
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.norm1 = AdaptiveInstanceNorm2d(channels, style_width)
        self.norm2 = AdaptiveInstanceNorm2d(out, style_width)
        self.conv1x1 = nn.Conv2d(channels, out, 1, bias=False) if channels != out else None

    def forward(self, x_BCHW: Tensor, style_BS: Tensor) -> Tensor:
        """The next map."""
        y_BCHW = _rectified(self.norm1(x_BCHW, style_BS))
        if self.up:
            x_BCHW, y_BCHW = _doubled(x_BCHW), _doubled(y_BCHW)
        shortcut_BCHW = x_BCHW if self.conv1x1 is None else self.conv1x1(x_BCHW)
        y_BCHW = self.conv2(_rectified(self.norm2(self.conv1(y_BCHW), style_BS)))
        sum_BCHW: Tensor = shortcut_BCHW + y_BCHW
        return sum_BCHW / math.sqrt(2)


class DownBlock(nn.Module):
    """Norm, rectifier, a 4 x 4 convolution that halves; without a shortcut (`released`)."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 4, stride=2, padding=1)
        self.norm1 = AffineInstanceNorm2d(channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The next map."""
        y_BCHW: Tensor = self.conv1(_rectified(self.norm1(x_BCHW)))
        return y_BCHW


class UpBlock(nn.Module):
    """Doubles, then norm, rectifier and convolution; does not see the style (`released`)."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.norm1 = AffineInstanceNorm2d(channels)

    def forward(self, x_BCHW: Tensor, style_BS: Tensor) -> Tensor:
        """The next map; `style_BS` is not read."""
        y_BCHW: Tensor = self.conv1(_rectified(self.norm1(_doubled(x_BCHW))))
        return y_BCHW


class StyleGenerator(nn.Module):
    """G: encodes images, and decodes them in a style. Any height and width.

    Nothing bounds the output; images are clamped when they are saved.

    >>> small = StyleNetworksConfig(image_size=64, base_width=4, style_width=5)
    >>> G = StyleGenerator(small)
    >>> G(torch.zeros(2, 3, 32, 48), torch.zeros(2, 5)).shape, G.multiple_of
    (torch.Size([2, 3, 32, 48]), 4)
    >>> [map_BCHW.shape[2] for map_BCHW in G.encodings(torch.zeros(1, 3, 64, 64))]
    [32, 16, 16, 16]
    """

    def __init__(self, config: StyleNetworksConfig | None = None) -> None:
        super().__init__()
        config = config or StyleNetworksConfig()
        self.channels, self.style_width = config.channels, config.style_width
        paper = config.generator == "paper"
        levels = int(math.log2(config.image_size)) - 4 if paper else 2
        widths = config.widths(levels)
        first, last = widths[0], widths[-1]
        steps = list(pairwise(widths))
        down: list[nn.Module]
        up: list[nn.Module]
        if paper:
            down = [ResBlock(i, o, norm=True, down=True) for i, o in steps]
            up = [StyledResBlock(o, i, config.style_width, up=True) for i, o in steps]
        else:
            down = [DownBlock(i, o) for i, o in steps]
            up = [UpBlock(o, i) for i, o in steps]
        unchanged = range(2 if paper else 4)
        self._tap_widths = [*widths[1:], *(last for _ in unchanged)]
        down += [ResBlock(last, last, norm=True) for _ in unchanged]
        up += [StyledResBlock(last, last, config.style_width) for _ in unchanged]
        self.from_rgb = nn.Conv2d(config.channels, first, 3, padding=1)
        self.encode = nn.ModuleList(down)
        self.decode = nn.ModuleList(reversed(up))
        self.to_rgb = nn.Sequential(
            AffineInstanceNorm2d(first), nn.LeakyReLU(_SLOPE), nn.Conv2d(first, config.channels, 1)
        )
        self.multiple_of = 2**levels
        """Sides of which the output keeps the size."""
        self.min_size = 2 * self.multiple_of
        """Shortest side: instance norm needs more than one pixel on the innermost map."""

    def forward(self, x_BCHW: Tensor, style_BS: Tensor) -> Tensor:
        """Images in the styles given.

        Raises:
            ShapeError: if channels, sides or the style do not fit.
        """
        return self.decoded(self.encodings(x_BCHW)[-1], style_BS)

    def encodings(self, x_BCHW: Tensor) -> list[Tensor]:
        """The map behind every block of the encoder; the last one is what is decoded.

        Raises:
            ShapeError: if channels or sides do not fit.
        """
        multiple = self.multiple_of
        if x_BCHW.ndim != 4 or x_BCHW.shape[1] != self.channels:
            raise ShapeError(
                f"Images must be [B, {self.channels}, H, W] for this generator; "
                f"got {tuple(x_BCHW.shape)}."
            )
        if min(x_BCHW.shape[2:]) < self.min_size or any(n % multiple for n in x_BCHW.shape[2:]):
            raise ShapeError(
                f"Sides must be multiples of {multiple}, at least {self.min_size}; got "
                f"{x_BCHW.shape[2]} x {x_BCHW.shape[3]}. Pad or resize the images."
            )
        maps = [self.from_rgb(x_BCHW)]
        for block in self.encode:
            maps.append(block(maps[-1]))
        return maps[1:]

    def decoded(self, encoding_BCHW: Tensor, style_BS: Tensor) -> Tensor:
        """The images that an encoding becomes in the styles given.

        Raises:
            ShapeError: if there is not one style of the right length for each image.
        """
        if style_BS.shape != (len(encoding_BCHW), self.style_width):
            raise ShapeError(
                f"`style_BS` must be {(len(encoding_BCHW), self.style_width)}, a style for each "
                f"image; got {tuple(style_BS.shape)}."
            )
        for block in self.decode:
            encoding_BCHW = block(encoding_BCHW, style_BS)
        y_BCHW: Tensor = self.to_rgb(encoding_BCHW)
        return y_BCHW

    def check_taps(self, taps: Sequence[int]) -> None:
        """Refuse blocks that the encoder does not have.

        Raises:
            ConfigError: there is no such block, or none is named.
        """
        if not taps or not all(0 <= tap < len(self.encode) for tap in taps):
            raise ConfigError(
                f"`layers` must name blocks of the encoder, 0 to {len(self.encode) - 1} for this "
                f"generator; got {list(taps)}. Choose them with --method.layers."
            )

    def tap_channels(self, taps: Sequence[int]) -> list[int]:
        """Channels of the maps behind these blocks of the encoder.

        >>> StyleGenerator(StyleNetworksConfig(base_width=2, max_width=8)).tap_channels((0, 5))
        [4, 8]
        """
        self.check_taps(taps)
        return [self._tap_widths[tap] for tap in taps]

    def tap_fields(self, taps: Sequence[int]) -> list[int]:
        """Sides in pixels of what a place behind these blocks depends on, norms apart."""
        fields, field, jump = [], 3, 1
        for block in self.encode:
            if isinstance(block, DownBlock):
                field, jump = field + 3 * jump, 2 * jump
            else:  # a convolution, perhaps a pooling of 2 x 2, a convolution
                field += 2 * jump
                if block.down:
                    field, jump = field + jump, 2 * jump
                field += 2 * jump
            fields.append(field)
        return [fields[tap] for tap in taps]


class MappingNetwork(nn.Module):
    """F: latents become styles, by layers that all domains share and a head for each.

    >>> F = MappingNetwork(StyleNetworksConfig(num_domains=3, hidden_width=8, style_width=5))
    >>> F(torch.randn(2, 16), torch.tensor([0, 2])).shape
    torch.Size([2, 5])
    """

    def __init__(self, config: StyleNetworksConfig | None = None) -> None:
        super().__init__()
        config = config or StyleNetworksConfig()
        hidden, self.latent_width = config.hidden_width, config.latent_width
        self.shared = _perceptron([config.latent_width, *[hidden] * 4])
        self.shared.append(nn.ReLU())
        self.unshared = nn.ModuleList(
            _perceptron([*[hidden] * 4, config.style_width]) for _ in range(config.num_domains)
        )

    def forward(self, latent_BL: Tensor, domain_B: Tensor) -> Tensor:
        """The style of each latent in its domain, [B, S].

        Raises:
            ShapeError: if a domain is not one of the network's.
        """
        return of_domain(self.all_domains(latent_BL), domain_B)

    def all_domains(self, latent_BL: Tensor) -> Tensor:
        """The styles of each latent in every domain, [B, D, S].

        All heads take part in every step, as released: those of other domains with a gradient of
        zero, which Adam's weight decay still shrinks.
        """
        hidden = self.shared(latent_BL)
        return torch.stack([head(hidden) for head in self.unshared], dim=1)

    def random_styles(self, draws: Draws, domain_B: Tensor) -> Tensor:
        """F(z, y) for a random latent z in each domain y, [B, S]."""
        weight = self.shared.get_parameter("0.weight")
        latent_BL = draws.normal(len(domain_B), self.latent_width).to(weight)
        return self.forward(latent_BL, domain_B.to(weight.device))


class StyleEncoder(nn.Module):
    """E: images of known domains become styles.

    >>> small = StyleNetworksConfig(image_size=32, base_width=2, max_width=4, style_width=5)
    >>> StyleEncoder(small)(torch.zeros(1, 3, 32, 40), torch.tensor([1])).shape
    torch.Size([1, 5])
    """

    def __init__(self, config: StyleNetworksConfig | None = None) -> None:
        super().__init__()
        config = config or StyleNetworksConfig()
        self.min_size = config.image_size
        self.shared = nn.Sequential(*_trunk(config))
        self.unshared = nn.ModuleList(
            nn.Linear(_out_width(config), config.style_width) for _ in range(config.num_domains)
        )

    def forward(self, x_BCHW: Tensor, domain_B: Tensor) -> Tensor:
        """The style of each image, seen as one of its domain, [B, S].

        Raises:
            ShapeError: if an image is too small, or a domain is not one of the network's.
        """
        return of_domain(self.all_domains(x_BCHW), domain_B)

    def all_domains(self, x_BCHW: Tensor) -> Tensor:
        """The styles of each image, seen as one of every domain, [B, D, S]."""
        _check_side(x_BCHW, self.min_size)
        features_BC = self.shared(x_BCHW).mean(dim=(2, 3))
        return torch.stack([head(features_BC) for head in self.unshared], dim=1)


class DomainDiscriminator(nn.Module):
    """D: is an image a real one of its domain? One logit per domain, and one of them counts.

    >>> small = StyleNetworksConfig(image_size=32, base_width=2, max_width=4)
    >>> DomainDiscriminator(small)(torch.zeros(3, 3, 32, 32), torch.tensor([1, 0, 1])).shape
    torch.Size([3])
    """

    def __init__(self, config: StyleNetworksConfig | None = None) -> None:
        super().__init__()
        config = config or StyleNetworksConfig()
        self.min_size = config.image_size
        self.main = nn.Sequential(
            *_trunk(config), nn.Conv2d(_out_width(config), config.num_domains, 1)
        )

    def forward(self, x_BCHW: Tensor, domain_B: Tensor) -> Tensor:
        """The logit of each image in its domain, [B].

        Raises:
            ShapeError: if an image is too small, or a domain is not one of the network's.
        """
        return of_domain(self.all_domains(x_BCHW), domain_B)

    def all_domains(self, x_BCHW: Tensor) -> Tensor:
        """The logits of each image in every domain, [B, D]."""
        _check_side(x_BCHW, self.min_size)
        logits_BD: Tensor = self.main(x_BCHW).mean(dim=(2, 3))
        return logits_BD


def of_domain(rows_BD: Tensor, domain_B: Tensor) -> Tensor:
    """From what is known of each image in every domain, that of its own domain.

    Args:
        rows_BD: [B, D] or [B, D, S]; receives the gradient.
        domain_B: int64. On an accelerator it is not checked here, since that would wait for it,
            nor in compiled code.

    Raises:
        ShapeError: if there is not one domain for each image, or no such domain.

    >>> of_domain(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 0]))
    tensor([2., 3.])
    """
    num_images, num_domains = rows_BD.shape[:2]
    if domain_B.shape != (num_images,):
        raise ShapeError(
            f"`domain_B` must be [{num_images}], a domain for each image; "
            f"got {tuple(domain_B.shape)}."
        )
    checked = domain_B.device.type == "cpu" and not torch.compiler.is_compiling()
    if checked and len(domain_B):
        low, high = int(domain_B.min()), int(domain_B.max())
        if low < 0 or high >= num_domains:
            raise ShapeError(
                f"`domain_B` must be 0 to {num_domains - 1}; got {low if low < 0 else high}. "
                "Does the data have more domains than `num_domains`?"
            )
    return rows_BD[torch.arange(num_images, device=rows_BD.device), domain_B]


def same_domain(domain: int, num_images: int, num_domains: int) -> Tensor:
    """The domain of each of some images, which is the same, [B].

    Raises:
        ConfigError: there is no such domain.

    >>> same_domain(2, 3, num_domains=4)
    tensor([2, 2, 2])
    """
    if not 0 <= domain < num_domains:
        raise ConfigError(f"`domain` must be 0 to {num_domains - 1} for this model; got {domain}.")
    return torch.full((num_images,), domain)


@dataclass(frozen=True, slots=True)
class StyleTask:
    """Images to translate, and for each two sources of styles of its target domain."""

    x_BCHW: Tensor
    domain_B: Tensor
    """The images' own domains."""
    target_B: Tensor
    """The domains to translate into."""
    source: Tensor
    """Of the style: latents [B, L], or images of the target domains [B, C, H, W]."""
    second_source: Tensor
    """Of another style, for diversity."""

    def __len__(self) -> int:
        return len(self.x_BCHW)

    def split(self, num_images: int | None) -> list[StyleTask]:
        """Parts of at most so many images, in order; one part if None.

        >>> rows = torch.arange(5)
        >>> [len(part) for part in StyleTask(rows, rows, rows, rows, rows).split(2)]
        [2, 2, 1]
        """
        rows = (self.x_BCHW, self.domain_B, self.target_B, self.source, self.second_source)
        parts = (torch.split(tensor, num_images or len(self)) for tensor in rows)
        return [StyleTask(*part) for part in zip(*parts, strict=True)]


def style_of(F: nn.Module, E: nn.Module, source: Tensor, domain_B: Tensor) -> Tensor:
    """Styles from latents by F, or from images by E, [B, S].

    Args:
        F: the mapping network.
        E: the style encoder.
        source: [B, L] or [B, C, H, W].
        domain_B: the domains of the styles.
    """
    style_BS: Tensor = (F if source.ndim == 2 else E)(source, domain_B)
    return style_BS


def _trunk(config: StyleNetworksConfig) -> list[nn.Module]:
    """What E and D have in common: down to one pixel at `image_size`."""
    widths = config.widths(_levels(config.image_size))
    return [
        nn.Conv2d(config.channels, widths[0], 3, padding=1),
        *(ResBlock(i, o, down=True) for i, o in pairwise(widths)),
        nn.LeakyReLU(_SLOPE),
        nn.Conv2d(widths[-1], widths[-1], _INNERMOST),
        nn.LeakyReLU(_SLOPE),
    ]


def _levels(image_size: int) -> int:
    """How often E and D halve their maps."""
    return int(math.log2(image_size // _INNERMOST))


def _out_width(config: StyleNetworksConfig) -> int:
    return config.widths(_levels(config.image_size))[-1]


def _perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with rectifiers between them."""
    layers: list[nn.Module] = []
    for into, out in pairwise(widths):
        layers += [nn.Linear(into, out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _normalized(x_BCHW: Tensor, scale_C: Tensor, shift_C: Tensor) -> Tensor:
    """Guarded like `InstanceNorm2d` against the wrong gradients of torch's kernel at batch 1."""
    y_BCHW = nnf.instance_norm(x_BCHW, weight=scale_C, bias=shift_C, eps=EPSILON)
    recorded = y_BCHW.requires_grad and torch.is_grad_enabled()
    return contiguous_gradient(y_BCHW) if recorded else y_BCHW


def _rectified(x_BCHW: Tensor) -> Tensor:
    return nnf.leaky_relu(x_BCHW, _SLOPE)


def _doubled(x_BCHW: Tensor) -> Tensor:
    return nnf.interpolate(x_BCHW, scale_factor=2, mode="nearest")


def _check_side(x_BCHW: Tensor, least: int) -> None:
    if min(x_BCHW.shape[2:]) < least:
        raise ShapeError(
            f"Images must be at least {least} x {least} pixels for networks made for `image_size` "
            f"{least}; got {x_BCHW.shape[2]} x {x_BCHW.shape[3]}."
        )


# Released weights


Shapes = Mapping[str, tuple[int, ...]]
"""Name of a weight, as released -> its shape."""
RELEASED_NAMES = {
    "generator": "G",
    "mapping_network": "F",
    "style_encoder": "E",
    "discriminator": "D",
    "patch_sample": "P",
}
"""The released files' name of each network -> its letter in our methods."""


class ReleasedWeights(NamedTuple):
    """What a released file holds."""

    config: StyleNetworksConfig
    networks: dict[str, dict[str, Tensor]]
    """Letter -> weights by our names. `*_nets_ema.ckpt` has G, F and E; `*_nets.ckpt` D too; both
    are without P (the head of the semantic-relation form) where the run had none."""


def read_released(state: Mapping[str, Mapping[str, Tensor]]) -> ReleasedWeights:
    """Networks and their sizes from the contents of `*_nets.ckpt` or `*_nets_ema.ckpt`.

    Nothing has to be known of the run: the sizes follow from the shapes.

    Args:
        state: network -> name -> weight, as the files hold them. `module.` is cut off.

    Raises:
        CheckpointError: a network is missing or unknown, or it is a model of aligned faces
            (`w_hpf` above 0), which has another generator.
    """
    if "fan" in state:
        raise CheckpointError(f"The file {_face_model('it holds the network `fan`')}")
    for name in state:
        if name not in RELEASED_NAMES:
            known = ", ".join(RELEASED_NAMES)
            raise CheckpointError(f"Unknown network `{name}` in a StarGAN v2 file; known: {known}.")
    for name in ("generator", "mapping_network", "style_encoder"):
        if name not in state:
            raise CheckpointError(
                f"A StarGAN v2 file holds the network `{name}`; this one has "
                f"{', '.join(state) or 'none'}. Was it `*_optims.ckpt`?"
            )
    networks = {
        RELEASED_NAMES[name]: {_own_name(key): weight for key, weight in weights.items()}
        for name, weights in state.items()
    }
    sizes = {}
    for letter, weights in networks.items():
        if letter in SIZES_OF:
            shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
            try:
                sizes[letter] = SIZES_OF[letter](shapes)
            except CheckpointError as error:
                raise CheckpointError(f"The network {letter} of the file {error}") from error
    return ReleasedWeights(joined_sizes(sizes), networks)


def joined_sizes(sizes: Mapping[str, StyleNetworksConfig]) -> StyleNetworksConfig:
    """The sizes of a model from what its networks tell, each of which knows only some.

    Args:
        sizes: by letter, as `SIZES_OF` finds them.

    Raises:
        CheckpointError: the networks are not of one model.
    """
    tellers = {
        "num_domains": "EFD",
        "image_size": "EDG",
        "channels": "GED",
        "generator": "G",
        "base_width": "GED",
        "max_width": "EDG",
        "style_width": "EFG",
        "latent_width": "F",
        "hidden_width": "F",
    }
    told = {
        name: getattr(sizes[first], name)
        for name, letters in tellers.items()
        for first in [next((letter for letter in letters if letter in sizes), None)]
        if first is not None
    }
    generator = sizes.get("G")
    if generator and generator.generator == "paper" and generator.image_size != told["image_size"]:
        raise CheckpointError(
            f"The generator is for images of {generator.image_size} pixels, the style encoder for "
            f"{told['image_size']}; they are not of one model."
        )
    joined = StyleNetworksConfig(**told)
    usual = replace(joined, base_width=None)
    return usual if usual.widths(0) == joined.widths(0) else joined


def generator_sizes(shapes: Shapes) -> StyleNetworksConfig:
    """What G's shapes tell: its form, widths and channels; in the paper's form the image size.

    Raises:
        CheckpointError: a weight is missing, or the generator is one for aligned faces. Without
            the name of the file, which is to stand before it.
    """
    first = _shape(shapes, "from_rgb.weight")
    blocks = _count(shapes, "encode", "conv1.weight")
    form: StyleGeneratorForm = "paper" if "encode.0.conv2.weight" in shapes else "released"
    _refuse_faces(shapes)
    last = _shape(shapes, f"encode.{blocks - 1}.conv1.weight")
    style_width = _shape(shapes, "decode.0.norm1.fc.weight")[1]
    return StyleNetworksConfig(
        image_size=_INNERMOST * 2**blocks if form == "paper" else 256,
        channels=first[1],
        generator=form,
        base_width=first[0],
        max_width=last[0],
        style_width=style_width,
    )


def mapping_sizes(shapes: Shapes) -> StyleNetworksConfig:
    """What F's shapes tell: domains, and the lengths of latents, styles and layers.

    Raises:
        CheckpointError: as `generator_sizes`.
    """
    hidden, latent = _shape(shapes, "shared.0.weight")
    return StyleNetworksConfig(
        num_domains=_count(shapes, "unshared", "6.weight"),
        latent_width=latent,
        hidden_width=hidden,
        style_width=_shape(shapes, "unshared.0.6.weight")[0],
    )


def encoder_sizes(shapes: Shapes) -> StyleNetworksConfig:
    """What E's shapes tell: domains, image size, widths, channels and the length of styles.

    Raises:
        CheckpointError: as `generator_sizes`.
    """
    return StyleNetworksConfig(
        num_domains=_count(shapes, "unshared", "weight"),
        style_width=_shape(shapes, "unshared.0.weight")[0],
        **_trunk_sizes(shapes, "shared"),
    )


def discriminator_sizes(shapes: Shapes) -> StyleNetworksConfig:
    """What D's shapes tell: domains, image size, widths and channels.

    Raises:
        CheckpointError: as `generator_sizes`.
    """
    levels = _count(shapes, "main", "conv1.weight")
    return StyleNetworksConfig(
        num_domains=_shape(shapes, f"main.{levels + 4}.weight")[0], **_trunk_sizes(shapes, "main")
    )


SIZES_OF: Mapping[str, Callable[[Shapes], StyleNetworksConfig]] = {
    "G": generator_sizes,
    "F": mapping_sizes,
    "E": encoder_sizes,
    "D": discriminator_sizes,
}
"""Letter of a network -> what tells its sizes."""


def _trunk_sizes(shapes: Shapes, name: str) -> dict[str, Any]:
    levels = _count(shapes, name, "conv1.weight")
    first = _shape(shapes, f"{name}.0.weight")
    return {
        "image_size": _INNERMOST * 2**levels,
        "channels": first[1],
        "base_width": first[0],
        "max_width": _shape(shapes, f"{name}.{levels}.conv2.weight")[0],
    }


def _refuse_faces(shapes: Shapes) -> None:
    """The generator of aligned faces has no shortcuts in its styled blocks."""
    if "hpf.filter" in shapes:
        raise CheckpointError(_face_model("it has a high-pass filter"))
    for name, shape in shapes.items():
        block = name.removesuffix("conv1.weight")
        styled = name != block and block.startswith("decode.") and f"{block}conv2.weight" in shapes
        if styled and shape[0] != shape[1] and f"{block}conv1x1.weight" not in shapes:
            raise CheckpointError(_face_model("its styled blocks have no shortcuts"))


def _shape(shapes: Shapes, name: str) -> tuple[int, ...]:
    if name not in shapes or len(shapes[name]) < 2:
        raise CheckpointError(f"lacks the weight `{name}`.")
    return shapes[name]


def _count(shapes: Shapes, stack: str, ending: str) -> int:
    """How many members of a stack of blocks have a weight of this name."""
    return sum(name.startswith(f"{stack}.") and _member(name) == ending for name in shapes)


def _member(name: str) -> str:
    """`shared.3.conv1.weight` -> `conv1.weight`."""
    return name.split(".", 2)[-1]


def _own_name(key: str) -> str:
    key = key.removeprefix("module.")
    return f"mlps.{key.removeprefix('mlp.')}" if key.startswith("mlp.") else key


def _face_model(reason: str) -> str:
    return (
        "is a StarGAN v2 model of aligned faces (`w_hpf` above 0, as released for CelebA-HQ): "
        f"{reason}. Such a generator needs facial landmarks and is not supported; models trained "
        "with `--w_hpf 0` are (AFHQ, Seasons, Weather)."
    )
