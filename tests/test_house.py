"""How the house is built, where the import contracts of `pyproject.toml` do not say it."""

from __future__ import annotations

import ast
import warnings
from importlib import import_module
from pathlib import Path

import pytest

import patchkin
from public_names import listed_names, public_names

ROOT = Path(patchkin.__file__).parent
MOST_LINES, MOST_ROOT_FILES = 500, 12
LONGER = {ROOT / "data" / "toy.py"}
"""It draws, and nothing of it has a use by itself."""


def test_no_file_is_too_long_to_read():
    files = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}
    long = {path: lines for path, lines in files.items() if lines > MOST_LINES}
    others = {str(path.relative_to(ROOT)): long[path] for path in long if path not in LONGER}
    assert not others, f"above {MOST_LINES} lines: {others}. Split where the nouns part."
    assert long, "none is longer any more: empty `LONGER`."


def test_the_root_holds_the_contract_and_the_ground_floor_only():
    names = sorted(path.name for path in ROOT.glob("*.py"))
    assert len(names) <= MOST_ROOT_FILES, f"{names}: which of them belongs to a room?"


def test_what_only_a_processor_needs_stands_below_all_networks():
    room = ROOT / "networks" / "cpu"
    imported = {name for path in room.glob("*.py") for name in imports(path)}
    assert "patchkin.networks.cpu.layout" in imported
    networks = {name for name in imported if name.startswith("patchkin.networks")}
    assert {name for name in networks if not name.startswith("patchkin.networks.cpu")} == set()


def test_public_names_are_those_of_the_list():
    listed, there = set(listed_names()), set(public_names())
    assert not listed - there, (
        f"gone: {sorted(listed - there)}. Users import these names. Keep them, or say in "
        "CHANGELOG.md what to write instead and run `python tests/public_names.py`; a name of "
        "`patchkin` itself moves by `_RENAMED` in its `__init__.py`."
    )
    assert not there - listed, (
        f"new: {sorted(there - listed)}. If users shall import them, run "
        "`python tests/public_names.py`; else leave them out of `__all__`, or begin with _."
    )


@pytest.mark.parametrize("package", sorted({name.rpartition(".")[0] for name in listed_names()}))
def test_public_names_can_be_imported(package):
    module = import_module(package)
    for name in listed_names():
        home, _, attribute = name.rpartition(".")
        if home == package:
            assert getattr(module, attribute) is not None
    with pytest.raises(AttributeError, match=r"no attribute .missing"):
        module.missing  # noqa: B018


def test_a_renamed_name_warns_and_is_what_it_was(monkeypatch):
    renamed = {"relation_loss": ("patchkin.losses.relation_consistency", "99.0")}
    monkeypatch.setattr(patchkin, "_RENAMED", renamed)
    wanted = "`patchkin.relation_loss` is `patchkin.losses.relation_consistency` now; version 99.0"
    with pytest.warns(DeprecationWarning, match=wanted):
        loss = patchkin.relation_loss
    assert loss is import_module("patchkin.losses").relation_consistency


def test_renamed_names_go_with_the_version_that_was_promised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for name, (_, until) in patchkin._RENAMED.items():
            assert getattr(patchkin, name) is not None
            assert release(patchkin.__version__) < release(until), (
                f"`patchkin.{name}` was promised until {until}: take it out of `_RENAMED`."
            )


def release(version: str) -> tuple[int, ...]:
    """0.12.1.dev0 -> (0, 12, 1)."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def python_files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Modules that a file imports from."""
    statements = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    froms = {node.module or "" for node in statements if isinstance(node, ast.ImportFrom)}
    plain = {
        alias.name for node in statements if isinstance(node, ast.Import) for alias in node.names
    }
    return froms | plain
