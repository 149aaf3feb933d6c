"""CUT, FastCUT, semantic relation and DCLGAN on horse2zebra: same generator, same images seen.

    python benchmarks/horse2zebra/run.py DATA OUTPUT --profile cpu --hours 6 \\
        --extractor-weights SQUEEZENET        # or --profile gpu --hours 100

DATA has trainA, trainB, testA, testB (`patchkin data download horse2zebra --unverified`), and
masksA, masks of testA, if changes outside the animals are to be scored. SQUEEZENET is torchvision's
SqueezeNet 1.1.

The first call measures the speed of every row and fixes, in OUTPUT/plan.json, how many steps all
rows can do in the hours given (or takes --steps), because the learning rate falls over the whole
run. Every call trains for at most its hours, an equal share for every run that is not complete, and
stops runs by an interruption that saves a checkpoint. The next call goes on where it stopped, and
gives its hours anew. At the end of every call OUTPUT holds, about the largest step that all runs
reached,

    page.md              table, curves and grids, and the command of each row
    comparison.html      of `patchkin compare`
    curves.png           validation scores
    grid_seed0.png, ...  the first 12 test horses, in the order of their names, in every row
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from preparing import HELD_OUT, prepared_data
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
    evaluate_once,
    evaluate_run,
    evaluated_steps,
    make_small,
    runs_by_row,
    runs_in,
    score_table,
    stop_on_termination,
    time_table,
    train_all,
)

from patchkin.data.layouts import image_files
from patchkin.images import image_grid, read_image, to_tensor
from patchkin.scoring.report import read_log
from patchkin.storage.atomic import write_json
from patchkin.storage.checkpoint import CheckpointStore
from patchkin.translation.translator import Translator

ZEBRA = 340
"""The class of ImageNet."""
CLASSES = "squeezenet-224"
"""The protocol of zebra rates; it takes images of any size."""
DISTANCES = "squeezenet-256"
"""The protocol of distances between images of 256 pixels; below that they go by CLASSES too."""
SHOWN = 12

FASTCUT = Row(
    name="fastcut",
    title="FastCUT",
    method="cut",
    # The preset without its schedule: all rows have one.
    flags=("--method.contrast-weight", "10", "--method.no-identity", "--method.flip-equivariance"),
)
DCLGAN = Row(name="dclgan", title="DCLGAN", method="dclgan")
METHODS = (CUT, FASTCUT, RELEASED, PAPER, DCLGAN)
ROWS = {row.name: row for row in (*METHODS, *TABLE_3)}
TIMED = {row.name: row for row in (CUT, FASTCUT, DCLGAN)}
"""Rows with a speed of their own; the others have that of RELEASED."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What the machine at hand allows."""

    rows: tuple[str, ...]
    size: int
    flags: tuple[str, ...]
    """Of all rows. What is not here is as published, the weights of the losses above all."""
    most_steps: int
    scores: int
    """Times that a run is scored, and a checkpoint kept."""
    measured_steps: int
    speedups: tuple[tuple[str, ...], ...] = ((),)
    """Flags that may be faster; the fastest that works is taken."""

    @property
    def distances(self) -> str:
        """The protocol of distances."""
        return DISTANCES if self.size == 256 else CLASSES

    @property
    def score_titles(self) -> dict[str, str]:
        """What the tables show: name of the score -> what it says."""
        return {
            f"{CLASSES}/class_top1": "taken for a zebra, %: more is better",
            f"{self.distances}/frechet": f"Frechet distance to testB ({self.distances}): less is "
            "better",
            f"{self.distances}/kernel": f"kernel distance, KID, to testB ({self.distances}): less "
            "is better",
            "relation_change": "change of relations among patches: less is better",
            "change_outside": "change outside the animals, of 255: less is better",
            "collapse_ratio": "LPIPS among outputs over that among inputs: more is better",
        }

    @property
    def curves(self) -> tuple[str, ...]:
        """Validation scores that are drawn."""
        names = ("class_top1", "frechet", "kernel")
        return (*(f"{self.distances}/{name}" for name in names), "relation_change")


SHORT = (
    # 400 epochs forgive a slow start, an hour does not: as the toy presets.
    *("--method.initialization.gain", "1.0", "--schedule.ema-decay", "0.995"),
    *("--method.generator-adam.learning-rate", "5e-4"),
    *("--method.discriminator-adam.learning-rate", "2.5e-4"),
)
PUBLISHED_STEPS = 400 * (1334 - HELD_OUT)
"""400 passes over the zebras, batch 1."""
PROFILES = {
    "cpu": Profile(
        rows=tuple(row.name for row in METHODS),
        size=128,
        flags=(
            *("--size", "128", "--ngf", "32", "--ndf", "32", "--blocks", "6"),
            *("--precision", "bf16-mixed", "--workers", "1", *SHORT),
        ),
        most_steps=PUBLISHED_STEPS,
        scores=5,
        measured_steps=20,
    ),
    "gpu": Profile(
        rows=tuple(ROWS),
        size=256,
        flags=("--precision", "bf16-mixed", "--workers", "4"),
        most_steps=PUBLISHED_STEPS,
        scores=10,
        measured_steps=60,
        speedups=((), ("--compile",), ("--cuda-graphs",)),
    ),
    "tiny": Profile(  # to try the machinery
        rows=("cut", "released"),
        size=32,
        flags=(
            *("--size", "32", "--ngf", "4", "--ndf", "4", "--workers", "0", *SHORT),
            *("--method.num-patches", "16", "--method.head-width", "16"),
        ),
        most_steps=100_000,
        scores=2,
        measured_steps=4,
    ),
}
RESERVED = 0.15
"""Share of the hours for starts and scores, when steps are fixed by speed."""
LONGEST_MEASUREMENT = 1200.0
"""Seconds, compilation included."""
LEAST_SECONDS = 30.0
"""A share of the time that is worth a start."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What must not change between calls; OUTPUT/plan.json."""

    profile: str
    steps: int
    score_every: int
    train: list[str]
    """Flags given after `--`, for all rows."""
    speedup: list[str]
    seconds_per_step: dict[str, float]
    """Of rows as measured; empty where steps were given."""
    hours: float
    """Of the first call."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="horse2zebra, with masksA if masks are at hand")
    parser.add_argument("output", type=Path)
    parser.add_argument("--profile", choices=PROFILES, default="cpu")
    parser.add_argument("--hours", type=float, default=6.0, help="of this call")
    parser.add_argument(
        "--extractor-weights", dest="weights", type=Path, help="torchvision's SqueezeNet 1.1"
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, help="those of the profile")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", default="auto", help="a number, or what the hours allow")
    parser.add_argument("--reference", type=Path, help="a model to score beside the rows")
    parser.add_argument("--list", action="store_true", help="print the commands and stop")
    parser.add_argument("--page", action="store_true", help="only score, and write the page")
    parser.epilog = "Flags after `--` go to `patchkin train` in every run."
    arguments, train = split(sys.argv[1:])
    options = parser.parse_args(arguments)
    options.train = train
    stop_on_termination()
    began = time.monotonic()
    profile = PROFILES[options.profile]
    rows = [ROWS[name] for name in options.rows or profile.rows]
    options.output.mkdir(parents=True, exist_ok=True)
    data = prepared_data(options.data, options.output / "data", profile.size)
    plan = read_or_make_plan(options, profile, rows, data)
    members = planned_runs(options, profile, plan, data, rows=rows, seeds=options.seeds)
    if options.list:
        print(command_list(members))
        return 0
    check_same_steps(members)
    if not options.page:
        train_within(members, deadline=began + options.hours * 3600)
    others = complete_runs(options, profile, plan, data)
    write_page(options, profile, plan, data, asked=members, others=others)
    left = sum(not member.complete for member in members)
    print(f"{options.output / 'page.md'}; {left} of {len(members)} runs are not complete")
    return 0


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What stands before `--`, and after it."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


# Plan


def read_or_make_plan(
    options: argparse.Namespace, profile: Profile, rows: Sequence[Row], data: Path
) -> Plan:
    """The plan of an earlier call, or a new one.

    Ends with a message if this call asks for another.
    """
    path = options.output / "plan.json"
    if path.is_file():
        plan = Plan(**json.loads(path.read_text(encoding="utf-8")))
        asked = {
            "profile": options.profile,
            **({"train": options.train} if options.train else {}),
            **({"steps": int(options.steps)} if options.steps != "auto" else {}),
        }
        for name, value in asked.items():
            if getattr(plan, name) != value:
                sys.exit(
                    f"`{path}` has {name} {getattr(plan, name)}, this call {value}. "
                    "Use the same, or another output folder."
                )
        return plan
    speedup: list[str] = []
    seconds: dict[str, float] = {}
    if options.steps == "auto":
        speedup, seconds = measured(options, profile, rows, data)
        per_step = sum(seconds[row.name] for row in rows) * len(options.seeds)
        steps = int((1 - RESERVED) * options.hours * 3600 / per_step)
    else:
        steps = int(options.steps)
    most_steps = profile.most_steps // batch_size(profile, options.train)
    score_every = max(1, min(steps, most_steps) // profile.scores)
    plan = Plan(
        profile=options.profile,
        steps=score_every * profile.scores,
        score_every=score_every,
        train=options.train,
        speedup=speedup,
        seconds_per_step=seconds,
        hours=options.hours,
    )
    write_json(path, asdict(plan))
    print(f"{plan.steps} steps for every run", flush=True)
    return plan


def measured(
    options: argparse.Namespace, profile: Profile, rows: Sequence[Row], data: Path
) -> tuple[list[str], dict[str, float]]:
    """The fastest flags for RELEASED, and with them seconds per step of each row."""

    def seconds_of(row: Row, speedup: Sequence[str]) -> float | None:
        folder = options.output / "speed" / "_".join([row.name, *speedup]).replace("--", "")
        steps = profile.measured_steps
        command = [
            *("train", row.method, "--data", str(data), *profile.flags, *row.flags),
            *(*options.train, *speedup, "--steps", str(steps), "--training.preview-every", "0"),
            *("--training.log-every", str(max(1, steps // 4))),
            *("--run-dir", str(folder), "--overwrite"),
        ]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "train.log").open("w", encoding="utf-8") as log:
            arguments = [sys.executable, "-m", "patchkin", *command]
            failed = returncode_of(arguments, log)
        times = [r["seconds_per_step"] for r in read_log(folder) if "seconds_per_step" in r]
        found = statistics.median(times[1:]) if not failed and len(times) > 1 else None
        told = "does not run" if found is None else f"{found:.3f} s per step"
        print(f"{row.name} {shlex.join(speedup)}: {told}", flush=True)
        return found

    speeds = {speedup: seconds_of(RELEASED, speedup) for speedup in profile.speedups}
    working = {speedup: seconds for speedup, seconds in speeds.items() if seconds is not None}
    if not working:
        sys.exit(f"Training fails; see train.log below `{options.output / 'speed'}`.")
    speedup = min(working, key=working.__getitem__)
    seconds = {RELEASED.name: working[speedup]}
    for row in rows:
        if row.name in TIMED:
            own = seconds_of(row, speedup)
            if own is None:
                sys.exit(f"{row.name} fails; see train.log below `{options.output / 'speed'}`.")
            seconds[row.name] = own
        else:
            seconds[row.name] = working[speedup]
    return list(speedup), seconds


def returncode_of(arguments: Sequence[str], log: IO[str]) -> int:
    """Of a command; one that takes too long has failed."""
    try:
        return subprocess.run(
            arguments, stdout=log, stderr=log, check=False, timeout=LONGEST_MEASUREMENT
        ).returncode
    except subprocess.TimeoutExpired:
        return 1


def planned_runs(
    options: argparse.Namespace,
    profile: Profile,
    plan: Plan,
    data: Path,
    *,
    rows: Sequence[Row],
    seeds: Sequence[int],
) -> list[Member]:
    """All runs, seed by seed."""
    scoring = ["--score-every", str(plan.score_every), "--training.keep", "0"]
    if options.weights is not None:
        scoring += ["--training.score-weights", str(options.weights)]
        scoring += ["--training.score-protocol", profile.distances]
        scoring += ["--training.score-classes", str(ZEBRA)]
    shared = (
        *("--data", str(data), *profile.flags, *plan.train, *plan.speedup),
        *("--steps", str(plan.steps), *scoring),
        *("--training.preview-every", str(plan.score_every)),
    )
    return [
        Member(
            row=row,
            seed=seed,
            folder=options.output / f"{row.name}_seed{seed}",
            command=("train", row.method, *shared, "--seed", str(seed), *row.flags),
            steps=plan.steps,
        )
        for seed in seeds
        for row in rows
    ]


def complete_runs(
    options: argparse.Namespace, profile: Profile, plan: Plan, data: Path
) -> list[Member]:
    """What OUTPUT holds of any rows and seeds: a call for some must not lose the rest's page."""
    members = [
        member
        for name, seed in runs_in(options.output)
        if name in ROWS
        for member in planned_runs(options, profile, plan, data, rows=[ROWS[name]], seeds=[seed])
    ]
    return [member for member in members if member.complete]


def train_within(members: Sequence[Member], deadline: float) -> None:
    """Give every run its share of the time, and what is left to those that are not complete."""
    while todo := [member for member in members if not member.complete]:
        begun = False
        for number, member in enumerate(todo):
            share = (deadline - time.monotonic()) / (len(todo) - number)
            if share >= LEAST_SECONDS:  # else until few enough are left
                train_all([member], deadline=time.monotonic() + share)
                make_small(member)
                begun = True
        if not begun:
            return


# Page


def evaluation_flags(options: argparse.Namespace, data: Path, *, pairs: bool = True) -> list[str]:
    """Of `patchkin evaluate`; with `pairs`, also what compares outputs with their inputs."""
    flags = ["--data", str(data)]
    if pairs and (data / "masksA").is_dir():
        flags += ["--masks", str(data / "masksA")]
    if options.weights is None:
        return [*flags, "--protocol"]
    weights = str(options.weights)
    flags += ["--extractor-weights", weights, "--classes", str(ZEBRA)]
    if pairs:
        flags += ["--lpips", "squeeze", "--lpips-weights", weights]
    protocols = dict.fromkeys([CLASSES, PROFILES[options.profile].distances])
    return [*flags, "--protocol", *protocols]


def fixed_scores(options: argparse.Namespace, data: Path) -> dict[str, dict[str, float]]:
    """Of what is not trained here: the input itself, real zebras, a model given."""
    subjects = {"unchanged": (data / "testA", True)}
    if options.weights is not None:
        subjects["real zebras of trainB"] = (data / "real", False)
    if options.reference is not None:
        subjects[f"model {options.reference.name}"] = (options.reference, True)
    return {
        title: evaluate_once(
            subject,
            options.output / f"scores_{subject.name}.json",
            evaluation_flags(options, data, pairs=pairs),
        )
        for title, (subject, pairs) in subjects.items()
    }


def write_page(
    options: argparse.Namespace,
    profile: Profile,
    plan: Plan,
    data: Path,
    *,
    asked: Sequence[Member],
    others: Sequence[Member],
) -> None:
    """About the runs of this call and others; the latter as far as their own calls scored them."""
    flags = evaluation_flags(options, data)
    for member in asked:
        evaluate_run(member, flags)
    folders = {member.folder for member in asked}
    added = [m for m in others if m.folder not in folders and evaluated_steps(m.folder)]
    order = list(ROWS)
    members = sorted([*asked, *added], key=lambda m: (m.seed, order.index(m.row.name)))
    step = common_step(members)
    runs, fixed = runs_by_row(members, step), fixed_scores(options, data)
    part = "" if step == plan.steps else ", where the learning rate has not fallen to its end"
    missing = [f"{m.row.name} seed {m.seed}" for m in members if not m.done_steps]
    parts = [
        f"# horse2zebra, {profile.size} pixels, profile {plan.profile}\n",
        f"Scores on testA at step {step} of {plan.steps}{part}: the largest that all runs reached. "
        "Means and standard deviations over seeds.\n",
        f"Not begun: {', '.join(missing)}.\n" if missing else "",
    ]
    shown = tuple(dict.fromkeys(member.row for member in members))
    for heading, rows in (("Methods", METHODS), ("Ablation, the paper's Table 3", TABLE_3_TITLED)):
        if heading != "Methods" and set(shown) <= set(METHODS):
            continue
        parts.append(f"## {heading}\n")
        for score, title in profile.score_titles.items():
            values = {name: scores.get(score) for name, scores in fixed.items()}
            parts.append(score_table(score, title, runs, rows, fixed=values))
    draw_curves(options.output / "curves.png", [("", shown)], profile.curves, members)
    parts += ["## Validation scores while training\n", "![curves](curves.png)\n"]
    parts.append(f"## The first {SHOWN} test horses\n")
    for seed in dict.fromkeys(member.seed for member in members):
        if write_grid(options, data, [m for m in members if m.seed == seed], step, seed):
            parts.append(f"Seed {seed}\n\n![seed {seed}](grid_seed{seed}.png)\n")
    parts += [
        "## Time\n",
        time_table(members, batch_size(profile, plan.train)),
        "## Commands, first seed\n",
    ]
    parts += [command_list(members), "Each checkpoint was scored with\n"]
    parts.append(f"```sh\npatchkin evaluate RUN --which all {shlex.join(flags)}\n```\n")
    (options.output / "page.md").write_text("\n".join(filter(None, parts)), encoding="utf-8")
    begun = [str(member.folder) for member in members if member.done_steps]
    if begun:
        page = ["--output", str(options.output / "comparison.html"), "--json"]
        command = [sys.executable, "-m", "patchkin", "compare", *begun, *page]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def batch_size(profile: Profile, train: Sequence[str]) -> int:
    """Of all rows: what the flags after `--` say."""
    flags = [*profile.flags, *train]
    return int(flags[flags.index("--batch-size") + 1]) if "--batch-size" in flags else 1


def write_grid(
    options: argparse.Namespace, data: Path, members: Sequence[Member], step: int, seed: int
) -> bool:
    """Inputs and their translations at one step by every row of a seed; false if there are none."""
    inputs = [to_tensor(read_image(path, 3)) for path in image_files(data / "testA")[:SHOWN]]
    columns = {"input": inputs}
    models = {
        member.row.title: CheckpointStore(member.folder).path(step)
        for member in members
        if step in CheckpointStore(member.folder).steps()
    }
    if not models:
        return False
    if options.reference is not None:
        models[options.reference.name] = options.reference
    for title, path in models.items():
        translator = Translator.load(path)
        columns[title] = [translator(x_CHW[None])[0].cpu() for x_CHW in inputs]
    grid = image_grid(list(zip(*columns.values(), strict=True)), captions=list(columns))
    grid.save(options.output / f"grid_seed{seed}.png")
    return True


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        sys.exit(130)
