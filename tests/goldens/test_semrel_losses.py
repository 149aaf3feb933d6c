"""SRC and hDCE against the released code, and against the paper's equations."""

import re

import pytest
import torch

from goldens.fixtures import Golden, golden_files
from patchkin.losses import (
    decoupled,
    hard_negative_weights,
    info_nce,
    log_negative_importance,
    relation_consistency,
    relation_divergence,
)
from patchkin.schedules import gamma_curriculum

PUBLISHED_CURRICULA = {
    "h2z": {"epochs": 400, "start": 50.0, "end": 10.0},
    "cityscapes": {"epochs": 400, "start": 50.0, "end": 10.0, "late": 1.0},
    "monet": {"epochs": 16, "start": 200.0, "end": 40.0},
}
"""Numbers of epochs and gammas of the three published runs, which the files do not repeat."""


class Tolerance:
    """Of the semrel schemas: relative for scalars, absolute for arrays."""

    def __init__(self, dtype, scalar32, gradient32, array32=3e-5):
        wide = dtype is torch.float64
        self.dtype = dtype
        self.scalar = {"rtol": 1e-8 if wide else scalar32, "atol": 0}
        self.gradient = {"rtol": 0, "atol": 2e-6 if wide else gradient32}
        self.array = {"rtol": 0, "atol": 2e-6 if wide else array32}


SRC = [
    pytest.param(Tolerance(torch.float64, None, None, None), id="f64"),
    pytest.param(Tolerance(torch.float32, 5e-6, 1e-5), id="f32"),
]
HDCE = [
    pytest.param(Tolerance(torch.float64, None, None, None), id="f64"),
    pytest.param(Tolerance(torch.float32, 2e-6, 1e-5), id="f32"),
]


def gradient(loss, features):
    return torch.autograd.grad(loss, features)[0]


def assert_weights_agree(actual_BKK, expected_BKK, tolerance):
    """The diagonals, which stand for the positives, are never used."""
    diagonal = torch.eye(actual_BKK.shape[-1], dtype=torch.bool)
    torch.testing.assert_close(
        actual_BKK.masked_fill(diagonal, 0), expected_BKK.masked_fill(diagonal, 0), **tolerance
    )


@pytest.mark.parametrize("tolerance", SRC)
@pytest.mark.parametrize("path", golden_files("semrel_src"))
def test_relation_consistency_and_weights(path, tolerance):
    golden, dtype = Golden(path), tolerance.dtype
    groups = [f"K{num_patches}" for num_patches in golden.options["K"]]
    for group in [*groups, *(["sincut"] if "sincut" in golden.children() else [])]:
        output = golden.tensor(f"{group}/feat_q", dtype).requires_grad_()
        original = golden.tensor(f"{group}/feat_k", dtype)
        loss = relation_consistency(output[None], original[None])
        expected = golden.tensor(f"{group}/src_loss", dtype)
        torch.testing.assert_close(loss, expected, **tolerance.scalar)
        expected = golden.tensor(f"{group}/src_grad_feat_q", dtype)
        torch.testing.assert_close(gradient(loss, output), expected, **tolerance.gradient)
        if group == "sincut":  # the released mask voids the weights when one patch is drawn
            assert (golden[f"{group}/weight"] == 1).all()
            continue
        for gamma in golden.options["gammas"]:
            expected = golden.tensor(f"{group}/gamma{gamma:g}/weight", dtype)
            actual = hard_negative_weights(original[None], gamma)[0]
            assert_weights_agree(actual, expected, tolerance.array)


@pytest.mark.parametrize("path", golden_files("semrel_src"))
def test_curricula(path):
    golden = Golden(path)
    names = golden.children("curriculum")
    assert names
    for name in names:
        run = dict(PUBLISHED_CURRICULA[name])
        epochs = run.pop("epochs")
        for epoch, gamma in zip(
            golden[f"curriculum/{name}/epoch"].tolist(),
            golden[f"curriculum/{name}/gamma"].tolist(),
            strict=True,
        ):
            assert gamma_curriculum(epoch / epochs, **run) == pytest.approx(gamma, rel=1e-8)


@pytest.mark.parametrize("tolerance", HDCE)
@pytest.mark.parametrize("path", golden_files("semrel_hdce"))
def test_hard_negative_contrast(path, tolerance):
    golden, dtype = Golden(path), tolerance.dtype
    temperature = golden.options["nce_T"]
    cases = []
    for num_patches in golden.options["K"]:
        cases += [(f"K{num_patches}", f"gamma{g:g}", 1, g) for g in golden.options["gammas"]]
        cases.append((f"K{num_patches}", "noweight", 1, None))
    for group in golden.children():
        if batch := re.fullmatch(r"batch(\d+)", group):
            kinds = ("per_image", "all_negatives")
            cases += [(group, kind, int(batch[1]), None) for kind in kinds]
    for group, kind, batch, gamma in cases:
        query = golden.tensor(f"{group}/feat_q", dtype).requires_grad_()
        query_BKC = query.unflatten(0, (batch, -1))
        key_BKC = golden.tensor(f"{group}/feat_k", dtype).unflatten(0, (batch, -1))
        settings = {
            "temperature": temperature,
            "weights_BKK": None if gamma is None else hard_negative_weights(key_BKC, gamma),
            "include_all_negatives": kind == "all_negatives",
        }
        entropy_BK = info_nce(query_BKC, key_BKC, **settings)
        loss_BK = decoupled(query_BKC, key_BKC, **settings)
        expected = golden.tensor(f"{group}/{kind}/value", dtype)
        torch.testing.assert_close(entropy_BK.mean(), expected, **tolerance.scalar)
        expected = golden.tensor(f"{group}/{kind}/loss_vec", dtype)
        torch.testing.assert_close(entropy_BK.flatten(), expected, **tolerance.array)
        if f"{group}/{kind}/dce_vec" in golden:
            expected = golden.tensor(f"{group}/{kind}/dce_vec", dtype)
            torch.testing.assert_close(loss_BK.flatten(), expected, **tolerance.array)
        expected = golden.tensor(f"{group}/{kind}/grad_feat_q", dtype)
        torch.testing.assert_close(gradient(loss_BK.mean(), query), expected, **tolerance.gradient)


@pytest.mark.parametrize(("src", "hdce"), [p.values * 2 for p in SRC[:1]] + [
    (SRC[1].values[0], HDCE[1].values[0])
], ids=["f64", "f32"])  # fmt: skip
@pytest.mark.parametrize("path", golden_files("semrel_batched"))
def test_any_batch_and_number_of_layers(path, src, hdce):
    golden, dtype = Golden(path), src.dtype
    options = golden.options
    batch = options["B"]
    for layer in range(options["n_layers"]):
        query = golden.tensor(f"layer{layer}/feat_q", dtype).requires_grad_()
        query_BKC = query.unflatten(0, (batch, -1))
        key_BKC = golden.tensor(f"layer{layer}/feat_k", dtype).unflatten(0, (batch, -1))

        per_image = torch.stack(
            [
                relation_consistency(q[None], k[None])
                for q, k in zip(query_BKC, key_BKC, strict=True)
            ]
        )
        expected = golden.tensor(f"layer{layer}/src_per_image", dtype)
        torch.testing.assert_close(per_image, expected, **src.scalar)
        loss = relation_consistency(query_BKC, key_BKC)
        torch.testing.assert_close(loss, expected.mean(), **src.scalar)
        expected = golden.tensor(f"layer{layer}/src_grad_of_sum", dtype)
        torch.testing.assert_close(batch * gradient(loss, query), expected, **src.gradient)

        weights_BKK = hard_negative_weights(key_BKC, options["gamma"])
        expected = golden.tensor(f"layer{layer}/weight", dtype)
        assert_weights_agree(weights_BKK, expected, hdce.array)
        settings = {"temperature": options["nce_T"], "weights_BKK": weights_BKK}
        entropy_BK = info_nce(query_BKC, key_BKC, **settings)
        expected = golden.tensor(f"layer{layer}/hdce_vec", dtype)
        torch.testing.assert_close(entropy_BK.flatten(), expected, **hdce.array)
        expected = golden.tensor(f"layer{layer}/hdce_value", dtype)
        torch.testing.assert_close(entropy_BK.mean(), expected, **hdce.scalar)
        loss = decoupled(query_BKC, key_BKC, **settings).mean()
        expected = golden.tensor(f"layer{layer}/hdce_grad_of_mean", dtype)
        torch.testing.assert_close(gradient(loss, query), expected, **hdce.gradient)


@pytest.mark.parametrize("path", golden_files("semrel_paper_form"))
def test_equations_of_the_paper(path):
    golden = Golden(path)
    close = {"rtol": 0, "atol": 1e-10}
    for group in golden.children():
        get = lambda name, group=group: golden.tensor(f"{group}/{name}")  # noqa: E731
        output, original = get("W").requires_grad_(), get("Z")
        query_BKC, key_BKC = output[None], original[None]
        temperature = golden.number(f"{group}/tau")

        divergence = relation_divergence(query_BKC, key_BKC, renormalize=False)[0]
        torch.testing.assert_close((original @ original.mT).softmax(1), get("eq1_P"), **close)
        torch.testing.assert_close((output @ output.mT).softmax(1), get("eq2_Q"), **close)
        torch.testing.assert_close(divergence, get("eq3_jsd_per_k"), **close)
        loss = relation_consistency(query_BKC, key_BKC, renormalize=False)
        torch.testing.assert_close(loss, get("eq3_L_SRC"), **close)
        torch.testing.assert_close(gradient(loss, output), get("eq3_grad_W"), **close)

        def check(losses, prefix, query=output, get=get):
            torch.testing.assert_close(losses[0], get(f"{prefix}_per_k"), **close)
            torch.testing.assert_close(losses.mean(), get(f"{prefix}_mean"), **close)
            return gradient(losses.mean(), query)

        for gamma in golden[f"{group}/gammas"].tolist():
            log_importance = log_negative_importance(key_BKC, gamma)
            expected = get(f"eq5_gamma{gamma:g}_importance")
            torch.testing.assert_close(log_importance[0].exp(), expected, **close)
            losses = decoupled(
                query_BKC, key_BKC, temperature=temperature, log_importance_BKK=log_importance
            )
            expected = get(f"eq4_gamma{gamma:g}_grad_W_of_mean")
            actual = check(losses, f"eq4_gamma{gamma:g}")
            torch.testing.assert_close(actual, expected, **close)

        losses = decoupled(query_BKC, key_BKC, temperature=temperature)
        actual = check(losses, "eq6_DCE")
        torch.testing.assert_close(actual, get("eq6_grad_W_of_mean"), **close)
        losses = info_nce(query_BKC, key_BKC, temperature=temperature)
        actual = check(losses, "eq7_InfoNCE")
        torch.testing.assert_close(actual, get("eq7_grad_W_of_mean"), **close)

        # Eq. 8: InfoNCE's gradient is DCE's times alpha = 1 - e^{-loss}.
        torch.testing.assert_close(-(-losses[0]).expm1(), get("eq8_alpha_infonce_exact"), **close)
        positive = (output * original).sum(dim=1) / temperature
        similarity = original @ original.mT / temperature
        others = similarity.masked_fill(torch.eye(len(original), dtype=torch.bool), -torch.inf)
        printed = (others.logsumexp(dim=1) - positive).sigmoid()  # Eq. 9
        torch.testing.assert_close(printed, get("eq9_qNPC_as_printed"), **close)
