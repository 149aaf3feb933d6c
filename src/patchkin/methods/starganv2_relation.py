"""StarGAN v2 that keeps content: Jung, Kwon and Ye, CVPR 2022 (arXiv 2203.01532), Sec. 4.2.

The losses of StarGAN v2 (see `starganv2`), and in both updates of the generator

    lambda_SRC L_SRC (Eq. 3) + lambda_hDCE L_hDCE(gamma, tau) (Eq. 4 and 5)

between the encodings of x and of its translation x' = G(x, s), for every translation in any style.

The released code differs from the paper in four points, each with an option here:

    generator     paper     StarGAN v2's
                  released  another, with 64 x 64 maps throughout
    direction     paper     x' learns to relate its patches as x does
                  released  x' is the constant: only the encoder learns, nothing acts on x' itself
    cycle         paper     G(x', E(x)) should be x
                  released  G(x, E(x)) should be x
    num_patches   paper     256
                  released  128

`paper` is the default, `released-seasons` and `released-weather` are the runs behind the published
table. The release sums SRC over the images of a batch of 8, so that its 0.1 is 0.8 here, where
images are averaged. Its layers are those whose maps are 64 pixels high; here they are named.

`content="lsesim"` is the paper's baseline: StarGAN v2 with the spatially-correlative loss of Zheng
et al. (CVPR 2021). No public code has it; that it stands in both updates of G, with lambda 10 and
the selector learning first, is our choice.

Shape suffixes: B images, C channels, H and W pixels, K patches, S numbers of a style.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from patchkin.data.config import DataConfig
from patchkin.data.domains import DomainBatch
from patchkin.errors import ConfigError
from patchkin.losses import (
    Contrast,
    as_info_nce,
    fake_loss,
    generator_loss,
    mean_over_taps,
    patch_contrast,
    pixel_distance,
    r1_penalty,
    real_loss,
    relation_consistency,
)
from patchkin.losses.style import fading_weight, style_distance, style_diversity
from patchkin.method import Direction, Preset, Progress, StyledMethod, Terms, Update, in_parts
from patchkin.networks import InitConfig, PatchMap, ProjectionHead, SharedPlaces, initialize
from patchkin.networks.recolouring import ColourChange
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
from patchkin.schedules import AdamConfig, ScheduleConfig, gamma_curriculum
from patchkin.terms.patches import embedded_pairs
from patchkin.terms.structure import StructureConfig, StructureContent

_ADAM = AdamConfig(learning_rate=1e-4, beta1=0.0, beta2=0.99, weight_decay=1e-4)
_MAPPING_ADAM = replace(_ADAM, learning_rate=1e-6)
_SELECTOR_ADAM = replace(_ADAM, weight_decay=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class StarGanV2RelationConfig:
    """Defaults are the paper's; what it does not tell is as released for Seasons."""

    networks: StyleNetworksConfig = field(
        default_factory=lambda: StyleNetworksConfig(num_domains=4)
    )
    initialization: InitConfig = field(default_factory=lambda: InitConfig(kind="kaiming"))
    adam: AdamConfig = _ADAM
    """Of G, E, D and P."""
    mapping_adam: AdamConfig = _MAPPING_ADAM
    """Of F."""
    selector_adam: AdamConfig = _SELECTOR_ADAM
    """Of LSeSim's selector."""
    penalty_weight: float = 1.0
    """lambda_reg, of R1 (which has a factor 1/2)."""
    style_weight: float = 1.0
    """lambda_sty."""
    diversity_weight: float = 2.0
    """lambda_ds at the start; it falls linearly to 0."""
    diversity_steps: int | None = None
    """Steps until lambda_ds is 0; the whole run unless given (released: 100,000 of 100,000)."""
    cycle_weight: float = 1.0
    """lambda_cyc."""
    cycle: Literal["paper", "released"] = "paper"
    """What must become x again in its own style: its translation, or x itself."""
    micro_batch: int | None = None
    """Images whose graph is kept at once. The gradient is that of the whole batch."""
    content: Literal["relation", "lsesim", "none"] = "relation"
    """Which loss keeps the content. `none` is StarGAN v2."""
    structure: StructureConfig = field(default_factory=StructureConfig)
    """For `content="lsesim"`; the settings below are for `content="relation"`."""
    direction: Literal["paper", "released"] = "paper"
    """Which side learns: the translation, with the input as constant, or the other way round."""
    layers: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Blocks of G's encoder whose maps are compared (released; the paper names none)."""
    head_width: int = 256
    """Length of an embedded patch."""
    num_patches: int = 256
    """K: places drawn per layer, shared by the images of a batch; fewer if the map has fewer."""
    relation_weight: float = 0.8
    """lambda_SRC, of a sum over patches and a mean over images (released: 0.1, of the sum of 8)."""
    contrast: Literal["nce", "dce"] = "dce"
    """InfoNCE, or the decoupled form without the positive in the denominator."""
    contrast_weight: float = 1.0
    """lambda_hDCE (1 for Seasons, 0.1 for Weather)."""
    temperature: float = 0.07
    """tau of the contrast."""
    hard_negatives: bool = True
    """Weight the negatives by the constant side's own similarities."""
    weights: Literal["released", "paper"] = "released"
    """Inside the exponent and scaled to a maximum of 1, or outside it with a mean of 1 (Eq. 5)."""
    gamma_divisor_start: float = 50.0
    """Divides similarities: large is gentle. The paper's gamma is 1 / divisor."""
    gamma_divisor_end: float = 1.0
    """At the end of the run; linear in between."""

    def __post_init__(self) -> None:
        for name in ("diversity_steps", "micro_batch", "num_patches", "head_width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {value}.")
        for name in ("temperature", "gamma_divisor_start", "gamma_divisor_end"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"`{name}` must be positive; got {getattr(self, name)}.")
        if self.content == "lsesim" and self.networks.channels not in (1, 3):
            raise ConfigError(
                "VGG16 sees grey or colour images: with `content` lsesim `channels` must be 1 or "
                f"3; got {self.networks.channels}."
            )


_SCHEDULE = ScheduleConfig(steps=100_000, decay_fraction=0.0, ema_decay=0.999)
_SEASONS = StarGanV2RelationConfig(
    networks=StyleNetworksConfig(num_domains=4, generator="released"),
    cycle="released",
    direction="released",
    num_patches=128,
)
_TOY = StyleNetworksConfig(
    num_domains=3,
    image_size=64,
    base_width=16,
    max_width=64,
    style_width=16,
    latent_width=8,
    hidden_width=64,
)
PRESETS: Mapping[str, Preset] = {
    "paper": Preset(
        summary="StarGAN v2 with SRC and hDCE as the paper says, 256 patches, 100,000 steps",
        method=StarGanV2RelationConfig(),
        schedule=_SCHEDULE,
        data=DataConfig(batch_size=8),
    ),
    "released-seasons": Preset(
        summary="released, 4 domains: its own generator, the input learns, no cycle",
        method=_SEASONS,
        schedule=_SCHEDULE,
        data=DataConfig(batch_size=8),
    ),
    "released-weather": Preset(
        summary="released, 5 domains: lambda_hDCE 0.1",
        method=replace(
            _SEASONS,
            networks=replace(_SEASONS.networks, num_domains=5),
            contrast_weight=0.1,
        ),
        schedule=_SCHEDULE,
        data=DataConfig(batch_size=8),
    ),
    "lsesim": Preset(
        summary="the paper's baseline: StarGAN v2 with LSeSim in place of SRC and hDCE",
        method=StarGanV2RelationConfig(content="lsesim"),
        schedule=_SCHEDULE,
        data=DataConfig(batch_size=8),
    ),
    "toy": Preset(
        summary="a small model for three domains of 64 pixels, minutes on a CPU",
        method=StarGanV2RelationConfig(
            networks=_TOY,
            adam=replace(_ADAM, learning_rate=5e-4),  # few steps
            mapping_adam=replace(_ADAM, learning_rate=5e-6),
            layers=(0, 1, 2, 3),
            head_width=64,
            num_patches=64,
        ),
        schedule=ScheduleConfig(steps=2000, decay_fraction=0.0, ema_decay=0.99),
        data=DataConfig(size=64, batch_size=4, workers=0),
    ),
}


@dataclass(kw_only=True)
class _Pass:
    """What the parts of a batch have in common in an update of the generator."""

    diversity_weight: float
    gamma_divisor: float
    places: SharedPlaces
    as_nce: float | Tensor = 0.0
    """InfoNCE of the decoupled contrast, summed over images."""


@final
class StarGanV2Relation(StyledMethod):
    """StarGAN v2 with semantic relation consistency and hard-negative contrast."""

    name: ClassVar[str] = "starganv2-relation"
    paper: ClassVar[str] = "Jung, Kwon, Ye, CVPR 2022 (arXiv 2203.01532)"
    differs: ClassVar[str] = (
        "another generator, roles exchanged, no cycle, 128 patches instead of 256"
    )
    config_type: ClassVar[type] = StarGanV2RelationConfig
    presets: ClassVar[Mapping[str, Preset]] = PRESETS
    batch_type: ClassVar[type] = DomainBatch
    translating: ClassVar[tuple[str, ...]] = ("G", "F", "E")

    config: StarGanV2RelationConfig

    def __init__(self, config: StarGanV2RelationConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or StarGanV2RelationConfig()
        sizes = config.networks
        self.G, self.F = StyleGenerator(sizes), MappingNetwork(sizes)
        self.E, self.D = StyleEncoder(sizes), DomainDiscriminator(sizes)
        self.contrast = Contrast(
            form=config.contrast,
            negatives=config.weights if config.hard_negatives else "uniform",
            temperature=config.temperature,
        )
        if config.content == "relation":
            self.P = ProjectionHead(self.G.tap_channels(config.layers), config.head_width)
        for network in self.children():
            initialize(network, config.initialization)
        self.min_training_size = sizes.image_size
        if config.content == "lsesim":
            self.S = StructureContent(config.structure)
            self.min_training_size = max(sizes.image_size, self.S.vgg.min_size)
        self.num_domains = sizes.num_domains
        self.channels = (sizes.channels, sizes.channels)
        self.multiple_of, self.min_size = self.G.multiple_of, self.G.min_size

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network; the mapping network learns at a hundredth of the rate."""
        config = self.config
        adam = dict.fromkeys("GED", config.adam) | {"F": config.mapping_adam}
        if config.content == "relation":
            adam["P"] = config.adam
        if self._selecting:
            adam["S"] = config.selector_adam
        return adam

    @property
    def _selecting(self) -> bool:
        return self.config.content == "lsesim" and self.config.structure.learned

    def prepare(self, batches: Iterable[DomainBatch], draws: Draws) -> None:
        """Read VGG16's weights, so that a missing file is noticed at once."""
        if self.config.content == "lsesim":
            self.S.vgg.make_ready()

    def train_step(self, batch: DomainBatch, update: Update, progress: Progress) -> None:
        """D twice; G, F, E and P for latents; G for references. A selector learns before them."""
        config, draws = self.config, progress.draws
        images = (batch.x_BCHW, batch.domain_B, batch.target_B)
        latents = [
            draws.normal_rows(len(batch), self.F.latent_width).to(batch.x_BCHW) for _ in range(2)
        ]
        references = (batch.reference_BCHW, batch.second_reference_BCHW)
        parts = {
            "latent": StyleTask(*images, *latents).split(config.micro_batch),
            "reference": StyleTask(*images, *references).split(config.micro_batch),
        }
        if self._selecting:
            places = SharedPlaces(draws, config.structure.num_patches)
            colours = [ColourChange.drawn(draws) for _ in range(2)]
            selector_terms = partial(self._selector_terms, places=places, colours=colours)
            update("S", loss=in_parts(selector_terms, parts["reference"]))
        for kind, tasks in parts.items():
            update("D", loss=in_parts(partial(self._discriminator_terms, kind=kind), tasks))
        head = ("P",) if config.content == "relation" else ()
        for kind, learners in (("latent", ("G", "F", "E", *head)), ("reference", ("G",))):
            shared = self._pass(progress)
            generator_terms = partial(self._generator_terms, shared=shared)
            update(*learners, loss=in_parts(generator_terms, parts[kind]))
            if isinstance(shared.as_nce, Tensor):  # what the released log shows
                update.report(**{f"{kind}_contrast_as_nce": shared.as_nce / len(batch)})

    def _pass(self, progress: Progress) -> _Pass:
        config = self.config
        of_structure = config.content == "lsesim"
        return _Pass(
            diversity_weight=fading_weight(
                config.diversity_weight,
                progress.step,
                config.diversity_steps or progress.total_steps,
            ),
            gamma_divisor=gamma_curriculum(  # the release counts steps from 0 here
                progress.step / progress.total_steps,
                config.gamma_divisor_start,
                config.gamma_divisor_end,
            ),
            places=SharedPlaces(
                progress.draws,
                config.structure.num_patches if of_structure else config.num_patches,
            ),
        )

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

    def patch_maps(self, x_BCHW: Tensor, *, translated: bool = False) -> list[PatchMap]:
        """Maps of the generator's encoder at `layers`, embedded by P.

        Raises:
            ConfigError: the content is kept by another loss, which has no head.
        """
        if self.config.content != "relation":
            return super().patch_maps(x_BCHW, translated=translated)
        layers, maps = self.config.layers, self.G.encodings(x_BCHW)
        fields = self.G.tap_fields(layers)
        return [
            PatchMap(layer, maps[layer], self.P.embedder(index), 0, pixels)
            for index, (layer, pixels) in enumerate(zip(layers, fields, strict=True))
        ]

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

    def _generator_terms(self, task: StyleTask, shared: _Pass) -> Terms:
        """The terms of StarGAN v2, then those of the content; each image is encoded once."""
        config, target_B = self.config, task.target_B
        style_BS = style_of(self.F, self.E, task.source, target_B)
        maps = self.G.encodings(task.x_BCHW)
        fake_BCHW = self.G.decoded(maps[-1], style_BS)
        fake_maps = self.G.encodings(fake_BCHW)
        again = (fake_maps if config.cycle == "paper" else maps)[-1]
        again_BCHW = self.G.decoded(again, self.E(task.x_BCHW, task.domain_B))
        with torch.no_grad():  # last: under autocast it would leave weights without graph behind
            second_BS = style_of(self.F, self.E, task.second_source, target_B)
            second_BCHW = self.G.decoded(maps[-1], second_BS)
        style = style_distance(self.E(fake_BCHW, target_B), style_BS)
        diversity = style_diversity(fake_BCHW, second_BCHW)
        terms = {
            "adversarial": generator_loss("vanilla", self.D(fake_BCHW, target_B)),
            "style": config.style_weight * style,
            "diversity": -shared.diversity_weight * diversity,
            "cycle": config.cycle_weight * pixel_distance(again_BCHW, task.x_BCHW),
        }
        match config.content:
            case "relation":
                return terms | self._relation_terms(maps, fake_maps, shared)
            case "lsesim":
                distance = self.S.distance(task.x_BCHW, fake_BCHW, shared.places)
                return terms | {"structure": config.structure.weight * distance}
            case "none":
                return terms

    def _relation_terms(
        self, maps: Sequence[Tensor], fake_maps: Sequence[Tensor], shared: _Pass
    ) -> Terms:
        """SRC and the contrast, means over layers."""
        config = self.config
        sides = (fake_maps, maps) if config.direction == "paper" else (maps, fake_maps)
        queries, keys = ([side[layer] for layer in config.layers] for side in sides)
        pairs = embedded_pairs(
            queries, keys, shared.places.on(keys), query_head=self.P, key_head=self.P
        )
        relation = mean_over_taps(relation_consistency(*pair) for pair in pairs)
        rows = [
            patch_contrast(*pair, self.contrast, gamma_divisor=shared.gamma_divisor)
            for pair in pairs
        ]
        if config.contrast == "dce":
            as_nce = mean_over_taps(as_info_nce(loss_BK.detach()) for loss_BK in rows)
            weight = config.contrast_weight * len(maps[0])
            shared.as_nce = shared.as_nce + weight * as_nce
        return {
            "relation": config.relation_weight * relation,
            "contrast": config.contrast_weight * mean_over_taps(rows),
        }

    def _selector_terms(
        self, task: StyleTask, places: SharedPlaces, colours: Sequence[ColourChange]
    ) -> Terms:
        """The other image is the reference whose style the translation takes."""
        with torch.no_grad():
            style_BS = style_of(self.F, self.E, task.source, task.target_B)
            fake_BCHW = self.G(task.x_BCHW, style_BS)
        contrast = self.S.contrast(task.x_BCHW, fake_BCHW, task.source, places, colours)
        return {"contrast": contrast}
