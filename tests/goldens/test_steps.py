"""Whole optimisation steps of the released CUT, FastCUT and semantic relation, replayed.

Everything is read from the file: networks and sizes from the shapes of their weights, options,
images, and the places and flips that were drawn.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from goldens.errors import note, note_most
from goldens.fixtures import golden_files, zero_gradient_biases
from patchkin.data.datasets import UnpairedBatch
from patchkin.method import Method, Progress
from patchkin.methods.cut import Cut, CutConfig
from patchkin.methods.semantic_relation import SemanticRelation, SemanticRelationConfig
from patchkin.networks import PatchGANConfig, ResNetConfig, match_channels
from patchkin.schedules import AdamConfig
from patchkin.training import Updater
from support import FixedDraws, cpu_fabric

MODES = {"lsgan": "lsgan", "vanilla": "vanilla", "nonsaturating": "nonsaturating", "wgangp": "wgan"}
NETWORKS = ("G", "D", "F")


@dataclass
class Played:
    """What our code did with the inputs of a file."""

    method: Method
    terms: list[dict[str, float]] = field(default_factory=list)
    """Per step."""
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)
    """After each step."""
    images: list[dict[str, Tensor]] = field(default_factory=list)
    """Outputs of G before each step."""
    rows: list[dict[str, Tensor]] = field(default_factory=list)
    """Embedded patches before each step, [taps, B K, C]."""


def upstream_name(network: str, ours: str) -> str:
    """A parameter's name in the released code."""
    return re.sub(r"^mlps\.(\d+)\.", r"mlp_\1.", ours) if network == "F" else ours


def load(method: Method, archive, prefix: str) -> None:
    """Weights of the file into our networks; fixed blur filters are ours."""
    for network in NETWORKS:
        module = method.get_submodule(network)
        state = {}
        for ours, value in module.state_dict().items():
            key = f"{prefix}net{network}/{upstream_name(network, ours)}"
            if key not in archive.files and ours.endswith("num_batches_tracked"):
                state[ours] = value  # a counter of batch norm that takes no part in a step
                continue
            state[ours] = torch.from_numpy(archive[key]).to(value.dtype)
        module.load_state_dict(state, strict=True)
        names = {n for n in archive.files if n.startswith(f"{prefix}net{network}/")}
        known = {f"{prefix}net{network}/{upstream_name(network, n)}" for n in state}
        left = {n for n in names - known if not n.endswith((".filt", ".kernel"))}
        assert not left, f"not understood: {sorted(left)}"


def network_configs(archive, prefix: str, options: dict) -> dict:
    """Generator and discriminator as the options say; widths and counts from the weights."""
    weights = {n: archive[n].shape for n in archive.files if n.startswith(f"{prefix}net")}
    blocks = {n.split("/")[-1].split(".")[1] for n in weights if ".conv_block." in n}
    first = weights[f"{prefix}netG/model.1.weight"]
    last = [s for n, s in weights.items() if "netG/model" in n and n.endswith("weight")
            and len(s) == 4 and s[2] == 7][-1]  # fmt: skip
    pixel = f"{prefix}netD/net.0.weight" in weights
    convolutions = [n for n in weights if "/netD/" in n or n.startswith("netD/")]
    num_convolutions = len([n for n in convolutions if len(weights[n]) == 4 and "filt" not in n])
    first_d = weights[f"{prefix}netD/{'net' if pixel else 'model'}.0.weight"]
    plain = bool(options["no_antialias"])
    return {
        "generator": ResNetConfig(
            in_channels=first[1],
            out_channels=last[0],
            ngf=first[0],
            blocks=len(blocks),
            norm=options["normG"],
            antialias_down=not plain,
            antialias_up=not options["no_antialias_up"],
        ),
        "discriminator": PatchGANConfig(
            in_channels=first_d[1],
            ndf=first_d[0],
            layers=num_convolutions - 2 if not pixel else 3,
            norm=options["normD"],
            antialias=not plain,
            kind="pixel" if pixel else "basic",
        ),
        "head_width": int(options["netF_nc"]),
        "num_patches": int(options["num_patches"]),
        "temperature": float(options["nce_T"]),
        "adversarial": MODES[options["gan_mode"]],
        "adversarial_weight": float(options["lambda_GAN"]),
        "all_negatives": bool(options["nce_includes_all_negatives_from_minibatch"]),
        "generator_adam": (adam := AdamConfig(
            learning_rate=float(options["lr"]),
            beta1=float(options["beta1"]),
            beta2=float(options["beta2"]),
        )),
        "discriminator_adam": adam,
    }  # fmt: skip


def play(method: Method, batches, draws, progress) -> Played:
    """Every step of a file."""
    played = Played(method)
    update = Updater(method, cpu_fabric())
    for step, batch in enumerate(batches):
        update.begin_step(1.0)
        method.train_step(batch, update, progress(step, draws))
        played.terms.append({name: float(value) for name, value in update.terms.items()})
        played.gradients.append(
            {n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}
        )
        played.weights.append({n: t.clone() for n, t in method.state_dict().items()})
    return played


# CUT and FastCUT


def companion_of(path: Path) -> Path:
    """The file with options and inputs; `_final` files hold only expected values."""
    with np.load(path) as archive:
        if "options" in archive.files:
            return path
    base = path.with_name(path.name.replace("_final", "", 1))
    assert base != path, f"{path.name} has no options"
    assert base.is_file(), f"{path.name} has no base file"
    return base


@cache
def play_cut(base: Path) -> tuple[Played, dict]:
    archive = np.load(base)
    options = json.loads(str(archive["options"]))
    resolved = options["resolved"]
    config = CutConfig(
        **network_configs(archive, "init/", resolved),
        taps=tuple(options["nce_layers"]),
        contrast_weight=float(resolved["lambda_NCE"]),
        identity=bool(resolved["nce_idt"]),
        flip_equivariance=bool(resolved["flip_equivariance"]),
    )
    method = Cut(config).double()
    load(method, archive, "init/")
    num_steps = len(archive["real_A"])
    branches = ("X", "Y") if config.identity else ("X",)
    places = [
        torch.from_numpy(archive[f"ids/{step}/{branch}/{tap}"])
        for step in range(num_steps)
        for branch in branches
        for tap in range(len(config.taps))
    ]
    coins = archive["flip"].astype(bool).tolist() if "flip" in archive.files else []
    real = [
        UnpairedBatch(*(torch.from_numpy(archive[f"real_{d}"][step]).double() for d in "AB"))
        for step in range(num_steps)
    ]
    first_input = real[0].a_BCHW.flip(-1) if coins and coins[0] else real[0].a_BCHW
    with torch.no_grad():
        fake = method.G(first_input)
        identity = method.G(real[0].b_BCHW) if config.identity else None
    played = play(
        method,
        real,
        FixedDraws(places, coins),
        lambda step, draws: Progress.of_step(step, total_steps=num_steps, draws=draws),
    )
    played.images.append({"fake_B": fake, "idt_B": identity})
    return played, {"options": options, "config": config, "archive": archive}


def released_losses(terms: dict[str, float], config: CutConfig) -> dict[str, float]:
    """Our terms under the names and conventions of the released log."""
    share = 0.5 if config.identity else 1.0
    generator = [value for name, value in terms.items() if name.startswith("G+F.")]
    losses = {
        "G_GAN": terms["G+F.adversarial"],
        "D_real": 2 * terms["D.real"],
        "D_fake": 2 * terms["D.fake"],
        "G": sum(generator),
        "NCE": terms.get("G+F.nce", 0.0) / share,
    }
    if config.identity:
        losses["NCE_Y"] = terms["G+F.identity_nce"] / share
    return losses


def skipped_biases(method: Method) -> set[str]:
    """Biases whose true gradient is zero: instance norm takes them out again."""
    taps = {"G": method.config.taps, "D": (), "F": ()}
    return {
        f"{network}.{name}"
        for network in NETWORKS
        for name in zero_gradient_biases(method.get_submodule(network), taps[network])
    }


def expected_tensors(archive, prefix: str, method: Method) -> dict[str, Tensor]:
    """Tensors of the file under our names."""
    tensors = {}
    for network in NETWORKS:
        for ours, parameter in method.get_submodule(network).named_parameters():
            key = f"{prefix}net{network}/{upstream_name(network, ours)}"
            assert key in archive.files, key
            tensors[f"{network}.{ours}"] = torch.from_numpy(archive[key]).double()
            assert tensors[f"{network}.{ours}"].shape == parameter.shape
    return tensors


def check_adam_weights(ours, expected, skip, *, rate: float, steps: int, close: float) -> None:
    """At least 99.9 % of the entries are close, and none is beyond what Adam can move."""
    near = total = 0
    differences = []
    for name, value in expected.items():
        if name in skip:
            continue
        difference = (ours[name] - value).abs()
        assert float(difference.max()) <= 2.1 * rate * steps, name
        near += int((difference <= close).sum())
        total += difference.numel()
        differences.append(difference.flatten())
    note_most(torch.cat(differences), share=0.999, allowed=close)
    assert near >= 0.999 * total, f"{total - near} of {total} weights differ by more than {close}"


@pytest.mark.parametrize("path", golden_files("cut_step_cut", "cut_step_fastcut"))
def test_cut_step(path):
    played, facts = play_cut(companion_of(path))
    config, skip = facts["config"], skipped_biases(played.method)
    rate = config.generator_adam.learning_rate
    archive = np.load(path)
    understood = 0
    if "losses" in archive.files:
        names = facts["options"]["loss_names"]
        for step, row in enumerate(archive["losses"]):
            ours = released_losses(played.terms[step], config)
            assert set(names) == set(ours)
            for name, value in zip(names, row, strict=True):
                tolerance = 1e-5 if step == 0 else 1e-3
                assert ours[name] == pytest.approx(value, rel=tolerance), (step, name)
        understood += 1
    for image in ("fake_B", "idt_B"):
        if f"{image}_step1" in archive.files:
            expected = torch.from_numpy(archive[f"{image}_step1"]).double()
            torch.testing.assert_close(played.images[0][image], expected, rtol=0, atol=5e-5)
            understood += 1
    if any(name.startswith("grad1/") for name in archive.files):
        expected = expected_tensors(archive, "grad1/", played.method)
        floor = {
            n: 1e-5 * max(float(g.abs().max()) for k, g in expected.items() if k.startswith(n))
            for n in NETWORKS
        }
        for name, gradient in expected.items():
            error = (played.gradients[0][name] - gradient).norm()
            small = float(gradient.abs().max()) <= floor[name[0]]
            if not small:
                note(error, 0.0, atol=max(1e-3 * float(gradient.norm()), floor[name[0]]))
            assert error <= max(1e-3 * gradient.norm(), floor[name[0]]) or small, name
        understood += 1
    for name in {n.split("/")[0] for n in archive.files if n.startswith("after")}:
        steps = int(name.removeprefix("after"))
        expected = expected_tensors(archive, f"{name}/", played.method)
        check_adam_weights(
            played.weights[steps - 1], expected, skip, rate=rate, steps=steps, close=1e-5
        )
        understood += 1
    assert understood, "the file holds nothing that this test understands"


# Semantic relation


@cache
def play_relation(path: Path) -> tuple[Played, dict]:
    archive = np.load(path)
    options = {n.removeprefix("opt/"): archive[n].item() for n in archive.files
               if n.startswith("opt/") and archive[n].ndim == 0}  # fmt: skip
    total_epochs = options["n_epochs"] + options["n_epochs_decay"]
    curriculum, step_gamma = options["use_curriculum"], options["step_gamma"]
    config = SemanticRelationConfig(
        **network_configs(archive, "", options),
        taps=tuple(int(tap) for tap in options["nce_layers"].split(",")),
        relation_weight=float(options["lambda_SRC"]),
        contrast_weight=float(options["lambda_HDCE"]),
        identity=bool(options["dce_idt"]),
        hard_negatives=not options["no_Hneg"],
        gamma_divisor_start=float(options["HDCE_gamma"]),
        gamma_divisor_end=float(options["HDCE_gamma_min" if curriculum else "HDCE_gamma"]),
        gamma_divisor_late=1.0 if curriculum and step_gamma else None,
        gamma_late_from=options["step_gamma_epoch"] / total_epochs,
    )
    method = SemanticRelation(config).double()
    load(method, archive, "")
    num_steps = len({n.split("/")[0] for n in archive.files if re.match(r"step\d+/", n)})
    batches = [
        UnpairedBatch(*(torch.from_numpy(archive[f"step{s}/real_{d}"]).double() for d in "AB"))
        for s in range(1, num_steps + 1)
    ]
    ids = [torch.from_numpy(archive[f"step{s}/patch_ids"]).long() for s in range(1, num_steps + 1)]
    before = copy_of_outputs(method, batches, ids)
    played = play(
        method,
        batches,
        FixedDraws([row for step in ids for row in step]),
        lambda step, draws: Progress(
            step=step,
            total_steps=num_steps,
            epoch=options["EPOCH"],
            total_epochs=total_epochs,
            draws=draws,
        ),
    )
    played.images, played.rows = before
    progress = Progress(
        step=0, total_steps=1, epoch=options["EPOCH"], total_epochs=total_epochs, draws=FixedDraws()
    )
    if "gamma_effective" in options:
        assert method.gamma_divisor(progress) == pytest.approx(
            options["gamma_effective"], rel=1e-12
        )
    return played, {"options": options, "config": config, "archive": archive, "steps": num_steps}


def copy_of_outputs(method, batches, ids):
    """Wrap `train_step` so that outputs and rows are computed with the weights before each step."""
    images, rows = [], []
    train_step = method.train_step

    def watching(batch, update, progress):
        places = list(ids[len(images)])
        with torch.no_grad():
            pictures = {"real_A": batch.a_BCHW, "real_B": batch.b_BCHW}
            pictures["fake_B"] = method.G(batch.a_BCHW)
            pictures["idt_B"] = method.G(match_channels(batch.b_BCHW, method.channels[0]))
            images.append(pictures)
            rows.append({
                name: torch.stack([
                    row.flatten(0, 1)
                    for row in method.F(method.G.encode(image, method.config.taps), places)
                ])
                for name, image in pictures.items()
            })  # fmt: skip
        train_step(batch, update, progress)

    object.__setattr__(method, "train_step", watching)
    return images, rows


@pytest.mark.parametrize("path", golden_files("semrel_single_step"))
def test_semantic_relation_step(path):
    played, facts = play_relation(path)
    archive, config = facts["archive"], facts["config"]
    method = played.method
    for step in range(facts["steps"]):
        terms = played.terms[step]
        prefix = f"step{step + 1}/"
        contrast, identity = (
            terms.get("contrast_as_nce", 0.0),
            terms.get("identity_contrast_as_nce", 0.0),
        )
        relation = terms.get("G+F.relation", 0.0)
        hdce = (contrast + identity) / 2 if config.identity else contrast
        ours = {
            "G_GAN": terms["G+F.adversarial"],
            "D_real": 2 * terms["D.real"],
            "D_fake": 2 * terms["D.fake"],
            "D": terms["D.real"] + terms["D.fake"],
            "HDCE": contrast,
            "HDCE_Y": identity,
            "SRC": relation,
            "G": terms["G+F.adversarial"] + hdce + relation,
        }
        stored = {
            n.removeprefix(f"{prefix}loss_"): archive[n].item()
            for n in archive.files
            if n.startswith(f"{prefix}loss_") and not n.endswith("_f32")
        }
        assert stored
        for name, value in stored.items():
            assert ours[name] == pytest.approx(value, rel=1e-9, abs=1e-15), (step, name)
        for network in ("G", "F"):
            norm = torch.cat(
                [
                    g.flatten()
                    for n, g in played.gradients[step].items()
                    if n.startswith(f"{network}.")
                ]
            ).norm()
            key = f"{prefix}gradnorm_{network}"
            if key in archive.files:
                assert float(norm) == pytest.approx(archive[key].item(), rel=1e-8), (step, network)
        for name, rows in played.rows[step].items():
            if f"{prefix}pool_{name}" in archive.files:
                expected = torch.from_numpy(archive[f"{prefix}pool_{name}"]).double()
                torch.testing.assert_close(rows, expected, rtol=0, atol=1e-6)
        for name, image in played.images[step].items():
            if prefix + name in archive.files:
                expected = torch.from_numpy(archive[prefix + name]).double()
                torch.testing.assert_close(image, expected, rtol=0, atol=1e-6)
    after = expected_tensors(archive, "after/", method)
    for name, value in after.items():
        torch.testing.assert_close(played.weights[-1][name], value, rtol=0, atol=1e-7)
