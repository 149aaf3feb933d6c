"""Steps of the released CycleGAN (`cut_step_cyclegan*`)."""

from __future__ import annotations

import pytest
import torch

from goldens.fixtures import (
    Golden,
    discriminator_from,
    generator_from,
    golden_files,
    zero_gradient_biases,
)
from goldens.replay import (
    MODES,
    assert_after_adam,
    assert_gradients,
    networks_of,
    own_names,
    real_images,
    replay,
)
from patchkin.data.datasets import UnpairedBatch
from patchkin.methods.cyclegan import CycleGan, CycleGanConfig
from patchkin.networks import ImagePoolConfig
from patchkin.schedules import AdamConfig
from support import FixedDraws

NAMES = {"G_A": "G_AB", "G_B": "G_BA", "D_A": "D_B", "D_B": "D_A"}
"""The released names -> ours."""


def method_from(golden: Golden) -> CycleGan:
    options = golden.options["resolved"]
    adam = AdamConfig(
        learning_rate=float(options["lr"]),
        beta1=float(options["beta1"]),
        beta2=float(options.get("beta2", 0.999)),
    )
    weights = {name: golden.state_dict(f"init/net{name}") for name in NAMES}
    generators = {name: generator_from(weights[name]) for name in ("G_A", "G_B")}
    assert options.get("pool_size", 0) == 0, "what the pool drew is not in the file"
    method = CycleGan(
        CycleGanConfig(
            generator=generators["G_A"].config,
            generator_adam=adam,
            discriminator_adam=adam,
            pool=ImagePoolConfig(capacity=0),
            adversarial=MODES[options["gan_mode"]],
            cycle_weight_a=float(options["lambda_A"]),
            cycle_weight_b=float(options["lambda_B"]),
            identity_weight=float(options["lambda_identity"]),
        )
    ).double()
    method.G_AB, method.G_BA = generators["G_A"], generators["G_B"]
    method.D_B, method.D_A = (discriminator_from(weights[name]) for name in ("D_A", "D_B"))
    return method


def released_losses(terms: dict[str, float]) -> dict[str, float]:
    """Our terms under the names of the released log."""
    losses = {}
    for source, target in ("AB", "BA"):
        losses[f"D_{source}"] = terms[f"D_B+D_A.fake_{target}"] + terms[f"D_B+D_A.real_{target}"]
        losses[f"G_{source}"] = terms[f"G_AB+G_BA.adversarial_{target}"]
        losses[f"cycle_{source}"] = terms[f"G_AB+G_BA.cycle_{source}"]
        losses[f"idt_{source}"] = terms.get(f"G_AB+G_BA.identity_{target}", 0.0)
    return losses


def released_images(method: CycleGan, batch: UnpairedBatch) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        fake_b, fake_a = (
            method.translate(batch.a_BCHW),
            method.translate(batch.b_BCHW, direction="BtoA"),
        )
        return {
            "fake_B": fake_b,
            "rec_A": method.G_BA(fake_b),
            "fake_A": fake_a,
            "rec_B": method.G_AB(fake_a),
            "idt_A": method.G_AB(batch.b_BCHW),
            "idt_B": method.G_BA(batch.a_BCHW),
        }


@pytest.mark.parametrize("path", golden_files("cut_step_cyclegan"))
def test_cyclegan_steps(path):
    golden = Golden(path)
    method = method_from(golden)
    batches = [
        UnpairedBatch(a, b)
        for a, b in zip(real_images(golden, "real_A"), real_images(golden, "real_B"), strict=True)
    ]
    images = released_images(method, batches[0])
    skip = {
        f"{network}.{name}"
        for network in NAMES.values()
        for name in zero_gradient_biases(method.get_submodule(network))
    }
    steps = replay(method, batches, FixedDraws())

    names = golden.options["loss_names"]
    for step, row in enumerate(golden["losses"]):
        ours = released_losses(steps.terms[step])
        assert set(names) == set(ours)
        for name, value in zip(names, row, strict=True):
            tolerance = 1e-5 if step == 0 else 1e-3
            assert ours[name] == pytest.approx(value, rel=tolerance), (step, name)
    stored_images = [name for name in golden if name.endswith("_step1")]
    assert stored_images
    for name in stored_images:
        ours = images[name.removesuffix("_step1")]
        torch.testing.assert_close(ours, golden.tensor(name), rtol=0, atol=5e-5)
    assert set(networks_of(golden, "grad1")) == set(NAMES)
    gradients = own_names(golden.tensors("grad1"), NAMES)
    assert_gradients(steps.gradients[0], gradients, relative=1e-3, floor=1e-5)
    after = [name for name in golden.children() if name.startswith("after")]
    assert after
    for name in after:
        count = int(name.removeprefix("after"))
        assert_after_adam(
            steps.weights[count - 1],
            own_names(golden.tensors(name), NAMES),
            skip=skip,
            rate=method.config.generator_adam.learning_rate,
            steps=count,
            close=1e-5,
        )
