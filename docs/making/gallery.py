"""The gallery, of what `make gallery` trains: `gallery.py RUNS MEADOW FARM PICTURES`.

They are drawn animals of the two toy worlds, so they are ours.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from pictures import grid, save, upper
from PIL import Image

COLUMNS = 6


def main(runs: Path, meadow: Path, farm: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shown = sorted((farm / "testA").glob("*.png"))
    run = runs / "farm-relation"
    rows = [shown, companions(shown, "true"), of_run(run, shown)]
    save(grid([row[:COLUMNS] for row in rows]), folder / "gallery-farm.png")
    save(grid(furthest(rows, COLUMNS)), folder / "gallery-farm-worst.png")
    steps = sorted((run / "previews").glob("step_*.png"))
    learning = below([upper(Image.open(path), 0.35) for path in steps])
    twice = (2 * learning.width, 2 * learning.height)
    save(learning.resize(twice, Image.Resampling.NEAREST), folder / "gallery-learning.png")
    plain = sorted((meadow / "testA").glob("*.png"))[:COLUMNS]
    truth = companions(plain, "true")
    save(grid([plain, truth, of_run(runs / "norm", plain)]), folder / "gallery-norm.png")
    save(grid([plain, of_run(runs / "shipped", plain)]), folder / "gallery-shipped.png")
    tell(runs)


def of_run(run: Path, inputs: list[Path]) -> list[Path]:
    """Translations of test images."""
    return [run / "translated" / path.name for path in inputs]


def companions(inputs: list[Path], kind: str) -> list[Path]:
    """What lies beside test images."""
    return [path.parent.with_name(f"{path.parent.name}_{kind}") / path.name for path in inputs]


def furthest(rows: list[list[Path]], count: int) -> list[list[Path]]:
    """The columns whose third row is furthest from the truth in the second, worst first."""
    distances = [distance(truth, made) for truth, made in zip(rows[1], rows[2], strict=True)]
    worst = np.argsort(distances)[::-1][:count]
    print("furthest:", *(f"{rows[0][index].name} {distances[index]:.1f}" for index in worst))
    return [[row[index] for index in worst] for row in rows]


def distance(one: Path, other: Path) -> float:
    """Mean absolute difference in levels."""
    levels = [np.asarray(Image.open(path).convert("RGB"), float) for path in (one, other)]
    return float(np.abs(levels[0] - levels[1]).mean())


def below(pictures: list[Image.Image]) -> Image.Image:
    """One below the other."""
    page = Image.new(
        "RGB", (max(p.width for p in pictures), sum(p.height + 6 for p in pictures) - 6), "white"
    )
    top = 0
    for picture in pictures:
        page.paste(picture, (0, top))
        top += picture.height + 6
    return page


def tell(runs: Path) -> None:
    """The scores that captions quote."""
    for path in sorted(runs.glob("*/scores.json")):
        print(path.parent.name, json.dumps(json.loads(path.read_text(encoding="utf-8")))[:3000])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:5]))
