"""TraVeLGAN: its three losses and the gradient of their sum."""

from __future__ import annotations

import pytest
import torch

from goldens.fixtures import Golden, assert_close_to_maximum, golden_files
from patchkin.losses.travel import travel_losses

RELATIVE = 1e-4


@pytest.mark.parametrize("path", golden_files("travelgan_losses"))
def test_losses_and_gradients(path):
    golden = Golden(path)
    inputs = {name: rows.requires_grad_() for name, rows in golden.tensors("in").items()}
    directions = sorted({name.split("_")[0] for name in inputs})
    both = [
        travel_losses(inputs[f"{d}_x"], inputs[f"{d}_G"], margin=golden.options["margin"])
        for d in directions
    ]
    means = [torch.stack(losses).mean() for losses in zip(*both, strict=True)]
    total = torch.stack(means).sum()
    for name, value in zip(("margin", "euclid", "cosine", "total"), [*means, total], strict=True):
        stored = golden.tensor(f"out/{name}")
        assert_close_to_maximum(value.detach(), stored, relative=RELATIVE)
    gradients = torch.autograd.grad(total, list(inputs.values()))
    for name, gradient in zip(inputs, gradients, strict=True):
        assert_close_to_maximum(gradient, golden.tensor(f"grad/{name}"), relative=RELATIVE)
