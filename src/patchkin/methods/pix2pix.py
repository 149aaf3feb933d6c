"""pix2pix: Isola, Zhu, Zhou and Efros, CVPR 2017 (arXiv 1611.07004).

The paired baseline: every source image comes with its translation. The discriminator judges pairs,
patch by patch, and the generator must also come close to the given translation,

    L_G = L_GAN(D(a, G(a))) + lambda_L1 |G(a) - b|.

With a residual generator, hinge loss and a discriminator twice as wide it is the teacher of GAN
Compression (Li et al., CVPR 2020) and of Table 2 of Jung, Kwon and Ye (CVPR 2022), from which
`patchkin compress distill` takes its students (presets `teacher-...`).

Differs from the paper: its runs have a constant learning rate (preset `paper`), the released code
lets it fall over the second half. Both leave dropout on when translating; here that is an option.
Batch norm mixes the images of a batch, as released; with batches of one, as published, it is an
instance norm with learned scale, and `norm="instance"` is per image for any batch.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, final

import torch
from torch import Tensor

from patchkin.config import alternatives, check_not_negative
from patchkin.data.config import DataConfig
from patchkin.data.paired import PairedBatch
from patchkin.errors import ConfigError
from patchkin.losses import AdversarialMode, pixel_distance
from patchkin.method import Method, Preset, Progress, Terms, Update
from patchkin.networks import (
    InitConfig,
    PatchGANConfig,
    ResNetConfig,
    ResNetGenerator,
    UNet,
    UNetConfig,
    discriminator,
    initialize,
)
from patchkin.schedules import AdamConfig, ScheduleConfig
from patchkin.terms.adversary import adversarial_terms, discriminator_terms


@dataclass(frozen=True, kw_only=True, slots=True)
class Pix2PixConfig:
    """Defaults are the released pix2pix."""

    generator: Annotated[UNetConfig | ResNetConfig, alternatives()] = field(
        default_factory=UNetConfig
    )
    """A U-Net, or CycleGAN's residual generator, which can be a teacher. Its fields tell which."""
    discriminator: PatchGANConfig = field(
        default_factory=lambda: PatchGANConfig(in_channels=6, norm="batch", antialias=False)
    )
    """Judges source and translation, one on top of the other."""
    initialization: InitConfig = field(default_factory=lambda: InitConfig(kind="normal"))
    generator_adam: AdamConfig = field(default_factory=AdamConfig)
    discriminator_adam: AdamConfig = field(default_factory=AdamConfig)
    adversarial: AdversarialMode = "vanilla"
    content_weight: float = 100.0
    """lambda_L1."""

    def __post_init__(self) -> None:
        check_not_negative(self, "content_weight")
        wanted = self.generator.in_channels + self.generator.out_channels
        if self.discriminator.in_channels != wanted:
            raise ConfigError(
                "The discriminator sees source and translation together, so its `in_channels` must "
                f"be {wanted}; got {self.discriminator.in_channels}."
            )


def _teacher(summary: str, epochs: int, decaying: int, content_weight: float) -> Preset:
    """Of published students; `content_weight` is the published lambda_L1 of the data set."""
    method = Pix2PixConfig(
        generator=ResNetConfig(antialias_down=False, antialias_up=False),
        discriminator=PatchGANConfig(in_channels=6, ndf=128, antialias=False),
        adversarial="hinge",
        content_weight=content_weight,
    )
    return Preset(
        summary=summary,
        method=method,
        schedule=ScheduleConfig(epochs=epochs, decay_fraction=decaying / epochs),
        data=DataConfig(direction="BtoA", jitter_in_decay=True),
    )


PRESETS: Mapping[str, Preset] = {
    "released": Preset(
        summary="released pix2pix: U-Net for 256 pixels, lambda_L1 100, 100 + 100 epochs",
        method=Pix2PixConfig(),
        schedule=ScheduleConfig(epochs=200),
        data=DataConfig(jitter_in_decay=True),
    ),
    "facades": Preset(
        summary="the same, from labels (right half) to photographs (left half)",
        method=Pix2PixConfig(),
        schedule=ScheduleConfig(epochs=200),
        data=DataConfig(direction="BtoA", jitter_in_decay=True),
    ),
    "paper": Preset(
        summary="as printed: constant learning rate, dropout when translating too",
        method=Pix2PixConfig(generator=UNetConfig(dropout_at_test=True)),
        schedule=ScheduleConfig(epochs=200, decay_fraction=0.0),
        data=DataConfig(jitter_in_decay=True),
    ),
    "teacher-map2sat": _teacher(
        "teacher of map2sat: 9 residual blocks, hinge, ndf 128, lambda_L1 10, 100 + 200 epochs",
        epochs=300,
        decaying=200,
        content_weight=10.0,
    ),
    "teacher-cityscapes": _teacher(
        "teacher of cityscapes: 9 residual blocks, hinge, ndf 128, 100 + 150 epochs",
        epochs=250,
        decaying=150,
        content_weight=100.0,
    ),
    "toy": Preset(
        summary="a small pix2pix for the built-in toy set with its true pairs, minutes on a CPU",
        method=Pix2PixConfig(
            generator=UNetConfig(ngf=16, levels=6),
            discriminator=PatchGANConfig(in_channels=6, ndf=16, norm="batch", antialias=False),
            generator_adam=AdamConfig(learning_rate=5e-4),
            discriminator_adam=AdamConfig(learning_rate=2.5e-4),
        ),
        schedule=ScheduleConfig(steps=2000),
        data=DataConfig(size=64, load_size=64),
    ),
}


@final
class Pix2Pix(Method):
    """Image-to-image translation with conditional adversarial networks."""

    name: ClassVar[str] = "pix2pix"
    paper: ClassVar[str] = "Isola, Zhu, Zhou, Efros, CVPR 2017 (arXiv 1611.07004)"
    differs: ClassVar[str] = "the learning rate falls over the second half; constant in the paper"
    config_type: ClassVar[type] = Pix2PixConfig
    presets: ClassVar[Mapping[str, Preset]] = PRESETS
    batch_type: ClassVar[type] = PairedBatch

    config: Pix2PixConfig

    def __init__(self, config: Pix2PixConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or Pix2PixConfig()
        self.G: UNet | ResNetGenerator = (
            UNet(config.generator)
            if isinstance(config.generator, UNetConfig)
            else ResNetGenerator(config.generator)
        )
        self.D = discriminator(config.discriminator)
        for network in (self.G, self.D):
            initialize(network, config.initialization)
        self.channels = (config.generator.in_channels, config.generator.out_channels)
        self.multiple_of = self.G.multiple_of
        self.min_size = self.G.min_size
        self.min_training_size = max(self.G.min_size, self.D.min_size)

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network."""
        return {"G": self.config.generator_adam, "D": self.config.discriminator_adam}

    def train_step(self, batch: PairedBatch, update: Update, progress: Progress) -> None:
        """Forward once; D on the detached output; then G."""
        config, fake_BCHW = self.config, self.G(batch.a_BCHW)

        def generator_terms() -> Terms:
            fake_pairs = _paired(batch.a_BCHW, fake_BCHW)
            content = pixel_distance(fake_BCHW, batch.b_BCHW)
            return {
                **adversarial_terms(self.D, fake_pairs, mode=config.adversarial),
                "content": config.content_weight * content,
            }

        update(
            "D",
            loss=lambda: discriminator_terms(
                self.D,
                _paired(batch.a_BCHW, fake_BCHW.detach()),
                _paired(batch.a_BCHW, batch.b_BCHW),
                mode=config.adversarial,
            ),
        )
        update("G", loss=generator_terms)

    def translate(self, x_BCHW: Tensor) -> Tensor:
        """G(x)."""
        y_BCHW: Tensor = self.G(x_BCHW)
        return y_BCHW

    def previews(self, batch: PairedBatch) -> dict[str, Tensor]:
        """Input, output, and what it should be."""
        return {
            "input": batch.a_BCHW,
            "translated": self.G(batch.a_BCHW),
            "truth": batch.b_BCHW,
        }


def _paired(source_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """One on top of the other, as the discriminator judges them."""
    return torch.cat([source_BCHW, target_BCHW], dim=1)
