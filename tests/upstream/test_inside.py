"""State dicts inside Lightning's checkpoints, DataParallel and models that wrap a network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning_fabric.utilities.data import AttributeDict
from torch import nn

from patchkin.cli import main
from patchkin.errors import CheckpointError
from patchkin.networks import PatchGAN, PatchGANConfig, ResNetConfig, ResNetGenerator
from patchkin.translation.translator import Translator
from patchkin.upstream import Source, import_weights, released_weights
from upstream.conftest import filled

SMALL = ResNetConfig(ngf=2, blocks=2)


def generator() -> nn.Module:
    return filled(ResNetGenerator(SMALL))


def discriminator() -> nn.Module:
    return filled(PatchGAN(PatchGANConfig(ndf=2, layers=1)))


class Released(nn.Module):
    """A module whose tensors have the names of the released code, as in its author's program."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for name, tensor in released_weights(network).items():
            *owners, last = name.split(".")
            owner: nn.Module = self
            for part in owners:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            owner.register_buffer(last, tensor)


class Several(nn.Module):
    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def of_lightning(module: nn.Module, hyper_parameters: Any = None) -> dict[str, Any]:
    """What `Trainer.save_checkpoint` of Lightning 2.6 writes, key by key."""
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(2))])
    progress = {"total": {"ready": 1, "completed": 1}, "current": {"ready": 1, "completed": 1}}
    checkpoint: dict[str, Any] = {
        "epoch": 1,
        "global_step": 1,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": module.state_dict(),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": progress}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(1.0)}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
    }
    if hyper_parameters is not None:
        checkpoint |= {"hparams_name": "kwargs", "hyper_parameters": hyper_parameters}
    return checkpoint


def imported(tmp_path, content: object, role: str = "", name: str = "epoch=1.ckpt"):
    torch.save(content, tmp_path / name)
    text = f"{role}={tmp_path / name}" if role else str(tmp_path / name)
    return import_weights([Source.of(text)])


def check_same(network: nn.Module, model, name: str = "G") -> None:
    tensors = model.tensors()
    for key, tensor in network.state_dict().items():
        assert tensors[f"{name}.{key}"].equal(tensor)


@pytest.mark.parametrize("prefix", ["netG", "model", "generator", "model.net", "ema.module.netG"])
def test_the_generator_of_a_lightning_module(tmp_path, prefix):
    G = generator()
    module: nn.Module = Released(G)
    for part in reversed(prefix.split(".")):
        module = Several(**{part: module})
    model = imported(tmp_path, of_lightning(module, {"lr": 2e-4, "betas": (0.5, 0.999)}))
    assert model.header.method == "cut"
    check_same(G, model)
    assert f"`{prefix}.` cut off the names" in model.networks[0].notes


def test_all_networks_and_what_is_none(tmp_path):
    networks = {"netG_A": generator(), "netG_B": generator(), "netD_A": discriminator()}
    module = Several(
        **{name: nn.DataParallel(Released(network)) for name, network in networks.items()},
        criterion=nn.Sequential(nn.Conv2d(3, 4, 3)),
    )
    model = imported(tmp_path, of_lightning(module))
    assert model.header.method == "cyclegan"
    check_same(networks["netG_A"], model, "G_AB")
    check_same(networks["netG_B"], model, "G_BA")
    left_out = "left out, as no networks that patchkin knows: criterion (2 tensors)"
    assert all(left_out in network.notes for network in model.networks)
    one_way = imported(tmp_path, of_lightning(module), role="G_B")
    assert one_way.header.method == "cut"
    check_same(networks["netG_B"], one_way)
    with pytest.raises(CheckpointError, match=r"holds G_A \(`netG_A.module`\), .* and no F"):
        imported(tmp_path, of_lightning(module), role="F")


def test_data_parallel_alone_translates(tmp_path, capsys):
    G = generator()
    torch.save(nn.DataParallel(Released(G)).state_dict(), tmp_path / "net_G.pth")
    target = tmp_path / "model.safetensors"
    assert main(["import-weights", str(tmp_path / "net_G.pth"), "-o", str(target)]) == 0
    assert "note: `module.` cut off the names" in capsys.readouterr().out
    x_BCHW = torch.rand(1, 3, 16, 20) * 2 - 1
    y_BCHW = Translator.load(target, device="cpu")(x_BCHW)
    torch.testing.assert_close(y_BCHW, G(x_BCHW).detach())


def test_what_it_would_need_is_one_line(tmp_path):
    two = of_lightning(Several(net=Released(generator()), ema=Released(generator())))
    with pytest.raises(CheckpointError) as error:
        imported(tmp_path, two)
    assert "holds two networks that may be G, `net` and `ema`" in str(error.value)
    assert "give the one that is wanted as G=FILE" in str(error.value)
    other = of_lightning(Several(unet=nn.Sequential(nn.Conv2d(3, 4, 3))))
    with pytest.raises(CheckpointError) as error:
        imported(tmp_path, other)
    said = str(error.value)
    assert (
        "holds no network that patchkin knows: 2 tensors, the first of them `unet.0.bias`" in said
    )
    assert "It would need those of a ResNet generator, " in said
    cut = of_lightning(Several(netG=Released(generator())))
    del cut["state_dict"]["netG.model.1.weight"]
    with pytest.raises(CheckpointError, match=r"model\.1\.weight|no network that patchkin knows"):
        imported(tmp_path, cut)
    with pytest.raises(CheckpointError, match=r"Save the state dict alone") as error:
        imported(tmp_path, of_lightning(Released(generator()), AttributeDict(lr=0.1)))
    assert "AttributeDict`); such files can run code" in str(error.value)
    assert "\n" not in str(error.value)
