"""`patchkin bench [METHOD...]`."""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from patchkin._version import __version__
from patchkin.cli.parsing import MaxPixels, parse
from patchkin.cli.printing import print_json
from patchkin.config import flag, read_yaml, shown
from patchkin.data.config import DataConfig
from patchkin.devices import Device, Precision, keep_freed_memory
from patchkin.errors import ConfigError, nearest
from patchkin.method import Method
from patchkin.methods import METHODS
from patchkin.runs.benchmark import (
    Case,
    Measurement,
    convolution_peak,
    loading_rates,
    measure_apart,
)
from patchkin.storage.atomic import write_text
from patchkin.storage.strict_json import parsed, strict_text


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Options of `bench`."""

    methods: Annotated[tyro.conf.Positional[tuple[str, ...]], shown("METHOD...")] = (
        "semantic-relation",
    )
    """Names from `patchkin methods`, or `all`."""
    precision: tuple[Precision, ...] = ("32-true", "bf16-mixed")
    """One or several."""
    preset: str | None = None
    """Of every method; by default its first."""
    config: Path | None = None
    """YAML file with settings laid over the preset, as for `train`."""
    size: int = 256
    """Height and width of the images in pixels."""
    batch_size: int = 1
    """Images per step."""
    steps: int = 5
    """Timed steps of each case, after two to warm up."""
    translations: int = 5
    """Timed translations of each case."""
    compile: bool = False
    """Measure every case with compiled networks too."""
    device: Device = "auto"
    """Where to compute."""
    threads: int = 0
    """Of the CPU; 0 for as many as torch takes."""
    data: str | None = None
    """A data set whose loading rate is measured too (`toy`, or a folder as for `train`)."""
    cache: bool = False
    """Measure it with decoded images from a cache as well, made for this in a temporary folder."""
    workers: int = 2
    """Processes that decode it."""
    max_pixels: MaxPixels = None
    output: Annotated[Path | None, flag("-o")] = None
    """JSON file for the results."""
    compare: Path | None = None
    """Results of an earlier run; ratios to it are printed."""
    json: bool = False
    """Print the results as one JSON object."""


def run(arguments: Sequence[str], _: Mapping[str, type[Method]]) -> int:
    """Measure, print, and write the results."""
    options = parse(
        BenchOptions,
        arguments,
        prog="patchkin bench",
        about="How fast this machine trains and translates, against its own peak.",
    )
    cases = _cases(options)
    if options.cache and options.data is None:
        raise ConfigError("--cache is measured on a data set; name one with --data.")
    earlier = _read(options.compare) if options.compare else None
    keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    results: dict[str, Any] = {
        "machine": _machine(),
        "peak_gflops": {
            precision: convolution_peak(precision, options.device) / 1e9
            for precision in options.precision
        },
        "cases": {},
    }
    if options.data is not None:
        data = DataConfig(root=options.data, size=options.size, workers=options.workers)
        results.update(_loading(data, cache=options.cache))
    for case in cases:
        name = f"{case.method} {case.precision}" + " compiled" * case.compile
        print(f"measuring {name}", file=sys.stderr)
        results["cases"][name] = asdict(measure_apart(case))
    if options.output is not None:
        _write(options.output, results)
    if options.json:
        print_json(results)
    else:
        _show(results, earlier)
    return 0


def _cases(options: BenchOptions) -> list[Case]:
    names = tuple(METHODS) if options.methods == ("all",) else options.methods
    for name in names:
        if name not in METHODS:
            raise ConfigError(f"Unknown method `{name}`. {nearest(name, METHODS)}")
    settings = read_yaml(options.config) if options.config else {}
    return [
        Case(
            method=name,
            preset=options.preset,
            precision=precision,
            size=options.size,
            batch_size=options.batch_size,
            device=options.device,
            threads=options.threads,
            steps=options.steps,
            translations=options.translations,
            compile=compiled,
            settings=settings,
        )
        for name in names
        for precision in options.precision
        for compiled in ((False, True) if options.compile else (False,))
    ]


def _loading(data: DataConfig, *, cache: bool) -> dict[str, float]:
    names = ["loading_images_per_second", "cached_loading_images_per_second"]
    if not cache:
        return {names[0]: loading_rates([data])[0]}
    with tempfile.TemporaryDirectory(prefix="patchkin-") as folder:
        rates = loading_rates([data, replace(data, cache=folder)])
    return dict(zip(names, rates, strict=True))


def _machine() -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    return {
        "patchkin": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": torch.cuda.get_device_name() if cuda else platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        results: dict[str, Any] = parsed(path.read_text(encoding="utf-8"))
        _ = results["cases"], results["peak_gflops"]
    except OSError as error:
        raise ConfigError(f"--compare {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--compare {path}: not a result of `patchkin bench`.") from error
    return results


def _write(path: Path, results: Mapping[str, Any]) -> None:
    write_text(path, strict_text(results, indent=1) + "\n")


COLUMNS = (
    "case", "s/step", "images/s", "TFLOP/step", "of peak", "peak GB", "translate s",
)  # fmt: skip


def _show(results: Mapping[str, Any], earlier: Mapping[str, Any] | None) -> None:
    console = Console()
    for precision, gflops in results["peak_gflops"].items():
        console.print(f"convolution peak {precision}: {gflops:.0f} GFLOP/s")
    if "loading_images_per_second" in results:
        console.print(f"loading: {results['loading_images_per_second']:.1f} images/s")
    if "cached_loading_images_per_second" in results:
        rate = results["cached_loading_images_per_second"]
        ratio = rate / results["loading_images_per_second"]
        console.print(f"loading from the cache: {rate:.1f} images/s, {ratio:.2f} times as many")
    table = Table(*COLUMNS, box=None, pad_edge=False)
    reasons = {}
    for name, values in results["cases"].items():
        row = Measurement(**values)
        if row.reason is not None:
            reasons[name] = row.reason
            continue
        peak = results["peak_gflops"][row.case["precision"]]
        table.add_row(
            name,
            f"{row.seconds_per_step:.3g}",
            f"{row.images_per_second:.3g}",
            f"{row.tflop_per_step:.3g}",
            f"{row.gflops / peak:.0%}",
            f"{row.peak_gb:.2f}",
            f"{row.translate_seconds:.3g}",
        )
    console.print(table)
    for name, reason in reasons.items():
        console.print(f"{name}: not measured. {reason}", markup=False)
    if earlier is not None:
        console.print(_ratios(results, earlier))


def _ratios(results: Mapping[str, Any], earlier: Mapping[str, Any]) -> Table:
    """How this run compares to the earlier one; above 1 is faster, and for memory smaller."""
    table = Table("earlier / now", "step", "peak memory", "translate", box=None, pad_edge=False)
    for name, now in results["cases"].items():
        before = earlier["cases"].get(name)
        if before is None or before["reason"] or now["reason"]:
            continue
        keys = ("seconds_per_step", "peak_gb", "translate_seconds")
        table.add_row(name, *(f"{before[key] / now[key]:.2f}" for key in keys))
    return table
