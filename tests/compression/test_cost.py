"""Counting, against the paper's table, against loops, and in time."""

from __future__ import annotations

import itertools
import sys

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from patchkin.compression import onnx_timing
from patchkin.compression.cost import (
    configuration_cost,
    latencies,
    latency,
    network_cost,
    network_latency,
)
from patchkin.compression.onnx_timing import onnx_call
from patchkin.errors import CheckpointError, ConfigError
from patchkin.networks import ResNetConfig, ResNetGenerator
from patchkin.networks.deeper import DeeperGenerator
from patchkin.networks.separable import SeparableGenerator, parse_channels

BASELINE = [
    f"32_32_48_{a}_{b}_{96 - a - b}_32_16"
    for a, b in itertools.product((16, 24, 32, 40, 48, 56, 64), repeat=2)
    if 96 - a - b in (16, 24, 32, 40, 48, 56, 64)
]
TABLE_2 = {
    "16_16_32_16_16_64_16_24": (411_619, 2_961_702_912, 2_984_771_584, 2_168_979_456),
    "16_16_48_32_32_40_24_16": (666_739, 4_494_852_096, 4_523_425_792, 3_135_897_600),
    "40_16_48_16_48_48_16_16": (685_155, 4_389_863_424, 4_420_534_272, 3_483_893_760),
    **dict.fromkeys(BASELINE, (730_307, 5_551_423_488, 5_581_045_760, 3_739_484_160)),
}
"""Jung et al. 2022: horse2zebra, map2sat, cityscapes with and (the others) without their loss. The
paper prints 0.412 M and 2.962 G, 0.667 M and 4.495 G, 0.685 M and 4.390 G, 0.730 M and 5.551 G."""


@pytest.mark.parametrize("text", TABLE_2)
def test_table_2_in_both_conventions(text):
    cost = configuration_cost(parse_channels(text))
    with_norms = cost.macs + cost.norm_elements
    assert (cost.parameters, cost.macs, with_norms, cost.macs_exact) == TABLE_2[text]
    assert cost.counted("published") == cost.macs
    assert cost.counted("exact") == cost.macs_exact


def test_the_teacher_of_table_2():
    plain = ResNetConfig(antialias_down=False, antialias_up=False)
    cost = network_cost(ResNetGenerator(plain), height=16, width=16)
    assert cost.parameters == 11_378_179
    assert 256 * cost.macs == 56_799_264_768
    assert 256 * cost.macs_exact == 49_551_507_456
    assert 256 * (cost.macs + cost.norm_elements) == 56_831_770_624


@pytest.mark.parametrize("size", [(32, 32), (16, 28), (17, 30), (9, 5)])
@pytest.mark.parametrize("channels", [(2, 3, 1, 4, 2, 1, 3, 2), (3,) * 8])
def test_the_closed_form_is_what_running_the_network_counts(channels, size):
    height, width = size
    network = SeparableGenerator(channels, in_channels=2, out_channels=1)
    closed = configuration_cost(channels, height=height, width=width, in_channels=2, out_channels=1)
    assert closed == network_cost(network, height=height, width=width, in_channels=2)


def test_the_closed_form_of_the_text():
    """The published polynomial of c0 ... c7, for images of three channels."""
    c0, c1, c2, *inner, c6, c7 = channels = (5, 3, 7, 2, 9, 4, 6, 8)
    height, width, d = 20, 12, 4 * c2
    middle = sum(9 * d + 9 * 4 * m + 2 * d * 4 * m for m in inner)
    enlarging = 18 * d * c6 / 4 + 18 * c6 * c7
    others = 147 * c0 + 18 * c0 * c1 / 4 + 18 * c1 * d / 16 + 3 / 16 * middle + 147 * c7
    cost = configuration_cost(channels, height=height, width=width)
    assert cost.macs == height * width * (others + enlarging)
    assert cost.macs_exact == height * width * (others + enlarging / 4)


def test_transposed_convolutions_and_linear_layers_by_hand():
    network = nn.Sequential(
        nn.ConvTranspose2d(3, 5, 3, stride=2, padding=1, output_padding=1, groups=1),
        nn.Conv2d(5, 10, 1, groups=5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(10, 4),
    )
    cost = network_cost(network, height=6, width=4)
    assert cost.macs == 12 * 8 * 3 * 5 * 9 + 12 * 8 * 10 + 40
    assert cost.macs_exact == 6 * 4 * 3 * 5 * 9 + 12 * 8 * 10 + 40
    assert cost.parameters == 3 * 5 * 9 + 5 + 10 + 10 + 40 + 4
    assert not any(layer._forward_hooks for layer in network)


def test_a_batch_norm_counts_its_elements_as_published_and_nothing_exactly():
    network = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2), nn.Identity())
    cost = network_cost(network, height=4, width=5)
    assert (cost.macs, cost.macs_exact) == (6 * 20 + 2 * 20, 6 * 20)
    assert cost.parameters == 6 + 4
    plain = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2, affine=False))
    assert network_cost(plain, height=4, width=5).macs == 6 * 20


def test_students_and_teachers_of_omgd_count_as_published():
    """Table of the abstract: 0.137 M parameters, 1.4 G MACs, teachers of 18 G each."""
    student = configuration_cost((16,) * 8)
    assert (student.parameters, student.macs) == (137_347, 1_407_713_280)
    with FakeTensorMode():
        counted = network_cost(SeparableGenerator((16,) * 8))
        deeper = network_cost(DeeperGenerator(16))
    assert counted == student
    assert (deeper.parameters, deeper.macs) == (2_547_123, 18_236_542_976)


def test_cost_rises_with_every_entry():
    for place in range(8):
        wider = tuple(4 + (other == place) for other in range(8))
        small, large = configuration_cost((4,) * 8), configuration_cost(wider)
        assert large.macs > small.macs
        assert large.parameters > small.parameters
        assert large.macs_exact > small.macs_exact


def test_wrong_arguments_are_refused():
    with pytest.raises(ConfigError, match="0 x 4"):
        configuration_cost((1,) * 8, height=0, width=4)
    with pytest.raises(ConfigError, match="at least 1"):
        latency(lambda: None, calls=0)


def test_times(monkeypatch):
    ticks = iter(float(t) for call in range(20) for t in (call, call + (call + 1) / 1000))
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    called = []
    times = latency(lambda: called.append(1), calls=20, warm_up=3)
    assert len(called) == 23
    assert times.median_ms == pytest.approx(10.5)
    assert times.p95_ms == pytest.approx(19.05)


def test_a_network_is_timed_as_it_translates():
    network = SeparableGenerator((1,) * 8).train()
    modes = []
    network.register_forward_hook(
        lambda net, *_: modes.append((net.training, torch.is_grad_enabled()))
    )
    times = network_latency(network, height=8, width=12, calls=3, warm_up=1)
    assert modes == [(False, False)] * 4
    assert network.training
    assert 0 < times.median_ms <= times.p95_ms


def test_only_layers_that_run_count():
    class OneWay(nn.Module):
        def __init__(self):
            super().__init__()
            self.there, self.back = SeparableGenerator((1,) * 8), SeparableGenerator((3,) * 8)

        def forward(self, x_BCHW):
            return self.there(x_BCHW)

    assert network_cost(OneWay(), height=8, width=12) == configuration_cost(
        (1,) * 8, height=8, width=12
    )


def test_functions_are_timed_in_turn(monkeypatch):
    """One that takes 1 ms and one that takes 3 ms, by a clock that they move."""
    now = [0.0]
    order = []

    def call(name, seconds):
        def run():
            order.append(name)
            now[0] += seconds

        return run

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    times = latencies({"a": call("a", 0.001), "b": call("b", 0.003)}, calls=5, warm_up=1)
    assert order == ["a", "b"] * 6
    assert times["a"].median_ms == pytest.approx(1)
    assert times["b"].p95_ms == pytest.approx(3)


@pytest.mark.parametrize(
    "network",
    [
        SeparableGenerator((2, 1, 3, 2, 1, 2, 2, 3)),
        ResNetGenerator(ResNetConfig(ngf=2, blocks=3, norm="none")),
    ],
)
def test_onnx_runtime_translates_as_torch_does(network):
    call = onnx_call(network, height=16, width=20)
    x_BCHW = torch.rand(1, 3, 16, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(call(), network(x_BCHW), rtol=0, atol=1e-4)


def test_a_graph_that_differs_is_refused(monkeypatch):
    """As if the exporter had lost half of the image."""
    session_call = onnx_timing._session_call
    monkeypatch.setattr(
        onnx_timing, "_session_call", lambda *given: lambda: 0.5 * session_call(*given)()
    )
    with pytest.raises(CheckpointError, match="they differ by 0"):
        onnx_call(nn.Conv2d(3, 3, 1), height=4, width=4)


def test_without_the_extra_the_message_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"constraints.txt '\.\[onnx\]'"):
        onnx_call(nn.Conv2d(3, 3, 1), height=4, width=4)
