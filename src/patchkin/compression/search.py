"""Evolution search for the best widths within a budget (GAN Compression; Li et al. 2020, Sec. 3.4).

The best quarter of a generation are parents. Half of its children are mutations of a parent, half
crossovers of two; whoever costs more than the budget is drawn again. Parents stay in the ranking.

The published search goes on forever if the budget is below the cheapest configuration, and fills
the next generation with copies of few winners. Here the budget is checked first, and a generation
holds no configuration twice; after too many fruitless draws a child is narrowed until it fits.

The state is one JSON file, written after every generation, every few seconds and when the search
is stopped. All draws of generation g come from (seed, g), so a search that was stopped goes on as
if it had not been.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from patchkin.compression.cost import Convention, Cost, configuration_cost
from patchkin.compression.space import SearchSpace
from patchkin.config import flag, to_plain
from patchkin.errors import CheckpointError, ConfigError
from patchkin.networks.separable import Channels, format_channels, parse_channels
from patchkin.randomness import derive_seed
from patchkin.storage.atomic import write_json
from patchkin.storage.strict_json import parsed

T = TypeVar("T")

STATE_FILE = "search.json"
Fitness = Callable[[Channels], float]
"""Scores a configuration. With more than one process it must be picklable."""
OnScored = Callable[[int, int, int], None]
"""Told the generation (1, 2, ...), how many of its configurations are scored, and how many need
to be: those that were met before do not."""

_FRUITLESS_DRAWS = 300
_SAVE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """Defaults are the released ones, but for the budget."""

    budget: Annotated[float, flag("--budget")] = 3e9
    """Most multiply-accumulates of one image (published: 3.0e9 horse2zebra, 4.6e9 maps, 5.7e9
    cityscapes)."""
    convention: Annotated[Convention, flag("--convention")] = "published"
    """How they are counted; see `patchkin.compression.cost`."""
    population: Annotated[int, flag("--population")] = 100
    """Children per generation."""
    generations: Annotated[int, flag("--generations")] = 500
    """The random first one included."""
    mutation_share: float = 0.5
    """Share of children that are mutations; the others are crossovers."""
    mutation_probability: float = 0.2
    """Of each entry to be drawn anew (published: 0.4 horse2zebra, 0.3 the others)."""
    parent_share: float = 0.25
    """Share of the population that become parents and stay."""
    first_weight: float = 1.0
    """How much likelier the narrowest width of an entry is than the widest in the first generation
    (published: 2 for horse2zebra); 1 draws uniformly."""
    first_weighting: Literal["arithmetic", "geometric"] = "arithmetic"
    """Likelihoods in between rise by equal steps; or by the factor `first_weight` each."""
    seed: Annotated[int, flag("--seed")] = 0
    """Same seed, same fitness: the same search."""

    def __post_init__(self) -> None:
        for name in ("budget", "population", "generations", "first_weight"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"`{name}` must be positive; got {getattr(self, name)}.")
        for name in ("mutation_share", "mutation_probability", "parent_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"`{name}` must be in [0, 1]; got {getattr(self, name)}.")
        if self.first_weight < 1:
            raise ConfigError(f"`first_weight` must be at least 1; got {self.first_weight}.")
        if self.num_parents < 1:
            raise ConfigError(
                f"`parent_share` {self.parent_share} of {self.population} is no parent; raise it."
            )

    @property
    def num_parents(self) -> int:
        """Parents of a generation."""
        return round(self.parent_share * self.population)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configuration that was scored."""

    channels: Channels
    score: float
    cost: Cost


@dataclass
class SearchState:
    """What was found so far."""

    generation: int = 0
    """Generations that are complete."""
    parents: list[Channels] = field(default_factory=list)
    """The best of them, best first."""
    scores: dict[str, float] = field(default_factory=dict)
    """Of every configuration that was scored; NaN where the fitness gave none."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """The best of each generation."""


class EvolutionSearch:
    """A search in a space, for images of one size.

    >>> search = EvolutionSearch(
    ...     SearchSpace.parse("2,1_2,1_2,1_1_1_1_2,1_2,1"),
    ...     SearchConfig(budget=4e6, population=6, generations=3),
    ...     height=64, width=64,
    ... )
    >>> best = search.run(lambda channels: -sum(channels))
    >>> best.cost.macs <= 4e6, best.score
    (True, -13)
    """

    def __init__(
        self,
        space: SearchSpace,
        config: SearchConfig,
        *,
        height: int = 256,
        width: int = 256,
        in_channels: int = 3,
        out_channels: int = 3,
        higher_is_better: bool = False,
        described: dict[str, Any] | None = None,
    ) -> None:
        """Check the budget.

        Args:
            space: where to search.
            config: how.
            height: of the images whose cost is counted.
            width: of these images.
            in_channels: of the source images.
            out_channels: of the target images.
            higher_is_better: of the fitness.
            described: what else the scores depend on; a state of other settings is refused.

        Raises:
            ConfigError: the cheapest configuration costs more than the budget.
        """
        self.space, self.config = space, config
        self.higher_is_better = higher_is_better
        self.state = SearchState()
        self._image = {
            "height": height,
            "width": width,
            "in_channels": in_channels,
            "out_channels": out_channels,
        }
        self._described = described or {}
        self._wide_to_narrow = [sorted(widths, reverse=True) for widths in space.widths]
        self._costs: dict[Channels, Cost] = {}
        cheapest = self.cost(space.smallest).counted(config.convention)
        if cheapest > config.budget:
            raise ConfigError(
                f"No configuration fits the budget of {config.budget:.4g} MACs: the cheapest of "
                f"the space, {format_channels(space.smallest)}, costs {cheapest:.4g} for an image "
                f"of {height} x {width}. Raise --budget, or add narrower widths."
            )

    def cost(self, channels: Channels) -> Cost:
        """What a configuration costs for one image."""
        if channels not in self._costs:
            self._costs[channels] = configuration_cost(channels, **self._image)
        return self._costs[channels]

    def run(self, fitness: Fitness, *, state_file: Path | None = None, workers: int = 1,
            on_generation: Callable[[Candidate], None] = lambda _: None,
            on_scored: OnScored = lambda *_: None) -> Candidate:  # fmt: skip
        """Search to the last generation; the best configuration.

        Args:
            fitness: the score of a configuration; called once for each.
            state_file: keeps the state; what it holds is continued.
            workers: processes that score; more than 1 needs a picklable fitness.
            on_generation: told the best so far.
            on_scored: told how far a generation is.

        Raises:
            CheckpointError: the file holds another search.
            ConfigError: no configuration got a finite score.
            StorageError: the file cannot be written.
        """
        if state_file is not None and state_file.is_file():
            self.state = self._read(state_file)
        with _mapping(workers) as mapped, self._kept(state_file):
            for generation in range(self.state.generation, self.config.generations):
                children = self._generation(generation)
                told = partial(on_scored, generation + 1)
                self._score(children, fitness, mapped, state_file, told)
                ranked = sorted({*self.state.parents, *children}, key=self._rank)
                self.state.parents = ranked[: self.config.num_parents]
                self.state.generation = generation + 1
                best = self.candidate(self.state.parents[0])
                self.state.history.append(_as_plain(best))
                self._write(state_file)
                on_generation(best)
        best = self.candidate(self.state.parents[0])
        if not math.isfinite(best.score):
            raise ConfigError("No configuration got a finite score. Does the supernet translate?")
        return best

    @contextmanager
    def _kept(self, state_file: Path | None) -> Iterator[None]:
        """Write the state, whatever ends the search."""
        try:
            yield
        finally:
            self._write(state_file)

    def candidate(self, channels: Channels) -> Candidate:
        """A configuration that was scored, with its cost."""
        return Candidate(
            channels, self.state.scores[format_channels(channels)], self.cost(channels)
        )

    def candidates(self) -> list[Candidate]:
        """All that were scored, the cheapest first."""
        scored = [self.candidate(parse_channels(text)) for text in self.state.scores]
        return sorted(scored, key=lambda c: (c.cost.counted(self.config.convention), c.channels))

    def pareto(self) -> list[Candidate]:
        """Those that nothing cheaper is as good as, the cheapest first."""
        front: list[Candidate] = []
        for candidate in self.candidates():
            worth = self._worth(candidate.channels)
            if math.isfinite(worth) and (not front or worth < self._worth(front[-1].channels)):
                front.append(candidate)
        return front

    def _worth(self, channels: Channels) -> float:
        """Less is better; what has no score is worst."""
        score = self.state.scores[format_channels(channels)]
        if not math.isfinite(score):
            return math.inf
        return -score if self.higher_is_better else score

    def _rank(self, channels: Channels) -> tuple[float, int, Channels]:
        """Ties go to the cheaper one."""
        return self._worth(channels), self.cost(channels).macs, channels

    def _score(
        self,
        children: Sequence[Channels],
        fitness: Fitness,
        mapped: Callable[[Fitness, Sequence[Channels]], Iterable[float]],
        state_file: Path | None,
        on_scored: Callable[[int, int], None],
    ) -> None:
        unknown = [c for c in children if format_channels(c) not in self.state.scores]
        written = time.monotonic()
        on_scored(0, len(unknown))
        scored = zip(unknown, mapped(fitness, unknown), strict=True)
        for number, (channels, score) in enumerate(scored, start=1):
            self.state.scores[format_channels(channels)] = score
            on_scored(number, len(unknown))
            if time.monotonic() - written > _SAVE_SECONDS:
                self._write(state_file)
                written = time.monotonic()

    def _generation(self, generation: int) -> list[Channels]:
        """The children of the parents there are, none twice and none a parent."""
        draws = _Draws(derive_seed(self.config.seed, "search", generation))
        known = set(self.state.parents)
        children: list[Channels] = []
        num_mutations = round(self.config.mutation_share * self.config.population)
        for place in range(self.config.population):
            draw = self._drawing(generation, mutates=place < num_mutations, draws=draws)
            child = self._fitting(draw, draws, known)
            if child is not None:
                known.add(child)
                children.append(child)
        return children

    def _drawing(self, generation: int, *, mutates: bool, draws: _Draws) -> Callable[[], Channels]:
        """How a child is drawn, again and again from the same parents."""
        if generation == 0:
            return lambda: self._random(draws)
        parents: list[Channels] = [draws.one_of(self.state.parents) for _ in range(2 - mutates)]
        if mutates:
            return lambda: self._mutated(parents[0], draws)
        return lambda: self._crossed(parents[0], parents[1], draws)

    def _fitting(
        self, draw: Callable[[], Channels], draws: _Draws, known: set[Channels]
    ) -> Channels | None:
        """A new configuration within the budget; None if only known ones come."""
        for _ in range(_FRUITLESS_DRAWS):
            child = draw()
            if self._fits(child) and child not in known:
                return child
        child = draw()
        while not self._fits(child):
            child = self._narrowed(child, draws)
        return None if child in known else child

    def _fits(self, channels: Channels) -> bool:
        return self.cost(channels).counted(self.config.convention) <= self.config.budget

    def _random(self, draws: _Draws) -> Channels:
        return tuple(
            widths[draws.weighted(self._first_weights(len(widths)))]
            for widths in self._wide_to_narrow
        )

    def _first_weights(self, count: int) -> list[float]:
        """Of an entry's widths from wide to narrow."""
        weight = self.config.first_weight
        if weight == 1 or count == 1:
            return [1.0] * count
        if self.config.first_weighting == "geometric":
            return [weight**place for place in range(count)]
        return [(count - 1) / (weight - 1) + place for place in range(count)]

    def _mutated(self, parent: Channels, draws: _Draws) -> Channels:
        return tuple(
            draws.one_of(widths) if draws.happens(self.config.mutation_probability) else entry
            for entry, widths in zip(parent, self._wide_to_narrow, strict=True)
        )

    def _crossed(self, mother: Channels, father: Channels, draws: _Draws) -> Channels:
        pairs = zip(mother, father, strict=True)
        return tuple(one if draws.happens(0.5) else other for one, other in pairs)

    def _narrowed(self, channels: Channels, draws: _Draws) -> Channels:
        """One entry, of those that can be, at its next narrower width."""
        places = [
            place
            for place, (entry, widths) in enumerate(
                zip(channels, self._wide_to_narrow, strict=True)
            )
            if entry > widths[-1]
        ]
        place = draws.one_of(places)
        widths = self._wide_to_narrow[place]
        narrower = widths[widths.index(channels[place]) + 1]
        return (*channels[:place], narrower, *channels[place + 1 :])

    def _settings(self) -> dict[str, Any]:
        """What scores and draws depend on; more generations may follow."""
        plain = to_plain(self.config)
        del plain["generations"]
        return {
            "search": plain,
            "space": "_".join(",".join(map(str, widths)) for widths in self.space.widths),
            "image": self._image,
            "higher_is_better": self.higher_is_better,
            **self._described,
        }

    def _write(self, path: Path | None) -> None:
        if path is None:
            return
        plain = {
            "settings": self._settings(),
            "generation": self.state.generation,
            "parents": [format_channels(channels) for channels in self.state.parents],
            "history": self.state.history,
            "pareto": [_as_plain(candidate) for candidate in self.pareto()],
            "scores": {
                name: score if math.isfinite(score) else None
                for name, score in self.state.scores.items()
            },
        }
        write_json(path, plain)

    def _read(self, path: Path) -> SearchState:
        try:
            plain = parsed(path.read_text(encoding="utf-8"))
            state = SearchState(
                generation=plain["generation"],
                parents=[parse_channels(text) for text in plain["parents"]],
                scores={
                    name: math.nan if score is None else score
                    for name, score in plain["scores"].items()
                },
                history=list(plain["history"]),
            )
            settings = dict(plain["settings"])
            self._check_state(state)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"`{path}` holds no search: {error}.") from error
        ours = json.loads(json.dumps(self._settings()))
        if settings != ours:
            changed = [key for key in ours if settings.get(key) != ours[key]]
            raise CheckpointError(
                f"`{path}` holds a search with other settings ({', '.join(changed)}). Continue it "
                "with its own, replace it with --overwrite, or choose another --output."
            )
        return state

    def _check_state(self, state: SearchState) -> None:
        """Refuse what cannot be gone on with.

        Raises:
            TypeError: the generation or a score is no number.
            ValueError: a parent or its score is missing, or the space has no such widths.
        """
        if not isinstance(state.generation, int) or state.generation < 0:
            raise TypeError("its generation is no whole number")
        if not all(isinstance(score, (int, float)) for score in state.scores.values()):
            raise TypeError("a score is no number")
        if not state.scores.keys() >= set(map(format_channels, state.parents)):
            raise ValueError("a parent has no score")
        if bool(state.parents) != bool(state.generation):
            raise ValueError("it has parents without a generation, or none after one")
        for channels in (*state.parents, *map(parse_channels, state.scores)):
            if channels not in self.space:
                raise ValueError(f"the space has no {format_channels(channels)}")


class _Draws:
    """The random choices of one generation; from one kind of number only, for all versions."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[int(self._random() * len(choices))]

    def happens(self, probability: float) -> bool:
        return self._random() < probability

    def weighted(self, weights: Sequence[float]) -> int:
        place, left = 0, self._random() * sum(weights)
        while place < len(weights) - 1 and left >= weights[place]:
            left -= weights[place]
            place += 1
        return place


def _as_plain(candidate: Candidate) -> dict[str, Any]:
    return {
        "channels": format_channels(candidate.channels),
        "score": candidate.score if math.isfinite(candidate.score) else None,
        **to_plain(candidate.cost),
    }


@contextmanager
def _mapping(
    workers: int,
) -> Iterator[Callable[[Fitness, Sequence[Channels]], Iterable[float]]]:
    """`map`, here or over processes; results come in the order of the arguments."""
    if workers < 1:
        raise ConfigError(f"--workers must be at least 1; got {workers}.")
    if workers == 1:
        yield map
        return
    # Not forked: a copy of a process with running threads may wait forever.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield pool.map
