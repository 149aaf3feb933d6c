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

from patchkin.config import check_at_least_one, check_positive
from patchkin.data.config import DataConfig
from patchkin.data.domains import DomainBatch
from patchkin.losses import (
    Contrast,
    as_info_nce,
    mean_over_taps,
    patch_contrasts,
    relation_consistency,
)
from patchkin.method import Direction, Preset, Progress, StyledMethod, Terms, Update, in_parts
from patchkin.networks import PatchMap, ProjectionHead, SharedPlaces, initialize
from patchkin.networks.recolouring import ColourChange
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
from patchkin.terms.patches import (
    HardNegativesConfig,
    check_places,
    chosen_places,
    embedded_pairs,
    hardness,
)
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
    style_translated,
)
from patchkin.terms.structure import StructureConfig, StructureContent, check_colours

_SELECTOR_ADAM = AdamConfig(learning_rate=1e-4, beta1=0.0, beta2=0.99)


@dataclass(frozen=True, kw_only=True, slots=True)
class StarGanV2RelationConfig(StyleConfig, HardNegativesConfig):
    """Defaults are the paper's; what it does not tell is as released for Seasons."""

    networks: StyleNetworksConfig = field(
        default_factory=lambda: StyleNetworksConfig(num_domains=4)
    )
    selector_adam: AdamConfig = _SELECTOR_ADAM
    """Of LSeSim's selector."""
    cycle: Literal["paper", "released"] = "paper"
    """What must become x again in its own style: its translation, or x itself."""
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
    relation_weight: float = 0.8
    """lambda_SRC, of a sum over patches and a mean over images (released: 0.1, of the sum of 8)."""
    contrast: Literal["nce", "dce"] = "dce"
    """InfoNCE, or the decoupled form without the positive in the denominator."""
    contrast_weight: float = 1.0
    """lambda_hDCE (1 for Seasons, 0.1 for Weather)."""
    temperature: float = 0.07
    """tau of the contrast."""
    relation_reduction: Literal["sum", "mean"] = "sum"
    """Of SRC over patches; `mean` with lambda_SRC * num_patches is the same."""
    gamma_divisor_end: float = 1.0

    def __post_init__(self) -> None:
        StyleConfig.__post_init__(self)
        HardNegativesConfig.__post_init__(self)
        check_at_least_one(self, "num_patches", "head_width")
        check_positive(self, "temperature")
        check_places(self, self.layers, discriminator=None)
        if self.content == "lsesim":
            check_colours(self.networks.channels, "channels")


def _published(summary: str, method: StarGanV2RelationConfig) -> Preset:
    schedule = ScheduleConfig(steps=100_000, decay_fraction=0.0, ema_decay=0.999)
    return Preset(summary=summary, method=method, schedule=schedule, data=DataConfig(batch_size=8))


_SEASONS = StarGanV2RelationConfig(
    networks=StyleNetworksConfig(num_domains=4, generator="released"),
    cycle="released",
    direction="released",
    num_patches=128,
)
_WEATHER = replace(
    _SEASONS, networks=replace(_SEASONS.networks, num_domains=5), contrast_weight=0.1
)
PRESETS: Mapping[str, Preset] = {
    "paper": _published(
        "StarGAN v2 with SRC and hDCE as the paper says, 256 patches, 100,000 steps",
        StarGanV2RelationConfig(),
    ),
    "released-seasons": _published(
        "released, 4 domains: its own generator, the input learns, no cycle", _SEASONS
    ),
    "released-weather": _published("released, 5 domains: lambda_hDCE 0.1", _WEATHER),
    "lsesim": _published(
        "the paper's baseline: StarGAN v2 with LSeSim in place of SRC and hDCE",
        StarGanV2RelationConfig(content="lsesim"),
    ),
    "celeba-hq": _published(
        "ours, as `paper`, for two domains of faces: lambda_ds 1 as StarGAN v2's",
        StarGanV2RelationConfig(networks=StyleNetworksConfig(num_domains=2), diversity_weight=1.0),
    ),
    "toy": Preset(
        summary="a small model for three domains of 64 pixels, minutes on a CPU",
        method=StarGanV2RelationConfig(**TOY, layers=(0, 1, 2, 3), head_width=64, num_patches=64),
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
            negatives=config.resolved_negatives(),
            temperature=config.temperature,
            transport=config.transport,
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
        tasks = style_tasks(self, batch, draws)
        if self._selecting:
            places = SharedPlaces(draws, config.structure.num_patches)
            changes = [ColourChange.drawn(draws, len(batch)) for _ in range(2)]
            colours = [change.split(config.micro_batch) for change in changes]
            selector_terms = partial(self._selector_terms, places=places)
            update("S", loss=in_parts(selector_terms, tasks["reference"], *colours))
        for kind, parts in tasks.items():
            update("D", loss=in_parts(partial(self._discriminator_terms, kind=kind), parts))
        head = ("P",) if config.content == "relation" else ()
        for kind, learners in (("latent", ("G", "F", "E", *head)), ("reference", ("G",))):
            shared = self._pass(progress)
            generator_terms = partial(self._generator_terms, shared=shared)
            update(*learners, loss=in_parts(generator_terms, tasks[kind]))
            if isinstance(shared.as_nce, Tensor):  # what the released log shows
                update.report(**{f"{kind}_contrast_as_nce": shared.as_nce / len(batch)})

    def _pass(self, progress: Progress) -> _Pass:
        config, step, total_steps = self.config, progress.step, progress.total_steps
        patches = config.structure if config.content == "lsesim" else config
        return _Pass(
            diversity_weight=diversity_weight(config, step, total_steps),
            gamma_divisor=hardness(config, step / total_steps),  # released: from step 0 here
            places=SharedPlaces(progress.draws, patches.num_patches),
        )

    def previews(self, batch: DomainBatch) -> dict[str, Tensor]:
        """Input, a random style of the target domain, a reference, its style, and back again."""
        return domain_previews(self, batch)

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

    def translate(
        self,
        x_BCHW: Tensor,
        *,
        styles_BS: Tensor | None = None,
        direction: Direction = "AtoB",
    ) -> Tensor:
        """G(x, s); unless given, s is one random style of the first domain, always the same."""
        return domain_translated(self, x_BCHW, styles_BS)

    def _discriminator_terms(self, task: StyleTask, kind: str) -> Terms:
        return style_discriminator_terms(self, task, kind)

    def _generator_terms(self, task: StyleTask, shared: _Pass) -> Terms:
        """The terms of StarGAN v2, then those of the content; each image is encoded once."""
        config = self.config
        style_BS = style_of(self.F, self.E, task.source, task.target_B)
        maps = self.G.encodings(task.x_BCHW)
        fake_BCHW = self.G.decoded(maps[-1], style_BS)
        fake_maps = self.G.encodings(fake_BCHW)
        terms = style_generator_terms(
            self,
            task,
            style_BS=style_BS,
            encoding_BCHW=maps[-1],
            fake_BCHW=fake_BCHW,
            returning_BCHW=(fake_maps if config.cycle == "paper" else maps)[-1],
            diversity_weight=shared.diversity_weight,
        )
        match config.content:
            case "relation":
                return terms | self._relation_terms(maps, fake_maps, shared)
            case "lsesim":
                with torch.no_grad():
                    source = self.S.vgg(task.x_BCHW)
                distance = self.S.distance(source, self.S.vgg(fake_BCHW), shared.places)
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
        places = chosen_places(keys, config.layers, config, drawn=shared.places.on(keys))
        pairs = embedded_pairs(queries, keys, places, query_head=self.P, key_head=self.P)
        relation = mean_over_taps(
            relation_consistency(*pair, reduction=config.relation_reduction) for pair in pairs
        )
        rows = patch_contrasts(pairs, self.contrast, gamma_divisor=shared.gamma_divisor)
        if config.contrast == "dce":
            as_nce = mean_over_taps(as_info_nce(loss_BK.detach()) for loss_BK in rows)
            weight = config.contrast_weight * len(maps[0])
            shared.as_nce = shared.as_nce + weight * as_nce
        return {
            "relation": config.relation_weight * relation,
            "contrast": config.contrast_weight * mean_over_taps(rows),
        }

    def _selector_terms(
        self, task: StyleTask, own: ColourChange, other: ColourChange, places: SharedPlaces
    ) -> Terms:
        """The other image is the reference whose style the translation takes."""
        with torch.no_grad():
            source = self.S.vgg(task.x_BCHW.repeat(2, 1, 1, 1))
            same = self.S.vgg(torch.cat([style_translated(self, task), own(task.x_BCHW)]))
            others = self.S.vgg(torch.cat([task.source, other(task.source)]).flip(2, 3))
        return {"contrast": self.S.contrast(source, same, others, places)}
