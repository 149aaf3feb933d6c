"""Where real images and weights are, and a small extractor."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from patchkin.metrics import Features

_REPOSITORY = Path(__file__).resolve().parents[2]
_DATA = Path(os.environ.get("PATCHKIN_DATA") or _REPOSITORY.parent / "shared" / "data")
_WEIGHTS = Path(os.environ.get("PATCHKIN_WEIGHTS") or _REPOSITORY.parent / "shared" / "weights")


@pytest.fixture(autouse=True)
def _same_draws_in_every_run():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PATCHKIN_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def horse2zebra() -> Path:
    if not (_DATA / "horse2zebra").is_dir():
        pytest.skip(f"no horse2zebra in {_DATA}; PATCHKIN_DATA names another folder")
    return _DATA / "horse2zebra"


@pytest.fixture
def weights_file() -> Callable[[str], Path]:
    def find(name: str) -> Path:
        if not (_WEIGHTS / name).is_file():
            pytest.skip(f"no {name} in {_WEIGHTS}; PATCHKIN_WEIGHTS names another folder")
        return _WEIGHTS / name

    return find


class TinyExtractor(nn.Module):
    """Averages of 2 x 2 cells through a fixed random map: 12 -> 5 features, and 6 classes."""

    name = "tiny"

    def __init__(self, sha256: str = "a" * 64) -> None:
        super().__init__()
        self.sha256 = sha256
        self.num_features = 5
        generator = torch.Generator().manual_seed(7)
        self.register_buffer("map", torch.randn(12, 11, generator=generator) / 100)

    def features(self, levels_BCHW: Tensor) -> Tensor:
        pooled_BCHW = nn.functional.adaptive_avg_pool2d(levels_BCHW.float(), 2)
        return pooled_BCHW.flatten(1) @ self.map

    def forward(self, levels_BCHW: Tensor) -> Features:
        rows = self.features(levels_BCHW)
        return Features(rows[:, :5], rows[:, 5:])


@pytest.fixture
def tiny() -> TinyExtractor:
    return TinyExtractor()


@pytest.fixture
def other_tiny() -> TinyExtractor:
    return TinyExtractor("b" * 64)


@pytest.fixture
def make_images(tmp_path) -> Callable[..., list[Path]]:
    def make(
        name: str, number: int, *, size: tuple[int, int] = (40, 24), seed: int = 0
    ) -> list[Path]:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        draws = np.random.default_rng([seed, number])
        paths = [folder / f"{index:03d}.png" for index in range(number)]
        for path in paths:
            array = draws.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(array).save(path)
        return paths

    return make
