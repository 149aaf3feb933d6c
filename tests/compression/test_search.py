"""Evolution search, against exhaustive search and against itself after a stop."""

from __future__ import annotations

import json
import math

import pytest

from patchkin.compression.cost import configuration_cost
from patchkin.compression.search import EvolutionSearch, SearchConfig
from patchkin.compression.space import SearchSpace
from patchkin.errors import CheckpointError, ConfigError
from patchkin.networks.separable import format_channels

SPACE = SearchSpace.parse("channels-32")
LIKED = (24, 16, 32, 24, 32, 16, 24, 32)
BUDGET = 2.2e9


def distance(channels):
    """A fitness whose best within the budget is not its best of all."""
    return sum((a - b) ** 2 for a, b in zip(channels, LIKED, strict=True)) + 0.001 * channels[3]


def config(**changes):
    return SearchConfig(
        **{"budget": BUDGET, "population": 40, "generations": 12, "seed": 1, **changes}
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_finds_what_exhaustive_search_finds(seed):
    fitting = [c for c in SPACE if configuration_cost(c).macs <= BUDGET]
    search = EvolutionSearch(SPACE, config(seed=seed, generations=30))
    best = search.run(distance)
    assert best.score == min(map(distance, fitting))
    assert best.channels in fitting
    assert 0 < len(fitting) < SPACE.size


def test_every_candidate_fits_and_is_scored_once():
    asked = []

    def fitness(channels):
        asked.append(channels)
        return distance(channels)

    search = EvolutionSearch(SPACE, config())
    search.run(fitness)
    assert len(asked) == len(set(asked)) == len(search.state.scores)
    assert all(configuration_cost(channels).macs <= BUDGET for channels in asked)
    assert all(channels in SPACE for channels in asked)
    assert len(set(search.state.parents)) == 10
    scores = [distance(channels) for channels in search.state.parents]
    assert scores == sorted(scores)
    bests = [entry["score"] for entry in search.state.history]
    assert bests == sorted(bests, reverse=True)


def test_the_exact_convention_admits_more():
    for convention in ("published", "exact"):
        search = EvolutionSearch(SPACE, config(convention=convention, generations=3))
        search.run(lambda channels: -sum(channels))
        counted = [c.cost.counted(convention) for c in search.candidates()]
        assert max(counted) <= BUDGET
        published = [c.cost.macs for c in search.candidates()]
        assert (max(published) > BUDGET) == (convention == "exact")


def test_higher_can_be_better():
    search = EvolutionSearch(SPACE, config(generations=30), higher_is_better=True)
    lower = EvolutionSearch(SPACE, config(generations=30))
    assert search.run(lambda c: -distance(c)).channels == lower.run(distance).channels


class StopError(Exception):
    pass


@pytest.mark.parametrize("after", [3, 57, 100])
def test_stopping_and_going_on_equals_not_stopping(tmp_path, after):
    whole = EvolutionSearch(SPACE, config())
    whole.run(distance, state_file=tmp_path / "whole.json")
    calls = []

    def failing(channels):
        if len(calls) == after:
            raise StopError
        calls.append(channels)
        return distance(channels)

    path = tmp_path / "stopped.json"
    with pytest.raises(StopError):
        EvolutionSearch(SPACE, config()).run(failing, state_file=path)
    assert len(json.loads(path.read_text())["scores"]) == after
    again = []

    def rest(channels):
        again.append(channels)
        return distance(channels)

    EvolutionSearch(SPACE, config()).run(rest, state_file=path)
    assert path.read_text() == (tmp_path / "whole.json").read_text()
    assert not set(again) & set(calls)


def test_more_generations_can_follow(tmp_path):
    EvolutionSearch(SPACE, config(generations=4)).run(distance, state_file=tmp_path / "a.json")
    EvolutionSearch(SPACE, config()).run(distance, state_file=tmp_path / "a.json")
    EvolutionSearch(SPACE, config()).run(distance, state_file=tmp_path / "b.json")
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()


def test_two_processes_find_the_same(tmp_path):
    few = config(population=6, generations=2, parent_share=0.5)
    for workers in (1, 2):
        EvolutionSearch(SPACE, few).run(
            sum, state_file=tmp_path / f"{workers}.json", workers=workers
        )
    assert (tmp_path / "1.json").read_text() == (tmp_path / "2.json").read_text()


def test_an_impossible_budget_is_refused_before_anything_is_drawn():
    with pytest.raises(ConfigError, match=r"cheapest of the space, 16_.*, costs 1.408e\+09"):
        EvolutionSearch(SPACE, config(budget=1.4e9))
    with pytest.raises(ConfigError, match=r"costs 5.631e\+09 for an image of 512 x 512"):
        EvolutionSearch(SPACE, config(budget=3e9), height=512, width=512)


def test_the_tightest_budget_ends():
    """Only one configuration fits; random draws would not find it in a lifetime."""
    space = SearchSpace.parse("channels-64-pix2pix")
    cheapest = configuration_cost(space.smallest).macs
    search = EvolutionSearch(space, config(budget=cheapest, population=4, generations=2))
    assert search.run(sum).channels == space.smallest


def test_a_space_smaller_than_a_generation():
    space = SearchSpace.parse("8_6,8_6,8_8_8_8_8_8")
    search = EvolutionSearch(space, config(population=20, generations=3))
    assert search.run(lambda c: -sum(c)).channels == (8,) * 8
    assert len(search.state.scores) == 4


def test_scores_that_are_no_numbers_come_last(tmp_path):
    def fitness(channels):
        return math.nan if channels[0] == 16 else distance(channels)

    path = tmp_path / "search.json"
    search = EvolutionSearch(SPACE, config(generations=2))
    assert search.run(fitness, state_file=path).channels[0] > 16
    assert all(candidate.channels[0] > 16 for candidate in search.pareto())
    scores = json.loads(path.read_text())["scores"]
    assert None in scores.values()
    EvolutionSearch(SPACE, config(generations=3)).run(fitness, state_file=path)
    with pytest.raises(ConfigError, match="finite score"):
        EvolutionSearch(SPACE, config(generations=1)).run(lambda _: math.nan)


def test_the_front_holds_what_nothing_cheaper_is_as_good_as():
    search = EvolutionSearch(SPACE, config(generations=4))
    search.run(distance)
    everyone = search.candidates()
    expected = [
        one
        for one in everyone
        if not any(
            other.cost.macs <= one.cost.macs
            and other.score <= one.score
            and (other.cost.macs, other.score) != (one.cost.macs, one.score)
            for other in everyone
        )
    ]
    front = search.pareto()
    assert {c.channels for c in front} <= {c.channels for c in expected}
    assert [c.score for c in front] == sorted({c.score for c in expected}, reverse=True)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"first_weight": 1.0}, [1 / 3, 1 / 3, 1 / 3]),
        ({"first_weight": 3.0}, [1 / 6, 2 / 6, 3 / 6]),
        ({"first_weight": 1.5, "first_weighting": "geometric"}, [4 / 19, 6 / 19, 9 / 19]),
    ],
)
def test_the_first_generation_can_prefer_narrow_widths(options, expected):
    space = SearchSpace.parse("_".join(["32,24,16", *["64,56,48,40,32,24,16"] * 6, "8"]))
    settings = config(budget=1e12, population=2000, generations=1, **options)
    search = EvolutionSearch(space, settings)
    search.run(sum)
    firsts = [candidate.channels[0] for candidate in search.candidates()]
    shares = [firsts.count(entry) / len(firsts) for entry in (32, 24, 16)]
    assert shares == pytest.approx(expected, abs=0.04)


def test_a_state_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "search.json"
    EvolutionSearch(SPACE, config(generations=1)).run(distance, state_file=path)
    with pytest.raises(CheckpointError, match=r"other settings \(search\)"):
        EvolutionSearch(SPACE, config(budget=3e9)).run(distance, state_file=path)
    with pytest.raises(CheckpointError, match=r"other settings \(image, scored\)"):
        EvolutionSearch(SPACE, config(), height=128, described={"scored": "x"}).run(
            distance, state_file=path
        )
    path.write_text("{}")
    with pytest.raises(CheckpointError, match="holds no search"):
        EvolutionSearch(SPACE, config()).run(distance, state_file=path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0.0}, "`budget` must be positive"),
        ({"mutation_probability": 1.5}, r"in \[0, 1\]"),
        ({"first_weight": 0.5}, "at least 1"),
        ({"population": 1}, "is no parent"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SearchConfig(**options)


def test_candidates_are_written_as_they_are_read():
    search = EvolutionSearch(SPACE, config(generations=1))
    best = search.run(distance)
    assert search.state.history[-1]["channels"] == format_channels(best.channels)
    assert search.state.history[-1]["macs"] == best.cost.macs


def test_it_tells_how_far_it_is():
    """The first generation scores all of its children; none that is known is scored again."""
    told = []
    search = EvolutionSearch(SPACE, config(population=8, generations=3))
    search.run(distance, on_scored=lambda *progress: told.append(progress))
    assert told[:9] == [(1, done, 8) for done in range(9)]
    finished = [(generation, total) for generation, done, total in told if done == total]
    assert [generation for generation, _ in finished] == [1, 2, 3]
    assert sum(total for _, total in finished) == len(search.state.scores)


ODD_STATES = {
    "generation": ("x", -1, None, 1.5),
    "parents": ([], [3], ["9_9_9_9_9_9_9_9"], {}),
    "scores": ([], {"x": "y"}, 3, {}, {"9_9_9_9_9_9_9_9": 1.0}),
    "history": (3, None),
    "settings": ([], "x", None),
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in ODD_STATES.items() for v in vs])
def test_a_state_that_no_search_wrote_is_one_line(tmp_path, name, value):
    path = tmp_path / "search.json"
    EvolutionSearch(SPACE, config(generations=1)).run(distance, state_file=path)
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        EvolutionSearch(SPACE, config(generations=2)).run(distance, state_file=path)
    assert "\n" not in str(caught.value)
