from __future__ import annotations

import numpy as np
from PIL import Image

from patchkin.data.config import DataConfig
from patchkin.data.scale import typical_size
from patchkin.images.sizes import image_size


def _files(folder, *sizes):
    paths = [folder / f"{index}.png" for index in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        Image.new("RGB", size).save(path)
    return paths


def test_the_size_of_whole_images_when_views_are_cut(tmp_path):
    files = _files(tmp_path, (640, 480), (500, 500), (100, 60), (800, 600), (640, 400))
    for preprocess, expected in (
        ("resize_and_crop", (72, 72)),
        ("crop", (640, 480)),
        ("none", (640, 480)),
        ("scale_width_and_crop", (72, 64)),
        ("scale_shortside_and_crop", (640, 480)),
        ("zoom_and_patch", (640, 480)),
    ):
        config = DataConfig(size=64, load_size=72, preprocess=preprocess)
        assert typical_size(files, config) == expected, preprocess
    config = DataConfig(size=64, preprocess="crop")
    assert typical_size(files, config, side_by_side=True) == (320, 480)


def test_files_that_do_not_tell_are_left_out(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert typical_size([tmp_path / "broken.png"], DataConfig()) is None
    files = [tmp_path / "broken.png", *_files(tmp_path, (30, 20))]
    assert typical_size(files, DataConfig(size=4, load_size=4, preprocess="crop")) == (30, 20)


def test_sizes_are_upright_and_nothing_is_decoded(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert image_size(tmp_path / "turned.jpg") == (20, 30)
    np.save(tmp_path / "deep.npy", np.zeros((7, 9, 5), np.uint16))
    assert image_size(tmp_path / "deep.npy") == (9, 7)
    whole = (tmp_path / "turned.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) - 10])
    assert image_size(tmp_path / "cut.jpg") == (20, 30)
    assert image_size(tmp_path / "nowhere.png") is None
