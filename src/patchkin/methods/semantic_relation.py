"""Patch-wise semantic relation: Jung, Kwon and Ye, CVPR 2022 (arXiv 2203.01532).

CUT's one-sided adversary; PatchNCE is replaced by

    L_semantic = lambda_SRC L_SRC (Eq. 3) + lambda_hDCE L_hDCE(gamma, tau) (Eq. 4 and 5).

SRC makes the similarities among the output's patches equal to those among the input's. hDCE is a
patch contrast whose denominator holds no positive and whose negatives count the more, the more the
input itself holds them for similar.

Differs from the paper: the released code weights the negatives inside the exponent and divides by
gamma where Eq. 5 multiplies outside of it; `negatives` chooses, and gamma is given as the divisor
(the paper's gamma is its inverse; `gamma_linear_in` says which of both changes linearly). SRC is a
sum over patches, so `relation_weight` goes with `num_patches`. The identity branch has hDCE and no
SRC, as released. The released code fails for batches beyond 1 and for maps with fewer places than
patches; here both are per-image definitions.

Shape suffixes: B images, C channels, H and W pixels, K patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor

from patchkin.config import check_positive
from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.losses import (
    as_info_nce,
    mean_over_taps,
    patch_contrasts,
    relation_consistency,
)
from patchkin.method import Method, Preset, Progress, Terms, Update
from patchkin.networks import (
    PatchMap,
    ProjectionHead,
    ResNetGenerator,
    SharedPlaces,
    discriminator,
    initialize,
    match_channels,
    patch_maps,
)
from patchkin.schedules import AdamConfig, ScheduleConfig
from patchkin.terms.branches import Branches, Order, Pairs, at_once, of_branch
from patchkin.terms.one_sided import (
    TOY,
    OneSidedConfig,
    one_sided_adversarial_terms,
    one_sided_contrast,
    one_sided_discriminator_terms,
    shown_to_discriminator,
)
from patchkin.terms.patches import (
    HardNegativesConfig,
    chosen_places,
    embedded_pairs,
    guiding_logits,
    hardness,
    of_whole_batch,
)
from patchkin.terms.previews import one_sided_previews


@dataclass(frozen=True, kw_only=True, slots=True)
class SemanticRelationConfig(OneSidedConfig, HardNegativesConfig):
    """Defaults are the published horse-to-zebra values."""

    relation_weight: float = 0.05
    """lambda_SRC. The loss is a sum over patches, so it goes with `num_patches`. 0 switches SRC
    off (Table 3)."""
    contrast: Literal["nce", "dce"] = "dce"
    """InfoNCE, or the decoupled form without the positive in the denominator (Eq. 6; Table 3)."""
    contrast_weight: float = 0.1
    """lambda_hDCE; with `identity` each of both contrasts counts half (released: dce_idt)."""
    relation_reduction: Literal["sum", "mean"] = "sum"
    """Of SRC over patches. `mean` with lambda_SRC * num_patches is the same where a map has enough,
    and does not weigh small maps less."""
    gamma_divisor_late: float | None = None
    """If set, replaces the line late in the run (released: step_gamma)."""
    gamma_late_from: float = 0.5
    """Share of the run after which `gamma_divisor_late` holds (released: epoch 200 of 400)."""
    branches: Order = "auto"
    """Whether the two contrasts, of A and of B, are computed as one batch or one after the other:
    the same numbers within rounding, unless the generator has batch norm (statistics of both, or of
    each) or dropout. In turn needs about half of the memory; at once keeps an
    accelerator busier. `auto` is in turn on a CPU for batches of 256 x 256 pixels and more, where
    both take the same time; below, at once is quicker."""

    def __post_init__(self) -> None:
        OneSidedConfig.__post_init__(self)
        HardNegativesConfig.__post_init__(self)
        check_positive(self, "gamma_divisor_late")


PRESETS: Mapping[str, Preset] = {
    "horse2zebra": Preset(
        summary="published: lambda_hDCE 0.1, lambda_SRC 0.05, gamma divisor 50 to 10",
        method=SemanticRelationConfig(),
    ),
    "cityscapes": Preset(
        summary="published, labels to photos: lambda_SRC 0.1, gamma divisor 1 in the second half",
        method=SemanticRelationConfig(relation_weight=0.1, gamma_divisor_late=1.0),
        data=DataConfig(direction="BtoA"),
    ),
    "paper": Preset(
        summary="as printed: weights outside the exponent, gamma itself linear from 0.02 to 0.1",
        method=SemanticRelationConfig(negatives="paper", gamma_linear_in="gamma"),
    ),
    "stable": Preset(
        summary="ours: horse2zebra with averaged weights and R1, which were measured to help",
        method=SemanticRelationConfig(r1_weight=1.0),
        schedule=ScheduleConfig(ema_decay=0.999, ema_warmup=True),  # benchmarks/toy
    ),
    "toy": Preset(
        summary="a small model for the built-in toy set, minutes on a CPU",
        method=SemanticRelationConfig(**TOY, relation_weight=0.5, contrast_weight=1.0),
        schedule=ScheduleConfig(steps=2000, ema_decay=0.995),
        data=DataConfig(size=64, load_size=64, workers=0),
    ),
}


@final
class SemanticRelation(Method):
    """Semantic relation consistency and hard-negative decoupled contrast (SRC + hDCE)."""

    name: ClassVar[str] = "semantic-relation"
    paper: ClassVar[str] = "Jung, Kwon, Ye, CVPR 2022 (arXiv 2203.01532)"
    differs: ClassVar[str] = (
        "weights negatives inside the exponent, gamma is a divisor; batches beyond 1 fail"
    )
    config_type: ClassVar[type] = SemanticRelationConfig
    presets: ClassVar[Mapping[str, Preset]] = PRESETS

    config: SemanticRelationConfig

    def __init__(self, config: SemanticRelationConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SemanticRelationConfig()
        self.G = ResNetGenerator(config.generator)
        self.D = discriminator(config.discriminator)
        self.F = ProjectionHead(self.G.tap_channels(config.taps), config.head_width)
        for network in (self.G, self.D, self.F):
            initialize(network, config.initialization)
        self.pool = config.image_pool()
        self.contrast = one_sided_contrast(config, config.resolved_negatives(), config.contrast)
        self.compares_batch = config.all_negatives
        self.channels = (config.generator.in_channels, config.generator.out_channels)
        self.multiple_of = self.G.multiple_of
        self.min_size = self.G.min_size
        self.min_training_size = max(self.G.min_size, self.D.min_size)

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network; the head learns at the generator's rate."""
        config = self.config
        return dict.fromkeys("GF", config.generator_adam) | {"D": config.discriminator_adam}

    def train_step(self, batch: UnpairedBatch, update: Update, progress: Progress) -> None:
        """Forward; D on the detached output; then G and F by the adversary, SRC and hDCE."""
        config, draws = self.config, progress.draws
        inputs = {"contrast": batch.a_BCHW}
        if config.identity and config.contrast_weight:
            inputs["identity_contrast"] = match_channels(batch.b_BCHW, self.channels[0])
        together = at_once(config.branches, batch.a_BCHW)
        branches = Branches(inputs, self._forward, together=together)
        fake_BCHW, places = branches.first_BCHW, SharedPlaces(draws, config.num_patches)

        def generator_terms(
            names: Sequence[str], outputs_BCHW: Tensor, keys: list[Tensor]
        ) -> Terms:
            terms: Terms = {}
            if "contrast" in names:
                terms |= one_sided_adversarial_terms(self.D, fake_BCHW, config, draws)
            queries = self.G.encode(match_channels(outputs_BCHW, self.channels[0]), config.taps)
            # At the places of all images of the step, in both branches, as released.
            chosen = chosen_places(
                keys,
                config.taps,
                config,
                draws,
                drawn=places.on(keys),
                logits_BNhw=guiding_logits(self.D, outputs_BCHW, config),
                branches=len(names),
            )
            pairs = embedded_pairs(queries, keys, chosen, query_head=self.F)
            if "contrast" in names:
                terms |= self._relation_terms(of_branch(pairs, names, "contrast"))
            for name in names:
                own = of_branch(pairs, names, name)
                terms |= self._contrast_terms(name, own, update, progress)
            return terms

        shown_BCHW = shown_to_discriminator(self.pool, fake_BCHW, draws, update.gather)
        judged = (self.D, shown_BCHW, batch.b_BCHW, config, draws)
        update("D", loss=lambda: one_sided_discriminator_terms(*judged))
        update("G", "F", loss=branches.losses(generator_terms))

    def translate(self, x_BCHW: Tensor) -> Tensor:
        """G(x)."""
        y_BCHW: Tensor = self.G(x_BCHW)
        return y_BCHW

    def patch_maps(self, x_BCHW: Tensor, *, translated: bool = False) -> list[PatchMap]:
        """Maps of the generator's encoder at `taps`, embedded by F."""
        x_BCHW = match_channels(x_BCHW, self.channels[0])
        return patch_maps(self.G, self.F, self.config.taps, x_BCHW)

    def previews(self, batch: UnpairedBatch) -> dict[str, Tensor]:
        """Input, output, and with the identity term a target image and what G makes of it."""
        return one_sided_previews(self.G, batch, self.channels[0], identity=self.config.identity)

    def gamma_divisor(self, progress: Progress) -> float:
        """The hardness of the negatives at this point of the curriculum."""
        return hardness(
            self.config,
            progress.fraction,
            late=self.config.gamma_divisor_late,
            late_from=self.config.gamma_late_from,
        )

    def _forward(self, x_BCHW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Outputs, and features of the images on the way, per tap and without graph."""
        outputs_BCHW, features = self.G.forward_with_taps(x_BCHW, self.config.taps)
        return outputs_BCHW, [feature.detach() for feature in features]

    def _relation_terms(self, pairs: Pairs) -> Terms:
        """SRC (Eq. 3) between patches w of G(A) and z of A."""
        if not self.config.relation_weight:
            return {}
        relation = mean_over_taps(
            relation_consistency(*pair, reduction=self.config.relation_reduction) for pair in pairs
        )
        return {"relation": self.config.relation_weight * relation}

    def _contrast_terms(self, name: str, pairs: Pairs, update: Update, progress: Progress) -> Terms:
        """HDCE (Eq. 4 and 5), or another contrast, between patches w of outputs and z of inputs."""
        config = self.config
        if not config.contrast_weight:
            return {}
        if config.all_negatives:
            pairs = of_whole_batch(pairs, update)
        gamma_divisor = self.gamma_divisor(progress)
        losses = patch_contrasts(pairs, self.contrast, gamma_divisor=gamma_divisor)
        if config.contrast == "dce":  # the released log shows the InfoNCE that DCE came from
            as_nce = mean_over_taps(as_info_nce(loss.detach()) for loss in losses)
            update.report(**{f"{name}_as_nce": config.contrast_weight * as_nce})
        share = 0.5 if config.identity else 1.0
        return {name: share * config.contrast_weight * mean_over_taps(losses)}
