"""The generator of depthwise-separable blocks, its configurations and its weights' names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as nnf

from patchkin.errors import CheckpointError, ConfigError, ShapeError
from patchkin.networks.separable import (
    SeparableConv,
    SeparableGenerator,
    channels_of,
    check_configuration,
    format_channels,
    parse_channels,
)

_REPOSITORY = Path(__file__).resolve().parents[2]
_WEIGHTS = Path(os.environ.get("PATCHKIN_WEIGHTS") or _REPOSITORY.parent / "shared" / "weights")
RELEASED = _WEIGHTS / "gan_compression_horse2zebra_compressed_netG.pth"
UNEVEN = (3, 2, 4, 1, 2, 3, 5, 2)


class Written:
    """The generator from its weights alone, layer by layer."""

    def __init__(self, weights):
        self.weights = weights

    def convolve(self, x, name, pad=0, **options):
        padded = nnf.pad(x, (pad,) * 4, mode="reflect") if pad else x
        weights = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return nnf.conv2d(padded, *weights, **options)

    def separable(self, x, name):
        x = nnf.instance_norm(self.convolve(x, f"{name}.conv.0", pad=1, groups=x.shape[1]))
        return nnf.instance_norm(self.convolve(x, f"{name}.conv.2"))

    @torch.no_grad()
    def __call__(self, x):
        x = nnf.instance_norm(self.convolve(x.clamp(-1, 1), "model.1", pad=3)).relu()
        for layer in (4, 7):
            x = self.convolve(x, f"model.{layer}", stride=2, padding=1)
            x = nnf.instance_norm(x).relu()
        for layer in range(10, 19):
            inner = self.separable(x, f"model.{layer}.conv_block.1").relu()
            x = x + self.separable(inner, f"model.{layer}.conv_block.6")
        for layer in (19, 22):
            weights = (self.weights[f"model.{layer}.{kind}"] for kind in ("weight", "bias"))
            x = nnf.conv_transpose2d(x, *weights, stride=2, padding=1, output_padding=1)
            x = nnf.instance_norm(x).relu()
        return self.convolve(x, "model.26", pad=3).tanh()


@pytest.mark.parametrize("channels", [UNEVEN, (4,) * 8])
def test_matches_the_layers_written_out(channels):
    torch.manual_seed(0)
    generator = SeparableGenerator(channels, in_channels=2, out_channels=1).double()
    x_BCHW = 2 * torch.randn(2, 2, 20, 28, dtype=torch.float64)
    with torch.no_grad():
        expected = Written(generator.state_dict())(x_BCHW)
        torch.testing.assert_close(generator(x_BCHW), expected, rtol=1e-12, atol=1e-12)


def test_the_released_horse_to_zebra_generator():
    if not RELEASED.is_file():
        pytest.skip(f"no {RELEASED}; PATCHKIN_WEIGHTS names another folder")
    weights = torch.load(RELEASED, map_location="cpu", weights_only=True)
    channels = channels_of(weights)
    assert format_channels(channels) == "16_16_32_16_32_32_16_16"
    generator = SeparableGenerator(channels)
    generator.load_state_dict(weights)
    assert sum(weight.numel() for weight in generator.parameters()) == 356867
    torch.manual_seed(0)
    x_BCHW = torch.rand(1, 3, 64, 48) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(generator(x_BCHW), Written(weights)(x_BCHW), rtol=0, atol=1e-5)


def test_inputs_beyond_the_range_are_clamped_unless_told_not_to():
    torch.manual_seed(0)
    clamping = SeparableGenerator(UNEVEN)
    taking_all = SeparableGenerator(UNEVEN, clamp=False)
    taking_all.load_state_dict(clamping.state_dict())
    x_BCHW = 3 * torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(clamping(x_BCHW), taking_all(x_BCHW.clamp(-1, 1)))
        assert not torch.equal(clamping(x_BCHW), taking_all(x_BCHW))


def test_names_and_shapes_are_those_of_the_released_weights():
    weights = SeparableGenerator((16, 16, 32, 16, 32, 24, 20, 18)).state_dict()
    assert len(weights) == 2 * (3 + 9 * 4 + 2 + 1)
    assert weights["model.10.conv_block.1.conv.0.weight"].shape == (128, 1, 3, 3)
    assert weights["model.10.conv_block.1.conv.2.weight"].shape == (64, 128, 1, 1)
    assert weights["model.18.conv_block.6.conv.0.weight"].shape == (96, 1, 3, 3)
    assert weights["model.18.conv_block.6.conv.2.weight"].shape == (128, 96, 1, 1)
    assert weights["model.19.weight"].shape == (128, 40, 3, 3)
    assert weights["model.22.weight"].shape == (40, 18, 3, 3)
    assert weights["model.26.weight"].shape == (3, 18, 7, 7)
    assert weights["model.1.bias"].shape == (16,)


def test_the_configuration_is_read_from_the_weights():
    assert channels_of(SeparableGenerator(UNEVEN).state_dict()) == UNEVEN


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("model.13.conv_block.1.conv.2.weight"), "there is no"),
        (lambda weights: weights.update({"model.7.weight": torch.zeros(6, 4, 3, 3)}), "multiple"),
    ],
)
def test_other_weights_are_refused(change, message):
    weights = SeparableGenerator(UNEVEN).state_dict()
    change(weights)
    with pytest.raises(CheckpointError, match=message):
        channels_of(weights)


def test_the_gradient_is_right_at_batch_1():
    """Against finite differences; torch's own instance norm fails for gradients of this layout."""
    torch.manual_seed(0)
    layer = SeparableConv(2, 3).double()
    x_BCHW = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)

    def rows(x):
        return layer(x).permute(0, 2, 3, 1).flatten(0, 2)[[4, 0, 7]]

    assert torch.autograd.gradcheck(rows, (x_BCHW,))


def test_channels_are_read_and_written():
    assert parse_channels("16_16_32_16_16_64_16_24") == (16, 16, 32, 16, 16, 64, 16, 24)
    assert parse_channels("24_24_24_32_20_16") == (24, 24, 24, 32, 32, 32, 20, 16)
    assert parse_channels(format_channels(UNEVEN)) == UNEVEN


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("16_16_32", "8 numbers .* got 3"),
        ("16,16,32,16,32,32,16,16", "joined by `_`"),
        ("16_16_32_16_32_32_16_x", "joined by `_`"),
        ("16_16_32_16_32_32_16_-4", "joined by `_`"),
        ("16_16_32_16__32_16_16", "joined by `_`"),
        ("", "joined by `_`"),
        ("16_16_32_16_32_32_16_0", "at least 1"),
        ("16_16_32_16_32_32_16_16_16", "got 9"),
    ],
)
def test_other_texts_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_channels(text)


def test_widths_beyond_the_supernet_are_refused():
    with pytest.raises(ConfigError, match="entry 8 is 4, but this supernet has 2 there"):
        check_configuration((1, 1, 1, 1, 1, 1, 1, 4), largest=UNEVEN)
    assert check_configuration(UNEVEN, largest=UNEVEN) == UNEVEN


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 4, 16, 16), r"must be \[B, 3, H, W\]"), ((1, 3, 16, 4), "at least 5 x 5")],
)
def test_wrong_images_are_refused(shape, message):
    with pytest.raises(ShapeError, match=message):
        SeparableGenerator(UNEVEN)(torch.zeros(shape))


@pytest.mark.parametrize("size", [(5, 5), (6, 9), (8, 8)])
def test_the_smallest_images_pass(size):
    output = SeparableGenerator((2,) * 8)(torch.zeros(1, 3, *size))
    assert output.shape[2:] == tuple(-(-side // 4) * 4 for side in size)
