"""A supernet that learns from a frozen teacher: what every method must do, and its own terms."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from patchkin.compression import Distillation, DistillationConfig, TeacherConfig, teacher_taps
from patchkin.config import from_plain, to_plain
from patchkin.data.datasets import UnpairedBatch
from patchkin.data.paired import PairedBatch
from patchkin.errors import ConfigError
from patchkin.losses import decoupled, hard_negative_weights, relation_consistency
from patchkin.method import Progress
from patchkin.networks import InitConfig, PatchGANConfig, ResNetConfig
from patchkin.randomness import SeededDraws
from patchkin.schedules import ScheduleConfig
from patchkin.storage.checkpoint import ModelHeader
from patchkin.training import TrainingConfig, Updater, fit
from patchkin.translation.translator import Translator
from support import ListData, cpu_fabric, random_batch

PLAIN = ResNetConfig(ngf=4, blocks=3, antialias_down=False, antialias_up=False)
BASE = DistillationConfig(
    teacher=TeacherConfig(generator=PLAIN),
    student_ngf=4,
    space="4,2_3,1_4,2_2,4_3,1_4,2_4,1_2,4",
    discriminator=PatchGANConfig(ndf=4, antialias=False),
    initialization=InitConfig(gain=1.0),
    distillation_weight=0.5,
    relation_weight=0.5,
    num_patches=12,
)
WIDE = replace(PLAIN, ngf=6)
PAIRED = replace(
    BASE, paired=True, discriminator=PatchGANConfig(in_channels=6, ndf=4, antialias=False)
)


def with_teacher(generator, **changes):
    return replace(BASE, teacher=TeacherConfig(generator=generator), **changes)


VARIANTS = {
    "unpaired": BASE,
    "paired": replace(PAIRED, adversarial="hinge"),
    "sandwich": replace(BASE, sampling="sandwich"),
    "one-configuration": replace(BASE, space="4_3_2_1_2_3_4_2"),
    "separate-heads": replace(BASE, heads="separate"),
    "wider-teacher": with_teacher(WIDE),
    "wider-teacher-separate-heads": with_teacher(WIDE, heads="separate"),
    "antialiased-teacher": with_teacher(ResNetConfig(ngf=3, blocks=6)),
    "teacher-without-norm": with_teacher(replace(PLAIN, norm="none")),
    "teacher-with-batch-norm-and-dropout": with_teacher(replace(PLAIN, norm="batch", dropout=True)),
    "gray-to-colour": with_teacher(replace(PLAIN, in_channels=1)),
    "no-relations": replace(BASE, relation_weight=0.0),
    "no-contrast": replace(BASE, contrast_weight=0.0),
    "published-baseline": replace(BASE, relation_weight=0.0, contrast_weight=0.0),
    "no-maps": replace(BASE, distillation_weight=0.0),
    "mean-relation": replace(BASE, relation_reduction="mean"),
    "easy-negatives": replace(BASE, hard_negatives=False, temperature=0.2),
    "transport-attention": replace(BASE, negatives="optimal-transport", places="attention"),
    "guided": replace(BASE, places="discriminator", negatives="paper"),
    "smooth": replace(BASE, reconstruction="smooth_l1"),
    "squared": replace(BASE, reconstruction="l2"),
    "few-places": replace(BASE, num_patches=500),
}


ROUGHLY_DIFFERENT = (
    "unpaired",
    "paired",
    "sandwich",
    "separate-heads",
    "antialiased-teacher",
    "teacher-with-batch-norm-and-dropout",
    "gray-to-colour",
    "published-baseline",
)
"""For the slower tests."""


@pytest.fixture(
    params=[pytest.param(n, marks=pytest.mark.slow) if n == "guided" else n for n in VARIANTS]
)
def variant(request):
    return request.param


def build(name, *, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return Distillation(VARIANTS[name]).to(dtype)


def batch_for(method, num_images=1, **options):
    batch = random_batch(num_images, channels=method.channels, **options)
    return (PairedBatch if method.config.paired else UnpairedBatch)(batch.a_BCHW, batch.b_BCHW)


def progress(step=0, draws=None):
    return Progress.of_step(step, total_steps=10, draws=draws or SeededDraws(7, step))


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


def test_a_step_moves_what_learns_and_never_the_teacher(variant):
    method = build(variant).train()
    update = Recorder(method)
    before = copy.deepcopy(method.state_dict())
    for turn in range(2):
        method.train_step(batch_for(method, 2, seed=turn), update, progress(turn))
    moved = {
        name.split(".")[0]
        for name, tensor in method.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert moved == set(method.adam())
    assert {"G", "D"} <= moved <= {"G", "A", "F", "D"}
    assert update.updated[0] == tuple(name for name in method.adam() if name != "D")
    assert update.updated[1] == ("D",)


def test_terms_are_finite_and_add_up_to_the_loss(variant):
    method = build(variant)
    update = Recorder(method)
    update.begin_step(1.0)
    method.train_step(batch_for(method, 2, size=(36, 28)), update, progress())
    for names, total in zip(update.updated, update.sums, strict=True):
        prefix = "+".join(names) + "."
        logged = [float(t) for name, t in update.terms.items() if name.startswith(prefix)]
        assert sum(logged) == pytest.approx(total, rel=1e-5)
    assert all(torch.isfinite(value) for value in update.terms.values())


@pytest.mark.parametrize("name", ROUGHLY_DIFFERENT)
def test_batch_3_gives_the_mean_of_three_batch_1_gradients(name):
    method = build(name, dtype=torch.float64)
    batch = batch_for(method, 3, size=(32, 40), dtype=torch.float64)

    def gradients(part):
        fresh = copy.deepcopy(method)
        fresh.train_step(part, Recorder(fresh, stepping=False), progress())
        return {n: p.grad.clone() for n, p in fresh.named_parameters() if p.grad is not None}

    whole = gradients(batch)
    singles = [
        gradients(type(batch)(batch.a_BCHW[i : i + 1], batch.b_BCHW[i : i + 1])) for i in range(3)
    ]
    for parameter, gradient in whole.items():
        mean = torch.stack([single[parameter] for single in singles]).mean(dim=0)
        scale = max(1.0, float(mean.abs().max()))
        torch.testing.assert_close(gradient, mean, rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.parametrize("name", ROUGHLY_DIFFERENT)
def test_draws_come_from_one_place(name):
    outcomes = []
    for seed in (1, 2):
        method = build(name)
        torch.manual_seed(seed)
        method.train_step(batch_for(method), Recorder(method), progress())
        outcomes.append(method.state_dict())
    for weight, tensor in outcomes[0].items():
        assert torch.equal(tensor, outcomes[1][weight]), weight


def run(run_dir, method, *, steps, resume=False, save_every=100):
    fit(
        method,
        ListData([batch_for(method, seed=i) for i in range(3)]),
        run_dir,
        fabric=cpu_fabric(),
        schedule=ScheduleConfig(steps=steps),
        training=TrainingConfig(save_every=save_every),
        header=ModelHeader(method=method.name, config=to_plain(method.config)),
        resume=resume,
    )


class StopError(Exception):
    pass


@pytest.mark.parametrize("name", ROUGHLY_DIFFERENT)
def test_saving_and_resuming_equals_not_stopping_and_brings_the_teacher_back(name, tmp_path):
    whole, stopped, resumed = build(name), build(name), build(name, seed=3)
    run(tmp_path / "whole", whole, steps=4)
    train_step = stopped.train_step

    def stopping(batch, update, progress):
        if progress.step == 3:
            raise StopError
        train_step(batch, update, progress)

    stopped.train_step = stopping
    with pytest.raises(StopError):
        run(tmp_path / "stopped", stopped, steps=4, save_every=2)
    run(tmp_path / "stopped", resumed, steps=4, resume=True)
    for weight, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[weight]), weight


@pytest.mark.parametrize("name", ROUGHLY_DIFFERENT)
def test_a_saved_supernet_translates_at_its_widest(name, tmp_path):
    method = build(name)
    run(tmp_path, method, steps=1)
    translator = Translator.load(tmp_path, device="cpu")
    x_BCHW = batch_for(method, 2, size=(32, 36)).a_BCHW
    with torch.no_grad():
        expected = method.G(x_BCHW, method.space.largest)
    assert torch.equal(translator(x_BCHW), expected)
    assert translator(x_BCHW[..., :31]).shape == (2, method.channels[1], 32, 31)


@pytest.mark.parametrize("name", ROUGHLY_DIFFERENT)
def test_previews(name):
    method = build(name).eval()
    batch = batch_for(method, 2)
    with torch.no_grad():
        columns = method.previews(batch)
    assert list(columns) == ["input", "translated", "narrowest", "teacher"]
    assert {len(images) for images in columns.values()} == {2}


def test_the_configuration_survives_plain_data(variant):
    config = VARIANTS[variant]
    assert from_plain(DistillationConfig, to_plain(config)) == config


def test_presets_have_the_published_numbers():
    presets = Distillation.presets
    for preset in presets.values():
        assert from_plain(DistillationConfig, to_plain(preset.method)) == preset.method
    rows = {
        name: (
            presets[name].method.paired,
            presets[name].method.adversarial,
            presets[name].method.discriminator.ndf,
            presets[name].method.reconstruction_weight,
            presets[name].method.distillation_weight,
            presets[name].method.space,
            presets[name].data.direction,
            presets[name].schedule.epochs,
            round(presets[name].schedule.epochs * presets[name].schedule.decay_fraction),
        )
        for name in presets
        if name != "toy"
    }
    assert rows == {
        "horse2zebra": (
            *(False, "lsgan", 64, 10.0, 0.01, "channels-64-cyclegan", "AtoB"),
            *(400, 200),
        ),
        "map2sat": (
            *(True, "hinge", 128, 10.0, 0.01, "channels-64-pix2pix", "BtoA"),
            *(600, 400),
        ),
        "cityscapes": (
            *(True, "hinge", 128, 100.0, 1.0, "channels-64-pix2pix", "BtoA"),
            *(500, 300),
        ),
    }
    for name in rows:
        method = presets[name].method
        assert (method.relation_weight, method.contrast_weight) == (10.0, 0.1)
        assert (method.gamma_divisor_start, method.gamma_divisor_end) == (50.0, 10.0)
        assert (method.temperature, method.num_patches) == (0.07, 256)


def test_parameters_of_the_published_networks():
    method = Distillation()
    counts = {
        name: sum(weight.numel() for weight in network.parameters())
        for name, network in method.named_children()
    }
    assert counts == {
        "T": 11_378_179,
        "G": 1_987_075,
        "D": 2_764_737,
        "A": 4 * 65_792,
        "F": 526_336,
    }


def test_the_semantic_terms_are_those_of_the_losses():
    """Written out for each map, with the head that student and teacher share."""
    method = build("unpaired", dtype=torch.float64)
    batch = batch_for(method, 2, size=(32, 40), dtype=torch.float64)
    update = Recorder(method, stepping=False)
    update.begin_step(1.0)
    method.train_step(batch, update, progress(3))
    draws = SeededDraws(7, 3)
    channels = method.space.drawn(draws.integer)
    with torch.no_grad():
        image_BCHW, students = method.G.forward_with_taps(batch.a_BCHW, channels)
        target_BCHW, teachers = method.T.forward_with_taps(batch.a_BCHW, (9, 10, 11, 12))
        relations, contrasts, distances = [], [], []
        for tap, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
            places_K = draws.places(8 * 10, 12)
            head = method.F.heads[tap]
            query, key = head(student, places_K), head(teacher, places_K)
            weights = hard_negative_weights(key, 50 - 40 * 4 / 10)
            relations.append(relation_consistency(query, key))
            contrasts.append(decoupled(query, key, temperature=0.07, weights_BKK=weights).mean())
            distances.append((method.A(students)[tap] - teacher).square().mean())
    expected = {
        "relation": 0.5 * sum(relations),
        "contrast": 0.1 * sum(contrasts),
        "distillation": 0.5 * sum(distances),
        "reconstruction": 10 * (image_BCHW - target_BCHW).abs().mean(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(update.terms[f"G+A+F.{name}"], value, rtol=1e-9, atol=0)
    torch.testing.assert_close(update.terms["distillation_2"], distances[2], rtol=1e-9, atol=0)
    torch.testing.assert_close(update.terms["relation_1"], 0.5 * relations[1], rtol=1e-9, atol=0)


def test_paired_data_has_the_truth_as_target_and_a_discriminator_of_pairs():
    method = build("paired", dtype=torch.float64)
    batch = batch_for(method, 2, dtype=torch.float64)
    seen = []
    method.D.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].detach()))
    update = Recorder(method, stepping=False)
    method.train_step(batch, update, progress())
    channels = method.space.drawn(SeededDraws(7, 0).integer)
    with torch.no_grad():
        fake_BCHW = method.G(batch.a_BCHW, channels)
    torch.testing.assert_close(
        update.terms["G+A+F.reconstruction"], 10 * (fake_BCHW - batch.b_BCHW).abs().mean()
    )
    fakes, reals = (torch.cat([batch.a_BCHW, x], dim=1) for x in (fake_BCHW, batch.b_BCHW))
    torch.testing.assert_close(seen[0], fakes)
    torch.testing.assert_close(seen[1], torch.cat([fakes, reals]))


def test_the_sandwich_averages_three_configurations():
    """Its gradient is the mean of those of the widest, the narrowest and the drawn one."""
    method = build("sandwich", dtype=torch.float64)
    method.config = replace(method.config, relation_weight=0.0, contrast_weight=0.0)
    batch = batch_for(method, 2, dtype=torch.float64)

    def gradients(configurations):
        fresh = copy.deepcopy(method)
        if configurations is not None:
            fresh.configurations = lambda _: configurations
        fresh.train_step(batch, Recorder(fresh, stepping=False), progress())
        return {n: p.grad for n, p in fresh.named_parameters() if p.grad is not None}

    three = method.configurations(SeededDraws(7, 0))
    assert three[:2] == [method.space.largest, method.space.smallest]
    whole = gradients(None)
    singles = [gradients([channels]) for channels in three]
    for name, gradient in whole.items():
        mean = torch.stack([single[name] for single in singles]).mean(dim=0)
        torch.testing.assert_close(gradient, mean, rtol=1e-9, atol=1e-10)


def test_configurations_are_those_of_the_space():
    method = build("unpaired")
    drawn = {method.configurations(SeededDraws(0, step))[0] for step in range(300)}
    assert len(drawn) > 150
    assert all(channels in method.space for channels in drawn)


def test_a_teacher_with_dropout_and_batch_norm_stands_still():
    method = build("teacher-with-batch-norm-and-dropout").train()
    assert not any(module.training for module in method.T.modules())
    assert method.G.training
    x_BCHW = batch_for(method).a_BCHW
    first, second = (method._taught(x_BCHW).image_BCHW for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad


@pytest.mark.parametrize(
    ("generator", "taps"),
    [
        (ResNetConfig(antialias_down=False, antialias_up=False), (9, 12, 15, 18)),
        (ResNetConfig(), (11, 14, 17, 20)),
        (ResNetConfig(blocks=6, antialias_down=False), (9, 11, 13, 15)),
    ],
)
def test_taps_of_teachers_are_maps_at_a_quarter_of_the_size(generator, taps):
    from patchkin.networks import ResNetGenerator

    assert teacher_taps(generator) == taps
    network = ResNetGenerator(replace(generator, ngf=2))
    assert network.tap_sizes(taps, 32, 48) == [(8, 12)] * 4
    assert network.tap_channels(taps) == [8] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": "channels-32"}, "widths up to 32, but `student_ngf` is 4"),
        ({"space": "channels-33"}, "Did you mean"),
        ({"temperature": 0.0}, "`temperature` must be positive"),
        ({"num_patches": 1}, "at least 2"),
        ({"paired": True}, "`in_channels` must be 6; got 3"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        replace(BASE, **options)


def test_a_teacher_without_thirds_is_refused():
    with pytest.raises(ConfigError, match="multiple of 3; got 5"):
        TeacherConfig(generator=replace(PLAIN, blocks=5))
