"""E: images and their domain -> styles.

Shape suffixes: B images, C channels, H and W pixels, D domains, S numbers of a style.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from patchkin.networks.starganv2.config import StyleNetworksConfig
from patchkin.networks.starganv2.domains import of_domain
from patchkin.networks.starganv2.trunk import check_side, out_width, trunk


class StyleEncoder(nn.Module):
    """E: images of known domains become styles.

    >>> small = StyleNetworksConfig(image_size=32, base_width=2, max_width=4, style_width=5)
    >>> StyleEncoder(small)(torch.zeros(1, 3, 32, 40), torch.tensor([1])).shape
    torch.Size([1, 5])
    """

    def __init__(self, config: StyleNetworksConfig | None = None) -> None:
        super().__init__()
        config = config or StyleNetworksConfig()
        self.min_size = config.image_size
        self.shared = nn.Sequential(*trunk(config))
        self.unshared = nn.ModuleList(
            nn.Linear(out_width(config), config.style_width) for _ in range(config.num_domains)
        )

    def forward(self, x_BCHW: Tensor, domain_B: Tensor) -> Tensor:
        """The style of each image, seen as one of its domain, [B, S].

        Raises:
            ShapeError: if an image is too small, or a domain is not one of the network's.
        """
        return of_domain(self.all_domains(x_BCHW), domain_B)

    def all_domains(self, x_BCHW: Tensor) -> Tensor:
        """The styles of each image, seen as one of every domain, [B, D, S]."""
        check_side(x_BCHW, self.min_size)
        features_BC = self.shared(x_BCHW).mean(dim=(2, 3))
        return torch.stack([head(features_BC) for head in self.unshared], dim=1)
