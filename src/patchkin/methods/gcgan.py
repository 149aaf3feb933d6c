"""GcGAN: Fu, Gong, Wang, Batmanghelich, Zhang and Tao, CVPR 2019 (arXiv 1809.05852).

One-sided and without features: G translates x, and G or a second generator translates f(x), a
rotation by 90 degrees or a vertical flip. The outputs must agree up to f, and each has its own
discriminator,

    L_G = lambda_G (L_GAN(a, D) + L_GAN(b, D_gc)) + lambda_gc L_geo(a, b) + lambda_idt L_idt,
    a = G(x),   b = G_gc(f(x)).

Differs from the released code: f acts on images that are not square, too. The released option
`cross` saves G under the name of G_gc, so a resumed run silently loses one of its generators; here
both are saved. The released learning rate falls one epoch early and is 0 in the last epoch; ours is
CycleGAN's. The released variants `mix` (both transforms, three discriminators) and `gc_cycle_gan`
are left out.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

from torch import Tensor

from patchkin.config import check_not_negative
from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.losses import AdversarialMode
from patchkin.losses.geometry import Transform, geometry_consistency, transformed
from patchkin.method import Method, Preset, Progress, Terms, Update
from patchkin.networks import (
    STRIDED_DISCRIMINATOR,
    STRIDED_GENERATOR,
    ImagePool,
    ImagePoolConfig,
    InitConfig,
    PatchGANConfig,
    ResNetConfig,
    ResNetGenerator,
    check_channels,
    discriminator,
    initialize,
    match_channels,
)
from patchkin.schedules import AdamConfig, ScheduleConfig
from patchkin.terms.adversary import adversarial_terms, discriminator_terms
from patchkin.terms.identity import identity_terms


@dataclass(frozen=True, kw_only=True, slots=True)
class GcGanConfig:
    """Defaults are the released ones."""

    generator: ResNetConfig = STRIDED_GENERATOR
    """CycleGAN's; both generators are alike."""
    discriminator: PatchGANConfig = STRIDED_DISCRIMINATOR
    """CycleGAN's; both discriminators are alike."""
    initialization: InitConfig = field(default_factory=InitConfig)
    generator_adam: AdamConfig = field(default_factory=AdamConfig)
    discriminator_adam: AdamConfig = field(default_factory=AdamConfig)
    pool: ImagePoolConfig = field(default_factory=ImagePoolConfig)
    """Of each discriminator."""
    adversarial: AdversarialMode = "lsgan"
    adversarial_weight: float = 1.0
    """lambda_G, for both adversaries."""
    transform: Transform = "rotation"
    """f (released: `geometry`)."""
    generators: Literal["share", "cross"] = "share"
    """One generator for x and f(x), or one for each (the authors' choice for horse2zebra)."""
    consistency_weight: float = 20.0
    """Released: lambda_AB * lambda_gc = 10 * 2. Each of the two summands follows a constant target;
    letting the gradient into the targets as well is the same as doubling this."""
    identity_weight: float = 5.0
    """Of |G(y) - y| and |G_gc(f(y)) - f(y)|; released: lambda_AB * identity = 10 * 0.5."""

    def __post_init__(self) -> None:
        check_not_negative(self, "consistency_weight", "identity_weight")
        check_channels(self.generator, self.discriminator)


PRESETS: Mapping[str, Preset] = {
    "gcgan": Preset(
        summary="released: one generator, rotation, 100 + 100 epochs, batch 8",
        method=GcGanConfig(),
        schedule=ScheduleConfig(epochs=200),
        data=DataConfig(load_size=288, batch_size=8, jitter_in_decay=True),
    ),
    "horse2zebra": Preset(
        summary="the authors' choice for horses to zebras: a generator for each orientation",
        method=GcGanConfig(generators="cross"),
        schedule=ScheduleConfig(epochs=200),
        data=DataConfig(load_size=288, batch_size=8, jitter_in_decay=True),
    ),
    "cityscapes": Preset(
        summary="released, labels to photos: 6 blocks, 128 pixels, weaker identity",
        method=GcGanConfig(
            generator=ResNetConfig(blocks=6, antialias_down=False, antialias_up=False),
            identity_weight=3.0,
        ),
        schedule=ScheduleConfig(epochs=200),
        data=DataConfig(
            direction="BtoA", size=128, load_size=144, batch_size=12, jitter_in_decay=True
        ),
    ),
    "toy": Preset(
        summary="a small GcGAN for the built-in toy set, minutes on a CPU",
        method=GcGanConfig(
            generator=ResNetConfig(ngf=16, blocks=6, antialias_down=False),
            discriminator=PatchGANConfig(ndf=16, antialias=False),
            initialization=InitConfig(gain=1.0),
            generator_adam=AdamConfig(learning_rate=5e-4),
            discriminator_adam=AdamConfig(learning_rate=2.5e-4),
            pool=ImagePoolConfig(side=64),
            transform="flip",
        ),
        schedule=ScheduleConfig(steps=2000),
        data=DataConfig(size=64, load_size=64),
    ),
}


@final
class GcGan(Method):
    """Geometry-consistent one-sided translation (GcGAN)."""

    name: ClassVar[str] = "gcgan"
    paper: ClassVar[str] = "Fu, Gong, Wang, Batmanghelich, Zhang, Tao, CVPR 2019 (arXiv 1809.05852)"
    differs: ClassVar[str] = (
        "saves one generator over the other with `cross`; the learning rate falls an epoch early"
    )
    config_type: ClassVar[type] = GcGanConfig
    presets: ClassVar[Mapping[str, Preset]] = PRESETS

    config: GcGanConfig

    def __init__(self, config: GcGanConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or GcGanConfig()
        self.G = ResNetGenerator(config.generator)
        self.D = discriminator(config.discriminator)
        self.D_gc = discriminator(config.discriminator)
        if config.generators == "cross":
            self.G_gc = ResNetGenerator(config.generator)
        for network in self.children():
            initialize(network, config.initialization)
        self.channels = (config.generator.in_channels, config.generator.out_channels)
        self.pool = ImagePool(self.channels[1], config.pool)
        self.pool_gc = ImagePool(self.channels[1], config.pool)
        self.multiple_of = self.G.multiple_of
        self.min_size = self.G.min_size
        self.min_training_size = max(self.G.min_size, self.D.min_size)

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network; the released code has one for all G and one for all D."""
        config = self.config
        generators = dict.fromkeys(self._generators(), config.generator_adam)
        return generators | dict.fromkeys(("D", "D_gc"), config.discriminator_adam)

    def train_step(self, batch: UnpairedBatch, update: Update, progress: Progress) -> None:
        """The generators first, then both discriminators on what they had made."""
        config = self.config
        turned_a = transformed(batch.a_BCHW, config.transform)
        turned_b = transformed(batch.b_BCHW, config.transform)
        fake_BCHW, fake_turned = self.G(batch.a_BCHW), self._translated_turned(turned_a)

        def generator_terms() -> Terms:
            consistency = geometry_consistency(fake_BCHW, fake_turned, config.transform)
            return {
                **adversarial_terms(
                    self.D, fake_BCHW, mode=config.adversarial, weight=config.adversarial_weight
                ),
                **adversarial_terms(
                    self.D_gc,
                    fake_turned,
                    mode=config.adversarial,
                    weight=config.adversarial_weight,
                    suffix="_gc",
                ),
                "consistency": config.consistency_weight * consistency,
                **self._identity_terms(batch.b_BCHW, turned_b),
            }

        def both_discriminators() -> Terms:
            mode = config.adversarial
            return {
                **discriminator_terms(self.D, pooled_BCHW, batch.b_BCHW, mode=mode),
                **discriminator_terms(self.D_gc, pooled_turned, turned_b, mode=mode, suffix="_gc"),
            }

        update(*self._generators(), loss=generator_terms)
        pooled_BCHW = self.pool(fake_BCHW, progress.draws, update.gather)
        pooled_turned = self.pool_gc(fake_turned, progress.draws, update.gather)
        update("D", "D_gc", loss=both_discriminators)

    def translate(self, x_BCHW: Tensor) -> Tensor:
        """G(x)."""
        y_BCHW: Tensor = self.G(x_BCHW)
        return y_BCHW

    def _generators(self) -> tuple[str, ...]:
        return ("G", "G_gc") if self.config.generators == "cross" else ("G",)

    def _translated_turned(self, turned: Tensor) -> Tensor:
        y: Tensor = (self.G_gc if self.config.generators == "cross" else self.G)(turned)
        return y

    def _identity_terms(self, real_BCHW: Tensor, turned_real: Tensor) -> Terms:
        """Images of the target domain should stay as they are, whichever way they are turned."""
        weight = self.config.identity_weight
        if weight == 0:
            return {}
        identity_BCHW = self.G(match_channels(real_BCHW, self.channels[0]))
        identity_turned = self._translated_turned(match_channels(turned_real, self.channels[0]))
        return {
            **identity_terms(identity_BCHW, real_BCHW, weight=weight),
            **identity_terms(identity_turned, turned_real, weight=weight, suffix="_gc"),
        }
