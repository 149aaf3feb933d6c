"""Models, checkpoints and run folders from before the networks had their present names."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from patchkin.config import to_plain
from patchkin.methods import METHODS
from patchkin.networks import ImagePoolConfig, PatchGANConfig, ResNetConfig
from patchkin.schedules import ScheduleConfig
from patchkin.storage.checkpoint import (
    CheckpointStore,
    ModelHeader,
    Snapshot,
    read_model,
    write_tensors,
)
from patchkin.storage.names import current_names, with_pool_sizes
from patchkin.training import TrainingConfig, fit
from patchkin.translation.translator import Translator
from patchkin.upstream import Source, import_weights
from patchkin.upstream.files import read_weight_file
from support import ListData, cpu_fabric, random_batch

TWO_SIDED = {
    "G_AB": "G_A",
    "G_BA": "G_B",
    "D_B": "D_A",
    "D_A": "D_B",
    "pool_B": "pool_A",
    "pool_A": "pool_B",
}
SMALL = {"generator": ResNetConfig(ngf=2, blocks=5), "discriminator": PatchGANConfig(ndf=2)}
PATCHES = {"head_width": 4, "num_patches": 5}
OLD_NAMES = {
    "cyclegan": ({**SMALL, "pool": ImagePoolConfig(capacity=2, side=32)}, TWO_SIDED),
    "dclgan": ({**SMALL, **PATCHES}, TWO_SIDED),
    "simdcl": ({**SMALL, **PATCHES}, TWO_SIDED),
    "distancegan": (SMALL, TWO_SIDED),
    "travelgan": ({"width": 2, "vector_width": 4}, TWO_SIDED),
    "lsesim": (
        {**SMALL, "features": "random", "feature_width": 2, "learned": True},
        {"S.selector": "F"},
    ),
    "cut": (
        {**SMALL, **PATCHES, "negatives": "both", "bank_size": 8},
        {"bank.rows_LMC": "bank_LMC", "bank.position": "bank_position"},
    ),
}
"""Method -> a configuration, and today's names -> those of version 1."""


def build(name, *, seed=0):
    torch.manual_seed(seed)
    kind = METHODS[name]
    return kind(kind.config_type(**OLD_NAMES[name][0]))


def old_name(name, method_name):
    prefix, bare = ("ema.", name[4:]) if name.startswith("ema.") else ("", name)
    for now, before in OLD_NAMES[method_name][1].items():
        if bare == now or bare.startswith(f"{now}."):
            return prefix + before + bare.removeprefix(now)
    return name


def renamed(tensors, method_name):
    return {old_name(name, method_name): tensor for name, tensor in tensors.items()}


def with_one_size_per_pool(tensors):
    """As stored while all images of a pool had one size."""
    old = dict(tensors)
    for name in tensors:
        if name.endswith(".sizes_P2"):
            old[name.replace("sizes_P2", "size_HW")] = old.pop(name)[0]
    return old


def header_of(method, **options):
    return ModelHeader(method=method.name, config=to_plain(method.config), **options)


def numbers(state):
    """Every tensor another number, so that no two can be mistaken for each other."""
    return {
        name: torch.full_like(tensor, index)
        for index, (name, tensor) in enumerate(sorted(state.items()))
    }


@pytest.mark.parametrize("name", OLD_NAMES)
def test_a_file_of_version_1_has_todays_names_when_it_is_read(name, tmp_path):
    method = build(name)
    model = numbers(method.state_dict())
    model |= {f"ema.{key}": tensor + 0.5 for key, tensor in model.items() if key[0] == "G"}
    moments = numbers({f"{key}.exp_avg": tensor for key, tensor in method.named_parameters()})
    store = CheckpointStore(tmp_path)
    store.save(
        Snapshot(
            step=3,
            header=header_of(method, step=3, version=1),
            model=renamed(model, name),
            optimizers=renamed(moments, name),
            state={},
        )
    )
    path = store.path(3) / "model.safetensors"
    in_file = load_file(path)
    assert in_file.keys() != model.keys()
    assert any(key.split(".")[0] in OLD_NAMES[name][1].values() for key in in_file)

    snapshot = store.load(3)
    header, tensors = read_model(path)
    imported = read_weight_file(path)
    assert snapshot.header == header == imported.header == header_of(method, step=3)
    for read, written in (
        (snapshot.model, model),
        (tensors, model),
        (imported.parts[""], model),
        (snapshot.optimizers, moments),
    ):
        assert read.keys() == written.keys()
        assert all(torch.equal(read[key], tensor) for key, tensor in written.items())


def test_present_names_are_left_alone(tmp_path):
    method = build("cyclegan")
    snapshot = Snapshot(
        step=1,
        header=header_of(method),
        model=numbers(method.state_dict()),
        optimizers={},
        state={},
    )
    store = CheckpointStore(tmp_path)
    store.save(snapshot)
    assert torch.equal(store.load(1).model["D_A.model.0.bias"], snapshot.model["D_A.model.0.bias"])


def run(run_dir, method, *, steps, resume=False):
    fit(
        method,
        ListData([random_batch(seed=i) for i in range(3)]),
        run_dir,
        fabric=cpu_fabric(),
        schedule=ScheduleConfig(steps=steps, decay_fraction=0.0, ema_decay=0.9),
        training=TrainingConfig(save_every=2),
        header=header_of(method),
        resume=resume,
    )


def test_a_run_folder_of_version_1_is_resumed_exactly(tmp_path):
    whole = build("cyclegan")
    run(tmp_path / "whole", whole, steps=4)
    run(tmp_path / "old", build("cyclegan"), steps=2)
    store = CheckpointStore(tmp_path / "old")
    snapshot = store.load(2)
    store.save(
        replace(
            snapshot,
            header=replace(snapshot.header, version=1),
            model=with_one_size_per_pool(renamed(snapshot.model, "cyclegan")),
            optimizers=renamed(snapshot.optimizers, "cyclegan"),
            state={**snapshot.state, "total_steps": 4},
        )
    )
    images = torch.rand(1, 3, 16, 16)
    Translator.load(tmp_path / "old", device="cpu", direction="BtoA")(images)
    resumed = build("cyclegan", seed=1)
    run(tmp_path / "old", resumed, steps=4, resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    translators = [Translator.load(tmp_path / name, device="cpu") for name in ("whole", "old")]
    assert torch.equal(*(translator(images) for translator in translators))


def test_weights_imported_by_version_1_are_joined_with_others(tmp_path):
    """A partial model of one network, as `import-weights` wrote it."""
    method = build("cyclegan")
    weights = {f"G_A.{key}": tensor for key, tensor in method.G_AB.state_dict().items()}
    path = tmp_path / "model.safetensors"
    write_tensors(path, weights, header_of(method, version=1).to_metadata())
    (network,) = import_weights([Source(path=path)]).networks
    assert (network.released, network.name) == ("G_A", "G_AB")
    assert torch.equal(network.taken.tensors["model.1.bias"], method.G_AB.model[1].bias)


def test_a_size_that_goes_with_no_pool_is_refused():
    """Of a file that somebody has made; `open_model` says it in one line."""
    images_PN, size_HW = torch.zeros(2, 12), torch.tensor([2, 3])
    for tensors in (
        {"p.size_HW": size_HW},
        {"p.size_HW": size_HW, "p.images_PN": torch.tensor(0.0)},
        {"p.size_HW": torch.tensor([2, 3, 4]), "p.images_PN": images_PN},
    ):
        with pytest.raises(ValueError, match=r"`p\.size_HW` goes with no pool of images"):
            with_pool_sizes(tensors)
    sized = with_pool_sizes({"p.size_HW": size_HW, "p.images_PN": images_PN})
    assert sized["p.sizes_P2"].tolist() == [[2, 3], [2, 3]]


@pytest.mark.parametrize("method", ["cut", "srunit", "of a user"])
def test_methods_whose_networks_kept_their_names(method):
    named = {"G.model.1.bias": 1, "F.x": 2, "ema.G.x": 3}
    assert current_names(named, method=method, version=1, prefix="ema.") == named
