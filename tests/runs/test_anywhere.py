"""A run folder tells how to go on and how to make it again, from any folder."""

from __future__ import annotations

import html
import re
import shlex
import shutil
import sys

import pytest
import yaml

from cli.conftest import TINY
from patchkin.cli import main
from patchkin.cli.train import default_options
from patchkin.errors import ConfigError
from patchkin.methods import METHODS
from patchkin.metrics.extractors import make_extractor
from patchkin.metrics.perceptual import _bundled_heads
from patchkin.runs.config import method_file
from runs.test_resuming import FLAGS, Copy, write_set


def reproducing(run_dir):
    """The command of the report, as a shell would take it apart."""
    page = (run_dir / "report.html").read_text()
    (command,) = re.findall(r"<h2>Reproduce</h2>\s*<pre>(.*?)</pre>", page, re.DOTALL)
    return shlex.split(html.unescape(command))


def test_a_run_goes_on_and_is_made_again_from_another_folder(tmp_path, toy_root, monkeypatch):
    shutil.copytree(toy_root, tmp_path / "here" / "my set")
    monkeypatch.chdir(tmp_path / "here")
    arguments = ["train", "cut", "--data", "my set", "--run-dir", "../runs/a b", *TINY]
    assert main([*arguments, "--steps", "2", "--cache", "cache"]) == 0
    run_dir = tmp_path / "runs" / "a b"
    data = yaml.safe_load((run_dir / "config.yaml").read_text())["data"]
    assert data["root"] == str(tmp_path / "here" / "my set")
    assert data["cache"] == str(tmp_path / "here" / "cache")
    program, *command = reproducing(run_dir)
    assert program == "patchkin"
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    assert main(command) == 0
    again = tmp_path / "runs" / "a b-again"
    first, second = (
        (folder / "checkpoints" / "step_00000002" / "model.safetensors").read_bytes()
        for folder in (run_dir, again)
    )
    assert first == second
    assert main(["train", "--resume", str(run_dir), "--steps", "3"]) == 0
    assert list((tmp_path / "there").iterdir()) == []


def test_an_own_method_is_named_by_its_file(tmp_path, capsys):
    write_set(tmp_path / "set", 4)
    run_dir = tmp_path / "r"
    arguments = ["train", "--data", str(tmp_path / "set"), "--run-dir", str(run_dir), *FLAGS]
    assert main(arguments, methods={"copy": Copy}, default_method="copy") == 0
    file = sys.modules[Copy.__module__].__file__
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["file"] == file
    assert reproducing(run_dir)[:3] == ["python", file, "train"]
    capsys.readouterr()
    assert main(["train", "--resume", str(run_dir)]) == 2
    line = f"`copy` is the method of the file `{file}`: python {file} train --resume {run_dir}"
    assert line in capsys.readouterr().err
    assert main(["translate", str(run_dir), str(tmp_path / "set"), "-o", str(tmp_path / "o")]) == 2
    line = f"It is the method of the file `{file}`: python {file} VERB ..."
    assert line in capsys.readouterr().err
    assert method_file(METHODS["cut"]) is None


@pytest.mark.parametrize("name", METHODS)
def test_help_tells_what_was_published(name):
    kind = METHODS[name]
    first = next(iter(kind.presets.values()))
    for asked in (["--help"], ["-h"], ["--data", "elsewhere"]):
        options = default_options(kind, asked)
        assert (options.method, options.schedule) == (first.method, first.schedule)
    toy = kind.presets["toy"]
    for asked in (["--data", "toy", "--help"], []):
        options = default_options(kind, asked)
        assert (options.method, options.data) == (toy.method, toy.data)


def test_a_missing_extra_is_named_with_a_command_that_works_in_a_checkout(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ConfigError) as caught:
        make_extractor("inception-v3-compat", None)
    assert "pip install torch-fidelity, or in a checkout" in str(caught.value)
    assert "pip install -c constraints.txt '.[metrics]'" in str(caught.value)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(
        ConfigError, match=r"LPIPS needs torchmetrics: pip install torchmetrics, or"
    ):
        _bundled_heads("squeeze")
