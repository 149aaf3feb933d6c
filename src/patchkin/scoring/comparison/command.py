"""The whole command that measures a model as another was measured."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from patchkin.scoring.comparison.scored import Images, Scored
from patchkin.scoring.held_out import ALL

_FLAGS = {
    "extractor_weights": "--extractor-weights",
    "classes": "--classes",
    "masks": "--masks",
    "truth": "--truth",
    "lpips": "--lpips",
    "lpips_weights": "--lpips-weights",
    "judge": "--judge",
    "judge_weights": "--judge-weights",
}
"""Settings of an evaluation, and how they are typed."""


def evaluation_command(
    subject: Scored,
    images: Images | None,
    result: Mapping[str, Any] | None,
    *,
    best: bool = False,
) -> str:
    """`patchkin evaluate` of a subject.

    Args:
        subject: what is to be scored.
        images: which; None: those that a run was trained with, or the set ROOT.
        result: that tells how another was scored; None: by the default protocol.
        best: the checkpoint that is best on validation.

    >>> from pathlib import Path
    >>> from patchkin.scoring.comparison.scored import Scored
    >>> model = Scored(folder=Path("a b.safetensors"), name="cut", kind="model", settings="",
    ...                last_step=1, kept_in=Path("scores.json"))
    >>> evaluation_command(model, None, None)
    "patchkin evaluate 'a b.safetensors' --data ROOT --output scores.json"
    """
    words = ["evaluate", str(subject.folder), *_data(subject, images, result)]
    if result is not None and images is not None:
        words += _settings(result)
        if images.weights == "live":
            words += ["--weights", "live"]
        if result["key"].get("samples") and result["key"]["direction"] != "all pairs":
            words += ["--samples", str(result["key"]["samples"])]
        if result["key"].get("precision") not in (None, "32-true"):
            words += ["--precision", str(result["key"]["precision"])]
    if best:
        words += ["--which", "best"]
    if subject.kept_in is not None:
        words += ["--output", str(subject.kept_in)]
    return f"{subject.program} {shlex.join(words)}"


def of_two_folders(result: Mapping[str, Any]) -> bool:
    """Whether it is the distance between two folders, of which nothing else is known."""
    return result["key"]["direction"] is None and result["key"]["split"] == ALL


def _data(subject: Scored, images: Images | None, result: Mapping[str, Any] | None) -> list[str]:
    if images is None or result is None:
        return [] if subject.own is not None else ["--data", "ROOT"]
    if of_two_folders(result):
        return ["--against", str(images.data)]
    own = subject.own
    words = []
    if own is None or images.data != own.data:
        source, arrow, target = str(images.data or "ROOT").partition(" -> ")
        words = ["--data.source", source, "--data.target", target] if arrow else ["--data", source]
    trained = own.direction if own is not None else "AtoB"
    if images.direction not in (None, trained):
        words += ["--direction", str(images.direction)]
    return words


def _settings(result: Mapping[str, Any]) -> list[str]:
    evaluation = result.get("evaluation") or {}
    words = ["--protocol", *(result.get("protocols") or {})]
    for name, option in _FLAGS.items():
        value = evaluation.get(name)
        if value:
            words += [option, *map(str, value if isinstance(value, list) else [value])]
    if evaluation.get("split") == "val":
        words += ["--split", "val"]
    return words
