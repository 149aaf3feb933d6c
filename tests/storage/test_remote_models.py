"""Models that are known by name and are not in the package: fetched once, by hash."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from methods.test_contract import build
from patchkin.cli import main
from patchkin.errors import CheckpointError, ConfigError, DownloadError
from patchkin.storage import shipped
from patchkin.storage.checkpoint import find_model
from patchkin.storage.shipped.records import RECORD_FILE, Record
from patchkin.translation.translator import Translator
from patchkin.web.models import Models
from storage.hub_server import hub  # noqa: F401 - fixture
from storage.test_shipped import write_half
from support import random_batch

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of its library
NOWHERE = "http://127.0.0.1:9"
"""Where nobody listens."""


@pytest.fixture
def remote(hub, tmp_path, monkeypatch):  # noqa: F811
    """A package that knows one model and brings none; its file is on the Hub. Returns it."""
    write_half(build("cut"), tmp_path / "made")
    content = (tmp_path / "made" / shipped.MODEL_FILE).read_bytes()
    hub.repos["me/zebras"] = {"model.safetensors": content}
    hub.commits["me/zebras"] = ["1" * 40]
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "shipped")
    put(Record(name="zebras", hub="me/zebras", sha256=hashlib.sha256(content).hexdigest()))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return content


def put(record):
    path = shipped.FOLDER / record.name / RECORD_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(record.to_text())


def one_line(capsys, *arguments):
    capsys.readouterr()
    assert main(list(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_name_translates_and_is_fetched_once(remote, hub, monkeypatch):  # noqa: F811
    x_BCHW = random_batch(1).a_BCHW
    y_BCHW = Translator.load("zebras", device="cpu")(x_BCHW)
    Path("model.safetensors").write_bytes(remote)
    assert torch.equal(y_BCHW, Translator.load("model.safetensors", device="cpu")(x_BCHW))
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    assert find_model(Path("zebras")).read_bytes() == remote
    assert torch.equal(Translator.load("zebras", device="cpu")(x_BCHW), y_BCHW)


def test_verbs_and_the_page_find_it(remote, capsys):
    Image.new("RGB", (40, 36)).save("photo.png")
    assert main(["translate", "zebras", "photo.png", "-o", "out", "--device", "cpu"]) == 0
    assert Path("out/photo.png").is_file()
    models = Models(["zebras"], device="cpu")
    assert models.translator("zebras").method.name == "cut"
    with pytest.raises(ConfigError, match="There is no model to show"):  # what is not asked for
        Models([], device="cpu")  # is not fetched
    with pytest.raises(SystemExit):
        main(["translate", "--help"])
    assert "Fetched by name: zebras." in " ".join(capsys.readouterr().out.split())


def test_a_name_with_an_end_that_may_be_left_out(remote):
    record = shipped.find_record("zebras")
    put(Record(name="stripes-preview", hub=record.hub, sha256=record.sha256))
    assert shipped.remote_names() == ["stripes-preview", "zebras"]
    assert find_model(Path("stripes")).read_bytes() == remote
    Path("stripes/trainA").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="For the shipped model `stripes-preview`, call from"):
        find_model(Path("stripes"))


def test_the_packages_own_file_is_taken_first(remote, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    file = shipped.FOLDER / "zebras" / shipped.MODEL_FILE
    file.write_bytes(remote)
    assert find_model(Path("zebras")) == file
    assert (shipped.shipped_names(), shipped.remote_names()) == (["zebras"], [])


def test_a_revision(remote, hub):  # noqa: F811
    record = shipped.find_record("zebras")
    put(Record(name="zebras", hub=f"me/zebras@{'1' * 40}", sha256=record.sha256))
    assert find_model(Path("zebras")).read_bytes() == remote
    put(Record(name="zebras", hub="me/zebras@v9", sha256=record.sha256))
    with pytest.raises(DownloadError, match="it has no such revision"):
        find_model(Path("zebras"))


def test_what_is_not_the_file_is_refused(remote, hub, capsys):  # noqa: F811
    expected = shipped.find_record("zebras").sha256
    hub.repos["me/zebras"]["model.safetensors"] = remote[:-1] + b"x"
    found = hashlib.sha256(remote[:-1] + b"x").hexdigest()
    for _ in range(2):  # what was fetched and is wrong is not taken the second time either
        assert one_line(capsys, "translate", "zebras", "photo.png", "-o", "out") == (
            "patchkin: error: What `me/zebras` on the Hub has is not the model that was asked for: "
            f"its SHA-256 is {found}, expected {expected}."
        )
    assert not Path("out").exists()


def test_a_damaged_file_is_fetched_anew(remote, hub):  # noqa: F811
    cached = find_model(Path("zebras"))
    cached.resolve().write_bytes(b"damaged")
    assert shipped.file_of(shipped.find_record("zebras")) is None
    assert find_model(Path("zebras")).read_bytes() == remote


def test_without_a_network_it_says_so(remote, capsys, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    assert one_line(capsys, "translate", "zebras", "photo.png", "-o", "out") == (
        "patchkin: error: `me/zebras` cannot be fetched from the Hub: there is no network, or the "
        "Hub is not reachable."
    )
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert one_line(capsys, "translate", "zebras", "photo.png", "-o", "out").startswith(
        "patchkin: error: `me/zebras` cannot be fetched from the Hub: "
    )


def test_without_the_library_it_says_so(remote, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    line = one_line(capsys, "translate", "zebras", "photo.png", "-o", "out")
    assert line.startswith("patchkin: error: The Hub needs huggingface_hub: pip install")
    assert main(["models", "zebras"]) == 0  # what is known needs none
    assert "fetched when it is used, from hf:me/zebras" in capsys.readouterr().out


@pytest.mark.parametrize("record", [{"hub": "me/zebras"}, {"sha256": "ab" * 32}, {}])
def test_a_record_without_a_place_or_a_hash_fetches_nothing(remote, capsys, record):
    put(Record(name="zebras", **record))
    for arguments in (("translate", "zebras", "photo.png", "-o", "out"), ("models", "zebras")):
        line = one_line(capsys, *arguments)
        assert "The file of the model `zebras` is not in" in line
        assert line.endswith("does not say where to fetch it; install patchkin again.")


def test_a_record_that_is_damaged_is_one_line(remote, capsys):
    (shipped.FOLDER / "zebras" / RECORD_FILE).write_text('{"name": "zebras", "hub": "x"}')
    for arguments in (
        ("translate", "zebras", "photo.png", "-o", "out"),
        ("models",),
        ("models", "zebras", "--json"),
    ):
        assert "is no record of a model: its `hub` is not OWNER/NAME." in one_line(
            capsys, *arguments
        )


def test_an_unknown_name_offers_those_that_are_fetched(remote):
    with pytest.raises(CheckpointError, match=r"is shipped\. Did you mean `zebras`\?"):
        find_model(Path("zebres"))
