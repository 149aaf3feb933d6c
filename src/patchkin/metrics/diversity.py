"""Diversity: whether the outputs of one input differ, and whether those of different inputs do.

Distances are LPIPS (`perceptual`), or any others given as a matrix.

Shape suffixes: N images, K outputs per image, B images of a batch, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from patchkin.errors import ConfigError, ShapeError
from patchkin.metrics.checks import check_count, check_finite
from patchkin.metrics.perceptual import PerceptualDistance


@dataclass(frozen=True, kw_only=True, slots=True)
class DiversityScores:
    """Mean distance between the outputs of one input; higher is more diverse."""

    batch_mean: float
    """Mean over batches, a short last one counting as a full one: what StarGAN v2 reports."""
    image_mean: float
    """Mean over images."""
    batch_values: tuple[float, ...] = ()
    """Of each batch; empty for a mean over tasks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CollapseScores:
    """Whether outputs of different inputs are as different as the inputs are."""

    inputs: float
    """Mean LPIPS over all pairs of inputs."""
    outputs: float
    """Mean LPIPS over all pairs of outputs."""
    ratio: float
    """Outputs over inputs; near 0 if every input gives the same picture (mode collapse)."""


def diversity_scores(distances_NKK: Tensor, *, batch_size: int) -> DiversityScores:
    """Diversity of one task from the distances between the outputs of each image.

    Args:
        distances_NKK: symmetric, for N images in order; the diagonal is not read.
        batch_size: images per batch of the evaluation; matters for `batch_mean` only.

    Raises:
        ShapeError: not [N, K, K].
        DataError: fewer than 2 outputs per image, or values that are not finite.
        ConfigError: no batch size.

    >>> distances_NKK = torch.tensor([0.1, 0.2, 0.6])[:, None, None].expand(3, 2, 2)
    >>> scores = diversity_scores(distances_NKK, batch_size=2)
    >>> round(scores.batch_mean, 6), round(scores.image_mean, 6)
    (0.375, 0.3)
    """
    if distances_NKK.ndim != 3 or distances_NKK.shape[1] != distances_NKK.shape[2]:
        raise ShapeError(f"Distances must be [N, K, K]; got {tuple(distances_NKK.shape)}.")
    if batch_size < 1:
        raise ConfigError(f"`batch_size` must be at least 1; got {batch_size}.")
    if len(distances_NKK) == 0:
        raise ShapeError("Diversity needs at least one image.")
    num_outputs = distances_NKK.shape[1]
    check_count(num_outputs, "Diversity (outputs per input)")
    check_finite(distances_NKK, "matrices of distances")
    row, column = torch.triu_indices(num_outputs, num_outputs, offset=1)
    image_N = distances_NKK.double()[:, row, column].mean(dim=1)
    batches = [
        image_N[start : start + batch_size].mean().item()
        for start in range(0, len(image_N), batch_size)
    ]
    return DiversityScores(
        batch_mean=sum(batches) / len(batches),
        image_mean=image_N.mean().item(),
        batch_values=tuple(batches),
    )


def mean_over_tasks(tasks: Sequence[DiversityScores]) -> DiversityScores:
    """Unweighted mean over tasks (ordered pairs of domains), as StarGAN v2 reports it."""
    return DiversityScores(
        batch_mean=sum(task.batch_mean for task in tasks) / len(tasks),
        image_mean=sum(task.image_mean for task in tasks) / len(tasks),
    )


def output_distances(outputs_BKCHW: Tensor, distance: PerceptualDistance) -> Tensor:
    """LPIPS between the outputs of each input, [B, K, K].

    Each output passes through the network once, not once per pair.

    Args:
        outputs_BKCHW: K outputs for each of B inputs, in [-1, 1], not clamped.
        distance: the network.

    Raises:
        ShapeError: not [B, K, 3, H, W].
        DataError: values that are not finite.
    """
    if outputs_BKCHW.ndim != 5:
        raise ShapeError(f"Outputs must be [B, K, 3, H, W]; got {tuple(outputs_BKCHW.shape)}.")
    matrices = []
    for outputs_KCHW in outputs_BKCHW:
        points_KE = distance.embed(outputs_KCHW)
        rows = [(points_KE - point_E).square().sum(dim=1) for point_E in points_KE]
        matrices.append(torch.stack(rows))
    return torch.stack(matrices)


def mean_pairwise_distance(images: Iterable[Tensor], distance: PerceptualDistance) -> float:
    """Mean LPIPS over all pairs of a set of images of one size, in one pass.

    LPIPS is a squared Euclidean distance of embeddings, hence the mean over pairs is twice their
    variance: 120 images take 120 passes through the network instead of 7140.

    Args:
        images: batches [B, 3, H, W] in [-1, 1].
        distance: the network.

    Raises:
        DataError: fewer than 2 images, or values that are not finite.
        ShapeError: images of different sizes.
    """
    spread = PairwiseSpread(distance)
    for images_BCHW in images:
        spread.add(images_BCHW)
    return spread.mean()


class PairwiseSpread:
    """`mean_pairwise_distance` of images that come one batch after another.

    Args:
        distance: the network.
    """

    def __init__(self, distance: PerceptualDistance) -> None:
        self._distance = distance
        self._count, self._scatter = 0, 0.0
        self._mean_E = torch.zeros(0, dtype=torch.float64)

    def add(self, images_BCHW: Tensor) -> None:
        """A batch in [-1, 1], by Welford's update.

        Raises:
            DataError: values that are not finite.
            ShapeError: images of another size than those before.
        """
        for point_E in self._distance.embed(images_BCHW).double():
            if self._count == 0:
                self._mean_E = torch.zeros_like(point_E)
            elif point_E.shape != self._mean_E.shape:
                raise ShapeError(
                    "The mean distance over all pairs needs images of one size; "
                    f"got {tuple(images_BCHW.shape[2:])} after others."
                )
            self._count += 1
            before_E = point_E - self._mean_E
            self._mean_E = self._mean_E + before_E / self._count
            self._scatter += torch.dot(before_E, point_E - self._mean_E).item()

    def mean(self) -> float:
        """Over all pairs so far.

        Raises:
            DataError: fewer than 2 images.
        """
        check_count(self._count, "A mean over pairs")
        return 2 * self._scatter / (self._count - 1)


class CollapseCollector:
    """`collapse_scores` of inputs and outputs that come one after another.

    Args:
        distance: the network.
    """

    def __init__(self, distance: PerceptualDistance) -> None:
        self.inputs, self.outputs = PairwiseSpread(distance), PairwiseSpread(distance)

    def scores(self) -> CollapseScores:
        """Of all so far.

        Raises:
            DataError: fewer than 2 images.
        """
        among_inputs, among_outputs = self.inputs.mean(), self.outputs.mean()
        ratio = among_outputs / among_inputs if among_inputs > 0 else float("nan")
        return CollapseScores(inputs=among_inputs, outputs=among_outputs, ratio=ratio)


def collapse_scores(
    inputs: Iterable[Tensor], outputs: Iterable[Tensor], distance: PerceptualDistance
) -> CollapseScores:
    """Mode collapse: mean LPIPS among the outputs against that among the inputs.

    Args:
        inputs: batches [B, 3, H, W] in [-1, 1].
        outputs: their translations; nothing has to be paired.
        distance: the network.

    Raises:
        DataError: fewer than 2 images, or values that are not finite.
        ShapeError: images of different sizes in one of the sets.
    """
    collector = CollapseCollector(distance)
    for images_BCHW in inputs:
        collector.inputs.add(images_BCHW)
    for images_BCHW in outputs:
        collector.outputs.add(images_BCHW)
    return collector.scores()
