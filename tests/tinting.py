"""Methods with styles whose every output can be computed by hand: a style is a colour to add."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.data.domains import DomainBatch
from patchkin.method import Preset, StyledMethod, Terms
from patchkin.randomness import SeededDraws
from patchkin.schedules import AdamConfig, ScheduleConfig

SPREAD = 0.1
"""Deviation of random colours from their domain's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TintSizes:
    num_domains: int = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class TintConfig:
    sizes: TintSizes = field(default_factory=TintSizes)
    strength: float = 1.0


PRESETS: Mapping[str, Preset] = {
    "default": Preset(
        summary="for tests",
        method=TintConfig(),
        schedule=ScheduleConfig(steps=2),
        data=DataConfig(size=32, batch_size=2, workers=0),
    )
}


class _Colour(nn.Module):
    """Mean colour of an image, times a factor that can be learned."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.factor * x_BCHW.mean(dim=(2, 3))


class _Tint(nn.Module):
    """Adds a colour."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor([strength]))

    def forward(self, x_BCHW: Tensor, styles_BS: Tensor) -> Tensor:
        return x_BCHW + self.strength * styles_BS[:, :, None, None]


class _Colours(nn.Module):
    """A colour of each domain, and random ones around it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.colours_DS = nn.Parameter(torch.linspace(-0.3, 0.3, 3 * number).view(number, 3))

    def forward(self, noise_BS: Tensor, domain: int) -> Tensor:
        return self.colours_DS[domain] + SPREAD * noise_BS


class _Tinting(StyledMethod):
    paper: ClassVar[str] = "none"
    config_type: ClassVar[type] = TintConfig
    presets: ClassVar[Mapping[str, Preset]] = PRESETS
    translating: ClassVar[tuple[str, ...]] = ("G", "F", "E")

    def __init__(self, config: TintConfig | None = None) -> None:
        super().__init__()
        self.config = config or TintConfig()
        self.G = _Tint(self.config.strength)
        self.F = _Colours(self.config.sizes.num_domains)
        self.E = _Colour()

    def adam(self):
        return {"G": AdamConfig(), "F": AdamConfig(), "E": AdamConfig()}

    def latent_styles(self, draws, *, count, domain=0, direction="AtoB"):
        if direction == "BtoA":
            domain = 1
        return self.F(draws.normal_rows(count, 3), domain)

    def reference_styles(self, reference_BCHW, *, domain=0, direction="AtoB"):
        return self.E(reference_BCHW)

    def translate(self, x_BCHW, *, styles_BS=None, direction="AtoB"):
        if styles_BS is None:
            styles_BS = self.latent_styles(SeededDraws(0, 0), count=1, direction=direction)
        return self.G(x_BCHW, styles_BS.expand(len(x_BCHW), -1))

    def _terms(self, x_BCHW: Tensor, reference_BCHW: Tensor, domain: int) -> Terms:
        noise_BS = torch.zeros(len(x_BCHW), 3)
        style_BS = self.E(reference_BCHW) + self.F(noise_BS, domain)
        return {"distance": (self.G(x_BCHW, style_BS) - reference_BCHW).square().mean()}


@final
class Tint(_Tinting):
    """Between several domains."""

    name: ClassVar[str] = "tint"
    batch_type: ClassVar[type] = DomainBatch

    def __init__(self, config: TintConfig | None = None) -> None:
        super().__init__(config)
        self.num_domains = self.config.sizes.num_domains

    def train_step(self, batch, update, progress):
        domain = int(batch.target_B[0])
        terms = self._terms
        update("G", "F", "E", loss=lambda: terms(batch.x_BCHW, batch.reference_BCHW, domain))

    def previews(self, batch):
        styles_BS = self.E(batch.reference_BCHW)
        return {
            "input": batch.x_BCHW,
            "reference": batch.reference_BCHW,
            "translated": self.G(batch.x_BCHW, styles_BS),
        }


@final
class TintPair(_Tinting):
    """Between two domains, both ways."""

    name: ClassVar[str] = "tint-pair"
    batch_type: ClassVar[type] = UnpairedBatch
    directions: ClassVar[tuple[str, ...]] = ("AtoB", "BtoA")

    def train_step(self, batch, update, progress):
        update("G", "F", "E", loss=lambda: self._terms(batch.a_BCHW, batch.b_BCHW, 0))


STYLED = {"tint": Tint, "tint-pair": TintPair}
