"""Teachers that learn beside the student: what every method must do, and what is theirs."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from patchkin.compression import OnlineDistillation, OnlineDistillationConfig
from patchkin.compression.imitation import ImitationConfig
from patchkin.config import from_plain, to_plain
from patchkin.data.datasets import UnpairedBatch
from patchkin.data.paired import PairedBatch
from patchkin.errors import ConfigError
from patchkin.losses.imitation import (
    channel_mean_distance,
    feature_distance,
    gram_distance,
    image_similarities,
)
from patchkin.method import Progress
from patchkin.networks import ImagePoolConfig, InitConfig, PatchGANConfig
from patchkin.randomness import SeededDraws
from patchkin.runs.small_models import alone
from patchkin.schedules import ScheduleConfig
from patchkin.storage.checkpoint import ModelHeader
from patchkin.training import TrainingConfig, Updater, fit
from patchkin.translation.translator import Translator
from support import ListData, cpu_fabric, random_batch

BASE = OnlineDistillationConfig(
    student_ngf=2,
    wider_ngf=3,
    discriminator=PatchGANConfig(ndf=2, antialias=False),
    initialization=InitConfig(gain=1.0),
    pool=ImagePoolConfig(side=100, capacity=3),
    channel_weight=5.0,
    student_steps=1,
    block=0,
)
PAIRED = replace(
    BASE,
    paired=True,
    deeper_ngf=2,
    adversarial="hinge",
    discriminator=PatchGANConfig(in_channels=6, ndf=2, antialias=False),
)
RANDOM = {"features": "random", "feature_width": 2}
UNET = replace(PAIRED, architecture="unet", levels=6, norm="batch", block=3)
DCD = replace(
    BASE, similarity_weight=0.0, variation_weight=0.0, channel_weight=0.0,
    discriminator_weight=1.0, adversarial_weight=1.0,
)  # fmt: skip

VARIANTS = {
    "unpaired": BASE,
    "paired": PAIRED,
    "unpaired-deeper": replace(BASE, deeper_ngf=2, features="encoder"),
    "blocks": replace(BASE, block=1, student_steps=2, **RANDOM),
    "fewer-teacher-steps": replace(PAIRED, student_steps=2, shared_blocks=2, **RANDOM),
    "paired-wider-only": replace(PAIRED, deeper_ngf=0, features="encoder"),
    "unet": UNET,
    "no-norm": replace(BASE, norm="none", student_channels="1_2_3_2_1_2_3_1"),
    "batch-norm": replace(BASE, norm="batch"),
    "gray-to-colour": replace(BASE, in_channels=1, features="encoder"),
    "dcd": DCD,
    "dcd-released": replace(DCD, adversarial_on="teacher"),
    "dcd-paired": replace(PAIRED, discriminator_weight=1.0, adversarial_weight=1.0),
    "images-only": replace(
        BASE, relative_style_weight=0.0, relative_feature_weight=0.0, channel_weight=0.0
    ),
}
SIZES = {"dcd": (96, 100), "dcd-released": (96, 96), "dcd-paired": (96, 96), "unet": (64, 64)}


QUICK = ("unpaired", "paired", "blocks", "unpaired-deeper", "gray-to-colour")
"""The goldens have DCD's steps too."""


@pytest.fixture(
    params=[n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in VARIANTS]
)
def variant(request):
    return request.param


def build(name, *, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return OnlineDistillation(VARIANTS[name]).to(dtype)


def batch_for(method, name, num_images=1, **options):
    options = {"size": SIZES.get(name, (32, 36)), **options}
    batch = random_batch(num_images, channels=method.channels, **options)
    return (PairedBatch if method.config.paired else UnpairedBatch)(batch.a_BCHW, batch.b_BCHW)


def progress(step=0):
    return Progress.of_step(step, total_steps=10, draws=SeededDraws(7, step))


class Recorder(Updater):
    """Remembers who was updated with what sum; does not step unless told to."""

    def __init__(self, method, *, stepping=True):
        super().__init__(method, cpu_fabric())
        self.updated, self.sums, self._stepping = [], [], stepping

    def __call__(self, *networks, loss):
        def remembered():
            terms = loss()
            self.sums.append(float(sum(term.detach() for term in terms.values())))
            return terms

        self.updated.append(networks)
        super().__call__(*networks, loss=remembered)

    def _step(self, optimizers, parameters):
        if self._stepping:
            super()._step(optimizers, parameters)


def moved(before, method):
    return {
        name.split(".")[0]
        for name, weight in method.named_parameters()
        if not torch.equal(weight, before[name])
    }


def test_each_update_moves_what_it_names_and_nothing_else(variant):
    method = build(variant).train()
    update = Recorder(method)
    for turn in range(3):
        seen = len(update.updated)
        before = {n: weight.clone() for n, weight in method.named_parameters()}
        update.begin_step(1.0)
        method.train_step(batch_for(method, variant, 2, seed=turn), update, progress(turn))
        named = {name for group in update.updated[seen:] for name in group}
        assert moved(before, method) == named
    assert {name for group in update.updated for name in group} == set(method.adam())
    assert {"G", "T"} <= set(method.adam())
    assert not {"P"} & set(method.adam()) or method.config.paired


def test_terms_are_finite_and_add_up_to_the_loss(variant):
    method = build(variant)
    update = Recorder(method)
    for turn in range(2):
        update.begin_step(1.0)
        update.updated.clear()
        update.sums.clear()
        method.train_step(batch_for(method, variant, 2), update, progress(turn))
        for names, total in zip(update.updated, update.sums, strict=True):
            prefix = "+".join(names) + "."
            logged = [float(t) for name, t in update.terms.items() if name.startswith(prefix)]
            assert sum(logged) == pytest.approx(total, rel=1e-5)
        assert all(torch.isfinite(value) for value in update.terms.values())


@pytest.mark.parametrize("name", ["unpaired", "paired", "blocks", "unpaired-deeper"])
def test_the_students_gradient_has_no_adversarial_part(name):
    """It is that of its own terms; no discriminator judges it, and teachers have no gradient."""
    method = build(name, dtype=torch.float64)
    batch = batch_for(method, name, 2, dtype=torch.float64)
    method.config = replace(
        method.config, relative_style_weight=0.0, relative_feature_weight=0.0
    )  # these look through the discriminator, at no logits
    judged = []
    for network in ("D", "D_A", "D_B"):
        if hasattr(method, network):
            method.get_submodule(network).register_forward_hook(
                lambda _, inputs, output: judged.append(inputs[0].detach())
            )
    update = Recorder(method, stepping=False)
    for step in range(2):
        update.begin_step(1.0)
        method.train_step(batch, update, progress(step))
    (names,) = {group for group in update.updated if "G" in group}
    terms = {n.rpartition(".")[2] for n in update.terms if n.startswith("+".join(names))}
    suffixes = ("", "_deeper") if method.config.deeper_ngf else ("",)
    assert terms == {"channels"} | {
        f"{term}{suffix}" for term in ("similarity", "variation") for suffix in suffixes
    }
    with torch.no_grad():
        image_BCHW = method.G(batch.a_BCHW)
    assert judged
    for seen_BCHW in judged:
        assert all(not torch.equal(seen[-3:], own) for seen in seen_BCHW for own in image_BCHW)


def test_the_students_terms_are_those_of_the_losses():
    """Written out, for both teachers, with what the shared discriminator sees of pairs."""
    method = build("paired", dtype=torch.float64)
    batch = batch_for(method, "paired", 2, dtype=torch.float64)
    with torch.no_grad():
        s_BCHW, own = method.G.forward_with_taps(batch.a_BCHW)
        w_BCHW, theirs = method.T.forward_with_taps(batch.a_BCHW)
        d_BCHW = method.T_deep(batch.a_BCHW)
        channels = sum(map(channel_mean_distance, copy.deepcopy(method.A)(own), theirs))
        expected = {"channels": 5 * channels}
        for branch, (t_BCHW, suffix) in enumerate([(w_BCHW, ""), (d_BCHW, "_deeper")]):
            maps = [
                method.D.rectified(torch.cat([batch.a_BCHW, x], dim=1), branch)
                for x in (s_BCHW, t_BCHW)
            ]
            assert len(maps[0]) == 4
            style = sum(gram_distance(*pair, relative=True) for pair in zip(*maps, strict=True))
            across, down = s_BCHW.diff(dim=3).abs().sum(), s_BCHW.diff(dim=2).abs().sum()
            expected |= {
                f"similarity{suffix}": 10 * (1 - image_similarities(s_BCHW, t_BCHW).mean()),
                f"variation{suffix}": 1e-5 * (across + down),
                f"style{suffix}": style,
                f"feature{suffix}": feature_distance(maps[0][1], maps[1][1], relative=True),
            }
        # By the time of the student's update the teachers' and discriminator's have come.
    update = Recorder(method, stepping=False)
    update.begin_step(1.0)
    method.train_step(batch, update, progress())
    for name, value in expected.items():
        torch.testing.assert_close(update.terms[f"G+A.{name}"], value, rtol=1e-9, atol=0)


def test_the_student_copies_what_the_teachers_gave_before_they_stepped():
    method = build("unpaired", dtype=torch.float64)
    batch = batch_for(method, "unpaired", dtype=torch.float64)
    with torch.no_grad():
        before = method.T(batch.a_BCHW)
        student = method.G(batch.a_BCHW)
    update = Recorder(method)
    update.begin_step(1.0)
    method.train_step(batch, update, progress())
    expected = 10 * (1 - image_similarities(student, before).mean())
    torch.testing.assert_close(update.terms["G+A.similarity"], expected)
    with torch.no_grad():
        assert not torch.equal(method.T(batch.a_BCHW), before)


def test_turns_of_blocks_and_of_steps():
    method = build("blocks")
    turns = [method.turns(progress(step)) for step in range(7)]
    teaches, copies = (True, False), (False, True)
    assert turns == [teaches, copies, copies, teaches, copies, copies, teaches]
    in_epochs = [
        method.turns(Progress.of_step(step, total_steps=12, steps_per_epoch=2, counts_epochs=True))
        for step in range(6)
    ]
    assert in_epochs == [teaches] * 2 + [copies] * 4
    paired = build("fewer-teacher-steps")
    assert [paired.turns(progress(step)) for step in range(4)] == [copies, (True, True)] * 2


def test_dcds_projections_of_the_teacher_stay_as_they_were_drawn():
    method = build("dcd").train()
    assert not method.P.training
    assert method.S.training
    before = copy.deepcopy(method.P.state_dict())
    method.train_step(batch_for(method, "dcd"), Recorder(method), progress())
    for name, tensor in method.P.state_dict().items():
        assert torch.equal(tensor, before[name])
    paired = build("dcd-paired").train()
    assert paired.P.training
    assert "P" in paired.adam()


def test_released_dcd_judges_the_teacher_which_gives_the_student_nothing():
    gradients = []
    for name in ("dcd", "dcd-released"):
        method = build(name, dtype=torch.float64)
        method.config = replace(
            method.config,
            discriminator_weight=0.0,
            relative_style_weight=0.0,
            relative_feature_weight=1e-9,
        )
        batch = batch_for(method, name, size=(96, 96), dtype=torch.float64)
        method.train_step(batch, Recorder(method, stepping=False), progress())
        gradients.append(max(float(w.grad.abs().max()) for w in method.G.parameters()))
    assert gradients[0] > 1e-5
    assert gradients[1] < 1e-6


def run(run_dir, name, method, *, steps, resume=False, save_every=100):
    fit(
        method,
        ListData([batch_for(method, name, seed=i) for i in range(3)]),
        run_dir,
        fabric=cpu_fabric(),
        schedule=ScheduleConfig(steps=steps),
        training=TrainingConfig(save_every=save_every),
        header=ModelHeader(method=method.name, config=to_plain(method.config)),
        resume=resume,
    )


class StopError(Exception):
    pass


@pytest.mark.parametrize(
    "name",
    [
        "blocks",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("unpaired", "paired", "fewer-teacher-steps", "dcd")
        ),
    ],
)
def test_saving_and_resuming_equals_not_stopping(name, tmp_path):
    whole, stopped, resumed = build(name), build(name), build(name, seed=3)
    run(tmp_path / "whole", name, whole, steps=6)
    train_step = stopped.train_step

    def stopping(batch, update, progress):
        if progress.step == 5:
            raise StopError
        train_step(batch, update, progress)

    stopped.train_step = stopping
    with pytest.raises(StopError):
        run(tmp_path / "stopped", name, stopped, steps=6, save_every=4)
    run(tmp_path / "stopped", name, resumed, steps=6, resume=True)
    for weight, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[weight]), weight


@pytest.mark.parametrize("name", ["no-norm", "unet"])
def test_a_saved_student_translates_alone(name, tmp_path):
    method = build(name)
    run(tmp_path, name, method, steps=1)
    translator = Translator.load(tmp_path, device="cpu")
    x_BCHW = batch_for(method, name, 2, size=(64, 128)).a_BCHW
    small = alone(translator.method)
    method.eval()
    with torch.no_grad():
        assert torch.equal(translator(x_BCHW), method.G(x_BCHW))
        assert torch.equal(small.translate(x_BCHW), method.G(x_BCHW))
        assert not torch.equal(method.G(x_BCHW), method.T(x_BCHW))


def test_batch_3_gives_the_mean_of_three_batch_1_gradients_but_for_adaptors():
    """Total variation is a sum over the batch, as released, and adaptors normalise the batch."""
    for name in ("unpaired", "paired"):
        method = build(name, dtype=torch.float64)
        method.config = replace(
            method.config, variation_weight=0.0, channel_weight=0.0,
            relative_style_weight=0.0, relative_feature_weight=0.0,
        )  # fmt: skip
        batch = batch_for(method, name, 3, dtype=torch.float64)

        def gradients(part, method=method):
            fresh = copy.deepcopy(method)
            fresh.train_step(part, Recorder(fresh, stepping=False), progress())
            return {n: p.grad for n, p in fresh.named_parameters() if p.grad is not None}

        whole = gradients(batch)
        singles = [
            gradients(type(batch)(batch.a_BCHW[i : i + 1], batch.b_BCHW[i : i + 1]))
            for i in range(3)
        ]
        assert {n.split(".")[0] for n in whole} >= {"G", "T"}
        for parameter, gradient in whole.items():
            mean = torch.stack([single[parameter] for single in singles]).mean(dim=0)
            scale = max(1.0, float(mean.abs().max()))
            torch.testing.assert_close(gradient, mean, rtol=1e-9, atol=1e-9 * scale)


def test_previews(variant):
    method = build(variant).eval()
    with torch.no_grad():
        columns = method.previews(batch_for(method, variant, 2))
    deeper = ["deeper teacher"] if method.config.deeper_ngf else []
    assert list(columns) == ["input", "translated", "wider teacher", *deeper]


def test_the_configuration_survives_plain_data(variant):
    config = VARIANTS[variant]
    assert from_plain(OnlineDistillationConfig, to_plain(config)) == config


def test_presets_have_the_published_numbers():
    presets = OnlineDistillation.presets
    assert all(name.startswith("online") for name in presets)
    rows = {}
    for name, preset in presets.items():
        method, schedule = preset.method, preset.schedule
        assert from_plain(OnlineDistillationConfig, to_plain(method)) == method
        if name == "online-toy":
            continue
        assert (method.student_ngf, method.wider_ngf) == (16, 64)
        assert (method.style_weight, method.feature_weight) == (1e4, 10.0)
        if name != "online-dcd":
            assert (method.similarity_weight, method.variation_weight) == (10.0, 1e-5)
        rows[name] = (
            method.channel_weight,
            method.deeper_ngf,
            method.adversarial,
            method.discriminator.ndf,
            method.shared_blocks if method.paired else None,
            schedule.epochs,
            round(schedule.epochs * schedule.decay_fraction),
            method.student_steps,
            method.block if method.blockwise else None,
            preset.data.batch_size,
            preset.data.direction,
        )
    assert rows == {
        "online": (500, 0, "lsgan", 64, None, 1000, 500, 4, 10, 1, "AtoB"),
        "online-deeper": (500, 16, "lsgan", 64, None, 1000, 500, 4, 10, 1, "AtoB"),
        "online-summer2winter": (100, 0, "lsgan", 64, None, 1000, 500, 4, 6, 1, "AtoB"),
        "online-dcd": (0, 0, "lsgan", 64, None, 1000, 500, 4, 10, 1, "AtoB"),
        "online-cityscapes": (0, 16, "hinge", 128, 4, 750, 450, 3, None, 1, "BtoA"),
        "online-cityscapes-unet": (50, 16, "hinge", 128, 5, 750, 450, 3, None, 4, "BtoA"),
        "online-edges2shoes": (100, 16, "hinge", 128, 3, 200, 100, 1, None, 4, "AtoB"),
        "online-edges2shoes-unet": (10, 16, "hinge", 128, 5, 200, 100, 1, None, 4, "AtoB"),
    }


def test_features_are_vgg16s_where_given_and_the_teachers_own_elsewhere():
    assert ImitationConfig().feature_source == "discriminator"
    assert ImitationConfig().image_weights == (1.0, 1.0)
    given = ImitationConfig(vgg_weights="vgg16.pth")
    assert given.feature_source == "vgg16"
    assert given.image_weights == (1e4, 10.0)
    assert given.vgg().layers == (1, 3, 6, 9)
    assert not given.vgg().normalized
    assert ImitationConfig(features="random").vgg().layers == (1, 3)
    assert ImitationConfig(features="encoder").vgg() is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paired": True}, "source and translation, so its `in_channels` must be 6; got 3"),
        ({"student_channels": "1_2"}, "Channels are 8 numbers"),
        ({"architecture": "unet", "student_channels": "1_1_1_1_1_1"}, "a U-Net has its `ngf`"),
        ({"architecture": "unet", "features": "encoder"}, "with U-Nets take discriminator"),
        ({"in_channels": 4}, "Set `identity_weight` to 0"),
        ({"shared_blocks": 6}, "`shared_blocks` must be 0 to 5; got 6"),
        ({"student_steps": 0}, "`student_steps` must be at least 1"),
        ({"variation_weight": -1.0}, "`variation_weight` must not be negative"),
        (
            {
                "out_channels": 4,
                "discriminator": PatchGANConfig(in_channels=4, antialias=False),
                "features": "random",
                "identity_weight": 0.0,
            },
            "VGG16 sees grey or colour images",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        OnlineDistillationConfig(**changes)


def test_parameters_of_the_published_networks():
    counts = {
        name: sum(weight.numel() for weight in network.parameters())
        for name, network in OnlineDistillation().named_children()
    }
    adaptors = 4 * (64 * 256 + 2 * 256)
    assert counts == {
        "G": 137_347,
        "T": 1_987_075,
        "T_back": 1_987_075,
        "D_B": 2_764_737,
        "D_A": 2_764_737,
        "A": adaptors,
        "pool_B": 0,
        "pool_A": 0,
    }
