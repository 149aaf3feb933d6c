"""Eight `translate` on one folder, of which two are killed: is every output there once, and whole?

    python benchmarks/fire/eight.py FOLDER [--images 5000] [--processes 8] [--kills 2] [--seed 0]

The processes do a part each (`--shard 1/8` and so on) of the images into one folder. Those that
are killed get SIGKILL after a random number of translations, of which the last may be half done.
When the others have ended, what is there must be whole, and lack only what those two had still to
do. One more call, without parts, must make exactly that, keep the rest, and leave nothing else.
Every output must be what one process alone makes, and the records must know each as made once.

Then as many processes do the same on a tenth of the images without parts, as someone would who
calls a command twice by mistake. They do much of the work several times; what comes of it must be
the same.

Tells what it found as JSON, and ends with code 1 if that is not what it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from patchkin.cli import main as patchkin
from patchkin.data.toy import write_toy

TINY = (
    *("--size", "32", "--data.load-size", "36", "--device", "cpu", "--workers", "0"),
    *("--ngf", "4", "--ndf", "4", "--blocks", "2", "--method.num-patches", "8"),
    *("--method.head-width", "8", "--steps", "2"),
)


def prepared(folder: Path, images: int) -> tuple[Path, Path]:
    """A tiny model, and a folder of images: noise in the colours of the toy set, each another."""
    toy, run, photos = folder / "toy", folder / "run", folder / f"photos{images}"
    if not toy.is_dir():
        write_toy(toy, size=64, train=6, test=2)
    if not run.is_dir():
        done = patchkin(["train", "cut", "--data", str(toy), "--run-dir", str(run), *TINY])
        assert done == 0
    if not photos.is_dir():
        making = photos.with_suffix(".making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir()
        sources = [Image.open(path).convert("RGB") for path in sorted(toy.rglob("*.png"))]
        chance = random.Random(0)
        for number in range(images):
            x, y = chance.randrange(32), chance.randrange(32)
            crop = chance.choice(sources).crop((x, y, x + 32, y + 24))
            crop.putpixel((number % 32, 0), (number // 256 % 256, number % 256, 0))
            crop.save(making / f"{number:05d}.png", compress_level=1)
        making.rename(photos)
    return run, photos


def started(run: Path, photos: Path, output: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "patchkin", "translate", str(run), str(photos)]
    with (output.parent / "said").open("ab") as said:
        return subprocess.Popen(
            [*command, "-o", str(output), "--device", "cpu", *more],
            stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def pixels(output: Path) -> tuple[dict[str, bytes], list[str]]:
    """Of all images of a folder, by name; and those that cannot be read."""
    found, broken = {}, []
    for path in sorted(output.glob("*.png")):
        try:
            with Image.open(path) as image:
                found[path.name] = image.convert("RGB").tobytes()
        except OSError:
            broken.append(path.name)
    return found, broken


def made(output: Path) -> Counter[str]:
    """How often the records of a folder say of a file that it was made."""
    found = Counter[str]()
    for journal in (output / ".patchkin").glob("*.jsonl"):
        for line in journal.read_text().splitlines():
            name = _entry(line).get("made")
            found.update([name] if name else [])
    return found


def _entry(line: str) -> dict[str, Any]:
    try:
        entry: dict[str, Any] = json.loads(line)
    except ValueError:  # cut short by a kill
        return {}
    return entry


def made_by(output: Path, part: str) -> int:
    """Translations that one of the processes has made."""
    journals = output.glob(f".patchkin/*-{part}.jsonl")
    return sum(line.startswith('{"made"') for path in journals for line in path.open())


def remains(output: Path) -> list[str]:
    return [path.name for path in output.iterdir() if path.name.startswith(".patchkin-")]


def parts_with_kills(
    run: Path, photos: Path, output: Path, *, processes: int, kills: int, chance: random.Random
) -> dict[str, Any]:
    """All parts at once; some are killed after as many translations as chance wants."""
    share = len(list(photos.iterdir())) // processes
    parts = [f"{number}/{processes}" for number in range(1, processes + 1)]
    doomed = {part: chance.randrange(1, share) for part in chance.sample(parts, kills)}
    running = {part: started(run, photos, output, "--shard", part) for part in parts}
    waiting = dict(doomed)
    while any(process.poll() is None for process in running.values()):
        for part, number in list(waiting.items()):
            if made_by(output, part.replace("/", "of")) >= number:
                running[part].send_signal(signal.SIGKILL)
                del waiting[part]
        time.sleep(0.05)
    return {"killed_after": doomed, "codes": {part: p.returncode for part, p in running.items()}}


def tried(folder: Path, images: int, processes: int, kills: int, seed: int) -> dict[str, Any]:
    """The parts, two of them killed, and one call that finishes."""
    run, photos = prepared(folder, images)
    alone, output = folder / f"alone{images}", folder / "out"
    for place in (alone, output):
        shutil.rmtree(place, ignore_errors=True)
    assert started(run, photos, alone).wait() == 0
    expected, _ = pixels(alone)
    told = parts_with_kills(
        run, photos, output, processes=processes, kills=kills, chance=random.Random(seed)
    )
    found, broken = pixels(output)
    told |= {
        "there": len(found), "broken": broken, "temporary": remains(output),
        "wrong": [name for name, data in found.items() if data != expected[name]],
    }  # fmt: skip
    killed = [int(part.partition("/")[0]) - 1 for part in told["killed_after"]]
    names = sorted(expected)
    told["missing_of_others"] = sum(
        name not in found for place, name in enumerate(names) if place % processes not in killed
    )
    before = made(output)
    again = subprocess.run(
        [sys.executable, "-m", "patchkin", "translate", str(run), str(photos), "-o", str(output),
         "--device", "cpu", "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    summary = json.loads(again.stdout) if again.returncode == 0 else {}
    whole, broken = pixels(output)
    records = made(output)
    told["then"] = {
        "code": again.returncode, "written": len(summary.get("written", [])),
        "skipped": len(summary.get("skipped", [])), "equal": whole == expected, "broken": broken,
        "temporary": remains(output), "unrecorded": len(expected.keys() - records.keys()),
        "made_twice": sum(number > 1 for number in records.values()),
        "made_before": len(before),
    }  # fmt: skip
    then = told["then"]
    told["good"] = (
        not (told["broken"] or told["wrong"] or told["missing_of_others"])
        and then["code"] == 0
        and then["equal"]
        and not (then["broken"] or then["temporary"] or then["unrecorded"] or then["made_twice"])
        and then["skipped"] == then["made_before"]
        and then["written"] + then["skipped"] == len(expected)
    )
    return told


def without_parts(folder: Path, images: int, processes: int) -> dict[str, Any]:
    """The same command so many times at once."""
    run, photos = prepared(folder, images)
    alone, output = folder / f"alone{images}", folder / "same"
    for place in (alone, output):
        shutil.rmtree(place, ignore_errors=True)
    assert started(run, photos, alone).wait() == 0
    running = [started(run, photos, output) for _ in range(processes)]
    codes = [process.wait() for process in running]
    found, broken = pixels(output)
    told = {
        "codes": codes, "equal": found == pixels(alone)[0], "broken": broken,
        "temporary": remains(output), "made": sum(made(output).values()), "images": len(found),
    }  # fmt: skip
    told["good"] = told["equal"] and not any(codes) and not broken and not told["temporary"]
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    parts = tried(folder, options.images, options.processes, options.kills, options.seed)
    same = without_parts(folder, options.images // 10, options.processes)
    print(json.dumps({"parts": parts, "without_parts": same}, indent=1))
    return 0 if parts["good"] and same["good"] else 1


if __name__ == "__main__":
    sys.exit(main())
