"""What a run asks of its data."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from patchkin.methods import METHODS
from patchkin.runs.config import preset_config
from patchkin.runs.train import train


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("mps", False), ("cuda", True)])
def test_pages_are_locked_for_cuda_only(tmp_path, monkeypatch, device, pinned):
    class Seen(Exception):  # noqa: N818
        pass

    def source(config, **settings):
        raise Seen(settings["process"].pin_memory)

    process = SimpleNamespace(
        device=torch.device(device), is_global_zero=True, global_rank=0, world_size=1,
        barrier=lambda: None,
    )  # fmt: skip
    monkeypatch.setattr("patchkin.runs.train.launch", lambda training: process)
    monkeypatch.setattr("patchkin.runs.train.source_of", lambda method: source)
    kind = METHODS["cut"]
    config = preset_config(kind.presets["toy"])
    with pytest.raises(Seen) as seen:
        train(kind, config, tmp_path / "run")
    assert seen.value.args == (pinned,)
