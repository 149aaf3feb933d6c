"""`Translator.load("model.onnx")`: the same kinds in and out as a model with torch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from PIL import Image

from exported_models import saved
from patchkin import Translator
from patchkin.cli import main
from patchkin.errors import CheckpointError, ConfigError, DataError, ShapeError
from patchkin.export.writing import export_model
from patchkin.translation.exported import ExportedStyle, ExportHeader
from patchkin.translation.onnx_file import OnnxTranslator
from patchkin.translation.resizing import Resizing


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Path, Path]:
    """A model, and what was exported of it."""
    folder = tmp_path_factory.mktemp("both")
    model = saved(folder, "resnet", value_range=[0, 4095])
    export_model(Translator.load(model, device="cpu"), folder / "m.onnx")
    return model, folder / "m.onnx"


@pytest.fixture
def translators(both):
    return [Translator.load(path, device="cpu") for path in both]


def levels(*shape: int, dtype: str = "uint8", most: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, most, shape).astype(dtype)


def test_every_kind_comes_back_as_with_torch(translators, tmp_path):
    with_torch, exported = translators
    assert isinstance(exported, OnnxTranslator)
    Image.fromarray(levels(23, 17, 4), "RGBA").save(tmp_path / "a.png")
    np.save(tmp_path / "deep.npy", levels(9, 8, 3, dtype="uint16", most=4096))
    x_CHW = torch.rand(3, 19, 22) * 2 - 1
    given = [
        tmp_path / "a.png",
        str(tmp_path / "deep.npy"),
        Image.open(tmp_path / "a.png"),
        Image.fromarray(levels(9, 8)),
        levels(12, 31, 3),
        levels(12, 31),
        levels(12, 31, dtype="uint16", most=4096),
        levels(12, 31, dtype="float32", most=4096),
        x_CHW,
        x_CHW.double()[None].repeat(2, 1, 1, 1),
    ]
    for one, ours, theirs in zip(given, exported(given), with_torch(given), strict=True):
        assert type(ours) is type(theirs), one
        if isinstance(ours, torch.Tensor):
            assert ours.dtype == one.dtype
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
            continue
        a, b = np.asarray(ours), np.asarray(theirs)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        most = 1 if a.dtype == np.uint8 else 1e-4 * 4095 / 2 + 1
        assert np.abs(a.astype(float) - b.astype(float)).max() <= most
    assert exported([]) == []


def test_what_it_does_not_take_is_one_sentence(translators):
    for translator in translators:
        with pytest.raises(ShapeError, match=r"A tensor must be \[3, H, W\] or .*got \(4, 9, 9\)"):
            translator(torch.zeros(4, 9, 9))
        with pytest.raises(DataError, match="must hold floats"):
            translator(torch.zeros(3, 9, 9, dtype=torch.uint8))
        with pytest.raises(ShapeError, match=r"An array must be \[H, W, 3\]; got \(9, 9, 5\)"):
            translator(np.zeros((9, 9, 5), np.uint8))
        with pytest.raises(DataError, match="got `dict`"):
            translator({})
        with pytest.raises(ShapeError, match="one style for each of 2 images; got 1"):
            translator([levels(9, 9, 3)] * 2, torch.zeros(1, 3))
        with pytest.raises(DataError, match=r"`nowhere\.png` does not exist"):
            translator("nowhere.png")


def shifting(path: Path) -> Path:
    """A graph made by hand, with a style: half the image, plus a tenth of the style's numbers."""
    about = {"method": "munit", "channels": (3, 3), "multiple": 1, "minimum": 1}
    style = ExportedStyle(domain=0, name="", origin="domain 0", numbers=(1.0, 2.0, 3.0))
    header = ExportHeader(**about, source_sha256="0", styles=(style,))
    model = onnx.helper.make_model(
        onnx.parser.parse_graph(
            """g (float[B, 3, H, W] image, float[B, 3] style) => (float[B, 3, H, W] translation)
            <int64[2] axes = {2, 3}, float half = {0.5}, float tenth = {0.1}>
            { scaled = Mul(image, half)
              small = Mul(style, tenth)
              shift = Unsqueeze(small, axes)
              translation = Add(scaled, shift) }"""
        ),
        ir_version=8,
        opset_imports=[onnx.helper.make_opsetid("", 18)],
    )
    onnx.helper.set_model_props(model, header.to_metadata())
    onnx.save(model, path)
    return path


def test_styles_are_arrays_or_tensors(tmp_path):
    exported = Translator.load(shifting(tmp_path / "m.onnx"), device="cpu")
    styles_BS = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, -1.0]])
    x_BCHW = torch.rand(2, 3, 5, 7) * 2 - 1
    expected_BCHW = x_BCHW / 2 + styles_BS[:, :, None, None] / 10
    for given_BS in (styles_BS, styles_BS.numpy()):
        torch.testing.assert_close(exported(x_BCHW, given_BS), expected_BCHW)
        torch.testing.assert_close(torch.stack(exported(list(x_BCHW), given_BS)), expected_BCHW)
    usual_CHW = x_BCHW[0] / 2 + torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    torch.testing.assert_close(exported(x_BCHW[0]), usual_CHW)


def test_the_hub_has_no_exported_models(translators, tmp_path):
    _, exported = translators
    for put in (exported.save_pretrained, exported.push_to_hub):
        with pytest.raises(
            ConfigError, match=r"The Hub needs the model itself, and `.*m\.onnx` is"
        ):
            put(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_threads_share_one(translators):
    _, exported = translators
    images = [levels(20 + n, 30, 3) for n in range(6)]
    alone = [exported(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for ours, theirs in zip(pool.map(exported, images), alone, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("enlarging", ["plain", "joint"])
def test_large_images_at_a_smaller_size(both, tmp_path, enlarging):
    Image.fromarray(levels(60, 45, 3)).save(tmp_path / "a.png")
    resizing = Resizing(side=24, enlarging=enlarging)
    made = []
    for path in both:
        command = ["translate", str(path), str(tmp_path / "a.png"), "-o", str(tmp_path / path.stem)]
        assert main([*command, "--resize", "24", "--enlarge", enlarging]) == 0
        with Image.open(tmp_path / path.stem / "a.png") as image:
            made.append(np.asarray(image).astype(int))
        translator = Translator.load(path, device="cpu", resizing=resizing)
        np.testing.assert_array_equal(np.asarray(translator(tmp_path / "a.png")), made[-1])
    assert made[0].shape == (60, 45, 3)
    assert np.abs(made[0] - made[1]).max() <= 1
    assert np.abs(made[0] - made[0].mean()).max() > 5


def test_what_was_decided_when_it_was_exported(both):
    path = both[1]
    for options, said in {
        "direction": ("BtoA", "direction='BtoA' needs the model itself"),
        "precision": ("bf16-mixed", "precision='bf16-mixed' needs the model itself"),
        "which": ("best", "`which` needs the model itself"),
        "complete": (True, "This needs the model itself"),
    }.items():
        with pytest.raises(ConfigError, match=said[1]):
            Translator.load(path, device="cpu", **{options: said[0]})
    ranges = ((0.0, 255.0), (0.0, 255.0))
    assert Translator.load(path, device="cpu", value_ranges=ranges).value_ranges == ranges
    with pytest.raises(ConfigError, match="needs the model itself"):
        _ = Translator.load(path, device="cpu").method
    with pytest.raises(CheckpointError, match="cannot be read"):
        Translator.load(path.with_name("nowhere.onnx"))


@pytest.mark.parametrize("verb", ["evaluate", "inspect", "push", "export", "compress", "train"])
def test_verbs_that_need_the_model_itself_say_so(both, tmp_path, capsys, verb):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    out = tmp_path / "out.onnx"
    arguments = {
        "evaluate": [both[1], "--data", tmp_path, "--device", "cpu"],
        "inspect": [both[1], tmp_path / "a.png", "--point", "9,9", "-o", out],
        "push": [both[1], "me/mine", "--output", out],
        "export": [both[1], "-o", out],
        "compress": ["cost", both[1]],
        "train": ["cut", "--from", both[1], "--data", tmp_path],
    }[verb]
    assert main([verb, *map(str, arguments)]) == 2
    told = capsys.readouterr().err.strip()
    assert told.count("\n") == 0, told
    assert told.startswith("patchkin: error: ")
    assert not out.exists()


@pytest.mark.parametrize("place", ["w.bin", "../w.bin", "/etc/hostname"])
def test_tensors_in_other_files_are_refused(both, tmp_path, monkeypatch, place):
    """Or whoever makes a model could have files of its user read into translations."""
    path = tmp_path / "in" / "m.onnx"
    path.parent.mkdir()
    model = onnx.load(both[1])
    onnx.save_model(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").write_bytes((path.parent / "w.bin").read_bytes())
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = place if entry.key == "location" else entry.value
    path.write_bytes(model.SerializeToString())
    monkeypatch.chdir(path.parent)
    with pytest.raises(CheckpointError, match=r"m\.onnx` is no ONNX model that can be run: "):
        OnnxTranslator(path, device="cpu")
