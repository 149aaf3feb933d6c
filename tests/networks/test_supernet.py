"""One network of many widths."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf

from patchkin.errors import ConfigError, ShapeError
from patchkin.networks import InstanceNorm2d
from patchkin.networks.sliced import Adaptors, SlicedHead
from patchkin.networks.supernet import Supernet

CHANNELS = (3, 4, 2, 1, 4, 2, 3, 1)


@pytest.fixture
def supernet():
    torch.manual_seed(0)
    return Supernet(ngf=4, in_channels=2)


@pytest.mark.parametrize("channels", [CHANNELS, (4,) * 8, (1,) * 8, (2, 3, 4, 1, 2, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_a_cut_out_generator_gives_the_same_bits(supernet, channels, dtype):
    supernet = supernet.to(dtype)
    x_BCHW = 2 * torch.randn(2, 2, 20, 28, dtype=dtype)
    narrow = supernet.export(channels)
    assert torch.equal(narrow(x_BCHW), supernet(x_BCHW, channels))
    assert narrow.model[1].weight.data_ptr() != supernet.model[1].weight.data_ptr()


def test_without_a_configuration_it_is_the_widest(supernet):
    x_BCHW = torch.randn(1, 2, 16, 16)
    assert torch.equal(supernet(x_BCHW), supernet(x_BCHW, supernet.channels))


def test_maps_have_the_width_of_the_trunk(supernet):
    output_BCHW, maps = supernet.forward_with_taps(torch.zeros(2, 2, 20, 16), CHANNELS)
    assert output_BCHW.shape == (2, 3, 20, 16)
    assert [tuple(map_BCHW.shape) for map_BCHW in maps] == [(2, 8, 5, 4)] * 4


def test_the_gradient_reaches_the_slice_alone_and_is_that_of_the_cut_out_generator(supernet):
    supernet = supernet.double()
    narrow = supernet.export(CHANNELS)
    x_BCHW = torch.randn(1, 2, 12, 16, dtype=torch.float64)
    for network, arguments in ((supernet, (CHANNELS,)), (narrow, ())):
        network(x_BCHW, *arguments).square().sum().backward()
    own = dict(narrow.named_parameters())
    for name, weight in supernet.named_parameters():
        part = tuple(slice(length) for length in own[name].shape)
        expected = torch.zeros_like(weight)
        expected[part] = own[name].grad
        torch.testing.assert_close(weight.grad, expected, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize(
    ("channels", "message"),
    [((4, 4, 4, 5, 4, 4, 4, 4), "entry 4 is 5"), ((4, 4), "got 2"), ((0,) * 8, "at least 1")],
)
def test_other_configurations_are_refused(supernet, channels, message):
    with pytest.raises(ConfigError, match=message):
        supernet(torch.zeros(1, 2, 8, 8), channels)
    with pytest.raises(ConfigError, match=message):
        supernet.export(channels)


def test_wrong_images_and_taps_are_refused(supernet):
    with pytest.raises(ShapeError, match=r"must be \[B, 2, H, W\]"):
        supernet(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ConfigError, match="0 to 27; got 28"):
        supernet.forward_with_taps(torch.zeros(1, 2, 8, 8), taps=(28,))


def test_adaptors_use_the_leading_input_channels():
    torch.manual_seed(0)
    adaptors = Adaptors(taps=2, student=6, teacher=5)
    maps = [torch.randn(2, count, 3, 4) for count in (6, 2)]
    for conv, map_BCHW, adapted in zip(adaptors.convs, maps, adaptors(maps), strict=True):
        padded_BCHW = nnf.pad(map_BCHW, (0, 0, 0, 0, 0, 6 - map_BCHW.shape[1]))
        torch.testing.assert_close(adapted, conv(padded_BCHW))
    with pytest.raises(ShapeError, match="7 channels, but this layer takes at most 6"):
        adaptors([torch.zeros(1, 7, 2, 2)] * 2)


def test_heads_use_the_leading_input_columns():
    torch.manual_seed(0)
    head = SlicedHead(widest=6, width=5).double()
    map_BCHW = torch.randn(2, 4, 3, 7, dtype=torch.float64)
    places_K = torch.tensor([20, 0, 3])
    rows_BKC = head(map_BCHW, places_K)
    for image in range(2):
        for row, place in enumerate(places_K.tolist()):
            patch_C = map_BCHW[image, :, place // 7, place % 7]
            embedded_C = head.mlp(nnf.pad(patch_C, (0, 2)))
            expected_C = embedded_C / (embedded_C.norm() + 1e-7)
            torch.testing.assert_close(rows_BKC[image, row], expected_C)
    with pytest.raises(ShapeError, match="takes at most 6"):
        head(torch.zeros(1, 8, 3, 7), places_K)


def test_heads_run_in_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows_BKC = SlicedHead(4, 3)(torch.randn(1, 4, 2, 2).bfloat16(), torch.tensor([0]))
    assert rows_BKC.dtype is torch.float32


def test_a_supernet_without_norms_is_what_is_cut_out_of_it():
    plain = Supernet(ngf=4, norm="none")
    narrow = plain.export((2, 4, 3, 1, 2, 4, 3, 2))
    x_BCHW = torch.rand(1, 3, 16, 12) - 0.5
    with torch.no_grad():
        assert torch.equal(plain(x_BCHW, narrow.channels), narrow(x_BCHW))
        assert not any(isinstance(layer, InstanceNorm2d) for layer in narrow.modules())
    normed = Supernet(ngf=4).export((2,) * 8)
    assert sum(isinstance(layer, InstanceNorm2d) for layer in normed.modules()) == 5 + 9 * 4
