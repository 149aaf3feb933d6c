"""FlatNCE, DCL, DCLW, HCL and their patch forms against their reference code."""

import pytest
import torch

from goldens.fixtures import Golden, assert_close_to_maximum, golden_files
from patchkin.losses import decoupled, info_nce, log_importance
from patchkin.losses.relatives import dcl, dclw, flat_clr_margins, flat_nce, hcl, simclr

RELATIVE = 1e-4
CASES = pytest.mark.parametrize(
    ("path", "dtype"),
    [
        pytest.param(*param.values, dtype, id=f"{param.id}-{name}", marks=param.marks)
        for param in golden_files("contrastive_relatives")
        for name, dtype in (("f64", torch.float64), ("f32", torch.float32))
    ],
)


@CASES
def test_flat_clr(path, dtype):
    golden = Golden(path)
    features = golden.tensor("in/features", dtype).requires_grad_()
    margins = flat_clr_margins(features, temperature=golden.options["T"])
    loss = flat_nce(margins)
    expect(golden, "flatnce/logits", margins)
    expect(golden, "flatnce/clogits", margins.logsumexp(dim=1, keepdim=True))
    expect(golden, "flatnce/loss", loss)
    expect(golden, "flatnce/grad_features", torch.autograd.grad(loss, features)[0])


@CASES
def test_dcl_dclw_hcl(path, dtype):
    golden = Golden(path)
    options = golden.options
    hard = {name: options[name] for name in ("tau_plus", "beta")}
    losses = {
        "dcl": lambda a, b: dcl(a, b, temperature=options["T"]),
        "dclw": lambda a, b: dclw(a, b, temperature=options["T"], sigma=options["sigma"]),
        "hcl_hard": lambda a, b: hcl(a, b, temperature=options["hT"], **hard),
        "hcl_easy": lambda a, b: simclr(a, b, temperature=options["hT"]),
    }
    for name, loss in losses.items():
        views = [golden.tensor(f"in/z{i}", dtype).requires_grad_() for i in (1, 2)]
        value = loss(*views)
        expect(golden, f"{name}/loss", value)
        for i, gradient in zip((1, 2), torch.autograd.grad(value, views), strict=True):
            expect(golden, f"{name}/grad_z{i}", gradient)


@CASES
def test_patch_forms(path, dtype):
    """With unit vectors for keys, the similarities are the queries themselves."""
    golden = Golden(path)
    options = golden.options
    key_BKC = torch.eye(len(golden["in/S"]), dtype=dtype)[None]
    importance = log_importance(golden.tensor("in/W", dtype)[None], options["gamma"])
    forms = {
        "infonce": lambda q: info_nce(q, key_BKC, temperature=options["T"]),
        "dce": lambda q: decoupled(q, key_BKC, temperature=options["T"]),
        "flatnce": lambda q: _carried(decoupled(q, key_BKC, temperature=options["T"])),
        "hdce": lambda q: decoupled(
            q, key_BKC, temperature=options["T"], log_importance_BKK=importance
        ),
    }
    for name, form in forms.items():
        similarity = golden.tensor("in/S", dtype).requires_grad_()
        losses = form(similarity[None])[0]
        expect(golden, f"patch_{name}/per_query", losses)
        expect(golden, f"patch_{name}/mean", losses.mean())
        (gradient,) = torch.autograd.grad(losses.mean(), similarity)
        expect(golden, f"patch_{name}/grad_S", gradient)


def _carried(v):
    """FlatNCE as printed: its value is always 1, its gradient that of the decoupled loss."""
    return (v - v.detach()).exp()


def expect(golden, name, actual):
    assert_close_to_maximum(actual.detach(), golden.tensor(name), relative=RELATIVE)
