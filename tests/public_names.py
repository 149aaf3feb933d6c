"""What users may import: the names that `public_names.txt` beside this lists.

    python tests/public_names.py    writes the list anew, after a name was added or removed

A package has the names in its `__all__`; a package without one is not for users. A module in the
root (`patchkin.method`, `patchkin.errors`, ...) has all that it defines without an underscore.
"""

from __future__ import annotations

import ast
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "src"
LIST = Path(__file__).with_suffix(".txt")


def public_names() -> list[str]:
    """All of them with their packages, sorted; read from the sources, nothing is imported."""
    root = SOURCES / "patchkin"
    names = [
        f"{'.'.join(path.parent.relative_to(SOURCES).parts)}.{name}"
        for path in root.rglob("__init__.py")
        for name in _exported(path)
    ]
    names += [
        f"patchkin.{path.stem}.{name}"
        for path in root.glob("[!_]*.py")
        for name in _defined(path)
        if not name.startswith("_")
    ]
    return sorted(names)


def listed_names() -> list[str]:
    """Those of the checked-in list."""
    return LIST.read_text(encoding="utf-8").split()


def _exported(path: Path) -> list[str]:
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return list(ast.literal_eval(statement.value))
    return []


def _defined(path: Path) -> list[str]:
    names = []
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        match statement:
            case ast.FunctionDef() | ast.ClassDef():
                names.append(statement.name)
            case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar"))):
                pass  # not for users
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                names.append(name)
    return names


if __name__ == "__main__":
    LIST.write_text("\n".join(public_names()) + "\n", encoding="utf-8")
