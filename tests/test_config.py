"""Configurations as plain data, and the errors of those that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from patchkin.cli import main
from patchkin.config import (
    check_at_least_one,
    check_not_negative,
    check_positive,
    from_plain,
    merge,
    read_yaml,
    to_plain,
    to_yaml,
)
from patchkin.errors import ConfigError
from patchkin.methods.cut import CutConfig


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    count: int = 3


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    kind: Literal["a", "b"] = "a"
    taps: tuple[int, ...] = (0, 4)
    limit: float | None = None
    deep: bool = False
    folder: Path = Path("x")

    def __post_init__(self):
        if self.limit is not None and self.limit <= 0:
            raise ConfigError(f"`limit` must be positive; got {self.limit}.")


def test_there_and_back_through_yaml(tmp_path):
    config = Outer(inner=Inner(rate=2e-4), kind="b", taps=(1, 2, 3), limit=1e-7, folder=Path("a/b"))
    path = tmp_path / "c.yaml"
    path.write_text(to_yaml(to_plain(config)))
    assert from_plain(Outer, read_yaml(path)) == config


def test_numbers_as_yaml_writes_them():
    """YAML 1.1 reads `2e-4` as text, and a whole number is a number."""
    assert from_plain(Outer, {"inner": {"rate": "2e-4"}}).inner.rate == 2e-4
    assert from_plain(Outer, {"limit": 3}).limit == 3.0


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"inner": {"rat": 1}}, "Unknown key `inner.rat` in the file. Did you mean `rate`?"),
        (
            {"zzz": 1},
            "Unknown key `zzz` in the file. Known: deep, folder, inner, kind, limit, taps.",
        ),
        ({"inner": {"count": 1.5}}, "`inner.count` in the file: expected a whole number, got 1.5."),
        (
            {"inner": {"count": True}},
            "`inner.count` in the file: expected a whole number, got True.",
        ),
        ({"inner": {"rate": "fast"}}, "`inner.rate` in the file: could not convert"),
        ({"deep": "yes"}, "`deep` in the file: expected true or false, got 'yes'."),
        ({"kind": "c"}, "`kind` in the file: expected one of a, b; got 'c'."),
        ({"limit": -1}, "`limit` must be positive; got -1.0."),
        ({"inner": 3}, "`inner` in the file"),
    ],
)
def test_what_does_not_belong_is_one_line_that_names_it(plain, message):
    with pytest.raises(ConfigError) as caught:
        from_plain(Outer, plain, where="the file")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_nested_refusal_of_a_method_comes_through():
    with pytest.raises(ConfigError, match="`ngf` must be at least 1; got 0"):
        from_plain(CutConfig, {"generator": {"ngf": 0}})


def test_merging_leaves_its_inputs_alone():
    plain, changes = {"a": {"b": 1, "c": [1]}}, {"a": {"c": [2]}, "d": 3}
    assert merge(plain, changes) == {"a": {"b": 1, "c": [2]}, "d": 3}
    assert (plain, changes) == ({"a": {"b": 1, "c": [1]}}, {"a": {"c": [2]}, "d": 3})


def test_merging_replaces_a_part_of_another_kind():
    plain = {"generator": {"levels": 8, "ngf": 4}, "size": 1}
    assert merge(plain, {"generator": {"blocks": 9}}) == {"generator": {"blocks": 9}, "size": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "is not valid YAML"), ("- 1", "must hold a mapping of settings, got list")],
)
def test_files_that_hold_no_settings(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_yaml(path)
    with pytest.raises(ConfigError, match=r"Cannot read .*: No such file or directory"):
        read_yaml(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("check", "fine", "wrong", "message"),
    [
        (check_positive, 0.1, 0.0, "`b` must be positive; got 0.0."),
        (check_not_negative, 0.0, -0.1, "`b` must not be negative; got -0.1."),
        (check_at_least_one, 1, 0, "`b` must be at least 1; got 0."),
    ],
)
def test_ranges_of_fields(check, fine, wrong, message):
    check(SimpleNamespace(a=fine, b=None, c=wrong), "a", "b")
    with pytest.raises(ConfigError) as caught:
        check(SimpleNamespace(a=fine, b=wrong), "a", "b")
    assert str(caught.value) == message


def test_settings_that_are_no_mapping_are_refused_in_words(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text("method: 3\n")
    assert main(["train", "cut", "--config", str(path), "--print-config"]) == 2
    said = capsys.readouterr().err
    assert said == "patchkin: error: Settings by name are expected, not 3.\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!int ''", "string index out of range"),
        ("a: !!bool x", "is not valid YAML"),
        ("a: !!timestamp x", "is not valid YAML"),
        ("3: x", "has the name 3, which is no text"),
        ("data: {1: x, y: z}", "has the name 1, which is no text"),
        ("a: &a [*a]", "nested too deeply"),
        ("a: &a {b: *a}", "nested too deeply"),
        ("a: " + "[" * 40 + "]" * 40, "nested too deeply"),
    ],
)
def test_yaml_that_no_settings_are_written_in(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)


def test_aliases_may_not_multiply(tmp_path):
    """Each line holds the one above twice: the last would be 2^25 numbers, and those in a message
    or in a comparison of runs take all memory.
    """
    path = tmp_path / "c.yaml"
    lines = ["x0: &x0 [1]", *(f"x{n}: &x{n} [*x{n - 1}, *x{n - 1}]" for n in range(1, 26))]
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="more than 16 aliases"):
        read_yaml(path)
    path.write_text("a: &a [1, 2]\nb: {c: *a, d: '*'}\n")
    assert read_yaml(path) == {"a": [1, 2], "b": {"c": [1, 2], "d": "*"}}


@pytest.mark.parametrize("plain", [[[1]], "x", 3, None])
def test_what_has_no_names_is_no_settings(plain):
    with pytest.raises(ConfigError, match="the file must hold settings by name, not "):
        from_plain(Outer, plain, where="the file")


def test_a_long_value_is_cut_in_a_message():
    with pytest.raises(ConfigError, match="expected a whole number") as caught:
        from_plain(Outer, {"inner": {"count": ["x" * 100_000] * 100_000}}, where="the file")
    assert len(str(caught.value)) < 500
