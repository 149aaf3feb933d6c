"""N processes with b images do what one with N b does, or the method says what they do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from patchkin.methods import METHODS
from support import cpu_fabric
from training.process_steps import ALL, WHOLE_BATCH, build, differentiated

SCRIPT = Path(__file__).with_name("process_steps.py")
DIFFER = {
    "enco-batch-norm": ["batch norm"],
    "pix2pix-batch-norm": ["batch norm"],
    "travelgan": ["batch norm"],
    "travelgan-gray-to-colour": ["batch norm"],
}
"""Variants that promise less, with a word of each line that they print. All others are exact."""
EXACT = [name for name in ALL if name not in DIFFER]
QUICK = [
    *WHOLE_BATCH,
    *("cut", "gcgan", "negcut", "lsesim", "sincut-noise", "sincut-noise-relation-fixed"),
    *("distancegan-pairs", "distancegan-self", "dclgan-pool", "cut-bank", "pix2pix"),
]


def of_two_processes(names, target):
    paths = os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, str(SCRIPT), str(target), *names],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return load_file(target)


def disagreement(one, two):
    """The largest difference, of numbers around 1 or above relative to their size."""
    assert one.keys() == two.keys()
    assert all(one[name].shape == two[name].shape for name in one)
    return max(
        ((two[name] - tensor).abs() / tensor.abs().clamp_min(1)).max().item()
        for name, tensor in one.items()
        if tensor.numel()
    )


def check_promises(names, target):
    two = of_two_processes(names, target)
    failures = {}
    for name in names:
        prefix = f"{name}/"
        of_two = {k.removeprefix(prefix): t for k, t in two.items() if k.startswith(prefix)}
        found = disagreement(differentiated(name, cpu_fabric()), of_two)
        if (found < 1e-10) != (name not in DIFFER):
            failures[name] = found
    assert not failures


def test_losses_and_gradients_of_two_processes_are_those_of_one_with_twice_the_batch(tmp_path):
    check_promises([*QUICK, "pix2pix-batch-norm"], tmp_path / "two")


@pytest.mark.slow
def test_every_variant_keeps_its_promise(tmp_path):
    check_promises([name for name in ALL if name not in QUICK], tmp_path / "two")


@pytest.mark.parametrize("name", ALL)
def test_a_method_says_what_several_processes_do_otherwise(name):
    if name.endswith("-without-batch-norm"):
        return
    lines = build(name).process_differences()
    expected = DIFFER.get(name, [])
    assert len(lines) == len(expected)
    assert all(word in line for word, line in zip(expected, lines, strict=True))


def test_the_table_of_the_docs_is_what_is_tested():
    page = (SCRIPT.parents[2] / "docs" / "processes.md").read_text(encoding="utf-8")
    table = page.split("### What each method promises")[1].split("\n- ")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    assert {name.strip("`") for name, *_ in rows} == set(METHODS)
    differing = {ALL[variant][0] for variant in DIFFER}
    for name, promise, *differences in rows:
        assert bool(differences) == (name.strip("`") in differing)
        assert promise.startswith("exact") or name == "`travelgan`"


def test_a_default_that_differs_is_in_the_table_in_its_own_words():
    page = (SCRIPT.parents[2] / "docs" / "processes.md").read_text(encoding="utf-8")
    for name, kind in METHODS.items():
        if name not in ("enco", "pix2pix", "travelgan"):
            assert not _differences(kind), name
            continue
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert "; ".join(_differences(kind)) in row


def _differences(kind):
    with torch.device("meta"):
        return kind(next(iter(kind.presets.values())).method).process_differences()
