"""The page of models is the one that its script makes of the records."""

from __future__ import annotations

import importlib
import sys

import pytest

from docs.blocks import ROOT
from patchkin.storage import shipped
from patchkin.storage.shipped.records import Record
from storage.test_records import FULL


@pytest.fixture
def making(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "making"))
    monkeypatch.delitem(sys.modules, "models", raising=False)
    return importlib.import_module("models")


def test_it_is_up_to_date(making):
    records = [shipped.find_record(name) for name in shipped.known_names()]
    written = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert written == making.page(records), "call: python docs/making/models.py"


def test_every_value_of_a_record_is_told(making, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    page = making.page([FULL])
    for row in (
        "| [zebras](#zebras) | horses to zebras | 12 | 12,000 | 99 bytes | `hf:me/zebras@v1` |",
        "| method | `cut` |",
        "| trained at | 128 pixels |",
        "| MACs | 3,000 at this size, 12,000 at 256 pixels |",
        "| data | photographs |",
        "| licence of the data | none |",
        "| score | protocol | this model | another |",
        "| Frechet distance (less is better) | squeezenet-256 | 12.5 | 20 |",
        "patchkin evaluate zebras --data d",
        "Speed of an image of 256 x 256 pixels on one core:",
        "| 10.0 ms | ms not measured | not measured |",
        "Limits: Horses only.",
    ):
        assert row in page.splitlines(), row


def test_what_was_not_measured_is_said(making, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    lines = making.page([Record(name="bare-preview", hub="me/bare")]).splitlines()
    for line in (
        "| [bare-preview](#bare-preview) | not told | not measured | not measured | not measured "
        "| `hf:me/bare` |",
        "patchkin translate bare-preview image.png -o out",  # the short name is not found
        "Scores: not measured.",
        "Speed: not measured.",
    ):
        assert line in lines, line
