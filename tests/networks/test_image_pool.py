import pytest
import torch

from patchkin.errors import ConfigError, ShapeError
from patchkin.networks import ImagePool, ImagePoolConfig
from patchkin.randomness import SeededDraws
from support import FixedDraws


def numbered(*values: float, size: tuple[int, int] = (2, 3)) -> torch.Tensor:
    """Images that show which one they are."""
    return torch.stack([torch.full((3, *size), float(value)) for value in values])


def shown(pool, images, draws):
    return [int(image.unique().item()) for image in pool(images, draws)]


def small_pool(capacity: int = 2) -> ImagePool:
    return ImagePool(3, ImagePoolConfig(capacity=capacity, side=3))


def test_fills_first_then_swaps_on_heads():
    """Pinned: a coin per image of a full pool, and an integer only if it shows heads."""
    pool, draws = small_pool(), FixedDraws(coins=[True, False, True, True], integers=[1, 1, 0])
    assert shown(pool, numbered(1), draws) == [1]
    assert shown(pool, numbered(2), draws) == [2]
    assert shown(pool, numbered(3), draws) == [2]  # heads, slot 1: shown 2, stored 3
    assert shown(pool, numbered(4), draws) == [4]  # tails: 4 is shown and forgotten
    assert shown(pool, numbered(5), draws) == [3]
    assert shown(pool, numbered(6), draws) == [1]
    assert pool.images_PN[:, 0].tolist() == [6, 5]


def test_a_batch_is_its_images_one_after_the_other():
    together, apart = small_pool(3), small_pool(3)
    images = numbered(*range(12))
    whole = shown(together, images, SeededDraws(0, 0))
    draws = SeededDraws(0, 0)
    singles = [shown(apart, images[i : i + 1], draws)[0] for i in range(12)]
    assert whole == singles
    assert torch.equal(together.images_PN, apart.images_PN)
    assert whole != list(range(12))


def test_a_batch_can_be_shown_what_it_stored_itself():
    pool = small_pool(1)
    assert shown(pool, numbered(1, 2), FixedDraws(coins=[True], integers=[0])) == [1, 1]


def test_half_of_the_images_of_a_full_pool_are_earlier_ones():
    pool, draws = small_pool(5), SeededDraws(0, 0)
    values = [(i, shown(pool, numbered(i), draws)[0]) for i in range(405)]
    earlier = sum(seen != new for new, seen in values[5:])
    assert 160 < earlier < 240


def test_content_survives_saving():
    pool, resumed = small_pool(), small_pool()
    pool(numbered(1, 2), FixedDraws())
    resumed.load_state_dict(pool.state_dict())
    for step in range(10):
        images = numbered(10.0 + step)
        outcomes = [shown(p, images, SeededDraws(0, step)) for p in (pool, resumed)]
        assert outcomes[0] == outcomes[1]
    assert all(torch.equal(t, resumed.state_dict()[n]) for n, t in pool.state_dict().items())


def test_a_pool_of_nothing_shows_new_images_without_draws_and_graph():
    images = numbered(1, 2).requires_grad_()
    out = ImagePool(3, ImagePoolConfig(capacity=0))(images, FixedDraws())
    assert torch.equal(out, images)
    assert not out.requires_grad


def test_what_is_shown_is_detached_and_stays_when_the_pool_changes():
    pool = small_pool(1)
    first = pool(numbered(1).requires_grad_(), FixedDraws())
    second = pool(numbered(2), FixedDraws(coins=[True], integers=[0]))
    pool(numbered(3), FixedDraws(coins=[True], integers=[0]))
    assert not first.requires_grad
    assert second.unique().item() == 1


def test_the_images_of_all_processes_are_pooled():
    pool = small_pool(4)
    out = pool(numbered(1), FixedDraws(), lambda images: torch.cat([images, images + 1]))
    assert out[:, 0, 0, 0].tolist() == [1, 2]
    assert int(pool.num_stored) == 2


def test_other_shapes_of_as_many_pixels_fit():
    pool = small_pool()
    assert pool(numbered(1, size=(1, 9)), FixedDraws()).shape == (1, 3, 1, 9)


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"4 x 3 pixels .* 3 x 3; set `pool.side` to 4"):
        small_pool()(numbered(1, size=(4, 3)), FixedDraws())
    with pytest.raises(ShapeError, match="3 channels; got 1"):
        small_pool()(numbered(1)[:, :1], FixedDraws())
    with pytest.raises(ConfigError, match="`capacity` must be at least 0; got -1"):
        ImagePoolConfig(capacity=-1)
    with pytest.raises(ConfigError, match="`side` must be at least 1; got 0"):
        ImagePoolConfig(side=0)


def test_images_of_several_sizes_are_kept_each_with_its_own():
    pool, draws = small_pool(), FixedDraws(coins=[True, True], integers=[0, 0])
    for value, size in ((1, (2, 3)), (2, (3, 1))):
        pool(numbered(value, size=size), draws)
    first = pool(numbered(3, size=(3, 3)), draws)
    assert (first.shape, first.unique().tolist()) == ((1, 3, 2, 3), [1])
    second = pool(numbered(4, size=(1, 2)), draws)
    assert (second.shape, second.unique().tolist()) == ((1, 3, 3, 3), [3])
    assert pool.sizes_P2.tolist() == [[1, 2], [3, 1]]


def test_a_batch_cannot_be_shown_images_of_several_sizes():
    pool = small_pool(1)
    pool(numbered(1, size=(3, 2)), FixedDraws())
    with pytest.raises(ShapeError, match=r"of several sizes, .* use --batch-size 1"):
        pool(numbered(2, 3), FixedDraws(coins=[True, False], integers=[0]))
