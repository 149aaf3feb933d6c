"""`--from MODEL`: what fits is taken, what does not is listed, and the run remembers both."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from cli.conftest import TINY
from methods.test_contract import CUT, build
from patchkin.config import to_plain
from patchkin.errors import CheckpointError
from patchkin.methods import METHODS
from patchkin.networks import PatchGANConfig, ResNetConfig
from patchkin.runs.starting import begin_from
from patchkin.scoring.report import read_log
from patchkin.storage.checkpoint import CheckpointStore, ModelHeader, find_model, write_tensors


def saved(method, path, *, averaged=None, step=7):
    tensors = dict(method.state_dict())
    if averaged is not None:
        tensors |= {f"ema.{n}": t for n, t in averaged.state_dict().items() if n.startswith("G.")}
    header = ModelHeader(method=method.name, config=to_plain(method.config), step=step)
    write_tensors(path, tensors, header.to_metadata())
    return str(path)


def test_the_same_method_takes_everything(tmp_path):
    there, here = build("cut", seed=0), build("cut", seed=1)
    beginning = begin_from(here, saved(there, tmp_path / "m.safetensors"))
    for name, tensor in here.state_dict().items():
        assert torch.equal(tensor, there.state_dict()[name]), name
    assert (beginning.left, beginning.unused) == ({}, ())
    assert sum(beginning.taken.values()) == len(there.state_dict())
    digest = hashlib.sha256((tmp_path / "m.safetensors").read_bytes()).hexdigest()
    assert (beginning.sha256, beginning.method, beginning.step) == (digest, "cut", 7)


def test_averaged_weights_are_taken_where_there_are_any(tmp_path):
    live, averaged, here = (build("cut", seed=seed) for seed in range(3))
    begin_from(here, saved(live, tmp_path / "m.safetensors", averaged=averaged))
    expected = {"G": averaged, "D": live, "F": live}
    for name, tensor in here.state_dict().items():
        assert torch.equal(tensor, expected[name[0]].state_dict()[name]), name


def test_layers_for_other_channels_are_listed_and_left_as_they_were(tmp_path):
    there = build("cut", seed=0)
    grey = METHODS["cut"](
        replace(
            CUT,
            generator=ResNetConfig(ngf=4, blocks=5, in_channels=1, out_channels=1),
            discriminator=PatchGANConfig(ndf=4, in_channels=1),
        )
    )
    before = {name: tensor.clone() for name, tensor in grey.state_dict().items()}
    beginning = begin_from(grey, saved(there, tmp_path / "m.safetensors"))
    own, other = grey.state_dict(), there.state_dict()
    differing = {name for name in own if own[name].shape != other[name].shape}
    assert set(beginning.left) == differing != set()
    for name, tensor in own.items():
        assert torch.equal(tensor, before[name] if name in differing else other[name]), name
    first = next(name for name in beginning.left if name.startswith("D."))
    shapes = [list(tensors[first].shape) for tensors in (own, other)]
    assert beginning.left[first] == f"is {shapes[0]} here and {shapes[1]} in the model"
    assert any(line.startswith("left fresh  D (1): ") for line in beginning.told())


def test_one_way_of_a_method_with_two_and_back(tmp_path):
    one, two = build("cut", seed=0), build("dclgan", seed=1)
    before = {name: tensor.clone() for name, tensor in two.state_dict().items()}
    beginning = begin_from(two, saved(one, tmp_path / "one.safetensors"))
    names = {"G_AB": "G", "D_B": "D", "F_A": "F"}
    for name, tensor in two.state_dict().items():
        network, _, rest = name.partition(".")
        source = f"{names.get(network)}.{rest}"
        there = one.state_dict().get(source, torch.empty(0))
        expected = there if there.shape == tensor.shape else before[name]  # they tap other layers
        assert torch.equal(tensor, expected), name
    assert {"G_AB", "D_B", "F_A"} == set(beginning.taken)
    assert {"G_BA", "D_A", "F_B"} <= {name.partition(".")[0] for name in beginning.left}
    back = build("cut", seed=3)
    beginning = begin_from(back, saved(two, tmp_path / "two.safetensors"))
    assert beginning.unused == ("D_A", "F_B", "G_BA")
    for name, tensor in back.G.state_dict().items():
        assert torch.equal(tensor, one.G.state_dict()[name]), name


def test_what_fits_in_nothing_is_one_line(tmp_path):
    wide = METHODS["cut"](replace(CUT, generator=ResNetConfig(ngf=6, blocks=5), head_width=9))
    wide.D = torch.nn.Identity()
    model = saved(build("gcgan"), tmp_path / "m.safetensors")
    with pytest.raises(
        CheckpointError, match=r"No weights of .*`gcgan`, fit `cut` with these"
    ) as e:
        begin_from(wide, model)
    assert "\n" not in str(e.value)


# Runs


@pytest.fixture
def train(command, toy_root, tmp_path):
    def run(*arguments, method="cut", name="run", steps="4"):
        code, _, err = command(
            *("train", method, "--data", toy_root, "--run-dir", tmp_path / name, *TINY),
            *("--steps", steps, "--training.log-every", "1", "--save-every", "2", *arguments),
        )
        return code, err

    return run


def weights(run_dir, step):
    return load_file(CheckpointStore(run_dir).path(step) / "model.safetensors")


def test_a_run_from_another_remembers_it_and_resumes_exactly(
    train, command, finished_run, toy_root, tmp_path
):
    model = shutil.copytree(finished_run, tmp_path / "model")
    code, err = train("--from", model)
    assert code == 0, err
    assert f"begun from  `{model}`: cut, step 3; tensors taken: G (" in err
    digest = hashlib.sha256(find_model(model).read_bytes()).hexdigest()
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["training"]
    assert (kept["start_from"], kept["start_sha256"]) == (str(model), digest)
    told = [r["begun_from"] for r in read_log(tmp_path / "run") if "begun_from" in r]
    assert [(each["sha256"], each["method"], each["step"]) for each in told] == [(digest, "cut", 3)]
    assert digest[:12] in (tmp_path / "run" / "report.html").read_text()

    # Optimizers are fresh: a run whose untrained weights are those of the file has the same bits.
    settings = tmp_path / "config.yaml"
    plain = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    plain["training"] |= {"start_from": None, "start_sha256": None}
    settings.write_text(yaml.safe_dump(plain))
    by_hand(settings, tmp_path / "by_hand", load_file(find_model(model)))
    expected = weights(tmp_path / "run", 4)
    for name, tensor in weights(tmp_path / "by_hand", 4).items():
        assert torch.equal(tensor, expected[name]), name

    shutil.rmtree(model)  # it has been taken, and is not needed again
    shutil.rmtree(CheckpointStore(tmp_path / "run").path(4))
    code, _, err = command("train", "--resume", tmp_path / "run")
    assert code == 0, err
    assert "after step 2/4" in err
    for name, tensor in weights(tmp_path / "run", 4).items():
        assert torch.equal(tensor, expected[name]), name
    code, _, err = command("train", "--resume", tmp_path / "run", "--from", finished_run)
    assert code == 2
    assert f"--from {model}, now {finished_run}" in err


def by_hand(settings, run_dir, tensors):
    from patchkin.config import read_yaml
    from patchkin.runs.config import config_from_plain, preset_config
    from patchkin.runs.train import train

    kind = METHODS["cut"]
    default = preset_config(next(iter(kind.presets.values())))
    config = config_from_plain(kind, default, read_yaml(settings), where="the test")
    train(kind, config, run_dir, begin=lambda method: method.load_state_dict(tensors))


def test_another_method_and_another_size(train, finished_run, tmp_path):
    code, err = train(
        *("--from", finished_run, "--size", "40", "--data.load-size", "44"),
        method="semantic-relation",
        steps="1",
    )
    assert code == 0, err
    assert "tensors taken: G (" in err


def test_what_cannot_be_begun_from_is_one_line(train, finished_run, tmp_path):
    (tmp_path / "latest_net_G.pth").write_bytes(b"PK")
    (tmp_path / "a.safetensors").write_bytes(b"nothing of the kind" * 9)
    told = {
        str(tmp_path / "none" / "x"): "no such file or folder",
        "horse2zebra-preveiw": "Did you mean `horse2zebra-preview`?",
        str(tmp_path / "latest_net_G.pth"): "patchkin import-weights ",
        str(tmp_path / "a.safetensors"): "cannot be read as a model",
        str(tmp_path): "neither a model nor a run folder",
    }
    for model, said in told.items():
        code, err = train("--from", model)
        assert (code, len(err.strip().splitlines())) == (2, 1), err
        assert said in err
    assert not (tmp_path / "run").exists()


def test_settings_that_name_another_file_are_refused(train, finished_run, tmp_path):
    (tmp_path / "c.yaml").write_text(
        f"training: {{start_from: '{finished_run}', start_sha256: '{'0' * 64}'}}\n"
    )
    code, err = train("--config", tmp_path / "c.yaml")
    assert code == 2
    assert "is not the model that these settings begin from" in err
    code, err = train("--config", tmp_path / "c.yaml", "--from", finished_run, steps="1")
    assert code == 0, err
