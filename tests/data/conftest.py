"""Small folders of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def picture(value: int, size: tuple[int, int] = (24, 16)) -> Image.Image:
    """An image that shows which one it is: its mean is `value`, and no two columns are equal."""
    width, height = size
    ramp_W = np.linspace(-20, 20, width)
    array = np.clip(value + ramp_W[None, :, None], 0, 255) * np.ones((height, 1, 3))
    return Image.fromarray(array.astype(np.uint8))


@pytest.fixture
def make_images() -> Callable[..., list[Path]]:
    def make(
        folder: Path, number: int, *, first: int = 40, size: tuple[int, int] = (24, 16)
    ) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{index:03d}.png" for index in range(number)]
        for index, path in enumerate(paths):
            picture(first + index, size).save(path)
        return paths

    return make


@pytest.fixture
def unpaired(tmp_path: Path, make_images: Callable[..., list[Path]]) -> Path:
    """trainA with 5 images, trainB with 3, testA and testB with 2 and 1."""
    root = tmp_path / "set"
    for name, number, first in (
        ("trainA", 5, 40),
        ("trainB", 3, 140),
        ("testA", 2, 80),
        ("testB", 1, 180),
    ):
        make_images(root / name, number, first=first)
    return root
