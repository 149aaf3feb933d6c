"""The memory that a run says it took."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch

from patchkin.devices import peak_memory_bytes

TOLD = "import torch; from patchkin.devices import peak_memory_bytes as p; print(p({}))"
CPU = "torch.device('cpu')"


def peak_of_a_child():
    command = [sys.executable, "-c", TOLD.format(CPU)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_the_peak_is_of_this_process_and_not_of_the_one_that_started_it():
    before = peak_memory_bytes(torch.device("cpu"))
    alone = peak_of_a_child()
    size = before + 300_000_000
    ones = np.ones(size, np.uint8)
    grown = peak_memory_bytes(torch.device("cpu"))
    assert grown > size
    assert peak_of_a_child() < 1.2 * alone + 50_000_000 < grown
    assert ones[0] == 1
