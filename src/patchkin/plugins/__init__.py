"""What other packages add by Python's entry points: methods, data layouts, metrics and loggers.

A package says so in its `pyproject.toml`, and once it is installed every verb knows it:

    [project.entry-points."patchkin.methods"]
    near-colour = "my_package.near_colour:NearColour"

    patchkin.methods    a `patchkin.Method` whose `name` is the entry's
    patchkin.layouts    a function of the root of a data set: its `data.layouts.Domains`, or None
                        if the root is not laid out so
    patchkin.metrics    a class as `scoring.Metric` says, for `evaluate --metric NAME`
    patchkin.loggers    a function as `training.OpenLogger` says, for `train --log NAME`

One that cannot be loaded is told in one line and left out; everything else works.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

from patchkin.errors import ConfigError, nearest

__all__ = [
    "LAYOUTS",
    "LOGGERS",
    "METHODS",
    "METRICS",
    "Plugin",
    "find_plugin",
    "plugins",
    "working_plugins",
]

METHODS, LAYOUTS = "patchkin.methods", "patchkin.layouts"
METRICS, LOGGERS = "patchkin.metrics", "patchkin.loggers"

logger = logging.getLogger(__name__)
_told: set[tuple[str, str]] = set()


@dataclass(frozen=True)
class Plugin:
    """An entry of an installed package; nothing of it is imported yet."""

    name: str
    package: str
    """With its version."""
    entry: importlib.metadata.EntryPoint

    def load(self, check: Callable[[Any], str | None] = lambda _: None) -> Any:
        """What it names.

        Args:
            check: of what was found; a sentence part if it is not what is wanted.

        Raises:
            ConfigError: it cannot be imported, or is not what is wanted. One line.
        """
        try:
            found = self.entry.load()
        except (Exception, SystemExit) as error:
            lines = str(error).strip().splitlines()
            why = f"{type(error).__name__}{f': {lines[0]}' if lines else ''}"
            raise ConfigError(self.refused(why)) from error
        wrong = check(found)
        if wrong is not None:
            raise ConfigError(self.refused(wrong))
        return found

    def refused(self, why: str) -> str:
        """A sentence that says why it is left out."""
        where = f"`{self.entry.value}` of {self.package}"
        return f"The plug-in `{self.name}` ({where}) cannot be used: {why.rstrip('.')}."


def plugins(group: str) -> dict[str, Plugin]:
    """Those of a group, by name, sorted; of two with one name the first."""
    found: dict[str, Plugin] = {}
    for entry in sorted(importlib.metadata.entry_points(group=group), key=lambda e: e.name):
        of = entry.dist
        package = "an unknown package" if of is None else f"{of.name} {of.version}"
        found.setdefault(entry.name, Plugin(entry.name, package, entry))
    return found


def find_plugin(
    group: str, name: str, *, what: str, check: Callable[[Any], str | None] = lambda _: None
) -> Any:
    """What the plug-in of a name is.

    Args:
        group: of it.
        name: of it.
        what: it is, for the message.
        check: as of `Plugin.load`.

    Raises:
        ConfigError: there is none (the nearest is offered), or it cannot be used.
    """
    known = plugins(group)
    if name not in known:
        offer = nearest(name, known) if known else f"No package adds one ({group})."
        raise ConfigError(f"Unknown {what} `{name}`. {offer}")
    return known[name].load(check)


def working_plugins(
    group: str,
    *,
    check: Callable[[str, Any], str | None] = lambda _, __: None,
    taken: Collection[str] = (),
) -> dict[str, Any]:
    """What the plug-ins of a group are, by name. One that cannot be used is a warning, once.

    Args:
        group: of them.
        check: of a name and what it stands for; a sentence part if it is not what is wanted.
        taken: names of patchkin's own, which stay what they are.
    """
    found = {}
    for name, plugin in plugins(group).items():
        try:
            if name in taken:
                raise ConfigError(plugin.refused(f"patchkin has a `{name}` of its own"))
            found[name] = plugin.load(partial(check, name))
        except ConfigError as error:
            if (group, name) not in _told:
                _told.add((group, name))
                logger.warning("%s", error)
    return found
