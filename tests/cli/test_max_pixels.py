"""`--max-pixels` of every verb that reads images: the line that refuses one names it."""

from __future__ import annotations

import shutil

import pytest
import yaml
from PIL import Image

from cli.conftest import TINY
from patchkin.images.limits import VARIABLE

PIXELS = 10**7
_PLACE = TINY.index("--blocks") + 1
SIX_BLOCKS = (*TINY[:_PLACE], "6", *TINY[_PLACE + 1 :])
"""A teacher's number is a multiple of three."""


@pytest.fixture(autouse=True)
def small_limit(monkeypatch, tmp_path):
    limited(monkeypatch)
    monkeypatch.setenv("PATCHKIN_CACHE", str(tmp_path / "cache"))


def limited(monkeypatch):
    """In this process, and in those that it starts."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    monkeypatch.setenv(VARIABLE, "100")


def refused_then_allowed(command, monkeypatch, *call):
    code, out, err = command(*call)
    assert code == 2
    assert "--max-pixels" in out + err
    code, _, err = command(*call, "--max-pixels", PIXELS)
    assert code == 0, err
    limited(monkeypatch)


def test_data_check(command, toy_root, monkeypatch):
    refused_then_allowed(command, monkeypatch, "data", "check", toy_root)


def test_inspect(command, finished_run, toy_root, tmp_path, monkeypatch):
    call = ("inspect", finished_run, toy_root / "testA" / "0000.png", "--point", "8,8")
    refused_then_allowed(command, monkeypatch, *call, "-o", tmp_path / "out")


@pytest.mark.slow
def test_translate_by_processes(command, finished_run, toy_root, tmp_path, monkeypatch):
    call = ("translate", finished_run, toy_root / "testA", "-o", tmp_path / "out")
    refused_then_allowed(command, monkeypatch, *call, "--processes", "2")


def test_training_and_what_follows_a_run(command, toy_root, tmp_path, monkeypatch):
    run = tmp_path / "run"
    train = ("train", "cut", "--data", toy_root, "--run-dir", run, *TINY, "--workers", "1")
    refused_then_allowed(command, monkeypatch, *train, "--steps", "1")
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["max_pixels"] == PIXELS
    # The run knows: neither its resumption nor its scores ask again; other images do.
    code, _, err = command("train", "--resume", run, "--schedule.steps", "2", "--change")
    assert code == 0, err
    limited(monkeypatch)
    code, _, err = command("evaluate", run, "--protocol", "--device", "cpu")
    assert code == 0, err
    limited(monkeypatch)
    other = shutil.copytree(toy_root, tmp_path / "other")
    evaluate = ("evaluate", run, "--data", other, "--protocol", "--device", "cpu")
    refused_then_allowed(command, monkeypatch, *evaluate)


@pytest.mark.slow
def test_compress_distill(command, toy_root, tmp_path, monkeypatch):
    """A teacher whose own run allowed it does not allow it for other images."""
    run, other = tmp_path / "run", shutil.copytree(toy_root, tmp_path / "other")
    train = ("train", "cut", "--data", toy_root, "--run-dir", run, *SIX_BLOCKS, "--steps", "1")
    assert command(*train, "--max-pixels", PIXELS)[0] == 0
    limited(monkeypatch)
    distill = ("compress", "distill", run, "--data", other, "--run-dir", tmp_path / "small")
    distill += ("--size", "32", "--data.load-size", "36", "--workers", "0", "--device", "cpu")
    refused_then_allowed(command, monkeypatch, *distill, "--steps", "1")
