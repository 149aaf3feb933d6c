import pytest
import torch
import torch.nn.functional as nnf
from torch import nn

from patchkin.errors import ConfigError, ShapeError
from patchkin.networks import InstanceNorm2d
from patchkin.networks.drit import (
    SIDES,
    Attribute,
    AttributeEncoder,
    ContentDiscriminator,
    ContentDiscriminatorConfig,
    DritGenerator,
    DritNetworkConfig,
    ScaledLayerNorm2d,
    SharedContentEncoder,
    least_image,
)
from patchkin.networks.munit import MultiScaleConfig, MultiScaleDiscriminator

SMALL = DritNetworkConfig(width=2, blocks=2, attribute_width=3, mlp_width=5)
MIX = DritNetworkConfig(form="mix", width=2, blocks=2, attribute_width=3, mlp_width=5)


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def random_weights(network):
    """Everything N(0, 0.3) in float64, scales and biases too."""
    network = network.double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0.0, 0.3)
    return network


# Independent forms: the layers as a list of steps, with weights taken in the order of the network.


class Weights:
    """The parameters of a network, two by two: a layer's weight and bias."""

    def __init__(self, network):
        self._tensors = iter([p.detach() for p in network.parameters()])

    def __call__(self):
        return next(self._tensors), next(self._tensors)

    def used_up(self):
        return next(self._tensors, None) is None


def conv(x, weights, padding, stride=1):
    x = nnf.pad(x, [padding] * 4, mode="reflect") if padding else x
    return nnf.conv2d(x, *weights(), stride=stride)


def leaky(x, slope):
    return torch.where(x > 0, x, slope * x)


def unit(x):
    """Instance norm as group norm with a group per channel."""
    return nnf.group_norm(x, x.shape[1])


def residual(x, weights):
    inner = torch.relu(unit(conv(x, weights, 1)))
    return x + unit(conv(inner, weights, 1))


def enlarged(x, weights):
    """A transposed convolution as a convolution of the map spread out with zeros."""
    kernel_IOHW, bias = weights()
    height, width = x.shape[2:]
    spread = torch.zeros(*x.shape[:2], 2 * height, 2 * width, dtype=x.dtype)
    spread[:, :, ::2, ::2] = x
    kernel_OIHW = kernel_IOHW.flip(2, 3).transpose(0, 1)
    x = nnf.conv2d(spread, kernel_OIHW, bias, padding=1)
    scale, shift = weights()
    rows = x.flatten(1)
    deviation = (rows.var(1, unbiased=False) + 1e-5).sqrt()
    x = (x - rows.mean(1).view(-1, 1, 1, 1)) / deviation.view(-1, 1, 1, 1)
    return torch.relu(x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1))


def beside(x, numbers):
    return torch.cat([x, torch.stack([torch.full_like(x[0, :1], n) for n in numbers[0]], 1)], 1)


def pooled(x):
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def images(*shape):
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("size", [(1, 16, 12), (2, 9, 14)])
def test_content_encoder_matches_its_table(side, size):
    network = random_weights(SharedContentEncoder((3, 2), SMALL))
    x = images(size[0], 3 if side == "A" else 2, *size[1:])
    weights = Weights(network.own[side])
    expected = leaky(conv(x, weights, 3), 0.01)
    for _ in range(2):
        expected = torch.relu(unit(conv(expected, weights, 1, 2)))
    for _ in range(SMALL.blocks):
        expected = residual(expected, weights)
    assert weights.used_up()
    expected = residual(expected, Weights(network.shared))
    actual = network(x, side)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)
    assert actual.shape[1:] == network.map_shape(x)


@pytest.mark.parametrize("side", SIDES)
def test_attribute_encoder_matches_its_table(side):
    network = random_weights(AttributeEncoder((3, 3), SMALL))
    x = images(2, 3, 32, 48)
    own = network.own[side]
    h = conv(x, Weights(own.model[0]), 1, 2)
    for block in own.model[1:4]:
        inner = leaky(conv(leaky(h, 0.2), Weights(block.model[1]), 1), 0.2)
        inner = pooled(conv(inner, Weights(block.model[2]), 1))
        h = inner + conv(pooled(h), Weights(block.shortcut[1]), 0)
    h = leaky(h, 0.2).mean((2, 3))
    actual = network(x, side)
    for found, head in ((actual.mean_BS, own.mean), (actual.log_variance_BS, own.log_variance)):
        torch.testing.assert_close(found, nnf.linear(h, *Weights(head)()), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("side", SIDES)
def test_concatenating_generator_matches_its_table(side):
    network = random_weights(DritGenerator((3, 1), SMALL))
    content, z = images(1, 8, 3, 5), images(1, 3)
    y = residual(content, Weights(network.shared))
    weights = Weights(network.own[side])
    y = beside(y, z)
    for _ in range(SMALL.blocks):
        y = residual(y, weights)
    for _ in range(2):
        y = enlarged(beside(y, z), weights)
    y = torch.tanh(conv(beside(y, z), weights, 0))
    assert weights.used_up()
    torch.testing.assert_close(network(content, z, side), y, rtol=1e-9, atol=1e-11)
    assert y.shape == (1, 3 if side == "A" else 1, 12, 20)


@pytest.mark.parametrize("side", SIDES)
def test_mixing_generator_matches_its_table(side):
    network = random_weights(DritGenerator((3, 1), MIX))
    content, z = images(1, 8, 3, 5), images(1, 3)
    weights = Weights(network.own[side])
    numbers = torch.relu(nnf.linear(z, *weights()))
    numbers = torch.relu(nnf.linear(numbers, *weights()))
    numbers = nnf.linear(numbers, *weights())
    y, parts = content, numbers.split(8, dim=1)
    assert len(parts) == MIX.blocks + 1
    for part in parts:
        first, second = weights_of_block(weights)
        inner = torch.relu(nnf.conv2d(beside(unit(conv(y, first[0], 1)), part), *first[1]()))
        inner = unit(conv(nnf.conv2d(inner, *first[2]()), second[0], 1))
        inner = torch.relu(nnf.conv2d(beside(inner, part), *second[1]()))
        y = y + nnf.conv2d(inner, *second[2]())
    for _ in range(2):
        y = enlarged(y, weights)
    y = torch.tanh(conv(y, weights, 0))
    assert weights.used_up()
    torch.testing.assert_close(network(content, z, side), y, rtol=1e-9, atol=1e-11)


def weights_of_block(weights):
    """Both halves of a block: convolution, mix, mix; the convolutions are listed first."""
    (conv_1, conv_2), mixes = [weights() for _ in range(2)], [weights() for _ in range(4)]

    def given(pair):
        return lambda: pair

    return (
        [given(conv_1), given(mixes[0]), given(mixes[1])],
        [given(conv_2), given(mixes[2]), given(mixes[3])],
    )


@pytest.mark.parametrize("norm", ["none", "instance"])
def test_content_discriminator_matches_its_table(norm):
    config = ContentDiscriminatorConfig(layers=2, kernel=5, norm=norm)
    network = random_weights(ContentDiscriminator(3, config))
    x, weights = images(2, 3, 19, 24), Weights(network)
    y = x
    for _ in range(2):
        y = conv(y, weights, 1, 2)
        y = leaky(unit(y) if norm == "instance" else y, 0.01)
    y = conv(leaky(conv(y, weights, 0), 0.01), weights, 0)
    assert weights.used_up()
    torch.testing.assert_close(network(x), y, rtol=1e-10, atol=1e-12)
    assert any(isinstance(m, InstanceNorm2d) for m in network.modules()) == (norm == "instance")


# Sizes


def test_released_sizes():
    concat, mix = DritNetworkConfig(), DritNetworkConfig(form="mix")
    for config in (concat, mix):
        assert count(SharedContentEncoder((3, 3), config)) == 9_018_112
    assert count(AttributeEncoder((3, 3), concat)) == 2_688_160
    assert count(AttributeEncoder((3, 3), mix)) == 5_529_872
    assert count(DritGenerator((3, 3), concat)) == 9_564_710
    assert count(DritGenerator((3, 3), mix)) == 17_146_374
    assert count(ContentDiscriminator(256)) == 10_683_649
    assert count(MultiScaleDiscriminator(3, MultiScaleConfig(slope=0.01))) == 8_271_171


def test_the_released_content_discriminator_gives_one_logit_or_four():
    network = ContentDiscriminator(2)
    assert network(torch.zeros(1, 2, 54, 54)).shape == (1, 1, 1, 1)
    assert network(torch.zeros(1, 2, 64, 64)).shape == (1, 1, 2, 2)


@pytest.mark.parametrize(("layers", "kernel"), [(0, 7), (1, 3), (2, 3), (1, 4), (2, 5), (3, 7)])
def test_the_smallest_contents_that_can_be_judged(layers, kernel):
    network = ContentDiscriminator(1, ContentDiscriminatorConfig(layers=layers, kernel=kernel))
    least = network.min_size
    assert network(torch.zeros(1, 1, least, least)).numel() == 1
    with pytest.raises(RuntimeError):
        network(torch.zeros(1, 1, least, least - 1))
    encoder = SharedContentEncoder((1, 1), DritNetworkConfig(width=1, blocks=1))
    side = least_image(least)
    assert encoder.map_shape(torch.zeros(1, 1, side, side - 1))[1:] == (least, least - 1)


def test_the_smallest_images():
    encoder = SharedContentEncoder((3, 1), SMALL)
    least = encoder.min_size
    assert encoder(torch.zeros(1, 3, least, least), "A").shape[2:] == (2, 2)
    with pytest.raises(ShapeError, match="at least 5 x 5 pixels; got 3 channels, 5 x 4"):
        encoder(torch.zeros(1, 3, least, least - 1), "A")
    with pytest.raises(ShapeError, match="Expected images of 1 channels"):
        encoder(torch.zeros(1, 3, 8, 8), "B")
    for config in (SMALL, MIX):
        attributes = AttributeEncoder((3, 3), config)
        assert attributes(torch.zeros(1, 3, 16, 16), "A").mean_BS.shape == (1, 3)
        with pytest.raises(ShapeError, match=r"at least 16 x 16 pixels; got 16 x 15\. Enlarge"):
            attributes(torch.zeros(1, 3, 16, 15), "A")


# Properties


def test_the_domains_share_one_block_of_encoder_and_decoder():
    encoder, generator = SharedContentEncoder((3, 3), SMALL), DritGenerator((3, 3), SMALL)
    content = encoder(torch.randn(1, 3, 16, 16), "A")
    generator(content, torch.zeros(1, 3), "B").sum().backward()
    for network, learned, other in ((encoder, "A", "B"), (generator, "B", "A")):
        assert all(p.grad is not None for p in network.shared.parameters())
        assert all(p.grad is not None for p in network.own[learned].parameters())
        assert all(p.grad is None for p in network.own[other].parameters())


def test_an_attribute_is_drawn_from_what_was_found():
    mean, log_variance = torch.randn(4, 3), torch.randn(4, 3)
    noise = torch.randn(4, 3)
    drawn = Attribute(mean, log_variance).sample(noise)
    torch.testing.assert_close(drawn, mean + log_variance.exp().sqrt() * noise)
    assert Attribute(mean, None).sample(noise) is mean


@pytest.mark.parametrize("shape", [(1, 2, 3, 2), (2, 3, 2, 2)])
def test_layer_norm_gradient_matches_finite_differences(shape):
    norm = random_weights(ScaledLayerNorm2d(shape[1]))
    x = torch.randn(shape, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradcheck(norm, (x,))


@pytest.mark.parametrize("config", [SMALL, MIX], ids=["concat", "mix"])
def test_images_of_a_batch_do_not_meet(config):
    encoder = random_weights(SharedContentEncoder((3, 3), config))
    attributes = random_weights(AttributeEncoder((3, 3), config))
    generator = random_weights(DritGenerator((3, 3), config))

    def through(x):
        return generator(encoder(x, "A"), attributes(x, "B").mean_BS, "B")

    x = images(3, 3, 20, 16)
    singles = torch.cat([through(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(through(x), singles, rtol=1e-9, atol=1e-11)


def test_wording_of_errors():
    with pytest.raises(ConfigError, match="`attribute_width` must be at least 1; got 0"):
        DritNetworkConfig(attribute_width=0)
    with pytest.raises(ConfigError, match="`layers` must not be negative; got -1"):
        ContentDiscriminatorConfig(layers=-1)
    with pytest.raises(ConfigError, match="`kernel` must be at least 3; got 2"):
        ContentDiscriminatorConfig(kernel=2)
