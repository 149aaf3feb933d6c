import pytest
import torch

from patchkin.errors import ShapeError
from patchkin.networks.negative_generator import NegativeGenerator


def test_value_matches_the_definition_row_by_row():
    network = NegativeGenerator(2, width=5, noise_width=3).double()
    descriptions = [torch.randn(2, 5, dtype=torch.float64) for _ in range(2)]
    noises = [torch.randn(2, 4, 3), torch.randn(6, 3)]
    for mlp, description, noise, actual in zip(
        network.mlps, descriptions, noises, network(descriptions, noises), strict=True
    ):
        assert actual.shape == (2, noise.shape[-2], 5)
        first, _, second = mlp
        for b in range(2):
            for p in range(noise.shape[-2]):
                z = (noise[b, p] if noise.ndim == 3 else noise[p]).double()
                hidden = (first.weight @ torch.cat([description[b], z]) + first.bias).clamp_min(0)
                row = second.weight @ hidden + second.bias
                torch.testing.assert_close(actual[b, p], row / (row.norm() + 1e-7))


def test_the_descriptions_receive_a_gradient():
    network = NegativeGenerator(1, width=4, noise_width=2)
    description = torch.randn(2, 4, requires_grad=True)
    network([description], [torch.randn(3, 2)])[0][0].sum().backward()
    assert description.grad[0].any()
    assert not description.grad[1].any()


def test_state_dict_keys_and_released_parameter_count():
    network = NegativeGenerator(5)
    assert sum(weight.numel() for weight in network.parameters()) == 739_840
    assert list(network.state_dict())[:4] == [
        "mlps.0.0.weight",
        "mlps.0.0.bias",
        "mlps.0.2.weight",
        "mlps.0.2.bias",
    ]


def test_autocast_changes_nothing():
    network = NegativeGenerator(1, width=8, noise_width=4)
    inputs = [torch.randn(2, 8)], [torch.randn(3, 4)]
    (expected,) = network(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (actual,) = network(*inputs)
    assert actual.dtype is torch.float32
    assert torch.equal(actual, expected)


def test_wording_of_errors():
    network = NegativeGenerator(2, width=4, noise_width=3)
    with pytest.raises(ShapeError, match=r"2 taps .* got 1 descriptions and 2 noises"):
        network([torch.zeros(1, 4)], [torch.zeros(1, 3)] * 2)
    with pytest.raises(ShapeError, match=r"4 channels and noise 3; got 5 and 3"):
        network([torch.zeros(1, 5)] * 2, [torch.zeros(1, 3)] * 2)
