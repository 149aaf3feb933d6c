"""Grey images are told where networks of three channels would make colour of them."""

from __future__ import annotations

import logging

import pytest
from PIL import Image

from patchkin.data.check import check_data
from patchkin.data.config import DataConfig
from patchkin.data.domains.training import open_domain_data
from patchkin.data.grey import GREY_NOTE
from patchkin.data.loading import open_training_data
from patchkin.data.paired import open_paired_data


def fill(folder, *modes):
    folder.mkdir(parents=True)
    for number, mode in enumerate(modes):
        Image.new(mode, (40, 44), 30 * number).save(folder / f"{number}.png")


def unpaired(root, a=("L", "L", "LA"), b=("L", "1", "L")):
    fill(root / "trainA", *a)
    fill(root / "trainB", *b)
    return root


@pytest.mark.parametrize(
    ("b", "told"), [(("L", "L"), True), (("L", "RGB"), False), (("RGB", "RGB"), False)]
)
def test_the_check_tells_grey_only_where_every_image_is(tmp_path, b, told):
    root = unpaired(tmp_path, b=b)
    fill(root / "testA", "RGB")  # is not trained on
    assert (GREY_NOTE in check_data(root).warnings) == told
    two = check_data(source=root / "trainA", target=root / "trainB")
    assert (GREY_NOTE in two.warnings) == told
    assert "--channels 1" in GREY_NOTE


def told_by(opening, caplog):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        opening()
    return [record.message for record in caplog.records].count(GREY_NOTE)


@pytest.mark.parametrize(
    ("channels", "b", "told"),
    [
        ((3, 3), ("L", "L"), 1),
        ((1, 1), ("L", "L"), 0),
        ((1, 3), ("L", "L"), 0),
        ((3, 3), ("L", "RGB"), 0),
    ],
)
def test_training_tells_it_once(tmp_path, caplog, channels, b, told):
    root = unpaired(tmp_path / "set", b=b)
    config = DataConfig(root=str(root), size=32, workers=0, cache=str(tmp_path / "cache"))

    def opening():
        return open_training_data(config, seed=0, channels=channels)

    assert told_by(opening, caplog) == told
    assert told_by(opening, caplog) == told  # from the cache, which holds pixels of 3 channels


def test_pairs_and_several_domains_tell_it_too(tmp_path, caplog):
    pairs, domains = tmp_path / "pairs", tmp_path / "domains"
    fill(pairs / "train", "L", "L")
    for name in ("x", "y", "z"):
        fill(domains / "train" / name, "L", "L")
    config = DataConfig(root=str(pairs), size=16, load_size=20, workers=0)
    assert told_by(lambda: open_paired_data(config, seed=0, channels=(3, 3)), caplog) == 1
    config = DataConfig(root=str(domains), size=32, workers=0)
    assert told_by(lambda: open_domain_data(config, seed=0, channels=3), caplog) == 1
    assert told_by(lambda: open_domain_data(config, seed=0, channels=1), caplog) == 0
