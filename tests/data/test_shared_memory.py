"""Batches on their way from the loader's processes, where shared memory is small."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from patchkin.data import shared_memory
from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.data.loading import open_training_data, training_loader
from patchkin.data.shared_memory import Piped, shared_or_piped


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    for domain in ("trainA", "trainB"):
        (tmp_path / domain).mkdir()
        for number in range(4):
            pixels = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / domain / f"{number}.png")
    return tmp_path


def batches(folder, *, workers):
    config = DataConfig(root=folder, size=32, load_size=36)
    dataset = open_training_data(config, seed=0).dataset
    return list(training_loader(dataset, batch_size=2, total_steps=6, workers=workers))


def test_a_small_shared_memory_changes_nothing_but_is_said_once(folder, monkeypatch, caplog):
    """The size is injected: 64 MB, of which 1 MB is free."""
    expected = batches(folder, workers=0)
    assert caplog.text == ""
    monkeypatch.setattr(shared_memory, "shared_memory_bytes", lambda: (64 * 2**20, 2**20))
    found = batches(folder, workers=2)
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one.a_BCHW, other.a_BCHW)
        assert torch.equal(one.b_BCHW, other.b_BCHW)
        assert one.a_names == other.a_names
        assert not other.a_BCHW.is_shared()
    assert caplog.text.count("/dev/shm has 64 MB, too little for 2 workers") == 1


def test_with_room_nothing_is_said(folder, caplog):
    found = batches(folder, workers=2)
    assert len(found) == 6
    assert caplog.text == ""


def test_what_torch_raises_when_it_is_full_is_understood(monkeypatch):
    def full(_):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    batch = UnpairedBatch(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2), ("a",), ("b",))
    piped = shared_or_piped(batch)
    assert isinstance(piped, Piped)
    assert piped.num_bytes == 2 * 12 * 4
    assert torch.equal(piped.unpacked().b_BCHW, batch.b_BCHW)
    assert piped.unpacked().b_names == ("b",)


LOADING = """
import logging, sys, time
from pathlib import Path
from patchkin.data.config import DataConfig
from patchkin.data.loading import open_training_data, training_loader
logging.basicConfig()
config = DataConfig(root=Path(sys.argv[1]), size=256, load_size=256)
dataset = open_training_data(config, seed=0).dataset
count = 0
for batch in training_loader(dataset, batch_size=4, total_steps=40, workers=4):
    time.sleep(0 if count else 3)  # until the workers have filled what there is
    count += 1
print(count)
"""


@pytest.mark.slow
def test_training_data_comes_with_the_64_megabytes_of_docker(folder):
    """In a mount namespace of its own: views of 256 pixels, batches of 4, 4 workers."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounting a small /dev/shm needs root and unshare")
    script = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec timeout 120 "$0" -c "$1" "$2"'
    command = ["unshare", "-m", "bash", "-c", script, sys.executable, LOADING, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "40\n"), result.stderr
    assert result.stderr.count("/dev/shm has 64 MB") == 1
