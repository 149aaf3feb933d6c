"""Steps of the released pix2pix (`cut_step_pix2pix*`)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from goldens.fixtures import Golden, discriminator_from, golden_files
from goldens.replay import MODES, assert_after_adam, assert_gradients, own_names, replay
from patchkin.data.paired import PairedBatch
from patchkin.methods.pix2pix import Pix2Pix, Pix2PixConfig
from patchkin.networks import InstanceNorm2d, PatchGANConfig, UNet, UNetConfig
from patchkin.schedules import AdamConfig
from support import FixedDraws

NAMES = {"G": "G", "D": "D"}


def generator_from(weights: Mapping[str, Tensor], options: Mapping[str, object]) -> UNet:
    first, last = weights["model.model.0.weight"], weights["model.model.3.weight"]
    config = UNetConfig(
        in_channels=first.shape[1],
        out_channels=last.shape[1],
        ngf=first.shape[0],
        levels=max(name.split(".").count("model") for name in weights) - 1,
        norm=options["norm"],
        dropout=bool(options.get("dropout", False)),
    )
    generator = UNet(config).double()
    generator.load_state_dict(dict(weights))
    return generator


def method_from(golden: Golden) -> Pix2Pix:
    options = golden.options
    weights = {name: golden.state_dict(f"init/net{name}") for name in NAMES}
    generator = generator_from(weights["G"], options)
    adam = AdamConfig(
        learning_rate=float(options["lr"]),
        beta1=float(options["beta1"]),
        beta2=float(options.get("beta2", 0.999)),
    )
    channels = generator.config.in_channels + generator.config.out_channels
    method = Pix2Pix(
        Pix2PixConfig(
            generator=generator.config,
            discriminator=PatchGANConfig(in_channels=channels),
            generator_adam=adam,
            discriminator_adam=adam,
            adversarial=MODES[options["gan_mode"]],
            content_weight=float(options["lambda_L1"]),
        )
    ).double()
    method.G, method.D = generator, discriminator_from(weights["D"])
    return method.train()


def released_losses(terms: dict[str, float]) -> dict[str, float]:
    """Our terms under the names of the released log, which does not halve those of D."""
    return {
        "G_GAN": terms["G.adversarial"],
        "G_L1": terms["G.content"],
        "D_real": 2 * terms["D.real"],
        "D_fake": 2 * terms["D.fake"],
    }


def biases_before_instance_norm(method: Pix2Pix) -> set[str]:
    names = set()
    for path, sequence in method.named_modules():
        if not isinstance(sequence, torch.nn.Sequential):
            continue
        for index, (layer, behind) in enumerate(itertools.pairwise(sequence)):
            if isinstance(behind, InstanceNorm2d) and getattr(layer, "bias", None) is not None:
                names.add(f"{path}.{index}.bias")
    return names


def per_step(golden: Golden, name: str) -> list[Tensor]:
    """A file of one step has no axis for steps."""
    images = golden.tensor(name)
    return [images] if images.ndim == 4 else list(images)


@pytest.mark.parametrize("path", golden_files("cut_step_pix2pix"))
def test_pix2pix_steps(path):
    golden = Golden(path)
    method = method_from(golden)
    batches = [
        PairedBatch(a, b)
        for a, b in zip(per_step(golden, "real_A"), per_step(golden, "real_B"), strict=True)
    ]
    skip = biases_before_instance_norm(method)
    outputs = []
    method.G.register_forward_hook(lambda _, inputs, output: outputs.append(output.detach()))
    steps = replay(method, batches, FixedDraws())

    names = golden.options["loss_names"]
    for step, row in enumerate(golden["losses"].reshape(len(batches), -1)):
        ours = released_losses(steps.terms[step])
        assert set(names) == set(ours)
        for name, value in zip(names, row, strict=True):
            tolerance = 1e-5 if step == 0 else 1e-3
            assert ours[name] == pytest.approx(value, rel=tolerance), (step, name)
    stored_images = [name for name in golden if name.startswith("fake_B")]
    assert stored_images
    for name in stored_images:
        torch.testing.assert_close(outputs[0], golden.tensor(name), rtol=0, atol=5e-5)
    gradients = own_names(golden.tensors("grad1"), NAMES)
    assert {name.split(".")[0] for name in gradients} == set(NAMES)
    assert_gradients(steps.gradients[0], gradients, relative=1e-3, floor=1e-5)
    after = [name for name in golden.children() if name.startswith("after")]
    assert after
    for name in after:
        count = int(name.removeprefix("after"))
        weights = own_names(golden.tensors(name), NAMES)
        state = steps.weights[count - 1]
        learned = {n: w for n, w in weights.items() if ".running_" not in n}
        learned = {n: w for n, w in learned.items() if not n.endswith("num_batches_tracked")}
        assert_after_adam(
            state,
            learned,
            skip=skip,
            rate=method.config.generator_adam.learning_rate,
            steps=count,
            close=1e-5,
        )
        for statistic in weights.keys() - learned.keys():
            torch.testing.assert_close(
                state[statistic], weights[statistic], rtol=1e-5, atol=1e-6, msg=statistic
            )
