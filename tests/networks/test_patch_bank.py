"""The memory bank against a list, and copies that follow."""

import pytest
import torch
from torch import nn

from patchkin.networks.momentum import follow
from patchkin.networks.patch_bank import PatchBank


def rows(*values):
    """One image with a patch of one number for each value, of two taps."""
    row_BKC = torch.tensor(values, dtype=torch.float32).view(1, -1, 1)
    return [row_BKC, -row_BKC]


def test_the_oldest_rows_are_replaced_first():
    bank, kept, where = PatchBank(num_taps=2, size=5, width=1), [0.0] * 5, 0
    for batch in ((1, 2), (3, 4), (5, 6), (7, 8, 9)):
        bank(rows(*batch))
        for value in batch:
            kept[where % 5] = float(value)
            where += 1
        assert bank.rows_LMC[0].flatten().tolist() == kept
        assert bank.rows_LMC[1].flatten().tolist() == [-value for value in kept]
        assert int(bank.position) == where % 5


def test_taps_take_as_many_rows_as_the_smallest_has_and_no_more_than_fit():
    bank = PatchBank(num_taps=2, size=3, width=1)
    bank([rows(1, 2, 3)[0], rows(4, 5)[0]])
    assert bank.rows_LMC.flatten().tolist() == [1, 2, 0, 4, 5, 0]
    bank(rows(6, 7, 8, 9))
    assert sorted(bank.rows_LMC[0].flatten().tolist()) == [6, 7, 8]


def test_filling_stops_when_it_comes_round():
    batches = iter([rows(1, 2), rows(3, 4), rows(5, 6), rows(7, 8)])
    bank = PatchBank(num_taps=2, size=3, width=1)
    bank.fill(batches)
    assert bank.rows_LMC[0].flatten().tolist() == [4, 2, 3]
    assert len(list(batches)) == 2


def test_few_rows_fill_it_again_and_again():
    bank = PatchBank(num_taps=2, size=5, width=1)
    bank.fill(iter([rows(1, 2)]))
    assert bank.rows_LMC[0].flatten().tolist() == [1, 2, 1, 2, 1]


def test_a_copy_keeps_a_share_of_itself():
    copied, live = nn.Linear(3, 2).double(), nn.Linear(3, 2).double()
    expected = {
        name: 0.9 * tensor + 0.1 * live.state_dict()[name]
        for name, tensor in copied.state_dict().items()
    }
    before = {name: tensor.clone() for name, tensor in live.state_dict().items()}
    follow(copied, live, momentum=0.9)
    torch.testing.assert_close(dict(copied.state_dict()), expected)
    torch.testing.assert_close(dict(live.state_dict()), before)


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_the_ends_of_the_momentum(momentum):
    copied, live = nn.Linear(1, 1), nn.Linear(1, 1)
    before = copied.weight.item()
    follow(copied, live, momentum=momentum)
    assert copied.weight.item() == (before if momentum else live.weight.item())
