"""Similarity maps on the networks before a released step of optimisation."""

import pytest
import torch

from goldens.fixtures import Golden, generator_from, golden_files, head_from
from patchkin.methods.semantic_relation import SemanticRelation, SemanticRelationConfig
from patchkin.scoring.inspection import similarity_maps

STEM, STEP_STEM = "semrel_similarity_map", "semrel_single_step1"
TOLERANCE = {torch.float64: 2e-6, torch.float32: 5e-5}


def companion_of(path):
    """The step file of the same folder, with the same ending of its name if there is one."""
    same = path.with_name(path.name.replace(STEM, STEP_STEM, 1))
    return Golden(same if same.is_file() else path.with_name(f"{STEP_STEM}.npz"))


def method_of(step, dtype):
    generator = generator_from(step.state_dict("netG", dtype))
    head = head_from(step.state_dict("netF", dtype))
    config = SemanticRelationConfig(
        generator=generator.config,
        taps=tuple(int(tap) for tap in str(step.options["nce_layers"]).split(",")),
        head_width=head.mlps[0][2].out_features,
    )
    method = SemanticRelation(config).to(dtype)
    method.G.load_state_dict(generator.state_dict())
    method.F.load_state_dict(head.state_dict())
    return method


@pytest.mark.parametrize("own_output", [False, True], ids=["stored_output", "own_output"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("path", golden_files("semrel_similarity_map"))
def test_similarity_map(path, dtype, own_output):
    golden, step = Golden(path), companion_of(path)
    method = method_of(step, dtype)
    points = [(int(y), int(x)) for y, x in golden["query_yx"]]
    layers = golden["layers"].tolist()
    found = similarity_maps(
        method,
        step.tensor("step1/real_A", dtype)[0],
        points,
        taps=layers,
        output_CHW=None if own_output else step.tensor("step1/fake_B", dtype)[0],
    )
    assert [tap.tap for tap in found.taps] == layers
    compared = 0
    for tap in found.taps:
        for side, maps_PHW in (("A", tap.input_PHW), ("B", tap.output_PHW)):
            stored = golden.tensors(f"{side}/layer{tap.tap}", dtype)
            assert len(stored) == len(points)
            for index, map_HW in enumerate(maps_PHW):
                torch.testing.assert_close(
                    map_HW, stored[f"point{index}"], rtol=0, atol=TOLERANCE[dtype]
                )
                compared += 1
    assert compared == len(golden.arrays("A")) + len(golden.arrays("B"))
