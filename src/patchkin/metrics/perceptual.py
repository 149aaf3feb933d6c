"""LPIPS: how different two images look (Zhang et al., CVPR 2018, arXiv 1801.03924).

The backbone's activations are scaled to unit length per place, their squared differences weighted
per channel, averaged over places and summed over layers. The weights are not negative, so LPIPS is
a squared Euclidean distance: an image is embedded once, however many others it is compared with,
and the mean over all pairs of a set follows from its mean embedding (see `diversity`).

The linear heads are those of version 0.1 as torchmetrics bundles them. Its own network class is
private, and its public ones download the backbone when they are built and run it twice per pair, so
the network here is torchvision's, fed with a given file.

Shape suffixes: B images, C channels, H and W pixels, E entries of an embedding.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from patchkin.errors import (
    CheckpointError,
    ConfigError,
    ShapeError,
    check_same_shape,
    missing_extra,
    nearest,
)
from patchkin.metrics.checks import check_colour_batch, check_finite
from patchkin.metrics.weights import ALEXNET, SQUEEZENET, VGG16, fetch, loading, read_weights

PerceptualNet: TypeAlias = Literal["alex", "squeeze", "vgg"]

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_LENGTH_EPSILON = 1e-10  # under the root, as StarGAN v2; torchmetrics has 1e-8 there
_MIN_PIXELS = 32  # below, a map of AlexNet is empty


@dataclass(frozen=True, slots=True)
class _Backbone:
    build: str
    """Name in `torchvision.models`."""
    published: Any
    taps: tuple[int, ...]
    """Layers of its `features` whose output is compared."""


_BACKBONES = {
    "alex": _Backbone("alexnet", ALEXNET, (1, 4, 7, 9, 11)),
    "squeeze": _Backbone("squeezenet1_1", SQUEEZENET, (1, 4, 7, 9, 10, 11, 12)),
    "vgg": _Backbone("vgg16", VGG16, (3, 8, 15, 22, 29)),
}


class PerceptualDistance:
    """LPIPS v0.1.

    Args:
        net: backbone. `alex` is what StarGAN v2 and most papers report; `squeeze` is the smallest.
        weights: a copy of torchvision's file of the backbone (the entries `features.*` suffice); by
            default it is downloaded into the cache.
        heads: a copy of the linear heads; by default those that torchmetrics bundles.
        device: to compute on.

    Raises:
        ConfigError: an unknown `net`, or torchmetrics is not installed and no `heads` are given.
        DownloadError: the weights cannot be fetched.
        CheckpointError: a file does not fit.
    """

    def __init__(
        self,
        net: PerceptualNet = "alex",
        *,
        weights: Path | None = None,
        heads: Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if net not in _BACKBONES:
            raise ConfigError(f"Unknown LPIPS network `{net}`. {nearest(net, _BACKBONES)}")
        backbone = _BACKBONES[net]
        self.name = f"lpips-v0.1-{net}"
        self._taps = backbone.taps
        weights = weights or fetch(backbone.published, option="--lpips-weights")
        self._layers, backbone_hash = _features(backbone.build, weights)
        self._layers.to(device)
        heads = heads or _bundled_heads(net)
        self._heads_C, heads_hash = _read_heads(heads, len(self._taps))
        self._heads_C = [head_C.to(device) for head_C in self._heads_C]
        self.sha256 = hashlib.sha256(f"{backbone_hash} {heads_hash}".encode()).hexdigest()
        """Of the hashes of both files."""

    @torch.no_grad()
    def __call__(self, a_BCHW: Tensor, b_BCHW: Tensor) -> Tensor:
        """Distance of each pair of images, [B], float32 on the CPU.

        Args:
            a_BCHW: nominally in [-1, 1]. Values beyond count (StarGAN v2 measures what the
                generator gives, unclamped).
            b_BCHW: likewise, of the same shape.

        Raises:
            ShapeError: the shapes differ, or are not [B, 3, H, W] with sides from 32.
            DataError: values that are not finite.
        """
        check_same_shape(a_BCHW=a_BCHW, b_BCHW=b_BCHW)
        return (self.embed(a_BCHW) - self.embed(b_BCHW)).square().sum(dim=1)

    @torch.no_grad()
    def embed(self, images_BCHW: Tensor) -> Tensor:
        """Points [B, E] whose squared Euclidean distances are LPIPS, float32 on the CPU.

        E is about 10 numbers per pixel for AlexNet; images of another size have another E.

        Raises:
            ShapeError: not [B, 3, H, W] with sides from 32.
            DataError: values that are not finite.
        """
        check_colour_batch(images_BCHW, "LPIPS")
        if min(images_BCHW.shape[2:]) < _MIN_PIXELS:
            height, width = images_BCHW.shape[2:]
            raise ShapeError(
                f"LPIPS needs images of at least {_MIN_PIXELS} pixels; got {width} x {height}."
            )
        check_finite(images_BCHW, "images")
        x = images_BCHW.to(self._heads_C[0].device, torch.float32)
        shift, scale = (x.new_tensor(values)[:, None, None] for values in (_SHIFT, _SCALE))
        x = (x - shift) / scale
        parts: list[Tensor] = []
        for index, layer in enumerate(self._layers):
            x = layer(x)
            if index in self._taps:
                parts.append(_part(x, self._heads_C[len(parts)]))
            if len(parts) == len(self._taps):
                break
        return torch.cat(parts, dim=1).cpu()


def _part(x_BCHW: Tensor, head_C: Tensor) -> Tensor:
    """One layer's share of the embedding."""
    length_B1HW = (x_BCHW.square().sum(dim=1, keepdim=True) + _LENGTH_EPSILON).sqrt()
    places = x_BCHW.shape[2] * x_BCHW.shape[3]
    return (x_BCHW / length_B1HW * (head_C / places).sqrt()[:, None, None]).flatten(1)


def _features(build: str, weights: Path) -> tuple[nn.Sequential, str]:
    from torchvision import models  # type: ignore[import-untyped]

    tensors, sha256 = read_weights(weights)
    make: Callable[..., Any] = getattr(models, build)
    layers: nn.Sequential = make(weights=None).features
    convolutional = {
        name.removeprefix("features."): tensor
        for name, tensor in tensors.items()
        if name.startswith("features.")
    }
    with loading(weights, f"the features of torchvision's {build}"):
        layers.load_state_dict(convolutional)
    return layers.eval().requires_grad_(False), sha256


def _bundled_heads(net: str) -> Path:
    package = importlib.util.find_spec("torchmetrics")  # found, not imported: that takes 4 s
    if package is None or package.origin is None:
        raise ConfigError(missing_extra("LPIPS", package="torchmetrics", extra="metrics"))
    return Path(package.origin).parent / "functional" / "image" / "lpips_models" / f"{net}.pth"


def _read_heads(path: Path, num_layers: int) -> tuple[list[Tensor], str]:
    tensors, sha256 = read_weights(path)
    names = [f"lin{index}.model.1.weight" for index in range(num_layers)]
    missing = [name for name in names if name not in tensors]
    if missing:
        raise CheckpointError(f"`{path}` does not hold LPIPS heads: `{missing[0]}` is missing.")
    heads = [tensors[name].float().flatten() for name in names]
    if any(bool((head_C < 0).any()) for head_C in heads):
        raise CheckpointError(f"`{path}` holds negative weights; LPIPS heads have none.")
    return heads, sha256
