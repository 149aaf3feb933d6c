"""`patchkin.fit(config) -> Run` does what `patchkin train` does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import patchkin
from cli.conftest import TINY
from patchkin.errors import ConfigError
from patchkin.methods import METHODS
from patchkin.runs.config import config_from_plain, preset_config
from runs.test_resuming import Copy

SMALL = {
    "data": {"size": 32, "load_size": 36, "workers": 0},
    "method": {
        "generator": {"ngf": 4, "blocks": 5},
        "discriminator": {"ndf": 4},
        "num_patches": 8,
        "head_width": 8,
    },
    "schedule": {"steps": 3},
    "training": {"device": "cpu"},
}


def settings(root, **more):
    return {"name": "cut", **SMALL, "data": {**SMALL["data"], "root": root}, **more}


def test_it_is_the_run_of_the_command(command, toy_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = command(
        *("train", "cut", "--data", toy_root, "--run-dir", "command", "--steps", "3", *TINY)
    )
    assert code == 0, err
    run = patchkin.fit(settings(toy_root))  # a path, where text is meant
    assert run.folder.name == f"cut_{toy_root.name}"
    expected = load_file(tmp_path / "command" / "checkpoints" / "step_00000003/model.safetensors")
    weights = load_file(run.model())
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    written = yaml.safe_load((tmp_path / "command" / "config.yaml").read_text())
    assert run.config == written
    assert run.steps == 3
    assert run.report.is_file()
    scored = {r["step"]: r["scores"] for r in run.log if "scores" in r}
    assert run.scores == scored
    given = np.zeros((40, 33, 3), np.uint8)
    translated = run.translator(device="cpu")(given)
    assert (translated.shape, translated.dtype) == (given.shape, given.dtype)

    with pytest.raises(patchkin.errors.CheckpointError, match="holds a run"):
        patchkin.fit(settings(str(toy_root)))
    longer = settings(str(toy_root), schedule={"steps": 4})
    assert patchkin.fit(longer, run.folder, resume=True).steps == 4


def test_a_file_a_typed_configuration_and_a_method_of_ones_own(toy_root, tmp_path):
    told = []

    class Mine:
        def __init__(self, run):
            told.append(run.settings["name"])

        def values(self, step, values):
            told.append((step, sorted(values)))

        def image(self, step, file):
            pass

        def close(self):
            told.append("closed")

    plain = {"data": {"root": str(toy_root), "size": 8, "load_size": 8, "workers": 0}}
    plain |= {"schedule": {"steps": 2}, "training": {"device": "cpu", "log_every": 1}}
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(plain))
    run = patchkin.fit(file, tmp_path / "file", method=Copy, loggers={"mine": Mine})
    assert told[0] == "copy"
    assert [each[0] for each in told[1:-1] if "terms/G.copy" in each[1]] == [1, 2]
    assert told[-1] == "closed"
    typed = config_from_plain(
        Copy, preset_config(next(iter(Copy.presets.values()))), plain, where="the test"
    )
    again = patchkin.fit(typed, tmp_path / "typed", method=Copy)
    one, other = load_file(run.model()), load_file(again.model())
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert again.translator(device="cpu")(torch.zeros(3, 9, 9)).shape == (3, 9, 9)


def test_presets_by_name_and_what_is_wrong_in_one_sentence(tmp_path):
    from patchkin.runs.run import _configured

    kind, config = _configured({"name": "cut", "preset": "fastcut"}, None)
    assert (kind, config.method) == (METHODS["cut"], METHODS["cut"].presets["fastcut"].method)
    assert _configured(config, None) == (METHODS["cut"], config)
    for given, said in {
        "cutt": "Unknown method `cutt` in the configuration. Did you mean `cut`?",
        None: 'The configuration names no method. Add its `name`, such as "cut".',
    }.items():
        with pytest.raises(ConfigError) as raised:
            patchkin.fit({"name": given} if given else {})
        assert str(raised.value) == said
    with pytest.raises(ConfigError, match=r"has no preset `fastcutt`. Did you mean `fastcut`"):
        patchkin.fit({"name": "cut", "preset": "fastcutt"})
    with pytest.raises(ConfigError, match="Unknown key `shedule` in the configuration"):
        patchkin.fit({"name": "cut", "shedule": {}})
    own = preset_config(next(iter(Copy.presets.values())))
    with pytest.raises(ConfigError, match="is a CopyConfig, which tells no method of patchkin"):
        patchkin.fit(own)
