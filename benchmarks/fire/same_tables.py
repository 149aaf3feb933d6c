"""Tables of what `same_numbers.py` found in one or several environments.

    python benchmarks/fire/same_tables.py FOLDER [FOLDER ...]

Says what is promised beside what was seen, and ends with code 1 if something is not as promised.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from same_numbers import (
    DOUBLE,
    METHODS,
    NEAR,
    NEAR_WEIGHT,
    PREPROCESSES,
    STEPS,
    VARIANTS,
    WAYS,
    compared,
    is_near,
)

NOT_RUN = "not run"


def tables(folders: Sequence[Path]) -> tuple[str, list[str]]:
    """Of all environments, and what is not as promised."""
    found = [json.loads((folder / "numbers.json").read_text()) for folder in folders]
    heads = [f"{letter}" for letter, _ in zip("ABCDEFGH", found, strict=False)]
    wrong: list[str] = []
    parts = [
        rows(["", *next(iter(found))["environment"]], (
            [head, *one["environment"].values()] for head, one in zip(heads, found, strict=True)
        )),
        "All methods (" + ", ".join(METHODS) + "), the worst of them:",
        rows(["way", "promised", *heads], way_rows(found, heads, wrong)),
        f"Near: {NEAR}. Told besides: the share of weights within {NEAR_WEIGHT:g}.",
        "In float64, three steps of a batch of four: the largest difference of a weight.",
        rows(["variant", "promised", *heads], double_rows(found, heads, wrong)),
    ]  # fmt: skip
    if len(found) > 1:
        parts += [f"Beside {heads[0]}:", rows(["of", *heads[1:]], beside(folders, found))]
    parts += [
        "Goldens: the largest error of each schema as a share of its tolerance, and relative to "
        "the largest number of its tensor.",
        rows(["schema", "comparisons", *heads], golden_rows(found, heads, wrong)),
    ]
    return "\n\n".join(parts) + "\n", wrong


def way_rows(
    found: Sequence[Mapping[str, Any]], heads: Sequence[str], wrong: list[str]
) -> Iterable[list[str]]:
    for way in WAYS:
        if way.like is None:
            continue
        cells = []
        for head, one in zip(heads, found, strict=True):
            names = {method: f"{method}: {way.name}" for method in METHODS}
            seen = {method: one[name] for method, name in names.items() if name in one}
            cells.append(way_cell(list(seen.values())) + missing(names.keys() - seen.keys()))
            wrong += [
                f"{head}: {method}, {way.name}: {told}"
                for method, told in seen.items()
                if not (told["equal"] if way.exact else is_near(told))
            ]
        yield [f"{way.name}, as {way.like}", "bit-equal" if way.exact else "near", *cells]


def double_rows(
    found: Sequence[Mapping[str, Any]], heads: Sequence[str], wrong: list[str]
) -> Iterable[list[str]]:
    for variant in VARIANTS:
        seen = [one.get("in double", {}).get(variant, {}) for one in found]
        wrong += [
            f"{head}: {variant} in float64: {told}"
            for head, told in zip(heads, seen, strict=True)
            if not max(told.values(), default=0.0) <= DOUBLE
        ]
        cells = [
            ", ".join(f"{name} {far:.1e}" for name, far in told.items()) or NOT_RUN for told in seen
        ]
        yield [f"`{variant}`", f"{DOUBLE:g}", *cells]


def missing(names: Iterable[str]) -> str:
    """What is said of those that were not run."""
    told = ", ".join(sorted(names))
    return f" (not run: {told})" if told and len(set(names)) < len(METHODS) else ""


def way_cell(seen: Sequence[Mapping[str, Any]]) -> str:
    if not seen:
        return NOT_RUN
    if all(one["equal"] for one in seen):
        return "bit-equal"
    first, last, largest = (
        max(one[name] for one in seen) for name in ("first_terms", "last_terms", "largest_weight")
    )
    near = min(one["near_weights"] for one in seen)
    return f"first terms {first:.1e}, last {last:.1e}; weights {near:.1%} near, most {largest:.1e}"


def beside(folders: Sequence[Path], found: Sequence[Mapping[str, Any]]) -> Iterable[list[str]]:
    """What the environments after the first differ in from it."""
    first, others = found[0], found[1:]
    yield ["pixels of the toy set", *(same(one.get("toy"), first["toy"]) for one in others)]
    for name in PREPROCESSES:
        views = [one.get("views", {}).get(name) for one in found]
        yield [f"views, `{name}`", *(same(one, views[0]) for one in views[1:])]
    runs = [[folder / "runs" / f"{method}-plain" for method in METHODS] for folder in folders]
    for place, method in enumerate(METHODS):
        cells = [
            way_cell([compared(run[place], runs[0][place])] if f"{method}: plain" in one else [])
            for run, one in zip(runs[1:], others, strict=True)
        ]
        yield [f"`{method}`, {STEPS} steps", *cells]


def same(one: Any, other: Any) -> str:
    return NOT_RUN if one is None else "the same" if one == other else "others"


def golden_rows(
    found: Sequence[Mapping[str, Any]], heads: Sequence[str], wrong: list[str]
) -> Iterable[list[str]]:
    for head, one in zip(heads, found, strict=True):
        if one.get("goldens", {}).get("code"):
            wrong.append(f"{head}: golden tests: {one['goldens']['said']}")
    schemas = [one.get("goldens", {}).get("schemas", {}) for one in found]
    for name in sorted({name for of_one in schemas for name in of_one}):
        cells = []
        for of_one in schemas:
            seen = of_one.get(name)
            if seen is None:
                cells.append(NOT_RUN)
            elif seen["comparisons"] == 0:
                cells.append("equal")
            else:
                cells.append(f"{seen['share']:.2g}; {seen['error']:.1e}")
        counts = {of_one[name]["comparisons"] for of_one in schemas if name in of_one}
        yield [f"`{name}`", " or ".join(map(str, sorted(counts))), *cells]


def rows(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    told = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in told)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    text, wrong = tables(parser.parse_args().folders)
    print(text)
    for line in wrong:
        print(f"not as promised: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
