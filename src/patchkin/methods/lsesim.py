"""FSeSim and LSeSim: Zheng, Cham and Cai, CVPR 2021 (arXiv 2104.00854).

One-sided; content is kept by a spatially-correlative loss: at sampled places, the similarities of a
feature with the features around it must be alike in input and output, whatever they look like,

    L_G = L_GAN + lambda_spatial L_s(A, G(A)).

FSeSim takes VGG16's features as they are. LSeSim passes them through a small selector, which learns
by contrast: the maps of A at a place against those of G(A) and of a recoloured A at the same place,
with other places and the maps of B as negatives.

With StyleGAN2's networks it is the released single-image form (preset `single-image`): crops of one
image per domain, and a discriminator whose slope between real and generated crops is held at 1.

Differs from the released code: windows are right on maps that are not square; VGG16 is frozen, not
trained with a learning rate of 0; the perceptual and style losses (weight 0 as released) are left
out. This is the loss of the code since May 2021; the first version's (no factor 1/10 in tanh, top
half by the input's map, sum over layers), which part of the released weights were made with, is
left out too. Each image has colours of its own, so that N processes do what one does. Whether the
single-image form has an image pool is not recorded; here it has none, its penalty has weight 1, and
every step draws the generator's noise.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, final

import torch
from torch import Tensor

from patchkin.config import alternatives, check_not_negative
from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.errors import ShapeError
from patchkin.losses import AdversarialMode
from patchkin.losses.adversarial import mixed_images, slope_penalty
from patchkin.losses.spatial_correlation import MapComparison
from patchkin.method import Method, Preset, Progress, Terms, Update
from patchkin.networks import (
    Discriminator,
    ImagePool,
    ImagePoolConfig,
    InitConfig,
    PatchGANConfig,
    ResNetConfig,
    ResNetGenerator,
    SharedPlaces,
    StyleGan2Discriminator,
    StyleGan2DiscriminatorConfig,
    StyleGan2Generator,
    StyleGan2GeneratorConfig,
    check_channels,
    discriminator,
    initialize,
    match_channels,
)
from patchkin.networks.recolouring import ColourChange
from patchkin.networks.vgg import VGG16_WIDTH
from patchkin.numerics import without_autocast
from patchkin.randomness import Draws, sent
from patchkin.schedules import AdamConfig, ScheduleConfig
from patchkin.terms.adversary import adversarial_terms, discriminator_terms
from patchkin.terms.identity import identity_terms
from patchkin.terms.structure import StructureConfig, StructureContent, check_colours

_RATE = AdamConfig(learning_rate=1e-4)
"""Released: half of CUT's, for all networks."""
_SINGLE_RATE = AdamConfig(learning_rate=1e-3, beta1=0.0, beta2=0.99)


@dataclass(frozen=True, kw_only=True, slots=True)
class LSeSimConfig:
    """Defaults are the published command for single-modal translation: FSeSim."""

    generator: Annotated[ResNetConfig | StyleGan2GeneratorConfig, alternatives()] = field(
        default_factory=ResNetConfig
    )
    """CUT's, or StyleGAN2's (single-image). Its fields tell which, as those of D."""
    discriminator: Annotated[PatchGANConfig | StyleGan2DiscriminatorConfig, alternatives()] = field(
        default_factory=PatchGANConfig
    )
    initialization: InitConfig = field(default_factory=InitConfig)
    """Of G and D, unless they are StyleGAN2's, which have scaled weights of their own; the selector
    starts from N(0, 0.02), as released."""
    generator_adam: AdamConfig = _RATE
    discriminator_adam: AdamConfig = _RATE
    selector_adam: AdamConfig = _RATE
    pool: ImagePoolConfig = field(default_factory=ImagePoolConfig)
    """Of the discriminator."""
    adversarial: AdversarialMode = "lsgan"
    adversarial_weight: float = 1.0
    """lambda_GAN."""
    slope_weight: float = 0.0
    """Of (|grad D| - 1)^2 at images between real and generated ones (single-image: 1)."""
    structure_weight: float = 10.0
    """lambda_spatial."""
    identity_structure_weight: float = 0.0
    """lambda_spatial_idt, of the same loss between B and G(B)."""
    identity_weight: float = 0.0
    """lambda_identity, of |G(B) - B|."""
    features: Literal["vgg16", "random"] = "vgg16"
    """Of which network. `random` has VGG16's layers with seeded weights that learned nothing; it is
    ours, for tests and for where no weights can be had."""
    vgg_weights: str | None = None
    """File with torchvision's VGG16; needed to train, not to translate."""
    feature_width: int = VGG16_WIDTH
    """Channels of the first stage; other than 64 only with `random`."""
    layers: tuple[int, ...] = (4, 7, 9)
    """Rectifiers of VGG16 whose maps are compared: relu3_1, relu4_1, relu4_3."""
    num_patches: int = 256
    """Places drawn per layer, shared by the images of a batch; fewer if the map has fewer. 0 takes
    all."""
    window: int = 64
    """Side of the window around a place in pixels of the map. 64 spans all maps at 256 pixels; 32,
    the author's choice for LSeSim, spans those of relu4."""
    comparison: MapComparison = "cosine"
    """Of two maps (released: loss_mode)."""
    unit_features: bool = False
    """Scale features to unit length (released: use_norm)."""
    learned: bool = False
    """Train a selector (LSeSim)."""
    augment: bool = True
    """Show the selector recoloured images too; the setting that was meant, says the author. No
    effect unless `learned`."""
    temperature: float = 0.07
    """tau of the selector's contrast."""

    def __post_init__(self) -> None:
        self.structure()
        for name in ("in_channels", "out_channels"):
            check_colours(getattr(self.generator, name), name)
        check_channels(self.generator, self.discriminator)
        check_not_negative(self, "slope_weight")

    def structure(self) -> StructureConfig:
        """What the loss compares.

        Raises:
            ConfigError: a setting makes no sense.
        """
        return StructureConfig(
            features=self.features,
            vgg_weights=self.vgg_weights,
            feature_width=self.feature_width,
            layers=self.layers,
            num_patches=self.num_patches,
            window=self.window,
            comparison=self.comparison,
            unit_features=self.unit_features,
            learned=self.learned,
            temperature=self.temperature,
        )


PRESETS: Mapping[str, Preset] = {
    "fsesim": Preset(
        summary="published, fixed features: lambda 10, windows of 64, 200 + 200 epochs",
        method=LSeSimConfig(),
    ),
    "lsesim": Preset(
        summary="learned selector, recoloured images, windows of 32 (the author's settings)",
        method=LSeSimConfig(learned=True, window=32),
    ),
    "single-image": Preset(
        summary="released, one image per domain: 16 crops of 128 pixels, 4 + 4 epochs of 100,000",
        method=LSeSimConfig(
            generator=StyleGan2GeneratorConfig(ngf=8, num_downsampling=2, working_size=128),
            discriminator=StyleGan2DiscriminatorConfig(working_size=128),
            generator_adam=_SINGLE_RATE,
            discriminator_adam=_SINGLE_RATE,
            selector_adam=_SINGLE_RATE,
            pool=ImagePoolConfig(capacity=0),
            adversarial="nonsaturating",
            slope_weight=1.0,
        ),
        schedule=ScheduleConfig(epochs=8),
        data=DataConfig(size=128, load_size=1024, preprocess="zoom_and_patch", batch_size=16),
    ),
    "toy": Preset(
        summary="a small FSeSim on random features for the built-in toy set, minutes on a CPU",
        method=LSeSimConfig(
            generator=ResNetConfig(ngf=16, blocks=6, antialias_down=False),
            discriminator=PatchGANConfig(ndf=16, antialias=False),
            initialization=InitConfig(gain=1.0),
            generator_adam=AdamConfig(learning_rate=5e-4),
            discriminator_adam=AdamConfig(learning_rate=2.5e-4),
            pool=ImagePoolConfig(side=64),
            features="random",
            feature_width=16,
            num_patches=64,
        ),
        schedule=ScheduleConfig(steps=2000),
        data=DataConfig(size=64, load_size=64),
    ),
}


@final
class LSeSim(Method):
    """Spatially-correlative losses on fixed (FSeSim) or learned (LSeSim) features."""

    name: ClassVar[str] = "lsesim"
    paper: ClassVar[str] = "Zheng, Cham, Cai, CVPR 2021 (arXiv 2104.00854)"
    differs: ClassVar[str] = (
        "windows wrong on maps that are not square; part of its weights are of an earlier loss"
    )
    config_type: ClassVar[type] = LSeSimConfig
    presets: ClassVar[Mapping[str, Preset]] = PRESETS

    config: LSeSimConfig

    def __init__(self, config: LSeSimConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or LSeSimConfig()
        self.G, self.D = _networks(config)
        self.S = StructureContent(config.structure())
        # The selector compares places of both domains; the slope is taken between images of both.
        self.needs_equal_sizes = config.learned or config.slope_weight > 0
        self.channels = (config.generator.in_channels, config.generator.out_channels)
        self.pool = ImagePool(self.channels[1], config.pool)
        self.multiple_of = self.G.multiple_of
        self.min_size = self.G.min_size
        self.min_training_size = max(self.G.min_size, self.S.vgg.min_size)
        if isinstance(self.D, StyleGan2Discriminator):
            self.training_side = self.D.size
        else:
            self.min_training_size = max(self.min_training_size, self.D.min_size)

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network."""
        config = self.config
        adam = {"G": config.generator_adam, "D": config.discriminator_adam}
        return adam | ({"S": config.selector_adam} if config.learned else {})

    def prepare(self, batches: Iterable[UnpairedBatch], draws: Draws) -> None:
        """Read VGG16's weights, so that a missing file is noticed at once."""
        self.S.vgg.make_ready()

    def train_step(self, batch: UnpairedBatch, update: Update, progress: Progress) -> None:
        """Forward; with a selector its step; then D, then G."""
        config, draws = self.config, progress.draws
        fake_BCHW = self._generated(batch.a_BCHW, draws)
        with torch.no_grad():
            source = self.S.vgg(batch.a_BCHW)
        output = self.S.vgg(fake_BCHW)
        if config.learned:
            update("S", loss=lambda: self._selector_terms(batch, source, output, draws))
        pooled_BCHW = self.pool(fake_BCHW, draws, update.gather)
        update(
            "D",
            loss=lambda: (
                discriminator_terms(self.D, pooled_BCHW, batch.b_BCHW, mode=config.adversarial)
                | self._slope_terms(pooled_BCHW, batch.b_BCHW, update, draws)
            ),
        )

        def generator_terms() -> Terms:
            adversarial = adversarial_terms(
                self.D, fake_BCHW, mode=config.adversarial, weight=config.adversarial_weight
            )
            structure = self.S.distance(source, output, self._places(draws))
            return {
                **adversarial,
                "structure": config.structure_weight * structure,
                **self._identity_terms(batch.b_BCHW, draws),
            }

        update("G", loss=generator_terms)

    def translate(self, x_BCHW: Tensor) -> Tensor:
        """G(x)."""
        y_BCHW: Tensor = self.G(x_BCHW)
        return y_BCHW

    def _generated(self, x_BCHW: Tensor, draws: Draws) -> Tensor:
        """G(x), with noise of the step if G takes any."""
        if isinstance(self.G, ResNetGenerator):
            return self.translate(x_BCHW)
        sizes = self.G.noise_sizes(x_BCHW.shape[2], x_BCHW.shape[3])
        noise = [sent(draws.normal_rows(len(x_BCHW), 1, h, w), x_BCHW.device) for h, w in sizes]
        y_BCHW: Tensor = self.G(x_BCHW, noise)
        return y_BCHW

    def _slope_terms(
        self, fake_BCHW: Tensor, real_BCHW: Tensor, update: Update, draws: Draws
    ) -> Terms:
        """How far D's slope is from 1 between generated and real images."""
        if not self.config.slope_weight:
            return {}
        if len(fake_BCHW) == len(real_BCHW):
            share_B111 = draws.uniform_rows(len(real_BCHW), 1, 1, 1)
        else:  # a pool shows the images of all processes
            real_BCHW = update.gather(real_BCHW)
            share_B111 = draws.uniform(len(real_BCHW), 1, 1, 1)
        mixed_BCHW = mixed_images(real_BCHW, fake_BCHW, share_B111)
        with without_autocast(mixed_BCHW):  # second derivatives are too small for 16 bits
            penalty = slope_penalty(self.D(mixed_BCHW), mixed_BCHW)
        return {"slope": self.config.slope_weight * penalty}

    def _places(self, draws: Draws) -> SharedPlaces:
        return SharedPlaces(draws, self.config.num_patches)

    def _identity_terms(self, real_BCHW: Tensor, draws: Draws) -> Terms:
        config, terms = self.config, {}
        if not config.identity_structure_weight and not config.identity_weight:
            return {}
        identity_BCHW = self._generated(match_channels(real_BCHW, self.channels[0]), draws)
        if config.identity_structure_weight:
            structure = self.S.distance(
                self.S.vgg(real_BCHW), self.S.vgg(identity_BCHW), self._places(draws)
            )
            terms["identity_structure"] = config.identity_structure_weight * structure
        if config.identity_weight:
            terms |= identity_terms(identity_BCHW, real_BCHW, weight=config.identity_weight)
        return terms

    def _selector_terms(
        self, batch: UnpairedBatch, source: list[Tensor], output: list[Tensor], draws: Draws
    ) -> Terms:
        """A belongs to G(A) and to a recoloured A; B, turned by 180 degrees, to neither."""
        a_BCHW, b_BCHW = (match_channels(x, 3) for x in (batch.a_BCHW, batch.b_BCHW))
        if a_BCHW.shape != b_BCHW.shape:
            raise ShapeError(
                "The selector compares places of images of both domains, so they must have one "
                f"size; got {tuple(a_BCHW.shape[2:])} and {tuple(b_BCHW.shape[2:])}. Use a "
                "`preprocess` that crops, or set `learned` to false."
            )
        same, others = [feature.detach() for feature in output], [b_BCHW]
        with torch.no_grad():
            if self.config.augment:
                recoloured = self.S.vgg(ColourChange.drawn(draws, len(a_BCHW))(a_BCHW))
                source = [feature.repeat(2, 1, 1, 1) for feature in source]
                same = [torch.cat(pair) for pair in zip(same, recoloured, strict=True)]
                others.append(ColourChange.drawn(draws, len(b_BCHW))(b_BCHW))
            other = self.S.vgg(torch.cat(others).flip(2, 3))
        return {"contrast": self.S.contrast(source, same, other, self._places(draws))}


def _networks(
    config: LSeSimConfig,
) -> tuple[ResNetGenerator | StyleGan2Generator, Discriminator | StyleGan2Discriminator]:
    """G and D of the kinds that their configurations are."""
    generator = (
        StyleGan2Generator(config.generator)
        if isinstance(config.generator, StyleGan2GeneratorConfig)
        else ResNetGenerator(config.generator)
    )
    judge = (
        StyleGan2Discriminator(config.discriminator)
        if isinstance(config.discriminator, StyleGan2DiscriminatorConfig)
        else discriminator(config.discriminator)
    )
    for network in (generator, judge):
        if not isinstance(network, StyleGan2Generator | StyleGan2Discriminator):
            initialize(network, config.initialization)
    return generator, judge
