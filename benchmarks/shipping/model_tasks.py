"""What can be shipped: how a model of each task is scored, and what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

CLASSES, DISTANCES = "squeezenet-224", "squeezenet-256"
"""Protocols: what a classifier sees at its training size, and distances at the images' own."""
TOP1, TOP5 = f"{CLASSES}/class_top1", f"{CLASSES}/class_top5"
FRECHET, KERNEL = f"{DISTANCES}/frechet", f"{DISTANCES}/kernel"
HORSE, ZEBRA = 339, 340
"""Classes of ImageNet; 339 is the sorrel, its only horse."""
BETTER_IF_MORE = frozenset({TOP1})
COMPARED = (TOP1, FRECHET)
"""Scores by which a model that is worse than a released one is a preview."""
MEASURED = {
    "relation_change": f"features of {DISTANCES}, own size",
    "change": "own size",
    "change_outside": "own size, {masks}",
    "change_inside": "own size, {masks}",
    "collapse_ratio": "LPIPS squeeze, own size",
    "truth/psnr": "own size",
    "truth/ssim": "own size",
    "truth/truth_distance": "own size",
    "truth/lpips": "LPIPS squeeze, own size",
}
"""How scores are measured that no protocol's name stands before."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """From one domain to the other, on one set."""

    direction: str
    """In words."""
    way: Literal["AtoB", "BtoA"] = "AtoB"
    """Which domain of the set is translated."""
    scores: Mapping[str, str]
    """Those that the card tells: name -> in words, with the way that is better."""
    classes: tuple[int, ...] = ()
    """Of ImageNet, that outputs should be taken for."""
    masks: str = ""
    """Folder of masks beside the set."""
    data: str
    """What models are trained on."""
    data_licence: str | None
    """None where it is not known to us."""
    limits: tuple[str, ...]
    """Sentences; `{scale}` is at which size the model was trained."""
    released: str | None = None
    """A released model that its makers' file was scored of, by these protocols."""
    released_scores: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


def _of_animals(wanted: str, target: str) -> dict[str, str]:
    return {
        TOP1: f"taken for a {wanted} by SqueezeNet, % (more is better)",
        TOP5: f"a {wanted} among its first five, % (more is better)",
        FRECHET: f"Frechet distance to {target}, SqueezeNet (less is better)",
        KERNEL: f"kernel distance (KID) to {target}, SqueezeNet (less is better)",
        "relation_change": "change of relations among patches (less is better)",
        "change_outside": "change outside the animals, of 255 (less is better)",
        "change_inside": "change inside the animals, of 255",
        "collapse_ratio": "LPIPS among outputs over that among inputs (more is better)",
    }


_FACADES = {
    "truth/psnr": "PSNR to the photograph, dB (more is better)",
    "truth/ssim": "SSIM to the photograph (more is better)",
    "truth/lpips": "LPIPS to the photograph (less is better)",
    "truth/truth_distance": "distance to the photograph, of 255 (less is better)",
    FRECHET: "Frechet distance to the photographs, SqueezeNet (less is better)",
    KERNEL: "kernel distance (KID) to the photographs, SqueezeNet (less is better)",
    "collapse_ratio": "LPIPS among outputs over that among inputs (more is better)",
}
_HORSES = "photographs of horses and zebras from ImageNet (the horse2zebra set of CycleGAN)"
_IMAGENET = "ImageNet's terms: non-commercial research and education"
_CLASSIFIER = (
    "Scores by a classifier and by distances of its features say how {wanted}-like a set of "
    "pictures is, not whether one picture is convincing."
)
_ANIMALS = "Trained on " + _HORSES + " {scale}."
_LARGE = "Larger photographs are best made smaller first."
_CMP = "facades and their label maps (CMP, the facades set of pix2pix)"
_LABELS = (
    f"Trained on {_CMP} {{scale}}: it knows label maps in the colours of this set and "
    "nothing else.",
    "A label map says nothing of colours and materials: what it makes up is not the truth, and "
    "scores against the truth punish that.",
)

TASKS: Mapping[str, Task] = {
    "horse2zebra": Task(
        direction="horses to zebras",
        scores=_of_animals("zebra", "testB"),
        classes=(ZEBRA,),
        masks="masksA",
        data=_HORSES,
        data_licence=_IMAGENET,
        limits=(
            _ANIMALS,
            "It knows nothing else: people, saddles and fences may get stripes too.",
            _LARGE,
            _CLASSIFIER.replace("{wanted}", "zebra"),
        ),
        released="GAN Compression's released generator",  # 0.357 M parameters
        released_scores={TOP1: 61.7, FRECHET: 2272.0},
    ),
    "zebra2horse": Task(
        direction="zebras to horses",
        way="BtoA",
        scores=_of_animals("horse (sorrel)", "testA"),
        classes=(HORSE,),
        masks="masksB",
        data=_HORSES,
        data_licence=_IMAGENET,
        limits=(
            _ANIMALS,
            "It knows nothing else, and ImageNet's one class of horses is the brown sorrel.",
            _LARGE,
            _CLASSIFIER.replace("{wanted}", "horse"),
        ),
    ),
    "facades": Task(
        direction="label maps of facades to photographs",
        way="BtoA",
        scores=_FACADES,
        data=f"{_CMP}, in pairs",
        data_licence=None,
        limits=_LABELS,
    ),
    "facades-unpaired": Task(
        direction="label maps of facades to photographs",
        way="BtoA",
        scores=_FACADES,
        data=f"{_CMP}, not in pairs",
        data_licence=None,
        limits=(*_LABELS, "It was never told which photograph belongs to which label map."),
    ),
}


def protocol_of(name: str, task: Task) -> str:
    """Of a score, for the card: the protocol before its name, or how else it is measured."""
    if name in MEASURED:
        return MEASURED[name].format(masks=task.masks)
    return name.rpartition("/")[0]


def worse_than(scores: Mapping[str, float], other: Mapping[str, float]) -> list[str]:
    """In which of the scores that decide a model is worse than another. One that it lacks counts
    as worse.
    """
    return [n for n in COMPARED if n in other and _is_worse(n, scores.get(n), other[n])]


def _is_worse(name: str, value: float | None, other: float) -> bool:
    if value is None:
        return True
    return value < other if name in BETTER_IF_MORE else value > other
