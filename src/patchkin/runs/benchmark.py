"""How fast this machine trains and translates, against the peak of its own convolutions.

Every case runs in a process of its own, so that peak memory is that of the case and one case does
not warm up the next. Times are medians after a warm-up. Work is what torch counts for one step:
convolutions and matrix products, forward and backward, two operations for each multiplication.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch, UnpairedDataset
from patchkin.data.domains import DomainBatch
from patchkin.data.loading import open_training_data, training_loader
from patchkin.data.paired import PairedBatch
from patchkin.data.single import SingleImageDataset
from patchkin.devices import (
    Device,
    Precision,
    autocast_dtype,
    choose_device,
    keep_freed_memory,
    peak_memory_bytes,
    set_float32,
)
from patchkin.errors import ConfigError, PatchkinError
from patchkin.method import Method, Progress
from patchkin.methods import METHODS
from patchkin.networks.cpu.winograd import direct_convolutions
from patchkin.randomness import SeededDraws
from patchkin.runs.config import choose_preset, config_from_plain, preset_config
from patchkin.training import TrainingConfig, Updater
from patchkin.training.compilation import CompiledSteps
from patchkin.training.launch import launch
from patchkin.translation.translator import Translator

PEAK_CHANNELS, PEAK_SIDE, PEAK_BATCH = 256, 64, 2
"""The convolution whose speed is the machine's peak: that of the residual blocks at 256 pixels."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What to measure."""

    method: str
    preset: str | None = None
    precision: Precision = "32-true"
    size: int = 256
    """Height and width in pixels."""
    batch_size: int = 1
    device: Device = "auto"
    threads: int = 0
    """Of the CPU; 0 leaves torch's own choice."""
    steps: int = 5
    """Timed, after `warmup` others."""
    warmup: int = 2
    translations: int = 5
    """Timed translations of one image; 0 for none."""
    compile: bool = False
    """Compile the networks for the steps, during the warm-up; translations stay as they are."""
    cuda_graphs: bool = False
    """Compile, and replay CUDA graphs."""
    channels_last: bool = False
    """Put weights and images in that layout. On a CPU networks choose it themselves."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Laid over the preset, as in a YAML file of `train`."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("warmup", 0), ("translations", 0), ("size", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"`{name}` must be at least {least}; got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a case gave."""

    case: dict[str, Any]
    seconds_per_step: float = float("nan")
    """Median."""
    step_times: tuple[float, ...] = ()
    images_per_second: float = float("nan")
    tflop_per_step: float = float("nan")
    """10^12 operations."""
    gflops: float = float("nan")
    """10^9 operations per second."""
    peak_gb: float = float("nan")
    """Largest memory of the process (CPU) or of the allocator (CUDA), in 10^9 bytes."""
    start_gb: float = float("nan")
    """Memory of the process before the networks were built; 0 on CUDA."""
    translate_seconds: float = float("nan")
    """Median, one image at a time."""
    reason: str | None = None
    """Why there are no numbers."""


def convolution_peak(
    precision: Precision = "32-true", device: Device = "auto", *, repeats: int = 10
) -> float:
    """Operations per second of a 3 x 3 convolution of 256 channels at 64 x 64, there and back.

    The median over `repeats`, in the better of both memory layouts.

    >>> convolution_peak(repeats=1) > 1e8
    True
    """
    place = choose_device(device)
    set_float32(precision)
    dtype = autocast_dtype(precision, place) or torch.float32
    work = 3 * 2 * PEAK_BATCH * PEAK_CHANNELS**2 * 9 * PEAK_SIDE**2
    layouts = (torch.contiguous_format, torch.channels_last)
    return max(work / _convolution_time(dtype, place, layout, repeats) for layout in layouts)


def _convolution_time(
    dtype: torch.dtype, device: torch.device, layout: torch.memory_format, repeats: int
) -> float:
    def tensor(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(dtype=dtype, memory_format=layout)

    maps = (PEAK_BATCH, PEAK_CHANNELS)
    x_BCHW = tensor(*maps, PEAK_SIDE + 2, PEAK_SIDE + 2).requires_grad_()
    weight = tensor(PEAK_CHANNELS, PEAK_CHANNELS, 3, 3).requires_grad_()
    gradient_BCHW = tensor(*maps, PEAK_SIDE, PEAK_SIDE)

    def there_and_back() -> None:
        torch.autograd.grad(nnf.conv2d(x_BCHW, weight), (x_BCHW, weight), gradient_BCHW)

    return statistics.median(_times(there_and_back, device, warmup=3, repeats=repeats))


def _times(
    work: Callable[[], object], device: torch.device, *, warmup: int, repeats: int
) -> list[float]:
    """Seconds of each repetition."""
    times = []
    for repeat in range(warmup + repeats):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if repeat >= warmup:
            times.append(time.perf_counter() - start)
    return times


def measure(case: Case) -> Measurement:
    """Measure a case in this process."""
    if case.threads:
        torch.set_num_threads(case.threads)
    kind = METHODS[case.method]
    preset = choose_preset(kind, case.preset, toy=False)
    config = config_from_plain(kind, preset_config(preset), case.settings, where="the settings")
    training = TrainingConfig(
        precision=case.precision,
        device=case.device,
        compile=case.compile,
        cuda_graphs=case.cuda_graphs,
    )
    fabric = launch(training)
    said: list[str] = []
    device, start_gb = fabric.device, _memory_gb(fabric.device)
    torch.manual_seed(0)
    method = kind(config.method).to(device)
    batch = synthetic_batch(method, case.batch_size, case.size).to(device)
    if case.channels_last:
        method.to(memory_format=torch.channels_last)
        batch = _channels_last(batch)
    method.prepare((batch for _ in range(1000)), SeededDraws(0, -1))
    update, step = Updater(method, fabric, clip_norm=config.training.clip_norm), 0

    def train_step() -> None:
        nonlocal step
        update.begin_step(1.0)
        with fabric.autocast():
            method.train_step(batch, update, Progress.of_step(step, total_steps=10**6))
        step += 1

    method.train()
    steps = CompiledSteps(
        method, update, training, device, say=said.append, trial_steps=case.warmup
    )
    times = _times(lambda: steps(train_step), device, warmup=case.warmup, repeats=case.steps)
    if said:
        raise ConfigError(said[0])
    peak_gb = max(start_gb, _memory_gb(device))  # Linux reads its mark some pages late
    with direct_convolutions(), FlopCounterMode(display=False) as counter:
        train_step()
    median, work = statistics.median(times), counter.get_total_flops()
    return Measurement(
        case=asdict(case),
        seconds_per_step=median,
        step_times=tuple(times),
        images_per_second=case.batch_size / median,
        tflop_per_step=work / 1e12,
        gflops=work / median / 1e9,
        peak_gb=peak_gb,
        start_gb=start_gb,
        translate_seconds=_translate_seconds(method, case, device),
    )


def _channels_last(batch: Any) -> Any:
    """A batch whose images lie pixel by pixel."""
    images = {
        item.name: value.contiguous(memory_format=torch.channels_last)
        for item in fields(batch)
        if isinstance(value := getattr(batch, item.name), Tensor) and value.dim() == 4
    }
    return replace(batch, **images)


def _translate_seconds(method: Method, case: Case, device: torch.device) -> float:
    if not case.translations:
        return float("nan")
    translator = Translator(method, device=device, precision=case.precision, owned=True)
    x_1CHW = torch.rand(1, method.channels[0], case.size, case.size) * 2 - 1
    times = _times(lambda: translator(x_1CHW), device, warmup=2, repeats=case.translations)
    return statistics.median(times)


def _memory_gb(device: torch.device) -> float:
    """The largest so far."""
    found = peak_memory_bytes(device)
    return float("nan") if found is None else found / 1e9


def loading_rates(
    configs: Sequence[DataConfig], *, images: int = 200, repeats: int = 5
) -> list[float]:
    """Images of each domain that the loader reads, augments and hands over, per second.

    Medians of `repeats` passes over the same images, which the configurations take in turns.

    Raises:
        DataError: a set cannot be read.
        StorageError: a cache of decoded images cannot be written.
    """
    opened = [open_training_data(data, seed=0, channels=(3, 3), validate=False) for data in configs]
    rounds = [
        [_loading_rate(data.dataset, images) for data in opened] for _ in range(max(1, repeats))
    ]
    return [statistics.median(rates) for rates in zip(*rounds, strict=True)]


def _loading_rate(dataset: UnpairedDataset | SingleImageDataset, images: int) -> float:
    data = dataset.config
    steps = max(1, images // data.batch_size)
    batches = iter(
        training_loader(
            dataset,
            start_step=0,
            total_steps=steps + 1,
            batch_size=data.batch_size,
            workers=data.workers,
            pin_memory=False,
            jitter_steps=steps + 1,
        )
    )
    next(batches)  # the workers start
    start = time.perf_counter()
    loaded = sum(len(batch) for batch in batches)
    return loaded / (time.perf_counter() - start)


def synthetic_batch(method: Method, num_images: int, size: int) -> Any:
    """A batch of the method's type with random images in [-1, 1].

    Raises:
        ConfigError: the method asks for batches that this module does not know.
    """
    generator = torch.Generator().manual_seed(0)

    def images(channels: int) -> Tensor:
        return torch.rand(num_images, channels, size, size, generator=generator) * 2 - 1

    source, target = (images(channels) for channels in method.channels)
    if method.batch_type is UnpairedBatch:
        return UnpairedBatch(source, target)
    if method.batch_type is PairedBatch:
        return PairedBatch(source, target)
    if method.batch_type is DomainBatch:
        domains_B = torch.arange(num_images) % getattr(method, "num_domains", 2)
        return DomainBatch(source, domains_B, target, target.flip(0), domains_B.flip(0))
    raise ConfigError(f"`{method.name}` asks for {method.batch_type.__name__}; not known here.")


def measure_apart(case: Case, *, timeout: float | None = None) -> Measurement:
    """Measure a case in a process of its own; its failure becomes the measurement's `reason`.

    Args:
        case: what to measure.
        timeout: seconds after which it is given up.
    """
    command = [sys.executable, "-m", "patchkin.runs.benchmark", json.dumps(asdict(case))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)
    except subprocess.TimeoutExpired:
        return Measurement(case=asdict(case), reason=f"not done after {timeout:.0f} s")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Measurement(case=asdict(case), reason=last)
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def _main(arguments: Sequence[str]) -> int:
    try:
        measurement = measure(Case(**json.loads(arguments[0])))
    except PatchkinError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps(asdict(measurement)) + "\n")
    return 0


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(_main(sys.argv[1:]))
