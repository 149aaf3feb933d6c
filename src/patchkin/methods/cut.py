"""CUT and FastCUT: Park, Efros, Zhang and Zhu, ECCV 2020 (arXiv 2007.15651).

One generator, one discriminator on the target domain, one projection head. Content is kept by
PatchNCE: a patch of the output must resemble the patch of the input at the same place more than
the input's other patches, on several layers of the generator's own encoder,

    L_G = L_GAN + lambda_X L_PatchNCE(A, G(A)) + lambda_Y L_PatchNCE(B, G(B)).

FastCUT drops the identity term (lambda_Y = 0), raises lambda_X to 10 and flips half of the inputs.

Differs from the paper: the released code takes half the sum of the two contrast terms, which
`contrast_sum` chooses, and means over layers and places where the paper sums. The paper's learning
rate is 0.002, the released one 0.0002, which its numbers were made with. The external-negatives
variant (the paper's MoCo ablation) was never released; `negatives_from` is ours. `negatives`
optimal-transport is MoNCE, `places` attention is QS-Attn (both CVPR 2022).

Shape suffixes: B images, C channels, H and W pixels, K patches, M entries of the memory bank.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, cast, final

import torch
from torch import Tensor

from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.errors import ConfigError
from patchkin.losses import mean_over_taps, patch_contrasts
from patchkin.losses.contrast import Negatives
from patchkin.method import Method, Preset, Progress, Terms, Update
from patchkin.networks import (
    PatchMap,
    ProjectionHead,
    ResNetGenerator,
    discriminator,
    draw_places,
    initialize,
    match_channels,
    patch_maps,
)
from patchkin.networks.momentum import follow
from patchkin.networks.patch_bank import PatchBank
from patchkin.numerics import constants
from patchkin.randomness import Draws
from patchkin.schedules import AdamConfig, ScheduleConfig
from patchkin.terms.branches import stacked, unstacked
from patchkin.terms.one_sided import (
    TOY,
    OneSidedConfig,
    one_sided_adversarial_terms,
    one_sided_contrast,
    one_sided_discriminator_terms,
    shown_to_discriminator,
)
from patchkin.terms.patches import (
    chosen_places,
    embedded_pairs,
    guiding_logits,
    hardness,
    of_whole_batch,
)
from patchkin.terms.previews import one_sided_previews


@dataclass(frozen=True, kw_only=True, slots=True)
class CutConfig(OneSidedConfig):
    """Defaults are the released CUT."""

    contrast_weight: float = 1.0
    """lambda_NCE, for both contrast terms."""
    contrast_sum: Literal["released", "paper"] = "released"
    """With `identity`: half of the sum of both contrast terms, or their sum."""
    flip_equivariance: bool = False
    """Flip the generator's input in half of the steps, and its features back (FastCUT)."""
    negatives: Literal[Negatives, "internal", "external", "both"] = "uniform"
    """What negatives weigh: all the same, by the input's similarities (`semantic-relation`; ours
    here) or by optimal transport (MoNCE). The last three are older words for `negatives_from`."""
    negatives_from: Literal["internal", "external", "both"] = "internal"
    """Of A against G(A): of the image, of a memory bank of the source domain, or of both. The paper
    leaves open where the bank's positives come from and how it starts; ours are of the live
    encoder, and it is filled from data before step 1."""
    bank_size: int = 16384
    """Patches per tap in the memory bank."""
    bank_momentum: float = 0.999
    """Of the averaged encoder and head that fill the bank."""

    def __post_init__(self) -> None:
        OneSidedConfig.__post_init__(self)
        if self.negatives in ("internal", "external", "both"):
            object.__setattr__(self, "negatives_from", self.negatives)
            object.__setattr__(self, "negatives", "uniform")
        if self.negatives_from == "external" and self.negatives != "uniform":
            raise ConfigError("A memory bank's negatives are not weighed: `negatives_from` both?")


PRESETS: Mapping[str, Preset] = {
    "cut": Preset(
        summary="released CUT: lambda_NCE 1, identity, 200 + 200 epochs",
        method=CutConfig(),
    ),
    "fastcut": Preset(
        summary="released FastCUT: lambda_NCE 10, no identity, flips, 150 + 50 epochs",
        method=CutConfig(contrast_weight=10.0, identity=False, flip_equivariance=True),
        schedule=ScheduleConfig(epochs=200, decay_fraction=0.25),
    ),
    "paper-weights": Preset(
        summary="CUT with the paper's lambda_X = lambda_Y = 1 instead of half of each",
        method=CutConfig(contrast_sum="paper"),
    ),
    "toy": Preset(
        summary="a small CUT for the built-in toy set, minutes on a CPU",
        method=CutConfig(**TOY),
        schedule=ScheduleConfig(steps=2000, ema_decay=0.995),
        data=DataConfig(size=64, load_size=64, workers=0),
    ),
}
_Maps = Mapping[str, list[Tensor]]


@final
class Cut(Method):
    """Contrastive unpaired translation (CUT), FastCUT, and CUT with a memory bank."""

    name: ClassVar[str] = "cut"
    paper: ClassVar[str] = "Park, Efros, Zhang, Zhu, ECCV 2020 (arXiv 2007.15651)"
    differs: ClassVar[str] = (
        "halves the sum of the contrast terms, averages where the paper sums, learns at 0.0002"
    )
    config_type: ClassVar[type] = CutConfig
    presets: ClassVar[Mapping[str, Preset]] = PRESETS

    config: CutConfig

    def __init__(self, config: CutConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CutConfig()
        self.G = ResNetGenerator(config.generator)
        self.D = discriminator(config.discriminator)
        self.F = ProjectionHead(self.G.tap_channels(config.taps), config.head_width)
        for network in (self.G, self.D, self.F):
            initialize(network, config.initialization)
        self.pool = config.image_pool()
        self.contrast = one_sided_contrast(config, cast(Negatives, config.negatives))
        self.channels = (config.generator.in_channels, config.generator.out_channels)
        self.multiple_of = self.G.multiple_of
        self.min_size = self.G.min_size
        self.min_training_size = max(self.G.min_size, self.D.min_size)
        self.compares_batch = config.all_negatives
        if config.negatives_from != "internal":
            self.G_average = copy.deepcopy(self.G)
            self.F_average = copy.deepcopy(self.F)
            self.bank = PatchBank(len(config.taps), config.bank_size, config.head_width)

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network; the head learns at the generator's rate."""
        config = self.config
        return dict.fromkeys("GF", config.generator_adam) | {"D": config.discriminator_adam}

    def train_step(self, batch: UnpairedBatch, update: Update, progress: Progress) -> None:
        """Forward once; D on the detached output; then G and F; then the bank follows."""
        config, draws = self.config, progress.draws
        inputs = {"nce": batch.a_BCHW}
        if config.identity:
            inputs["identity_nce"] = match_channels(batch.b_BCHW, self.channels[0])
        names, flipped = list(inputs), config.flip_equivariance and draws.coin()
        passes = [self._forward(x_BCHW, flipped=flipped) for x_BCHW in stacked([*inputs.values()])]
        fake_BCHW = passes[0][0][: len(batch)]
        keys = unstacked([features for _, features in passes], names)

        def generator_terms() -> Terms:
            terms = one_sided_adversarial_terms(self.D, fake_BCHW, config, draws)
            if not config.contrast_weight:
                return terms
            seen = [self._encoded(outputs_BCHW, flipped=flipped) for outputs_BCHW, _ in passes]
            outputs = unstacked([[outputs_BCHW] for outputs_BCHW, _ in passes], names)
            logits = {n: guiding_logits(self.D, outputs[n][0], config, flipped) for n in names}
            return terms | self._contrast_terms(
                unstacked(seen, names), keys, logits, update, progress
            )

        shown_BCHW = shown_to_discriminator(self.pool, fake_BCHW, draws, update.gather)
        judged = (self.D, shown_BCHW, batch.b_BCHW, config, draws)
        update("D", loss=lambda: one_sided_discriminator_terms(*judged))
        update("G", "F", loss=generator_terms)
        if config.negatives_from != "internal":
            follow(self.G_average, self.G, momentum=config.bank_momentum)
            follow(self.F_average, self.F, momentum=config.bank_momentum)
            self.bank(self._keys_of_average(update.gather(batch.a_BCHW), draws))

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

    def prepare(self, batches: Iterable[UnpairedBatch], draws: Draws) -> None:
        """Fill the memory bank from real source images, again and again if they are few."""
        if self.config.negatives_from != "internal":
            self.bank.fill(self._keys_of_average(batch.a_BCHW, draws) for batch in batches)

    def _forward(self, real_BCHW: Tensor, *, flipped: bool) -> tuple[Tensor, list[Tensor]]:
        """Outputs, perhaps of mirrored images; features of the images per tap, without graph."""
        if flipped:
            with constants():
                keys = self.G.encode(real_BCHW, self.config.taps)
            return self.G(real_BCHW.flip(-1)), keys
        outputs_BCHW, features = self.G.forward_with_taps(real_BCHW, self.config.taps)
        return outputs_BCHW, [feature.detach() for feature in features]

    def _encoded(self, outputs_BCHW: Tensor, *, flipped: bool) -> list[Tensor]:
        """Features of outputs per tap, mirrored back."""
        features = self.G.encode(match_channels(outputs_BCHW, self.channels[0]), self.config.taps)
        return [feature.flip(-1) for feature in features] if flipped else features

    def _contrast_terms(
        self,
        queries: _Maps,
        keys: _Maps,
        logits: Mapping[str, Tensor | None],
        update: Update,
        progress: Progress,
    ) -> Terms:
        """PatchNCE of A with G(A), and with the identity term of B with G(B)."""
        config, terms = self.config, {}
        share = 0.5 if config.identity and config.contrast_sum == "released" else 1.0
        for name in keys:
            external = name == "nce" and config.negatives_from != "internal"
            places = chosen_places(
                keys[name], config.taps, config, progress.draws, logits_BNhw=logits[name]
            )
            pairs = embedded_pairs(queries[name], keys[name], places, query_head=self.F)
            pairs = of_whole_batch(pairs, update) if config.all_negatives else pairs
            contrast = mean_over_taps(
                patch_contrasts(
                    pairs,
                    self.contrast,
                    gamma_divisor=hardness(config, progress.fraction),
                    externals=list(self.bank.rows_LMC) if external else None,
                    internal=not external or config.negatives_from == "both",
                )
            )
            terms[name] = share * config.contrast_weight * contrast
        return terms

    @torch.no_grad()
    def _keys_of_average(self, real_BCHW: Tensor, draws: Draws) -> list[Tensor]:
        """Patches of source images, seen by the averaged networks, [B, K, C] per tap."""
        features = self.G_average.encode(real_BCHW, self.config.taps)
        places = draw_places(features, self.config.num_patches, draws)
        rows: list[Tensor] = self.F_average(features, places)
        return rows
