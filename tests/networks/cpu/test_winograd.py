"""Winograd's algorithm against the definition of a convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from patchkin.networks.cpu import winograd
from patchkin.networks.cpu.winograd import Conv3x3, _Winograd, direct_convolutions


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Sizes of the maps that the algorithm was given."""
    seen = []

    class Watched:
        @staticmethod
        def apply(x_BCHW: Tensor, *rest: Tensor) -> Tensor:
            seen.append(x_BCHW.shape)
            y_BOHW: Tensor = _Winograd.apply(x_BCHW, *rest)
            return y_BOHW

    monkeypatch.setattr(winograd, "_Winograd", Watched)
    return seen


def channels_last(*sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*sizes, dtype=dtype).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("chunk_numbers", [1, 500, 2**20])
def test_equals_a_convolution_in_float64(
    monkeypatch: pytest.MonkeyPatch, chunk_numbers: int
) -> None:
    monkeypatch.setattr(winograd, "_CHUNK_NUMBERS", chunk_numbers)
    x_BCHW = channels_last(2, 3, 12, 10, dtype=torch.float64).requires_grad_()
    weight_OCKK = channels_last(5, 3, 3, 3, dtype=torch.float64).requires_grad_()
    bias_O = torch.randn(5, dtype=torch.float64, requires_grad=True)
    gradient_BOHW = channels_last(2, 5, 10, 8, dtype=torch.float64)
    inputs = (x_BCHW, weight_OCKK, bias_O)
    found = _Winograd.apply(*inputs)
    expected = nnf.conv2d(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, gradient_BOHW),
        torch.autograd.grad(expected, inputs, gradient_BOHW),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradients_of_part_of_the_inputs() -> None:
    x_BCHW = channels_last(1, 2, 6, 4, dtype=torch.float64)
    weight_OCKK = channels_last(3, 2, 3, 3, dtype=torch.float64)
    for needed in (x_BCHW, weight_OCKK):
        needed.requires_grad_()
        found = torch.autograd.grad(_Winograd.apply(x_BCHW, weight_OCKK, None).exp().sum(), needed)
        expected = torch.autograd.grad(nnf.conv2d(x_BCHW, weight_OCKK).exp().sum(), needed)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        needed.requires_grad_(False)


@pytest.mark.parametrize("padding", [0, 1])
def test_layer_is_near_the_exact_result_in_float32(calls: list[torch.Size], padding: int) -> None:
    layer = Conv3x3(128, 256, padding=padding).to(memory_format=torch.channels_last)
    x_BCHW = channels_last(2, 128, 34 - 2 * padding, 42 - 2 * padding).requires_grad_()
    gradient_BOHW = channels_last(2, 256, 32, 40)
    inputs = (x_BCHW, layer.weight, layer.bias)
    y_BOHW = layer(x_BCHW)
    assert calls == [(2, 128, 34, 42)]
    exact_inputs = [tensor.detach().double().requires_grad_() for tensor in inputs]
    exact_BOHW = nnf.conv2d(*exact_inputs, padding=padding)
    pairs = zip(
        (y_BOHW, *torch.autograd.grad(y_BOHW, inputs, gradient_BOHW)),
        (exact_BOHW, *torch.autograd.grad(exact_BOHW, exact_inputs, gradient_BOHW.double())),
        strict=True,
    )
    for found, exact in pairs:
        assert (found - exact).norm() / exact.norm() < 3e-6


def test_images_of_a_batch_are_those_one_by_one(calls: list[torch.Size]) -> None:
    layer = Conv3x3(128, 256).to(memory_format=torch.channels_last)
    x_BCHW = channels_last(3, 128, 34, 34)
    with torch.no_grad():
        together = layer(x_BCHW)
        assert torch.equal(together, torch.cat([layer(one) for one in x_BCHW.split(1)]))
    assert len(calls) == 4


def test_what_is_kept_between_calls_is_not_in_results() -> None:
    layer = Conv3x3(128, 256).to(memory_format=torch.channels_last)
    x_BCHW = channels_last(1, 128, 34, 34).requires_grad_()
    gradient_BOHW = channels_last(1, 256, 32, 32)
    inputs = (x_BCHW, layer.weight)
    first = layer(x_BCHW)
    results = [first, *torch.autograd.grad(first, inputs, gradient_BOHW)]
    before = [result.detach().clone() for result in results]
    second = layer(2 * x_BCHW)
    torch.autograd.grad(second, inputs, 3 * gradient_BOHW)
    for result, kept in zip(results, before, strict=True):
        assert torch.equal(result, kept)


def test_training_after_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "_workspace", winograd._Workspace())
    layer = Conv3x3(128, 256).to(memory_format=torch.channels_last)
    x_BCHW = channels_last(1, 128, 34, 34)
    with torch.inference_mode():
        expected = layer(x_BCHW)
    y_BOHW = layer(x_BCHW)
    assert torch.equal(y_BOHW, expected)
    y_BOHW.sum().backward()


@pytest.mark.parametrize(
    ("channels", "out_channels", "side", "dtype"),
    [
        (128, 128, 34, torch.float32),
        (64, 512, 34, torch.float32),
        (128, 256, 33, torch.float32),
        (128, 256, 18, torch.float32),
        (128, 256, 34, torch.float64),
        (128, 256, 34, torch.bfloat16),
    ],
)
def test_torch_computes_what_does_not_pay(
    calls: list[torch.Size], channels: int, out_channels: int, side: int, dtype: torch.dtype
) -> None:
    layer = Conv3x3(channels, out_channels).to(dtype, memory_format=torch.channels_last)
    layer(channels_last(1, channels, side, side).to(dtype))
    assert not calls


def test_torch_computes_other_layouts_and_16_bit(calls: list[torch.Size]) -> None:
    layer = Conv3x3(128, 256)
    x_BCHW = channels_last(1, 128, 34, 34)
    layer(x_BCHW.contiguous())
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x_BCHW).dtype == torch.bfloat16
    assert not calls
    layer(x_BCHW)
    assert len(calls) == 1


def test_counters_see_direct_convolutions(calls: list[torch.Size]) -> None:
    layer = Conv3x3(128, 256).to(memory_format=torch.channels_last)
    x_BCHW = channels_last(1, 128, 34, 34)
    with direct_convolutions(), FlopCounterMode(display=False) as counter:
        layer(x_BCHW)
    assert counter.get_total_flops() == 2 * 9 * 128 * 256 * 32 * 32
    assert not calls


def test_parameters_are_those_of_a_convolution() -> None:
    torch.manual_seed(0)
    ours = Conv3x3(4, 6, padding=1, bias=False)
    torch.manual_seed(0)
    theirs = nn.Conv2d(4, 6, 3, padding=1, bias=False)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    x_BCHW = torch.randn(1, 4, 5, 7)
    assert torch.equal(ours(x_BCHW), theirs(x_BCHW))
