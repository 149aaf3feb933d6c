"""Videos to translate, frame by frame. Imports no torch.

Shape suffixes: B frames, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from patchkin.errors import ConfigError, DataError, PatchkinError
from patchkin.images import Array, Picture, to_values
from patchkin.images.faults import reason
from patchkin.images.picture import encoding_of, with_channels
from patchkin.images.values import levels_8bit
from patchkin.images.video import Frame, VideoReader, VideoSettings, VideoWriter, is_video_file
from patchkin.parallel.overlap import ahead
from patchkin.storage.atomic import is_disk_trouble, new_file
from patchkin.translation.files import ArrayTranslator, Job
from patchkin.translation.flicker import Flicker, WatchedTranslator
from patchkin.translation.memory import is_memory_trouble
from patchkin.translation.outcome import Outcome
from patchkin.translation.record import Recorder


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSettings:
    """How videos are translated."""

    video: VideoSettings = field(default_factory=VideoSettings)
    """How they are written."""
    batch_size: int = 1
    """Frames translated at once."""


def divided(jobs: Sequence[Job]) -> tuple[list[Job], list[Job]]:
    """Those of videos, and the others."""
    videos = [job for job in jobs if is_video_file(job.source)]
    return videos, [job for job in jobs if not is_video_file(job.source)]


def translate_clips(
    translator_of: Callable[[Job], ArrayTranslator],
    jobs: Sequence[Job],
    settings: ClipSettings,
    *,
    recorder: Recorder | None = None,
    on_frames: Callable[[int], None] = lambda _: None,
    on_file: Callable[[Path], None] = lambda _: None,
) -> Outcome:
    """Translate videos; one that cannot be read or written does not stop the others.

    Args:
        translator_of: what translates the frames of a job.
        jobs: of videos.
        settings: how.
        recorder: of what made each file.
        on_frames: called with the number of frames of a video, where it is known, and with 0 for
            each that is done.
        on_file: called with the source of each job that is done.

    Raises:
        StorageError: the disk is full, fails, or cannot be written at all.
    """
    outcome = Outcome()
    for job in jobs:
        try:
            if recorder is not None:
                recorder.reads(job.source)
                recorder.begins([job.target])
            flicker = _translate(translator_of(job), job, settings, outcome, on_frames)
            if recorder is not None:
                recorder.made([job.target], job.source, style=job.style)
            outcome.written.append(job.target)
            outcome.flickers[job.target] = flicker.score
        except ConfigError:
            raise
        except (PatchkinError, OSError, MemoryError, RuntimeError) as error:
            if is_memory_trouble(error):
                why = f"`{job.source}`: translating it needs more memory."
            elif isinstance(error, PatchkinError) and not is_disk_trouble(error):
                why = str(error)
            elif is_disk_trouble(error) or not isinstance(error, OSError):
                raise
            else:
                why = f"`{job.source}`: {reason(error)}."
            outcome.failed.append((job.source, why))
        on_file(job.source)
    return outcome


def _translate(
    translator: ArrayTranslator,
    job: Job,
    settings: ClipSettings,
    outcome: Outcome,
    on_frames: Callable[[int], None],
) -> Flicker:
    flicker = Flicker()
    watched = WatchedTranslator(translator, flicker)
    with VideoReader(job.source) as source:
        on_frames(source.num_frames)
        with (
            new_file(job.target) as part,
            VideoWriter(part, job.target, source, settings.video) as writer,
            closing(cast("Generator[Frame]", ahead(source.frames()))) as following,
        ):
            for frames in _batches(following, settings.batch_size):
                x_BCHW = np.stack([frame_values(frame, translator, job.source) for frame in frames])
                styles_BS = None if job.style_S is None else np.stack([job.style_S] * len(frames))
                for frame, y_CHW in zip(frames, watched.arrays(x_BCHW, styles_BS), strict=True):
                    writer.add(_levels(y_CHW, job.source), frame.pts)
                    on_frames(0)
    for note in writer.notes:
        outcome.note(note, job.source)
    return flicker


def _batches(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    batch: list[Frame] = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def frame_values(frame: Frame, translator: ArrayTranslator, source: Path) -> Array:
    """A frame as the model takes it, [C, H, W] in [-1, 1].

    Raises:
        DataError: the model takes other channels than 1 or 3.
    """
    image = with_channels(Image.fromarray(frame.levels_HWC), translator.channels[0], str(source))
    return to_values(Picture(image, encoding_of(image), str(source)))


def _levels(y_CHW: Array, source: Path) -> Array:
    """A translation as a video holds it, [H, W, 3].

    Raises:
        DataError: it is no picture of colours or of grey.
    """
    if not np.isfinite(y_CHW).all():
        raise DataError(
            f"`{source}` has a translation that holds NaN or infinity; nothing is written."
        )
    if y_CHW.shape[0] not in (1, 3):
        raise DataError(
            f"`{source}`: a video holds 3 channels, and the model gives {y_CHW.shape[0]}."
        )
    levels_HWC = levels_8bit(y_CHW).transpose(1, 2, 0)
    return np.broadcast_to(levels_HWC, (*levels_HWC.shape[:2], 3))
