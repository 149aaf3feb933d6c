"""Replays a step of the released supernet distillation, from either kind of file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from goldens.fixtures import Golden, discriminator_from, generator_from
from patchkin.compression.distillation import (
    Distillation,
    DistillationConfig,
    _View,
)
from patchkin.compression.teacher import TeacherConfig, teacher_taps
from patchkin.data.datasets import UnpairedBatch
from patchkin.data.paired import PairedBatch
from patchkin.method import Progress
from patchkin.networks import PatchGANConfig
from patchkin.networks.separable import expand, format_channels
from patchkin.networks.sliced import SlicedHead
from patchkin.schedules import AdamConfig
from patchkin.training import Updater
from support import FixedDraws, cpu_fabric

TERMS = {
    "D": {"D.fake": 1.0, "D.real": 1.0},
    "D_fake": {"D.fake": 2.0},
    "D_real": {"D.real": 2.0},
    "G_gan": {"G.adversarial": 1.0},
    "G_recon": {"G.reconstruction": 1.0},
    "G_distill": {"G.distillation": 1.0},
    "G_SRC": {"G.relation": 1.0},
    "G_DCE": {"contrast_as_nce": 1.0},
}
"""The released log's names -> our terms, weighted. It does not halve the two of D, and shows
hDCE as the InfoNCE of the same numbers."""
PER_TAP = {"G_distill": "distillation", "G_SRC": "relation", "G_DCE": "contrast_as_nce"}


@dataclass(frozen=True)
class Replay:
    """What our code did."""

    student: _View
    teacher: _View
    student_rows: list[Tensor]
    teacher_rows: list[Tensor]
    gamma_divisor: float
    terms: dict[str, float]
    gradients: dict[str, Tensor]


def own_names(arrays: Mapping[str, Any], *, student: str) -> dict[str, Any]:
    """`netX/key` of a file under our names."""
    renamed = {}
    for name, array in arrays.items():
        network, key = name.split("/", 1)
        if network == student:
            renamed[f"G.{key}"] = array
        elif network == "netD":
            renamed[f"D.{key}"] = array
        else:
            match = re.fullmatch(r"net([AF])(\d+)", network)
            assert match, f"unknown network {network}"
            layers = {"A": "A.convs", "F": "F.heads"}[match[1]]
            renamed[f"{layers}.{match[2]}.{key}"] = array
    return renamed


def distillation_from(golden: Golden, *, teacher: str, student: str) -> Distillation:
    """The method with the networks and options of a file, in float64."""
    options = golden.options
    taught = generator_from(golden.state_dict(teacher))
    judge = golden.state_dict("netD")
    channels = options.get("channels") or golden["config"].tolist()
    adam = AdamConfig(
        learning_rate=float(options.get("lr", 2e-4)),
        beta1=float(options.get("beta1", 0.5)),
        beta2=float(options.get("beta2", 0.999)),
    )
    first = golden.state_dict(student)["model.1.weight"]
    config = DistillationConfig(
        teacher=TeacherConfig(generator=taught.config),
        student_ngf=first.shape[0],
        space=format_channels(expand(channels)),
        paired=options["dataset_mode"] == "aligned",
        discriminator=PatchGANConfig(
            in_channels=judge["model.0.weight"].shape[1],
            ndf=judge["model.0.weight"].shape[0],
            layers=sum(weight.ndim == 4 for weight in judge.values()) - 2,
            antialias=False,
        ),
        generator_adam=adam,
        discriminator_adam=adam,
        adversarial=options["gan_mode"],
        adversarial_weight=float(options.get("lambda_gan", 1.0)),
        reconstruction=options.get("recon", "l1"),
        reconstruction_weight=float(options["lambda_recon"]),
        distillation_weight=float(options["lambda_distill"]),
        relation_weight=float(options["lambda_SRC"]),
        contrast_weight=float(options["lambda_dce"]),
        temperature=float(options["nce_T"]),
        # Released, weights are off without SRC too.
        hard_negatives=not options["no_hard"] and options["lambda_SRC"] > 0,
        gamma_divisor_start=float(options["gamma_start"]),
        gamma_divisor_end=float(options["gamma_min"]),
        num_patches=int(options.get("n_patch", 256)),
    )
    method = Distillation(config).double()
    method.T.load_state_dict(taught.state_dict())
    method.D.load_state_dict(discriminator_from(judge).state_dict())
    weights = {
        f"{network}/{key}": weight
        for network in golden.children()
        if network == student or re.fullmatch(r"net[AF]\d+", network)
        for key, weight in golden.state_dict(network).items()
    }
    own = {f"T.{key}": weight for key, weight in method.T.state_dict().items()}
    own |= {f"D.{key}": weight for key, weight in method.D.state_dict().items()}
    method.load_state_dict(own | own_names(weights, student=student))
    return method.train()


def seen_places(golden: Golden, name: str) -> list[Tensor]:
    """Places of every tap: one array with a row each, or an array each."""
    if name in golden:
        return list(golden.tensor(name))
    count = sum(bool(re.fullmatch(rf"{name}\d+", other)) for other in golden)
    assert count
    return [golden.tensor(f"{name}{tap}") for tap in range(count)]


def replayed(
    method: Distillation, golden: Golden, places: Sequence[Tensor], *, real_a: str, real_b: str
) -> Replay:
    """One step on the file's images."""
    options = golden.options
    images = golden.tensor(real_a), golden.tensor(real_b)
    batch = (PairedBatch if method.config.paired else UnpairedBatch)(*images)
    epochs = int(options["max_epoch"])
    progress = Progress(
        step=int(options["epoch"]) - 1,
        total_steps=epochs,
        epoch=int(options["epoch"]),
        total_epochs=epochs,
        draws=FixedDraws(places=places, integers=[0] * len(method.space.widths)),
    )
    rows: list[Tensor] = []
    for head in method.modules():
        if isinstance(head, SlicedHead):
            head.register_forward_hook(lambda _, inputs, output: rows.append(output.detach()))
    with torch.no_grad():
        student = _View(*method.G.forward_with_taps(images[0], method.space.largest))
        taps = teacher_taps(method.config.teacher.generator)
        teacher = _View(*method.T.forward_with_taps(images[0].clamp(-1, 1), taps))
    update = Updater(method, cpu_fabric())
    update.begin_step(1.0)
    method.train_step(batch, update, progress)
    num_taps = len(places)
    return Replay(
        student=student,
        teacher=teacher,
        teacher_rows=rows[:num_taps],
        student_rows=rows[num_taps:],
        gamma_divisor=method.gamma_divisor(progress),
        terms={re.sub(r"\+\w", "", name): float(value) for name, value in update.terms.items()},
        gradients={n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None},
    )


def assert_losses(
    terms: Mapping[str, float], golden: Golden, *, prefix: str, relative: float
) -> None:
    """Every `<prefix>*` of the file, under our names."""
    ours = {
        name: sum(weight * terms.get(term, 0.0) for term, weight in parts.items())
        for name, parts in TERMS.items()
    }
    ours["G"] = sum(ours[f"G_{part}"] for part in ("gan", "recon", "distill", "SRC", "DCE"))
    names = [name.removeprefix(prefix) for name in golden if name.startswith(prefix)]
    assert names
    for name in names:
        split = re.fullmatch(r"(\w+?)(\d+)", name)
        actual = ours[name] if split is None else terms.get(f"{PER_TAP[split[1]]}_{split[2]}", 0.0)
        expected = golden.number(f"{prefix}{name}")
        assert actual == pytest.approx(expected, rel=relative), name
