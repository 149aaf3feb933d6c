"""SRC and hDCE between teacher and student (`semrel_compression_*`)."""

from __future__ import annotations

import pytest
import torch

from goldens.distilling import assert_losses, distillation_from, own_names, replayed, seen_places
from goldens.fixtures import Golden, golden_files
from patchkin.losses import decoupled, hard_negative_weights, info_nce, relation_consistency
from patchkin.networks.sliced import SlicedHead
from patchkin.schedules import gamma_curriculum


@pytest.mark.parametrize("path", golden_files("semrel_compression_loss"))
def test_the_terms_of_one_map(path):
    golden = Golden(path)
    options = golden.options
    weights = golden.state_dict("netF")
    width, widest = weights["mlp.0.weight"].shape
    epochs = [int(epoch) for epoch in golden["opt/epochs"]]
    assert epochs
    for epoch in epochs:
        head = SlicedHead(widest, width).double()
        head.load_state_dict(weights)
        student = golden.tensor("student_act").requires_grad_()
        places_K = golden.tensor("patch_ids")
        query_BKC = head(student, places_K)
        with torch.no_grad():
            key_BKC = head(golden.tensor("teacher_act"), places_K)
        gamma = gamma_curriculum(
            epoch / options["max_epoch"], options["gamma_start"], options["gamma_min"]
        )
        assert gamma == pytest.approx(golden.number(f"epoch{epoch}/gamma"), rel=1e-12)
        weights_BKK = hard_negative_weights(key_BKC, gamma)
        off_diagonal = ~torch.eye(len(places_K), dtype=torch.bool)
        torch.testing.assert_close(
            weights_BKK[0][off_diagonal],
            golden.tensor(f"epoch{epoch}/weight")[off_diagonal],
            rtol=0,
            atol=2e-6,
        )
        hard = not options["no_hard"] and options["lambda_SRC"] > 0
        settings = {"weights_BKK": weights_BKK if hard else None}
        relation = options["lambda_SRC"] * relation_consistency(query_BKC, key_BKC)
        shown = info_nce(query_BKC, key_BKC, temperature=0.07, **settings).mean()
        contrast = decoupled(query_BKC, key_BKC, temperature=options["nce_T"], **settings).mean()
        for name, value in (
            ("loss_SRC", relation),
            ("loss_DCE", options["lambda_dce"] * shown),
        ):
            assert value.item() == pytest.approx(golden.number(f"epoch{epoch}/{name}"), rel=1e-8)
        (relation + options["lambda_dce"] * contrast).backward()
        gradients = {"grad_student_act": student.grad}
        gradients |= {f"grad_netF/{n}": p.grad for n, p in head.named_parameters()}
        for name, gradient in gradients.items():
            expected = golden.tensor(f"epoch{epoch}/{name}")
            torch.testing.assert_close(gradient, expected, rtol=0, atol=2e-6, msg=name)


@pytest.mark.parametrize("path", golden_files("semrel_compression_step"))
def test_distillation_step(path):
    golden = Golden(path)
    method = distillation_from(golden, teacher="netG_teacher", student="netG_student")
    places = seen_places(golden, "step1/patch_ids")
    step = replayed(method, golden, places, real_a="step1/real_A", real_b="step1/real_B")

    assert_losses(step.terms, golden, prefix="step1/loss_", relative=1e-9)
    for name, image_BCHW in (
        ("Tfake_B", step.teacher.image_BCHW),
        ("Sfake_B", step.student.image_BCHW),
    ):
        torch.testing.assert_close(image_BCHW, golden.tensor(f"step1/{name}"), rtol=0, atol=1e-6)
    after = own_names(golden.tensors("after"), student="netG_student")
    assert {name.split(".")[0] for name in after} == {"G", "D", "A", "F"}
    for name, weight in after.items():
        actual = method.get_parameter(name)
        torch.testing.assert_close(actual, weight, rtol=0, atol=1e-7, msg=name)
