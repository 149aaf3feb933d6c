"""Heads that summarise the patches of an image in one vector (SimDCL; Han et al. 2021, Sec. 3.4).

Shape suffixes: B images, K patches, C channels, T taps, S numbers of a summary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from patchkin.errors import ShapeError
from patchkin.networks.initialization import InitConfig, initialize
from patchkin.numerics import unit_rows, without_autocast

HeadKind = Literal["separate", "fixed"]
"""See `SimilarityHeads`."""

_SUMMARY = 64
_KERNEL = 3


class SimilarityHead(nn.Module):
    """The embedded patches of all taps -> 64 numbers, nearly of unit length.

    The taps are the channels of a picture whose rows are patches and whose columns are the numbers
    of a patch: a 3 x 3 convolution with stride 2, the mean over its output, two linear layers. The
    head runs in float32 under autocast: as released its outputs start at about 3e-7.

    >>> SimilarityHead(taps=2)(torch.zeros(3, 2, 5, 7)).shape
    torch.Size([3, 64])
    """

    def __init__(self, taps: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(taps, _SUMMARY, _KERNEL, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(_SUMMARY, _SUMMARY),
            nn.ReLU(),
            nn.Linear(_SUMMARY, _SUMMARY),
        )

    def forward(self, stack_BTKC: Tensor) -> Tensor:
        """Summaries x / (||x|| + 1e-7), [B, 64].

        Raises:
            ShapeError: if there are fewer than 3 patches or they have fewer than 3 numbers.
        """
        if min(stack_BTKC.shape[2:]) < _KERNEL:
            raise ShapeError(
                f"A summary needs at least {_KERNEL} patches of {_KERNEL} numbers; got "
                f"{stack_BTKC.shape[2]} of {stack_BTKC.shape[3]}. Draw more patches from larger "
                "images."
            )
        with without_autocast(stack_BTKC):
            return unit_rows(self.model(stack_BTKC.to(self.model.get_parameter("0.weight").dtype)))


class SimilarityHeads(nn.Module):
    """The heads for real and for generated images of one domain.

    The released heads occur in no other loss, so they can satisfy it alone by a constant summary.
    Measured with unrelated random inputs, they do within 80 steps of the released Adam, and one
    learned head for both within 3; the loss then teaches the generators nothing. The kinds:

        separate   a head for real and one for generated images, both learned: as released
        fixed      one head for both, drawn at the start and never changed: only the images can
                   satisfy the loss. Ours; drawn with gain 1, since its outputs will not grow

    >>> [len(list(SimilarityHeads(4, kind).parameters())) for kind in ("separate", "fixed")]
    [12, 6]
    """

    def __init__(
        self, taps: int, kind: HeadKind = "separate", initialization: InitConfig | None = None
    ) -> None:
        super().__init__()
        self.kind = kind
        self.real = SimilarityHead(taps)
        self.fake = SimilarityHead(taps) if kind == "separate" else None
        initialize(self, InitConfig(gain=1.0) if kind == "fixed" else initialization)

    def forward(self, real_BTKC: Tensor, fake_BTKC: Tensor) -> tuple[Tensor, Tensor]:
        """The summaries of real and of generated images."""
        fake_head = self.real if self.fake is None else self.fake
        return self.real(real_BTKC), fake_head(fake_BTKC)


def stack_taps(rows: Sequence[Tensor]) -> Tensor:
    """Embedded patches of several taps as one tensor.

    Where the maps of some taps have fewer places than patches are drawn, each tap gives as many
    patches as the smallest one: the first of its random places.

    Args:
        rows: [B, K, C] per tap; receive the gradient.

    Returns:
        [B, T, K, C] with the smallest K.

    >>> stack_taps([torch.zeros(2, 9, 5), torch.zeros(2, 4, 5)]).shape
    torch.Size([2, 2, 4, 5])
    """
    fewest = min(rows_BKC.shape[1] for rows_BKC in rows)
    return torch.stack([rows_BKC[:, :fewest] for rows_BKC in rows], dim=1)
