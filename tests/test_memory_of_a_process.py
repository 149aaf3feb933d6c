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


FREED = """
import numpy as np
from patchkin.devices import keep_freed_memory, return_freed_memory

def now():
    status = open("/proc/self/status").read()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024

keep_freed_memory()
before = now()
blocks = [np.ones(30_000_000, np.uint8) for _ in range(10)]
last = np.ones(1000, np.uint8)  # above them, so that they are a gap
del blocks
kept = now()
return_freed_memory()
returned = now()
blocks = [np.ones(30_000_000, np.uint8) for _ in range(10)]
del blocks
print(before, kept, returned, now())
"""


def test_what_was_kept_is_returned_when_work_should_stay_small():
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    before, kept, returned, after = map(int, done.stdout.split())
    assert kept - before > 290_000_000
    assert abs(returned - before) < 20_000_000
    assert abs(after - before) < 20_000_000
