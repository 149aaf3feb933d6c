"""What a generator costs: parameters, multiply-accumulates, milliseconds.

Two counts of multiply-accumulates (MACs) of one image, differing in transposed convolutions only:

    published    output pixels * output channels * input channels * kernel, as torchprofile counts
                 and every published number does
    exact        the same with input pixels: what is really multiplied, a quarter at stride 2

Bias, norm, padding, activation and sums count nothing, but for batch norm with a learned scale: as
published it counts one per element that it gives, since torchprofile does so. Until 2021 that
counted instance norms too; some published numbers contain these (`norm_elements`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from patchkin.errors import ConfigError
from patchkin.networks.normalization import InstanceNorm2d
from patchkin.networks.separable import GROUP_SIZE, MULTIPLIERS, Channels, check_configuration

Convention = Literal["published", "exact"]
"""See the table above."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Of one network on one image."""

    parameters: int
    """Weights and biases."""
    macs: int
    """Multiply-accumulates in the published convention."""
    macs_exact: int
    """Multiply-accumulates that are done."""
    norm_elements: int
    """Numbers that instance norms give; `macs` plus these is the count of before 2021."""

    def counted(self, convention: Convention) -> int:
        """The multiply-accumulates in a convention."""
        return self.macs if convention == "published" else self.macs_exact


class _Layer(NamedTuple):
    """A convolution, for counting."""

    filters: int
    """Weights without biases."""
    biases: int
    out_positions: int
    in_positions: int | None = None
    """Of a transposed convolution."""


def configuration_cost(
    channels: Channels,
    *,
    height: int = 256,
    width: int = 256,
    in_channels: int = 3,
    out_channels: int = 3,
) -> Cost:
    """The cost of a compressed generator, without building it.

    Args:
        channels: the configuration.
        height: of the image, in pixels.
        width: of the image, in pixels.
        in_channels: of the source images.
        out_channels: of the target images.

    Raises:
        ConfigError: it is no configuration, or the image has no pixels.

    >>> configuration_cost((16, 16, 32, 16, 16, 64, 16, 24))  # Jung et al., Table 2: 2.962 G
    Cost(parameters=411619, macs=2961702912, macs_exact=2168979456, norm_elements=23068672)
    """
    check_configuration(channels)
    if min(height, width) < 1:
        raise ConfigError(f"The image must have pixels; got {height} x {width}.")
    layers = list(_layers(channels, height, width, in_channels, out_channels))
    return Cost(
        parameters=sum(layer.filters + layer.biases for layer in layers),
        macs=sum(layer.filters * layer.out_positions for layer in layers),
        macs_exact=sum(
            layer.filters * (layer.in_positions or layer.out_positions) for layer in layers
        ),
        # A norm behind every convolution but the last.
        norm_elements=sum(layer.biases * layer.out_positions for layer in layers[:-1]),
    )


def _layers(
    channels: Channels, height: int, width: int, in_channels: int, out_channels: int
) -> Iterator[_Layer]:
    first, second, trunk, *inner, enlarged, last = (
        entry * multiplier for entry, multiplier in zip(channels, MULTIPLIERS, strict=True)
    )
    full, half, quarter = ((-(-height // s)) * (-(-width // s)) for s in (1, 2, 4))
    # Sides that are no multiples of 4 come back rounded up.
    doubled = 4 * quarter
    quadrupled = 16 * quarter
    yield _Layer(49 * in_channels * first, first, full)
    yield _Layer(9 * first * second, second, half)
    yield _Layer(9 * second * trunk, trunk, quarter)
    for middle in inner:
        for _ in range(GROUP_SIZE):
            for before, behind in pairwise((trunk, middle, trunk)):
                yield _Layer(9 * before, before, quarter)
                yield _Layer(before * behind, behind, quarter)
    yield _Layer(9 * trunk * enlarged, enlarged, doubled, quarter)
    yield _Layer(9 * enlarged * last, last, quadrupled, doubled)
    yield _Layer(49 * last * out_channels, out_channels, quadrupled)


@torch.no_grad()
def network_cost(
    network: nn.Module, *, height: int = 256, width: int = 256, in_channels: int = 3
) -> Cost:
    """The cost of any network of convolutions, by running it once and looking at its layers.

    Linear layers count too; what has no weights (blur filters, padding) counts nothing. Layers that
    do not run, such as the way back of a model with two generators, count nothing at all.

    >>> from patchkin.networks import ResNetConfig, ResNetGenerator
    >>> teacher = ResNetGenerator(ResNetConfig(antialias_down=False, antialias_up=False))
    >>> cost = network_cost(teacher, height=16, width=16)
    >>> cost.parameters, cost.macs * 256  # published at 256 x 256: 56.8 G
    (11378179, 56799264768)
    """
    macs = macs_exact = norm_elements = 0
    parameters: dict[nn.Parameter, int] = {}

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        nonlocal macs, macs_exact, norm_elements
        parameters.update((weight, weight.numel()) for weight in layer.parameters(recurse=False))
        match layer:
            case nn.ConvTranspose2d():
                macs += output[0, 0].numel() * layer.weight.numel()
                macs_exact += inputs[0][0, 0].numel() * layer.weight.numel()
            case nn.Conv2d():
                done = output[0, 0].numel() * layer.weight.numel()
                macs, macs_exact = macs + done, macs_exact + done
            case nn.Linear():
                done = output[0].numel() // layer.out_features * layer.weight.numel()
                macs, macs_exact = macs + done, macs_exact + done
            case nn.BatchNorm2d() if layer.affine:
                macs += output[0].numel()
            case InstanceNorm2d():
                norm_elements += output[0].numel()

    hooks = [layer.register_forward_hook(count) for layer in network.modules()]
    parameter = next(network.parameters())
    try:
        network(torch.zeros(1, in_channels, height, width).to(parameter))
    finally:
        for hook in hooks:
            hook.remove()
    return Cost(
        parameters=sum(parameters.values()),
        macs=macs,
        macs_exact=macs_exact,
        norm_elements=norm_elements,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Times of single calls."""

    median_ms: float
    p95_ms: float
    """95 of 100 calls were faster."""
    calls: int


def latency(call: Callable[[], object], *, calls: int = 100, warm_up: int = 10) -> Latency:
    """Time a function that returns when its work is done, whatever runs inside of it.

    Raises:
        ConfigError: fewer than one call.
    """
    return latencies({"": call}, calls=calls, warm_up=warm_up)[""]


def latencies(
    timed: Mapping[str, Callable[[], object]], *, calls: int = 100, warm_up: int = 10
) -> dict[str, Latency]:
    """Time several functions in turn, so that what else the machine does slows all of them.

    Raises:
        ConfigError: fewer than one call.
    """
    if calls < 1:
        raise ConfigError(f"`calls` must be at least 1; got {calls}.")
    for _ in range(warm_up):
        for call in timed.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(calls):
        for name, call in timed.items():
            start = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - start))
    wanted = torch.tensor([0.5, 0.95], dtype=torch.float64)
    quantiles = {
        name: torch.tensor(listed, dtype=torch.float64).quantile(wanted)
        for name, listed in times.items()
    }
    return {
        name: Latency(median_ms=float(median), p95_ms=float(p95), calls=calls)
        for name, (median, p95) in quantiles.items()
    }


def torch_call(
    network: nn.Module, *, height: int = 256, width: int = 256, in_channels: int = 3
) -> Callable[[], Tensor]:
    """A function that runs a network on one image and waits for it.

    On the network's device and with its precision; the network is put into evaluation mode.
    """
    network.eval()
    x_BCHW = torch.zeros(1, in_channels, height, width).to(next(network.parameters()))

    @torch.inference_mode()
    def call() -> Tensor:
        y_BCHW: Tensor = network(x_BCHW)
        if x_BCHW.device.type == "cuda":
            torch.cuda.synchronize(x_BCHW.device)
        elif x_BCHW.device.type == "mps":
            torch.mps.synchronize()
        return y_BCHW

    return call


def network_latency(
    network: nn.Module,
    *,
    height: int = 256,
    width: int = 256,
    in_channels: int = 3,
    calls: int = 100,
    warm_up: int = 10,
) -> Latency:
    """The time that torch takes for one image, on the network's device and with its precision.

    The published protocol is 100 calls to warm up and 100 that are timed, each waited for.
    """
    was_training = network.training
    call = torch_call(network, height=height, width=width, in_channels=in_channels)
    try:
        return latency(call, calls=calls, warm_up=warm_up)
    finally:
        network.train(was_training)
