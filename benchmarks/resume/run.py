"""Kill a training run at a random step, resume it, and compare it with one that was not killed.

    python benchmarks/resume/run.py OUTPUT --steps 20 --save-every 5 -- METHOD --data ROOT ...

What stands behind `--` goes to `patchkin train`. Both runs end at the same step; the script prints
the checksums of weights and optimizer states of both, and leaves with 1 if they differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


def train(arguments: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "patchkin", "train", *arguments])


def logged_steps(run_dir: Path) -> int:
    path = run_dir / "log.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def checksums(run_dir: Path, steps: int) -> dict[str, str]:
    folder = run_dir / "checkpoints" / f"step_{steps:08d}"
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*.safetensors"))
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--save-every", type=int, default=5)
    parser.add_argument("--kill-seed", type=int, default=None)
    parser.add_argument("train", nargs="+")
    options = parser.parse_args()
    shutil.rmtree(options.output, ignore_errors=True)
    whole, killed = options.output / "whole", options.output / "killed"
    common = [
        *options.train,
        *("--steps", str(options.steps), "--save-every", str(options.save_every)),
        *("--training.log-every", "1", "--training.keep", "0"),
    ]
    if train([*common, "--run-dir", str(whole)]).wait() != 0:
        return 1

    kill_after = random.Random(options.kill_seed).randint(1, options.steps - 1)
    process = train([*common, "--run-dir", str(killed)])
    while logged_steps(killed) < kill_after and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    print(f"killed with SIGKILL after step {logged_steps(killed)}", flush=True)
    if logged_steps(killed) < options.save_every:  # nothing was saved yet: the run starts anew
        resumed = train([*common, "--run-dir", str(killed), "--overwrite"])
    else:
        resumed = train(["--resume", str(killed)])
    if resumed.wait() != 0:
        return 1

    pair = [checksums(run_dir, options.steps) for run_dir in (whole, killed)]
    for name, digest in pair[0].items():
        same = "equal" if pair[1][name] == digest else f"DIFFERS: {pair[1][name]}"
        print(f"{name}  {digest}  {same}")
    last = (whole / "log.jsonl").read_text().splitlines()[-1]
    print(f"last log line: {last}")
    return 0 if pair[0] == pair[1] else 1


if __name__ == "__main__":
    sys.exit(main())
