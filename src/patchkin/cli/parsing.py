"""Options from dataclasses, by tyro; its boxes of errors become one line."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import os
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeAlias, TypeVar, get_args, get_type_hints

import tyro

from patchkin.errors import ConfigError
from patchkin.images.limits import allow_pixels

T = TypeVar("T")
MaxPixels: TypeAlias = Annotated[
    int | None,
    tyro.conf.arg(help="Pixels that an image may have; unless given, Pillow's limit, 178,956,970."),
]
"""`max_pixels` of the options of every verb that reads images; `parse` lets it hold."""


def parse(
    kind: type[T], arguments: Sequence[str], *, prog: str, default: T | None = None, about: str = ""
) -> T:
    """The options of a verb. Their `max_pixels` holds from here on.

    Raises:
        ConfigError: an option is unknown (the nearest is offered) or its value cannot be read.
        SystemExit: `--help` was asked for and printed.
    """
    extra: dict[str, Any] = {} if default is None else {"default": default}
    if {"-h", "--help"} & set(arguments):
        tyro.cli(kind, args=arguments, prog=prog, description=about, **extra)
    box = io.StringIO()
    try:
        # A wide terminal keeps every message of the box on one line.
        with (
            _columns("4000"),
            contextlib.redirect_stderr(box),
            contextlib.redirect_stdout(box),
        ):
            options: T = tyro.cli(kind, args=arguments, prog=prog, description=about, **extra)
    except SystemExit:
        raise ConfigError(one_line(box.getvalue(), prog, default)) from None
    allow_pixels(getattr(options, "max_pixels", None))
    return options


def refuse_files_as_weights(arguments: Sequence[str]) -> None:
    """Answer `--weights FILE`, as it was called once, with the option that takes the file now.

    Raises:
        ConfigError: there is a `--weights` that names neither averaged nor live weights.

    >>> refuse_files_as_weights(["--weights", "inception.pth"])
    Traceback (most recent call last):
    patchkin.errors.ConfigError: `--weights inception.pth`: a file of an extractor's weights is
    given with --extractor-weights inception.pth now.
    """
    following = [*arguments[1:], ""]
    for argument, after in zip(arguments, following, strict=True):
        name, equals, value = argument.partition("=")
        given = value if equals else after
        if name == "--weights" and given not in ("averaged", "live") and given:
            raise ConfigError(
                f"`--weights {given}`: a file of an extractor's weights is given with "
                f"--extractor-weights {given} now."
            )


@contextlib.contextmanager
def _columns(width: str) -> Iterator[None]:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = width
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def one_line(box: str, prog: str, default: object = None) -> str:
    """The message of a tyro error box, with the nearest option it knows.

    Args:
        box: the box, each message on one line of it.
        prog: the command, for the hint.
        default: what the options start from, so that a message about a field can name its flag.
    """
    box = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip(" │╭╮╰╯─") for line in box.splitlines()]
    lines = [line for line in lines if line and set(line) != {"-"}]
    message = lines[1] if len(lines) > 1 else "the options could not be read"
    hint = f"See `{prog} --help`."
    if message.startswith("Missing from"):
        return f"Missing: {', '.join(_missing(box))}. {hint}"
    for place, line in enumerate(lines):
        if line.startswith("Perhaps you meant"):
            offered = [line.split("  ")[0] for line in lines[place + 1 :] if line.startswith("-")]
            names = [name for line in offered for name in re.findall(r"--?[\w.-]+", line)]
            asked = re.search(r"--[\w.-]+", message)
            near = difflib.get_close_matches(asked[0] if asked else "", names, n=1, cutoff=0)
            hint = f"Did you mean `{near[0]}`?" if near else hint
    refused = re.match(r"Error parsing (?!-)([\w.-]+): (.*)", message)
    if refused:
        message = _with_flags(refused[2], refused[1].replace("-", "_"), default)
    return f"{message.rstrip('.')}. {hint}"


def _missing(box: str) -> list[str]:
    """The arguments that a box of tyro's lists, each by its longest name."""
    listed = re.findall(r"^[│ ] {5}(\S.*?)[│ ]*$", box, flags=re.MULTILINE)
    listed = [line for line in listed if not line.endswith("--help")]
    return [max(re.findall(r"--?[\w.-]+", line), key=len, default=line) for line in listed]


def _with_flags(message: str, path: str, default: object) -> str:
    """A message of a dataclass about its `fields`, with the flags that set them."""
    owner = default
    for part in path.split("."):
        owner = getattr(owner, part, None)

    def named(match: re.Match[str]) -> str:
        found = _flag_of(owner, match[1])
        return (
            match[0] if found is None else f"`{found or f'--{path}.{match[1]}'.replace('_', '-')}`"
        )

    return re.sub(r"`([a-z]\w*(?:\.[a-z]\w*)*)`", named, message)


def _flag_of(owner: object, dotted: str) -> str | None:
    """The short flag of a field, the empty string where it has none, None if there is no field."""
    *parents, name = dotted.split(".")
    for parent in parents:
        owner = getattr(owner, parent, None)
    if not dataclasses.is_dataclass(owner):
        return None
    hints = get_type_hints(type(owner), include_extras=True)
    if name not in hints or isinstance(owner, type):
        return None
    aliases = [
        alias
        for mark in get_args(hints[name])[1:]
        for alias in getattr(mark, "aliases", None) or ()
    ]
    return next((alias for alias in aliases if alias.startswith("--")), "")
