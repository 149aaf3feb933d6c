"""Two source trees against each other on the CPU: training and translation, and the same bits.

    git worktree add build/before COMMIT
    python benchmarks/speed/two_trees.py build/before/src src --data build/toy

The trees take turns, each case in a process of its own, and the quickest of each counts, so that
what else the machine does weighs on both. With `--data` both also train a few steps of the toy
preset, and the terms in their logs are compared digit by digit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

METHODS = ["semantic-relation", "cut", "dclgan"]
MEASURE = """
import json, sys
from dataclasses import asdict
from patchkin.runs.benchmark import Case, measure
print(json.dumps(asdict(measure(Case(**json.loads(sys.argv[1]))))))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--data", type=Path, help="a toy set, for the terms of four steps")
    options = parser.parse_args()
    print("| method | training, before / after | translation, before / after | same terms |")
    print("|---|---|---|---|")
    for method in options.methods:
        case = {
            "method": method, "size": options.size, "device": "cpu",
            "steps": options.steps, "translations": 3,
        }  # fmt: skip
        found: dict[Path, list[dict[str, Any]]] = {options.before: [], options.after: []}
        for _ in range(options.rounds):
            for tree, measured in found.items():
                measured.append(json.loads(run(tree, "-c", MEASURE, json.dumps(case))))
        training, translation = (
            best(found[options.before], name) / best(found[options.after], name)
            for name in ("seconds_per_step", "translate_seconds")
        )
        same = "not looked at" if options.data is None else told(options, method)
        print(f"| {method} | {training:.3f} | {translation:.3f} | {same} |", flush=True)


def run(tree: Path, *arguments: str) -> str:
    """What Python prints with the package of that tree."""
    environment = {**os.environ, "PYTHONPATH": str(tree.resolve()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def best(measured: list[dict[str, Any]], name: str) -> float:
    return min(each[name] for each in measured)


def told(options: argparse.Namespace, method: str) -> str:
    before, after = (terms(tree, options.data, method) for tree in (options.before, options.after))
    return f"yes, {after}" if before == after else f"no: {before} and {after}"


def terms(tree: Path, data: Path, method: str) -> str:
    """Short hashes of the terms of four steps, as the log holds them."""
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "run"
        run(
            tree, "-m", "patchkin", "train", method, "--preset", "toy", "--data", str(data),
            "--run-dir", str(into), "--steps", "4", "--training.log-every", "1", "--workers", "0",
        )  # fmt: skip
        lines = [json.loads(line) for line in (into / "log.jsonl").read_text().splitlines()]
    steps = [line["terms"] for line in lines if "terms" in line]
    return " ".join(hashlib.sha256(json.dumps(step).encode()).hexdigest()[:6] for step in steps)


if __name__ == "__main__":
    main()
