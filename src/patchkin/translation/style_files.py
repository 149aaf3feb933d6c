"""The styles to translate into, by name. Imports no torch.

One input has a translation per style. Where NAME is the stem of the input, the files are

    NAME.png              without any choice
    NAME_D.png            into the domain D, in the style that it has unless one is chosen
    NAME_D_s0.png         in the first, second, ... of the styles drawn at random
    NAME_D_REFERENCE.png  in the style of the reference with that stem
    NAME_D_path.png       from one style to another: a strip, and as NAME_D_path.gif an animation

and `_D` is left out for methods with one target domain.

Shape suffixes: S entries of a style.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from patchkin.errors import ConfigError, DataError, nearest
from patchkin.translation.files import Job


@dataclass(frozen=True, eq=False)
class Style:
    """A style and what it is called in the names of files."""

    name: str
    """Empty for the style that a domain has unless one is chosen."""
    vector_S: Any
    """A tensor, or without torch an array."""
    reference: Path | None = None
    """The image it was taken from."""
    origin: str = ""
    """What decides it, for the record of what made a file."""


def usual_origin(domain: int) -> str:
    """Of the style that a domain has unless one is chosen."""
    return f"domain {domain}, its own"


def drawn_origin(domain: int, seed: int, number: int) -> str:
    """Of a random style."""
    return f"domain {domain}, seed {seed}, number {number}"


def domain_of(given: str | None, *, number: int, names: Sequence[str], method: str) -> int:
    """The target domain that a name or a number (from 0) stands for.

    Args:
        given: the name or number, if any.
        number: of the domains.
        names: of them, as far as the model knows them.
        method: of the model, for messages.

    Raises:
        ConfigError: an unknown one (the nearest name is offered); none given where there are
            several, or one where there are none to choose from.
    """
    known = ", ".join(f"{label} {name}" for label, name in enumerate(names))
    known = known or f"0 to {number - 1}"
    if number == 1:
        if given is not None:
            raise ConfigError(f"`{method}` has one target domain; leave out --domain.")
        return 0
    if given is None:
        raise ConfigError(f"This model translates into {number} domains; add --domain: {known}.")
    if given in names:
        return names.index(given)
    if given.isdecimal() and int(given) < number:
        return int(given)
    hint = nearest(given, names) if names and not given.isdecimal() else f"Known: {known}."
    raise ConfigError(f"Unknown domain `{given}`. {hint}")


def domain_label(domain: int, *, number: int, names: Sequence[str]) -> str:
    """For names of files: that of the folder it was learned from, else its number.

    Empty for methods with one target domain.
    """
    if number == 1:
        return ""
    return names[domain] if names else str(domain)


def styled_jobs(
    jobs: Sequence[Job], styles: Sequence[Style], domain: str = "", *, names_file: bool = False
) -> list[Job]:
    """Every job in every style.

    Args:
        jobs: without styles.
        styles: one or several.
        domain: for the names of files.
        names_file: whether the target of the job is the name that was asked for.

    Raises:
        DataError: two translations would have one name.
        ConfigError: several are to have the name that was asked for.
    """
    if names_file and len(styles) > 1:
        raise ConfigError(
            f"--output `{jobs[0].target}` is the name of one file, and {len(styles)} styles make "
            f"{len(styles)}; name a folder."
        )
    styled: dict[Path, Job] = {}
    for job in jobs:
        for style in styles:
            target = job.target if names_file else named(job.target, domain, style.name)
            if target in styled:
                raise DataError(
                    f"`{styled[target].source}` and `{job.source}` would both be written to "
                    f"`{target}`; rename one of them."
                )
            styled[target] = replace(
                job, target=target, style_S=np.asarray(style.vector_S), style=style.origin
            )
    return list(styled.values())


def named(target: Path, *parts: str) -> Path:
    """A file name with parts added to its stem.

    >>> named(Path("out/a.png"), "dog", "s0").as_posix(), named(Path("a.png"), "", "").name
    ('out/a_dog_s0.png', 'a.png')
    """
    return target.with_stem("_".join([target.stem, *(part for part in parts if part)]))
