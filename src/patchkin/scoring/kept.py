"""Translations of held-out images in a folder, so that an evaluation can be resumed and shared.

    FOLDER/translations/MODEL/SIZE/NAME-INPUT.png

MODEL is a hash of the weights and of everything else that the pixels depend on but the device,
INPUT one of the input file. A file is written whole or not at all, by whatever process comes to it.

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from patchkin.config import to_plain
from patchkin.errors import DataError
from patchkin.images import Encoding, default_suffix, write_image
from patchkin.images.pages import file_of
from patchkin.scoring.reading import Half, Read, load_at
from patchkin.sides import Sides
from patchkin.storage.hashes import file_sha256
from patchkin.storage.locks import alone_at
from patchkin.translation.translator import Translator


class KeptTranslations:
    """A translator of files that keeps what it has done.

    Args:
        translator: does what is not there.
        folder: where it is kept; several processes and several models may share it.
        read: how a file becomes an image.
        batch_size: images of one size translated at once.
    """

    def __init__(
        self, translator: Translator, folder: Path, *, read: Read = load_at, batch_size: int = 1
    ) -> None:
        self.translator = translator
        self.read = read
        self._batch_size = batch_size
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
        if isinstance(self.read, Half):
            of_size += f"-{self.read.side}"
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
        translated = translations(
            self.translator,
            [path for path, _ in missing],
            size=size,
            read=self.read,
            batch_size=self._batch_size,
        )
        for (_, target), (_, _, output_CHW) in zip(missing, translated, strict=True):
            write_image(target, output_CHW, self._encoding)
        return len(missing)


def translations(
    translator: Translator,
    paths: Iterable[Path],
    *,
    size: Sides | None,
    read: Read = load_at,
    batch_size: int = 1,
) -> Iterator[tuple[Path, Tensor, Tensor]]:
    """Images at a size and their translations, [C, H, W] on the CPU, one after another.

    Args:
        translator: the model.
        paths: of the images.
        size: that they are brought to; None: as they are.
        read: how a file becomes an image.
        batch_size: images of one size translated at once.

    Raises:
        DataError: an image cannot be read, or its translation holds NaN or infinity.
    """
    waiting: list[tuple[Path, Tensor]] = []
    for path in paths:
        input_CHW = read(
            path, translator.channels[0], size=size, value_range=translator.value_ranges[0]
        )
        if waiting and waiting[0][1].shape != input_CHW.shape:
            yield from _translated(translator, waiting)
            waiting = []
        waiting.append((path, input_CHW))
        if len(waiting) == batch_size:
            yield from _translated(translator, waiting)
            waiting = []
    if waiting:
        yield from _translated(translator, waiting)


def _translated(
    translator: Translator, batch: Sequence[tuple[Path, Tensor]]
) -> Iterator[tuple[Path, Tensor, Tensor]]:
    outputs_BCHW = translator(torch.stack([image_CHW for _, image_CHW in batch])).cpu()
    for (path, input_CHW), output_CHW in zip(batch, outputs_BCHW, strict=True):
        if not output_CHW.isfinite().all():
            raise DataError(f"The translation of `{path}` holds NaN or infinity.")
        yield path, input_CHW, output_CHW


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
