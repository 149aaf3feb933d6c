"""Networks are compared with a file before memory is claimed, and are then what they were."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from methods.test_contract import VARIANTS, build
from patchkin.config import to_plain
from patchkin.errors import CheckpointError
from patchkin.method import Method
from patchkin.methods import METHODS
from patchkin.networks.drn import read_drn
from patchkin.storage import outlines
from patchkin.storage.checkpoint import ModelHeader, write_tensors
from patchkin.storage.outlines import check_fit, load_strictly, outline
from patchkin.translation.loading import _AbsentNetwork
from patchkin.translation.translator import Translator

ONE_EACH = list({method: name for name, (method, _) in VARIANTS.items()}.values())


def written(method, path, tensors=None, **header):
    entries = {"method": method.name, "config": to_plain(method.config), **header}
    write_tensors(path, tensors or method.state_dict(), ModelHeader(**entries).to_metadata())
    return path


def everything(method):
    """Weights, buffers that are saved, and those that are not."""
    return {**dict(method.named_parameters()), **dict(method.named_buffers())}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_complete_model_is_bit_equal_to_what_was_saved(name, tmp_path):
    method = build(name)
    path = written(method, tmp_path / "model.safetensors")
    again = Translator.load(path, complete=True, device="cpu").method
    expected, found = everything(method), everything(again)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype, key
        assert torch.equal(found[key], tensor), key
        assert found[key].requires_grad == tensor.requires_grad, key


@pytest.mark.parametrize("name", ONE_EACH)
def test_only_what_translates_is_loaded_unless_all_is_asked_for(name, tmp_path):
    method = build(name)
    path = written(method, tmp_path / "model.safetensors")
    again = Translator.load(path, device="cpu").method
    used = {part.partition(".")[0] for part in method.translating}
    for child, network in again.named_children():
        if child in used:
            expected = method.get_submodule(child).state_dict()
            assert all(torch.equal(network.state_dict()[n], t) for n, t in expected.items())
        elif method.get_submodule(child).state_dict():
            assert isinstance(network, _AbsentNetwork)
            with pytest.raises(CheckpointError, match=f"{child} of .* was not loaded"):
                network(torch.zeros(1))
    assert not any(tensor.is_meta for tensor in everything(again).values())


def test_a_loaded_model_does_not_change_with_its_file(tmp_path):
    method = build("cut")
    path = written(method, tmp_path / "model.safetensors")
    again = Translator.load(path, device="cpu").method
    before = [tensor.clone() for tensor in again.G.parameters()]
    with path.open("r+b") as file:  # as a copy over it does
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 4096)
    assert all(map(torch.equal, before, again.G.parameters()))


class Own(Method):
    """A user's, whose constructor makes what no file holds."""

    name = "own"
    paper = "none"
    config_type = METHODS["cut"].config_type
    presets = METHODS["cut"].presets

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.G = nn.Conv2d(3, 3, 1)
        self.gain = torch.tensor([2.0])  # neither weight nor buffer
        self.unused = nn.Linear(config.head_width, config.head_width)

    def adam(self):
        return {}

    def train_step(self, batch, update, progress):
        raise NotImplementedError

    def translate(self, x_BCHW):
        return self.gain * self.G(x_BCHW)


def test_the_method_of_a_user_has_all_that_its_constructor_makes(tmp_path):
    own = Own(Own.config_type())
    path = written(own, tmp_path / "model.safetensors")
    x_BCHW = torch.rand(1, 3, 8, 9)
    translator = Translator.load(path, methods={"own": Own}, device="cpu")
    assert torch.equal(translator(x_BCHW), own.translate(x_BCHW).detach())


def test_the_method_of_a_user_is_not_built_much_larger_than_its_file(tmp_path):
    own = Own(Own.config_type())
    config = {**to_plain(own.config), "head_width": 100_000}
    path = written(own, tmp_path / "model.safetensors", config=config)
    with pytest.raises(CheckpointError, match="asks for networks of 40000 MB"):
        Translator.load(path, methods={"own": Own}, device="cpu")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_become_those_of_the_network(dtype, tmp_path):
    method = build("cut")
    tensors = {name: tensor.to(dtype) for name, tensor in method.state_dict().items()}
    path = written(method, tmp_path / "model.safetensors", tensors)
    again = Translator.load(path, device="cpu").method
    for name, tensor in method.G.state_dict().items():
        found = again.G.state_dict()[name]
        assert found.dtype == torch.float32
        assert torch.equal(found, tensor.to(dtype).float())


def test_another_kind_of_number_and_escapes_in_names():
    with pytest.raises(CheckpointError) as caught:
        check_fit(
            {"a": torch.zeros(2)},
            {"a": torch.zeros(2).int(), "\x1b[2J": torch.zeros(1)},
            source="F",
        )
    assert str(caught.value) == (
        "F does not fit this method and configuration: tensors 1 unexpected (first: [2J), "
        "1 of another type (first: a int32 for float32)."
    )


def test_what_does_not_fit_leaves_the_network_as_it_was():
    network = nn.Linear(2, 2)
    before = network.weight.detach().clone()
    with pytest.raises(CheckpointError):
        load_strictly(network, {"weight": torch.zeros(2, 2)}, source="F")
    assert torch.equal(network.weight, before)


def test_an_outline_ends_what_has_too_many_parts_in_this_thread_only():
    with pytest.raises(CheckpointError, match="more than 10000 layers"):
        outline(lambda: nn.Sequential(*(nn.Linear(1, 1) for _ in range(10**9))), source="`f`")
    assert len(nn.Sequential(*(nn.ReLU() for _ in range(10_001)))) == 10_001  # the hooks are gone


def test_an_outline_imports_no_compiler():
    """Which the `meta` device would for the first random number: 1 s and 240 MB."""
    script = """
import sys
from patchkin.methods import METHODS
from patchkin.storage.outlines import outline
for kind in METHODS.values():
    for preset in kind.presets.values():
        outline(lambda: kind(preset.method), source="it")
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_judge_is_not_built_for_more_classes_than_its_file_has(tmp_path):
    torch.save({"seg.weight": torch.zeros(1).expand(10**9, 512, 1, 1)}, tmp_path / "drn.pth")
    with pytest.raises(CheckpointError):
        read_drn(tmp_path / "drn.pth", "drn-d-22")


def test_an_outline_of_exactly_as_many_parts_as_allowed_is_built(monkeypatch):
    monkeypatch.setattr(outlines, "MOST_PARTS", 9)
    build = lambda: nn.Sequential(*(nn.Linear(1, 1) for _ in range(3)))  # noqa: E731 - 3 each
    assert len(outline(build, source="`f`")) == 3
    monkeypatch.setattr(outlines, "MOST_PARTS", 8)
    with pytest.raises(CheckpointError, match="more than 8 layers and weights"):
        outline(build, source="`f`")


@pytest.mark.parametrize(
    ("name", "arguments"), [("uniform_", ()), ("normal_", ()), ("clamp_", (0, 1))]
)
def test_numbers_that_weights_begin_with_are_not_made(name, arguments):
    """On the `meta` device each of these would import a compiler."""
    done = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            done.append(func.__name__)
            return func(*args, **(kwargs or {}))

    def build():
        network = nn.Linear(2, 3)
        with torch.no_grad():
            getattr(network.weight, name)(*arguments)
        return network

    with Seen():
        network = outline(build, source="`f`")
    assert network.weight.shape == (3, 2)
    assert not [each for each in done if each.startswith(name)]


def test_what_a_file_lacks_is_told():
    with pytest.raises(CheckpointError) as caught:
        check_fit({"b": torch.zeros(1), "a": torch.zeros(1), "c": torch.zeros(2)}, {}, source="F")
    assert str(caught.value) == (
        "F does not fit this method and configuration: tensors 3 missing (first: a)."
    )


def test_a_tensor_of_another_shape_is_told_with_both():
    with pytest.raises(CheckpointError) as caught:
        check_fit({"a": torch.zeros(2, 3)}, {"a": torch.zeros(3)}, source="F")
    assert str(caught.value) == (
        "F does not fit this method and configuration: tensors 1 of another shape "
        "(first: a (3,) for (2, 3))."
    )
