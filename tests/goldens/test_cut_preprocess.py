"""Views and 8-bit output against the released CUT pipeline, pixel by pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from goldens.fixtures import Golden, golden_files
from patchkin.data.transforms import view
from patchkin.images import pillow_to_tensor, to_uint8
from patchkin.schedules import linear_decay

each_file = pytest.mark.parametrize("path", golden_files("cut_preprocess"))


class _Pinned:
    """`ViewDraws` with the values of a case."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case = case

    def zoom(self) -> tuple[float, float]:
        x, y = self.case["scale_factor"]
        return x, y

    def corner(self, width: int, height: int, crop_size: int) -> tuple[int, int]:
        x, y = self.case["crop_pos"]
        return x, y

    def patch(self, width: int, height: int, patch_size: int) -> tuple[int, int, int]:
        x, y = self.case["start"]
        return x, y, self.case["patch_index"]

    def coin(self) -> bool:
        return bool(self.case["flip"])


@each_file
def test_views(path: Path):
    golden = Golden(path)
    cases = golden.options["cases"]
    assert cases
    for name, case in cases.items():
        image = Image.fromarray(golden[f"image/{case['image']}"])
        pixels = view(
            image,
            _Pinned(case),
            preprocess=case["preprocess"],
            load_size=case["load_size"],
            crop_size=case["crop_size"],
            resize_filter=case["method"],
        )
        expected = torch.from_numpy(golden[f"out/{name}"])
        torch.testing.assert_close(
            pillow_to_tensor(pixels), expected, rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


@each_file
def test_views_of_float_tensors_follow_within_a_few_levels(path: Path):
    """16-bit and float images take torch's resize; it differs from Pillow's by 8-bit rounding.

    Pillow rounds between its horizontal and vertical pass and after each resize.
    """
    golden = Golden(path)
    for name, case in golden.options["cases"].items():
        if "patch" in case["preprocess"]:
            continue  # a pinned start may lie outside, which only Pillow pads
        image = pillow_to_tensor(Image.fromarray(golden[f"image/{case['image']}"]))
        pixels = view(
            image,
            _Pinned(case),
            preprocess=case["preprocess"],
            load_size=case["load_size"],
            crop_size=case["crop_size"],
            resize_filter=case["method"],
        )
        difference = (pixels - torch.from_numpy(golden[f"out/{name}"])).abs()
        assert difference.max() < 4 / 127.5, name
        assert difference.mean() < 0.5 / 127.5, name


@each_file
def test_to_uint8(path: Path):
    golden = Golden(path)
    images_BCHW = torch.from_numpy(golden["tensor2im/in"])
    expected_HWC = torch.from_numpy(golden["tensor2im/out"])
    shown_CHW = to_uint8(images_BCHW[0], "released").expand(3, -1, -1)  # grey is tiled there
    assert torch.equal(shown_CHW.permute(1, 2, 0), expected_HWC)


@each_file
def test_learning_rate_factors(path: Path):
    golden = Golden(path)
    for constant, decaying, _, epoch, factor in golden["lr_linear"].tolist():
        assert linear_decay(int(epoch), int(constant), int(decaying)) == pytest.approx(
            factor, abs=1e-12
        )
