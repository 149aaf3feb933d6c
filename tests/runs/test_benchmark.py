import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as nnf
from torch.utils.flop_counter import FlopCounterMode

import patchkin.data.cache.decoded as decoded_module
from patchkin.cli import bench, main
from patchkin.data.config import DataConfig
from patchkin.errors import ConfigError
from patchkin.methods import METHODS
from patchkin.runs import benchmark
from patchkin.runs.benchmark import (
    Case,
    convolution_peak,
    loading_rates,
    measure,
    measure_apart,
    synthetic_batch,
)
from patchkin.training import compilation

TINY = {
    "method": {
        "generator": {"ngf": 4, "blocks": 5},
        "discriminator": {"ndf": 4},
        "num_patches": 16,
        "head_width": 8,
    }
}


def test_the_peak_counts_the_work_of_the_convolution_it_runs(monkeypatch):
    """Against torch's own counter, with a time of exactly one second."""
    x = torch.randn(2, 256, 66, 66, requires_grad=True)
    weight = torch.randn(256, 256, 3, 3, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        nnf.conv2d(x, weight).sum().backward()
    monkeypatch.setattr(benchmark, "_convolution_time", lambda *_: 1.0)
    assert convolution_peak() == counter.get_total_flops()


def test_the_peak_is_that_of_the_better_layout(monkeypatch):
    seconds = {torch.contiguous_format: 4.0, torch.channels_last: 2.0}
    monkeypatch.setattr(benchmark, "_convolution_time", lambda _d, _p, layout, _n: seconds[layout])
    better = convolution_peak()
    seconds[torch.channels_last] = 8.0
    assert better == 2 * convolution_peak()


def test_a_case_in_numbers():
    result = measure(
        Case(method="cut", size=32, batch_size=2, steps=3, warmup=1, settings=TINY, device="cpu")
    )
    assert result.reason is None
    assert len(result.step_times) == 3
    assert result.seconds_per_step == sorted(result.step_times)[1]
    assert result.images_per_second == 2 / result.seconds_per_step
    assert result.gflops == pytest.approx(result.tflop_per_step * 1e3 / result.seconds_per_step)
    assert 0 < result.start_gb <= result.peak_gb
    assert result.translate_seconds > 0


def test_work_grows_with_the_images_of_a_step():
    one, two = (
        measure(
            Case(method="cut", size=32, batch_size=n, steps=1, warmup=0, settings=TINY)
        ).tflop_per_step
        for n in (1, 2)
    )
    assert two == pytest.approx(2 * one, rel=1e-6)


def test_settings_are_those_of_train():
    with pytest.raises(ConfigError, match=r"Unknown key `generator\.ngff`"):
        measure(Case(method="cut", settings={"method": {"generator": {"ngff": 4}}}))


@pytest.mark.parametrize("name", ["steps", "size"])
def test_numbers_that_make_no_sense(name):
    with pytest.raises(ConfigError, match=f"`{name}` must be at least 1; got 0"):
        Case(method="cut", **{name: 0})


def test_a_case_that_cannot_run_says_why():
    result = measure_apart(Case(method="cut", settings={"method": {"num_patches": 0}}))
    assert result.reason is not None
    assert "num_patches" in result.reason
    assert math.isnan(result.seconds_per_step)


@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_every_kind_of_batch_can_be_made(kind):
    preset = kind.presets.get("toy") or next(iter(kind.presets.values()))
    method = kind(preset.method)
    batch = synthetic_batch(method, 3, 16)
    assert isinstance(batch, kind.batch_type)
    assert len(batch) == 3


def test_a_case_that_is_not_compiled_in_the_end_is_not_measured(monkeypatch):
    def no_compiler(function):
        def compiled(*_):
            raise RuntimeError("no compiler here")

        return compiled

    monkeypatch.setattr(compilation, "compiler", lambda **_: no_compiler)
    with pytest.raises(ConfigError, match=r"--compile: RuntimeError: no compiler here\. Training"):
        measure(Case(method="cut", size=32, steps=1, settings=TINY, device="cpu", compile=True))


def test_compiled_steps_are_measured_and_their_work_is_that_of_plain_ones(monkeypatch):
    called = []

    def counting(function):
        return lambda *given: called.append(function) or function(*given)

    monkeypatch.setattr(compilation, "compiler", lambda **_: counting)
    case = {"method": "cut", "size": 32, "steps": 1, "warmup": 1, "settings": TINY, "device": "cpu"}
    plain = measure(Case(**case))
    assert not called
    compiled = measure(Case(**case, compile=True))
    assert len(called) % 2 == 0  # a step to warm up and a timed one
    assert called
    assert compiled.tflop_per_step == plain.tflop_per_step


def test_loading_is_measured_with_and_without_the_cache(tmp_path, monkeypatch):
    """The second of two configurations decodes nothing once it is opened."""
    data = DataConfig(root="toy", size=32, load_size=32, workers=0)
    cached = replace(data, cache=str(tmp_path))
    loading_rates([cached], images=4, repeats=1)
    decoded = []
    read_image = decoded_module.read_image
    monkeypatch.setattr(
        decoded_module, "read_image", lambda *args: decoded.append(args) or read_image(*args)
    )
    rates = loading_rates([data, cached], images=4, repeats=3)
    assert len(decoded) == 3 * 5 * 2  # rounds, steps with the one to warm up, domains
    assert all(rate > 0 for rate in rates)


def test_the_verb_prints_a_table_and_ratios(tmp_path, capsys):
    settings, results = tmp_path / "tiny.yaml", tmp_path / "deep" / "results.json"
    settings.write_text(json.dumps(TINY), encoding="utf-8")
    arguments = [
        "bench", "cut", "--precision", "32-true", "--size", "32", "--steps", "1",
        "--translations", "1", "--config", str(settings), "--threads", "1",
    ]  # fmt: skip
    assert main([*arguments, "--output", str(results)]) == 0
    assert "convolution peak 32-true" in capsys.readouterr().out
    saved = json.loads(results.read_text(encoding="utf-8"))
    saved["cases"]["cut 32-true"]["peak_gb"] *= 1e6
    results.write_text(json.dumps(saved), encoding="utf-8")
    assert main([*arguments, "--compare", str(results)]) == 0
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("cut 32-true")
    assert float(row.split()[3]) == pytest.approx(1e6, rel=0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cutt"], "Unknown method `cutt`"),
        (["cut", "--cache"], "--cache is measured on a data set; name one with --data."),
        (["cut", "--compare", "absent.json"], "absent.json"),
        (["cut", "--steps", "0"], "`steps` must be at least 1"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert message in error[0]


FAULTS = """
import resource, torch
{before}
torch.set_num_threads(1)
def faults():
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start
faults()
print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted on Linux")
def test_freed_memory_is_reused_without_page_faults():
    def faults(before):
        code = FAULTS.format(before=before)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    told = "from patchkin.devices import keep_freed_memory as keep; kept = keep()"
    plain = faults("")
    if plain < 1000:
        pytest.skip("this C library reuses large blocks by itself")
    assert faults(told) < plain / 100


def test_the_verb_measures_with_and_without_the_compiler():
    names = [
        (case.precision, case.compile)
        for case in bench._cases(bench.BenchOptions(methods=("cut",), compile=True))
    ]
    assert names == [
        ("32-true", False), ("32-true", True), ("bf16-mixed", False), ("bf16-mixed", True),
    ]  # fmt: skip
