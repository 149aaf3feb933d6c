"""TraVeLGAN: Amodio and Krishnaswamy, CVPR 2019 (arXiv 1902.09631).

Two generators without a cycle. A siamese network S learns, together with them, numbers for images
such that the vector between two images is that between their translations,

    L_G = L_GAN(G_A) + L_GAN(G_B) + lambda (margin + euclid + cosine),

minimised by G_A, G_B and S at once; the margin keeps S from mapping everything to one point. The
definition is over pairs of a batch, which must have two images at least. D_A judges domain B and
D_B judges domain A.

Differs from the released code (TensorFlow 1): D and G learn from the same batch, where it draws
one for each; images are shuffled anew in every epoch, where neighbours stayed neighbours. The first
layer of S for domain B sees the translations to B. Points on which nothing is recorded are named in
`networks/siamese.py`; released weights cannot be imported.

Shape suffixes: B images, C channels, H and W pixels, D numbers of an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, final

from torch import Tensor

from patchkin.config import flag
from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.errors import ConfigError
from patchkin.losses import AdversarialMode, fake_loss, generator_loss, real_loss
from patchkin.losses.travel import TravelLosses, travel_losses
from patchkin.method import Method, Preset, Progress, Terms, Update
from patchkin.networks import InitConfig, initialize, judge_together
from patchkin.networks.siamese import GlobalDiscriminator, Siamese, TravelGenerator
from patchkin.schedules import AdamConfig, ScheduleConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TravelGanConfig:
    """Defaults are the released ones."""

    in_channels: int = 3
    """Channels of domain A."""
    out_channels: int = 3
    """Channels of domain B."""
    width: Annotated[int, flag("--ngf")] = 64
    """Channels of the first layer of generators and S, half of the discriminators' (nfilt)."""
    vector_width: int = 1000
    """Numbers that S makes of an image."""
    initialization: InitConfig = field(default_factory=lambda: InitConfig(kind="normal"))
    """Released: N(0, 0.02), for convolutions cut off at two deviations."""
    generator_adam: AdamConfig = field(default_factory=AdamConfig)
    """For both generators and S."""
    discriminator_adam: AdamConfig = field(default_factory=AdamConfig)
    adversarial: AdversarialMode = "vanilla"
    """Binary cross-entropy on logits."""
    travel_weight: float = 10.0
    """lambda, of the sum of the three losses."""
    margin: float = 10.0
    """The least squared length of a vector between two source images."""

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "width", "vector_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        for name in ("travel_weight", "margin"):
            if getattr(self, name) < 0:
                raise ConfigError(f"`{name}` must not be negative; got {getattr(self, name)}.")


PRESETS: Mapping[str, Preset] = {
    "travelgan": Preset(
        summary="released: 128 pixels, batch 16, 200,000 steps",
        method=TravelGanConfig(),
        schedule=ScheduleConfig(steps=200_000, decay_fraction=0.0),
        data=DataConfig(size=128, load_size=160, batch_size=16),
    ),
    "toy": Preset(
        summary="a small TraVeLGAN for the built-in toy set, minutes on a CPU",
        method=TravelGanConfig(width=16, vector_width=100),
        schedule=ScheduleConfig(steps=2000),
        data=DataConfig(size=64, load_size=64, batch_size=4),
    ),
}


@final
class TravelGan(Method):
    """Translation that keeps the vectors between images (TraVeLGAN)."""

    name: ClassVar[str] = "travelgan"
    paper: ClassVar[str] = "Amodio, Krishnaswamy, CVPR 2019 (arXiv 1902.09631)"
    differs: ClassVar[str] = (
        "D and G learn from different batches; neighbours in a file stay neighbours"
    )
    config_type: ClassVar[type] = TravelGanConfig
    presets: ClassVar[Mapping[str, Preset]] = PRESETS
    translating: ClassVar[tuple[str, ...]] = ("G_A", "G_B")
    directions: ClassVar[tuple[str, ...]] = ("AtoB", "BtoA")

    config: TravelGanConfig

    def __init__(self, config: TravelGanConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or TravelGanConfig()
        a, b = self.channels = (config.in_channels, config.out_channels)
        self.G_A, self.G_B = (
            TravelGenerator(a, b, config.width),
            TravelGenerator(b, a, config.width),
        )
        self.D_A, self.D_B = (
            GlobalDiscriminator(b, config.width),
            GlobalDiscriminator(a, config.width),
        )
        self.S = Siamese((a, b), config.width, config.vector_width)
        for network in self.children():
            initialize(network, config.initialization)
        self.min_batch_size = 2

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network; S learns with the generators, at their rate."""
        generator, judge = self.config.generator_adam, self.config.discriminator_adam
        return {"G_A": generator, "G_B": generator, "S": generator, "D_A": judge, "D_B": judge}

    def train_step(self, batch: UnpairedBatch, update: Update, progress: Progress) -> None:
        """Both discriminators, then both generators and S."""
        if len(batch) < self.min_batch_size:
            raise ConfigError(
                "TraVeLGAN compares the images of a batch, which must have at least "
                f"{self.min_batch_size}; got {len(batch)}. Use --batch-size 2 or more "
                "(released: 16)."
            )
        fake_b_BCHW, fake_a_BCHW = self.G_A(batch.a_BCHW), self.G_B(batch.b_BCHW)
        update(
            "D_A",
            "D_B",
            loss=lambda: {
                **self._judging_terms("A", fake_b_BCHW.detach(), batch.b_BCHW),
                **self._judging_terms("B", fake_a_BCHW.detach(), batch.a_BCHW),
            },
        )
        update(
            "G_A",
            "G_B",
            "S",
            loss=lambda: {
                **self._adversarial_terms(fake_b_BCHW, fake_a_BCHW),
                **self._travel_terms(batch, fake_b_BCHW, fake_a_BCHW),
            },
        )

    def translate(self, x_BCHW: Tensor, *, direction: Literal["AtoB", "BtoA"] = "AtoB") -> Tensor:
        """G_A(x), or G_B(x) for images of domain B."""
        y_BCHW: Tensor = (self.G_A if direction == "AtoB" else self.G_B)(x_BCHW)
        return y_BCHW

    def previews(self, batch: UnpairedBatch) -> dict[str, Tensor]:
        """Both directions."""
        return {
            "input": batch.a_BCHW,
            "translated": self.G_A(batch.a_BCHW),
            "target": batch.b_BCHW,
            "target to source": self.G_B(batch.b_BCHW),
        }

    def _judging_terms(self, side: str, fake_BCHW: Tensor, real_BCHW: Tensor) -> Terms:
        """Released: half for real and fake, of the mean over both discriminators."""
        mode, network = self.config.adversarial, self.get_submodule(f"D_{side}")
        fake_logits, real_logits = judge_together(network, fake_BCHW, real_BCHW)
        return {
            f"fake_{side}": 0.25 * fake_loss(mode, fake_logits),
            f"real_{side}": 0.25 * real_loss(mode, real_logits),
        }

    def _adversarial_terms(self, fake_b_BCHW: Tensor, fake_a_BCHW: Tensor) -> Terms:
        mode = self.config.adversarial
        return {
            "adversarial_A": generator_loss(mode, self.D_A(fake_b_BCHW)),
            "adversarial_B": generator_loss(mode, self.D_B(fake_a_BCHW)),
        }

    def _travel_terms(
        self, batch: UnpairedBatch, fake_b_BCHW: Tensor, fake_a_BCHW: Tensor
    ) -> Terms:
        """The means over both directions."""
        margin = self.config.margin
        forth = travel_losses(
            self.S(batch.a_BCHW, domain=0), self.S(fake_b_BCHW, domain=1), margin=margin
        )
        back = travel_losses(
            self.S(batch.b_BCHW, domain=1), self.S(fake_a_BCHW, domain=0), margin=margin
        )
        weight = 0.5 * self.config.travel_weight
        return {
            name: weight * (one + other)
            for name, one, other in zip(TravelLosses._fields, forth, back, strict=True)
        }
