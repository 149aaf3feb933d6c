"""PatchGCL: Jung, Kwon and Ye, AAAI 2024 (arXiv 2312.08223).

CUT's one-sided adversary; its contrast of patches one by one is replaced by a contrast of the nodes
of a graph. Features at sampled places of fixed VGG16 maps are joined where those of the source
resemble each other; a graph convolution mixes them, in source and translation along the source's
graph; what should agree are the mixed nodes, and once more those of a pooled graph,

    L_G = lambda_GAN L_GAN + lambda_GNN 1/2 (L_graph(A, G(A)) + L_graph(B, G(B))),
    L_graph = mean over taps of (L_0 + sum_l r_l L_l) / (p + 1),   l = 1 ... p poolings.

Defaults are the published command, which sets other values than the options' defaults. Of the paper
only abstract and captions were to be had, and none of its numbers.

Differs from the released code: any batch, fewer places than asked and maps of any size; a second
pooling keeps the pattern of the first (the release truncates weights to integers, which joins all
nodes); no graph library; VGG16 is frozen; rows of length 0 stay finite. Ours: the generator's own
encoder in place of VGG16 (`features`).

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.errors import ConfigError
from patchkin.losses import AdversarialMode, generator_loss
from patchkin.losses.patch_graph import two_way_contrast
from patchkin.method import Method, Preset, Progress, Terms, Update
from patchkin.networks import (
    InitConfig,
    PatchGANConfig,
    PatchMap,
    ResNetConfig,
    ResNetGenerator,
    check_channels,
    discriminator,
    draw_places,
    initialize,
    match_channels,
)
from patchkin.networks.patch_graph import GraphLevel, PatchGraphs
from patchkin.networks.vgg import VGG16_WIDTH, VGGFeatures
from patchkin.randomness import Draws
from patchkin.schedules import AdamConfig, ScheduleConfig
from patchkin.terms.adversary import discriminator_terms
from patchkin.terms.branches import stacked, unstacked


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchGclConfig:
    """Defaults are the published command, for horse-to-zebra."""

    generator: ResNetConfig = field(default_factory=ResNetConfig)
    discriminator: PatchGANConfig = field(default_factory=PatchGANConfig)
    initialization: InitConfig = field(default_factory=InitConfig)
    """Of G and D; the graphs start from N(0, 0.02), as released."""
    generator_adam: AdamConfig = field(default_factory=AdamConfig)
    """For the generator and the graphs."""
    discriminator_adam: AdamConfig = field(default_factory=AdamConfig)
    adversarial: AdversarialMode = "lsgan"
    adversarial_weight: float = 1.0
    """lambda_GAN."""
    graph_weight: float = 0.1
    """lambda_GNN, for both pairs."""
    identity: bool = True
    """Contrast B with G(B) too, and halve the sum (released: gnn_idt)."""
    features: Literal["vgg16", "random", "encoder"] = "vgg16"
    """Whose maps are compared: VGG16's, those of its layers with seeded weights that learned
    nothing, or the generator's own encoder's, which learns. The last two are ours, for where no
    weights can be had."""
    vgg_weights: str | None = None
    """File with torchvision's VGG16; needed to train, not to translate."""
    feature_width: int = VGG16_WIDTH
    """Channels of VGG16's first stage; other than 64 only with `random`."""
    layers: tuple[int, ...] = (4, 7, 9)
    """Rectifiers of VGG16 whose maps are compared: relu3_1, relu4_1, relu4_3."""
    taps: tuple[int, ...] = (8, 12, 16)
    """Modules of the generator whose output is compared, with `features` encoder."""
    node_width: int = 256
    """Length of a node."""
    num_patches: int = 256
    """Places drawn per map, shared by the images of a batch; fewer if the map has fewer."""
    threshold: float = 0.1
    """Patches of the source more alike than this are joined, below 1 (released: nonzero_th)."""
    hops: int = 2
    """Of the convolution on the first graph."""
    poolings: int = 1
    """How often a graph is pooled."""
    pooling_weights: tuple[float, ...] = (0.5,)
    """r_l of each pooled graph, against 1 of the first. The release's `pooling_ratio` has one entry
    more in front, which it never reads."""
    down_scale: int = 4
    """The first pooling keeps one node in so many, each further one half as many."""
    temperature: float = 0.07
    """tau of the contrast; fixed in the release."""

    def __post_init__(self) -> None:
        for name, least in (("num_patches", 1), ("hops", 1), ("poolings", 0), ("down_scale", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"`{name}` must be at least {least}; got {getattr(self, name)}.")
        if self.temperature <= 0:
            raise ConfigError(f"`temperature` must be positive; got {self.temperature}.")
        if self.threshold >= 1:
            raise ConfigError(f"`threshold` must be below 1; got {self.threshold}.")
        if len(self.pooling_weights) < self.poolings:
            raise ConfigError(
                f"`pooling_weights` must have an entry for each of {self.poolings} poolings; "
                f"got {len(self.pooling_weights)}."
            )
        check_channels(self.generator, self.discriminator)
        if self.features == "encoder":
            if not self.taps:
                raise ConfigError("`taps` must name at least one module of the generator.")
            return
        for name in ("in_channels", "out_channels"):
            if getattr(self.generator, name) not in (1, 3):
                raise ConfigError(
                    f"VGG16 sees grey or colour images: `{name}` must be 1 or 3; got "
                    f"{getattr(self.generator, name)}. Or set `features` to encoder."
                )


_PUBLISHED = PatchGclConfig()

PRESETS: Mapping[str, Preset] = {
    "horse2zebra": Preset(
        summary="the published command: lambda_GNN 0.1, threshold 0.1, one pooling to a quarter, "
        "200 + 200 epochs",
        method=_PUBLISHED,
    ),
    "encoder": Preset(
        summary="the same on the generator's own encoder, for where VGG16's weights are not (ours)",
        method=replace(_PUBLISHED, features="encoder"),
    ),
    "toy": Preset(
        summary="a small PatchGCL on its own encoder for the built-in toy set, minutes on a CPU",
        method=PatchGclConfig(
            generator=ResNetConfig(ngf=16, blocks=6, norm="none", antialias_down=False),
            discriminator=PatchGANConfig(ndf=16, antialias=False),
            initialization=InitConfig(gain=0.7),
            generator_adam=AdamConfig(learning_rate=5e-4),
            discriminator_adam=AdamConfig(learning_rate=2.5e-4),
            graph_weight=1.0,  # with the published 0.1 the discriminator wins within 400 steps
            features="encoder",
            taps=(8, 12, 14),
            node_width=64,
            num_patches=64,
        ),
        schedule=ScheduleConfig(steps=2000, ema_decay=0.995),
        data=DataConfig(size=64, load_size=64, workers=0),
    ),
}


@final
class PatchGcl(Method):
    """Contrast between the nodes of graphs of patches."""

    name: ClassVar[str] = "patchgcl"
    paper: ClassVar[str] = "Jung, Kwon, Ye, AAAI 2024 (arXiv 2312.08223)"
    differs: ClassVar[str] = (
        "batches beyond 1 and few places fail; a second pooling joins all nodes; needs DGL"
    )
    config_type: ClassVar[type] = PatchGclConfig
    presets: ClassVar[Mapping[str, Preset]] = PRESETS

    config: PatchGclConfig

    def __init__(self, config: PatchGclConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PatchGclConfig()
        self.G = ResNetGenerator(config.generator)
        self.D = discriminator(config.discriminator)
        for network in (self.G, self.D):
            initialize(network, config.initialization)
        self.channels = (config.generator.in_channels, config.generator.out_channels)
        self.multiple_of = self.G.multiple_of
        self.min_size = self.G.min_size
        self.min_training_size = max(self.G.min_size, self.D.min_size)
        if config.features == "encoder":
            channels = self.G.tap_channels(config.taps)
        else:
            self.vgg = VGGFeatures(
                config.layers,
                weights=config.vgg_weights,
                random=config.features == "random",
                width=config.feature_width,
            )
            channels = self.vgg.channels
            self.min_training_size = max(self.min_training_size, self.vgg.min_size)
        self.F = PatchGraphs(
            channels,
            config.node_width,
            hops=config.hops,
            poolings=config.poolings,
            threshold=config.threshold,
            down_scale=config.down_scale,
        )
        initialize(self.F, InitConfig(kind="normal"))

    def adam(self) -> dict[str, AdamConfig]:
        """One optimizer per network; the graphs learn at the generator's rate."""
        generator, judge = self.config.generator_adam, self.config.discriminator_adam
        return {"G": generator, "F": generator, "D": judge}

    def prepare(self, batches: Iterable[UnpairedBatch], draws: Draws) -> None:
        """Read VGG16's weights, so that a missing file is noticed at once."""
        if self.config.features != "encoder":
            self.vgg.make_ready()

    def train_step(self, batch: UnpairedBatch, update: Update, progress: Progress) -> None:
        """Forward once; D on the detached output; then G and F together."""
        inputs = {"graph": batch.a_BCHW}
        if self.config.identity:
            inputs["identity_graph"] = match_channels(batch.b_BCHW, self.channels[0])
        passes = [self._forward(x_BCHW) for x_BCHW in stacked([*inputs.values()])]
        fake_BCHW = passes[0][0][: len(batch)]
        sources = unstacked([features for _, features in passes], [*inputs])
        update(
            "D",
            loss=lambda: discriminator_terms(
                self.D,
                fake_BCHW.detach(),
                batch.b_BCHW,
                mode=self.config.adversarial,
                draws=progress.draws,
            ),
        )

        def generator_terms() -> Terms:
            adversarial = generator_loss(self.config.adversarial, self.D(fake_BCHW))
            terms = {"adversarial": self.config.adversarial_weight * adversarial}
            if self.config.graph_weight:
                outputs = [match_channels(y_BCHW, self.channels[0]) for y_BCHW, _ in passes]
                targets = unstacked([self._features(y_BCHW) for y_BCHW in outputs], [*inputs])
                terms |= self._graph_terms(sources, targets, update, progress.draws)
            return terms

        update("G", "F", loss=generator_terms)

    def translate(self, x_BCHW: Tensor) -> Tensor:
        """G(x)."""
        y_BCHW: Tensor = self.G(x_BCHW)
        return y_BCHW

    def patch_maps(self, x_BCHW: Tensor, *, translated: bool = False) -> list[PatchMap]:
        """The maps that are compared, embedded by F."""
        x_BCHW = match_channels(x_BCHW, self.channels[0])
        if self.config.features == "encoder":
            taps, fields = self.config.taps, self.G.tap_fields(self.config.taps)
            origins = [self.G.tap_origin(tap) for tap in taps]
        else:
            taps, fields = self.config.layers, self.vgg.fields
            origins = [0 for _ in taps]
        rows = zip(taps, self._features(x_BCHW), origins, fields, strict=True)
        return [
            PatchMap(tap, feature, self.F.embedder(index), origin, size)
            for index, (tap, feature, origin, size) in enumerate(rows)
        ]

    def previews(self, batch: UnpairedBatch) -> dict[str, Tensor]:
        """Input, output, and with the identity term a target image and its reconstruction."""
        columns = {"input": batch.a_BCHW, "translated": self.G(batch.a_BCHW)}
        if self.config.identity:
            again = self.G(match_channels(batch.b_BCHW, self.channels[0]))
            columns |= {"target": batch.b_BCHW, "identity": again}
        return columns

    def _forward(self, inputs_BCHW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """G of images, and the features of the images, without graph."""
        if self.config.features == "encoder":
            outputs_BCHW, features = self.G.forward_with_taps(inputs_BCHW, self.config.taps)
            return outputs_BCHW, [feature.detach() for feature in features]
        with torch.no_grad():
            features = self.vgg(inputs_BCHW)
        return self.G(inputs_BCHW), features

    def _features(self, x_BCHW: Tensor) -> list[Tensor]:
        """Maps of images, one per tap."""
        if self.config.features == "encoder":
            return self.G.encode(x_BCHW, self.config.taps)
        maps: list[Tensor] = self.vgg(x_BCHW)
        return maps

    def _graph_terms(
        self,
        sources: Mapping[str, Sequence[Tensor]],
        targets: Mapping[str, Sequence[Tensor]],
        update: Update,
        draws: Draws,
    ) -> Terms:
        """The contrast of A with G(A), and with the identity term that of B with G(B)."""
        share, terms = 1 / len(sources), {}
        for name in sources:
            places = draw_places(sources[name], self.config.num_patches, draws)
            levels = self.F(sources[name], targets[name], places)
            losses = [self._graph_loss(tap_levels) for tap_levels in levels]
            terms[name] = share * self.config.graph_weight * torch.stack(losses).mean()
            if name == "graph":  # near 0 or 1 the graphs say nothing
                edges = [tap_levels[0].adjacency_BKK.float().mean() for tap_levels in levels]
                update.report(edges=torch.stack(edges).mean())
        return terms

    def _graph_loss(self, levels: Sequence[GraphLevel]) -> Tensor:
        """Of one tap, the mean over images."""
        losses = [
            two_way_contrast(
                level.source_BKC, level.target_BKC, temperature=self.config.temperature
            ).mean()
            for level in levels
        ]
        weights = (1.0, *self.config.pooling_weights)
        weighted = [weight * loss for weight, loss in zip(weights, losses, strict=False)]
        return torch.stack(weighted).sum() / len(levels)
