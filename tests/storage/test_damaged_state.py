"""What a checkpoint says of its run is checked as its weights are."""

from __future__ import annotations

import json
import os

import pytest
import torch

from patchkin.errors import CheckpointError
from patchkin.storage.checkpoint import CheckpointStore, ModelHeader, Snapshot


@pytest.fixture
def store(tmp_path):
    store = CheckpointStore(tmp_path)
    header = ModelHeader(method="cut", config={}, step=1)
    for step in (1, 2):
        store.save(
            Snapshot(
                step=step,
                header=header,
                model={"G": torch.tensor([float(step)])},
                optimizers={},
                state={"best": {"step": 1, "value": 0.1 + 0.2}, "scaler": None},
            )
        )
    return store


def changed(store, change):
    path = store.path(2) / "state.json"
    state = json.loads(path.read_text())
    change(state)
    path.write_text(json.dumps(state))


def test_a_number_that_changed_on_the_disk_is_damage(store):
    """The checkpoint before takes its place, as for damaged weights."""
    assert store.load_newest()[0].step == 2
    changed(store, lambda state: state["run"]["best"].update(value=0.4))
    newest, damaged = store.load_newest()
    assert newest.step == 1
    assert newest.state == {"best": {"step": 1, "value": 0.1 + 0.2}, "scaler": None}
    assert len(damaged) == 1
    assert "state.json` is damaged: its checksum differs" in damaged[0]


def test_what_a_version_before_wrote_is_read(store):
    changed(store, lambda state: state.pop("run_sha256"))
    assert store.load(2).step == 2


@pytest.mark.parametrize("key", ["run", "sha256"])
def test_what_is_missing_is_damage(store, key):
    changed(store, lambda state: state.pop(key))
    with pytest.raises(CheckpointError, match="is damaged"):
        store.load(2)


@pytest.mark.parametrize(
    ("told", "expected"),
    [("6", 6), ("Infinity", None), ("1e999", None), ('"6"', None), ("6.5", None)],
)
def test_the_length_of_a_run_is_a_whole_number_or_unknown(store, told, expected):
    """Of a state that somebody changed: infinity was a traceback."""
    path = store.path(2) / "state.json"
    state = json.loads(path.read_text())
    state["run"]["total_steps"] = "HERE"
    path.write_text(json.dumps(state).replace('"HERE"', told))
    assert store.total_steps(2) == expected


def test_only_the_files_of_a_checkpoint_are_read(store, tmp_path):
    """A record of others may name any file, one without an end too, or leave one of ours out."""
    os.mkfifo(tmp_path / "endless")
    changed(store, lambda state: state["sha256"].update({"../../endless": "0" * 64}))
    assert store.load(2).step == 2
    changed(store, lambda state: state["sha256"].pop("optimizers.safetensors"))
    with pytest.raises(CheckpointError, match="is damaged"):
        store.load(2)


@pytest.mark.parametrize("named", [b"\xff\xfe", b"..", b"../..", b"/", b"step_00000001/..", b""])
def test_a_pointer_names_a_checkpoint_or_nothing(store, named):
    (store.folder / "best").write_bytes(named)
    assert store.pointed("best") is None
    (store.folder / "best").write_bytes(b"step_00000001\n")
    assert store.pointed("best") == store.path(1)
