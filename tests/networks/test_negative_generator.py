import pytest
import torch

from patchkin.errors import ShapeError
from patchkin.networks.negative_generator import FeaturePool, FreeNegatives, NegativeGenerator


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


def test_pooled_features_match_the_definition_place_by_place():
    pool = FeaturePool(3, 4).double()
    map_BCHW = torch.randn(2, 3, 2, 5, dtype=torch.float64)
    first, _, second = pool.convs
    for b, actual in enumerate(pool(map_BCHW)):
        total = torch.zeros(4, dtype=torch.float64)
        for y in range(2):
            for x in range(5):
                hidden = (first.weight[:, :, 0, 0] @ map_BCHW[b, :, y, x] + first.bias).clamp(min=0)
                total += second.weight[:, :, 0, 0] @ hidden + second.bias
        torch.testing.assert_close(actual, total / 10)
    whole = NegativeGenerator(1, width=4, noise_width=2, channels=[3]).double()
    noise = [torch.randn(6, 2)]
    described = [whole.pools[0](map_BCHW)]
    whole.pools, pools = None, whole.pools
    expected = whole(described, noise)
    whole.pools = pools
    assert torch.equal(whole([map_BCHW], noise)[0], expected[0])


def test_free_negatives_start_as_xavier_says_and_are_the_same_for_all_images():
    torch.manual_seed(0)
    network = FreeNegatives(5, num_negatives=64, width=32)
    fan_in, fan_out = 64 * 32, 5 * 64 * 32
    assert network.rows_L1PC.std().item() == pytest.approx(
        (2 / (fan_in + fan_out)) ** 0.5, rel=0.05
    )
    rows = network([torch.zeros(3, 7)] * 5, [])
    assert [tuple(row.shape) for row in rows] == [(3, 64, 32)] * 5
    assert all(torch.equal(row[0], row[2]) for row in rows)
    torch.testing.assert_close(rows[0].norm(dim=-1), torch.ones(3, 64), atol=1e-3, rtol=0)
