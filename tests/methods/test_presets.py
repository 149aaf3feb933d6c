"""Numbers of published runs that presets stand for."""

from __future__ import annotations

import pytest
from PIL import Image

from patchkin.data.transforms import SeededViewDraws, loaded_size, size_of, view
from patchkin.methods import METHODS
from patchkin.networks import StyleGan2Generator


@pytest.mark.parametrize(
    ("method", "preset"),
    [("munit", "released"), ("munit", "edges"), ("distancegan", "distancegan")],
)
def test_images_whose_shorter_side_is_longer_are_shrunk_before_the_crop(method, preset):
    data = METHODS[method].presets[preset].data
    sizes = {"load_size": data.resolved_load_size, "crop_size": data.size}
    load = data.resolved_load_size
    loaded = loaded_size((1024, 512), preprocess=data.preprocess, **sizes)
    assert loaded == (2 * load, load), "not cropped at full resolution"
    picture = Image.new("RGB", (1024, 512))
    seen = view(picture, SeededViewDraws(0), preprocess=data.preprocess, **sizes)
    assert size_of(seen) == (256, 256)


def test_synthia_is_munit_with_its_perceptual_loss_at_512_pixels():
    preset = METHODS["munit"].presets["synthia"]
    assert (preset.data.size, preset.data.load_size) == (512, 512)
    assert (preset.method.perceptual_weight, preset.method.cycle_weight) == (1.0, 10.0)


@pytest.mark.parametrize("method", ["starganv2", "starganv2-relation"])
def test_faces_ask_half_as_much_for_diversity(method):
    preset = METHODS[method].presets["celeba-hq"]
    assert preset.method.diversity_weight == 1.0
    assert preset.method.networks.num_domains == 2
    assert (preset.schedule.steps, preset.data.batch_size) == (100_000, 8)


def test_drit_ends_after_500_000_updates():
    schedule = METHODS["drit"].presets["released"].schedule
    assert (schedule.epochs, schedule.last_step(1000), schedule.last_step(100)) == (
        1200,
        500_000,
        120_000,
    )


def test_the_single_image_form_of_lsesim():
    preset = METHODS["lsesim"].presets["single-image"]
    method, data = preset.method, preset.data
    assert (data.size, data.load_size, data.batch_size, preset.schedule.epochs) == (
        128,
        1024,
        16,
        8,
    )
    assert (method.generator.ngf, method.discriminator.ndf) == (8, 8)
    assert (method.generator_adam.learning_rate, method.generator_adam.beta1) == (1e-3, 0.0)
    assert (method.structure_weight, method.layers, method.slope_weight) == (10.0, (4, 7, 9), 1.0)
    assert data.crops_single_images
    built = METHODS["lsesim"](method)
    assert isinstance(built.G, StyleGan2Generator)
    assert (built.G.multiple_of, built.training_side) == (4, 128)
