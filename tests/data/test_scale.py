from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from patchkin.data.config import DataConfig
from patchkin.data.scale import check_views, is_scaled_in_decay, typical_size, whole_size
from patchkin.errors import DataError
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


def test_held_out_images_are_shown_at_the_scale_that_training_ends_with(tmp_path):
    files = _files(tmp_path, (640, 480), (500, 482), (641, 482))

    def whole(jitters, side_by_side=False, **config):
        found = whole_size(files, DataConfig(**config), jitters=jitters, side_by_side=side_by_side)
        return found

    for jitters in (True, False):
        assert whole(jitters) == 256  # CUT's 286 / 256 counts as whole
        assert whole(jitters, size=(128, 64)) == (128, 64)
        assert whole(jitters, size=256, preprocess="crop") == (480, 640)  # rounded to even fours
        assert whole(jitters, size=64, preprocess="crop") == (192, 256)  # at most four times
        assert whole(jitters, size=(480, 128), preprocess="crop", side_by_side=True) == (480, 320)
        assert whole(jitters, size=512, preprocess="none") == 512  # 1.25 times is the same
        assert whole(jitters, size=1024, preprocess="none") == (480, 640)
        assert whole(jitters, size=64, preprocess="zoom_and_patch") == 64
    assert whole(True, size=128, load_size=286) == 288
    assert whole(False, size=128, load_size=286) == 128
    assert whole(True, size=64, load_size=320, preprocess="scale_width_and_crop") == (192, 256)
    assert whole(False, size=64, load_size=320, preprocess="scale_width_and_crop") == 64
    config = DataConfig(size=128, load_size=286)
    assert whole_size(files, config, jitters=True, multiple=128) == 256
    assert whole_size([tmp_path / "none.png"], DataConfig(preprocess="crop"), jitters=True) == 256


def test_what_changes_its_scale_when_the_rate_falls():
    for size, load_size, preprocess, expected in (
        (256, None, "resize_and_crop", False),
        (256, 320, "resize_and_crop", False),
        (256, 321, "resize_and_crop", True),
        ((256, 128), (286, 256), "resize_and_crop", True),
        (128, 286, "scale_width_and_crop", True),
        (128, 286, "shortside_and_crop", True),
        (128, 286, "scale_shortside_and_crop", False),  # larger images stay as they are
        (128, 286, "crop", False),
    ):
        config = DataConfig(size=size, load_size=load_size, preprocess=preprocess)
        assert is_scaled_in_decay(config) is expected, config


def test_images_smaller_than_the_crop_are_told_before_the_first_step(tmp_path):
    files = _files(tmp_path, (70, 70), (63, 70), (64, 64), (200, 40))
    config = DataConfig(size=64, preprocess="crop")
    with pytest.raises(DataError) as caught:
        check_views(files, config)
    assert str(caught.value) == (
        f"2 of 4 images are smaller than the crop of 64 pixels: `{files[1]}` has 63 x 70, ...; "
        "choose a smaller --size, or --data.preprocess resize_and_crop."
    )
    check_views(files, DataConfig(size=(40, 60), preprocess="crop"))
    with pytest.raises(DataError, match=r"1 of 4 .* the crop of 64 x 44 pixels: .*3.png"):
        check_views([files[0], *files[2:], files[2]], DataConfig(size=(44, 64), preprocess="crop"))
    with pytest.raises(DataError, match="3 of 4"):
        check_views(files, DataConfig(size=40, preprocess="crop"), side_by_side=True)
    for preprocess in ("resize_and_crop", "zoom_and_crop", "shortside_and_crop", "none"):
        check_views(files, DataConfig(size=64, preprocess=preprocess))


def test_a_batch_of_different_sizes_is_told_before_the_first_step(tmp_path):
    files = _files(tmp_path, (30, 20), (30, 21), (30, 40))
    check_views(files, DataConfig(size=16, preprocess="none"))
    check_views(files[:2], DataConfig(size=16, preprocess="none", batch_size=2))
    with pytest.raises(DataError) as caught:
        check_views(files, DataConfig(size=16, preprocess="none", batch_size=2))
    assert str(caught.value) == (
        "--batch-size 2 needs views of one size, and --data.preprocess none gives 2 sizes "
        f"(`{files[0]}` and `{files[2]}` differ); use --batch-size 1, or a preprocess that crops."
    )


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
