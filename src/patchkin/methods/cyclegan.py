"""CycleGAN: Zhu, Park, Isola and Efros, ICCV 2017 (arXiv 1703.10593).

Two generators, two discriminators. G_A translates A into B and D_A judges domain B; G_B translates
back and D_B judges domain A (the paper's G, D_Y, F, D_X). Content is kept because a translation
must lead back to where it came from,

    L_G = L_GAN(G_A, D_A) + L_GAN(G_B, D_B)
        + lambda_A |G_B(G_A(a)) - a| + lambda_B |G_A(G_B(b)) - b|
        + lambda_idt (lambda_B |G_A(b) - b| + lambda_A |G_B(a) - a|).

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
from typing import ClassVar, Literal, final

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
from patchkin.method import Method, Preset, Progress, Terms, Update
from patchkin.networks import (
    ImagePool,
    ImagePoolConfig,
    InitConfig,
    PatchGANConfig,
    ResNetConfig,
    ResNetGenerator,
    apply_together,
    check_pair,
    discriminator_pair,
    generator_pair,
    initialize,
    judge_together,
    match_channels,
)
from patchkin.schedules import AdamConfig, ScheduleConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class CycleGanConfig:
    """Defaults are the released CycleGAN."""

    generator: ResNetConfig = field(
        default_factory=lambda: ResNetConfig(antialias_down=False, antialias_up=False)
    )
    """Of G_A; G_B is the same with the channels exchanged."""
    discriminator: PatchGANConfig = field(default_factory=lambda: PatchGANConfig(antialias=False))
    """Of D_A; D_B is the same for the channels of domain A."""
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
        for name in ("cycle_weight_a", "cycle_weight_b", "identity_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"`{name}` must not be negative; got {getattr(self, name)}.")
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
    translating: ClassVar[tuple[str, ...]] = ("G_A", "G_B")
    directions: ClassVar[tuple[str, ...]] = ("AtoB", "BtoA")

    config: CycleGanConfig

    def __init__(self, config: CycleGanConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CycleGanConfig()
        self.channels = (config.generator.in_channels, config.generator.out_channels)
        self.G_A, self.G_B = generator_pair(config.generator)
        self.D_A, self.D_B = discriminator_pair(config.discriminator, config.generator)
        self.pool_A = ImagePool(self.channels[1], config.pool)
        self.pool_B = ImagePool(self.channels[0], config.pool)
        for network in (self.G_A, self.G_B, self.D_A, self.D_B):
            initialize(network, config.initialization)
        self.multiple_of = self.G_A.multiple_of
        self.min_size = self.G_A.min_size
        self.min_training_size = max(self.G_A.min_size, self.D_A.min_size)

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network."""
        generator, judge = self.config.generator_adam, self.config.discriminator_adam
        return {"G_A": generator, "G_B": generator, "D_A": judge, "D_B": judge}

    def train_step(self, batch: UnpairedBatch, update: Update, progress: Progress) -> None:
        """Both generators, then both discriminators on the translations from before that update."""
        fake_b_BCHW, *identity_b = self._translated(self.G_A, batch.a_BCHW, batch.b_BCHW)
        fake_a_BCHW, *identity_a = self._translated(self.G_B, batch.b_BCHW, batch.a_BCHW)

        def generator_terms() -> Terms:
            return {
                **self._adversarial_terms(fake_b_BCHW, fake_a_BCHW),
                **self._cycle_terms(batch, fake_b_BCHW, fake_a_BCHW),
                **self._identity_terms(batch, identity_b, identity_a),
            }

        update("G_A", "G_B", loss=generator_terms)
        shown_b_BCHW = self.pool_A(fake_b_BCHW, progress.draws, update.gather)
        shown_a_BCHW = self.pool_B(fake_a_BCHW, progress.draws, update.gather)
        update(
            "D_A",
            "D_B",
            loss=lambda: self._discriminator_terms(batch, shown_b_BCHW, shown_a_BCHW),
        )

    def translate(self, x_BCHW: Tensor, *, direction: Literal["AtoB", "BtoA"] = "AtoB") -> Tensor:
        """G_A(x), or G_B(x) for images of domain B."""
        y_BCHW: Tensor = (self.G_A if direction == "AtoB" else self.G_B)(x_BCHW)
        return y_BCHW

    def previews(self, batch: UnpairedBatch) -> dict[str, Tensor]:
        """There and back again, in both directions."""
        fake_b_BCHW, fake_a_BCHW = self.G_A(batch.a_BCHW), self.G_B(batch.b_BCHW)
        return {
            "input": batch.a_BCHW,
            "translated": fake_b_BCHW,
            "and back": self.G_B(fake_b_BCHW),
            "target": batch.b_BCHW,
            "target to source": fake_a_BCHW,
            "and forth": self.G_A(fake_a_BCHW),
        }

    def _translated(
        self, generator: ResNetGenerator, source_BCHW: Tensor, target_BCHW: Tensor
    ) -> tuple[Tensor, ...]:
        """The generator's translation, and with the identity term what it makes of its target."""
        if not self.config.identity_weight:
            return (generator(source_BCHW),)
        return apply_together(
            generator, source_BCHW, match_channels(target_BCHW, source_BCHW.shape[1])
        )

    def _adversarial_terms(self, fake_b_BCHW: Tensor, fake_a_BCHW: Tensor) -> Terms:
        mode = self.config.adversarial
        return {
            "adversarial_A": generator_loss(mode, self.D_A(fake_b_BCHW)),
            "adversarial_B": generator_loss(mode, self.D_B(fake_a_BCHW)),
        }

    def _cycle_terms(self, batch: UnpairedBatch, fake_b_BCHW: Tensor, fake_a_BCHW: Tensor) -> Terms:
        cycle_a = pixel_distance(self.G_B(fake_b_BCHW), batch.a_BCHW)
        cycle_b = pixel_distance(self.G_A(fake_a_BCHW), batch.b_BCHW)
        return {
            "cycle_A": self.config.cycle_weight_a * cycle_a,
            "cycle_B": self.config.cycle_weight_b * cycle_b,
        }

    def _identity_terms(
        self, batch: UnpairedBatch, identity_b: list[Tensor], identity_a: list[Tensor]
    ) -> Terms:
        """Of G_A, which should leave images of domain B alone, and of G_B; none if switched off."""
        if not self.config.identity_weight:
            return {}
        weight_A = self.config.identity_weight * self.config.cycle_weight_b
        weight_B = self.config.identity_weight * self.config.cycle_weight_a
        return {
            "identity_A": weight_A * pixel_distance(identity_b[0], batch.b_BCHW),
            "identity_B": weight_B * pixel_distance(identity_a[0], batch.a_BCHW),
        }

    def _discriminator_terms(
        self, batch: UnpairedBatch, shown_b_BCHW: Tensor, shown_a_BCHW: Tensor
    ) -> Terms:
        mode, terms = self.config.adversarial, {}
        for name, network, shown_BCHW, real_BCHW in (
            ("A", self.D_A, shown_b_BCHW, batch.b_BCHW),
            ("B", self.D_B, shown_a_BCHW, batch.a_BCHW),
        ):
            fake_logits, real_logits = judge_together(network, shown_BCHW, real_BCHW)
            terms[f"fake_{name}"] = 0.5 * fake_loss(mode, fake_logits)
            terms[f"real_{name}"] = 0.5 * real_loss(mode, real_logits)
        return terms
