"""NEGCUT: the generator of negatives, its losses, and one whole step of the released code."""

from __future__ import annotations

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
    zero_gradient_biases,
)
from patchkin.data.datasets import UnpairedBatch
from patchkin.losses.negatives import generated_info_nce, negative_diversity
from patchkin.method import Progress
from patchkin.methods.negcut import NegCut, NegCutConfig
from patchkin.networks import PatchGANConfig
from patchkin.networks.negative_generator import NegativeGenerator
from patchkin.schedules import AdamConfig
from patchkin.training import Updater
from support import FixedDraws, cpu_fabric

RELATIVE = 1e-4
WEIGHTS = 5e-7
NETWORKS = {"G": "G", "D": "D", "F": "F", "F_average": "F_", "N": "N"}
"""Our name -> the released code's."""


def expect(golden, name, actual):
    expected = golden.tensor(name)
    assert_close_to_maximum(actual.detach().reshape(expected.shape), expected, relative=RELATIVE)


def negatives_from(weights):
    """A generator of negatives with these weights; widths from their shapes."""
    taps = len({name.split(".")[0] for name in weights})
    width, both = weights["mlp_0.0.weight"].shape
    network = NegativeGenerator(taps, width, both - width).double()
    network.load_state_dict({own_name(name): weight for name, weight in weights.items()})
    return network


@pytest.mark.parametrize("path", golden_files("negcut_losses"))
def test_losses(path):
    golden = Golden(path)
    options = golden.options
    weights = golden.state_dict("netN")
    network = negatives_from(weights)
    taps = range(len(network.mlps))
    maps = [golden.tensor(f"in/feat_{tap}") for tap in taps]
    noises = [golden.tensor(f"in/noise_{tap}") for tap in taps]
    num_images, width = maps[0].shape[:2]
    rows = {
        kind: [golden.tensor(f"in/{kind}_{tap}").view(num_images, -1, width) for tap in taps]
        for kind in "qk"
    }
    queries = [row.requires_grad_() for row in rows["q"]]

    negatives = network([map_BCHW.mean(dim=(2, 3)) for map_BCHW in maps], noises)
    weight, temperature = options["lambda_NCE"], options["nce_T"]
    losses = [
        weight * generated_info_nce(q, k, n, temperature=temperature)
        for q, k, n in zip(queries, rows["k"], negatives, strict=True)
    ]
    nce = torch.stack([loss.mean() for loss in losses]).mean()
    spread = torch.stack([negative_diversity(n) for n in negatives]).mean()
    diversity = -options["lambda_MS_neg"] * spread
    for tap in taps:
        expect(golden, f"out/neg_{tap}", negatives[tap])
        expect(golden, f"out/nce_per_query_{tap}", losses[tap] / weight)
    expect(golden, "out/nce", nce)
    expect(golden, "out/diversity", diversity)
    expect(golden, "out/loss_N", diversity - nce)

    gradients = torch.autograd.grad(nce, [*queries, *negatives], retain_graph=True)
    names = [f"{kind}_{tap}" for kind in ("q", "neg") for tap in taps]
    for name, gradient in zip(names, gradients, strict=True):
        expect(golden, f"grad_nce/{name}", gradient)
    (diversity - nce).backward()
    parameters = dict(network.named_parameters())
    for name in weights:
        expect(golden, f"grad_loss_N/netN/{name}", parameters[own_name(name)].grad)


@pytest.mark.parametrize("path", golden_files("negcut_step"))
def test_step(path):
    golden = Golden(path)
    method, batch = released_method(golden), released_batch(golden)
    with torch.no_grad():
        expect(golden, "out/fake_B", method.G(batch.a_BCHW))
        if method.config.identity:
            expect(golden, "out/idt_B", method.G(batch.b_BCHW))
    update = Updater(method, cpu_fabric())
    update.begin_step(1.0)
    method.train_step(
        batch, update, Progress.of_step(0, total_steps=1, draws=released_draws(golden))
    )
    check_losses(golden, update.terms)
    for name, theirs in NETWORKS.items():
        network = method.get_submodule(name)
        taps = method.config.taps if name == "G" else ()
        skipped = zero_gradient_biases(network, taps)
        parameters = dict(network.named_parameters())
        for key in golden.state_dict(f"net{theirs}"):
            ours = own_name(key)
            value = parameters.pop(ours)
            stored = f"grad/net{theirs}/{key}"
            if ours in skipped:
                assert float(golden.tensor(stored).abs().max()) < 1e-10
                continue
            if stored in golden:
                expect(golden, stored, value.grad)
            expected = golden.tensor(f"after/net{theirs}/{key}")
            torch.testing.assert_close(value.detach(), expected, rtol=0, atol=WEIGHTS, msg=key)
        assert not parameters
    with_gradients = set(golden.children("grad"))
    assert with_gradients == {f"net{NETWORKS[name]}" for name in method.adam()}


def check_losses(golden, terms):
    options = golden.options
    share = 0.5 if options["nce_idt"] else 1.0
    zero = torch.zeros(())
    ours = {
        "D_real": 2 * terms["D.real"],
        "D_fake": 2 * terms["D.fake"],
        "D": terms["D.real"] + terms["D.fake"],
        "N_NCE": -terms["N.nce"] / share,
        "N_NCE_Y": -terms.get("N.identity_nce", zero) / share,
        "N": sum(value for name, value in terms.items() if name.startswith("N.")),
        "G_GAN": terms["G+F.adversarial"],
        "NCE": terms["G+F.nce"] / share,
        "NCE_Y": terms.get("G+F.identity_nce", zero) / share,
        "G": sum(value for name, value in terms.items() if name.startswith("G+F.")),
    }
    for name in golden.arrays("loss"):
        expect(golden, f"loss/{name}", ours[name])


def released_draws(golden):
    """Places and noise of the calls in their order, tap after tap."""
    calls = [call for call in ("N_A", "N_B", "G_A", "G_B") if golden.arrays(f"noise/{call}")]
    taps = range(len(golden.options["layers"]))
    return FixedDraws(
        places=[golden.tensor(f"patch_ids/{call}/{tap}") for call in calls for tap in taps],
        normals=[golden.tensor(f"noise/{call}/{tap}") for call in calls for tap in taps],
    )


def released_batch(golden):
    return UnpairedBatch(golden.tensor("in/real_A"), golden.tensor("in/real_B"))


def released_method(golden):
    """The method with options, sizes and weights of the file."""
    options = golden.options
    weights = {name: golden.state_dict(f"net{theirs}") for name, theirs in NETWORKS.items()}
    networks = {
        "G": generator_from(weights["G"]),
        "D": discriminator_from(weights["D"]),
        "F": head_from(weights["F"]),
        "F_average": head_from(weights["F_average"]),
        "N": negatives_from(weights["N"]),
    }
    assert options["netN"] == "neg_gen_momentum"
    assert options["gan"] == "lsgan"
    adam = AdamConfig(
        learning_rate=options["lr"], beta1=options["betas"][0], beta2=options["betas"][1]
    )
    first = networks["D"].model[0]
    method = NegCut(
        NegCutConfig(
            generator=networks["G"].config,
            discriminator=PatchGANConfig(in_channels=first.in_channels, ndf=first.out_channels),
            generator_adam=adam,
            discriminator_adam=adam,
            negatives_adam=adam,
            taps=tuple(options["layers"]),
            head_width=networks["N"].width,
            num_patches=options["P"],
            noise_width=options["z_dim"],
            temperature=options["nce_T"],
            contrast_weight=options["lambda_NCE"],
            diversity_weight=options["lambda_MS_neg"],
            head_momentum=options["momentum_F_"],
            identity=options["nce_idt"],
            flip_equivariance=options["flip_equivariance"],
        )
    ).double()
    for name, network in networks.items():
        setattr(method, name, network)
    method.F_average.requires_grad_(False)
    return method
