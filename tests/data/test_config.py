from __future__ import annotations

import subprocess
import sys

import pytest

from patchkin.config import from_plain, to_plain
from patchkin.data.config import DataConfig
from patchkin.errors import ConfigError


def test_defaults_are_those_of_cut():
    config = DataConfig()
    assert (config.size, config.resolved_load_size, config.preprocess) == (
        256,
        286,
        "resize_and_crop",
    )
    assert (config.batch_size, config.flip, config.pairing) == (1, True, "random")


def test_survives_yaml():
    config = DataConfig(size=64, value_range=(0.0, 4095.0), source="a", target="b")
    assert from_plain(DataConfig, to_plain(config)) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 30}, "`size` must be a multiple of 4; got 30"),
        ({"size": 0}, "`size` must be a multiple of 4; got 0"),
        ({"size": (32, 30)}, "`size` must be a multiple of 4; got 30"),
        ({"size": (64, 128), "load_size": (64, 100)}, r"`load_size` \(\(64, 100\)\) must be at"),
        ({"load_size": (0, 9), "preprocess": "crop"}, "`load_size` must be at least 1; got"),
        ({"load_size": 128}, r"`load_size` \(128\) must be at least `size` \(256\)"),
        ({"source": "a"}, "`source` and `target` go together"),
        ({"batch_size": 0}, "`batch_size` must be at least 1; got 0"),
        ({"workers": -1}, "`workers` must be at least 0; got -1"),
        ({"max_images": 0}, "`max_images` must be at least 1; got 0"),
        ({"value_range": (1.0, 1.0)}, "`value_range` must be low, then high"),
    ],
)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(**settings)


def test_height_and_width():
    config = DataConfig(size=(128, 256))
    assert (config.height_width, config.resolved_load_size) == ((128, 256), (143, 286))
    assert to_plain(config)["size"] == [128, 256]
    assert from_plain(DataConfig, to_plain(config)) == config
    assert from_plain(DataConfig, {"size": [64, 64]}) == DataConfig(size=64)
    for size, message in (([1, 2, 3], "one number, or height and width"), ("64", "whole number")):
        with pytest.raises(ConfigError, match=message):
            from_plain(DataConfig, {"size": size})


def test_reading_the_settings_does_not_import_torch():
    code = "import sys, patchkin.data.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
