"""What every method must do, on a CPU with tiny networks."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch

from patchkin.config import from_plain, to_plain
from patchkin.data.domains import DomainBatch
from patchkin.data.paired import PairedBatch
from patchkin.losses.transport import TransportConfig
from patchkin.method import Method, Progress
from patchkin.methods import METHODS
from patchkin.methods.cut import CutConfig
from patchkin.methods.cyclegan import CycleGanConfig
from patchkin.methods.dclgan import DclGanConfig
from patchkin.methods.distancegan import DistanceGanConfig
from patchkin.methods.drit import DritConfig
from patchkin.methods.enco import EnCoConfig
from patchkin.methods.gcgan import GcGanConfig
from patchkin.methods.lsesim import LSeSimConfig
from patchkin.methods.munit import MunitConfig
from patchkin.methods.negcut import NegCutConfig
from patchkin.methods.patchgcl import PatchGclConfig
from patchkin.methods.pix2pix import Pix2PixConfig
from patchkin.methods.semantic_relation import SemanticRelationConfig
from patchkin.methods.simdcl import SimDclConfig
from patchkin.methods.sincut import SinCutConfig
from patchkin.methods.starganv2 import StarGanV2Config
from patchkin.methods.starganv2_relation import StarGanV2RelationConfig
from patchkin.methods.travelgan import TravelGanConfig
from patchkin.networks import (
    ImagePoolConfig,
    InitConfig,
    PatchGANConfig,
    ResNetConfig,
    StyleGan2DiscriminatorConfig,
    StyleGan2GeneratorConfig,
    UNetConfig,
)
from patchkin.networks.attention import AttentionConfig
from patchkin.networks.drit import ContentDiscriminatorConfig, DritNetworkConfig
from patchkin.networks.munit import MultiScaleConfig, MunitGeneratorConfig
from patchkin.networks.places import GuidanceConfig
from patchkin.networks.starganv2 import StyleNetworksConfig
from patchkin.randomness import SeededDraws
from patchkin.schedules import ScheduleConfig
from patchkin.storage.checkpoint import CheckpointStore, ModelHeader
from patchkin.terms.structure import StructureConfig
from patchkin.training import TrainingConfig, Updater, fit
from patchkin.translation.translator import Translator
from support import FixedDraws, ListData, cpu_fabric, random_batch, random_domain_batch

SMALL = {
    "generator": ResNetConfig(ngf=4, blocks=5),
    "discriminator": PatchGANConfig(ndf=4),
    "initialization": InitConfig(gain=1.0),
    "head_width": 8,
    "num_patches": 12,
}
CUT, RELATION = CutConfig(**SMALL), SemanticRelationConfig(**SMALL)
PLAIN = {
    "generator": ResNetConfig(ngf=4, blocks=5, antialias_down=False, antialias_up=False),
    "discriminator": PatchGANConfig(ndf=4, antialias=False),
    "initialization": InitConfig(gain=1.0),
    "pool": ImagePoolConfig(capacity=20, side=40),
}
GCGAN = GcGanConfig(**PLAIN)
NEGCUT = NegCutConfig(**SMALL, noise_width=6)
DISTANCEGAN = DistanceGanConfig(**PLAIN, statistics_items=5)
LSESIM = LSeSimConfig(**PLAIN, features="random", feature_width=2, num_patches=12, window=3)
GRAY_TO_COLOUR = ResNetConfig(ngf=4, blocks=5, in_channels=1)
SMALL_POOL = ImagePoolConfig(capacity=3, side=40)
CYCLEGAN = CycleGanConfig(**{**PLAIN, "pool": ImagePoolConfig(capacity=0)})
DCLGAN = DclGanConfig(**SMALL)
SIMDCL = SimDclConfig(**SMALL)
ENCO = EnCoConfig(**SMALL, head_norm="layer")
PATCHGCL = PatchGclConfig(
    generator=ResNetConfig(ngf=4, blocks=5),
    discriminator=PatchGANConfig(ndf=4),
    initialization=InitConfig(gain=1.0),
    features="random",
    feature_width=2,
    node_width=8,
    num_patches=12,
    threshold=0.6,
)
SINCUT = SinCutConfig(
    generator=StyleGan2GeneratorConfig(ngf=1, working_size=32),
    discriminator=StyleGan2DiscriminatorConfig(ndf=1, working_size=32),
    head_initialization=InitConfig(gain=1.0),
    head_width=8,
)
SINCUT_SMALL = replace(
    SINCUT,
    generator=StyleGan2GeneratorConfig(ngf=1, blocks=2, working_size=32, noise=False),
    taps=(0, 2, 3),
    num_patches=12,
    all_negatives=False,
)
PIX2PIX = Pix2PixConfig(
    generator=UNetConfig(ngf=4, levels=2, norm="instance", dropout=False),
    discriminator=PatchGANConfig(in_channels=6, ndf=4, antialias=False),
    initialization=InitConfig(gain=1.0),
)
MUNIT = MunitConfig(
    generator=MunitGeneratorConfig(width=2, blocks=1, style_width=3, mlp_width=4),
    discriminator=MultiScaleConfig(width=2, layers=2, scales=2),
)
DRIT = DritConfig(
    networks=DritNetworkConfig(width=2, blocks=1, attribute_width=3, mlp_width=4),
    discriminator=MultiScaleConfig(width=2, layers=2, scales=2, slope=0.01),
    content_discriminator=ContentDiscriminatorConfig(layers=1, kernel=3),
    initialization=InitConfig(gain=1.0),
    generator_every=1,
    split_batch=False,
)
STYLES = StyleNetworksConfig(
    num_domains=3,
    image_size=16,
    base_width=4,
    max_width=8,
    style_width=5,
    latent_width=3,
    hidden_width=6,
)
STARGAN = StarGanV2Config(networks=STYLES)
STARGAN_RELATION = StarGanV2RelationConfig(
    networks=STYLES, layers=(0, 1), head_width=8, num_patches=12
)
STARGAN_RELEASED = replace(
    STARGAN_RELATION,
    networks=replace(STYLES, generator="released"),
    layers=(1, 2, 5),
    direction="released",
    cycle="released",
)
STARGAN_LSESIM = replace(
    STARGAN_RELATION,
    content="lsesim",
    structure=StructureConfig(features="random", feature_width=2, num_patches=12, window=3),
)
"""Every switch of every method, small."""
VARIANTS: dict[str, tuple[str, object]] = {
    "cut": ("cut", CUT),
    "fastcut": (
        "cut",
        replace(CUT, identity=False, flip_equivariance=True, contrast_weight=10.0),
    ),
    "cut-paper": ("cut", replace(CUT, contrast_sum="paper")),
    "cut-hinge-pixel": (
        "cut",
        replace(CUT, adversarial="hinge", discriminator=PatchGANConfig(ndf=4, kind="pixel")),
    ),
    "cut-gray-to-colour": (
        "cut",
        replace(CUT, generator=ResNetConfig(ngf=4, blocks=5, in_channels=1)),
    ),
    "cut-steadied": (
        "cut",
        replace(CUT, augmentation=("color", "translation", "cutout"), r1_weight=0.3),
    ),
    "cut-pool": ("cut", replace(CUT, pool=SMALL_POOL)),
    "cut-bank": ("cut", replace(CUT, negatives="both", bank_size=40)),  # the older name
    "cut-bank-only": ("cut", replace(CUT, negatives_from="external", bank_size=40)),
    "cut-bank-transport": (
        "cut",
        replace(CUT, negatives_from="both", negatives="optimal-transport", bank_size=40),
    ),
    "cut-transport": ("cut", replace(CUT, negatives="optimal-transport")),
    "cut-transport-sharp-few-places": (
        "cut",
        replace(
            CUT,
            negatives="optimal-transport",
            transport=TransportConfig(epsilon=0.01, rounds=9, cost="easy", mean_weight=0.5),
            num_patches=500,
        ),
    ),
    "cut-hard-negatives": ("cut", replace(CUT, negatives="released")),
    "cut-attention": ("cut", replace(CUT, places="attention")),
    "cut-attention-window": (
        "cut",
        replace(
            CUT,
            places="attention",
            attention=AttentionConfig(mode="local", taps=(8, 16), window=3),
            flip_equivariance=True,
        ),
    ),
    "cut-guided": ("cut", replace(CUT, places="discriminator")),
    "cut-guided-few-places": (
        "cut",
        replace(
            CUT,
            places="discriminator",
            guidance=GuidanceConfig(random_share=0.0),
            flip_equivariance=True,
            num_patches=500,
        ),
    ),
    "relation": ("semantic-relation", RELATION),
    "relation-paper": ("semantic-relation", replace(RELATION, weights="paper")),
    "relation-transport-attention": (
        "semantic-relation",
        replace(RELATION, negatives="optimal-transport", places="attention"),
    ),
    "relation-guided": (
        "semantic-relation",
        replace(RELATION, places="discriminator", relation_reduction="mean"),
    ),
    "relation-guided-in-turn": (
        "semantic-relation",
        replace(RELATION, places="discriminator", branches="in_turn", gamma_linear_in="gamma"),
    ),
    "relation-nce": ("semantic-relation", replace(RELATION, contrast="nce")),
    "relation-no-src": ("semantic-relation", replace(RELATION, relation_weight=0.0)),
    "relation-no-hard": ("semantic-relation", replace(RELATION, hard_negatives=False)),
    "relation-no-identity": ("semantic-relation", replace(RELATION, identity=False)),
    "relation-src-only": ("semantic-relation", replace(RELATION, contrast_weight=0.0)),
    "relation-plain-generator": (
        "semantic-relation",
        replace(
            RELATION,
            generator=ResNetConfig(ngf=4, blocks=5, antialias_down=False, antialias_up=False),
            taps=(0, 4, 8, 12, 14),
        ),
    ),
    "relation-steadied": (
        "semantic-relation",
        replace(RELATION, augmentation=("translation", "cutout"), r1_weight=0.3),
    ),
    "relation-aided-change": (
        "semantic-relation",
        replace(
            RELATION,
            generator=ResNetConfig(ngf=4, blocks=5, output="change"),
            discriminator=PatchGANConfig(ndf=4, features="random"),
            places="discriminator",
        ),
    ),
    "relation-few-places": ("semantic-relation", replace(RELATION, num_patches=500)),
    "enco": ("enco", ENCO),
    "enco-batch-norm": ("enco", replace(ENCO, head_norm="batch")),
    "enco-no-norm-no-predictor": ("enco", replace(ENCO, head_norm="none", predictor=False)),
    "enco-no-stop": ("enco", replace(ENCO, stop_gradient=False, random_share=1.0)),
    "enco-no-identity": ("enco", replace(ENCO, identity=False, random_share=0.0)),
    "enco-decaying": ("enco", replace(ENCO, identity_decays=True, adversarial="hinge")),
    "enco-other-pairs": (
        "enco",
        replace(
            ENCO,
            generator=ResNetConfig(ngf=4, blocks=5, antialias_down=False, antialias_up=False),
            pairs=((10, 14), (6, 17), (0, 23)),
        ),
    ),
    "enco-few-places": ("enco", replace(ENCO, num_patches=500)),
    "enco-gray-to-colour": ("enco", replace(ENCO, generator=GRAY_TO_COLOUR)),
    "gcgan": ("gcgan", GCGAN),
    "gcgan-cross-flip": ("gcgan", replace(GCGAN, generators="cross", transform="flip")),
    "gcgan-no-identity": ("gcgan", replace(GCGAN, identity_weight=0.0)),
    "negcut": ("negcut", NEGCUT),
    "fastnegcut": ("negcut", replace(NEGCUT, identity=False, flip_equivariance=True)),
    "negcut-mended": (
        "negcut",
        replace(NEGCUT, diversity_of="both", copied_start=True, detached_negatives=True),
    ),
    "negcut-projection": ("negcut", replace(NEGCUT, negatives_of="projection")),
    "negcut-features": ("negcut", replace(NEGCUT, negatives_of="features")),
    "negcut-free": ("negcut", replace(NEGCUT, negatives_of="free")),
    "distancegan-pairs": ("distancegan", DISTANCEGAN),
    "distancegan-pairs-one-sided": ("distancegan", replace(DISTANCEGAN, two_sided=False)),
    "distancegan-self": ("distancegan", replace(DISTANCEGAN, distance="self", cycle_weight=3.0)),
    "distancegan-self-one-sided": (
        "distancegan",
        replace(DISTANCEGAN, distance="self", two_sided=False),
    ),
    "distancegan-unstandardized": (
        "distancegan",
        replace(DISTANCEGAN, distance="self", standardized=False),
    ),
    "travelgan": ("travelgan", TravelGanConfig(width=2, vector_width=5)),
    "travelgan-gray-to-colour": (
        "travelgan",
        TravelGanConfig(width=2, vector_width=5, in_channels=1),
    ),
    "munit": ("munit", MUNIT),
    "munit-no-cycle": ("munit", replace(MUNIT, cycle_weight=0.0, adversarial="nonsaturating")),
    "munit-perceptual": (
        "munit",
        replace(MUNIT, perceptual_weight=0.5, features="random", feature_width=2, in_channels=1),
    ),
    "munit-gray-to-colour": ("munit", replace(MUNIT, in_channels=1)),
    "drit": ("drit", DRIT),
    "drit-plain": ("drit", replace(DRIT, mode_seeking_weight=0.0, content_noise=0.0)),
    "drit-mix": ("drit", replace(DRIT, networks=replace(DRIT.networks, form="mix"))),
    "drit-norm-lsgan": (
        "drit",
        replace(
            DRIT,
            content_discriminator=replace(DRIT.content_discriminator, norm="instance"),
            adversarial="lsgan",
        ),
    ),
    "drit-split-batch": ("drit", replace(DRIT, split_batch=True)),
    "drit-every-third": ("drit", replace(DRIT, generator_every=3)),
    "drit-gray-to-colour": ("drit", replace(DRIT, in_channels=1)),
    "fsesim": ("lsesim", LSESIM),
    "fsesim-identity": (
        "lsesim",
        replace(LSESIM, identity_weight=1.0, identity_structure_weight=5.0, comparison="l1"),
    ),
    "fsesim-all-places": ("lsesim", replace(LSESIM, num_patches=0, unit_features=True)),
    "lsesim": ("lsesim", replace(LSESIM, learned=True)),
    "fsesim-slope": ("lsesim", replace(LSESIM, slope_weight=2.0)),
    "lsesim-single-image-noise": (
        "lsesim",
        replace(
            LSESIM,
            generator=StyleGan2GeneratorConfig(ngf=1, blocks=2, working_size=32),
            discriminator=StyleGan2DiscriminatorConfig(ndf=1, working_size=32),
            pool=ImagePoolConfig(capacity=0),
            adversarial="nonsaturating",
            slope_weight=1.0,
            learned=True,
        ),
    ),
    "lsesim-plain": ("lsesim", replace(LSESIM, learned=True, augment=False)),
    "patchgcl": ("patchgcl", PATCHGCL),
    "patchgcl-encoder": ("patchgcl", replace(PATCHGCL, features="encoder", taps=(0, 8, 13))),
    "patchgcl-no-identity": ("patchgcl", replace(PATCHGCL, identity=False, hops=1)),
    "patchgcl-no-pooling": ("patchgcl", replace(PATCHGCL, poolings=0)),
    "patchgcl-two-poolings": (
        "patchgcl",
        replace(PATCHGCL, poolings=2, pooling_weights=(0.5, 0.25), down_scale=2),
    ),
    "patchgcl-few-places": ("patchgcl", replace(PATCHGCL, num_patches=500)),
    "patchgcl-gray-to-colour": ("patchgcl", replace(PATCHGCL, generator=GRAY_TO_COLOUR)),
    "cyclegan": ("cyclegan", CYCLEGAN),
    "cyclegan-no-identity": ("cyclegan", replace(CYCLEGAN, identity_weight=0.0)),
    "cyclegan-pool": ("cyclegan", replace(CYCLEGAN, pool=SMALL_POOL)),
    "cyclegan-gray-to-colour": ("cyclegan", replace(CYCLEGAN, generator=GRAY_TO_COLOUR)),
    "dclgan": ("dclgan", DCLGAN),
    "dclgan-paper": ("dclgan", replace(DCLGAN, pair_sum="paper", adversarial="lsgan")),
    "dclgan-relation": ("dclgan", replace(DCLGAN, contrast="relation", contrast_weight=0.1)),
    "dclgan-no-identity": ("dclgan", replace(DCLGAN, identity_weight=0.0)),
    "dclgan-transport-attention": (
        "dclgan",
        replace(DCLGAN, negatives="optimal-transport", places="attention"),
    ),
    "dclgan-relation-guided": (
        "dclgan",
        replace(DCLGAN, contrast="relation", negatives="paper", places="discriminator"),
    ),
    "dclgan-few-places": ("dclgan", replace(DCLGAN, num_patches=500)),
    "dclgan-pool": ("dclgan", replace(DCLGAN, pool=SMALL_POOL)),
    "dclgan-gray-to-colour": ("dclgan", replace(DCLGAN, generator=GRAY_TO_COLOUR)),
    "simdcl": ("simdcl", SIMDCL),
    "simdcl-paper": (
        "simdcl",
        replace(SIMDCL, pair_sum="paper", similarity_reduction="sum", contrast_weight=2.0),
    ),
    "simdcl-fixed-heads": ("simdcl", replace(SIMDCL, similarity_heads="fixed")),
    "simdcl-few-places": ("simdcl", replace(SIMDCL, num_patches=500)),
    "sincut-noise": ("sincut", SINCUT),
    "sincut-noise-deep": (
        "sincut",
        replace(
            SINCUT,
            generator=StyleGan2GeneratorConfig(
                ngf=1, blocks=2, num_downsampling=2, working_size=32, in_channels=1
            ),
            num_patches=12,
            r1_weight=0.0,
        ),
    ),
    "sincut-noise-relation": ("sincut", replace(SINCUT, contrast="relation")),
    "sincut-noise-relation-fixed": (
        "sincut",
        replace(SINCUT, contrast="relation", weights="fixed", relation_weight=0.0),
    ),
    "sincut-small": ("sincut", SINCUT_SMALL),
    "sincut-small-relation": (
        "sincut",
        replace(SINCUT_SMALL, contrast="relation", weights="fixed", num_patches=500),
    ),
    "sincut-small-transport-attention": (
        "sincut",
        replace(SINCUT_SMALL, negatives="optimal-transport", places="attention"),
    ),
    "sincut-noise-transport": (
        "sincut",
        replace(SINCUT, contrast="relation", negatives="optimal-transport", weights="released"),
    ),
    "starganv2": ("starganv2", STARGAN),
    "starganv2-in-parts": ("starganv2", replace(STARGAN, micro_batch=3, diversity_steps=5)),
    "starganv2-relation": ("starganv2-relation", STARGAN_RELATION),
    "starganv2-relation-released": ("starganv2-relation", STARGAN_RELEASED),
    "starganv2-relation-in-parts": (
        "starganv2-relation",
        replace(STARGAN_RELATION, micro_batch=1, weights="paper", direction="released"),
    ),
    "starganv2-relation-few-places": (
        "starganv2-relation",
        replace(STARGAN_RELEASED, contrast="nce", hard_negatives=False, num_patches=100),
    ),
    "starganv2-relation-transport-attention": (
        "starganv2-relation",
        replace(STARGAN_RELATION, negatives="optimal-transport", places="attention", micro_batch=2),
    ),
    "starganv2-relation-lsesim": ("starganv2-relation", STARGAN_LSESIM),
    "starganv2-relation-fsesim": (
        "starganv2-relation",
        replace(STARGAN_LSESIM, structure=replace(STARGAN_LSESIM.structure, learned=False)),
    ),
    "starganv2-relation-none": ("starganv2-relation", replace(STARGAN_RELATION, content="none")),
    "pix2pix": ("pix2pix", PIX2PIX),
    "pix2pix-residual": (
        "pix2pix",
        replace(
            PIX2PIX,
            generator=ResNetConfig(ngf=4, blocks=3, antialias_down=False, antialias_up=False),
            adversarial="hinge",
        ),
    ),
    "pix2pix-batch-norm": (
        "pix2pix",
        replace(
            PIX2PIX,
            generator=UNetConfig(ngf=4, levels=2, dropout=False),
            discriminator=PatchGANConfig(in_channels=6, ndf=4, antialias=False, norm="batch"),
        ),
    ),
}
SLOW = {
    "cut-attention",
    "cut-attention-window",
    "cut-bank-transport",
    "cut-guided-few-places",
    "cut-hard-negatives",
    "cut-transport",
    "cut-transport-sharp-few-places",
    "dclgan-relation-guided",
    "dclgan-transport-attention",
    "fsesim-slope",
    "munit-perceptual",
    "negcut-features",
    "negcut-free",
    "negcut-projection",
    "pix2pix-residual",
    "relation-guided",
    "relation-guided-in-turn",
    "sincut-noise-transport",
    "sincut-small-transport-attention",
    "starganv2-relation-transport-attention",
}
"""Variants that add to others one thing which its own tests cover; `make slow` runs them here."""


def marked(names):
    return [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in names]


PER_IMAGE = [
    name
    for name in VARIANTS
    if not any(s in name for s in ("bank", "pool", "batch-norm", "distancegan-pairs", "travelgan"))
    and "noise" not in name
    and "split-batch" not in name
]
"""Not those whose definition is over the batch: DistanceGAN compares its pairs of images and
TraVeLGAN the vectors between them; DRIT may use the halves of a batch differently. Nor those that
draw noise for each image."""
RHYTHMS = {"drit-every-third": [{"D_content"}, {"D_content"}, None]}
"""Of variants whose steps differ: the networks that learn in each; None stands for all."""
ROWS_BELONG_TOGETHER = ("drit", "lsesim", "pix2pix", "simdcl")
"""Methods that compare or join row i of one domain with row i of the other."""


def test_every_method_has_a_variant_here():
    assert VARIANTS.keys() >= SLOW
    assert {name for name, _ in VARIANTS.values()} == set(METHODS)


@pytest.fixture(params=marked(VARIANTS))
def variant(request):
    return request.param


def build(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Method:
    method_name, config = VARIANTS[name]
    torch.manual_seed(seed)
    return METHODS[method_name](config).to(dtype)


def batch_for(method: Method, num_images: int = 1, **options):
    num_images = max(num_images, method.min_batch_size)
    if method.batch_type is DomainBatch:
        return random_domain_batch(num_images, domains=method.num_domains, **options)
    batch = random_batch(num_images, channels=method.channels, **options)
    return method.batch_type(batch.a_BCHW, batch.b_BCHW)


def inputs_of(batch):
    return batch.x_BCHW if isinstance(batch, DomainBatch) else batch.a_BCHW


def rows_of(batch, rows, b_rows=None):
    """Some images of a batch; in batches of two domains perhaps others of the second one."""
    if isinstance(batch, DomainBatch):
        return batch._each(lambda tensor: tensor[rows])
    return type(batch)(batch.a_BCHW[rows], batch.b_BCHW[rows if b_rows is None else b_rows])


def training_size(method: Method, size: tuple[int, int]) -> tuple[int, int]:
    return size if method.training_side is None else (method.training_side,) * 2


def progress(step: int = 0, draws=None) -> Progress:
    return Progress.of_step(step, total_steps=10, draws=draws or SeededDraws(7, step))


def prepared(method: Method) -> Method:
    method.prepare((batch_for(method, seed=i) for i in range(20)), SeededDraws(0, -1))
    return method


class Recorder(Updater):
    """An updater that remembers who was stepped, and does or does not step."""

    def __init__(self, method, *, stepping=True):
        super().__init__(method, cpu_fabric())
        self.updated, self.sums, self._stepping = [], [], stepping

    def __call__(self, *networks, loss):
        def remembered(part):
            terms = part()
            self.sums[-1] += float(sum(term.detach() for term in terms.values()))
            return terms

        self.updated.append(networks)
        self.sums.append(0.0)
        parts = [loss] if callable(loss) else loss
        super().__call__(*networks, loss=[partial(remembered, part) for part in parts])

    def _step(self, optimizers, parameters):
        if self._stepping:
            super()._step(optimizers, parameters)


class SameForAll(SeededDraws):
    """Draws whose noise is the same for all images."""

    def normal_rows(self, num_images, *shape):
        return self.normal(1, *shape).expand(num_images, *shape)

    def uniform_rows(self, num_images, *shape):
        return self.uniform(1, *shape).expand(num_images, *shape)

    def order_rows(self, num_images, length):
        return self.places(length, length).expand(num_images, length)


def test_a_step_moves_the_named_networks_and_no_others(variant):
    method = prepared(build(variant))
    update = Recorder(method)
    trained = {name for names in [*method.adam()] for name in [names]}
    for turn, learning in enumerate(RHYTHMS.get(variant, [None, None])):
        before = copy.deepcopy(method.state_dict())
        method.train_step(batch_for(method, seed=turn), update, progress(turn))
        moved = {
            name.split(".")[0]
            for name, parameter in method.named_parameters()
            if parameter.requires_grad and not torch.equal(parameter, before[name])
        }
        assert moved == (learning or trained)
    assert {name for names in update.updated for name in names} == trained


def test_terms_are_finite_and_add_up_to_the_loss(variant):
    method = prepared(build(variant))
    update = Recorder(method)
    update.begin_step(1.0)
    size = training_size(method, (36, 28))
    method.train_step(batch_for(method, 2, size=size), update, progress())
    assert len(update.sums) == len(update.updated) > 0
    totals = dict.fromkeys(update.updated, 0.0)  # a network may be updated twice
    for names, total in zip(update.updated, update.sums, strict=True):
        totals[names] += total
    for names, total in totals.items():
        prefix = "+".join(names) + "."
        logged = [float(t) for name, t in update.terms.items() if name.startswith(prefix)]
        assert sum(logged) == pytest.approx(total, rel=1e-5)
    assert all(torch.isfinite(value) for value in update.terms.values())


TWO_DOMAINS = [n for n, (of, _) in VARIANTS.items() if METHODS[of].batch_type is not DomainBatch]


@pytest.mark.parametrize("name", marked(TWO_DOMAINS))
def test_a_step_on_images_of_unequal_sizes_that_are_not_square(name):
    """But for those that say at the start that they cannot (`patchkin.runs.views`)."""
    method = prepared(build(name))
    a_size, b_size = (36, 28), (28, 48)
    if method.training_side is not None:
        a_size = b_size = (method.training_side, method.training_side)
    elif method.needs_equal_sizes or method.batch_type is PairedBatch:
        b_size = a_size
    a, b = (batch_for(method, size=size) for size in (a_size, b_size))
    update, before = Recorder(method), copy.deepcopy(method.state_dict())
    update.begin_step(1.0)
    method.train_step(type(a)(a.a_BCHW, b.b_BCHW), update, progress())
    assert all(torch.isfinite(value) for value in update.terms.values())
    moved = {
        key.split(".")[0]
        for key, parameter in method.named_parameters()
        if parameter.requires_grad and not torch.equal(parameter, before[key])
    }
    assert moved == RHYTHMS.get(name, [set(method.adam())])[0]


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("cut", ["nce", "adversarial"]),
        ("relation", ["contrast", "relation", "adversarial"]),
        ("patchgcl", ["graph", "adversarial"]),
    ],
)
def test_what_is_asked_of_a_does_not_depend_on_the_size_of_b(name, terms):
    """Stacked where the sizes are equal, one after the other where they are not."""
    method = build(name, dtype=torch.float64)
    a, alike, larger = (
        batch_for(method, size=size, dtype=torch.float64) for size in ((36, 28), (36, 28), (28, 48))
    )
    seen = []
    for b in (alike, larger):
        fresh = copy.deepcopy(method)
        update = Recorder(fresh, stepping=False)
        update.begin_step(1.0)
        fresh.train_step(type(a)(a.a_BCHW, b.b_BCHW), update, progress())
        seen.append([float(update.terms[f"G+F.{term}"]) for term in terms])
    assert seen[0] == pytest.approx(seen[1], rel=1e-12)


@pytest.mark.parametrize("name", marked(PER_IMAGE))
def test_batch_4_gives_the_mean_of_four_batch_1_gradients(name):
    """With the same places: every term is a mean over images."""
    method = build(name, dtype=torch.float64)
    size = training_size(method, (32, 40))
    batch = batch_for(method, 4, size=size, dtype=torch.float64)

    def gradients(part, image=None):
        fresh = copy.deepcopy(method)  # pools and averages move in every step
        # An image alone draws what it draws as one of four processes' images.
        turn = {} if image is None else {"rank": image, "world_size": 4}
        draws = SeededDraws(7, 0, **turn)
        fresh.train_step(part, Recorder(fresh, stepping=False), progress(draws=draws))
        return {n: p.grad.clone() for n, p in fresh.named_parameters() if p.grad is not None}

    whole = gradients(batch)
    singles = [gradients(rows_of(batch, slice(i, i + 1)), i) for i in range(4)]
    for parameter, gradient in whole.items():
        mean = torch.stack([single[parameter] for single in singles]).mean(dim=0)
        scale = max(1.0, float(mean.abs().max()))
        torch.testing.assert_close(gradient, mean, rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.parametrize("name", marked(PER_IMAGE))
def test_the_order_of_the_batch_does_not_matter(name):
    """Where every image draws the same noise."""
    method = build(name, dtype=torch.float64)
    batch = batch_for(method, 3, dtype=torch.float64)
    b_order = [2, 0, 1] if method.name in ROWS_BELONG_TOGETHER else [1, 2, 0]
    mixed = rows_of(batch, [2, 0, 1], b_order)
    terms = []
    for part in (batch, mixed):
        fresh = copy.deepcopy(method)
        update = Recorder(fresh, stepping=False)
        update.begin_step(1.0)
        fresh.train_step(part, update, progress(draws=SameForAll(7, 0)))
        terms.append(dict(update.terms))
    torch.testing.assert_close(terms[0], terms[1], rtol=1e-9, atol=1e-12)


def test_draws_come_from_one_place(variant):
    """Two steps with the same draws are the same step, whatever the global generator does."""
    outcomes = []
    for seed in (1, 2):
        method = prepared(build(variant))
        torch.manual_seed(seed)
        method.train_step(batch_for(method), Recorder(method), progress())
        outcomes.append(method.state_dict())
    for name, tensor in outcomes[0].items():
        assert torch.equal(tensor, outcomes[1][name]), name


def test_fixed_draws_that_run_out_are_noticed():
    method = build("cut")
    with pytest.raises(StopIteration):
        method.train_step(batch_for(method), Recorder(method), progress(draws=FixedDraws()))


def run(run_dir, method, *, steps, resume=False, save_every=100):
    fit(
        method,
        ListData([batch_for(method, seed=i) for i in range(3)]),
        run_dir,
        fabric=cpu_fabric(),
        schedule=ScheduleConfig(steps=steps),
        training=TrainingConfig(save_every=save_every),
        header=ModelHeader(method=method.name, config=to_plain(method.config)),
        resume=resume,
    )


def test_saving_and_resuming_equals_not_stopping(variant, tmp_path):
    class StopError(Exception):
        pass

    whole, stopped, resumed = build(variant), build(variant), build(variant, seed=3)
    run(tmp_path / "whole", whole, steps=4)
    train_step = stopped.train_step

    def stopping(batch, update, progress):
        if progress.step == 3:
            raise StopError
        train_step(batch, update, progress)

    stopped.train_step = stopping
    with pytest.raises(StopError):
        run(tmp_path / "stopped", stopped, steps=4, save_every=2)
    run(tmp_path / "stopped", resumed, steps=4, resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_saved_model_translates_as_the_method_does(variant, tmp_path):
    method = build(variant)
    run(tmp_path, method, steps=1)
    translator = Translator.load(tmp_path, device="cpu")
    x_BCHW = inputs_of(batch_for(method, 2, size=(32, 36)))
    method.eval()
    with torch.no_grad():
        expected = method.translate(x_BCHW)
    assert torch.equal(translator(x_BCHW), expected)
    assert CheckpointStore(tmp_path).steps() == [1]


@pytest.mark.parametrize("size", [(33, 50), (64, 20), (7, 31)])
def test_translation_keeps_any_size_and_the_batch_changes_nothing(variant, size):
    method = build(variant)
    translator = Translator(method, device="cpu")
    x_BCHW = inputs_of(batch_for(method, 3, size=size))
    y_BCHW = translator(x_BCHW)
    assert y_BCHW.shape == (3, method.channels[1], *size)
    singles = torch.cat([translator(x_BCHW[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(y_BCHW, singles, rtol=1e-4, atol=1e-4)


def test_the_configuration_survives_plain_data(variant):
    method_name, config = VARIANTS[variant]
    assert from_plain(METHODS[method_name].config_type, to_plain(config)) == config


@pytest.mark.parametrize("name", METHODS)
def test_presets_are_configurations_of_their_method(name):
    kind = METHODS[name]
    for preset in kind.presets.values():
        assert type(preset.method) is kind.config_type
        assert from_plain(kind.config_type, to_plain(preset.method)) == preset.method


def test_previews_are_columns_of_the_batch(variant):
    method = build(variant).eval()
    batch = batch_for(method, 2)
    with torch.no_grad():
        columns = method.previews(batch)
        if "translated" in columns:  # with several domains, images go into various ones
            torch.testing.assert_close(columns["translated"], method.translate(batch.a_BCHW))
    assert isinstance(batch, DomainBatch) or "translated" in columns
    assert torch.equal(columns["input"], inputs_of(batch))
    assert {len(images) for images in columns.values()} == {2}
