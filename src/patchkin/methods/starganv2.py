"""StarGAN v2: Choi, Uh, Yoo and Ha, CVPR 2020 (arXiv 1912.01865).

One generator translates images x of any domain y into any domain y', in a style s. The style comes
from a random latent, s = F(z, y'), or from an image of the domain, s = E(x_ref, y'):

    L_D = BCE(D_y(x), 1) + BCE(D_y'(G(x, s)), 0) + lambda_reg R1,
    L_G = BCE(D_y'(G(x, s)), 1) + lambda_sty L_sty - lambda_ds L_ds + lambda_cyc L_cyc.

Four updates per step: D for latents, D for references, then G, F and E for latents, and G alone for
references. That E does not learn in the last is meant so: its author found that learning styles
from anything but latents does great harm (clovaai/stargan-v2, issue 44).

Differs from the released code: the averaged networks start from the initial weights instead of from
others; lambda_ds follows from the step, so resuming does not start it again; the second image of
L_ds has no graph, and shares the first one's encoding. The numbers are the same. Batches smaller
than 8 are known to give poor results (issue 40); `micro_batch` fits 8 into little memory.

Shape suffixes: B images, C channels, H and W pixels, S numbers of a style.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, final

import torch
from torch import Tensor

from patchkin.data.config import DataConfig
from patchkin.data.domains import DomainBatch
from patchkin.errors import ConfigError
from patchkin.losses import fake_loss, generator_loss, pixel_distance, r1_penalty, real_loss
from patchkin.losses.style import fading_weight, style_distance, style_diversity
from patchkin.method import Direction, Preset, Progress, StyledMethod, Terms, Update, in_parts
from patchkin.networks import InitConfig, initialize
from patchkin.networks.starganv2 import (
    DomainDiscriminator,
    MappingNetwork,
    StyleEncoder,
    StyleGenerator,
    StyleNetworksConfig,
    StyleTask,
    same_domain,
    style_of,
)
from patchkin.numerics import without_autocast
from patchkin.randomness import Draws, SeededDraws
from patchkin.schedules import AdamConfig, ScheduleConfig

_ADAM = AdamConfig(learning_rate=1e-4, beta1=0.0, beta2=0.99, weight_decay=1e-4)
_MAPPING_ADAM = replace(_ADAM, learning_rate=1e-6)


@dataclass(frozen=True, kw_only=True, slots=True)
class StarGanV2Config:
    """Defaults are the published values for animal faces (AFHQ)."""

    networks: StyleNetworksConfig = field(default_factory=StyleNetworksConfig)
    initialization: InitConfig = field(default_factory=lambda: InitConfig(kind="kaiming"))
    adam: AdamConfig = _ADAM
    """Of G, E and D."""
    mapping_adam: AdamConfig = _MAPPING_ADAM
    """Of F."""
    penalty_weight: float = 1.0
    """lambda_reg, of R1 (which has a factor 1/2)."""
    style_weight: float = 1.0
    """lambda_sty."""
    diversity_weight: float = 2.0
    """lambda_ds at the start; it falls linearly to 0 (2 for AFHQ, 1 for CelebA-HQ)."""
    diversity_steps: int | None = None
    """Steps until lambda_ds is 0; the whole run unless given (released: 100,000 of 100,000)."""
    cycle_weight: float = 1.0
    """lambda_cyc."""
    micro_batch: int | None = None
    """Images whose graph is kept at once. The gradient is that of the whole batch, since no image
    sees another; less memory, a little more time."""

    def __post_init__(self) -> None:
        for name in ("diversity_steps", "micro_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {value}.")


PRESETS: Mapping[str, Preset] = {
    "afhq": Preset(
        summary="published: 256 pixels, batch 8, 100,000 steps, averaged weights",
        method=StarGanV2Config(),
        schedule=ScheduleConfig(steps=100_000, decay_fraction=0.0, ema_decay=0.999),
        data=DataConfig(batch_size=8),
    ),
    "toy": Preset(
        summary="a small StarGAN v2 for three domains of 64 pixels, minutes on a CPU",
        method=StarGanV2Config(
            networks=StyleNetworksConfig(
                num_domains=3,
                image_size=64,
                base_width=16,
                max_width=64,
                style_width=16,
                latent_width=8,
                hidden_width=64,
            ),
            adam=replace(_ADAM, learning_rate=5e-4),  # few steps
            mapping_adam=replace(_ADAM, learning_rate=5e-6),
        ),
        schedule=ScheduleConfig(steps=2000, decay_fraction=0.0, ema_decay=0.99),
        data=DataConfig(size=64, batch_size=4, workers=0),
    ),
}


@final
class StarGanV2(StyledMethod):
    """Diverse translation between any number of domains (StarGAN v2)."""

    name: ClassVar[str] = "starganv2"
    paper: ClassVar[str] = "Choi, Uh, Yoo, Ha, CVPR 2020 (arXiv 1912.01865)"
    differs: ClassVar[str] = (
        "averaged networks start from other weights; lambda_ds starts again on resume"
    )
    config_type: ClassVar[type] = StarGanV2Config
    presets: ClassVar[Mapping[str, Preset]] = PRESETS
    batch_type: ClassVar[type] = DomainBatch
    translating: ClassVar[tuple[str, ...]] = ("G", "F", "E")

    config: StarGanV2Config

    def __init__(self, config: StarGanV2Config | None = None) -> None:
        super().__init__()
        self.config = config = config or StarGanV2Config()
        sizes = config.networks
        self.G, self.F = StyleGenerator(sizes), MappingNetwork(sizes)
        self.E, self.D = StyleEncoder(sizes), DomainDiscriminator(sizes)
        for network in self.children():
            initialize(network, config.initialization)
        self.num_domains = sizes.num_domains
        self.channels = (sizes.channels, sizes.channels)
        self.multiple_of, self.min_size = self.G.multiple_of, self.G.min_size
        self.min_training_size = sizes.image_size

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network; the mapping network learns at a hundredth of the rate."""
        return dict.fromkeys("GED", self.config.adam) | {"F": self.config.mapping_adam}

    def train_step(self, batch: DomainBatch, update: Update, progress: Progress) -> None:
        """D for latents, D for references; then G, F and E for latents, G for references."""
        config, images = self.config, (batch.x_BCHW, batch.domain_B, batch.target_B)
        latents = [
            progress.draws.normal_rows(len(batch), self.F.latent_width).to(batch.x_BCHW)
            for _ in range(2)
        ]
        latent = StyleTask(*images, *latents).split(config.micro_batch)
        references = (batch.reference_BCHW, batch.second_reference_BCHW)
        reference = StyleTask(*images, *references).split(config.micro_batch)
        generator_terms = partial(
            self._generator_terms,
            diversity_weight=fading_weight(
                config.diversity_weight,
                progress.step,
                config.diversity_steps or progress.total_steps,
            ),
        )
        for kind, parts in (("latent", latent), ("reference", reference)):
            update("D", loss=in_parts(partial(self._discriminator_terms, kind=kind), parts))
        update("G", "F", "E", loss=in_parts(generator_terms, latent))
        update("G", loss=in_parts(generator_terms, reference))

    def latent_styles(
        self, draws: Draws, *, count: int, domain: int = 0, direction: Direction = "AtoB"
    ) -> Tensor:
        """F(z, domain) for random latents z."""
        return self.F.random_styles(draws, same_domain(domain, count, self.num_domains))

    def reference_styles(
        self, reference_BCHW: Tensor, *, domain: int = 0, direction: Direction = "AtoB"
    ) -> Tensor:
        """E(x, domain) for images of the domain, at least `image_size` high and wide."""
        domain_B = same_domain(domain, len(reference_BCHW), self.num_domains)
        styles_BS: Tensor = self.E(reference_BCHW, domain_B.to(reference_BCHW.device))
        return styles_BS

    def translate(
        self,
        x_BCHW: Tensor,
        *,
        styles_BS: Tensor | None = None,
        direction: Direction = "AtoB",
    ) -> Tensor:
        """G(x, s); unless given, s is one random style of the first domain, always the same."""
        if styles_BS is None:
            styles_BS = self.latent_styles(SeededDraws(0, 0), count=1).expand(len(x_BCHW), -1)
        y_BCHW: Tensor = self.G(x_BCHW, styles_BS)
        return y_BCHW

    def previews(self, batch: DomainBatch) -> dict[str, Tensor]:
        """Input, a random style of the target domain, a reference, its style, and back again."""
        random_BS = self.F.random_styles(SeededDraws(0, 0), batch.target_B)
        dressed_BCHW = self.G(batch.x_BCHW, self.E(batch.reference_BCHW, batch.target_B))
        return {
            "input": batch.x_BCHW,
            "random style": self.G(batch.x_BCHW, random_BS),
            "reference": batch.reference_BCHW,
            "in its style": dressed_BCHW,
            "back": self.G(dressed_BCHW, self.E(batch.x_BCHW, batch.domain_B)),
        }

    def _discriminator_terms(self, task: StyleTask, kind: str) -> Terms:
        with torch.no_grad():
            style_BS = style_of(self.F, self.E, task.source, task.target_B)
            fake_BCHW = self.G(task.x_BCHW, style_BS)
        fake_logits = self.D(fake_BCHW, task.target_B)
        with without_autocast(task.x_BCHW):  # the penalty squares gradients too small for 16 bits
            real_BCHW = task.x_BCHW.detach().requires_grad_()
            real_logits = self.D(real_BCHW, task.domain_B)
            penalty = r1_penalty(real_logits, real_BCHW)
        return {
            f"{kind}_real": real_loss("vanilla", real_logits),
            f"{kind}_fake": fake_loss("vanilla", fake_logits),
            f"{kind}_penalty": self.config.penalty_weight * penalty,
        }

    def _generator_terms(self, task: StyleTask, diversity_weight: float) -> Terms:
        config, target_B = self.config, task.target_B
        style_BS = style_of(self.F, self.E, task.source, target_B)
        encoding_BCHW = self.G.encodings(task.x_BCHW)[-1]
        fake_BCHW = self.G.decoded(encoding_BCHW, style_BS)
        again_BCHW = self.G(fake_BCHW, self.E(task.x_BCHW, task.domain_B))
        with torch.no_grad():  # last: under autocast it would leave weights without graph behind
            second_BS = style_of(self.F, self.E, task.second_source, target_B)
            second_BCHW = self.G.decoded(encoding_BCHW, second_BS)
        style = style_distance(self.E(fake_BCHW, target_B), style_BS)
        return {
            "adversarial": generator_loss("vanilla", self.D(fake_BCHW, target_B)),
            "style": config.style_weight * style,
            "diversity": -diversity_weight * style_diversity(fake_BCHW, second_BCHW),
            "cycle": config.cycle_weight * pixel_distance(again_BCHW, task.x_BCHW),
        }
