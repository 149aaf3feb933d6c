"""Exported files in fewer bits, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from exported_models import resnet_method, saved
from patchkin.cli import main
from patchkin.errors import CheckpointError, ConfigError
from patchkin.export import writing
from patchkin.export.writing import ExportSettings, export_model
from patchkin.translation.exported import ExportHeader
from patchkin.translation.onnx_file import OnnxTranslator, providers_of
from patchkin.translation.tiles import Tiles
from patchkin.translation.translator import Translator


@pytest.fixture(scope="module")
def loud(tmp_path_factory) -> Path:
    """A model whose first maps go to thousands, so that their variance is beyond float16."""
    torch.manual_seed(0)
    method = resnet_method(ngf=8)
    with torch.no_grad():
        method.G.model[1].weight.mul_(20_000)
    return saved(tmp_path_factory.mktemp("loud"), method)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, loud) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_model(Translator.load(loud, device="cpu"), path)
    return path


def said(capsys, *command: object) -> str:
    """What a command that is refused says, in one line."""
    assert main(list(map(str, command))) == 2
    told = capsys.readouterr().err.strip()
    assert "\n" not in told, told
    return told


def test_norms_of_half_stay_float32(tmp_path, loud, exported):
    translator = Translator.load(loud, device="cpu")
    x_BCHW = torch.rand(1, 3, 24, 32) * 2 - 1
    first_BCHW = translator.method.G.encode(x_BCHW, (1,))[0]
    assert first_BCHW.square().max() > np.finfo(np.float16).max
    half = export_model(translator, tmp_path / "half.onnx", ExportSettings(numbers="float16"))
    graph = onnx.load(half.path).graph
    types = {entry.name: entry.data_type for entry in graph.initializer}
    weights = [types[node.input[1]] for node in graph.node if node.op_type == "Conv"]
    scales = [
        types[node.input[1]] for node in graph.node if node.op_type == "InstanceNormalization"
    ]
    assert set(weights) == {onnx.TensorProto.FLOAT16}
    assert set(scales) == {onnx.TensorProto.FLOAT}
    assert half.bytes < 0.75 * exported.stat().st_size
    assert half.header.numbers == "float16"
    y_BCHW = OnnxTranslator(half.path, device="cpu").arrays(x_BCHW.numpy())
    assert np.abs(y_BCHW - translator(x_BCHW).numpy()).mean() < 1 / 255
    assert 0 < half.header.difference[0] < 1 / 255


def smooth_images(folder: Path, count: int) -> list[Path]:
    """Spots of colour, alike in their ranges."""
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        coarse = np.random.default_rng(number).integers(0, 256, (5, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((32, 40), Image.Resampling.BICUBIC).save(path)
    return paths


@pytest.fixture
def quick(monkeypatch):
    """int8 is found 1.6 times as fast."""
    monkeypatch.setattr(writing, "times_faster", lambda new, old: (new(), old(), 1.6)[2])


def test_int8_is_kept_only_where_it_is_faster(tmp_path, loud, monkeypatch):
    monkeypatch.setattr(writing, "times_faster", lambda new, old: (new(), old(), 0.9)[2])
    settings = ExportSettings(numbers="int8", calibration=smooth_images(tmp_path, 6))
    with pytest.raises(ConfigError, match=r"int8 is not faster .*\(0.90 times as fast\)"):
        export_model(Translator.load(loud, device="cpu"), tmp_path / "small.onnx", settings)
    assert not (tmp_path / "small.onnx").exists()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("count", "kept", "said"),
    [
        (1, 1, "the image given"),
        (6, 2, "2 images that ranges were not taken from"),
        (5, 1, "an image that ranges were not taken from"),
    ],
)
def test_int8_is_compared_on_images_that_were_kept(tmp_path, loud, count, kept, said):
    paths = smooth_images(tmp_path, count)
    settings = ExportSettings(numbers="int8", calibration=paths, range="0..1")
    translator = Translator.load(loud, device="cpu")
    path = tmp_path / "small.onnx"
    small = export_model(translator, path, settings)
    assert (small.times_faster, small.compared_on) == (1.6, said)
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(path).graph.node}
    runner = OnnxTranslator(path, device="cpu")
    assert runner.header.difference == (small.difference.mean, small.difference.largest)
    assert runner.header.numbers == "int8"
    apart = []
    for each in paths[-kept:]:
        with Image.open(each) as image:
            levels_HWC = np.asarray(image, np.float32)
        x_BCHW = levels_HWC.transpose(2, 0, 1)[None] / 127.5 - 1
        expected_BCHW = translator(torch.from_numpy(x_BCHW)).numpy()
        apart.append(np.abs(runner.arrays(x_BCHW) - expected_BCHW))
    assert 0 < small.difference.mean < 8 / 255
    assert small.difference.mean == pytest.approx(np.mean(apart), rel=1e-4)
    assert small.difference.largest == pytest.approx(np.max(apart), rel=1e-4)


@pytest.mark.usefixtures("quick")
def test_int8_is_refused_where_its_ranges_do_not_hold(tmp_path, loud):
    paths = smooth_images(tmp_path, 6)
    for path in paths[:4]:  # nearly black, and what is kept is not
        with Image.open(path) as image:
            dark = image.point(lambda level: level // 30)
        dark.save(path)
    settings = ExportSettings(numbers="int8", calibration=paths)
    with pytest.raises(CheckpointError, match=r"in int8 does not .* and 0.031 on the mean is"):
        export_model(Translator.load(loud, device="cpu"), tmp_path / "small.onnx", settings)
    assert not (tmp_path / "small.onnx").exists()


def test_a_file_that_translates_otherwise_is_not_written(tmp_path, loud, monkeypatch):
    translator = Translator.load(loud, device="cpu")
    honest = writing.cases_of

    def shifted(*arguments, **named):
        cases = honest(*arguments, **named)
        return [writing.replace(case, expected_BCHW=case.expected_BCHW + 2e-4) for case in cases]

    monkeypatch.setattr(writing, "cases_of", shifted)
    with pytest.raises(CheckpointError, match="does not translate as the network does"):
        export_model(translator, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_commands_that_are_refused(tmp_path, loud, exported, capsys):
    export = ("export", loud, "-o")
    told = said(capsys, *export, tmp_path / "model.tflite")
    assert "must end in .onnx or .pt2" in told
    assert "is there already" in said(capsys, *export, exported)
    told = said(capsys, *export, tmp_path / "a.onnx", "--half", "--int8")
    assert "leave one out" in told
    told = said(capsys, *export, tmp_path / "a.onnx", "--int8")
    assert "name some with --calibrate" in told
    told = said(capsys, *export, tmp_path / "a.onnx", "--calibrate", exported)
    assert "--calibrate is for --int8" in told
    told = said(capsys, *export, tmp_path / "a.pt2", "--half")
    assert "a .pt2 file holds float32" in told
    told = said(capsys, *export, tmp_path / "a.onnx", "--samples", 2)
    assert "gives one translation per image" in told
    assert not list(tmp_path.iterdir())


def with_entries(source: Path, target: Path, **changes: str | None) -> Path:
    """A file with other metadata."""
    model = onnx.load(source)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    entries |= {f"patchkin.{name}": value for name, value in changes.items()}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {k: v for k, v in entries.items() if v is not None})
    onnx.save(model, target)
    return target


def test_files_that_are_no_models_of_ours(tmp_path, exported, capsys):
    Image.new("RGB", (9, 9)).save(tmp_path / "photo.png")
    model = tmp_path / "other.onnx"

    def told() -> str:
        return said(capsys, "translate", model, tmp_path / "photo.png", "-o", tmp_path / "out")

    assert "`other.onnx` cannot be read" in told().replace(f"{tmp_path}/", "")
    model.write_bytes(b"no protobuf at all")
    assert "is no ONNX model that can be run" in told()
    model.write_bytes(exported.read_bytes()[:5000])
    assert "is no ONNX model that can be run" in told()
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, None, None])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3, None, None])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [result]
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, ir_version=8, opset_imports=opset), model)
    assert "is no model of patchkin's" in told()
    with_entries(exported, model, version="99")
    assert "was written by a newer patchkin" in told()
    with_entries(exported, model, channels="[1, 3]")
    assert "contradicts itself" in told()
    with_entries(exported, model, multiple="0")
    assert "`multiple` must be at least 1" in told()
    with_entries(exported, model, unheard="1")
    assert "unheard" in told()
    with_entries(exported, model, range="0..255")
    assert "expected one of -1..1, 0..1" in told()
    assert not (tmp_path / "out").exists()


def test_images_that_do_not_fit(tmp_path, exported, capsys):
    np.save(tmp_path / "five.npy", np.zeros((8, 8, 5), np.uint8))
    Image.new("RGB", (1, 2), (9, 99, 200)).save(tmp_path / "dot.png")
    command = ("translate", exported, tmp_path / "five.npy", tmp_path / "dot.png")
    assert main([*map(str, command), "-o", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert "five.npy" in told[1]
    assert "5 channels" in told[1]
    with Image.open(tmp_path / "out" / "dot.png") as dot:
        assert dot.size == (1, 2)  # below the network's smallest


@pytest.mark.parametrize(
    "options",
    [
        ("--precision", "bf16-mixed"),
        ("--reference", "a.png"),
        ("--which", "best"),
    ],
)
def test_what_was_decided_when_the_file_was_written_is_refused(tmp_path, exported, capsys, options):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    told = said(capsys, "translate", exported, tmp_path / "a.png", "-o", tmp_path / "out", *options)
    assert told.startswith(f"patchkin: error: {options[0]} needs the model itself")


def test_an_image_that_needs_more_memory_is_one_line(tmp_path, exported, capsys, monkeypatch):
    """What ONNX Runtime raises has no type of its own; the next image is translated."""
    for name, width in (("a.png", 40), ("b.png", 9)):
        Image.new("RGB", (width, 9)).save(tmp_path / name)
    whole = OnnxTranslator._run

    class Full:
        def run(self, *_: object) -> None:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 9999")

    def run(self, feed):
        session = self._session
        if feed["image"].shape[-1] == 40:
            self._session = Full()
        try:
            return whole(self, feed)
        finally:
            self._session = session

    monkeypatch.setattr(OnnxTranslator, "_run", run)
    command = ("translate", exported, tmp_path / "a.png", tmp_path / "b.png")
    assert main([*map(str, command), "-o", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("1 translated")
    assert told[1].endswith(
        "needs more memory than there is (--tile 512, or smaller parts, need less)."
    )
    assert (tmp_path / "out" / "b.png").is_file()


@pytest.mark.parametrize("kind", ["file", "model"])
def test_large_images_are_translated_in_parts(tmp_path, loud, exported, capsys, kind):
    levels = np.random.default_rng(0).integers(0, 256, (70, 45, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    model = exported if kind == "file" else loud
    command = ["translate", str(model), str(tmp_path / "a.png"), "-o", str(tmp_path / "out")]
    in_parts = [*command, "--tile", "32", "--overlap", "8"]
    assert main([*in_parts, "--tile-norm", "tile"]) == 0
    assert "take statistics over each part" in capsys.readouterr().err
    x_BCHW = levels.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1
    expected_BCHW = np.zeros_like(x_BCHW)
    translator = Translator.load(loud, device="cpu")
    for rows, columns, weight_HW in Tiles(side=32, overlap=8).over(70, 45, grid=4):
        part_BCHW = translator(torch.from_numpy(x_BCHW[..., rows, columns]))
        expected_BCHW[..., rows, columns] += part_BCHW.numpy() * weight_HW
    expected_HWC = ((expected_BCHW[0].transpose(1, 2, 0) + 1) * 127.5).round()
    got_HWC = levels_of(tmp_path / "out" / "a.png").astype(int)
    assert np.abs(got_HWC - expected_HWC).max() <= 1
    assert main(command) == 0  # whole, and therefore made anew
    assert "1 made with other options" in capsys.readouterr().err
    assert "leave out --tile" in said(capsys, *command, "--tile", 32, "--resize", 32)
    assert "from 0 to half of --tile, 16" in said(capsys, *command, "--tile", 32, "--overlap", 17)


def test_providers():
    everywhere = ["CoreMLExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert providers_of("auto", everywhere)[0] == "CUDAExecutionProvider"
    assert providers_of("mps", everywhere) == ["CoreMLExecutionProvider", "CPUExecutionProvider"]
    assert providers_of("cpu", everywhere) == ["CPUExecutionProvider"]
    with pytest.raises(ConfigError, match="--device cuda: this ONNX Runtime has no CUDA"):
        providers_of("cuda", ["CPUExecutionProvider"])


def levels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_styles_of_a_file_are_those_of_the_model(tmp_path, capsys):
    model = saved(tmp_path, "starganv2", domains=["cat", "dog", "wild"])
    settings = ("--samples", "2", "--seed", "4", "--json")
    assert main(["export", str(model), "-o", str(tmp_path / "m.onnx"), *settings]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["num_domains"] == 3
    assert len(about["styles"]) == 3 * (1 + 2)
    levels = np.random.default_rng(0).integers(0, 256, (20, 22, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    options = ["--domain", "dog", "--samples", "2", "--seed", "4"]
    for name, out in ((model, "with"), (tmp_path / "m.onnx", "without")):
        command = ["translate", str(name), str(tmp_path / "a.png"), "-o", str(tmp_path / out)]
        assert main([*command, *options]) == 0
        assert main([*command, "--domain", "wild"]) == 0
    for name in ("a_dog_s0.png", "a_dog_s1.png", "a_wild.png"):
        ours, theirs = (levels_of(tmp_path / out / name) for out in ("without", "with"))
        assert np.abs(ours.astype(int) - theirs).max() <= 1
    capsys.readouterr()
    told = said(capsys, *command, "--domain", "dog", "--samples", 3, "--seed", 4)
    assert "holds no style of domain 1, seed 4, number 2" in told
    assert "add --domain: 0 cat, 1 dog, 2 wild" in said(capsys, *command)
    header = OnnxTranslator(tmp_path / "m.onnx", device="cpu").header
    assert header == ExportHeader.from_metadata(header.to_metadata(), "again")
