"""What a run shows of a held-out batch: caption -> images [B, C, H, W], a column each.

Shape suffixes: B images, C channels, H and W pixels, S numbers of a style.
"""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor, nn

from patchkin.data.datasets import UnpairedBatch
from patchkin.networks import match_channels


def one_sided_previews(
    generator: nn.Module, batch: UnpairedBatch, channels: int, *, identity: bool
) -> dict[str, Tensor]:
    """Input and output, and with `identity` a target image and what G makes of it.

    Args:
        generator: from domain A to domain B.
        batch: held-out images.
        channels: that the generator takes.
        identity: whether it has learned to leave images of domain B alone.

    >>> import torch
    >>> batch = UnpairedBatch(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
    >>> list(one_sided_previews(nn.Identity(), batch, 3, identity=True))
    ['input', 'translated', 'target', 'identity']
    """
    columns = {"input": batch.a_BCHW, "translated": generator(batch.a_BCHW)}
    if identity:
        identity_BCHW = generator(match_channels(batch.b_BCHW, channels))
        columns |= {"target": batch.b_BCHW, "identity": identity_BCHW}
    return columns


def two_sided_previews(G_AB: nn.Module, G_BA: nn.Module, batch: UnpairedBatch) -> dict[str, Tensor]:
    """Input and output in both directions.

    >>> import torch
    >>> batch = UnpairedBatch(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
    >>> list(two_sided_previews(nn.Identity(), nn.Identity(), batch))
    ['input', 'translated', 'target', 'target to source']
    """
    return {
        "input": batch.a_BCHW,
        "translated": G_AB(batch.a_BCHW),
        "target": batch.b_BCHW,
        "target to source": G_BA(batch.b_BCHW),
    }


class TwoSidedStyled(Protocol):
    """A method that translates both ways in styles."""

    def translate(
        self,
        x_BCHW: Tensor,
        *,
        styles_BS: Tensor | None = None,
        direction: Literal["AtoB", "BtoA"] = "AtoB",
    ) -> Tensor:
        """As `StyledMethod.translate`."""
        ...

    def reference_styles(self, reference_BCHW: Tensor) -> Tensor:
        """As `StyledMethod.reference_styles`."""
        ...


def styled_previews(
    method: TwoSidedStyled, batch: UnpairedBatch, reconstructed_b_BCHW: Tensor
) -> dict[str, Tensor]:
    """In the fixed style, in that of the target image, and the way back.

    Args:
        method: translates.
        batch: held-out images.
        reconstructed_b_BCHW: the target images, taken apart and put together again.
    """
    styles_BS = method.reference_styles(batch.b_BCHW)
    return {
        "input": batch.a_BCHW,
        "translated": method.translate(batch.a_BCHW),
        "in the target's style": method.translate(batch.a_BCHW, styles_BS=styles_BS),
        "target": batch.b_BCHW,
        "target to source": method.translate(batch.b_BCHW, direction="BtoA"),
        "target put together": reconstructed_b_BCHW,
    }
