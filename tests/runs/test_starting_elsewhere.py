"""`--from MODEL` onto images of other channels and of another size, tensor by tensor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from cli.conftest import TINY
from methods.test_contract import SINCUT, STARGAN
from patchkin.methods import METHODS
from patchkin.networks import StyleGan2DiscriminatorConfig, StyleGan2GeneratorConfig
from patchkin.runs import train as running
from patchkin.runs.starting import begin_from
from patchkin.scoring.report import read_log
from patchkin.storage.checkpoint import CheckpointStore, find_model
from patchkin.translation.translator import Translator
from runs.test_starting import saved


def copied(method):
    return {name: tensor.clone() for name, tensor in method.state_dict().items()}


@pytest.fixture
def begun(monkeypatch):
    """The tensors of each run that begins from a model, before and behind that."""
    seen = []

    def watched(method, model, **options):
        before = copied(method)
        beginning = begin_from(method, model, **options)
        seen.append((before, copied(method)))
        return beginning

    monkeypatch.setattr(running, "begin_from", watched)
    return seen


def steps_of_optimizers(run_dir, step):
    tensors = load_file(CheckpointStore(run_dir).path(step) / "optimizers.safetensors")
    return {int(tensor) for name, tensor in tensors.items() if name.endswith("step")}


PLAIN = tuple(part for part in TINY if part not in ("--method.num-patches", "--method.head-width"))
CASES = {
    "cut": (
        TINY,
        {
            "G.model.1.weight": ([4, 1, 7, 7], [4, 3, 7, 7]),
            "G.model.26.weight": ([1, 4, 7, 7], [3, 4, 7, 7]),
            "G.model.26.bias": ([1], [3]),
            "D.model.0.weight": ([4, 1, 4, 4], [4, 3, 4, 4]),
            "F.mlps.0.0.weight": ([8, 1], [8, 3]),
        },
    ),
    "cyclegan": (
        tuple(part for part in PLAIN if part != "8"),
        {
            f"{network}.{name}": shapes
            for name, shapes in {
                "model.1.weight": ([4, 1, 7, 7], [4, 3, 7, 7]),
                "model.22.weight": ([1, 4, 7, 7], [3, 4, 7, 7]),
                "model.22.bias": ([1], [3]),
            }.items()
            for network in ("G_AB", "G_BA")
        }
        | {f"{network}.model.0.weight": ([4, 1, 4, 4], [4, 3, 4, 4]) for network in ("D_A", "D_B")},
    ),
}


@pytest.mark.parametrize("method", CASES)
def test_a_run_on_grey_images_of_another_size(method, command, toy_root, tmp_path, begun):
    flags, expected = CASES[method]

    def train(name, steps, *more):
        run = ("train", method, "--data", toy_root, "--run-dir", tmp_path / name, *flags)
        code, _, err = command(*run, "--steps", steps, *more)
        assert code == 0, err
        return err

    train("colour", 3)
    err = train(
        *("grey", 1, "--from", tmp_path / "colour", "--channels", "1", "--size", "48"),
        *("--data.load-size", "52", "--training.log-every", "1"),
    )
    there = load_file(find_model(tmp_path / "colour"))
    ((before, after),) = begun
    own = {name: tensor for name, tensor in after.items() if not name.startswith("pool_")}
    assert {name for name, tensor in own.items() if tensor.shape != there[name].shape} == set(
        expected
    )
    for name, tensor in own.items():
        source = before if name in expected else there
        assert torch.equal(tensor, source[name]), name
    (told,) = [
        record["begun_from"] for record in read_log(tmp_path / "grey") if record.get("begun_from")
    ]
    assert told["left"] == {
        name: f"is {here} here and {was} in the model" for name, (here, was) in expected.items()
    }
    assert sum(told["taken"].values()) == len(own) - len(expected)
    for name in expected:
        assert f"{name} {told['left'][name]}" in err
    assert steps_of_optimizers(tmp_path / "colour", 3) == {3}
    assert steps_of_optimizers(tmp_path / "grey", 1) == {1}
    x_BCHW = torch.rand(1, 1, 30, 41) * 2 - 1
    assert Translator.load(tmp_path / "grey", device="cpu")(x_BCHW).shape == (1, 1, 30, 41)


LARGER_SINCUT = replace(
    SINCUT,
    generator=StyleGan2GeneratorConfig(ngf=1, working_size=64),
    discriminator=StyleGan2DiscriminatorConfig(ndf=1, working_size=64),
)
LARGER_STARGAN = replace(STARGAN, networks=replace(STARGAN.networks, image_size=32, num_domains=2))


@pytest.mark.parametrize(
    ("name", "small", "large"),
    [("sincut", SINCUT, LARGER_SINCUT), ("starganv2", STARGAN, LARGER_STARGAN)],
)
def test_networks_that_are_built_for_a_size(name, small, large, tmp_path):
    """Every tensor, both ways: from the model if name and shape are the same, else as it was."""
    for first, second in ((small, large), (large, small)):
        torch.manual_seed(0)
        there = METHODS[name](first)
        here = METHODS[name](second)
        source, before = copied(there), copied(here)
        beginning = begin_from(here, saved(there, tmp_path / "m.safetensors"))
        learned = {n for n, part in here.named_children() if any(True for _ in part.parameters())}
        fits = {
            n
            for n, tensor in before.items()
            if n in source and source[n].shape == tensor.shape and n.partition(".")[0] in learned
        }
        for tensor_name, tensor in here.state_dict().items():
            expected = source if tensor_name in fits else before
            assert torch.equal(tensor, expected[tensor_name]), tensor_name
        asked = {n for n in before if n.partition(".")[0] in learned}
        assert set(beginning.left) == asked - fits
        for tensor_name, why in beginning.left.items():
            if tensor_name not in source:
                assert why == "is not in the model"
                continue
            shapes = (list(before[tensor_name].shape), list(source[tensor_name].shape))
            assert why == "is {} here and {} in the model".format(*shapes)
        homeless = [n for n in source if n not in before]
        assert sum(beginning.homeless.values()) == len(homeless)
        for network, number in beginning.homeless.items():
            assert f"{number} tensors of {network}" in beginning.told()[-1]
        assert fits
        assert fits != asked
