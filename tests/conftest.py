"""One thread per process: the networks of the tests are too small for more, and the processes that
some tests start would wait for each other's cores.
"""

from __future__ import annotations

import os

import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
