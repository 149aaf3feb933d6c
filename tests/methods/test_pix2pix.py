"""The teachers of published students: pix2pix with a residual generator."""

from __future__ import annotations

import pytest
import torch

from patchkin.compression import Distillation
from patchkin.compression.teacher import TeacherConfig, teacher_taps
from patchkin.config import from_plain, to_plain
from patchkin.data.paired import PairedBatch
from patchkin.errors import ConfigError
from patchkin.method import Progress
from patchkin.methods.pix2pix import Pix2Pix, Pix2PixConfig
from patchkin.networks import InitConfig, PatchGANConfig, ResNetConfig, UNetConfig
from patchkin.runs.compression import taught
from patchkin.runs.config import config_from_plain, config_to_plain, preset_config
from patchkin.training import Updater
from support import cpu_fabric, random_batch

TEACHERS = {name: preset for name, preset in Pix2Pix.presets.items() if "teacher" in name}


def test_teachers_are_those_of_the_published_students():
    told = {
        name: (
            preset.method.content_weight,
            preset.schedule.epochs,
            round(preset.schedule.epochs * preset.schedule.decay_fraction),
            preset.data.direction,
        )
        for name, preset in TEACHERS.items()
    }
    assert told == {
        "teacher-map2sat": (10.0, 300, 200, "BtoA"),
        "teacher-cityscapes": (100.0, 250, 150, "BtoA"),
    }
    for preset in TEACHERS.values():
        assert preset.method.adversarial == "hinge"
        with torch.device("meta"):
            networks = Pix2Pix(preset.method)
        sizes = [sum(p.numel() for p in part.parameters()) for part in (networks.G, networks.D)]
        assert sizes == [11_378_179, 11_040_641], "as counted in the released compression code"


def test_a_hinge_step_is_the_formula():
    config = Pix2PixConfig(
        generator=ResNetConfig(ngf=4, blocks=3, antialias_down=False, antialias_up=False),
        discriminator=PatchGANConfig(in_channels=6, ndf=4, antialias=False),
        initialization=InitConfig(gain=1.0),
        adversarial="hinge",
        content_weight=10.0,
    )
    torch.manual_seed(0)
    method = Pix2Pix(config).double()
    images = random_batch(2, size=(36, 28), dtype=torch.float64)
    batch = PairedBatch(images.a_BCHW, images.b_BCHW)
    with torch.no_grad():
        fake = method.G(batch.a_BCHW)
        real_logits = method.D(torch.cat([batch.a_BCHW, batch.b_BCHW], dim=1))
        fake_logits = method.D(torch.cat([batch.a_BCHW, fake], dim=1))
    update = Updater(method, cpu_fabric())
    update.begin_step(0.0)
    method.train_step(batch, update, Progress.of_step(0, total_steps=2))
    expected = {
        "D.real": (1 - real_logits).clamp(min=0).mean() / 2,
        "D.fake": (1 + fake_logits).clamp(min=0).mean() / 2,
        "G.adversarial": -fake_logits.mean(),
        "G.content": 10 * (fake - batch.b_BCHW).abs().mean(),
    }
    assert {name: float(term) for name, term in update.terms.items()} == pytest.approx(
        {name: float(term) for name, term in expected.items()}
    )


def test_the_fields_of_a_generator_tell_which_it_is():
    for generator in (ResNetConfig(ngf=2), UNetConfig(ngf=2)):
        config = Pix2PixConfig(generator=generator)
        assert from_plain(Pix2PixConfig, to_plain(config)) == config
    only = from_plain(Pix2PixConfig, {"generator": {"blocks": 6}})
    assert only.generator == ResNetConfig(blocks=6)
    with pytest.raises(ConfigError, match=r"Unknown key `generator.levls`.*`levels`"):
        from_plain(Pix2PixConfig, {"generator": {"levls": 6, "dropout_at_test": True}})


def test_a_saved_teacher_is_read_whatever_the_first_preset_is():
    teacher = preset_config(TEACHERS["teacher-cityscapes"])
    plain = config_to_plain(Pix2Pix, teacher)
    first = preset_config(Pix2Pix.presets["released"])
    assert config_from_plain(Pix2Pix, first, plain, where="the run") == teacher


def test_a_teacher_can_be_distilled():
    generator = TEACHERS["teacher-map2sat"].method.generator
    student = taught(Distillation.presets["map2sat"].method, TeacherConfig(generator=generator))
    assert student.discriminator == TEACHERS["teacher-map2sat"].method.discriminator
    assert teacher_taps(generator) == (9, 12, 15, 18)
