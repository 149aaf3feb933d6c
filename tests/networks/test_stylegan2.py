"""The StyleGAN2-style networks against loops written from their definitions."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from patchkin.errors import ConfigError, ShapeError
from patchkin.losses import r1_penalty
from patchkin.networks import (
    ProjectionHead,
    StyleGan2Discriminator,
    StyleGan2DiscriminatorConfig,
    StyleGan2Generator,
    StyleGan2GeneratorConfig,
    initialize,
    judge_together,
    patch_maps,
)
from patchkin.networks.stylegan2 import (
    EqualLinear,
    ModulatedUpConv2d,
    ResidualBlock,
    StyledConv,
    conv_layer,
)

ROW = (1, 3, 3, 1)


def small_generator(**settings) -> StyleGan2Generator:
    settings = {"ngf": 1, "working_size": 64} | settings
    return StyleGan2Generator(StyleGan2GeneratorConfig(**settings))


def blurred(x_CHW, *, before, after, sum_to):
    """Zeros around, then [1,3,3,1] x [1,3,3,1] over every window."""
    channels, height, width = x_CHW.shape
    padded = torch.zeros(channels, height + before + after, width + before + after).to(x_CHW)
    padded[:, before : before + height, before : before + width] = x_CHW
    out = torch.zeros(channels, padded.shape[1] - 3, padded.shape[2] - 3).to(x_CHW)
    for y, x in itertools.product(range(out.shape[1]), range(out.shape[2])):
        for i, j in itertools.product(range(4), range(4)):
            out[:, y, x] += ROW[i] * ROW[j] / 64 * sum_to * padded[:, y + i, x + j]
    return out


def convolved(x_CHW, weight_OIHW, *, stride=1):
    """Without padding."""
    kernel = weight_OIHW.shape[-1]
    height, width = (((side - kernel) // stride + 1) for side in x_CHW.shape[1:])
    out = torch.zeros(len(weight_OIHW), height, width).to(x_CHW)
    for o, y, x in itertools.product(range(len(weight_OIHW)), range(height), range(width)):
        window = x_CHW[:, y * stride : y * stride + kernel, x * stride : x * stride + kernel]
        out[o, y, x] = (window * weight_OIHW[o]).sum()
    return out


def activated(x, bias):
    shifted = x + bias.view(-1, *[1] * (x.ndim - 1))
    return math.sqrt(2) * torch.where(shifted > 0, shifted, 0.2 * shifted)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("size", [(6, 8), (7, 5), (2, 3)])
def test_halving_convolution_blurs_first_with_the_released_padding(kernel, size):
    layer = conv_layer(2, 3, kernel, down=True).double()
    *_, convolution, activation = layer
    activation.bias.data.normal_()
    x_BCHW = torch.randn(2, 2, *size, dtype=torch.float64)
    padding = (4 - 2) + (kernel - 1)
    for x_CHW, y_CHW in zip(x_BCHW, layer(x_BCHW), strict=True):
        blur = blurred(x_CHW, before=(padding + 1) // 2, after=padding // 2, sum_to=1)
        scaled = convolution.weight / math.sqrt(2 * kernel**2)
        expected = activated(convolved(blur, scaled, stride=2), activation.bias.flatten())
        torch.testing.assert_close(y_CHW, expected)
        assert y_CHW.shape[1:] == (size[0] // 2, size[1] // 2)


@pytest.mark.parametrize("size", [(3, 4), (1, 2)])
def test_modulated_enlargement_matches_loops(size):
    layer = StyledConv(2, 3).double()
    layer.noise.weight.data.fill_(0.7)
    layer.activate.bias.data.normal_()
    height, width = size
    x_BCHW = torch.randn(2, 2, height, width, dtype=torch.float64)
    noise_B1HW = torch.randn(2, 1, 2 * height, 2 * width, dtype=torch.float64)
    weight_OIHW = layer.conv.weight[0] / math.sqrt(2 * 9)
    lengths = [(w.square().sum() + 1e-8).sqrt() for w in weight_OIHW]
    y_BCHW = layer(x_BCHW, noise_B1HW)
    for image, (x_CHW, noise_1HW) in enumerate(zip(x_BCHW, noise_B1HW, strict=True)):
        spread = torch.zeros(3, 2 * height + 1, 2 * width + 1, dtype=torch.float64)
        for o, i, y, x in itertools.product(range(3), range(2), range(height), range(width)):
            spread[o, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3] += (
                x_CHW[i, y, x] * weight_OIHW[o, i] / lengths[o]
            )
        noisy = blurred(spread, before=1, after=1, sum_to=4) + 0.7 * noise_1HW
        expected = activated(noisy, layer.activate.bias.flatten())
        torch.testing.assert_close(y_BCHW[image], expected)


def test_modulated_weights_do_not_depend_on_their_length():
    layer = ModulatedUpConv2d(4, 3).double()
    x_BCHW = torch.randn(1, 4, 5, 3, dtype=torch.float64)
    before = layer(x_BCHW)
    layer.weight.data *= torch.tensor([2.0, 5.0, 9.0]).view(1, 3, 1, 1, 1)
    torch.testing.assert_close(layer(x_BCHW), before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("widths", "down"), [((3, 3), False), ((3, 5), True), ((2, 2), True)])
def test_a_residual_block_is_the_scaled_sum_of_its_ways(widths, down):
    block = ResidualBlock(*widths, down=down).double()
    x_BCHW = torch.randn(2, widths[0], 6, 7, dtype=torch.float64)
    way = block.conv2(block.conv1(x_BCHW))
    around = block.skip(x_BCHW) if down else x_BCHW
    torch.testing.assert_close(block(x_BCHW), (way + around) / math.sqrt(2))
    assert bool(list(block.skip.parameters())) == down
    assert not any("bias" in name for name, _ in block.skip.named_parameters())


def test_layers_keep_the_variance():
    torch.manual_seed(3)
    with torch.no_grad():
        maps = conv_layer(64, 64, 3, activate=False)(torch.randn(4, 64, 32, 32))
        rows = EqualLinear(64, 512)(torch.randn(64, 64))
    assert float(maps.var()) == pytest.approx(1, rel=0.1)
    assert float(rows.var()) == pytest.approx(1, rel=0.1)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_published_sizes():
    generator = StyleGan2Generator()
    assert count(generator) == 3_068_404
    assert count(StyleGan2Discriminator()) == 5_885_473
    assert count(ProjectionHead(generator.tap_channels((0, 2, 4)))) == 280_832


def test_widths_are_capped_from_32_pixels_down_only():
    wide = StyleGan2GeneratorConfig(ngf=64)
    assert [wide.width(2**k) for k in range(2, 11)] == [512] * 5 + [256, 128, 64, 32]
    judge = StyleGan2DiscriminatorConfig(ndf=64)
    assert [judge.width(2**k) for k in range(2, 11)] == [384] * 4 + [256, 128, 64, 32, 16]
    assert StyleGan2GeneratorConfig(ngf=3).width(1024) == 2  # 1.5, to the even one
    assert StyleGan2DiscriminatorConfig(ndf=7).width(1024) == 1  # 1.75, truncated


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({}, (16, 12)),
        ({}, (15, 21)),
        ({"num_downsampling": 2, "blocks": 4}, (20, 13)),
        ({"num_downsampling": 0, "blocks": 2}, (5, 4)),
        ({"blocks": 2, "noise": False}, (8, 10)),
    ],
)
def test_taps_are_the_maps_that_the_encoder_makes(settings, size):
    generator = small_generator(in_channels=2, **settings).double()
    x_BCHW = torch.randn(2, 2, *size, dtype=torch.float64)
    taps = tuple(reversed(range(len(generator.encoder.convs))))
    y_BCHW, maps = generator.forward_with_taps(x_BCHW, taps)
    assert [m.shape[1] for m in maps] == generator.tap_channels(taps)
    assert [tuple(m.shape[2:]) for m in maps] == generator.tap_sizes(taps, *size)
    for mine, encoded in zip(maps, generator.encode(x_BCHW, taps), strict=True):
        assert torch.equal(mine, encoded)
    assert torch.equal(maps[-1], x_BCHW)
    step = generator.multiple_of
    assert y_BCHW.shape == (2, 3, size[0] // step * step, size[1] // step * step)
    assert torch.equal(generator(x_BCHW), y_BCHW)


@pytest.mark.parametrize("halvings", [0, 1, 2])
def test_receptive_fields_are_those_of_the_gradient(halvings):
    generator = small_generator(num_downsampling=halvings, blocks=2).double()
    taps = tuple(range(len(generator.encoder.convs)))
    for tap, field in zip(taps, generator.tap_fields(taps), strict=True):
        x_BCHW = torch.randn(1, 3, 64, 64, dtype=torch.float64, requires_grad=True)
        (feature,) = generator.encode(x_BCHW, [tap])
        middle = feature.shape[2] // 2
        feature[0, :, middle, middle].sum().backward()
        seen = x_BCHW.grad[0].abs().sum(0) > 0
        assert int(seen.any(0).sum()) == int(seen.any(1).sum()) == field


def test_patch_maps_serve_the_inspection():
    generator = small_generator()
    head = ProjectionHead(generator.tap_channels((0, 2)), width=8)
    maps = patch_maps(generator, head, (0, 2), torch.zeros(1, 3, 12, 16))
    assert [(m.origin, m.field_pixels) for m in maps] == [(0, 1), (0, 8)]


# Noise


def test_the_same_image_gives_the_same_translation_and_other_noise_another():
    generator = small_generator(num_downsampling=2)
    for layer in generator.decoder.convs:
        if isinstance(layer, StyledConv):
            layer.noise.weight.data.fill_(0.5)
    x_BCHW = torch.randn(3, 3, 24, 36)
    y_BCHW = generator(x_BCHW)
    torch.manual_seed(8)
    assert torch.equal(generator(x_BCHW), y_BCHW)
    torch.testing.assert_close(generator(x_BCHW[1:2]), y_BCHW[1:2], rtol=1e-4, atol=1e-5)
    drawn = [torch.randn(3, 1, h, w) for h, w in generator.noise_sizes(24, 36)]
    assert not torch.allclose(generator(x_BCHW, drawn), y_BCHW, atol=1e-2)


def test_the_fixed_noise_of_a_pixel_does_not_depend_on_the_size_of_the_image():
    generator = small_generator()
    (large,), (small,) = generator.fixed_noise(600, 520), generator.fixed_noise(64, 50)
    assert large.shape == (1, 1, 600, 520)
    assert torch.equal(large[..., :64, :50], small)
    assert torch.equal(large[..., 256:512, 3:9], large[..., :256, 3:9])
    assert abs(float(large.mean())) < 0.02
    assert float(large.std()) == pytest.approx(1, abs=0.02)
    again = small_generator().fixed_noise(64, 50)[0]
    assert torch.equal(again, small)


def test_the_fixed_noise_is_not_saved_and_not_drawn_from_the_global_generator():
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        generator = small_generator()
        weights.append(torch.rand(1))
    torch.manual_seed(0)
    drawn = [n for n, _ in generator.named_parameters() if not n.endswith(("bias", "noise.weight"))]
    for name in drawn:
        torch.randn(generator.get_parameter(name).shape)
    assert torch.equal(torch.rand(1), weights[0])
    assert "noise_tiles" not in generator.state_dict()


def test_the_small_form_adds_no_noise_but_keeps_its_weight():
    generator = small_generator(blocks=2, noise=False)
    (name,) = [n for n, _ in generator.named_parameters() if n.endswith("noise.weight")]
    x_BCHW = torch.randn(1, 3, 8, 8)
    before = generator(x_BCHW)
    generator.get_parameter(name).data.fill_(3.0)
    assert torch.equal(generator(x_BCHW), before)
    assert generator.noise_sizes(8, 8) == []


@pytest.mark.parametrize("shapes", [[], [(2, 1, 8, 7)], [(3, 1, 8, 8)], [(2, 1, 8, 8)] * 2])
def test_noise_that_does_not_fit(shapes):
    noise = [torch.zeros(shape) for shape in shapes]
    with pytest.raises(ShapeError, match=r"`noise` must have the shapes \(2, 1, 8, 8\) .*; got"):
        small_generator()(torch.zeros(2, 3, 8, 8), noise)


# The discriminator


def test_one_logit_per_image_whatever_the_others_are():
    judge = StyleGan2Discriminator(StyleGan2DiscriminatorConfig(ndf=1, working_size=16)).double()
    x_BCHW = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    logits = judge(x_BCHW)
    assert logits.shape == (3, 1)
    torch.testing.assert_close(torch.cat([judge(x[None]) for x in x_BCHW]), logits)
    fake, real = judge_together(judge, x_BCHW[:2], x_BCHW[2:])
    torch.testing.assert_close(torch.cat([fake, real]), logits)


@pytest.mark.parametrize("shape", [(1, 3, 16, 32), (1, 3, 32, 32), (1, 1, 16, 16), (3, 16, 16)])
def test_other_images_are_refused_in_one_sentence(shape):
    judge = StyleGan2Discriminator(StyleGan2DiscriminatorConfig(ndf=1, working_size=16))
    with pytest.raises(ShapeError, match=r"\[B, 3, 16, 16\]; got .*--size 16"):
        judge(torch.zeros(shape))


def test_the_penalty_teaches_the_weights_as_finite_differences_say():
    """Through the second derivative of blurs, strided convolutions and kinked activations."""
    torch.manual_seed(5)
    judge = StyleGan2Discriminator(StyleGan2DiscriminatorConfig(ndf=1, working_size=8)).double()
    real = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)

    def penalty():
        return r1_penalty(judge(real), real)

    value = penalty()
    value.backward()
    for parameter in (judge.convs[0][0].weight, judge.convs[1].skip[1].weight,
                      judge.final_linear[0].weight):  # fmt: skip
        at = (1,) + (0,) * (parameter.ndim - 1)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[at] += sign * 1e-6
            values.append(penalty().item())
            with torch.no_grad():
                parameter[at] -= sign * 1e-6
        numeric = (values[0] - values[1]) / 2e-6
        assert float(parameter.grad[at]) == pytest.approx(numeric, rel=1e-4, abs=1e-7)


# Refusals


def test_initialize_leaves_scaled_weights_alone():
    generator = small_generator()
    before = {name: p.clone() for name, p in generator.named_parameters()}
    initialize(generator)
    assert all(torch.equal(p, before[name]) for name, p in generator.named_parameters())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"blocks": 3}, "`blocks` must be even"),
        ({"working_size": 48}, "`working_size` must be a power of 2 from 4 to 1024; got 48"),
        ({"num_downsampling": 5}, "`num_downsampling` must be 0 to 4 at `working_size` 64; got 5"),
        ({"ngf": 0}, "`ngf` must be at least 1; got 0"),
        ({"ngf": 1, "working_size": 1024}, "`ngf` 1 leaves no channel.*use at least 2"),
    ],
)
def test_settings_that_make_no_generator(settings, words):
    with pytest.raises(ConfigError, match=words):
        StyleGan2GeneratorConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ndf": 0}, "`ndf` must be at least 1"),
        ({"working_size": 2}, "`working_size` must be a power of 2"),
        ({"ndf": 3, "working_size": 1024}, "`ndf` 3 leaves no channel.*use at least 4"),
    ],
)
def test_settings_that_make_no_discriminator(settings, words):
    with pytest.raises(ConfigError, match=words):
        StyleGan2DiscriminatorConfig(**settings)


def test_images_and_taps_that_do_not_fit_the_generator():
    generator = small_generator()
    with pytest.raises(ShapeError, match=r"\[B, 3, H, W\].*got \(1, 4, 8, 8\)"):
        generator(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ShapeError, match="at least 2 x 2 pixels"):
        generator(torch.zeros(1, 3, 1, 8))
    with pytest.raises(ConfigError, match="0 to 5 with 6 blocks; got 6"):
        generator.encode(torch.zeros(1, 3, 8, 8), [0, 6])
    with pytest.raises(ConfigError, match="at least one layer"):
        generator.encode(torch.zeros(1, 3, 8, 8), [])


@pytest.mark.slow
def test_one_exported_program_takes_all_sizes_with_the_fixed_noise():
    generator = small_generator(blocks=2).eval()
    for layer in generator.decoder.convs:
        if isinstance(layer, StyledConv):
            layer.noise.weight.data.fill_(0.5)
    half = {name: torch.export.Dim(name, min=1, max=512) for name in ("height", "width")}
    sizes = {0: torch.export.Dim("images"), 2: 2 * half["height"], 3: 2 * half["width"]}
    program = torch.export.export(
        generator, (torch.randn(2, 3, 8, 12),), dynamic_shapes=(sizes,), strict=False
    ).module()
    x_BCHW = torch.randn(1, 3, 300, 20)
    torch.testing.assert_close(program(x_BCHW), generator(x_BCHW))
