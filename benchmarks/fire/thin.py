"""A method whose step takes a millisecond or two: what a long run does is all but the networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as nnf
from torch import Tensor, nn

import patchkin
from patchkin.data import UnpairedBatch
from patchkin.losses import fake_loss, generator_loss, real_loss
from patchkin.schedules import AdamConfig


@dataclass(frozen=True, kw_only=True)
class ThinConfig:
    """Of networks with one layer each."""

    colour_weight: float = 5.0
    """Of the distance of outputs from inputs."""


class Thin(patchkin.Method):
    """An adversary, and outputs near their inputs."""

    name = "thin"
    paper = "none"
    config_type = ThinConfig
    presets: ClassVar = {"default": patchkin.Preset(summary="one layer each", method=ThinConfig())}

    def __init__(self, config: ThinConfig) -> None:
        super().__init__()
        self.config = config
        self.G = nn.Conv2d(3, 3, 3, padding=1)
        self.D = nn.Conv2d(3, 1, 4, stride=4)

    def adam(self) -> dict[str, AdamConfig]:
        return {"G": AdamConfig(), "D": AdamConfig()}

    def train_step(
        self, batch: UnpairedBatch, update: patchkin.Update, progress: patchkin.Progress
    ) -> None:
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
                "colour": self.config.colour_weight * nnf.l1_loss(fake, batch.a_BCHW),
            },
        )

    def translate(self, x_BCHW: Tensor) -> Tensor:
        return self.G(x_BCHW)


if __name__ == "__main__":
    patchkin.run(Thin)
