"""One pair of domains: styles, outputs and their scores, against loops and by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from patchkin.data.config import DataConfig
from patchkin.data.domains import domain_images, find_domain_files
from patchkin.data.toy import domain_truth_file
from patchkin.errors import DataError
from patchkin.images import to_uint8
from patchkin.scoring.tasks import (
    ChangeScore,
    DomainTruthScore,
    LatentStyles,
    Made,
    ReferenceStyles,
    as_images,
    mean_over,
    outputs_of,
    scored,
)
from scoring.tiny import Corners
from support import random_batch
from tinting import SPREAD

SIZE = 64


def made_of(outputs_NKCHW, inputs_NCHW):
    return [Made(x, y) for y, x in zip(outputs_NKCHW, inputs_NCHW, strict=True)]


def truth_scores(levels_NKCHW, inputs_NCHW, paths):
    made = made_of(as_images(levels_NKCHW), inputs_NCHW)
    return scored(made, [DomainTruthScore(paths, "striped", value_range=None)])


@pytest.fixture
def images():
    return random_batch(5, size=(8, 12)).a_BCHW * 0.5


# Styles


def test_latent_styles_are_new_at_every_call_and_the_same_in_every_run(translator):
    first, second = (LatentStyles(translator, seed=3) for _ in range(2))
    a, b = first(1, 4), first(1, 4)
    assert torch.equal(a, second(1, 4))
    assert torch.equal(b, second(1, 4))
    assert len({tuple(row.tolist()) for row in torch.cat([a, b])}) == 8
    assert not torch.equal(a, LatentStyles(translator, seed=4)(1, 4))
    centre_S = translator.method.F.colours_DS[2].detach()
    many = LatentStyles(translator, seed=3)(2, 2000)
    torch.testing.assert_close(many.mean(dim=0), centre_S, rtol=0, atol=4 * SPREAD / 2000**0.5)


def test_a_reference_comes_again_only_after_all_others(translator):
    references = [random_batch(number, seed=number).a_BCHW for number in (5, 3, 11)]
    expected = [images.mean(dim=(2, 3)) for images in references]
    styles = ReferenceStyles(translator, references, seed=0)
    drawn = torch.cat([styles(2, number) for number in (4, 7, 3, 8)])  # two passes of 11
    order = [
        next(i for i, known in enumerate(expected[2]) if torch.allclose(known, row, atol=1e-6))
        for row in drawn
    ]
    assert sorted(order[:11]) == sorted(order[11:]) == list(range(11))
    assert order[:11] != order[11:]
    alone = ReferenceStyles(translator, references, seed=0)
    alone(0, 4)  # other domains have an order of their own
    assert torch.equal(alone(2, 4), drawn[:4])


# One pair of domains


def test_outputs_of_one_image_stand_together_and_are_not_clamped(translator, images):
    styles = LatentStyles(translator, seed=0)
    made = list(outputs_of(translator, images, styles, 1, 3))
    assert torch.equal(torch.stack([each.input_CHW for each in made]), images)
    found = torch.stack([each.outputs_KCHW for each in made])
    assert found.shape == (5, 3, 3, 8, 12)
    again = LatentStyles(translator, seed=0)
    for output in range(3):
        colours = again(1, 5)
        expected = images + colours[:, :, None, None]
        torch.testing.assert_close(found[:, output], expected)
    far = [*outputs_of(translator, images, lambda _, count: torch.full((count, 3), 2.0), 1, 1)]
    assert max(float(each.outputs_KCHW.max()) for each in far) > 1.5


def test_outputs_that_are_no_numbers_are_refused(translator, images):
    with pytest.raises(DataError, match="NaN or infinity"):
        list(outputs_of(translator, images, lambda _, n: torch.full((n, 3), torch.nan), 1, 1))


def test_diversity_is_the_mean_over_pairs_and_batches():
    generator = torch.Generator().manual_seed(0)
    outputs_NKCHW = torch.randn(35, 4, 3, 8, 8, generator=generator)  # batches of 32 and 3
    inputs_NCHW = torch.zeros(35, 3, 8, 8)
    scores = scored(made_of(outputs_NKCHW, inputs_NCHW), [ChangeScore(Corners())])
    distance = Corners()
    per_image = [
        np.mean(
            [
                float((distance.embed(a[None]) - distance.embed(b[None])).square().sum())
                for a, b in combinations(outputs_KCHW, 2)
            ]
        )
        for outputs_KCHW in outputs_NKCHW
    ]
    batches = (np.mean(per_image[:32]) + np.mean(per_image[32:])) / 2
    assert scores["lpips_diversity"] == pytest.approx(batches, rel=1e-5)
    assert scores["lpips_diversity_per_image"] == pytest.approx(np.mean(per_image), rel=1e-5)
    assert scores["lpips_diversity"] != pytest.approx(np.mean(per_image), rel=1e-3)


def test_change_and_spread_are_those_of_files():
    input_CHW = torch.zeros(3, 4, 4)
    outputs_KCHW = torch.stack([torch.full((3, 4, 4), value) for value in (0.2, -0.4, 3.0)])
    made = Made(input_CHW, outputs_KCHW)
    scores = scored([made], [ChangeScore()])
    levels = [float(to_uint8(torch.tensor(value))) for value in (0.2, -0.4, 3.0)]
    assert levels[2] == 255
    assert scores["change"] == pytest.approx(np.mean([abs(v - 127.5) for v in levels]))
    spread = (levels[0] - levels[1] + levels[2] - levels[1]) / 2
    assert scores["style_spread"] == pytest.approx(spread)
    assert "lpips_diversity" not in scores
    assert made.levels_KCHW.dtype == torch.uint8
    alone = scored([Made(input_CHW, outputs_KCHW[:1])], [ChangeScore()])
    assert alone == {"change": pytest.approx(abs(levels[0] - 127.5))}


def test_outputs_that_equal_their_inputs_are_noticed(images):
    change = ChangeScore()
    scored(made_of(images[:, None], images), [change])
    assert change.warnings[0].startswith("5 of 5 outputs equal their input")


def test_the_truth_has_no_distance_and_an_unchanged_input_no_change_outside(root):
    files = find_domain_files(DataConfig(root=str(root)))
    plain = files.test[0]
    inputs_NCHW = domain_images(plain, size=SIZE)
    truths = domain_images([domain_truth_file(path, "striped") for path in plain], size=SIZE)
    perfect = truth_scores(to_uint8(truths)[:, None], inputs_NCHW, plain)
    assert perfect == pytest.approx(
        dict.fromkeys(("distance", "tone_inside", "detail_distance", "change_outside"), 0),
        abs=1e-5,
    )
    unchanged = truth_scores(to_uint8(inputs_NCHW)[:, None], inputs_NCHW, plain)
    assert unchanged["change_outside"] == pytest.approx(0, abs=1e-5)
    assert unchanged["distance"] == unchanged["tone_inside"] > 10
    assert unchanged["detail_distance"] > 0.8  # stripes have at least twice the detail
    both = torch.stack([to_uint8(truths), to_uint8(inputs_NCHW)], dim=1)
    mixed = truth_scores(both, inputs_NCHW, plain)
    assert mixed["tone_inside"] == pytest.approx(unchanged["tone_inside"] / 2, abs=1e-4)
    assert truth_scores(both, inputs_NCHW, files.train[0][:3]) == {}


def test_means_over_pairs_count_each_pair_once():
    assert mean_over([{"a": 1.0, "b": 2.0}, {"a": 3.0}]) == {"a": 2.0}
