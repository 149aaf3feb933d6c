"""Numbers measured on horse2zebra with SqueezeNet, independently of this package."""

from __future__ import annotations

import pytest
import torch

from patchkin.data.layouts import image_files
from patchkin.images import read_image, to_tensor, to_uint8
from patchkin.metrics import (
    PerceptualDistance,
    SqueezeNetExtractor,
    class_rate,
    collapse_scores,
    compare,
    file_statistics,
    find_protocol,
    masked_change,
    output_statistics,
    relation_change,
    translation_warnings,
)
from patchkin.metrics.content import ZEBRA
from patchkin.upstream import read_network

pytestmark = pytest.mark.slow

SQUEEZENET = "squeezenet1_1_torchvision_fp16classifier.pth"


@pytest.fixture
def extractor(weights_file):
    return SqueezeNetExtractor(weights_file(SQUEEZENET))


def test_zebra_rate(horse2zebra, extractor):
    protocol = find_protocol("squeezenet-224")
    zebras, horses = (
        file_statistics(image_files(horse2zebra / split), protocol, extractor)
        for split in ("testB", "testA")
    )
    rate = class_rate(zebras.logits_NK, [ZEBRA])
    assert rate.top1_percent == pytest.approx(90.7, abs=0.05)
    assert rate.top5_percent == pytest.approx(95.7, abs=0.05)
    assert class_rate(horses.logits_NK, [ZEBRA]).top1_percent == 0


def test_distances(horse2zebra, extractor):
    protocol = find_protocol("squeezenet-256")
    zebras, horses, more_zebras = (
        file_statistics(image_files(horse2zebra / split)[:300], protocol, extractor)
        for split in ("testB", "testA", "trainB")
    )
    near, far = compare(zebras, more_zebras), compare(zebras, horses)
    assert near.frechet == pytest.approx(870, rel=0.01)
    assert far.frechet == pytest.approx(5903, rel=0.001)
    assert far.kernel == pytest.approx(2025, rel=0.001)
    assert near.kernel == pytest.approx(-11, abs=0.5)


def test_a_released_generator(horse2zebra, weights_file, extractor):
    student = read_network(weights_file("gan_compression_horse2zebra_compressed_netG.pth"))
    paths = image_files(horse2zebra / "testA")
    inputs = torch.stack([to_tensor(read_image(path, 3)) for path in paths])
    with torch.no_grad():
        outputs = torch.cat([student(x[None]) for x in inputs])
    named = [(path.name, output) for path, output in zip(paths, outputs, strict=True)]

    classified = output_statistics(named, find_protocol("squeezenet-224"), extractor)
    rate = class_rate(classified.logits_NK, [ZEBRA])
    assert rate.top1_percent == pytest.approx(61.7, abs=0.05)
    assert rate.top5_percent == pytest.approx(81.7, abs=0.05)

    protocol = find_protocol("squeezenet-256")
    zebras = file_statistics(image_files(horse2zebra / "testB"), protocol, extractor)
    scores = compare(zebras, output_statistics(named, protocol, extractor))
    assert scores.frechet == pytest.approx(2272, rel=0.001)
    assert scores.kernel == pytest.approx(686, rel=0.001)

    folder = horse2zebra / "masksA"
    masks = torch.stack(
        [to_tensor(read_image(folder / f"{path.stem}.png", 1))[0] > 0 for path in paths]
    )
    levels = to_uint8(outputs, "released")
    change = masked_change(levels / 127.5 - 1, inputs, masks).means()
    assert change["change_outside"] == pytest.approx(19.8, abs=0.05)
    assert change["change_inside"] == pytest.approx(29.9, abs=0.05)
    assert translation_warnings(outputs, inputs) == ()

    input_maps, output_maps = (
        torch.cat([extractor.feature_map(part) for part in x.split(20)])
        for x in (to_uint8(inputs), levels)
    )
    own = relation_change(output_maps, input_maps).mean()
    others = relation_change(output_maps, input_maps.roll(1, dims=0)).mean()
    assert own < 0.5 * others  # an output's relations are those of its own input

    some_inputs, some_outputs = inputs[:16], outputs[:16]
    distance = PerceptualDistance("squeeze", weights=weights_file(SQUEEZENET))
    assert 0.7 < collapse_scores([some_inputs], [some_outputs], distance).ratio < 1.1
