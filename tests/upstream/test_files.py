"""Files that nobody should trust: read without executing anything, or refused in one line."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import pickle
import random
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from patchkin.errors import CheckpointError
from patchkin.networks import ProjectionHead
from patchkin.upstream import read_network, read_weight_file, released_weights


def refusal(path):
    with pytest.raises(CheckpointError) as error:
        read_weight_file(path)
    message = str(error.value)
    assert "\n" not in message
    assert f"`{path}`" in message
    return message


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, command, *arguments):
        self.command, self.arguments = command, arguments

    def __reduce__(self):
        return self.command, self.arguments


def _legacy_pickle(content, path):
    path.write_bytes(pickle.dumps(content, protocol=2))


def _legacy_torch(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [torch.save, _legacy_torch, _legacy_pickle])
@pytest.mark.parametrize("place", ["alone", "beside tensors", "as a key"])
def test_code_is_not_executed(tmp_path, write, place):
    trace = tmp_path / "executed"
    for command, arguments in (
        (os.system, (f"touch {trace}",)),
        (pathlib.Path.touch, (trace,)),
        (eval, (f"open({str(trace)!r}, 'w')",)),
        (io.open, (str(trace), "w")),
    ):
        code = Malicious(command, *arguments)
        content = {
            "alone": code,
            "beside tensors": {"model.1.weight": torch.zeros(2), "model.1.bias": code},
            "as a key": {code: torch.zeros(2)},
        }[place]
        path = tmp_path / "latest_net_G.pth"
        write(content, path)
        message = refusal(path)
        assert not trace.exists()
        assert "holds more than tensors (`" in message
        assert "nothing of it was loaded" in message
        assert "weights_only" not in message


def test_the_trap_itself_works(tmp_path):
    trace = tmp_path / "executed"
    _legacy_pickle(Malicious(os.system, f"touch {trace}"), tmp_path / "x.pth")
    pickle.loads((tmp_path / "x.pth").read_bytes())
    assert trace.exists()


def test_a_whole_module_is_refused(tmp_path):
    path = tmp_path / "network.pth"
    torch.save(ProjectionHead([3]), path)
    assert "holds more than tensors (`patchkin.networks.projection.ProjectionHead`)" in refusal(
        path
    )


def test_truncated_and_damaged(tmp_path):
    weights = released_weights(ProjectionHead([3, 8], width=4))
    for name, write in (
        ("net_F.pth", torch.save),
        ("old_net_F.pth", _legacy_torch),
        ("net_F.safetensors", save_file),
    ):
        path = tmp_path / name
        write(weights, path)
        whole = path.read_bytes()
        for length in (0, 1, 10, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            assert "cannot be read as weights" in refusal(path) or length == len(whole) - 1


def test_flipped_bytes_never_end_in_another_error(tmp_path):
    draws = random.Random(0)
    weights = released_weights(ProjectionHead([3], width=2))
    for name, write in (
        ("f.pth", torch.save),
        ("old.pth", _legacy_torch),
        ("f.safetensors", save_file),
    ):
        path = tmp_path / name
        write(weights, path)
        whole = path.read_bytes()
        for _ in range(150):
            damaged = bytearray(whole)
            for _ in range(draws.choice((1, 3, 30))):
                damaged[draws.randrange(len(damaged))] = draws.randrange(256)
            path.write_bytes(damaged)
            with contextlib.suppress(CheckpointError):  # any other error fails
                read_network(path)


def test_text_and_archives(tmp_path):
    for name, content in (
        ("page.pth", b"<!DOCTYPE html><html>Not found</html>"),
        ("pointer.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        ("empty.pth", b""),
        ("text.safetensors", b"not a header"),
        ("huge.safetensors", b"\xff" * 64),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        message = refusal(path)
        assert "cannot be read as weights" in message
        assert "Expected are .pth, .pt or .safetensors" in message
        assert "weights_only" not in message
    with zipfile.ZipFile(tmp_path / "images.pth", "w") as archive:
        archive.writestr("image.png", b"")
    assert "cannot be read as weights" in refusal(tmp_path / "images.pth")


def test_missing_file_and_folder(tmp_path):
    assert refusal(tmp_path / "none.pth").endswith("none.pth`: no such file.")
    assert "is a folder; name its files, such as `latest_net_G.pth`" in refusal(tmp_path)
    torch.save({}, tmp_path / "latest_net_D.pth")
    assert f"such as `{tmp_path / 'latest_net_D.pth'}`" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, "is empty: it holds no tensors"),
        (torch.zeros(2), "holds a Tensor, not the tensors of a network by name"),
        ([torch.zeros(2)], "holds a list, not"),
        ({"a": torch.zeros(2), "epoch": 3}, "`epoch` is a int"),
        ({1: torch.zeros(2)}, "holds more than tensors by name"),
        ({"state": {}, "param_groups": []}, "holds an optimizer's state"),
        ({"gen": {"state": {}, "param_groups": []}}, "holds an optimizer's state"),
        (
            {"disContent": {"a": torch.zeros(1)}, "gen_opt": {"state": {}, "param_groups": []}},
            "holds DRIT's networks together",
        ),
        ({"a": torch.tensor([1.0, float("nan")])}, "`a` holds numbers that are not finite"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "`a` holds numbers that are not finite"),
        ({"a": torch.zeros(1).expand(10**6, 10**6)}, "`a` is not a plain tensor"),
        ({"a": torch.zeros(3).to_sparse()}, "`a` is not a plain tensor"),
        ({"a": torch.zeros(3, device="meta")}, "`a` is not a plain tensor"),
        (
            {"a\x1b[2J\nb": torch.zeros(3)},
            "a tensor is called `a[2Jb`, with signs that are no text",
        ),
        ({"\x1b[2J\n": "text"}, "(`[2J` is a str)"),
        ({("a", "b"): torch.zeros(3)}, "(`('a', 'b')` is a Tensor)"),
    ],
)
def test_contents_that_are_no_network(tmp_path, content, expected):
    path = tmp_path / "file.pth"
    torch.save(content, path)
    assert expected in refusal(path)


def test_shapes_alone_claim_no_memory(tmp_path):
    """A file of two small tensors whose names would make a network of terabytes."""
    path = tmp_path / "latest_net_G.pth"
    torch.save(
        {
            "model.1.weight": torch.zeros(30000, 3, 7, 7, dtype=torch.uint8),
            "model.12.conv_block.1.weight": torch.zeros(1),
            "model.14.weight": torch.zeros(3, 1, 1, 1),
        },
        path,
    )
    with pytest.raises(CheckpointError, match=r"does not fit one: tensors .* missing"):
        read_network(path)


def test_names_of_networks_wrapped_for_several_devices(tmp_path):
    weights = released_weights(ProjectionHead([3], width=2))
    path = tmp_path / "net_F.pth"
    torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, path)
    file = read_weight_file(path)
    assert file.unwrapped
    assert file.parts[""].keys() == weights.keys()
    mixed = {f"module.{name}" if "bias" in name else name: t for name, t in weights.items()}
    torch.save(mixed, path)
    with pytest.raises(CheckpointError, match="unexpected"):
        read_network(path)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "params_ema"])
def test_a_state_dict_inside_a_checkpoint(key, tmp_path):
    weights = released_weights(ProjectionHead([3], width=2))
    path = tmp_path / "epoch=3.ckpt"
    optimizer = {"state": {}, "param_groups": [{"lr": 0.1}]}
    torch.save({"epoch": 3, key: weights, "optimizer_states": [optimizer], "opt": optimizer}, path)
    file = read_weight_file(path)
    assert file.notes == [f"taken from `{key}` of a checkpoint"]
    assert file.parts[""].keys() == weights.keys()
    assert all(torch.equal(file.parts[""][name], weights[name]) for name in weights)


def test_a_compiled_network_in_a_wrapped_one(tmp_path):
    weights = released_weights(ProjectionHead([3], width=2))
    path = tmp_path / "net_F.pth"
    torch.save({f"module._orig_mod.{name}": tensor for name, tensor in weights.items()}, path)
    file = read_weight_file(path)
    assert file.notes == ["`_orig_mod.` cut off the names", "`module.` cut off the names"]
    assert file.parts[""].keys() == weights.keys()


def test_no_warning_reaches_the_user(tmp_path):
    path = tmp_path / "net_F.pth"
    weights = released_weights(ProjectionHead([3], width=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.save(weights, path, pickle_protocol=3)  # torch warns when it reads such a file
        read_weight_file(path)
        torch.save(weights, path, pickle_protocol=4)
        assert "cannot be read as weights (Unsupported operand" in refusal(path)
