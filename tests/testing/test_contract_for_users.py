"""`patchkin.testing`: methods that keep the contract pass, and each way to break it is told."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import patchkin
from methods.test_contract import VARIANTS
from patchkin.methods import METHODS
from patchkin.schedules import AdamConfig
from patchkin.testing import CHECKS, MethodCase, check_method


@dataclass(frozen=True, kw_only=True)
class LineConfig:
    weight: float = 1.0


class Line(patchkin.Method):
    """Keeps the contract; what is broken below is one of its parts."""

    name = "line"
    paper = "none"
    config_type = LineConfig
    presets = {"default": patchkin.Preset(summary="", method=LineConfig())}

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.G, self.D = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 1, 1)

    def adam(self):
        return {"G": AdamConfig(), "D": AdamConfig()}

    def train_step(self, batch, update, progress):
        fake = self.G(batch.a_BCHW)
        update("D", loss=lambda: {"real": self.judged(fake.detach() - batch.b_BCHW, progress)})
        update("G", loss=lambda: {"fake": self.judged(fake, progress), "near": fake.abs().mean()})

    def judged(self, x_BCHW, progress):
        return self.config.weight * (self.D(x_BCHW) ** 2).mean()

    def translate(self, x_BCHW):
        return self.G(x_BCHW)


def test_a_method_that_keeps_it():
    check_method(Line)


@pytest.mark.parametrize("check", CHECKS)
def test_methods_of_patchkin_keep_it(check, tmp_path):
    name, config = VARIANTS["cut"]
    CHECKS[check](MethodCase(METHODS[name], config), tmp_path)


class MovesAnother(Line):
    def train_step(self, batch, update, progress):
        super().train_step(batch, update, progress)
        with torch.no_grad():
            self.H.weight += 1

    def __init__(self, config):
        super().__init__(config)
        self.H = nn.Conv2d(1, 1, 1)


class ForgetsOne(Line):
    def train_step(self, batch, update, progress):
        fake = self.G(batch.a_BCHW)
        update("G", loss=lambda: {"fake": fake.abs().mean()})


class Infinite(Line):
    def judged(self, x_BCHW, progress):
        return super().judged(x_BCHW, progress) / 0 * 0 if self.training else x_BCHW


class DrawsByItself(Line):
    def judged(self, x_BCHW, progress):
        return super().judged(x_BCHW + torch.randn_like(x_BCHW), progress)


class SumsOverTheBatch(Line):
    def judged(self, x_BCHW, progress):
        return super().judged(x_BCHW, progress) * len(x_BCHW)


class Counts(Line):
    seen = 0

    def judged(self, x_BCHW, progress):
        self.seen += 1
        return super().judged(x_BCHW, progress) * self.seen


class Elsewhere(Line):
    """What translates is not among `translating`."""

    def translate(self, x_BCHW):
        return self.G(x_BCHW) + self.offset

    def __init__(self, config):
        super().__init__(config)
        self.offset = torch.rand(1)


class LooksAtTheBatch(Line):
    def translate(self, x_BCHW):
        return self.G(x_BCHW - x_BCHW.mean())


class Shrinks(Line):
    def translate(self, x_BCHW):
        return self.G(x_BCHW)[..., 1:]


class OtherPreset(Line):
    presets = {"default": patchkin.Preset(summary="", method=AdamConfig())}


BROKEN = {
    OtherPreset: ("settings_survive", "preset default: not of LineConfig"),
    MovesAnother: ("named_networks_move", "`adam` names D, G; what moved: D, G, H"),
    ForgetsOne: ("named_networks_move", "`adam` names D, G; what moved: G"),
    DrawsByItself: ("draws_come_from_progress", "depends on torch's global generator"),
    SumsOverTheBatch: ("batch_is_the_mean", "for 3 images is not the mean of theirs"),
    Counts: ("resuming_is_exact", "is another after a stop"),
    Elsewhere: ("saved_models_translate", "the loaded model translates otherwise"),
    LooksAtTheBatch: ("any_size_translates", "is translated otherwise beside others"),
    Shrinks: ("any_size_translates", r"\(3, 3, 33, 50\) became \(3, 3, 33, 49\)"),
}


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_what_breaks_it_is_told(kind, tmp_path):
    check, said = BROKEN[kind]
    with pytest.raises(AssertionError, match=said):
        CHECKS[check](MethodCase(kind, LineConfig()), tmp_path)


def test_a_term_that_is_not_finite_ends_the_step(tmp_path):
    with pytest.raises(patchkin.errors.DivergenceError, match="`real` of the update of D"):
        CHECKS["terms_add_up"](MethodCase(Infinite, LineConfig()), tmp_path)


def test_the_message_names_the_method_and_the_check():
    with pytest.raises(AssertionError, match=r"^line, batch_is_the_mean: the gradient of"):
        check_method(SumsOverTheBatch, LineConfig())
    check_method(SumsOverTheBatch, LineConfig(), per_image=False)
