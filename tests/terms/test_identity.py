"""What a generator makes of its source and of its target, in one pass or in two."""

import pytest
import torch

from patchkin.networks import ResNetConfig, ResNetGenerator, match_channels
from patchkin.terms.identity import identity_terms, tapped_with_identity, with_identity

TAPS = (0, 4, 8)


def generator_and_images(target_size):
    torch.manual_seed(0)
    generator = ResNetGenerator(ResNetConfig(ngf=2, blocks=2, in_channels=1)).double()
    source = torch.rand(2, 1, 16, 20, dtype=torch.float64)
    return generator, source, torch.rand(2, 3, *target_size, dtype=torch.float64)


@pytest.mark.parametrize("target_size", [(16, 20), (12, 24)])
def test_both_are_those_of_separate_passes(target_size):
    generator, source, target = generator_and_images(target_size)
    with torch.no_grad():
        fake, identity = with_identity(generator, source, target, identity=True)
        tapped = tapped_with_identity(generator, source, target, TAPS, identity=True)
        expected, features = generator.forward_with_taps(source, TAPS)
        of_target = generator(match_channels(target, 1))
    for one in (fake, tapped[0]):
        torch.testing.assert_close(one, expected)
    for one in (identity, tapped[1]):
        torch.testing.assert_close(one, of_target)
    torch.testing.assert_close(tapped[2], features)


def test_without_the_term_the_target_is_not_looked_at():
    generator, source, _ = generator_and_images((16, 20))
    nothing = torch.empty(0)
    with torch.no_grad():
        fake, identity = with_identity(generator, source, nothing, identity=False)
        tapped = tapped_with_identity(generator, source, nothing, TAPS, identity=False)
    assert identity is None
    assert tapped[1] is None
    torch.testing.assert_close(fake, tapped[0])
    assert identity_terms(None, nothing, weight=1.0) == {}


def test_the_term_is_the_weighted_mean_difference():
    identity, real = torch.tensor([[[[1.0, -1.0]]]]), torch.tensor([[[[0.5, 1.0]]]])
    terms = identity_terms(identity, real, weight=4.0, suffix="_gc")
    assert terms == {"identity_gc": torch.tensor(4 * (0.5 + 2) / 2)}
