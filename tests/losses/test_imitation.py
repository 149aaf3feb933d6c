"""The losses of a student that copies its teachers' images: against loops and hand cases."""

from __future__ import annotations

import math

import pytest
import torch

from patchkin.errors import ShapeError
from patchkin.losses.imitation import (
    channel_mean_distance,
    feature_distance,
    gram_distance,
    gram_matrices,
    image_similarities,
    similarity_distance,
    total_variation,
)


def images(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1


def close(actual, expected, *, relative=1e-9):
    scale = float(torch.as_tensor(expected).abs().max())
    torch.testing.assert_close(actual, expected, rtol=0, atol=relative * max(scale, 1e-12))


def gradients_agree(loss, looped, x, *, relative=1e-9):
    """Value and gradient of two forms of a loss."""
    pairs = []
    for form in (loss, looped):
        own = x.clone().requires_grad_()
        value = form(own)
        pairs.append((value.detach(), torch.autograd.grad(value, own)[0]))
    close(pairs[0][0], pairs[1][0], relative=relative)
    close(pairs[0][1], pairs[1][1], relative=relative)


def looped_similarity(x_HW, y_HW):
    """Pixel by pixel, with zeros beyond the border."""
    height, width = x_HW.shape
    bell = [math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)]
    bell = [weight / sum(bell) for weight in bell]
    total = torch.zeros((), dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            sums = [torch.zeros((), dtype=torch.float64) for _ in range(5)]
            for down in range(11):
                for across in range(11):
                    i, j = row + down - 5, column + across - 5
                    if 0 <= i < height and 0 <= j < width:
                        x, y, weight = x_HW[i, j], y_HW[i, j], bell[down] * bell[across]
                        for place, value in enumerate((x, y, x * x, y * y, x * y)):
                            sums[place] = sums[place] + weight * value
            x, y, xx, yy, xy = sums
            above = (2 * x * y + 1e-4) * (2 * (xy - x * y) + 9e-4)
            total = total + above / ((x * x + y * y + 1e-4) * (xx - x * x + yy - y * y + 9e-4))
    return total / (height * width)


def test_ssim_is_the_formula_written_as_loops_with_its_gradient():
    """Two images, smaller than the window, neither square nor even. The window is float32's."""
    x, y = images(2, 2, 3, 5), images(2, 2, 3, 5, seed=1)
    each = [
        torch.stack([looped_similarity(x[b, c], y[b, c]) for c in range(2)]).mean()
        for b in range(2)
    ]
    close(image_similarities(x, y), torch.stack(each), relative=1e-5)

    def looped(own):
        return 1 - sum(looped_similarity(own[b, c], y[b, c]) for b in (0, 1) for c in (0, 1)) / 4

    gradients_agree(lambda own: similarity_distance(own, y), looped, x, relative=1e-5)


def test_ssim_of_a_single_pixel_by_hand():
    """All but the middle of the window lies beyond the border, where zeros are."""
    bell = [math.exp(-((i - 5) ** 2) / 4.5) for i in range(11)]
    w = (bell[5] / sum(bell)) ** 2
    above = (2 * w * w * 0.6 * 0.8 + 1e-4) * (2 * (w - w * w) * 0.6 * 0.8 + 9e-4)
    squares = 0.6**2 + 0.8**2
    expected = above / ((w * w * squares + 1e-4) * ((w - w * w) * squares + 9e-4))
    x, y = torch.full((1, 1, 1, 1), 0.6).double(), torch.full((1, 1, 1, 1), 0.8).double()
    assert image_similarities(x, y).item() == pytest.approx(expected, rel=1e-5)


def test_ssim_is_one_without_a_gradient_for_equal_images_and_low_across_zero():
    x = images(2, 3, 13, 18).requires_grad_()
    similarities = image_similarities(x, x.detach())
    close(similarities, torch.ones(2).double())
    (gradient,) = torch.autograd.grad(similarities.sum(), x)
    assert gradient.abs().max() < 1e-8
    faint = images(1, 1, 32, 32) * 0.03
    assert image_similarities(faint - 0.1, faint + 0.1).item() < -0.5
    assert image_similarities(faint + 0.6, faint + 0.8).item() > 0.9


def test_gram_matrices_are_sums_over_places():
    x = images(2, 3, 4, 5)
    for b in range(2):
        for i in range(3):
            for j in range(3):
                value = sum(
                    float(x[b, i, row, column] * x[b, j, row, column])
                    for row in range(4)
                    for column in range(5)
                )
                assert gram_matrices(x)[b, i, j].item() == pytest.approx(value / 60, rel=1e-12)


@pytest.mark.parametrize("relative", [False, True])
def test_gram_and_feature_distances_as_loops_with_their_gradients(relative):
    x, y = images(2, 3, 3, 5), images(2, 3, 3, 5, seed=1)

    def gram(map_CHW):
        rows = map_CHW.reshape(3, -1)
        return torch.stack([torch.stack([(a * b).sum() / 45 for b in rows]) for a in rows])

    def looped_grams(own):
        ours = torch.stack([gram(own[b]) for b in range(2)])
        theirs = torch.stack([gram(y[b]) for b in range(2)])
        total = sum(abs(a - b) for a, b in zip(ours.flatten(), theirs.flatten(), strict=True))
        mean = float(sum(abs(b) for b in theirs.flatten())) / 18
        return total / 18 / (mean + 1e-8 if relative else 1)

    def looped_features(own):
        total = sum(abs(a - b) for a, b in zip(own.flatten(), y.flatten(), strict=True))
        mean = float(sum(abs(b) for b in y.flatten())) / 90
        return total / 90 / (mean + 1e-8 if relative else 1)

    gradients_agree(lambda own: gram_distance(own, y, relative=relative), looped_grams, x)
    gradients_agree(lambda own: feature_distance(own, y, relative=relative), looped_features, x)


def test_a_relative_distance_does_not_depend_on_the_scale_of_the_features():
    x, y = images(2, 3, 4, 5), images(2, 3, 4, 5, seed=1)
    for distance in (gram_distance, feature_distance):
        pair = [distance(scale * x, scale * y, relative=True) for scale in (1.0, 100.0)]
        close(pair[0], pair[1], relative=1e-6)
        assert distance(100 * x, 100 * y) > 50 * distance(x, y)


def test_total_variation_is_a_sum_over_neighbours_with_its_gradient():
    x = images(2, 2, 3, 5)

    def looped(own):
        total = torch.zeros((), dtype=torch.float64)
        for image in own.reshape(-1, 3, 5):
            for row in range(3):
                for column in range(5):
                    if column:
                        total = total + (image[row, column] - image[row, column - 1]).abs()
                    if row:
                        total = total + (image[row, column] - image[row - 1, column]).abs()
        return total

    gradients_agree(total_variation, looped, x)
    assert total_variation(torch.cat([x, x])).item() == pytest.approx(2 * looped(x).item())
    assert total_variation(torch.ones(1, 1, 1, 1)).item() == 0


def test_channel_means_as_loops_with_their_gradient():
    x, y = images(2, 3, 3, 5), images(2, 3, 2, 7, seed=1)

    def looped(own):
        total = torch.zeros((), dtype=torch.float64)
        for b in range(2):
            for c in range(3):
                total = total + (own[b, c].sum() / 15 - y[b, c].sum() / 14) ** 2
        return total / 6

    gradients_agree(lambda own: channel_mean_distance(own, y), looped, x)


def test_a_batch_gives_the_mean_of_its_images_but_for_the_variation():
    x, y = images(3, 2, 7, 9), images(3, 2, 7, 9, seed=1)
    for loss in (similarity_distance, gram_distance, feature_distance, channel_mean_distance):
        singles = torch.stack([loss(x[b : b + 1], y[b : b + 1]) for b in range(3)])
        close(loss(x, y), singles.mean())


def test_the_teacher_gets_no_gradient():
    x, y = images(1, 2, 5, 4).requires_grad_(), images(1, 2, 5, 4, seed=1).requires_grad_()
    for loss in (similarity_distance, gram_distance, feature_distance, channel_mean_distance):
        assert torch.autograd.grad(loss(x, y), y, allow_unused=True)[0] is None
        assert torch.autograd.grad(loss(x, y), x)[0].abs().max() > 0


def test_16_bits_are_widened_and_shapes_checked():
    x = torch.full((1, 2, 40, 40), 0.3, dtype=torch.bfloat16)
    for loss in (similarity_distance, gram_distance, feature_distance, channel_mean_distance):
        assert loss(x, 0 * x).dtype is torch.float32
        with pytest.raises(ShapeError, match="must have the same shape"):
            loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3, 3))
    assert total_variation(x).dtype is torch.float32
    for loss in (gram_matrices, total_variation):
        with pytest.raises(ShapeError, match=r"must be \[B, C, H, W\]; got \(2, 3, 3\)"):
            loss(torch.zeros(2, 3, 3))
