"""MoNCE's and QS-Attn's numbers through the options of methods, as a user sets them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from goldens.fixtures import (
    Golden,
    assert_close_to_maximum,
    discriminator_from,
    generator_from,
    golden_files,
    head_from,
    own_name,
)
from goldens.test_qsattn import is_sure, settings_of
from patchkin.data.datasets import UnpairedBatch
from patchkin.losses import patch_contrast
from patchkin.losses.transport import TransportConfig
from patchkin.method import Progress
from patchkin.methods.cut import Cut, CutConfig
from patchkin.methods.semantic_relation import SemanticRelation, SemanticRelationConfig
from patchkin.networks import PatchGANConfig, ResNetConfig
from patchkin.networks.attention import AttentionConfig
from patchkin.training import Updater
from support import FixedDraws, cpu_fabric

SMALL = {
    "generator": ResNetConfig(ngf=2, blocks=5),
    "discriminator": PatchGANConfig(ndf=2),
    "head_width": 4,
}


def contrast_of(case):
    """What CUT contrasts with as set, or for the decoupled form semantic relation."""
    settings = {
        "negatives": "optimal-transport",
        "transport": TransportConfig(
            cost=case["cost"],
            epsilon=case["eps"],
            rounds=case["rounds"],
            mean_weight=case["neg_term_weight"],
        ),
        "temperature": case["T"],
        "all_negatives": case["all_negatives"],
    }
    if case["form"] == "infonce":
        return Cut(CutConfig(**SMALL, **settings)).contrast
    return SemanticRelation(SemanticRelationConfig(**SMALL, **settings)).contrast


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("path", golden_files("monce_loss"))
def test_negatives_by_optimal_transport(path, dtype):
    golden, compared = Golden(path), 0
    for name, case in golden.options["cases"].items():
        query = golden.tensor(f"{name}/q", dtype).requires_grad_()
        shape = (case["batch"], case["places"])
        key_BKC = golden.tensor(f"{name}/k", dtype).unflatten(0, shape)
        places = golden.tensor(f"{name}/out/weights").shape[1]
        if case["num_patches"] != places:  # the release weighs by its option, this by the map
            continue
        compared += 1
        contrast = contrast_of(case)
        rows = patch_contrast(query.unflatten(0, shape), key_BKC, contrast)
        rows.mean().backward()
        for actual, stored in (
            (rows.flatten(), "rows"),
            (rows.mean(), "loss"),
            (query.grad, "grad_q"),
        ):
            expected = golden.tensor(f"{name}/out/{stored}")
            found = actual.detach().double()
            if dtype is torch.float64:
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
            else:
                assert_close_to_maximum(found, expected, relative=1e-4)
    assert compared


class NotStepping(Updater):
    """An updater that leaves the gradients and steps nobody."""

    def _step(self, optimizers, parameters):
        pass


@pytest.mark.parametrize("path", golden_files("qsattn_generator"))
def test_a_step_of_cut_at_places_by_attention(path):
    golden = Golden(path)
    options, taps = golden.options, tuple(golden.options["taps"])
    if not is_sure(options, torch.float64):
        pytest.skip("float64 does not decide which places are chosen")
    settings = settings_of(options)
    weights = {x: golden.state_dict(f"net{x}", torch.float64) for x in "GDF"}
    generator, judge = generator_from(weights["G"]), discriminator_from(weights["D"])
    method = Cut(
        CutConfig(
            generator=generator.config,
            discriminator=PatchGANConfig(ndf=options["ndf"]),
            taps=taps,
            head_width=options["nc"],
            num_patches=options["num_patches"],
            temperature=options["T"],
            adversarial_weight=options["lambda_GAN"],
            contrast_weight=options["lambda_NCE"],
            places="attention",
            attention=AttentionConfig(**settings, taps=taps[3:]),
        )
    ).double()
    method.G.load_state_dict(generator.state_dict())
    method.D.load_state_dict(judge.state_dict())
    method.F.load_state_dict(head_from(weights["F"]).state_dict())
    real = UnpairedBatch(*(golden.tensor(f"real_{x}", torch.float64) for x in "AB"))
    with torch.no_grad():
        maps = method.G.encode(real.a_BCHW, taps)
    unused = [torch.arange(min(options["num_patches"], m.shape[2] * m.shape[3])) for m in maps[3:]]
    drawn = [
        places
        for domain in "AB"
        for places in [*(golden.tensor(f"ids_{domain}_{tap}") for tap in range(3)), *unused]
    ]
    update = NotStepping(method, cpu_fabric())
    update.begin_step(1.0)
    draws = FixedDraws(drawn)
    method.train_step(real, update, Progress.of_step(0, total_steps=1, draws=draws))
    for name, (term, share) in {
        "D_fake": ("D.fake", 2),
        "D_real": ("D.real", 2),
        "G_GAN": ("G+F.adversarial", 1),
        "NCE": ("G+F.nce", 2),
        "NCE_Y": ("G+F.identity_nce", 2),
    }.items():
        expected = golden.tensor(f"out/loss_{name}")
        actual = share * update.terms[term].double()
        # Logged terms are single numbers of the precision of the run.
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-9)
    for network in "GDF":
        found = dict(method.get_submodule(network).named_parameters())
        names = [own_name(str(name)) for name in golden[f"out/names_{network}"]]
        norms = torch.stack([found[name].grad.norm() for name in names])
        expected = golden.tensor(f"out/gradnorm_{network}")
        assert_close_to_maximum(norms, expected, relative=1e-9)
        for name, expected in golden.tensors(f"out/grad_net{network}").items():
            assert_close_to_maximum(found[own_name(name)].grad, expected, relative=1e-6)


def test_the_options_change_nothing_where_they_are_not_set():
    plain = CutConfig(**SMALL)
    assert replace(plain, transport=TransportConfig(epsilon=3.0)).places == "random"
    assert Cut(plain).contrast.negatives == "uniform"
