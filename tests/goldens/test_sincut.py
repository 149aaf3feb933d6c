"""Whole optimisation steps of the released SinCUT, replayed with its noise and places."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from goldens.fixtures import Golden, golden_files
from goldens.replay import (
    MODES,
    Steps,
    assert_after_adam,
    assert_gradients,
    own_names,
    real_images,
    replay,
)
from goldens.test_stylegan2 import discriminator_config, generator_config
from patchkin.data.datasets import UnpairedBatch
from patchkin.methods.sincut import SinCut, SinCutConfig
from patchkin.schedules import AdamConfig
from support import FixedDraws

NETWORKS = {"G": "G", "D": "D", "F": "F"}


class Played(NamedTuple):
    golden: Golden
    config: SinCutConfig
    method: SinCut
    steps: Steps
    images: dict[str, Tensor]
    """What G made of the first batch, before the first update."""


def base_of(path: Path) -> Path:
    """The file with options and inputs; the companions hold only expected values."""
    if "options" in Golden(path):
        return path
    bases = [
        other
        for other in path.parent.glob("cut_step_sincut*.npz")
        if path.stem.replace("_step1", "").replace("_final", "") == other.stem
    ]
    assert len(bases) == 1, f"{path.name}: no file with its inputs"
    return bases[0]


def config_from(golden: Golden) -> SinCutConfig:
    resolved = golden.options["resolved"]
    adam = AdamConfig(
        learning_rate=float(resolved["lr"]),
        beta1=float(resolved["beta1"]),
        beta2=float(resolved["beta2"]),
    )
    assert resolved["nce_idt"]
    assert not resolved["flip_equivariance"]
    return SinCutConfig(
        generator=generator_config(
            golden.state_dict("init/netG"),
            resolved,
            halvings=int(resolved["stylegan2_G_num_downsampling"]),
        ),
        discriminator=discriminator_config(golden.state_dict("init/netD"), resolved),
        generator_adam=adam,
        discriminator_adam=adam,
        adversarial=MODES[resolved["gan_mode"]],
        adversarial_weight=float(resolved["lambda_GAN"]),
        r1_weight=float(resolved["lambda_R1"]),
        identity_weight=float(resolved["lambda_identity"]),
        taps=tuple(golden.options["nce_layers"]),
        head_width=int(resolved["netF_nc"]),
        num_patches=int(resolved["num_patches"]),
        all_negatives=bool(resolved["nce_includes_all_negatives_from_minibatch"]),
        temperature=float(resolved["nce_T"]),
        contrast_weight=float(resolved["lambda_NCE"]),
    )


@cache
def play(base: Path) -> Played:
    golden = Golden(base)
    config = config_from(golden)
    method = SinCut(config).double()
    weights = own_names(golden.tensors("init"), NETWORKS)
    method.load_state_dict(weights, strict=True)
    batches = [
        UnpairedBatch(*pair)
        for pair in zip(real_images(golden, "real_A"), real_images(golden, "real_B"), strict=True)
    ]
    numbers = range(len(batches))
    places = [
        golden.tensor(f"ids/{step}/{branch}/{tap}")
        for step in numbers
        for branch in ("X", "Y")
        for tap in range(len(config.taps))
    ]
    noise = [
        golden.tensor(f"noise/{step}/{layer}")
        for step in numbers
        for layer in range(len(golden.children(f"noise/{step}")) if config.generator.noise else 0)
    ]
    first = torch.cat([batches[0].a_BCHW, batches[0].b_BCHW])
    with torch.no_grad():
        outputs = method.G(first, noise[: len(noise) // len(batches)])
    fake, identity = outputs.chunk(2)
    steps = replay(method, batches, FixedDraws(places, normals=noise))
    return Played(golden, config, method, steps, {"fake_B": fake, "idt_B": identity})


def released_losses(terms: dict[str, float]) -> dict[str, float]:
    """Our terms under the names and conventions of the released log."""
    return {
        "G_GAN": terms["G+F.adversarial"],
        "D_real": 2 * terms["D.real"],
        "D_fake": 2 * terms["D.fake"],
        "D_R1": terms.get("D.r1", 0.0),
        "G": sum(value for name, value in terms.items() if name.startswith("G+F.")),
        "NCE": 2 * terms["G+F.nce"],
        "NCE_Y": 2 * terms["G+F.identity_nce"],
        "idt": terms["G+F.identity"],
    }


@pytest.mark.parametrize("path", golden_files("cut_step_sincut"))
def test_steps(path: Path):
    expected = Golden(path)
    played = play(base_of(path))
    understood = 0
    if "losses" in expected:
        names = played.golden.options["loss_names"]
        for step, row in enumerate(expected["losses"].tolist()):
            ours = released_losses(played.steps.terms[step])
            for name, value in zip(names, row, strict=True):
                tolerance = 1e-5 if step == 0 else 1e-3
                assert ours[name] == pytest.approx(value, rel=tolerance), (step, name)
        understood += 1
    for name, image in played.images.items():
        if f"{name}_step1" in expected:
            stored = expected.tensor(f"{name}_step1")
            torch.testing.assert_close(image, stored, rtol=0, atol=5e-5)
            understood += 1
    if expected.arrays("grad1"):
        stored = own_names(expected.tensors("grad1"), NETWORKS)
        assert set(stored) == {name for name, _ in played.method.named_parameters()}
        assert_gradients(played.steps.gradients[0], stored, relative=1e-3, floor=1e-5)
        understood += 1
    for name in [name for name in expected.children() if name.startswith("after")]:
        steps = int(name.removeprefix("after"))
        stored = own_names(expected.tensors(name), NETWORKS)
        assert set(stored) == {name for name, _ in played.method.named_parameters()}
        assert_after_adam(
            played.steps.weights[steps - 1],
            stored,
            skip=set(),  # no norm takes a bias out again
            rate=played.config.generator_adam.learning_rate,
            steps=steps,
            close=2e-5,
        )
        understood += 1
    assert understood, "the file holds nothing that this test understands"
