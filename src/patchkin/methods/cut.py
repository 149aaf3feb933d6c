"""CUT and FastCUT: Park, Efros, Zhang and Zhu, ECCV 2020 (arXiv 2007.15651).

One generator, one discriminator on the target domain, one projection head. Content is kept by
PatchNCE: a patch of the output must resemble the patch of the input at the same place more than
the input's other patches, on several layers of the generator's own encoder,

    L_G = L_GAN + lambda_X L_PatchNCE(A, G(A)) + lambda_Y L_PatchNCE(B, G(B)).

FastCUT drops the identity term (lambda_Y = 0), raises lambda_X to 10 and flips half of the inputs.

Differs from the paper: the released code takes half the sum of the two contrast terms, which
`contrast_sum` chooses, and means over layers and places where the paper sums. The paper's learning
rate is 0.002, the released one 0.0002, which its numbers were made with. The external-negatives
variant (the paper's MoCo ablation) was never released; see `negatives` for what is ours.

Shape suffixes: B images, C channels, H and W pixels, K patches, M entries of the memory bank.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple, final

import torch
from torch import Tensor

from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.losses import (
    AdversarialMode,
    Contrast,
    generator_loss,
    mean_over_taps,
    patch_contrast,
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
    check_channels,
    discriminator,
    draw_places,
    initialize,
    match_channels,
    patch_maps,
)
from patchkin.randomness import Draws
from patchkin.schedules import AdamConfig, ScheduleConfig
from patchkin.terms.adversary import check_adversary, discriminator_terms
from patchkin.terms.patches import check_patches, embedded_pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class CutConfig:
    """Defaults are the released CUT."""

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
    """Modules of the generator whose output is compared. These have receptive fields of 1, 9, 15,
    35 and 99 pixels in the antialiased generator."""
    head_width: int = 256
    """Length of an embedded patch."""
    num_patches: int = 256
    """Places drawn per tap, shared by the images of a batch; fewer if the map has fewer."""
    temperature: float = 0.07
    """tau of PatchNCE."""
    contrast_weight: float = 1.0
    """lambda_NCE, for both contrast terms."""
    identity: bool = True
    """Contrast B with G(B) too (released: nce_idt)."""
    contrast_sum: Literal["released", "paper"] = "released"
    """With `identity`: half of the sum of both contrast terms, or their sum."""
    flip_equivariance: bool = False
    """Flip the generator's input in half of the steps, and its features back (FastCUT)."""
    all_negatives: bool = False
    """Contrast with the patches of the whole batch rather than of the same image."""
    negatives: Literal["internal", "external", "both"] = "internal"
    """Where the negatives of A against G(A) come from: the image, a memory bank of the source
    domain, or both. The paper leaves open where the external variant's positives come from and how
    its bank starts; ours are of the live encoder, and the bank is filled from data before step 1.
    """
    bank_size: int = 16384
    """Patches per tap in the memory bank."""
    bank_momentum: float = 0.999
    """Of the averaged encoder and head that fill the bank."""

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        check_patches(self.taps, self.num_patches)
        check_channels(self.generator, self.discriminator)
        check_adversary(self.augmentation, self.r1_weight)


_FASTCUT = CutConfig(contrast_weight=10.0, identity=False, flip_equivariance=True)
_SMALL = CutConfig(
    generator=ResNetConfig(ngf=16, blocks=6, norm="none", antialias_down=False),
    discriminator=PatchGANConfig(ndf=16, antialias=False),
    initialization=InitConfig(gain=0.7),
    generator_adam=AdamConfig(learning_rate=5e-4),
    discriminator_adam=AdamConfig(learning_rate=2.5e-4),
    taps=(0, 4, 8, 12, 14),
    head_width=64,
    num_patches=64,
)

PRESETS: Mapping[str, Preset] = {
    "cut": Preset(
        summary="released CUT: lambda_NCE 1, identity, 200 + 200 epochs",
        method=CutConfig(),
    ),
    "fastcut": Preset(
        summary="released FastCUT: lambda_NCE 10, no identity, flips, 150 + 50 epochs",
        method=_FASTCUT,
        schedule=ScheduleConfig(epochs=200, decay_fraction=0.25),
    ),
    "paper-weights": Preset(
        summary="CUT with the paper's lambda_X = lambda_Y = 1 instead of half of each",
        method=CutConfig(contrast_sum="paper"),
    ),
    "toy": Preset(
        summary="a small CUT for the built-in toy set, minutes on a CPU",
        method=_SMALL,
        schedule=ScheduleConfig(steps=2000, ema_decay=0.995),
        data=DataConfig(size=64, load_size=64, workers=0),
    ),
}


class _Forward(NamedTuple):
    """What the generator makes of a batch, and the features of its input on the way."""

    outputs_BCHW: Tensor
    """G(A), then with the identity term G(B)."""
    keys: list[Tensor]
    """Features of A (then B) per tap, without graph."""
    flipped: bool


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
        self.channels = (config.generator.in_channels, config.generator.out_channels)
        self.multiple_of = self.G.multiple_of
        self.min_size = self.G.min_size
        self.min_training_size = max(self.G.min_size, self.D.min_size)
        self.contrast = Contrast(temperature=config.temperature, all_negatives=config.all_negatives)
        if config.negatives != "internal":
            self.G_average = copy.deepcopy(self.G)
            self.F_average = copy.deepcopy(self.F)
            shape = (len(config.taps), config.bank_size, config.head_width)
            self.register_buffer("bank_LMC", torch.zeros(shape))
            self.register_buffer("bank_position", torch.zeros((), dtype=torch.int64))

    bank_LMC: Tensor
    bank_position: Tensor

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network; the head learns at the generator's rate."""
        generator, judge = self.config.generator_adam, self.config.discriminator_adam
        return {"G": generator, "F": generator, "D": judge}

    def train_step(self, batch: UnpairedBatch, update: Update, progress: Progress) -> None:
        """Forward once; D on the detached output; then G and F together."""
        forward = self._forward(batch, progress.draws)
        fake_BCHW = forward.outputs_BCHW[: len(batch)]
        update(
            "D",
            loss=lambda: self._discriminator_terms(
                fake_BCHW.detach(), batch.b_BCHW, progress.draws
            ),
        )
        update("G", "F", loss=lambda: self._generator_terms(fake_BCHW, forward, progress.draws))
        if self.config.negatives != "internal":
            self._follow_average()
            self._enqueue(update.gather(batch.a_BCHW), progress.draws)

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

    def prepare(self, batches: Iterable[UnpairedBatch], draws: Draws) -> None:
        """Fill the memory bank from real source images, again and again if they are few."""
        if self.config.negatives == "internal":
            return
        filled = 0
        for batch in batches:
            filled_before = int(self.bank_position)
            self._enqueue(batch.a_BCHW, draws)
            filled = int(self.bank_position)
            if filled <= filled_before:  # it came round
                return
        again = torch.arange(self.config.bank_size, device=self.bank_LMC.device) % filled
        self.bank_LMC.copy_(self.bank_LMC[:, again])

    def _forward(self, batch: UnpairedBatch, draws: Draws) -> _Forward:
        parts = [batch.a_BCHW]
        if self.config.identity:
            parts.append(match_channels(batch.b_BCHW, self.channels[0]))
        real_BCHW = torch.cat(parts)
        if self.config.flip_equivariance and draws.coin():
            with torch.no_grad():
                keys = self.G.encode(real_BCHW, self.config.taps)
            return _Forward(self.G(real_BCHW.flip(-1)), keys, flipped=True)
        outputs_BCHW, features = self.G.forward_with_taps(real_BCHW, self.config.taps)
        return _Forward(outputs_BCHW, [f.detach() for f in features], flipped=False)

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

    def _generator_terms(self, fake_BCHW: Tensor, forward: _Forward, draws: Draws) -> Terms:
        config = self.config
        logits = self.D(augmented(fake_BCHW, config.augmentation, draws))
        terms = {
            "adversarial": config.adversarial_weight * generator_loss(config.adversarial, logits)
        }
        if config.contrast_weight == 0:
            return terms
        queries = self.G.encode(match_channels(forward.outputs_BCHW, self.channels[0]), config.taps)
        if forward.flipped:
            queries = [feature.flip(-1) for feature in queries]
        num_images = len(fake_BCHW)
        halves = {"nce": slice(0, num_images)}
        if config.identity:
            halves["identity_nce"] = slice(num_images, None)
        share = 0.5 if config.identity and config.contrast_sum == "released" else 1.0
        for name, half in halves.items():
            contrast = self._contrast(
                [feature[half] for feature in queries],
                [feature[half] for feature in forward.keys],
                draws,
                external=name == "nce" and config.negatives != "internal",
            )
            terms[name] = share * config.contrast_weight * contrast
        return terms

    def _contrast(
        self, queries: list[Tensor], keys: list[Tensor], draws: Draws, *, external: bool
    ) -> Tensor:
        """PatchNCE, the mean over taps, places and images."""
        places = draw_places(keys, self.config.num_patches, draws)
        pairs = embedded_pairs(queries, keys, places, query_head=self.F, key_head=self.F)
        return mean_over_taps(
            patch_contrast(
                *pair,
                self.contrast,
                external_MC=self.bank_LMC[tap] if external else None,
                internal=not external or self.config.negatives == "both",
            )
            for tap, pair in enumerate(pairs)
        )

    @torch.no_grad()
    def _follow_average(self) -> None:
        for average, live in ((self.G_average, self.G), (self.F_average, self.F)):
            torch._foreach_lerp_(
                list(average.parameters()), list(live.parameters()), 1 - self.config.bank_momentum
            )

    @torch.no_grad()
    def _enqueue(self, real_BCHW: Tensor, draws: Draws) -> None:
        """Put patches of source images, seen by the averaged encoder, in place of the oldest."""
        features = self.G_average.encode(real_BCHW, self.config.taps)
        places = draw_places(features, self.config.num_patches, draws)
        rows = [rows_BKC.flatten(0, 1) for rows_BKC in self.F_average(features, places)]
        num_new = min(self.config.bank_size, *(len(rows_NC) for rows_NC in rows))
        slots = (self.bank_position + torch.arange(num_new, device=real_BCHW.device)) % len(
            self.bank_LMC[0]
        )
        for tap, rows_NC in enumerate(rows):
            self.bank_LMC[tap, slots] = rows_NC[:num_new].to(self.bank_LMC.dtype)
        self.bank_position.copy_((self.bank_position + num_new) % self.config.bank_size)
