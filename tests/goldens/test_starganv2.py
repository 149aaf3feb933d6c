"""StarGAN v2 and its semantic-relation form: networks, losses and iterations of the released code.

The files tell all sizes by their weights. All runs are in float64.
"""

from __future__ import annotations

import pytest
import torch

from goldens.fixtures import Golden, golden_files
from patchkin.networks.starganv2 import (
    DomainDiscriminator,
    MappingNetwork,
    StyleEncoder,
    StyleGenerator,
    read_released,
)

SCALAR = {"rtol": 1e-6, "atol": 1e-12}
ARRAY = {"rtol": 1e-5, "atol": 1e-6}
NETWORKS = {"G": "generator", "F": "mapping_network", "E": "style_encoder", "D": "discriminator"}
"""The files' letter, which is ours -> the released checkpoints' name."""


def images(golden, name):
    return golden.tensor(name).double() / 127.5 - 1


def networks_of(golden):
    """The networks with their weights, by letter; sizes as an import finds them."""
    state = {name: golden.state_dict(f"net{letter}") for letter, name in NETWORKS.items()}
    sizes = read_released(state).config
    built = {
        "G": StyleGenerator(sizes),
        "F": MappingNetwork(sizes),
        "E": StyleEncoder(sizes),
        "D": DomainDiscriminator(sizes),
    }
    for letter, network in built.items():
        network.double().load_state_dict(golden.state_dict(f"net{letter}"))
    return built


@pytest.mark.parametrize("path", golden_files("stargan_v2_nets"))
def test_networks(path):
    golden = Golden(path)
    networks = networks_of(golden)
    G, F, E, D = (networks[letter] for letter in "GFED")
    x_BCHW, source_B, target_B = images(golden, "x_u8"), *map(golden.tensor, ("y_src", "y_trg"))

    statistics = []

    def note(module, inputs, map_BCHW):
        size = map_BCHW.shape[1:3]
        statistics.append([*size, map_BCHW.mean(), map_BCHW.std(), map_BCHW.abs().max()])

    with torch.no_grad():
        style_BS, encoded_BS = F(golden.tensor("z"), target_B), E(x_BCHW, source_B)
        for block in (G.from_rgb, *G.encode, *G.decode):
            block.register_forward_hook(note)
        fake_BCHW = G(x_BCHW, style_BS)
        actual = {
            "s_map": style_BS,
            "s_map_all": F.all_domains(golden.tensor("z")),
            "s_enc": encoded_BS,
            "s_enc_all": E.all_domains(x_BCHW),
            "d_src": D(x_BCHW, source_B),
            "d_all": D.all_domains(x_BCHW),
            "d_fake": D(fake_BCHW, target_B),
            "x_fake_map_s": fake_BCHW[..., 1::4, 2::4],
            "g_stats": torch.tensor(statistics, dtype=torch.float64),
        }
        dressed_BCHW = G(x_BCHW, encoded_BS)
        means, deviations = dressed_BCHW.mean(dim=(1, 2, 3)), dressed_BCHW.std(dim=(1, 2, 3))
        actual["x_fake_enc_stats"] = torch.stack([means, deviations])
    assert set(golden.arrays("out")) == set(actual)
    for name, value in actual.items():
        stored = golden[f"out/{name}"]
        close = ARRAY if stored.dtype == "float32" else SCALAR
        torch.testing.assert_close(value, golden.tensor(f"out/{name}"), **close, msg=name)
