"""F: latents and a domain -> styles.

Shape suffixes: B latents, D domains, L numbers of a latent, S numbers of a style.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from patchkin.networks.starganv2.config import StyleNetworksConfig
from patchkin.networks.starganv2.domains import of_domain
from patchkin.randomness import Draws, sent


class MappingNetwork(nn.Module):
    """F: latents become styles, by layers that all domains share and a head for each.

    >>> F = MappingNetwork(StyleNetworksConfig(num_domains=3, hidden_width=8, style_width=5))
    >>> F(torch.randn(2, 16), torch.tensor([0, 2])).shape
    torch.Size([2, 5])
    """

    def __init__(self, config: StyleNetworksConfig | None = None) -> None:
        super().__init__()
        config = config or StyleNetworksConfig()
        hidden, self.latent_width = config.hidden_width, config.latent_width
        self.shared = _perceptron([config.latent_width, *[hidden] * 4])
        self.shared.append(nn.ReLU())
        self.unshared = nn.ModuleList(
            _perceptron([*[hidden] * 4, config.style_width]) for _ in range(config.num_domains)
        )

    def forward(self, latent_BL: Tensor, domain_B: Tensor) -> Tensor:
        """The style of each latent in its domain, [B, S].

        Raises:
            ShapeError: if a domain is not one of the network's.
        """
        return of_domain(self.all_domains(latent_BL), domain_B)

    def all_domains(self, latent_BL: Tensor) -> Tensor:
        """The styles of each latent in every domain, [B, D, S].

        All heads take part in every step, as released: those of other domains with a gradient of
        zero, which Adam's weight decay still shrinks.
        """
        hidden = self.shared(latent_BL)
        return torch.stack([head(hidden) for head in self.unshared], dim=1)

    def random_styles(self, draws: Draws, domain_B: Tensor) -> Tensor:
        """F(z, y) for a random latent z in each domain y, [B, S]."""
        weight = self.shared.get_parameter("0.weight")
        latent_BL = sent(draws.normal(len(domain_B), self.latent_width), weight)
        return self.forward(latent_BL, sent(domain_B, weight.device))


def _perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with rectifiers between them."""
    layers: list[nn.Module] = []
    for into, out in pairwise(widths):
        layers += [nn.Linear(into, out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
