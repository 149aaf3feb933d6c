"""Whether a command line is one of `patchkin`'s: the verb reads its options, and does nothing."""

from __future__ import annotations

import contextlib
import importlib
import io
import pkgutil
import re
from functools import cache
from typing import Any

import pytest

import patchkin.cli
from patchkin.cli import VERBS, main
from patchkin.cli import parsing as real
from patchkin.methods import METHODS


class ReadToTheEnd(Exception):  # noqa: N818 - it is good news
    """The options of a verb were read, and the verb would begin now."""


@contextlib.contextmanager
def verbs_that_only_read():
    """Inside, every verb stops after reading its options."""

    def read(*arguments: Any, **options: Any) -> None:
        real.parse(*arguments, **options)
        raise ReadToTheEnd

    with pytest.MonkeyPatch.context() as patched:
        for module in pkgutil.walk_packages(patchkin.cli.__path__, "patchkin.cli."):
            verb = importlib.import_module(module.name)
            if getattr(verb, "parse", None) is real.parse and verb is not real:
                patched.setattr(verb, "parse", read)
            if hasattr(verb, "saved_config"):  # there is no run to resume
                patched.setattr(verb, "saved_config", lambda arguments: None)
        yield


def complaint(arguments: list[str]) -> str | None:
    """What `patchkin` would complain about; None if it would begin."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main(arguments)
        except ReadToTheEnd:
            return None
        except SystemExit as leaving:  # --help
            code = leaving.code
    return told.getvalue() or f"exit code {code}" if code else None


@cache
def flags() -> frozenset[str]:
    """All options of all verbs and all methods."""
    parts = {"data": ("download", "check", "toy"), "compress": ()}
    parts["compress"] = ("distill", "search", "export", "cost")
    parts["train"] = tuple(METHODS)
    found = {"--help", "--version"}
    for verb in VERBS:
        for part in parts.get(verb, ("",)):
            found |= flags_of(f"{verb} {part}".split())
    found |= flags_of(["compress", "distill", "--preset", "online"])
    return frozenset(found | set(re.findall(r"--[a-z-]+", main_help())))


def flags_of(verb: list[str]) -> set[str]:
    """The options that the help of a verb names."""
    return set(re.findall(r"(?<![\w-])--[a-z][\w.-]*[\w]", output([*verb, "--help"])))


def main_help() -> str:
    """Of `patchkin --help`."""
    return output(["--help"])


def output(arguments: list[str]) -> str:
    """Standard output of `patchkin`."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        main(arguments)
    return told.getvalue()
