"""What is refused before an image is decoded: views that a method does not take."""

from __future__ import annotations

import pytest
from PIL import Image

from patchkin.data.config import DataConfig
from patchkin.errors import ConfigError, DataError
from patchkin.methods.cut import Cut, CutConfig
from patchkin.methods.cyclegan import CycleGan, CycleGanConfig
from patchkin.methods.lsesim import LSeSim, LSeSimConfig
from patchkin.methods.pix2pix import Pix2Pix, Pix2PixConfig
from patchkin.methods.sincut import SinCut, SinCutConfig
from patchkin.networks import (
    ImagePoolConfig,
    PatchGANConfig,
    ResNetConfig,
    StyleGan2DiscriminatorConfig,
    StyleGan2GeneratorConfig,
    UNetConfig,
)
from patchkin.runs.views import check_settings, check_sizes

RESNET, JUDGE = ResNetConfig(ngf=2, blocks=1), PatchGANConfig(ndf=2)


@pytest.fixture
def photos(tmp_path):
    """Files whose heads tell a size, and which hold no pixels: nothing is decoded."""
    for name, sizes in (("trainA", ((64, 40), (80, 48))), ("trainB", ((40, 64), (44, 60)))):
        (tmp_path / name).mkdir()
        for index, size in enumerate(sizes):
            path = tmp_path / name / f"{index}.bmp"
            Image.new("RGB", size).save(path)
            path.write_bytes(path.read_bytes()[:200])
    return tmp_path


def settings(root, **given):
    return DataConfig(**({"root": str(root), "size": 32, "preprocess": "none"} | given))


def refusal(method, data):
    check_settings(method, data)
    with pytest.raises(DataError) as caught:
        check_sizes(method, data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_any_sizes_are_taken_where_networks_take_them(photos):
    method = Cut(CutConfig(generator=RESNET, discriminator=JUDGE, taps=(0, 4)))
    for preprocess in ("none", "scale_width", "crop"):
        check_sizes(method, settings(photos, preprocess=preprocess))


def test_a_selector_of_both_domains_asks_for_one_size(photos):
    config = LSeSimConfig(
        generator=RESNET, discriminator=JUDGE, features="random", feature_width=2, learned=True
    )
    message = refusal(LSeSim(config), settings(photos))
    assert message == (
        "--data.preprocess none gives views of 4 sizes, and `lsesim` compares places of images of "
        "both domains, which must have one size; choose a --data.preprocess that crops, such as "
        "resize_and_crop."
    )
    check_sizes(LSeSim(config), settings(photos, preprocess="resize_and_crop"))


def test_networks_for_one_size(photos):
    method = SinCut(
        SinCutConfig(
            generator=StyleGan2GeneratorConfig(ngf=1, working_size=32),
            discriminator=StyleGan2DiscriminatorConfig(ndf=1, working_size=32),
        )
    )
    message = refusal(method, settings(photos, batch_size=2))
    first = photos / "trainA" / "0.bmp"
    assert message.startswith(f"`{first}` gives a view of 64 x 40 pixels, and the networks of `sin")
    for size in (64, (32, 64)):
        with pytest.raises(ConfigError, match="made for views of 32 x 32 pixels; use --size 32"):
            check_settings(method, settings(photos, size=size))


def test_networks_that_halve_often_take_multiples(photos):
    config = Pix2PixConfig(
        generator=UNetConfig(ngf=2, levels=5),
        discriminator=PatchGANConfig(in_channels=6, ndf=2),
    )
    (photos / "trainA").rename(photos / "train")
    (photos / "trainB").rename(photos / "spare")
    message = refusal(Pix2Pix(config), settings(photos))
    file = photos / "train" / "0.bmp"
    assert message.startswith(f"`{file}` gives a view of 32 x 40 pixels, and the networks of `pix")
    assert "take multiples of 32; choose a --data.preprocess that crops" in message


def test_views_smaller_than_the_networks_take(photos):
    method = Cut(CutConfig(generator=RESNET, discriminator=PatchGANConfig(ndf=2), taps=(0, 4)))
    method.min_training_size = 44
    message = refusal(method, settings(photos, size=44))
    assert "gives a view of 64 x 40 pixels, smaller than the 44 that the networks of" in message


def test_the_image_pool_must_have_room(photos):
    config = CycleGanConfig(
        generator=RESNET, discriminator=JUDGE, pool=ImagePoolConfig(capacity=2, side=60)
    )
    message = refusal(CycleGan(config), settings(photos))
    assert message == (
        "Views of 3840 pixels do not fit the image pool; set --method.pool.side 62, or "
        "--method.pool.capacity 0."
    )
    roomy = CycleGanConfig(
        generator=RESNET, discriminator=JUDGE, pool=ImagePoolConfig(capacity=2, side=62)
    )
    check_sizes(CycleGan(roomy), settings(photos))
