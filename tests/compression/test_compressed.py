"""The compressed generator as a model of the package."""

from __future__ import annotations

import pytest
import torch

from patchkin.compression import CompressedResNet, CompressedResNetConfig
from patchkin.config import from_plain, to_plain
from patchkin.errors import CheckpointError, ConfigError
from patchkin.methods import METHODS
from patchkin.storage.checkpoint import ModelHeader, write_tensors
from patchkin.translation.translator import Translator

SMALL = CompressedResNetConfig(channels=(2, 2, 3, 1, 2, 1, 2, 3), in_channels=1)


def save(method, path):
    header = ModelHeader(method=method.name, config=to_plain(method.config), size=64)
    write_tensors(path, method.state_dict(), header.to_metadata())
    return path


@pytest.mark.parametrize("methods", [None, METHODS])
@pytest.mark.parametrize("complete", [False, True])
def test_a_file_translates_by_its_header_alone(tmp_path, methods, complete):
    torch.manual_seed(0)
    method = CompressedResNet(SMALL)
    path = save(method, tmp_path / "model.safetensors")
    translator = Translator.load(path, methods=methods, complete=complete, device="cpu")
    x_BCHW = torch.rand(2, 1, 32, 20) * 2 - 1
    with torch.no_grad():
        assert torch.equal(translator(x_BCHW), method.translate(x_BCHW))
    assert translator(torch.zeros(1, 1, 7, 31)).shape == (1, 3, 7, 31)


def test_weights_of_another_configuration_are_refused(tmp_path):
    method = CompressedResNet(SMALL)
    header = ModelHeader(
        method=method.name, config=to_plain(CompressedResNetConfig(in_channels=1)), size=64
    )
    path = tmp_path / "model.safetensors"
    write_tensors(path, method.state_dict(), header.to_metadata())
    with pytest.raises(CheckpointError, match="of another shape"):
        Translator.load(path, device="cpu")


def test_it_is_not_offered_for_training():
    assert CompressedResNet.name not in METHODS
    with pytest.raises(ConfigError, match="patchkin compress distill"):
        CompressedResNet(SMALL).train_step(None, None, None)


def test_the_configuration_survives_plain_data():
    for config in (SMALL, *(preset.method for preset in CompressedResNet.presets.values())):
        assert from_plain(CompressedResNetConfig, to_plain(config)) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [({"channels": (4, 4)}, "got 2"), ({"out_channels": 0}, "`out_channels` must be at least 1")],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        CompressedResNetConfig(**options)
