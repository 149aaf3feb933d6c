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
L_ds has no graph, and shares the first one's encoding. The numbers are the same. For aligned
faces the release adds heat maps of a face detector and a high-pass filter to G (w_hpf 1). They are
left out, since they need a second trained network and serve nothing but faces; the preset
`celeba-hq` is that run without them, so its published scores are not to be expected. Batches
smaller than 8 are known to give poor results (issue 40); `micro_batch` fits 8 into little memory.

Shape suffixes: B images, C channels, H and W pixels, S numbers of a style.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

from torch import Tensor

from patchkin.data.config import DataConfig
from patchkin.data.domains import DomainBatch
from patchkin.method import Direction, Preset, Progress, StyledMethod, Terms, Update, in_parts
from patchkin.networks import initialize
from patchkin.networks.starganv2 import (
    DomainDiscriminator,
    MappingNetwork,
    StyleEncoder,
    StyleGenerator,
    StyleNetworksConfig,
    StyleTask,
    style_of,
)
from patchkin.randomness import Draws
from patchkin.schedules import AdamConfig, ScheduleConfig
from patchkin.terms.starganv2 import (
    TOY,
    StyleConfig,
    diversity_weight,
    domain_latent_styles,
    domain_previews,
    domain_reference_styles,
    domain_translated,
    style_discriminator_terms,
    style_generator_terms,
    style_tasks,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class StarGanV2Config(StyleConfig):
    """Defaults are the published values for animal faces (AFHQ)."""


PRESETS: Mapping[str, Preset] = {
    "afhq": Preset(
        summary="published: 256 pixels, batch 8, 100,000 steps, averaged weights",
        method=StarGanV2Config(),
        schedule=ScheduleConfig(steps=100_000, decay_fraction=0.0, ema_decay=0.999),
        data=DataConfig(batch_size=8),
    ),
    "celeba-hq": Preset(
        summary="published for faces but for heat maps: 2 domains, lambda_ds 1, otherwise as afhq",
        method=StarGanV2Config(networks=StyleNetworksConfig(num_domains=2), diversity_weight=1.0),
        schedule=ScheduleConfig(steps=100_000, decay_fraction=0.0, ema_decay=0.999),
        data=DataConfig(batch_size=8),
    ),
    "toy": Preset(
        summary="a small StarGAN v2 for three domains of 64 pixels, minutes on a CPU",
        method=StarGanV2Config(**TOY),
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
        tasks = style_tasks(self, batch, progress.draws)
        weight = diversity_weight(self.config, progress.step, progress.total_steps)
        generator_terms = partial(self._generator_terms, diversity_weight=weight)
        for kind, parts in tasks.items():
            update("D", loss=in_parts(partial(self._discriminator_terms, kind=kind), parts))
        update("G", "F", "E", loss=in_parts(generator_terms, tasks["latent"]))
        update("G", loss=in_parts(generator_terms, tasks["reference"]))

    def latent_styles(
        self, draws: Draws, *, count: int, domain: int = 0, direction: Direction = "AtoB"
    ) -> Tensor:
        """F(z, domain) for random latents z."""
        return domain_latent_styles(self, draws, count=count, domain=domain)

    def reference_styles(
        self, reference_BCHW: Tensor, *, domain: int = 0, direction: Direction = "AtoB"
    ) -> Tensor:
        """E(x, domain) for images of the domain, at least `image_size` high and wide."""
        return domain_reference_styles(self, reference_BCHW, domain=domain)

    def translate(
        self,
        x_BCHW: Tensor,
        *,
        styles_BS: Tensor | None = None,
        direction: Direction = "AtoB",
    ) -> Tensor:
        """G(x, s); unless given, s is one random style of the first domain, always the same."""
        return domain_translated(self, x_BCHW, styles_BS)

    def previews(self, batch: DomainBatch) -> dict[str, Tensor]:
        """Input, a random style of the target domain, a reference, its style, and back again."""
        return domain_previews(self, batch)

    def _discriminator_terms(self, task: StyleTask, kind: str) -> Terms:
        return style_discriminator_terms(self, task, kind)

    def _generator_terms(self, task: StyleTask, diversity_weight: float) -> Terms:
        style_BS = style_of(self.F, self.E, task.source, task.target_B)
        encoding_BCHW = self.G.encodings(task.x_BCHW)[-1]
        fake_BCHW = self.G.decoded(encoding_BCHW, style_BS)
        return style_generator_terms(
            self,
            task,
            style_BS=style_BS,
            encoding_BCHW=encoding_BCHW,
            fake_BCHW=fake_BCHW,
            returning_BCHW=self.G.encodings(fake_BCHW)[-1],
            diversity_weight=diversity_weight,
        )
