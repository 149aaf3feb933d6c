"""The notebooks of `examples/`: they are whole, and every cell of them does what it says.

Quick tests read them; slow ones run them at tiny size, as `docs/making/notebooks.py` does.
"""

from __future__ import annotations

import ast
import base64
import builtins
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from docs.blocks import ROOT
from docs.parsing import complaint, verbs_that_only_read

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
MAKER = ROOT / "docs" / "making" / "notebooks.py"
MOST_BYTES = 200_000
OF_A_MACHINE = re.compile(r"(?<![\w.:/])/(home|root|tmp|work|mnt|opt|usr|var|Users)/|[A-Z]:\\\\")
OF_NOTEBOOKS = {"display", "get_ipython", "__name__"}
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    import nbformat

    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def trees(path):
    """Cells may wait for things at their top level, as notebooks allow."""
    for number, cell in enumerate(code_cells(path)):
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
        yield compile(cell.source, f"{path.name}, code cell {number}", "exec", flags)


def test_there_are_three():
    assert [path.stem for path in NOTEBOOKS] == ["own_loss", "own_photos", "run_to_phone"]


@each_notebook
def test_a_notebook_is_whole_and_of_no_machine(path):
    import nbformat

    notebook, text = read(path), path.read_text(encoding="utf-8")
    nbformat.validate(notebook)
    assert len(text) < MOST_BYTES
    assert OF_A_MACHINE.search(text) is None
    assert sorted(notebook.metadata) == ["kernelspec", "language_info"]
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    assert [cell.metadata.get("tags") for cell in cells].index(["parameters"]) == 0
    for cell in cells:
        assert set(cell.metadata) <= {"tags", "alt"}
        assert all(output.output_type != "error" for output in cell.outputs)
        shows = any("image/png" in output.get("data", {}) for output in cell.outputs)
        assert shows == ("alt" in cell.metadata), cell.source[:60]


@each_notebook
def test_names_of_a_notebook_exist(path):
    """Every name that a cell reads was bound in it or before; what is imported is there."""
    known = OF_NOTEBOOKS | set(dir(builtins))
    for tree in trees(path):
        known |= bound(tree)
        read_here = {
            node.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        }
        assert read_here - known == set()
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                exec(ast.unparse(node), {})
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "patchkin":
                assert hasattr(importlib.import_module("patchkin"), node.attr), node.attr


def bound(tree):
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    return names


@each_notebook
def test_commands_of_a_notebook_can_be_read(path):
    lines = [
        "".join(part.value if isinstance(part, ast.Constant) else "x.onnx" for part in parts)
        for tree in trees(path)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "terminal"
        for parts in [getattr(node.args[0], "values", [node.args[0]])]
    ]
    assert path.stem == "own_loss" or lines
    with verbs_that_only_read():
        for line in lines:
            program, *arguments = shlex.split(line)
            assert program == "patchkin"
            assert complaint(arguments) is None, line


# Run


def shown(path, tmp_path, **values):
    """All that a notebook prints, with other values of its parameters; and its pictures."""
    output = tmp_path / "out.ipynb"
    settings = [part for name, value in values.items() for part in ("--set", f"{name} = {value!r}")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        "JUPYTER_DATA_DIR": str(tmp_path / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "jupyter"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    command = [sys.executable, str(MAKER), str(tmp_path), str(path), "--output", str(output)]
    done = subprocess.run(
        [*command, *settings], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    outputs = [output for cell in code_cells(output) for output in cell.outputs]
    text = "".join(output.get("text", "") for output in outputs)
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))
        for output in outputs
        if "image/png" in output.get("data", {})
    ]
    return text, pictures


def photographs(root: Path) -> None:
    """A set of one's own: JPEGs of several sizes, one of them turned by its camera."""
    rng = np.random.default_rng(0)
    for folder in ("trainA", "trainB", "testA", "testB"):
        (root / folder).mkdir(parents=True)
        for number in range(9 if folder.startswith("train") else 5):
            sides = (70 + 9 * number, 90, 3)
            exif = Image.Exif()
            exif[0x0112] = 6 if number == 3 else 1
            photo = Image.fromarray(rng.integers(0, 256, sides, dtype=np.uint8))
            photo.save(root / folder / f"photo {number}.jpg", exif=exif)


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True], ids=["drawn animals", "photos"])
def test_own_photos(tmp_path, own):
    photographs(tmp_path / "mine")
    data = "mine" if own else None
    text, pictures = shown(NOTEBOOKS[1], tmp_path, data=data, steps=4)
    run = tmp_path / "runs" / "my-photos"
    assert "Training would start." in text
    assert f"trainA: {9 if own else 300} images" in text
    assert "step 4/4" in text
    assert ("tone_inside" in text) != own
    assert "change" in text
    number = 5 if own else 24
    assert f"{number} translated into runs/my-photos/translated" in text
    kind = "photo *.jpg" if own else "*.png"
    assert len(list((run / "translated").glob(kind))) == number
    assert (run / "scores.json").is_file()
    assert len(pictures) == 5
    columns = min(number, 6)
    assert [picture.size for picture in pictures[3:]] == [(96 * columns, 192), (96 * 4, 192)]


@pytest.mark.slow
def test_own_loss(tmp_path):
    text, pictures = shown(NOTEBOOKS[0], tmp_path, steps=4)
    assert "four tests passed" in text
    assert "the contract holds" in text
    assert text.count("step 4/4  validation") == 2
    lost = [float(number) for number in re.findall(r"lost_edges is ([\d.]+)", text)]
    assert len(lost) == 2
    assert min(lost) > 0
    assert len(pictures) == 2


@pytest.mark.slow
def test_run_to_phone(tmp_path):
    text, pictures = shown(NOTEBOOKS[2], tmp_path, steps=4)
    within = [int(number) for number in re.findall(r"at most (\d+) of 255 levels", text)]
    assert len(within) == 2
    assert max(within) <= 1
    assert "Translated 64 × 64 pixels" in text
    assert (tmp_path / "runs" / "my-phone" / "page" / "index.html").is_file()
    assert pictures[-1].size == (390, 760)
