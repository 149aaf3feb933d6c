"""Make a model part of the package: float16, below 1 MB, with scores of the file that is shipped.

    patchkin compress export RUN -o small.safetensors
    python benchmarks/shipping/ship.py small.safetensors --name horse2zebra-preview \\
        --data datasets/horse2zebra --extractor-weights SQUEEZENET --how HOW.md

writes src/patchkin/storage/shipped/NAME/model.safetensors, checks its size and what rounding
changes, runs `patchkin evaluate` on it, counts what it costs, and writes model.json (what `patchkin
models` and docs/models.md tell) and MODEL_CARD.md beside it: the text of HOW.md (how the model was
made, with commands) and the scores, next to those of a released generator where there is one. A
model that is worse than that one in the rate of its class or in Frechet distance must have a name
that ends with -preview.

--task is one of `model_tasks.py`, by default the one of that name. --machine "WORDS" also times it.
--reference MODEL scores another model in place of the figures in `model_tasks.py`. With --hub
OWNER/NAME --folder DIR the package gets the record alone, and DIR what is to be pushed to the Hub:
models in the package have 5 MB together.
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
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from model_cards import HUB_FRONT, model_card
from model_tasks import CLASSES, DISTANCES, TASKS, Task, protocol_of, worse_than

from patchkin.data.config import DataConfig
from patchkin.errors import nearest
from patchkin.runs.compression import Costed
from patchkin.scoring.held_out import Inputs, find_held_out
from patchkin.sides import height_width
from patchkin.storage import shipped
from patchkin.storage.checkpoint import ModelHeader, write_tensors
from patchkin.storage.hub import is_hub_name
from patchkin.storage.shipped.records import RECORD_FILE, MeasuredScore, MeasuredSpeed, Record
from patchkin.translation.translator import Translator

LARGEST_BYTES = 1_000_000
LARGEST_SUM = 5_000_000
"""Of the models in the package."""
LARGEST_DIFFERENCE = 0.5
"""Mean change of a pixel by rounding the weights, in levels of 255."""
COMPARED_IMAGES = 20
PIXELS = 256
TIMED_CALLS = 100


def main() -> int:
    options = parsed_options()
    task = TASKS[options.task]
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary) / shipped.MODEL_FILE
        header = write_half(options.model, model, task)
        check_size(model, options)
        held_out = find_held_out(DataConfig(root=str(options.data), direction=task.way), "test")
        difference = rounding(options.model, model, held_out.inputs)
        flags = evaluation_flags(options, task)
        scores, inputs = evaluated(model, flags)
        released, other = task.released, task.released_scores
        if options.reference is not None:
            released, other = options.reference_name, evaluated(options.reference, flags)[0]
        worse = worse_than(scores, other)
        if worse and not options.name.endswith(shipped.PREVIEW):
            sys.exit(
                f"{', '.join(worse)}: worse than {released}. "
                f"Ship it as {options.name}{shipped.PREVIEW}."
            )
        record = record_of(
            model,
            header,
            task,
            name=options.name,
            hub=options.hub,
            scores=measured(scores, other, task, command=told_command(options.name, flags)),
            compared_with=released,
            speed=speed_of(model, options),
        )
        card = model_card(
            record,
            how=options.how.read_text(encoding="utf-8"),
            images=min(COMPARED_IMAGES, inputs),
            difference=difference,
            inputs=inputs,
            worse=worse,
            task=task,
        )
        put_in_place(model, card, record, options)
    print(card)
    return 0


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--task", help=f"one of {', '.join(TASKS)}")
    parser.add_argument("--data", type=Path, required=True, help="the set of the task")
    parser.add_argument(
        "--extractor-weights", dest="weights", type=Path, help="torchvision's SqueezeNet 1.1"
    )
    parser.add_argument("--masks", type=Path, help="of the test images; masksA of DATA or masksB")
    parser.add_argument("--how", type=Path, required=True, help="Markdown: how it was made")
    parser.add_argument("--reference", type=Path, help="a released generator, imported")
    parser.add_argument("--reference-name", help="what it is, in words")
    parser.add_argument("--machine", help="this machine in words: time the model, too")
    parser.add_argument("--threads", type=int, default=1, help="that are timed")
    parser.add_argument("--hub", help="OWNER/NAME or OWNER/NAME@REVISION, where the file will be")
    parser.add_argument("--folder", type=Path, help="to be pushed there")
    options = parser.parse_args()
    options.task = options.task or options.name.removesuffix(shipped.PREVIEW)
    if options.task not in TASKS:
        sys.exit(f"--task {options.task}: there is no such task. {nearest(options.task, TASKS)}")
    if options.reference is not None and options.reference_name is None:
        options.reference_name = TASKS[options.task].released or str(options.reference.name)
    if (options.hub is None) != (options.folder is None):
        sys.exit("--hub and --folder go together.")
    if options.hub is not None and not is_hub_name(options.hub):
        sys.exit(f"--hub {options.hub}: expected OWNER/NAME or OWNER/NAME@REVISION.")
    return options


def write_half(source: Path, target: Path, task: Task) -> ModelHeader:
    """The networks that translate, averaged weights if there are any, in float16."""
    translator = Translator.load(source, device="cpu")
    assert translator.header is not None
    if task.way == "BtoA" and "BtoA" in translator.method.directions:
        sys.exit(
            f"`{source}` translates both ways, and whoever uses it by name gets the way from A to B"
            f": ship a model of one way, {task.direction}."
        )
    tensors = {
        f"{name}.{key}": tensor.half() if tensor.is_floating_point() else tensor
        for name in translator.method.translating
        for key, tensor in translator.method.get_submodule(name).state_dict().items()
    }
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        sys.exit(f"`{source}` has weights beyond the range of float16.")
    write_tensors(target, tensors, translator.header.to_metadata())
    return translator.header


def check_size(path: Path, options: argparse.Namespace) -> None:
    size = path.stat().st_size
    if size >= LARGEST_BYTES:
        sys.exit(f"{size:,} bytes in float16; a shipped model has less than {LARGEST_BYTES:,}.")
    others = sum(
        (shipped.FOLDER / name / shipped.MODEL_FILE).stat().st_size
        for name in shipped.shipped_names()
        if name != options.name
    )
    if options.hub is None and others + size > LARGEST_SUM:
        sys.exit(
            f"The models of the package would have {others + size:,} bytes, and {LARGEST_SUM:,} "
            "are allowed: --hub OWNER/NAME --folder DIR."
        )


@torch.no_grad()
def rounding(source: Path, half: Path, inputs: Inputs) -> tuple[float, float, float]:
    """What float16 changes in translations, in levels: mean, 99th percentile, most."""
    exact, rounded = (Translator.load(path, device="cpu") for path in (source, half))
    changes: list[Tensor] = []
    for file in inputs.files[:COMPARED_IMAGES]:
        x_CHW = inputs.read(file, exact.channels[0], size=None, value_range=None)
        changes.append(127.5 * (exact(x_CHW[None]) - rounded(x_CHW[None])).abs().flatten())
    levels = torch.cat(changes)
    rank = max(1, round(0.99 * len(levels)))
    mean, percentile = float(levels.mean()), float(levels.kthvalue(rank).values)
    if mean > LARGEST_DIFFERENCE:
        sys.exit(f"float16 changes pixels by {mean:.2f} levels on the mean; keep this model as is.")
    return mean, percentile, float(levels.max())


def evaluation_flags(options: argparse.Namespace, task: Task) -> list[str]:
    flags = ["--data", str(options.data)]
    if task.way == "BtoA":
        flags += ["--direction", "BtoA"]
    masks = options.masks or (options.data / task.masks if task.masks else None)
    if masks is not None and masks.is_dir():
        flags += ["--masks", str(masks)]
    if options.weights is not None:
        flags += ["--extractor-weights", str(options.weights), "--lpips", "squeeze"]
        flags += ["--lpips-weights", str(options.weights)]
    if task.classes:
        return [*flags, "--classes", *map(str, task.classes), "--protocol", CLASSES, DISTANCES]
    return [*flags, "--protocol", DISTANCES]


def told_command(name: str, flags: Sequence[str]) -> str:
    """`patchkin evaluate` as whoever has the files somewhere else calls it."""
    named = [Path(flag).name if Path(flag).exists() else flag for flag in flags]
    return shlex.join(["patchkin", "evaluate", name, *named])


def called(*arguments: str) -> dict:
    """What `patchkin ... --json` prints."""
    command = [sys.executable, "-m", "patchkin", *arguments, "--json"]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    return json.loads(output)


def evaluated(model: Path, flags: Sequence[str]) -> tuple[dict[str, float], int]:
    """Scores by `patchkin evaluate`, and how many images were translated."""
    result = called("evaluate", str(model), *flags)["results"][-1]
    return result["scores"], result["data"]["counts"]["inputs"]


def measured(
    scores: Mapping[str, float], other: Mapping[str, float], task: Task, *, command: str
) -> tuple[MeasuredScore, ...]:
    """The scores that the task tells, those of the released model beside them."""
    return tuple(
        MeasuredScore(
            name=name,
            meaning=meaning,
            protocol=protocol_of(name, task),
            value=scores[name],
            released=other.get(name),
            command=command,
        )
        for name, meaning in task.scores.items()
        if scores.get(name) is not None
    )


def speed_of(model: Path, options: argparse.Namespace) -> MeasuredSpeed | None:
    """Of one image of 256 pixels, in torch and ONNX Runtime in turn."""
    if options.machine is None:
        return None
    flags = ["--size", str(PIXELS), "--time-calls", str(TIMED_CALLS)]
    flags += ["--threads", str(options.threads), "--runtime", "torch", "onnx"]
    times = called("compress", "cost", str(model), *flags)["latency"]
    plain, exported = times["torch"]["median_ms"], times["onnx"]["median_ms"]
    return MeasuredSpeed(
        pixels=PIXELS,
        machine=f"{options.machine}, {options.threads} thread{'s' * (options.threads > 1)}",
        command=shlex.join(["patchkin", "compress", "cost", options.name, *flags]),
        torch_ms=plain,
        onnxruntime_ms=exported,
        onnxruntime_times_as_fast=plain / exported,
    )


def record_of(
    model: Path,
    header: ModelHeader,
    task: Task,
    *,
    name: str,
    hub: str | None,
    scores: tuple[MeasuredScore, ...],
    compared_with: str | None,
    speed: MeasuredSpeed | None,
) -> Record:
    """Of a model file, with what can be counted of it."""
    size = max(height_width(header.size))
    cost, cost_256 = (Costed.open(model, size=side).cost() for side in (size, PIXELS))
    return Record(
        name=name,
        direction=task.direction,
        method=header.method,
        parameters=cost.parameters,
        size=size,
        macs=cost.macs,
        macs_256=cost_256.macs,
        bytes=model.stat().st_size,
        sha256=hashlib.sha256(model.read_bytes()).hexdigest(),
        hub=hub,
        scores=scores,
        compared_with=compared_with,
        speed=speed,
        data=task.data,
        data_licence=task.data_licence,
        limits=tuple(line.format(scale=scale_of(header)) for line in task.limits),
    )


def scale_of(header: ModelHeader) -> str:
    """At which size of images a model was trained, in words.

    >>> scale_of(ModelHeader(method="cut", config={}, size=128))
    'at 128 pixels'
    >>> large = {"typical_sizes": [[286, 286], [286, 286]]}
    >>> scale_of(ModelHeader(method="cut", config={}, size=128, encoding=large))
    'at 286 pixels, in crops of 128'
    """
    size = max(height_width(header.size))
    whole = max((header.encoding.get("typical_sizes") or [None])[0] or [0])
    if whole <= 1.25 * size:  # as CUT's 286 / 256
        return f"at {size} pixels"
    return f"at {whole} pixels, in crops of {size}"


def put_in_place(model: Path, card: str, record: Record, options: argparse.Namespace) -> None:
    """Into the package, or its file into the folder that is to be pushed."""
    folder = shipped.FOLDER / options.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD_FILE).write_text(record.to_text(), encoding="utf-8")
    if options.folder is None:
        shutil.copy(model, folder / shipped.MODEL_FILE)
        (folder / shipped.CARD_FILE).write_text(card, encoding="utf-8")
        return
    for name in (shipped.MODEL_FILE, shipped.CARD_FILE):  # of a model that was in the package
        (folder / name).unlink(missing_ok=True)
    options.folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(model, options.folder / shipped.MODEL_FILE)
    (options.folder / "README.md").write_text(HUB_FRONT + card, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
