"""Every command of the pages is run, at tiny size; blocks of Python are executed as they stand.

What cannot be run here is in `NOT_RUN`, each with its reason, and is read by the parser only
(`test_commands.py`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs import scene
from docs.blocks import PAGES, ROOT, Block, blocks_of, commands_of, patchkin_arguments
from docs.test_commands import SHELL
from exported_models import saved
from patchkin import Translator
from patchkin.cli import compress as compressing
from patchkin.cli import main
from patchkin.cli import train as training
from patchkin.export.writing import export_model

NOT_RUN = {
    "100000_nets_ema.ckpt": "half a gigabyte; tests/upstream reads files of this form",
    "#!/bin/bash": "a script for Slurm",
    "--devices 1 --batch-size 2": "continues a run of two processes; tests/training",
    "--protocol --samples 4": "LPIPS needs downloaded weights; tests/scoring/test_styles.py",
    "--preset online": "tests/compression runs it at tiny size",
    "compress export runs/online": "its run is not made here",
    "--page": "has npm fetch; tests/export/test_page.py",
    "npm pack": "tests/export/test_page.py",
    "--int8": "is written only where it is faster; tests/export",
    "compress export runs/student -o": "small-models.md runs it, after its search",
    "patchkin demo": "answers until it is interrupted; tests/web",
    "ship.py": "writes into the package",
    "imported.safetensors outputs/other_paper": "results of others",
}
"""Part of a line -> why it is not run."""
OTHER_PROGRAMS = {
    *("make", "pip", "docker", "python3", ".", "echo", "eval", "run=runs/h2z", "if"),
    *("~/.patchkin-completion", "~/.bashrc"),  # where output goes
}
LAST = "runs/h2z/checkpoints/step_{}/model.safetensors"
INSTEAD = {"/fast/disk": "fast", LAST.format("00533600"): LAST.format("00000002")}
"""A word of a page -> what stands for it here."""
BENCH = ("--size", "64", "--steps", "1", "--translations", "1")
SEARCH = ("--population", "4", "--generations", "1")
OF_DOMAINS = {"docs/domains.md", "README.md"}
EXTRACTOR = ("--extractor-weights", "squeezenet1_1.pth")

RUN_BY_OTHERS = {"docs/python.md", "docs/walks.md", "docs/models.md"}
"""Pages whose blocks another test runs in order, and records of what was typed once."""

WITH_BLOCKS = [
    path
    for path in PAGES
    if blocks_of(path) and path.relative_to(ROOT).as_posix() not in RUN_BY_OTHERS
]


@pytest.fixture(scope="module")
def small():
    """Inside, every training has two steps."""
    real, distilling = training.train, compressing.distill

    def train(kind, config, *arguments, **options):
        return real(kind, scene.tiny(kind, config), *arguments, **options)

    def distill(config, *arguments, **options):
        from patchkin.compression import Distillation

        return distilling(scene.tiny(Distillation, config), *arguments, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training, "train", train)
        patched.setattr(compressing, "distill", distill)
        yield


@pytest.fixture(scope="module")
def built(small, tmp_path_factory):
    root = tmp_path_factory.mktemp("scene")
    scene.build(root)
    return root


@pytest.fixture
def place(built, tmp_path, monkeypatch):
    """A copy of the scene, to work in."""
    here = shutil.copytree(built, tmp_path / "scene")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PATCHKIN_CACHE", str(tmp_path / "cache"))
    return here


def reason_not_to(block: Block, words: list[str]) -> str | None:
    line = " ".join(words)
    if words[0] in OTHER_PROGRAMS or block.text.startswith("#!/bin/bash"):
        return "another program"
    if patchkin_arguments(words) is None and words[0] != "python":
        return "no command"
    return next((why for part, why in NOT_RUN.items() if part in line), None)


def run(words: list[str], place) -> None:
    if words[0] == "python" and "patchkin" not in words:
        return run_script(words)
    arguments = [INSTEAD.get(word, word) for word in patchkin_arguments(words) or []]
    verb = arguments[0]
    if verb == "train" and "--resume" not in arguments:
        if "--run-dir" not in arguments:
            arguments += ["--run-dir", "runs/unnamed"]
        shutil.rmtree(arguments[arguments.index("--run-dir") + 1], ignore_errors=True)
    if verb == "translate" and arguments[1] == "horse2zebra":  # the model, not the images
        shutil.rmtree("horse2zebra", ignore_errors=True)
    if "export" in arguments[:2]:
        flag = "-o" if "-o" in arguments else "--output"
        Path(arguments[arguments.index(flag) + 1]).unlink(missing_ok=True)
    if verb == "data" and arguments[1] == "toy":
        shutil.rmtree(arguments[2], ignore_errors=True)
        arguments += ["--train", "6", "--test", "3", "--size", "64"]
    if verb in ("evaluate", "translate", "compare", "inspect", "export", "compress"):
        for word in arguments[1:]:
            if re.fullmatch(r"runs/[\w-]+", word) and not (place / word).exists():
                shutil.copytree(place / "runs" / "h2z", place / word)
    if verb == "evaluate" and "--against" not in arguments:
        if "--protocol" not in arguments:
            arguments += ("--protocol", "squeezenet-224", *EXTRACTOR)
        elif arguments[-1] != "--protocol" and "--extractor-weights" not in arguments:
            arguments += EXTRACTOR
    arguments += {"bench": BENCH}.get(verb, ())
    if arguments[:2] == ["compress", "distill"]:
        shutil.rmtree(arguments[arguments.index("--run-dir") + 1], ignore_errors=True)
    if arguments[:2] == ["compress", "search"]:
        arguments += SEARCH
    assert main(arguments) == 0, " ".join(arguments)


def run_script(words: list[str]) -> None:
    """An example for two steps; a study tells its options."""
    if words[1].startswith("examples/"):
        words = [*words, *(("--steps", "2") if "train" in words else ())]
    elif "on_paper" not in words[1]:
        words = [*words[:2], "--help"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    script = [sys.executable, str(ROOT / words[1]), *words[2:]]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", WITH_BLOCKS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_of_a_page_runs(path, place):
    if path.relative_to(ROOT).as_posix() in OF_DOMAINS:
        shutil.rmtree("animals")
        shutil.copytree("animals of domains", "animals")
    for block in blocks_of(path):
        if block.language in SHELL:
            for words in commands_of(block.text):
                if reason_not_to(block, words) is None:
                    run(words, place)


@pytest.mark.parametrize("path", WITH_BLOCKS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_block_of_python_runs(path, small, request, tmp_path, monkeypatch):
    blocks = [block for block in blocks_of(path) if block.language == "python"]
    whole = [block for block in blocks if re.search(r"^(from|import) ", block.text, re.MULTILINE)]
    whole = [block for block in whole if "gradio_client" not in block.text]  # tests/web runs it
    if any("runs/" in block.text for block in whole):
        request.getfixturevalue("place")
    if any("h2z.pt2" in block.text for block in whole):
        monkeypatch.chdir(tmp_path)
        model = saved(tmp_path, "resnet")
        export_model(Translator.load(model, device="cpu"), tmp_path / "h2z.pt2")
    for block in whole:
        code = "\n" * block.line + block.text
        names: dict[str, object] = {"__name__": "page"}
        if "x_BCHW" in code and "x_BCHW =" not in code:
            import torch

            names["x_BCHW"] = torch.zeros(1, 3, 64, 64)
        exec(compile(code, block.page, "exec"), names)


def test_what_is_not_run_is_on_a_page():
    text = "\n".join(
        " ".join(words)
        for path in PAGES
        for block in blocks_of(path)
        if block.language in SHELL
        for words in [*commands_of(block.text), [block.text]]
    )
    assert [part for part in NOT_RUN if part not in text] == []
