"""What the contract does not cover: statistics, and who can take which batch and direction."""

import pytest
import torch

from patchkin.data.datasets import UnpairedBatch
from patchkin.errors import ConfigError, ShapeError
from patchkin.method import Progress
from patchkin.methods.distancegan import DistanceGan, DistanceGanConfig
from patchkin.networks import ImagePoolConfig, PatchGANConfig, ResNetConfig
from patchkin.randomness import SeededDraws
from patchkin.training import Updater
from support import cpu_fabric, random_batch

SMALL = {
    "generator": ResNetConfig(ngf=2, blocks=1),
    "discriminator": PatchGANConfig(ndf=2),
    "pool": ImagePoolConfig(capacity=0),
}


def prepared(batches, **options):
    method = DistanceGan(DistanceGanConfig(**SMALL, **options))
    method.prepare(iter(batches), SeededDraws(0, -1))
    return method


def batches(num_images=2, count=6, size=(9, 7)):
    return [random_batch(num_images, size=size, seed=seed) for seed in range(count)]


def test_statistics_are_of_images_whatever_the_batch_size():
    x = torch.cat([batch.b_BCHW for batch in batches()])[:7]
    distances = torch.stack([(x[i] - x[j]).abs().mean() for i in range(7) for j in range(i + 1, 7)])
    for num_images in (2, 3):
        split = [
            UnpairedBatch(x[i : i + num_images], x[i : i + num_images])
            for i in range(0, 7, num_images)
        ]
        method = prepared(split, statistics_items=7)
        torch.testing.assert_close(method.expectation_B, distances.mean())
        torch.testing.assert_close(method.deviation_B, distances.std(correction=0))


def test_no_more_batches_are_read_than_needed():
    taken = iter(batches(count=6))
    DistanceGan(DistanceGanConfig(**SMALL, statistics_items=5)).prepare(taken, SeededDraws(0, -1))
    assert len(list(taken)) == 3


def test_statistics_are_saved():
    method = prepared(batches())
    state = method.state_dict()
    assert {f"{n}_{d}" for n in ("expectation", "deviation") for d in "AB"} <= set(state)
    assert 0 < state["deviation_A"] != 1


def test_images_of_several_sizes_cannot_be_compared():
    mixed = [*batches(count=1), *batches(count=1, size=(8, 8))]
    with pytest.raises(ShapeError, match=r"one size; got .* Use a `preprocess` that crops"):
        prepared(mixed)


def test_a_single_image_has_no_pairs():
    method = DistanceGan(DistanceGanConfig(**SMALL))
    update = Updater(method, cpu_fabric())
    with pytest.raises(ConfigError, match=r"at least 2; got 1\. Use --batch-size 2 or more"):
        method.train_step(random_batch(1), update, Progress.of_step(0, total_steps=1))


def test_a_one_sided_model_has_one_direction():
    method = DistanceGan(DistanceGanConfig(**SMALL, two_sided=False))
    assert not any(name.startswith(("G_BA", "D_A", "pool_A")) for name in method.state_dict())
    with pytest.raises(ConfigError, match=r"translates A to B only; .* --direction BtoA"):
        method.translate(torch.zeros(1, 3, 8, 8), direction="BtoA")
    with pytest.raises(ConfigError, match="A cycle needs both directions"):
        DistanceGanConfig(two_sided=False, cycle_weight=1.0)
