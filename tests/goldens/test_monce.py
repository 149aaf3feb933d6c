"""MoNCE: transport plans, weights of negatives, and the losses weighted with them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as nnf

from goldens.fixtures import Golden, assert_close_to_maximum, golden_files
from patchkin.losses import decoupled, info_nce
from patchkin.losses.transport import log_transport_importance, log_transport_plan

FORMS = {"infonce": info_nce, "decoupled": decoupled}
BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def expect(actual, expected, *, absolute):
    torch.testing.assert_close(actual.detach().double(), expected, rtol=0, atol=absolute)


@BOTH
@pytest.mark.parametrize("path", golden_files("monce_weights"))
def test_plan_and_weights(path, dtype):
    golden = Golden(path)
    close = 1e-9 if dtype is torch.float64 else 3e-5
    assert golden.options["cases"]
    for name, case in golden.options["cases"].items():
        query, key = (golden.tensor(f"{name}/{row}", dtype) for row in "qk")
        assert list(query.shape) == [case["groups"], case["places"], case["dim"]]
        settings = {"cost": case["cost"], "epsilon": case["eps"], "rounds": case["rounds"]}
        plan = log_transport_plan(query, key, **settings).exp()
        expect(plan, golden.tensor(f"{name}/out/plan"), absolute=close)
        expect(plan.sum(dim=2), golden.tensor(f"{name}/out/row_sums"), absolute=close)
        expect(plan.sum(dim=1), golden.tensor(f"{name}/out/column_sums"), absolute=close)
        scale = case["num_patches"] - 1
        weights = log_transport_importance(
            query, key, **settings, mean_weight=case["neg_term_weight"], num_negatives=scale
        ).exp()
        assert not weights.requires_grad
        close_weights = close if dtype is torch.float64 else close * scale * case["neg_term_weight"]
        expect(weights, golden.tensor(f"{name}/out/weights"), absolute=close_weights)


@BOTH
@pytest.mark.parametrize("path", golden_files("monce_loss"))
def test_weighted_losses_and_their_gradients(path, dtype):
    golden = Golden(path)
    assert golden.options["cases"]
    for name, case in golden.options["cases"].items():
        query = golden.tensor(f"{name}/q", dtype).requires_grad_()
        query_BKC, key_BKC = (
            rows.unflatten(0, (case["batch"], case["places"]))
            for rows in (query, golden.tensor(f"{name}/k", dtype))
        )
        grouped = [
            rows.flatten(0, 1)[None] if case["all_negatives"] else rows
            for rows in (query_BKC, key_BKC)
        ]
        settings = {
            "cost": case["cost"],
            "epsilon": case["eps"],
            "rounds": case["rounds"],
            "mean_weight": case["neg_term_weight"],
            "num_negatives": case["num_patches"] - 1,
        }
        log_weights = log_transport_importance(*grouped, **settings)
        expected = golden.tensor(f"{name}/out/weights")
        scale = 1 if dtype is torch.float64 else settings["num_negatives"] * case["neg_term_weight"]
        close = 1e-9 if dtype is torch.float64 else 3e-5 * scale
        expect(log_weights.exp(), expected, absolute=close)
        if case["num_patches"] == log_weights.shape[1]:  # ours and the release's are the same
            del settings["num_negatives"]
            ours = log_transport_importance(*grouped, **settings)
            torch.testing.assert_close(ours, log_weights, rtol=0, atol=0)

        def check(rows, gradient_name, name=name, query=query, dtype=dtype):
            (gradient,) = torch.autograd.grad(rows.mean(), query)
            for actual, stored in (
                (rows.flatten(), "rows"),
                (rows.mean(), "loss"),
                (gradient, gradient_name),
            ):
                expected = golden.tensor(f"{name}/out/{stored}")
                if dtype is torch.float64:
                    expect(actual, expected, absolute=1e-9)
                else:
                    assert_close_to_maximum(actual.detach(), expected, relative=1e-4)

        rows = FORMS[case["form"]](
            query_BKC,
            key_BKC,
            temperature=case["T"],
            log_importance_BKK=log_weights,
            include_all_negatives=case["all_negatives"],
        )
        check(rows, "grad_q")
        through = log_transport_importance(*grouped, **settings, released_gradient=True)
        check(released_rows(*grouped, through, case), "grad_q_released")


def released_rows(query_GNC, key_GNC, log_weights_GNN, case):
    """The loss as written down, with the gradient through the weights."""
    similarity = query_GNC @ key_GNC.mT / case["T"]
    itself = torch.eye(similarity.shape[-1], dtype=torch.bool)
    negatives = (similarity + log_weights_GNN).masked_fill(itself, -math.inf)
    margin = negatives.logsumexp(dim=-1) - similarity.diagonal(dim1=1, dim2=2)
    return margin if case["form"] == "decoupled" else nnf.softplus(margin, threshold=50)
