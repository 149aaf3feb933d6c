import weakref

import pytest
import torch
import torch.nn.functional as nnf
from torch import nn

from patchkin.networks import InstanceNorm2d
from patchkin.networks.cpu.kept_inputs import convolved, is_same_map
from patchkin.networks.normalization import apply_layers


class OfTranspose(nn.Conv2d):
    """Reads a map of the same address, shape and type, with other strides."""

    def forward(self, x_BCHW):
        return super().forward(x_BCHW.mT)


class OfPart(nn.Conv2d):
    """Reads a map of the same address, with other sides."""

    def forward(self, x_BCHW):
        return super().forward(x_BCHW[:, :, :-2, :-1])


class OfFirstChannels(nn.Conv2d):
    """Reads a map of the same address, with other channels."""

    def forward(self, x_BCHW):
        return super().forward(x_BCHW[:, : self.in_channels])


class OfPadded(nn.Conv2d):
    """Reads a map of its own."""

    def forward(self, x_BCHW):
        return super().forward(nnf.pad(x_BCHW, [1] * 4))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kind", [nn.Conv2d, OfTranspose, OfPart, OfFirstChannels, OfPadded])
def test_only_the_very_map_is_made_again(kind, batch, layout):
    channels = 2 if kind is OfFirstChannels else 4
    convolution = kind(channels, 3, 3)
    layers = nn.Sequential(InstanceNorm2d(), nn.ReLU(), convolution)
    layers.to(torch.bfloat16, memory_format=layout)
    x_BCHW = torch.randn(batch, 4, 9, 9).bfloat16().to(memory_format=layout).requires_grad_()

    def gradients(run):
        y_BCHW = run(x_BCHW)
        return torch.autograd.grad(y_BCHW.square().sum(), [*convolution.parameters(), x_BCHW])

    def keeping_all(x_BCHW):
        return convolution(apply_layers(layers[:2], x_BCHW))

    made_again = gradients(lambda x_BCHW: apply_layers(layers, x_BCHW))
    for ours, plain in zip(made_again, gradients(keeping_all), strict=True):
        assert torch.equal(ours, plain)


def test_a_map_is_the_same_by_storage_offset_shape_strides_and_type():
    x_BCHW = torch.randn(2, 4, 3, 3)
    assert is_same_map(x_BCHW, x_BCHW)
    assert is_same_map(x_BCHW.detach(), x_BCHW)
    assert is_same_map(x_BCHW.view(2, 4, 9).view(2, 4, 3, 3), x_BCHW)
    assert not is_same_map(x_BCHW, None)
    others = [
        x_BCHW.view(4, 2, 3, 3),
        x_BCHW.mT,
        x_BCHW[:1],
        x_BCHW[..., :2],
        x_BCHW.as_strided((2, 4, 3, 3), (0, 9, 3, 1)),
        x_BCHW.view(torch.int32),
    ]
    for other in others:
        assert other.data_ptr() == x_BCHW.data_ptr()
        assert not is_same_map(other, x_BCHW)
    assert not is_same_map(x_BCHW[1:], x_BCHW[:1])
    assert not is_same_map(x_BCHW.clone(), x_BCHW)


def test_memory_that_is_given_out_again_is_another_map():
    """As an allocator does it: one address, two storages, one after the other."""
    memory = bytearray(2 * 16)
    before = torch.frombuffer(memory, dtype=torch.bfloat16).view(1, 1, 4, 4)
    after = torch.frombuffer(memory, dtype=torch.bfloat16).view(1, 1, 4, 4)
    assert (after.data_ptr(), after.stride()) == (before.data_ptr(), before.stride())
    assert not is_same_map(after, before)


def test_what_is_made_again_is_not_held_by_what_makes_it():
    x_BCHW = torch.randn(1, 2, 4, 4).bfloat16().requires_grad_()
    read_BCHW = 2 * x_BCHW
    alive = weakref.ref(read_BCHW)
    convolution = nn.Conv2d(2, 2, 3).bfloat16()
    y_BCHW = convolved(
        convolution, read_BCHW, source_BCHW=x_BCHW, operations=[lambda x_BCHW: 2 * x_BCHW]
    )
    del read_BCHW
    assert alive() is None
    y_BCHW.sum().backward()
    seen_BCHW = (2 * x_BCHW).detach().float()
    for row in range(3):
        for column in range(3):  # places of the kernel, each of which saw 2 x 2 pixels
            seen_C = seen_BCHW[0, :, row : row + 2, column : column + 2].sum((1, 2))
            gradient_C = convolution.weight.grad[0, :, row, column].float()
            torch.testing.assert_close(gradient_C, seen_C, rtol=0.01, atol=0.02)
