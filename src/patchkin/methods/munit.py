"""MUNIT: Huang, Liu, Belongie and Kautz, ECCV 2018 (arXiv 1804.04732).

One image of A has many translations. Each domain has an autoencoder that takes an image apart into
content (a map) and style (a vector) and puts both together; a translation joins the content of an
image with a style of the other domain, drawn at random or taken from an example. With
x_ab = G_B(c_a, s_b), s_b ~ N(0, I), and x_ba likewise,

    L_G = L_GAN(x_ab, D_B) + L_GAN(x_ba, D_A)
        + lambda_x (|G_A(c_a, s_a) - a| + |G_B(c_b, s_b) - b|)           images, apart and back
        + lambda_c (|E_B(x_ab) - c_a| + |E_A(x_ba) - c_b|)               contents
        + lambda_s (|E_B(x_ab) - s_b| + |E_A(x_ba) - s_a|)               styles
        + lambda_cyc (|G_A(E_B(x_ab), s_a) - a| + |G_B(E_A(x_ba), s_b) - b|)
        + lambda_vgg (|norm V(x_ab) - norm V(a)|^2 + |norm V(x_ba) - norm V(b)|^2).

G_A is the autoencoder of domain A: it takes images of A apart, as E_A, and makes images of A. D_A
judges them. The discriminators learn first, on styles of their own.

Differs from the paper: the released code neither halves the discriminators' loss nor lets the
gradient stop at a target, and penalises all weights (Adam's L2, 1e-4). Its perceptual loss, for
street scenes of 512 pixels only, reads relu5_3 of a VGG16 in Caffe's weights; here it reads
torchvision's, which are other numbers. Its test script stretches every image to the full range of
values, which no score should be computed from; `translate` does not.

Shape suffixes: B images, C channels, H and W pixels, S numbers of a style.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from patchkin.config import check_at_least_one, check_not_negative
from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.losses import AdversarialMode, pixel_distance
from patchkin.losses.latent import code_distance
from patchkin.losses.pixel import whitened_distance
from patchkin.method import Direction, Preset, Progress, StyledMethod, Terms, Update
from patchkin.networks import InitConfig, initialize
from patchkin.networks.munit import (
    MultiScaleConfig,
    MultiScaleDiscriminator,
    MunitGenerator,
    MunitGeneratorConfig,
    StyleEncoder,
    style_rows,
)
from patchkin.networks.vgg import VGG16_WIDTH, VGGFeatures
from patchkin.randomness import Draws, SeededDraws, sent
from patchkin.schedules import AdamConfig, ScheduleConfig
from patchkin.terms.adversary import scale_adversarial_terms, scale_discriminator_terms
from patchkin.terms.previews import styled_previews
from patchkin.terms.structure import check_colours
from patchkin.terms.styled import RELEASED_ADAM, check_one_domain

_RELU5_3 = 12
"""Among VGG16's rectifiers."""


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
    generator_adam: AdamConfig = RELEASED_ADAM
    discriminator_adam: AdamConfig = RELEASED_ADAM
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
    perceptual_weight: float = 0.0
    """Of the distance between an image's features and its translation's, without their means and
    deviations (vgg_w: 1 for synthia2cityscape, else 0)."""
    features: Literal["vgg16", "random"] = "vgg16"
    """Of which network. `random` has VGG16's layers with seeded weights that learned nothing."""
    vgg_weights: str | None = None
    """File with torchvision's VGG16; needed to train with `perceptual_weight`."""
    feature_width: int = VGG16_WIDTH
    """Channels of the first stage; other than 64 only with `random`."""

    def __post_init__(self) -> None:
        check_at_least_one(self, "in_channels", "out_channels")
        check_not_negative(
            self,
            "adversarial_weight",
            "image_weight",
            "content_weight",
            "style_weight",
            "cycle_weight",
            "perceptual_weight",
        )
        if self.perceptual_weight:
            check_colours(self.in_channels, "in_channels")
            check_colours(self.out_channels, "out_channels")


_PUBLISHED = ScheduleConfig(steps=1_000_000, decay_fraction=0.0, halve_every=100_000)
_VIEWS = DataConfig(preprocess="shortside_and_crop", load_size=256)

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
    "synthia": Preset(
        summary="synthia2cityscape: 512 pixels, perceptual loss (give --method.vgg-weights)",
        method=MunitConfig(perceptual_weight=1.0),
        schedule=_PUBLISHED,
        data=DataConfig(size=512, load_size=512, preprocess="shortside_and_crop"),
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


ByDomain = Mapping[str, Tensor]
"""Something of domain A and of domain B."""


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
        for network in (self.D_A, self.D_B):
            initialize(network, config.discriminator_initialization)
        self.register_buffer("fixed_style_1S", self.constants()["fixed_style_1S"], persistent=False)
        self.multiple_of = self.G_A.multiple_of
        self.min_size = self.G_A.min_size
        self.min_training_size = max(self.G_A.min_size, self.D_A.min_size, StyleEncoder.min_size)
        if config.perceptual_weight:
            self.vgg = VGGFeatures(
                (_RELU5_3,),
                weights=config.vgg_weights,
                random=config.features == "random",
                width=config.feature_width,
            )
            # A map of one place has nothing left without its mean.
            self.min_training_size = max(self.min_training_size, 2 * self.vgg.min_size)

    def constants(self) -> dict[str, Tensor]:
        """What no file holds: the style of translations that are given none."""
        return {"fixed_style_1S": SeededDraws(0, 0).normal(1, self.config.generator.style_width)}

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network."""
        config = self.config
        generators = dict.fromkeys(("G_A", "G_B"), config.generator_adam)
        return generators | dict.fromkeys(("D_A", "D_B"), config.discriminator_adam)

    def prepare(self, batches: Iterable[UnpairedBatch], draws: Draws) -> None:
        """Read VGG16's weights, so that a missing file is noticed at once."""
        if self.config.perceptual_weight:
            self.vgg.make_ready()

    def train_step(self, batch: UnpairedBatch, update: Update, progress: Progress) -> None:
        """Both discriminators on translations in styles of their own, then both generators."""
        content_a, style_a_BS = self.G_A.encode(batch.a_BCHW)
        content_b, style_b_BS = self.G_B.encode(batch.b_BCHW)
        contents = {"A": content_a, "B": content_b}
        styles_BS = {"A": style_a_BS, "B": style_b_BS}
        with torch.no_grad():
            fakes = self._translated(contents, self._random_styles(contents, progress.draws))
        update("D_A", "D_B", loss=lambda: self._discriminator_terms(batch, fakes))
        random_BS = self._random_styles(contents, progress.draws)
        update(
            "G_A",
            "G_B",
            loss=lambda: self._generator_terms(batch, contents, styles_BS, random_BS),
        )

    def latent_styles(
        self, draws: Draws, *, count: int, domain: int = 0, direction: Direction = "AtoB"
    ) -> Tensor:
        """Styles from N(0, I) [count, S], for either direction."""
        check_one_domain(domain, self.name)
        return draws.normal(count, self.config.generator.style_width)

    def reference_styles(
        self, reference_BCHW: Tensor, *, domain: int = 0, direction: Direction = "AtoB"
    ) -> Tensor:
        """What the style encoder of the target domain sees in its images, [B, S]."""
        check_one_domain(domain, self.name)
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
        return styled_previews(self, batch, self.G_B(batch.b_BCHW))

    def _random_styles(self, contents: ByDomain, draws: Draws) -> ByDomain:
        """A style of domain A for every image of B, then one of B for every image of A."""
        width = self.config.generator.style_width
        return {
            domain: sent(draws.normal_rows(len(contents[other]), width), contents[other])
            for domain, other in (("A", "B"), ("B", "A"))
        }

    def _translated(self, contents: ByDomain, styles_BS: ByDomain) -> ByDomain:
        """x_ba in domain A, and x_ab in domain B."""
        return {
            "A": self.G_A.decode(contents["B"], styles_BS["A"]),
            "B": self.G_B.decode(contents["A"], styles_BS["B"]),
        }

    def _discriminator_terms(self, batch: UnpairedBatch, fakes: ByDomain) -> Terms:
        mode, weight = self.config.adversarial, self.config.adversarial_weight
        return {
            **scale_discriminator_terms(
                self.D_A, fakes["A"], batch.a_BCHW, mode=mode, weight=weight, suffix="_A"
            ),
            **scale_discriminator_terms(
                self.D_B, fakes["B"], batch.b_BCHW, mode=mode, weight=weight, suffix="_B"
            ),
        }

    def _generator_terms(
        self, batch: UnpairedBatch, contents: ByDomain, styles_BS: ByDomain, random_BS: ByDomain
    ) -> Terms:
        config, mode, weight = self.config, self.config.adversarial, self.config.adversarial_weight
        fakes = self._translated(contents, random_BS)
        reconstructed_a_BCHW = self.G_A.decode(contents["A"], styles_BS["A"])
        reconstructed_b_BCHW = self.G_B.decode(contents["B"], styles_BS["B"])
        content_b, style_a_BS = self.G_A.encode(fakes["A"])
        content_a, style_b_BS = self.G_B.encode(fakes["B"])
        terms = {
            **scale_adversarial_terms(self.D_A, fakes["A"], mode=mode, weight=weight, suffix="_A"),
            **scale_adversarial_terms(self.D_B, fakes["B"], mode=mode, weight=weight, suffix="_B"),
            "image_A": config.image_weight * pixel_distance(reconstructed_a_BCHW, batch.a_BCHW),
            "image_B": config.image_weight * pixel_distance(reconstructed_b_BCHW, batch.b_BCHW),
            "style_A": config.style_weight * code_distance(style_a_BS, random_BS["A"]),
            "style_B": config.style_weight * code_distance(style_b_BS, random_BS["B"]),
            "content_A": config.content_weight * code_distance(content_a, contents["A"]),
            "content_B": config.content_weight * code_distance(content_b, contents["B"]),
        }
        if config.cycle_weight:
            cycled_a_BCHW = self.G_A.decode(content_a, styles_BS["A"])
            cycled_b_BCHW = self.G_B.decode(content_b, styles_BS["B"])
            terms |= {
                "cycle_A": config.cycle_weight * pixel_distance(cycled_a_BCHW, batch.a_BCHW),
                "cycle_B": config.cycle_weight * pixel_distance(cycled_b_BCHW, batch.b_BCHW),
            }
        if config.perceptual_weight:
            for domain, real_BCHW, fake_BCHW in (
                ("A", batch.a_BCHW, fakes["B"]),
                ("B", batch.b_BCHW, fakes["A"]),
            ):
                (output_BCHW,), (target_BCHW,) = self.vgg(fake_BCHW), self.vgg(real_BCHW)
                distance = whitened_distance(output_BCHW, target_BCHW)
                terms[f"perceptual_{domain}"] = config.perceptual_weight * distance
        return terms
