"""Each domain has its own discriminator, and its terms have the domain's name."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from patchkin.data.datasets import UnpairedBatch
from patchkin.terms.two_sided import (
    two_sided_adversarial_terms,
    two_sided_discriminator_terms,
    two_sided_identity_terms,
)


class Times(nn.Module):
    """Logits that are a multiple of the images."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x_BCHW):
        return self.factor * x_BCHW


def images(value, num_images=2):
    return torch.full((num_images, 1, 2, 2), value)


NETWORKS = SimpleNamespace(D_A=Times(2.0), D_B=Times(10.0))
BATCH = UnpairedBatch(images(0.1), images(0.3))


def test_discriminators_judge_their_own_domain():
    terms = two_sided_discriminator_terms(
        NETWORKS, BATCH, images(0.5), images(0.7), mode="lsgan", weight=0.25
    )
    expected = {
        "fake_B": 0.25 * 5.0**2,
        "real_B": 0.25 * (3 - 1) ** 2,
        "fake_A": 0.25 * 1.4**2,
        "real_A": 0.25 * (0.2 - 1) ** 2,
    }
    assert list(terms) == list(expected)
    assert {k: float(v) for k, v in terms.items()} == pytest.approx(expected)


def test_each_generator_plays_against_the_domain_that_it_makes():
    terms = two_sided_adversarial_terms(
        NETWORKS, images(0.5), images(0.7), mode="lsgan", weight=3.0
    )
    expected = {"adversarial_B": 3 * (5 - 1) ** 2, "adversarial_A": 3 * (1.4 - 1) ** 2}
    assert {k: float(v) for k, v in terms.items()} == pytest.approx(expected)


def test_identities_are_compared_with_their_own_domain():
    terms = two_sided_identity_terms(BATCH, images(0.5), images(0.7), weight_b=2.0, weight_a=5.0)
    expected = {"identity_B": 2 * 0.2, "identity_A": 5 * 0.6}
    assert {k: float(v) for k, v in terms.items()} == pytest.approx(expected)
    assert two_sided_identity_terms(BATCH, None, None, weight_b=2.0, weight_a=5.0) == {}
