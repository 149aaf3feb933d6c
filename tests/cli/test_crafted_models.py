"""A model file may come from anybody: one line, before memory is claimed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cli.crafted_models import ASKED_NGF, crafted
from patchkin.methods.cut import Cut, CutConfig
from patchkin.networks import ResNetConfig


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crafted")
    for name in ("trainA", "trainB", "testA", "testB"):
        (folder / name).mkdir()
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(folder / name / "0.png")
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(folder / "0.png")
    script = Path(__file__).with_name("crafted_models.py")
    done = subprocess.run(
        [sys.executable, script, folder], capture_output=True, text=True, check=True, timeout=300
    )
    return json.loads(done.stdout)


def test_every_verb_refuses_every_file_with_one_line(told):
    assert len(told["told"]) == 7 * (len(crafted()) + 1)
    for row in told["told"]:
        assert row["code"] == 2, row
        assert row["out"] == "", row
        assert row["err"].startswith("patchkin: error: "), row
        assert row["err"].endswith("\n"), row
        line = row["err"][:-1]
        assert line.isprintable(), row
        assert len(line) < 1000, row


def test_the_line_names_the_file(told):
    for row in told["told"]:
        assert row["file"] in row["err"], row


def test_nothing_of_what_they_ask_for_is_allocated(told):
    """29 GB, a billion layers: what verbs and files take together beyond what is imported."""
    assert told["grown_mib"] < 200
    assert max(row["seconds"] for row in told["told"]) < 10


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("asks-for-29-GB", "of another shape (first: model.1.weight (4, 3, 7, 7) for (10240,"),
        ("a-billion-blocks", "it has more than 10000 layers and weights"),
        ("a-billion-halvings", "`layers` must be at most 16"),
        ("huge-number", "its header is no JSON"),
        ("unknown-setting", "Did you mean `ngf`?"),
        ("header-is-a-list", "its header is a list"),
        ("header-is-deep", "its header is no JSON"),
        ("method-with-escapes", "has the method '\\x1b[2Jcut'"),
        ("whole-numbers", "of another type (first: model.1.weight int32 for float32)"),
        ("web-page", "it is a web page"),
        ("length-of-all-memory", "it is no safetensors file, or was not downloaded to its end"),
        ("contents-of-20-MB", "its table of contents has 20 MiB"),
        ("empty", "the file is empty"),
    ],
)
def test_what_is_said(told, name, message):
    rows = [row for row in told["told"] if row["file"] == name and row["verb"] == "translate"]
    assert message in rows[0]["err"]


def test_the_file_of_1_3_KB_asks_for_29_GB():
    assert len(crafted()["asks-for-29-GB"]) < 4096
    with torch.device("meta"):
        method = Cut(CutConfig(generator=ResNetConfig(ngf=ASKED_NGF)))
    needed = sum(tensor.numel() * tensor.element_size() for tensor in method.state_dict().values())
    assert needed > 29e9
