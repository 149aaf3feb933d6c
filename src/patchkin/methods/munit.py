"""MUNIT: Huang, Liu, Belongie and Kautz, ECCV 2018 (arXiv 1804.04732).

One image of A has many translations. Each domain has an autoencoder that takes an image apart into
content (a map) and style (a vector) and puts both together; a translation joins the content of an
image with a style of the other domain, drawn at random or taken from an example. With
x_ab = G_B(c_a, s_b), s_b ~ N(0, I), and x_ba likewise,

    L_G = L_GAN(x_ab, D_B) + L_GAN(x_ba, D_A)
        + lambda_x (|G_A(c_a, s_a) - a| + |G_B(c_b, s_b) - b|)           images, apart and back
        + lambda_c (|E_B(x_ab) - c_a| + |E_A(x_ba) - c_b|)               contents
        + lambda_s (|E_B(x_ab) - s_b| + |E_A(x_ba) - s_a|)               styles
        + lambda_cyc (|G_A(E_B(x_ab), s_a) - a| + |G_B(E_A(x_ba), s_b) - b|).

G_A is the autoencoder of domain A and makes images of A; D_A judges domain A (in CycleGAN both
letters name a direction). The discriminators learn first, on styles of their own.

Differs from the paper: the released code neither halves the discriminators' loss nor lets the
gradient stop at a target, and penalises all weights (Adam's L2, 1e-4). Its perceptual loss, for
512 pixels only, is not here. Its test script stretches every image to the full range of values,
which no score should be computed from; `translate` does not.

Shape suffixes: B images, C channels, H and W pixels, S numbers of a style.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, final

import torch
from torch import Tensor

from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.errors import ConfigError
from patchkin.losses import (
    AdversarialMode,
    fake_loss,
    generator_loss,
    pixel_distance,
    real_loss,
)
from patchkin.losses.latent import code_distance, over_scales
from patchkin.method import Direction, Preset, Progress, StyledMethod, Terms, Update
from patchkin.networks import InitConfig, initialize
from patchkin.networks.munit import (
    MultiScaleConfig,
    MultiScaleDiscriminator,
    MunitGenerator,
    MunitGeneratorConfig,
    StyleEncoder,
    judge_scales_together,
    style_rows,
)
from patchkin.randomness import Draws, SeededDraws
from patchkin.schedules import AdamConfig, ScheduleConfig


def _released_adam() -> AdamConfig:
    return AdamConfig(learning_rate=1e-4, weight_decay=1e-4)


@dataclass(frozen=True, kw_only=True, slots=True)
class MunitConfig:
    """Defaults are the released ones for summer2winter at 256 pixels, its photographs of places."""

    in_channels: int = 3
    """Channels of domain A."""
    out_channels: int = 3
    """Channels of domain B."""
    generator: MunitGeneratorConfig = field(default_factory=MunitGeneratorConfig)
    """Of each autoencoder."""
    discriminator: MultiScaleConfig = field(default_factory=MultiScaleConfig)
    generator_initialization: InitConfig = field(default_factory=lambda: InitConfig(kind="kaiming"))
    discriminator_initialization: InitConfig = field(
        default_factory=lambda: InitConfig(kind="normal")
    )
    generator_adam: AdamConfig = field(default_factory=_released_adam)
    discriminator_adam: AdamConfig = field(default_factory=_released_adam)
    adversarial: AdversarialMode = "lsgan"
    """Released: lsgan, or nsgan, which is called `nonsaturating` here."""
    adversarial_weight: float = 1.0
    """gan_w."""
    image_weight: float = 10.0
    """lambda_x: an image taken apart and put together is itself (recon_x_w)."""
    content_weight: float = 1.0
    """lambda_c (recon_c_w)."""
    style_weight: float = 1.0
    """lambda_s (recon_s_w)."""
    cycle_weight: float = 10.0
    """lambda_cyc: there and back with the image's own style (recon_x_cyc_w). Released: 0 for
    edges2shoes and edges2handbags, 10 for photographs."""

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        for name in (
            "adversarial_weight", "image_weight", "content_weight", "style_weight", "cycle_weight",
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise ConfigError(f"`{name}` must not be negative; got {getattr(self, name)}.")


_PUBLISHED = ScheduleConfig(steps=1_000_000, decay_fraction=0.0, halve_every=100_000)
_VIEWS = DataConfig(preprocess="scale_shortside_and_crop", load_size=256)

PRESETS: Mapping[str, Preset] = {
    "released": Preset(
        summary="summer2winter: cycle 10, a million steps, rate halved every 100,000",
        method=MunitConfig(),
        schedule=_PUBLISHED,
        data=_VIEWS,
    ),
    "edges": Preset(
        summary="edges2shoes and edges2handbags: without the cycle",
        method=MunitConfig(cycle_weight=0.0),
        schedule=_PUBLISHED,
        data=_VIEWS,
    ),
    "toy": Preset(
        summary="a small MUNIT for the built-in toy set, minutes on a CPU",
        method=MunitConfig(
            generator=MunitGeneratorConfig(width=16, blocks=3, mlp_width=64),
            discriminator=MultiScaleConfig(width=16, layers=3, scales=2),
            generator_adam=AdamConfig(learning_rate=5e-4, weight_decay=1e-4),
            discriminator_adam=AdamConfig(learning_rate=2.5e-4, weight_decay=1e-4),
        ),
        schedule=ScheduleConfig(steps=2000),
        data=DataConfig(size=64, load_size=64),
    ),
}


class _Parts(NamedTuple):
    """What the images of both domains are made of."""

    content_a: Tensor
    style_a_BS: Tensor
    content_b: Tensor
    style_b_BS: Tensor


@final
class Munit(StyledMethod):
    """Content and style, exchanged between domains (MUNIT)."""

    name: ClassVar[str] = "munit"
    paper: ClassVar[str] = "Huang, Liu, Belongie, Kautz, ECCV 2018 (arXiv 1804.04732)"
    differs: ClassVar[str] = (
        "discriminators' loss not halved, gradients pass through targets, all weights penalised"
    )
    config_type: ClassVar[type] = MunitConfig
    presets: ClassVar[Mapping[str, Preset]] = PRESETS
    translating: ClassVar[tuple[str, ...]] = ("G_A", "G_B")
    directions: ClassVar[tuple[str, ...]] = ("AtoB", "BtoA")

    config: MunitConfig
    fixed_style_1S: Tensor
    """N(0, I), seed 0: the style of translations for which none is given."""

    def __init__(self, config: MunitConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MunitConfig()
        a, b = self.channels = (config.in_channels, config.out_channels)
        self.G_A = MunitGenerator(a, config.generator)
        self.G_B = MunitGenerator(b, config.generator)
        self.D_A = MultiScaleDiscriminator(a, config.discriminator)
        self.D_B = MultiScaleDiscriminator(b, config.discriminator)
        for generator in (self.G_A, self.G_B):
            initialize(generator, config.generator_initialization)
        for judge in (self.D_A, self.D_B):
            initialize(judge, config.discriminator_initialization)
        fixed_style_1S = SeededDraws(0, 0).normal(1, config.generator.style_width)
        self.register_buffer("fixed_style_1S", fixed_style_1S, persistent=False)
        self.multiple_of = self.G_A.multiple_of
        self.min_size = self.G_A.min_size
        self.min_training_size = max(self.G_A.min_size, self.D_A.min_size, StyleEncoder.min_size)

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network."""
        generator, judge = self.config.generator_adam, self.config.discriminator_adam
        return {"G_A": generator, "G_B": generator, "D_A": judge, "D_B": judge}

    def train_step(self, batch: UnpairedBatch, update: Update, progress: Progress) -> None:
        """Both discriminators on translations in styles of their own, then both generators."""
        parts = _Parts(*self.G_A.encode(batch.a_BCHW), *self.G_B.encode(batch.b_BCHW))
        with torch.no_grad():
            shown_a_BCHW, shown_b_BCHW = self._translated(parts, *self._drawn(parts, progress))
        update(
            "D_A",
            "D_B",
            loss=lambda: {
                **self._judging_terms("A", shown_a_BCHW, batch.a_BCHW),
                **self._judging_terms("B", shown_b_BCHW, batch.b_BCHW),
            },
        )
        style_a_BS, style_b_BS = self._drawn(parts, progress)
        update(
            "G_A",
            "G_B",
            loss=lambda: self._generator_terms(batch, parts, style_a_BS, style_b_BS),
        )

    def latent_styles(
        self, draws: Draws, *, count: int, domain: int = 0, direction: Direction = "AtoB"
    ) -> Tensor:
        """Styles from N(0, I) [count, S], for either direction."""
        _check_domain(domain)
        return draws.normal(count, self.config.generator.style_width)

    def reference_styles(
        self, reference_BCHW: Tensor, *, domain: int = 0, direction: Direction = "AtoB"
    ) -> Tensor:
        """What the style encoder of the target domain sees in its images, [B, S]."""
        _check_domain(domain)
        return (self.G_B if direction == "AtoB" else self.G_A).style(reference_BCHW)

    def translate(
        self,
        x_BCHW: Tensor,
        *,
        styles_BS: Tensor | None = None,
        direction: Direction = "AtoB",
    ) -> Tensor:
        """The content of the images in these styles, or all in `fixed_style_1S`."""
        source, target = (self.G_A, self.G_B) if direction == "AtoB" else (self.G_B, self.G_A)
        styles_BS = style_rows(styles_BS, self.fixed_style_1S, x_BCHW)
        return target.decode(source.content(x_BCHW), styles_BS)

    def previews(self, batch: UnpairedBatch) -> dict[str, Tensor]:
        """In the fixed style, in that of the target image, and the way back."""
        a_BCHW, b_BCHW = batch.a_BCHW, batch.b_BCHW
        styles_b_BS = self.reference_styles(b_BCHW)
        return {
            "input": a_BCHW,
            "translated": self.translate(a_BCHW),
            "in the target's style": self.translate(a_BCHW, styles_BS=styles_b_BS),
            "target": b_BCHW,
            "target to source": self.translate(b_BCHW, direction="BtoA"),
            "target put together": self.G_B(b_BCHW),
        }

    def _drawn(self, parts: _Parts, progress: Progress) -> tuple[Tensor, Tensor]:
        """A style of domain A for every image of B, then one of B for every image of A."""
        width = self.config.generator.style_width
        style_a_BS = progress.draws.normal_rows(len(parts.content_b), width)
        style_b_BS = progress.draws.normal_rows(len(parts.content_a), width)
        return style_a_BS.to(parts.content_b), style_b_BS.to(parts.content_a)

    def _translated(
        self, parts: _Parts, style_a_BS: Tensor, style_b_BS: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x_ba and x_ab."""
        return (
            self.G_A.decode(parts.content_b, style_a_BS),
            self.G_B.decode(parts.content_a, style_b_BS),
        )

    def _judging_terms(self, side: str, fake_BCHW: Tensor, real_BCHW: Tensor) -> Terms:
        network: MultiScaleDiscriminator = getattr(self, f"D_{side}")
        fake_logits, real_logits = judge_scales_together(network, fake_BCHW, real_BCHW)
        weight, mode = self.config.adversarial_weight, self.config.adversarial
        return {
            f"fake_{side}": weight * over_scales(fake_loss, mode, fake_logits),
            f"real_{side}": weight * over_scales(real_loss, mode, real_logits),
        }

    def _generator_terms(
        self, batch: UnpairedBatch, parts: _Parts, style_a_BS: Tensor, style_b_BS: Tensor
    ) -> Terms:
        config = self.config
        fake_a_BCHW, fake_b_BCHW = self._translated(parts, style_a_BS, style_b_BS)
        again_a_BCHW = self.G_A.decode(parts.content_a, parts.style_a_BS)
        again_b_BCHW = self.G_B.decode(parts.content_b, parts.style_b_BS)
        content_b, found_a_BS = self.G_A.encode(fake_a_BCHW)
        content_a, found_b_BS = self.G_B.encode(fake_b_BCHW)
        terms = {
            "adversarial_A": config.adversarial_weight * self._fooling("A", fake_a_BCHW),
            "adversarial_B": config.adversarial_weight * self._fooling("B", fake_b_BCHW),
            "image_A": config.image_weight * pixel_distance(again_a_BCHW, batch.a_BCHW),
            "image_B": config.image_weight * pixel_distance(again_b_BCHW, batch.b_BCHW),
            "style_A": config.style_weight * code_distance(found_a_BS, style_a_BS),
            "style_B": config.style_weight * code_distance(found_b_BS, style_b_BS),
            "content_A": config.content_weight * code_distance(content_a, parts.content_a),
            "content_B": config.content_weight * code_distance(content_b, parts.content_b),
        }
        if config.cycle_weight:
            back_a_BCHW = self.G_A.decode(content_a, parts.style_a_BS)
            back_b_BCHW = self.G_B.decode(content_b, parts.style_b_BS)
            terms |= {
                "cycle_A": config.cycle_weight * pixel_distance(back_a_BCHW, batch.a_BCHW),
                "cycle_B": config.cycle_weight * pixel_distance(back_b_BCHW, batch.b_BCHW),
            }
        return terms

    def _fooling(self, side: str, fake_BCHW: Tensor) -> Tensor:
        network: MultiScaleDiscriminator = getattr(self, f"D_{side}")
        return over_scales(generator_loss, self.config.adversarial, network(fake_BCHW))


def _check_domain(domain: int) -> None:
    if domain:
        raise ConfigError(f"`munit` has one target domain in each direction, 0; got {domain}.")
