"""What `patchkin translate` does with frames: videos, and images that are one clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from patchkin.errors import ConfigError
from patchkin.images.video import Codec, VideoSettings, is_video_file
from patchkin.translation.clips import ClipSettings, divided, translate_clips
from patchkin.translation.files import ArrayTranslator, Job, translate_files
from patchkin.translation.flicker import Flicker, FlickerScore, WatchedTranslator
from patchkin.translation.outcome import Outcome
from patchkin.translation.record import Recorder
from patchkin.translation.saving import Saving

if TYPE_CHECKING:
    from patchkin.cli.translate import TranslateOptions
    from patchkin.translation.translator import Translator


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """Options of `translate` for videos (extra `video`), and for images that are frames."""

    clip_norm: bool = False
    """Let norms take the statistics of a few frames of the clip, not of each frame: less flicker.
    All images of the command are one clip; every video is one."""
    flicker: bool = False
    """Also tell of images, taken as the frames of one clip in order, how much their translations
    change where they do not. Of videos it is always told."""
    codec: Codec = "auto"
    """Of videos: `auto` is VP9 for .webm, and H.264 for .mp4, .mov, .m4v and .mkv."""
    crf: int | None = None
    """Rate factor of the encoder of videos: less is better and larger. 18 of H.264, 22 of HEVC and
    28 of VP9 unless given."""


class Clips:
    """How the jobs of one command are translated, images and videos.

    Args:
        options: of the command.
        jobs: all of the command, whichever part is done here.
        num_styles: that each of them gets.
        is_all: whether this process does all of them.

    Raises:
        ConfigError: options that do not go together.
    """

    def __init__(
        self,
        options: TranslateOptions,
        jobs: Sequence[Job],
        *,
        num_styles: int = 0,
        is_all: bool = True,
    ) -> None:
        self._options = options.clips
        self._batch_size = options.batch_size
        self._video = VideoSettings(codec=options.clips.codec, crf=options.clips.crf)
        self._videos, self._images = divided(jobs)
        self._over_images: ArrayTranslator | None = None
        self._whole: Translator | None = None
        self._check(options, num_styles, is_all)

    def _check(self, options: TranslateOptions, num_styles: int, is_all: bool) -> None:
        for job in self._images:
            if is_video_file(job.target):
                raise ConfigError(
                    f"`{job.source}` is no video; name an image or a folder with --output, not "
                    f"`{job.target}`."
                )
        for job in self._videos:
            self._video.codec_for(job.target)
        asked = {
            "--format": options.format is not None,
            "--quality": options.quality is not None,
            "--grid": options.grid is not None,
            "--interpolate": options.interpolate,
        }
        refused = next((name for name, given in asked.items() if given), None)
        if self._videos and refused is not None:
            raise ConfigError(
                f"{refused} is of images, and `{self._videos[0].source}` is a video; its options "
                "are --codec and --crf."
            )
        if self._options.clip_norm and str(options.tile).isdecimal():
            raise ConfigError("--clip-norm sees whole frames; leave out --tile.")
        if self._options.clip_norm and (num_styles > 1 or options.interpolate):
            raise ConfigError("--clip-norm takes one style at a time; leave the others out.")
        if self._options.flicker and self._images and not (is_all and num_styles <= 1):
            raise ConfigError("--flicker needs all frames in one process, in one style.")

    def collect(self, translator: Translator, style_S: Any = None) -> None:
        """Take the statistics of the images, if they are asked for.

        Raises:
            ConfigError: the model has no norms that take any.
            DataError: a frame cannot be read.
        """
        self._whole = translator
        if self._options.clip_norm and self._images:
            from patchkin.translation.clip_norms import over_files

            files = [job.source for job in self._images]
            style_S = None if style_S is None else np.asarray(style_S)
            self._over_images = over_files(translator, files, style_S=style_S)

    @property
    def changes(self) -> dict[str, Any]:
        """Options that change what is written, for the record; None are left out."""
        usual, norms = VideoSettings(), self._over_images
        digest = None if norms is None else cast(Any, norms).digest
        return {
            "clip_norm": digest or (self._options.clip_norm or None),
            "codec": None if self._video.codec == usual.codec else self._video.codec,
            "crf": self._video.crf,
        }

    def translate(
        self,
        translator: ArrayTranslator,
        todo: Sequence[Job],
        *,
        saving: Saving,
        recorder: Recorder,
        tell: Callable[[int], None],
    ) -> Outcome:
        """Translate files and videos.

        Args:
            translator: the model, or one that sees parts of images.
            todo: those of the jobs that are to be done here.
            saving: of images.
            recorder: of what made each file.
            tell: called with the number of further steps, and with 0 for each that is done.
        """
        videos, images = divided(todo)
        flicker = Flicker()
        of_images = self._over_images or translator
        outcome = translate_files(
            WatchedTranslator(of_images, flicker) if self._options.flicker else of_images,
            images,
            saving=saving,
            recorder=recorder,
            batch_size=self._batch_size,
            on_file=lambda _: tell(0),
        )
        if self._options.flicker and images:
            self._tell_flicker(outcome, images, flicker.score)
        more = translate_clips(
            partial(self._of_video, translator),
            videos,
            ClipSettings(video=self._video, batch_size=self._batch_size),
            recorder=recorder,
            on_frames=tell,
            on_file=lambda _: tell(0),
        )
        outcome.add(more)
        return outcome

    def _of_video(self, translator: ArrayTranslator, job: Job) -> ArrayTranslator:
        if not self._options.clip_norm or self._whole is None:
            return translator
        from patchkin.translation.clip_norms import over_video

        return over_video(self._whole, job.source, style_S=job.style_S)

    def _tell_flicker(self, outcome: Outcome, images: Sequence[Job], score: FlickerScore) -> None:
        done = len(images) == len(self._images) and not outcome.failed
        if done:
            first = images[0].target
            outcome.flickers[first if len(images) == 1 else first.parent] = score
        else:
            line = "no flicker is told: not all frames were translated now; use --overwrite"
            outcome.note(line, images[0].source)


def flicker_lines(flickers: dict[Path, FlickerScore]) -> list[str]:
    """One for each clip."""
    return [f"{path}: {score}" for path, score in flickers.items()]


def flicker_json(flickers: dict[Path, FlickerScore]) -> dict[str, Any]:
    """For the summary; empty where nothing was measured."""
    measured = {str(path): score._asdict() for path, score in flickers.items()}
    return {"flicker": measured} if measured else {}
