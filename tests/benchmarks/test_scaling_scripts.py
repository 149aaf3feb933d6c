"""The scripts of `benchmarks/scaling` at sizes that take no time."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from patchkin.runs.benchmark import Measurement

SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "scaling"


def loaded(path, monkeypatch):
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def script(name, monkeypatch):
    return loaded(SCRIPTS / f"{name}.py", monkeypatch)


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_an_all_reduce_is_what_a_simulated_ring_sends(processes, monkeypatch):
    """Every process passes one of N pieces on, N - 1 times to add and N - 1 times to spread."""
    all_reduce_seconds = script("on_paper", monkeypatch).all_reduce_seconds
    pieces = [[{rank} for _ in range(processes)] for rank in range(processes)]
    rounds = 0
    while any(len(piece) < processes for own in pieces for piece in own):
        sent = [own[(rank - rounds) % processes] for rank, own in enumerate(pieces)]
        for rank in range(processes):
            neighbour, place = (rank + 1) % processes, (rank - rounds) % processes
            pieces[neighbour][place] = pieces[neighbour][place] | sent[rank]
        rounds += 1
    assert rounds == 2 * (processes - 1)
    expected = rounds * (1e6 / processes) / 1e9 + 2 * rounds * 1e-5  # two updates
    assert all_reduce_seconds(1e6, processes, 1e9, latency=1e-5) == pytest.approx(expected)


def test_gradients_are_those_of_all_networks(monkeypatch):
    on_paper = script("on_paper", monkeypatch)
    # CUT's published counts: 11.378 M (G), 2.765 M (D), 0.560 M (F).
    assert on_paper.gradient_bytes("cut") / 4e6 == pytest.approx(11.378 + 2.765 + 0.560, abs=2e-3)


def test_a_study_that_was_interrupted_measures_only_what_is_missing(tmp_path, monkeypatch, capsys):
    """With step times of pixels^1.5, which the table finds again."""
    run = script("run", monkeypatch)
    measured = []

    def measure(case):
        if len(measured) == 2 and not (tmp_path / "interrupted").exists():
            (tmp_path / "interrupted").touch()
            raise KeyboardInterrupt
        measured.append(json.dumps(asdict(case)))
        seconds = case.size**1.5 * case.batch_size / 1000
        return Measurement(
            case=asdict(case), seconds_per_step=seconds, images_per_second=1 / seconds, peak_gb=2.5,
            start_gb=0.25, tflop_per_step=1.0,
        )  # fmt: skip

    monkeypatch.setattr(run, "measure_apart", measure)
    arguments = [
        *(str(tmp_path), "--sizes", "32", "64", "--batches", "1", "2", "--ngf", "4"),
        *("--patches", "8", "--loss-patches", "16", "256", "--precisions", "32-true"),
        *("--base-size", "32", "--batch-size-at", "32"),
    ]
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    with pytest.raises(KeyboardInterrupt):
        run.main()
    assert run.main() == 0
    # 32 and 64 pixels, two images, 8 patches; one image and 4 channels are the first case again.
    assert len(measured) == len(set(measured)) == 4
    text = (tmp_path / "tables.md").read_text()
    assert "| 64 | 0.512 | 1.50 | 1.95 | 1 | 2.25 |" in text
    assert "| 2 | 0.362 | 1.00 |" in text
    assert (tmp_path / "scaling.png").stat().st_size > 1000
    assert text.strip() in capsys.readouterr().out


def test_the_share_of_the_losses(monkeypatch):
    """A step of 1 s that holds 0.1 s of losses at K = 256; at K = 512 they are 0.4 s of 1.3 s."""
    run = script("run", monkeypatch)
    losses = [
        (256, {"contrast_seconds": 0.06, "relation_seconds": 0.04}),
        (512, {"contrast_seconds": 0.25, "relation_seconds": 0.15}),
    ]
    table = run.loss_table(losses, [(128, {"seconds_per_step": 1.0})])
    assert "| 256 | 0.06 | 0.04 |  | 10.0% |" in table
    assert "| 512 | 0.25 | 0.15 | 2.00 | 30.8% |" in table
