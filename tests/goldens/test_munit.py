"""MUNIT: pieces of the forward pass and one whole step of the released code."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from goldens.fixtures import Golden, assert_close_to_maximum, golden_files
from patchkin.data.datasets import UnpairedBatch
from patchkin.method import Progress
from patchkin.methods.munit import Munit, MunitConfig
from patchkin.networks import InstanceNorm2d
from patchkin.networks.munit import (
    AdaptiveInstanceNorm2d,
    MultiScaleConfig,
    MunitGeneratorConfig,
)
from patchkin.schedules import AdamConfig
from patchkin.training import Updater
from support import FixedDraws, cpu_fabric

RELATIVE = 1e-4
WEIGHTS = 5e-7
NETWORKS = {"G_A": "gen_a", "G_B": "gen_b", "D_A": "dis_a", "D_B": "dis_b"}
"""Our name -> the released code's."""
MODES = {"lsgan": "lsgan", "nsgan": "nonsaturating"}


def expect(golden, name, actual):
    expected = golden.tensor(name)
    assert_close_to_maximum(actual.detach().reshape(expected.shape), expected, relative=RELATIVE)


def weights_of(golden, prefix):
    """Without the running statistics that AdaIN carries and never reads."""
    return {
        name: weight
        for name, weight in golden.state_dict(prefix).items()
        if not name.endswith((".running_mean", ".running_var"))
    }


@pytest.mark.parametrize("path", golden_files("munit_step"))
def test_step(path):
    golden = Golden(path)
    method, batch = released_method(golden), released_batch(golden)
    check_forward(golden, method, batch)
    update = Updater(method, cpu_fabric())
    update.begin_step(1.0)
    draws = FixedDraws(
        normals=[
            golden.tensor(f"in/s_{domain}_{turn}").flatten(1)
            for turn in ("dis", "gen")
            for domain in "ab"
        ]
    )
    method.train_step(batch, update, Progress.of_step(0, total_steps=1, draws=draws))
    check_losses(golden, update.terms, method.config)
    for name, theirs in NETWORKS.items():
        network = method.get_submodule(name)
        without_gradient = biases_before_instance_norm(network)
        parameters = dict(network.named_parameters())
        for key, after in weights_of(golden, f"after/net{theirs}").items():
            value, gradient = parameters.pop(key), golden.tensor(f"grad/net{theirs}/{key}")
            if key in without_gradient:
                assert float(gradient.abs().max()) < 1e-10
                continue
            assert_close_to_maximum(value.grad, gradient, relative=RELATIVE)
            torch.testing.assert_close(value.detach(), after, rtol=0, atol=WEIGHTS, msg=key)
        assert not parameters
        assert set(golden.arrays(f"grad/net{theirs}")) == set(golden.arrays(f"after/net{theirs}"))


@torch.no_grad()
def check_forward(golden, method, batch):
    style_b_BS = golden.tensor("in/s_b_gen").flatten(1)
    content, style_BS = method.G_A.encode(batch.a_BCHW)
    expect(golden, "fwd/c_a", content)
    expect(golden, "fwd/s_a", style_BS)
    expect(golden, "fwd/adain_params_b", method.G_B.mlp(style_b_BS))
    expect(golden, "fwd/x_ab", method.G_B.decode(content, style_b_BS))
    expect(golden, "fwd/x_ab", method.translate(batch.a_BCHW, styles_BS=style_b_BS))
    expect(golden, "fwd/x_a_recon", method.G_A(batch.a_BCHW))
    logits = method.D_B(batch.b_BCHW)
    for scale, row in enumerate(logits):
        expect(golden, f"fwd/dis_b_{scale}", row)
    assert sum(name.startswith("dis_b_") for name in golden.arrays("fwd")) == len(logits)


def check_losses(golden, terms, config):
    def unweighted(name, weight):
        return terms[name] / weight if name in terms else torch.zeros(())

    ours = {
        f"{prefix}_total": sum(value for name, value in terms.items() if name.startswith(update))
        for prefix, update in (("dis", "D_A+D_B."), ("gen", "G_A+G_B."))
    }
    for side in "AB":
        low, of_update = side.lower(), "G_A+G_B."
        for theirs, name, weight in (
            (f"gen_recon_x_{low}", f"image_{side}", config.image_weight),
            (f"gen_recon_s_{low}", f"style_{side}", config.style_weight),
            (f"gen_recon_c_{low}", f"content_{side}", config.content_weight),
            (f"gen_cycrecon_x_{low}", f"cycle_{side}", config.cycle_weight),
            (f"gen_adv_{low}", f"adversarial_{side}", config.adversarial_weight),
        ):
            ours[theirs] = unweighted(of_update + name, weight)
        ours[f"dis_{low}"] = sum(
            unweighted(f"D_A+D_B.{kind}_{side}", config.adversarial_weight)
            for kind in ("fake", "real")
        )
    for name in golden.arrays("loss"):
        expect(golden, f"loss/{name}", ours[name])


def biases_before_instance_norm(network):
    """Their gradient is zero: Adam makes steps of its rounding noise."""
    return {
        f"{name}.conv.bias"
        for name, block in network.named_modules()
        if isinstance(getattr(block, "norm", None), (InstanceNorm2d, AdaptiveInstanceNorm2d))
        and isinstance(getattr(block, "conv", None), nn.Conv2d)
    }


def released_batch(golden):
    return UnpairedBatch(golden.tensor("in/x_a"), golden.tensor("in/x_b"))


def released_method(golden):
    """The method with options, sizes and weights of the file."""
    options = golden.options
    generator, judge = options["gen"], options["dis"]
    assert (generator["activ"], generator["pad"]) == ("relu", "reflect")
    assert judge["norm"] == "none"
    assert options["vgg_w"] == 0
    weights = {name: weights_of(golden, f"net{theirs}") for name, theirs in NETWORKS.items()}
    adam = AdamConfig(
        learning_rate=options["lr"],
        beta1=options["betas"][0],
        beta2=options["betas"][1],
        weight_decay=options["weight_decay"],
    )
    method = Munit(
        MunitConfig(
            in_channels=golden["in/x_a"].shape[1],
            out_channels=golden["in/x_b"].shape[1],
            generator=MunitGeneratorConfig(
                width=generator["dim"],
                halvings=generator["n_downsample"],
                blocks=generator["n_res"],
                style_width=generator["style_dim"],
                mlp_width=generator["mlp_dim"],
            ),
            discriminator=MultiScaleConfig(
                width=judge["dim"],
                layers=judge["n_layer"],
                scales=judge["num_scales"],
                slope=float(judge["activ"].split()[-1]),
            ),
            generator_adam=adam,
            discriminator_adam=adam,
            adversarial=MODES[judge["gan"]],
            adversarial_weight=options["gan_w"],
            image_weight=options["recon_x_w"],
            content_weight=options["recon_c_w"],
            style_weight=options["recon_s_w"],
            cycle_weight=options["recon_x_cyc_w"],
        )
    ).double()
    for name, tensors in weights.items():
        method.get_submodule(name).load_state_dict(tensors)
    return method
