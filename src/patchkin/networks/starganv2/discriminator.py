"""D: images and a domain -> logits.

Shape suffixes: B images, C channels, H and W pixels, D domains.
"""

from __future__ import annotations

from torch import Tensor, nn

from patchkin.networks.starganv2.config import StyleNetworksConfig
from patchkin.networks.starganv2.domains import of_domain
from patchkin.networks.starganv2.trunk import check_side, out_width, trunk


class DomainDiscriminator(nn.Module):
    """D: is an image a real one of its domain? One logit per domain, and one of them counts.

    >>> import torch
    >>> small = StyleNetworksConfig(image_size=32, base_width=2, max_width=4)
    >>> DomainDiscriminator(small)(torch.zeros(3, 3, 32, 32), torch.tensor([1, 0, 1])).shape
    torch.Size([3])
    """

    def __init__(self, config: StyleNetworksConfig | None = None) -> None:
        super().__init__()
        config = config or StyleNetworksConfig()
        self.min_size = config.image_size
        self.main = nn.Sequential(
            *trunk(config), nn.Conv2d(out_width(config), config.num_domains, 1)
        )

    def forward(self, x_BCHW: Tensor, domain_B: Tensor) -> Tensor:
        """The logit of each image in its domain, [B].

        Raises:
            ShapeError: if an image is too small, or a domain is not one of the network's.
        """
        return of_domain(self.all_domains(x_BCHW), domain_B)

    def all_domains(self, x_BCHW: Tensor) -> Tensor:
        """The logits of each image in every domain, [B, D]."""
        check_side(x_BCHW, self.min_size)
        logits_BD: Tensor = self.main(x_BCHW).mean(dim=(2, 3))
        return logits_BD
