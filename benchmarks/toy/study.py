"""Statistics on the toy data, where the truth is known: methods, and the paper's Table 3.

    python benchmarks/toy/study.py OUTPUT

trains ten configurations with three seeds each at one budget, scores every kept checkpoint on the
24 test images and writes OUTPUT/table.md and OUTPUT/curves.png. Runs go seed by seed, so that an
unfinished study has whole tables of fewer seeds. Complete runs are not run again and interrupted
ones go on where they stopped. The tables are written anew whenever a run ends.

All rows have the networks, learning rates, averaged weights and schedule of the `toy` presets of
cut and semantic-relation, which are alike, and see the same images in the same order.
`--list` prints the command of every run.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from studies import (
    CUT,
    PAPER,
    RELEASED,
    TABLE_3,
    TABLE_3_TITLED,
    Member,
    Row,
    check_same_steps,
    command_list,
    common_step,
    draw_curves,
    evaluate_run,
    make_small,
    runs_by_row,
    score_table,
    stop_on_termination,
    time_table,
    toy_scores,
    train_all,
)

from patchkin.data.toy import write_toy

FASTCUT = Row(
    name="fastcut",
    title="FastCUT",
    method="cut",
    # The toy preset of cut keeps the published weight 1; FastCUT's published one is 10.
    flags=("--method.contrast-weight", "10", "--method.no-identity", "--method.flip-equivariance"),
)
DCLGAN = Row(
    name="dclgan",
    title="DCLGAN",
    method="dclgan",
    # Its losses, taps and the rate of its heads are its own; networks and averaging are all rows'.
    flags=(
        *("--method.generator.norm", "none", "--method.generator.antialias-up"),
        *("--method.initialization.gain", "0.7", "--schedule.ema-decay", "0.995"),
    ),
)
METHODS = (CUT, FASTCUT, DCLGAN, RELEASED, PAPER)
ROWS = {row.name: row for row in (*METHODS, *TABLE_3)}

SCORES = {
    "tone_inside": "grey levels inside, distance to the truth's: less is better",
    "stripe_iou": "overlap of dark stripes with the truth's: more is better",
    "change_outside": "change outside the animal: less is better",
    "detail_inside": "detail inside over the truth's: 1 is best",
    "psnr": "PSNR in dB: more is better",
}
"""Name -> what it says."""
CURVES = ("tone_inside", "stripe_iou", "change_outside", "detail_inside")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
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
        write_tables(options.output, members)

    try:
        train_all(members, jobs=options.jobs, on_complete=evaluate)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    print((options.output / "table.md").read_text(encoding="utf-8"))
    print(f"{options.output / 'table.md'}, {options.output / 'curves.png'}")
    return 0


def plan(output: Path, rows: list[str], seeds: list[int], steps: int) -> list[Member]:
    """All runs, seed by seed."""
    every = max(1, steps // 4)
    shared = (
        *("--preset", "toy", "--data", str(output / "data"), "--workers", "0"),
        *("--steps", str(steps), "--score-every", str(every), "--training.keep", "0"),
        *("--training.preview-every", str(steps)),
    )
    return [
        Member(
            row=ROWS[name],
            seed=seed,
            folder=output / f"{name}_seed{seed}",
            command=("train", ROWS[name].method, *shared, "--seed", str(seed), *ROWS[name].flags),
            steps=steps,
        )
        for seed in seeds
        for name in rows
    ]


def write_tables(output: Path, members: list[Member]) -> None:
    step = common_step(member for member in members if member.complete)
    runs, unchanged = runs_by_row(members, step), toy_scores(output / "data", lambda x_BCHW: x_BCHW)
    parts = [f"Test scores, means and standard deviations over seeds; {step} steps.\n"]
    tables = (("Methods", METHODS), ("Ablation, the paper's Table 3", TABLE_3_TITLED))
    for heading, rows in tables:
        parts.append(f"## {heading}\n")
        for score, title in SCORES.items():
            fixed = {"unchanged": unchanged[score]}
            name = f"counterpart/{score}"
            parts.append(score_table(name, title, runs, rows, fixed=fixed))
    parts += ["## Time\n", time_table(members), "## Commands of the first seed\n"]
    parts.append(command_list(members))
    (output / "table.md").write_text("\n".join(parts), encoding="utf-8")
    curves = (("methods", METHODS), ("Table 3", TABLE_3))
    draw_curves(output / "curves.png", curves, CURVES, members)


if __name__ == "__main__":
    sys.exit(main())
