"""What SinCUT compares, against loops over its crops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from patchkin.data.datasets import UnpairedBatch
from patchkin.errors import ConfigError, ShapeError
from patchkin.method import Progress
from patchkin.methods.sincut import PRESETS, SinCut, SinCutConfig
from patchkin.networks import (
    InitConfig,
    StyleGan2DiscriminatorConfig,
    StyleGan2GeneratorConfig,
    draw_places,
)
from patchkin.networks.stylegan2 import StyledConv
from patchkin.randomness import SeededDraws
from patchkin.training import Updater
from support import cpu_fabric, random_batch

SMALL = SinCutConfig(
    generator=StyleGan2GeneratorConfig(ngf=1, working_size=16),
    discriminator=StyleGan2DiscriminatorConfig(ndf=1, working_size=16),
    head_initialization=InitConfig(gain=1.0),
    head_width=6,
)
RELATION = replace(SMALL, contrast="relation")


def build(config: SinCutConfig) -> SinCut:
    torch.manual_seed(0)
    method = SinCut(config).double()
    for layer in method.G.decoder.convs:
        if isinstance(layer, StyledConv):
            layer.noise.weight.data.fill_(0.4)
    return method


def batch_of(number: int, *, seed: int = 0, size: int = 16) -> UnpairedBatch:
    return random_batch(number, size=(size, size), seed=seed, dtype=torch.float64)


def terms_of(method: SinCut, batch: UnpairedBatch, *, epoch: int = 1, seed: int = 5):
    """The terms of a step that does not move the weights."""
    update = Updater(method, cpu_fabric())
    update._step = lambda *_: None  # type: ignore[method-assign]
    progress = Progress(
        step=0, total_steps=16, epoch=epoch, total_epochs=16, draws=SeededDraws(seed, 0)
    )
    method.train_step(batch, update, progress)
    return {name: float(value) for name, value in update.terms.items()}


def embedded(method: SinCut, batch: UnpairedBatch, branches: int, *, seed: int = 5):
    """Per branch and tap, query and key rows [crops, width] at the places that the step drew."""
    draws = SeededDraws(seed, 0)
    real = torch.cat([batch.a_BCHW, batch.b_BCHW])
    noise = [draws.normal_rows(len(real), 1, h, w) for h, w in method.G.noise_sizes(16, 16)]
    with torch.no_grad():
        outputs, keys = method.G.forward_with_taps(real, method.config.taps, noise)
        queries = method.G.encode(outputs, method.config.taps)
        found = []
        places = [draw_places(keys, 1, draws) for _ in range(branches)]
        for index, half in enumerate((slice(0, len(batch)), slice(len(batch), None))):
            at = places[index % branches]
            rows = [method.F([m[half] for m in maps], at) for maps in (queries, keys)]
            found.append([(q[:, 0], k[:, 0]) for q, k in zip(*rows, strict=True)])
    return found, outputs


def test_a_crop_is_told_apart_from_the_other_crops_at_the_same_place():
    method, batch = build(SMALL), batch_of(5)
    terms = terms_of(method, batch)
    branches, outputs = embedded(method, batch, branches=2)
    for name, taps in zip(("nce", "identity_nce"), branches, strict=True):
        total = 0.0
        for query, key in taps:
            for i in range(5):
                logits = [float(query[i] @ key[j]) / 0.07 for j in range(5)]
                total += math.log(sum(math.exp(x - logits[i]) for x in logits))
        expected = 0.5 * 4.0 * total / 5 / len(taps)
        assert terms[f"G+F.{name}"] == pytest.approx(expected, rel=1e-10)
    identity = (outputs[5:] - batch.b_BCHW).abs().mean()
    assert terms["G+F.identity"] == pytest.approx(float(identity), rel=1e-12)


def unit(rows):
    return rows / rows.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("weights", ["released", "fixed"])
def test_relations_are_those_among_the_crops(weights):
    """SRC is a sum over the crops; hard negatives are weighted over the batch, or not at all."""
    epoch = 8
    method, batch = build(replace(RELATION, weights=weights)), batch_of(4)
    terms = terms_of(method, batch, epoch=epoch)
    branches, _ = embedded(method, batch, branches=1)
    relation = 0.0
    for query, key in branches[0]:
        q, k = unit(query), unit(key)
        for i in range(4):
            p, w = (k @ k[i]).softmax(0), (q @ q[i]).softmax(0)
            m = (p + w) / 2
            relation += float(0.5 * (p * (p / m).log()).sum() + 0.5 * (w * (w / m).log()).sum())
    assert terms["G+F.relation"] == pytest.approx(10 * relation / 3, rel=1e-6)
    gamma = 200 + (40 - 200) * epoch / 16
    for name, taps in zip(("contrast", "identity_contrast"), branches, strict=True):
        total = as_nce = 0.0
        for query, key in taps:
            k = unit(key)
            for i in range(4):
                others = [j for j in range(4) if j != i]
                hardest = max(float(k[i] @ k[j]) for j in others)
                negatives = 0.0
                for j in others:
                    weight = math.exp((float(k[i] @ k[j]) - hardest) / gamma)
                    weight = weight if weights == "fixed" else 1.0
                    negatives += math.exp(weight * float(query[i] @ key[j]) / 0.07)
                positive = float(query[i] @ key[i]) / 0.07
                total += math.log(negatives) - positive
                as_nce += math.log(1 + negatives / math.exp(positive))
        assert terms[f"G+F.{name}"] == pytest.approx(0.5 * 4 * total / 12, rel=1e-6)
        assert terms[f"{name}_as_nce"] == pytest.approx(4 * as_nce / 12, rel=1e-6)


def test_gamma_is_void_as_released_and_not_as_fixed():
    batch = batch_of(4)
    for weights, equal in (("released", True), ("fixed", False)):
        method = build(replace(RELATION, weights=weights))
        first, last = (terms_of(method, batch, epoch=e)["G+F.contrast"] for e in (1, 16))
        assert (first == last) == equal


def test_the_published_curriculum():
    method = build(RELATION)
    for epoch, gamma in ((1, 190), (8, 120), (16, 40)):
        progress = Progress(
            step=0, total_steps=1, epoch=epoch, total_epochs=16, draws=SeededDraws(0, 0)
        )
        assert method.gamma_divisor(progress) == pytest.approx(gamma)


def test_several_patches_per_crop_join_the_negatives():
    several = replace(SMALL, num_patches=3)
    alone = terms_of(build(several), batch_of(1))
    assert alone["G+F.nce"] > 0, "one crop has negatives of its own"
    assert build(several).min_batch_size == 1
    assert build(SMALL).min_batch_size == 2
    with pytest.raises(ShapeError, match="negative"):
        terms_of(build(SMALL), batch_of(1))


def test_noise_belongs_to_the_draws_in_training_and_to_the_image_in_translation():
    method, batch = build(SMALL), batch_of(2)
    same, again, other = (terms_of(method, batch, seed=s)["G+F.identity"] for s in (1, 1, 2))
    assert same == again
    assert same != other
    x_BCHW = batch.a_BCHW
    with torch.no_grad():
        assert torch.equal(method.translate(x_BCHW), method.translate(x_BCHW))


def test_processes_share_the_noise_of_one_batch():
    """Row i of a process is row i N + rank of the batch, in A and in B."""
    method, real = build(SMALL), torch.zeros(12, 3, 16, 16)
    (whole,) = method._noise(real, SeededDraws(0, 0))
    for rank in range(3):
        (part,) = method._noise(real[:4], SeededDraws(0, 0, rank=rank, world_size=3))
        assert torch.equal(part[:2], whole[:6][rank::3])
        assert torch.equal(part[2:], whole[6:][rank::3])


def test_the_penalty_is_half_the_squared_slope_at_real_crops():
    batch = batch_of(3)
    method = build(replace(SMALL, r1_weight=2.5))
    terms = terms_of(method, batch)
    real = batch.b_BCHW.clone().requires_grad_()
    (slope,) = torch.autograd.grad(method.D(real).sum(), real)
    expected = 2.5 / 2 * sum(float(s.square().sum()) for s in slope) / 3
    assert terms["D.r1"] == pytest.approx(expected, rel=1e-10)
    assert "D.r1" not in terms_of(build(replace(SMALL, r1_weight=0.0)), batch)


def test_the_penalty_keeps_its_precision_in_16_bits():
    wide, batch = build(SMALL).float(), batch_of(3)
    batch = UnpairedBatch(batch.a_BCHW.float(), batch.b_BCHW.float())
    expected = terms_of(wide, batch)["D.r1"]
    with cpu_fabric("bf16-mixed").autocast():
        terms = terms_of(wide, batch)
    assert terms["D.r1"] == pytest.approx(expected, rel=1e-5)
    assert all(math.isfinite(value) for value in terms.values())


def test_grey_to_colour():
    config = replace(SMALL, generator=replace(SMALL.generator, in_channels=1))
    batch = batch_of(2)
    terms = terms_of(build(config), UnpairedBatch(batch.a_BCHW[:, :1], batch.b_BCHW))
    assert all(math.isfinite(value) for value in terms.values())


def test_crops_of_another_size_are_refused_by_the_discriminator():
    with pytest.raises(ShapeError, match=r"judges images \[B, 3, 16, 16\]; got \(2, 3, 32, 32\)"):
        terms_of(build(SMALL), batch_of(2, size=32))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"all_negatives": False}, "One patch per image has no negatives"),
        ({"contrast": "relation", "num_patches": 2}, "set `weights` fixed"),
        ({"num_patches": 0}, "`num_patches` must be at least 1"),
        ({"temperature": 0.0}, "`temperature` must be positive"),
        ({"gamma_divisor_end": -1.0}, "`gamma_divisor_end` must be positive"),
        ({"taps": ()}, "`taps` must name at least one layer"),
        ({"generator": StyleGan2GeneratorConfig(out_channels=1)}, "must be the generator's"),
        ({"generator": StyleGan2GeneratorConfig(in_channels=4)}, "equal or one of them 1"),
    ],
)
def test_settings_that_do_not_fit(changes, words):
    with pytest.raises(ConfigError, match=words):
        SinCutConfig(**changes)


def test_the_default_preset_is_the_released_one():
    assert next(iter(PRESETS)) == "released"
    for name in ("released", "semantic-relation", "semantic-relation-fixed"):
        preset = PRESETS[name]
        assert preset.data.preprocess == "zoom_and_patch"
        assert preset.data.size == preset.method.discriminator.working_size
        assert preset.schedule.epochs * preset.data.crops_per_epoch == 1_600_000
