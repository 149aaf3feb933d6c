"""DistanceGAN: Benaim and Wolf, NIPS 2017 (arXiv 1706.00826).

Content is kept by distances: two images that are far apart must be translated to images that are
far apart, after each domain's distances are standardised,

    L_G = L_GAN + lambda_dist mean |(d(x_i, x_j) - E_A) / S_A - (d(G(x_i), G(x_j)) - E_B) / S_B|,

in one direction or in both, with a cycle term if wanted. The self-distance takes the two halves of
one image instead of two images.

Differs from the released code: its statistics treat a batch as one image, so that they change with
the batch size, and its self-distance is averaged over the batch before it is compared; here both
are per image unless `averaging` says otherwise. Statistics come from a fixed number of training
views and are kept in the checkpoint; the released code computes them anew at every start. The
networks are CycleGAN's, where the released ones pad with zeros and have a learned scale and shift
behind each norm; each image has its own flip, where the released code throws one coin for a batch.

Shape suffixes: B images, C channels, H and W pixels, N distances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from patchkin.config import check_not_negative
from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.errors import ConfigError, ShapeError
from patchkin.losses import AdversarialMode, pixel_distance
from patchkin.losses.distance import (
    Spread,
    distance_preservation,
    half_distances,
    pair_distances,
    spread,
)
from patchkin.method import Direction, Method, Preset, Progress, Terms, Update
from patchkin.networks import (
    STRIDED_DISCRIMINATOR,
    STRIDED_GENERATOR,
    ImagePool,
    ImagePoolConfig,
    InitConfig,
    PatchGANConfig,
    ResNetConfig,
    check_pair,
    discriminator_pair,
    generator_pair,
    initialize,
)
from patchkin.randomness import Draws
from patchkin.schedules import AdamConfig, ScheduleConfig
from patchkin.terms.adversary import adversarial_terms, discriminator_terms
from patchkin.terms.previews import two_sided_previews


@dataclass(frozen=True, kw_only=True, slots=True)
class DistanceGanConfig:
    """Defaults are the released ones, except for `averaging` and what its statistics are of."""

    generator: ResNetConfig = STRIDED_GENERATOR
    """Of G_AB; G_BA is the same with the channels exchanged."""
    discriminator: PatchGANConfig = STRIDED_DISCRIMINATOR
    """Of D_B; D_A is the same for the channels of domain A."""
    initialization: InitConfig = field(default_factory=lambda: InitConfig(kind="normal"))
    generator_adam: AdamConfig = field(default_factory=AdamConfig)
    discriminator_adam: AdamConfig = field(default_factory=AdamConfig)
    pool: ImagePoolConfig = field(default_factory=ImagePoolConfig)
    """Of each discriminator."""
    adversarial: AdversarialMode = "lsgan"
    two_sided: bool = True
    """Both directions (released default), or A to B alone (`A_to_B`)."""
    distance: Literal["pairs", "self"] = "pairs"
    """Between the images of a batch, which must then have two at least, or within each image
    (released: use_self_distance)."""
    distance_weight: float = 1.0
    """lambda_distance."""
    cycle_weight: float = 0.0
    """Of both cycles, with `two_sided` (released: 10 where it is used)."""
    standardized: bool = True
    """Use E and S of each domain; without, they are 0 and 1 (released: normalize_distances)."""
    averaging: Literal["image", "released"] = "image"
    """Distances of images, or of whole batches as if they were images."""
    statistics_items: int = 400
    """Images, or as released batches (there 900), per domain that E and S are made of. 400 images
    have 79,800 distances."""

    def __post_init__(self) -> None:
        check_not_negative(self, "distance_weight", "cycle_weight")
        if self.cycle_weight and not self.two_sided:
            raise ConfigError("A cycle needs both directions: set `two_sided`, or no weight.")
        if self.statistics_items < 2:
            raise ConfigError(
                f"`statistics_items` must be at least 2; got {self.statistics_items}."
            )
        check_pair(self.generator, self.discriminator, identity=False)


_PUBLISHED = ScheduleConfig(epochs=200)
_DATA = DataConfig(preprocess="shortside_and_crop", batch_size=2, jitter_in_decay=True)

PRESETS: Mapping[str, Preset] = {
    "distancegan": Preset(
        summary="released default: both directions, pairs in batches of 2, 100 + 100 epochs",
        method=DistanceGanConfig(),
        schedule=_PUBLISHED,
        data=_DATA,
    ),
    "one-sided": Preset(
        summary="A to B alone",
        method=DistanceGanConfig(two_sided=False),
        schedule=_PUBLISHED,
        data=_DATA,
    ),
    "self": Preset(
        summary="A to B alone, distances between the halves of an image",
        method=DistanceGanConfig(two_sided=False, distance="self"),
        schedule=_PUBLISHED,
        data=_DATA,
    ),
    "toy": Preset(
        summary="a small one-sided DistanceGAN for the built-in toy set, minutes on a CPU",
        method=DistanceGanConfig(
            generator=ResNetConfig(ngf=16, blocks=6, antialias_down=False),
            discriminator=PatchGANConfig(ndf=16, antialias=False),
            initialization=InitConfig(gain=1.0),
            generator_adam=AdamConfig(learning_rate=5e-4),
            discriminator_adam=AdamConfig(learning_rate=2.5e-4),
            pool=ImagePoolConfig(side=64),
            two_sided=False,
            statistics_items=200,
        ),
        schedule=ScheduleConfig(steps=2000),
        data=DataConfig(size=64, load_size=64, batch_size=2),
    ),
}


@final
class DistanceGan(Method):
    """One- or two-sided translation that keeps distances (DistanceGAN)."""

    name: ClassVar[str] = "distancegan"
    paper: ClassVar[str] = "Benaim, Wolf, NIPS 2017 (arXiv 1706.00826)"
    differs: ClassVar[str] = (
        "statistics treat a batch as one image and are computed anew at every start"
    )
    config_type: ClassVar[type] = DistanceGanConfig
    presets: ClassVar[Mapping[str, Preset]] = PRESETS
    translating: ClassVar[tuple[str, ...]] = ("G_AB", "G_BA")
    directions: ClassVar[tuple[str, ...]] = ("AtoB", "BtoA")

    config: DistanceGanConfig

    def __init__(self, config: DistanceGanConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DistanceGanConfig()
        self.channels = (config.generator.in_channels, config.generator.out_channels)
        generators = generator_pair(config.generator)
        discriminators = discriminator_pair(config.discriminator, config.generator)
        self.G_AB, self.D_B = generators[0], discriminators[0]
        # Without the other direction its names stay, without weights.
        self.G_BA: nn.Module = generators[1] if config.two_sided else nn.Identity()
        self.D_A: nn.Module = discriminators[1] if config.two_sided else nn.Identity()
        for network in self.children():
            initialize(network, config.initialization)
        self.pool_B = ImagePool(self.channels[1], config.pool)
        self.pool_A = ImagePool(self.channels[0], config.pool) if config.two_sided else None
        for domain in "AB":
            self.register_buffer(f"expectation_{domain}", torch.tensor(0.0))
            self.register_buffer(f"deviation_{domain}", torch.tensor(1.0))
        self.multiple_of = self.G_AB.multiple_of
        self.min_size = self.G_AB.min_size
        self.min_training_size = max(self.G_AB.min_size, self.D_B.min_size)
        self.compares_batch = config.distance == "pairs" or config.averaging == "released"
        self.min_batch_size = 2 if config.distance == "pairs" else 1

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network; the other direction's only if there is one."""
        generator, discriminator = self.config.generator_adam, self.config.discriminator_adam
        adam = {"G_AB": generator, "D_B": discriminator}
        return adam | ({"G_BA": generator, "D_A": discriminator} if self.config.two_sided else {})

    def prepare(self, batches: Iterable[UnpairedBatch], draws: Draws) -> None:
        """E and S of both domains, from views of the training images."""
        config = self.config
        if not config.standardized:
            return
        taken: list[UnpairedBatch] = []
        for batch in batches:
            taken.append(batch)
            items = len(taken) if config.averaging == "released" else len(taken) * len(batch)
            if items >= config.statistics_items:
                break
        for domain in "AB":
            images = [batch.a_BCHW if domain == "A" else batch.b_BCHW for batch in taken]
            found = self._spread(images)
            self.get_buffer(f"expectation_{domain}").copy_(found.expectation)
            self.get_buffer(f"deviation_{domain}").copy_(found.deviation)

    def train_step(self, batch: UnpairedBatch, update: Update, progress: Progress) -> None:
        """The generators, then D_B, then D_A, on the translations from before that update."""
        if len(batch) * update.num_processes < self.min_batch_size:
            raise ConfigError(
                "DistanceGAN compares the images of a batch, which must have at least "
                f"{self.min_batch_size}; got {len(batch)}. Use --batch-size 2 or more, or set "
                "`distance` to self."
            )
        config, draws = self.config, progress.draws
        fake_b_BCHW = self.G_AB(batch.a_BCHW)
        fake_a_BCHW = self.G_BA(batch.b_BCHW) if config.two_sided else None

        def generator_terms() -> Terms:
            terms = self._direction_terms("AB", self.D_B, batch.a_BCHW, fake_b_BCHW, update)
            if fake_a_BCHW is not None:
                terms |= self._direction_terms("BA", self.D_A, batch.b_BCHW, fake_a_BCHW, update)
            if config.cycle_weight and fake_a_BCHW is not None:
                cycled_a_BCHW, cycled_b_BCHW = self.G_BA(fake_b_BCHW), self.G_AB(fake_a_BCHW)
                cycle_a = pixel_distance(cycled_a_BCHW, batch.a_BCHW)
                cycle_b = pixel_distance(cycled_b_BCHW, batch.b_BCHW)
                terms |= {
                    "cycle_A": config.cycle_weight * cycle_a,
                    "cycle_B": config.cycle_weight * cycle_b,
                }
            return terms

        mode = config.adversarial
        update(*(("G_AB", "G_BA") if config.two_sided else ("G_AB",)), loss=generator_terms)
        pooled_b_BCHW = self.pool_B(fake_b_BCHW, draws, update.gather)
        update(
            "D_B",
            loss=lambda: discriminator_terms(self.D_B, pooled_b_BCHW, batch.b_BCHW, mode=mode),
        )
        if self.pool_A is not None:
            pooled_a_BCHW = self.pool_A(fake_a_BCHW, draws, update.gather)
            update(
                "D_A",
                loss=lambda: discriminator_terms(self.D_A, pooled_a_BCHW, batch.a_BCHW, mode=mode),
            )

    def translate(self, x_BCHW: Tensor, *, direction: Direction = "AtoB") -> Tensor:
        """G_AB(x), or G_BA(x) for images of domain B.

        Raises:
            ConfigError: if a one-sided model is asked for the other direction.
        """
        if direction == "BtoA" and not self.config.two_sided:
            raise ConfigError(
                "This DistanceGAN is one-sided and translates A to B only; train it with "
                "`two_sided`, or with --direction BtoA."
            )
        y_BCHW: Tensor = (self.G_AB if direction == "AtoB" else self.G_BA)(x_BCHW)
        return y_BCHW

    def previews(self, batch: UnpairedBatch) -> dict[str, Tensor]:
        """Input and output, in both directions if there are two."""
        if self.config.two_sided:
            return two_sided_previews(self.G_AB, self.G_BA, batch)
        return {"input": batch.a_BCHW, "translated": self.G_AB(batch.a_BCHW)}

    def _spread(self, images: Sequence[Tensor]) -> Spread:
        """E and S of a domain from some batches of it."""
        sizes = {tuple(batch_BCHW.shape[1:]) for batch_BCHW in images}
        if len(sizes) != 1:
            raise ShapeError(
                "Distances need images of one size; got "
                f"{' and '.join(map(str, sorted(sizes))) or 'none'}. Use a `preprocess` that crops."
            )
        if self.config.averaging == "released":
            items = torch.stack(list(islice(images, self.config.statistics_items))).flatten(1, 2)
        else:
            items = torch.cat(list(images))[: self.config.statistics_items]
        if self.config.distance == "self":
            return spread(half_distances(items))
        if len(items) < 2:
            return Spread(torch.tensor(0.0), torch.tensor(1.0))
        return spread(pair_distances(items))

    def _direction_terms(
        self,
        direction: str,
        network: nn.Module,
        real_BCHW: Tensor,
        fake_BCHW: Tensor,
        update: Update,
    ) -> Terms:
        """The adversary and the distances of one generator, from and to the domains named."""
        source, target = direction[0], direction[1]
        adversarial = adversarial_terms(
            network, fake_BCHW, mode=self.config.adversarial, suffix=f"_{target}"
        )
        distance = distance_preservation(
            self._distances(real_BCHW, update.gather),
            self._distances(fake_BCHW, update.gather_with_graph),
            self._spread_of(source),
            self._spread_of(target),
        )
        return {**adversarial, f"distance_{direction}": self.config.distance_weight * distance}

    def _distances(self, x_BCHW: Tensor, gather: Callable[[Tensor], Tensor]) -> Tensor:
        """Of the whole batch; those within an image of this process's, unless they are averaged."""
        if self.config.distance == "pairs":
            return pair_distances(gather(x_BCHW))
        halves_N = half_distances(x_BCHW)
        if self.config.averaging == "released":
            return gather(halves_N).mean(dim=0, keepdim=True)
        return halves_N

    def _spread_of(self, domain: str) -> Spread:
        return Spread(
            self.get_buffer(f"expectation_{domain}"), self.get_buffer(f"deviation_{domain}")
        )
