import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchkin.errors import ShapeError
from patchkin.losses import relation_consistency, relation_divergence
from patchkin.numerics import unit_rows


def rows(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return unit_rows(torch.randn(*shape, generator=generator, dtype=torch.float64))


def naive(w_BKC, z_BKC, *, renormalize=True):
    """Equations 1 to 3 patch by patch: JSD of each patch, [B, K]."""
    if renormalize:
        w_BKC = w_BKC / (w_BKC.square().sum(-1, keepdim=True).sqrt() + 1e-7)
        z_BKC = z_BKC / (z_BKC.square().sum(-1, keepdim=True).sqrt() + 1e-7)
    images = []
    for w_KC, z_KC in zip(w_BKC, z_BKC, strict=True):
        patches = []
        for k in range(len(w_KC)):
            p, q = (z_KC @ z_KC[k]).softmax(0), (w_KC @ w_KC[k]).softmax(0)  # Eq. 1, 2
            m = (p + q) / 2
            patches.append(0.5 * (p * (p / m).log()).sum() + 0.5 * (q * (q / m).log()).sum())
        images.append(torch.stack(patches))
    return torch.stack(images)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 2, 3), (2, 5, 3), (3, 16, 8)])
@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("length", [1.0, 1e-6])
def test_value_and_gradient_match_the_formula_written_as_loops(shape, renormalize, length):
    output = (length * rows(*shape, seed=1)).requires_grad_()
    original = rows(*shape, seed=2).requires_grad_()
    expected_BK = naive(output, original.detach(), renormalize=renormalize)
    for reduction, expected in [
        ("sum", expected_BK.sum(dim=1).mean()),
        ("mean", expected_BK.mean()),
    ]:
        actual = relation_consistency(
            output, original, reduction=reduction, renormalize=renormalize
        )
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-14)
        (gradient,) = torch.autograd.grad(expected, output, retain_graph=True)
        (actual_gradient,) = torch.autograd.grad(actual, output)
        floor = 1e-10 * gradient.abs().max().item() + 1e-14 / length
        torch.testing.assert_close(actual_gradient, gradient, rtol=1e-8, atol=floor)
    assert original.grad is None
    torch.testing.assert_close(
        relation_divergence(output, original, renormalize=renormalize), expected_BK,
        rtol=1e-10, atol=1e-14,
    )  # fmt: skip


def test_gradcheck():
    output, original = rows(2, 4, 3, seed=1).requires_grad_(), rows(2, 4, 3, seed=2)
    assert torch.autograd.gradcheck(lambda w: relation_consistency(w, original), (output,))


def test_nearly_equal_relations_keep_their_small_positive_divergence_in_float32():
    """The released form gives -8.4e-8 for such a case."""
    num_patches, width = 256, 256
    original = rows(1, num_patches, width, seed=1)
    output = unit_rows(original + 2.5e-6 * torch.randn(original.shape, dtype=torch.float64))
    output, original = output.float(), original.float()
    truth = naive_stable(output.double(), original.double()).item()
    assert 1e-10 < truth < 1e-8
    actual = relation_consistency(output, original).item()
    assert actual > 0
    assert actual == pytest.approx(truth, rel=0.02)
    released = released_form(output, original).item()
    assert abs(released - truth) > 10 * abs(actual - truth)


def naive_stable(w_BKC, z_BKC):
    """float64 of the definition, which loses nothing at 1e-9."""
    return released_form(w_BKC, z_BKC)


def released_form(w_BKC, z_BKC):
    w_BKC, z_BKC = unit_rows(w_BKC), unit_rows(z_BKC)
    q, p = (w_BKC @ w_BKC.mT).softmax(-1), (z_BKC @ z_BKC.mT).softmax(-1)
    m = (p + q) / 2
    each = 0.5 * p * (p.log() - m.log()) + 0.5 * q * (q.log() - m.log())
    return each.sum(dim=(1, 2)).mean()


def test_equal_relations_have_no_divergence_and_no_gradient():
    output = rows(2, 6, 4).float().requires_grad_()
    loss = relation_consistency(output, output)
    assert loss.item() == 0
    loss.backward()
    assert not output.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_rows_are_compared_in_float32(dtype):
    output, original = rows(2, 9, 16, seed=1).to(dtype), rows(2, 9, 16, seed=2).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = relation_consistency(output, original)
    assert actual.dtype is torch.float32
    torch.testing.assert_close(
        actual, relation_consistency(output.float(), original.float()), rtol=0, atol=0
    )


@settings(deadline=None, max_examples=25)
@given(batch=st.integers(1, 3), num_patches=st.integers(1, 12), seed=st.integers(0, 999))
def test_order_of_patches_and_images_and_rotations_do_not_matter(batch, num_patches, seed):
    output, original = (
        rows(batch, num_patches, 5, seed=seed),
        rows(batch, num_patches, 5, seed=seed + 1),
    )
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randperm(num_patches, generator=generator)
    images = torch.randperm(batch, generator=generator)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))
    expected = relation_consistency(output, original)
    permuted = relation_consistency(output[images][:, patches], original[images][:, patches])
    torch.testing.assert_close(permuted, expected, rtol=1e-9, atol=1e-12)
    rotated = relation_consistency(output @ rotation, original)
    torch.testing.assert_close(rotated, expected, rtol=1e-9, atol=1e-12)
    swapped = relation_consistency(original, output)
    torch.testing.assert_close(swapped, expected, rtol=1e-9, atol=1e-12)
    assert (relation_divergence(output, original) >= 0).all()
    assert (relation_divergence(output, original) < 0.33).all()


def test_a_batch_of_four_has_the_mean_gradient_of_its_images():
    output, original = rows(4, 7, 5, seed=1).requires_grad_(), rows(4, 7, 5, seed=2)

    def gradient(images):
        loss = relation_consistency(output[images], original[images])
        return torch.autograd.grad(loss, output)[0]

    expected = sum(gradient(slice(i, i + 1)) for i in range(4)) / 4
    torch.testing.assert_close(gradient(slice(None)), expected, rtol=1e-9, atol=1e-12)


def test_wording_of_errors():
    with pytest.raises(ShapeError, match=r"got \(2, 64, 8\) and \(2, 49, 8\)"):
        relation_consistency(rows(2, 64, 8), rows(2, 49, 8))
    with pytest.raises(ShapeError, match=r"must be \[B, K, C\].* got \(6, 4\)"):
        relation_consistency(rows(6, 4), rows(6, 4))


@pytest.mark.parametrize("at_once", [1, 2, 5, 9])
def test_some_patches_at_a_time_are_all_of_them(at_once):
    output, original = rows(2, 5, 3, seed=1).requires_grad_(), rows(2, 5, 3, seed=2)
    expected_BK = naive(output, original)
    actual_BK = relation_divergence(output, original, rows_at_once=at_once)
    torch.testing.assert_close(actual_BK, expected_BK, rtol=1e-10, atol=1e-14)
    weights_BK = torch.randn_like(expected_BK)
    (expected,) = torch.autograd.grad((weights_BK * expected_BK).sum(), output)
    (actual,) = torch.autograd.grad((weights_BK * actual_BK).sum(), output)
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-12)


def test_released_is_the_default():
    """A sum over patches, of rows that are scaled once more."""
    output, original = 1e-6 * rows(2, 5, 3, seed=1), rows(2, 5, 3, seed=2)
    expected_BK = naive(output, original)
    actual = relation_consistency(output, original)
    torch.testing.assert_close(actual, expected_BK.sum(dim=1).mean(), rtol=1e-10, atol=0)
    assert torch.equal(
        relation_divergence(output, original),
        relation_divergence(output, original, renormalize=True),
    )


@settings(deadline=None, max_examples=15, derandomize=True)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 7), st.integers(0, 9))
def test_any_shape_matches_loops(batch, places, width, seed):
    output, original = (rows(batch, places, width, seed=seed + more) for more in (0, 100))
    expected_BK = naive(output, original)
    actual_BK = relation_divergence(output, original)
    torch.testing.assert_close(actual_BK, expected_BK, rtol=1e-9, atol=1e-13)
    actual = relation_consistency(output, original)
    torch.testing.assert_close(actual, expected_BK.sum(dim=1).mean(), rtol=1e-9, atol=1e-13)
