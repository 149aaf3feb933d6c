import itertools

import pytest
import torch
from torch import nn

from patchkin.config import from_plain
from patchkin.errors import ConfigError, ShapeError
from patchkin.networks import (
    BlurDownsample,
    BlurUpsample,
    InitConfig,
    InstanceNorm2d,
    ResNetConfig,
    ResNetGenerator,
    gather_places,
    initialize,
)

SWITCHES = [
    {"antialias_down": down, "antialias_up": up, "norm": norm}
    for down, up, norm in itertools.product([True, False], [True, False], ["instance", "none"])
]


def small(**changes):
    return ResNetGenerator(ResNetConfig(**{"ngf": 2, "blocks": 4} | changes))


def weight_indices(generator):
    return sorted({int(key.split(".")[1]) for key in generator.state_dict()})


@pytest.mark.parametrize("blocks", [1, 4, 6, 9])
@pytest.mark.parametrize("switches", SWITCHES)
def test_layers_have_the_released_indices(blocks, switches):
    generator = small(blocks=blocks, **switches)
    kinds = {
        kind: [i for i, layer in enumerate(generator.model) if isinstance(layer, kind)]
        for kind in (nn.Conv2d, nn.ConvTranspose2d, BlurDownsample, BlurUpsample, nn.Tanh)
    }
    n = blocks
    down = [1, 4, 8] if switches["antialias_down"] else [1, 4, 7]
    first_block = 12 if switches["antialias_down"] else 10
    after = first_block + n
    ups = [after + 1, after + 5] if switches["antialias_up"] else [after, after + 3]
    last = after + (9 if switches["antialias_up"] else 7)
    blocks_at = list(range(first_block, first_block + n))
    assert weight_indices(generator) == [*down, *blocks_at, *ups, last]
    assert kinds[nn.Tanh] == [last + 1]
    assert kinds[BlurDownsample] == ([7, 11] if switches["antialias_down"] else [])
    assert kinds[BlurUpsample] == ([after, after + 4] if switches["antialias_up"] else [])
    assert kinds[nn.ConvTranspose2d] == ([] if switches["antialias_up"] else ups)
    has_bias = {key.split(".")[1] for key in generator.state_dict() if key.endswith("bias")}
    if switches["norm"] == "instance":
        assert has_bias == {str(i) for i in weight_indices(generator)}
    else:
        assert has_bias == {str(last)}


def test_convolutions_of_a_block_with_and_without_dropout():
    def keys(dropout):
        return [
            key
            for key in small(dropout=dropout).state_dict()
            if key.startswith("model.12.") and key.endswith("weight")
        ]

    assert keys(False) == ["model.12.conv_block.1.weight", "model.12.conv_block.5.weight"]
    assert keys(True) == ["model.12.conv_block.1.weight", "model.12.conv_block.6.weight"]


@pytest.mark.parametrize(("blocks", "count"), [(9, 11_378_179), (6, 7_837_699)])
@pytest.mark.parametrize("antialias", [True, False])
def test_published_parameter_counts(blocks, count, antialias):
    with torch.device("meta"):
        generator = ResNetGenerator(
            ResNetConfig(blocks=blocks, antialias_down=antialias, antialias_up=antialias)
        )
    assert sum(weight.numel() for weight in generator.parameters()) == count


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("taps", [(0, 4, 8, 12, 16), (0, 4, 7, 9), (2, 5, 6), (1,), (4, 5)])
def test_taps_are_those_of_a_walk_with_rectifiers_in_place(switches, taps):
    """The released encoder collects tensors that the ReLUs behind them overwrite in place."""
    generator = small(blocks=6, **switches).double()
    x_BCHW = torch.randn(2, 3, 12, 20, dtype=torch.float64)
    with torch.no_grad():
        features = generator.encode(x_BCHW, taps)
        output_BCHW, same_features = generator.forward_with_taps(x_BCHW, taps)
        plain_BCHW = generator(x_BCHW)
        for layer in generator.model:
            if isinstance(layer, nn.ReLU):
                layer.inplace = True
        expected, feature = [], x_BCHW
        for index, layer in enumerate(generator.model[: taps[-1] + 1]):
            feature = layer(feature)
            if index in taps:
                expected.append(feature)
    for actual, again, reference in zip(features, same_features, expected, strict=True):
        assert torch.equal(actual, reference)
        assert torch.equal(again, reference)
    assert torch.equal(output_BCHW, plain_BCHW)


def test_a_tap_before_a_relu_is_rectified_only_if_a_later_tap_follows():
    generator = small(antialias_down=False, antialias_up=False)
    x_BCHW = torch.randn(1, 3, 16, 16)
    alone, with_later = generator.encode(x_BCHW, (8,))[0], generator.encode(x_BCHW, (8, 12))[0]
    assert alone.min() < 0
    assert torch.equal(with_later, alone.relu())


def test_taps_carry_the_gradient_of_the_plain_network():
    generator = small(antialias_down=False).double()
    x_BCHW = torch.randn(2, 3, 8, 12, dtype=torch.float64, requires_grad=True)
    _, features = generator.forward_with_taps(x_BCHW, (0, 4, 8, 11))
    weights = [torch.randn_like(feature) for feature in features]
    total = sum((f * w).sum() for f, w in zip(features, weights, strict=True))
    (actual,) = torch.autograd.grad(total, x_BCHW)
    expected = 0
    for end, weight in zip((0, 4, 9, 11), weights, strict=True):  # 8 is seen behind its ReLU, 9
        expected = expected + (generator.model[: end + 1](x_BCHW) * weight).sum()
    torch.testing.assert_close(actual, torch.autograd.grad(expected, x_BCHW)[0], rtol=1e-9, atol=0)


def test_layers_behind_the_last_tap_are_not_run():
    generator = small()
    seen = []
    for index, layer in enumerate(generator.model):
        layer.register_forward_hook(lambda *_, index=index: seen.append(index))
    generator.encode(torch.randn(1, 3, 16, 16), (0, 8))
    assert max(seen) == 8


def test_taps_come_in_the_order_they_were_asked_for():
    generator = small()
    x_BCHW = torch.randn(1, 3, 16, 16)
    later, earlier = generator.encode(x_BCHW, (12, 0))
    assert torch.equal(earlier, generator.encode(x_BCHW, (0, 12))[0])
    assert torch.equal(later, generator.encode(x_BCHW, (0, 12))[1])


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("size", [(16, 16), (5, 5), (18, 7), (9, 32)])
def test_sizes_and_channels_at_every_layer(switches, size):
    generator = small(**switches)
    taps = range(len(generator.model))
    _, features = generator.forward_with_taps(torch.randn(1, 3, *size), taps)
    assert generator.tap_sizes(taps, *size) == [tuple(f.shape[2:]) for f in features]
    assert generator.tap_channels(taps) == [f.shape[1] for f in features]


@pytest.mark.parametrize(("size", "expected"), [(62, 64), (66, 68), (64, 64), (5, 8)])
def test_the_output_is_rounded_up_to_a_multiple_of_four(size, expected):
    with torch.no_grad():
        assert small(blocks=1)(torch.randn(1, 3, size, 8)).shape[2:] == (expected, 8)


def test_tap_origin_is_the_place_of_the_first_pixel():
    generator = small()
    x_BCHW = torch.randn(1, 3, 8, 8)
    (padded_BCHW,) = generator.encode(x_BCHW, (0,))
    origin = generator.tap_origin(0)
    assert torch.equal(padded_BCHW[..., origin : origin + 8, origin : origin + 8], x_BCHW)
    assert [generator.tap_origin(tap) for tap in (1, 4, 8, 12)] == [0, 0, 0, 0]


@pytest.mark.parametrize("switches", SWITCHES)
def test_min_size_is_the_smallest_that_works(switches):
    generator = small(**switches)
    least = generator.min_size
    assert generator(torch.randn(1, 3, least, least)).isfinite().all()
    assert generator(torch.randn(1, 3, least, 40)).isfinite().all()
    with pytest.raises(RuntimeError):
        generator.model(torch.randn(1, 3, least - 1, 40))
    with pytest.raises(ShapeError, match="at least 5 x 5 pixels for the generator; got 4 x 40"):
        generator(torch.randn(1, 3, least - 1, 40))


class ExplicitNorm(nn.Module):
    def forward(self, x):
        mean = x.mean(dim=(2, 3), keepdim=True)
        return (x - mean) / ((x - mean).square().mean(dim=(2, 3), keepdim=True) + 1e-5).sqrt()


def with_explicit_norms(module):
    for name, child in module.named_children():
        if isinstance(child, InstanceNorm2d):
            setattr(module, name, ExplicitNorm())
        else:
            with_explicit_norms(child)
    return module


def weight_gradients(generator, x_BCHW, taps, places, *, permute):
    """Of a loss on patches, sampled safely or as the released head does."""
    loss = 0.0
    for feature, places_K in zip(generator.encode(x_BCHW, taps), places, strict=True):
        if permute:
            rows = feature.permute(0, 2, 3, 1).flatten(1, 2)[:, places_K]
        else:
            rows = gather_places(feature, places_K)
        loss = loss + rows.pow(3).sum() / len(x_BCHW)
    gradients = torch.autograd.grad(loss, list(generator.parameters()), allow_unused=True)
    return [gradient for gradient in gradients if gradient is not None]


@pytest.mark.parametrize("permute", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_patch_gradients_are_exact_behind_instance_norms(batch, permute):
    generator = small().double()
    taps = (0, 4, 8, 12, 14)
    x_BCHW = torch.randn(batch, 3, 12, 16, dtype=torch.float64)
    places = [torch.randperm(h * w)[:6] for h, w in generator.tap_sizes(taps, 12, 16)]
    actual = weight_gradients(generator, x_BCHW, taps, places, permute=permute)
    with_explicit_norms(generator)
    expected = weight_gradients(generator, x_BCHW, taps, places, permute=False)
    largest = max(gradient.abs().max() for gradient in expected)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-12 * largest.item())


def test_a_batch_has_the_mean_gradient_of_its_images():
    generator = small().double()
    x_BCHW = torch.randn(4, 3, 12, 8, dtype=torch.float64)

    def gradients(x):
        return torch.autograd.grad(generator(x).pow(3).mean(), list(generator.parameters()))

    together = gradients(x_BCHW)
    apart = [gradients(x_BCHW[i : i + 1]) for i in range(4)]
    largest = max(gradient.abs().max() for gradient in together).item()
    for whole, *parts in zip(together, *apart, strict=True):
        torch.testing.assert_close(whole, sum(parts) / 4, rtol=1e-9, atol=1e-9 * largest)


def test_images_of_a_batch_do_not_see_each_other():
    generator = small()
    x_BCHW = torch.randn(3, 3, 16, 8)
    with torch.no_grad():
        torch.testing.assert_close(generator(x_BCHW)[1:2], generator(x_BCHW[1:2]))


def test_channels_of_both_domains():
    generator = small(in_channels=1, out_channels=4)
    with torch.no_grad():
        assert generator(torch.randn(2, 1, 8, 8)).shape == (2, 4, 8, 8)
    with pytest.raises(ShapeError, match=r"must be \[B, 1, H, W\].*got \(2, 3, 8, 8\)"):
        generator(torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("tap", [-1, 24, 99])
def test_an_unknown_tap_is_named_with_the_valid_range(tap):
    generator = small()
    for call in (
        lambda: generator.encode(torch.randn(1, 3, 8, 8), (0, tap)),
        lambda: generator.forward_with_taps(torch.randn(1, 3, 8, 8), (0, tap)),
        lambda: generator.tap_channels((0, tap)),
        lambda: generator.tap_sizes((0, tap), 8, 8),
        lambda: generator.tap_origin(tap),
    ):
        if 0 <= tap < len(generator.model):
            call()
            continue
        with pytest.raises(ConfigError, match=rf"0 to 26 with 4 blocks; got {tap}"):
            call()


def test_no_taps():
    generator = small()
    with pytest.raises(ConfigError, match="at least one layer"):
        generator.encode(torch.randn(1, 3, 8, 8), ())
    assert generator.forward_with_taps(torch.randn(1, 3, 8, 8), ())[1] == []


@pytest.mark.parametrize("name", ["in_channels", "out_channels", "ngf", "blocks"])
def test_counts_must_be_positive(name):
    with pytest.raises(ConfigError, match=f"`{name}` must be at least 1; got 0"):
        ResNetConfig(**{name: 0})


def test_an_unknown_norm_is_refused_when_read():
    with pytest.raises(ConfigError):
        from_plain(ResNetConfig, {"norm": "layer"})


def test_dropout_acts_in_training_only():
    generator = small(dropout=True)
    x_BCHW = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert not torch.equal(generator(x_BCHW), generator(x_BCHW))
        generator.eval()
        assert torch.equal(generator(x_BCHW), generator(x_BCHW))


def test_recomputing_saves_memory_and_changes_no_bit():
    torch.manual_seed(0)
    plain = ResNetGenerator(ResNetConfig(ngf=4, blocks=3, dropout=True))
    lean = ResNetGenerator(ResNetConfig(ngf=4, blocks=3, dropout=True, recompute=True))
    lean.load_state_dict(plain.state_dict())
    x_BCHW = torch.randn(2, 3, 32, 24)
    gradients, kept = [], []
    for generator in (plain, lean):
        storages = {}

        def keep(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        torch.manual_seed(1)  # of the dropout
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y_BCHW = generator(x_BCHW)
        y_BCHW.square().sum().backward()
        gradients.append([parameter.grad for parameter in generator.parameters()])
        kept.append(sum(storages.values()))
    assert kept[1] < 0.9 * kept[0]
    for whole, again in zip(*gradients, strict=True):
        assert torch.equal(whole, again)


def test_recomputing_with_batch_norm_is_refused():
    with pytest.raises(ConfigError, match="running statistics"):
        ResNetConfig(norm="batch", recompute=True)


@pytest.mark.parametrize("size", [(16, 24), (18, 13)])
def test_a_change_is_added_to_the_input_and_kept_in_range(size):
    torch.manual_seed(0)
    image = ResNetGenerator(ResNetConfig(ngf=4, blocks=1)).double()
    change = ResNetGenerator(ResNetConfig(ngf=4, blocks=1, output="change")).double()
    change.load_state_dict(image.state_dict())
    x = (torch.rand(2, 3, *size, dtype=torch.float64) * 2 - 1).requires_grad_()
    height, width = size
    y, maps = change.forward_with_taps(x, (4, 8))
    sums = x + torch.atanh(image(x))[..., :height, :width]
    torch.testing.assert_close(y, sums.clamp(-1, 1))
    assert (sums.abs() > 1).any()
    assert torch.equal(change(x), y)
    for map_, expected in zip(maps, image.encode(x, (4, 8)), strict=True):
        assert torch.equal(map_, expected)
    slopes = (torch.autograd.grad(z.sum(), x, retain_graph=True)[0] for z in (y, sums.clamp(-1, 1)))
    torch.testing.assert_close(*slopes)


def test_a_fresh_generator_of_changes_leaves_images_as_they_are():
    torch.manual_seed(0)
    generator = ResNetGenerator(ResNetConfig(ngf=4, blocks=1, output="change"))
    initialize(generator, InitConfig(gain=1e-6))
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(generator(x), x, rtol=0, atol=1e-4)


def test_a_change_has_the_channels_of_the_input():
    with pytest.raises(ConfigError, match=r"must be equal; got 1 and 3"):
        ResNetConfig(in_channels=1, output="change")
