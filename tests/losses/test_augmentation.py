"""Each change against loops, and what the discriminator's images need: gradients, own draws."""

from __future__ import annotations

import itertools

import pytest
import torch

from patchkin.errors import ConfigError
from patchkin.losses.augmentation import augmented, cut_out, recolour, shift
from patchkin.randomness import SeededDraws
from support import FixedDraws

ALL = ("color", "translation", "cutout")


def images(*shape):
    return torch.rand(shape, dtype=torch.float64) * 2 - 1


def factors(*values):
    return torch.tensor(values, dtype=torch.float64)


def fixed(*rows):
    return FixedDraws(uniforms=[torch.tensor(numbers) for numbers in rows])


def test_colours_match_the_description_pixel_by_pixel():
    x_BCHW = images(2, 3, 2, 4)
    brightness, saturation, contrast = [0.3, -0.5], [1.7, 0.2], [0.6, 1.4]
    expected = torch.empty_like(x_BCHW)
    pixels = list(itertools.product(range(2), range(4)))
    for b in range(2):
        saturated = torch.empty(3, 2, 4, dtype=torch.float64)
        for y, x in pixels:
            bright = [float(x_BCHW[b, c, y, x]) + brightness[b] for c in range(3)]
            grey = sum(bright) / 3
            for c in range(3):
                saturated[c, y, x] = grey + saturation[b] * (bright[c] - grey)
        mean = sum(float(saturated[c, y, x]) for c in range(3) for y, x in pixels) / 24
        expected[b] = mean + contrast[b] * (saturated - mean)
    actual = recolour(
        x_BCHW,
        brightness_B=factors(*brightness),
        saturation_B=factors(*saturation),
        contrast_B=factors(*contrast),
    )
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


def test_shifts_match_loops():
    x_BCHW, moves = images(3, 2, 4, 6), [(1, -2), (-3, 0), (0, 5)]
    expected = torch.zeros_like(x_BCHW)
    for (b, (down, right)), y, x in itertools.product(enumerate(moves), range(4), range(6)):
        if 0 <= y - down < 4 and 0 <= x - right < 6:
            expected[b, :, y, x] = x_BCHW[b, :, y - down, x - right]
    assert torch.equal(shift(x_BCHW, torch.tensor(moves)), expected)


def test_cuts_match_loops():
    x_BCHW, corners, (height, width) = images(3, 2, 5, 7), [(0, 0), (-1, 5), (4, 2)], (2, 3)
    expected = x_BCHW.clone()
    for (b, (top, left)), y, x in itertools.product(enumerate(corners), range(5), range(7)):
        if top <= y < top + height and left <= x < left + width:
            expected[b, :, y, x] = 0
    assert torch.equal(cut_out(x_BCHW, torch.tensor(corners), (height, width)), expected)


def test_without_strength_every_change_is_the_identity():
    x_BCHW, none, one = images(2, 3, 6, 5).float(), torch.zeros(2), torch.ones(2)
    same = recolour(x_BCHW, brightness_B=none, saturation_B=one, contrast_B=one)
    assert torch.equal(same, x_BCHW)
    nowhere = torch.zeros(2, 2, dtype=torch.int64)
    assert torch.equal(shift(x_BCHW, nowhere), x_BCHW)
    assert torch.equal(cut_out(x_BCHW, nowhere, (0, 0)), x_BCHW)


def test_numbers_in_the_middle_of_their_range_change_no_colour_and_no_place():
    x_BCHW = images(2, 3, 16, 24)
    middle = fixed([[0.5] * 3] * 2, [[0.5] * 2] * 2)
    assert torch.equal(augmented(x_BCHW, ["color", "translation"], middle), x_BCHW)


@pytest.mark.parametrize(("number", "down", "right"), [(0.0, -2, -3), (1 - 2**-24, 2, 3)])
def test_the_ends_of_the_range_move_by_an_eighth_of_each_side(number, down, right):
    x_BCHW = images(1, 1, 16, 24)
    moved = augmented(x_BCHW, ["translation"], fixed([[number, number]]))
    assert torch.equal(moved, shift(x_BCHW, torch.tensor([[down, right]])))


@pytest.mark.parametrize(
    ("number", "rows", "columns"),
    [
        ([0.0, 0.0], range(4), range(3)),
        ([0.5, 0.5], range(4, 12), range(3, 8)),
        ([0.999, 0.5], range(11, 16), range(3, 8)),
    ],
)
def test_a_cut_hides_half_of_each_side_where_it_lies_in_the_image(number, rows, columns):
    changed = augmented(torch.ones(1, 1, 16, 10), ["cutout"], fixed([number]))
    hidden = {(y, x) for _, _, y, x in (changed == 0).nonzero().tolist()}
    assert hidden == set(itertools.product(rows, columns))


def test_a_cut_of_odd_sides_hides_the_whole_numbers_below_their_halves():
    changed = augmented(torch.ones(1, 1, 7, 5), ["cutout"], fixed([[0.5, 0.5]]))
    hidden = {(y, x) for _, _, y, x in (changed == 0).nonzero().tolist()}
    assert hidden == set(itertools.product(range(2, 5), range(1, 3)))


def test_the_ends_of_the_range_of_colours():
    x_BCHW = images(2, 3, 4, 4)
    changed = augmented(x_BCHW, ["color"], fixed([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
    expected = recolour(
        x_BCHW,
        brightness_B=factors(-0.5, 0.5),
        saturation_B=factors(0.0, 2.0),
        contrast_B=factors(0.5, 1.5),
    )
    torch.testing.assert_close(changed, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ALL)
def test_every_image_is_changed_in_its_own_way_and_alone_as_in_the_batch(kind):
    same_BCHW = images(1, 3, 32, 40).expand(4, -1, -1, -1)
    whole = augmented(same_BCHW, [kind], SeededDraws(0, 3))
    for first, second in itertools.combinations(whole, 2):
        assert not torch.equal(first, second)
    for rank in range(4):
        draws = SeededDraws(0, 3, rank=rank, world_size=4)
        assert torch.equal(augmented(same_BCHW[:1], [kind], draws), whole[rank : rank + 1])


def test_the_same_draws_make_the_same_images_in_any_order_of_names():
    x_BCHW = images(2, 3, 32, 32)
    first = augmented(x_BCHW, ALL, SeededDraws(0, 1))
    assert torch.equal(augmented(x_BCHW, ALL[::-1], SeededDraws(0, 1)), first)
    assert not torch.equal(augmented(x_BCHW, ALL, SeededDraws(0, 2)), first)


def test_over_many_steps_the_ranges_are_filled_evenly():
    """Brightness of a grey image is its mean; translation and cutout are read off their zeros."""
    grey_BCHW, ones_BCHW = torch.zeros(400, 3, 2, 2), torch.ones(400, 1, 16, 16)
    brightness = augmented(grey_BCHW, ["color"], SeededDraws(0, 0)).mean(dim=(1, 2, 3))
    counts = torch.histc(brightness, bins=4, min=-0.5, max=0.5)
    assert counts.sum() == 400
    assert all(70 < count < 130 for count in counts.tolist())
    moved = augmented(ones_BCHW, ["translation"], SeededDraws(0, 0))
    zero_rows = (moved[:, 0, :, 5:11] == 0).all(dim=2).sum(dim=1)
    counts = torch.bincount(zero_rows, minlength=3).tolist()  # 0, 1 or 2 rows, up or down
    for count, expected in zip(counts, (80, 160, 160), strict=True):
        assert abs(count - expected) < 35


def test_grey_and_many_channels():
    grey_BCHW = images(2, 1, 16, 16)
    unsaturated = recolour(
        grey_BCHW, brightness_B=factors(0, 0), saturation_B=factors(0, 2), contrast_B=factors(1, 1)
    )
    torch.testing.assert_close(unsaturated, grey_BCHW, rtol=1e-12, atol=1e-14)
    assert augmented(images(2, 5, 16, 12), ALL, SeededDraws(0, 0)).shape == (2, 5, 16, 12)


def test_gradients_match_finite_differences_twice():
    x_BCHW = images(2, 3, 8, 9).requires_grad_()
    change = lambda x: augmented(x, ALL, SeededDraws(5, 0)).square()  # noqa: E731
    assert torch.autograd.gradcheck(change, (x_BCHW,))
    assert torch.autograd.gradgradcheck(change, (x_BCHW[:, :, :2, :3].detach().requires_grad_(),))


def test_an_unknown_kind_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"augmentation `cutuot`\. Did you mean `cutout`"):
        augmented(images(1, 3, 8, 8), ["cutuot"], SeededDraws(0, 0))
