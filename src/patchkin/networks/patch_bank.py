"""A memory bank of embedded patches, as further negatives (Wu et al. 2018; MoCo, He et al. 2020).

Shape suffixes: B images, K patches, C channels, L taps, M entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


class PatchBank(nn.Module):
    """The newest patches of each tap, kept in buffers so that a run resumes with them.

    Args:
        num_taps: of the head that embeds them.
        size: entries per tap.
        width: of an embedded patch.

    >>> bank = PatchBank(num_taps=1, size=3, width=1)
    >>> for value in (1.0, 2.0):
    ...     bank([torch.full((1, 2, 1), value)])
    >>> bank.rows_LMC.flatten().tolist()  # the last row has replaced the oldest
    [2.0, 1.0, 2.0]
    """

    rows_LMC: Tensor
    position: Tensor
    """Where the next rows go."""

    def __init__(self, num_taps: int, size: int, width: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("rows_LMC", torch.zeros(num_taps, size, width))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, rows: Sequence[Tensor]) -> None:
        """Put patches [B, K, C] per tap in place of the oldest; as many as every tap has."""
        flat = [rows_BKC.flatten(0, 1) for rows_BKC in rows]
        num_new = min(self.size, *(len(rows_NC) for rows_NC in flat))
        new = torch.arange(num_new, device=self.rows_LMC.device)
        slots = (self.position + new) % self.size
        for tap, rows_NC in enumerate(flat):
            self.rows_LMC[tap, slots] = rows_NC[:num_new].to(self.rows_LMC.dtype)
        self.position.copy_((self.position + num_new) % self.size)

    def fill(self, batches: Iterable[Sequence[Tensor]]) -> None:
        """Take rows until the bank is full, or all of them and those again and again.

        >>> bank = PatchBank(num_taps=1, size=4, width=1)
        >>> bank.fill([torch.tensor([[[value]]])] for value in (1.0, 2.0, 3.0))
        >>> bank.rows_LMC.flatten().tolist()
        [1.0, 2.0, 3.0, 1.0]
        """
        filled = 0
        for rows in batches:
            filled_before = int(self.position)
            self(rows)
            filled = int(self.position)
            if filled <= filled_before:  # it came round
                return
        again = torch.arange(self.size, device=self.rows_LMC.device) % filled
        self.rows_LMC.copy_(self.rows_LMC[:, again])
