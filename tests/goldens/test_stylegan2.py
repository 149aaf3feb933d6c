"""The StyleGAN2-style networks of SinCUT against the released ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from goldens.fixtures import Golden, golden_files
from patchkin.losses import r1_penalty
from patchkin.networks import (
    StyleGan2Discriminator,
    StyleGan2DiscriminatorConfig,
    StyleGan2Generator,
    StyleGan2GeneratorConfig,
)

each_file = pytest.mark.parametrize("path", golden_files("cut_stylegan2"))


def working_size(options: Mapping[str, Any]) -> int:
    """The released R: the power of 2 nearest to the smaller of both sizes."""
    smaller = torch.tensor(float(min(options["load_size"], options["crop_size"])))
    return int(2 ** round(float(smaller.log2())))


def generator_config(
    weights: Mapping[str, Tensor], options: Mapping[str, Any], *, halvings: int
) -> StyleGan2GeneratorConfig:
    """Counts and channels from the weights, what they do not show from the options."""
    blocks = {n.split(".conv1")[0] for n in weights if ".conv1." in n}
    down = {n.split(".skip")[0] for n in weights if ".skip." in n}
    assert len(down) == halvings
    decoded = max(int(n.split(".")[2]) for n in weights if n.startswith("decoder"))
    return StyleGan2GeneratorConfig(
        in_channels=weights["encoder.convs.1.0.weight"].shape[1],
        out_channels=weights[f"decoder.convs.{decoded}.0.weight"].shape[0],
        ngf=int(options["ngf"]),
        blocks=len(blocks - down),
        num_downsampling=halvings,
        working_size=working_size(options),
        noise=not options["netG"].startswith("small"),
    )


def discriminator_config(
    weights: Mapping[str, Tensor], options: Mapping[str, Any]
) -> StyleGan2DiscriminatorConfig:
    """As `generator_config`."""
    return StyleGan2DiscriminatorConfig(
        in_channels=weights["convs.0.0.weight"].shape[1],
        ndf=int(options["ndf"]),
        working_size=working_size(options),
    )


@each_file
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_generator(path: Path, dtype: torch.dtype):
    golden = Golden(path)
    options = golden.options
    weights = golden.state_dict("netG", dtype)
    network = StyleGan2Generator(
        generator_config(weights, options, halvings=int(options["num_downsampling"]))
    ).to(dtype)
    network.load_state_dict(weights, strict=True)
    noise = golden.tensors("noise", dtype)
    given = [noise[str(index)] for index in range(len(noise))]
    taps = [int(tap) for tap in options["layers"]]
    with torch.no_grad():
        y_BCHW, maps = network.forward_with_taps(golden.tensor("x", dtype), taps, given)
    torch.testing.assert_close(y_BCHW, golden.tensor("y", dtype), rtol=0, atol=1e-5)
    for tap, feature_BCHW in zip(taps, maps, strict=True):
        expected = golden.tensor(f"feat_{tap}", dtype)
        torch.testing.assert_close(feature_BCHW, expected, rtol=0, atol=1e-5)


@each_file
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_discriminator_and_r1(path: Path, dtype: torch.dtype):
    golden = Golden(path)
    weights = golden.state_dict("netD", dtype)
    network = StyleGan2Discriminator(discriminator_config(weights, golden.options)).to(dtype)
    network.load_state_dict(weights, strict=True)
    x_BCHW = golden.tensor("x_D", dtype).requires_grad_()
    logits_B1 = network(x_BCHW)
    torch.testing.assert_close(logits_B1.detach(), golden.tensor("y_D", dtype), rtol=0, atol=1e-5)
    penalty = r1_penalty(logits_B1, x_BCHW)
    assert 2 * penalty.item() == pytest.approx(golden.number("r1"), rel=1e-4)
    (slope_BCHW,) = torch.autograd.grad(logits_B1.sum(), x_BCHW)
    expected = golden.tensor("r1_grad_x", dtype)
    floor = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(slope_BCHW, expected, rtol=0, atol=floor)


@each_file
def test_kernels_of_the_file_are_ours(path: Path):
    """The blur filters that stand beside the weights in some files."""
    golden = Golden(path)
    stored = {n: t for n, t in golden.tensors("netG").items() if n.endswith(".kernel")}
    options = golden.options
    weights = golden.state_dict("netG")
    network = StyleGan2Generator(
        generator_config(weights, options, halvings=int(options["num_downsampling"]))
    )
    ours = {n: b for n, b in network.named_buffers() if n.endswith(".kernel")}
    assert set(stored) <= set(ours)
    for name, kernel in stored.items():
        torch.testing.assert_close(ours[name].double(), kernel, rtol=0, atol=1e-7)
    assert not re.search("kernel|noise_tiles", " ".join(network.state_dict()))
