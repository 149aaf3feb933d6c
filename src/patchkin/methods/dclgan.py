"""DCLGAN: Han, Shoeiby, Petersson and Armin, CVPRW 2021 (arXiv 2104.07689).

Both directions at once, as in CycleGAN, but content is kept by PatchNCE instead of a cycle. Each
domain has an encoder and a projection head of its own: images of A, real or generated, are embedded
by the first half of G_A and by F_A, images of B by G_B and F_B (the released F1 and F2, the paper's
H_X and H_Y). D_A judges domain B and D_B judges domain A (the paper's D_Y and D_X).

    L_G = L_GAN(G_A) + L_GAN(G_B) + lambda_NCE (L_NCE(a, G_A(a)) + L_NCE(b, G_B(b)))
        + lambda_idt (|G_A(b) - b| + |G_B(a) - a|)

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
    relation_consistency,
)
from patchkin.method import Method, Preset, Progress, Terms, Update
from patchkin.networks import (
    ImagePool,
    ImagePoolConfig,
    InitConfig,
    PatchGANConfig,
    PatchMap,
    ProjectionHead,
    ResNetConfig,
    ResNetGenerator,
    check_pair,
    discriminator_pair,
    draw_places,
    generator_pair,
    initialize,
    judge_together,
    match_channels,
    patch_maps,
)
from patchkin.schedules import AdamConfig, ScheduleConfig, gamma_curriculum
from patchkin.terms.patches import check_patches, embedded_pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class DclGanConfig:
    """Defaults are the released DCLGAN."""

    generator: ResNetConfig = field(default_factory=ResNetConfig)
    """Of G_A; G_B is the same with the channels exchanged."""
    discriminator: PatchGANConfig = field(default_factory=PatchGANConfig)
    """Of D_A; D_B is the same for the channels of domain A."""
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
    num_patches: int = 256
    """Places drawn per tap, shared by the images of a batch; fewer if the map has fewer."""
    temperature: float = 0.07
    """tau of the contrast."""
    contrast: Literal["nce", "relation"] = "nce"
    """PatchNCE, or SRC and hDCE (ours)."""
    contrast_weight: float = 2.0
    """lambda_NCE, or lambda_hDCE."""
    relation_weight: float = 0.05
    """lambda_SRC, a weight of a sum over patches; with `contrast` relation only."""
    gamma_divisor_start: float = 50.0
    """Hardness of negatives, with `contrast` relation only: large is gentle."""
    gamma_divisor_end: float = 10.0
    """At the end of the run; linear in between."""
    identity_weight: float = 1.0
    """lambda_idt."""
    pair_sum: Literal["released", "paper"] = "released"
    """Half of the sum of both directions, or the sum."""
    all_negatives: bool = False
    """Contrast with the patches of the whole batch rather than of the same image."""

    def __post_init__(self) -> None:
        for name in ("temperature", "gamma_divisor_start", "gamma_divisor_end"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"`{name}` must be positive; got {getattr(self, name)}.")
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


class _Forward(NamedTuple):
    """What one generator makes of its source, and the features of the source on the way."""

    fake_BCHW: Tensor
    identity_BCHW: Tensor | None
    """What it makes of its target; None without the identity term."""
    keys: list[Tensor]
    """Per tap, without graph."""


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
    translating: ClassVar[tuple[str, ...]] = ("G_A", "G_B")
    directions: ClassVar[tuple[str, ...]] = ("AtoB", "BtoA")

    config: DclGanConfig

    def __init__(self, config: DclGanConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DclGanConfig()
        self.channels = (config.generator.in_channels, config.generator.out_channels)
        self.G_A, self.G_B = generator_pair(config.generator)
        self.D_A, self.D_B = discriminator_pair(config.discriminator, config.generator)
        self.F_A = ProjectionHead(self.G_A.tap_channels(config.taps), config.head_width)
        self.F_B = ProjectionHead(self.G_B.tap_channels(config.taps), config.head_width)
        self.pool_A = ImagePool(self.channels[1], config.pool)
        self.pool_B = ImagePool(self.channels[0], config.pool)
        for network in (self.G_A, self.G_B, self.D_A, self.D_B, self.F_A, self.F_B):
            initialize(network, config.initialization)
        decoupling = config.contrast == "relation"
        self.contrast = Contrast(
            form="dce" if decoupling else "nce",
            negatives="released" if decoupling else "uniform",
            cosine=not decoupling,
            temperature=config.temperature,
            all_negatives=config.all_negatives,
        )
        self.multiple_of = self.G_A.multiple_of
        self.min_size = self.G_A.min_size
        self.min_training_size = max(self.G_A.min_size, self.D_A.min_size)

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network; the heads have rates of their own."""
        config = self.config
        return {
            "G_A": config.generator_adam,
            "G_B": config.generator_adam,
            "F_A": config.head_adam,
            "F_B": config.head_adam,
            "D_A": config.discriminator_adam,
            "D_B": config.discriminator_adam,
        }

    def train_step(self, batch: UnpairedBatch, update: Update, progress: Progress) -> None:
        """Forward once; both discriminators; then both generators and heads."""
        to_b = self._forward(self.G_A, batch.a_BCHW, batch.b_BCHW)
        to_a = self._forward(self.G_B, batch.b_BCHW, batch.a_BCHW)
        shown_b_BCHW = self.pool_A(to_b.fake_BCHW, progress.draws, update.gather)
        shown_a_BCHW = self.pool_B(to_a.fake_BCHW, progress.draws, update.gather)

        def generator_terms() -> Terms:
            terms = {
                **self._adversarial_terms(to_b.fake_BCHW, to_a.fake_BCHW),
                **self._contrast_terms(to_b, to_a, progress),
                **self._identity_terms(batch, to_b, to_a),
            }
            share = 0.5 if self.config.pair_sum == "released" else 1.0
            return {name: share * term for name, term in terms.items()}

        update(
            "D_A",
            "D_B",
            loss=lambda: self._discriminator_terms(batch, shown_b_BCHW, shown_a_BCHW),
        )
        update("G_A", "G_B", "F_A", "F_B", loss=generator_terms)

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

    def gamma_divisor(self, progress: Progress) -> float:
        """The hardness of the negatives at this point of the curriculum."""
        return gamma_curriculum(
            progress.fraction, self.config.gamma_divisor_start, self.config.gamma_divisor_end
        )

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
            return _Forward(fake_BCHW, generator(parts[1]), [f.detach() for f in features])
        outputs_BCHW, features = generator.forward_with_taps(torch.cat(parts), self.config.taps)
        return _Forward(
            outputs_BCHW[:num_images],
            outputs_BCHW[num_images:] if self.config.identity_weight else None,
            [feature[:num_images].detach() for feature in features],
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

    def _contrast_terms(self, to_b: _Forward, to_a: _Forward, progress: Progress) -> Terms:
        """A with G_A(A), then B with G_B(B): keys in the input's embedding, queries in the other's.

        Keys are constant, so each term teaches the output's head and encoder, and the generator.
        """
        config, terms = self.config, {}
        for name, forward, key_head, query_encoder, query_head in (
            ("A", to_b, self.F_A, self.G_B, self.F_B),
            ("B", to_a, self.F_B, self.G_A, self.F_A),
        ):
            places = draw_places(forward.keys, config.num_patches, progress.draws)
            pairs = embedded_pairs(
                query_encoder.encode(forward.fake_BCHW, config.taps),
                forward.keys,
                places,
                query_head=query_head,
                key_head=key_head,
            )
            if config.contrast == "relation" and config.relation_weight:
                relation = mean_over_taps(relation_consistency(*pair) for pair in pairs)
                terms[f"relation_{name}"] = config.relation_weight * relation
            if config.contrast_weight:
                gamma_divisor = self.gamma_divisor(progress)
                contrast = mean_over_taps(
                    patch_contrast(*pair, self.contrast, gamma_divisor=gamma_divisor)
                    for pair in pairs
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
