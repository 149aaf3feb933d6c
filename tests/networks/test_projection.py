import pytest
import torch

from patchkin.errors import ShapeError
from patchkin.networks import ProjectionHead, draw_places, gather_places
from patchkin.networks.cpu.layout import layout_of
from patchkin.randomness import SeededDraws


def naive_head(head, features, places):
    """Patch by patch, image by image."""
    outputs = []
    for mlp, feature, places_K in zip(head.mlps, features, places, strict=True):
        first, _, second = mlp
        width = feature.shape[3]
        rows = []
        for image in feature:
            for place in places_K.tolist():
                patch = image[:, place // width, place % width]
                hidden = (first.weight @ patch + first.bias).clamp_min(0)
                out = second.weight @ hidden + second.bias
                rows.append(out / (out.square().sum().sqrt() + 1e-7))
        outputs.append(torch.stack(rows).view(len(feature), len(places_K), -1))
    return outputs


@pytest.fixture
def maps():
    shapes = [(2, 3, 5, 4), (2, 6, 3, 7), (2, 8, 2, 1)]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def test_value_and_gradient_match_the_definition(maps):
    head = ProjectionHead([3, 6, 8], width=5).double()
    places = [torch.tensor([19, 0, 7]), torch.randperm(21)[:10], torch.tensor([1, 0])]
    weights = [torch.randn(2, len(p), 5, dtype=torch.float64) for p in places]
    inputs = [*maps, *head.parameters()]

    def gradients(rows):
        loss = sum((r * w).sum() for r, w in zip(rows, weights, strict=True))
        return torch.autograd.grad(loss, inputs)

    actual, expected = head(maps, places), naive_head(head, maps, places)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(a.norm(dim=-1), torch.ones_like(a[..., 0]), rtol=0, atol=1e-5)
    for a, e in zip(gradients(actual), gradients(expected), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-12)


def test_the_map_receives_a_contiguous_gradient(maps):
    """Channels-last gradients are what torch's CPU instance norm cannot take at batch 1."""
    seen = []
    feature = maps[0] * 1
    feature.register_hook(lambda gradient: seen.append(gradient.is_contiguous()))
    gather_places(feature, torch.tensor([3, 1])).square().sum().backward()
    assert seen == [True]


@pytest.mark.parametrize("batch", [1, 2])
def test_places_of_a_channels_last_map_and_their_gradient(batch):
    feature = torch.randn(batch, 4, 5, 3, dtype=torch.float64, requires_grad=True)
    strided = feature.detach().to(memory_format=torch.channels_last).requires_grad_()
    places, seen = torch.tensor([14, 0, 7]), []
    strided.register_hook(lambda gradient: seen.append(layout_of(gradient)))
    rows_BKC = gather_places(strided, places)
    assert torch.equal(rows_BKC, gather_places(feature, places))
    rows_BKC.pow(3).sum().backward()
    gather_places(feature, places).pow(3).sum().backward()
    assert torch.equal(strided.grad, feature.grad)
    assert seen == [torch.channels_last]


def test_places_are_row_major(maps):
    feature = maps[1]
    rows_BKC = gather_places(feature, torch.tensor([0, 6, 7, 20]))
    expected = [feature[:, :, y, x] for y, x in [(0, 0), (0, 6), (1, 0), (2, 6)]]
    assert torch.equal(rows_BKC, torch.stack(expected, dim=1))


def test_places_are_drawn_per_map_and_capped_by_its_size(maps):
    places = draw_places(maps, 10, SeededDraws(0, 0))
    assert [len(places_K) for places_K in places] == [10, 10, 2]
    for feature, places_K in zip(maps, places, strict=True):
        assert len(set(places_K.tolist())) == len(places_K)
        assert places_K.max() < feature.shape[2] * feature.shape[3]
        assert places_K.min() >= 0


def test_state_dict_keys_and_released_parameter_count():
    head = ProjectionHead([3, 128, 256, 256, 256])
    assert sum(weight.numel() for weight in head.parameters()) == 560_384
    assert list(head.state_dict())[:4] == [
        "mlps.0.0.weight",
        "mlps.0.0.bias",
        "mlps.0.2.weight",
        "mlps.0.2.bias",
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype):
    head = ProjectionHead([3], width=8)
    with torch.no_grad():
        for weight in head.parameters():
            weight.mul_(1e-3)  # outputs below float16's smallest number
    feature = torch.randn(1, 3, 4, 4).to(dtype)
    places = [torch.arange(16)]
    (expected,) = head([feature.float()], places)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (actual,) = head([feature], places)
    assert actual.dtype is torch.float32
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("places", [[20], [-1, 3]])
def test_a_place_outside_the_map_is_refused(maps, places):
    with pytest.raises(ShapeError, match=r"map of 5 x 4, that is 0 to 19; got .*another tap\?"):
        gather_places(maps[0], torch.tensor(places))


def test_counts_and_channels_must_fit(maps):
    head = ProjectionHead([3, 6], width=4).double()
    places = [torch.tensor([0]), torch.tensor([1])]
    with pytest.raises(ShapeError, match=r"2 taps .* got 3 maps and 2 sets of places"):
        head(maps, places)
    with pytest.raises(ShapeError, match="got 2 maps and 1 sets"):
        head(maps[:2], places[:1])
    with pytest.raises(ShapeError, match=r"Map 1 must have 6 channels .* got 8"):
        head([maps[0], maps[2]], places)
