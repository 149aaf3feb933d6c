"""A model that cannot be had or does not fit: one line and exit code 2, one sentence in Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from PIL import Image

from exported_models import saved
from patchkin import Translator
from patchkin.cli import main
from patchkin.errors import PatchkinError

OTHER_PROGRAM = """g (float[N, 3, H, W] input, float[2] scale) => (float[N, 3, H, W] output)
{ output = Relu(input) }"""
OUR_NAMES = """g (float[N, 3, H, W] image) => (float[N, 3, H, W] translation)
{ translation = Relu(image) }"""


def graph(text: str, **metadata: str) -> Callable[[Path], str]:
    """Writes an ONNX file that ONNX Runtime runs."""

    def write(folder: Path) -> str:
        model = onnx.helper.make_model(
            onnx.parser.parse_graph(text),
            ir_version=8,
            opset_imports=[onnx.helper.make_opsetid("", 18)],
        )
        onnx.helper.set_model_props(model, metadata)
        onnx.save(model, folder / "model.onnx")
        return str(folder / "model.onnx")

    return write


def content(name: str, written: bytes) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / name).write_bytes(written)
        return str(folder / name)

    return write


def of_torch(name: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        torch.save({"weight": torch.zeros(3)}, folder / name)
        return str(folder / name)

    return write


def named(name: str) -> Callable[[Path], str]:
    return lambda _: name


OURS = {
    "patchkin.method": "cut",
    "patchkin.channels": "[3, 3]",
    "patchkin.version": "1",
    "patchkin.multiple": "4",
    "patchkin.minimum": "5",
    "patchkin.source_sha256": "0",
}
WAYS = {
    "no onnx": (content("a.onnx", b"<html>Not found</html>"), "is no ONNX model that can be run"),
    "empty onnx": (content("a.onnx", b""), "is no ONNX model that can be run"),
    "a picture": (content("a.onnx", b"\x89PNG\r\n\x1a\n" * 9), "is no ONNX model that can be run"),
    "another program's": (graph(OTHER_PROGRAM), "is no model of patchkin's"),
    "no metadata": (graph(OUR_NAMES, producer="chaiNNer"), "is no model of patchkin's"),
    "other inputs": (graph(OTHER_PROGRAM, **OURS), "contradicts itself"),
    "no such file": (named("nowhere.onnx"), "`nowhere.onnx` cannot be read: No such file"),
    "no such name": (named("horse2zebro"), "horse2zebro"),
    "no such folder": (named("runs/nowhere"), "There is no model at `runs/nowhere`"),
    "no model": (content("a.safetensors", b"\x08" + bytes(20)), "cannot be read as a model"),
    "a checkpoint of torch": (
        of_torch("latest_net_G.pth"),
        "`patchkin import-weights` makes a model",
    ),
    "a program of torch": (of_torch("a.pt2"), "a .pt2 file is for `torch.export.load`"),
    "no network": (named("hf:me/zebra"), "there is no network, or the Hub is not reachable"),
    "no name of the Hub": (named("hf:zebra"), "`zebra` is no name on the Hub"),
}


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("time.sleep", lambda _: None)  # between tries
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_cannot_be_had(tmp_path, capsys, way):
    write, said = WAYS[way]
    model = write(tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "photo.png")
    command = ["translate", model, str(tmp_path / "photo.png"), "-o", str(tmp_path / "out")]
    assert main([*command, "--device", "cpu"]) == 2
    told = capsys.readouterr().err.strip()
    assert "\n" not in told
    assert told.startswith("patchkin: error: ")
    assert said in told
    assert not (tmp_path / "out").exists()
    with pytest.raises(PatchkinError) as error:
        Translator.load(model, device="cpu")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_other_channels_than_the_model_takes(tmp_path, capsys):
    model = saved(tmp_path, "resnet")
    Image.new("RGB", (9, 9)).save(tmp_path / "photo.png")
    np.save(tmp_path / "five.npy", np.zeros((8, 8, 5), np.uint8))
    command = ["translate", str(model), str(tmp_path / "five.npy"), str(tmp_path / "photo.png")]
    assert main([*command, "-o", str(tmp_path / "out")]) == 2
    done, told = capsys.readouterr().err.splitlines()
    assert done.startswith("1 translated into")
    assert told.startswith("patchkin: error: ")
    assert "five.npy` has 5 channels, 3 are wanted" in told
    with pytest.raises(PatchkinError, match=r"An array must be \[H, W, 3\]; got \(8, 8, 5\)"):
        Translator.load(model, device="cpu")(np.zeros((8, 8, 5), np.uint8))
