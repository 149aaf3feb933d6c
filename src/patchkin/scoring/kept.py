"""Translations of held-out images in a folder, so that an evaluation can be resumed and shared.

    FOLDER/translations/MODEL/SIZE/NAME-INPUT.png

MODEL is a hash of the weights and of everything else that the pixels depend on but the device,
INPUT one of the input file. A file is written whole or not at all, by whatever process comes to it.

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from patchkin.config import to_plain
from patchkin.data.datasets import finished, transformable
from patchkin.data.download import file_sha256
from patchkin.data.transforms import resized
from patchkin.errors import DataError
from patchkin.images import Encoding, ValueRange, default_suffix, read_image, write_image
from patchkin.images.pages import file_of
from patchkin.sides import Sides, height_width
from patchkin.storage.locks import alone_at
from patchkin.translation.translator import Translator


class KeptTranslations:
    """A translator of files that keeps what it has done.

    Args:
        translator: does what is not there.
        folder: where it is kept; several processes and several models may share it.
    """

    def __init__(self, translator: Translator, folder: Path) -> None:
        self.translator = translator
        self._folder = folder / "translations" / _model_key(translator)
        self._encoding = Encoding(8, translator.channels[1])

    def files(self, inputs: Sequence[Path], size: Sides | None) -> list[Path]:
        """Where the translations of images at a size are or will be, in their order.

        Raises:
            DataError: an input cannot be read.
        """
        of_size = "own" if size is None else str(size)
        if isinstance(size, tuple):
            of_size = f"{size[0]}x{size[1]}"
        folder = self._folder / of_size
        suffix = default_suffix(self._encoding)
        return [folder / f"{path.stem}-{_content_key(path)}{suffix}" for path in inputs]

    def fill(self, inputs: Sequence[Path], size: Sides | None, *, shared: bool = False) -> int:
        """Translate what is not there; returns how many that were.

        Args:
            inputs: the images.
            size: as `files`.
            shared: whether other processes translate other images now. If not, one that is at the
                same work is waited for.

        Raises:
            DataError: an input cannot be read, or its translation holds NaN or infinity.
            StorageError: a file cannot be written.
        """
        jobs = list(zip(inputs, self.files(inputs, size), strict=True))
        if shared or all(target.is_file() for _, target in jobs):
            return self._translate(jobs, size)
        with alone_at(self._folder, f"translates into `{self._folder}`"):
            return self._translate(jobs, size)

    def _translate(self, jobs: Sequence[tuple[Path, Path]], size: Sides | None) -> int:
        missing = [(path, target) for path, target in jobs if not target.is_file()]
        for path, target in missing:
            _, output_CHW = translation(self.translator, path, size=size)
            write_image(target, output_CHW, self._encoding)
        return len(missing)


def translation(translator: Translator, path: Path, *, size: Sides | None) -> tuple[Tensor, Tensor]:
    """An image at a size and its translation, [C, H, W] on the CPU.

    Raises:
        DataError: the image cannot be read, or its translation holds NaN or infinity.
    """
    input_CHW = load_at(
        path, translator.channels[0], size=size, value_range=translator.value_ranges[0]
    )
    output_CHW = translator(input_CHW[None])[0].cpu()
    if not output_CHW.isfinite().all():
        raise DataError(f"The translation of `{path}` holds NaN or infinity.")
    return input_CHW, output_CHW


def load_at(
    path: Path, channels: int, *, size: Sides | None, value_range: ValueRange | None
) -> Tensor:
    """An image as it is scored, [C, H, W] in [-1, 1].

    Args:
        path: the file.
        channels: of the image.
        size: that it is brought to; None: as it is.
        value_range: what becomes -1 and 1 in 16-bit and float files, see `images.to_tensor`.

    Raises:
        DataError: it cannot be read.
    """
    pixels = transformable(read_image(path, channels), value_range)
    if size is None:
        return finished(pixels)
    height, width = height_width(size)
    return finished(resized(pixels, width, height))


def _model_key(translator: Translator) -> str:
    method = translator.method
    plain = [method.name, to_plain(method.config), translator.direction, str(translator.dtype)]
    plain += [list(translator.value_ranges)] if any(translator.value_ranges) else []
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode())
    networks = {name: method.get_submodule(name) for name in method.translating}
    for name, network in sorted(networks.items()):
        for key, tensor in sorted(network.state_dict().items()):
            digest.update(f"{name}.{key}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _content_key(path: Path) -> str:
    try:
        return file_sha256(file_of(path))[:16]
    except OSError as error:
        raise DataError(f"Cannot read `{path}`: {error.strerror or error}.") from error
