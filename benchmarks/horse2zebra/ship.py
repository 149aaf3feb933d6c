"""Make a model part of the package: float16, below 1 MB, with scores of the file that is shipped.

    patchkin compress export RUN -o small.safetensors
    python benchmarks/horse2zebra/ship.py small.safetensors --name horse2zebra-preview \\
        --data datasets/horse2zebra --extractor-weights SQUEEZENET --how HOW.md

writes src/patchkin/storage/shipped/NAME/model.safetensors, checks its size and what rounding
changes, runs `patchkin evaluate` on it, and writes MODEL_CARD.md beside it: the text of HOW.md (how
the model was made, with commands) and the scores, next to those of GAN Compression's released
generator. A model that is worse than that one in zebra rate or Frechet distance must have a name
that ends with -preview.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from patchkin.data.layouts import image_files
from patchkin.images import read_image, to_tensor
from patchkin.storage import shipped
from patchkin.storage.checkpoint import ModelHeader, write_tensors
from patchkin.translation.translator import Translator

LARGEST_BYTES = 1_000_000
LARGEST_DIFFERENCE = 0.5
"""Mean change of a pixel by rounding the weights, in levels of 255."""
COMPARED_IMAGES = 20
ZEBRA = 340
CLASSES, DISTANCES = "squeezenet-224", "squeezenet-256"
"""Protocols: what a classifier sees at its training size, and distances at the images' own."""
RELEASED = {f"{CLASSES}/class_top1": 61.7, f"{DISTANCES}/frechet": 2272.0}
"""GAN Compression's released horse-to-zebra generator (0.357 M parameters), by these protocols."""
BETTER_IF_MORE = frozenset({f"{CLASSES}/class_top1"})
SCORES = {
    f"{CLASSES}/class_top1": "taken for a zebra by SqueezeNet, % (more is better)",
    f"{CLASSES}/class_top5": "a zebra among its first five, % (more is better)",
    f"{DISTANCES}/frechet": "Frechet distance to testB, SqueezeNet (less is better)",
    f"{DISTANCES}/kernel": "kernel distance (KID) to testB, SqueezeNet (less is better)",
    "relation_change": "change of relations among patches (less is better)",
    "change_outside": "change outside the animals, of 255 (less is better)",
    "change_inside": "change inside the animals, of 255",
    "collapse_ratio": "LPIPS among outputs over that among inputs (more is better)",
}
MEASURED = {
    "relation_change": f"features of {DISTANCES}, own size",
    "change_outside": "own size, masksA",
    "change_inside": "own size, masksA",
    "collapse_ratio": "LPIPS squeeze, own size",
}
"""How scores are measured that no protocol's name stands before."""
CARD = """\
# {name}

{kind} of `{method}`, {parameters:,} parameters, stored in float16 ({bytes:,} bytes) and computed in
float32. It turns horses into zebras:

```sh
patchkin translate {short_name} photo.jpg -o out
```

## How it was made

{how}

Rounding its weights to float16 changes translations of the first {images} test images by {mean:.3f}
of 255 levels on the mean, {percentile:.2f} at the 99th percentile and {most:.1f} at most.

## Scores

Of this file, on the {inputs} test images of horse2zebra at their own size, by

```sh
{command}
```

| score | protocol | this model | GAN Compression's released generator |
|---|---|---|---|
{table}

{verdict}

## Limits

Trained on photographs of horses and zebras from ImageNet (the horse2zebra set of CycleGAN) at
{size} pixels. It knows nothing else: people, saddles and fences may get stripes too, and larger
photographs are best made smaller first. Scores by a classifier and by distances of its features say
how zebra-like a set of pictures is, not whether one picture is convincing.

SHA-256 of `model.safetensors`: `{sha256}`
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--data", type=Path, required=True, help="horse2zebra")
    parser.add_argument(
        "--extractor-weights", dest="weights", type=Path, help="torchvision's SqueezeNet 1.1"
    )
    parser.add_argument("--masks", type=Path, help="of testA; DATA/masksA if it is there")
    parser.add_argument("--how", type=Path, required=True, help="Markdown: how it was made")
    parser.add_argument("--reference", type=Path, help="the released generator, imported")
    options = parser.parse_args()
    folder = shipped.FOLDER / options.name
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary) / shipped.MODEL_FILE
        header = write_half(options.model, model)
        check_size(model)
        difference = rounding(options.model, model, image_files(options.data / "testA"))
        flags = evaluation_flags(options)
        scores, inputs = evaluated(model, flags)
        reference = RELEASED
        if options.reference is not None:
            reference = evaluated(options.reference, flags)[0]
        worse = [name for name in RELEASED if is_worse(name, scores, reference)]
        if worse and not options.name.endswith(shipped.PREVIEW):
            sys.exit(
                f"{', '.join(worse)}: worse than the released generator. "
                f"Ship it as {options.name}{shipped.PREVIEW}."
            )
        card = model_card(
            options,
            model=model,
            header=header,
            scores=scores,
            reference=reference,
            worse=worse,
            difference=difference,
            inputs=inputs,
            flags=flags,
        )
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(model, folder / shipped.MODEL_FILE)
        (folder / shipped.CARD_FILE).write_text(card, encoding="utf-8")
    print(card)
    return 0


def write_half(source: Path, target: Path) -> ModelHeader:
    """The networks that translate, averaged weights if there are any, in float16."""
    translator = Translator.load(source, device="cpu")
    assert translator.header is not None
    tensors = {
        f"{name}.{key}": tensor.half() if tensor.is_floating_point() else tensor
        for name in translator.method.translating
        for key, tensor in translator.method.get_submodule(name).state_dict().items()
    }
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        sys.exit(f"`{source}` has weights beyond the range of float16.")
    write_tensors(target, tensors, translator.header.to_metadata())
    return replace(translator.header)


def check_size(path: Path) -> None:
    size = path.stat().st_size
    if size >= LARGEST_BYTES:
        sys.exit(f"{size:,} bytes in float16; a shipped model has less than {LARGEST_BYTES:,}.")


@torch.no_grad()
def rounding(source: Path, half: Path, photos: Sequence[Path]) -> tuple[float, float, float]:
    """What float16 changes in translations, in levels: mean, 99th percentile, most."""
    exact, rounded = (Translator.load(path, device="cpu") for path in (source, half))
    changes: list[Tensor] = []
    for photo in photos[:COMPARED_IMAGES]:
        x_BCHW = to_tensor(read_image(photo, 3))[None]
        changes.append(127.5 * (exact(x_BCHW) - rounded(x_BCHW)).abs().flatten())
    levels = torch.cat(changes)
    rank = max(1, round(0.99 * len(levels)))
    mean, percentile = float(levels.mean()), float(levels.kthvalue(rank).values)
    if mean > LARGEST_DIFFERENCE:
        sys.exit(f"float16 changes pixels by {mean:.2f} levels on the mean; keep this model as is.")
    return mean, percentile, float(levels.max())


def evaluation_flags(options: argparse.Namespace) -> list[str]:
    masks = options.masks or options.data / "masksA"
    flags = ["--data", str(options.data)]
    if masks.is_dir():
        flags += ["--masks", str(masks)]
    if options.weights is not None:
        flags += ["--extractor-weights", str(options.weights), "--lpips", "squeeze"]
        flags += ["--lpips-weights", str(options.weights)]
    return [*flags, "--classes", str(ZEBRA), "--protocol", CLASSES, DISTANCES]


def evaluated(model: Path, flags: Sequence[str]) -> tuple[dict[str, float], int]:
    """Scores by `patchkin evaluate`, and how many images were translated."""
    command = [sys.executable, "-m", "patchkin", "evaluate", str(model), "--json", *flags]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    result = json.loads(output)["results"][-1]
    return result["scores"], result["data"]["counts"]["inputs"]


def protocol_of(name: str) -> str:
    """Of a score, for the card: the protocol before its name, or how else it is measured."""
    protocol, named, _ = name.rpartition("/")
    return protocol if named else MEASURED[name]


def is_worse(name: str, scores: dict[str, float], reference: dict[str, float]) -> bool:
    if name in BETTER_IF_MORE:
        return scores[name] < reference[name]
    return scores[name] > reference[name]


def model_card(
    options: argparse.Namespace,
    *,
    model: Path,
    header: ModelHeader,
    scores: dict[str, float],
    reference: dict[str, float],
    worse: Sequence[str],
    difference: tuple[float, float, float],
    inputs: int,
    flags: Sequence[str],
) -> str:
    def cell(values: dict[str, float], name: str) -> str:
        return f"{values[name]:.4g}" if name in values else "-"

    known = [name for name in SCORES if name in scores]
    table = [
        f"| {SCORES[name]} | {protocol_of(name)} | {cell(scores, name)} | {cell(reference, name)} |"
        for name in known
    ]
    preview = options.name.endswith(shipped.PREVIEW)
    verdict = (
        f"By these protocols it is better than the released generator in both zebra rate "
        f"({CLASSES}) and Frechet distance ({DISTANCES})."
    )
    if worse:
        listed = " and ".join(
            f"{SCORES[name].partition(',')[0]} ({protocol_of(name)})" for name in worse
        )
        verdict = (
            f"It is worse than the released generator in: {listed}. It is not worth using for its "
            "pictures; it is here to try the command with, and will be replaced."
        )
    method = Translator.load(model, device="cpu").method
    generators = [method.get_submodule(name) for name in method.translating]
    named = [Path(flag).name if Path(flag).exists() else flag for flag in flags]
    command = ["patchkin", "evaluate", options.name, *named]
    mean, percentile, most = difference
    return CARD.format(
        name=options.name,
        short_name=options.name.removesuffix(shipped.PREVIEW),
        kind="A preview" if preview else "A generator",
        method=header.method,
        parameters=sum(p.numel() for network in generators for p in network.parameters()),
        bytes=model.stat().st_size,
        how=options.how.read_text(encoding="utf-8").strip(),
        images=min(COMPARED_IMAGES, inputs),
        mean=mean,
        percentile=percentile,
        most=most,
        inputs=inputs,
        command=shlex.join(command),
        table="\n".join(table),
        verdict=verdict,
        size=header.size,
        sha256=hashlib.sha256(model.read_bytes()).hexdigest(),
    )


if __name__ == "__main__":
    sys.exit(main())
