"""OMGD and DCD: the student's losses, and whole steps of teachers, discriminators and student."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch

from goldens.fixtures import Golden, assert_close_to_maximum, golden_files
from patchkin.compression import OnlineDistillation, OnlineDistillationConfig
from patchkin.compression.imitation import (
    ImitationConfig,
    feature_terms,
    image_terms,
    summed_over_taps,
)
from patchkin.data.datasets import UnpairedBatch
from patchkin.data.paired import PairedBatch
from patchkin.losses.imitation import gram_matrices, image_similarities
from patchkin.method import Progress
from patchkin.networks import PatchGANConfig
from patchkin.networks.adaptors import NormedAdaptors
from patchkin.networks.separable import channels_of, format_channels
from patchkin.schedules import AdamConfig
from patchkin.training import Updater
from support import FixedDraws, cpu_fabric

BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def expect_loss(actual, expected, dtype, name=""):
    relative = 1e-6 if dtype is torch.float64 else 1e-4
    actual = float(torch.as_tensor(actual).detach())
    assert actual == pytest.approx(float(expected), rel=relative), name


def expect_array(actual, expected, dtype, *, double=1e-6):
    actual = actual.detach()
    if expected.abs().max() < 1e-8:
        assert actual.abs().max() < (1e-8 if dtype is torch.float64 else 1e-5)
        return
    assert_close_to_maximum(actual, expected, relative=double if dtype is torch.float64 else 1e-3)


def fill_vgg(network, golden, prefix, dtype):
    """The file's VGG16, which is narrow."""
    weights = golden.tensors(prefix, dtype)
    places = sorted({int(name.split(".")[1]) for name in weights})
    pairs = [(weights[f"features.{i}.weight"], weights[f"features.{i}.bias"]) for i in places]
    network._shapes = [tuple(weight.shape) for weight, _ in pairs]
    network.to(dtype)
    network._fill(pairs)


def loss_config(case):
    """The student's loss of a file or a case; zeros where it has no such term."""
    names = ("similarity", "ssim"), ("style", "style"), ("feature", "feature"), ("variation", "tv")
    weights = {f"{own}_weight": float(case.get(f"lambda_{theirs}", 0.0)) for own, theirs in names}
    return {**weights, "features": "vgg16"}


def cases_of(kind):
    found = []
    for param in golden_files("omgd_losses"):
        path = param.values[0]
        listed = Golden(path).options["cases"] if path is not None else [{"id": "", "kind": kind}]
        found += [
            pytest.param(path, case, id=f"{param.id}-{case['id']}", marks=param.marks)
            for case in listed
            if case["kind"] == kind
        ]
    return found


@BOTH
@pytest.mark.parametrize(("path", "case"), cases_of("ssim"))
def test_similarity_of_images(path, case, dtype):
    golden, name = Golden(path), case["id"]
    x, y = (golden.tensor(f"{name}/{image}", dtype) for image in "xy")
    x.requires_grad_()
    similarities = image_similarities(x, y)
    expect_loss(similarities.mean(), golden.number(f"{name}/value"), dtype)
    for actual, expected in zip(similarities, golden.tensor(f"{name}/per_image"), strict=True):
        expect_loss(actual, expected, dtype)
    (gradient,) = torch.autograd.grad(similarities.mean(), x)
    expect_array(gradient, golden.tensor(f"{name}/grad_x"), dtype, double=5e-6)


@BOTH
@pytest.mark.parametrize(("path", "case"), cases_of("student"))
def test_the_whole_loss_of_a_student(path, case, dtype):
    golden, name = Golden(path), case["id"]
    config = ImitationConfig(**loss_config(case))
    vgg = config.vgg()
    fill_vgg(vgg, golden, f"{name}/vgg", dtype)
    student = golden.tensor(f"{name}/student", dtype).requires_grad_()
    own = vgg(student)
    for tap in (1, 3):
        expect_array(own[tap], golden.tensor(f"{name}/vgg_tap{tap}"), dtype)
    for tap in range(4):
        expect_array(gram_matrices(own[tap]), golden.tensor(f"{name}/gram{tap}"), dtype)
    total = torch.zeros((), dtype=dtype)
    for number in range(case["teachers"]):
        teacher = golden.tensor(f"{name}/teacher{number}", dtype)
        terms = image_terms(config, student, teacher)
        terms |= feature_terms(config, own, vgg(teacher))
        released = {"similarity": "SSIM", "style": "style", "feature": "feature", "variation": "tv"}
        assert set(terms) == set(released)
        for term, value in terms.items():
            expect_loss(value, golden.number(f"{name}/loss_{released[term]}{number}"), dtype, term)
            total = total + value
    receivers = {"grad_student": student}
    if case["lambda_cd"]:
        adaptors, distance, maps = channel_term(golden, name, dtype)
        weighted = case["lambda_cd"] * distance
        expect_loss(weighted, golden.number(f"{name}/loss_CD"), dtype)
        total = total + weighted
        for tap, map_BCHW in enumerate(maps):
            receivers[f"grad_S{tap}"] = map_BCHW
            for key, weight in adaptors.convs[tap].named_parameters():
                receivers[f"grad_A{tap}/{key}"] = weight
    expect_loss(total, golden.number(f"{name}/loss_total"), dtype)
    gradients = torch.autograd.grad(total, list(receivers.values()))
    for receiver, gradient in zip(receivers, gradients, strict=True):
        expect_array(gradient, golden.tensor(f"{name}/{receiver}"), dtype)
    if case["lambda_cd"]:
        for tap, conv in enumerate(adaptors.convs):
            for kind in ("mean", "var"):
                after = golden.tensor(f"{name}/after_A{tap}/1.running_{kind}")
                expect_array(conv.get_buffer(f"1.running_{kind}"), after, dtype)


def channel_term(golden, name, dtype):
    count = sum(bool(re.fullmatch(r"T\d+", child)) for child in golden.children(name))
    theirs = [golden.tensor(f"{name}/T{tap}", dtype) for tap in range(count)]
    maps = [golden.tensor(f"{name}/S{tap}", dtype).requires_grad_() for tap in range(count)]
    adaptors = NormedAdaptors([m.shape[1] for m in maps], [m.shape[1] for m in theirs]).to(dtype)
    for tap, conv in enumerate(adaptors.convs):
        weights = golden.tensors(f"{name}/A{tap}", dtype)
        conv.load_state_dict(weights | {"1.num_batches_tracked": torch.tensor(0)})
    return adaptors.train(), summed_over_taps("channels", adaptors(maps), theirs), maps


# Whole steps


NETWORKS = {
    "student": "G",
    "teacher_w": "T",
    "teacher_d": "T_deep",
    "teacher_A": "T",
    "teacher_B": "T_back",
    "teacher": "T",
    "D": "D",
    "D_A": "D_B",  # released, discriminators are named after the generator that they judge
    "D_B": "D_A",
}


def own_name(reference, *, taps=(), paired=True):
    """`net_A0/1.weight` is `A.convs.0.1.weight`; `taps` of DCD's adapters are in another order."""
    network, key = reference.removeprefix("net_").split("/", 1)
    match = re.fullmatch(r"([ATS])(\d+)", network)
    if match:
        place = taps[int(match[2])] if taps else int(match[2])
        own = {"A": "A", "T": "P", "S": "S"}[match[1]]
        return f"{own}.convs.{place}.{key}"
    if network == "D" and not paired:
        return f"D_B.{key}"
    return f"{NETWORKS[network]}.{key}"


def method_from(golden, config, dtype, *, taps=()):
    """The method with the weights of a file."""
    torch.manual_seed(0)
    method = OnlineDistillation(config).to(dtype)
    state, found = method.state_dict(), set()
    for network in golden.children():
        if not network.startswith("net_"):
            continue
        for key, weight in golden.state_dict(network, dtype).items():
            name = own_name(f"{network}/{key}", taps=taps, paired=config.paired)
            unused = re.match(r"D\.block(\d)s\.0\.", name)
            if unused and int(unused[1]) <= config.shared_blocks:
                continue  # released, it is there and never used
            assert name in state, f"{network}/{key} has no place"
            state[name] = weight
            found.add(name.split(".")[0])
    method.load_state_dict(state)
    assert found >= set(method.adam()) - ({"T_back", "D_A"} if taps else set())
    if hasattr(method, "vgg"):
        fill_vgg(method.vgg, golden, "vgg", dtype)
    return method.train()


def step_config(golden):
    options = golden.options
    unet = options["student_netG"].startswith("unet")
    adam = AdamConfig(learning_rate=options["lr"], beta1=options["beta1"])
    paired = options["form"] == "paired"
    judge = "D" if paired else "D_A"
    first = "block1s.1.block.0.weight" if paired else "model.0.weight"
    config = OnlineDistillationConfig(
        **loss_config(options),
        channel_weight=options["lambda_CD"],
        vgg_weights="narrow",
        paired=paired,
        architecture="unet" if unet else "separable",
        levels=int(math.log2(int(options["student_netG"].split("_")[1]))) if unet else 8,
        student_ngf=options["student_ngf"],
        student_channels=""
        if unet
        else format_channels(channels_of(golden.state_dict("net_student"))),
        wider_ngf=options["teacher_ngf_w" if paired else "teacher_ngf"],
        deeper_ngf=options["teacher_ngf_d"] if paired else 0,
        norm=options["norm"],
        discriminator=PatchGANConfig(
            in_channels=golden[f"net_{judge}/{first}"].shape[1],
            ndf=options["ndf"],
            norm=options["norm"],
            antialias=False,
        ),
        shared_blocks=options["n_share"],
        generator_adam=adam,
        teacher_adam=adam,
        discriminator_adam=adam,
        adversarial=options["gan_mode"],
        reconstruction_weight=options["lambda_recon"],
        student_steps=options["n_dis"],
        block=options["steps"],
    )
    if paired:
        return replace(config, teacher_adversarial_weight=options["lambda_gan"])
    return replace(
        config,
        student_steps=1,
        cycle_weight_a=options["lambda_A"],
        cycle_weight_b=options["lambda_B"],
        identity_weight=options["lambda_identity"],
        pool=replace(config.pool, capacity=options["pool_size"], side=64),
    )


class Recorder(Updater):
    """Remembers the gradients and the terms of every update."""

    def __init__(self, method):
        super().__init__(method, cpu_fabric())
        self.method = method
        self.gradients = {}
        self.first = True

    def _step(self, optimizers, parameters):
        if self.first:
            self.gradients |= {
                name: weight.grad.norm()
                for name, weight in self.method.named_parameters()
                if weight.grad is not None
                and any(weight is own for group in parameters for own in group)
            }
        super()._step(optimizers, parameters)


def steps_of(method, golden, count, update, *, records=(0,), dtype):
    """Terms of every step."""
    seen = []
    for step in range(count):
        image = step % int(golden.options.get("steps", count))
        a_BCHW = golden.tensor(f"real_A{image}", dtype)
        b_BCHW = golden.tensor(f"real_B{image}", dtype) if f"real_B{image}" in golden else a_BCHW
        batch = (PairedBatch if method.config.paired else UnpairedBatch)(a_BCHW, b_BCHW)
        update.begin_step(1.0)
        update.first = step in records
        progress = Progress(
            step=step, total_steps=99, epoch=1, total_epochs=None, draws=FixedDraws()
        )
        method.train_step(batch, update, progress)
        seen.append({re.sub(r".*\.", "", n): float(v) for n, v in update.terms.items()})
    return seen


def expect_gradients(update, golden, prefix, dtype, **naming):
    names = golden[f"{prefix}gradnorm_names"].tolist()
    assert names
    for name, expected in zip(names, golden[f"{prefix}gradnorm"].tolist(), strict=True):
        actual = float(update.gradients[own_name(name, **naming)])
        relative = 1e-6 if dtype is torch.float64 else 1e-2
        assert actual == pytest.approx(expected, rel=relative), name


def expect_weights(method, golden, prefix, dtype, *, tolerance, **naming):
    state = method.state_dict()
    for network in golden.children(f"{prefix}after"):
        for key, expected in golden.tensors(f"{prefix}after/{network}").items():
            actual = state[own_name(f"{network}/{key}", **naming)].double()
            close = 1e-6 if dtype is torch.float64 else tolerance
            torch.testing.assert_close(actual, expected, rtol=0, atol=close, msg=f"{network}/{key}")


PAIRED_TERMS = {
    "D_fake_w": {"fake": 2.0},
    "D_real_w": {"real": 2.0},
    "D_fake_d": {"fake_deeper": 2.0},
    "D_real_d": {"real_deeper": 2.0},
    "D": dict.fromkeys(("fake", "real", "fake_deeper", "real_deeper"), 1.0),
    "G_gan_w": {"adversarial": 1.0},
    "G_recon_w": {"reconstruction": 1.0},
    "G_gan_d": {"adversarial_deeper": 1.0},
    "G_recon_d": {"reconstruction_deeper": 1.0},
    "G_SSIM": {"similarity_deeper": 1.0},
    "G_style": {"style_deeper": 1.0},
    "G_feature": {"feature_deeper": 1.0},
    "G_tv": {"variation_deeper": 1.0},
    "G_CD": {"channels": 1.0},
}
IMAGE_TERMS = ("similarity", "style", "feature", "variation")
PAIRED_TERMS["G_student"] = dict.fromkeys(
    [*IMAGE_TERMS, *(f"{term}_deeper" for term in IMAGE_TERMS), "channels"], 1.0
)
UNPAIRED_TERMS = {
    "D_A": {"fake_B": 1.0, "real_B": 1.0},
    "D_B": {"fake_A": 1.0, "real_A": 1.0},
    "G_A": {"adversarial_B": 1.0},
    "G_B": {"adversarial_A": 1.0},
    "G_cycle_A": {"cycle_A": 1.0},
    "G_cycle_B": {"cycle_B": 1.0},
    "G_idt_A": {"identity_B": 1.0},
    "G_idt_B": {"identity_A": 1.0},
    "G_SSIM": {"similarity": 1.0},
    "G_style": {"style": 1.0},
    "G_feature": {"feature": 1.0},
    "G_tv": {"variation": 1.0},
    "G_CD": {"channels": 1.0},
    "G_student": dict.fromkeys([*IMAGE_TERMS, "channels"], 1.0),
}
DCD_TERMS = {
    "G_style": {"style": 1.0},
    "G_feature": {"feature": 1.0},
    "G_gan": {"adversarial": 1.0},
    "G_CD": {"discriminator": 1.0},
    "G_student": dict.fromkeys(["style", "feature", "adversarial", "discriminator"], 1.0),
}


def expect_terms(seen, golden, prefix, table, dtype):
    for name, expected in golden.tensors(f"{prefix}loss").items():
        for step, value in enumerate(expected.tolist()):
            parts = table[name].items()
            actual = sum(weight * seen[step].get(term, 0.0) for term, weight in parts)
            expect_loss(actual, value, dtype, f"{name} of step {step}")


@pytest.mark.parametrize("path", golden_files("omgd_step_paired"))
def test_steps_with_pairs(path):
    """In float64 only: its deeper teacher is one channel wide and chaotic."""
    golden, dtype = Golden(path), torch.float64
    config, count = step_config(golden), int(golden.options["steps"])
    method = method_from(golden, config, dtype)
    images = {}
    for own, name in (("G", "student"), ("T", "teacher_w"), ("T_deep", "teacher_d")):
        network = method.get_submodule(own)
        keep_last(network, images, name)
    update = Recorder(method)
    seen = steps_of(method, golden, count, update, records=(config.student_steps - 1,), dtype=dtype)
    expect_terms(seen, golden, "", PAIRED_TERMS, dtype)
    for name, image_BCHW in images.items():
        expect_array(image_BCHW, golden.tensor(f"fake_{name}{count - 1}"), dtype)
    expect_gradients(update, golden, "", dtype)
    expect_weights(method, golden, "", dtype, tolerance=0)


def keep_last(network, images, name):
    """What a generator made last."""
    forward = getattr(network, "forward_with_taps", None)
    if forward is None:
        network.register_forward_hook(lambda _, inputs, output: images.update({name: output}))
        return

    def kept(x_BCHW, *options):
        image_BCHW, maps = forward(x_BCHW, *options)
        images[name] = image_BCHW
        return image_BCHW, maps

    network.forward_with_taps = kept


@BOTH
@pytest.mark.parametrize("path", golden_files("omgd_step_unpaired"))
def test_steps_without_pairs(path, dtype):
    golden = Golden(path)
    config, count = step_config(golden), int(golden.options["steps"])
    method = method_from(golden, config, dtype)
    images = {}
    keep_last(method.T, images, "B")
    keep_last(method.G, images, "student")
    update = Recorder(method)
    teaching = steps_of(method, golden, count, update, dtype=dtype)
    expect_array(images["B"], golden.tensor(f"fake_B{count - 1}"), dtype)
    both = steps_of_student(method, golden, count, update, dtype)
    seen = [{**first, **second} for first, second in zip(teaching, both, strict=True)]
    expect_terms(seen, golden, "", UNPAIRED_TERMS, dtype)
    expect_array(images["student"], golden.tensor(f"fake_student{count - 1}"), dtype)
    expect_gradients(update, golden, "", dtype)
    tolerance = 2.1 * golden.options["lr"] * count
    expect_weights(method, golden, "", dtype, tolerance=tolerance)


def steps_of_student(method, golden, count, update, dtype):
    """The second block of a run: the student's."""
    method.config = replace(method.config, block=1, student_steps=count + 1)
    seen = []
    for step in range(count):
        a_BCHW = golden.tensor(f"real_A{step}", dtype)
        update.begin_step(1.0)
        update.first = step == 0
        progress = Progress(
            step=1 + step, total_steps=99, epoch=1, total_epochs=None, draws=FixedDraws()
        )
        assert method.turns(progress) == (False, True)
        method.train_step(UnpairedBatch(a_BCHW, a_BCHW), update, progress)
        seen.append({re.sub(r".*\.", "", n): float(v) for n, v in update.terms.items()})
    return seen


def dcd_cases():
    found = []
    for param in golden_files("omgd_dcd"):
        path = param.values[0]
        listed = Golden(path).options["cases"] if path is not None else [{"id": ""}]
        found += [
            pytest.param(path, case, id=f"{param.id}-{case['id']}", marks=param.marks)
            for case in listed
        ]
    return found


@BOTH
@pytest.mark.parametrize(("path", "case"), dcd_cases())
def test_steps_of_dcd(path, case, dtype):
    golden, prefix = Golden(path), f"{case['id']}/"
    options = golden.options
    order = [int(str(tap).rpartition(".")[2]) for tap in golden[f"{prefix}order"]]
    taps = [(9, 12, 15, 18).index(tap) for tap in order]
    adam = AdamConfig(learning_rate=case["lr"], beta1=options["beta1"])
    config = OnlineDistillationConfig(
        similarity_weight=0.0,
        style_weight=case["lambda_style"],
        feature_weight=case["lambda_feature"],
        variation_weight=0.0,
        channel_weight=0.0,
        discriminator_weight=case["lambda_cd"],
        adversarial_weight=1.0,
        adversarial_on=case["gan_on"],
        features="vgg16",
        student_ngf=options["student_ngf"],
        wider_ngf=options["teacher_ngf"],
        discriminator=PatchGANConfig(ndf=options["ndf"], antialias=False),
        generator_adam=adam,
        adversarial=case["gan_mode"],
        block=1,
        student_steps=99,
    )
    method = method_from(golden, config, dtype, taps=taps)
    update, count = Recorder(method), int(case["steps"])
    made = {"S": [], "P": []}
    for name, images in made.items():
        method.get_submodule(name).register_forward_hook(
            lambda _, inputs, output, images=images: images.append(output)
        )
    seen = steps_of_student(method, golden, count, update, dtype)
    expect_terms(seen, golden, prefix, DCD_TERMS, dtype)
    for step in range(count):
        pairs = zip(made["S"][step], made["P"][step], strict=True)
        with torch.no_grad():
            parts = [(method._last_map(s) - method._last_map(p)).abs().mean() for s, p in pairs]
        parts = [parts[place] for place in taps]
        for actual, expected in zip(
            parts, golden.tensor(f"{prefix}loss_CD_parts{step}"), strict=True
        ):
            expect_loss(actual, expected, dtype)
    if case == options["cases"][0]:
        for adapter in (0, 3):
            for name, own in (("T", "P"), ("S", "S")):
                expected = golden.tensor(f"image_{name}{adapter}")
                expect_array(made[own][0][taps[adapter]], expected, dtype)
        expect_array(method._last_map(made["P"][0][taps[0]]), golden.tensor("D_T0"), dtype)
    naming = {"taps": taps, "paired": False}
    expect_gradients(update, golden, prefix, dtype, **naming)
    expect_weights(method, golden, prefix, dtype, tolerance=2.1 * case["lr"] * count, **naming)
