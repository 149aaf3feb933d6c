"""Networks that others trained, and the released networks' own numbers under their own names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from goldens.fixtures import Golden, golden_files, schema_of
from patchkin.networks import ProjectionHead
from patchkin.networks.munit import MunitGenerator
from patchkin.translation.translator import Translator
from patchkin.upstream import (
    ImportedNetwork,
    Source,
    import_weights,
    read_network,
    released_weights,
)

COMPRESSED = "gan_compression_horse2zebra_compressed_netG.pth"
HEAD = "cut_netF_turbulence_latest_net_F.pth"


def test_a_trained_head(weights_file):
    """CUT's head takes maps of 3, 128, 256, 256 and 256 channels and gives unit rows."""
    path = weights_file(HEAD)
    head = read_network(path)
    assert isinstance(head, ProjectionHead)
    channels = (3, 128, 256, 256, 256)
    maps = [torch.randn(2, count, 5, 4) for count in channels]
    places = [torch.tensor([19, 0, 7])] * len(maps)
    state = torch.load(path, map_location="cpu", weights_only=True)
    with torch.no_grad():
        rows = head(maps, places)
    for tap, (feature_BCHW, rows_BKC) in enumerate(zip(maps, rows, strict=True)):
        first, first_bias, second, second_bias = (
            state[f"mlp_{tap}.{part}"] for part in ("0.weight", "0.bias", "2.weight", "2.bias")
        )
        picked_BKC = torch.stack([feature_BCHW[..., p // 4, p % 4] for p in (19, 0, 7)], dim=1)
        expected = (picked_BKC @ first.T + first_bias).relu() @ second.T + second_bias
        expected = expected / (expected.norm(dim=-1, keepdim=True) + 1e-7)
        torch.testing.assert_close(rows_BKC, expected, rtol=0, atol=1e-5)
        assert rows_BKC.shape == (2, 3, 256)
        torch.testing.assert_close(rows_BKC.norm(dim=-1), torch.ones(2, 3), rtol=0, atol=1e-3)


def test_a_trained_head_as_a_part_of_a_model(weights_file, tmp_path):
    imported = import_weights([Source(path=weights_file(HEAD))])
    assert imported.header.method == "cut"
    assert imported.missing == ("G", "D")
    (network,) = imported.networks
    assert tuple(network.taken.options["channels"]) == (3, 128, 256, 256, 256)
    assert (network.taken.dropped, network.taken.filled) == ({}, {})
    assert sum(tensor.numel() for tensor in imported.tensors().values()) == 560384


def test_a_trained_compressed_generator(weights_file, tmp_path):
    path = weights_file(COMPRESSED)
    imported = import_weights([Source(path=path)])
    assert imported.header.method == "compressed-resnet"
    assert tuple(imported.header.config["channels"]) == (16, 16, 32, 16, 32, 32, 16, 16)
    assert imported.missing == ()
    assert sum(tensor.numel() for tensor in imported.tensors().values()) == 356867
    imported.save(tmp_path / "model.safetensors")
    translator = Translator.load(tmp_path / "model.safetensors", device="cpu")
    x_BCHW = torch.rand(1, 3, 64, 48) * 2 - 1
    y_BCHW = translator(x_BCHW)
    assert y_BCHW.shape == x_BCHW.shape
    assert 0.1 < y_BCHW.std() < 1
    state = torch.load(path, map_location="cpu", weights_only=True)
    again = released_weights(translator.method.G)
    assert again.keys() == state.keys()
    assert all(again[name].equal(state[name]) for name in state)


def weights_of(golden: Golden, prefix: str) -> dict[str, Tensor]:
    """Under the released names, with what constants the file has."""
    return {
        name: tensor.long() if name.endswith("num_batches_tracked") else tensor.float()
        for name, tensor in golden.tensors(prefix).items()
    }


def saved(weights: dict[str, Tensor], path: Path) -> Path:
    torch.save(weights, path)
    return path


@pytest.mark.parametrize("path", golden_files("cut_resnet_aa", "cut_resnet_noaa"))
def test_released_generators(path, tmp_path):
    golden = Golden(path)
    generator = read_network(saved(weights_of(golden, "netG"), tmp_path / "net_G.pth")).double()
    with torch.no_grad():
        y_BCHW = generator(golden.tensor("x"))
    torch.testing.assert_close(y_BCHW, golden.tensor("y"), rtol=0, atol=5e-5)


@pytest.mark.parametrize("path", golden_files("cut_patchgan"))
def test_released_discriminators(path, tmp_path):
    golden = Golden(path)
    for name in ("aa", "noaa", "pixel"):
        file = saved(weights_of(golden, f"netD_{name}"), tmp_path / f"{name}_net_D.pth")
        with torch.no_grad():
            logits = read_network(file).double()(golden.tensor("x"))
        torch.testing.assert_close(logits, golden.tensor(f"y_{name}"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("path", golden_files("cut_stylegan2"))
def test_released_sincut(path, tmp_path):
    golden = Golden(path)
    files = {name: weights_of(golden, f"net{name}") for name in "GD"}
    paths = [saved(weights, tmp_path / f"net_{name}.pth") for name, weights in files.items()]
    assert import_weights([Source(path=path) for path in paths]).header.method == "sincut"
    generator, judge = (read_network(path).double() for path in paths)
    noise = golden.tensors("noise")
    with torch.no_grad():
        y_BCHW = generator(golden.tensor("x"), [noise[str(index)] for index in range(len(noise))])
        logits = judge(golden.tensor("x_D"))
    torch.testing.assert_close(y_BCHW, golden.tensor("y"), rtol=0, atol=1e-5)
    torch.testing.assert_close(logits, golden.tensor("y_D"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("path", golden_files("munit_step"))
def test_released_munit(path, tmp_path):
    golden = Golden(path)
    names = {
        file: {part: weights_of(golden, prefix) for part, prefix in parts.items()}
        for file, parts in munit_parts(golden).items()
    }
    paths = [saved(weights, tmp_path / f"{file}_00010000.pt") for file, weights in names.items()]
    imported = import_weights([Source(path=path) for path in paths])
    assert imported.header.method == "munit"
    assert imported.missing == ()
    assert "CC BY-NC-SA" in imported.notes[0]
    assert isinstance(read_network(paths[0], part="a"), MunitGenerator)


def munit_parts(golden: Golden) -> dict[str, dict[str, str]]:
    """Where a file keeps the four networks."""
    prefixes = golden.children()
    return {
        file: {
            part: next(
                p for p in prefixes if p.lower() in (f"net{file}_{part}", f"net{file}{part}")
            )
            for part in "ab"
        }
        for file in ("gen", "dis")
    }


METHOD_OF = {
    "cut_step_cut": "cut",
    "cut_step_fastcut": "cut",
    "cut_step_cyclegan": "cyclegan",
    "cut_step_pix2pix": "pix2pix",
    "cut_step_sincut": "sincut",
    "dclgan_step1": "dclgan",
    "gcgan_step": "gcgan",
    "negcut_step": "negcut",
    "simdcl_step1": "simdcl",
    "semrel_single_step1": "cut",
}
"""What their files are taken for; those of the semantic relation are CUT's."""


@pytest.mark.parametrize("path", golden_files(*METHOD_OF))
def test_names_of_whole_systems(path, tmp_path):
    """All networks of a released system import together, as the method they are."""
    golden = Golden(path)
    before = "init" if "init" in golden.children() else ""
    networks = [name for name in golden.children(before) if name.startswith("net")]
    if not networks:
        pytest.skip("this file holds expected values only: no weights to import")
    sources = []
    for name in networks:
        weights = weights_of(golden, f"{before}/{name}".lstrip("/"))
        file = saved(weights, tmp_path / f"latest_net_{name.removeprefix('net')}.pth")
        sources.append(Source(path=file))
    schema = schema_of(path)
    assert schema is not None
    imported = import_weights(sources, taps=taps_of(golden))
    assert imported.header.method == METHOD_OF[schema]
    assert imported.missing == ()
    assert len(imported.networks) == len(networks)
    assert not any(network.taken.dropped.keys() - filters(network) for network in imported.networks)


def taps_of(golden: Golden) -> tuple[int, ...] | None:
    """Where a file names them and the method has heads."""
    named = golden.options.get("nce_layers", golden.options.get("layers"))
    if named is None or not any("/mlp_" in name for name in golden):
        return None
    parts = named.split(",") if isinstance(named, str) else named
    return tuple(int(part) for part in parts)


def filters(network: ImportedNetwork) -> set[str]:
    return {name for name in network.taken.dropped if name.endswith((".filt", ".kernel"))}
