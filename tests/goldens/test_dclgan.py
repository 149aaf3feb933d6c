"""Steps of the released DCLGAN and SimDCL (`dclgan_*`, `simdcl_step*`), and SimDCL's heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from goldens.fixtures import (
    Golden,
    discriminator_from,
    generator_from,
    golden_files,
    head_from,
)
from goldens.replay import MODES, own_names, real_images, replay
from patchkin.data.datasets import UnpairedBatch
from patchkin.losses import cosine_info_nce, info_nce, summary_distance
from patchkin.methods.dclgan import DclGan, DclGanConfig
from patchkin.methods.simdcl import SimDcl, SimDclConfig
from patchkin.networks import ImagePoolConfig, SimilarityHead, SimilarityHeads, unit_rows
from patchkin.schedules import AdamConfig
from support import FixedDraws

NETWORKS = {
    "G_A": "G_AB",
    "G_B": "G_BA",
    "D_A": "D_B",
    "D_B": "D_A",
    "F1": "F_A",
    "F2": "F_B",
    "F3": "S_A.real",
    "F4": "S_B.fake",
    "F5": "S_B.real",
    "F6": "S_A.fake",
}
"""The released names -> ours."""
SIMILARITY = ("F3", "F4", "F5", "F6")
ZERO = 1e-12
"""Stored gradient norms below this are true zeros."""


def summary_head_from(weights: dict[str, Tensor]) -> SimilarityHead:
    head = SimilarityHead(taps=weights["model.0.weight"].shape[1]).double()
    head.load_state_dict(weights)
    return head


def common_settings(golden: Golden) -> dict[str, Any]:
    """What both configurations call by the same names."""
    options = golden.options
    assert options.get("pool_size", 0) == 0, "what the pool drew is not in the file"
    taps = options["nce_layers"]
    adam = AdamConfig(
        learning_rate=float(options["lr"]),
        beta1=float(options["beta1"]),
        beta2=float(options["beta2"]),
    )
    return {
        "generator_adam": adam,
        "discriminator_adam": adam,
        "pool": ImagePoolConfig(capacity=0),
        "adversarial": MODES[options["gan_mode"]],
        "adversarial_weight": float(options["lambda_GAN"]),
        "taps": tuple(taps) if isinstance(taps, list) else (taps,),
        "head_width": int(options["netF_nc"]),
        "num_patches": int(options["num_patches"]),
        "temperature": float(options["nce_T"]),
        "all_negatives": True,  # what the released code does for batches beyond 1
    }


def method_from(golden: Golden) -> DclGan | SimDcl:
    options, common = golden.options, common_settings(golden)
    released = {name for name in NETWORKS if golden.arrays(f"net{name}")}
    weights = {name: golden.state_dict(f"net{name}") for name in released}
    networks = {name: generator_from(weights[name]) for name in ("G_A", "G_B")}
    networks |= {name: discriminator_from(weights[name]) for name in ("D_A", "D_B")}
    networks |= {name: head_from(weights[name]) for name in ("F1", "F2")}
    common["generator"] = networks["G_A"].config
    method: DclGan | SimDcl
    if released >= set(SIMILARITY):
        method = SimDcl(
            SimDclConfig(
                **common,
                head_adam=common["generator_adam"],
                similarity_weight=float(options["lambda_SIM"]),
            )
        )
        networks |= {name: summary_head_from(weights[name]) for name in SIMILARITY}
    else:
        method = DclGan(
            DclGanConfig(
                **common,
                contrast_weight=float(options["lambda_NCE"]),
                identity_weight=float(options["lambda_IDT"]),
            )
        )
    for name, network in networks.items():
        parent, _, attribute = NETWORKS[name].rpartition(".")
        setattr(method.get_submodule(parent), attribute, network)
    return method.double()


def batches_from(golden: Golden) -> list[UnpairedBatch]:
    """Source and target per step; the file holds the images from before the swap."""
    a, b = real_images(golden, "real_A"), real_images(golden, "real_B")
    if golden.options["direction"] == "BtoA":
        a, b = b, a
    return [UnpairedBatch(x, y) for x, y in zip(a, b, strict=True)]


def places_from(golden: Golden) -> list[Tensor]:
    """In the order of the released draws; a small map has fewer places than its row."""
    names = [n for n in ("ids_nce1", "ids_sim_fakeB", "ids_nce2", "ids_sim_fakeA") if n in golden]
    stored = [golden.tensor(name) for name in names]
    return [row for step in range(len(stored[0])) for ids in stored for row in ids[step]]


def released_losses(golden: Golden, terms: dict[str, float], method: Any) -> dict[str, float]:
    """Our terms under the names and conventions of the released log."""
    generator, *_ = (n.split(".")[0] for n in terms if ".adversarial_A" in n)
    share = 0.5 if method.config.pair_sum == "released" else 1.0
    # DCLGAN logs the weight of the adversarial loss for D too, which it does not learn with.
    judged = method.config.adversarial_weight if isinstance(method, DclGan) else 1.0
    losses = {"G": sum(value for name, value in terms.items() if name.startswith(generator))}
    for number, (source, target) in enumerate(("AB", "BA"), start=1):
        judgements = (terms[f"D_B+D_A.{kind}_{target}"] for kind in ("fake", "real"))
        losses[f"D_{source}"] = judged * sum(judgements)
        losses[f"G_{source}"] = terms[f"{generator}.adversarial_{target}"] / share
        losses[f"NCE{number}"] = terms[f"{generator}.contrast_{source}{target}"] / share
        losses[f"idt_{source}"] = terms.get(f"{generator}.identity_{target}", 0.0) / share
    if isinstance(method, SimDcl):
        losses["Sim"] = sum(terms[f"{generator}.similarity_{side}"] for side in "AB")
    return losses


@pytest.mark.parametrize("path", golden_files("dclgan_", "simdcl_step"))
def test_steps(path):
    golden = Golden(path)
    method, batches = method_from(golden), batches_from(golden)
    with torch.no_grad():
        a, b = batches[0].a_BCHW, batches[0].b_BCHW
        images = {
            "fake_B": method.translate(a),
            "fake_A": method.translate(b, direction="BtoA"),
            "idt_A": method.G_AB(b),
            "idt_B": method.G_BA(a),
        }
    steps = replay(method, batches, FixedDraws(places_from(golden)))

    names = [str(name) for name in golden["loss_names"]]
    for step, row in enumerate(golden["losses"]):
        ours = released_losses(golden, steps.terms[step], method)
        assert set(names) == set(ours)
        for name, value in zip(names, row, strict=True):
            assert ours[name] == pytest.approx(value, rel=1e-9, abs=1e-9), (step, name)
    for name in images.keys() & set(golden):
        torch.testing.assert_close(images[name], golden.tensor(name), rtol=0, atol=2e-7)

    norms = dict(zip(golden["gradnorm_names"].tolist(), golden["gradnorm"], strict=True))
    norms = own_names(norms, NETWORKS)
    assert set(norms) == set(steps.gradients[0])
    for name, norm in norms.items():
        ours = float(steps.gradients[0][name].norm())
        if norm < ZERO:
            assert ours <= ZERO, name
        else:
            assert ours == pytest.approx(norm, rel=1e-9), name

    after, last = own_names(golden.tensors("after"), NETWORKS), steps.weights[-1]
    for name, weight in after.items():
        torch.testing.assert_close(last[name], weight, rtol=0, atol=2e-7, msg=name)
    for moment, power in (("after_sum", 1), ("after_sumsq", 2)):
        values = dict(zip(golden["after_names"].tolist(), golden[moment], strict=True))
        for name, value in own_names(values, NETWORKS).items():
            assert float((last[name] ** power).sum()) == pytest.approx(value, abs=1e-6), name


def similarity_case(golden: Golden, case: str) -> dict[str, Tensor]:
    """The stacks of a case by the images they come from, with a batch axis."""
    stacks = {}
    for image in ("realA", "fakeB", "realB", "fakeA"):
        if case == "full":
            product = golden.tensor(f"full_U_{image}") @ golden.tensor(f"full_V_{image}")
            stacks[image] = unit_rows(product)[None]
        else:
            stacks[image] = golden.tensor(f"small_{image}")[None]
    return stacks


@pytest.mark.parametrize("case", ["small", "full", "tiny"])
@pytest.mark.parametrize("path", golden_files("simdcl_similarity"))
def test_similarity_heads(path, case):
    golden = Golden(path)
    weights = {name: golden.state_dict(f"net{name}") for name in SIMILARITY}
    if case == "tiny":
        weights = {
            name: {k: w * 0 if k.endswith("bias") else w / 64 for k, w in state.items()}
            for name, state in weights.items()
        }
    num_taps = weights["F3"]["model.0.weight"].shape[1]
    pairs = {}
    for domain, real, fake in (("A", "F3", "F6"), ("B", "F5", "F4")):
        pairs[domain] = SimilarityHeads(num_taps).double()
        pairs[domain].real.load_state_dict(weights[real])
        pairs[domain].fake.load_state_dict(weights[fake])
    stacks = {n: s.requires_grad_() for n, s in similarity_case(golden, case).items()}
    means, sums = [], []
    for domain, heads in pairs.items():
        names = (f"real{domain}", f"fake{domain}")
        summaries = heads(*(stacks[name] for name in names))
        for name, summary_BS in zip(names, summaries, strict=True):
            expected = golden.tensor(f"{case}_out_{name}")
            torch.testing.assert_close(summary_BS, expected, rtol=0, atol=1e-10)
        means.append(summary_distance(*summaries))
        sums.append(summary_distance(*summaries, reduction="sum"))
    assert float(sum(means).detach()) == pytest.approx(golden.number(f"{case}_sim_mean"), abs=1e-10)
    if f"{case}_sim_sum" in golden:
        assert float(sum(sums).detach()) == pytest.approx(
            golden.number(f"{case}_sim_sum"), abs=1e-10
        )
    if case == "small":
        for name, gradient in zip(
            stacks, torch.autograd.grad(sum(means), list(stacks.values())), strict=True
        ):
            expected = golden.tensor(f"small_grad_{name}")
            torch.testing.assert_close(gradient[0], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("path", golden_files("simdcl_similarity"))
def test_patch_contrast_of_cosines_and_of_dot_products(path):
    golden = Golden(path)
    query, key = golden.tensor("nce_q").requires_grad_(), golden.tensor("nce_k")
    temperature, images = golden.number("nce_T"), int(golden["nce_batch"])
    loss = cosine_info_nce(query[None], key[None], temperature=temperature)
    torch.testing.assert_close(loss[0], golden.tensor("nce_loss"), rtol=0, atol=1e-10)
    (gradient,) = torch.autograd.grad(loss.mean(), query)
    torch.testing.assert_close(gradient, golden.tensor("nce_grad_q"), rtol=0, atol=1e-10)
    rows = (unit_rows(x.detach()).unflatten(0, (images, -1)) for x in (query, key))
    dot = info_nce(*rows, temperature=temperature).flatten()
    torch.testing.assert_close(dot, golden.tensor("nce_dot_loss"), rtol=0, atol=1e-10)
