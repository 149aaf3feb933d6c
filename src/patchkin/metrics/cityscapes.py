"""The classes and label colours of Cityscapes (Cordts et al., CVPR 2016), and weights of judges.

A class is a number 0 to 18 ("trainId"). What is no class is `IGNORED` in pictures of colours, where
black stands for it, and `TRAIN_ID_IGNORED` in the label files of the data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from patchkin.data.download import ProgressBar, download
from patchkin.errors import DownloadError
from patchkin.networks.drn import DRNName

_COLOURS: dict[str, tuple[int, int, int]] = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
CLASSES = tuple(_COLOURS)
"""Names of the classes 0 to 18."""
IGNORED = len(CLASSES)
"""The number that black pixels get."""
TRAIN_ID_IGNORED = 255
"""The number of ignored pixels in the data set's own label files."""


def palette() -> Tensor:
    """The colours of the classes, then black: uint8 [20, 3], red first.

    >>> palette()[CLASSES.index("car")].tolist(), palette()[IGNORED].tolist()
    ([0, 0, 142], [0, 0, 0])
    """
    return torch.tensor([*_COLOURS.values(), (0, 0, 0)], dtype=torch.uint8)


@dataclass(frozen=True, slots=True)
class JudgeWeights:
    """Where the weights of a segmentation network trained on Cityscapes are published."""

    urls: tuple[str, ...]
    """Tried in order."""
    sha256: str | None = None
    """Of the file; None: we have never had the file, and so cannot vouch for any."""


JUDGES: dict[DRNName, JudgeWeights] = {
    "drn-d-22": JudgeWeights(("http://dl.yf.io/drn/drn-d-22_ms_cityscapes.pth",)),
    "drn-d-105": JudgeWeights(("http://dl.yf.io/drn/drn-d-105_ms_cityscapes.pth",)),
}
"""The server has been reported as not answering since 2022 (fyu/drn issue 45). A file that comes
without a known hash is trusted as it is, and `fetch_judge` returns its hash, to be written down
with the scores."""


def fetch_judge(
    name: DRNName,
    folder: Path,
    *,
    mirrors: tuple[str, ...] = (),
    judges: dict[DRNName, JudgeWeights] = JUDGES,
    progress: ProgressBar | None = None,
) -> tuple[Path, str]:
    """Weights of a segmentation network, downloaded unless they are in `folder` already.

    Args:
        name: of the network.
        folder: where weights are kept; a file put there by hand under its published name is taken.
        mirrors: tried before the published address.
        judges: for tests.
        progress: for a progress bar.

    Returns:
        The file, and its sha256.

    Raises:
        DownloadError: if no address gives the file, or it is not the expected one.
        StorageError: if it cannot be written.
    """
    entry = judges[name]
    target = folder / entry.urls[0].rsplit("/", 1)[-1]
    try:
        return target, download(
            [*mirrors, *entry.urls],
            target,
            sha256=entry.sha256,
            progress=progress,
            remedy="give a copy with --judge-weights FILE",
        )
    except DownloadError as error:
        raise DownloadError(
            f"{error} The publisher's server has been reported down since 2022 (fyu/drn issue 45)."
        ) from error
