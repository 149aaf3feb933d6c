from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from PIL import Image

from patchkin.config import from_plain, to_plain
from patchkin.data.layouts import Domains
from patchkin.errors import ConfigError, DataError
from patchkin.images import Encoding, Picture, read_image
from patchkin.metrics import PROTOCOLS, Protocol, find_protocol
from patchkin.metrics.extractors import EXTRACTORS


def picture(width=40, height=24):
    array = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Picture(Image.fromarray(array), Encoding(8, 3)), array


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=str)
def test_every_protocol_goes_to_plain_data_and_back(protocol):
    assert from_plain(Protocol, to_plain(protocol)) == protocol
    assert protocol.extractor in EXTRACTORS
    assert find_protocol(protocol.name) is protocol


def test_clean_resizes_each_channel_in_float_and_clips():
    protocol = replace(find_protocol("clean"), image_size=None, input_size=31)
    shown, array = picture()
    channels = [
        np.asarray(Image.fromarray(array[:, :, c].astype(np.float32)).resize((31, 31), 3))
        for c in range(3)
    ]
    expected = torch.from_numpy(np.stack(channels))
    assert expected.min() < 0  # bicubic overshoots
    assert expected.max() > 255
    assert torch.equal(protocol.prepare(shown), expected.clamp(0, 255))


def test_pytorch_fid_interpolates_between_pixel_centres():
    protocol = replace(find_protocol("pytorch-fid"), image_size=None, input_size=31)
    shown, array = picture()
    x = torch.from_numpy(array).permute(2, 0, 1)[None] / 255
    expected = nnf.interpolate(x, size=(31, 31), mode="bilinear", align_corners=False)[0] * 255
    torch.testing.assert_close(protocol.prepare(shown), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "number"), [("pytorch-fid", 3), ("stargan-v2", 2)])
def test_images_come_to_the_size_of_the_outputs_in_8_bits_first(name, number):
    protocol = replace(find_protocol(name), image_size=20, input_size=None)
    shown, array = picture()
    expected = np.asarray(Image.fromarray(array).resize((20, 20), number))  # 3 bicubic, 2 bilinear
    found = protocol.prepare(shown)
    assert found.dtype is torch.uint8
    assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


def test_an_output_is_scored_as_if_saved_and_read(tmp_path):
    for name in ("pytorch-fid", "stargan-v2"):
        protocol = replace(find_protocol(name), image_size=None, input_size=33)
        image = torch.rand(3, 24, 40) * 2.2 - 1.1
        scaled = (image.clamp(-1, 1) + 1) / 2 * 255
        levels = scaled.byte() if name == "pytorch-fid" else scaled.round().byte()
        Image.fromarray(levels.permute(1, 2, 0).numpy()).save(tmp_path / "saved.png")
        expected = protocol.prepare(read_image(tmp_path / "saved.png", 3))
        assert torch.equal(protocol.prepare_output(image), expected)


def test_grey_and_16_bit_images_are_scored_too(tmp_path):
    protocol = replace(find_protocol("stargan-v2"), image_size=None, input_size=None)
    grey = torch.linspace(-1, 1, 12).reshape(1, 3, 4)
    assert torch.equal(
        protocol.prepare_output(grey), protocol.prepare_output(grey.expand(3, -1, -1))
    )
    np.save(tmp_path / "deep.npy", np.array([[0, 32768], [65535, 257]], np.uint16))
    deep = protocol.prepare(read_image(tmp_path / "deep.npy", 3))
    assert deep[1].tolist() == [[0, 128], [255, 1]]


def test_real_images():
    a, train, test = (Path("a.png"),), (Path("t0.png"), Path("t1.png")), (Path("e0.png"),)
    domains = Domains(train_a=a, train_b=train, test_a=a, test_b=test)
    assert find_protocol("pytorch-fid").real_files(domains) == test
    assert find_protocol("stargan-v2").real_files(domains) == train
    assert find_protocol("gan-compression").real_files(domains) == train + test
    limited = replace(find_protocol("gan-compression"), real_limit=1)
    assert limited.real_files(domains) == train[:1]
    with pytest.raises(DataError, match=r"the test images of domain B, and there are none; add"):
        find_protocol("pytorch-fid").real_files(replace(domains, test_b=()))


def test_an_extractor_belongs_to_a_protocol(tiny, other_tiny):
    protocol = Protocol(name="mine", extractor="tiny")
    bound = protocol.with_extractor(tiny)
    assert bound.extractor_sha256 == tiny.sha256
    assert bound.with_extractor(tiny) == bound
    with pytest.raises(
        ConfigError, match=r"bound to weights of `tiny` with sha256 aaaaaaaaaaaa; g"
    ):
        bound.with_extractor(other_tiny)
    with pytest.raises(ConfigError, match=r"`clean` is defined with the extractor `inception-v3-c"):
        find_protocol("clean").with_extractor(tiny)


def test_errors_say_what_is_wrong():
    protocol = find_protocol("pytorch-fid")
    with pytest.raises(DataError, match=r"1 or 3 channels; got \(2, 4, 4\)"):
        protocol.prepare_output(torch.zeros(2, 4, 4))
    with pytest.raises(DataError, match=r"an output holds NaN or infinity"):
        protocol.prepare_output(torch.full((3, 4, 4), float("nan")))
    with pytest.raises(ConfigError, match=r"`input_size` of a protocol must be positive; got 0"):
        replace(protocol, input_size=0)
    with pytest.raises(ConfigError, match=r"needs `outputs_per_input` >= 1"):
        replace(protocol, outputs_per_input=0)
