"""A long run: do memory, handles and threads stay flat, and the log and the report bounded?

    python benchmarks/fire/long.py FOLDER [--steps 50000] [--method thin|cut]

Trains on the toy set, with loader workers, a cache, averaged weights, a log, previews, scores and
checkpoints as often, in lines and files, as in a run of several times as many steps with the
defaults. `thin` is a method of networks with one layer (`thin.py`), so that all else is what takes
the time; `cut` has small networks. Every few seconds the script notes, of the training process and
of its workers: memory (resident, and as shared pages are divided: PSS), open handles, threads. At
the end: slopes per thousand steps; what the log, the report and the folder weigh; seconds until
the first step when the run goes on near its end and near its beginning; seconds of the report and
of `compare`.

What was noted stands in FOLDER/samples.jsonl, the summary in FOLDER/long.json. Begun again, the
script goes on with the run where it was, or only measures what is left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from patchkin.data.toy import write_toy
from patchkin.storage.checkpoint import CheckpointStore

SAVE_EVERY = 500
FLAGS = (
    *("--size", "32", "--data.preprocess", "crop", "--device", "cpu", "--workers", "2"),
    *("--schedule.ema-decay", "0.99", "--training.log-every", "10", "--training.keep", "3"),
    *("--training.preview-every", "500", "--score-every", "500", "--save-every", str(SAVE_EVERY)),
)
METHODS: Mapping[str, tuple[list[str], list[str]]] = {
    "thin": ([str(Path(__file__).with_name("thin.py"))], []),
    "cut": (
        ["-m", "patchkin"],
        [
            *("cut", "--ngf", "4", "--ndf", "4", "--blocks", "1", "--method.taps", "0", "4"),
            *("--method.head-width", "8", "--method.num-patches", "16"),
        ],
    ),
}
"""The program of a method, and what it is told besides `FLAGS`."""
EARLY = 100
"""The step from which the other run goes on."""
REPEATS = 3
"""Of what is timed."""
MEMORY_LIMIT = 0.1
"""MiB in a thousand steps: 50 MiB in the longest published runs, of 500,000."""
COUNT_LIMIT = 0.02
"""Handles or threads in a thousand steps: 10 in such a run."""
REPORT_LIMIT = 3e6
"""Bytes of `report.html`."""
RESUME_LIMIT = 10.0
"""Seconds that going on near the end may take longer than near the beginning."""
KINDS = {
    **dict.fromkeys(("main_rss", "workers_rss"), MEMORY_LIMIT),
    **dict.fromkeys(("main_pss", "workers_pss"), math.inf),
    **dict.fromkeys(("main_handles", "workers_handles"), COUNT_LIMIT),
    **dict.fromkeys(("main_threads", "workers_threads", "processes"), COUNT_LIMIT),
}
"""What is noted -> the largest slope that counts as flat. Memory in MiB. PSS is told, not judged:
it falls and rises with every other process on the machine that has the same libraries open.
"""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
Sample = Mapping[str, float]


# What a process holds


def of_process(process: int) -> dict[str, float]:
    """Memory in MiB, handles and threads; zeros if it has gone."""
    folder = Path("/proc", str(process))
    found = dict.fromkeys(("rss", "pss", "handles", "threads"), 0.0)
    with contextlib.suppress(OSError):
        text = (folder / "smaps_rollup").read_text()
        for name in ("rss", "pss"):
            match = re.search(rf"^{name.title()}: +(\d+) kB", text, re.MULTILINE)
            found[name] = int(match[1]) / 1024 if match else 0.0
        found["handles"] = len(list((folder / "fd").iterdir()))
        found["threads"] = len(list((folder / "task").iterdir()))
    return found


def processor_seconds(process: int) -> float:
    """That a process has used; 0 if it has gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(process: int) -> list[int]:
    """And theirs."""
    found: list[int] = []
    for task in Path("/proc", str(process), "task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *children(child)]
    return found


def sample_of(process: int) -> dict[str, float]:
    """Of a training process, and of all that it started together."""
    found = {f"main_{name}": value for name, value in of_process(process).items()}
    started = children(process)
    for name in ("rss", "pss", "handles", "threads"):
        found[f"workers_{name}"] = 0.0
    for child in started:
        for name, value in of_process(child).items():
            found[f"workers_{name}"] += value
    found["processes"] = 1.0 + len(started)
    return found


def last_step(log: Path) -> int:
    """Of the log's last whole line; 0 without one."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return 0
    for line in reversed(lines):
        with contextlib.suppress(ValueError, KeyError):
            return int(json.loads(line)["step"])
    return 0


# What it makes of them


def slope(samples: Sequence[Sample], name: str, *, steps: int) -> tuple[float, float]:
    """Growth in a thousand steps, and its standard error, by least squares.

    Each session has a level of its own. Its first steps, a tenth of the run, are left out. The
    error is that of a first-order autoregressive rest, for neighbours are alike.

    Args:
        samples: in their order.
        name: of what grows.
        steps: of the whole run.
    """
    began: dict[float, float] = {}
    for sample in samples:
        began.setdefault(sample["session"], sample["step"])
    kept = [s for s in samples if s["step"] - began[s["session"]] >= steps / 10]
    sessions = sorted({sample["session"] for sample in kept})
    if len(kept) < len(sessions) + 3:
        return float("nan"), float("inf")
    x_N = np.array([sample["step"] / 1000 for sample in kept])
    y_N = np.array([sample[name] for sample in kept])
    levels_NS = np.array([[sample["session"] == s for s in sessions] for sample in kept], float)
    design = np.column_stack([x_N, levels_NS])
    found, *_ = np.linalg.lstsq(design, y_N, rcond=None)
    rest_N = y_N - design @ found
    variance = float(rest_N @ rest_N) / (len(kept) - design.shape[1])
    if variance < 1e-18:
        return float(found[0]), 0.0
    alike = float(rest_N[1:] @ rest_N[:-1]) / float(rest_N @ rest_N)
    alike = min(max(alike, 0.0), 0.99)
    covariance = np.linalg.inv(design.T @ design) * variance * (1 + alike) / (1 - alike)
    return float(found[0]), float(np.sqrt(covariance[0, 0]))


def faults(found: Mapping[str, Any]) -> list[str]:
    """What of a summary is not flat, or not bounded."""
    wrong = []
    for name, (growth, error) in found["slopes"].items():
        if not growth + 2 * error <= KINDS[name] or math.isnan(growth):
            wrong.append(f"{name} is not flat: {growth:+.3g} ± {error:.2g} in 1000 steps")
    if found["report_bytes"] >= REPORT_LIMIT:
        wrong.append(f"report.html has {found['report_bytes'] / 1e6:.1f} MB")
    for which, place in (("s", 0), ("s of the processor", 1)):
        late, early = (
            min(seconds[place] for seconds in found["resume_seconds"][key])
            for key in ("late", "early")
        )
        if late - early >= RESUME_LIMIT:
            wrong.append(f"going on takes {late - early:.1f} {which} more near the end")
    return wrong


# The run


class Long:
    """A run of a folder."""

    def __init__(self, folder: Path, steps: int, every: float, method: str) -> None:
        self.folder, self.steps, self.every = folder, steps, every
        self.program, self.flags = METHODS[method]
        self.late = steps - 2 * SAVE_EVERY
        self.data, self.run_dir = folder / "toy", folder / "run"
        if not self.data.is_dir():
            write_toy(self.data, size=64, train=40, test=4)

    def train(self) -> None:
        """To the end, from wherever it is, with a look at it every few seconds."""
        steps = CheckpointStore(self.run_dir).steps()
        if steps and steps[-1] >= self.steps:
            return
        noted = self.folder / "samples.jsonl"
        before = self.samples()
        session = before[-1]["session"] + 1 if before else 0
        process = self._start(self.run_dir, self.steps, resume=bool(steps))
        log = self.run_dir / "log.jsonl"
        began = time.monotonic()
        try:
            while process.poll() is None:
                time.sleep(self.every)
                step = last_step(log)
                if not 0 < step < self.steps or process.poll() is not None:
                    continue  # it begins, or writes its report
                found = {"session": session, "seconds": time.monotonic() - began, "step": step}
                with noted.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({**found, **sample_of(process.pid)}) + "\n")
        finally:
            stopped(process)
        if process.returncode:
            raise SystemExit(f"the run ended with code {process.returncode}:\n{self._said()}")

    def samples(self) -> list[dict[str, float]]:
        noted = self.folder / "samples.jsonl"
        return (
            [json.loads(line) for line in noted.read_text().splitlines()] if noted.exists() else []
        )

    def resume_seconds(self) -> dict[str, list[tuple[float, float]]]:
        """Until the first step is done, in turn: near the end, and after the first ones. By the
        clock, and of the processor; on a machine that others use the least of them tells.
        """
        found: dict[str, list[tuple[float, float]]] = {"late": [], "early": []}
        self._make_early()
        for _ in range(REPEATS):
            for name, step in (("late", self.late), ("early", EARLY)):
                copy = self.folder / "again"
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(self.run_dir if name == "late" else self.folder / "early", copy)
                cut_back(copy, step)
                found[name].append(self._seconds_to_go_on(copy, step))
                shutil.rmtree(copy)
        return found

    def _make_early(self) -> None:
        """A run of the same settings that was killed as soon as its first checkpoint was there."""
        run_dir = self.folder / "early"
        store = CheckpointStore(run_dir)
        if store.steps():
            return
        shutil.rmtree(run_dir, ignore_errors=True)
        process = self._start(run_dir, self.steps, "--save-every", str(EARLY))
        while process.poll() is None and not store.steps():
            time.sleep(0.02)
        stopped(process, signal.SIGKILL)
        if store.steps() != [EARLY]:
            raise SystemExit(f"it saved {store.steps()}:\n{self._said()}")

    def _seconds_to_go_on(self, run_dir: Path, step: int) -> tuple[float, float]:
        began = time.monotonic()
        process = self._start(run_dir, self.steps, "--training.log-every", "1", resume=True)
        done = f"step {step + 1}/"
        while process.poll() is None and done not in (self.folder / "said").read_text():
            time.sleep(0.01)
        seconds = time.monotonic() - began
        used = processor_seconds(process.pid)
        running = process.poll() is None
        stopped(process, signal.SIGKILL)
        if not running:
            raise SystemExit(f"it did not go on after {step}:\n{self._said()}")
        return seconds, used

    def _start(
        self, run_dir: Path, steps: int, *more: str, resume: bool = False
    ) -> subprocess.Popen[bytes]:
        if resume:
            command = ["train", "--resume", str(run_dir), *more]
        else:
            begin = ("--data", str(self.data), "--cache", str(self.folder / "cache"))
            command = ["train", *self.flags, *begin, *FLAGS, "--steps", str(steps)]
            command += ["--run-dir", str(run_dir), "--overwrite", *more]
        with (self.folder / "said").open("wb") as said:
            return subprocess.Popen(
                [sys.executable, *self.program, *command],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=ENVIRONMENT,
            )  # fmt: skip

    def _said(self) -> str:
        return (self.folder / "said").read_text(errors="replace")[-2000:]

    def seconds_of(self, *arguments: str) -> list[tuple[float, float]]:
        """Of a command of Python, from start to end: by the clock, and of the processor."""
        found = []
        for _ in range(REPEATS):
            began, before = time.monotonic(), os.times()
            subprocess.run(
                [sys.executable, *arguments],
                check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            after = os.times()
            used = sum(after[2:4]) - sum(before[2:4])  # of the children
            found.append((time.monotonic() - began, used))
        return found

    def summary(self) -> dict[str, Any]:
        """All that is to be told of a run that has ended."""
        log, report = self.run_dir / "log.jsonl", self.run_dir / "report.html"
        at_end = report.stat().st_size
        write = "import sys, pathlib; from patchkin.scoring.report import write_report; "
        made = self.seconds_of(
            "-c", f"{write}write_report(pathlib.Path(sys.argv[1]))", str(self.run_dir)
        )
        page = self.folder / "compare.html"
        compared = self.seconds_of(*self.program, "compare", str(self.run_dir), "-o", str(page))
        samples = self.samples()
        lines = log.read_text().splitlines()
        previews = list((self.run_dir / "previews").iterdir())
        checkpoints = [p for p in (self.run_dir / "checkpoints").rglob("*") if p.is_file()]
        return {
            "steps": self.steps,
            "seconds_per_step": seconds_per_step(samples),
            "samples": len(samples),
            "sessions": int(samples[-1]["session"]) + 1,
            "slopes": {name: slope(samples, name, steps=self.steps) for name in KINDS},
            "last": {name: samples[-1][name] for name in KINDS},
            "log_lines": len(lines),
            "log_bytes": log.stat().st_size,
            "previews": len(previews),
            "preview_bytes": sum(path.stat().st_size for path in previews),
            "checkpoint_bytes": sum(path.stat().st_size for path in checkpoints),
            "report_bytes": max(at_end, report.stat().st_size),
            "compare_bytes": page.stat().st_size,
            "report_seconds": made,
            "compare_seconds": compared,
            "resume_seconds": self.resume_seconds(),
        }


def cut_back(run_dir: Path, step: int) -> None:
    """Let the checkpoint of a step be a run's last one, as if it had been killed after it."""
    store = CheckpointStore(run_dir)
    for later in [saved for saved in store.steps() if saved > step]:
        shutil.rmtree(store.path(later))
    if store.steps()[-1] != step:
        raise SystemExit(f"{run_dir} has the checkpoints {store.steps()}, and none of {step}")
    store.point("last", step)


def stopped(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> None:
    """A process that runs is asked to leave, and waited for."""
    if process.poll() is None:
        process.send_signal(number)
    process.wait()


def seconds_per_step(samples: Sequence[Sample]) -> float:
    """Of the last session."""
    last = [sample for sample in samples if sample["session"] == samples[-1]["session"]]
    steps = last[-1]["step"] - last[0]["step"]
    return (last[-1]["seconds"] - last[0]["seconds"]) / steps if steps else float("nan")


def table(found: Mapping[str, Any]) -> str:
    """The summary for people."""
    rows = ["| of | at the end | growth in 1000 steps | flat up to |", "|---|---|---|---|"]
    for name, (growth, error) in found["slopes"].items():
        unit = " MiB" if name.endswith("ss") else ""
        rows.append(
            f"| {name.replace('_', ', ')} | {found['last'][name]:.6g}{unit} | "
            f"{growth:+.4f} ± {error:.4f} | {flat_up_to(name)} |"
        )
    late, early = (found["resume_seconds"][name] for name in ("late", "early"))
    rows += [
        "",
        f"{found['samples']} looks in {found['sessions']} sessions, "
        f"{found['seconds_per_step'] * 1000:.1f} ms per step",
        f"log: {found['log_lines']} lines, {found['log_bytes'] / 1e6:.2f} MB",
        f"previews: {found['previews']}, {found['preview_bytes'] / 1e6:.2f} MB; "
        f"checkpoints {found['checkpoint_bytes'] / 1e6:.2f} MB",
        f"report.html {found['report_bytes'] / 1e6:.2f} MB, "
        f"made in {listed(found['report_seconds'])}",
        f"compare.html {found['compare_bytes'] / 1e6:.2f} MB, "
        f"made in {listed(found['compare_seconds'])}",
        f"to the first step after {found['steps'] - 2 * SAVE_EVERY}: {listed(late)}; "
        f"after {EARLY}: {listed(early)}",
    ]
    return "\n".join([*rows, *(f"not as promised: {fault}" for fault in faults(found))])


def flat_up_to(name: str) -> str:
    return "-" if math.isinf(KINDS[name]) else str(KINDS[name])


def listed(seconds: Sequence[tuple[float, float]]) -> str:
    clock, used = zip(*seconds, strict=True)
    return (
        ", ".join(f"{value:.1f}" for value in clock)
        + f" s ({min(used):.1f} to {max(used):.1f} s of the processor)"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="for the run and what was noted")
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--method", choices=METHODS, default="thin")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two looks")
    options = parser.parse_args()
    if options.steps < 3 * SAVE_EVERY:
        parser.error(f"--steps must be at least {3 * SAVE_EVERY}")
    options.folder.mkdir(parents=True, exist_ok=True)
    long = Long(options.folder.resolve(), options.steps, options.every, options.method)
    long.train()
    found = long.summary()
    (options.folder / "long.json").write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    return 1 if faults(found) else 0


if __name__ == "__main__":
    sys.exit(main())
