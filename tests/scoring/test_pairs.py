"""Inputs beside their translations."""

from __future__ import annotations

import torch

from patchkin.images import to_uint8
from patchkin.scoring.pairs import Pair


def test_protocols_that_truncate_keep_every_level_of_a_translation():
    levels = torch.arange(256).reshape(1, 16, 16)
    pair = Pair("all levels", None, levels / 127.5 - 1)
    assert torch.equal(to_uint8(pair.levels_CHW, "released"), levels.to(torch.uint8))
