"""Every way in for a file of weights: nothing in it is run, and what is wrong is one line."""

from __future__ import annotations

import ast
import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

import patchkin
from patchkin.cli import main
from patchkin.errors import PatchkinError
from patchkin.metrics.extractors import EXTRACTORS, make_extractor
from patchkin.metrics.perceptual import PerceptualDistance
from patchkin.metrics.weights import read_weights
from patchkin.networks.drn import read_drn
from patchkin.networks.vgg import VGGFeatures
from patchkin.upstream.files import read_weight_file


def _import(path):
    """The command, which prints its line; here it is raised like the others'."""
    if main(["import-weights", str(path), "--output", str(path.parent / "out")]):
        raise PatchkinError("import-weights")


PATHS = {
    **{name: (lambda path, n=name: make_extractor(n, path)) for name in EXTRACTORS},
    "lpips": lambda path: PerceptualDistance("squeeze", weights=path),
    "lpips-heads": lambda path: PerceptualDistance("squeeze", weights=_whole(path), heads=path),
    "judge": lambda path: read_drn(path, "drn_d_22"),
    "vgg": lambda path: VGGFeatures((3,), weights=path).make_ready(),
    "released": read_weight_file,
    "import-weights": _import,
}
"""Whatever takes a file of weights that others made, by a name."""
READERS = {
    "storage/pickled.py": "the one that reads pickles",
    "metrics/weights.py": "extractors, lpips, lpips-heads",
    "networks/drn.py": "judge",
    "networks/pretrained.py": "vgg",
    "upstream/files.py": "released, import-weights",
}
"""Files that may call it, and what of `PATHS` goes through them."""


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


def _whole(path: Path) -> Path:
    """Weights of a SqueezeNet that fit, beside the file."""
    from torchvision.models import squeezenet1_1

    target = path.with_name("fitting.pth")
    if not target.exists():
        torch.save(squeezenet1_1(weights=None).state_dict(), target)
    return target


def _saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _bomb() -> bytes:
    """A zip as torch packs it, but compressed: 1 MB that unpacks to 1 GB would look like this."""
    plain, packed = zipfile.ZipFile(io.BytesIO(_saved({"a": torch.zeros(100_000)}))), io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in plain.infolist():
            archive.writestr(part.filename, plain.read(part))
    return packed.getvalue()


WRONG = {
    "code": (lambda trace: _saved(Trap(trace)), "holds more than tensors (`"),
    "code-in-a-tensor's-place": (
        lambda trace: _saved({"weight": torch.ones(1), "bias": Trap(trace)}),
        "holds more than tensors (`",
    ),
    "code-in-a-plain-pickle": (
        lambda trace: pickle.dumps({"state_dict": Trap(trace)}),
        "cannot be read as weights",
    ),
    "code-in-an-old-file": (
        lambda trace: _legacy({"weight": Trap(trace)}),
        "holds more than tensors (`",
    ),
    "web-page": (
        lambda _: b"\xef\xbb\xbf\n<!DOCTYPE html><html>Sign in</html>",
        "it is a web page",
    ),
    "web-error": (lambda _: b"<?xml version='1.0'?><Error>AccessDenied</Error>", "a web page"),
    "pointer": (
        lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "it is a pointer of Git LFS",
    ),
    "empty": (lambda _: b"", "cannot be read as weights"),
    "half": (lambda _: _saved({"weight": torch.ones(999)})[:2000], "cannot be read as weights"),
    "bomb": (lambda _: _bomb(), "its parts are larger than the file"),
}


def _legacy(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("way", PATHS)
def test_nothing_is_run_and_one_line_says_what_is_wrong(way, wrong, tmp_path, capsys):
    make, message = WRONG[wrong]
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    path.write_bytes(make(trace))
    with pytest.raises(PatchkinError) as caught:
        PATHS[way](path)
    line = capsys.readouterr().err[:-1] if way == "import-weights" else str(caught.value)
    assert message in line
    assert "weights.pth" in line
    assert line.isprintable(), "one line"
    assert not trace.exists()


@pytest.mark.parametrize("wrong", ["web-page", "pointer"])
def test_the_same_under_the_other_suffix(wrong, tmp_path):
    make, message = WRONG[wrong]
    path = tmp_path / "weights.safetensors"
    path.write_bytes(make(None))
    for read in (read_weights, read_weight_file):
        with pytest.raises(PatchkinError, match=message):
            read(path)


def test_the_traps_do_work(tmp_path):
    pickle.loads(WRONG["code-in-a-plain-pickle"][0](tmp_path / "trace"))
    assert (tmp_path / "trace").exists()


def test_no_other_file_of_the_package_reads_a_pickle():
    """A new way in belongs into the table above."""
    root = Path(patchkin.__file__).parent
    callers = {
        file.relative_to(root).as_posix()
        for file in root.rglob("*.py")
        if any(
            isinstance(node, ast.Name) and node.id == "read_pickled"
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        )
    }
    assert callers == READERS.keys() - {"storage/pickled.py"}
