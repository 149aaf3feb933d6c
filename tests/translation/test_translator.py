"""Any size, averaged weights by default."""

from __future__ import annotations

import pytest
import torch

from methods.test_contract import build
from patchkin.config import to_plain
from patchkin.errors import CheckpointError
from patchkin.storage.checkpoint import ModelHeader, write_tensors
from patchkin.translation.translator import Translator, pad_to
from support import random_batch


@pytest.mark.parametrize(("length", "expected"), [(4, 4), (5, 8), (1, 8), (3, 8), (9, 12)])
def test_padding_reaches_the_multiple_and_the_minimum(length, expected):
    x = torch.arange(float(length)).expand(1, 1, 8, length)
    minimum = 5 if length < 4 else 1
    padded = pad_to(x, 4, minimum=minimum)
    assert padded.shape[-1] == expected
    assert torch.equal(padded[..., :8, :length], x)


def test_padding_mirrors_without_repeating_the_border():
    x = torch.tensor([[[[0.0, 1.0, 2.0, 3.0, 4.0]]]])
    assert pad_to(x, 8)[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]


def test_a_side_too_short_to_mirror_repeats_its_border():
    assert pad_to(torch.tensor([[[[5.0]]]]), 4)[0, 0].tolist() == [[5.0] * 4] * 4


def test_what_lies_inside_is_what_the_network_says_of_the_padded_image():
    method = build("cut").eval()
    x = random_batch(1, size=(33, 38)).a_BCHW
    with torch.no_grad():
        expected = method.translate(pad_to(x, 4))[..., :33, :38]
    assert torch.equal(Translator(method, device="cpu")(x), expected)


def save(method, path, *, averaged=None):
    tensors = dict(method.state_dict())
    if averaged is not None:
        tensors |= {f"ema.{n}": t for n, t in averaged.state_dict().items() if n.startswith("G.")}
    header = ModelHeader(method=method.name, config=to_plain(method.config))
    write_tensors(path, tensors, header.to_metadata())
    return path


def test_averaged_weights_translate_unless_the_live_ones_are_asked_for(tmp_path):
    live, averaged = build("cut", seed=0), build("cut", seed=1)
    path = save(live, tmp_path / "model.safetensors", averaged=averaged)
    x = random_batch(1).a_BCHW
    outputs = {
        weights: Translator.load(path, weights=weights, device="cpu")(x)
        for weights in ("averaged", "live")
    }
    for name, method in (("averaged", averaged), ("live", live)):  # `owned`: in the same layout
        assert torch.equal(outputs[name], Translator(method, device="cpu", owned=True)(x))


def test_a_model_of_an_unknown_method(tmp_path):
    method = build("cut")
    header = ModelHeader(method="cutt", config=to_plain(method.config))
    write_tensors(tmp_path / "m.safetensors", method.state_dict(), header.to_metadata())
    with pytest.raises(
        CheckpointError, match=r"`cutt`, which is not known here. Did you mean `cut`"
    ):
        Translator.load(tmp_path / "m.safetensors")


def test_a_model_whose_weights_do_not_fit_its_header(tmp_path):
    method = build("cut")
    config = to_plain(method.config)
    config["generator"]["ngf"] = 6
    header = ModelHeader(method="cut", config=config)
    write_tensors(tmp_path / "m.safetensors", method.state_dict(), header.to_metadata())
    with pytest.raises(CheckpointError, match="does not fit this method and configuration"):
        Translator.load(tmp_path / "m.safetensors")


def test_a_model_of_a_newer_version(tmp_path):
    header = ModelHeader(method="cut", config={}, version=99)
    write_tensors(tmp_path / "m.safetensors", {}, header.to_metadata())
    with pytest.raises(CheckpointError, match="written by a newer patchkin"):
        Translator.load(tmp_path / "m.safetensors")


def test_bfloat16_translates_nearly_the_same():
    method = build("relation")
    x = random_batch(1, size=(48, 40)).a_BCHW
    exact = Translator(method, device="cpu")(x)
    coarse = Translator(method, device="cpu", precision="bf16-mixed")(x)
    assert coarse.dtype == torch.float32
    assert 0 < float((coarse - exact).abs().mean()) < 0.05
