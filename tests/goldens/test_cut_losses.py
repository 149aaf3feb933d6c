"""PatchNCE and adversarial losses against the released CUT."""

import pytest
import torch

from goldens.fixtures import Golden, golden_files
from patchkin.losses import fake_loss, info_nce, real_loss

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
OWN_MODE = {"wgangp": "wgan"}
ALL_NEGATIVES = "nce_includes_all_negatives_from_minibatch"


@DTYPES
@pytest.mark.parametrize("path", golden_files("cut_patchnce"))
def test_patch_nce(path, dtype):
    golden = Golden(path)
    for case, changes in golden.options["cases"].items():
        settings = golden.options | changes
        batch = settings.get("batch_size", 1)
        query = golden.tensor(f"{case}/q", dtype).requires_grad_()
        key = golden.tensor(f"{case}/k", dtype)
        loss_BK = info_nce(
            query.unflatten(0, (batch, -1)),
            key.unflatten(0, (batch, -1)),
            temperature=settings.get("nce_T", 0.07),
            include_all_negatives=settings.get(ALL_NEGATIVES, False),
        )
        loss_BK.mean().backward()
        close = {"rtol": 0, "atol": 1e-5}
        torch.testing.assert_close(
            loss_BK.flatten(), golden.tensor(f"{case}/loss_vec", dtype), **close
        )
        torch.testing.assert_close(loss_BK.mean(), golden.tensor(f"{case}/loss", dtype), **close)
        torch.testing.assert_close(query.grad, golden.tensor(f"{case}/grad_q", dtype), **close)


@DTYPES
@pytest.mark.parametrize("path", golden_files("cut_ganloss"))
def test_adversarial_losses(path, dtype):
    golden = Golden(path)
    predictions = [name for name in golden if name.startswith("pred_")]
    close = {"rtol": 0, "atol": 1e-6}
    for mode in golden.options["modes"]:
        for prediction in predictions:
            for kind, loss in (("real", real_loss), ("fake", fake_loss)):
                name, own = f"{mode}/{prediction}/{kind}", OWN_MODE.get(mode, mode)
                logits = golden.tensor(prediction, dtype).requires_grad_()
                mean = loss(own, logits)
                mean.backward()
                torch.testing.assert_close(mean, golden.tensor(f"{name}/mean", dtype), **close)
                torch.testing.assert_close(
                    logits.grad, golden.tensor(f"{name}/grad", dtype), **close
                )
                raw = golden.tensor(name, dtype)
                if raw.ndim:  # the released nonsaturating loss is a number per image
                    mean = torch.stack([loss(own, image) for image in logits])
                torch.testing.assert_close(mean, raw, **close)
