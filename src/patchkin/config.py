"""Configurations are frozen dataclasses that stand beside what they configure.

This file turns them into plain data and YAML and back. A key that no field has is an error that
names the nearest field; a value out of range is refused by the dataclass's own `__post_init__`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from reprlib import Repr
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import cattrs
import yaml
from cattrs.errors import (
    BaseValidationError,
    ForbiddenExtraKeysError,
    IterableValidationNote,
)

from patchkin.errors import ConfigError, nearest
from patchkin.sides import Sides

T = TypeVar("T")
_MOST_HALVINGS = 16
_MOST_ALIASES = 16
"""Of a YAML file: each can double what it stands for."""
_MOST_LEVELS = 30
"""Of a YAML file; those of runs have five."""
_MOST_LETTERS = 400
_SHORT = Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 2, 60, 60, 60
_NO_YAML = (  # what PyYAML raises, of text, tags (`!!int ""`), dates, and depth
    *(yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    RecursionError,
)


def flag(*names: str) -> Any:
    """Short command-line names of a field, beside its dotted one.

    Used in the annotation: `ngf: Annotated[int, flag("--ngf")] = 64`.
    """
    import tyro  # when hints are read: `patchkin.losses` and the methods need no command line

    return tyro.conf.arg(aliases=names)


def short_flag(holder: object, dotted: str) -> str | None:
    """The short command-line name of a field of a configuration, or of its class.

    Args:
        holder: a dataclass or an instance of one.
        dotted: the field's place below it.

    Returns:
        The empty string for a field that has none, None where there is no such field.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Settings:
    ...     ngf: Annotated[int, flag("-n", "--ngf")] = 64
    ...     blocks: int = 9
    >>> short_flag(Settings, "ngf"), short_flag(Settings(), "blocks"), short_flag(Settings, "depth")
    ('--ngf', '', None)
    """
    first, _, rest = dotted.partition(".")
    if not is_dataclass(holder):
        return None
    kind = holder if isinstance(holder, type) else type(holder)
    hint = get_type_hints(kind, include_extras=True).get(first)
    if hint is None:
        return None
    plain, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if rest:
        return short_flag(plain if holder is kind else getattr(holder, first), rest)
    aliases = (alias for mark in marks for alias in getattr(mark, "aliases", None) or ())
    return next((alias for alias in aliases if alias.startswith("--")), "")


def shown(metavar: str) -> Any:
    """The word that stands for a positional argument in usage lines, beside its type.

    Used in the annotation: `model: Annotated[tyro.conf.Positional[str], shown("MODEL")]`.
    """
    import tyro

    return tyro.conf.arg(metavar=metavar)


def alternatives() -> Any:
    """Of a field that is of one of several dataclasses: their fields are its flags."""
    import tyro

    return tyro.conf.AvoidSubcommands


def no_flag() -> Any:
    """Of a field that has no flag."""
    import tyro

    return tyro.conf.Suppress


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, prefer_attrib_converters=True)
    converter.register_structure_hook(Path, lambda value, _: Path(value))
    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook(float, lambda value, _: _number(value))
    converter.register_structure_hook(int, lambda value, _: _whole(value))
    converter.register_structure_hook(bool, lambda value, _: _truth(value))
    converter.register_structure_hook(str, lambda value, _: _text(value))
    converter.register_structure_hook_func(_is_literal, _choice)
    converter.register_structure_hook_func(
        _is_choice_of_parts, lambda value, kind: converter.structure(value, _part(value, kind))
    )
    converter.register_structure_hook(Sides, lambda value, _: _sides(value))
    converter.register_structure_hook(
        Sides | None, lambda value, _: None if value is None else _sides(value)
    )
    return converter


def _is_literal(kind: Any) -> bool:
    return get_origin(kind) is Literal


def _choice(value: object, kind: Any) -> object:
    choices = get_args(kind)
    if value not in choices:
        raise ValueError(f"expected one of {', '.join(map(str, choices))}; got {_short(value)}")
    return value


def _is_choice_of_parts(kind: Any) -> bool:
    """Whether a field is of one of several dataclasses, such as one generator or another."""
    return get_origin(kind) in (Union, UnionType) and all(map(is_dataclass, get_args(kind)))


def _part(value: object, kind: Any) -> Any:
    """The dataclass that has most of the keys; of equals the first."""
    keys = set(value) if isinstance(value, dict) else set()
    return max(get_args(kind), key=lambda part: len(keys & {f.name for f in fields(part)}))


def _sides(value: object) -> Sides:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return _whole(value[0]), _whole(value[1])
    if isinstance(value, (list, tuple)):
        raise TypeError(f"expected one number, or height and width; got {_short(value)}")
    return _whole(value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"expected a number, got {_short(value)}")
    return float(value)  # YAML 1.1 reads `2e-4` as a string


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected a whole number, got {_short(value)}")
    return value


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, got {_short(value)}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {_short(value)}")
    return value


def _short(value: object) -> str:
    """The beginning of a value of any length and depth, for a message.

    >>> _short([[1, 2, [3]], "x" * 1000])[:40]
    "[[1, 2, [...]], 'xxxxxxxxxxxxxxxxxxxxxxx"
    """
    return _SHORT.repr(value)


CONVERTER = _converter()


def to_plain(config: object) -> Any:
    """A configuration as dictionaries, lists and scalars, fit for YAML and JSON.

    >>> from patchkin.schedules import AdamConfig
    >>> to_plain(AdamConfig())["beta1"]
    0.5
    """
    return CONVERTER.unstructure(config)


def from_plain(kind: type[T], plain: object, *, where: str = "the configuration") -> T:
    """The inverse of `to_plain`.

    Raises:
        ConfigError: an unknown key (the nearest field is offered), a value of a wrong type, or a
            value that the dataclass refuses.

    >>> from patchkin.schedules import AdamConfig
    >>> from_plain(AdamConfig, {"learning_rat": 1.0})
    Traceback (most recent call last):
    patchkin.errors.ConfigError: Unknown key `learning_rat` in the configuration.
    Did you mean `learning_rate`?
    """
    if is_dataclass(kind) and not isinstance(plain, dict):
        raise ConfigError(f"{where} must hold settings by name, not {_short(plain)}.")
    try:
        return CONVERTER.structure(plain, kind)
    except BaseValidationError as error:
        raise ConfigError(_first_line(error, where)) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Cannot read {where}: {error}") from error


def _first_line(error: BaseException, where: str, path: str = "") -> str:
    """The innermost cause of a nest of cattrs errors, with the dotted place it belongs to."""
    if isinstance(error, ForbiddenExtraKeysError):
        key = sorted(error.extra_fields)[0]
        fields = list(getattr(error.cl, "__dataclass_fields__", {}))
        return f"Unknown key `{path}{key}` in {where}. {nearest(key, fields)}"
    if isinstance(error, BaseValidationError):
        for inner in error.exceptions:
            notes = getattr(inner, "__notes__", [])
            place = next((n for n in notes if not isinstance(n, IterableValidationNote)), None)
            name = getattr(place, "name", None)
            return _first_line(inner, where, f"{path}{name}." if name else path)
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, KeyError):
        return f"Missing key `{path}{error.args[0]}` in {where}."
    return f"`{path.rstrip('.')}` in {where}: {error}."


def check_positive(config: object, *names: str) -> None:
    """Refuse fields of these names that are 0 or below; None passes.

    Raises:
        ConfigError: one is.

    >>> from types import SimpleNamespace
    >>> check_positive(SimpleNamespace(temperature=0.0, gamma=None), "gamma", "temperature")
    Traceback (most recent call last):
    patchkin.errors.ConfigError: `temperature` must be positive; got 0.0.
    """
    _check(config, names, lambda value: value > 0, "be positive")


def check_not_negative(config: object, *names: str) -> None:
    """Refuse fields of these names that are below 0; None passes.

    Raises:
        ConfigError: one is.
    """
    _check(config, names, lambda value: value >= 0, "not be negative")


def check_at_least_one(config: object, *names: str) -> None:
    """Refuse fields of these names that are below 1; None passes.

    Raises:
        ConfigError: one is.
    """
    _check(config, names, lambda value: value >= 1, "be at least 1")


def check_halvings(config: object, *names: str) -> None:
    """Refuse fields of these names that halve an image more often than any has pixels for.

    Raises:
        ConfigError: one does.

    >>> from types import SimpleNamespace
    >>> check_halvings(SimpleNamespace(levels=10**9), "levels")
    Traceback (most recent call last):
    patchkin.errors.ConfigError: `levels` must be at most 16: no image has 2^17 pixels a side;
    got 1000000000.
    """
    wanted = f"be at most {_MOST_HALVINGS}: no image has 2^{_MOST_HALVINGS + 1} pixels a side"
    for name in names:
        if getattr(config, name) > _MOST_HALVINGS:
            raise ConfigError(f"`{name}` must {wanted}; got {getattr(config, name)}.")


def _check(
    config: object, names: Sequence[str], holds: Callable[[float], bool], wanted: str
) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not holds(value):
            raise ConfigError(f"`{name}` must {wanted}; got {value}.")


def merge(plain: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`plain` with the nested `changes` laid over it; neither is modified.

    A nested part with keys that `plain` does not have there takes its place: it is of another kind,
    such as another generator, or has a key that `from_plain` will refuse.

    Raises:
        ConfigError: the changes are no settings by name, as a file may have them.

    >>> merge({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
    {'a': {'b': 1, 'c': 3}}
    >>> merge({"generator": {"levels": 8}}, {"generator": {"blocks": 9}})
    {'generator': {'blocks': 9}}
    """
    if not isinstance(changes, dict):
        raise ConfigError(f"Settings by name are expected, not {changes!r:.40}.")
    merged = dict(plain)
    for key, value in changes.items():
        part = merged.get(key)
        if isinstance(value, dict) and isinstance(part, dict) and value.keys() <= part.keys():
            merged[key] = merge(part, value)
        else:
            merged[key] = value
    return merged


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: if the file is missing, is not YAML, or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        _check_aliases(text)
        plain = yaml.safe_load(text)
        _check_tree(plain)
    except OSError as error:
        raise ConfigError(f"Cannot read `{path}`: {error.strerror}.") from error
    except _NO_YAML as error:
        line = " ".join(str(error).split())[:_MOST_LETTERS]
        raise ConfigError(f"`{path}` is not valid YAML: {line}") from error
    if not isinstance(plain, dict):
        raise ConfigError(f"`{path}` must hold a mapping of settings, got {type(plain).__name__}.")
    return plain


def _check_aliases(text: str) -> None:
    """Twenty lines, each of which names the one above twice, are a million settings.

    Raises:
        ValueError: there are more than `_MOST_ALIASES`.
        yaml.YAMLError: it is not YAML.
    """
    tokens = yaml.scan(text, Loader=yaml.SafeLoader) if "*" in text else ()
    if sum(isinstance(token, yaml.AliasToken) for token in tokens) > _MOST_ALIASES:
        raise ValueError(f"it has more than {_MOST_ALIASES} aliases (`*name`)")


def _check_tree(value: object, levels: int = _MOST_LEVELS) -> None:
    """Refuse what is within itself, and names that are no text.

    Raises:
        ValueError: there is such.
    """
    if not levels:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str):
                raise ValueError(f"a setting has the name {name!r:.40}, which is no text")
        value = list(value.values())
    for inner in value if isinstance(value, (list, tuple, set)) else ():
        _check_tree(inner, levels - 1)


def to_yaml(plain: dict[str, Any]) -> str:
    """YAML text in the order of the fields."""
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
