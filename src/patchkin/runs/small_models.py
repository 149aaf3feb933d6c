"""Small models out of runs: parts of supernets, and students of online distillation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from patchkin.compression import (
    CompressedResNet,
    CompressedResNetConfig,
    Distillation,
    OnlineDistillation,
)
from patchkin.compression.cost import Cost, configuration_cost, network_cost
from patchkin.config import to_plain
from patchkin.errors import CheckpointError
from patchkin.method import Method
from patchkin.methods.pix2pix import Pix2Pix, Pix2PixConfig
from patchkin.networks import PatchGANConfig, UNet
from patchkin.networks.separable import Channels
from patchkin.runs.fitness import compressed
from patchkin.storage.atomic import new_file
from patchkin.storage.checkpoint import ModelHeader, write_tensors
from patchkin.translation.translator import Translator


def open_student(
    run: Path, *, which: Literal["last", "best"] = "last"
) -> tuple[OnlineDistillation | None, ModelHeader | None]:
    """The student of a run of online distillation; nothing where the run is another.

    Raises:
        CheckpointError: nothing is there.
    """
    translator = Translator.load(run, which=which, device="cpu")
    if not isinstance(translator.method, OnlineDistillation):
        return None, None
    return translator.method.eval(), translator.header


def alone(student: OnlineDistillation) -> Method:
    """A student of online distillation as a model of its own, with its weights.

    A U-Net becomes a model of pix2pix, of which only the generator has its weights.
    """
    in_channels, out_channels = student.channels
    small: Method
    if isinstance(student.G, UNet):
        pairs = PatchGANConfig(in_channels=in_channels + out_channels, ndf=1)
        small = Pix2Pix(Pix2PixConfig(generator=student.G.config, discriminator=pairs))
    else:
        small = CompressedResNet(
            CompressedResNetConfig(
                channels=student.G.channels,
                in_channels=in_channels,
                out_channels=out_channels,
                norm=student.G.norm,
            )
        )
    small.get_submodule("G").load_state_dict(student.G.state_dict())
    return small.to(next(student.G.parameters()).device).eval()


def export(
    supernet: Distillation, header: ModelHeader, channels: Channels, output: Path
) -> tuple[CompressedResNet, Cost]:
    """Write a configuration as a model file; its cost for one image of the training size.

    Raises:
        ConfigError: the configuration is wider than the supernet.
        StorageError: the file cannot be written.
        CheckpointError: what was written does not translate as the supernet does.
    """
    small = compressed(supernet, channels)
    write_small(small, header, output, like=lambda x_BCHW: supernet.G(x_BCHW, channels))
    in_channels, out_channels = small.channels
    cost = configuration_cost(
        small.config.channels,
        height=header.height_width[0],
        width=header.height_width[1],
        in_channels=in_channels,
        out_channels=out_channels,
    )
    return small, cost


def write_small(
    small: Method, header: ModelHeader, output: Path, *, like: Callable[[Tensor], Tensor]
) -> None:
    """Write the generator G of a small model, and see that it translates as its student does.

    Args:
        small: the model; other networks than G do not translate and are left out.
        header: of the run.
        output: the file.
        like: the student.

    Raises:
        StorageError: the file cannot be written.
        CheckpointError: what was written does not translate as the student does.
    """
    metadata = ModelHeader(
        method=small.name,
        config=to_plain(small.config),
        step=header.step,
        size=header.size,
        encoding=header.encoding,
    ).to_metadata()
    weights = {n: tensor for n, tensor in small.state_dict().items() if n.startswith("G.")}
    with new_file(output) as part:
        write_tensors(part, weights, metadata)
    _check_equal(small, output, like)


@torch.no_grad()
def _check_equal(small: Method, output: Path, like: Callable[[Tensor], Tensor]) -> None:
    again = Translator.load(output, device="cpu").method
    generator = torch.Generator().manual_seed(0)
    sides = [small.multiple_of * -(-side // small.multiple_of) for side in (32, 48)]
    x_BCHW = torch.rand(1, small.channels[0], *sides, generator=generator) * 2 - 1
    device = next(small.parameters()).device
    expected_BCHW = like(x_BCHW.to(device)).cpu()
    difference = float((again.translate(x_BCHW) - expected_BCHW).abs().max())
    if not difference <= (1e-6 if device.type == "cpu" else 1e-3):
        raise CheckpointError(
            f"`{output}` does not translate as its student does: they differ by {difference}."
        )


def export_student(
    student: OnlineDistillation, header: ModelHeader, output: Path
) -> tuple[Method, Cost]:
    """`export` of a student of online distillation, which has one configuration.

    Raises:
        StorageError: as `write_small`.
        CheckpointError: as `write_small`.
    """
    small = alone(student)
    write_small(small, header, output, like=student.translate)
    height, width = header.height_width
    in_channels, _ = small.channels
    generator = small.get_submodule("G")
    return small, network_cost(generator, height=height, width=width, in_channels=in_channels)
