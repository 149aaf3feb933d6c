"""Checkpoints of a run folder: what is kept, what is pointed at, what comes back."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from patchkin.errors import CheckpointError, ConfigError
from patchkin.storage import checkpoint
from patchkin.storage.checkpoint import (
    CheckpointStore,
    ModelHeader,
    Snapshot,
    find_model,
    load_optimizer_tensors,
    open_model,
    optimizer_tensors,
    read_header,
    read_model,
    write_tensors,
)

HEADER = ModelHeader(method="cut", config={"a": 1}, step=3, size=(32, 64))


def snapshot(step, **state):
    return Snapshot(
        step=step,
        header=ModelHeader(method="cut", config={"a": 1}, step=step),
        model={"G.weight": torch.full((2, 3), float(step)), "ema.G.weight": torch.ones(2, 3)},
        optimizers={"G.weight.exp_avg": torch.full((2, 3), -float(step))},
        state=state or {"total_steps": 10 * step},
    )


def saved(run_dir, *steps, keep=3, best=()):
    store = CheckpointStore(run_dir, keep=keep)
    for step in steps:
        store.save(snapshot(step), best=step in best)
    return store


def test_what_is_saved_comes_back(tmp_path):
    store = CheckpointStore(tmp_path)
    whole = snapshot(7, names=["ü", None], numbers={"loss": 0.1})
    assert store.save(whole) == tmp_path / "checkpoints" / "step_00000007"
    loaded = store.load(7)
    assert (loaded.step, loaded.header, loaded.state) == (7, whole.header, whole.state)
    for kind in ("model", "optimizers"):
        found, expected = getattr(loaded, kind), getattr(whole, kind)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    newest, damaged = store.load_newest()
    assert (newest.step, damaged) == (7, [])


def test_what_stands_in_the_files(tmp_path):
    run = {"total_steps": 70, "names": ["b", "a"]}
    folder = CheckpointStore(tmp_path).save(snapshot(7, **run))
    names = ("model.safetensors", "optimizers.safetensors")
    assert {path.name for path in folder.iterdir()} == {*names, "state.json"}
    state = json.loads((folder / "state.json").read_text())
    assert state == {
        "step": 7,
        "sha256": {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names},
        "run": run,
        "run_sha256": hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest(),
    }
    assert (folder.parent / "last").read_text() == "step_00000007\n"
    assert not (folder.parent / "best").exists()


def test_steps_are_those_of_whole_folders(tmp_path):
    store = CheckpointStore(tmp_path)
    assert store.steps() == []
    store = saved(tmp_path, 12, 3)
    for name in ("step_1", "step_0000000x", "xstep_00000004", "step_00000005.part"):
        (store.folder / name).mkdir()
    (store.folder / "step_123456789").mkdir()
    assert store.steps() == [3, 12, 123_456_789]
    assert store.path(123_456_789).name == "step_123456789"


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [
        (3, (), [3, 4, 5]),
        (1, (), [5]),
        (2, (1,), [1, 4, 5]),
        (2, (1, 2), [2, 4, 5]),
        (1, (5,), [5]),
        (0, (), [1, 2, 3, 4, 5]),
    ],
)
def test_the_newest_and_the_best_are_kept(tmp_path, keep, best, left):
    store = saved(tmp_path, 1, 2, 3, 4, 5, keep=keep, best=best)
    assert store.steps() == left
    assert store.pointed("last") == store.path(5)
    assert store.pointed("best") == (store.path(max(best)) if best else None)


def test_three_are_kept_unless_asked(tmp_path):
    store = CheckpointStore(tmp_path)
    for step in range(1, 6):
        store.save(snapshot(step))
    assert store.steps() == [3, 4, 5]


def test_a_checkpoint_gives_way_to_a_later_one_of_the_same_step(tmp_path):
    store = saved(tmp_path, 1)
    store.save(snapshot(1, names=["another"]))
    assert store.load(1).state == {"names": ["another"]}
    assert {path.name for path in store.folder.iterdir()} == {"step_00000001", "last"}


def test_the_last_is_kept_though_there_are_checkpoints_of_later_steps(tmp_path):
    """As after a run that went on before the newest, which were damaged."""
    saved(tmp_path, 1, 2, 3, 4, 5)
    store = saved(tmp_path, 2, keep=1)
    assert store.pointed("last") == store.path(2)
    assert store.steps() == [2, 5]


def test_a_pointer_to_what_is_gone_points_nowhere(tmp_path):
    store = saved(tmp_path, 1)
    store.point("best", 9)
    assert store.pointed("best") is None
    store.point("best", 1)
    assert store.pointed("best") == store.path(1)


def test_the_length_of_a_run(tmp_path):
    store = saved(tmp_path, 1)
    assert store.total_steps(1) == 10
    assert store.total_steps(2) is None
    state = store.path(1) / "state.json"
    for text in ("", "[]", "{}", '{"run": {"total_steps": "x"}}', '{"run": {"total_steps": null}}'):
        state.write_text(text)
        assert store.total_steps(1) is None


@pytest.mark.parametrize("name", ["model.safetensors", "optimizers.safetensors"])
def test_damage_is_passed_over_and_told(tmp_path, name):
    store = saved(tmp_path, 1, 2, 3)
    for step in (2, 3):
        path = store.path(step) / name
        path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    newest, damaged = store.load_newest()
    assert newest.step == 1
    assert damaged == [
        f"`{store.path(step) / name}` is damaged: its checksum differs." for step in (3, 2)
    ]
    (store.path(1) / name).unlink()
    with pytest.raises(CheckpointError) as caught:
        store.load_newest()
    assert str(caught.value) == (
        f"Every checkpoint in `{store.folder}` is damaged; the newest: {damaged[0]}"
    )
    with pytest.raises(CheckpointError, match=f"`{store.path(1)}` is damaged: .*No such file"):
        store.load(1)


def test_a_folder_without_checkpoints(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        CheckpointStore(tmp_path).load_newest()
    folder = tmp_path / "checkpoints"
    assert str(caught.value) == f"There is no checkpoint in `{folder}` to resume from."


# Files of weights


def test_models_are_read_in_single_precision_by_prefix(tmp_path):
    path = tmp_path / "m.safetensors"
    tensors = {
        "G.half": torch.tensor([0.5, 1.0], dtype=torch.float16),
        "G.wide": torch.tensor([0.1], dtype=torch.float64),
        "ema.G.half": torch.tensor([2], dtype=torch.int64),
    }
    write_tensors(path, tensors, HEADER.to_metadata())
    header, read = read_model(path)
    assert header == read_header(path) == HEADER
    assert header.height_width == (32, 64)
    dtypes = {"G.half": torch.float32, "G.wide": torch.float64, "ema.G.half": torch.int64}
    assert {name: tensor.dtype for name, tensor in read.items()} == dtypes
    assert read["G.half"].tolist() == [0.5, 1.0]
    with open_model(path) as file:
        assert (file.path, file.header) == (path, HEADER)
        assert file.outlines["G.half"].dtype == torch.float16
        assert file.tensors("ema.").keys() == {"ema.G.half"}


def test_averaged_weights_of_an_earlier_version_have_todays_names():
    header = ModelHeader(method="cyclegan", config={}, version=1)
    assert header.step == 0
    assert header.renamed({"ema.G_A.x": 1, "D_A.x": 2}) == {"ema.G_AB.x": 1, "D_B.x": 2}
    assert header.current().renamed({"D_A.x": 2}) == {"D_A.x": 2}


def test_what_the_system_says_of_weights_that_cannot_be_written(tmp_path, monkeypatch):
    said = ("I/O error: No space left on device (os error 28)", "something else")
    for text, arguments in zip(said, [(28, "No space left on device"), said[1:]], strict=True):

        def fail(*_, text=text):
            raise SafetensorError(text)

        monkeypatch.setattr(checkpoint, "save_file", fail)
        with pytest.raises(OSError) as caught:  # noqa: PT011 - compared below
            write_tensors(tmp_path / "m", {"a": torch.ones(1)}, None)
        assert caught.value.args == arguments
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_weights_are_as_readable_as_their_folder(tmp_path):
    for mode in (0o700, 0o755, 0o770):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in").chmod(mode)
        write_tensors(tmp_path / "in" / "m", {"a": torch.ones(2, 3).T}, None)
        assert stat.S_IMODE((tmp_path / "in" / "m").stat().st_mode) == mode & 0o666


def test_which_file_is_meant(tmp_path, monkeypatch):
    run = tmp_path / "run"
    store = saved(run, 1, 2, best=(1,))
    assert find_model(run) == store.path(2) / "model.safetensors"
    assert find_model(run, which="best") == store.path(1) / "model.safetensors"
    assert find_model(store.path(1)) == store.path(1) / "model.safetensors"
    assert find_model(find_model(run)) == find_model(run)
    (store.folder / "last").unlink()
    (store.folder / "best").unlink()
    assert find_model(run) == store.path(2) / "model.safetensors"
    with pytest.raises(CheckpointError, match="nor a run folder with a `best` checkpoint"):
        find_model(run, which="best")
    with pytest.raises(CheckpointError, match="nor a run folder with a `last` checkpoint"):
        find_model(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        find_model(tmp_path / "nothing")
    assert str(caught.value) == (
        f"There is no model at `{tmp_path / 'nothing'}`: no such file or folder."
    )
    with pytest.raises(CheckpointError, match="and no model of this name is shipped"):
        find_model(Path("nothing"))
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    with pytest.raises(CheckpointError, match=r"or a \.safetensors file\.$"):
        find_model(Path("data"))
    with pytest.raises(ConfigError, match="`nothing` is no name on the Hub"):
        find_model(Path("hf:nothing"))


# Optimizers


def trained(steps):
    torch.manual_seed(0)
    network = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        network(torch.ones(1, 3, 4, 4)).square().sum().backward()
        optimizer.step()
    return {"G": network}, {"G": optimizer}


def test_moments_come_back_to_their_weights():
    networks, optimizers = trained(2)
    tensors = optimizer_tensors(optimizers, networks)
    quantities = ("step", "exp_avg", "exp_avg_sq")
    assert tensors.keys() == {f"G.{n}.{q}" for n in ("weight", "bias") for q in quantities}
    contiguous = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    others, new = trained(0)
    load_optimizer_tensors(contiguous, new, others)
    for (name, weight), (_, other) in zip(
        networks["G"].named_parameters(), others["G"].named_parameters(), strict=True
    ):
        found, expected = new["G"].state[other], optimizers["G"].state[weight]
        assert found.keys() == expected.keys() == set(quantities)
        for quantity in quantities:
            assert torch.equal(found[quantity], expected[quantity])
            assert torch.equal(found[quantity], tensors[f"G.{name}.{quantity}"])
        assert found["exp_avg"].stride() == other.stride()
    contiguous["G.bias.exp_avg_sq"] = torch.zeros(5)
    with pytest.raises(CheckpointError) as caught:
        load_optimizer_tensors(contiguous, new, others, source="`optimizers`")
    assert str(caught.value) == (
        "`optimizers`: G.bias.exp_avg_sq is (5,), where the weight is (4,)."
    )
    with pytest.raises(CheckpointError, match=r"^The state of optimizers: G\.bias"):
        load_optimizer_tensors(contiguous, new, others)
    load_optimizer_tensors({}, new, others)
    assert not new["G"].state
    assert new["G"].param_groups[0]["lr"] == 0.1
