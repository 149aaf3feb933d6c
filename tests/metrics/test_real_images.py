"""Numbers measured on horse2zebra with SqueezeNet, independently of this package."""

from __future__ import annotations

import pytest

from patchkin.data.layouts import image_files
from patchkin.metrics import (
    SqueezeNetExtractor,
    class_rate,
    compare,
    file_statistics,
    find_protocol,
)
from patchkin.metrics.content import ZEBRA

pytestmark = pytest.mark.slow


@pytest.fixture
def extractor(weights_file):
    return SqueezeNetExtractor(weights_file("squeezenet1_1_torchvision_fp16classifier.pth"))


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
