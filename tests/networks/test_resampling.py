import pytest
import torch
import torch.nn.functional as nnf

from patchkin.errors import ConfigError
from patchkin.networks import BlurDownsample, BlurUpsample, ReflectionPad2d, resampling
from patchkin.networks.cpu.layout import layout_of
from patchkin.networks.resampling import binomial_filter

SIZES = [(8, 8), (7, 7), (5, 12), (2, 9), (6, 2)]


def naive_downsample(x_BCHW, taps):
    """Every output pixel from the definition, as loops."""
    row = [1.0]
    for _ in range(taps - 1):
        row = [a + b for a, b in zip([0.0, *row], [*row, 0.0], strict=True)]
    total = sum(row)
    height, width = x_BCHW.shape[2:]
    before = (taps - 1) // 2

    def reflected(index, size):
        index = abs(index)
        return 2 * (size - 1) - index if index >= size else index

    out = x_BCHW.new_zeros(*x_BCHW.shape[:2], (height + 1) // 2, (width + 1) // 2)
    if taps % 2 == 0:
        out = x_BCHW.new_zeros(*x_BCHW.shape[:2], (height - 1) // 2 + 1, (width - 1) // 2 + 1)
    for y in range(out.shape[2]):
        for x in range(out.shape[3]):
            for i in range(taps):
                for j in range(taps):
                    source_y = reflected(2 * y + i - before, height)
                    source_x = reflected(2 * x + j - before, width)
                    weight = row[i] * row[j] / total**2
                    out[:, :, y, x] += weight * x_BCHW[:, :, source_y, source_x]
    return out


def transposed_upsample(x_BCHW):
    """The released form: replicate, transposed convolution, crop."""
    channels = x_BCHW.shape[1]
    row = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x_BCHW.dtype)
    kernel = (torch.outer(row, row) / 64 * 4).repeat(channels, 1, 1, 1)
    padded = nnf.pad(x_BCHW, [1, 1, 1, 1], mode="replicate")
    full = nnf.conv_transpose2d(padded, kernel, stride=2, padding=2, groups=channels)
    return full[:, :, 1:-1, 1:-1]


def gradient(layer, x_BCHW, weight):
    x_BCHW = x_BCHW.clone().requires_grad_()
    (layer(x_BCHW) * weight).sum().backward()
    return x_BCHW.grad


@pytest.mark.parametrize("size", SIZES)
def test_downsample_matches_its_definition(size):
    x_BCHW = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = naive_downsample(x_BCHW, 3)
    layer = BlurDownsample(3).double()
    torch.testing.assert_close(layer(x_BCHW), expected, rtol=1e-12, atol=1e-12)
    assert expected.shape[2:] == (-(-size[0] // 2), -(-size[1] // 2))


@pytest.mark.parametrize("taps", [1, 2, 3, 4, 5, 6, 7])
def test_downsample_with_other_filters(taps):
    x_BCHW = torch.randn(1, 2, 9, 6, dtype=torch.float64)
    layer = BlurDownsample(2, taps=taps).double()
    layer.filt = binomial_filter(taps).double().repeat(2, 1, 1, 1)
    torch.testing.assert_close(layer(x_BCHW), naive_downsample(x_BCHW, taps), rtol=1e-6, atol=1e-6)


def test_an_unknown_filter_is_refused():
    with pytest.raises(ConfigError, match="between 1 and 7; got 8"):
        BlurDownsample(3, taps=8)


@pytest.mark.parametrize("size", [*SIZES, (1, 1), (1, 4)])
def test_upsample_equals_the_transposed_convolution(size):
    x_BCHW = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = transposed_upsample(x_BCHW)
    assert expected.shape[2:] == (2 * size[0], 2 * size[1])
    torch.testing.assert_close(BlurUpsample()(x_BCHW), expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(expected)
    torch.testing.assert_close(
        gradient(BlurUpsample(), x_BCHW, weight),
        gradient(transposed_upsample, x_BCHW, weight),
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (4, 9)])
@pytest.mark.parametrize("build", [lambda: ReflectionPad2d(3), lambda: ReflectionPad2d(1)])
def test_reflection_matches_torch(build, size):
    x_BCHW = torch.randn(2, 3, *size)
    layer = build()
    torch.testing.assert_close(layer(x_BCHW), nnf.pad(x_BCHW, [layer.padding] * 4, mode="reflect"))


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (4, 9)])
@pytest.mark.parametrize(
    "layer",
    [
        ReflectionPad2d(1),
        ReflectionPad2d(3),
        BlurDownsample(3),
        BlurDownsample(3, taps=4),
        BlurDownsample(3, taps=7, stride=3),
        BlurDownsample(3, taps=2, stride=1),
    ],
    ids=["pad1", "pad3", "down3", "down4", "down7-stride3", "taps2-stride1"],
)
def test_the_ordered_form_for_accelerators_is_the_same_function(layer, size, monkeypatch):
    check_ordered_form(layer, torch.randn(2, 3, *size, dtype=torch.float64), monkeypatch)


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 3), (1, 1)])
def test_the_ordered_upsample_is_the_same_function(size, monkeypatch):
    check_ordered_form(BlurUpsample(), torch.randn(2, 3, *size, dtype=torch.float64), monkeypatch)


def check_ordered_form(layer, x_BCHW, monkeypatch):
    layer = layer.double()
    expected = layer(x_BCHW)
    weight = torch.randn_like(expected)
    expected_gradient = gradient(layer, x_BCHW, weight)
    monkeypatch.setattr(resampling, "_needs_ordered_sums", lambda x: True)
    torch.testing.assert_close(layer(x_BCHW), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        gradient(layer, x_BCHW, weight), expected_gradient, rtol=1e-12, atol=1e-12
    )


def test_filters_are_not_saved():
    assert not BlurDownsample(3).state_dict()
    assert BlurDownsample(3).filt.shape == (3, 1, 3, 3)
    assert not BlurUpsample().state_dict()


LAYERS = [ReflectionPad2d(1), ReflectionPad2d(3), BlurDownsample(3), BlurUpsample()]
LAYER_NAMES = ["pad-1", "pad-3", "blur", "enlarge"]


@pytest.mark.parametrize("layer", LAYERS, ids=LAYER_NAMES)
def test_first_and_second_derivatives_match_finite_differences(layer):
    x_BCHW = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    layer = layer.double()
    assert torch.autograd.gradcheck(layer, (x_BCHW,))
    assert torch.autograd.gradgradcheck(layer, (x_BCHW,))


@pytest.mark.parametrize("layer", LAYERS, ids=LAYER_NAMES)
def test_channels_last_layout_is_kept_there_and_back(layer):
    layer = layer.double()
    x_BCHW = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    strided = x_BCHW.detach().to(memory_format=torch.channels_last).requires_grad_()
    y_BCHW, seen = layer(strided), []
    torch.testing.assert_close(y_BCHW, layer(x_BCHW))
    head = torch.randn_like(y_BCHW)
    assert layout_of(y_BCHW) == layout_of(head) == torch.channels_last
    strided.register_hook(lambda gradient: seen.append(layout_of(gradient)))
    torch.testing.assert_close(
        torch.autograd.grad(y_BCHW, strided, head)[0],
        torch.autograd.grad(layer(x_BCHW), x_BCHW, head.contiguous())[0],
    )
    assert seen == [torch.channels_last]


@pytest.mark.parametrize("layer", LAYERS, ids=LAYER_NAMES)
def test_no_map_is_kept_for_the_backward_pass(layer):
    x_BCHW = torch.randn(1, 3, 64, 64, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer.float()(x_BCHW)
    assert sum(tensor.numel() for tensor in kept) < 100


@pytest.mark.parametrize("layer", LAYERS, ids=LAYER_NAMES)
@pytest.mark.parametrize("recorded", [True, False])
def test_16_bit_maps_stay_16_bit_under_autocast(layer, recorded):
    x_BCHW = torch.randn(1, 3, 8, 8).bfloat16().requires_grad_(recorded)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y_BCHW = layer.float()(x_BCHW)
    assert y_BCHW.dtype == torch.bfloat16
    torch.testing.assert_close(y_BCHW.float(), layer(x_BCHW.float()), rtol=0.02, atol=0.02)
