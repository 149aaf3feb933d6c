"""Published network weights: fetched once and checked by hash, read without executing anything."""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from patchkin.data.download import ProgressBar, download
from patchkin.data.folders import cache_folder
from patchkin.errors import CheckpointError, DownloadError
from patchkin.storage.hashes import file_sha256
from patchkin.storage.pickled import EXPECTED, read_pickled
from patchkin.storage.tensor_files import open_tensors


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedWeights:
    """A file that its authors publish."""

    urls: tuple[str, ...]
    """Mirrors of one content, tried in order; the last part of the first names the file."""
    sha256: str
    """In full, or its beginning: torch.hub and torchvision record 8 digits, in the file name."""

    @property
    def file_name(self) -> str:
        """In the cache."""
        return Path(urllib.parse.urlsplit(self.urls[0]).path).name


_TORCHVISION = "https://download.pytorch.org/models"

INCEPTION_2015 = PublishedWeights(
    urls=(
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
    ),
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
"""TensorFlow's Inception of 2015-12-05, with which FID was defined. torch-fidelity and pytorch-fid
publish the same file."""
INCEPTION_TORCHVISION = PublishedWeights(
    urls=(f"{_TORCHVISION}/inception_v3_google-0cc3c7bd.pth",), sha256="0cc3c7bd"
)
SQUEEZENET = PublishedWeights(
    urls=(f"{_TORCHVISION}/squeezenet1_1-b8a52dc0.pth",), sha256="b8a52dc0"
)
ALEXNET = PublishedWeights(urls=(f"{_TORCHVISION}/alexnet-owt-7be5be79.pth",), sha256="7be5be79")
VGG16 = PublishedWeights(urls=(f"{_TORCHVISION}/vgg16-397923af.pth",), sha256="397923af")


def fetch(published: PublishedWeights, *, option: str, progress: ProgressBar | None = None) -> Path:
    """The file in the cache folder, downloaded on first use.

    Args:
        published: which.
        option: of the command line that takes a copy of it instead.
        progress: for a progress bar.

    Raises:
        DownloadError: if it cannot be fetched or has another hash. One line that says what to do.
    """
    target = cache_folder() / "weights" / published.file_name
    is_whole = len(published.sha256) == 64
    found = download(
        published.urls,
        target,
        sha256=published.sha256 if is_whole else None,
        progress=progress,
        remedy=f"give a copy with {option} FILE",
    )
    if not found.startswith(published.sha256):
        target.unlink()
        raise DownloadError(
            f"`{published.file_name}` has sha256 {found}, expected {published.sha256}...; it was "
            f"removed. Try again, or give a copy with {option} FILE."
        )
    return target


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file, on the CPU, and the sha256 of the file.

    Only tensors are read, from safetensors or by `weights_only`: nothing in the file is executed.

    Raises:
        CheckpointError: if the file is missing, damaged, or holds anything but named tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"The weights `{path}` do not exist.")
    if path.suffix == ".safetensors":
        with open_tensors(path, as_what="weights", advice=EXPECTED) as file:
            tensors = {name: file.read(name) for name in file.outlines}
    else:
        tensors = read_pickled(path)
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise CheckpointError(f"`{path}` holds more than named tensors; expected a state dict.")
    return dict(tensors), file_sha256(path)


@contextlib.contextmanager
def loading(path: Path, network: str) -> Iterator[None]:
    """Turns what `load_state_dict` says about tensors that do not fit into one line."""
    try:
        yield
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        detail = (lines[1] if len(lines) > 1 else lines[0]).rstrip(". ")
        raise CheckpointError(f"`{path}` does not fit {network}: {detail[:200]}.") from error
