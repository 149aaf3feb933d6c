import json
from dataclasses import dataclass, fields
from typing import final

import pytest
import torch
from PIL import Image
from torch import nn

from patchkin.cli import main
from patchkin.cli.evaluate import EvaluateOptions
from patchkin.cli.inspect import InspectOptions
from patchkin.cli.translate import TranslateOptions
from patchkin.method import Method
from patchkin.scoring.inspection import similarity_maps
from patchkin.storage.checkpoint import ModelHeader, find_model, read_model, write_tensors
from patchkin.translation.translator import Translator


@pytest.fixture
def image(toy_root):
    return sorted((toy_root / "testA").glob("*.png"))[0]


def test_a_picture_per_point_and_numbers(command, finished_run, image, tmp_path):
    output = tmp_path / "maps"
    points = ("--point", "3,5", "--point", "40,63")
    code, out, err = command(
        "inspect", finished_run, image, *points, "--output", output, "--json", "--device", "cpu"
    )
    assert code == 0, err
    assert "2 pictures" in err
    report = json.loads(out)
    names = [f"{image.stem}_y3_x5.png", f"{image.stem}_y40_x63.png"]
    assert sorted(file.name for file in output.iterdir()) == sorted(names)
    translator = Translator.load(finished_run, complete=True, device="cpu")
    image_CHW, _ = translator.read(image)
    found = similarity_maps(translator.method, image_CHW, [(3, 5), (40, 63)])
    assert [tuple(entry["point"]) for entry in report["points"]] == [(3, 5), (40, 63)]
    for index, entry in enumerate(report["points"]):
        Image.open(entry["file"]).verify()
        assert len(entry["taps"]) == len(found.taps)
        for told, tap in zip(entry["taps"], found.taps, strict=True):
            assert told["tap"] == tap.tap
            assert told["map"] == list(tap.input_PHW.shape[1:])
            assert told["place"] == list(tap.places[index])
            assert told["agreement"] == pytest.approx(tap.agreement(index), abs=1e-5)


def test_chosen_taps_and_plain_output(command, finished_run, image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = command("inspect", finished_run, image, "--point", "0,0", "--tap", "4")
    assert code == 0, err
    assert out == f"inspection/{image.stem}_y0_x0.png\n"
    assert (tmp_path / out.strip()).is_file()
    assert "1 picture in" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--point", "64,0"), "outside the image of 64 x 64 pixels"),
        (("--point", "0"), "A point is Y,X"),
        (("--point", "a,b"), "A point is Y,X"),
        ((), "no point"),
        (("--point", "0,0", "--tap", "1"), "compares no patches at tap 1"),
        (("--pont", "0,0"), "Did you mean `--point`?"),
    ],
)
def test_what_the_user_can_mend_is_one_line(command, finished_run, image, options, message):
    code, out, err = command("inspect", finished_run, image, *options)
    assert code == 2
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


def test_missing_files(command, finished_run, image, tmp_path):
    for model, picture in ((tmp_path / "no", image), (finished_run, tmp_path / "no.png")):
        code, _, err = command("inspect", model, picture, "--point", "0,0")
        assert code == 2
        assert len(err.splitlines()) == 1
        assert "no" in err


def test_a_generator_alone_is_not_enough(command, finished_run, image, tmp_path):
    header, tensors = read_model(find_model(finished_run))
    alone = tmp_path / "generator.safetensors"
    kept = {name: tensor for name, tensor in tensors.items() if name.startswith("G.")}
    write_tensors(alone, kept, header.to_metadata())
    code, _, err = command("inspect", alone, image, "--point", "0,0")
    assert code == 2
    assert "missing" in err
    assert len(err.splitlines()) == 1


def test_the_head_is_that_of_the_file(finished_run):
    _, tensors = read_model(find_model(finished_run))
    loaded = Translator.load(finished_run, complete=True, weights="live", device="cpu").method
    for name, tensor in loaded.state_dict().items():
        torch.testing.assert_close(tensor, tensors[name], rtol=0, atol=0)


@dataclass(frozen=True)
class PlainConfig:
    """Nothing to choose."""


@final
class Plain(Method):
    """A method that compares no patches."""

    name = "plain"
    config_type = PlainConfig

    def __init__(self, config=None):
        super().__init__()
        self.G = nn.Conv2d(3, 3, 1)

    def adam(self):
        return {}

    def train_step(self, batch, update, progress):
        raise NotImplementedError

    def translate(self, x_BCHW):
        return self.G(x_BCHW)


def test_a_method_without_patches(image, tmp_path, capsys):
    model = tmp_path / "plain.safetensors"
    header = ModelHeader(method="plain", config={})
    write_tensors(model, Plain().state_dict(), header.to_metadata())
    arguments = ["inspect", str(model), str(image), "--point", "0,0"]
    assert main(arguments, methods={"plain": Plain}) == 2
    assert "`plain` compares no patches" in capsys.readouterr().err


def test_all_verbs_use_the_same_weights_unless_told():
    """What `inspect` shows is of the model that `translate` uses."""
    defaults = {
        next(field.default for field in fields(options) if field.name == "weights")
        for options in (InspectOptions, TranslateOptions, EvaluateOptions)
    }
    assert defaults == {"averaged"}
