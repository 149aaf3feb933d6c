"""Cost of a training step against resolution, batch, channels and patches; of the losses alone.

    python benchmarks/scaling/run.py OUTPUT

Each case runs in a process of its own. OUTPUT/cases.jsonl gets a line when a case is done, and a
case that has one is not measured again: an interrupted study goes on where it stopped. The tables
(OUTPUT/tables.md) and the plot (OUTPUT/scaling.png) are made of all lines. Published networks of
semantic-relation, random images. The defaults take about ten minutes on two quiet cores.

Shape suffixes: B images, K patches, C channels.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
import torch.nn.functional as nnf

from patchkin.devices import choose_device
from patchkin.losses import decoupled, hard_negative_weights, relation_consistency
from patchkin.runs.benchmark import Case, measure_apart

NUM_TAPS = 5
HEAD_WIDTH = 256
GAMMA_DIVISOR, TEMPERATURE = 30.0, 0.07
LABELS = {"size": "pixels", "batch": "images", "ngf": "channels (ngf)", "patches": "patches K"}


@dataclass(frozen=True)
class Row:
    """A case and what it varies."""

    sweep: str
    value: int
    case: Case


def main() -> int:
    options = parser().parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    log = options.output / "cases.jsonl"
    for row in rows(options):
        if find(log, row.case) is None:
            print(f"measuring {row.sweep} {row.value}, {row.case.precision}", flush=True)
            append(log, {"case": asdict(row.case), **asdict(measure_apart(row.case))})
    for number in options.loss_patches:
        key = {"losses": number, "device": options.device, "threads": options.threads}
        if find(log, key) is None:
            print(f"measuring the losses of {number} patches", flush=True)
            append(log, {"case": key, **loss_seconds(number, options)})
    text = tables(options, log)
    (options.output / "tables.md").write_text(text, encoding="utf-8")
    plot(options, log)
    print(text)
    return 0


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    found.add_argument("output", type=Path)
    for name, default in (
        ("--sizes", [64, 128, 256, 512]),
        ("--batches", [1, 2, 4]),
        ("--ngf", [16, 32, 64]),
        ("--patches", [64, 256, 512, 1024]),
        ("--loss-patches", [64, 128, 256, 512, 1024, 2048, 4096]),
    ):
        found.add_argument(name, type=int, nargs="+", default=default)
    found.add_argument("--base-size", type=int, default=256, help="of --ngf and --patches")
    found.add_argument("--batch-size-at", type=int, default=128, help="pixels of --batches")
    found.add_argument("--blocks", type=int, default=9)
    found.add_argument("--ndf", type=int, default=64)
    found.add_argument("--precisions", nargs="+", default=["32-true", "bf16-mixed"])
    found.add_argument("--steps", type=int, default=3)
    found.add_argument("--warmup", type=int, default=1)
    found.add_argument("--device", default="cpu")
    found.add_argument("--threads", type=int, default=0)
    return found


def rows(options: argparse.Namespace) -> list[Row]:
    """All cases; what lies on several sweeps is one case. bfloat16 leaves out the patches."""
    widest, usual = max(options.ngf), 256

    def case(size: int, batch: int, ngf: int, patches: int, precision: str) -> Case:
        return Case(
            method="semantic-relation",
            precision=precision,  # type: ignore[arg-type]
            size=size,
            batch_size=batch,
            device=options.device,
            threads=options.threads,
            steps=options.steps,
            warmup=options.warmup,
            translations=0,
            settings={
                "method": {
                    "num_patches": patches,
                    "generator": {"ngf": ngf, "blocks": options.blocks},
                    "discriminator": {"ndf": options.ndf},
                }
            },
        )

    found = []
    for precision in options.precisions:
        base = options.base_size
        found += [Row("size", n, case(n, 1, widest, usual, precision)) for n in options.sizes]
        for number in options.batches:
            of_batch = case(options.batch_size_at, number, widest, usual, precision)
            found.append(Row("batch", number, of_batch))
        found += [Row("ngf", n, case(base, 1, n, usual, precision)) for n in options.ngf]
        if precision == options.precisions[0]:
            found += [
                Row("patches", n, case(base, 1, widest, n, precision)) for n in options.patches
            ]
    return found


# The losses alone


def loss_seconds(num_patches: int, options: argparse.Namespace) -> dict[str, float]:
    """Medians of hDCE (both branches) and of SRC, forward and backward, over all taps."""
    device = choose_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)

    def rows_BKC() -> torch.Tensor:
        values = torch.randn(1, num_patches, HEAD_WIDTH, generator=generator)
        return nnf.normalize(values, dim=-1).to(device)

    queries = [rows_BKC().requires_grad_() for _ in range(NUM_TAPS)]
    keys = [rows_BKC() for _ in range(NUM_TAPS)]

    def contrast() -> torch.Tensor:
        losses = [
            decoupled(
                query,
                key,
                temperature=TEMPERATURE,
                weights_BKK=hard_negative_weights(key, GAMMA_DIVISOR),
            ).mean()
            for query, key in zip(queries, keys, strict=True)
            for _ in ("source", "identity")
        ]
        return torch.stack(losses).mean()

    def relation() -> torch.Tensor:
        pairs = zip(queries, keys, strict=True)
        return torch.stack([relation_consistency(query, key) for query, key in pairs]).mean()

    return {
        "contrast_seconds": median_seconds(contrast, queries, device),
        "relation_seconds": median_seconds(relation, queries, device),
    }


def median_seconds(
    loss: Callable[[], torch.Tensor], inputs: Sequence[torch.Tensor], device: torch.device
) -> float:
    times = []
    for repeat in range(9):
        start = time.perf_counter()
        torch.autograd.grad(loss(), inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if repeat >= 2:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


# Lines


def find(log: Path, case: Case | dict[str, Any]) -> dict[str, Any] | None:
    """The line of a case, if it was measured."""
    if not log.is_file():
        return None
    key = json.loads(json.dumps(case if isinstance(case, dict) else asdict(case)))
    for text in log.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        if line["case"] == key and line.get("reason") is None:
            return dict(line)
    return None


def append(log: Path, line: dict[str, Any]) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


# Tables


def tables(options: argparse.Namespace, log: Path) -> str:
    parts = [
        "Seconds per step, growth (the exponent p of seconds ~ value^p since the row above), and "
        "peak memory of the process beyond its imports.\n"
    ]
    for precision in options.precisions:
        for sweep, label in LABELS.items():
            found = measured(options, log, sweep, precision)
            if found:
                parts.append(f"**{precision}, {label}{_fixed(options, sweep)}**\n")
                parts.append(step_table(label, found))
    losses = loss_lines(options, log)
    if losses:
        parts += ["**Losses alone, float32, all taps, forward and backward**\n"]
        parts += [loss_table(losses, measured(options, log, "size", options.precisions[0]))]
    return "\n".join(parts)


def _fixed(options: argparse.Namespace, sweep: str) -> str:
    widest, base = max(options.ngf), options.base_size
    return {
        "size": f"; ngf {widest}, batch 1, K 256",
        "batch": f"; {options.batch_size_at} pixels, ngf {widest}, K 256",
        "ngf": f"; {base} pixels, batch 1, K 256",
        "patches": f"; {base} pixels, batch 1, ngf {widest}",
    }[sweep]


def measured(
    options: argparse.Namespace, log: Path, sweep: str, precision: str
) -> list[tuple[int, dict[str, Any]]]:
    wanted = [r for r in rows(options) if (r.sweep, r.case.precision) == (sweep, precision)]
    lines = [(row.value, find(log, row.case)) for row in wanted]
    return [(value, line) for value, line in lines if line is not None]


def step_table(label: str, found: Sequence[tuple[int, dict[str, Any]]]) -> str:
    lines = [
        f"| {label} | s/step | growth | images/s | TFLOP/step | GB |",
        "|---|---|---|---|---|---|",
    ]
    before: tuple[int, float] | None = None
    for value, line in found:
        seconds = line["seconds_per_step"]
        growth = "" if before is None else f"{exponent(before, (value, seconds)):.2f}"
        lines.append(
            f"| {value} | {seconds:.3g} | {growth} | {line['images_per_second']:.3g} | "
            f"{line['tflop_per_step']:.3g} | {line['peak_gb'] - line['start_gb']:.2f} |"
        )
        before = value, seconds
    return "\n".join(lines) + "\n"


def loss_lines(options: argparse.Namespace, log: Path) -> list[tuple[int, dict[str, Any]]]:
    keys = [
        {"losses": number, "device": options.device, "threads": options.threads}
        for number in options.loss_patches
    ]
    lines = [(key["losses"], find(log, key)) for key in keys]
    return [(number, line) for number, line in lines if line is not None]


def loss_table(
    losses: Sequence[tuple[int, dict[str, Any]]], steps: Sequence[tuple[int, dict[str, Any]]]
) -> str:
    """With the share of a step that they would be, at each resolution.

    The steps were measured with K = 256; those losses are taken out and others put in.
    """
    usual = dict(losses).get(256)
    sizes = [(size, line["seconds_per_step"]) for size, line in steps] if usual else []
    heads = [f"share at {size}" for size, _ in sizes]
    head = ["K", "hDCE s", "SRC s", "growth", *heads]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    before: tuple[int, float] | None = None
    for number, line in losses:
        total = loss_total(line)
        growth = "" if before is None else f"{exponent(before, (number, total)):.2f}"
        shares = [
            f"{total / (seconds - loss_total(usual) + total):.1%}"
            for _, seconds in sizes
            if usual is not None
        ]
        cells = [str(number), f"{line['contrast_seconds']:.3g}", f"{line['relation_seconds']:.3g}"]
        lines.append("| " + " | ".join([*cells, growth, *shares]) + " |")
        before = number, total
    return "\n".join(lines) + "\n"


def loss_total(line: dict[str, Any]) -> float:
    return float(line["contrast_seconds"] + line["relation_seconds"])


def exponent(before: tuple[float, float], after: tuple[float, float]) -> float:
    """p of y ~ x^p through two points."""
    return math.log(after[1] / before[1]) / math.log(after[0] / before[0])


# Plot


def plot(options: argparse.Namespace, log: Path) -> None:
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(LABELS), figsize=(13, 6), layout="constrained")
    for column, (sweep, label) in enumerate(LABELS.items()):
        above, below = axes[0][column], axes[1][column]
        for precision in options.precisions:
            found = measured(options, log, sweep, precision)
            values = [value for value, _ in found]
            seconds = [line["seconds_per_step"] for _, line in found]
            memory = [line["peak_gb"] - line["start_gb"] for _, line in found]
            if found:
                above.plot(values, seconds, "o-", label=f"step, {precision}")
                below.plot(values, memory, "o-", label=precision)
        if sweep == "patches":
            losses = loss_lines(options, log)
            for name, key in (("hDCE", "contrast_seconds"), ("SRC", "relation_seconds")):
                series = [line[key] for _, line in losses]
                above.plot([number for number, _ in losses], series, "s--", label=f"{name} alone")
        for axis in (above, below):
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter("{x:g}")
            axis.grid(alpha=0.3)
            axis.set_xlabel(label)
        above.set_yscale("log")
        above.set_ylabel("seconds")
        below.set_ylabel("GB beyond the imports")
        below.set_ylim(bottom=0)
        show_legend(above)
        show_legend(below)
    figure.savefig(options.output / "scaling.png", dpi=110)
    plt.close(figure)


def show_legend(axis: Any) -> None:
    handles: Iterable[Any] = axis.get_legend_handles_labels()[0]
    if handles:
        axis.legend(fontsize="small")


if __name__ == "__main__":
    sys.exit(main())
