"""`patchkin inspect MODEL IMAGE --point Y,X [--point Y,X ...]`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from patchkin.cli.parsing import MaxPixels, parse
from patchkin.cli.printing import print_json
from patchkin.config import flag, shown
from patchkin.devices import Device
from patchkin.images import write_pillow
from patchkin.method import Method
from patchkin.scoring.inspection import Inspection, draw, parse_point, similarity_maps
from patchkin.translation.translator import Translator


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Options of `inspect`."""

    model: Annotated[tyro.conf.Positional[str], shown("MODEL")]
    """A run folder, a checkpoint folder, or a .safetensors file, with the projection head."""
    image: Annotated[tyro.conf.Positional[Path], shown("IMAGE")]
    """An image of the source domain, of any size."""
    point: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Y,X in pixels from the upper left, such as 12,40. May be repeated."""
    tap: tyro.conf.UseAppendAction[tuple[int, ...]] = ()
    """Layer of the generator, one of those that the model compares. May be repeated; by default
    all of them."""
    output: Annotated[Path, flag("-o")] = Path("inspection")
    """Folder for the pictures, one per point; those of an earlier inspection are replaced."""
    which: Literal["last", "best"] = "last"
    """The checkpoint of a run folder: the last, or the best on validation."""
    weights: Literal["averaged", "live"] = "live"
    """Of the generator. The projection head is never averaged, so it goes with the live ones."""
    max_pixels: MaxPixels = None
    device: Device = "auto"
    """Where to compute."""
    json: bool = False
    """Print one JSON object with the pictures, and numbers for every point and tap."""


def run(arguments: Sequence[str], methods: Mapping[str, type[Method]]) -> int:
    """Draw the similarity maps of the points."""
    options = parse(
        InspectOptions,
        arguments,
        prog="patchkin inspect",
        about="Show which patches of an image and of its translation a model takes for similar.",
    )
    points = [parse_point(text) for text in options.point]
    translator = Translator.load(
        options.model,
        methods=methods,
        which=options.which,
        weights=options.weights,
        complete=True,
        device=options.device,
    )
    image_CHW, _ = translator.read(options.image)
    inspection = similarity_maps(translator.method, image_CHW, points, taps=options.tap or None)
    files = []
    for index, (y, x) in enumerate(inspection.points):
        file = options.output / f"{options.image.stem}_y{y}_x{x}.png"
        write_pillow(file, draw(inspection, index))
        files.append(file)
    if options.json:
        print_json(_summary(options, inspection, files))
    else:
        for file in files:
            print(file)
    pictures = "picture" if len(files) == 1 else "pictures"
    print(f"{len(files)} {pictures} in {options.output}", file=sys.stderr)
    return 0


def _summary(options: InspectOptions, inspection: Inspection, files: list[Path]) -> dict[str, Any]:
    return {
        "model": options.model,
        "image": str(options.image),
        "output": str(options.output),
        "points": [
            {
                "point": list(point),
                "file": str(file),
                "taps": [
                    {
                        "tap": tap.tap,
                        "map": list(tap.input_PHW.shape[1:]),
                        "place": list(tap.places[index]),
                        "sees_pixels": tap.field_pixels,
                        "mean_similarity": {
                            "input": float(tap.input_PHW[index].mean()),
                            "output": float(tap.output_PHW[index].mean()),
                        },
                        "agreement": tap.agreement(index),
                    }
                    for tap in inspection.taps
                ],
            }
            for index, (point, file) in enumerate(zip(inspection.points, files, strict=True))
        ],
    }
