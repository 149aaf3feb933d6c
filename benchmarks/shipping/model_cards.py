"""What is told of a shipped model: the record that programs read, and the card made of it."""

from __future__ import annotations

from collections.abc import Sequence

from model_tasks import COMPARED, Task, protocol_of

from patchkin.storage import shipped
from patchkin.storage.shipped.records import Record

CARD = """\
# {name}

{kind} of `{method}`, {parameters:,} parameters, stored in float16 ({bytes:,} bytes) and computed in
float32. It turns {direction}:

```sh
patchkin translate {short_name} image.png -o out
```

## How it was made

{how}

Rounding its weights to float16 changes translations of the first {images} test images by {mean:.3f}
of 255 levels on the mean, {percentile:.2f} at the 99th percentile and {most:.1f} at most.

## Scores

Of this file, on the {inputs} test images at their own size, by

```sh
{command}
```

{table}

{verdict}

An image of {size} x {size} pixels, as in training, costs {macs:,} multiply-accumulates,
one of 256 x 256 {macs_256:,}. {speed}

## Limits

{limits}

Licence of the data: {licence}.

SHA-256 of `model.safetensors`: `{sha256}`
"""
HUB_FRONT = """\
---
library_name: patchkin
pipeline_tag: image-to-image
---

"""


def model_card(
    record: Record,
    *,
    how: str,
    images: int,
    difference: tuple[float, float, float],
    inputs: int,
    worse: Sequence[str],
    task: Task,
) -> str:
    """The card of a model whose record is complete.

    Args:
        record: of the model, from which all figures are.
        how: how the model was made, in Markdown.
        images: that rounding was measured on.
        difference: what rounding changes, see `ship.rounding`.
        inputs: how many images were scored.
        worse: scores that decide, in which it is worse than the released model.
        task: of the model.
    """
    preview = record.name.endswith(shipped.PREVIEW)
    mean, percentile, most = difference
    return CARD.format(
        **record.to_plain()
        | {
            "short_name": record.name.removesuffix(shipped.PREVIEW),
            "kind": "A preview" if preview else "A generator",
            "how": how.strip(),
            "images": images,
            "mean": mean,
            "percentile": percentile,
            "most": most,
            "inputs": inputs,
            "command": record.scores[0].command,
            "table": score_table(record),
            "verdict": verdict(record, worse, task),
            "speed": speed_sentence(record),
            "limits": " ".join(record.limits),
            "licence": record.data_licence or "not known to us",
        }
    )


def score_table(record: Record) -> str:
    """In Markdown, the released model's scores beside those of this one, if there is one."""
    other = record.compared_with
    rows = [f"| score | protocol | this model |{f' {other} |' if other else ''}"]
    rows.append("|---|---|---|" + "---|" * bool(other))
    for score in record.scores:
        beside = "-" if score.released is None else f"{score.released:.4g}"
        row = f"| {score.meaning} | {score.protocol} | {score.value:.4g} |"
        rows.append(row + f" {beside} |" * bool(other))
    return "\n".join(rows)


def verdict(record: Record, worse: Sequence[str], task: Task) -> str:
    """Whether it is as good as the released model, in words."""

    def listed(names: Sequence[str]) -> str:
        told = ((task.scores[name].partition(",")[0], protocol_of(name, task)) for name in names)
        return " and ".join(f"{meaning} ({protocol})" for meaning, protocol in told)

    if record.compared_with is None:
        return "No released model was scored by these protocols, so that nothing stands beside it."
    if worse:
        return (
            f"It is worse than {record.compared_with} in: {listed(worse)}. It is not worth using "
            "for its pictures; it is here to try the command with, and will be replaced."
        )
    released = {score.name for score in record.scores if score.released is not None}
    both = [name for name in COMPARED if name in released]
    return f"It is not worse than {record.compared_with} in {listed(both)}."


def speed_sentence(record: Record) -> str:
    """What was timed."""
    speed = record.speed
    if speed is None or speed.torch_ms is None or speed.onnxruntime_ms is None:
        return "It was not timed."
    return (
        f"On {speed.machine} an image of {speed.pixels} x {speed.pixels} takes "
        f"{speed.torch_ms:.1f} ms in torch and {speed.onnxruntime_ms:.1f} ms in ONNX Runtime "
        f"(`{speed.command}`)."
    )
