"""What a translator takes in Python, and that it gives the same kind back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from patchkin.config import to_plain
from patchkin.errors import ConfigError, DataError, ShapeError
from patchkin.images import Encoding, write_image
from patchkin.methods.cut import Cut, CutConfig
from patchkin.networks import PatchGANConfig, ResNetConfig
from patchkin.storage.checkpoint import ModelHeader, write_tensors
from patchkin.translation.translator import Translator
from support import random_batch


def small(**generator) -> Cut:
    torch.manual_seed(0)
    sizes = {"ngf": 4, "blocks": 5, **generator}
    judging = PatchGANConfig(ndf=4, in_channels=sizes.get("out_channels", 3))
    return Cut(CutConfig(generator=ResNetConfig(**sizes), discriminator=judging))


class Same(torch.nn.Module):
    def forward(self, x_BCHW, *_, **__):
        return x_BCHW


def identity(*, channels: int = 3, value_ranges=None) -> Translator:
    """A translator whose network changes nothing: what comes back is what was given."""
    method = small(in_channels=channels, out_channels=channels)
    method.G = Same()
    return Translator(method, device="cpu", value_ranges=value_ranges)


def pixels(dtype: str, *shape: int):
    numbers = np.random.default_rng(0).random(shape)
    if np.dtype(dtype).kind == "f":
        return numbers.astype(dtype)
    return (numbers * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("uint8", (9, 7, 3)),
        ("uint8", (9, 7, 1)),
        ("uint8", (9, 7)),
        ("uint8", (9, 7, 5)),
        ("uint16", (9, 7, 3)),
        ("uint16", (9, 7)),
        ("float32", (9, 7, 3)),
        ("float64", (9, 7)),
    ],
)
def test_an_array_comes_back_as_it_was(dtype, shape):
    given = pixels(dtype, *shape)
    back = identity(channels=shape[2] if len(shape) == 3 else 1)(given)
    assert (back.dtype, back.shape) == (given.dtype, given.shape)
    if given.dtype.kind == "f":
        np.testing.assert_allclose(back, given, atol=1e-7)
    else:
        np.testing.assert_array_equal(back, given)


def test_arrays_with_the_range_that_a_model_declares():
    given = np.array([[-1000, 0], [3000, 1500]], np.int16)
    back = identity(channels=1, value_ranges=((-1000.0, 3000.0), (-1000.0, 3000.0)))(given)
    np.testing.assert_array_equal(back, given)
    assert back.dtype == np.int16
    with pytest.raises(DataError, match=r"^The array holds int16 values from -1000 to 3000, and"):
        identity(channels=1)(given)
    with pytest.raises(DataError, match=r"float32 values from 0 to 255,.*Scale floats to \[0, 1\]"):
        identity(channels=1)(np.float32([[0, 255]]))


def test_an_array_a_tensor_and_a_file_say_the_same(tmp_path):
    method = small().eval()
    levels_HWC = pixels("uint8", 34, 41, 3)
    x_CHW = torch.from_numpy(levels_HWC).permute(2, 0, 1) / 255 * 2 - 1
    translator = Translator(method, device="cpu")
    y_CHW = translator(x_CHW)
    assert torch.equal(translator(x_CHW[None])[0], y_CHW)
    expected_HWC = ((y_CHW + 1) / 2 * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(translator(levels_HWC), expected_HWC)
    np.testing.assert_array_equal(np.asarray(translator(Image.fromarray(levels_HWC))), expected_HWC)
    write_image(tmp_path / "a.png", x_CHW, Encoding(8, 3))
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        back = translator(path)
        assert isinstance(back, Image.Image)
        np.testing.assert_array_equal(np.asarray(back), expected_HWC)
    several = translator([levels_HWC, x_CHW, tmp_path / "a.png"])
    assert [type(each).__name__ for each in several] == ["ndarray", "Tensor", "Image"]
    np.testing.assert_array_equal(several[0], expected_HWC)
    assert torch.equal(several[1], y_CHW)


def test_a_file_of_16_bits_in_colour_is_an_array(tmp_path):
    levels_HWC = pixels("uint16", 9, 8, 3)
    np.save(tmp_path / "a.npy", levels_HWC)
    np.testing.assert_array_equal(identity()(tmp_path / "a.npy"), levels_HWC)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "I;16", "F"])
def test_a_pillow_image_comes_back_in_its_mode(mode):
    if mode == "I;16":
        image = Image.fromarray(pixels("uint16", 9, 8))
    elif mode == "F":
        image = Image.fromarray(pixels("float32", 9, 8))
    else:
        numbers = pixels("uint8", 9, 8, len(mode))
        image = Image.fromarray(numbers[:, :, 0] if mode == "L" else numbers)
    back = identity(channels=3 if "RGB" in mode else 1)(image)
    assert (back.mode, back.size) == (mode, (8, 9))
    np.testing.assert_allclose(np.asarray(back), np.asarray(image), atol=1e-7)


def test_a_pillow_image_as_its_camera_held_it():
    image = Image.fromarray(pixels("uint8", 9, 8, 3))
    turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # to be shown turned to the right
    np.testing.assert_array_equal(np.asarray(identity()(turned)), np.asarray(image))


def test_grey_for_a_model_of_colour_and_back():
    grey_HW = pixels("uint8", 9, 7)
    back = identity()(grey_HW)
    assert back.shape == (9, 7, 3)
    np.testing.assert_array_equal(back, np.repeat(grey_HW[:, :, None], 3, axis=2))


def test_16_bits_in_colour_are_no_pillow_image():
    with pytest.raises(ConfigError, match=r"3 channels of uint16.*Give a NumPy array instead"):
        identity()(Image.fromarray(pixels("uint16", 9, 8)))


def test_tensors_keep_their_type_and_their_axes():
    translator = Translator(small(), device="cpu")
    x_BCHW = random_batch(2, size=(33, 38)).a_BCHW
    expected = translator(x_BCHW)
    for dtype in (torch.float64, torch.float16):
        y_BCHW = translator(x_BCHW.to(dtype))
        assert (y_BCHW.dtype, y_BCHW.shape) == (dtype, x_BCHW.shape)
        torch.testing.assert_close(y_BCHW.float(), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (torch.zeros(3, 3), r"A tensor must be \[3, H, W\] or \[B, 3, H, W\] in.*got \(3, 3\)"),
        (torch.zeros(1, 9, 9), r"A tensor must be \[3, H, W\] or .*got \(1, 9, 9\)\.$"),
        (torch.zeros(9, 9, 3), r"A tensor must be \[3, H, W\] or .*got \(9, 9, 3\)\.$"),
        (torch.zeros(1, 1, 3, 9, 9), r"got \(1, 1, 3, 9, 9\)"),
        (
            np.zeros((2, 9, 9, 3), np.uint8),
            r"\[H, W\] or \[H, W, C\]; got .*Give several as a list",
        ),
        (np.zeros((3, 99, 99), np.uint8), r"The array cannot be taken.*Is it CHW\? Transpose it"),
        (np.zeros((9, 9, 4), np.uint8), r"An array must be \[H, W, 3\]; got \(9, 9, 4\)\.$"),
        (np.zeros((0, 9, 3), np.uint8), r"An array must be \[H, W\] or \[H, W, C\]; got \(0, 9, 3"),
    ],
)
def test_other_shapes_are_told_the_shape_that_is_wanted(image, said):
    with pytest.raises((ShapeError, DataError), match=said) as raised:
        Translator(small(), device="cpu")(image)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ({"a": 1}, r"takes a path, a Pillow image, a NumPy array \[H, W\] .*; got `dict`\.$"),
        (None, "got `NoneType`"),
        (
            torch.zeros(3, 9, 9, dtype=torch.uint8),
            r"must hold floats in \[-1, 1\]; got torch.uint8",
        ),
        (np.zeros((9, 9), np.int64), "values of type int64; expected integers of at most 32 bits"),
        (np.array([["a"]]), "The array cannot be taken: values of type <U1"),
        (np.full((9, 9), np.nan), "not numbers"),
        ("nowhere.png", "`nowhere.png` does not exist"),
    ],
)
def test_other_kinds_are_told_what_is_taken(image, said):
    with pytest.raises(DataError, match=said):
        Translator(small(), device="cpu")(image)


def test_a_translation_that_is_not_finite_is_no_image():
    translator = identity()
    translator.method.translate = lambda x_BCHW: x_BCHW * torch.inf
    with pytest.raises(DataError, match="The array has a translation that holds NaN or infinity"):
        translator(pixels("uint8", 9, 9, 3))


# Threads


def saved(method: Cut, path):
    header = ModelHeader(method=method.name, config=to_plain(method.config))
    write_tensors(path, dict(method.state_dict()), header.to_metadata())
    return path


@pytest.mark.parametrize("kept", [True, False], ids=["loaded", "at hand"])
@pytest.mark.parametrize("generator", [{"dropout": True}, {"norm": "batch"}], ids=str)
def test_four_threads_get_what_one_gets_and_change_nothing(tmp_path, generator, kept):
    method = small(**generator)
    if kept:
        translator = Translator.load(saved(method, tmp_path / "m.safetensors"), device="cpu")
    else:
        translator = Translator(method, device="cpu")
    images = [random_batch(1, size=(32, 32), seed=seed).a_BCHW for seed in range(8)]
    before = {name: tensor.clone() for name, tensor in translator.method.G.state_dict().items()}
    alone = [translator(image) for image in images]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(translator, images * 10))
    for place, y_BCHW in enumerate(together):
        assert torch.equal(y_BCHW, alone[place % len(images)])
    for name, tensor in translator.method.G.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert translator.method.training is not kept  # one at hand goes on learning
