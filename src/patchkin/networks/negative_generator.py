"""The generator of negatives N: what an image's patches are contrasted with is learned (NEGCUT).

Shape suffixes: B images, P negatives, C channels of an embedded patch, Z of the noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from patchkin.errors import ShapeError
from patchkin.numerics import unit_rows, without_autocast
from patchkin.randomness import sent


class NegativeGenerator(nn.Module):
    """A two-layer perceptron per tap: an image's description and noise become a unit vector.

    It runs in float32 under autocast, for the reason that `ProjectionHead` does.

    Args:
        num_taps: taps of the projection head that it competes with.
        width: length of an embedded patch, and of an image's description.
        noise_width: numbers of noise per negative.
        channels: of maps at each tap that are taken in place of descriptions; two learned 1 x 1
            convolutions and the mean over all places make those of them (`FeaturePool`).

    >>> network = NegativeGenerator(num_taps=1, width=8, noise_width=4)
    >>> (negative_BPC,) = network([torch.randn(2, 8)], [torch.randn(5, 4)])
    >>> negative_BPC.shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        num_taps: int,
        width: int = 256,
        noise_width: int = 64,
        channels: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.width, self.noise_width = width, noise_width
        self.pools = (
            None if channels is None else nn.ModuleList(FeaturePool(c, width) for c in channels)
        )
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width + noise_width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(num_taps)
        )

    def forward(self, descriptions: Sequence[Tensor], noises: Sequence[Tensor]) -> list[Tensor]:
        """Negatives for each image and tap.

        Args:
            descriptions: [B, C] per tap, or with `channels` maps [B, C, H, W]; receive the
                gradient.
            noises: [P, Z] per tap for all images alike, or [B, P, Z].

        Returns:
            Rows x / (||x|| + 1e-7), [B, P, C] per tap.

        Raises:
            ShapeError: if the numbers or shapes do not fit the network.
        """
        if not len(descriptions) == len(noises) == len(self.mlps):
            raise ShapeError(
                f"The generator of negatives has {len(self.mlps)} taps and needs a description and "
                f"noise for each; got {len(descriptions)} descriptions and {len(noises)} noises."
            )
        if self.pools is not None:
            pairs = zip(self.pools, descriptions, strict=True)
            descriptions = [pool(map_BCHW) for pool, map_BCHW in pairs]
        return [
            self._generate(mlp, description_BC, noise)
            for mlp, description_BC, noise in zip(self.mlps, descriptions, noises, strict=True)
        ]

    def _generate(self, mlp: nn.Module, description_BC: Tensor, noise: Tensor) -> Tensor:
        if description_BC.shape[-1] != self.width or noise.shape[-1] != self.noise_width:
            raise ShapeError(
                f"A description must have {self.width} channels and noise {self.noise_width}; got "
                f"{description_BC.shape[-1]} and {noise.shape[-1]}."
            )
        with without_autocast(description_BC):
            dtype = mlp.get_parameter("0.weight").dtype
            num_images, num_negatives = len(description_BC), noise.shape[-2]
            noise_BPZ = sent(noise, description_BC.device).to(dtype).expand(num_images, -1, -1)
            description_BPC = description_BC.to(dtype)[:, None].expand(-1, num_negatives, -1)
            return unit_rows(mlp(torch.cat([description_BPC, noise_BPZ], dim=-1)))


class FeaturePool(nn.Module):
    """What a map says of its image: two 1 x 1 convolutions, then the mean over all places.

    >>> FeaturePool(3, 8)(torch.zeros(2, 3, 4, 5)).shape
    torch.Size([2, 8])
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(channels, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1)
        )

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """[B, width]."""
        with without_autocast(map_BCHW):
            map_BCHW = map_BCHW.to(self.convs.get_parameter("0.weight").dtype)
            pooled_BC: Tensor = self.convs(map_BCHW).mean(dim=(2, 3))
            return pooled_BC


class FreeNegatives(nn.Module):
    """Negatives that are learned as they are, the same for every image.

    Args:
        num_taps: taps of the projection head that they compete with.
        num_negatives: per tap.
        width: length of an embedded patch.

    >>> (negative_BPC,) = FreeNegatives(1, num_negatives=5, width=8)([torch.zeros(2, 3)], [])
    >>> negative_BPC.shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, num_taps: int, num_negatives: int, width: int) -> None:
        super().__init__()
        # The shape decides how large Xavier's numbers are, and so how fast Adam turns them.
        self.rows_L1PC = nn.Parameter(torch.empty(num_taps, 1, num_negatives, width))
        nn.init.xavier_normal_(self.rows_L1PC)

    def forward(self, descriptions: Sequence[Tensor], noises: Sequence[Tensor]) -> list[Tensor]:
        """As `NegativeGenerator`; only the number of images matters."""
        return [
            unit_rows(rows_1PC).expand(len(description), -1, -1)
            for rows_1PC, description in zip(self.rows_L1PC, descriptions, strict=True)
        ]
