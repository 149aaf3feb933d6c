"""Winograd's 3x3 convolutions against torch's own, shape by shape, on a CPU in float32.

    python benchmarks/speed/winograd.py --threads 2

Those of the generator at 256 and 128 pixels with ngf 64 and 32. `Conv3x3` takes Winograd's where
its limits say so; here both are run for every shape.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as nnf
from torch import Tensor

from patchkin.devices import keep_freed_memory
from patchkin.networks.cpu.winograd import _Winograd

SHAPES = (
    # channels, output channels, side of the output, padding
    (256, 256, 64, 0),
    (256, 256, 32, 0),
    (256, 256, 16, 0),
    (128, 128, 64, 0),
    (128, 128, 32, 0),
    (64, 64, 64, 0),
    (128, 256, 128, 1),
    (256, 128, 128, 1),
    (64, 128, 256, 1),
    (128, 64, 256, 1),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(
        "| channels | side | torch: forward ms | backward | Winograd: forward | backward | both |"
    )
    print("|---|---|---|---|---|---|---|")
    for channels, out_channels, side, padding in SHAPES:
        x_BCHW = _channels_last(1, channels, side + 2 - 2 * padding)
        weight_OCKK = _channels_last(out_channels, channels, 3)
        gradient_BOHW = _channels_last(1, out_channels, side)
        ours, theirs = (
            _milliseconds(
                convolve, x_BCHW, weight_OCKK, gradient_BOHW, padding, repeats=options.repeats
            )
            for convolve in (_by_winograd, _by_torch)
        )
        ratio = sum(ours) / sum(theirs)
        cells = (f"{channels} to {out_channels}", str(side), *map(_cell, (*theirs, *ours)))
        print("| " + " | ".join((*cells, f"{ratio:.2f}")) + " |", flush=True)


def _channels_last(count: int, channels: int, side: int) -> Tensor:
    x = torch.randn(count, channels, side, side).to(memory_format=torch.channels_last)
    return x.requires_grad_()


def _by_torch(x_BCHW: Tensor, weight_OCKK: Tensor, padding: int) -> Tensor:
    return nnf.conv2d(x_BCHW, weight_OCKK, padding=padding)


def _by_winograd(x_BCHW: Tensor, weight_OCKK: Tensor, padding: int) -> Tensor:
    padded_BCHW = nnf.pad(x_BCHW, [padding] * 4) if padding else x_BCHW
    y_BOHW: Tensor = _Winograd.apply(padded_BCHW, weight_OCKK, None)
    return y_BOHW


def _milliseconds(
    convolve: Callable[[Tensor, Tensor, int], Tensor],
    x_BCHW: Tensor,
    weight_OCKK: Tensor,
    gradient_BOHW: Tensor,
    padding: int,
    *,
    repeats: int,
) -> tuple[float, float]:
    """Medians of the forward and the backward pass."""
    times = []
    for _ in range(2 + repeats):
        start = time.perf_counter()
        y_BOHW = convolve(x_BCHW, weight_OCKK, padding)
        middle = time.perf_counter()
        torch.autograd.grad(y_BOHW, (x_BCHW, weight_OCKK), gradient_BOHW.detach())
        times.append((middle - start, time.perf_counter() - middle))
    forward, backward = zip(*times[2:], strict=True)
    return 1e3 * statistics.median(forward), 1e3 * statistics.median(backward)


def _cell(milliseconds: float) -> str:
    return f"{milliseconds:.1f}"


if __name__ == "__main__":
    main()
