"""What CycleGAN, DCLGAN and SimDCL do beyond the contract."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as nnf

from patchkin.data.datasets import UnpairedBatch
from patchkin.errors import ConfigError
from patchkin.method import Progress
from patchkin.methods.cyclegan import CycleGan, CycleGanConfig
from patchkin.methods.dclgan import DclGan, DclGanConfig
from patchkin.methods.simdcl import SimDcl, SimDclConfig
from patchkin.networks import ImagePoolConfig, InitConfig, PatchGANConfig, ResNetConfig
from patchkin.randomness import SeededDraws
from patchkin.training import Updater
from support import FixedDraws, cpu_fabric, random_batch

NETWORKS = {
    "generator": ResNetConfig(ngf=2, blocks=5),
    "discriminator": PatchGANConfig(ndf=2),
    "initialization": InitConfig(gain=1.0),
}
PATCHES = {"head_width": 6, "num_patches": 10}
KINDS = {
    "cyclegan": (CycleGan, CycleGanConfig(**NETWORKS, pool=ImagePoolConfig(capacity=0))),
    "dclgan": (DclGan, DclGanConfig(**NETWORKS, **PATCHES)),
    "simdcl": (SimDcl, SimDclConfig(**NETWORKS, **PATCHES)),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def build(kind, **changes):
    torch.manual_seed(0)
    method, config = kind
    return method(replace(config, **changes)).double()


def trained(method, *batches, draws=None) -> Updater:
    """One step per batch; the terms and gradients of the last one are in what is returned."""
    update = Updater(method, cpu_fabric())
    for step, batch in enumerate(batches):
        update.begin_step(1.0)
        progress = Progress.of_step(step, total_steps=4, draws=draws or SeededDraws(0, step))
        method.train_step(batch, update, progress)
    return update


def test_both_directions_translate(kind):
    gray = ResNetConfig(ngf=2, blocks=5, in_channels=1)
    method = build(kind, generator=gray).eval()
    a_BCHW, b_BCHW = torch.rand(1, 1, 16, 20).double(), torch.rand(1, 3, 16, 20).double()
    with torch.no_grad():
        assert torch.equal(method.translate(a_BCHW), method.G_AB(a_BCHW))
        assert torch.equal(method.translate(b_BCHW, direction="BtoA"), method.G_BA(b_BCHW))
    assert method.directions == ("AtoB", "BtoA")


def test_domains_may_differ_in_size(kind):
    batch = UnpairedBatch(
        random_batch(2, size=(32, 40), dtype=torch.float64).a_BCHW,
        random_batch(2, size=(36, 28), dtype=torch.float64).b_BCHW,
    )
    update = trained(build(kind), batch)
    assert all(torch.isfinite(term) for term in update.terms.values())


def in_the_mirror(name):
    """A and B exchanged in the name of a network, a tensor or a term."""
    other = str.maketrans("AB", "BA")
    return re.sub(r"_[AB]+(?![a-z])", lambda found: found[0].translate(other), name)


def test_the_two_directions_are_one_exchanged(kind):
    """Networks and domains exchanged: the terms of A and B exchange too."""
    batch = random_batch(1, dtype=torch.float64)
    method, mirrored = build(kind), build(kind)
    exchanged = {in_the_mirror(name): tensor for name, tensor in method.state_dict().items()}
    mirrored.load_state_dict(exchanged)
    same = [torch.randperm(60, generator=torch.Generator().manual_seed(i))[:10] for i in range(8)]
    draws = [FixedDraws([*same[:4], *same[4:]] * 2 if method.name == "simdcl" else same[:4] * 2)
             for _ in range(2)]  # fmt: skip
    ours = trained(method, batch, draws=draws[0]).terms
    theirs = trained(mirrored, UnpairedBatch(batch.b_BCHW, batch.a_BCHW), draws=draws[1]).terms
    for name, term in ours.items():
        network, _, label = name.rpartition(".")
        other = f"{network}.{in_the_mirror(label)}" if network else in_the_mirror(label)
        torch.testing.assert_close(theirs[other], term, rtol=1e-9, atol=1e-12)


def test_discriminators_learn_from_the_pool():
    method = build(KINDS["cyclegan"], pool=ImagePoolConfig(capacity=1, side=32))
    first, second = (random_batch(1, seed=seed, dtype=torch.float64) for seed in (1, 2))
    with torch.no_grad():
        earlier = method.G_AB(first.a_BCHW)
    draws = FixedDraws(coins=[True, False], integers=[0])  # D_B sees the pool, D_A the new image
    update = Updater(method, cpu_fabric())
    for step, batch in enumerate((first, second)):
        if step == 1:
            with torch.no_grad():
                expected = 0.5 * method.D_B(earlier).square().mean()
                other = 0.5 * method.D_A(method.G_BA(batch.b_BCHW)).square().mean()
        update.begin_step(1.0)
        method.train_step(batch, update, Progress.of_step(step, total_steps=2, draws=draws))
    torch.testing.assert_close(update.terms["D_B+D_A.fake_B"], expected)
    torch.testing.assert_close(update.terms["D_B+D_A.fake_A"], other)


def test_relation_terms_are_src_and_hdce_of_keys_and_queries():
    """Ours and in no released code: against the formulas of Jung et al., written out."""
    method = build(
        KINDS["dclgan"], contrast="relation", relation_weight=0.3, contrast_weight=0.7,
        gamma_divisor_start=4.0, gamma_divisor_end=2.0,
    )  # fmt: skip
    config, batch = method.config, random_batch(1, dtype=torch.float64)
    places = [torch.randperm(64)[:10] for _ in range(8)]
    gamma = 4.0 + (2.0 - 4.0) / 4  # the first of four steps
    relation, contrast = [], []
    with torch.no_grad():
        fake = method.G_AB(batch.a_BCHW)
        keys = method.F_A(method.G_AB.encode(batch.a_BCHW, config.taps), places[:4])
        queries = method.F_B(method.G_BA.encode(fake, config.taps), places[:4])
    for (key_KC,), (query_KC,) in zip(keys, queries, strict=True):
        w = nnf.normalize(query_KC, dim=-1)
        z = nnf.normalize(key_KC, dim=-1)
        p, q = (z @ z.T).softmax(dim=-1), (w @ w.T).softmax(dim=-1)
        m = (p + q) / 2
        relation.append(0.5 * (p * (p / m).log() + q * (q / m).log()).sum())
        losses = []
        for i in range(10):
            others = [j for j in range(10) if j != i]
            similar = torch.stack([z[i] @ z[j] for j in others])
            hardness = ((similar - similar.max()) / gamma).exp()
            logits = torch.stack([query_KC[i] @ key_KC[j] for j in others]) * hardness / 0.07
            losses.append(logits.logsumexp(0) - query_KC[i] @ key_KC[i] / 0.07)
        contrast.append(torch.stack(losses).mean())
    terms = trained(method, batch, draws=FixedDraws(places)).terms
    group = "G_AB+G_BA+F_A+F_B"
    expected = 0.5 * 0.3 * torch.stack(relation).mean()
    torch.testing.assert_close(terms[f"{group}.relation_AB"], expected, rtol=1e-5, atol=1e-9)
    expected = 0.5 * 0.7 * torch.stack(contrast).mean()
    torch.testing.assert_close(terms[f"{group}.contrast_AB"], expected, rtol=1e-5, atol=1e-9)


def test_keys_teach_nothing():
    """Each head learns from its own domain's translations, as queries."""
    method = build(KINDS["dclgan"])
    batch = random_batch(1, dtype=torch.float64)
    taps = method.config.taps
    fake_b, features_a = method.G_AB.forward_with_taps(batch.a_BCHW, taps)
    fake_a, features_b = method.G_BA.forward_with_taps(batch.b_BCHW, taps)
    terms = method._contrast_terms(
        fake_b,
        features_a,
        fake_a,
        features_b,
        Progress.of_step(0, total_steps=1, draws=SeededDraws(0, 0)),
        update=Updater(method, cpu_fabric()),
    )
    heads = [method.F_A.mlps[0][0].weight, method.F_B.mlps[0][0].weight]
    for name, taught in (("contrast_AB", [False, True]), ("contrast_BA", [True, False])):
        gradients = torch.autograd.grad(terms[name], heads, retain_graph=True, allow_unused=True)
        assert [gradient is not None for gradient in gradients] == taught


def test_fixed_summary_heads_never_move_and_their_images_do_learn():
    method = build(KINDS["simdcl"], similarity_heads="fixed")
    before = {name: tensor.clone() for name, tensor in method.S_A.state_dict().items()}
    update = trained(method, *(random_batch(1, seed=i, dtype=torch.float64) for i in range(2)))
    assert all(torch.equal(t, before[n]) for n, t in method.S_A.state_dict().items())
    assert float(update.terms["summary_spread"]) > 0
    similarity = update.terms["G_AB+G_BA+F_A+F_B.similarity_A"]
    assert float(similarity) > 0


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (CycleGanConfig, {"cycle_weight_a": -1.0}, "`cycle_weight_a` must not be negative; got -1"),
        (DclGanConfig, {"temperature": 0.0}, "`temperature` must be positive; got 0"),
        (DclGanConfig, {"gamma_divisor_end": -1.0}, "`gamma_divisor_end` must be positive"),
        (DclGanConfig, {"taps": ()}, "`taps` must name at least one"),
        (SimDclConfig, {"num_patches": 2}, "must be at least 3 .* got 2 and 256"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, changes, message):
    with pytest.raises(ConfigError, match=message):
        config(**changes)
