"""GAN Compression: supernet, distillation, cost, weight transfer (`compression_*`)."""

from __future__ import annotations

import pytest
import torch

from goldens.distilling import assert_losses, distillation_from, own_names, replayed, seen_places
from goldens.fixtures import Golden, assert_close_to_maximum, golden_files
from patchkin.compression.cost import configuration_cost, network_cost
from patchkin.compression.transfer import transfer_weights
from patchkin.losses import hard_negative_weights
from patchkin.networks import ResNetConfig, ResNetGenerator
from patchkin.networks.separable import MULTIPLIERS, SeparableGenerator, channels_of, expand
from patchkin.networks.supernet import Supernet


def supernet_from(weights, dtype=torch.float64) -> Supernet:
    first, last = weights["model.1.weight"], weights["model.26.weight"]
    supernet = Supernet(first.shape[0], first.shape[1], last.shape[0]).to(dtype)
    supernet.load_state_dict({name: weight.to(dtype) for name, weight in weights.items()})
    return supernet


@pytest.mark.parametrize("path", golden_files("compression_supernet"))
@torch.no_grad()
def test_supernet(path):
    golden = Golden(path)
    supernet = supernet_from(golden.state_dict("netS"))
    x_BCHW = golden.tensor("input")
    cases = [name.removeprefix("config") for name in golden if name.startswith("config")]
    assert cases
    for case in cases:
        output_BCHW = supernet(x_BCHW, golden[f"config{case}"].tolist())
        torch.testing.assert_close(output_BCHW, golden.tensor(f"output{case}"), rtol=0, atol=1e-5)
    tapped = [name for name in golden if name.startswith("feat")]
    assert tapped
    for name in tapped:
        case, tap = name.removeprefix("feat").split("_")
        _, (map_BCHW,) = supernet.forward_with_taps(
            x_BCHW, golden[f"config{case}"].tolist(), taps=(int(tap),)
        )
        assert_close_to_maximum(map_BCHW, golden.tensor(name), relative=1e-5)


@pytest.mark.parametrize("path", golden_files("compression_supernet"))
@torch.no_grad()
def test_what_is_cut_out_is_what_was_there(path):
    golden = Golden(path)
    for dtype in (torch.float32, torch.float64):
        supernet = supernet_from(golden.state_dict("netS"), dtype)
        x_BCHW = golden.tensor("input", dtype)
        for case in (name for name in golden if name.startswith("config")):
            channels = golden[case].tolist()
            narrow = supernet.export(channels)
            assert torch.equal(narrow(x_BCHW), supernet(x_BCHW, channels))
    exported = [name for name in golden.children() if name.startswith("netSub")]
    assert exported
    for name in exported:
        weights = golden.state_dict(name)
        ours = supernet.export(golden[f"config{name.removeprefix('netSub')}"].tolist())
        assert weights.keys() == ours.state_dict().keys()
        for key, weight in weights.items():
            assert torch.equal(ours.state_dict()[key], weight), key


@pytest.mark.parametrize("path", golden_files("compression_supernet"))
@torch.no_grad()
def test_the_mobile_generator_does_not_clamp(path):
    golden = Golden(path)
    weights = golden.state_dict("netS")
    channels = supernet_from(weights).channels
    assert weights["model.7.weight"].shape[0] == channels[2] * MULTIPLIERS[2]
    mobile = SeparableGenerator(channels, clamp=False).double()
    mobile.load_state_dict(weights)
    output_BCHW = mobile(golden.tensor("input"))
    torch.testing.assert_close(
        output_BCHW, golden.tensor("output_mobile_noclamp"), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    "path", golden_files("compression_distill_unaligned", "compression_distill_aligned")
)
def test_distillation_step(path):
    golden = Golden(path)
    options = golden.options
    method = distillation_from(golden, teacher="netT", student="netS")
    channels = tuple(golden["config"].tolist())
    places = seen_places(golden, "patch_ids")
    step = replayed(method, golden, places, real_a="real_A", real_b="real_B")

    for name, image_BCHW in (
        ("Tfake_B", step.teacher.image_BCHW),
        ("Sfake_B", step.student.image_BCHW),
    ):
        torch.testing.assert_close(image_BCHW, golden.tensor(name), rtol=0, atol=1e-5)
    for tap, map_BCHW in enumerate(step.student.maps):
        assert map_BCHW.shape[1] == channels[2] * MULTIPLIERS[2]
        assert_close_to_maximum(map_BCHW, golden.tensor(f"Sact{tap}"), relative=1e-5)
    rows = {"S": step.student_rows[0], "T": step.teacher_rows[0]}
    for side, rows_BKC in rows.items():
        expected = golden.tensor(f"{side}actF0")
        torch.testing.assert_close(rows_BKC.flatten(0, 1), expected, rtol=0, atol=1e-5)
    assert_weights(rows["T"], step.gamma_divisor, golden.tensor("hard_weight0_first4rows"))

    assert_losses(step.terms, golden, prefix="loss_", relative=1e-6)
    assert options["epoch"] <= options["max_epoch"]
    norms = dict(zip(golden["gradnorm_names"].tolist(), golden["gradnorm"].tolist(), strict=True))
    assert norms
    for name, norm in own_names(norms, student="netS").items():
        assert float(step.gradients[name].norm()) == pytest.approx(norm, rel=1e-9), name
    after = own_names(golden.tensors("after"), student="netS")
    assert after
    for name, weight in after.items():
        actual = method.get_parameter(name)
        torch.testing.assert_close(actual, weight, rtol=0, atol=1e-7, msg=name)


def assert_weights(key_BKC, gamma_divisor, expected):
    """The file's diagonal is the softmax of its mask; ours stands for the positive."""
    count = len(expected)
    off_diagonal = ~torch.eye(key_BKC.shape[1], dtype=torch.bool)[:count]
    weights_KK = hard_negative_weights(key_BKC, gamma_divisor)[0, :count]
    torch.testing.assert_close(weights_KK[off_diagonal], expected[off_diagonal], rtol=0, atol=1e-6)


@pytest.mark.parametrize("path", golden_files("compression_macs"))
def test_costs_of_configurations(path):
    golden = Golden(path)
    keys = ("configs", "size", "params", "macs", "macs_exact", "norm_elements")
    rows = list(zip(*(golden[key].tolist() for key in keys), strict=True))
    assert rows
    for channels, (height, width), *expected in rows:
        cost = configuration_cost(expand(channels), height=height, width=width)
        counts = [cost.parameters, cost.macs, cost.macs_exact, cost.norm_elements]
        assert counts == expected, (channels, height, width)


@pytest.mark.parametrize("path", golden_files("compression_macs"))
def test_costs_of_teachers(path):
    """Counted on a small image: every layer's positions are a share of the image's."""
    golden = Golden(path)
    names = ("params", "macs", "macs_exact", "norm_elements")
    keys = ("kind", "ngf", *names)
    rows = list(zip(*(golden[f"teacher_{key}"].tolist() for key in keys), strict=True))
    assert rows
    for kind, ngf, *expected in rows:
        plain = ResNetConfig(ngf=ngf, antialias_down=False, antialias_up=False)
        network = ResNetGenerator(plain) if kind == "resnet" else SeparableGenerator((ngf,) * 8)
        cost = network_cost(network, height=16, width=16)
        share = (256 // 16) ** 2
        counts = [cost.macs, cost.macs_exact, cost.norm_elements]
        assert [cost.parameters, *(share * count for count in counts)] == expected, (kind, ngf)


@pytest.mark.parametrize("path", golden_files("compression_transfer"))
@torch.no_grad()
def test_transferred_weights(path):
    golden = Golden(path)
    for dtype in (torch.float32, torch.float64):
        weights = {name: golden.state_dict(f"net{name}", dtype) for name in ("Big", "Small")}
        networks = {
            name: SeparableGenerator(channels_of(state), clamp=False).to(dtype)
            for name, state in weights.items()
        }
        networks["Big"].load_state_dict(weights["Big"])
        transfer_weights(networks["Big"], networks["Small"])
        for key, weight in weights["Small"].items():
            assert torch.equal(networks["Small"].state_dict()[key], weight), key
        for name, network in networks.items():
            output_BCHW = network(golden.tensor("input", dtype))
            expected = golden.tensor(f"output_{name.lower()}", dtype)
            torch.testing.assert_close(output_BCHW, expected, rtol=0, atol=1e-5)
