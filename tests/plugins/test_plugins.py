"""Methods, layouts and metrics of installed packages, from a made-up one in a temporary folder."""

from __future__ import annotations

import json
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from patchkin import plugins
from patchkin.cli import main
from patchkin.methods import METHODS, known_methods
from patchkin.scoring.report import read_log

MODULE = """
import csv
from dataclasses import dataclass

import torch
from torch import nn

import patchkin
from patchkin.data import Domains
from patchkin.schedules import AdamConfig
from patchkin.scoring import Score, mean_over_pairs


@dataclass(frozen=True, kw_only=True)
class PaintConfig:
    weight: float = 1.0


class Paint(patchkin.Method):
    name = "paint"
    paper = "none"
    config_type = PaintConfig
    presets = {"default": patchkin.Preset(summary="", method=PaintConfig())}

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.G = nn.Conv2d(3, 3, 1)

    def adam(self):
        return {"G": AdamConfig()}

    def train_step(self, batch, update, progress):
        update.report(brightness=batch.a_BCHW.mean())
        fake = self.G(batch.a_BCHW)
        update("G", loss=lambda: {"copy": self.config.weight * (fake - batch.b_BCHW).abs().mean()})

    def translate(self, x_BCHW):
        return self.G(x_BCHW)


def sheet(root):
    table = root / "images.csv"
    if not table.is_file():
        return None
    rows = list(csv.DictReader(table.read_text().splitlines()))

    def files(split, stain):
        return tuple(root / r["file"] for r in rows if (r["split"], r["stain"]) == (split, stain))

    return Domains(
        train_a=files("train", "he"), train_b=files("train", "ihc"),
        test_a=files("test", "he"), test_b=files("test", "ihc"),
    )


darkening = mean_over_pairs(
    Score(name="darkening", unit="8-bit levels", better=None, meaning="How much darker."),
    lambda input_CHW, output_CHW: float((input_CHW - output_CHW).mean() * 127.5),
)


class Undeclared:
    declares = (Score(name="known", unit="1", better="lower", meaning="Declared."),)

    def add(self, pair):
        pass

    def scores(self):
        return {"other": 1.0}
"""
ENTRIES = {
    "methods": {"paint": "painting:Paint", "cut": "painting:Paint", "gone": "no_such_module:X"},
    "layouts": {"sheet": "painting:sheet"},
    "metrics": {"darkening": "painting:darkening", "undeclared": "painting:Undeclared"},
}


def install(folder, entries, module=MODULE):
    """As pip leaves a package: its module, and a dist-info that lists the entry points."""
    (folder / "painting.py").write_text(module)
    info = folder / "painting-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: painting\nVersion: 1.2\n")
    lines = [
        f"[patchkin.{group}]\n" + "".join(f"{name} = {value}\n" for name, value in named.items())
        for group, named in entries.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    def made(entries=ENTRIES, module=MODULE):
        folder = tmp_path / "site"
        folder.mkdir()
        install(folder, entries, module)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, "painting", raising=False)
        monkeypatch.setattr(plugins, "_told", set())

    return made


@pytest.fixture
def sheet_root(tmp_path):
    root = tmp_path / "slides"
    root.mkdir()
    rng = np.random.default_rng(0)
    rows = ["file,split,stain"]
    for stain in ("he", "ihc"):
        for number in range(5):
            name = f"{stain}_{number}.png"
            Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).save(root / name)
            rows.append(f"{name},{'train' if number < 3 else 'test'},{stain}")
    (root / "images.csv").write_text("\n".join(rows))
    return root


@pytest.fixture
def command(capsys):
    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_method_a_layout_and_a_metric_through_every_verb(
    installed, sheet_root, tmp_path, command, caplog
):
    installed()
    run = tmp_path / "run"
    code, _, err = command(
        *("train", "paint", "--data", sheet_root, "--run-dir", run, "--device", "cpu"),
        *("--size", "8", "--data.load-size", "8", "--workers", "0", "--steps", "3"),
        *("--training.log-every", "1"),
    )
    assert code == 0, err
    told = [r["terms"] for r in read_log(run) if "terms" in r]
    assert [sorted(terms) for terms in told] == [["G.copy", "brightness"]] * 3
    files = json.loads((run / "data.json").read_text())["files"]
    assert {name: len(part["train"]) for name, part in files.items()} == {"a": 3, "b": 3}

    code, _, err = command("train", "--resume", run, "--steps", "4")
    assert code == 0, err
    code, _, err = command("translate", run, sheet_root / "he_0.png", "--output", tmp_path / "out")
    assert code == 0, err
    code, out, err = command(
        "evaluate", run, "--protocol", "--metric", "darkening", "--json", "--device", "cpu"
    )
    assert code == 0, err
    result = json.loads(out)["results"][0]
    assert result["data"]["counts"]["inputs"] == 2
    code, _, err = command(
        "translate", run, sheet_root / "he_3.png", sheet_root / "he_4.png",
        *("--output", tmp_path / "test"),
    )  # fmt: skip
    assert code == 0, err
    darker = [
        levels(sheet_root / name).mean() - levels(tmp_path / "test" / name).mean()
        for name in ("he_3.png", "he_4.png")
    ]
    assert result["scores"]["darkening"] == pytest.approx(sum(darker) / 2, abs=1e-3)
    code, out, err = command("compare", run, "--json", "--output", tmp_path / "page.html")
    assert code == 0, err
    code, out, err = command("data", "check", sheet_root, "--json")
    checked = {f["folder"]: f["num_images"] for f in json.loads(out)["folders"]}
    assert checked == {"train_a": 3, "train_b": 3, "test_a": 2, "test_b": 2}


def levels(path):
    return np.asarray(Image.open(path)).astype(float)


def test_one_that_is_broken_is_one_line_and_the_others_work(installed, caplog, command):
    installed()
    kinds = known_methods()
    assert kinds["cut"] is METHODS["cut"]
    assert set(kinds) - set(METHODS) == {"paint"}
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "The plug-in `cut` (`painting:Paint` of painting 1.2) cannot be used: patchkin has a `cut` "
        "of its own.",
        "The plug-in `gone` (`no_such_module:X` of painting 1.2) cannot be used: "
        "ModuleNotFoundError: No module named 'no_such_module'.",
    ]
    known_methods()
    assert len(caplog.records) == 2  # once
    code, out, _ = command("doctor", "--json")
    facts = json.loads(out)
    assert facts["patchkin.methods paint"] == "painting 1.2"
    assert "No module named 'no_such_module'" in facts["patchkin.methods gone"]
    assert code == 0
    code, out, _ = command("methods", "--json")
    assert (code, "paint" in json.loads(out)) == (0, True)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("painting:Missing", "AttributeError: module 'painting' has no attribute 'Missing'"),
        ("painting:PaintConfig", "it is no subclass of patchkin.Method"),
        ("painting:Paint", "the method calls itself 'paint', its entry `other`"),
    ],
)
def test_a_method_that_is_none(installed, caplog, value, why):
    installed({"methods": {"other": value}})
    assert set(known_methods()) == set(METHODS)
    assert [r.getMessage().partition("cannot be used: ")[2] for r in caplog.records] == [f"{why}."]


def test_a_module_that_ends_the_program_does_not(installed, caplog):
    installed({"methods": {"paint": "painting:Paint"}}, "import sys\nsys.exit('two\\nlines')")
    assert set(known_methods()) == set(METHODS)
    assert "SystemExit: two." in caplog.records[0].getMessage()


def test_metrics_that_cannot_be_used(installed, tmp_path, sheet_root, command):
    installed()
    (tmp_path / "images").mkdir()
    for name in ("he_3.png", "he_4.png"):
        (tmp_path / "images" / name).write_bytes((sheet_root / name).read_bytes())
    given = ("evaluate", tmp_path / "images", "--data", sheet_root, "--protocol", "--metric")
    for name, said in {
        "darkning": "Unknown metric `darkning`. Did you mean `darkening`?",
        "undeclared": "gives the score `other`, which it does not declare",
    }.items():
        code, _, err = command(*given, name)
        assert (code, len(err.strip().splitlines())) == (2, 1), err
        assert said in err


def test_a_layout_that_fails_is_one_line(installed, tmp_path, sheet_root, command):
    broken = "def sheet(root):\n    raise KeyError('stain')\n"
    installed({"layouts": {"sheet": "painting:sheet"}}, textwrap.dedent(broken))
    code, _, err = command("data", "check", sheet_root)
    assert code == 2
    assert "The layout `sheet` of a plug-in fails on" in err
    assert "KeyError: 'stain'" in err
