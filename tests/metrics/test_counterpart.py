"""Scores against a known truth, worked out by hand and as loops."""

from __future__ import annotations

import math

import pytest
import torch

from patchkin.errors import ShapeError
from patchkin.metrics.counterpart import CounterpartScores, mean_scores, score_against_counterpart


def images(seed=0, size=(5, 7)):
    generator = torch.Generator().manual_seed(seed)
    x, y, z = (torch.rand(3, *size, generator=generator) * 2 - 1 for _ in range(3))
    mask = torch.rand(size, generator=generator) > 0.5
    return x, y, z, mask


def detail(image):
    grey = image.double().mean(dim=0)
    height, width = grey.shape
    result = torch.zeros_like(grey)
    for y in range(height):
        for x in range(width):
            down = grey[y + 1, x] - grey[y, x] if y + 1 < height else 0.0
            right = grey[y, x + 1] - grey[y, x] if x + 1 < width else 0.0
            result[y, x] = math.hypot(float(down), float(right))
    return result


def test_matches_loops():
    output, given, truth, mask = images()
    scores = score_against_counterpart(output, given, truth, mask)
    squares, inside, change = [], [], []
    for y in range(5):
        for x in range(7):
            for c in range(3):
                error = float(output[c, y, x]) - float(truth[c, y, x])
                squares.append(error**2)
                if mask[y, x]:
                    inside.append(error**2)
                else:
                    change.append(abs(float(output[c, y, x]) - float(given[c, y, x])) * 127.5)
    assert scores.psnr == pytest.approx(10 * math.log10(4 / (sum(squares) / len(squares))))
    assert scores.psnr_inside == pytest.approx(10 * math.log10(4 / (sum(inside) / len(inside))))
    assert scores.change_outside == pytest.approx(sum(change) / len(change), rel=1e-6)
    tones = [sorted(image.double().mean(dim=0)[mask].tolist()) for image in (output, truth)]
    tone = sum(abs(a - b) for a, b in zip(*tones, strict=True)) / len(tones[0]) * 127.5
    assert scores.tone_inside == pytest.approx(tone)
    grey = [image.double().mean(dim=0)[mask].tolist() for image in (output, truth)]
    level = sum(grey[1]) / len(grey[1])
    dark = [{i for i, value in enumerate(values) if value < level} for values in grey]
    assert scores.stripe_iou == pytest.approx(len(dark[0] & dark[1]) / len(dark[0] | dark[1]))
    expected = detail(output)[mask].mean() / detail(truth)[mask].mean()
    assert scores.detail_inside == pytest.approx(float(expected))


def test_the_truth_itself():
    _, given, truth, mask = images()
    truth = torch.where(mask, truth, given)
    scores = score_against_counterpart(truth, given, truth, mask)
    assert scores == CounterpartScores(
        psnr=math.inf,
        psnr_inside=math.inf,
        tone_inside=0.0,
        stripe_iou=1.0,
        change_outside=0.0,
        detail_inside=1.0,
    )


def test_the_mean_is_over_images():
    rows = [score_against_counterpart(*images(seed)) for seed in range(3)]
    assert mean_scores(rows)["psnr"] == pytest.approx(sum(row.psnr for row in rows) / 3)


def test_shapes_must_agree():
    output, given, truth, mask = images()
    with pytest.raises(ShapeError, match="must have the same shape"):
        score_against_counterpart(output[:, :4], given, truth, mask)
