"""A method of your own in one file: a GAN whose output stays near its input in colour.

python examples/own_method.py train --data toy --size 64 --steps 1000
python examples/own_method.py translate runs/near-colour_toy photo.jpg --output translated
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as nnf
from torch import Tensor

import patchkin
from patchkin.data import UnpairedBatch
from patchkin.losses import fake_loss, generator_loss, real_loss
from patchkin.networks import PatchGAN, PatchGANConfig, ResNetConfig, ResNetGenerator
from patchkin.schedules import AdamConfig


@dataclass(frozen=True, kw_only=True)
class NearColourConfig:
    """Every field is a flag: --method.colour-weight, --ngf, ..."""

    generator: ResNetConfig = field(default_factory=lambda: ResNetConfig(ngf=16, blocks=4))
    discriminator: PatchGANConfig = field(default_factory=lambda: PatchGANConfig(ndf=16))
    colour_weight: float = 5.0
    """Weight of the distance between small versions of input and output."""


class NearColour(patchkin.Method):
    """An adversary on the target domain, and small versions that must agree."""

    name = "near-colour"
    paper = "none"
    config_type = NearColourConfig
    presets = {"default": patchkin.Preset(summary="small", method=NearColourConfig())}
    multiple_of = 4
    min_size = 8
    min_training_size = 24

    def __init__(self, config: NearColourConfig):
        super().__init__()
        self.config = config
        self.G = ResNetGenerator(config.generator)
        self.D = PatchGAN(config.discriminator)

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network."""
        return {"G": AdamConfig(), "D": AdamConfig()}

    def train_step(
        self, batch: UnpairedBatch, update: patchkin.Update, progress: patchkin.Progress
    ) -> None:
        """D, then G."""
        fake = self.G(batch.a_BCHW)
        update(
            "D",
            loss=lambda: {
                "fake": fake_loss("lsgan", self.D(fake.detach())),
                "real": real_loss("lsgan", self.D(batch.b_BCHW)),
            },
        )
        update(
            "G",
            loss=lambda: {
                "adversarial": generator_loss("lsgan", self.D(fake)),
                "colour": self.config.colour_weight
                * nnf.l1_loss(nnf.avg_pool2d(fake, 8), nnf.avg_pool2d(batch.a_BCHW, 8)),
            },
        )

    def translate(self, x_BCHW: Tensor) -> Tensor:
        """G(x)."""
        return self.G(x_BCHW)


if __name__ == "__main__":
    patchkin.run(NearColour)
