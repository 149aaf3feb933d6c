"""GcGAN: its transforms, its consistency, and one whole step of the released code."""

from __future__ import annotations

import pytest
import torch

from goldens.fixtures import (
    Golden,
    assert_close_to_maximum,
    discriminator_from,
    generator_from,
    golden_files,
    zero_gradient_biases,
)
from patchkin.data.datasets import UnpairedBatch
from patchkin.losses.geometry import geometry_consistency, restored, transformed
from patchkin.method import Progress
from patchkin.methods.gcgan import GcGan, GcGanConfig
from patchkin.networks import ImagePoolConfig, PatchGANConfig
from patchkin.schedules import AdamConfig
from patchkin.training import Updater
from support import FixedDraws, cpu_fabric

RELATIVE = 1e-4
WEIGHTS = 5e-7
TRANSFORMS = {"rot": "rotation", "vf": "flip"}
NETWORKS = {"G": "G_AB", "G_gc": "G_gc_AB", "D": "D_B", "D_gc": "D_gc_B"}
"""Our name -> the released code's."""


@pytest.mark.parametrize("path", golden_files("gcgan_losses"))
def test_losses(path):
    golden = Golden(path)
    options = golden.options
    x = golden.tensor("in/x")
    assert_close_to_maximum(transformed(x, "rotation"), golden.tensor("out/rot_cw"), relative=0)
    assert_close_to_maximum(restored(x, "rotation"), golden.tensor("out/rot_ccw"), relative=0)
    kinds = [name.removeprefix("AB_gc_") for name in golden.arrays("in") if "_gc_" in name]
    assert kinds
    for kind in kinds:
        outputs = [golden.tensor(f"in/{n}").requires_grad_() for n in ("AB", f"AB_gc_{kind}")]
        weight = options["lambda_AB"] * options["lambda_gc"]
        loss = weight * geometry_consistency(*outputs, TRANSFORMS[kind])
        assert_close_to_maximum(loss.detach(), golden.tensor(f"out/gc_{kind}"), relative=RELATIVE)
        gradients = torch.autograd.grad(loss, outputs)
        for name, gradient in zip(("AB", "AB_gc"), gradients, strict=True):
            expected = golden.tensor(f"grad_{kind}/{name}")
            assert_close_to_maximum(gradient, expected, relative=RELATIVE)


@pytest.mark.parametrize("path", golden_files("gcgan_step"))
def test_step(path):
    golden = Golden(path)
    options = golden.options
    ours = [name for name, theirs in NETWORKS.items() if golden.arrays(f"net{theirs}")]
    method, batch = released_method(golden, ours), released_batch(golden)
    with torch.no_grad():
        turned = transformed(batch.a_BCHW, method.config.transform)
        second = method.get_submodule("G_gc" if options["variant"] == "cross" else "G")
        images = {"fake_B": method.G(batch.a_BCHW), "fake_gc_B": second(turned)}
    assert_close_to_maximum(turned, golden.tensor("out/real_gc_A"), relative=RELATIVE)
    for name, image in images.items():
        assert_close_to_maximum(image, golden.tensor(f"out/{name}"), relative=RELATIVE)

    update = Updater(method, cpu_fabric())
    update.begin_step(1.0)
    method.train_step(batch, update, Progress.of_step(0, total_steps=1, draws=FixedDraws()))
    check_losses(golden, update.terms)
    for name in ours:
        network = method.get_submodule(name)
        skipped = zero_gradient_biases(network)
        for parameter, value in network.named_parameters():
            key = f"net{NETWORKS[name]}/{parameter}"
            if parameter in skipped:
                assert float(golden.tensor(f"grad/{key}").abs().max()) < 1e-10
                continue
            assert_close_to_maximum(value.grad, golden.tensor(f"grad/{key}"), relative=RELATIVE)
            expected = golden.tensor(f"after/{key}")
            torch.testing.assert_close(value.detach(), expected, rtol=0, atol=WEIGHTS, msg=key)


def check_losses(golden, terms):
    generators = "G+G_gc" if golden.options["variant"] == "cross" else "G"
    names = {
        "G_AB": "adversarial",
        "G_gc_AB": "adversarial_gc",
        "gc": "consistency",
        "idt": "identity",
        "idt_gc": "identity_gc",
    }
    ours = {n: terms.get(f"{generators}.{term}", torch.zeros(())) for n, term in names.items()}
    ours["D_B"] = sum(value for name, value in terms.items() if name.startswith("D+D_gc."))
    assert set(golden.arrays("loss")) == set(ours)
    for name, value in ours.items():
        assert_close_to_maximum(value, golden.tensor(f"loss/{name}"), relative=RELATIVE)


def released_batch(golden):
    return UnpairedBatch(golden.tensor("in/real_A"), golden.tensor("in/real_B"))


def released_method(golden, ours):
    """The method with options, sizes and weights of the file."""
    options = golden.options
    weights = {name: golden.state_dict(f"net{NETWORKS[name]}") for name in ours}
    generator = generator_from(weights["G"])
    judge = discriminator_from(weights["D"])
    first = judge.model[0]
    adam = AdamConfig(
        learning_rate=options["lr"], beta1=options["betas"][0], beta2=options["betas"][1]
    )
    config = GcGanConfig(
        generator=generator.config,
        discriminator=PatchGANConfig(
            in_channels=first.in_channels,
            ndf=first.out_channels,
            layers=sum(isinstance(layer, torch.nn.Conv2d) for layer in judge.model) - 2,
            antialias=False,
        ),
        generator_adam=adam,
        discriminator_adam=adam,
        adversarial_weight=options["lambda_G"],
        transform=TRANSFORMS[options["geometry"]],
        generators=options["variant"],
        consistency_weight=options["lambda_AB"] * options["lambda_gc"],
        identity_weight=options["lambda_AB"] * options["identity"],
        pool=ImagePoolConfig(capacity=0),
    )
    assert options["pool"] == 0, "what the pool drew is not in the file"
    method = GcGan(config).double()
    assert set(method.adam()) == set(ours)
    for name in ours:
        method.get_submodule(name).load_state_dict(weights[name])
    return method
