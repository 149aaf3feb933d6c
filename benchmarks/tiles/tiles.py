"""What translating in parts changes, and what memory it takes.

`seams`: translations in parts against those of the whole image, in levels of 255, with the shipped
model: photographs, and a picture of cells that is rendered here. For each way of dividing the mean
and the 99th percentile of the difference, and of its step from pixel to pixel at the lines where
parts begin and end (0 without a seam).

`memory`: peak of `patchkin translate` for one large image, a process of its own.

    python benchmarks/tiles/tiles.py seams --photos testA --count 3 --crop 1472x1216 --side 256
    python benchmarks/tiles/tiles.py memory FOLDER --size 8192x8192 --norm image

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from safetensors.torch import save_file

from patchkin.config import to_plain
from patchkin.images import Array
from patchkin.methods.cut import Cut, CutConfig
from patchkin.networks import ResNetConfig
from patchkin.storage.checkpoint import ModelHeader
from patchkin.translation.dividing import DividingTranslator
from patchkin.translation.tiles import Tiles
from patchkin.translation.translator import Translator

OVERLAPS = (0, 32, 64)
SHIPPED = "horse2zebra-preview"
CELLS_SIZE = (6000, 5000)
CHILD = """
import json, resource, sys
import torch
torch.set_num_threads(1)
from patchkin.cli import main
from patchkin.devices import peak_memory_bytes
code = main(sys.argv[1:])
used, peak = resource.getrusage(resource.RUSAGE_SELF), peak_memory_bytes(torch.device("cpu"))
print(json.dumps({"code": code, "peak": peak, "seconds": used.ru_utime + used.ru_stime}))
"""


def cells(width: int, height: int) -> Image.Image:
    """Stained cells on a bright ground that darkens to one corner; the same for one size."""
    draws = np.random.default_rng(0)
    fall = np.linspace(0, 1, width)[None] + np.linspace(0, 1, height)[:, None]
    ground = 235 - 30 * fall[..., None] + draws.normal(0, 3, (height, width, 1))
    picture = Image.fromarray((ground * [1, 0.93, 0.97]).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(width * height // 1500):
        x, y = draws.uniform(0, width), draws.uniform(0, height)
        wide, tall = draws.uniform(8, 26, 2)
        shade = draws.uniform(0.7, 1.1)
        body = tuple(int(shade * level) for level in (205, 150, 190))
        nucleus = tuple(int(shade * level) for level in (95, 60, 140))
        draw.ellipse((x - wide, y - tall, x + wide, y + tall), fill=body)
        draw.ellipse((x - wide / 3, y - tall / 3, x + wide / 3, y + tall / 3), fill=nucleus)
    return picture.filter(ImageFilter.GaussianBlur(1.2))


def values(picture: Image.Image) -> Array:
    """[1, 3, H, W] in [-1, 1]."""
    levels_HWC = np.asarray(picture.convert("RGB"), np.float32)
    return np.ascontiguousarray(levels_HWC.transpose(2, 0, 1)[None] / 127.5 - 1)


def steps_at_seams(difference_BCHW: Array, tiles: Tiles, grid: int) -> Array:
    """Steps of a difference where parts begin and end."""
    steps = []
    for axis in (2, 3):
        length = difference_BCHW.shape[axis]
        spans = tiles.spans(length, grid)
        ends = {end for span in spans for end in (span.start, span.stop)} - {0, length}
        places = sorted(ends | {core.start for core in tiles.cores(length, grid)[1:]})
        if places:
            step = np.diff(difference_BCHW, axis=axis)
            steps.append(np.take(step, np.asarray(places) - 1, axis=axis).ravel())
    return np.abs(np.concatenate(steps))


def seams(options: argparse.Namespace) -> None:
    """A row for each way of dividing."""
    translator = Translator.load(SHIPPED, device="cpu")
    photos = sorted(options.photos.iterdir())[: options.count] if options.photos else []
    width, height = map(int, options.crop.split("x"))
    cell_picture = cells(*CELLS_SIZE).crop((0, 0, width, height))
    if options.keep is not None:
        cell_picture.save(options.keep)
    sets = {
        f"{len(photos)} photographs, parts of 128": ([Image.open(path) for path in photos], 128),
        f"cells, {width} x {height}, parts of {options.side}": ([cell_picture], options.side),
    }
    print("| images | norms of | overlap | mean | 99 % | at seams, mean | 99 % | time |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name, (pictures, side) in sets.items():
        if not pictures:
            continue
        inputs = [values(picture) for picture in pictures]
        started = time.process_time()
        whole = [translator.arrays(x_BCHW) for x_BCHW in inputs]
        once = time.process_time() - started
        for norm in ("image", "tile"):
            for overlap in OVERLAPS:
                tiles = Tiles(side=side, overlap=overlap)
                divided = DividingTranslator(translator, tiles, norm=norm)
                divided.needs  # noqa: B018 (found out once, not timed)
                started = time.process_time()
                parts = [divided.arrays(x_BCHW) for x_BCHW in inputs]
                ratio = (time.process_time() - started) / once
                apart = [127.5 * (a - b) for a, b in zip(parts, whole, strict=True)]
                every = np.abs(np.concatenate([each.ravel() for each in apart]))
                grid = translator.method.multiple_of
                steps = np.concatenate([steps_at_seams(each, tiles, grid) for each in apart])
                cells_of_row = (
                    *(f"{every.mean():.2f}", f"{np.percentile(every, 99):.1f}"),
                    *(f"{steps.mean():.2f}", f"{np.percentile(steps, 99):.1f}", f"{ratio:.1f}"),
                )
                print(f"| {name} | {norm} | {overlap} | {' | '.join(cells_of_row)} |", flush=True)


def memory(options: argparse.Namespace) -> None:
    """The peak for one image, a PNG of a few colours, which is small as a file."""
    options.folder.mkdir(parents=True, exist_ok=True)
    width, height = map(int, options.size.split("x"))
    source, model = options.folder / f"{options.size}.png", options.model
    if not source.exists():
        cells(512, 512).resize((width, height), Image.Resampling.BICUBIC).save(source)
    if model is None:
        torch.manual_seed(0)
        method = Cut(CutConfig(generator=ResNetConfig(ngf=options.ngf, blocks=1)))
        header = ModelHeader(method="cut", config=to_plain(method.config))
        model = str(options.folder / "model.safetensors")
        save_file(method.state_dict(), model, header.to_metadata())
    command = ["translate", model, str(source), "-o", str(options.folder / "out"), "--overwrite"]
    command += ["--tile", "512", "--tile-norm", options.norm, "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *command, "--max-pixels", str(width * height)],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    told = json.loads(done.stdout.splitlines()[-1])
    print(
        f"| {options.size} | {options.model or f'ngf {options.ngf}, 1 block'} | {options.norm} |",
        end="",
    )
    print(f" {told['peak'] / 1e9:.2f} GB | {told['seconds']:.0f} s |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("seams")
    verb.add_argument("--photos", type=Path, help="folder; none unless given")
    verb.add_argument("--count", type=int, default=4)
    verb.add_argument("--crop", default="6000x5000", help="of the picture of cells")
    verb.add_argument("--side", type=int, default=512, help="of parts of the picture of cells")
    verb.add_argument("--keep", type=Path, help="also write the picture of cells there")
    verb.set_defaults(do=seams)
    verb = verbs.add_parser("memory")
    verb.add_argument("folder", type=Path)
    verb.add_argument("--size", default="8192x8192")
    verb.add_argument("--norm", choices=("image", "tile"), default="image")
    verb.add_argument("--model", help="instead of a small one")
    verb.add_argument("--ngf", type=int, default=2)
    verb.set_defaults(do=memory)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.do(options)


if __name__ == "__main__":
    main()
