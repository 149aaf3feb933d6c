"""DCLGAN: Han, Shoeiby, Petersson and Armin, CVPRW 2021 (arXiv 2104.07689).

Both directions at once, as in CycleGAN, but content is kept by PatchNCE instead of a cycle. Each
domain has an encoder and a projection head of its own: images of A, real or generated, are embedded
by the first half of G_AB and by F_A, images of B by G_BA and F_B (the released F1 and F2, the
paper's H_X and H_Y). D_B judges domain B and D_A judges domain A (the paper's D_Y and D_X).

    L_G = L_GAN(G_AB) + L_GAN(G_BA) + lambda_NCE (L_NCE(a, G_AB(a)) + L_NCE(b, G_BA(b)))
        + lambda_idt (|G_AB(b) - b| + |G_BA(a) - a|)

`contrast="relation"` is ours and published nowhere: semantic relation consistency and the
hard-negative decoupled contrast (Jung et al., CVPR 2022) in place of PatchNCE, in both directions.

Differs from the paper: the released code takes half of every sum of two terms, which `pair_sum`
chooses, and means over places and taps where the paper sums. Its heads learn at torch's default
rates, whatever the others do, and there is no image pool where the paper claims one of 50. For
batches beyond 1 it contrasts with the patches of all images (`all_negatives`).

Shape suffixes: B images, C channels, H and W pixels, K patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

from torch import Tensor

from patchkin.config import check_positive
from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.losses import (
    AdversarialMode,
    Contrast,
    mean_over_taps,
    patch_contrasts,
    relation_consistency,
)
from patchkin.losses.contrast import Negatives
from patchkin.method import Direction, Method, Preset, Progress, Terms, Update
from patchkin.networks import (
    ImagePoolConfig,
    InitConfig,
    PatchGANConfig,
    PatchMap,
    ProjectionHead,
    ResNetConfig,
    check_pair,
    discriminator_pair,
    generator_pair,
    initialize,
    patch_maps,
    pool_pair,
)
from patchkin.schedules import AdamConfig, ScheduleConfig
from patchkin.terms.identity import tapped_with_identity
from patchkin.terms.patches import (
    PatchContrastConfig,
    check_patches,
    check_places,
    chosen_places,
    embedded_pairs,
    guiding_logits,
    hardness,
    of_whole_batch,
)
from patchkin.terms.previews import two_sided_previews
from patchkin.terms.two_sided import (
    two_sided_adversarial_terms,
    two_sided_discriminator_terms,
    two_sided_identity_terms,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DclGanConfig(PatchContrastConfig):
    """Defaults are the released DCLGAN."""

    generator: ResNetConfig = field(default_factory=ResNetConfig)
    """Of G_AB; G_BA is the same with the channels exchanged."""
    discriminator: PatchGANConfig = field(default_factory=PatchGANConfig)
    """Of D_B; D_A is the same for the channels of domain A."""
    initialization: InitConfig = field(default_factory=InitConfig)
    generator_adam: AdamConfig = field(default_factory=AdamConfig)
    """The paper says 1e-4, the code 2e-4 since two weeks after its release."""
    discriminator_adam: AdamConfig = field(default_factory=AdamConfig)
    head_adam: AdamConfig = field(
        default_factory=lambda: AdamConfig(learning_rate=1e-3, beta1=0.9, beta2=0.999)
    )
    """torch's defaults: the released code passes no rates to the heads' optimizer. The paper is
    silent about them."""
    pool: ImagePoolConfig = field(default_factory=lambda: ImagePoolConfig(capacity=0))
    """Of each discriminator. None in the released code; the paper's appendix says 50."""
    adversarial: AdversarialMode = "hinge-clipped"
    adversarial_weight: float = 1.0
    """lambda_GAN."""
    taps: tuple[int, ...] = (4, 8, 12, 16)
    """Modules of the generators whose output is compared. CUT's tap 0, the colours, made results
    worse (FID 49.7 for 43.2, horse to zebra)."""
    head_width: int = 256
    """Length of an embedded patch."""
    temperature: float = 0.07
    """tau of the contrast."""
    contrast: Literal["nce", "relation"] = "nce"
    """PatchNCE, or SRC and hDCE (ours)."""
    contrast_weight: float = 2.0
    """lambda_NCE, or lambda_hDCE."""
    relation_weight: float = 0.05
    """lambda_SRC, a weight of a sum over patches; with `contrast` relation only."""
    relation_reduction: Literal["sum", "mean"] = "sum"
    """Of SRC over patches; `mean` with lambda_SRC * num_patches is the same."""
    negatives: Negatives | None = None
    """What negatives weigh: all the same, by the input's similarities as `released` or as in the
    `paper` of semantic relation, or by optimal transport (MoNCE). By default uniform for PatchNCE
    and released for `contrast` relation."""
    identity_weight: float = 1.0
    """lambda_idt."""
    pair_sum: Literal["released", "paper"] = "released"
    """Half of the sum of both directions, or the sum."""
    all_negatives: bool = False
    """Contrast with the patches of the whole batch rather than of the same image."""

    def __post_init__(self) -> None:
        PatchContrastConfig.__post_init__(self)
        check_positive(self, "temperature")
        check_places(
            self,
            self.taps,
            discriminator=self.discriminator,
            adversarial_weight=self.adversarial_weight,
        )
        check_patches(self.taps, self.num_patches)
        check_pair(self.generator, self.discriminator, identity=self.identity_weight > 0)


_PAPER = DclGanConfig(
    generator_adam=AdamConfig(learning_rate=1e-4),
    discriminator_adam=AdamConfig(learning_rate=1e-4),
    pool=ImagePoolConfig(capacity=50),
    pair_sum="paper",
)

PRESETS: Mapping[str, Preset] = {
    "released": Preset(
        summary="released DCLGAN: learning rate 2e-4, no pool, 200 + 200 epochs",
        method=DclGanConfig(),
    ),
    "paper": Preset(
        summary="as printed: learning rate 1e-4, pool of 50, 200 + 200 epochs",
        method=_PAPER,
    ),
    "paper-short": Preset(
        summary="as printed for cat-dog and Van Gogh to photo: 100 + 100 epochs",
        method=_PAPER,
        schedule=ScheduleConfig(epochs=200),
    ),
    "relation": Preset(
        summary="ours, unpublished: SRC and hDCE in both directions, weights of horse to zebra",
        method=DclGanConfig(contrast="relation", contrast_weight=0.1),
    ),
    "toy": Preset(
        summary="a small DCLGAN for the built-in toy set, minutes on a CPU",
        method=DclGanConfig(
            generator=ResNetConfig(ngf=16, blocks=6, antialias_down=False, antialias_up=False),
            discriminator=PatchGANConfig(ndf=16, antialias=False),
            initialization=InitConfig(gain=1.0),
            generator_adam=AdamConfig(learning_rate=5e-4),
            discriminator_adam=AdamConfig(learning_rate=2.5e-4),
            taps=(4, 8, 12, 14),
            head_width=64,
            num_patches=64,
        ),
        schedule=ScheduleConfig(steps=2000),
        data=DataConfig(size=64, load_size=64),
    ),
}


@final
class DclGan(Method):
    """Dual contrastive learning (DCLGAN), and its form with semantic relations."""

    name: ClassVar[str] = "dclgan"
    paper: ClassVar[str] = "Han, Shoeiby, Petersson, Armin, CVPRW 2021 (arXiv 2104.07689)"
    differs: ClassVar[str] = (
        "halves every sum of two terms, averages where the paper sums, has no image pool of 50"
    )
    config_type: ClassVar[type] = DclGanConfig
    presets: ClassVar[Mapping[str, Preset]] = PRESETS
    translating: ClassVar[tuple[str, ...]] = ("G_AB", "G_BA")
    directions: ClassVar[tuple[str, ...]] = ("AtoB", "BtoA")

    config: DclGanConfig

    def __init__(self, config: DclGanConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DclGanConfig()
        self.channels = (config.generator.in_channels, config.generator.out_channels)
        self.G_AB, self.G_BA = generator_pair(config.generator)
        self.D_B, self.D_A = discriminator_pair(config.discriminator, config.generator)
        self.F_A = ProjectionHead(self.G_AB.tap_channels(config.taps), config.head_width)
        self.F_B = ProjectionHead(self.G_BA.tap_channels(config.taps), config.head_width)
        self.pool_B, self.pool_A = pool_pair(config.pool, config.generator)
        for network in (self.G_AB, self.G_BA, self.D_B, self.D_A, self.F_A, self.F_B):
            initialize(network, config.initialization)
        decoupling = config.contrast == "relation"
        self.contrast = Contrast(
            form="dce" if decoupling else "nce",
            negatives=config.negatives or ("released" if decoupling else "uniform"),
            cosine=not decoupling,
            temperature=config.temperature,
            all_negatives=config.all_negatives,
            transport=config.transport,
        )
        self.compares_batch = config.all_negatives
        self.multiple_of = self.G_AB.multiple_of
        self.min_size = self.G_AB.min_size
        self.min_training_size = max(self.G_AB.min_size, self.D_B.min_size)

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network; the heads have rates of their own."""
        config = self.config
        return {
            **dict.fromkeys(("G_AB", "G_BA"), config.generator_adam),
            **dict.fromkeys(("F_A", "F_B"), config.head_adam),
            **dict.fromkeys(("D_B", "D_A"), config.discriminator_adam),
        }

    def train_step(self, batch: UnpairedBatch, update: Update, progress: Progress) -> None:
        """Forward once; both discriminators; then both generators and heads."""
        config, a_BCHW, b_BCHW = self.config, batch.a_BCHW, batch.b_BCHW
        taps, identity = config.taps, bool(config.identity_weight)
        fake_b_BCHW, identity_b_BCHW, features_a = tapped_with_identity(
            self.G_AB, a_BCHW, b_BCHW, taps, identity=identity
        )
        fake_a_BCHW, identity_a_BCHW, features_b = tapped_with_identity(
            self.G_BA, b_BCHW, a_BCHW, taps, identity=identity
        )
        pooled_b_BCHW = self.pool_B(fake_b_BCHW, progress.draws, update.gather)
        pooled_a_BCHW = self.pool_A(fake_a_BCHW, progress.draws, update.gather)

        def generator_terms() -> Terms:
            terms = {
                **two_sided_adversarial_terms(
                    self,
                    fake_b_BCHW,
                    fake_a_BCHW,
                    mode=config.adversarial,
                    weight=config.adversarial_weight,
                ),
                **self._contrast_terms(
                    fake_b_BCHW, features_a, fake_a_BCHW, features_b, progress, update=update
                ),
                **two_sided_identity_terms(
                    batch,
                    identity_b_BCHW,
                    identity_a_BCHW,
                    weight_b=config.identity_weight,
                    weight_a=config.identity_weight,
                ),
            }
            share = 0.5 if config.pair_sum == "released" else 1.0
            return {name: share * term for name, term in terms.items()}

        update(
            "D_B",
            "D_A",
            loss=lambda: two_sided_discriminator_terms(
                self, batch, pooled_b_BCHW, pooled_a_BCHW, mode=config.adversarial
            ),
        )
        update("G_AB", "G_BA", "F_A", "F_B", loss=generator_terms)

    def translate(self, x_BCHW: Tensor, *, direction: Direction = "AtoB") -> Tensor:
        """G_AB(x), or G_BA(x) for images of domain B."""
        y_BCHW: Tensor = (self.G_AB if direction == "AtoB" else self.G_BA)(x_BCHW)
        return y_BCHW

    def previews(self, batch: UnpairedBatch) -> dict[str, Tensor]:
        """Both directions."""
        return two_sided_previews(self.G_AB, self.G_BA, batch)

    def patch_maps(self, x_BCHW: Tensor, *, translated: bool = False) -> list[PatchMap]:
        """Maps of G_AB embedded by F_A; of translations, those of G_BA embedded by F_B."""
        generator, head = (self.G_BA, self.F_B) if translated else (self.G_AB, self.F_A)
        return patch_maps(generator, head, self.config.taps, x_BCHW)

    def gamma_divisor(self, progress: Progress) -> float:
        """The hardness of the negatives at this point of the curriculum."""
        return hardness(self.config, progress.fraction)

    def _contrast_terms(
        self,
        fake_b_BCHW: Tensor,
        features_a: list[Tensor],
        fake_a_BCHW: Tensor,
        features_b: list[Tensor],
        progress: Progress,
        *,
        update: Update,
    ) -> Terms:
        """A with G_AB(a), then b with G_BA(b): keys in the input's embedding, queries in the other.

        Keys are constant, so each teaches the output's head and encoder, and the generator.
        """
        config, draws, terms = self.config, progress.draws, {}
        for name, fake_BCHW, judge, keys, key_head, query_encoder, query_head in (
            ("AB", fake_b_BCHW, self.D_B, features_a, self.F_A, self.G_BA, self.F_B),
            ("BA", fake_a_BCHW, self.D_A, features_b, self.F_B, self.G_AB, self.F_A),
        ):
            logits_BNhw = guiding_logits(judge, fake_BCHW, config)
            pairs = embedded_pairs(
                query_encoder.encode(fake_BCHW, config.taps),
                keys,
                chosen_places(keys, config.taps, config, draws, logits_BNhw=logits_BNhw),
                query_head=query_head,
                key_head=key_head,
            )
            if config.contrast == "relation" and config.relation_weight:
                relation = mean_over_taps(
                    relation_consistency(*pair, reduction=config.relation_reduction)
                    for pair in pairs
                )
                terms[f"relation_{name}"] = config.relation_weight * relation
            if config.contrast_weight:
                if config.all_negatives:
                    pairs = of_whole_batch(pairs, update)
                gamma_divisor = self.gamma_divisor(progress)
                contrast = mean_over_taps(
                    patch_contrasts(pairs, self.contrast, gamma_divisor=gamma_divisor)
                )
                terms[f"contrast_{name}"] = config.contrast_weight * contrast
        return terms
