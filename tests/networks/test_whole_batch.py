"""Layers that count the images of other processes in; with real processes: `tests/training/`."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from patchkin.networks import BatchNorm1d, BatchNorm2d, Dropout
from patchkin.networks.whole_batch import join

SHAPES = {BatchNorm1d: (6, 3), BatchNorm2d: (2, 3, 4, 5)}


class TwoAlike:
    """Two processes with the same images: whatever is added up is doubled."""

    def __init__(self, rank=0, seed=0):
        self.rank, self.count, self.seed = rank, 2, seed
        self.calls = 0

    def total(self, tensor):
        self.calls += 1
        return 2 * tensor

    @contextmanager
    def drawing_alike(self):
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            yield


@pytest.mark.parametrize("kind", SHAPES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_is_torchs_on_the_images_of_both(kind, affine):
    """Twice the same images: values, gradients, and statistics with n - 1 of all of them."""
    ours, torchs = (
        made(3, affine=affine, eps=0.1, momentum=0.3).double()
        for made in (kind, getattr(nn, kind.__name__))
    )
    if affine:
        for layer in (ours, torchs):
            torch.manual_seed(2)
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    join(ours, TwoAlike())
    torch.manual_seed(1)
    x = torch.randn(SHAPES[kind], dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(x)
    y, expected = ours(x), torchs(torch.cat([x, x]))[: len(x)]
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-13)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(ours, name), getattr(torchs, name), rtol=0, atol=1e-13)
    (gradient,) = torch.autograd.grad((y * weights).sum(), x)
    both = torchs(torch.cat([x, x])) * torch.cat([weights, weights])
    # Each process's own loss moves the statistics of both; half of it is this process's share.
    (expected,) = torch.autograd.grad(both.sum() / 2, x)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", SHAPES, ids=lambda kind: kind.__name__)
def test_alone_and_in_evaluation_they_are_torchs_to_the_bit(kind):
    x, theirs = torch.randn(SHAPES[kind]), getattr(nn, kind.__name__)(3)
    ours = kind(3)
    assert torch.equal(ours(x), theirs(x))
    processes = TwoAlike()
    join(ours, processes)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
    assert processes.calls == 0


def test_batch_norm_of_16_bits_has_wide_statistics():
    layer = BatchNorm2d(2)
    join(layer, TwoAlike())
    x = (torch.randn(2, 2, 32, 32) + 100).bfloat16()
    assert layer(x).dtype == torch.bfloat16
    expected = x.float().mean(dim=(0, 2, 3))
    torch.testing.assert_close(layer.running_mean, 0.1 * expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropout_leaves_out_what_one_process_does(layout):
    whole = torch.randn(4, 3, 6, 5).contiguous(memory_format=layout)
    torch.manual_seed(7)
    expected = nn.Dropout(0.3)(whole)
    assert 0.2 < (expected == 0).float().mean() < 0.4
    for rank in (0, 1):
        torch.manual_seed(100 + rank)  # a process's own numbers do not matter, and go on
        state = torch.get_rng_state()
        layer = Dropout(0.3)
        join(layer, TwoAlike(rank, seed=7))
        rows = whole[rank::2].contiguous(memory_format=layout)
        assert torch.equal(layer(rows), expected[rank::2])
        assert torch.equal(torch.get_rng_state(), state)


def test_dropout_that_drops_nothing_draws_nothing():
    layer = Dropout(0.0)
    join(layer, TwoAlike())
    x = torch.randn(2, 3)
    assert torch.equal(layer(x), x)
    torch.testing.assert_close(Dropout(0.5).eval()(x), x, rtol=0, atol=0)


@pytest.mark.filterwarnings("default")  # the compiler looks at gradients of what has none
@pytest.mark.parametrize("layer", [BatchNorm2d(3), Dropout(0.3)], ids=["norm", "dropout"])
def test_a_compiler_leaves_out_what_calls_on_others(layer):
    processes = TwoAlike(seed=7)
    join(layer, processes)
    x = torch.randn(4, 3, 6, 5)

    def network(x):
        return layer(x * 2) + 1

    torch.manual_seed(0)
    expected = network(x)
    compiled = torch.compile(network, backend="eager")
    torch.manual_seed(0)
    assert torch.equal(compiled(x), expected)
    torch.compiler.reset()
