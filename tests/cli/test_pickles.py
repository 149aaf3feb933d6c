"""A file with code in it, in the place of every file that is read: not run, one line, code 2.

`tests/storage/test_readers.py` sees to it that no reader is missing here.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import pytest
import yaml

from cli.pickles import KINDS, Trap
from exported_models import resnet_method, saved
from patchkin.methods import METHODS
from patchkin.metrics.protocols import PROTOCOLS

TINY = ("--size", "32", "--data.load-size", "36", "--workers", "0", "--device", "cpu")
QUICK = (*TINY, "--steps", "1")
MODEL, RUN, DATA, IMAGE = "BOX/bad.safetensors", "BOX/run", "BOX/toy", "BOX/toy/testA/0000.png"


def _scored(*more: str) -> tuple[str, ...]:
    return ("evaluate", RUN, "--data", DATA, "--device", "cpu", *more)


def _vgg(method: str, *more: str) -> tuple[str, ...]:
    flags = ("--method.vgg-weights", "BOX/bad.pth", *more)
    return ("train", method, "--data", DATA, "--run-dir", "BOX/new", *QUICK, *flags)


WAYS: dict[str, tuple[str, ...]] = {
    # Models
    "translate .safetensors": ("translate", MODEL, IMAGE, "-o", "BOX/out"),
    "translate .pth": ("translate", "BOX/bad.pth", IMAGE, "-o", "BOX/out"),
    "translate .pt2": ("translate", "BOX/bad.pt2", IMAGE, "-o", "BOX/out"),
    "translate .onnx": ("translate", "BOX/bad.onnx", IMAGE, "-o", "BOX/out"),
    "translate .npz": ("translate", "BOX/bad.npz", IMAGE, "-o", "BOX/out"),
    "evaluate MODEL": ("evaluate", MODEL, "--data", DATA, "--device", "cpu"),
    "inspect": ("inspect", MODEL, IMAGE, "--point", "3,3", "-o", "BOX/out"),
    "export": ("export", MODEL, "-o", "BOX/out.onnx"),
    "push": ("push", MODEL, "me/x", "-o", "BOX/out"),
    "bench": ("bench", "--config", "BOX/bad.yaml", "--device", "cpu"),
    "--from": ("train", "cut", "--data", DATA, "--run-dir", "BOX/new", *QUICK, "--from", MODEL),
    "--from .pth": (
        *("train", "cut", "--data", DATA, "--run-dir", "BOX/new", *QUICK),
        *("--from", "BOX/bad.pth"),
    ),
    # Files of a run
    "config.yaml": ("train", "--resume", RUN),
    "data.json": ("train", "--resume", RUN, "--steps", "4"),
    "state.json": ("train", "--resume", RUN),
    "model.safetensors": ("train", "--resume", RUN, "--steps", "4"),
    "optimizers.safetensors": ("train", "--resume", RUN, "--steps", "4"),
    "scores.json": ("compare", RUN, RUN),
    "--config": (
        *("train", "cut", "--config", "BOX/bad.yaml", "--data", DATA),
        *("--run-dir", "BOX/new", *QUICK),
    ),
    # Compression
    "teacher": ("compress", "distill", MODEL, "--data", DATA, "--run-dir", "BOX/new", *QUICK),
    "start": (
        *("compress", "distill", "BOX/teacher", "--data", DATA, "--run-dir", "BOX/new", *QUICK),
        *("--ngf", "4", "--ndf", "4", "--method.num-patches", "8", "--start", MODEL),
        *("--method.space", "_".join(["4,2"] * 8)),
    ),
    "cost": ("compress", "cost", MODEL),
    "cost against": ("compress", "cost", RUN, "--against", MODEL),
    "search": ("compress", "search", MODEL, "--budget", "1e9"),
    "compress export": ("compress", "export", MODEL, "-o", "BOX/out.safetensors"),
    # Networks that score
    **{
        f"extractor of {name}": _scored("--protocol", name, "--extractor-weights", "BOX/bad.pth")
        for name in PROTOCOLS
    },
    **{
        f"lpips {net}": _scored("--protocol", "--lpips", net, "--lpips-weights", "BOX/bad.pth")
        for net in ("alex", "squeeze", "vgg")
    },
    "judge": _scored("--protocol", "--judge", "drn-d-22", "--judge-weights", "BOX/bad.pth"),
    "score weights": (
        *("train", "cut", "--data", "BOX/plain", "--run-dir", "BOX/new", *QUICK),
        *("--score-every", "1", "--training.score-weights", "BOX/bad.pth"),
    ),
    # Networks of methods
    **{f"vgg of {name}": _vgg(name) for name in ("lsesim", "patchgcl")},
    "vgg of munit": _vgg(
        *("munit", "--size", "64", "--data.load-size", "64", "--method.perceptual-weight", "1"),
    ),
    # Upstream
    **{
        f"import {name}": (
            *("import-weights", "BOX/latest_net_G.pth", "--method", name),
            *("-o", "BOX/out.safetensors"),
        )
        for name in METHODS
    },
    # Data
    "image .npy": ("translate", RUN, "BOX/bad.npy", "-o", "BOX/out", "--device", "cpu"),
    "data check": ("data", "check", "--source", "BOX/bad", "--target", f"{DATA}/trainB"),
}
"""Arguments of a command that reads the file, by a name."""
OF_A_RUN = ("config.yaml", "data.json", "state.json", "model.safetensors", "optimizers.safetensors")
"""Files that stand in the run folder or its checkpoint."""


@pytest.fixture
def box(finished_run, toy_root, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    shutil.copytree(toy_root, tmp_path / "toy")
    unpaired = shutil.ignore_patterns("*_true", "*_masks")
    shutil.copytree(toy_root, tmp_path / "plain", ignore=unpaired)
    (tmp_path / "teacher").mkdir()
    saved(tmp_path / "teacher", resnet_method(blocks=3))
    return tmp_path


def _put(box: Path, way: str, content: bytes) -> list[Path]:
    """Write the content in the place of all files that the way reads; where it is."""
    if way == "scores.json":
        places = [box / "run" / "scores.json"]
    elif way in OF_A_RUN:
        places = list((box / "run").rglob(way))
    elif way == "data check":
        (box / "bad").mkdir(exist_ok=True)
        places = [box / "bad" / name for name in ("bad.npy", "bad.tif", "bad.png")]
    else:
        word = next(word for word in WAYS[way] if word.startswith(("BOX/bad", "BOX/latest")))
        places = [Path(word.replace("BOX", str(box)))]
    for place in places:
        place.write_bytes(content)
        _sign(place)
    return places


def _sign(place: Path) -> None:
    """Let a checkpoint's record agree with what was put into it."""
    state = place.with_name("state.json")
    if state.is_file() and place != state:
        known = json.loads(state.read_text())
        known["sha256"][place.name] = hashlib.sha256(place.read_bytes()).hexdigest()
        state.write_text(json.dumps(known))


def _check(command, box, way, kind) -> None:
    trace = box / "trace"
    places = _put(box, way, KINDS[kind](trace))
    code, _, err = command(*(word.replace("BOX", str(box)) for word in WAYS[way]))
    assert not trace.exists(), f"{way}, {kind}: run"
    assert code == 2, f"{way}, {kind}: {code}, {err}"
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("patchkin: error: ")]
    assert lines, f"{way}, {kind}: {err}"
    if way != "data check":
        assert len(lines) == 1, f"{way}, {kind}: {err}"
    assert lines[0].isprintable()
    names = {place.name for place in places} | {place.parent.name for place in places}
    assert any(name in err for name in names), f"{way}, {kind}: {err}"


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_run_and_one_line_names_the_file(command, box, way):
    """By one kind of file for each way; `test_every_kind_in_every_place` does all."""
    kinds = list(KINDS)
    _check(command, box, way, kinds[list(WAYS).index(way) % len(kinds)])


@pytest.mark.parametrize("way", ["model.safetensors", "optimizers.safetensors"])
def test_a_file_that_can_be_read_in_the_place_of_one_of_a_checkpoint(command, box, way):
    """It holds no tensors: a run would go on from other weights, or without its moments."""
    _check(command, box, way, "named")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_every_kind_in_every_place(command, box, way, kind):
    _check(command, box, way, kind)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"headed", "named", "yaml", "numpys"}))
def test_the_traps_do_work(kind, tmp_path):
    """Whoever unpickles what is in them makes the file."""
    content, trace = KINDS[kind](tmp_path / "trace"), tmp_path / "trace"
    for start in range(len(content)):
        if content[start : start + 1] in (b"\x80", b"c", b"("):
            try:
                pickle.loads(content[start:])
            except Exception:  # noqa: BLE001 (not the beginning of one)
                continue
            if trace.exists():
                break
    assert trace.exists()


def test_the_trap_in_yaml_does_work(tmp_path):
    yaml.unsafe_load(KINDS["yaml"](tmp_path / "trace"))
    assert (tmp_path / "trace").exists()


def test_the_trap_is_one(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "trace")))
    assert (tmp_path / "trace").exists()
