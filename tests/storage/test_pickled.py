"""Pickles of other projects: read without running anything in them, or refused in one line."""

import ast
import errno
import os
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch

import patchkin
from patchkin.errors import CheckpointError
from patchkin.storage.pickled import EXPECTED, _unreadable, is_whole, read_pickled


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


def test_what_torch_saved_comes_back(tmp_path):
    content = {"weight": torch.arange(6.0).view(2, 3), "epoch": 3, "names": ["a"]}
    torch.save(content, tmp_path / "weights.pth")
    found = read_pickled(tmp_path / "weights.pth")
    assert torch.equal(found.pop("weight"), content.pop("weight"))
    assert found == content


def test_tensors_of_a_card_come_to_the_host_and_nothing_else_is_read(tmp_path, monkeypatch):
    torch.save({}, tmp_path / "weights.pth")
    asked = []
    monkeypatch.setattr(torch, "load", lambda path, **options: asked.append((path, options)))
    read_pickled(tmp_path / "weights.pth")
    assert asked == [(tmp_path / "weights.pth", {"map_location": "cpu", "weights_only": True})]


def test_code_is_not_run(tmp_path):
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    writers = (torch.save, lambda content, target: target.write_bytes(pickle.dumps(content)))
    for write in writers:
        for content in (Trap(trace), {"weight": Trap(trace)}, [Trap(trace)]):
            write(content, path)
            with pytest.raises(CheckpointError, match=r"weights|nothing of") as caught:
                read_pickled(path)
            assert "\n" not in str(caught.value)
    assert not trace.exists()
    pickle.loads(path.read_bytes())  # the trap does work
    assert trace.exists()


@pytest.mark.parametrize("version", ["2.6.0", "2.9.1+cu128"])
def test_an_old_torch_reads_no_pickle(tmp_path, monkeypatch, version):
    torch.save({"weight": torch.ones(1)}, tmp_path / "weights.pth")
    monkeypatch.setattr(torch, "__version__", version)
    message = rf"torch {version.replace('+', '.')} can be made to execute code .* 2\.10 or newer"
    with pytest.raises(CheckpointError, match=message):
        read_pickled(tmp_path / "weights.pth")


def test_damaged_missing_and_folders_are_one_line(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.ones(100)}, path)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], b"\x80\x04", b"<!DOCTYPE html>"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot be read as weights") as caught:
            read_pickled(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="no such file"):
        read_pickled(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="it is a folder"):
        read_pickled(tmp_path)


def test_nothing_else_in_the_package_reads_a_pickle():
    root = Path(patchkin.__file__).parent
    readers = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr)
        in {("torch", "load"), ("pickle", "load"), ("pickle", "loads"), ("pickle", "Unpickler")}
    }
    assert readers == {"storage/pickled.py"}


def test_parts_that_unpack_to_more_than_the_file_are_not_unpacked(tmp_path):
    """torch stores them as they are; 64 MB of zeros deflate to 64 KB."""
    torch.save({"w": torch.zeros(1 << 24)}, tmp_path / "plain.pth")
    path = tmp_path / "deflated.pth"
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for part in plain.infolist():
            packed.writestr(part.filename, plain.read(part))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(CheckpointError, match="its parts are larger than the file"):
        read_pickled(path)
    assert read_pickled(tmp_path / "plain.pth")["w"].shape == (1 << 24,)


def test_a_tensor_has_all_its_numbers():
    for whole in (torch.zeros(2, 3), torch.zeros(2, 3).T, torch.zeros(0), torch.zeros(6)[2:4]):
        assert is_whole(whole)
    short = torch.zeros(6).as_strided((7,), (0,))
    meta, sparse = torch.zeros(2, device="meta"), torch.zeros(2, 2).to_sparse()
    for other in (short, torch.zeros(1).expand(2), meta, sparse):
        assert not is_whole(other)


def test_the_words_of_a_parser_are_one_line():
    def line(error):
        message = str(_unreadable(Path("w.pth"), error))
        assert message.startswith("`w.pth` cannot be read as weights (")
        assert message.endswith(f"). Is it damaged or not fully downloaded? {EXPECTED}")
        return message.partition("(")[2].partition(")")[0]

    assert line(ValueError("first. \nsecond")) == "first"
    assert line(KeyError()) == "KeyError"
    assert line(ValueError("a\x1b[2Jb")) == "a [2Jb"
    assert line(RuntimeError("set `weights_only` to False")) == "not a file that torch.save wrote"
    advice = "In 2.6 the default changed. WeightsUnpickler error:  Unsupported operand 9.\nMore"
    assert line(RuntimeError(advice)) == "Unsupported operand 9"


def test_what_holds_code_is_named(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"weight": Trap(tmp_path / "trace")}, path)
    with pytest.raises(CheckpointError) as caught:
        read_pickled(path)
    before, name, after = str(caught.value).removeprefix(f"`{path}` ").split("`")
    assert before == "holds more than tensors ("
    assert name.rpartition(".")[2] in ("getattr", "touch")  # as this Python pickles a method
    assert after == (
        "); such files can run code, so nothing of it was loaded. Save the state dict alone, with "
        "torch.save(network.state_dict(), FILE)."
    )


def test_a_disk_that_fails_is_told_and_no_damage(tmp_path, monkeypatch):
    """Python's zipfile calls any error of the end of a file "not a zip file"."""
    torch.save({"w": torch.zeros(3)}, tmp_path / "a.pth")

    def fail(*_):
        try:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        except OSError:
            raise zipfile.BadZipFile("File is not a zip file")  # noqa: B904 (as there)

    monkeypatch.setattr(zipfile, "ZipFile", fail)
    with pytest.raises(CheckpointError, match=r"a\.pth` cannot be read as weights \(Input/output"):
        read_pickled(tmp_path / "a.pth")


def test_what_stands_in_place_of_weights_is_said_in_words(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    end = "Expected are .pth, .pt or .safetensors with tensors by name."
    path.write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(CheckpointError) as caught:
        read_pickled(path)
    assert str(caught.value).startswith(f"`{path}` cannot be read as weights: it is a web page. ")
    assert str(caught.value).endswith(f" {end}")

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError) as caught:
        read_pickled(path)
    assert str(caught.value) == f"`{path}` cannot be read as weights: Permission denied. {end}"


def test_what_is_no_file_of_weights_is_not_read_whole(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"text" * (1 << 21))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="cannot be read as weights"):
            read_pickled(path)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < path.stat().st_size / 2
