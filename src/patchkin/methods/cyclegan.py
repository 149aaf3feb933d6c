"""CycleGAN: Zhu, Park, Isola and Efros, ICCV 2017 (arXiv 1703.10593).

Two generators, two discriminators. G_AB translates A into B and D_B judges domain B; G_BA
translates back and D_A judges domain A (the paper's G, D_Y, F, D_X; the released G_A, D_A, G_B,
D_B). Content is kept because a translation must lead back to where it came from,

    L_G = L_GAN(G_AB, D_B) + L_GAN(G_BA, D_A)
        + lambda_A |G_BA(G_AB(a)) - a| + lambda_B |G_AB(G_BA(b)) - b|
        + lambda_idt (lambda_B |G_AB(b) - b| + lambda_A |G_BA(a) - a|).

Each discriminator learns half of what it is asked, on translations from a pool of earlier ones.

Differs from the paper: the released code has the identity term on by default (lambda_idt 0.5); the
paper uses it for paintings and flowers only. Its generators stride and transpose convolutions; the
copy in the repository of CUT, which later papers compare with, blurs and enlarges instead, starts
from other weights and trains twice as long (preset `antialiased`).

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, final

from torch import Tensor

from patchkin.config import check_not_negative
from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.losses import AdversarialMode, pixel_distance
from patchkin.method import Direction, Method, Preset, Progress, Terms, Update
from patchkin.networks import (
    STRIDED_DISCRIMINATOR,
    STRIDED_GENERATOR,
    ImagePoolConfig,
    InitConfig,
    PatchGANConfig,
    ResNetConfig,
    check_pair,
    discriminator_pair,
    generator_pair,
    initialize,
    pool_pair,
)
from patchkin.schedules import AdamConfig, ScheduleConfig
from patchkin.terms.identity import with_identity
from patchkin.terms.two_sided import (
    two_sided_adversarial_terms,
    two_sided_discriminator_terms,
    two_sided_identity_terms,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CycleGanConfig:
    """Defaults are the released CycleGAN."""

    generator: ResNetConfig = STRIDED_GENERATOR
    """Of G_AB; G_BA is the same with the channels exchanged."""
    discriminator: PatchGANConfig = STRIDED_DISCRIMINATOR
    """Of D_B; D_A is the same for the channels of domain A."""
    initialization: InitConfig = field(default_factory=lambda: InitConfig(kind="normal"))
    generator_adam: AdamConfig = field(default_factory=AdamConfig)
    discriminator_adam: AdamConfig = field(default_factory=AdamConfig)
    pool: ImagePoolConfig = field(default_factory=ImagePoolConfig)
    """Of each discriminator."""
    adversarial: AdversarialMode = "lsgan"
    cycle_weight_a: float = 10.0
    """lambda_A, of A -> B -> A."""
    cycle_weight_b: float = 10.0
    """lambda_B, of B -> A -> B."""
    identity_weight: float = 0.5
    """lambda_idt, a factor on lambda_A and lambda_B. It keeps colours; without it paintings of day
    become photographs of dusk (the paper's Sec. 5.2)."""

    def __post_init__(self) -> None:
        check_not_negative(self, "cycle_weight_a", "cycle_weight_b", "identity_weight")
        check_pair(self.generator, self.discriminator, identity=self.identity_weight > 0)


_PUBLISHED = ScheduleConfig(epochs=200)

PRESETS: Mapping[str, Preset] = {
    "released": Preset(
        summary="the CycleGAN repository: identity 0.5, pool of 50, 100 + 100 epochs",
        method=CycleGanConfig(),
        schedule=_PUBLISHED,
        data=DataConfig(jitter_in_decay=True),
    ),
    "paper": Preset(
        summary="as printed: without the identity term (0.5 for paintings and flowers)",
        method=CycleGanConfig(identity_weight=0.0),
        schedule=_PUBLISHED,
        data=DataConfig(jitter_in_decay=True),
    ),
    "antialiased": Preset(
        summary="the CycleGAN in CUT's repository: blurred resampling, 200 + 200 epochs",
        method=CycleGanConfig(
            generator=ResNetConfig(), discriminator=PatchGANConfig(), initialization=InitConfig()
        ),
    ),
    "toy": Preset(
        summary="a small CycleGAN for the built-in toy set, minutes on a CPU",
        method=CycleGanConfig(
            generator=ResNetConfig(ngf=16, blocks=6, antialias_down=False, antialias_up=False),
            discriminator=PatchGANConfig(ndf=16, antialias=False),
            initialization=InitConfig(gain=1.0),
            generator_adam=AdamConfig(learning_rate=5e-4),
            discriminator_adam=AdamConfig(learning_rate=2.5e-4),
            pool=ImagePoolConfig(side=64),
        ),
        schedule=ScheduleConfig(steps=2000),
        data=DataConfig(size=64, load_size=64),
    ),
}


@final
class CycleGan(Method):
    """Cycle-consistent adversarial networks."""

    name: ClassVar[str] = "cyclegan"
    paper: ClassVar[str] = "Zhu, Park, Isola, Efros, ICCV 2017 (arXiv 1703.10593)"
    differs: ClassVar[str] = (
        "identity term on by default; CUT's copy has other networks and twice the epochs"
    )
    config_type: ClassVar[type] = CycleGanConfig
    presets: ClassVar[Mapping[str, Preset]] = PRESETS
    translating: ClassVar[tuple[str, ...]] = ("G_AB", "G_BA")
    directions: ClassVar[tuple[str, ...]] = ("AtoB", "BtoA")

    config: CycleGanConfig

    def __init__(self, config: CycleGanConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CycleGanConfig()
        self.channels = (config.generator.in_channels, config.generator.out_channels)
        self.G_AB, self.G_BA = generator_pair(config.generator)
        self.D_B, self.D_A = discriminator_pair(config.discriminator, config.generator)
        self.pool_B, self.pool_A = pool_pair(config.pool, config.generator)
        for network in (self.G_AB, self.G_BA, self.D_B, self.D_A):
            initialize(network, config.initialization)
        self.multiple_of = self.G_AB.multiple_of
        self.min_size = self.G_AB.min_size
        self.min_training_size = max(self.G_AB.min_size, self.D_B.min_size)

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network."""
        config = self.config
        generators = dict.fromkeys(("G_AB", "G_BA"), config.generator_adam)
        return generators | dict.fromkeys(("D_B", "D_A"), config.discriminator_adam)

    def train_step(self, batch: UnpairedBatch, update: Update, progress: Progress) -> None:
        """Both generators, then both discriminators on the translations from before that update."""
        config, identity = self.config, self.config.identity_weight > 0
        fake_b_BCHW, identity_b_BCHW = with_identity(
            self.G_AB, batch.a_BCHW, batch.b_BCHW, identity=identity
        )
        fake_a_BCHW, identity_a_BCHW = with_identity(
            self.G_BA, batch.b_BCHW, batch.a_BCHW, identity=identity
        )

        def generator_terms() -> Terms:
            return {
                **two_sided_adversarial_terms(
                    self, fake_b_BCHW, fake_a_BCHW, mode=config.adversarial
                ),
                **self._cycle_terms(batch, fake_b_BCHW, fake_a_BCHW),
                **two_sided_identity_terms(
                    batch,
                    identity_b_BCHW,
                    identity_a_BCHW,
                    weight_b=config.identity_weight * config.cycle_weight_b,
                    weight_a=config.identity_weight * config.cycle_weight_a,
                ),
            }

        update("G_AB", "G_BA", loss=generator_terms)
        pooled_b_BCHW = self.pool_B(fake_b_BCHW, progress.draws, update.gather)
        pooled_a_BCHW = self.pool_A(fake_a_BCHW, progress.draws, update.gather)
        update(
            "D_B",
            "D_A",
            loss=lambda: two_sided_discriminator_terms(
                self, batch, pooled_b_BCHW, pooled_a_BCHW, mode=config.adversarial
            ),
        )

    def translate(self, x_BCHW: Tensor, *, direction: Direction = "AtoB") -> Tensor:
        """G_AB(x), or G_BA(x) for images of domain B."""
        y_BCHW: Tensor = (self.G_AB if direction == "AtoB" else self.G_BA)(x_BCHW)
        return y_BCHW

    def previews(self, batch: UnpairedBatch) -> dict[str, Tensor]:
        """There and back again, in both directions."""
        fake_b_BCHW, fake_a_BCHW = self.G_AB(batch.a_BCHW), self.G_BA(batch.b_BCHW)
        return {
            "input": batch.a_BCHW,
            "translated": fake_b_BCHW,
            "and back": self.G_BA(fake_b_BCHW),
            "target": batch.b_BCHW,
            "target to source": fake_a_BCHW,
            "and forth": self.G_AB(fake_a_BCHW),
        }

    def _cycle_terms(self, batch: UnpairedBatch, fake_b_BCHW: Tensor, fake_a_BCHW: Tensor) -> Terms:
        cycle_a = pixel_distance(self.G_BA(fake_b_BCHW), batch.a_BCHW)
        cycle_b = pixel_distance(self.G_AB(fake_a_BCHW), batch.b_BCHW)
        return {
            "cycle_A": self.config.cycle_weight_a * cycle_a,
            "cycle_B": self.config.cycle_weight_b * cycle_b,
        }
