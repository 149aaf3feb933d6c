"""The long study on both toy worlds: ten times the steps, more methods, a test of the differences.

    python benchmarks/toy/long.py OUTPUT [--hours 2] [--jobs 2]
    python benchmarks/toy/long.py OUTPUT --tables

trains every row in both worlds with three seeds, 20,000 steps each, one thread per run, and keeps
of every run that ends a record in `benchmarks/toy/long/`: its command, its validation scores, and
the scores of every test image at the last step and at the best one on validation images. What has
a record is not run again, so the study grows piece by piece, and OUTPUT may go away in between. A
run that was interrupted is resumed while OUTPUT is there. `--tables` writes `OUTPUT/tables.md`
about the records that there are; nothing is trained for it.

Runs go seed by seed, and within a seed first through the world `farm`, in which semantics can be
confused. All rows have the networks, rates, averaged weights and schedule of the toy presets of
cut and semantic-relation but what their titles say. `--list` prints the command of every run.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from growing import Ran, conduct, planned, study_parser
from records import four_digits, interval, mean_seen, over_seeds, per_image, rounded
from studies import (
    CUT,
    PAPER,
    RELEASED,
    TABLE_3,
    Member,
    Row,
    ablated,
)

from patchkin import __version__
from patchkin.data.toy import mask_file, truth_file, write_toy
from patchkin.data.toy_farm import write_farm
from patchkin.images import read_image, to_tensor
from patchkin.metrics import score_against_counterpart
from patchkin.scoring.confusion import ConfusionScore
from patchkin.scoring.held_out import Inputs
from patchkin.scoring.pairs import pairs_of
from patchkin.storage.checkpoint import CheckpointStore
from patchkin.translation.translator import Translator

RECORDS = Path(__file__).resolve().parent / "long"
WORLDS = {"farm": write_farm, "meadow": write_toy}
TEST_IMAGES = 48

_SHARED_NETWORKS = (
    *("--method.generator.norm", "none", "--method.generator.antialias-up"),
    *("--method.initialization.gain", "0.7", "--schedule.ema-decay", "0.995"),
)
ROWS = (
    CUT,
    RELEASED,
    PAPER,
    Row(name="dclgan", title="DCLGAN", method="dclgan", flags=_SHARED_NETWORKS),
    Row(name="enco", title="EnCo", method="enco"),
    Row(name="patchgcl", title="PatchGCL, on its own encoder", method="patchgcl"),
    Row(
        name="cut_monce",
        title="CUT + MoNCE weights",
        method="cut",
        flags=("--method.negatives", "optimal-transport"),
    ),
    Row(
        name="cut_attention",
        title="CUT + places by attention (QS-Attn)",
        method="cut",
        flags=("--method.places", "attention"),
    ),
    ablated(
        "stable",
        "semantic relation, `stable` (R1, longer average)",
        *("--method.r1-weight", "1", "--schedule.ema-decay", "0.999", "--schedule.ema-warmup"),
    ),
    *(row for row in TABLE_3 if row not in (CUT, RELEASED)),
)
SCORES = {
    "tone_inside": "grey levels inside, distance to the truth's: less is better",
    "stripe_iou": "overlap of dark stripes with the truth's: more is better",
    "change_outside": "change outside the animal in grey levels: less is better",
    "detail_inside": "detail inside over the truth's: 1 is best",
    "psnr": "PSNR in dB: more is better",
    "bystander_striping": "the hog was striped: 0 is best",
    "things_striping": "fence, trunks or barrels were striped: 0 is best",
    "animal_lost": "share of images whose animal is gone: 0 is best",
}
"""Name -> what it says. The last three are of the world `farm`."""
CLAIMS = (
    ("released", "cut", "semantic relation (released) against CUT"),
    ("paper", "cut", "semantic relation (paper) against CUT"),
    ("nce_src", "cut", "SRC, added to InfoNCE"),
    ("nce_src_hard", "nce_src", "hard negatives, added to InfoNCE + SRC"),
    ("dce", "cut", "DCE in place of InfoNCE"),
    ("dce_src", "dce", "SRC, added to DCE"),
    ("dce_hard", "dce", "hard negatives, added to DCE"),
    ("released", "dce_src", "hard negatives, added to DCE + SRC"),
    ("dclgan", "cut", "DCLGAN against CUT"),
    ("enco", "cut", "EnCo against CUT"),
    ("patchgcl", "cut", "PatchGCL against CUT"),
    ("cut_monce", "cut", "MoNCE weights, added to CUT"),
    ("cut_attention", "cut", "places by attention, added to CUT"),
    ("stable", "released", "`stable` against released"),
)
"""Row, what it is compared with, and what the difference says."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is kept of a run."""

    world: str
    row: str
    seed: int
    steps: int
    command: str
    versions: dict[str, str]
    hours: float
    best: int
    """The step with the best validation score."""
    validation: dict[str, dict[str, float]]
    """Step -> means over the validation images."""
    means: dict[str, dict[str, float]]
    """Step, of all kept -> means over the test images."""
    test: dict[str, dict[str, list[float | None]]]
    """Last and best step -> a number per test image; None where nothing can be seen."""

    def values(self, score: str, step: int) -> NDArray[np.float64]:
        """Of the test images, [N]; NaN where nothing can be seen."""
        return per_image(self.test[str(step)][score])


def main() -> int:
    parser = study_parser(
        __doc__.split("\n")[0], rows=ROWS, seeds=(0, 1, 2), steps=20_000, records=RECORDS
    )
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=WORLDS)
    options = parser.parse_args()

    def prepare() -> None:
        for world in options.worlds:
            if not (options.output / world / "testA").is_dir():
                WORLDS[world](options.output / world, test=TEST_IMAGES, val=24)

    def kept(member: Member) -> dict[str, Any]:
        world = member.folder.name.split("_")[0]
        return asdict(recorded(member, world, options.output / world))

    return conduct(
        options,
        list(plan(options)),
        prepare=prepare,
        recorded=kept,
        tables=lambda: tables(read_records(options.records)),
    )


def plan(options: argparse.Namespace) -> Iterator[Member]:
    """All runs."""

    def shared(world: str) -> Sequence[str]:
        return (
            *("--preset", "toy", "--data", str(options.output / world), "--workers", "0"),
            *("--steps", str(options.steps), "--score-every", str(max(1, options.steps // 10))),
            *("--training.keep", "0", "--training.preview-every", str(options.steps)),
        )

    return planned(options, ROWS, options.worlds, shared)


def recorded(member: Member, world: str, data: Path) -> Record:
    """What is kept of a run that has ended."""
    ran = Ran.of(member.folder)
    steps = [step for step in CheckpointStore(member.folder).steps() if step > 0]
    test = {step: image_scores(member.folder, step, data) for step in steps}
    return Record(
        world=world,
        row=member.row.name,
        seed=member.seed,
        steps=member.steps,
        command=shlex.join(["patchkin", *_portable(member.command, data)]),
        versions={"patchkin": __version__, "torch": torch.__version__},
        hours=ran.hours,
        best=ran.best,
        validation={str(step): rounded(scores) for step, scores in ran.scores.items()},
        means={
            str(step): {
                name: four_digits(mean_seen(per_image(values))) for name, values in scores.items()
            }
            for step, scores in test.items()
        },
        test={str(step): test[step] for step in {ran.best, member.steps}},
    )


def _portable(command: Sequence[str], data: Path) -> list[str]:
    """A command as anybody may type it."""
    return [f"build/{data.name}" if part == str(data) else part for part in command]


def image_scores(run: Path, step: int, data: Path) -> dict[str, list[float | None]]:
    """Scores of every test image by a checkpoint."""
    translator = Translator.load(CheckpointStore(run).path(step), device="cpu")
    inputs = Inputs(tuple(sorted((data / "testA").glob("*.png"))))
    found: dict[str, list[float | None]] = {}
    for pair in pairs_of(translator, inputs, size=None):
        path, x_CHW = pair.path, pair.input_CHW
        assert path is not None  # a model translates images that there are
        assert x_CHW is not None
        truth_CHW = to_tensor(read_image(truth_file(path), 3))
        mask_HW = to_tensor(read_image(mask_file(path), 1))[0] > 0
        scores = asdict(score_against_counterpart(pair.output_CHW, x_CHW, truth_CHW, mask_HW))
        confusion = ConfusionScore(size=None, value_range=None)
        confusion.add(pair)
        scores |= {name.split("/")[1]: value for name, value in confusion.scores().items()}
        for name in SCORES if data.name == "farm" else [n for n in SCORES if n in scores]:
            found.setdefault(name, []).append(four_digits(scores[name]) if name in scores else None)
    return found


def read_records(folder: Path) -> list[Record]:
    """All that are there."""
    paths = sorted(folder.glob("*.json"))
    return [Record(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def tables(records: Sequence[Record]) -> str:
    """Pages of Markdown: scores by row, and what the differences say."""
    titles = {row.name: row.title for row in ROWS}
    parts = ["# Records so far\n"]
    for world in WORLDS:
        by_row = {
            name: found
            for name in titles
            if (found := [r for r in records if (r.world, r.row) == (world, name)])
        }
        if not by_row:
            continue
        parts.append(f"## {world}\n\n{TEST_IMAGES} test images; mean over seeds, ± deviation.\n")
        scores = [name for name in SCORES if name in _scores_of(by_row)]
        for score in scores:
            parts += [f"### {SCORES[score]}\n", score_table(score, by_row, titles)]
        parts += ["### Differences\n", claim_table(scores, by_row)]
    return "\n".join(parts)


def _scores_of(by_row: Mapping[str, Sequence[Record]]) -> set[str]:
    return {name for rows in by_row.values() for r in rows for name in r.test[str(r.steps)]}


def score_table(
    score: str, by_row: Mapping[str, Sequence[Record]], titles: Mapping[str, str]
) -> str:
    """One line per row: last, best on validation, and best on test, which no user can have."""
    lines = ["| row | seeds | last | best on validation | best on test |", "|---|---|---|---|---|"]
    for name, records in by_row.items():
        cells = [
            over_seeds([mean_seen(r.values(score, r.steps)) for r in records]),
            over_seeds([mean_seen(r.values(score, r.best)) for r in records]),
            over_seeds([_best(score, [m[score] for m in r.means.values()]) for r in records]),
        ]
        lines.append(f"| {titles[name]} | {len(records)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _best(score: str, values: Sequence[float]) -> float:
    if score == "detail_inside":
        return min(values, key=lambda value: abs(value - 1))
    return max(values) if score in ("stripe_iou", "psnr") else min(values)


def claim_table(scores: Sequence[str], by_row: Mapping[str, Sequence[Record]]) -> str:
    """Differences with their 95 % intervals; in bold those whose interval leaves 0 out."""
    lines = [f"| | seeds | {' | '.join(scores)} |", "|---" * (2 + len(scores)) + "|"]
    for ours, theirs, what in CLAIMS:
        pairs = [
            (a, b)
            for a in by_row.get(ours, ())
            for b in by_row.get(theirs, ())
            if a.seed == b.seed and a.steps == b.steps
        ]
        if not pairs:
            continue
        cells = []
        for score in scores:
            difference_SN = np.stack(
                [a.values(score, a.steps) - b.values(score, b.steps) for a, b in pairs]
            )
            mean, low, high = interval(difference_SN)
            text = f"{mean:+.3g} [{low:+.2g}, {high:+.2g}]"
            cells.append(f"**{text}**" if low > 0 or high < 0 else text)
        lines.append(f"| {what} | {len(pairs)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
