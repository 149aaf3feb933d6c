"""Self-similarity maps and their losses, fixed and learned, against the released code."""

from __future__ import annotations

import pytest
import torch

from goldens.fixtures import Golden, assert_close_to_maximum, golden_files
from patchkin.losses.spatial_correlation import (
    self_similarity,
    structure_contrast,
    structure_distance,
)
from patchkin.networks.vgg import FeatureSelector

LOSS = MAPS = GRADIENTS = 1e-6
LOSS = 1e-7
COMPARISONS = {"cos": "cosine", "l1": "l1"}


@pytest.mark.parametrize("path", golden_files("lsesim"))
def test_every_case(path):
    golden = Golden(path)
    cases = golden.options["cases"]
    assert cases
    for name, options in cases.items():
        check_case(golden, name, options)


def check_case(golden, name, options):
    kinds = ("src", "tgt", "oth") if options["other"] else ("src", "tgt")
    features = {k: golden.tensor(f"{name}/f_{k}").requires_grad_() for k in kinds}
    assert [list(f.shape) for f in features.values()] == [options["shape"]] * len(kinds)
    selector = selector_from(golden, name) if options["learned"] else None
    places = golden.tensor(f"{name}/patch_ids") if f"{name}/patch_ids" in golden else None
    assert (places is None) == (options["patch_nums"] <= 0)
    maps = {
        kind: self_similarity(
            selector([feature])[0] if selector else feature,
            places,
            window=options["patch_size"],
            unit=options["use_norm"],
        )
        for kind, feature in features.items()
    }
    for kind, similarity in maps.items():
        expected = golden.tensor(f"{name}/out/sim_{kind}")
        torch.testing.assert_close(similarity.detach(), expected, rtol=0, atol=MAPS, msg=name)
    if options["other"]:
        loss = structure_contrast(maps["src"], maps["tgt"], maps["oth"], temperature=options["T"])
    else:
        comparison = COMPARISONS[options["loss_mode"]]
        loss = structure_distance(
            maps["src"], maps["tgt"], comparison=comparison, unit=options["use_norm"]
        )
    assert loss.item() == pytest.approx(golden.number(f"{name}/out/loss"), rel=0, abs=LOSS), name
    loss.backward()
    for kind, feature in features.items():
        expected = golden.tensor(f"{name}/out/grad_f_{kind}")
        assert_close_to_maximum(feature.grad, expected, relative=GRADIENTS)
    if selector is not None:
        check_selector(golden, f"{name}/out/grad_netF", selector)


def check_selector(golden, prefix, selector):
    gradients = golden.tensors(prefix)
    assert set(gradients) == {released_name(n) for n, _ in selector.named_parameters()}
    for name, parameter in selector.named_parameters():
        expected = gradients[released_name(name)]
        if name.endswith(".2.bias"):  # the subtraction of the mean removes it
            torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=1e-6)
        else:
            assert_close_to_maximum(parameter.grad, expected, relative=GRADIENTS)


def released_name(name):
    """`convs.0.2.bias` is `conv_0.2.bias`."""
    return name.replace("convs.", "conv_")


def selector_from(golden, name):
    weights = golden.state_dict(f"{name}/netF")
    selector = FeatureSelector([weights["conv_0.0.weight"].shape[1]]).double()
    selector.load_state_dict({n: weights[released_name(n)] for n in selector.state_dict()})
    return selector
