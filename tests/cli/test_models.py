"""`patchkin models`: what is known of the models that have names."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from patchkin.storage import shipped
from patchkin.storage.shipped.records import RECORD_FILE, Record
from storage.test_records import FULL

HERE = Record(name="plain", direction="horses to zebras", bytes=5, sha256=None)


@pytest.fixture
def known(tmp_path, monkeypatch):
    """A package with a model that has a full record, one that has few facts, one that has none."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    monkeypatch.setattr("patchkin.cli.models.FOLDER", tmp_path)
    for record in (FULL, HERE):
        (tmp_path / record.name).mkdir()
        (tmp_path / record.name / RECORD_FILE).write_text(record.to_text())
    for name in ("plain", "bare"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / shipped.MODEL_FILE).write_bytes(b"12345")
    return tmp_path


def test_the_table(command, known):
    code, out, _ = command("models")
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert list(rows)[:4] == ["model", "bare", "plain", "zebras"]
    assert rows["plain"].split() == [
        *("plain", "horses", "to", "zebras", "-", "-", "0.00", "MB", "here"),
    ]
    assert "0.00 M" in rows["zebras"]
    assert "on the Hub" in rows["zebras"]
    assert "not told" in rows["bare"]
    assert max(map(len, out.splitlines())) <= 80


def test_as_json(command, known):
    code, out, _ = command("models", "--json")
    told = json.loads(out)
    assert code == 0
    assert list(told) == ["bare", "plain", "zebras"]
    assert told["zebras"] == {**json.loads(FULL.to_text()), "path": None}
    assert told["plain"]["path"] == str(known / "plain" / "model.safetensors")
    assert told["bare"]["parameters"] is None
    code, out, _ = command("models", "plain", "--json")
    assert list(json.loads(out)) == ["plain"]


def test_all_that_is_known_of_one(command, known):
    code, out, _ = command("models", "zebras")
    assert code == 0
    for line in (
        "zebras: horses to zebras",
        "parameters:  12",
        "trained at:  128 pixels",
        "MACs:        3,000 at this size",
        "             12,000 at 256 pixels",
        "file:        fetched when it is used, from hf:me/zebras@v1",
        f"SHA-256:     {'ab' * 32}",
        "its licence: none",
        "scores (another in brackets):",
        "  12.5 (20)  Frechet distance (less is better) [squeezenet-256]",
        "  by: patchkin evaluate zebras --data d",
        "speed of an image of 256 x 256 pixels, one core:",
        "  torch: 10.0 ms",
        "  ONNX Runtime: ms not measured",
        "  Horses only.",
    ):
        assert line in out.splitlines(), line
    assert "preview" not in out


def test_what_nobody_measured_is_said(command, known):
    (known / "bare" / "MODEL_CARD.md").write_text("card")
    code, out, _ = command("models", "bare")
    assert code == 0
    assert out.splitlines() == [
        "bare: not told",
        "method:      not told",
        "parameters:  not measured",
        "trained at:  not measured",
        "MACs:        not measured at this size",
        "             not measured at 256 pixels",
        f"file:        {known / 'bare' / 'model.safetensors'}",
        "size:        not measured",
        "SHA-256:     not told",
        "data:        not told",
        "its licence: not told",
        "scores:      not measured",
        "speed:       not measured",
        f"card:        {known / 'bare' / 'MODEL_CARD.md'}",
    ]


def test_a_file_that_is_not_that_of_its_record(command, known):
    (known / "zebras" / shipped.MODEL_FILE).write_bytes(b"others")
    for arguments in (("models", "zebras"), ("models", "--json")):
        code, out, err = command(*arguments)
        assert (code, out) == (2, "")
        assert err == (
            f"patchkin: error: `{known / 'zebras' / 'model.safetensors'}` is not the file of its "
            f"record, whose SHA-256 is {'ab' * 32}; install patchkin again.\n"
        )


def test_an_unknown_name(command, known):
    code, _, err = command("models", "zebre")
    assert (code, err) == (
        2,
        "patchkin: error: Unknown model `zebre`. Did you mean `zebras`?\n",
    )
    code, _, err = command("models", "../zebras")
    assert code == 2


def test_a_preview_says_that_it_is_one(command):
    code, out, _ = command("models", "horse2zebra")
    assert code == 0
    assert "a preview:   to the eye not as good as GAN Compression's released generator" in out
    assert "  90 (62.5)  taken for a zebra" in out


@pytest.mark.parametrize("arguments", [["models"], ["models", "horse2zebra"], ["models", "--json"]])
def test_it_imports_no_torch(arguments):
    program = (
        f"import sys\nfrom patchkin.cli import main\nassert main({arguments}) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert "horse2zebra-preview" in told.stdout
