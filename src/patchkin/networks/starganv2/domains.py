"""Domains of images, as labels.

Shape suffixes: B images, D domains.
"""

from __future__ import annotations

import torch
from torch import Tensor

from patchkin.errors import ConfigError, ShapeError


def of_domain(rows_BD: Tensor, domain_B: Tensor) -> Tensor:
    """From what is known of each image in every domain, that of its own domain.

    Args:
        rows_BD: [B, D] or [B, D, S]; receives the gradient.
        domain_B: int64. On an accelerator it is not checked here, since that would wait for it,
            nor in compiled code.

    Raises:
        ShapeError: if there is not one domain for each image, or no such domain.

    >>> of_domain(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 0]))
    tensor([2., 3.])
    """
    num_images, num_domains = rows_BD.shape[:2]
    if domain_B.shape != (num_images,):
        raise ShapeError(
            f"`domain_B` must be [{num_images}], a domain for each image; "
            f"got {tuple(domain_B.shape)}."
        )
    checked = domain_B.device.type == "cpu" and not torch.compiler.is_compiling()
    if checked and len(domain_B):
        low, high = int(domain_B.min()), int(domain_B.max())
        if low < 0 or high >= num_domains:
            raise ShapeError(
                f"`domain_B` must be 0 to {num_domains - 1}; got {low if low < 0 else high}. "
                "Does the data have more domains than `num_domains`?"
            )
    return rows_BD[torch.arange(num_images, device=rows_BD.device), domain_B]


def same_domain(domain: int, num_images: int, num_domains: int) -> Tensor:
    """The domain of each of some images, which is the same, [B].

    Raises:
        ConfigError: there is no such domain.

    >>> same_domain(2, 3, num_domains=4)
    tensor([2, 2, 2])
    """
    if not 0 <= domain < num_domains:
        raise ConfigError(f"`domain` must be 0 to {num_domains - 1} for this model; got {domain}.")
    return torch.full((num_images,), domain)
