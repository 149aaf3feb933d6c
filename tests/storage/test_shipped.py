"""Models that come with the package: found by name, stored in half, used in single precision."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from methods.test_contract import build
from patchkin.cli import main
from patchkin.config import to_plain
from patchkin.errors import CheckpointError
from patchkin.images import read_image, to_tensor, to_uint8, write_pillow
from patchkin.storage import shipped
from patchkin.storage.checkpoint import ModelHeader, find_model, read_model, write_tensors
from patchkin.storage.shipped.records import Record
from patchkin.translation.translator import Translator
from support import random_batch

REPOSITORY = Path(__file__).parents[2]


def write_half(method, folder):
    """As `benchmarks/shipping/ship.py` does: the generator alone, in float16."""
    folder.mkdir(parents=True)
    half = {f"G.{name}": tensor.half() for name, tensor in method.G.state_dict().items()}
    header = ModelHeader(method=method.name, config=to_plain(method.config), step=7, size=32)
    write_tensors(folder / shipped.MODEL_FILE, half, header.to_metadata())


@pytest.fixture
def method():
    return build("cut")


@pytest.fixture
def shipment(method, tmp_path, monkeypatch):
    """A package with one model, seen from an empty folder."""
    folder = tmp_path / "shipped"
    write_half(method, folder / "horse2zebra-preview")
    monkeypatch.setattr(shipped, "FOLDER", folder)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


@pytest.mark.parametrize("name", ["horse2zebra", "horse2zebra-preview"])
def test_a_name_stands_for_the_file_with_and_without_preview(shipment, name):
    assert find_model(Path(name)) == shipment / "horse2zebra-preview" / "model.safetensors"


def test_the_name_without_preview_prefers_the_model_that_has_it(shipment, method):
    write_half(method, shipment / "horse2zebra")
    assert find_model(Path("horse2zebra")).parent.name == "horse2zebra"
    assert find_model(Path("horse2zebra-preview")).parent.name == "horse2zebra-preview"


def test_a_path_wins(shipment, method):
    header = ModelHeader(method=method.name, config=to_plain(method.config))
    write_tensors(Path("horse2zebra"), method.state_dict(), header.to_metadata())
    assert find_model(Path("horse2zebra")) == Path("horse2zebra")


def test_a_data_set_of_the_same_name_is_told_apart(shipment):
    Path("horse2zebra/trainA").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="neither a model nor a run folder") as caught:
        find_model(Path("horse2zebra"))
    assert str(caught.value).endswith(
        "For the shipped model `horse2zebra-preview`, call from a folder without a `horse2zebra`."
    )


def test_an_unknown_name_lists_what_there_is(shipment):
    with pytest.raises(CheckpointError) as caught:
        find_model(Path("cats"))
    assert str(caught.value) == (
        "There is no model at `cats`: no such file or folder, and no model of this name is "
        "shipped. Known: horse2zebra-preview."
    )
    with pytest.raises(CheckpointError, match="Did you mean `horse2zebra-preview`"):
        find_model(Path("horse2zebre"))


def test_an_unknown_record_offers_the_nearest(shipment):
    with pytest.raises(CheckpointError) as caught:
        shipped.find_record("horse2zebre")
    assert str(caught.value) == ("Unknown model `horse2zebre`. Did you mean `horse2zebra-preview`?")


def test_a_file_that_is_not_that_of_its_record_is_told(shipment):
    file = shipment / "horse2zebra-preview" / "model.safetensors"
    record = Record(name="horse2zebra-preview", sha256="ab" * 32)
    with pytest.raises(CheckpointError) as caught:
        shipped.file_of(record)
    assert str(caught.value) == (
        f"`{file}` is not the file of its record, whose SHA-256 is {record.sha256}; install "
        "patchkin again."
    )
    assert shipped.file_of(Record(name="horse2zebra-preview")) == file


def test_what_is_said_of_the_models_that_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    assert shipped.shipped_sentence() == ""
    for name, file in (
        ("b", shipped.RECORD_FILE),
        ("d", shipped.MODEL_FILE),
        ("a", shipped.RECORD_FILE),
        ("c", shipped.MODEL_FILE),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    assert shipped.shipped_sentence() == "Shipped models: c, d. Fetched by name: a, b."


def test_a_path_is_no_name(shipment):
    with pytest.raises(CheckpointError, match=r"no such file or folder\.$"):
        find_model(Path("models/horse2zebra"))


def test_half_precision_is_read_into_single(shipment, method):
    _, tensors = read_model(find_model(Path("horse2zebra")))
    assert {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()} == {
        torch.float32
    }
    for name, tensor in method.G.state_dict().items():
        assert torch.equal(tensors[f"G.{name}"], tensor.half().float())


def test_it_translates_as_the_network_rounded_to_half_does(shipment, method):
    x = random_batch(1).a_BCHW
    y = Translator.load("horse2zebra", device="cpu")(x)
    with torch.no_grad():
        for tensor in method.G.state_dict().values():
            tensor.copy_(tensor.half().float())
    assert torch.equal(y, Translator(method, device="cpu", owned=True)(x))


def test_the_command_translates_a_photo_by_name(shipment, capsys):
    photo = to_tensor(read_image(_photo(Path("photo.png")), 3))
    assert main(["translate", "horse2zebra", "photo.png", "-o", "out", "--device", "cpu"]) == 0
    expected = Translator.load("horse2zebra", device="cpu")(photo[None])[0]
    written = to_tensor(read_image(Path("out/photo.png"), 3))
    assert float((written - expected).abs().max()) <= 0.5 / 127.5 + 1e-6


def test_the_command_names_what_is_shipped(shipment, capsys):
    _photo(Path("photo.png"))
    assert main(["translate", "horse2zebre", "photo.png", "-o", "out"]) == 2
    assert "Did you mean `horse2zebra-preview`?" in capsys.readouterr().err
    assert main(["methods"]) == 0
    assert "Shipped models: horse2zebra-preview." in capsys.readouterr().out


def test_every_model_in_the_package_is_small_has_a_card_and_loads():
    for name in shipped.shipped_names():
        folder = shipped.FOLDER / name
        assert (folder / shipped.MODEL_FILE).stat().st_size < 1_000_000
        card = (folder / shipped.CARD_FILE).read_text(encoding="utf-8")
        rows = [line.split("|") for line in card.splitlines() if line.startswith("| ")]
        assert rows[0][2].strip() == "protocol"  # without it a figure says nothing
        assert all(row[2].strip() for row in rows)
        if name.startswith("horse2zebra"):
            assert "| GAN Compression's released generator |" in card  # measured beside it
        y = Translator.load(folder / shipped.MODEL_FILE, device="cpu")(torch.zeros(1, 3, 32, 32))
        assert y.isfinite().all()


def test_the_wheel_carries_models_and_cards(method, tmp_path):
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    source = REPOSITORY / "src/patchkin"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source, tmp_path / "src/patchkin", ignore=ignored)
    folder = tmp_path / "src/patchkin/storage/shipped/fake"
    write_half(method, folder)
    (folder / shipped.CARD_FILE).write_text("a card", encoding="utf-8")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "patchkin/storage/shipped/fake/model.safetensors" in names
    assert "patchkin/storage/shipped/fake/MODEL_CARD.md" in names
    records = {f"patchkin/storage/shipped/{name}/model.json" for name in shipped.known_names()}
    assert records <= set(names)
    parts = {f"patchkin/export/page/{name}" for name in ("index.html", "page.css", "page.js")}
    assert parts <= set(names)


def _photo(path: Path) -> Path:
    pixels_CHW = to_uint8(random_batch(1, size=(37, 45)).a_BCHW[0])
    write_pillow(path, Image.fromarray(pixels_CHW.permute(1, 2, 0).numpy()))
    return path
