"""Terms of methods with a generator each way, G_AB and G_BA.

D_B judges images of domain B, which G_AB makes, and D_A those of domain A, which G_BA makes. Terms
have the name of the domain whose images they are about: `adversarial_B` is of G_AB against D_B,
`identity_B` of G_AB on images of B.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from patchkin.data.datasets import UnpairedBatch
from patchkin.losses import AdversarialMode
from patchkin.terms.adversary import adversarial_terms, discriminator_terms
from patchkin.terms.identity import identity_terms


class TwoDiscriminators(Protocol):
    """What has a discriminator for each domain."""

    @property
    def D_A(self) -> nn.Module:
        """Judges images of domain A."""
        ...

    @property
    def D_B(self) -> nn.Module:
        """Judges images of domain B."""
        ...


def two_sided_discriminator_terms(
    networks: TwoDiscriminators,
    batch: UnpairedBatch,
    fake_b_BCHW: Tensor,
    fake_a_BCHW: Tensor,
    *,
    mode: AdversarialMode,
    weight: float = 0.5,
) -> dict[str, Tensor]:
    """`discriminator_terms` of both domains.

    Args:
        networks: D_A and D_B receive the gradient.
        batch: real images of both domains.
        fake_b_BCHW: images of A as G_AB translates them, perhaps from a pool; detached.
        fake_a_BCHW: images of B as G_BA translates them; detached.
        mode: the adversarial loss.
        weight: of each of the four losses.
    """
    return {
        **discriminator_terms(
            networks.D_B, fake_b_BCHW, batch.b_BCHW, mode=mode, weight=weight, suffix="_B"
        ),
        **discriminator_terms(
            networks.D_A, fake_a_BCHW, batch.a_BCHW, mode=mode, weight=weight, suffix="_A"
        ),
    }


def two_sided_adversarial_terms(
    networks: TwoDiscriminators,
    fake_b_BCHW: Tensor,
    fake_a_BCHW: Tensor,
    *,
    mode: AdversarialMode,
    weight: float = 1.0,
) -> dict[str, Tensor]:
    """`adversarial_terms` of both generators.

    Args:
        networks: D_A and D_B as they are.
        fake_b_BCHW: images of A as G_AB translates them; receive the gradient.
        fake_a_BCHW: images of B as G_BA translates them; receive the gradient.
        mode: the adversarial loss.
        weight: lambda_GAN.
    """
    return {
        **adversarial_terms(networks.D_B, fake_b_BCHW, mode=mode, weight=weight, suffix="_B"),
        **adversarial_terms(networks.D_A, fake_a_BCHW, mode=mode, weight=weight, suffix="_A"),
    }


def two_sided_identity_terms(
    batch: UnpairedBatch,
    identity_b_BCHW: Tensor | None,
    identity_a_BCHW: Tensor | None,
    *,
    weight_b: float,
    weight_a: float,
) -> dict[str, Tensor]:
    """`identity_terms` of both generators; none if there are no such images.

    Args:
        batch: images of both domains.
        identity_b_BCHW: images of B as G_AB leaves them; receive the gradient.
        identity_a_BCHW: images of A as G_BA leaves them; receive the gradient.
        weight_b: of the first.
        weight_a: of the second.
    """
    return {
        **identity_terms(identity_b_BCHW, batch.b_BCHW, weight=weight_b, suffix="_B"),
        **identity_terms(identity_a_BCHW, batch.a_BCHW, weight=weight_a, suffix="_A"),
    }
