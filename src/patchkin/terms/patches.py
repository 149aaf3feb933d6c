"""Patches of outputs and of inputs, brought together: what every patch loss compares.

Places are drawn on the input's maps (`draw_places`, `SharedPlaces`) or chosen there
(`chosen_places`), both sides are read at them and embedded by a head. All methods do so here:
another way to choose places, or to read features at them, needs to be known here only.

Shape suffixes: B images, C channels, H and W pixels, K patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from patchkin.config import check_positive
from patchkin.errors import ConfigError
from patchkin.losses.contrast import Negatives
from patchkin.losses.transport import TransportConfig
from patchkin.networks import PatchGANConfig, Places, draw_places
from patchkin.networks.attention import AttentionConfig, route_by_attention
from patchkin.networks.places import GuidanceConfig, guided_places
from patchkin.randomness import Draws
from patchkin.schedules import GammaLine, gamma_curriculum

PlaceChoice = Literal["random", "attention", "discriminator"]
"""How places are chosen: drawn; by the attention of the constant side (QS-Attn); or half of them
where outputs look fake (EnCo)."""


class Head(Protocol):
    """What embeds patches, such as a `ProjectionHead`."""

    def __call__(self, features: Sequence[Tensor], places: Sequence[Places]) -> list[Tensor]:
        """Rows [B, K, width] per tap, from maps [B, C, H, W] at places."""
        ...


class Gathering(Protocol):
    """What brings the tensors of all processes together: an `Update`."""

    def gather(self, tensor: Tensor) -> Tensor:
        """Without graph."""
        ...

    def gather_with_graph(self, tensor: Tensor) -> Tensor:
        """With that of this process."""
        ...


@dataclass(frozen=True, kw_only=True)
class PatchContrastConfig:
    """Settings of the negatives and places of a contrast, but for what negatives weigh.

    Without slots, so that a configuration can have another base too.

    >>> PatchContrastConfig(gamma_divisor_end=0.0)
    Traceback (most recent call last):
    patchkin.errors.ConfigError: `gamma_divisor_end` must be positive; got 0.0.
    """

    num_patches: int = 256
    """K: places per layer and image; fewer if the map has fewer. Drawn ones are shared by the
    images of a batch."""
    gamma_divisor_start: float = 50.0
    """Hardness of negatives that are `released` or `paper`. It divides similarities: large is
    gentle. The paper's gamma is 1 / divisor."""
    gamma_divisor_end: float = 10.0
    """At the end of the run; linear in between."""
    gamma_linear_in: GammaLine = "divisor"
    """What falls or rises linearly: the divisor, as released, or its inverse, the paper's gamma."""
    transport: TransportConfig = field(default_factory=TransportConfig)
    """Of negatives by `optimal-transport`."""
    places: PlaceChoice = "random"
    """Which places are compared: drawn ones; on some layers those whose attention on the constant
    side is most peaked, with the features there routed by it (QS-Attn); or half of them where the
    output looks fake to the discriminator (EnCo)."""
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    """Of `places` by attention."""
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    """Of `places` by the discriminator."""

    def __post_init__(self) -> None:
        check_positive(self, "gamma_divisor_start", "gamma_divisor_end")


@dataclass(frozen=True, kw_only=True)
class HardNegativesConfig(PatchContrastConfig):
    """What negatives weigh where they are hard by default, as in Jung, Kwon and Ye (CVPR 2022)."""

    negatives: Negatives | None = None
    """What negatives weigh: all the same; by the constant side's own similarities as released,
    inside the exponent with a maximum of 1, or as in the paper, outside of it with a mean of 1 (Eq.
    5); or by optimal transport (MoNCE; ours here). By default as the next two, older names, say."""
    hard_negatives: bool = True
    """False: `negatives` uniform (Table 3)."""
    weights: Literal["released", "paper"] = "released"
    """Of hard negatives."""

    def __post_init__(self) -> None:
        PatchContrastConfig.__post_init__(self)
        self.resolved_negatives()

    def resolved_negatives(self) -> Negatives:
        """What negatives weigh, under whichever name.

        Raises:
            ConfigError: the older names say something and the new one too.

        >>> HardNegativesConfig(hard_negatives=False).resolved_negatives()
        'uniform'
        >>> HardNegativesConfig(negatives="paper", hard_negatives=False)
        Traceback (most recent call last):
        patchkin.errors.ConfigError: `negatives` replaces `hard_negatives` and `weights`: give it
        alone.
        """
        if self.negatives is None:
            return self.weights if self.hard_negatives else "uniform"
        if not self.hard_negatives or self.weights != "released":
            raise ConfigError("`negatives` replaces `hard_negatives` and `weights`: give it alone.")
        return self.negatives


def hardness(
    config: PatchContrastConfig,
    fraction: float,
    *,
    late: float | None = None,
    late_from: float = 0.5,
) -> float:
    """The gamma divisor after `fraction` of a run; see `gamma_curriculum`.

    >>> hardness(PatchContrastConfig(), 0.25)
    40.0
    """
    return gamma_curriculum(
        fraction,
        config.gamma_divisor_start,
        config.gamma_divisor_end,
        late=late,
        late_from=late_from,
        linear_in=config.gamma_linear_in,
    )


def chosen_places(
    keys: Sequence[Tensor],
    taps: Sequence[int],
    config: PatchContrastConfig,
    draws: Draws | None = None,
    *,
    drawn: Sequence[Tensor] | None = None,
    logits_BNhw: Tensor | None = None,
    branches: int = 1,
) -> list[Places]:
    """The places of a step as configured.

    Args:
        keys: maps [B, C, H, W] per tap of the constant side.
        taps: which layers the maps are of.
        config: `num_patches`, `places` and its settings.
        draws: of the step; not needed for attention with places `drawn`.
        drawn: random places [K] per tap, if there are some that are to be used (`SharedPlaces`).
        logits_BNhw: of `guiding_logits`.
        branches: how many lie one behind the other in the batch. Each draws for itself, so that one
            pass draws what several would.

    Raises:
        ShapeError: the discriminator gives no map.
        ConfigError: attention is asked for on a layer that is not compared.

    >>> from patchkin.randomness import SeededDraws
    >>> keys, draws = [torch.tensor([[[[3.0, 0.1]]]])], SeededDraws(0, 0)
    >>> chosen_places(keys, [4], PatchContrastConfig(num_patches=1), draws)
    [tensor([0])]
    >>> peaked = PatchContrastConfig(num_patches=1, places="attention")
    >>> chosen_places(keys, [4], peaked, draws)[0].places_BK
    tensor([[0]])
    """
    if drawn is None:
        assert draws is not None, "random places need the draws of the step"
        drawn = draw_places(keys, config.num_patches, draws)
    if config.places == "attention":
        routed = config.attention.routed(taps)
        return [
            _attended(key_BCHW, len(places_K), config.attention) if tap in routed else places_K
            for tap, places_K, key_BCHW in zip(taps, drawn, keys, strict=True)
        ]
    if config.places == "discriminator":
        assert logits_BNhw is not None, "the discriminator was not asked"
        assert draws is not None, "candidates need the draws of the step"
        guided = [
            [
                _guided(part, *sizes, config.guidance, draws)
                for sizes in zip(drawn, keys, strict=True)
            ]
            for part in logits_BNhw.chunk(branches)
        ]
        return [torch.cat(parts) for parts in zip(*guided, strict=True)]
    return list(drawn)


def _attended(key_BCHW: Tensor, num_patches: int, config: AttentionConfig) -> Places:
    return route_by_attention(
        key_BCHW.detach(),
        num_patches,
        mode=config.mode,
        window=config.window,
        layout=config.layout,
    )


def _guided(
    logits_BNhw: Tensor, places_K: Tensor, key_BCHW: Tensor, config: GuidanceConfig, draws: Draws
) -> Tensor:
    return guided_places(
        logits_BNhw,
        (key_BCHW.shape[2], key_BCHW.shape[3]),
        len(places_K),
        draws,
        oversampling=config.oversampling,
        random_share=config.random_share,
    )


@torch.no_grad()
def guiding_logits(
    network: nn.Module, output_BCHW: Tensor, config: PatchContrastConfig, mirrored: bool = False
) -> Tensor | None:
    """What the discriminator says of outputs, if it chooses places, else None.

    Args:
        network: D, as it is.
        output_BCHW: generated images, not augmented.
        config: `places`.
        mirrored: turn what it says left to right.

    >>> guiding_logits(nn.Identity(), torch.zeros(1, 1, 2, 2), PatchContrastConfig())
    """
    if config.places != "discriminator":
        return None
    logits_BNhw: Tensor = network(output_BCHW)
    return logits_BNhw.flip(-1) if mirrored else logits_BNhw


def check_places(
    config: PatchContrastConfig,
    taps: Sequence[int],
    *,
    discriminator: object,
    adversarial_weight: float = 1.0,
) -> None:
    """Refuse ways to choose places that a method cannot follow.

    Raises:
        ConfigError: attention on a layer that is not compared; a discriminator that judges no
            patches, or that nothing learns from.

    >>> check_places(PatchContrastConfig(places="discriminator"), (4,), discriminator=None)
    Traceback (most recent call last):
    patchkin.errors.ConfigError: Places by the discriminator need one that judges patches, such as
    those of cut; use `places` random or attention.
    """
    if config.places == "attention":
        config.attention.routed(taps)
    if config.places == "discriminator":
        if not isinstance(discriminator, PatchGANConfig):
            raise ConfigError(
                "Places by the discriminator need one that judges patches, such as those of cut; "
                "use `places` random or attention."
            )
        if not adversarial_weight:
            raise ConfigError(
                "Without an adversary (`adversarial_weight` 0) nothing says where outputs look "
                "fake; use `places` random or attention."
            )


def embedded_pairs(
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    places: Sequence[Places],
    *,
    query_head: Head,
    key_head: Head | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Embedded patches w of outputs and z of inputs at the same places (Jung et al. 2022, Fig. 3).

    Args:
        queries: a map [B, C, H, W] of the outputs per tap; receive the gradient.
        keys: maps of the inputs; constant.
        places: per tap, of any kind: [K] shared by the images, or as chosen for each.
        query_head: embeds the outputs; receives the gradient.
        key_head: embeds the inputs, without graph; the same unless given.

    Returns:
        (queries, keys) [B, K, width] per tap.

    >>> from patchkin.networks import ProjectionHead
    >>> head, x_BCHW = ProjectionHead([3], width=8), torch.rand(2, 3, 4, 4, requires_grad=True)
    >>> ((query_BKC, key_BKC),) = embedded_pairs(
    ...     [x_BCHW], [x_BCHW], [torch.tensor([5, 0])], query_head=head
    ... )
    >>> torch.equal(query_BKC, key_BKC), query_BKC.requires_grad, key_BKC.requires_grad
    (True, True, False)
    """
    with torch.no_grad():
        key_rows = (query_head if key_head is None else key_head)(keys, places)
    return list(zip(query_head(queries, places), key_rows, strict=True))


def of_whole_batch(
    pairs: Sequence[tuple[Tensor, Tensor]], update: Gathering
) -> list[tuple[Tensor, Tensor]]:
    """Embedded patches of all processes, for losses that compare those of the whole batch.

    Args:
        pairs: queries and keys [B, K, width] per tap, of this process.
        update: of the step.

    Returns:
        [N B, K, width] with N processes, in the order of the whole batch. Every process computes
        the loss of all of them; only its own queries have a graph.
    """
    return [
        (update.gather_with_graph(query_BKC), update.gather(key_BKC))
        for query_BKC, key_BKC in pairs
    ]


def check_patches(taps: Sequence[int], num_patches: int, *, fewest: int = 1) -> None:
    """Refuse settings that leave nothing to compare.

    Raises:
        ConfigError: there are no taps, or too few patches.

    >>> check_patches((), 256)
    Traceback (most recent call last):
    patchkin.errors.ConfigError: `taps` must name at least one layer of the generator.
    """
    if not taps:
        raise ConfigError("`taps` must name at least one layer of the generator.")
    if num_patches < fewest:
        raise ConfigError(f"`num_patches` must be at least {fewest}; got {num_patches}.")
