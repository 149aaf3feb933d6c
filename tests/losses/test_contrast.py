"""Every choice of contrast against its formula, patch by patch."""

import math

import pytest
import torch

from patchkin.errors import ConfigError, ShapeError
from patchkin.losses import (
    Contrast,
    as_info_nce,
    info_nce,
    mean_over_taps,
    patch_contrast,
    patch_contrasts,
)
from patchkin.losses.contrastive import decoupled
from patchkin.losses.transport import TransportConfig
from patchkin.numerics import unit_rows

TAU, DIVISOR = 0.3, 0.8


def rows(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return unit_rows(torch.randn(*shape, generator=generator, dtype=torch.float64))


PLAN = TransportConfig(epsilon=0.4, rounds=7, cost="easy", mean_weight=1.5)


def plan_of(query_BKC, key_BKC, group):
    """Sinkhorn's iteration with plain exponentials over a list of places."""
    count = len(group)
    kernel = torch.zeros(count, count, dtype=torch.float64)
    for i, one in enumerate(group):
        for j, other in enumerate(group):
            gain = -10.0 if i == j else 1 - float(query_BKC[one].detach() @ key_BKC[other])
            kernel[i, j] = math.exp(gain / PLAN.epsilon)
    v = torch.ones(count, dtype=torch.float64)
    for _ in range(PLAN.rounds):
        u = 1 / (kernel * v).sum(dim=1)
        v = 1 / (kernel * u[:, None]).sum(dim=0)
    return u[:, None] * kernel * v


def naive(query_BKC, key_BKC, contrast, external=()):
    """The table of `losses/contrast.py`, with plain exponentials."""
    batch, num_patches = query_BKC.shape[:2]
    everything = [(b, k) for b in range(batch) for k in range(num_patches)]
    losses = []
    for b, i in everything:
        others = [(c, j) for c, j in everything if (c, j) != (b, i)]
        if not contrast.all_negatives:
            others = [(c, j) for c, j in others if c == b]
        query, own = query_BKC[b, i], key_BKC[b, i]
        alike = torch.stack([own @ key_BKC[place] for place in others])
        inside, outside = torch.ones_like(alike), torch.ones_like(alike)
        if contrast.negatives == "released":
            inside = ((alike - alike.max()) / DIVISOR).exp()
        elif contrast.negatives == "paper":
            outside = (alike / DIVISOR).exp()
            outside = outside / outside.mean()
        elif contrast.negatives == "optimal-transport":
            group = [(b, i), *others]
            mass = plan_of(query_BKC, key_BKC, group)[0, 1:]
            outside = mass * len(others) * PLAN.mean_weight + 1e-8
        scores = torch.stack([query @ key_BKC[place] for place in others])
        terms = outside * (inside * scores / TAU).exp()
        total = terms.sum() + sum((query @ key / TAU).exp() for key in external)
        positive = (query @ own / TAU).exp()
        if contrast.form == "nce":
            total = total + positive
        losses.append((total / positive).log())
    return torch.stack(losses).view(batch, num_patches)


@pytest.mark.parametrize("form", ["nce", "dce"])
@pytest.mark.parametrize("negatives", ["uniform", "released", "paper", "optimal-transport"])
@pytest.mark.parametrize("all_negatives", [False, True])
@pytest.mark.parametrize("external", [0, 5])
def test_value_and_gradient_are_those_of_the_formula(form, negatives, all_negatives, external):
    query = rows(2, 5, 4, seed=1).requires_grad_()
    key = rows(2, 5, 4, seed=2).requires_grad_()
    bank = rows(external, 4, seed=3) if external else None
    contrast = Contrast(
        form=form,
        negatives=negatives,
        temperature=TAU,
        all_negatives=all_negatives,
        transport=PLAN,
    )
    actual = patch_contrast(query, key, contrast, gamma_divisor=DIVISOR, external_MC=bank)
    expected = naive(query, key.detach(), contrast, () if bank is None else bank)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-9)
    cotangent = torch.randn_like(expected)
    actual.backward(cotangent)
    (gradient,) = torch.autograd.grad(expected, query, cotangent)
    torch.testing.assert_close(query.grad, gradient, rtol=1e-6, atol=1e-9)
    assert key.grad is None


def test_only_external_negatives():
    query, key, bank = rows(1, 3, 4, seed=1), rows(1, 3, 4, seed=2), rows(6, 4, seed=3)
    actual = patch_contrast(query, key, Contrast(temperature=TAU), external_MC=bank, internal=False)
    for i in range(3):
        logits = torch.cat([(query[0, i] @ key[0, i])[None], bank @ query[0, i]]) / TAU
        torch.testing.assert_close(actual[0, i], logits.logsumexp(0) - logits[0])


def test_cosines_do_not_depend_on_the_length_of_the_rows():
    query, key = rows(2, 4, 3, seed=1), rows(2, 4, 3, seed=2)
    cosine, plain = Contrast(cosine=True), Contrast()
    torch.testing.assert_close(
        patch_contrast(0.2 * query, 3 * key, cosine), patch_contrast(query, key, plain), rtol=1e-5,
        atol=1e-8,
    )  # fmt: skip
    assert not torch.allclose(
        patch_contrast(0.2 * query, 3 * key, plain), patch_contrast(query, key, plain)
    )


def test_infonce_is_the_softplus_of_the_decoupled_loss():
    query, key = rows(1, 6, 4, seed=1), rows(1, 6, 4, seed=2)
    from_decoupled = as_info_nce(decoupled(query, key, temperature=0.07))
    assert torch.equal(from_decoupled, info_nce(query, key, temperature=0.07))
    far = torch.tensor([-60.0, 0.0, 60.0], dtype=torch.float64)
    assert as_info_nce(far).tolist() == pytest.approx([math.exp(-60), math.log(2), 60.0], rel=1e-15)


def test_taps_count_alike_whatever_their_number_of_patches():
    taps = [torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0], [20.0]])]
    assert mean_over_taps(taps).item() == pytest.approx((2 + 15) / 2)


def test_wording_of_errors():
    with pytest.raises(ConfigError, match=r"`temperature` must be positive; got -1\.0"):
        Contrast(temperature=-1.0)
    with pytest.raises(ConfigError, match=r"`form` must be one of nce, dce; got 'hdce'\."):
        Contrast(form="hdce")
    with pytest.raises(ConfigError, match=r"`negatives` must be one of uniform, .*; got None\."):
        Contrast(negatives=None)
    pair = rows(1, 3, 4, seed=1), rows(1, 3, 4, seed=2)
    with pytest.raises(ConfigError, match=r"Negatives `paper` are weighed .* `gamma_divisor`"):
        patch_contrast(*pair, Contrast(negatives="paper"))
    with pytest.raises(ConfigError, match="`internal` is False"):
        patch_contrast(
            *pair, Contrast(negatives="released"), gamma_divisor=1.0, internal=False,
            external_MC=rows(2, 4, seed=3),
        )  # fmt: skip
    with pytest.raises(ShapeError, match="A single patch per image has no negatives"):
        patch_contrast(pair[0][:, :1], pair[1][:, :1], Contrast())


def test_transport_needs_no_curriculum_and_at_least_two_patches():
    contrast = Contrast(negatives="optimal-transport")
    assert not contrast.has_curriculum
    rows_BKC = rows(1, 1, 4, seed=0)
    with pytest.raises(ShapeError, match="at least 2 patches per group"):
        patch_contrast(rows_BKC, rows_BKC, contrast)
    for changes, message in (
        ({"epsilon": 0.0}, "`epsilon` must be positive"),
        ({"rounds": 0}, "`rounds` must be at least 1"),
        ({"mean_weight": -1.0}, "`mean_weight` must not be negative"),
    ):
        with pytest.raises(ConfigError, match=message):
            TransportConfig(**changes)


@pytest.mark.parametrize("negatives", ["uniform", "released", "paper", "optimal-transport"])
@pytest.mark.parametrize("all_negatives", [False, True])
def test_taps_together_are_the_taps_one_by_one(negatives, all_negatives):
    """Whether they have as many patches or not."""
    contrast = Contrast(negatives=negatives, all_negatives=all_negatives, transport=PLAN)
    pairs = [
        (rows(2, count, 4, seed=seed), rows(2, count, 4, seed=seed + 10))
        for seed, count in enumerate((5, 3, 5))
    ]
    banks = [rows(4, 4, seed=seed) for seed in (20, 21, 22)]
    for externals in (None, banks):
        together = patch_contrasts(pairs, contrast, gamma_divisor=DIVISOR, externals=externals)
        for tap, (pair, actual) in enumerate(zip(pairs, together, strict=True)):
            bank = None if externals is None else externals[tap]
            alone = patch_contrast(*pair, contrast, gamma_divisor=DIVISOR, external_MC=bank)
            torch.testing.assert_close(actual, alone, rtol=1e-12, atol=1e-12)


def test_patch_nce_is_the_default():
    """Park et al. 2020: InfoNCE over an image's own patches, at tau = 0.07."""
    query, key = rows(2, 5, 4, seed=1), rows(2, 5, 4, seed=2)
    logits_BKK = query @ key.mT / 0.07
    expected_BK = logits_BKK.logsumexp(dim=2) - logits_BKK.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(patch_contrast(0.5 * query, 2 * key, Contrast()), expected_BK)
    assert Contrast() == Contrast(
        form="nce", negatives="uniform", all_negatives=False, cosine=False
    )
    assert not Contrast().has_curriculum
    assert all(Contrast(negatives=kind).has_curriculum for kind in ("released", "paper"))


def test_the_published_plan_is_the_default():
    """Of the horse-to-zebra run of Zhan et al. (2022)."""
    query, key = rows(2, 5, 4, seed=1), rows(2, 5, 4, seed=2)
    published = TransportConfig(cost="hard", epsilon=0.1, rounds=50, mean_weight=1.0)
    for form in ("nce", "dce"):
        settings = {"form": form, "negatives": "optimal-transport"}
        expected = patch_contrast(query, key, Contrast(transport=published, **settings))
        assert torch.equal(patch_contrast(query, key, Contrast(**settings)), expected)
