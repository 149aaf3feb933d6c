import pytest
import torch
import torch.nn.functional as nnf

from patchkin.errors import ShapeError
from patchkin.networks.siamese import (
    GlobalDiscriminator,
    Halving,
    ShiftBatchNorm2d,
    Siamese,
    TravelGenerator,
)


def test_shift_batch_norm_matches_the_formula():
    norm = ShiftBatchNorm2d(2).double()
    with torch.no_grad():
        norm.shift_C.copy_(torch.tensor([1.0, -2.0]))
    x = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    for c in range(2):
        values = x[:, c]
        expected = (values - values.mean()) / (values.var(correction=0) + 1e-3).sqrt()
        torch.testing.assert_close(norm(x)[:, c], expected + norm.shift_C[c])
    fresh = ShiftBatchNorm2d(2).double()
    fresh(x)
    torch.testing.assert_close(fresh.norm.running_mean, 0.1 * x.mean(dim=(0, 2, 3)))


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (1, 5)])
def test_halving_pads_as_tensorflow_does(size):
    """A side n becomes ceil(n / 2); of the padding that this takes, the larger half is behind."""
    layer = Halving(3, 4, first=True).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    sides = [-(-side // 2) for side in size]
    totals = [(out - 1) * 2 + 4 - side for out, side in zip(sides, size, strict=True)]
    padding = [n for total in reversed(totals) for n in (total // 2, total - total // 2)]
    expected = nnf.conv2d(nnf.pad(x, padding), layer.conv.weight, layer.conv.bias, stride=2)
    assert expected.shape[2:] == tuple(sides)
    torch.testing.assert_close(layer(x), nnf.leaky_relu(expected, 0.2))


def convolutions(network):
    kinds = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    return [m for m in network.modules() if isinstance(m, kinds)]


def test_widths_are_the_released_ones():
    generator = TravelGenerator(3, 3)
    assert [c.out_channels for c in convolutions(generator)] == [
        *(64, 128, 256, 256),
        *(256, 128, 64, 3),
    ]
    discriminator = GlobalDiscriminator(3)
    assert [c.out_channels for c in convolutions(discriminator)] == [128, 256, 512, 1024, 1024]
    siamese = Siamese((3, 3))
    assert [c.out_channels for c in convolutions(siamese)] == [64, 64, 128, 256, 512, 512]
    assert siamese.vector.weight.shape == (1000, 512 * 4 * 4)
    assert discriminator.logit.weight.shape == (1, 1024 * 4 * 4)


def test_at_128_pixels_nothing_is_averaged():
    network = Siamese((3, 3), width=1, vector_width=6).eval()
    x = torch.randn(2, 3, 128, 128)
    features = network.shared(network.first[0](x))
    assert features.shape[2:] == (4, 4)
    torch.testing.assert_close(network(x, domain=0), network.vector(features.flatten(1)))


def test_the_first_layer_belongs_to_a_domain():
    network = Siamese((3, 1), width=1, vector_width=6).eval()
    colour, grey = torch.randn(2, 3, 40, 33), torch.randn(2, 1, 40, 33)
    assert network(colour, domain=0).shape == network(grey, domain=1).shape == (2, 6)


@pytest.mark.parametrize("size", [(16, 16), (33, 50), (7, 31), (1, 2)])
def test_the_generator_keeps_any_size_and_uses_what_it_hands_across(size):
    generator = TravelGenerator(3, 1, width=2).eval()
    x = torch.randn(2, 3, *size)
    y = generator(x)
    assert y.shape == (2, 1, *size)
    with torch.no_grad():
        generator.up[-1][0].weight.zero_()  # only the connection across is left
    assert generator(x).std() > 0


def test_wording_of_errors():
    with pytest.raises(ShapeError, match=r"must be \[B, 3, H, W\] .* got \(1, 1, 8, 8\)"):
        TravelGenerator(3, 3, width=1)(torch.zeros(1, 1, 8, 8))
