import itertools

import pytest
import torch

from patchkin.errors import ConfigError, DataError, ShapeError
from patchkin.metrics import (
    collapse_scores,
    diversity_scores,
    mean_over_tasks,
    mean_pairwise_distance,
    output_distances,
)


class Levels:
    """Embeds an image as its pixels: the squared Euclidean distance of two images."""

    def embed(self, images_BCHW):
        return images_BCHW.flatten(1)

    def __call__(self, a, b):
        return (a - b).square().flatten(1).sum(dim=1)


@pytest.mark.parametrize(("count", "outputs", "batch"), [(7, 10, 4), (4, 2, 4), (1, 3, 8)])
def test_both_averages_match_loops(count, outputs, batch):
    distances = torch.rand(count, outputs, outputs)
    distances = (distances + distances.mT) * (1 - torch.eye(outputs)) + 99 * torch.eye(outputs)
    pairs = list(itertools.combinations(range(outputs), 2))
    batches = [list(range(count))[start : start + batch] for start in range(0, count, batch)]
    per_batch = []
    for images in batches:  # a pair's distance is a mean over the batch, then pairs are averaged
        of_pairs = [sum(float(distances[n, i, j]) for n in images) / len(images) for i, j in pairs]
        per_batch.append(sum(of_pairs) / len(pairs))
    per_image = [sum(float(matrix[i, j]) for i, j in pairs) / len(pairs) for matrix in distances]
    scores = diversity_scores(distances, batch_size=batch)
    assert scores.batch_values == pytest.approx(per_batch)
    assert scores.batch_mean == pytest.approx(sum(per_batch) / len(per_batch))
    assert scores.image_mean == pytest.approx(sum(per_image) / count)
    tasks = mean_over_tasks([scores, diversity_scores(2 * distances, batch_size=batch)])
    assert tasks.batch_mean == pytest.approx(1.5 * scores.batch_mean)


def test_output_distances_match_pairs():
    outputs = torch.rand(2, 3, 3, 5, 4)
    found = output_distances(outputs, Levels())
    for image, i, j in itertools.product(range(2), range(3), range(3)):
        expected = Levels()(outputs[image, i][None], outputs[image, j][None])
        torch.testing.assert_close(found[image, i, j], expected[0])


@pytest.mark.parametrize("batches", [(1, 1), (3, 2), (5,)])
def test_mean_over_pairs_in_one_pass(batches):
    images = torch.rand(sum(batches), 3, 4, 5) + 100  # far from the origin: no cancellation
    pairs = itertools.combinations(images, 2)
    expected = torch.stack([Levels()(a[None].double(), b[None].double())[0] for a, b in pairs])
    found = mean_pairwise_distance(images.split(list(batches)), Levels())
    assert found == pytest.approx(expected.mean().item(), rel=1e-9)


def test_collapse_is_a_ratio():
    inputs = torch.rand(4, 3, 4, 4)
    halved = collapse_scores([inputs], [inputs[:2] / 2, inputs[2:] / 2], Levels())
    assert halved.ratio == pytest.approx(0.25)  # of squared distances
    collapsed = collapse_scores([inputs], [inputs[:1].expand(4, -1, -1, -1)], Levels())
    assert collapsed.outputs == pytest.approx(0, abs=1e-12)
    assert collapsed.ratio == pytest.approx(0, abs=1e-12)


def test_errors_say_what_is_wrong():
    with pytest.raises(ShapeError, match=r"must be \[N, K, K\]; got \(2, 3, 4\)"):
        diversity_scores(torch.zeros(2, 3, 4), batch_size=1)
    with pytest.raises(DataError, match=r"outputs per input\) needs at least 2 images; got 1"):
        diversity_scores(torch.zeros(2, 1, 1), batch_size=1)
    with pytest.raises(ConfigError, match=r"`batch_size` must be at least 1; got 0"):
        diversity_scores(torch.zeros(2, 3, 3), batch_size=0)
    with pytest.raises(DataError, match=r"1 of 2 matrices of distances hold NaN"):
        diversity_scores(torch.stack([torch.zeros(3, 3), torch.ones(3, 3) / 0]), batch_size=1)
    with pytest.raises(DataError, match=r"A mean over pairs needs at least 2 images; got 1"):
        mean_pairwise_distance([torch.zeros(1, 3, 4, 4)], Levels())
    with pytest.raises(ShapeError, match=r"needs images of one size; got \(4, 5\)"):
        mean_pairwise_distance([torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5)], Levels())
    with pytest.raises(ShapeError, match=r"must be \[B, K, 3, H, W\]; got \(2, 3, 4, 4\)"):
        output_distances(torch.zeros(2, 3, 4, 4), Levels())
