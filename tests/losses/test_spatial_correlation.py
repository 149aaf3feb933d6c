import contextlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchkin.errors import ConfigError, ShapeError
from patchkin.losses import spatial_correlation
from patchkin.losses.spatial_correlation import (
    self_similarity,
    structure_contrast,
    structure_distance,
)


def feature(*shape):
    return torch.randn(*shape, dtype=torch.float64).requires_grad_()


def naive_similarity(feature_BCHW, places, window, *, unit):
    """Place by place, position by position."""
    channels, height, width = feature_BCHW.shape[1:]
    local = window < height and window < width
    maps = []
    for image in feature_BCHW - feature_BCHW.mean(dim=(2, 3), keepdim=True):
        rows = []
        for place in places:
            y, x = place // width, place % width
            top, left, tall, wide = 0, 0, height, width
            if local:
                top = min(max(y - window // 2, 0), height - window)
                left = min(max(x - window // 2, 0), width - window)
                tall = wide = window
            row = []
            for v in range(top, top + tall):
                for u in range(left, left + wide):
                    dot = (image[:, y, x] * image[:, v, u]).sum()
                    if unit:
                        row.append(dot / image[:, y, x].norm() / image[:, v, u].norm())
                    else:
                        row.append((dot / (10 * channels)).tanh())
            rows.append(torch.stack(row))
        maps.append(torch.stack(rows))
    return torch.stack(maps)


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((1, 2, 5, 5), 3),
        ((2, 3, 4, 7), 3),
        ((2, 3, 7, 4), 2),
        ((1, 4, 3, 9), 3),  # as high as the window: all positions
        ((1, 4, 9, 3), 3),  # as wide
        ((2, 2, 1, 6), 64),
    ],
)
@pytest.mark.parametrize("unit", [False, True])
def test_maps_match_loops(shape, window, unit):
    f = feature(*shape)
    size = shape[2] * shape[3]
    places = torch.tensor([0, size - 1, size // 2, shape[3] - 1])
    actual = self_similarity(f, places, window=window, unit=unit)
    expected = naive_similarity(f, places.tolist(), window, unit=unit)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    weights = torch.randn_like(expected)
    (ours,) = torch.autograd.grad((weights * actual).sum(), f)
    (theirs,) = torch.autograd.grad((weights * expected).sum(), f)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)


def test_no_places_are_all_places():
    f = feature(2, 3, 4, 5)
    everywhere = self_similarity(f, torch.arange(20), window=3)
    assert torch.equal(self_similarity(f, window=3), everywhere)
    assert everywhere.shape == (2, 20, 9)


def test_the_gradient_reaches_the_map_contiguously():
    """Channels-last gradients are what torch's CPU instance norm cannot take at batch 1."""
    seen = []
    f = feature(1, 3, 6, 6) * 1
    f.register_hook(lambda gradient: seen.append(gradient.is_contiguous()))
    self_similarity(f, torch.tensor([3, 8]), window=3).square().sum().backward()
    assert seen == [True]


def naive_distance(source, target, comparison, *, unit):
    losses = []
    for image_s, image_t in zip(source, target, strict=True):
        for s, t in zip(image_s, image_t, strict=True):
            n = len(t)
            least = sorted(t.tolist(), reverse=True)[n // 4]
            kept = [i for i in range(n) if t[i] >= least]
            if comparison == "cosine":
                dot = sum(s[i] * t[i] for i in kept)
                lengths = [sum(row[i] ** 2 for i in kept).sqrt() for row in (s, t)]
                differences = [1 - dot / (lengths[0] * lengths[1])]
                scale = 1
            else:
                scale = n / max(1, n // 4)
                differences = [scale * (s[i] - t[i]) * (i in kept) for i in range(n)]
            for d in differences:
                near = not unit and d.abs() < 1
                losses.append(0.5 * d**2 if near else d.abs() - (0 if unit else 0.5))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 3, 9), (3, 2, 30), (2, 2, 3)])
@pytest.mark.parametrize("comparison", ["cosine", "l1"])
@pytest.mark.parametrize("unit", [False, True])
def test_distance_matches_loops(shape, comparison, unit):
    source, target = feature(*shape), feature(*shape)
    actual = structure_distance(source, target, comparison=comparison, unit=unit)
    expected = naive_distance(source, target, comparison, unit=unit)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(actual, (source, target)),
        torch.autograd.grad(expected, (source, target)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_the_translation_chooses_what_counts():
    source = torch.tensor([[[9.0, 0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0]]])
    target = torch.tensor([[[0.0, 0.0, 0.0, 0.0, 3.0, 6.0, 5.0, 0.0]]])
    # 6, 5 and 3 count: the cosine of (1, 2, 0) and (3, 6, 5).
    cosine = 15 / math.sqrt(5 * 70)
    actual = structure_distance(source, target)
    assert actual.item() == pytest.approx(0.5 * (1 - cosine) ** 2, rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 4), (2, 3, 9), (3, 5, 4)])
def test_contrast_matches_loops(shape):
    maps = [feature(*shape) for _ in range(3)]
    tau = 0.07
    actual = structure_contrast(*maps, temperature=tau)
    losses = []
    for image in zip(*maps, strict=True):
        s, t, o = ([row / row.norm() for row in rows] for rows in image)
        for i in range(shape[1]):
            others = [s[i] @ row for row in t] + [s[i] @ row for row in o] + [t[i] @ r for r in o]
            losses.append(-torch.stack([x / tau for x in others]).log_softmax(0)[i])
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(actual, maps), torch.autograd.grad(expected, maps), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_a_batch_has_the_mean_loss_of_its_images():
    maps = [torch.randn(4, 5, 12) for _ in range(3)]
    for loss in (
        lambda s, t, o: structure_distance(s, t),
        lambda s, t, o: structure_contrast(s, t, o, temperature=0.07),
    ):
        singles = [loss(*(rows[i : i + 1] for rows in maps)) for i in range(4)]
        torch.testing.assert_close(loss(*maps), sum(singles) / 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_features_are_compared_in_float32(dtype):
    f = torch.randn(2, 3, 5, 5).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = self_similarity(f, window=3)
        loss = structure_distance(maps, maps.flip(0))
    assert maps.dtype is loss.dtype is torch.float32
    assert torch.equal(maps, self_similarity(f.float(), window=3))


def test_wording_of_errors():
    maps = torch.zeros(2, 3, 8)
    with pytest.raises(ShapeError, match=r"must be \[B, C, H, W\]; got \(2, 3, 8\)"):
        self_similarity(maps, window=3)
    with pytest.raises(ConfigError, match="`window` must be at least 1; got 0"):
        self_similarity(torch.zeros(1, 2, 3, 3), window=0)
    with pytest.raises(ShapeError, match=r"got \(2, 3, 8\) and \(2, 2, 8\)"):
        structure_distance(maps, maps[:, :2])
    with pytest.raises(ConfigError, match=r"Unknown comparison `cos`\. Did you mean `cosine`"):
        structure_distance(maps, maps, comparison="cos")
    with pytest.raises(ConfigError, match="`temperature` must be positive; got -1"):
        structure_contrast(maps, maps, maps, temperature=-1)
    for at in range(3):
        unlike = [maps[:, :, :7] if place == at else maps for place in range(3)]
        with pytest.raises(ShapeError, match=r"`source_BKN` and `target_BKN` and `other_BKN`"):
            structure_contrast(*unlike, temperature=0.07)


def test_released_is_the_default():
    f = feature(2, 3, 4, 5)
    assert torch.equal(self_similarity(f, window=3), self_similarity(f, window=3, unit=False))
    source, target = feature(2, 3, 9), feature(2, 3, 9)
    for unit in (False, True):
        expected = structure_distance(source, target, comparison="cosine", unit=unit)
        assert torch.equal(structure_distance(source, target, unit=unit), expected)
    assert not torch.equal(structure_distance(source, target), expected)
    expected = structure_distance(source, target, comparison="l1", unit=False)
    assert torch.equal(structure_distance(source, target, comparison="l1"), expected)


@settings(deadline=None, max_examples=12, derandomize=True)
@given(
    st.tuples(*(st.integers(1, most) for most in (2, 3, 6, 6))), st.integers(1, 7), st.booleans()
)
def test_maps_of_any_size_match_loops(shape, window, unit):
    """Places may be fewer or more than the window has, and sides shorter than it."""
    height, width = shape[2:]
    f = torch.randn(*shape, dtype=torch.float64) + 0.1
    places = torch.arange(0, height * width, 3)
    actual = self_similarity(f, places, window=window, unit=unit)
    expected = naive_similarity(f, places.tolist(), window, unit=unit)
    if unit and height * width == 1:  # one position has no length around its mean
        assert torch.isfinite(actual).all()
        return
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-10)


def test_what_it_makes_is_where_the_features_are(monkeypatch):
    """torch's `meta` stands for a card: it meets no tensor of the host either."""
    monkeypatch.setattr(spatial_correlation, "without_autocast", contextlib.nullcontext)
    feature_BCHW = torch.zeros(2, 3, 6, 7, device="meta")
    maps_BKN = self_similarity(feature_BCHW, window=3)
    assert (maps_BKN.device.type, maps_BKN.shape) == ("meta", (2, 42, 9))
    assert structure_distance(maps_BKN, maps_BKN).device.type == "meta"
