"""What helps the last step of a run to be as good as its best one, on the toy data.

    python benchmarks/toy/stability.py OUTPUT

trains the `toy` preset of semantic-relation with one thing changed at a time, three seeds each,
scores it on the validation images every 250 steps and on the test images at every checkpoint, and
writes OUTPUT/stability.md and OUTPUT/stability.png about all complete runs in OUTPUT. Runs go seed
by seed; complete ones are not run again and interrupted ones go on where they stopped. The tables
are written anew whenever a run ends. Rows joined by + are combinations, also in --rows:
`--rows base geometry+r1`.

The best step is the one with the least `tone_inside` on validation images, as in every run. The
best of eight noisy scores is better than the last even where nothing gets worse, so the gap on
the same 24 images flatters the best; the test columns do not have this fault.
"""

from __future__ import annotations

import argparse
import math
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from studies import (
    Member,
    Row,
    check_same_steps,
    draw_curves,
    evaluate_run,
    evaluated_steps,
    make_small,
    runs_in,
    stop_on_termination,
    train_all,
)

from patchkin.data.toy import write_toy
from patchkin.scoring.comparison.reading import read_run
from patchkin.scoring.report import read_log

METHOD = "semantic-relation"
PARTS: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "base": ("toy preset: EMA 0.995, decay over the last 50 %, gamma 50 to 10", {}),
    "no_ema": ("without EMA", {"--schedule.ema-decay": ("0",)}),
    "ema_999": ("EMA 0.999", {"--schedule.ema-decay": ("0.999",)}),
    "ema_warm": (
        "EMA 0.999 with warm-up",
        {"--schedule.ema-decay": ("0.999",), "--schedule.ema-warmup": ()},
    ),
    "no_decay": ("without decay", {"--schedule.decay-fraction": ("0",)}),
    "decay_25": ("decay over the last 25 %", {"--schedule.decay-fraction": ("0.25",)}),
    "gamma_50": ("gamma 50 throughout", {"--method.gamma-divisor-end": ("50",)}),
    "gamma_late": ("gamma 1 in the second half", {"--method.gamma-divisor-late": ("1",)}),
    "geometry": (
        "augmentation: translation, cutout",
        {"--method.augmentation": ("translation", "cutout")},
    ),
    "colours": (
        "augmentation: color, translation, cutout",
        {"--method.augmentation": ("color", "translation", "cutout")},
    ),
    "r1": ("R1, weight 1", {"--method.r1-weight": ("1",)}),
    "r1_10": ("R1, weight 10", {"--method.r1-weight": ("10",)}),
}
"""Name -> title and flags. Without EMA the live weights are scored."""
DEFAULT = (*PARTS, "geometry+r1", "geometry+r1+gamma_50")
PRIMARY = "tone_inside"
SCORES = (PRIMARY, "stripe_iou", "change_outside", "detail_inside")
TEST_PREFIX = "counterpart/"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--rows", nargs="+", type=row_of, default=[row_of(n) for n in DEFAULT])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--list", action="store_true", help="print the commands and stop")
    options = parser.parse_args()
    members = plan(options.output, options.rows, options.seeds, options.steps)
    if options.list:
        for member in members:
            print("patchkin", shlex.join([*member.command, "--run-dir", str(member.folder)]))
        return 0
    stop_on_termination()
    data = options.output / "data"
    if not (data / "testA").is_dir():
        write_toy(data)
    check_same_steps(members)

    def evaluate(member: Member) -> None:
        evaluate_run(member, ["--data", str(data), "--protocol"])
        make_small(member)
        write_results(options.output, complete_runs(options.output, options.steps))

    try:
        train_all(members, jobs=options.jobs, on_complete=evaluate)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    print((options.output / "stability.md").read_text(encoding="utf-8"))
    return 0


def row_of(name: str) -> Row:
    """A row by its name, or a combination of rows that set different things."""
    parts = name.split("+")
    for part in parts:
        if part not in PARTS:
            raise argparse.ArgumentTypeError(f"`{part}` is none of {', '.join(PARTS)}")
    flags: dict[str, tuple[str, ...]] = {}
    for part in parts:
        for flag, values in PARTS[part][1].items():
            if flag in flags:
                raise argparse.ArgumentTypeError(f"`{name}` sets {flag} twice")
            flags[flag] = values
    return Row(
        name=name,
        title="; ".join(PARTS[part][0] for part in parts),
        method=METHOD,
        flags=tuple(chain.from_iterable((flag, *values) for flag, values in flags.items())),
    )


def plan(output: Path, rows: Sequence[Row], seeds: Sequence[int], steps: int) -> list[Member]:
    """All runs, seed by seed, scored eight times each."""
    shared = (
        *("--preset", "toy", "--data", str(output / "data"), "--workers", "0"),
        *("--steps", str(steps), "--score-every", str(max(1, steps // 8)), "--training.keep", "0"),
        *("--training.preview-every", str(steps)),
    )
    return [
        Member(
            row=row,
            seed=seed,
            folder=output / f"{row.name}_seed{seed}",
            command=("train", METHOD, *shared, "--seed", str(seed), *row.flags),
            steps=steps,
        )
        for seed in seeds
        for row in rows
    ]


def complete_runs(output: Path, steps: int) -> list[Member]:
    """All runs of this length that were scored, of this call and of others, row by row."""
    members = [
        member
        for name, seed in runs_in(output)
        if set(name.split("+")) <= set(PARTS)
        for member in plan(output, [row_of(name)], [seed], steps)
        if steps in evaluated_steps(member.folder) and member.begun_steps == steps
    ]
    order = {name: place for place, name in enumerate(DEFAULT)}
    return sorted(members, key=lambda member: order.get(member.row.name, len(order)))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of one run: a score on validation and test images, and how it moved."""

    seed: int
    best_step: int
    best: float
    """On validation images."""
    last: float
    swing: float
    """Greatest minus least validation score in the second half of the run."""
    test_best: float
    """On test images, at the step that is best on validation."""
    test_last: float
    test_scores: dict[str, float]
    """At the last step."""
    seconds: float
    """Median of a step."""


def outcome(member: Member) -> Outcome:
    run = read_run(member.folder)
    curve = {step: scores[PRIMARY] for step, scores in run.validation.items() if step > 0}
    late = [value for step, value in curve.items() if step > member.steps / 2]
    best_step = min(curve, key=lambda step: (curve[step], step))
    tests = {
        step: {name: scores[TEST_PREFIX + name] for name in SCORES}
        for step, scores in run.test.items()
    }
    last = tests[member.steps]
    seconds = [r["seconds_per_step"] for r in read_log(member.folder) if "seconds_per_step" in r]
    return Outcome(
        seed=member.seed,
        best_step=best_step,
        best=curve[best_step],
        last=curve[member.steps],
        swing=max(late) - min(late),
        test_best=tests[best_step][PRIMARY],
        test_last=last[PRIMARY],
        test_scores=last,
        seconds=statistics.median(seconds),
    )


def write_results(output: Path, members: Sequence[Member]) -> None:
    rows = list(dict.fromkeys(member.row for member in members))
    outcomes = {row: [outcome(m) for m in members if m.row == row] for row in rows}
    (output / "stability.md").write_text(
        f"## {PRIMARY}: grey levels inside, less is better\n\n"
        + gap_table(outcomes)
        + "\n## Test images, last step\n\n"
        + last_table(outcomes),
        encoding="utf-8",
    )
    short = {row: replace(row, title=row.name) for row in rows}  # for the legends
    combined = [row.name for row in rows if "+" in row.name]  # drawn beside their parts
    panels = [
        (title, [short[row] for row in rows if row.name in names])
        for title, names in (
            (
                "averaging and rate",
                ("base", "no_ema", "ema_999", "ema_warm", "no_decay", "decay_25"),
            ),
            ("hard negatives", ("base", "gamma_50", "gamma_late")),
            ("discriminator", ("base", "geometry", "colours", "r1", "r1_10")),
            ("combinations", ("base", *combined, *"+".join(combined).split("+"))),
        )
    ]
    shown = [replace(member, row=short[member.row]) for member in members]
    panels = [(title, drawn) for title, drawn in panels if len(drawn) > 1] or panels[:1]
    draw_curves(output / "stability.png", panels, SCORES, shown)


def gap_table(outcomes: dict[Row, list[Outcome]]) -> str:
    """Best and last side by side; differences are taken per run or seed, then averaged."""
    header = (
        "row", "changed", "seeds", "best step", "validation: best", "last", "last - best",
        "swing, second half", "test: best on validation", "last", "last - best", "last - base's",
    )  # fmt: skip
    base = {one.seed: one for row in outcomes if row.name == "base" for one in outcomes[row]}
    table = [header, ("---",) * len(header)]
    for row, found in outcomes.items():
        table.append(
            (
                row.name,
                row.title,
                ", ".join(str(one.seed) for one in found),
                ", ".join(str(one.best_step) for one in found),
                cell([one.best for one in found]),
                cell([one.last for one in found]),
                cell([one.last - one.best for one in found]),
                cell([one.swing for one in found]),
                cell([one.test_best for one in found]),
                cell([one.test_last for one in found]),
                cell([one.test_last - one.test_best for one in found]),
                cell([o.test_last - base[o.seed].test_last for o in found if o.seed in base]),
            )
        )
    return markdown(table)


def last_table(outcomes: dict[Row, list[Outcome]]) -> str:
    """All scores at the end of the run, and what a step takes."""
    header = ("row", *SCORES, "s/step")
    table = [header, ("---",) * len(header)]
    for row, found in outcomes.items():
        scores = [cell([one.test_scores[name] for one in found]) for name in SCORES]
        seconds = [one.seconds for one in found]
        times = f"{min(seconds):.3f} to {max(seconds):.3f}"
        table.append((row.name, *scores, times))
    return markdown(table)


def cell(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    if not values:
        return "-"
    if len(values) == 1 or not all(map(math.isfinite, values)):
        return f"{statistics.mean(values):.3g}"
    return f"{statistics.mean(values):.3g} ± {statistics.stdev(values):.2g}"


def markdown(table: Sequence[Sequence[str]]) -> str:
    return "".join("| " + " | ".join(cells) + " |\n" for cells in table)


if __name__ == "__main__":
    sys.exit(main())
