"""Patch-wise semantic relation: Jung, Kwon and Ye, CVPR 2022 (arXiv 2203.01532).

CUT's one-sided adversary; PatchNCE is replaced by

    L_semantic = lambda_SRC L_SRC (Eq. 3) + lambda_hDCE L_hDCE(gamma, tau) (Eq. 4 and 5).

SRC makes the similarities among the output's patches equal to those among the input's. hDCE is a
patch contrast whose denominator holds no positive and whose negatives count the more, the more the
input itself holds them for similar.

Differs from the paper: the released code weights the negatives inside the exponent and divides by
gamma where Eq. 5 multiplies outside of it; `weights` chooses, and gamma is given as the divisor
(the paper's gamma is its inverse). SRC is a sum over patches, so `relation_weight` goes with
`num_patches`. The identity branch has hDCE and no SRC, as released. The released code fails for
batches beyond 1 and for maps with fewer places than patches; here both are per-image definitions.

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
    as_info_nce,
    generator_loss,
    mean_over_taps,
    patch_contrast,
    relation_consistency,
)
from patchkin.losses.augmentation import AugmentationKind, augmented
from patchkin.losses.contrast import check_temperature
from patchkin.method import Method, Preset, Progress, Terms, Update
from patchkin.networks import (
    InitConfig,
    PatchGANConfig,
    PatchMap,
    ProjectionHead,
    ResNetConfig,
    ResNetGenerator,
    SharedPlaces,
    check_channels,
    discriminator,
    initialize,
    match_channels,
    patch_maps,
)
from patchkin.randomness import Draws
from patchkin.schedules import AdamConfig, ScheduleConfig, gamma_curriculum
from patchkin.terms.adversary import check_adversary, discriminator_terms
from patchkin.terms.patches import check_patches, embedded_pairs

IN_TURN_PIXELS = 256 * 256
"""Of a batch, from which on a CPU computes A and B in turn (benchmarks/speed)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SemanticRelationConfig:
    """Defaults are the published horse-to-zebra values."""

    generator: ResNetConfig = field(default_factory=ResNetConfig)
    discriminator: PatchGANConfig = field(default_factory=PatchGANConfig)
    initialization: InitConfig = field(default_factory=InitConfig)
    generator_adam: AdamConfig = field(default_factory=AdamConfig)
    """For the generator and the projection head."""
    discriminator_adam: AdamConfig = field(default_factory=AdamConfig)
    adversarial: AdversarialMode = "lsgan"
    adversarial_weight: float = 1.0
    """lambda_GAN."""
    augmentation: tuple[AugmentationKind, ...] = ()
    """Random changes of all images that the discriminator sees (Zhao et al. 2020). Ours; not in the
    paper."""
    r1_weight: float = 0.0
    """Of the discriminator's squared slope at real images, per patch. Ours; not in the paper."""
    taps: tuple[int, ...] = (0, 4, 8, 12, 16)
    """Modules of the generator whose output is compared."""
    head_width: int = 256
    """Length of an embedded patch."""
    num_patches: int = 256
    """K: places drawn per tap, shared by the images of a batch; fewer if the map has fewer."""
    relation_weight: float = 0.05
    """lambda_SRC. The loss is a sum over patches, so it goes with `num_patches`. 0 switches SRC
    off (Table 3)."""
    contrast: Literal["nce", "dce"] = "dce"
    """InfoNCE, or the decoupled form without the positive in the denominator (Eq. 6; Table 3)."""
    contrast_weight: float = 0.1
    """lambda_hDCE."""
    temperature: float = 0.07
    """tau of the contrast. SRC has no temperature."""
    identity: bool = True
    """Contrast B with G(B) too; both contrasts then count half (released: dce_idt)."""
    hard_negatives: bool = True
    """Weight the negatives by the input's own similarities (Table 3)."""
    weights: Literal["released", "paper"] = "released"
    """Inside the exponent and scaled to a maximum of 1, or outside it with a mean of 1 (Eq. 5)."""
    gamma_divisor_start: float = 50.0
    """Divides similarities: large is gentle. The paper's gamma is 1 / divisor."""
    gamma_divisor_end: float = 10.0
    """At the end of the run; linear in between."""
    gamma_divisor_late: float | None = None
    """If set, replaces the line late in the run (released: step_gamma)."""
    gamma_late_from: float = 0.5
    """Share of the run after which `gamma_divisor_late` holds (released: epoch 200 of 400)."""
    all_negatives: bool = False
    """Contrast with the patches of the whole batch rather than of the same image."""

    branches: Literal["auto", "at_once", "in_turn"] = "auto"
    """Whether the two contrasts, of A and of B, are computed as one batch or one after the other:
    the same numbers within rounding. In turn needs about half of the memory; at once keeps an
    accelerator busier. `auto` is in turn on a CPU for batches of 256 x 256 pixels and more, where
    both take the same time; below, at once is quicker."""

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        for name in ("gamma_divisor_start", "gamma_divisor_end", "gamma_divisor_late"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"`{name}` must be positive; got {value}.")
        check_patches(self.taps, self.num_patches)
        check_channels(self.generator, self.discriminator)
        check_adversary(self.augmentation, self.r1_weight)


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
    "stable": Preset(
        summary="ours: horse2zebra with averaged weights and R1, which were measured to help",
        method=SemanticRelationConfig(r1_weight=1.0),
        schedule=ScheduleConfig(ema_decay=0.999, ema_warmup=True),  # benchmarks/toy
    ),
    "toy": Preset(
        summary="a small model for the built-in toy set, minutes on a CPU",
        method=SemanticRelationConfig(
            # Without a norm: instance norm takes away the colours of sky and grass, which so few
            # steps do not bring back (benchmarks/toy).
            generator=ResNetConfig(ngf=16, blocks=6, norm="none", antialias_down=False),
            discriminator=PatchGANConfig(ndf=16, antialias=False),
            initialization=InitConfig(gain=0.7),
            generator_adam=AdamConfig(learning_rate=5e-4),
            discriminator_adam=AdamConfig(learning_rate=2.5e-4),
            taps=(0, 4, 8, 12, 14),
            head_width=64,
            num_patches=64,
            relation_weight=0.5,
            contrast_weight=1.0,
        ),
        schedule=ScheduleConfig(steps=2000, ema_decay=0.995),
        data=DataConfig(size=64, load_size=64, workers=0),
    ),
}


class _Forward(NamedTuple):
    """What the generator makes of images, and the features of its input on the way."""

    outputs_BCHW: Tensor
    keys: list[Tensor]
    """Per tap, without graph."""


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
        self.contrast = Contrast(
            form=config.contrast,
            negatives=config.weights if config.hard_negatives else "uniform",
            temperature=config.temperature,
            all_negatives=config.all_negatives,
        )
        self.channels = (config.generator.in_channels, config.generator.out_channels)
        self.multiple_of = self.G.multiple_of
        self.min_size = self.G.min_size
        self.min_training_size = max(self.G.min_size, self.D.min_size)

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network; the head learns at the generator's rate."""
        generator, judge = self.config.generator_adam, self.config.discriminator_adam
        return {"G": generator, "F": generator, "D": judge}

    def train_step(self, batch: UnpairedBatch, update: Update, progress: Progress) -> None:
        """Forward A; D on the detached output; then G and F by the terms of A and of B.

        In turn, what belongs to B is computed when the maps of A are gone.
        """
        inputs = {"contrast": batch.a_BCHW}
        if self.config.identity and self.config.contrast_weight:
            inputs["identity_contrast"] = match_channels(batch.b_BCHW, self.channels[0])
        parts = [list(inputs)] if self._at_once(batch.a_BCHW) else [[name] for name in inputs]
        places = SharedPlaces(progress.draws, self.config.num_patches)

        def terms(part: list[str], forward: _Forward) -> Terms:
            queries = self.G.encode(
                match_channels(forward.outputs_BCHW, self.channels[0]), self.config.taps
            )
            pairs = self._embedded(queries, forward.keys, places)
            return self._semantic_terms(part, pairs, update, progress)

        def first_terms() -> Terms:
            shown_BCHW = augmented(fake_BCHW, self.config.augmentation, progress.draws)
            adversarial = generator_loss(self.config.adversarial, self.D(shown_BCHW))
            return {
                "adversarial": self.config.adversarial_weight * adversarial,
                **terms(parts[0], waiting.pop()),
            }

        def forward(part: list[str]) -> _Forward:
            return self._forward(torch.cat([inputs[name] for name in part]))

        waiting = [forward(parts[0])]
        fake_BCHW = waiting[0].outputs_BCHW[: len(batch)]
        update(
            "D",
            loss=lambda: self._discriminator_terms(
                fake_BCHW.detach(), batch.b_BCHW, progress.draws
            ),
        )
        rest = [lambda part=part: terms(part, forward(part)) for part in parts[1:]]
        update("G", "F", loss=[first_terms, *rest])

    def translate(self, x_BCHW: Tensor) -> Tensor:
        """G(x)."""
        y_BCHW: Tensor = self.G(x_BCHW)
        return y_BCHW

    def patch_maps(self, x_BCHW: Tensor, *, translated: bool = False) -> list[PatchMap]:
        """Maps of the generator's encoder at `taps`, embedded by F."""
        x_BCHW = match_channels(x_BCHW, self.channels[0])
        return patch_maps(self.G, self.F, self.config.taps, x_BCHW)

    def previews(self, batch: UnpairedBatch) -> dict[str, Tensor]:
        """Input, output, and with the identity term a target image and its reconstruction."""
        columns = {"input": batch.a_BCHW, "translated": self.G(batch.a_BCHW)}
        if self.config.identity:
            again = self.G(match_channels(batch.b_BCHW, self.channels[0]))
            columns |= {"target": batch.b_BCHW, "identity": again}
        return columns

    def gamma_divisor(self, progress: Progress) -> float:
        """The hardness of the negatives at this point of the curriculum."""
        return gamma_curriculum(
            progress.fraction,
            self.config.gamma_divisor_start,
            self.config.gamma_divisor_end,
            late=self.config.gamma_divisor_late,
            late_from=self.config.gamma_late_from,
        )

    def _at_once(self, x_BCHW: Tensor) -> bool:
        """Whether A and B go through the networks as one batch, or one after the other."""
        if self.config.branches == "auto":
            return x_BCHW.device.type != "cpu" or x_BCHW[:, 0].numel() < IN_TURN_PIXELS
        return self.config.branches == "at_once"

    def _forward(self, x_BCHW: Tensor) -> _Forward:
        outputs_BCHW, features = self.G.forward_with_taps(x_BCHW, self.config.taps)
        return _Forward(outputs_BCHW, [feature.detach() for feature in features])

    def _discriminator_terms(self, fake_BCHW: Tensor, real_BCHW: Tensor, draws: Draws) -> Terms:
        return discriminator_terms(
            self.D,
            fake_BCHW,
            real_BCHW,
            mode=self.config.adversarial,
            draws=draws,
            augmentation=self.config.augmentation,
            r1_weight=self.config.r1_weight,
        )

    def _semantic_terms(
        self,
        part: list[str],
        pairs: list[tuple[Tensor, Tensor]],
        update: Update,
        progress: Progress,
    ) -> Terms:
        """SRC and the contrast of A with G(A), the contrast of B with G(B), or both."""
        config, terms = self.config, {}
        num_images = len(pairs[0][0]) // len(part)
        if config.relation_weight and "contrast" in part:
            terms["relation"] = config.relation_weight * mean_over_taps(
                relation_consistency(q[:num_images], k[:num_images]) for q, k in pairs
            )
        if config.contrast_weight:
            share = config.contrast_weight / (2 if config.identity else 1)
            gamma_divisor = self.gamma_divisor(progress)
            for number, name in enumerate(part):
                images = slice(number * num_images, (number + 1) * num_images)
                rows = [
                    patch_contrast(q[images], k[images], self.contrast, gamma_divisor=gamma_divisor)
                    for q, k in pairs
                ]
                terms[name] = share * mean_over_taps(rows)
                if config.contrast == "dce":
                    # The released log shows the InfoNCE that DCE came from.
                    as_nce = mean_over_taps(as_info_nce(loss.detach()) for loss in rows)
                    update.report(**{f"{name}_as_nce": config.contrast_weight * as_nce})
        return terms

    def _embedded(
        self, queries: list[Tensor], keys: list[Tensor], places: SharedPlaces
    ) -> list[tuple[Tensor, Tensor]]:
        """Embedded patches of outputs (Eq. 2's w) and inputs (z) at the same places, per tap.

        The places are those of all images of the step, in both branches, as released.
        """
        return embedded_pairs(queries, keys, places.on(keys), query_head=self.F, key_head=self.F)
