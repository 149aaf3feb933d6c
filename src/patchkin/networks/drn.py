"""Dilated residual networks for segmentation: Yu, Koltun and Funkhouser, CVPR 2017.

The judges of label-to-photo translation: DRN-D-22 in the semantic-relation and CUT papers' tables,
DRN-D-105 in GAN Compression's. Only their form is here; the weights trained on Cityscapes are
other people's files, read by `read_drn`.

Names of the weights are those of the released files: `base.{0..8}`, `seg`, `up`.
Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from patchkin.errors import CheckpointError, ConfigError, ShapeError, nearest
from patchkin.storage.outlines import outline
from patchkin.storage.pickled import is_whole, read_pickled

DRNName: TypeAlias = Literal["drn-d-22", "drn-d-105"]

STRIDE = 8
"""Image pixels per place of the last map; the head enlarges by as much."""
CITYSCAPES_CLASSES = 19
INPUT_MEAN = (0.29010095242892997, 0.32808144844279574, 0.28696394422942517)
"""Of Cityscapes photographs in [0, 1] (fyu/drn, datasets/cityscapes/info.json)."""
INPUT_DEVIATION = (0.1829540508368939, 0.18656561047509476, 0.18447508988480435)

_WIDTHS = (16, 32, 64, 128, 256, 512, 512, 512)
"""Of layers 1 to 8."""
_BLOCKS: dict[str, tuple[int, int, int, int]] = {
    "drn-d-22": (2, 2, 2, 2),
    "drn-d-105": (3, 4, 23, 3),
}
"""In layers 3 to 6."""


def _normalized(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, dilation: int = 1
) -> list[nn.Module]:
    """A convolution that keeps the size up to its stride, and its batch norm."""
    padding = dilation * (kernel // 2)
    return [
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(out_channels),
    ]


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut (DRN-D-22)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, *, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _normalized(in_channels, width, 3, stride=stride, dilation=dilation)
        self.conv2, self.bn2 = _normalized(width, width, 3, dilation=dilation)
        self.downsample = _shortcut(in_channels, width, stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """ReLU of the shortcut and the two convolutions."""
        y_BCHW = nnf.relu(self.bn1(self.conv1(x_BCHW)))
        return nnf.relu(self.downsample(x_BCHW) + self.bn2(self.conv2(y_BCHW)))


class Bottleneck(nn.Module):
    """A dilated convolution between two pointwise ones, and a shortcut (DRN-D-105)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, *, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _normalized(in_channels, width, 1)
        self.conv2, self.bn2 = _normalized(width, width, 3, stride=stride, dilation=dilation)
        self.conv3, self.bn3 = _normalized(width, 4 * width, 1)
        self.downsample = _shortcut(in_channels, 4 * width, stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """ReLU of the shortcut and the three convolutions."""
        y_BCHW = nnf.relu(self.bn1(self.conv1(x_BCHW)))
        y_BCHW = nnf.relu(self.bn2(self.conv2(y_BCHW)))
        return nnf.relu(self.downsample(x_BCHW) + self.bn3(self.conv3(y_BCHW)))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """The identity (an empty sequence has no weights), or a pointwise convolution."""
    if stride == 1 and in_channels == out_channels:
        return nn.Sequential()
    return nn.Sequential(*_normalized(in_channels, out_channels, 1, stride=stride))


def _stage(
    block: type[BasicBlock | Bottleneck],
    in_channels: int,
    width: int,
    count: int,
    *,
    stride: int,
    dilation: int,
) -> nn.Sequential:
    blocks = [block(in_channels, width, stride=stride, dilation=dilation)]
    for _ in range(count - 1):
        blocks.append(block(width * block.expansion, width, stride=1, dilation=dilation))
    return nn.Sequential(*blocks)


class DRN(nn.Module):
    """A segmentation network: log-probabilities of the classes at every pixel.

    >>> network = DRN("drn-d-22").eval()
    >>> with torch.no_grad():
    ...     log_probs_BCHW = network(torch.zeros(1, 3, 16, 20))
    >>> log_probs_BCHW.shape
    torch.Size([1, 19, 16, 20])
    """

    mean_C11: Tensor
    deviation_C11: Tensor

    def __init__(self, name: DRNName, *, num_classes: int = CITYSCAPES_CLASSES) -> None:
        super().__init__()
        if name not in _BLOCKS:
            raise ConfigError(f"Unknown segmentation network `{name}`. {nearest(name, _BLOCKS)}")
        self.name = name
        block = BasicBlock if name == "drn-d-22" else Bottleneck
        self.base = nn.Sequential(*_layers(block, _BLOCKS[name]))
        self.seg = nn.Conv2d(_WIDTHS[-1], num_classes, 1)
        self.up = nn.ConvTranspose2d(
            num_classes,
            num_classes,
            2 * STRIDE,
            STRIDE,
            padding=STRIDE // 2,
            groups=num_classes,
            bias=False,
        )
        with torch.no_grad():
            self.up.weight.copy_(bilinear_kernel(STRIDE))
        self.up.requires_grad_(False)
        for buffer, values in (("mean_C11", INPUT_MEAN), ("deviation_C11", INPUT_DEVIATION)):
            value = torch.tensor(values).view(3, 1, 1)
            self.register_buffer(buffer, value, persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Classify every pixel.

        Args:
            x_BCHW: photographs in [-1, 1], of any size.

        Returns:
            Natural logarithms of the classes' probabilities, [B, classes, H, W]. Sides that are no
            multiples of 8 are computed on the next multiple and cropped.

        Raises:
            ShapeError: if there are other than three channels.
        """
        if x_BCHW.ndim != 4 or x_BCHW.shape[1] != 3:
            raise ShapeError(
                "`x_BCHW` must be [B, 3, H, W] for the segmentation network; "
                f"got {tuple(x_BCHW.shape)}."
            )
        height, width = x_BCHW.shape[2:]
        photo_BCHW = ((x_BCHW + 1) / 2 - self.mean_C11) / self.deviation_C11
        logits_BCHW = self.up(self.seg(self.base(photo_BCHW)))
        return nnf.log_softmax(logits_BCHW[..., :height, :width], dim=1)


def _layers(
    block: type[BasicBlock | Bottleneck], counts: tuple[int, int, int, int]
) -> Iterator[nn.Module]:
    """Layers 0 to 8: three times halved, then dilated instead."""

    def plain(in_channels: int, out_channels: int, kernel: int, **options: int) -> nn.Sequential:
        convolution = _normalized(in_channels, out_channels, kernel, **options)
        return nn.Sequential(*convolution, nn.ReLU())

    yield plain(3, _WIDTHS[0], 7)
    yield plain(_WIDTHS[0], _WIDTHS[0], 3)
    yield plain(_WIDTHS[0], _WIDTHS[1], 3, stride=2)
    channels = _WIDTHS[1]
    for width, count, stride, dilation in zip(
        _WIDTHS[2:6], counts, (2, 2, 1, 1), (1, 1, 2, 4), strict=True
    ):
        yield _stage(block, channels, width, count, stride=stride, dilation=dilation)
        channels = width * block.expansion
    yield plain(channels, _WIDTHS[6], 3, dilation=2)
    yield plain(_WIDTHS[6], _WIDTHS[7], 3)


def bilinear_kernel(factor: int) -> Tensor:
    """The kernel of a transposed convolution that enlarges by an even `factor`, bilinearly.

    >>> bilinear_kernel(2)[0]
    tensor([0.0625, 0.1875, 0.1875, 0.0625])
    """
    center = (2 * factor - 1) / (2 * factor)
    profile = 1 - (torch.arange(2.0 * factor) / factor - center).abs()
    return torch.outer(profile, profile)


def read_drn(path: str | Path, name: DRNName) -> DRN:
    """A segmentation network with the weights of a file, in evaluation mode.

    Args:
        path: `.pth` (tensors by name) or `.tar` (a training checkpoint with `state_dict`), with or
            without the prefix `module.`. Only tensors are read; nothing in the file is executed.
        name: which network the file is for.

    Raises:
        CheckpointError: if the file cannot be read, holds more than tensors, or is for another
            network. One line.
    """
    path = Path(path)
    tensors = _released_tensors(path)
    last = tensors.get("seg.weight")
    classes = CITYSCAPES_CLASSES if last is None or not last.dim() else last.shape[0]
    expected = outline(partial(DRN, name, num_classes=classes), source=f"`{path}`").state_dict()
    for key in expected.keys() - tensors.keys():
        if key.endswith(".num_batches_tracked"):  # files from before PyTorch 0.4.1 have none
            tensors[key] = torch.zeros((), dtype=torch.int64)
    problems = [
        f"{len(keys)} {kind} (first: {min(keys)})"
        for kind, keys in (
            ("missing", expected.keys() - tensors.keys()),
            ("unexpected", tensors.keys() - expected.keys()),
            (
                "of another shape",
                {k for k, t in expected.items() if k in tensors and tensors[k].shape != t.shape},
            ),
        )
        if keys
    ]
    if problems:
        raise CheckpointError(f"`{path}` does not fit {name}: tensors {', '.join(problems)}.")
    network = DRN(name, num_classes=classes)
    network.load_state_dict(tensors)
    return network.eval()


def _released_tensors(path: Path) -> dict[str, Tensor]:
    content: Any = read_pickled(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) and is_whole(tensor)
        for key, tensor in content.items()
    ):
        raise CheckpointError(f"`{path}` holds no tensors by name, so it is no network's weights.")
    return {key.removeprefix("module."): tensor for key, tensor in content.items()}
