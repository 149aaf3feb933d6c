"""The reader itself: which files are found, and how their options and networks are read."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from goldens import fixtures
from goldens.fixtures import (
    NOT_YET_READ,
    SCHEMAS,
    Golden,
    discriminator_from,
    generator_from,
    golden_files,
    head_from,
    unread_files,
    zero_gradient_biases,
)
from patchkin.networks import (
    PatchGAN,
    PatchGANConfig,
    PixelDiscriminator,
    ProjectionHead,
    ResNetConfig,
    ResNetGenerator,
)


def write(folder, name, **arrays):
    path = folder / name
    np.savez(path, **arrays)
    return path


def found(*stems):
    return [param.id for param in golden_files(*stems)]


def test_every_file_of_a_schema_is_found_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(fixtures, "GOLDENS", tmp_path)
    names = ["cut_step_cut.npz", "cut_step_cut_2_final.npz", "cut_step_cyclegan.npz",
             "cut_patchnce_heldout.npz", "negcut_step.npz", "semrel_single_step1.npz",
             "semrel_single_step3_b.npz", "readme.npz"]  # fmt: skip
    for name in names:
        write(tmp_path, name, x=np.zeros(1))
    assert found("cut_step_cut") == ["cut_step_cut.npz", "cut_step_cut_2_final.npz"]
    assert found("cut_patchnce") == ["cut_patchnce_heldout.npz"]
    both = ["semrel_single_step1.npz", "semrel_single_step3_b.npz"]
    assert found("semrel_single_step") == both
    assert found("cut_step_cyclegan", "negcut_step") == ["cut_step_cyclegan.npz", "negcut_step.npz"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_missing_file_or_folder_is_a_skip_with_a_reason(tmp_path, monkeypatch, exists):
    monkeypatch.setattr(fixtures, "GOLDENS", tmp_path if exists else tmp_path / "absent")
    (param,) = golden_files("cut_patchnce")
    assert param.marks[0].name == "skip"
    assert "cut_patchnce" in param.marks[0].kwargs["reason"]


def test_a_mistyped_schema_is_an_error():
    with pytest.raises(AssertionError, match="no schema begins with cut_patchncee"):
        golden_files("cut_patchncee")


def test_the_summary_names_files_that_no_test_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(fixtures, "GOLDENS", tmp_path)
    monkeypatch.setattr(fixtures, "NOT_YET_READ", ("omgd_counts",))
    assert unread_files() == []
    for name in ("cut_patchnce_b.npz", "ecno_loss.npz", "omgd_counts_h.npz"):
        write(tmp_path, name, x=np.zeros(1))
    assert unread_files() == [
        "ecno_loss.npz: of no schema; add its stem to SCHEMAS and read it",
        "omgd_counts_h.npz: of a schema that no test reads yet",
    ]


def test_every_schema_has_a_reader():
    """But for those named; a reader is a call of `golden_files` in another test file."""
    here = Path(__file__)
    calls = [
        call
        for path in here.parent.glob("test_*.py")
        if path != here
        for call in re.findall(r"golden_files\(([^)]*)\)", path.read_text())
    ]
    stems = {stem for call in calls for stem in re.findall(r'"(\w+)"', call)}
    read = {schema for schema in SCHEMAS if any(schema.startswith(stem) for stem in stems)}
    assert set(SCHEMAS) - read == set(NOT_YET_READ)


def test_options_in_their_four_forms(tmp_path):
    expected = {"K": 16, "gammas": [50.0, 0.1], "idt": True, "mode": "lsgan"}
    files = [
        {"options": np.array(json.dumps(expected))},
        {"meta/options": np.array(json.dumps(expected)), "opt/K": np.array(3)},
        {f"opt/{name}": np.array(value) for name, value in expected.items()},
        {"options": np.array(["K=16", "gammas=50.0,0.1", "idt=True", "mode=lsgan"])},
    ]
    for i, arrays in enumerate(files):
        assert Golden(write(tmp_path, f"{i}.npz", **arrays)).options == expected


GENERATORS = [
    {"blocks": 1, "in_channels": 1, "out_channels": 4},
    {"blocks": 4, "antialias_down": False},
    {"blocks": 2, "antialias_up": False, "norm": "batch"},
    {"blocks": 11, "antialias_down": False, "antialias_up": False, "norm": "none"},
    {"blocks": 2, "dropout": True},
]


@pytest.mark.parametrize("changes", GENERATORS)
def test_a_generator_is_read_from_its_weights(changes):
    generator = ResNetGenerator(ResNetConfig(ngf=2, **changes))
    again = generator_from(generator.state_dict())
    assert again.config == generator.config
    for name, weight in generator.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)


@pytest.mark.parametrize(
    "config",
    [
        PatchGANConfig(ndf=2),
        PatchGANConfig(ndf=2, layers=4, antialias=False, norm="batch"),
        PatchGANConfig(ndf=2, layers=1, norm="none", in_channels=6),
    ],
)
def test_a_discriminator_is_read_from_its_weights(config):
    network = PatchGAN(config)
    again = discriminator_from(network.state_dict())
    x_BCHW = torch.randn(2, config.in_channels, 64, 48)
    assert torch.equal(network(x_BCHW), again(x_BCHW))


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_a_pixel_discriminator_is_read_from_its_weights(norm):
    network = PixelDiscriminator(PatchGANConfig(ndf=2, kind="pixel", norm=norm))
    x_BCHW = torch.randn(2, 3, 4, 5)
    assert torch.equal(network(x_BCHW), discriminator_from(network.state_dict())(x_BCHW))


def test_a_head_is_read_from_its_weights():
    head = ProjectionHead([3] * 11, width=4)
    weights = {name.replace("mlps.", "mlp_"): weight for name, weight in head.state_dict().items()}
    again = head_from(weights)
    for name, weight in head.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)


def test_biases_without_a_gradient():
    """As the specification lists them for the published networks."""
    generator = ResNetGenerator(ResNetConfig(ngf=2, blocks=2))
    blocks = {f"model.{i}.conv_block.{j}.bias" for i in (12, 13) for j in (1, 5)}
    always = {"model.1.bias", *blocks, "model.15.bias", "model.19.bias"}
    assert zero_gradient_biases(generator, (0, 4, 8, 12)) == always
    assert zero_gradient_biases(generator) == always | {"model.4.bias", "model.8.bias"}
    striding = ResNetGenerator(ResNetConfig(ngf=2, blocks=2, antialias_down=False))
    skipped = zero_gradient_biases(striding, (0, 8, 12))
    assert {"model.4.bias", "model.7.bias"} <= skipped
    assert zero_gradient_biases(PatchGAN(PatchGANConfig(ndf=2))) == {
        "model.3.bias",
        "model.7.bias",
        "model.11.bias",
    }
    assert zero_gradient_biases(ProjectionHead([3])) == set()
    assert not zero_gradient_biases(PatchGAN(PatchGANConfig(ndf=2, norm="batch")))


def test_the_listed_biases_are_exactly_those_without_a_gradient():
    taps = (0, 4, 8, 12)
    generator = ResNetGenerator(ResNetConfig(ngf=2, blocks=2)).double()
    x_BCHW = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    output_BCHW, features = generator.forward_with_taps(x_BCHW, taps)
    (output_BCHW.pow(3).sum() + sum(feature.pow(3).sum() for feature in features)).backward()
    largest = max(weight.grad.abs().max() for weight in generator.parameters())
    without = {
        name
        for name, weight in generator.named_parameters()
        if weight.grad.abs().max() < 1e-12 * largest
    }
    assert without == zero_gradient_biases(generator, taps)
