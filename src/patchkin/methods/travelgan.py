"""TraVeLGAN: Amodio and Krishnaswamy, CVPR 2019 (arXiv 1902.09631).

Two generators without a cycle. A siamese network S learns, together with them, numbers for images
such that the vector between two images is that between their translations,

    L_G = L_GAN(G_AB) + L_GAN(G_BA) + lambda (margin + euclid + cosine),

minimised by G_AB, G_BA and S at once; the margin keeps S from mapping everything to one point. The
definition is over pairs of a batch, which must have two images at least.

Differs from the released code (TensorFlow 1): D and G learn from the same batch, where it draws
one for each; images are shuffled anew in every epoch, where neighbours stayed neighbours. The first
layer of S for domain B sees the translations to B. Points on which nothing is recorded are named in
`networks/siamese.py`; released weights cannot be imported.

Shape suffixes: B images, C channels, H and W pixels, D numbers of an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, final

from torch import Tensor

from patchkin.config import check_at_least_one, check_not_negative, flag
from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.errors import ConfigError
from patchkin.losses import AdversarialMode
from patchkin.losses.travel import TravelLosses, travel_losses
from patchkin.method import Direction, Method, Preset, Progress, Terms, Update
from patchkin.networks import InitConfig, initialize
from patchkin.networks.siamese import GlobalDiscriminator, Siamese, TravelGenerator
from patchkin.schedules import AdamConfig, ScheduleConfig
from patchkin.terms.previews import two_sided_previews
from patchkin.terms.two_sided import two_sided_adversarial_terms, two_sided_discriminator_terms


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
        check_at_least_one(self, "in_channels", "out_channels", "width", "vector_width")
        check_not_negative(self, "travel_weight", "margin")


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
    translating: ClassVar[tuple[str, ...]] = ("G_AB", "G_BA")
    directions: ClassVar[tuple[str, ...]] = ("AtoB", "BtoA")

    config: TravelGanConfig

    def __init__(self, config: TravelGanConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or TravelGanConfig()
        a, b = self.channels = (config.in_channels, config.out_channels)
        self.G_AB = TravelGenerator(a, b, config.width)
        self.G_BA = TravelGenerator(b, a, config.width)
        self.D_B = GlobalDiscriminator(b, config.width)
        self.D_A = GlobalDiscriminator(a, config.width)
        self.S = Siamese((a, b), config.width, config.vector_width)
        for network in self.children():
            initialize(network, config.initialization)
        self.min_batch_size, self.compares_batch = 2, True

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network; S learns with the generators, at their rate."""
        config = self.config
        generators = dict.fromkeys(("G_AB", "G_BA", "S"), config.generator_adam)
        return generators | dict.fromkeys(("D_B", "D_A"), config.discriminator_adam)

    def train_step(self, batch: UnpairedBatch, update: Update, progress: Progress) -> None:
        """Both discriminators, then both generators and S."""
        if len(batch) * update.num_processes < self.min_batch_size:
            raise ConfigError(
                "TraVeLGAN compares the images of a batch, which must have at least "
                f"{self.min_batch_size}; got {len(batch)}. Use --batch-size 2 or more "
                "(released: 16)."
            )
        mode = self.config.adversarial
        fake_b_BCHW, fake_a_BCHW = self.G_AB(batch.a_BCHW), self.G_BA(batch.b_BCHW)
        update(
            "D_B",
            "D_A",
            loss=lambda: two_sided_discriminator_terms(
                self,
                batch,
                fake_b_BCHW.detach(),
                fake_a_BCHW.detach(),
                mode=mode,
                weight=0.25,  # released: half for real and fake, of the mean over both
            ),
        )
        update(
            "G_AB",
            "G_BA",
            "S",
            loss=lambda: {
                **two_sided_adversarial_terms(self, fake_b_BCHW, fake_a_BCHW, mode=mode),
                **self._travel_terms(batch, fake_b_BCHW, fake_a_BCHW, update),
            },
        )

    def translate(self, x_BCHW: Tensor, *, direction: Direction = "AtoB") -> Tensor:
        """G_AB(x), or G_BA(x) for images of domain B."""
        y_BCHW: Tensor = (self.G_AB if direction == "AtoB" else self.G_BA)(x_BCHW)
        return y_BCHW

    def previews(self, batch: UnpairedBatch) -> dict[str, Tensor]:
        """Both directions."""
        return two_sided_previews(self.G_AB, self.G_BA, batch)

    def _travel_terms(
        self, batch: UnpairedBatch, fake_b_BCHW: Tensor, fake_a_BCHW: Tensor, update: Update
    ) -> Terms:
        """The means over both directions."""
        margin = self.config.margin

        def numbers(x_BCHW: Tensor, domain: int) -> Tensor:
            return update.gather_with_graph(self.S(x_BCHW, domain=domain))

        forth = travel_losses(numbers(batch.a_BCHW, 0), numbers(fake_b_BCHW, 1), margin=margin)
        back = travel_losses(numbers(batch.b_BCHW, 1), numbers(fake_a_BCHW, 0), margin=margin)
        weight = 0.5 * self.config.travel_weight
        return {
            name: weight * (one + other)
            for name, one, other in zip(TravelLosses._fields, forth, back, strict=True)
        }
