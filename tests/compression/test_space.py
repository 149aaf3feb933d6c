"""Search spaces, written and drawn from."""

from __future__ import annotations

import pytest

from patchkin.compression.space import NAMED_SPACES, SearchSpace
from patchkin.errors import ConfigError
from patchkin.randomness import SeededDraws


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("channels-32", 6_561),
        ("channels-48", 5_184),
        ("channels-64-cyclegan", 390_625),
        ("channels-64-pix2pix", 5_764_801),
    ],
)
def test_published_sizes(name, size):
    assert SearchSpace.parse(name).size == size


def test_written_spaces():
    space = SearchSpace.parse("8_6,8_6,8_8_8_8_8_8")
    assert space.size == len(list(space)) == len(set(space)) == 4
    assert all(channels in space for channels in space)
    assert (8, 7, 8, 8, 8, 8, 8, 8) not in space
    six = SearchSpace.parse("8_6,8_6,8_4,2_8_8")
    assert six.widths == ((8,), (6, 8), (6, 8), (4, 2), (4, 2), (4, 2), (8,), (8,))
    alone = SearchSpace.parse("16_16_32_16_16_64_16_24")
    assert alone.largest == alone.smallest == (16, 16, 32, 16, 16, 64, 16, 24)
    assert SearchSpace.parse("8,8,4_1_1_1_1_1_1_1").size == 2


def test_extremes_do_not_depend_on_the_order():
    space = SearchSpace.parse("1,3,2_1_1_1_1_1_1_1")
    assert (space.largest[0], space.smallest[0]) == (3, 1)


def test_draws_are_uniform_and_independent():
    space, draws = SearchSpace.parse("1,2,3_1,2_1_1_1_1_1_1"), SeededDraws(0, 0)
    drawn = [space.drawn(draws.integer) for _ in range(3000)]
    counts = {channels: drawn.count(channels) for channels in space}
    assert sum(counts.values()) == 3000
    assert all(400 < count < 600 for count in counts.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("channels-64-cyclgan", "Did you mean `channels-64-cyclegan`"),
        ("8_8", "got 2"),
        ("8,0_8_8_8_8_8_8_8", "at least 1"),
        ("8,_8_8_8_8_8_8_8", "Unknown search space"),
    ],
)
def test_other_texts_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        SearchSpace.parse(text)


def test_names_are_not_configurations():
    assert all(SearchSpace.parse(name).size > 1 for name in NAMED_SPACES)
