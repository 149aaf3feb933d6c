"""Parameters and MACs of OMGD's students, teachers and discriminators: exact."""

from __future__ import annotations

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

from goldens.fixtures import Golden, golden_files
from patchkin.compression.cost import configuration_cost, network_cost
from patchkin.networks import (
    PatchGAN,
    PatchGANConfig,
    ResNetConfig,
    ResNetGenerator,
    SeparableGenerator,
    UNet,
    UNetConfig,
)
from patchkin.networks.deeper import DeeperGenerator, deeper_unet
from patchkin.networks.shared_patchgan import SharedPatchGAN

PLAIN = {"antialias_down": False, "antialias_up": False}
GENERATORS = {
    "mobile_resnet_9blocks": lambda ngf, norm: SeparableGenerator((ngf,) * 8, norm=norm),
    "mobile_deepest_resnet": lambda ngf, norm: DeeperGenerator(ngf, norm=norm),
    "unet_256": lambda ngf, norm: UNet(UNetConfig(ngf=ngf, norm=norm, dropout=False)),
    "unet_deepest_256": lambda ngf, norm: deeper_unet(
        UNetConfig(ngf=ngf, norm=norm, dropout=False)
    ),
    "resnet_9blocks": lambda ngf, norm: ResNetGenerator(ResNetConfig(ngf=ngf, norm=norm, **PLAIN)),
}


def parameters(network):
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize("path", golden_files("omgd_counts"))
def test_generators(path):
    golden = Golden(path)
    rows = zip(*(golden[name] for name in ("kind", "ngf", "norm", "size")), strict=True)
    for row, (kind, ngf, norm, size) in enumerate(rows):
        height, width = map(int, size)
        with FakeTensorMode():
            network = GENERATORS[str(kind)](int(ngf), str(norm)).eval()
            cost = network_cost(network, height=height, width=width)
        expected = int(golden["params"][row]), int(golden["macs"][row])
        assert (cost.parameters, cost.macs) == expected, (kind, ngf, norm)
        if kind == "mobile_resnet_9blocks" and norm == "instance":
            closed = configuration_cost((int(ngf),) * 8, height=height, width=width)
            assert (closed.parameters, closed.macs) == expected


@pytest.mark.parametrize("path", golden_files("omgd_counts"))
def test_discriminators(path):
    golden = Golden(path)
    names = ("d_kind", "d_inputs", "d_ndf", "d_norm", "d_shared")
    for row, (kind, inputs, ndf, norm, shared) in enumerate(
        zip(*(golden[name] for name in names), strict=True)
    ):
        config = PatchGANConfig(
            in_channels=int(inputs), ndf=int(ndf), norm=str(norm), antialias=False
        )
        with FakeTensorMode():
            plain = PatchGAN(config)
            two = SharedPatchGAN(config, int(shared))
        used, branches = (two, 2) if kind == "multi_n_layers" else (plain, 1)
        assert parameters(used) == golden["d_params_used"][row]
        # Released, two whole branches are stored, whatever of them is used.
        assert branches * parameters(plain) == golden["d_params"][row]
