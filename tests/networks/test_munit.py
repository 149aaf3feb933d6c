import math

import pytest
import torch
import torch.nn.functional as nnf
from torch import nn

from patchkin.errors import ConfigError, ShapeError
from patchkin.networks.munit import (
    AdaptiveInstanceNorm2d,
    ImageLayerNorm2d,
    MultiScaleConfig,
    MultiScaleDiscriminator,
    MunitGenerator,
    MunitGeneratorConfig,
    ResidualBlock,
    StyledResidualBlock,
    StyleEncoder,
    judge_scales_together,
    style_rows,
)

SMALL = MunitGeneratorConfig(width=2, blocks=2, style_width=3, mlp_width=5)


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def random_weights(network):
    """Everything N(0, 0.3) in float64, scales and biases too."""
    network = network.double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0.0, 0.3)
    return network


# Norms


def adain_formula(x_BCHW, affine_BN):
    """Loops over images and channels: biased variance, shifts before scales."""
    channels = x_BCHW.shape[1]
    rows = []
    for x_CHW, affine_N in zip(x_BCHW, affine_BN, strict=True):
        for c, x_HW in enumerate(x_CHW):
            centred = x_HW - x_HW.mean()
            unit = centred / (centred.square().mean() + 1e-5).sqrt()
            rows.append(unit * affine_N[channels + c] + affine_N[c])
    return torch.stack(rows).view_as(x_BCHW)


@pytest.mark.parametrize("shape", [(1, 4, 5, 3), (1, 1, 2, 2), (3, 2, 4, 6)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_adain_matches_loops_in_value_and_gradient(shape, layout):
    """At batch 1 and with a channels-last gradient too, where torch's CPU kernel is wrong."""
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    affine = torch.randn(shape[0], 2 * shape[1], dtype=torch.float64, requires_grad=True)
    weight = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=layout)
    results = []
    for norm in (AdaptiveInstanceNorm2d(), adain_formula):
        y = norm(x, affine)
        results.append([y, *torch.autograd.grad((y * weight).sum(), (x, affine))])
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("batch", [1, 2])
def test_adain_gradient_matches_finite_differences_through_patch_sampling(batch):
    norm = AdaptiveInstanceNorm2d()
    places = torch.tensor([5, 0, 3])

    def sampled(x, affine):
        return norm(x, affine).permute(0, 2, 3, 1).flatten(1, 2)[:, places]

    x = torch.randn(batch, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    affine = torch.randn(batch, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sampled, (x, affine))


@pytest.mark.parametrize("shape", [(1, 3, 2, 5), (2, 4, 3, 3)])
def test_layer_norm_matches_the_formula(shape):
    norm = random_weights(ImageLayerNorm2d(shape[1]))
    x = torch.randn(shape, dtype=torch.float64)
    for x_CHW, y_CHW in zip(x, norm(x), strict=True):
        numbers = x_CHW.flatten().tolist()
        mean = math.fsum(numbers) / len(numbers)
        variance = math.fsum((n - mean) ** 2 for n in numbers) / (len(numbers) - 1)
        unit = (x_CHW - mean) / (math.sqrt(variance) + 1e-5)
        expected = unit * norm.gamma.view(-1, 1, 1) + norm.beta.view(-1, 1, 1)
        torch.testing.assert_close(y_CHW, expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(norm, (x.requires_grad_(),))


def test_layer_norm_of_a_constant_image_has_a_finite_gradient():
    norm = ImageLayerNorm2d(3)
    x = torch.full((2, 3, 4, 4), 0.7, requires_grad=True)
    norm(x).square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(norm.gamma.grad).all()


def test_layer_norm_starts_with_scales_between_0_and_1():
    gamma = ImageLayerNorm2d(1000).gamma.detach()
    assert 0 <= float(gamma.min()) < 0.01
    assert 0.99 < float(gamma.max()) < 1
    assert abs(float(gamma.mean()) - 0.5) < 0.05


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_layer_norm_computes_16_bit_maps_in_float32(dtype):
    norm = ImageLayerNorm2d(2)
    x = (300 * torch.randn(1, 2, 8, 8)).to(dtype)  # its square overflows float16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = norm(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, norm(x.float()))


# Generator


def conv(x, weights, name, padding, stride=1):
    if padding:
        x = nnf.pad(x, [padding] * 4, mode="reflect")
    return nnf.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=stride)


def unit_map(x):
    """Instance norm as group norm with a group per channel."""
    return nnf.group_norm(x, x.shape[1])


def written_out(weights, config, x):
    """Content, style and reconstruction, from the released names and a list of layers."""
    style = torch.relu(conv(x, weights, "enc_style.model.0.conv", 3))
    for layer in (1, 2, 3, 4):
        style = torch.relu(conv(style, weights, f"enc_style.model.{layer}.conv", 1, 2))
    style = conv(style.mean((2, 3), keepdim=True), weights, "enc_style.model.6", 0)[..., 0, 0]

    content = torch.relu(unit_map(conv(x, weights, "enc_content.model.0.conv", 3)))
    for layer in range(1, config.halvings + 1):
        content = torch.relu(
            unit_map(conv(content, weights, f"enc_content.model.{layer}.conv", 1, 2))
        )
    for block in range(config.blocks):
        name = f"enc_content.model.{config.halvings + 1}.model.{block}.model"
        inner = torch.relu(unit_map(conv(content, weights, f"{name}.0.conv", 1)))
        content = content + unit_map(conv(inner, weights, f"{name}.1.conv", 1))

    numbers = style
    for layer in range(3):
        name = f"mlp.model.{layer}.fc"
        numbers = nnf.linear(numbers, weights[f"{name}.weight"], weights[f"{name}.bias"])
        numbers = torch.relu(numbers) if layer < 2 else numbers
    y, place, channels = content, 0, content.shape[1]
    for block in range(config.blocks):
        inner = y
        for half in range(2):
            shift = numbers[:, place : place + channels]
            scale = numbers[:, place + channels : place + 2 * channels]
            place += 2 * channels
            inner = unit_map(
                conv(inner, weights, f"dec.model.0.model.{block}.model.{half}.conv", 1)
            )
            inner = inner * scale[..., None, None] + shift[..., None, None]
            inner = torch.relu(inner) if half == 0 else inner
        y = y + inner
    assert place == numbers.shape[1]
    for stage in range(config.halvings):
        name = f"dec.model.{2 * stage + 2}"
        y = y.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        y = conv(y, weights, f"{name}.conv", 2)
        rows = y.flatten(1)
        mean, deviation = rows.mean(1), rows.std(1, unbiased=True)
        y = (y - mean.view(-1, 1, 1, 1)) / (deviation.view(-1, 1, 1, 1) + 1e-5)
        y = torch.relu(
            y * weights[f"{name}.norm.gamma"].view(1, -1, 1, 1)
            + weights[f"{name}.norm.beta"].view(1, -1, 1, 1)
        )
    return (
        content,
        style,
        torch.tanh(conv(y, weights, f"dec.model.{2 * config.halvings + 1}.conv", 3)),
    )


@pytest.mark.parametrize("halvings", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 16, 24), (2, 32, 16)])
def test_generator_matches_its_table_by_released_names(halvings, size):
    config = MunitGeneratorConfig(width=2, halvings=halvings, blocks=2, style_width=3, mlp_width=5)
    network = random_weights(MunitGenerator(4, config))
    x = torch.randn(size[0], 4, *size[1:], dtype=torch.float64)
    content, style = network.encode(x)
    expected = written_out(network.state_dict(), config, x)
    torch.testing.assert_close((content, style, network(x)), expected, rtol=1e-9, atol=1e-11)


def test_released_sizes():
    network = MunitGenerator(3)
    assert count(network.enc_style) == 2_764_936
    assert count(network.enc_content) == 5_385_856
    assert count(network.dec) == 5_754_627
    assert count(network.mlp) == 1_120_768
    assert count(network) == 15_026_187
    assert count(MultiScaleDiscriminator(3)) == 8_271_171
    assert network.dec.affine_width == 4096


def test_images_of_a_batch_do_not_meet():
    network = random_weights(MunitGenerator(3, SMALL))
    x = torch.randn(3, 3, 16, 20, dtype=torch.float64)
    singles = torch.cat([network(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(network(x), singles, rtol=1e-10, atol=1e-12)


def test_a_style_changes_the_image_and_the_content_keeps_its_own():
    network = random_weights(MunitGenerator(3, SMALL))
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    content, style = network.encode(x)
    other = network.decode(content, style + 1)
    assert (other - network.decode(content, style)).abs().max() > 1e-3
    # Instance norm takes brightness and contrast out of the content, not out of the style.
    brighter_content, brighter_style = network.encode(2 * x + 3)
    torch.testing.assert_close(brighter_content, content, rtol=1e-3, atol=1e-3)
    assert (brighter_style - style).abs().max() > 1e-2


@pytest.mark.parametrize("halvings", [1, 2, 3])
def test_the_smallest_images(halvings):
    network = MunitGenerator(3, MunitGeneratorConfig(width=2, halvings=halvings, blocks=1))
    least, step = network.min_size, network.multiple_of
    assert network.decode(
        network.content(torch.zeros(1, 3, least, least)), torch.zeros(1, 8)
    ).shape[2:] == (least, least)
    with pytest.raises(ShapeError, match=f"at least {least} x {least} pixels; got 3 channels"):
        network.content(torch.zeros(1, 3, least, least - 1))
    assert least % step == 0
    side = StyleEncoder.min_size
    assert network.style(torch.zeros(1, 3, side, side)).shape == (1, 8)
    with pytest.raises(ShapeError, match=r"at least 16 x 16 pixels; got 15 x 16\. Enlarge them"):
        network.style(torch.zeros(1, 3, side - 1, side))


def test_blocks_keep_their_input_beside_what_they_add():
    block, styled = ResidualBlock(2), StyledResidualBlock(2)
    x = torch.randn(1, 2, 4, 5)
    for network in (block, styled):
        for parameter in network.parameters():
            nn.init.zeros_(parameter)
    torch.testing.assert_close(block(x), x)
    torch.testing.assert_close(styled(x, torch.zeros(1, 8)), x)
    with_shift = styled(x, torch.tensor([[0.0, 0, 0, 0, 1, -1, 0, 0]]))
    torch.testing.assert_close(with_shift, x + torch.tensor([1.0, -1.0]).view(1, 2, 1, 1))


# Discriminator


def halved(x_BCHW):
    """The mean over 3 x 3 pixels, stride 2, of those that lie inside."""
    height, width = x_BCHW.shape[2:]
    rows = []
    for y in range(0, height, 2):
        for x in range(0, width, 2):
            part = x_BCHW[:, :, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            rows.append(part.mean(dim=(2, 3)))
    return torch.stack(rows, dim=-1).unflatten(-1, (-(-height // 2), -(-width // 2)))


@pytest.mark.parametrize("slope", [0.2, 0.01])
@pytest.mark.parametrize("size", [(1, 16, 20), (2, 17, 23)])
def test_discriminator_matches_its_table(slope, size):
    config = MultiScaleConfig(width=2, layers=3, scales=2, slope=slope)
    network = random_weights(MultiScaleDiscriminator(3, config))
    weights = network.state_dict()
    x = torch.randn(size[0], 3, *size[1:], dtype=torch.float64)
    actual = network(x)
    assert len(actual) == 2
    for scale, logits in enumerate(actual):
        x = halved(x) if scale else x
        y = x
        for layer in range(3):
            y = conv(y, weights, f"cnns.{scale}.{layer}.conv", 1, 2)
            y = torch.where(y > 0, y, slope * y)
        expected = conv(y, weights, f"cnns.{scale}.3", 0)
        torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("layers", "scales"), [(1, 1), (2, 2), (3, 2), (4, 3)])
def test_the_smallest_images_that_can_be_judged(layers, scales):
    network = MultiScaleDiscriminator(1, MultiScaleConfig(width=1, layers=layers, scales=scales))
    least = network.min_size
    assert all(row.numel() for row in network(torch.zeros(1, 1, least, least)))
    with pytest.raises(RuntimeError):
        network(torch.zeros(1, 1, least, least - 1))


def test_judging_together_is_judging_apart():
    network = random_weights(
        MultiScaleDiscriminator(3, MultiScaleConfig(width=2, layers=2, scales=2))
    )
    one = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    for other in (one[:1] + 1, torch.randn(1, 3, 9, 9, dtype=torch.float64)):
        both = judge_scales_together(network, one, other)
        for actual, expected in zip(both, (network(one), network(other)), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-13)


# Styles and errors


def test_style_rows():
    default, x = torch.arange(3.0)[None], torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    assert style_rows(None, default, x).tolist() == [[0, 1, 2], [0, 1, 2]]
    one = style_rows(torch.ones(1, 3), default, x)
    assert one.tolist() == [[1, 1, 1]] * 2
    assert one.dtype == torch.float64
    own = torch.randn(2, 3, dtype=torch.float64)
    assert torch.equal(style_rows(own, default, x), own)
    for shape in ((3, 3), (2, 4), (3,)):
        with pytest.raises(ShapeError, match="must hold 3 numbers for each of the 2 images"):
            style_rows(torch.zeros(shape), default, x)


def test_wording_of_errors():
    with pytest.raises(ConfigError, match="`halvings` must be at least 1; got 0"):
        MunitGeneratorConfig(halvings=0)
    with pytest.raises(ConfigError, match="`scales` must be at least 1; got 0"):
        MultiScaleConfig(scales=0)
    with pytest.raises(ConfigError, match=r"`slope` must be in \[0, 1\); got 1"):
        MultiScaleConfig(slope=1.0)
    with pytest.raises(
        ShapeError, match=r"Expected images of 3 channels .* got 1 channels, 16 x 20"
    ):
        MunitGenerator(3, SMALL).content(torch.zeros(1, 1, 16, 20))
