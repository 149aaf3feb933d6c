"""Scores while training: on pixels of the run's value range, in files of any depth."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torchvision.models import squeezenet1_1

from cli.conftest import TINY
from patchkin import Translator
from patchkin.cli import main
from patchkin.data.config import DataConfig
from patchkin.data.domains import find_domain_files
from patchkin.data.layouts import find_domains
from patchkin.data.toy import write_domain_toy, write_toy
from patchkin.images import Encoding, read_image, safe_levels, to_tensor, write_image
from patchkin.metrics import compare, file_statistics, find_protocol, output_statistics
from patchkin.metrics.extractors import SqueezeNetExtractor
from patchkin.scoring.validation import (
    CounterpartValidation,
    DomainValidation,
    ProtocolValidation,
)
from scoring.tiny import TinySqueezeNet
from tinting import TintConfig, TintPair

TWELVE_BITS = (0.0, 4095.0)
"""Values of a camera of 12 bits, in files of 16."""
SIDE = 64


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PATCHKIN_CACHE", str(tmp_path / "cache"))


def in_twelve_bits(eight_bits, folder):
    """The same set, but for its masks, in values from 0 to 4095; whiter than black all over."""
    for path in sorted(eight_bits.rglob("*.png")):
        target = folder / path.relative_to(eight_bits)
        picture = read_image(path, 3)
        if "_masks" in str(target.relative_to(folder)):
            write_image(target, to_tensor(picture), Encoding(8, 3))
        else:
            write_image(target, to_tensor(picture), Encoding(16, 3), value_range=TWELVE_BITS)
            assert 255 < int(read_image(target).pixels.max()) <= 4095
    return folder


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """The toy set in 8 and in 12 bits."""
    folder = tmp_path_factory.mktemp("toys")
    write_toy(folder / "8", size=SIDE, train=4, test=3)
    return folder / "8", in_twelve_bits(folder / "8", folder / "12")


@pytest.fixture(scope="module")
def unknown(toys, tmp_path_factory):
    """The same without hidden counterparts."""
    folder = tmp_path_factory.mktemp("unknown")
    for root, name in zip(toys, ("8", "12"), strict=True):
        for path in (p for p in root.rglob("*.png") if p.parent.name[-2] != "_"):
            target = folder / name / path.relative_to(root)
            if not path.parent.name.endswith(("_true", "_masks")):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(path)
    return folder / "8", folder / "12"


@pytest.fixture(scope="module")
def domains(tmp_path_factory):
    folder = tmp_path_factory.mktemp("domains")
    write_domain_toy(folder / "8", size=SIDE, train=2, test=2)
    return folder / "8", in_twelve_bits(folder / "8", folder / "12")


def test_distances_to_real_images_of_twelve_bits(unknown):
    """A method that changes nothing: the distance between the domains, whatever the files."""
    protocol, extractor = find_protocol("squeezenet-256"), TinySqueezeNet()
    unchanging = TintPair(TintConfig(strength=0.0))

    def scores(root, value_range):
        files = find_domains(DataConfig(root=str(root)))
        validation = ProtocolValidation(
            inputs=files.val_a,
            real=files.val_b,
            size=SIDE,
            value_ranges=(value_range, value_range),
            extractor=extractor,
            protocol=protocol,
        )
        with torch.no_grad():
            return validation(unchanging)

    eight, twelve = unknown
    files = find_domains(DataConfig(root=str(eight)))
    expected = compare(
        *(file_statistics(paths, protocol, extractor) for paths in (files.val_b, files.val_a))
    )
    found = scores(twelve, TWELVE_BITS)  # the protocol truncates what 8 bits cannot hold
    assert found["squeezenet-256/frechet"] == pytest.approx(expected.frechet, rel=5e-3)
    assert found["squeezenet-256/kernel"] == pytest.approx(expected.kernel, rel=5e-3)
    assert found["change"] < 0.1
    dark = scores(twelve, None)  # nearly black in both domains, where 65535 is white
    assert dark["squeezenet-256/frechet"] < expected.frechet / 50


def test_counterparts_of_twelve_bits(toys):
    def baseline(root, value_range):
        return CounterpartValidation(
            inputs=find_domains(DataConfig(root=str(root))).val_a,
            size=SIDE,
            channels=(3, 3),
            value_ranges=(value_range, value_range),
        ).baseline()

    eight, twelve = toys
    expected, found = baseline(eight, None), baseline(twelve, TWELVE_BITS)
    assert found == pytest.approx(expected, rel=1e-2, abs=0.05)
    assert baseline(twelve, None)["tone_inside"] < expected["tone_inside"] / 15


def test_several_domains_of_twelve_bits(domains):
    def baseline(root, value_range):
        files = find_domain_files(DataConfig(root=str(root)))
        return DomainValidation(
            names=files.names,
            paths=files.val,
            size=SIDE,
            value_range=value_range,
            extractor=TinySqueezeNet(),
            protocol=find_protocol("squeezenet-256"),
        ).baseline()

    eight, twelve = domains
    expected, found = baseline(eight, None), baseline(twelve, TWELVE_BITS)
    assert expected["latent/squeezenet-256/frechet"] > 0
    assert found == pytest.approx(expected, rel=1e-2, abs=0.05)
    distances = [scores["reference/squeezenet-256/frechet"] for scores in (expected, found)]
    assert distances[1] == pytest.approx(distances[0], rel=5e-3)
    assert baseline(twelve, None)["latent/tone_inside"] < expected["latent/tone_inside"] / 15


def test_a_run_of_twelve_bits_is_scored_on_what_it_was_trained_on(unknown, tmp_path, capsys):
    """`--data.value-range 0 4095`: scores of the run and of `evaluate`, from the pixels anew."""
    eight, twelve = unknown
    torch.manual_seed(0)
    weights = tmp_path / "squeezenet.pth"
    torch.save(squeezenet1_1(weights=None).state_dict(), weights)
    run_dir = tmp_path / "run"
    train = ("train", "cut", "--data", twelve, "--run-dir", run_dir, *TINY, "--steps", 2)
    train += ("--size", SIDE, "--data.load-size", SIDE, "--data.value-range", 0, 4095, "--json")
    train += ("--score-every", 2, "--training.score-weights", weights)
    assert main([*map(str, train)]) == 0
    logged = json.loads(capsys.readouterr().out)["scores"]["2"]

    translator = Translator.load(run_dir, device="cpu")
    changes, outputs = [], []
    for path in sorted((twelve / "valA").iterdir()):
        pixels_CHW = torch.from_numpy(read_image(path).pixels.astype(np.float64))
        x_CHW = (pixels_CHW / 4095 * 2 - 1).float()
        y_CHW = translator(x_CHW[None])[0].clamp(-1, 1)
        levels_CHW = ((y_CHW + 1) * 127.5).round()
        changes.append(float((levels_CHW / 127.5 - 1 - x_CHW).abs().mean()) * 127.5)
        outputs.append((path.stem, safe_levels(levels_CHW)))
    assert logged["change"] == pytest.approx(np.mean(changes), rel=1e-4)

    protocol, extractor = find_protocol("squeezenet-256"), SqueezeNetExtractor(weights)
    translated = output_statistics(outputs, protocol, extractor)

    def distance(root):
        real = file_statistics(sorted((root / "valB").iterdir()), protocol, extractor)
        return compare(real, translated).frechet

    assert logged["squeezenet-256/frechet"] == pytest.approx(distance(eight), rel=5e-3)
    assert distance(twelve) != pytest.approx(distance(eight), rel=5e-2)  # read as 16 bits

    evaluate = ("evaluate", run_dir, "--data", twelve, "--split", "val", "--json", "--protocol")
    assert main([*map(str, evaluate)]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["scores"]["change"] == pytest.approx(logged["change"], rel=1e-6)
    assert result["data"]["value_ranges"] == [[0, 4095], [0, 4095]]
    kept = (*evaluate[:-1], "--keep", tmp_path / "kept", "--protocol")
    assert main([*map(str, kept)]) == 0
    (again,) = json.loads(capsys.readouterr().out)["results"]
    assert again["scores"] == result["scores"]
