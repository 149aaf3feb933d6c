"""Settings of a run that follow from its data."""

from __future__ import annotations

from dataclasses import replace

from patchkin.methods.starganv2 import StarGanV2
from patchkin.runs.config import preset_config, with_domains


def test_networks_are_no_larger_than_the_views(caplog):
    config = preset_config(StarGanV2.presets["afhq"])
    domains = ("cat", "dog", "wild")
    assert with_domains(config, domains).method.networks.image_size == 256
    small = replace(config, data=replace(config.data, size=128))
    assert with_domains(small, domains).method.networks.image_size == 128
    assert "networks for images of 128 pixels" in caplog.text
    large = replace(config, data=replace(config.data, size=512))
    assert with_domains(large, domains).method.networks.image_size == 256
