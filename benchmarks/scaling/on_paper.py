"""What N accelerators would give: computed from one measured step, not measured.

    python benchmarks/scaling/on_paper.py --step-seconds 0.05 [--batch-size 1]

    t(N) = t(1) + 2 (N - 1) / N * bytes / bandwidth + updates * 2 (N - 1) * latency

A ring all-reduce sends every gradient almost twice over the slowest link; patchkin averages after
the backward pass, so nothing hides behind computation. Every process has the batch of the measured
step. Gradients are float32, those of all networks, once per step.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from patchkin.methods import METHODS

LINKS = {"within a machine, 200 GB/s": 200e9, "100 Gbit/s": 12.5e9, "10 Gbit/s": 1.25e9}
"""Assumed bytes per second in one direction between neighbours of the ring."""
LATENCY = 20e-6
"""Assumed seconds of one message."""
UPDATES = 2
"""All-reduces of a step: the discriminator's, and the generator's with the head's."""


def all_reduce_seconds(
    num_bytes: float, processes: int, bandwidth: float, latency: float = LATENCY
) -> float:
    """A step's gradients around a ring.

    >>> all_reduce_seconds(1e9, 1, 1e9)
    0.0
    >>> round(all_reduce_seconds(1e9, 4, 1e9, latency=0), 3)
    1.5
    """
    rounds = 2 * (processes - 1)
    return rounds / processes * num_bytes / bandwidth + UPDATES * rounds * latency


def table(
    step_seconds: float, num_bytes: float, processes: Sequence[int], batch_size: int = 1
) -> str:
    lines = [
        "| link (assumed) | N | all-reduce ms | s/step | images/s | efficiency |",
        "|---|---|---|---|---|---|",
    ]
    for name, bandwidth in LINKS.items():
        for number in processes:
            if number == 1 and len(lines) > 2:
                continue
            extra = all_reduce_seconds(num_bytes, number, bandwidth)
            seconds = step_seconds + extra
            lines.append(
                f"| {name if number > 1 else '(none)'} | {number} | {extra * 1e3:.2f} | "
                f"{seconds:.4f} | {number * batch_size / seconds:.1f} | "
                f"{step_seconds / seconds:.1%} |"
            )
    return "\n".join(lines)


def gradient_bytes(method: str) -> int:
    """Of all networks of a method's published settings, in float32."""
    kind = METHODS[method]
    preset = next(iter(kind.presets.values()))
    return 4 * sum(p.numel() for p in kind(preset.method).parameters() if p.requires_grad)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--step-seconds", type=float, required=True, help="measured, one process")
    parser.add_argument("--batch-size", type=int, default=1, help="of that step")
    parser.add_argument("--method", default="semantic-relation")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 8, 64])
    options = parser.parse_args()
    num_bytes = gradient_bytes(options.method)
    print("Computed, not measured:", end=" ")
    print(f"{options.method}, {num_bytes / 1e6:.1f} MB of gradients per step\n")
    print(table(options.step_seconds, num_bytes, options.processes, options.batch_size))
    return 0


if __name__ == "__main__":
    sys.exit(main())
