"""The generator of negatives N: what an image's patches are contrasted with is learned (NEGCUT).

Shape suffixes: B images, P negatives, C channels of an embedded patch, Z of the noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from patchkin.errors import ShapeError
from patchkin.numerics import unit_rows, without_autocast


class NegativeGenerator(nn.Module):
    """A two-layer perceptron per tap: an image's description and noise become a unit vector.

    It runs in float32 under autocast, for the reason that `ProjectionHead` does.

    Args:
        num_taps: taps of the projection head that it competes with.
        width: length of an embedded patch, and of an image's description.
        noise_width: numbers of noise per negative.

    >>> network = NegativeGenerator(num_taps=1, width=8, noise_width=4)
    >>> (negative_BPC,) = network([torch.randn(2, 8)], [torch.randn(5, 4)])
    >>> negative_BPC.shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, num_taps: int, width: int = 256, noise_width: int = 64) -> None:
        super().__init__()
        self.width, self.noise_width = width, noise_width
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width + noise_width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(num_taps)
        )

    def forward(self, descriptions: Sequence[Tensor], noises: Sequence[Tensor]) -> list[Tensor]:
        """Negatives for each image and tap.

        Args:
            descriptions: [B, C] per tap; receive the gradient.
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
            noise_BPZ = noise.to(description_BC.device, dtype).expand(num_images, -1, -1)
            description_BPC = description_BC.to(dtype)[:, None].expand(-1, num_negatives, -1)
            return unit_rows(mlp(torch.cat([description_BPC, noise_BPZ], dim=-1)))
