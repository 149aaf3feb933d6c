"""One thread per process: the networks of the tests are too small for more, and the processes that
some tests start would wait for each other's cores.
"""

from __future__ import annotations

import os

import pytest
import torch
from PIL import Image

from patchkin.images import limits

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
_LIMIT = Image.MAX_IMAGE_PIXELS


@pytest.fixture(autouse=True)
def _limit_of_pixels():
    """`--max-pixels` of a test holds in that test only."""
    yield
    os.environ.pop(limits.VARIABLE, None)
    Image.MAX_IMAGE_PIXELS = _LIMIT
    limits._allowed[0] = 0
