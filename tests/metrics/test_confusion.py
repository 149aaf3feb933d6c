"""Stripes where they do not belong, and animals that are gone: hand cases, and the farm itself."""

from __future__ import annotations

import math

import pytest
import torch

from patchkin.data.toy_farm import FarmScene
from patchkin.errors import ShapeError
from patchkin.images import Encoding, Picture, to_tensor
from patchkin.metrics.confusion import is_lost, striping


def tensor(image):
    return to_tensor(Picture(image, Encoding(8, len(image.getbands()))))


def looped_contrast(image_HW, mask_HW, half):
    height, width = image_HW.shape
    distances = []
    for row in range(height):
        for column in range(width):
            if not mask_HW[row, column]:
                continue
            near = [
                float(image_HW[i, j])
                for i in range(max(0, row - half), min(height, row + half + 1))
                for j in range(max(0, column - half), min(width, column + half + 1))
                if mask_HW[i, j]
            ]
            distances.append(abs(float(image_HW[row, column]) - sum(near) / len(near)))
    return sum(distances) / len(distances)


def test_striping_is_the_contrast_on_its_way_written_as_loops():
    generator = torch.Generator().manual_seed(0)
    output, plain = torch.rand(2, 2, 22, 31, generator=generator, dtype=torch.float64)
    plain = 0.1 * plain
    striped = 3 * output
    mask_HW = torch.rand(22, 31, generator=generator) < 0.6
    ours, theirs, most = (
        looped_contrast(image.mean(dim=0), mask_HW, half=1) for image in (output, plain, striped)
    )
    expected = (ours - theirs) / (most - theirs)
    assert striping(output, plain, striped, mask_HW) == pytest.approx(expected, rel=1e-9)


def test_less_contrast_is_no_striping_and_a_region_can_be_too_small():
    plain = torch.linspace(-1, 1, 1600).view(1, 40, 40)
    striped = plain + torch.tensor([1.0, -1.0]).repeat(20)
    everywhere = torch.ones(40, 40, dtype=torch.bool)
    assert striping(0 * plain, plain, striped, everywhere) == 0
    dot = torch.zeros(40, 40, dtype=torch.bool)
    dot[3, 3] = True
    assert math.isnan(striping(plain, plain, striped, dot))
    assert math.isnan(striping(plain, striped, plain, everywhere))
    with pytest.raises(ShapeError):
        striping(plain, plain[:, :3], striped, everywhere)


@pytest.mark.parametrize("size", [64, 96])
def test_the_farms_own_images_score_as_they_are(size):
    for seed in range(6):
        scene = FarmScene(size, seed)
        shown, truth, confused, empty = (
            tensor(image)
            for image in (
                scene.shown(striped=False), scene.truth(), scene.confused(), scene.empty(),
            )
        )  # fmt: skip
        animal, bystander, things = (
            tensor(mask)[0] > 0
            for mask in (scene.mask(), scene.bystander_mask(), scene.things_mask())
        )
        for region in (bystander, things):
            assert striping(truth, shown, confused, region) == 0
            assert striping(confused, shown, confused, region) == pytest.approx(1)
            half = striping((shown + confused) / 2, shown, confused, region)
            assert 0.2 < half < 0.8
        shifted = confused.roll(1, dims=2)  # stripes at other places are stripes
        assert striping(shifted, shown, confused, bystander) > 0.5
        assert not any(
            is_lost(image, shown, truth, empty, animal) for image in (shown, truth, confused)
        )
        assert is_lost(empty, shown, truth, empty, animal)
