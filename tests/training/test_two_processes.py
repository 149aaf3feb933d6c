"""Two processes with two images each learn what one process with four images learns."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("two_processes.py")


def weights(variant, num_processes, target, *launcher):
    paths = os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [*(launcher or (sys.executable,)), str(SCRIPT), variant, str(num_processes)]
    result = subprocess.run(
        [*command, str(target)], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return load_file(target)


@pytest.mark.parametrize("variant", ["fastcut", "relation"])
def test_two_processes_equal_one(variant, tmp_path):
    one = weights(variant, 1, tmp_path / "one")
    two = weights(variant, 2, tmp_path / "two")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6, msg=name)


@pytest.mark.slow
def test_processes_that_torchrun_started_are_joined(tmp_path):
    """Not launched a second time."""
    one = weights("cut", 1, tmp_path / "one")
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2")
    two = weights("cut", 2, tmp_path / "two", *launcher)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [
        *("cut", "cut-steadied", "cut-bank", "relation-paper", "relation-nce", "munit"),
        *("drit-split-batch", "enco", "patchgcl", "cut-guided-few-places", "relation-guided"),
        *("relation-transport-attention", "negcut-features", "fsesim-slope"),
    ],
)
def test_two_processes_equal_one_for_every_kind(variant, tmp_path):
    one = weights(variant, 1, tmp_path / "one")
    two = weights(variant, 2, tmp_path / "two")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6, msg=name)
