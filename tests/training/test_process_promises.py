"""N processes with b images do what one with N b does, batch norm and dropout included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import nn

from patchkin.methods import METHODS
from patchkin.methods.pix2pix import Pix2Pix, Pix2PixConfig
from patchkin.networks import ResNetConfig, UNetConfig
from support import cpu_fabric
from training.process_steps import ALL, WHOLE_BATCH, build, differentiated

SCRIPT = Path(__file__).with_name("process_steps.py")
QUICK = [
    *WHOLE_BATCH,
    *("cut", "gcgan", "negcut", "lsesim", "sincut-noise", "sincut-noise-relation-fixed"),
    *("distancegan-pairs", "distancegan-self", "dclgan-pool", "cut-bank", "pix2pix"),
    *("pix2pix-batch-norm", "travelgan", "enco-batch-norm"),
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
        if not found < 1e-10:
            failures[name] = found
    assert not failures


def test_losses_and_gradients_of_two_processes_are_those_of_one_with_twice_the_batch(tmp_path):
    check_promises(QUICK, tmp_path / "two")


@pytest.mark.slow
def test_every_variant_keeps_its_promise(tmp_path):
    check_promises([name for name in ALL if name not in QUICK], tmp_path / "two")


@pytest.mark.parametrize("name", ALL)
def test_no_method_has_a_layer_that_is_alone_with_its_images(name):
    if not name.endswith("-without-batch-norm"):
        assert build(name).process_differences() == []


def test_the_table_of_the_docs_has_every_method():
    page = (SCRIPT.parents[2] / "docs" / "processes.md").read_text(encoding="utf-8")
    table = page.split("### What each method promises")[1].split("\n- ")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    assert {name.strip("`") for name, _ in rows} == set(METHODS)
    assert all(promise.startswith("exact") for _, promise in rows)


class OfOnesOwn(Pix2Pix):
    """With torch's own layers instead of those that count other processes in."""

    def __init__(self) -> None:
        super().__init__(Pix2PixConfig(generator=UNetConfig(ngf=1, levels=5)))
        self.G.model.model.append(nn.BatchNorm2d(3))
        self.D.model.append(nn.Dropout(0.1))


def test_layers_of_ones_own_are_named():
    assert OfOnesOwn().process_differences() == [
        "batch norm takes the statistics of a process's own images",
        "dropout leaves out other values",
    ]


def test_what_is_recomputed_is_named():
    """Its dropout must be drawn twice alike, which only torch's own layer is."""
    config = ResNetConfig(ngf=1, blocks=1, dropout=True, recompute=True)
    assert Pix2Pix(Pix2PixConfig(generator=config)).process_differences() == [
        "dropout leaves out other values"
    ]
