"""A method whose step takes a millisecond or two: what a long run does is all but the networks.

It is that of `examples/own_method.py` with networks of one layer each.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

from torch import nn

import patchkin

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from own_method import NearColour, NearColourConfig


class Thin(NearColour):
    """An adversary, and outputs near their inputs."""

    name = "thin"
    presets: ClassVar = {
        "default": patchkin.Preset(summary="one layer each", method=NearColourConfig())
    }
    multiple_of = 1

    def __init__(self, config: NearColourConfig) -> None:
        super().__init__(config)
        self.G = nn.Conv2d(3, 3, 3, padding=1)
        self.D = nn.Conv2d(3, 1, 4, stride=4)


if __name__ == "__main__":
    patchkin.run(Thin)
