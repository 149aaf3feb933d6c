"""SimDCL: DCLGAN with a similarity loss against mode collapse (Han et al., CVPRW 2021).

The networks of DCLGAN: images of domain A, real or generated, are embedded by the first half of G_A
and by F_A, images of B by G_B and F_B (the released F1 and F2). Further heads, S_A and S_B,
summarise the embedded patches of an image in 64 numbers (the released F3 and F6, F5 and F4; the
paper's H_xr and H_xf, H_yr and H_yf). Real and generated images of a domain should agree in them,

    L_G = L_GAN(G_A) + L_GAN(G_B) + lambda_NCE (L_NCE(a, G_A(a)) + L_NCE(b, G_B(b)))
        + lambda_idt (|G_A(b) - b| + |G_B(a) - a|)
        + lambda_SIM (|S_A(a) - S_A(G_B(b))|_1 + |S_B(b) - S_B(G_A(a))|_1).

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

from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.errors import ConfigError
from patchkin.losses import (
    AdversarialMode,
    Contrast,
    fake_loss,
    generator_loss,
    mean_over_taps,
    patch_contrast,
    pixel_distance,
    real_loss,
    summary_distance,
)
from patchkin.losses.contrast import check_temperature
from patchkin.method import Method, Preset, Progress, Terms, Update
from patchkin.networks import (
    HeadKind,
    ImagePool,
    ImagePoolConfig,
    InitConfig,
    PatchGANConfig,
    PatchMap,
    ProjectionHead,
    ResNetConfig,
    ResNetGenerator,
    SimilarityHeads,
    check_pair,
    discriminator_pair,
    draw_places,
    generator_pair,
    initialize,
    judge_together,
    match_channels,
    patch_maps,
    stack_taps,
)
from patchkin.randomness import Draws
from patchkin.schedules import AdamConfig, ScheduleConfig
from patchkin.terms.patches import check_patches


@dataclass(frozen=True, kw_only=True, slots=True)
class SimDclConfig:
    """Defaults are the released SimDCL."""

    generator: ResNetConfig = field(default_factory=ResNetConfig)
    """Of G_A; G_B is the same with the channels exchanged."""
    discriminator: PatchGANConfig = field(default_factory=PatchGANConfig)
    """Of D_A; D_B is the same for the channels of domain A."""
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
        check_temperature(self.temperature)
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


class _Forward(NamedTuple):
    """What one generator makes of its source, and the features of the source on the way."""

    fake_BCHW: Tensor
    identity_BCHW: Tensor | None
    """What it makes of its target; None without the identity term."""
    features: list[Tensor]
    """Per tap, with their graph: the similarity loss learns through them."""


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
    translating: ClassVar[tuple[str, ...]] = ("G_A", "G_B")
    directions: ClassVar[tuple[str, ...]] = ("AtoB", "BtoA")

    config: SimDclConfig

    def __init__(self, config: SimDclConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SimDclConfig()
        self.channels = (config.generator.in_channels, config.generator.out_channels)
        self.G_A, self.G_B = generator_pair(config.generator)
        self.D_A, self.D_B = discriminator_pair(config.discriminator, config.generator)
        self.F_A = ProjectionHead(self.G_A.tap_channels(config.taps), config.head_width)
        self.F_B = ProjectionHead(self.G_B.tap_channels(config.taps), config.head_width)
        for network in (self.G_A, self.G_B, self.D_A, self.D_B, self.F_A, self.F_B):
            initialize(network, config.initialization)
        num_taps, kind = len(config.taps), config.similarity_heads
        self.S_A = SimilarityHeads(num_taps, kind, config.initialization)
        self.S_B = SimilarityHeads(num_taps, kind, config.initialization)
        self.contrast = Contrast(
            cosine=True, temperature=config.temperature, all_negatives=config.all_negatives
        )
        self.pool_A = ImagePool(self.channels[1], config.pool)
        self.pool_B = ImagePool(self.channels[0], config.pool)
        self.multiple_of = self.G_A.multiple_of
        self.min_size = self.G_A.min_size
        self.min_training_size = max(self.G_A.min_size, self.D_A.min_size)

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network that learns."""
        config = self.config
        heads = ("F_A", "F_B", *(() if config.similarity_heads == "fixed" else ("S_A", "S_B")))
        return {
            "G_A": config.generator_adam,
            "G_B": config.generator_adam,
            **dict.fromkeys(heads, config.head_adam),
            "D_A": config.discriminator_adam,
            "D_B": config.discriminator_adam,
        }

    def train_step(self, batch: UnpairedBatch, update: Update, progress: Progress) -> None:
        """Forward once; both discriminators; then both generators and all heads."""
        to_b = self._forward(self.G_A, batch.a_BCHW, batch.b_BCHW)
        to_a = self._forward(self.G_B, batch.b_BCHW, batch.a_BCHW)
        shown_b_BCHW = self.pool_A(to_b.fake_BCHW, progress.draws, update.gather)
        shown_a_BCHW = self.pool_B(to_a.fake_BCHW, progress.draws, update.gather)

        def generator_terms() -> Terms:
            a = self._embedded(to_b, self.F_A, self.G_B, self.F_B, progress.draws)
            b = self._embedded(to_a, self.F_B, self.G_A, self.F_A, progress.draws)
            share = 0.5 if self.config.pair_sum == "released" else 1.0
            terms = {
                **self._adversarial_terms(to_b.fake_BCHW, to_a.fake_BCHW),
                **self._contrast_terms(a, b),
                **self._identity_terms(batch, to_b, to_a),
            }
            halved = {name: share * term for name, term in terms.items()}
            return {**halved, **self._similarity_terms(a, b, update)}

        learning = [name for name in self.adam() if not name.startswith("D")]
        update(
            "D_A",
            "D_B",
            loss=lambda: self._discriminator_terms(batch, shown_b_BCHW, shown_a_BCHW),
        )
        update(*learning, loss=generator_terms)

    def translate(self, x_BCHW: Tensor, *, direction: Literal["AtoB", "BtoA"] = "AtoB") -> Tensor:
        """G_A(x), or G_B(x) for images of domain B."""
        y_BCHW: Tensor = (self.G_A if direction == "AtoB" else self.G_B)(x_BCHW)
        return y_BCHW

    def patch_maps(self, x_BCHW: Tensor, *, translated: bool = False) -> list[PatchMap]:
        """Maps of G_A embedded by F_A; of translations, those of G_B embedded by F_B."""
        generator, head = (self.G_B, self.F_B) if translated else (self.G_A, self.F_A)
        return patch_maps(generator, head, self.config.taps, x_BCHW)

    def previews(self, batch: UnpairedBatch) -> dict[str, Tensor]:
        """Both directions."""
        return {
            "input": batch.a_BCHW,
            "translated": self.G_A(batch.a_BCHW),
            "target": batch.b_BCHW,
            "target to source": self.G_B(batch.b_BCHW),
        }

    def _forward(
        self, generator: ResNetGenerator, source_BCHW: Tensor, target_BCHW: Tensor
    ) -> _Forward:
        """Source and, with the identity term, target through one generator, in one pass."""
        parts = [source_BCHW]
        if self.config.identity_weight:
            parts.append(match_channels(target_BCHW, source_BCHW.shape[1]))
        num_images = len(source_BCHW)
        if len({part.shape[2:] for part in parts}) > 1:  # the domains differ in size
            fake_BCHW, features = generator.forward_with_taps(source_BCHW, self.config.taps)
            return _Forward(fake_BCHW, generator(parts[1]), features)
        outputs_BCHW, features = generator.forward_with_taps(torch.cat(parts), self.config.taps)
        return _Forward(
            outputs_BCHW[:num_images],
            outputs_BCHW[num_images:] if self.config.identity_weight else None,
            [feature[:num_images] for feature in features],
        )

    def _embedded(
        self,
        forward: _Forward,
        key_head: ProjectionHead,
        query_encoder: ResNetGenerator,
        query_head: ProjectionHead,
        draws: Draws,
    ) -> _Embedded:
        """Patches of source and translation, each in its own domain's embedding."""
        config = self.config
        places = draw_places(forward.features, config.num_patches, draws)
        others = draw_places(forward.features, config.num_patches, draws)
        queries = query_encoder.encode(forward.fake_BCHW, config.taps)
        return _Embedded(
            query_head(queries, places),
            key_head(forward.features, places),
            query_head(queries, others),
        )

    def _discriminator_terms(
        self, batch: UnpairedBatch, shown_b_BCHW: Tensor, shown_a_BCHW: Tensor
    ) -> Terms:
        mode, terms = self.config.adversarial, {}
        for name, network, shown_BCHW, real_BCHW in (
            ("A", self.D_A, shown_b_BCHW, batch.b_BCHW),
            ("B", self.D_B, shown_a_BCHW, batch.a_BCHW),
        ):
            fake_logits, real_logits = judge_together(network, shown_BCHW, real_BCHW)
            terms[f"fake_{name}"] = 0.5 * fake_loss(mode, fake_logits)
            terms[f"real_{name}"] = 0.5 * real_loss(mode, real_logits)
        return terms

    def _adversarial_terms(self, fake_b_BCHW: Tensor, fake_a_BCHW: Tensor) -> Terms:
        mode, weight = self.config.adversarial, self.config.adversarial_weight
        return {
            "adversarial_A": weight * generator_loss(mode, self.D_A(fake_b_BCHW)),
            "adversarial_B": weight * generator_loss(mode, self.D_B(fake_a_BCHW)),
        }

    def _contrast_terms(self, a: _Embedded, b: _Embedded) -> Terms:
        """PatchNCE of A with G_A(A), and of B with G_B(B); the mean over taps, places, images."""
        config, terms = self.config, {}
        for name, embedded in (("A", a), ("B", b)):
            contrast = mean_over_taps(
                patch_contrast(*pair, self.contrast)
                for pair in zip(embedded.queries, embedded.keys, strict=True)
            )
            terms[f"contrast_{name}"] = config.contrast_weight * contrast
        return terms

    def _identity_terms(self, batch: UnpairedBatch, to_b: _Forward, to_a: _Forward) -> Terms:
        """Each generator should leave images of its target domain alone (plain L1)."""
        if to_b.identity_BCHW is None or to_a.identity_BCHW is None:
            return {}
        weight = self.config.identity_weight
        return {
            "identity_A": weight * pixel_distance(to_b.identity_BCHW, batch.b_BCHW),
            "identity_B": weight * pixel_distance(to_a.identity_BCHW, batch.a_BCHW),
        }

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
