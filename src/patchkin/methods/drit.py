"""DRIT and DRIT++: Lee, Tseng, Mao, Huang, Lu, Singh and Yang, ECCV 2018 and IJCV 2020
(arXiv 1808.00948, 1905.01270).

Both domains share one space of contents, kept so by a discriminator that tries to tell from which
domain a content came; what is left is an attribute per image, pulled towards N(0, I). With
u = G(c_b, z_a) in domain A and v = G(c_a, z_b) in domain B, a training step has two passes:

    first    L_GAN(u, D_A) + L_GAN(v, D_B) + L_content + 0.01 (KL + |c|^2)
             + 10 |G(c_a, z_a) - a| + 10 |G(E_c(v), E_a(u)) - a|                   and same for b
    second   L_GAN(G(c_b, z), D_A2) + 10 |E_a(G(c_b, z)) - z| + mode seeking       and same for b

with z ~ N(0, I). The second pass teaches the content encoder and the generator only. Discriminators
learn before both; two of three steps teach the content's discriminator alone, as released.

A published run ends after 500,000 updates although its learning rate falls over 1,200 epochs. An
update is taken for a step here, also one of the content's discriminator alone: whether the release
counts those is not recorded (`--schedule.max-steps`).

Differs from the released code: the second pass encodes anew, with the weights that the first has
just left and the same noise (the released one differentiates through weights that it has changed,
which torch refuses today); any batch size; divergences per image where the released divergence
sums over the batch (equal for its one image). Nothing is recorded on these points, which are ours:
one z for both directions; no discriminator's loss is halved; D_content calls contents of A real;
D_A2 and D_B2 learn from the images of both z of mode seeking, and the distance to z is that of the
first. See also `networks/drit.py`. Released weights cannot be imported.

Shape suffixes: B images, C channels, H and W pixels, S numbers of an attribute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from patchkin.config import check_at_least_one, check_not_negative
from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.losses import AdversarialMode, fake_loss, pixel_distance, real_loss
from patchkin.losses.latent import code_distance, mean_square, mode_seeking, undecided_loss
from patchkin.method import Direction, Preset, Progress, StyledMethod, Terms, Update
from patchkin.networks import InitConfig, initialize
from patchkin.networks.drit import (
    SIDES,
    AttributeEncoder,
    ContentDiscriminator,
    ContentDiscriminatorConfig,
    DritGenerator,
    DritNetworkConfig,
    SharedContentEncoder,
    Side,
    least_image,
)
from patchkin.networks.munit import MultiScaleConfig, MultiScaleDiscriminator, style_rows
from patchkin.randomness import Draws, SeededDraws, sent
from patchkin.schedules import AdamConfig, ScheduleConfig
from patchkin.terms.adversary import scale_adversarial_terms, scale_discriminator_terms
from patchkin.terms.drit import (
    BySide,
    Codes,
    all_learn,
    content_noise,
    contents_of,
    dealt,
    encoded,
    exchanged,
    exchanged_at_random,
    prior_loss,
)
from patchkin.terms.previews import styled_previews
from patchkin.terms.styled import RELEASED_ADAM, check_one_domain


@dataclass(frozen=True, kw_only=True, slots=True)
class DritConfig:
    """Defaults are the released DRIT++."""

    in_channels: int = 3
    """Channels of domain A."""
    out_channels: int = 3
    """Channels of domain B."""
    networks: DritNetworkConfig = field(default_factory=DritNetworkConfig)
    """Encoders and generator."""
    discriminator: MultiScaleConfig = field(default_factory=lambda: MultiScaleConfig(slope=0.01))
    """Of D_A, D_B, D_A2 and D_B2."""
    content_discriminator: ContentDiscriminatorConfig = field(
        default_factory=ContentDiscriminatorConfig
    )
    initialization: InitConfig = field(default_factory=lambda: InitConfig(kind="normal"))
    generator_adam: AdamConfig = RELEASED_ADAM
    """For both encoders and the generator."""
    discriminator_adam: AdamConfig = RELEASED_ADAM
    content_adam: AdamConfig = field(
        default_factory=lambda: AdamConfig(learning_rate=4e-5, weight_decay=1e-4, clip_norm=5.0)
    )
    """For the discriminator of contents."""
    adversarial: AdversarialMode = "vanilla"
    """Of the discriminators of images; binary cross-entropy on logits as released."""
    content_weight: float = 1.0
    """Of the content's adversary: its discriminator should be undecided."""
    prior_weight: float = 0.01
    """Of the attribute's divergence from N(0, I), and of the mean square of the content."""
    self_weight: float = 10.0
    """An image put together from its own content and attribute is itself."""
    cycle_weight: float = 10.0
    """Contents exchanged twice give the images back."""
    latent_weight: float = 10.0
    """The attribute that an image was made with is found in it."""
    mode_seeking_weight: float = 1.0
    """Two attributes should give two images. 0: DRIT, without ++."""
    content_noise: float = 1.0
    """Deviation of the noise on contents in training."""
    generator_every: int = 3
    """Every so many steps, and in the last two of an epoch, all networks learn; in the others the
    discriminator of contents alone (d_iter). 1 spends no image on that discriminator alone."""
    split_batch: bool = True
    """The first half of a batch is encoded; the second is only shown to D_A2 and D_B2 as real
    (released, with batches of two). False: all images serve for both."""

    def __post_init__(self) -> None:
        check_at_least_one(self, "in_channels", "out_channels", "generator_every")
        check_not_negative(
            self,
            "content_weight",
            "prior_weight",
            "self_weight",
            "cycle_weight",
            "latent_weight",
            "mode_seeking_weight",
            "content_noise",
        )


def _published(summary: str, method: DritConfig) -> Preset:
    data = DataConfig(size=216, load_size=256, batch_size=2, jitter_in_decay=True)
    schedule = ScheduleConfig(epochs=1200, max_steps=500_000)
    return Preset(summary=summary, method=method, schedule=schedule, data=data)


PRESETS: Mapping[str, Preset] = {
    "released": _published(
        "DRIT++: mode seeking, 216 pixels, batch 2, 600 + 600 epochs but at most 500,000 steps",
        DritConfig(),
    ),
    "drit": _published("DRIT: without mode seeking", DritConfig(mode_seeking_weight=0.0)),
    "mix": _published(
        "DRIT++ for changes of shape, cat2dog and portraits (released: concat 0)",
        DritConfig(networks=DritNetworkConfig(form="mix")),
    ),
    "toy": Preset(
        summary="a small DRIT++ for the built-in toy set, minutes on a CPU",
        method=DritConfig(
            networks=DritNetworkConfig(width=16, blocks=2),
            discriminator=MultiScaleConfig(width=16, layers=3, scales=2, slope=0.01),
            content_discriminator=ContentDiscriminatorConfig(layers=1, kernel=3),
            initialization=InitConfig(gain=1.0),
            generator_adam=AdamConfig(learning_rate=5e-4, weight_decay=1e-4),
            discriminator_adam=AdamConfig(learning_rate=2.5e-4, weight_decay=1e-4),
            content_adam=AdamConfig(learning_rate=2e-4, weight_decay=1e-4, clip_norm=5.0),
            generator_every=1,
            split_batch=False,
        ),
        schedule=ScheduleConfig(steps=2000),
        data=DataConfig(size=64, load_size=64),
    ),
}


@final
class Drit(StyledMethod):
    """Disentangled contents and attributes (DRIT, and with mode seeking DRIT++)."""

    name: ClassVar[str] = "drit"
    paper: ClassVar[str] = "Lee et al., ECCV 2018 (arXiv 1808.00948), IJCV 2020 (arXiv 1905.01270)"
    differs: ClassVar[str] = (
        "its second pass differentiates through weights already changed; batches beyond 1 fail"
    )
    config_type: ClassVar[type] = DritConfig
    presets: ClassVar[Mapping[str, Preset]] = PRESETS
    translating: ClassVar[tuple[str, ...]] = ("E_content", "E_attribute", "G")
    directions: ClassVar[tuple[str, ...]] = ("AtoB", "BtoA")

    config: DritConfig
    fixed_style_1S: Tensor
    """N(0, I), seed 0: the attribute of translations for which none is given."""

    def __init__(self, config: DritConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DritConfig()
        a, b = self.channels = (config.in_channels, config.out_channels)
        self.E_content = SharedContentEncoder(self.channels, config.networks)
        self.E_attribute = AttributeEncoder(self.channels, config.networks)
        self.G = DritGenerator(self.channels, config.networks)
        self.D_A = MultiScaleDiscriminator(a, config.discriminator)
        self.D_B = MultiScaleDiscriminator(b, config.discriminator)
        self.D_A2 = MultiScaleDiscriminator(a, config.discriminator)
        self.D_B2 = MultiScaleDiscriminator(b, config.discriminator)
        self.D_content = ContentDiscriminator(
            self.E_content.out_channels, config.content_discriminator
        )
        for network in self.children():
            initialize(network, config.initialization)
        self.register_buffer("fixed_style_1S", self.constants()["fixed_style_1S"], persistent=False)
        self.multiple_of = self.E_content.multiple_of
        self.min_size = self.E_content.min_size
        self.min_training_size = max(
            least_image(self.D_content.min_size), self.D_A.min_size, self.E_attribute.min_size
        )
        self.min_batch_size = 2 if config.split_batch else 1

    def constants(self) -> dict[str, Tensor]:
        """What no file holds: the style of translations that are given none."""
        return {"fixed_style_1S": SeededDraws(0, 0).normal(1, self.config.networks.attribute_width)}

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network."""
        config = self.config
        return {
            **dict.fromkeys(("E_content", "E_attribute", "G"), config.generator_adam),
            **dict.fromkeys(("D_A", "D_B", "D_A2", "D_B2"), config.discriminator_adam),
            "D_content": config.content_adam,
        }

    def train_step(self, batch: UnpairedBatch, update: Update, progress: Progress) -> None:
        """D_content alone; or all discriminators, then the encoders and the generator twice."""
        config, draws = self.config, progress.draws
        images, others = dealt(batch, split=config.split_batch)
        noise = content_noise(self, images, config.content_noise, draws)
        if not all_learn(progress, every=config.generator_every):
            with torch.no_grad():
                contents = contents_of(self, images, noise)
            update("D_content", loss=lambda: self._content_discriminator_terms(contents))
            return
        codes = encoded(self, images, noise, draws)
        fakes = exchanged(self, codes.content, codes.z_BS)
        latents = self._latents(images["A"], draws)
        with torch.no_grad():
            random = exchanged_at_random(self, codes.content, latents)
        update(
            "D_A",
            "D_B",
            "D_A2",
            "D_B2",
            "D_content",
            loss=lambda: {
                **self._discriminator_terms("", fakes, images),
                **self._discriminator_terms("2", random, others, times=len(latents)),
                **self._content_discriminator_terms(codes.content),
            },
        )
        update(
            "E_content",
            "E_attribute",
            "G",
            loss=lambda: self._first_terms(images, codes, fakes, draws),
        )
        update("E_content", "G", loss=lambda: self._second_terms(images, noise, latents))

    def latent_styles(
        self, draws: Draws, *, count: int, domain: int = 0, direction: Direction = "AtoB"
    ) -> Tensor:
        """Attributes from N(0, I) [count, S], for either direction."""
        check_one_domain(domain, self.name)
        return draws.normal(count, self.config.networks.attribute_width)

    def reference_styles(
        self, reference_BCHW: Tensor, *, domain: int = 0, direction: Direction = "AtoB"
    ) -> Tensor:
        """The attributes of images of the target domain, [B, S]: the means, nothing drawn."""
        check_one_domain(domain, self.name)
        mean_BS: Tensor = self.E_attribute(reference_BCHW, _ends(direction)[1]).mean_BS
        return mean_BS

    def translate(
        self,
        x_BCHW: Tensor,
        *,
        styles_BS: Tensor | None = None,
        direction: Direction = "AtoB",
    ) -> Tensor:
        """The content of the images, without noise, with these attributes or `fixed_style_1S`."""
        source, target = _ends(direction)
        styles_BS = style_rows(styles_BS, self.fixed_style_1S, x_BCHW)
        y_BCHW: Tensor = self.G(self.E_content(x_BCHW, source), styles_BS, target)
        return y_BCHW

    def previews(self, batch: UnpairedBatch) -> dict[str, Tensor]:
        """With the fixed attribute, with that of the target image, and the way back."""
        styles_BS = self.reference_styles(batch.b_BCHW)
        reconstructed_BCHW = self.G(self.E_content(batch.b_BCHW, "B"), styles_BS, "B")
        return styled_previews(self, batch, reconstructed_BCHW)

    def _latents(self, like_BCHW: Tensor, draws: Draws) -> list[Tensor]:
        """From N(0, I), one per image; with mode seeking two."""
        width = self.config.networks.attribute_width
        count = 2 if self.config.mode_seeking_weight else 1
        return [sent(draws.normal_rows(len(like_BCHW), width), like_BCHW) for _ in range(count)]

    def _discriminator_terms(
        self, number: str, fakes: BySide, reals: BySide, *, times: int = 1
    ) -> Terms:
        """Of D_A and D_B, or with the number 2 of D_A2 and D_B2."""
        terms: Terms = {}
        for side in SIDES:
            terms |= scale_discriminator_terms(
                self._discriminator(f"{side}{number}"),
                fakes[side].detach(),
                reals[side],
                mode=self.config.adversarial,
                weight=times,
                suffix=f"_{side}{number}",
            )
        return terms

    def _adversarial_terms(self, name: str, fake_BCHW: Tensor, *, times: int = 1) -> Terms:
        """Of the generator against D_A, D_B, D_A2 or D_B2."""
        return scale_adversarial_terms(
            self._discriminator(name),
            fake_BCHW,
            mode=self.config.adversarial,
            weight=times,
            suffix=f"_{name}",
        )

    def _discriminator(self, name: str) -> MultiScaleDiscriminator:
        network: MultiScaleDiscriminator = getattr(self, f"D_{name}")
        return network

    def _content_discriminator_terms(self, contents: BySide) -> Terms:
        return {
            "content_A": real_loss("vanilla", self.D_content(contents["A"].detach())),
            "content_B": fake_loss("vanilla", self.D_content(contents["B"].detach())),
        }

    def _first_terms(self, images: BySide, codes: Codes, fakes: BySide, draws: Draws) -> Terms:
        """With the attributes of the images themselves."""
        config = self.config
        terms: Terms = {}
        noise = content_noise(self, fakes, config.content_noise, draws)
        codes_of_fakes = encoded(self, fakes, noise, draws)
        cycled = exchanged(self, codes_of_fakes.content, codes_of_fakes.z_BS)
        for side in SIDES:
            content, image_BCHW = codes.content[side], images[side]
            reconstructed_BCHW = self.G(content, codes.z_BS[side], side)
            undecided = undecided_loss(self.D_content(content))
            prior = prior_loss(codes.attribute[side])
            reconstruction = pixel_distance(reconstructed_BCHW, image_BCHW)
            terms |= {
                **self._adversarial_terms(side, fakes[side]),
                f"undecided_{side}": config.content_weight * undecided,
                f"prior_{side}": config.prior_weight * prior,
                f"size_{side}": config.prior_weight * mean_square(content),
                f"self_{side}": config.self_weight * reconstruction,
                f"cycle_{side}": config.cycle_weight * pixel_distance(cycled[side], image_BCHW),
            }
        return terms

    def _second_terms(self, images: BySide, noise: BySide, latents: list[Tensor]) -> Terms:
        """With attributes drawn at random."""
        config = self.config
        terms: Terms = {}
        random = exchanged_at_random(self, contents_of(self, images, noise), latents)
        for side in SIDES:
            first_BCHW, *second = random[side].chunk(len(latents))
            latent_BS = self.E_attribute(first_BCHW, side).mean_BS
            distance = code_distance(latent_BS, latents[0])
            terms |= self._adversarial_terms(f"{side}2", random[side], times=len(latents))
            terms[f"latent_{side}"] = config.latent_weight * distance
            if second:
                modes = mode_seeking(first_BCHW, second[0], *latents)
                terms[f"modes_{side}"] = config.mode_seeking_weight * modes
        return terms


def _ends(direction: Direction) -> tuple[Side, Side]:
    """Source and target domain."""
    return ("A", "B") if direction == "AtoB" else ("B", "A")
