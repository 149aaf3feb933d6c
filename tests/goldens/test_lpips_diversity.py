"""Diversity of multi-modal outputs against the released StarGAN v2."""

import pytest
import torch

from goldens.fixtures import Golden, golden_files
from patchkin.metrics import diversity_scores, mean_over_tasks


@pytest.mark.parametrize("path", golden_files("lpips_diversity"))
def test_both_averages(path):
    golden = Golden(path)
    batch_size = golden.options["val_batch_size"]
    tasks = [
        diversity_scores(distances_NKK, batch_size=batch_size)
        for distances_NKK in golden.tensor("pair_dist")
    ]
    mean = mean_over_tasks(tasks)
    for found, name in (
        ([task.batch_values for task in tasks], "batch_values"),
        ([task.batch_mean for task in tasks], "per_task"),
        (mean.batch_mean, "mean"),
        ([task.image_mean for task in tasks], "per_image_per_task"),
        (mean.image_mean, "per_image_mean"),
    ):
        expected = golden.tensor(f"out/{name}")
        torch.testing.assert_close(torch.tensor(found).double(), expected, rtol=1e-6, atol=0)
