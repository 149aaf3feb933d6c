"""A folder is translated where torch is not installed, in an environment of its own.

The environment has what `pip install 'patchkin[onnx-runtime]'` brings, by links to what is
installed here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
import venv
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

import patchkin
from exported_models import saved
from patchkin.cli import main
from patchkin.export.writing import ExportSettings, export_model
from patchkin.images import read_image
from patchkin.translation.resizing import Resizing
from patchkin.translation.translator import Translator

SOURCES = Path(patchkin.__file__).parents[1]
PROJECT = SOURCES.parent / "pyproject.toml"


def required(*extras: str) -> set[str]:
    """The distributions that pip would install, as far as they are installed here."""
    text = PROJECT.read_text(encoding="utf-8")
    blocks = [re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)]
    blocks += [
        re.search(rf"^{extra} = \[(.*?)\]", text, re.DOTALL | re.MULTILINE) for extra in extras
    ]
    todo = [name for block in blocks if block for name in re.findall(r'"([^"]+)"', block[1])]
    found: set[str] = set()
    while todo:
        requirement = Requirement(todo.pop())
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        if requirement.name.lower() not in found:
            found.add(requirement.name.lower())
            todo += metadata.requires(requirement.name) or []
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of the environment."""
    folder = tmp_path_factory.mktemp("without") / "env"
    venv.create(folder, with_pip=False, symlinks=True)
    here = Path(sysconfig.get_path("purelib"))
    (there,) = folder.glob("lib/python*/site-packages")
    names = required("onnx-runtime") | {"tifffile", "imagecodecs"}
    assert not names & {"torch", "torchvision", "lightning-fabric", "safetensors"}
    for name in sorted(names):
        files = metadata.files(name) or []
        for top in sorted({file.parts[0] for file in files} - {"..", "__pycache__"}):
            if not (there / top).exists():
                (there / top).symlink_to(here / top)
    return folder / "bin" / "python"


def patchkin_in(python: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    command = [str(python), "-m", "patchkin", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def photos(folder: Path) -> Path:
    """Files of several formats, depths and sizes, none that the network takes without padding."""
    import tifffile

    random = np.random.default_rng(0)
    (folder / "deep").mkdir(parents=True)
    levels = random.integers(0, 256, (23, 37, 4), dtype=np.uint8)
    Image.fromarray(levels, "RGBA").save(folder / "alpha.png")
    Image.fromarray(levels[:, :, :3]).save(folder / "deep" / "photo.jpg")
    Image.fromarray(levels[:3, :4, 0]).save(folder / "tiny.png")
    stack = random.integers(0, 4096, (3, 19, 26, 3), dtype=np.uint16)
    tifffile.imwrite(folder / "stack.tif", stack, photometric="rgb", compression="lzw")
    frames = [Image.fromarray(random.integers(0, 256, (12, 14, 3), dtype=np.uint8)) for _ in "ab"]
    frames[0].save(folder / "moving.png", save_all=True, append_images=frames[1:])
    return folder


@pytest.mark.parametrize("numbers", ["-1..1", "0..1"])
def test_the_same_command_gives_the_same_pixels(tmp_path, python, numbers, capsys):
    model = saved(tmp_path, "resnet", value_range=[0, 4095])
    translator = Translator.load(model, device="cpu")
    export_model(translator, tmp_path / "model.onnx", ExportSettings(range=numbers))
    inputs = photos(tmp_path / "photos")
    options = (
        ("--max-pixels", 10**6) if numbers == "0..1" else ("--format", "tif", "--pages", "first")
    )
    done = patchkin_in(
        python, "translate", tmp_path / "model.onnx", inputs, "-o", tmp_path / "without", *options
    )
    assert done.returncode == 0, done.stderr
    assert f"5 translated into {tmp_path / 'without'}" in done.stderr
    command = ["translate", model, inputs, "-o", tmp_path / "with", *options]
    assert main(list(map(str, command))) == 0
    capsys.readouterr()
    names = [
        sorted(p.relative_to(tmp_path / out) for p in (tmp_path / out).rglob("[!.]*.*[fg]"))
        for out in ("with", "without")
    ]
    assert names[0] == names[1]
    assert len(names[0]) == 5
    for name in names[0]:
        ours, theirs = (read_image(tmp_path / out / name) for out in ("without", "with"))
        assert ours.encoding == theirs.encoding
        a, b = (np.asarray(picture.pixels).astype(int) for picture in (ours, theirs))
        most = 4095 / 255 if ours.encoding.bits == 16 else 1
        assert np.abs(a - b).max() <= most, name
        assert np.array_equal(ours.alpha, theirs.alpha)
    again = patchkin_in(
        python, "translate", tmp_path / "model.onnx", inputs, "-o", tmp_path / "without", *options
    )
    assert "0 translated" in again.stderr
    assert "5 already there" in again.stderr


IN_PYTHON = """
import sys
import numpy as np
from patchkin import Translator
from patchkin.translation.resizing import Resizing
resizing = None if sys.argv[4] == "0" else Resizing(side=int(sys.argv[4]))
translator = Translator.load(sys.argv[1], device="cpu", resizing=resizing)
translated = translator([sys.argv[2], np.load(sys.argv[3])])
np.save(sys.argv[3], np.asarray(translated[0]))
assert np.array_equal(translated[0], translated[1])
assert not {"torch", "torchvision", "safetensors"} & sys.modules.keys()
try:
    Translator.load("runs/mine")
except Exception as error:
    print(error)
"""


def test_the_same_in_python(tmp_path, python):
    model = saved(tmp_path, "resnet")
    export_model(Translator.load(model, device="cpu"), tmp_path / "model.onnx")
    levels = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    for side in (0, 24):
        resizing = Resizing(side=side) if side else None
        expected = Translator.load(model, device="cpu", resizing=resizing)(levels)
        np.save(tmp_path / "a.npy", levels)
        arguments = [tmp_path / name for name in ("model.onnx", "a.png", "a.npy")]
        done = subprocess.run(
            [str(python), "-c", IN_PYTHON, *map(str, arguments), str(side)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(SOURCES)},
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("`runs/mine` needs torch: in a checkout of patchkin")
        ours = np.load(tmp_path / "a.npy").astype(int)
        assert np.abs(ours - expected).max() <= 1


def test_what_needs_torch_says_so(tmp_path, python):
    model = saved(tmp_path, "resnet")
    for command in (("translate", model, tmp_path, "-o", tmp_path / "out"), ("train", "cut")):
        done = patchkin_in(python, *command)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1
        assert "pip install -c constraints.txt '.[torch]' brings it" in done.stderr
        assert "pip install torch" not in done.stderr
    told = patchkin_in(python, "doctor")
    assert told.returncode == 0
    assert "not installed. All but translating with ONNX files needs torch" in told.stdout
