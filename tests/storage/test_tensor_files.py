"""Files of tensors of anybody: what they hold, and one line for what is none."""

from __future__ import annotations

import errno
import os
import struct

import pytest
import torch
from safetensors.torch import save_file

from patchkin.errors import CheckpointError, ConfigError
from patchkin.storage import tensor_files
from patchkin.storage.tensor_files import check_is_no_stand_in, open_tensors, printable

TYPES = (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
)


def told(path, **options):
    with pytest.raises(CheckpointError) as caught, open_tensors(path, **options):
        pass
    return str(caught.value)


def test_tensors_are_known_before_they_are_read_and_come_as_they_were(tmp_path):
    path = tmp_path / "m.safetensors"
    tensors = {
        str(dtype): torch.arange(-3, 3).reshape(2, 1, 3).ne(0).to(dtype) * (number + 1)
        for number, dtype in enumerate(TYPES)
    }
    tensors = {
        name: tensor.to(dtype) for (name, tensor), dtype in zip(tensors.items(), TYPES, strict=True)
    }
    save_file({**tensors, "none": torch.zeros(0, 4)}, path, {"a": "b"})
    with open_tensors(path) as file:
        assert (file.path, file.metadata) == (path, {"a": "b"})
        assert file.outlines.keys() == {*tensors, "none"}
        assert {outline.device.type for outline in file.outlines.values()} == {"meta"}
        assert file.outlines["none"].shape == (0, 4)
        for name, tensor in tensors.items():
            outline, read = file.outlines[name], file.read(name)
            assert (outline.shape, outline.dtype) == (tensor.shape, tensor.dtype)
            assert (read.device.type, read.dtype) == ("cpu", tensor.dtype)
            assert torch.equal(read, tensor)
    save_file({"x": torch.ones(1)}, path)
    with open_tensors(path) as file:
        assert file.metadata == {}


def contents(text, *, length=None, data=b""):
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ONE = b'{"x":{"dtype":"%s","shape":[1],"data_offsets":[0,%d]}}'
ENDLESS = "it is no safetensors file, or was not downloaded to its end"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"1234567", ENDLESS),
        (bytes(8), ENDLESS),
        (contents(b"{}", length=3), ENDLESS),
        (contents(b"{}", length=2**63), ENDLESS),
        (contents(ONE % (b"F8_E4M3", 1), data=b"\0"), "the tensor `x` has the type F8_E4M3"),
        (b"<!doctype html>", "it is a web page. Download the file itself, not the page that shows"),
        (contents(b"[]"), "Error while deserializing header"),
    ],
)
def test_what_is_none_is_one_line(tmp_path, content, said):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    line = told(path)
    assert line.startswith(f"`{path}` cannot be read as a model: {said}")
    assert line.endswith(".")
    assert "\n" not in line
    line = told(path, as_what="a checkpoint", advice="Fetch it again.")
    assert line.startswith(f"`{path}` cannot be read as a checkpoint: {said}")
    assert line.endswith(". Fetch it again.")


def test_the_largest_table_of_contents(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_files, "MOST_CONTENTS_BYTES", 1 << 20)
    path = tmp_path / "m.safetensors"
    table = ONE % (b"F32", 4)
    path.write_bytes(contents(table.ljust(1 << 20), data=bytes(4)))
    with open_tensors(path) as file:
        assert file.read("x").tolist() == [0.0]
    path.write_bytes(contents(table.ljust(3 << 20), data=bytes(4)))
    assert told(path) == (
        f"`{path}` cannot be read as a model: its table of contents has 3 MiB; at most 1 MiB are "
        "read."
    )
    path.write_bytes(contents(table.ljust((1 << 20) + 1), data=bytes(4)))
    assert "its table of contents has 1 MiB" in told(path)


def test_what_the_system_says_and_what_is_ours(tmp_path):
    path = tmp_path / "m.safetensors"
    assert told(path) == f"`{path}` cannot be read as a model: {os.strerror(errno.ENOENT)}."
    save_file({"x": torch.ones(1)}, path)
    for error, said in (
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (RuntimeError("Too\nbad.. "), "Toobad"),
        (MemoryError(), "MemoryError"),
    ):
        with pytest.raises(CheckpointError) as caught, open_tensors(path):
            raise error
        assert str(caught.value) == f"`{path}` cannot be read as a model: {said}."
        assert caught.value.__cause__ is error
    for error in (ConfigError("ours"), KeyError("a fault")):
        with pytest.raises(type(error)) as caught, open_tensors(path):
            raise error
        assert caught.value is error


def test_what_is_saved_in_place_of_weights():
    for page in (b"<!DOCTYPE html>", b"<html lang='en'>", b"<head>", b"<?xml version='1.0'?>"):
        for before in (b"", b"\xef\xbb\xbf", b"\r\n  ", b"\xef\xbb\xbf\n"):
            with pytest.raises(ValueError, match="it is a web page"):
                check_is_no_stand_in(before + page)
    with pytest.raises(ValueError, match=r"a pointer of Git LFS\. .* `git lfs pull`"):
        check_is_no_stand_in(b"version https://git-lfs.github.com/spec/v1\noid sha256:0")
    for other in (b"", b"PK\x03\x04", b"\x80\x02}", b"<svg>", b"version 1", bytes(64)):
        check_is_no_stand_in(other)


def test_what_may_reach_a_terminal():
    assert printable("ü" * 200) == "ü" * 160
    assert printable("\x1b" * 300 + "a" * 500, 100) == "a" * 100
    assert printable("\x1b" * 400 + "a" * 500, 100) == ""
    assert printable("a\tb\x00c\u202e", 2) == "ab"


def test_why_a_file_cannot_be_opened_is_the_systems_word(tmp_path, monkeypatch):
    """The library says of any trouble that no file is there."""
    path = tmp_path / "m.safetensors"
    save_file({"x": torch.arange(3.0)}, path)
    tried = []

    def fails(file, framework):
        tried.append(file)
        raise FileNotFoundError(f"No such file or directory: {file}")

    class Closed(type(path)):
        def open(self, *arguments, **named):
            if tried:
                raise PermissionError(errno.EACCES, "Permission denied", str(self))
            return super().open(*arguments, **named)

    real = tensor_files.safe_open
    monkeypatch.setattr(tensor_files, "safe_open", fails)
    said = r"m.safetensors` cannot be .*: Permission denied\."
    with pytest.raises(CheckpointError, match=said), open_tensors(Closed(path)):
        pass
    tried.clear()

    def once(file, framework):
        return real(file, framework) if tried else fails(file, framework)

    monkeypatch.setattr(tensor_files, "safe_open", once)
    with open_tensors(path) as file:
        assert file.read("x").tolist() == [0.0, 1.0, 2.0]
    assert tried == [path]


def test_files_of_torch_and_exported_models_are_told_apart(tmp_path):
    for beginning in (b"PK\x03\x04", b"\x80\x02}"):
        path = tmp_path / "m.pth"
        path.write_bytes(beginning + bytes(60))
        assert "it is a file of torch. `patchkin import-weights` makes a model" in told(path)
    path = tmp_path / "m.ONNX"
    path.write_bytes(bytes(64))
    assert told(path) == (
        f"`{path}` cannot be read as a model: it is an exported model, and this wants the run or "
        "the .safetensors file."
    )


def test_a_table_of_contents_of_16_mib_is_read_and_none_larger(tmp_path):
    path = tmp_path / "m.safetensors"
    for length, said in (
        (16 << 20, "Error while deserializing header"),  # it is read, and is zeros
        ((16 << 20) + 1, "its table of contents has 16 MiB; at most 16 MiB are read."),
    ):
        path.write_bytes(contents(b"", length=length))
        os.truncate(path, 8 + length)
        assert said in told(path)
