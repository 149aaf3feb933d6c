"""What the studies of this folder share: runs that go on where they stopped, tables, curves.

A study is a list of runs, each a plain `patchkin train` command with a folder. A run that is
complete is not run again, one that was interrupted is resumed, and one that died before its first
checkpoint starts over.
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from torch import Tensor

from patchkin.config import read_yaml
from patchkin.data.toy import mask_file, truth_file
from patchkin.images import read_image, to_tensor
from patchkin.metrics import mean_scores, score_against_counterpart
from patchkin.scoring.comparison.reading import read_run
from patchkin.scoring.comparison.scored import COLUMNS, Group, Scored
from patchkin.scoring.report import read_log
from patchkin.scoring.results import SCORES_FILE, read_results
from patchkin.storage.checkpoint import OPTIMIZERS_FILE, CheckpointStore

INTERRUPTED = 130
"""The exit code of a run that saved a checkpoint and stopped."""
POLL_SECONDS = 0.2
PATIENCE_SECONDS = 300
"""For the checkpoint after an interruption; a step on a slow machine takes long."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A configuration under study."""

    name: str
    """Of its folders, and for `--rows`."""
    title: str
    method: str
    flags: tuple[str, ...] = ()
    """Beside those that all rows share."""


def ablated(name: str, title: str, *flags: str) -> Row:
    """The released semantic relation with something changed."""
    return Row(name=name, title=title, method="semantic-relation", flags=flags)


CUT = Row(name="cut", title="CUT", method="cut")
RELEASED = ablated("released", "semantic relation, released")
PAPER = ablated("paper", "semantic relation, paper", "--method.weights", "paper")
_NO_RELATION, _NO_MINING = ("--method.relation-weight", "0"), "--method.no-hard-negatives"
_INFO_NCE = ("--method.contrast", "nce")
TABLE_3 = (
    CUT,  # InfoNCE alone is CUT, in the paper's numbers too
    ablated("nce_src", "InfoNCE + SRC", *_INFO_NCE, _NO_MINING),
    ablated("nce_src_hard", "InfoNCE + SRC + hard negatives", *_INFO_NCE),
    ablated("dce", "DCE", *_NO_RELATION, _NO_MINING),
    ablated("dce_src", "DCE + SRC", _NO_MINING),
    ablated("dce_hard", "DCE + hard negatives", *_NO_RELATION),
    RELEASED,
)
"""The ablation of Jung et al. 2022. Two of its rows are methods of their own."""
TABLE_3_TITLED = tuple(
    replace(
        row,
        title={
            "cut": "InfoNCE (CUT)",
            "released": "DCE + SRC + hard negatives (released)",
        }.get(row.name, row.title),
    )
    for row in TABLE_3
)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One run of a study."""

    row: Row
    seed: int
    folder: Path
    command: tuple[str, ...]
    """What follows `patchkin`, without the folder."""
    steps: int

    @property
    def done_steps(self) -> int:
        """Steps behind the newest checkpoint."""
        return max(CheckpointStore(self.folder).steps(), default=0)

    @property
    def complete(self) -> bool:
        return self.done_steps >= self.steps

    @property
    def begun_steps(self) -> int:
        """Steps that the run in the folder was begun for."""
        return int(read_yaml(self.folder / "config.yaml")["schedule"]["steps"])

    def arguments(self) -> list[str]:
        """What follows `patchkin` to begin the run, or to go on with it."""
        if self.done_steps:
            return ["train", "--resume", str(self.folder)]
        return [*self.command, "--run-dir", str(self.folder), "--overwrite"]


def check_same_steps(members: Iterable[Member]) -> None:
    """Refuse to go on with runs that were begun with another number of steps."""
    for member in members:
        if member.done_steps and member.begun_steps != member.steps:
            sys.exit(
                f"`{member.folder}` was begun with --steps {member.begun_steps}, not "
                f"{member.steps}. Use the same number, or another output folder."
            )


def runs_in(output: Path) -> list[tuple[str, int]]:
    """Name of the row and seed of every run that has a folder in OUTPUT, seed by seed."""
    found = [re.fullmatch(r"(.+)_seed([0-9]+)", path.name) for path in sorted(output.iterdir())]
    return sorted(((match[1], int(match[2])) for match in found if match), key=lambda run: run[1])


def train_all(
    members: Sequence[Member],
    *,
    jobs: int = 1,
    deadline: float | None = None,
    on_complete: Callable[[Member], None] = lambda _: None,
) -> None:
    """Run what is not complete, in order, `jobs` at a time; one that fails stops no other.

    Args:
        members: the runs. What each prints goes to train.log in its folder.
        jobs: processes.
        deadline: of `time.monotonic()`. What then runs is interrupted, and saves a checkpoint.
        on_complete: called with each run that ends, and with those that had ended before.
    """
    for member in members:
        if member.complete:
            on_complete(member)
    todo = [member for member in members if not member.complete]
    running: list[_Training] = []
    problems: list[str] = []
    try:
        while todo or running:
            if deadline is not None and time.monotonic() >= deadline:
                break
            while todo and len(running) < jobs:
                running.append(_Training(todo.pop(0)))
            time.sleep(POLL_SECONDS)
            for training in [one for one in running if one.process.poll() is not None]:
                running.remove(training)
                problems += training.finish()
                if training.member.complete:
                    on_complete(training.member)
    finally:
        for training in running:
            training.interrupt()
        for training in running:
            problems += training.finish()
    if problems:
        sys.exit("\n".join(problems))


class _Training:
    """A run while it runs."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.began, self.before = time.monotonic(), member.done_steps
        member.folder.mkdir(parents=True, exist_ok=True)
        self.log = member.folder / "train.log"
        with self.log.open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "patchkin", *member.arguments()], stdout=log, stderr=log
            )

    def interrupt(self) -> None:
        """Let it save a checkpoint; a second signal of one kind would end it at once."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)  # Ctrl-C may have reached it, as SIGINT

    def finish(self) -> list[str]:
        """Wait for its end and tell how far it came; what went wrong."""
        try:
            code = self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        member = self.member
        print(
            f"{member.row.name}, seed {member.seed}: step {self.before} to {member.done_steps} of "
            f"{member.steps} in {time.monotonic() - self.began:.0f} s",
            flush=True,
        )
        if code in (0, INTERRUPTED):
            return []
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return [f"{member.folder}: exit code {code}", *lines[-5:]]


def stop_on_termination() -> None:
    """Let a termination signal do what Ctrl-C does."""

    def stop(number: int, _: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


def scored_steps(folder: Path) -> set[int]:
    """Steps with validation scores and a checkpoint."""
    scored = {record["step"] for record in read_log(folder) if "scores" in record}
    return scored & set(CheckpointStore(folder).steps())


def evaluated_steps(folder: Path) -> set[int]:
    """Steps with test scores."""
    results = read_results(folder / SCORES_FILE)
    return {r["subject"]["step"] for r in results if r["data"]["split"] == "test"}


def evaluate_run(member: Member, flags: Sequence[str]) -> None:
    """Score the checkpoints that have validation scores on the test images, where not yet done."""
    folder = member.folder
    todo = sorted(scored_steps(folder) - evaluated_steps(folder))
    if member.complete and len(todo) > 1:
        _evaluate(str(folder), "--which", "all", *flags)
        return
    for step in todo:
        checkpoint, target = CheckpointStore(folder).path(step), folder / SCORES_FILE
        _evaluate(str(checkpoint), "--output", str(target), *flags)


def _evaluate(*arguments: str) -> None:
    command = [sys.executable, "-m", "patchkin", "evaluate", *arguments]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def evaluate_once(subject: Path, target: Path, flags: Sequence[str]) -> dict[str, float]:
    """Test scores of a model or a folder of images, from `target` if they are there."""
    if not target.is_file():
        _evaluate(str(subject), "--output", str(target), *flags)
    return dict(read_results(target)[-1]["scores"])


def toy_scores(data: Path, translate: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Of translations [1, C, H, W] of the toy set's test images, against their counterparts."""
    scores = []
    for path in sorted((data / "testA").glob("*.png")):
        x_CHW, truth_CHW = (to_tensor(read_image(file, 3)) for file in (path, truth_file(path)))
        mask_HW = to_tensor(read_image(mask_file(path), 1))[0] > 0
        y_CHW = translate(x_CHW[None])[0]
        scores.append(score_against_counterpart(y_CHW, x_CHW, truth_CHW, mask_HW))
    return mean_scores(scores)


def make_small(member: Member) -> None:
    """Remove what is not needed to go on, to evaluate or to translate.

    Of a complete run: checkpoints of interruptions, and both moments of every parameter. Of another
    the moments of all but the newest two checkpoints.
    """
    store = CheckpointStore(member.folder)
    steps = store.steps()
    if member.complete:
        for step in set(steps) - scored_steps(member.folder) - {steps[-1]}:
            shutil.rmtree(store.path(step))
    for step in store.steps() if member.complete else steps[:-2]:
        (store.path(step) / OPTIMIZERS_FILE).unlink(missing_ok=True)


def common_step(members: Iterable[Member]) -> int:
    """The last step that all runs with scores have test scores of; 0 if there is none."""
    found = [steps for member in members if (steps := evaluated_steps(member.folder))]
    return max(set.intersection(*found), default=0) if found else 0


def runs_by_row(members: Iterable[Member], step: int) -> dict[str, list[Scored]]:
    """What the runs that came so far say, as if all had stopped there, by the name of their row."""
    found: dict[str, list[Scored]] = {}
    for member in members:
        if step in evaluated_steps(member.folder):
            run = _until(read_run(member.folder), step)
            found.setdefault(member.row.name, []).append(run)
    return found


def _until(run: Scored, step: int) -> Scored:
    records = [r for r in read_log(run.folder) if "scores" in r and r["step"] <= step]
    return run.until(step, max((r["step"] for r in records if r.get("best")), default=None))


def score_table(
    score: str,
    title: str,
    runs: Mapping[str, Sequence[Scored]],
    rows: Sequence[Row],
    *,
    fixed: Mapping[str, float | None] | None = None,
) -> str:
    """A score in Markdown: rows by last, best on validation and best on test.

    Args:
        score: as `patchkin evaluate` names it.
        title: what the reader sees, with the direction in which it is better.
        runs: of each row, one per seed.
        rows: in the order of the table.
        fixed: scores of what is not trained here, such as the input itself, by title.
    """
    lines = [f"| {title} | seeds | {' | '.join(COLUMNS)} |", "|---" * (2 + len(COLUMNS)) + "|"]
    for name, value in (fixed or {}).items():
        if value is not None:
            lines.append(f"| ({name}) | | {value:.4g} | | |")
    for row in rows:
        if row.name in runs:
            table = Group(runs=tuple(runs[row.name])).table()
            texts = next((r.cells for r in table if r.score == score), ["-"] * len(COLUMNS))
            seeds = ", ".join(str(run.seed) for run in runs[row.name])
            lines.append(f"| {row.title} | {seeds} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def time_table(members: Sequence[Member], batch_size: int = 1) -> str:
    """Images seen, hours and images per second of each row: means over seeds, from the logs."""
    lines = ["| row | images seen | hours per run | images/s |", "|---|---|---|---|"]
    for row in dict.fromkeys(member.row for member in members):
        steps, hours = [], []
        for member in members:
            terms = [r for r in read_log(member.folder) if "terms" in r]
            if member.row == row and terms:
                places = [0, *(record["step"] for record in terms)]
                lengths = [end - start for start, end in pairwise(places)]
                seconds = [record["seconds_per_step"] for record in terms]
                steps.append(places[-1])
                hours.append(sum(n * s for n, s in zip(lengths, seconds, strict=True)) / 3600)
        if steps and sum(hours):
            speed = batch_size * sum(steps) / sum(hours) / 3600
            seen = " to ".join(str(batch_size * s) for s in sorted({min(steps), max(steps)}))
            lines.append(f"| {row.title} | {seen} | {sum(hours) / len(hours):.2f} | {speed:.3g} |")
    return "\n".join(lines) + "\n"


def command_list(members: Sequence[Member]) -> str:
    """The command of each row's first run."""
    first = {member.row: member for member in reversed(members)}
    rows = dict.fromkeys(member.row for member in members)
    lines = [
        shlex.join(["patchkin", *first[row].command, "--run-dir", str(first[row].folder)])
        for row in rows
    ]
    return "```sh\n" + "\n".join(lines) + "\n```\n"


def draw_curves(
    path: Path,
    panels: Sequence[tuple[str, Sequence[Row]]],
    scores: Sequence[str],
    members: Sequence[Member],
) -> None:
    """Validation scores over steps as a PNG: a row of panels per group, a column per score.

    Lines are means over seeds; bands reach from the least to the greatest.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(3.4 * len(scores) + 2.2, 2.9 * len(panels)), layout="constrained", dpi=110
    )
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(panels), len(scores), squeeze=False)
    for (title, rows), axes_of_panel in zip(panels, grid, strict=True):
        for score, axes in zip(scores, axes_of_panel, strict=True):
            for number, row in enumerate(rows):
                points = _points(score, [m.folder for m in members if m.row == row])
                if points:
                    steps = sorted(points)
                    style = {"color": f"C{number}", "linewidth": 1.3}
                    means = [statistics.mean(points[step]) for step in steps]
                    axes.plot(steps, means, label=row.title, marker="o", markersize=2.5, **style)
                    bounds = ([choose(points[s]) for s in steps] for choose in (min, max))
                    axes.fill_between(steps, *bounds, color=f"C{number}", alpha=0.12, linewidth=0)
            axes.set_title(score.rpartition("/")[2], fontsize=9)
            axes.tick_params(labelsize=7)
        axes_of_panel[0].set_ylabel(title, fontsize=9)
        if any(axes_of_panel[-1].get_legend_handles_labels()[1:]):
            axes_of_panel[-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    figure.savefig(path)


def _points(score: str, folders: Iterable[Path]) -> dict[int, list[float]]:
    """Step -> a validation score of every run that has it; untrained networks left out."""
    points: dict[int, list[float]] = {}
    for folder in folders:
        for record in read_log(folder):
            if record["step"] > 0 and score in record.get("scores", {}):
                points.setdefault(record["step"], []).append(record["scores"][score])
    return points
