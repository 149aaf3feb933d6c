"""EnCo's head and predictor, and the stages of a generator that they compare.

Shape suffixes: B images, C channels, H and W pixels, K patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from patchkin.errors import ConfigError, ShapeError
from patchkin.networks.places import gather_each
from patchkin.networks.resnet import ResNetBlock, ResNetGenerator
from patchkin.networks.whole_batch import BatchNorm1d
from patchkin.numerics import unit_rows, without_autocast

RowNorm = Literal["batch", "layer", "none"]
"""Batch norm over all patches of all images, layer norm over each patch, or nothing."""

_FEWEST_BLOCKS = 5


class PredictingHead(nn.Module):
    """A head per pair of maps for both sides, and a predictor for one (Cai et al. 2024).

    The head is two linear layers, each followed by the norm, with a rectifier between them; the
    predictor narrows to half the width and widens again. Both run in float32 under autocast: with
    the released initialisation the first norm divides by deviations near the root of its epsilon.

    With batch norm an image's loss depends on the other images of the batch; in training its
    statistics are always those of the batch at hand, and of one process.

    Args:
        channels: of the maps of each pair.
        width: length of an embedded patch.
        norm: the release's default is `batch`, the paper's figure draws layer norm.
        predictor: leave it out and the head alone embeds both sides.

    >>> import torch
    >>> head = PredictingHead([64, 128, 256])
    >>> sum(weight.numel() for weight in head.parameters())
    510976
    >>> map_BCHW, places_BK = torch.randn(2, 64, 5, 4), torch.tensor([[19, 0], [3, 3]])
    >>> PredictingHead([64], width=16)([map_BCHW], [places_BK], predict=True)[0].shape
    torch.Size([2, 2, 16])
    """

    def __init__(
        self,
        channels: Sequence[int],
        width: int = 256,
        *,
        norm: RowNorm = "batch",
        predictor: bool = True,
    ) -> None:
        super().__init__()
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.Linear(count, width, bias=False),
                _norm(norm, width),
                nn.ReLU(),
                nn.Linear(width, width, bias=False),
                _norm(norm, width, last=True),
            )
            for count in channels
        )
        self.predictors = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, width // 2, bias=False),
                _norm(norm, width // 2),
                nn.ReLU(),
                nn.Linear(width // 2, width),
            )
            for _ in (channels if predictor else ())
        )

    def forward(
        self, features: Sequence[Tensor], places: Sequence[Tensor], *, predict: bool
    ) -> list[Tensor]:
        """Embed patches, and predict from them what the other side's embedding is.

        Args:
            features: a map [B, C, H, W] per pair; receive the gradient.
            places: int64 positions [B, K] per pair, each image its own.
            predict: whether these maps are the side that predicts.

        Returns:
            Rows x / (||x|| + 1e-7), [B, K, width] per pair.

        Raises:
            ShapeError: if the numbers of maps, places and pairs differ, a map has other channels
                than its pair, or a place is outside its map.
        """
        if not len(features) == len(places) == len(self.mlps):
            raise ShapeError(
                f"The head has {len(self.mlps)} pairs and needs a map and places for each; got "
                f"{len(features)} maps and {len(places)} sets of places."
            )
        return [
            self._embed(pair, gather_each(feature, places_BK), predict=predict)
            for pair, (feature, places_BK) in enumerate(zip(features, places, strict=True))
        ]

    def embedder(self, pair: int) -> Callable[[Tensor], Tensor]:
        """What embeds feature vectors [..., C] of a pair, without predicting."""
        return partial(self._embed, pair, predict=False)

    def _embed(self, pair: int, rows: Tensor, *, predict: bool) -> Tensor:
        mlp: nn.Module = self.mlps[pair]
        weight = mlp.get_parameter("0.weight")
        if rows.shape[-1] != weight.shape[1]:
            raise ShapeError(
                f"The maps of pair {pair} must have {weight.shape[1]} channels for this head; got "
                f"{rows.shape[-1]}. Was the head made for other pairs?"
            )
        with without_autocast(rows):
            listed = mlp(rows.to(weight.dtype).reshape(-1, rows.shape[-1]))
            if predict and len(self.predictors):
                listed = self.predictors[pair](listed)
            return unit_rows(listed).view(*rows.shape[:-1], -1)


def stage_pairs(generator: ResNetGenerator) -> tuple[tuple[int, int], ...]:
    """Layers of encoder and decoder at the same stage: EnCo's pairs, for any number of blocks.

    The rectifiers of the stem and of the last enlarging stage; the ends of the first halving stage
    and of the first enlarging stage; the second residual block and the last but two.

    Raises:
        ConfigError: if there are fewer than 5 blocks.

    >>> from patchkin.networks.resnet import ResNetConfig
    >>> stage_pairs(ResNetGenerator(ResNetConfig(ngf=1)))
    ((3, 28), (7, 24), (13, 18))
    >>> plain = ResNetConfig(ngf=1, antialias_down=False, antialias_up=False)
    >>> stage_pairs(ResNetGenerator(plain))
    ((3, 24), (6, 21), (11, 16))
    """
    layers = list(generator.model)
    rectifiers = [index for index, layer in enumerate(layers) if isinstance(layer, nn.ReLU)]
    blocks = [index for index, layer in enumerate(layers) if isinstance(layer, ResNetBlock)]
    if len(blocks) < _FEWEST_BLOCKS:
        raise ConfigError(
            f"EnCo pairs the second block with the last but two, which takes `blocks` of at least "
            f"{_FEWEST_BLOCKS}; got {len(blocks)}. Use more, or name the layers as `pairs`."
        )
    stem, first_halving, *_ = rectifiers
    behind = [index for index in rectifiers if index > blocks[-1]]
    halved = first_halving + generator.config.antialias_down  # blurred behind the rectifier
    return (stem, behind[-1]), (halved, behind[0]), (blocks[1], blocks[-3])


def check_pairs(generator: ResNetGenerator, pairs: Sequence[tuple[int, int]]) -> None:
    """Refuse pairs of layers whose maps cannot be compared.

    Layer 0 stands for the image itself, as in EnCo's released code.

    Raises:
        ConfigError: if there is no pair, no such layer, or their channels or sizes differ.

    >>> from patchkin.networks.resnet import ResNetConfig
    >>> check_pairs(ResNetGenerator(ResNetConfig(ngf=1)), [(3, 24)])
    Traceback (most recent call last):
    patchkin.errors.ConfigError: `pairs`: layers 3 and 24 of the generator must have maps of equal
    channels and size; got 1 x 256 x 256 and 2 x 128 x 128 for an image of 256 x 256.
    """
    if not pairs:
        raise ConfigError("`pairs` must name at least one pair of layers; got none.")
    side = 256
    for pair in pairs:
        channels = generator.tap_channels(pair)
        sizes = [
            (side, side) if tap == 0 else generator.tap_sizes((tap,), side, side)[0] for tap in pair
        ]
        shapes = [(count, *size) for count, size in zip(channels, sizes, strict=True)]
        if any(one != other for one, other in pairwise(shapes)):
            shown = " and ".join(" x ".join(map(str, shape)) for shape in shapes)
            raise ConfigError(
                f"`pairs`: layers {pair[0]} and {pair[1]} of the generator must have maps of equal "
                f"channels and size; got {shown} for an image of {side} x {side}."
            )


def _norm(kind: RowNorm, width: int, *, last: bool = False) -> nn.Module:
    """The norm behind a linear layer; batch norm has no scale and shift behind the last one."""
    match kind:
        case "batch":
            return BatchNorm1d(width, affine=not last)
        case "layer":
            return nn.LayerNorm(width)
        case "none":
            return nn.Identity()


__all__ = ["PredictingHead", "RowNorm", "check_pairs", "stage_pairs"]
