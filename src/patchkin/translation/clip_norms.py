"""Norms that take their statistics over a clip, not over each frame: less flicker.

An instance norm sets the mean and the variance of every map to those of the frame at hand, so that
what enters a corner of the picture changes its colours everywhere. Here they are those of a sample
of frames, which goes through the network as one batch before, and the same for all frames.

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from patchkin.errors import ConfigError, DataError
from patchkin.images import Array, Ranges
from patchkin.images.pages import each_page
from patchkin.images.sizes import image_size
from patchkin.images.video import VideoReader
from patchkin.networks.whole_image import Moments, normalizing_by
from patchkin.translation.clips import frame_values
from patchkin.translation.translator import Translator

MOST_FRAMES, LEAST_FRAMES = 8, 2
"""That the statistics are of, evenly over the clip."""
SAMPLE_PIXELS = 1 << 22
"""Of all of them together, as the network sees them: the batch must fit into memory."""


def sample_places(number: int, count: int) -> list[int]:
    """Which of `number` frames are the sample, in order.

    >>> sample_places(100, 4), sample_places(3, 4)
    ([12, 37, 62, 87], [0, 1, 2])
    """
    if number <= count:
        return list(range(number))
    return [(2 * place + 1) * number // (2 * count) for place in range(count)]


def sample_size(width: int, height: int, resize: int | None = None) -> int:
    """How many frames are the sample.

    Args:
        width: of a frame.
        height: of a frame.
        resize: shorter side that larger ones are brought to before.

    >>> sample_size(512, 512), sample_size(1920, 1080), sample_size(1920, 1080, 256)
    (8, 2, 8)
    """
    scale = 1.0 if resize is None else min(1.0, resize / min(width, height))
    fitting = int(SAMPLE_PIXELS / (width * height * scale * scale))
    return max(LEAST_FRAMES, min(MOST_FRAMES, fitting))


class ClipTranslator:
    """A translator whose norms take the statistics of a sample of frames.

    Args:
        translator: whose norms take them over the image.
        sample_BCHW: frames in [-1, 1].
        style_S: of the translations, for models that have styles.

    Raises:
        ConfigError: no norm of the model takes statistics over an image.
    """

    def __init__(
        self, translator: Translator, sample_BCHW: Array, *, style_S: Array | None = None
    ) -> None:
        self._translator = translator
        self._moments: list[Moments] = []

        def moments_of(x_BCHW: Tensor) -> Moments:
            self._moments.append(Moments.of(x_BCHW))
            return self._moments[-1]

        styles_BS = None if style_S is None else np.stack([style_S] * len(sample_BCHW))
        with normalizing_by(moments_of):
            translator.arrays(sample_BCHW, styles_BS)
        if not self._moments:
            raise ConfigError(
                f"`{translator.method_name}` has no norm that takes statistics over an image: "
                "--clip-norm would change nothing."
            )

    @property
    def channels(self) -> tuple[int, int]:
        """Of the images it takes, and of those it gives."""
        return self._translator.channels

    @property
    def value_ranges(self) -> Ranges:
        """Of the images it takes, and of those it gives, in files of more than 8 bits."""
        return self._translator.value_ranges

    @property
    def digest(self) -> str:
        """Of the statistics, for the record of what made a file."""
        sha256 = hashlib.sha256()
        for moments in self._moments:
            for values_C in (moments.mean_C, moments.variance_C):
                sha256.update(values_C.to(torch.float32).cpu().numpy().tobytes())
        return sha256.hexdigest()[:16]

    def arrays(self, x_BCHW: Array, styles_BS: Array | None = None) -> Array:
        """Frames in [-1, 1], translated."""
        following = iter(self._moments)
        with normalizing_by(lambda _: next(following)):
            return self._translator.arrays(x_BCHW, styles_BS)


def over_video(
    translator: Translator, path: Path, *, style_S: Array | None = None
) -> ClipTranslator:
    """A translator for the frames of one video.

    Raises:
        DataError: the video cannot be read.
        ConfigError: the model has no such norms.
    """
    with VideoReader(path) as source:
        places = sample_places(source.count(), sample_size(*source.size, _side(translator)))
        wanted = islice(enumerate(source.frames()), places[-1] + 1)
        sample = [frame for number, frame in wanted if number in places]
    sample_BCHW = np.stack([frame_values(frame, translator, path) for frame in sample])
    return ClipTranslator(translator, sample_BCHW, style_S=style_S)


def over_files(
    translator: Translator, files: Sequence[Path], *, style_S: Array | None = None
) -> ClipTranslator:
    """A translator for images that are the frames of one clip, page by page.

    Raises:
        DataError: one of the sample cannot be read, or has another size.
        ConfigError: the model has no such norms.
    """
    pages = each_page(list(dict.fromkeys(files)))
    size = image_size(pages[0])
    count = LEAST_FRAMES if size is None else sample_size(*size, _side(translator))
    sample = [pages[place] for place in sample_places(len(pages), count)]
    images = [translator.read_picture(page)[0].numpy() for page in sample]
    for page, image_CHW in zip(sample, images, strict=True):
        if image_CHW.shape != images[0].shape:
            raise DataError(
                f"`{page}` has {image_CHW.shape[2]} x {image_CHW.shape[1]} pixels and "
                f"`{sample[0]}` {images[0].shape[2]} x {images[0].shape[1]}: with --clip-norm all "
                "images are the frames of one clip."
            )
    return ClipTranslator(translator, np.stack(images), style_S=style_S)


def _side(translator: Translator) -> int | None:
    return None if translator.resizing is None else translator.resizing.side
