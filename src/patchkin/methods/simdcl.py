"""SimDCL: DCLGAN with a similarity loss against mode collapse (Han et al., CVPRW 2021).

The networks of DCLGAN: images of domain A, real or generated, are embedded by the first half of
G_AB and by F_A, images of B by G_BA and F_B (the released F1 and F2). Further heads, S_A and S_B,
summarise the embedded patches of an image in 64 numbers (the released F3 and F6, F5 and F4; the
paper's H_xr and H_xf, H_yr and H_yf). Real and generated images of a domain should agree in them,

    L_G = L_GAN(G_AB) + L_GAN(G_BA) + lambda_NCE (L_NCE(a, G_AB(a)) + L_NCE(b, G_BA(b)))
        + lambda_idt (|G_AB(b) - b| + |G_BA(a) - a|)
        + lambda_SIM (|S_A(a) - S_A(G_BA(b))|_1 + |S_B(b) - S_B(G_AB(a))|_1).

Nothing is detached in the last line: it teaches the heads and, through real and generated images,
encoders and generators. Its patches are those of the keys for real images, and fresh ones for
generated images.

Differs from the paper: the released code averages the 64 differences where the paper sums them
(`similarity_reduction`), forgot lambda_NCE = 2 in a clean-up, and takes half of every sum of two
terms but the similarity (`pair_sum`). The released summary heads end up constant after some 60
steps and satisfy the loss alone; `similarity_heads="fixed"` is ours and cannot, and the reported
`summary_spread`, how far the summaries of images of both domains are apart, shows the collapse: it
falls to 0. The released code fails for batches beyond 1; here the heads summarise each image, and
image i of A meets the translation of image i of B.

Shape suffixes: B images, C channels, H and W pixels, K patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple, final

import torch
from torch import Tensor

from patchkin.config import check_positive
from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.errors import ConfigError
from patchkin.losses import (
    AdversarialMode,
    Contrast,
    mean_over_taps,
    patch_contrast,
    summary_distance,
)
from patchkin.method import Direction, Method, Preset, Progress, Terms, Update
from patchkin.networks import (
    HeadKind,
    ImagePoolConfig,
    InitConfig,
    PatchGANConfig,
    PatchMap,
    ProjectionHead,
    ResNetConfig,
    SimilarityHeads,
    check_pair,
    discriminator_pair,
    draw_places,
    generator_pair,
    initialize,
    patch_maps,
    pool_pair,
    stack_taps,
)
from patchkin.randomness import Draws
from patchkin.schedules import AdamConfig, ScheduleConfig
from patchkin.terms.identity import tapped_with_identity
from patchkin.terms.patches import check_patches, of_whole_batch
from patchkin.terms.previews import two_sided_previews
from patchkin.terms.two_sided import (
    two_sided_adversarial_terms,
    two_sided_discriminator_terms,
    two_sided_identity_terms,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SimDclConfig:
    """Defaults are the released SimDCL."""

    generator: ResNetConfig = field(default_factory=ResNetConfig)
    """Of G_AB; G_BA is the same with the channels exchanged."""
    discriminator: PatchGANConfig = field(default_factory=PatchGANConfig)
    """Of D_B; D_A is the same for the channels of domain A."""
    initialization: InitConfig = field(default_factory=InitConfig)
    generator_adam: AdamConfig = field(default_factory=AdamConfig)
    discriminator_adam: AdamConfig = field(default_factory=AdamConfig)
    head_adam: AdamConfig = field(default_factory=AdamConfig)
    """For all heads. Unlike DCLGAN's, they learn at the rates of the generators."""
    pool: ImagePoolConfig = field(default_factory=lambda: ImagePoolConfig(capacity=0))
    """Of each discriminator. None in the released code; the paper's appendix says 50."""
    adversarial: AdversarialMode = "hinge-clipped"
    adversarial_weight: float = 1.0
    """lambda_GAN."""
    taps: tuple[int, ...] = (4, 8, 12, 16)
    """Modules of the generators whose output is compared."""
    head_width: int = 256
    """Length of an embedded patch."""
    num_patches: int = 256
    """Places drawn per tap, shared by the images of a batch; fewer if the map has fewer."""
    temperature: float = 0.07
    """tau of PatchNCE."""
    contrast_weight: float = 1.0
    """lambda_NCE. The released code ignores its option; the paper has 2."""
    identity_weight: float = 1.0
    """lambda_idt."""
    similarity_weight: float = 10.0
    """lambda_SIM."""
    similarity_reduction: Literal["mean", "sum"] = "mean"
    """Over the 64 numbers of a summary: as released, or as printed, which is 64 times more."""
    similarity_heads: HeadKind = "separate"
    """As released, or ours that cannot collapse, whose best weight nobody has looked for."""
    pair_sum: Literal["released", "paper"] = "released"
    """Half of the sum of both directions in all terms but the similarity, or the sum."""
    all_negatives: bool = False
    """Contrast with the patches of the whole batch rather than of the same image."""

    def __post_init__(self) -> None:
        check_positive(self, "temperature")
        check_patches(self.taps, self.num_patches)
        if self.num_patches < 3 or self.head_width < 3:
            raise ConfigError(
                "`num_patches` and `head_width` must be at least 3 for the similarity heads; got "
                f"{self.num_patches} and {self.head_width}."
            )
        check_pair(self.generator, self.discriminator, identity=self.identity_weight > 0)


_SMALL = SimDclConfig(
    generator=ResNetConfig(ngf=16, blocks=6, antialias_down=False, antialias_up=False),
    discriminator=PatchGANConfig(ndf=16, antialias=False),
    initialization=InitConfig(gain=1.0),
    generator_adam=AdamConfig(learning_rate=5e-4),
    discriminator_adam=AdamConfig(learning_rate=2.5e-4),
    head_adam=AdamConfig(learning_rate=5e-4),
    taps=(4, 8, 12, 14),
    head_width=64,
    num_patches=64,
)

PRESETS: Mapping[str, Preset] = {
    "released": Preset(
        summary="released SimDCL: lambda_NCE 1, averaged similarity, 200 + 200 epochs",
        method=SimDclConfig(),
    ),
    "paper": Preset(
        summary="as printed: lambda_NCE 2, summed similarity, pool of 50, 100 + 100 epochs",
        method=SimDclConfig(
            contrast_weight=2.0,
            similarity_reduction="sum",
            pair_sum="paper",
            pool=ImagePoolConfig(capacity=50),
        ),
        schedule=ScheduleConfig(epochs=200),
    ),
    "fixed-heads": Preset(
        summary="ours: summary heads that cannot satisfy their loss alone",
        method=SimDclConfig(similarity_heads="fixed"),
    ),
    "toy": Preset(
        summary="a small SimDCL for the built-in toy set, minutes on a CPU",
        method=_SMALL,
        schedule=ScheduleConfig(steps=2000),
        data=DataConfig(size=64, load_size=64),
    ),
}


class _Embedded(NamedTuple):
    """Embedded patches of one direction, [B, K, width] per tap."""

    queries: list[Tensor]
    """Of the translation, at the places of the keys."""
    keys: list[Tensor]
    """Of the source."""
    others: list[Tensor]
    """Of the translation, at places of its own."""


@final
class SimDcl(Method):
    """Dual contrastive learning with similarity loss (SimDCL)."""

    name: ClassVar[str] = "simdcl"
    paper: ClassVar[str] = "Han, Shoeiby, Petersson, Armin, CVPRW 2021 (arXiv 2104.07689)"
    differs: ClassVar[str] = (
        "averages 64 differences where the paper sums; its summary heads collapse; batch 1 only"
    )
    config_type: ClassVar[type] = SimDclConfig
    presets: ClassVar[Mapping[str, Preset]] = PRESETS
    translating: ClassVar[tuple[str, ...]] = ("G_AB", "G_BA")
    directions: ClassVar[tuple[str, ...]] = ("AtoB", "BtoA")

    config: SimDclConfig

    def __init__(self, config: SimDclConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SimDclConfig()
        self.channels = (config.generator.in_channels, config.generator.out_channels)
        self.G_AB, self.G_BA = generator_pair(config.generator)
        self.D_B, self.D_A = discriminator_pair(config.discriminator, config.generator)
        self.F_A = ProjectionHead(self.G_AB.tap_channels(config.taps), config.head_width)
        self.F_B = ProjectionHead(self.G_BA.tap_channels(config.taps), config.head_width)
        for network in (self.G_AB, self.G_BA, self.D_B, self.D_A, self.F_A, self.F_B):
            initialize(network, config.initialization)
        num_taps, kind = len(config.taps), config.similarity_heads
        self.S_A = SimilarityHeads(num_taps, kind, config.initialization)
        self.S_B = SimilarityHeads(num_taps, kind, config.initialization)
        self.contrast = Contrast(
            cosine=True, temperature=config.temperature, all_negatives=config.all_negatives
        )
        self.pool_B, self.pool_A = pool_pair(config.pool, config.generator)
        self.compares_batch = config.all_negatives
        self.multiple_of = self.G_AB.multiple_of
        self.min_size = self.G_AB.min_size
        self.min_training_size = max(self.G_AB.min_size, self.D_B.min_size)

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network that learns."""
        config = self.config
        heads = ("F_A", "F_B", *(() if config.similarity_heads == "fixed" else ("S_A", "S_B")))
        return {
            **dict.fromkeys(("G_AB", "G_BA"), config.generator_adam),
            **dict.fromkeys(heads, config.head_adam),
            **dict.fromkeys(("D_B", "D_A"), config.discriminator_adam),
        }

    def train_step(self, batch: UnpairedBatch, update: Update, progress: Progress) -> None:
        """Forward once; both discriminators; then both generators and all heads."""
        config, draws = self.config, progress.draws
        identity = bool(config.identity_weight)
        fake_b_BCHW, identity_b_BCHW, features_a = tapped_with_identity(
            self.G_AB, batch.a_BCHW, batch.b_BCHW, config.taps, identity=identity
        )
        fake_a_BCHW, identity_a_BCHW, features_b = tapped_with_identity(
            self.G_BA, batch.b_BCHW, batch.a_BCHW, config.taps, identity=identity
        )
        pooled_b_BCHW = self.pool_B(fake_b_BCHW, draws, update.gather)
        pooled_a_BCHW = self.pool_A(fake_a_BCHW, draws, update.gather)

        def generator_terms() -> Terms:
            a = self._embedded("AB", fake_b_BCHW, features_a, draws)
            b = self._embedded("BA", fake_a_BCHW, features_b, draws)
            share = 0.5 if config.pair_sum == "released" else 1.0
            terms = {
                **two_sided_adversarial_terms(
                    self,
                    fake_b_BCHW,
                    fake_a_BCHW,
                    mode=config.adversarial,
                    weight=config.adversarial_weight,
                ),
                **self._contrast_terms(a, b, update),
                **two_sided_identity_terms(
                    batch,
                    identity_b_BCHW,
                    identity_a_BCHW,
                    weight_b=config.identity_weight,
                    weight_a=config.identity_weight,
                ),
            }
            halved = {name: share * term for name, term in terms.items()}
            return {**halved, **self._similarity_terms(a, b, update)}

        update(
            "D_B",
            "D_A",
            loss=lambda: two_sided_discriminator_terms(
                self, batch, pooled_b_BCHW, pooled_a_BCHW, mode=config.adversarial
            ),
        )
        update(*(name for name in self.adam() if not name.startswith("D")), loss=generator_terms)

    def translate(self, x_BCHW: Tensor, *, direction: Direction = "AtoB") -> Tensor:
        """G_AB(x), or G_BA(x) for images of domain B."""
        y_BCHW: Tensor = (self.G_AB if direction == "AtoB" else self.G_BA)(x_BCHW)
        return y_BCHW

    def patch_maps(self, x_BCHW: Tensor, *, translated: bool = False) -> list[PatchMap]:
        """Maps of G_AB embedded by F_A; of translations, those of G_BA embedded by F_B."""
        generator, head = (self.G_BA, self.F_B) if translated else (self.G_AB, self.F_A)
        return patch_maps(generator, head, self.config.taps, x_BCHW)

    def previews(self, batch: UnpairedBatch) -> dict[str, Tensor]:
        """Both directions."""
        return two_sided_previews(self.G_AB, self.G_BA, batch)

    def _embedded(
        self,
        direction: Literal["AB", "BA"],
        fake_BCHW: Tensor,
        features: list[Tensor],
        draws: Draws,
    ) -> _Embedded:
        """Patches of source and translation, each in its own domain's embedding."""
        taps, num_patches = self.config.taps, self.config.num_patches
        encoder = self.G_BA if direction == "AB" else self.G_AB
        key_head, query_head = (self.F_A, self.F_B) if direction == "AB" else (self.F_B, self.F_A)
        places = draw_places(features, num_patches, draws)
        others = draw_places(features, num_patches, draws)
        queries = encoder.encode(fake_BCHW, taps)
        return _Embedded(
            query_head(queries, places), key_head(features, places), query_head(queries, others)
        )

    def _contrast_terms(self, a: _Embedded, b: _Embedded, update: Update) -> Terms:
        """PatchNCE of a with G_AB(a), and of b with G_BA(b); the mean over taps, places, images."""
        config, terms = self.config, {}
        for name, embedded in (("AB", a), ("BA", b)):
            pairs = list(zip(embedded.queries, embedded.keys, strict=True))
            if config.all_negatives:
                pairs = of_whole_batch(pairs, update)
            contrast = mean_over_taps(patch_contrast(*pair, self.contrast) for pair in pairs)
            terms[f"contrast_{name}"] = config.contrast_weight * contrast
        return terms

    def _similarity_terms(self, a: _Embedded, b: _Embedded, update: Update) -> Terms:
        """Real and generated images of each domain, summarised."""
        config, terms, spreads = self.config, {}, []
        for name, heads, real, fake, elsewhere in (
            ("A", self.S_A, a.keys, b.others, b.keys),
            ("B", self.S_B, b.keys, a.others, a.keys),
        ):
            real_BS, fake_BS = heads(stack_taps(real), stack_taps(fake))
            distance = summary_distance(real_BS, fake_BS, reduction=config.similarity_reduction)
            terms[f"similarity_{name}"] = config.similarity_weight * distance
            with torch.no_grad():
                elsewhere_BS = heads.real(stack_taps(elsewhere))
                spreads.append(summary_distance(real_BS, elsewhere_BS))
        update.report(summary_spread=torch.stack(spreads).mean())
        return terms
