"""NEGCUT: Wang, Zhou, Bao, Chen and Li, ICCV 2021 (arXiv 2108.04547).

CUT whose negatives are not the other patches of the image but come from a network N, which sees the
image's mean embedding and noise and learns to make them hard: N maximises the contrast that G and
the head F minimise,

    L_N = -(L_NCE(A, G(A)) + L_NCE(B, G(B))) / 2 - lambda_MS diversity,
    L_G = L_GAN + (L_NCE(A, G(A)) + L_NCE(B, G(B))) / 2.

The embedding that N sees is that of a momentum copy of F, taken at every place of the map. The
released code has three other kinds of negatives (`negatives_of`). How they are scaled and how wide
their layers are is not recorded: here all negatives have unit length, and hidden layers the width
of an embedded patch.

Differs from what one would expect, as released: with the identity term only its negatives count for
the diversity (`diversity_of`); the copy starts from weights of its own (`copied_start`); in the
step of G its gradient also goes through the negatives into G's encoder, 0.4 % of its length
(`detached_negatives`). The released option for N's learning rate has no effect, `negatives_adam`
has. The noise is drawn once for the images of a batch, as the places are, so that N processes do
what one does.

Shape suffixes: B images, C channels, H and W pixels, K patches, P negatives.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple, final

import torch
from torch import Tensor

from patchkin.config import check_at_least_one, check_positive
from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.errors import ConfigError
from patchkin.losses import (
    AdversarialMode,
    mean_over_taps,
)
from patchkin.losses.negatives import generated_info_nce, negative_diversity
from patchkin.method import Method, Preset, Progress, Terms, Update
from patchkin.networks import (
    InitConfig,
    PatchGANConfig,
    PatchMap,
    ProjectionHead,
    ResNetConfig,
    ResNetGenerator,
    check_channels,
    discriminator,
    draw_places,
    initialize,
    match_channels,
    patch_maps,
)
from patchkin.networks.momentum import follow
from patchkin.networks.negative_generator import FreeNegatives, NegativeGenerator
from patchkin.randomness import Draws
from patchkin.schedules import AdamConfig, ScheduleConfig
from patchkin.terms.adversary import adversarial_terms, discriminator_terms
from patchkin.terms.branches import stacked, unstacked
from patchkin.terms.patches import check_patches, embedded_pairs
from patchkin.terms.previews import one_sided_previews


@dataclass(frozen=True, kw_only=True, slots=True)
class NegCutConfig:
    """Defaults are the released NEGCUT; all that CUT has too is CUT's."""

    generator: ResNetConfig = field(default_factory=ResNetConfig)
    discriminator: PatchGANConfig = field(default_factory=PatchGANConfig)
    initialization: InitConfig = field(default_factory=InitConfig)
    """Of N and the copy of F too: the larger gain that the released code writes down for N comes
    before its layers exist."""
    generator_adam: AdamConfig = field(default_factory=AdamConfig)
    """For the generator and the projection head."""
    discriminator_adam: AdamConfig = field(default_factory=AdamConfig)
    negatives_adam: AdamConfig = field(default_factory=AdamConfig)
    """For the generator of negatives."""
    adversarial: AdversarialMode = "lsgan"
    adversarial_weight: float = 1.0
    """lambda_GAN."""
    taps: tuple[int, ...] = (0, 4, 8, 12, 16)
    """Modules of the generator whose output is compared."""
    head_width: int = 256
    """Length of an embedded patch."""
    num_patches: int = 256
    """P: places drawn per tap, fewer if the map has fewer, and negatives per tap, never fewer."""
    negatives_of: Literal["momentum", "projection", "features", "free"] = "momentum"
    """What makes an image's negatives: N from the mean embedding by the copy of F, or by F itself
    (released: neg_gen_al), N from the features with convolutions of its own (neg_gen), or nothing:
    rows that are learned, the same for all images (neg_param)."""
    noise_width: int = 64
    """Numbers of noise per negative (released: z_dim)."""
    temperature: float = 0.07
    """tau of the contrast."""
    contrast_weight: float = 1.0
    """lambda_NCE, for both contrast terms and both players."""
    diversity_weight: float = 1.0
    """lambda_MS."""
    diversity_of: Literal["released", "both"] = "released"
    """Whose negatives are kept diverse: those of the last contrast (the identity's, if there is
    one), or the mean over both."""
    head_momentum: float = 0.9
    """The copy of F keeps this share of itself at each step."""
    copied_start: bool = False
    """Start the copy from F. Released: from weights of its own, forgotten after some 40 steps."""
    detached_negatives: bool = False
    """Keep the gradient of G and F from going through the negatives into the encoder."""
    identity: bool = True
    """Contrast B with G(B) too; each contrast then counts half (released: nce_idt)."""
    flip_equivariance: bool = False
    """Flip the generator's input in half of the steps, and its features back (FastNEGCUT)."""

    def __post_init__(self) -> None:
        check_positive(self, "temperature")
        check_patches(self.taps, self.num_patches, fewest=2)  # negatives are compared in pairs
        check_at_least_one(self, "noise_width")
        if not 0 <= self.head_momentum < 1:
            raise ConfigError(f"`head_momentum` must be in [0, 1); got {self.head_momentum}.")
        check_channels(self.generator, self.discriminator)


PRESETS: Mapping[str, Preset] = {
    "negcut": Preset(
        summary="released NEGCUT: lambda_NCE 1, identity, 200 + 200 epochs",
        method=NegCutConfig(),
    ),
    "fastnegcut": Preset(
        summary="released FastNEGCUT: lambda_NCE 10, no identity, flips, 150 + 50 epochs",
        method=NegCutConfig(contrast_weight=10.0, identity=False, flip_equivariance=True),
        schedule=ScheduleConfig(epochs=200, decay_fraction=0.25),
    ),
    "toy": Preset(
        summary="a small NEGCUT for the built-in toy set, minutes on a CPU",
        method=NegCutConfig(
            generator=ResNetConfig(ngf=16, blocks=6, antialias_down=False),
            discriminator=PatchGANConfig(ndf=16, antialias=False),
            initialization=InitConfig(gain=1.0),
            generator_adam=AdamConfig(learning_rate=5e-4),
            discriminator_adam=AdamConfig(learning_rate=2.5e-4),
            taps=(0, 4, 8, 12, 14),
            head_width=64,
            num_patches=64,
            copied_start=True,
        ),
        schedule=ScheduleConfig(steps=2000),
        data=DataConfig(size=64, load_size=64),
    ),
}


class _Seen(NamedTuple):
    """What the contrast of a branch compares: of A, or with the identity term of B."""

    keys: list[Tensor]
    """Features of the inputs per tap."""
    queries: list[Tensor]
    """Features of the outputs per tap."""
    descriptions: list[Tensor]
    """What N sees of each input per tap: a mean embedding [B, C], or the features."""

    def detached(self) -> _Seen:
        """The same without graph."""
        return _Seen(*([feature.detach() for feature in part] for part in self))


@final
class NegCut(Method):
    """Contrastive translation with instance-wise hard negatives that are learned (NEGCUT)."""

    name: ClassVar[str] = "negcut"
    paper: ClassVar[str] = "Wang, Zhou, Bao, Chen, Li, ICCV 2021 (arXiv 2108.04547)"
    differs: ClassVar[str] = (
        "diversity of the identity branch alone counts; G learns through the negatives too"
    )
    config_type: ClassVar[type] = NegCutConfig
    presets: ClassVar[Mapping[str, Preset]] = PRESETS

    config: NegCutConfig

    def __init__(self, config: NegCutConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NegCutConfig()
        self.G = ResNetGenerator(config.generator)
        self.D = discriminator(config.discriminator)
        self.F = ProjectionHead(self.G.tap_channels(config.taps), config.head_width)
        averaging = config.negatives_of == "momentum"
        if averaging:
            self.F_average = copy.deepcopy(self.F)
        self.N = _negatives(config, self.G.tap_channels(config.taps))
        for network in self.children():
            initialize(network, config.initialization)
        if averaging:
            if config.copied_start:
                self.F_average.load_state_dict(self.F.state_dict())
            self.F_average.requires_grad_(False)
        self.channels = (config.generator.in_channels, config.generator.out_channels)
        self.multiple_of = self.G.multiple_of
        self.min_size = self.G.min_size
        self.min_training_size = max(self.G.min_size, self.D.min_size)

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network; the head learns at the generator's rate."""
        config = self.config
        return {
            **dict.fromkeys("GF", config.generator_adam),
            "D": config.discriminator_adam,
            "N": config.negatives_adam,
        }

    def train_step(self, batch: UnpairedBatch, update: Update, progress: Progress) -> None:
        """Forward once; D; N against the contrast; G and F for it; then the copy of F follows."""
        draws = progress.draws
        fake_BCHW, seen = self._forward(batch, draws)
        alone = {name: branch.detached() for name, branch in seen.items()}
        update(
            "D",
            loss=lambda: discriminator_terms(
                self.D, fake_BCHW.detach(), batch.b_BCHW, mode=self.config.adversarial
            ),
        )
        update("N", loss=lambda: self._negatives_terms(alone, draws))
        update("G", "F", loss=lambda: self._generator_terms(fake_BCHW, seen, draws))
        if self.config.negatives_of == "momentum":
            follow(self.F_average, self.F, momentum=self.config.head_momentum)

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

    def _forward(self, batch: UnpairedBatch, draws: Draws) -> tuple[Tensor, dict[str, _Seen]]:
        """G(A), and what N, F and G will compare: of A, and with the identity term of B."""
        inputs = {"nce": batch.a_BCHW}
        if self.config.identity:
            inputs["identity_nce"] = match_channels(batch.b_BCHW, self.channels[0])
        flipped = self.config.flip_equivariance and draws.coin()
        passes = [self._seen(x_BCHW, flipped=flipped) for x_BCHW in stacked([*inputs.values()])]
        parts = [
            unstacked([getattr(seen, part) for _, seen in passes], [*inputs])
            for part in _Seen._fields
        ]
        fake_BCHW = passes[0][0][: len(batch)]
        return fake_BCHW, {name: _Seen(*(part[name] for part in parts)) for name in inputs}

    def _seen(self, real_BCHW: Tensor, *, flipped: bool) -> tuple[Tensor, _Seen]:
        """Outputs, and what is compared of them and their inputs."""
        taps = self.config.taps
        if flipped:
            keys = self.G.encode(real_BCHW, taps)
            outputs_BCHW = self.G(real_BCHW.flip(-1))
        else:
            outputs_BCHW, keys = self.G.forward_with_taps(real_BCHW, taps)
        if self.config.detached_negatives:
            keys = [feature.detach() for feature in keys]
        queries = self.G.encode(match_channels(outputs_BCHW, self.channels[0]), taps)
        if flipped:
            queries = [feature.flip(-1) for feature in queries]
        return outputs_BCHW, _Seen(keys, queries, self._described(keys))

    def _described(self, features: list[Tensor]) -> list[Tensor]:
        """The mean over all places of the embedding by F or its copy, or what N pools itself."""
        if self.config.negatives_of in ("features", "free"):
            return features
        head = self.F_average if self.config.negatives_of == "momentum" else self.F
        everywhere = [
            torch.arange(feature.shape[2] * feature.shape[3], device=feature.device)
            for feature in features
        ]
        described = [rows_BKC.mean(dim=1) for rows_BKC in head(features, everywhere)]
        if self.config.detached_negatives:
            return [description_BC.detach() for description_BC in described]
        return described

    def _negatives_terms(self, seen: Mapping[str, _Seen], draws: Draws) -> Terms:
        """The contrast with its sign turned, and the diversity."""
        terms, diversities = {}, []
        for name, branch in seen.items():
            contrast, negatives = self._contrast(branch, draws)
            terms[name] = -self.config.contrast_weight * contrast / len(seen)
            diversities.append(mean_over_taps(map(negative_diversity, negatives)))
        counted = diversities if self.config.diversity_of == "both" else diversities[-1:]
        terms["diversity"] = -self.config.diversity_weight * torch.stack(counted).mean()
        return terms

    def _generator_terms(self, fake_BCHW: Tensor, seen: Mapping[str, _Seen], draws: Draws) -> Terms:
        config = self.config
        terms = adversarial_terms(
            self.D, fake_BCHW, mode=config.adversarial, weight=config.adversarial_weight
        )
        for name, branch in seen.items():
            contrast, _ = self._contrast(branch, draws)
            terms[name] = config.contrast_weight * contrast / len(seen)
        return terms

    def _contrast(self, seen: _Seen, draws: Draws) -> tuple[Tensor, list[Tensor]]:
        """The mean over taps, places and images, and the negatives [B, P, C] per tap."""
        config = self.config
        places = draw_places(seen.keys, config.num_patches, draws)
        shape = len(seen.keys[0]), config.num_patches, config.noise_width
        noises = [draws.normal_rows(*shape) for _ in seen.keys]  # each image has its own
        negatives = self.N(seen.descriptions, noises)
        pairs = embedded_pairs(seen.queries, seen.keys, places, query_head=self.F, key_head=self.F)
        contrast = mean_over_taps(
            generated_info_nce(*pair, negative_BPC, temperature=config.temperature)
            for pair, negative_BPC in zip(pairs, negatives, strict=True)
        )
        return contrast, negatives


def _negatives(config: NegCutConfig, channels: Sequence[int]) -> NegativeGenerator | FreeNegatives:
    """N, for taps of these channels."""
    if config.negatives_of == "free":
        return FreeNegatives(len(channels), config.num_patches, config.head_width)
    return NegativeGenerator(
        len(channels),
        config.head_width,
        config.noise_width,
        channels if config.negatives_of == "features" else None,
    )
