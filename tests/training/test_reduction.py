"""Gradients in buckets, of two processes that are threads here and of real ones elsewhere."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from patchkin.training.reduction import Reduction

WIDTH = 6
PROCESSES = 2


class Wire:
    """Adds up what two threads send, in the order in which each sends it."""

    def __init__(self):
        self.meeting = threading.Barrier(PROCESSES, timeout=20)
        self.mine = threading.local()
        self.sent = {}
        self.numbers = {0: [], 1: []}
        """Of each thread, the size of what it sent, and whether its backward pass went on."""

    def all_reduce(self, tensor, *, async_op):
        assert async_op
        rank = self.mine.rank
        self.numbers[rank].append((tensor.numel(), self.mine.in_backward))
        self.sent[rank] = tensor.clone()
        self.meeting.wait()
        tensor.copy_(self.sent[0] + self.sent[1])
        self.meeting.wait()
        return SimpleNamespace(wait=lambda: None)


class Net(nn.Module):
    """Layers, of which the third is used twice and the last by no loss."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH).double() for _ in range(4))
        self.unused = nn.Linear(WIDTH, 1).double()

    def loss(self, x, *, again):
        x = self.layers[0](x).tanh()
        x = self.layers[1](x).tanh()
        x = again(self.layers[2], x).tanh()
        x = again(self.layers[2], x).tanh()
        return self.layers[3](x).square().sum()


def plain(layer, x):
    return layer(x)


def recomputed(layer, x):
    """Differentiated in a backward pass of its own, inside of the one that goes on."""
    return checkpoint(layer, x, use_reentrant=True)


def inputs(rank, part):
    generator = torch.Generator().manual_seed(10 * rank + part)
    return torch.randn(3, WIDTH, generator=generator, dtype=torch.float64)


def own_gradients(rank, parts):
    net = Net()
    total = sum(net.loss(inputs(rank, part), again=plain) for part in range(parts))
    total.backward()
    return [p.grad for p in net.parameters()], total.detach()


def in_threads(monkeypatch, *, parts, again):
    wire = Wire()
    monkeypatch.setattr(torch.distributed, "all_reduce", wire.all_reduce)
    found = {}
    nets = [Net() for _ in range(PROCESSES)]  # not by the threads: they share torch's generator

    def process(rank):
        wire.mine.rank, wire.mine.in_backward = rank, False
        net = nets[rank]
        reduction = Reduction(list(net.parameters()), PROCESSES)
        *earlier, last = [net.loss(inputs(rank, part), again=again) for part in range(parts)]
        for loss in earlier:
            loss.backward()
        wire.mine.in_backward = True
        with reduction.during_backward():
            last.backward()
        wire.mine.in_backward = False
        total = reduction.finish(sum(loss.detach() for loss in (*earlier, last)))
        found[rank] = [p.grad for p in net.parameters()], total

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(PROCESSES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found, wire.numbers


LAYER = WIDTH * WIDTH + WIDTH  # numbers of one layer


@pytest.mark.parametrize("again", [plain, recomputed])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("bucket_bytes", [1, 8 * LAYER, 10**6])
def test_gradients_are_the_means_over_processes(monkeypatch, again, parts, bucket_bytes):
    monkeypatch.setattr(Reduction, "bucket_bytes", bucket_bytes)
    (first, first_total), (second, second_total) = (own_gradients(rank, parts) for rank in (0, 1))
    found, numbers = in_threads(monkeypatch, parts=parts, again=again)
    assert set(found) == {0, 1}
    for gradients, total in found.values():
        assert total == pytest.approx(float(first_total + second_total) / 2, rel=1e-12)
        for mean, one, other in zip(gradients, first, second, strict=True):
            if one is None:
                assert mean is None
            else:
                torch.testing.assert_close(mean, (one + other) / 2, rtol=1e-12, atol=1e-14)
    assert numbers[0] == numbers[1]


def test_a_bucket_leaves_while_the_backward_pass_goes_on(monkeypatch):
    """One layer each, the last one first; the last bucket and the total at the end."""
    monkeypatch.setattr(Reduction, "bucket_bytes", 8 * LAYER)
    monkeypatch.setattr(Net, "parameters", lambda net: net.layers.parameters())
    _, numbers = in_threads(monkeypatch, parts=1, again=plain)
    assert numbers[0] == [(LAYER, True)] * 4 + [(1, False)]


def test_what_a_loss_does_not_reach_holds_the_others_back_but_is_not_sent(monkeypatch):
    """The layer that nothing uses stands last, hence in the first bucket."""
    monkeypatch.setattr(Reduction, "bucket_bytes", 8)
    _, numbers = in_threads(monkeypatch, parts=1, again=plain)
    assert all(not in_backward for _, in_backward in numbers[0])
    assert sum(count for count, _ in numbers[0]) == 4 * LAYER + 1


def test_what_is_added_to_later_is_sent_again(monkeypatch):
    monkeypatch.setattr(Reduction, "bucket_bytes", 8 * LAYER)
    monkeypatch.setattr(Net, "parameters", lambda net: net.layers.parameters())
    _, numbers = in_threads(monkeypatch, parts=1, again=recomputed)
    assert numbers[0] == [(LAYER, True)] * 4 + [(LAYER, False), (1, False)]


def test_an_update_without_parameters_sends_the_total_alone(monkeypatch):
    sent = []

    def all_reduce(tensor, *, async_op):
        sent.append(tensor.clone())
        return SimpleNamespace(wait=lambda: tensor.mul_(2))

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    assert Reduction([], PROCESSES).finish(torch.tensor(3.0)) == 3
    assert torch.equal(torch.cat(sent), torch.tensor([3.0]))
