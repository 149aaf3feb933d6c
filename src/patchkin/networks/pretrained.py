"""Networks that were trained on ImageNet, as features that do not learn.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from patchkin.errors import CheckpointError, ConfigError, ShapeError
from patchkin.networks.channels import match_channels
from patchkin.numerics import widened
from patchkin.storage.pickled import read_pickled

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's colours, for images in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Convolution:
    """With a rectifier behind it."""

    width: int
    """Channels, in units of the first stage's."""
    kernel: int = 3
    stride: int = 1
    padding: int = 1


@dataclass(frozen=True, slots=True)
class Pooling:
    """The largest of each square."""

    kernel: int = 2
    stride: int = 2


class PretrainedFeatures(nn.Module):
    """Maps behind some rectifiers of a sequence of convolutions. Nothing learns.

    The weights are no part of a checkpoint: they are read from a file when they are first needed,
    so a trained model translates without them. With `random` they are seeded draws instead, for
    tests and for where no weights can be had.

    Args:
        layers: rectifiers, counted from 0.
        weights: file with torchvision's network or its `features`; not for `random`.
        random: draw the weights (He et al. 2015), always the same.
        width: channels of the first stage; torchvision's unless `random`.
        normalized: take the mean of ImageNet's colours away and divide by their deviation, as the
            network was trained.
    """

    title: ClassVar[str]
    """What the network is called."""
    setting: ClassVar[str]
    """The setting that names the file."""
    url: ClassVar[str]
    """Of torchvision's weights."""
    first_width: ClassVar[int]
    """Channels of torchvision's first stage."""
    plan: ClassVar[Sequence[Convolution | Pooling]]

    def __init__(
        self,
        layers: Sequence[int],
        *,
        weights: str | None = None,
        random: bool = False,
        width: int | None = None,
        normalized: bool = True,
    ) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.normalized = normalized
        convolutions = [step for step in self.plan if isinstance(step, Convolution)]
        if not self.layers or not all(0 <= layer < len(convolutions) for layer in self.layers):
            raise ConfigError(
                f"`layers` must name rectifiers of {self.title}, 0 to {len(convolutions) - 1}; "
                f"got {list(self.layers)}."
            )
        width = self.first_width if width is None else width
        if width != self.first_width and not random:
            raise ConfigError(
                f"{self.title}'s first stage has {self.first_width} channels; got {width}. "
                "Only random features have another width."
            )
        self._file = weights
        used = convolutions[: max(self.layers) + 1]
        widths = [3, *(step.width * width for step in used)]
        self._shapes = [
            (out, into, step.kernel, step.kernel)
            for (into, out), step in zip(pairwise(widths), used, strict=True)
        ]
        self.channels = [widths[layer + 1] for layer in self.layers]
        """Of the map at each layer."""
        self.fields = [self._field_of(layer) for layer in self.layers]
        """Side of the square of the image that a place of each map depends on, in pixels."""
        self.min_size = self._smallest()
        """Shortest side that leaves a pixel."""
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
            ConfigError: if no file was named, or it does not hold the network.
        """
        if self._ready:
            return
        if self._random:
            self._fill(_random_weights(self._shapes))
            return
        if self._file is None:
            raise ConfigError(
                f"{self.title}'s weights are needed: download {self.url} and set "
                f'`{self.setting}` to the file, or set `features` to "random".'
            )
        self._fill(self._read(Path(self._file)))

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
        for step in self.plan:
            if len(maps) == len(self._shapes):
                break
            if isinstance(step, Pooling):
                x_BCHW = nnf.max_pool2d(x_BCHW, step.kernel, step.stride)
                continue
            weight, bias = (
                self.get_buffer(f"weight_{len(maps)}"),
                self.get_buffer(f"bias_{len(maps)}"),
            )
            x_BCHW = nnf.relu(
                nnf.conv2d(x_BCHW, weight, bias, stride=step.stride, padding=step.padding)
            )
            maps.append(x_BCHW)
        return [maps[layer] for layer in self.layers]

    def _fill(self, weights: Sequence[tuple[Tensor, Tensor]]) -> None:
        for place, (weight, bias) in enumerate(weights):
            like = self.get_buffer(f"weight_{place}")
            setattr(self, f"weight_{place}", weight.to(like))
            setattr(self, f"bias_{place}", bias.to(like))
        self._ready = True

    def _read(self, path: Path) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of the convolutions, under torchvision's names."""
        if not path.is_file():
            raise ConfigError(f"`{self.setting}`: there is no file `{path}`. Download {self.url}.")
        try:
            state: Any = read_pickled(path)
        except CheckpointError as error:
            raise ConfigError(f"`{self.setting}`: {error} Download {self.url}.") from error
        if not isinstance(state, dict):
            raise ConfigError(
                f"`{self.setting}`: `{path}` holds no weights by name, but a "
                f"{type(state).__name__}."
            )
        found = []
        for place, shape in enumerate(self._shapes):
            index = self._index_in_plan(place) + place  # torchvision counts rectifiers too
            pair = []
            for kind, expected in (("weight", shape), ("bias", shape[:1])):
                tensor = state.get(f"features.{index}.{kind}", state.get(f"{index}.{kind}"))
                if not isinstance(tensor, Tensor) or tuple(tensor.shape) != expected:
                    shown = tuple(tensor.shape) if isinstance(tensor, Tensor) else "nothing"
                    raise ConfigError(
                        f"`{self.setting}`: `{path}` is not {self.title}: "
                        f"`features.{index}.{kind}` must be {expected}; got {shown}."
                    )
                pair.append(tensor)
            found.append((pair[0], pair[1]))
        return found

    def _smallest(self) -> int:
        """The shortest side of which the last map that is used has a pixel."""
        side = 1
        for step in reversed(self.plan[: self._index_in_plan(max(self.layers)) + 1]):
            padding = step.padding if isinstance(step, Convolution) else 0
            side = max(1, (side - 1) * step.stride + step.kernel - 2 * padding)
        return side

    @classmethod
    def _index_in_plan(cls, layer: int) -> int:
        """Where in the plan a convolution stands."""
        return [i for i, step in enumerate(cls.plan) if isinstance(step, Convolution)][layer]

    @classmethod
    def _field_of(cls, layer: int) -> int:
        """The receptive field behind a rectifier, in pixels."""
        field, pixels = 1, 1  # `pixels` between neighbouring places
        for step in cls.plan[: cls._index_in_plan(layer) + 1]:
            field += (step.kernel - 1) * pixels
            pixels *= step.stride
        return field


class AlexNetFeatures(PretrainedFeatures):
    """AlexNet's (Krizhevsky 2014), behind rectifiers 0 to 4.

    >>> network = AlexNetFeatures((0, 4), random=True, width=2)
    >>> [tuple(feature.shape) for feature in network(torch.zeros(1, 3, 64, 48))]
    [(1, 2, 15, 11), (1, 8, 3, 2)]
    >>> AlexNetFeatures((2, 4)).channels, AlexNetFeatures((0, 2, 4)).fields
    ([384, 256], [11, 99, 163])
    """

    title = "AlexNet"
    setting = "alexnet_weights"
    url = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
    first_width = 64
    plan = (
        Convolution(1, kernel=11, stride=4, padding=2),
        Pooling(kernel=3),
        Convolution(3, kernel=5, padding=2),
        Pooling(kernel=3),
        *(Convolution(6), Convolution(4), Convolution(4)),
    )


def _random_weights(shapes: Sequence[tuple[int, ...]]) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(shape, generator=generator) * math.sqrt(2 / math.prod(shape[1:])),
            torch.zeros(shape[0]),
        )
        for shape in shapes
    ]
