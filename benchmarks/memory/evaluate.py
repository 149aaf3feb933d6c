"""What `patchkin evaluate` needs for many large images: peak of its memory, and time.

Writes a set of COUNT images of 2048 x 1024 pixels (links to a few JPEG files), a model with a tiny
generator, and evaluates it in a process of its own. All else that `evaluate` takes follows.

    python benchmarks/memory/evaluate.py FOLDER --count 500 --protocol squeezenet-256 \\
        --extractor-weights squeezenet1_1.pth
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from patchkin.config import to_plain
from patchkin.methods.cut import Cut, CutConfig
from patchkin.networks import ResNetConfig
from patchkin.storage.checkpoint import ModelHeader

SIZE = (2048, 1024)
DIFFERENT, REAL = 5, 8
CHILD = """
import json, resource, sys
import torch
torch.set_num_threads(1)
from patchkin.cli import main
from patchkin.devices import peak_memory_bytes
code = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
seconds = used.ru_utime + used.ru_stime
peak = peak_memory_bytes(torch.device("cpu"))
print(json.dumps({"code": code, "peak": peak, "seconds": seconds}))
"""


def write_set(root: Path, count: int) -> None:
    """`count` images to translate, and a few of the others."""
    generator = torch.Generator().manual_seed(0)
    numbers = {"trainA": REAL, "trainB": REAL, "testA": count, "testB": REAL}
    for folder, number in numbers.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(number):
            path = root / folder / f"{index:04d}.jpg"
            if path.exists():
                continue
            if index >= DIFFERENT:
                os.link(root / folder / f"{index % DIFFERENT:04d}.jpg", path)
                continue
            small = torch.randint(0, 256, (32, 64, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(small.numpy()).resize(SIZE, Image.Resampling.BICUBIC).save(path)


def write_model(path: Path) -> None:
    """CUT with the smallest generator."""
    torch.manual_seed(0)
    method = Cut(CutConfig(generator=ResNetConfig(ngf=2, blocks=5)))
    header = ModelHeader(method="cut", config=to_plain(method.config))
    save_file(method.state_dict(), path, header.to_metadata())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=500)
    options, more = parser.parse_known_args()
    root, model = options.folder / f"set-{options.count}", options.folder / "model.safetensors"
    write_set(root, options.count)
    write_model(model)
    arguments = ["evaluate", str(model), "--data", str(root), "--device", "cpu", "--json", *more]
    environment = {**os.environ, "PATCHKIN_CACHE": str(options.folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        stdout=subprocess.PIPE, text=True, check=True, env=environment,
    )  # fmt: skip
    *_, result, told = map(json.loads, done.stdout.splitlines())
    (found,) = result["results"]
    print(f"images     {found['data']['counts']['inputs']}")
    print(f"peak       {told['peak'] / 1e9:.2f} GB")
    print(f"processor  {told['seconds']:.0f} s")
    for name, value in found["scores"].items():
        print(f"{name}  {value}")


if __name__ == "__main__":
    main()
