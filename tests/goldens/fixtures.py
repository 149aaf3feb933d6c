"""Reads the numeric fixtures ("goldens"): files that pin the released methods' numbers.

The folder is `PATCHKIN_GOLDENS`, or `shared/goldens` beside the repository. Without it the golden
tests skip. Every file of a schema is a test of its own; a file that is there but cannot be
understood fails. Nothing that a file contains is written down in a test.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from patchkin.networks import (
    InstanceNorm2d,
    PatchGAN,
    PatchGANConfig,
    PixelDiscriminator,
    ProjectionHead,
    ResNetConfig,
    ResNetGenerator,
)

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDENS = Path(os.environ.get("PATCHKIN_GOLDENS") or REPOSITORY.parent / "shared" / "goldens")

SCHEMAS = (
    "compression_distill_aligned",
    "compression_distill_unaligned",
    "compression_macs",
    "compression_supernet",
    "compression_transfer",
    "contrastive_relatives",
    "cut_ganloss",
    "cut_patchgan",
    "cut_patchnce",
    "cut_patchsamplef",
    "cut_preprocess",
    "cut_resnet_aa",
    "cut_resnet_noaa",
    "cut_step_cut",
    "cut_step_cyclegan",
    "cut_step_fastcut",
    "cut_step_pix2pix",
    "cut_step_sincut",
    "cut_stylegan2",
    "dclgan_step1",
    "dclgan_steps3",
    "distancegan_pairs",
    "distancegan_self",
    "enco_dag",
    "enco_loss",
    "enco_schedule",
    "enco_step",
    "enco_train",
    "gcgan_losses",
    "gcgan_step",
    "lpips_diversity",
    "lsesim",
    "monce_loss",
    "monce_weights",
    "munit_step",
    "negcut_losses",
    "negcut_step",
    "omgd_counts",
    "omgd_dcd",
    "omgd_losses",
    "omgd_step_paired",
    "omgd_step_unpaired",
    "patchgcl_generator",
    "patchgcl_graph",
    "patchgcl_loss",
    "qsattn_generator",
    "qsattn_loss",
    "qsattn_select",
    "semrel_batched",
    "semrel_compression_loss",
    "semrel_compression_step",
    "semrel_hdce",
    "semrel_multimodal_g_loss",
    "semrel_multimodal_loss",
    "semrel_paper_form",
    "semrel_seg_metrics",
    "semrel_similarity_map",
    "semrel_single_step1",
    "semrel_single_step3",
    "semrel_src",
    "simdcl_similarity",
    "simdcl_step1",
    "simdcl_steps3",
    "stargan_v2_hneg",
    "stargan_v2_nets",
    "stargan_v2_step",
    "travelgan_losses",
)
"""A file belongs to the longest of these that its name begins with."""

NOT_YET_READ: tuple[str, ...] = ()
"""Schemas of methods that are not here yet. All others have a reader, which a test looks after."""


def schema_of(path: Path) -> str | None:
    """The schema whose name the file's name begins with, the longest if several do."""
    fitting = [schema for schema in SCHEMAS if path.stem.startswith(schema)]
    return max(fitting, key=len, default=None)


def unread_files() -> list[str]:
    """What the test summary says of files that no test reads, a line each; none if all are read.

    A file whose name begins with no schema would otherwise be passed over in silence.
    """
    lines = []
    for path in sorted(GOLDENS.glob("*.npz")):
        schema = schema_of(path)
        if schema is None:
            lines.append(f"{path.name}: of no schema; add its stem to SCHEMAS and read it")
        elif schema in NOT_YET_READ:
            lines.append(f"{path.name}: of a schema that no test reads yet")
    return lines


def golden_files(*stems: str) -> list[Any]:
    """One `pytest.param` per file, for `pytest.mark.parametrize("path", ...)`.

    Args:
        stems: schemas, or beginnings that several schemas share (`semrel_single_step`).

    Returns:
        Every file of these schemas with its name as id. For a stem without files (or without the
        folder) a parameter that is skipped with the reason.
    """
    params = []
    for stem in stems:
        schemas = {stem} if stem in SCHEMAS else {s for s in SCHEMAS if s.startswith(stem)}
        assert schemas, f"no schema begins with {stem}; add it to SCHEMAS"
        paths = [path for path in sorted(GOLDENS.glob("*.npz")) if schema_of(path) in schemas]
        params += [pytest.param(path, id=path.name) for path in paths] or [_skipped(stem)]
    return params


def _skipped(stem: str) -> Any:
    reason = f"no file {stem}*.npz in {GOLDENS}; PATCHKIN_GOLDENS names another folder"
    return pytest.param(None, id=stem, marks=pytest.mark.skip(reason=reason))


class Golden(Mapping[str, np.ndarray]):
    """The arrays of a file, and its options in any of their four forms."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with np.load(path, allow_pickle=False) as archive:
            self._arrays = {name: archive[name] for name in archive.files}
        self.options = _options(self._arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            raise KeyError(f"{self.path.name} has no array `{name}`")
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def tensor(self, name: str, dtype: torch.dtype = torch.float64) -> Tensor:
        """An array as a tensor: whole numbers as int64, all others in `dtype`."""
        return as_tensor(self[name], dtype)

    def number(self, name: str) -> float:
        """A scalar array as a number."""
        return float(self[name].item())

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """All arrays under `prefix`/, which is cut off their names."""
        prefix = prefix.rstrip("/") + "/"
        return {
            name.removeprefix(prefix): array
            for name, array in self._arrays.items()
            if name.startswith(prefix)
        }

    def tensors(self, prefix: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """`arrays` as tensors."""
        return {name: as_tensor(array, dtype) for name, array in self.arrays(prefix).items()}

    def children(self, prefix: str = "") -> list[str]:
        """The names that follow `prefix`/ directly, without repetition, in the file's order."""
        names = self.arrays(prefix) if prefix else self._arrays
        return list(dict.fromkeys(name.split("/")[0] for name in names))

    def state_dict(self, prefix: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """Weights under `prefix`/ by their reference names, without the constant blur filters."""
        weights = {
            name: tensor
            for name, tensor in self.tensors(prefix, dtype).items()
            if not name.endswith((".filt", ".kernel"))
        }
        assert weights, f"{self.path.name} has no weights under `{prefix}/`"
        return weights


def as_tensor(array: np.ndarray, dtype: torch.dtype = torch.float64) -> Tensor:
    """Whole numbers as int64, truth values as they are, all others in `dtype`."""
    tensor = torch.from_numpy(np.array(array))
    if tensor.dtype is torch.bool:
        return tensor
    return tensor.to(dtype if tensor.is_floating_point() else torch.int64)


def _options(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    if "meta/options" in arrays:
        return dict(json.loads(arrays["meta/options"].item()))
    if "options" in arrays and arrays["options"].ndim == 0:
        return dict(json.loads(arrays["options"].item()))
    if "options" in arrays:
        pairs = (str(entry).split("=", 1) for entry in arrays["options"])
        return {name: _parsed(value) for name, value in pairs}
    return {
        name.removeprefix("opt/"): array.item() if array.ndim == 0 else array.tolist()
        for name, array in arrays.items()
        if name.startswith("opt/")
    }


def _parsed(value: str) -> Any:
    """The value of `name=value`: a number, a truth value, a list of numbers, or text."""
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    for number in (int, float):
        try:
            parts = [number(part) for part in value.split(",")]
        except ValueError:
            continue
        return parts if "," in value else parts[0]
    return value


# Networks from the weights of a file. Everything is read from names and shapes.


def generator_from(weights: Mapping[str, Tensor]) -> ResNetGenerator:
    """A ResNet generator with these weights, in their precision."""
    blocks = sorted({int(name.split(".")[1]) for name in weights if ".conv_block." in name})
    plain = sorted({int(name.split(".")[1]) for name in weights} - set(blocks))
    first, last = weights["model.1.weight"], weights[f"model.{plain[-1]}.weight"]
    behind = min(index for index in plain if index > blocks[-1])
    block = {name.split("conv_block.")[1] for name in weights if f".{blocks[0]}.conv_block" in name}
    config = ResNetConfig(
        in_channels=first.shape[1],
        out_channels=last.shape[0],
        ngf=first.shape[0],
        blocks=len(blocks),
        norm=_norm(has_bias="1.bias" in block, has_scale="2.weight" in block),
        antialias_down=blocks[0] == 12,
        antialias_up=behind == blocks[-1] + 2,
        dropout="6.weight" in block and "5.weight" not in block,
    )
    return _loaded(ResNetGenerator(config), weights)


def discriminator_from(weights: Mapping[str, Tensor]) -> PatchGAN | PixelDiscriminator:
    """A PatchGAN, or a pixel discriminator, with these weights, in their precision."""
    if any(name.startswith("net.") for name in weights):
        first = weights["net.0.weight"]
        config = PatchGANConfig(
            kind="pixel",
            in_channels=first.shape[1],
            ndf=first.shape[0],
            norm=_norm(has_bias="net.2.bias" in weights, has_scale="net.3.weight" in weights),
        )
        return _loaded(PixelDiscriminator(config), weights)
    first = weights["model.0.weight"]
    convolutions = sorted(
        int(name.split(".")[1])
        for name, weight in weights.items()
        if name.endswith(".weight") and weight.ndim == 4
    )
    second = convolutions[1]
    config = PatchGANConfig(
        in_channels=first.shape[1],
        ndf=first.shape[0],
        layers=len(convolutions) - 2,
        antialias=second == 3,
        norm=_norm(
            has_bias=f"model.{second}.bias" in weights,
            has_scale=f"model.{second + 1}.weight" in weights,
        ),
    )
    return _loaded(PatchGAN(config), weights)


def head_from(weights: Mapping[str, Tensor]) -> ProjectionHead:
    """A projection head with these weights, in their precision."""
    count = len({name.split(".")[0] for name in weights})
    firsts = [weights[f"mlp_{tap}.0.weight"] for tap in range(count)]
    head = ProjectionHead([first.shape[1] for first in firsts], width=firsts[0].shape[0])
    return _loaded(head, {own_name(name): weight for name, weight in weights.items()})


def own_name(reference_name: str) -> str:
    """The name of a weight in this package: `mlp_3.0.weight` is `mlps.3.0.weight`."""
    return re.sub(r"^mlp_(\d+)\.", r"mlps.\1.", reference_name)


def _norm(*, has_bias: bool, has_scale: bool) -> Any:
    return "instance" if has_bias else "batch" if has_scale else "none"


def _loaded(network: Any, weights: Mapping[str, Tensor]) -> Any:
    network.to(next(iter(weights.values())).dtype)
    network.load_state_dict(dict(weights))
    return network


def zero_gradient_biases(network: nn.Module, taps: tuple[int, ...] = ()) -> set[str]:
    """Names of the biases that cannot have a gradient: an instance norm follows.

    A tap on the convolution itself reads the bias before the norm removes it. Adam makes steps of
    the rounding noise in such gradients, so comparisons of weights leave them out.

    Args:
        network: a generator or discriminator whose layers stand in sequences.
        taps: layers of the generator's outermost sequence that a loss reads.
    """
    names = set()
    for name, sequence in network.named_modules():
        if not isinstance(sequence, nn.Sequential):
            continue
        outermost = "." not in name
        for index, (layer, behind) in enumerate(itertools.pairwise(sequence)):
            convolves = isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))
            read = outermost and index in taps
            if convolves and isinstance(behind, InstanceNorm2d) and not read:
                names.add(f"{name}.{index}.bias")
    return names


def assert_close_to_maximum(actual: Tensor, expected: Tensor, *, relative: float) -> None:
    """Every entry within `relative` times the largest expected one."""
    floor = relative * expected.abs().max().item()
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=floor)
