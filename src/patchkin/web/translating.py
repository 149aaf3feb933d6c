"""Uploaded files to translated ones, one after another, until somebody does not want them any more.

What is written is as `patchkin translate` writes it: the format, depth, alpha and colour profile of
the input.
"""

from __future__ import annotations

import copy
import threading
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from patchkin.errors import ConfigError
from patchkin.images import Array
from patchkin.method import Direction
from patchkin.storage.atomic import new_file
from patchkin.translation.dividing import DividingTranslator
from patchkin.translation.files import ArrayTranslator, Job, translate_files
from patchkin.translation.outcome import Outcome
from patchkin.translation.resizing import Resizing
from patchkin.translation.scale import larger_files
from patchkin.translation.style_files import Style, named
from patchkin.translation.styles import (
    domain_name,
    drawn_styles,
    find_domain,
    referenced_styles,
    usual_style,
)
from patchkin.translation.tiles import Tiles
from patchkin.translation.translator import Translator

Large = Literal["enlarge", "tiles"]
MOST_SAMPLES = 8


class CancelledError(Exception):
    """Somebody does not want it any more. Never leaves this file."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a visitor chose beside the images."""

    model: str
    direction: Direction = "AtoB"
    domain: str | None = None
    """Of models that have several."""
    samples: int = 0
    """Styles drawn at random; 0: the one that a domain has unless one is chosen."""
    seed: int = 0
    references: tuple[Path, ...] = ()
    """Images whose styles are taken instead."""
    large: Large = "enlarge"
    """Images that are larger than in training: at that size, then enlarged; or in tiles."""


@dataclass(frozen=True)
class Made:
    """A translation."""

    source: Path
    target: Path
    style: str
    """In a few letters; empty where there is no choice."""


@dataclass
class Result:
    """What became of the files so far."""

    total: int
    made: list[Made] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    done: int = 0
    cancelled: bool = False


def translations(
    translator: Translator,
    files: Sequence[Path],
    wish: Wish,
    folder: Path,
    *,
    tile: int,
    cancelled: threading.Event,
) -> Iterator[Result]:
    """Translate files; after each of them, and before the first, what there is so far.

    Args:
        translator: the model of the wish.
        files: to translate.
        wish: how.
        folder: for the translations, empty.
        tile: side of the parts of large images.
        cancelled: once set, nothing more is made.

    Raises:
        ConfigError: the model has no such domain, or no styles.
        DataError: a reference cannot be read.
    """
    styles, domain = chosen_styles(translator, wish)
    jobs = list(_jobs(files, styles, domain, folder))
    whole, tiled = _two_ways(translator, tile, cancelled)
    trained = translator.training_size
    result = Result(len(jobs))
    yield result
    for job, style in jobs:
        if cancelled.is_set():
            break
        job.target.parent.mkdir(parents=True, exist_ok=True)
        try:
            beyond = trained is not None and larger_files([job.source], trained) is not None
            outcome = translate_files(whole if beyond and wish.large == "enlarge" else tiled, [job])
        except CancelledError:
            break
        _add(result, outcome, job, style)
        yield result
    result.cancelled = result.done < result.total
    yield result


def chosen_styles(translator: Translator, wish: Wish) -> tuple[list[Style | None], str]:
    """The styles that are wished, and the domain for names of files.

    Raises:
        ConfigError: the model has no such domain.
        DataError: a reference cannot be read.
    """
    if not translator.has_styles:
        return [None], ""
    domain = find_domain(translator, wish.domain)
    name = domain_name(translator, domain)
    if wish.references:
        return list(referenced_styles(translator, wish.references, domain=domain)), name
    if wish.samples:
        if wish.samples > MOST_SAMPLES:
            raise ConfigError(f"At most {MOST_SAMPLES} styles at once; got {wish.samples}.")
        drawn = drawn_styles(translator, wish.samples, seed=wish.seed, domain=domain)
        return list(drawn), name
    return [usual_style(translator, domain)], name


def zipped(made: Sequence[Made], target: Path) -> Path:
    """All translations in one file."""
    with new_file(target, synced=False) as part, zipfile.ZipFile(part, "w") as archive:
        for one in made:
            archive.write(one.target, one.target.name)
    return target


def _jobs(
    files: Sequence[Path], styles: Sequence[Style | None], domain: str, folder: Path
) -> Iterator[tuple[Job, str]]:
    """With names that are not twice there, whatever the files are called."""
    taken: set[str] = set()
    for file in files:
        for style in styles:
            name = style.name if style is not None else ""
            target = named(folder / file.name, domain, name)
            number = 2
            while target.name.lower() in taken:
                target = named(folder / file.name, domain, name, str(number))
                number += 1
            taken.add(target.name.lower())
            vector = None if style is None else style.vector_S.numpy()
            yield Job(file, target, style_S=vector), " ".join(filter(None, (domain, name)))


def _two_ways(
    translator: Translator, tile: int, cancelled: threading.Event
) -> tuple[ArrayTranslator, ArrayTranslator]:
    """At the size of training, enlarged; and in tiles."""
    trained = translator.training_size or (tile, tile)
    resized = copy.copy(translator)
    resized.resizing = Resizing(side=min(*trained, tile))
    tiles = Tiles(side=tile, overlap=min(64, tile // 4))
    return (
        _StoppingTranslator(resized, cancelled),
        DividingTranslator(_StoppingTranslator(translator, cancelled), tiles),
    )


def _add(result: Result, outcome: Outcome, job: Job, style: str) -> None:
    result.done += 1
    result.made += [Made(job.source, target, style) for target in outcome.written]
    for source, reason in outcome.failed:
        result.failed.append(reason.replace(str(source), source.name))
    result.notes += [note for note in outcome.notes if note not in result.notes]


class _StoppingTranslator(Translator):
    """A translator that looks up before every image, or part of one."""

    def __init__(self, translator: Translator, cancelled: threading.Event) -> None:
        self.__dict__.update(translator.__dict__)
        self._cancelled = cancelled

    def arrays(self, x_BCHW: Array, styles_BS: Array | None = None) -> Array:
        """As of any translator.

        Raises:
            CancelledError: nothing more is wanted.
        """
        if self._cancelled.is_set():
            raise CancelledError
        return super().arrays(x_BCHW, styles_BS)
