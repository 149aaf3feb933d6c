"""EnCo: Cai, Zhu, Miao, Fu and Yao, AAAI 2024 (arXiv 2211.10867).

One-sided, without negatives and without a second encoding of the output: features of the
generator's encoder and decoder at the same stage of one forward pass must agree, after a head on
both sides and a predictor on the decoder's, with the encoder's side held constant,

    L_G = L_GAN + 1/2 (lambda_NCE L_content + lambda_IDT |B - G(B)|)   in the first half of a run,
    L_G = L_GAN + lambda_NCE L_content                                 afterwards,

so the weight of content doubles when the identity term stops. Half of the places are those that
look fake to the discriminator, after its step.

Differs from the paper, of which only the abstract and a figure were to be had: the figure draws
layer norm in head and predictor, the released code's default and its published command use batch
norm (`head_norm`). Differs from the released code: its flips of whole batches are left out, since
they add nothing to the loader's; the first batch trains; with `adversarial_weight` 0 places are
random. Its arXiv version 1 was another, contrastive method.

Counted at 256 pixels and batch 1, a step takes 0.87 TFLOP with the identity term and 0.49 without
(CUT: 1.29), a published run on as many images a quarter of CUT's.

Shape suffixes: B images, C channels, H and W pixels, h and w patches of D, K places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, final

import torch
from torch import Tensor

from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.errors import ConfigError
from patchkin.losses import AdversarialMode, generator_loss, pixel_distance
from patchkin.losses.agreement import disagreement
from patchkin.method import Method, Preset, Progress, Terms, Update
from patchkin.networks import (
    InitConfig,
    PatchGANConfig,
    PatchMap,
    ResNetConfig,
    ResNetGenerator,
    check_channels,
    discriminator,
    initialize,
    match_channels,
)
from patchkin.networks.places import guided_places
from patchkin.networks.predictor import PredictingHead, RowNorm, check_pairs, stage_pairs
from patchkin.randomness import Draws
from patchkin.schedules import AdamConfig, ScheduleConfig
from patchkin.terms.adversary import discriminator_terms

_RATE = AdamConfig(learning_rate=5e-5)
"""Released: a quarter of CUT's, for generator and head."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnCoConfig:
    """Defaults are the published command, for Cityscapes."""

    generator: ResNetConfig = field(default_factory=ResNetConfig)
    discriminator: PatchGANConfig = field(default_factory=PatchGANConfig)
    initialization: InitConfig = field(default_factory=InitConfig)
    generator_adam: AdamConfig = _RATE
    head_adam: AdamConfig = _RATE
    discriminator_adam: AdamConfig = field(default_factory=AdamConfig)
    adversarial: AdversarialMode = "lsgan"
    """The release's default until its last change was hinge; the published command said lsgan."""
    adversarial_weight: float = 1.0
    """lambda_GAN."""
    content_weight: float = 2.0
    """lambda_NCE: half of it counts while the identity term is on. The release's default is 1."""
    identity: bool = True
    """Whether there is an identity term, and so a first half with halved weights (released:
    nce_idt)."""
    identity_weight: float = 10.0
    """lambda_IDT, of |B - G(B)|; half of it counts. 0 leaves only the halved weights."""
    identity_until: float = 0.5
    """Share of the run after which the identity term stops (released: stop_idt_epochs, by default
    where the learning rate starts to fall)."""
    identity_decays: bool = False
    """Lower the identity's weight linearly over the whole run (released: decay_idt)."""
    pairs: tuple[tuple[int, int], ...] = ()
    """Layers of the generator, encoder's and decoder's, whose maps are compared; 0 is the image.
    None named: the stages of the published setting, found for any number of blocks."""
    head_width: int = 256
    """Length of an embedded patch."""
    head_norm: RowNorm = "batch"
    """Within head and predictor. With batch norm an image's loss depends on the others of the
    batch; the paper's figure draws layer norm."""
    predictor: bool = True
    """Predict the encoder's embedding from the decoder's, rather than compare them."""
    stop_gradient: bool = True
    """Hold the encoder's side constant."""
    num_patches: int = 256
    """Places per pair and image; fewer if the map has fewer."""
    oversampling: int = 4
    """Random candidates per place from which the guided ones are taken."""
    random_share: float = 0.5
    """Of the places; the others look fake to the discriminator. 1 takes random places alone."""

    def __post_init__(self) -> None:
        fewest = 2 if self.head_norm == "batch" else 1
        if self.num_patches < fewest:
            raise ConfigError(
                f"`num_patches` must be at least {fewest} with `head_norm` {self.head_norm}; "
                f"got {self.num_patches}."
            )
        if self.oversampling < 1:
            raise ConfigError(f"`oversampling` must be at least 1; got {self.oversampling}.")
        for name in ("identity_until", "random_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"`{name}` must be in [0, 1]; got {getattr(self, name)}.")
        check_channels(self.generator, self.discriminator)


_PUBLISHED = ScheduleConfig(epochs=200, warmup=20)

PRESETS: Mapping[str, Preset] = {
    "cityscapes": Preset(
        summary="the published command: lambda_NCE 2, identity 10 in the first half, 100 + 100 "
        "epochs, 20 of warm-up (from labels to photos: --direction BtoA)",
        method=EnCoConfig(),
        schedule=_PUBLISHED,
    ),
    "layer-norm": Preset(
        summary="the same with layer norm in head and predictor, as the paper's figure draws them",
        method=EnCoConfig(head_norm="layer"),
        schedule=_PUBLISHED,
    ),
    "toy": Preset(
        summary="a small EnCo for the built-in toy set, minutes on a CPU",
        method=EnCoConfig(
            generator=ResNetConfig(ngf=16, blocks=6, norm="none", antialias_down=False),
            discriminator=PatchGANConfig(ndf=16, antialias=False),
            initialization=InitConfig(gain=0.7),
            generator_adam=AdamConfig(learning_rate=5e-4),
            head_adam=AdamConfig(learning_rate=5e-4),
            discriminator_adam=AdamConfig(learning_rate=2.5e-4),
            head_width=64,
            num_patches=64,
        ),
        schedule=ScheduleConfig(steps=2000, ema_decay=0.995),
        data=DataConfig(size=64, load_size=64, workers=0),
    ),
}


class _Forward(NamedTuple):
    """What the generator makes of a batch, and its maps of A on the way."""

    fake_BCHW: Tensor
    keys: list[Tensor]
    """Of the encoder, per pair."""
    queries: list[Tensor]
    """Of the decoder, per pair."""
    again_BCHW: Tensor | None
    """G(B), while the identity term is on."""


@final
class EnCo(Method):
    """Content kept by agreement of encoder and decoder of the same pass."""

    name: ClassVar[str] = "enco"
    paper: ClassVar[str] = "Cai, Zhu, Miao, Fu, Yao, AAAI 2024 (arXiv 2211.10867)"
    differs: ClassVar[str] = (
        "batch norm where the paper's figure has layer norm; the default head does not exist"
    )
    config_type: ClassVar[type] = EnCoConfig
    presets: ClassVar[Mapping[str, Preset]] = PRESETS

    config: EnCoConfig

    def __init__(self, config: EnCoConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or EnCoConfig()
        self.G = ResNetGenerator(config.generator)
        self.D = discriminator(config.discriminator)
        self.pairs = config.pairs or stage_pairs(self.G)
        check_pairs(self.G, self.pairs)
        self.F = PredictingHead(
            self.G.tap_channels([key for key, _ in self.pairs]),
            config.head_width,
            norm=config.head_norm,
            predictor=config.predictor,
        )
        for network in (self.G, self.D, self.F):
            initialize(network, config.initialization)
        self.channels = (config.generator.in_channels, config.generator.out_channels)
        self.multiple_of = self.G.multiple_of
        self.min_size = self.G.min_size
        self.min_training_size = max(self.G.min_size, self.D.min_size)

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network, each with its own rate."""
        config = self.config
        return {"G": config.generator_adam, "F": config.head_adam, "D": config.discriminator_adam}

    def train_step(self, batch: UnpairedBatch, update: Update, progress: Progress) -> None:
        """Forward once; D on the detached output; then G and F, at places that the new D shows."""
        forward = self._forward(batch, progress)
        update(
            "D",
            loss=lambda: discriminator_terms(
                self.D,
                forward.fake_BCHW.detach(),
                batch.b_BCHW,
                mode=self.config.adversarial,
                draws=progress.draws,
            ),
        )
        update("G", "F", loss=lambda: self._generator_terms(batch, forward, progress))

    def translate(self, x_BCHW: Tensor) -> Tensor:
        """G(x)."""
        y_BCHW: Tensor = self.G(x_BCHW)
        return y_BCHW

    def patch_maps(self, x_BCHW: Tensor, *, translated: bool = False) -> list[PatchMap]:
        """Maps of the generator's encoder, one per pair, embedded by F without prediction."""
        x_BCHW = match_channels(x_BCHW, self.channels[0])
        taps = [key for key, _ in self.pairs]
        maps = _with_image(x_BCHW, taps, self.G.encode(x_BCHW, taps))
        fields = self.G.tap_fields(taps)
        return [
            PatchMap(tap, map_BCHW, self.F.embedder(pair), self.G.tap_origin(tap) * (tap > 0), size)
            for pair, (tap, map_BCHW, size) in enumerate(zip(taps, maps, fields, strict=True))
        ]

    def previews(self, batch: UnpairedBatch) -> dict[str, Tensor]:
        """Input, output, and with the identity term a target image and its reconstruction."""
        columns = {"input": batch.a_BCHW, "translated": self.G(batch.a_BCHW)}
        if self.config.identity:
            again = self.G(match_channels(batch.b_BCHW, self.channels[0]))
            columns |= {"target": batch.b_BCHW, "identity": again}
        return columns

    def identity_weight(self, progress: Progress) -> float | None:
        """lambda_IDT at this point of the run; None once the identity term has stopped."""
        config = self.config
        last_unit = round(config.identity_until * progress.total_units)
        if not config.identity or progress.unit > last_unit:
            return None
        left = 1 - progress.fraction if config.identity_decays else 1.0
        return config.identity_weight * left

    def _forward(self, batch: UnpairedBatch, progress: Progress) -> _Forward:
        inputs_BCHW, again_BCHW, num_images = batch.a_BCHW, None, len(batch)
        taps = [tap for pair in self.pairs for tap in pair]
        if self.identity_weight(progress):
            b_BCHW = match_channels(batch.b_BCHW, self.channels[0])
            if b_BCHW.shape[1:] == batch.a_BCHW.shape[1:]:
                inputs_BCHW = torch.cat([batch.a_BCHW, b_BCHW])
            else:
                again_BCHW = self.G(b_BCHW)
        outputs_BCHW, maps = self.G.forward_with_taps(inputs_BCHW, taps)
        if len(outputs_BCHW) > num_images:
            again_BCHW = outputs_BCHW[num_images:]
        maps = [part[:num_images] for part in _with_image(inputs_BCHW, taps, maps)]
        return _Forward(outputs_BCHW[:num_images], maps[::2], maps[1::2], again_BCHW)

    def _generator_terms(
        self, batch: UnpairedBatch, forward: _Forward, progress: Progress
    ) -> Terms:
        config, identity_weight = self.config, self.identity_weight(progress)
        share = 1.0 if identity_weight is None else 0.5
        logits_BNhw = self.D(forward.fake_BCHW)
        adversarial = generator_loss(config.adversarial, logits_BNhw)
        terms = {"adversarial": config.adversarial_weight * adversarial}
        if config.content_weight:
            places = self._places(logits_BNhw, forward.keys, progress.draws)
            content = self._content(forward.queries, forward.keys, places)
            terms["content"] = share * config.content_weight * content
        if forward.again_BCHW is not None and identity_weight:
            identity = pixel_distance(forward.again_BCHW, batch.b_BCHW)
            terms["identity"] = share * identity_weight * identity
        return terms

    def _places(self, logits_BNhw: Tensor, keys: list[Tensor], draws: Draws) -> list[Tensor]:
        """Places per pair, each image its own."""
        config = self.config
        return [
            guided_places(
                logits_BNhw,
                (key_BCHW.shape[2], key_BCHW.shape[3]),
                config.num_patches,
                draws,
                oversampling=config.oversampling,
                # What is not trained to look real says nothing about where to look.
                random_share=config.random_share if config.adversarial_weight else 1.0,
            )
            for key_BCHW in keys
        ]

    def _content(self, queries: list[Tensor], keys: list[Tensor], places: list[Tensor]) -> Tensor:
        """How unlike predictions and embeddings are, the mean over pairs, places and images."""
        stop = self.config.stop_gradient
        predicted = self.F(queries, places, predict=True)  # first: batch norms count both passes
        with torch.set_grad_enabled(torch.is_grad_enabled() and not stop):
            embedded = self.F(keys, places, predict=False)
        losses = [
            disagreement(query_BKC, key_BKC, stop_gradient=stop).mean()
            for query_BKC, key_BKC in zip(predicted, embedded, strict=True)
        ]
        return torch.stack(losses).mean()


def _with_image(x_BCHW: Tensor, taps: list[int], maps: list[Tensor]) -> list[Tensor]:
    """The maps at `taps`, of which 0 is the image itself, not the padded one."""
    return [map_BCHW if tap else x_BCHW for tap, map_BCHW in zip(taps, maps, strict=True)]
