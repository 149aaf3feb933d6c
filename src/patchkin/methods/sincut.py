"""SinCUT: Park, Efros, Zhang and Zhu, ECCV 2020 (arXiv 2007.15651), Sec. 4.3 and appendix.

One source and one target image. Crops of both at many scales stand for the domains, the networks
are StyleGAN2's, and a patch of the output is told apart from the patches of the other crops of the
batch at the same place:

    L_D = 1/2 (L_fake + L_real) + lambda_R1 / 2 |grad D(B)|^2
    L_G = L_GAN + 1/2 (L_PatchNCE(A, G(A)) + L_PatchNCE(B, G(B))) + lambda_idt |G(B) - B|

`contrast="relation"` is the single-image form of Jung, Kwon and Ye (CVPR 2022, arXiv 2203.01532):
semantic relation consistency and the decoupled contrast with hard negatives in place of PatchNCE,

    L_G = L_GAN + SRC(A, G(A)) + 1/2 (hDCE(A, G(A)) + hDCE(B, G(B))) + lambda_idt |G(B) - B|.

Differs from the papers: the code of Jung et al. takes the patches of one crop (one) for those of
the batch when it leaves out the positives, so that no weight of a negative is left: all are 1
whatever gamma is. `weights` chooses between that, which its published model had, and what was
meant. Its generators draw noise for every translation; here a translation always has the same.

Shape suffixes: B images, C channels, H and W pixels, K patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from patchkin.config import check_positive
from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.errors import ConfigError
from patchkin.losses import (
    AdversarialMode,
    Contrast,
    as_info_nce,
    mean_over_taps,
    patch_contrasts,
    relation_consistency,
)
from patchkin.losses.contrast import Negatives
from patchkin.method import Method, Preset, Progress, Terms, Update
from patchkin.networks import (
    InitConfig,
    PatchMap,
    ProjectionHead,
    StyleGan2Discriminator,
    StyleGan2DiscriminatorConfig,
    StyleGan2Generator,
    StyleGan2GeneratorConfig,
    check_channels,
    draw_places,
    initialize,
    match_channels,
    patch_maps,
)
from patchkin.randomness import Draws, sent
from patchkin.schedules import AdamConfig, ScheduleConfig
from patchkin.terms.adversary import adversarial_terms, discriminator_terms
from patchkin.terms.identity import identity_terms
from patchkin.terms.patches import (
    PatchContrastConfig,
    check_patches,
    check_places,
    chosen_places,
    embedded_pairs,
    hardness,
    of_whole_batch,
)
from patchkin.terms.previews import one_sided_previews

_ADAM = AdamConfig(learning_rate=2e-3, beta1=0.0, beta2=0.99)


@dataclass(frozen=True, kw_only=True, slots=True)
class SinCutConfig(PatchContrastConfig):
    """Defaults are the released SinCUT."""

    generator: StyleGan2GeneratorConfig = field(default_factory=StyleGan2GeneratorConfig)
    discriminator: StyleGan2DiscriminatorConfig = field(
        default_factory=StyleGan2DiscriminatorConfig
    )
    head_initialization: InitConfig = field(default_factory=InitConfig)
    """Of F. G and D have StyleGAN2's own scaled weights."""
    generator_adam: AdamConfig = _ADAM
    """For the generator and the projection head."""
    discriminator_adam: AdamConfig = _ADAM
    adversarial: AdversarialMode = "nonsaturating"
    adversarial_weight: float = 1.0
    """lambda_GAN."""
    r1_weight: float = 1.0
    """lambda_R1, of half the squared gradient of D at real crops, in every step. 0: none."""
    identity_weight: float = 1.0
    """lambda_idt, of the plain difference between B and G(B)."""
    taps: tuple[int, ...] = (0, 2, 4)
    """Layers of the generator's encoder whose output is compared: colours, the halving block and
    the second plain block, with receptive fields of 1, 8 and 24 pixels."""
    head_width: int = 256
    """Length of an embedded patch."""
    num_patches: int = 1
    all_negatives: bool = True
    """Compare with the patches of the whole batch rather than of the same image."""
    temperature: float = 0.07
    """tau of the contrast."""
    contrast: Literal["nce", "relation"] = "nce"
    """PatchNCE, or SRC and hDCE."""
    contrast_weight: float = 4.0
    """lambda_NCE, or lambda_hDCE."""
    relation_weight: float = 10.0
    """lambda_SRC, a weight of a sum over all patches that are compared, so it goes with the batch
    size; with `contrast` relation only."""
    relation_reduction: Literal["sum", "mean"] = "sum"
    """Of SRC over the patches that are compared; a mean does not depend on the batch size."""
    negatives: Negatives | None = None
    """What negatives weigh: all the same, by the inputs' similarities as `released` elsewhere or as
    in the `paper` of semantic relation, or by optimal transport (MoNCE). By default uniform for
    PatchNCE, and for `contrast` relation as `weights`, its older name, says."""
    weights: Literal["released", "fixed"] = "released"
    """Of hard negatives, with `contrast` relation only: all 1 as in the released single-image code,
    or by the similarities of the inputs' patches, which was meant (`negatives` released)."""
    gamma_divisor_start: float = 200.0
    gamma_divisor_end: float = 40.0

    def __post_init__(self) -> None:
        PatchContrastConfig.__post_init__(self)
        check_positive(self, "temperature")
        check_places(self, self.taps, discriminator=self.discriminator)
        if self.negatives is not None and self.weights != "released":
            raise ConfigError("`negatives` replaces `weights`: give it alone.")
        check_patches(self.taps, self.num_patches)
        if self.num_patches == 1 and not self.all_negatives:
            raise ConfigError(
                "One patch per image has no negatives in its image; set `all_negatives`, or "
                "`num_patches` to 2 or more."
            )
        several = self.num_patches > 1 or not self.all_negatives
        void = self.negatives is None and self.weights == "released"
        if self.contrast == "relation" and void and several:
            raise ConfigError(
                "The released weights are void for one patch per image and undefined for more; "
                "set `weights` fixed."
            )
        check_channels(self.generator, self.discriminator)


_CROPS = DataConfig(size=64, preprocess="zoom_and_patch", batch_size=16)
_EPOCHS = ScheduleConfig(epochs=16)

PRESETS: Mapping[str, Preset] = {
    "released": Preset(
        summary="released SinCUT: 16 crops of 64 pixels, 8 + 8 epochs of 100,000 crops",
        method=SinCutConfig(),
        schedule=_EPOCHS,
        data=_CROPS,
    ),
    "semantic-relation": Preset(
        summary="released SRC + hDCE for Monet: lambda_SRC 10, lambda_hDCE 4, weights void",
        method=SinCutConfig(contrast="relation"),
        schedule=_EPOCHS,
        data=_CROPS,
    ),
    "semantic-relation-fixed": Preset(
        summary="the same with the hard negatives that were meant: gamma divisor 200 to 40",
        method=SinCutConfig(contrast="relation", weights="fixed"),
        schedule=_EPOCHS,
        data=_CROPS,
    ),
    "toy": Preset(
        summary="a small SinCUT for the built-in toy set (many images), minutes on a CPU",
        method=SinCutConfig(
            generator=StyleGan2GeneratorConfig(ngf=3, blocks=4),
            discriminator=StyleGan2DiscriminatorConfig(ndf=2),
            head_width=64,
            num_patches=64,
            all_negatives=False,
        ),
        schedule=ScheduleConfig(steps=1000, ema_decay=0.995),
        data=DataConfig(size=64, load_size=72, batch_size=4, workers=0),
    ),
}


@final
class SinCut(Method):
    """Single-image contrastive translation (SinCUT), and its form with semantic relations."""

    name: ClassVar[str] = "sincut"
    paper: ClassVar[str] = "Park, Efros, Zhang, Zhu, ECCV 2020 (arXiv 2007.15651)"
    differs: ClassVar[str] = (
        "noise anew for every translation; with semantic relation all negatives weigh 1"
    )
    config_type: ClassVar[type] = SinCutConfig
    presets: ClassVar[Mapping[str, Preset]] = PRESETS

    config: SinCutConfig

    def __init__(self, config: SinCutConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SinCutConfig()
        self.G = StyleGan2Generator(config.generator)
        self.D = StyleGan2Discriminator(config.discriminator)
        self.F = ProjectionHead(self.G.tap_channels(config.taps), config.head_width)
        initialize(self.F, config.head_initialization)
        weighed = config.contrast == "relation" and config.weights == "fixed"
        by_default: Negatives = "released" if weighed else "uniform"
        self.contrast = Contrast(
            form="dce" if config.contrast == "relation" else "nce",
            negatives=config.negatives or by_default,
            temperature=config.temperature,
            transport=config.transport,
        )
        self.channels = (config.generator.in_channels, config.generator.out_channels)
        self.multiple_of = self.G.multiple_of
        self.min_size = self.G.min_size
        self.min_training_size = self.training_side = self.D.size
        self.compares_batch = config.all_negatives
        self.min_batch_size = 2 if config.num_patches == 1 else 1

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network; the head learns at the generator's rate."""
        config = self.config
        return dict.fromkeys("GF", config.generator_adam) | {"D": config.discriminator_adam}

    def train_step(self, batch: UnpairedBatch, update: Update, progress: Progress) -> None:
        """Forward once, with noise; D on the detached output; then G and F together."""
        config = self.config
        real_BCHW = torch.cat([batch.a_BCHW, match_channels(batch.b_BCHW, self.channels[0])])
        outputs_BCHW, features = self.G.forward_with_taps(
            real_BCHW, config.taps, self._noise(real_BCHW, progress.draws)
        )
        keys = [feature.detach() for feature in features]
        fake_BCHW, identity_BCHW = outputs_BCHW[: len(batch)], outputs_BCHW[len(batch) :]

        def generator_terms() -> Terms:
            terms = adversarial_terms(
                self.D, fake_BCHW, mode=config.adversarial, weight=config.adversarial_weight
            )
            queries = self.G.encode(match_channels(outputs_BCHW, self.channels[0]), config.taps)
            if config.contrast == "nce":
                terms |= self._nce_terms(queries, keys, len(batch), update, progress)
            else:
                terms |= self._semantic_terms(queries, keys, len(batch), update, progress)
            return terms | identity_terms(
                identity_BCHW, batch.b_BCHW, weight=config.identity_weight
            )

        update(
            "D",
            loss=lambda: discriminator_terms(
                self.D,
                fake_BCHW.detach(),
                batch.b_BCHW,
                mode=config.adversarial,
                r1_weight=config.r1_weight,
                together=False,  # twice as large a batch would round otherwise
            ),
        )
        update("G", "F", loss=generator_terms)

    def translate(self, x_BCHW: Tensor) -> Tensor:
        """G(x), always with the same noise."""
        y_BCHW: Tensor = self.G(x_BCHW)
        return y_BCHW

    def patch_maps(self, x_BCHW: Tensor, *, translated: bool = False) -> list[PatchMap]:
        """Maps of the generator's encoder at `taps`, embedded by F."""
        x_BCHW = match_channels(x_BCHW, self.channels[0])
        return patch_maps(self.G, self.F, self.config.taps, x_BCHW)

    def previews(self, batch: UnpairedBatch) -> dict[str, Tensor]:
        """Input, output, a target image and what G makes of it."""
        return one_sided_previews(self.G, batch, self.channels[0], identity=True)

    def gamma_divisor(self, progress: Progress) -> float:
        """The hardness of the negatives at this point of the curriculum."""
        return hardness(self.config, progress.fraction)

    def _noise(self, x_BCHW: Tensor, draws: Draws) -> list[Tensor]:
        height, width = x_BCHW.shape[-2:]
        sizes = self.G.noise_sizes(height, width)
        return [sent(draws.normal_rows(len(x_BCHW), 1, h, w), x_BCHW.device) for h, w in sizes]

    def _nce_terms(
        self,
        queries: list[Tensor],
        keys: list[Tensor],
        num_images: int,
        update: Update,
        progress: Progress,
    ) -> Terms:
        """PatchNCE of A with G(A) and of B with G(B), each at places of its own, as released."""
        config, terms = self.config, {}
        branches = {"nce": slice(0, num_images), "identity_nce": slice(num_images, None)}
        for name, branch in branches.items():
            drawn = draw_places(keys, config.num_patches, progress.draws)
            pairs = self._embedded(
                queries, keys, branch, drawn, update=update, draws=progress.draws
            )
            contrast = mean_over_taps(
                patch_contrasts(pairs, self.contrast, gamma_divisor=self.gamma_divisor(progress))
            )
            terms[name] = 0.5 * config.contrast_weight * contrast
        return terms

    def _semantic_terms(
        self,
        queries: list[Tensor],
        keys: list[Tensor],
        num_images: int,
        update: Update,
        progress: Progress,
    ) -> Terms:
        """SRC of A with G(A); hDCE of A with G(A) and of B with G(B), at the same places."""
        config, terms = self.config, {}
        drawn = draw_places(keys, config.num_patches, progress.draws)
        source, target = slice(0, num_images), slice(num_images, None)
        pairs = {
            name: self._embedded(queries, keys, branch, drawn, update=update, draws=progress.draws)
            for name, branch in (("contrast", source), ("identity_contrast", target))
        }
        if config.relation_weight:
            relation = mean_over_taps(
                relation_consistency(*pair, reduction=config.relation_reduction)
                for pair in pairs["contrast"]
            )
            terms["relation"] = config.relation_weight * relation
        gamma_divisor = self.gamma_divisor(progress)
        for name, rows in pairs.items():
            losses = patch_contrasts(rows, self.contrast, gamma_divisor=gamma_divisor)
            terms[name] = 0.5 * config.contrast_weight * mean_over_taps(losses)
            # The released log shows the InfoNCE that the decoupled loss came from.
            as_nce = mean_over_taps(as_info_nce(loss.detach()) for loss in losses)
            update.report(**{f"{name}_as_nce": config.contrast_weight * as_nce})
        return terms

    def _embedded(
        self,
        queries: list[Tensor],
        keys: list[Tensor],
        branch: slice,
        drawn: list[Tensor],
        *,
        update: Update,
        draws: Draws,
    ) -> list[tuple[Tensor, Tensor]]:
        """Patches of outputs and inputs at the same places, per tap; those that are compared with
        each other in one row: of an image, or (`all_negatives`) of the batch of all processes.
        """
        config, own_keys = self.config, [key[branch] for key in keys]
        pairs = embedded_pairs(
            [query[branch] for query in queries],
            own_keys,
            chosen_places(own_keys, config.taps, config, draws, drawn=drawn),
            query_head=self.F,
            key_head=self.F,
        )
        if not config.all_negatives:
            return pairs
        return [
            (query.flatten(0, 1)[None], key.flatten(0, 1)[None])
            for query, key in of_whole_batch(pairs, update)
        ]
