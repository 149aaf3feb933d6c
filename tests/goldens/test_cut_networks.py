"""Networks and patch sampling against the released CUT (float32 results, CPU)."""

import re

import pytest
import torch

from goldens.fixtures import Golden, discriminator_from, generator_from, golden_files, head_from
from patchkin.networks import BlurDownsample, gather_places, unit_rows

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])


@DTYPES
@pytest.mark.parametrize("path", golden_files("cut_resnet_aa") + golden_files("cut_resnet_noaa"))
def test_generator_and_taps(path, dtype):
    golden = Golden(path)
    generator = generator_from(golden.state_dict("netG", dtype))
    config, options = generator.config, golden.options
    assert config.antialias_down == (not options.get("no_antialias", False))
    assert config.antialias_up == (not options.get("no_antialias_up", False))
    assert config.ngf == options.get("ngf", 64)
    assert config.blocks == options.get("n_blocks", 9)
    assert config.norm == options.get("norm", "instance")
    generator.train(options.get("mode", "train") == "train")
    x_BCHW = golden.tensor("x", dtype)
    with torch.no_grad():
        output_BCHW, features = generator.forward_with_taps(x_BCHW, options["layers"])
    close = {"rtol": 0, "atol": 5e-5}
    torch.testing.assert_close(output_BCHW, golden.tensor("y", dtype), **close)
    taps = [layer for layer in options["layers"] if f"feat_{layer}" in golden]
    assert taps, "the file has no taps"
    for layer, feature in zip(options["layers"], features, strict=True):
        torch.testing.assert_close(feature, golden.tensor(f"feat_{layer}", dtype), **close)
    _check_filters(generator, golden, "netG")


@DTYPES
@pytest.mark.parametrize("path", golden_files("cut_patchgan"))
def test_discriminators(path, dtype):
    golden = Golden(path)
    x_BCHW = golden.tensor("x", dtype)
    for name, options in golden.options["nets"].items():
        network = discriminator_from(golden.state_dict(f"netD_{name}", dtype))
        network.train(options.get("mode", golden.options.get("mode", "train")) == "train")
        with torch.no_grad():
            logits = network(x_BCHW)
        torch.testing.assert_close(logits, golden.tensor(f"y_{name}", dtype), rtol=0, atol=1e-5)
        _check_filters(network, golden, f"netD_{name}")


@DTYPES
@pytest.mark.parametrize("path", golden_files("cut_patchsamplef"))
def test_sampling_and_projection(path, dtype):
    golden = Golden(path)
    head = head_from(golden.state_dict("netF", dtype))
    taps = sorted(int(m[1]) for name in golden if (m := re.fullmatch(r"feat_(\d+)", name)))
    assert taps == list(range(len(head.mlps)))
    features = [golden.tensor(f"feat_{tap}", dtype) for tap in taps]
    places = [golden.tensor(f"ids_{tap}") for tap in taps]
    with torch.no_grad():
        projected = head(features, places)
    close = {"rtol": 0, "atol": 1e-6}
    for tap, rows_BKC in zip(taps, projected, strict=True):
        expected = golden.tensor(f"out_{tap}", dtype)
        torch.testing.assert_close(rows_BKC.flatten(0, 1), expected, **close)
        sampled_BKC = unit_rows(gather_places(features[tap], places[tap]))
        expected = golden.tensor(f"out_nomlp_{tap}", dtype)
        torch.testing.assert_close(sampled_BKC.flatten(0, 1), expected, **close)


def _check_filters(network, golden, prefix):
    """The constant filters that the file may hold are ours."""
    stored = {
        int(name.split(".")[1]): filter_C1HW
        for name, filter_C1HW in golden.tensors(prefix).items()
        if name.endswith(".filt")
    }
    row = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)
    for index, filter_C1HW in stored.items():
        layer = network.model[index]
        ours = layer.filt if isinstance(layer, BlurDownsample) else torch.outer(row, row) / 16
        torch.testing.assert_close(filter_C1HW, ours.double().expand_as(filter_C1HW))
