"""The study on photographs: CUT, semantic relation, DCLGAN and EnCo on two sets at 128 pixels.

    python benchmarks/photos/study.py OUTPUT --horses datasets/horse2zebra \\
        --facades datasets/facades --extractor-weights SQUEEZENET [--hours 2.5] [--jobs 2]
    python benchmarks/photos/study.py OUTPUT --tables

trains every row on horse2zebra and on facades (label maps to photographs, of whose pairs training
is told nothing), 30,000 steps each, one thread per run, and keeps of every run that ends a record
in `benchmarks/photos/records/`: its command, its validation scores, and its test scores at the last
step and at the best one on validation images. What has a record is not run again; a run that was
interrupted is resumed while OUTPUT is there. `--tables` writes `OUTPUT/tables.md` about the records
that there are.

DATA of horses has masksA if changes outside the animals are to be scored. All rows have the same
networks, batch 1 and schedule, and the weights that were published. `--list` prints every command.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from growing import Ran, conduct, planned, study_parser
from preparing import prepared_data
from records import over_seeds, rounded
from studies import (
    CUT,
    RELEASED,
    Member,
    Row,
    evaluate_once,
)

from patchkin import __version__
from patchkin.data.splitting import pairs_to_split, write_halves
from patchkin.images import read_image, to_tensor
from patchkin.metrics import luma_correlation
from patchkin.storage.atomic import new_folder
from patchkin.storage.checkpoint import CheckpointStore
from patchkin.translation.translator import Translator

RECORDS = Path(__file__).resolve().parent / "records"
SIZE = 128
ZEBRA = 340
"""The class of ImageNet."""
PROTOCOL = "squeezenet-224"
"""It takes images of any size."""
COLOURS = (8, 64)
"""Numbers of colours, cubes of 2 and 4 levels per channel, that pixels are counted by."""
SETS = ("horse2zebra", "facades")

_SLOW_START = (
    # 400 epochs forgive it, 30,000 steps do not.
    *("--method.initialization.gain", "1.0", "--schedule.ema-decay", "0.999"),
    "--schedule.ema-warmup",
)
SHARED = (
    *("--size", str(SIZE), "--ngf", "12", "--blocks", "6", "--ndf", "32"),
    *("--method.generator.no-antialias-down", "--method.discriminator.no-antialias"),
    *("--precision", "bf16-mixed", "--workers", "1", "--cache"),
    *_SLOW_START,
)
_PATCHES = ("--method.num-patches", "128", "--method.head-width", "128")
_RATES = (
    *("--method.generator-adam.learning-rate", "5e-4"),
    *("--method.discriminator-adam.learning-rate", "2.5e-4"),
)
_PLAIN = (*_PATCHES, *_RATES, "--method.taps")
ROWS = (
    Row(name=CUT.name, title=CUT.title, method="cut", flags=(*_PLAIN, "0", "4", "7", "10", "14")),
    Row(
        name=RELEASED.name,
        title=RELEASED.title,
        method="semantic-relation",
        # SRC is a sum over places, of which there are half as many as published.
        flags=("--method.relation-weight", "0.1", *_PLAIN, "0", "4", "7", "10", "14"),
    ),
    Row(name="dclgan", title="DCLGAN", method="dclgan", flags=(*_PLAIN, "4", "7", "10", "14")),
    Row(
        name="enco",
        title="EnCo",
        method="enco",
        # The published rates, times what all rows have theirs times.
        flags=(
            *_PATCHES,
            *("--method.generator-adam.learning-rate", "1.25e-4"),
            *("--method.head-adam.learning-rate", "1.25e-4"),
            *("--method.discriminator-adam.learning-rate", "5e-4"),
        ),
    ),
)
SCORES = {
    f"{PROTOCOL}/class_top1": "taken for a zebra, %: more is better",
    f"{PROTOCOL}/frechet": "Frechet distance: less is better",
    f"{PROTOCOL}/kernel": "kernel distance (KID): less is better",
    "relation_change": "change of relations among patches: less is better",
    "structure": "correlation of grey values with the input's: more is better",
    "change_outside": "change outside the animals, of 255: less is better",
    "collapse_ratio": "LPIPS among outputs over that among inputs: more is better",
    "truth/psnr": "PSNR to the photograph, dB: more is better",
    "truth/ssim": "SSIM to the photograph: more is better",
    "truth/lpips": "LPIPS to the photograph: less is better",
    **{f"same_of_{n}": f"pixels of the same of {n} colours, %: more is better" for n in COLOURS},
}
"""Name -> what it says; a set has some of them."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is kept of a run."""

    set: str
    row: str
    seed: int
    steps: int
    command: str
    versions: dict[str, str]
    hours: float
    best: int
    """The step with the best validation score."""
    validation: dict[str, dict[str, float]]
    """Step -> scores of the validation images."""
    test: dict[str, dict[str, float]]
    """Last and best step -> scores of the test images."""


def main() -> int:
    parser = study_parser(
        __doc__.split("\n")[0], rows=ROWS, seeds=(0, 1), steps=30_000, records=RECORDS
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--horses", type=Path, help="horse2zebra, with masksA if they are at hand")
    parser.add_argument("--facades", type=Path, help="pairs side by side, photographs on the left")
    parser.add_argument(
        "--extractor-weights", dest="weights", type=Path, help="torchvision's SqueezeNet 1.1"
    )
    options = parser.parse_args()

    def prepare() -> None:
        if options.weights is None:
            sys.exit("--extractor-weights: SqueezeNet 1.1 is needed for scores.")
        for name in options.sets:
            prepared(options, name)

    def kept(member: Member) -> dict[str, Any]:
        data = options.output / "data" / member.folder.name.split("_")[0]
        return asdict(recorded(member, data, options.weights))

    return conduct(
        options,
        list(plan(options)),
        prepare=prepare,
        recorded=kept,
        tables=lambda: tables(read_records(options.records)),
    )


def plan(options: argparse.Namespace) -> Iterator[Member]:
    """All runs."""

    def shared(name: str) -> Sequence[str]:
        return (
            *("--data", str(options.output / "data" / name), "--direction", direction_of(name)),
            *("--steps", str(options.steps), "--score-every", str(max(1, options.steps // 10))),
            *("--training.score-protocol", PROTOCOL),
            *("--training.score-weights", str(options.weights)),
            *("--training.keep", "0", "--training.preview-every", str(options.steps)),
            *SHARED,
        )

    return planned(options, ROWS, options.sets, shared)


def direction_of(name: str) -> str:
    """Photographs are the left halves of facades, hence A."""
    return "BtoA" if name == "facades" else "AtoB"


def prepared(options: argparse.Namespace, name: str) -> Path:
    """A set with held-out images of 128 pixels; facades without pairs."""
    given = options.horses if name == "horse2zebra" else options.facades
    folder = options.output / "data" / name
    if given is None and not (folder / "ready").is_file():
        sys.exit(f"--{'horses' if name == 'horse2zebra' else 'facades'}: {name} is needed.")
    if name == "horse2zebra":
        return prepared_data(given, folder, SIZE)
    halves = options.output / "data" / "facades-halves"
    if not halves.is_dir():
        with new_folder(halves) as unfinished:
            for _ in write_halves(pairs_to_split(given), given, unfinished):
                pass
    return prepared_data(halves, folder, SIZE)


def recorded(member: Member, data: Path, weights: Path) -> Record:
    """What is kept of a run that has ended."""
    ran = Ran.of(member.folder)
    told = {str(data): f"datasets/{data.name}-{SIZE}", str(weights): "squeezenet1_1.pth"}
    return Record(
        set=data.name,
        row=member.row.name,
        seed=member.seed,
        steps=member.steps,
        command=shlex.join(["patchkin", *(told.get(part, part) for part in member.command)]),
        versions={"patchkin": __version__, "torch": torch.__version__},
        hours=ran.hours,
        best=ran.best,
        validation={str(step): rounded(scores) for step, scores in ran.scores.items()},
        test={
            str(step): rounded(test_scores(member, step, data, weights))
            for step in sorted({ran.best, member.steps})
        },
    )


def test_scores(member: Member, step: int, data: Path, weights: Path) -> dict[str, float]:
    """Of a checkpoint, on all test images."""
    checkpoint = CheckpointStore(member.folder).path(step)
    direction = direction_of(data.name)
    flags = ["--data", str(data), "--direction", direction, "--protocol", PROTOCOL]
    flags += ["--extractor-weights", str(weights), "--lpips", "squeeze"]
    flags += ["--lpips-weights", str(weights)]
    if data.name == "horse2zebra":
        flags += ["--classes", str(ZEBRA)]
        flags += ["--masks", str(data / "masksA")] if (data / "masksA").is_dir() else []
    else:
        flags += ["--truth", str(data / "testA")]
    scores = evaluate_once(checkpoint, member.folder / f"test_{step}.json", flags)
    return scores | own_scores(checkpoint, data)


def own_scores(checkpoint: Path, data: Path) -> dict[str, float]:
    """Means over the test images of what `patchkin evaluate` does not tell."""
    translator = Translator.load(checkpoint, device="cpu")
    found: dict[str, list[float]] = {}
    source, target = direction_of(data.name).split("to")
    for path in sorted((data / f"test{source}").glob("*.png")):
        x_CHW = to_tensor(read_image(path, 3))
        y_CHW = translator(x_CHW)
        correlation = float(luma_correlation(y_CHW[None], x_CHW[None]))
        found.setdefault("structure", []).append(correlation)
        if data.name == "facades":
            truth_CHW = to_tensor(read_image(data / f"test{target}" / path.name, 3))
            for colours in COLOURS:
                share = same_colour(y_CHW, truth_CHW, colours=colours)
                found.setdefault(f"same_of_{colours}", []).append(100 * share)
    return {name: sum(values) / len(values) for name, values in found.items()}


def same_colour(y_CHW: Tensor, truth_CHW: Tensor, *, colours: int) -> float:
    """Share of pixels whose colour is the truth's, of so many that divide the cube evenly.

    >>> black, grey = torch.full((3, 1, 2), -1.0), torch.full((3, 1, 2), -0.2)
    >>> same_colour(black, grey, colours=8), same_colour(black, grey, colours=64)
    (1.0, 0.0)
    """
    levels = round(colours ** (1 / 3))
    bins = [((x_CHW + 1) / 2 * levels).floor().clamp(0, levels - 1) for x_CHW in (y_CHW, truth_CHW)]
    return float((bins[0] == bins[1]).all(0).float().mean())


def read_records(folder: Path) -> list[Record]:
    """All that are there."""
    paths = sorted(folder.glob("*.json"))
    return [Record(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def tables(records: Sequence[Record]) -> str:
    """Pages of Markdown: the scores of each set by row."""
    parts = ["# Records so far\n"]
    for name in SETS:
        by_row = {
            row: found
            for row in ROWS
            if (found := [r for r in records if (r.set, r.row) == (name, row.name)])
        }
        if not by_row:
            continue
        parts.append(f"## {name}\n")
        for score, title in SCORES.items():
            if not all(score in r.test[str(r.steps)] for found in by_row.values() for r in found):
                continue
            parts += [
                f"### {title}\n",
                "| row | seeds | last | best on validation |",
                "|---" * 4 + "|",
            ]
            for row, found in by_row.items():
                last, best = (
                    over_seeds([r.test[str(step(r))][score] for r in found])
                    for step in (lambda r: r.steps, lambda r: r.best)
                )
                parts.append(f"| {row.title} | {len(found)} | {last} | {best} |")
            parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
