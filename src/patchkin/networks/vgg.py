"""Fixed features of VGG16, and the selector that picks from them what tells about structure.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from patchkin.errors import CheckpointError, ConfigError, ShapeError
from patchkin.networks.channels import match_channels
from patchkin.numerics import widened
from patchkin.storage.pickled import read_pickled

VGG16_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
"""torchvision's weights, trained on ImageNet; 528 MB, of which the features are 59 MB."""
VGG16_WIDTH = 64
"""Channels of VGG16's first stage."""

_POOLED = "pooled"
_PLAN = (1, 1, _POOLED, 2, 2, _POOLED, 4, 4, 4, _POOLED, 8, 8, 8, _POOLED, 8, 8, 8)
"""Convolutions, by their channels in units of the first stage's, and poolings between them."""
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's colours, for images in [0, 1]."""


class VGGFeatures(nn.Module):
    """Maps behind some of VGG16's rectifiers (Simonyan and Zisserman 2015). Nothing learns.

    The weights are no part of a checkpoint: they are read from a file when they are first needed,
    so a trained model translates without them. With `random` they are seeded draws instead, for
    tests and for where no weights can be had.

    Args:
        layers: rectifiers, counted from 0 (relu1_1) to 12 (relu5_3).
        weights: file with torchvision's `vgg16` or its `features`; not for `random`.
        random: draw the weights (He et al. 2015), always the same.
        width: channels of the first stage; 64 unless `random`.
        normalized: take the mean of ImageNet's colours away and divide by their deviation, as VGG16
            was trained; OMGD gives it images in [0, 1] as they are.

    >>> network = VGGFeatures((4, 9), random=True, width=2)
    >>> [tuple(feature.shape) for feature in network(torch.zeros(1, 3, 32, 24))]
    [(1, 8, 8, 6), (1, 16, 4, 3)]
    >>> VGGFeatures((4, 7, 9)).channels
    [256, 512, 512]
    """

    def __init__(
        self,
        layers: Sequence[int],
        *,
        weights: str | None = None,
        random: bool = False,
        width: int = VGG16_WIDTH,
        normalized: bool = True,
    ) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.normalized = normalized
        num_layers = sum(step != _POOLED for step in _PLAN)
        if not self.layers or not all(0 <= layer < num_layers for layer in self.layers):
            raise ConfigError(
                f"`layers` must name rectifiers of VGG16, 0 to {num_layers - 1}; "
                f"got {list(self.layers)}."
            )
        if width != VGG16_WIDTH and not random:
            raise ConfigError(
                f"VGG16's first stage has {VGG16_WIDTH} channels; got {width}. "
                "Only random features have another width."
            )
        self._file = weights
        widths = [int(step) * width for step in _PLAN if step != _POOLED]
        self._shapes = [
            (out, into, 3, 3) for into, out in pairwise([3, *widths[: max(self.layers) + 1]])
        ]
        self.channels = [widths[layer] for layer in self.layers]
        """Of the map at each layer."""
        self.fields = [_field_of(layer) for layer in self.layers]
        """Side of the square of the image that a place of each map depends on, in pixels."""
        before = _PLAN[: _index_in_plan(max(self.layers))]
        self.min_size = 2 ** before.count(_POOLED)
        """Shortest side that leaves a pixel after the poolings."""
        self._ready = False
        self._random = random
        for name, nothing in self.constants().items():
            self.register_buffer(name, nothing, persistent=False)

    def constants(self) -> dict[str, Tensor]:
        """Weights that are not here yet: no file of a model holds them."""
        names = [f"{kind}_{i}" for i in range(len(self._shapes)) for kind in ("weight", "bias")]
        return {name: torch.empty(0) for name in names}

    def make_ready(self) -> None:
        """Read the weights, unless they are here.

        Raises:
            ConfigError: if no file was named, or it does not hold VGG16.
        """
        if self._ready:
            return
        if self._random:
            self._fill(_random_weights(self._shapes))
            return
        if self._file is None:
            raise ConfigError(
                f"VGG16's weights are needed: download {VGG16_URL} and set `vgg_weights` to the "
                'file, or set `features` to "random".'
            )
        self._fill(_read_weights(Path(self._file), self._shapes))

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """The maps of images in [-1, 1], one per layer; grey images are taken for colour.

        Raises:
            ConfigError: as `make_ready`.
            ShapeError: if the images have neither 1 nor 3 channels, or are too small.
        """
        self.make_ready()
        if min(x_BCHW.shape[2:]) < self.min_size:
            raise ShapeError(
                f"Images must be at least {self.min_size} x {self.min_size} pixels for these "
                f"features; got {x_BCHW.shape[2]} x {x_BCHW.shape[3]}."
            )
        x_BCHW = widened(x_BCHW)
        x_BCHW = match_channels(x_BCHW, 3) * 0.5 + 0.5
        if self.normalized:
            # Filled where the images are: a tensor of a list would be sent, and waited for.
            mean, deviation = (
                torch.cat([x_BCHW.new_full((1, 1, 1, 1), value) for value in row], dim=1)
                for row in (_MEAN, _DEVIATION)
            )
            x_BCHW = (x_BCHW - mean) / deviation
        maps: list[Tensor] = []
        for step in _PLAN:
            if len(maps) == len(self._shapes):
                break
            if step == _POOLED:
                x_BCHW = nnf.max_pool2d(x_BCHW, 2)
                continue
            weight, bias = (
                self.get_buffer(f"weight_{len(maps)}"),
                self.get_buffer(f"bias_{len(maps)}"),
            )
            x_BCHW = nnf.relu(nnf.conv2d(x_BCHW, weight, bias, padding=1))
            maps.append(x_BCHW)
        return [maps[layer] for layer in self.layers]

    def _fill(self, weights: Sequence[tuple[Tensor, Tensor]]) -> None:
        for place, (weight, bias) in enumerate(weights):
            like = self.get_buffer(f"weight_{place}")
            setattr(self, f"weight_{place}", weight.to(like))
            setattr(self, f"bias_{place}", bias.to(like))
        self._ready = True


class FeatureSelector(nn.Module):
    """Two 1 x 1 convolutions per map: C to max(32, C / 4) channels, a rectifier, and once more.

    >>> selector = FeatureSelector([256, 512, 512])
    >>> sum(weight.numel() for weight in selector.parameters())
    184960
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        for count in channels:
            width = max(32, count // 4)
            self.convs.append(
                nn.Sequential(nn.Conv2d(count, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1))
            )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """A map of the same height and width for each map.

        Raises:
            ShapeError: if the number of maps is another than the selector's.
        """
        if len(features) != len(self.convs):
            raise ShapeError(
                f"The selector is made for {len(self.convs)} maps; got {len(features)}."
            )
        return [conv(feature) for conv, feature in zip(self.convs, features, strict=True)]


def _index_in_plan(layer: int) -> int:
    """Where in the plan a convolution stands."""
    return [index for index, step in enumerate(_PLAN) if step != _POOLED][layer]


def _field_of(layer: int) -> int:
    """The receptive field behind a rectifier, in pixels.

    >>> [_field_of(layer) for layer in (0, 1, 2, 4, 7)]
    [3, 5, 10, 24, 60]
    """
    field, step = 1, 1  # `step`: pixels between neighbouring places
    for part in _PLAN[: _index_in_plan(layer) + 1]:
        if part == _POOLED:
            field += step
            step *= 2
        else:
            field += 2 * step
    return field


def _random_weights(shapes: Sequence[tuple[int, ...]]) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(shape, generator=generator) * math.sqrt(2 / math.prod(shape[1:])),
            torch.zeros(shape[0]),
        )
        for shape in shapes
    ]


def _read_weights(path: Path, shapes: Sequence[tuple[int, ...]]) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of the convolutions, under torchvision's names."""
    if not path.is_file():
        raise ConfigError(f"`vgg_weights`: there is no file `{path}`. Download {VGG16_URL}.")
    try:
        state: Any = read_pickled(path)
    except CheckpointError as error:
        raise ConfigError(f"`vgg_weights`: {error} Download {VGG16_URL}.") from error
    if not isinstance(state, dict):
        raise ConfigError(
            f"`vgg_weights`: `{path}` holds no weights by name, but a {type(state).__name__}."
        )
    found = []
    for place, shape in enumerate(shapes):
        index = _index_in_plan(place) + place  # torchvision counts rectifiers too
        pair = []
        for kind, expected in (("weight", shape), ("bias", shape[:1])):
            tensor = state.get(f"features.{index}.{kind}", state.get(f"{index}.{kind}"))
            if not isinstance(tensor, Tensor) or tuple(tensor.shape) != expected:
                shown = tuple(tensor.shape) if isinstance(tensor, Tensor) else "nothing"
                raise ConfigError(
                    f"`vgg_weights`: `{path}` is not VGG16: `features.{index}.{kind}` must be "
                    f"{expected}; got {shown}."
                )
            pair.append(tensor)
        found.append((pair[0], pair[1]))
    return found
