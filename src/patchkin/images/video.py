"""Videos, frame by frame, by PyAV (extra `video`): never more of one in memory than a few frames.

What is written has the frame rate, the times and the size of what was read, 8 bits in yuv420p, and
its audio as it is. Frames are upright.

Shape suffixes: H and W pixels, C channels (red, green, blue).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

import numpy as np

from patchkin.errors import ConfigError, DataError, missing_extra
from patchkin.images.limits import check_pixels
from patchkin.images.picture import Array

Codec: TypeAlias = Literal["auto", "h264", "hevc", "vp9"]

_FORMATS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
}
"""Suffix -> container, as FFmpeg calls it, of what is written."""
VIDEO_SUFFIXES = frozenset({*_FORMATS, ".avi", ".mpg", ".mpeg", ".ts", ".wmv"})
"""Files that are read as videos."""
_ENCODERS: dict[str, tuple[str, int, int, dict[str, str]]] = {
    "h264": ("libx264", 18, 51, {}),
    "hevc": ("libx265", 22, 51, {"x265-params": "log-level=none"}),
    "vp9": ("libvpx-vp9", 28, 63, {"b": "0", "row-mt": "1"}),
}
"""Codec -> encoder, its usual and its largest rate factor, other options. The usual ones are those
that are commonly called visually lossless, or near it."""
_EVEN = ("h264", "hevc")
"""Codecs that hold even sides only, in yuv420p."""
_BT709, _BT601 = 1, 6
"""Colour spaces as files number them (ITU-T H.273)."""
_OLD_601 = 5
_HIGH_LINES = 720
"""Where a file does not say its colour space, players take BT.709 from so many lines on."""
_HDR = (16, 18)
"""Transfer functions: PQ and HLG."""
_SLACK_SECONDS = 1
"""That a video may end before its container promises."""


def is_video_file(path: Path) -> bool:
    """Whether the name is that of a video.

    >>> is_video_file(Path("a.MP4")), is_video_file(Path("a.gif"))
    (True, False)
    """
    return path.suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoSettings:
    """How videos are written."""

    codec: Codec = "auto"
    """`auto`: VP9 into .webm, H.264 into all others."""
    crf: int | None = None
    """Rate factor of the encoder: less is better and larger; None: 18 of H.264, 22 of HEVC, 28 of
    VP9."""

    def __post_init__(self) -> None:
        most = _ENCODERS["h264" if self.codec == "auto" else self.codec][2]
        if self.crf is not None and not 0 <= self.crf <= most:
            raise ConfigError(f"`--crf` must be from 0 to {most}; got {self.crf}.")

    def codec_for(self, path: Path) -> str:
        """The codec of a file, by its name.

        Raises:
            ConfigError: no video of this name is written, or not with this codec.

        >>> VideoSettings().codec_for(Path("a.webm")), VideoSettings().codec_for(Path("a.mkv"))
        ('vp9', 'h264')
        """
        suffix = path.suffix.lower()
        if suffix not in _FORMATS:
            raise ConfigError(
                f"`{path}`: videos are written as {', '.join(_FORMATS)}; name such a file with "
                "--output."
            )
        if self.codec == "auto":
            return "vp9" if suffix == ".webm" else "h264"
        if suffix == ".webm" and self.codec != "vp9":
            raise ConfigError(f"`{path}`: a .webm holds vp9; got --codec {self.codec}.")
        return self.codec


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One picture of a video."""

    levels_HWC: Array
    """uint8, upright."""
    pts: int
    """Its time, in units of the video's time base."""


class VideoReader:
    """An open video. To be used in a `with` block.

    Raises:
        DataError: it cannot be read, holds no pictures, or larger ones than are allowed.
        ConfigError: PyAV is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._av = _library()
        self._stack = ExitStack()
        with self._told("cannot be read as a video"):
            self.container = self._stack.enter_context(self._av.open(str(path)))
        if not self.container.streams.video:
            self._stack.close()
            raise DataError(f"`{path}` holds no pictures: it has no video stream.")
        self._stream = self.container.streams.video[0]
        context = self._stream.codec_context
        try:
            check_pixels(context.width, context.height)
        except DataError as error:
            self._stack.close()
            raise DataError(f"`{path}`: {error}") from error

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def num_frames(self) -> int:
        """That the container promises; 0 where it does not say."""
        return int(self._stream.frames)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, before it is turned."""
        context = self._stream.codec_context
        return int(context.width), int(context.height)

    @property
    def rate(self) -> Fraction:
        """Frames a second, on average."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        return Fraction(rate) if rate else Fraction(25)

    @property
    def time_base(self) -> Fraction:
        """Seconds of a unit of time."""
        return Fraction(self._stream.time_base)

    @property
    def pixel_aspect(self) -> Fraction | None:
        """Width of a pixel over its height in the file, before it is turned; None if square."""
        aspect = self._stream.sample_aspect_ratio
        return Fraction(aspect) if aspect and aspect != 1 else None

    @property
    def colour_space(self) -> int:
        """BT.709 or BT.601, as files number them."""
        context = self._stream.codec_context
        said = int(context.colorspace)
        if said in (_BT601, _OLD_601):
            return _BT601
        return _BT709 if said == _BT709 or context.height >= _HIGH_LINES else _BT601

    @property
    def notes(self) -> list[str]:
        """What of the video does not come through."""
        context, notes = self._stream.codec_context, []
        components = context.format.components if context.format else ()
        if any(part.bits > 8 for part in components):
            notes.append("written with 8 bits a channel")
        if int(context.color_trc) in _HDR:
            notes.append("high dynamic range (PQ or HLG) is taken as it is, and not mapped")
        if any(part.is_alpha for part in components):
            notes.append("the alpha channel of videos is not carried over")
        others = len(self.container.streams) - 1 - len(self.container.streams.audio)
        if others:
            notes.append("subtitles, data and further pictures of the video are left out")
        return notes

    def count(self) -> int:
        """Its frames, as the container promises or as its packets are counted."""
        if self.num_frames:
            return self.num_frames
        with self._told("cannot be read to its end"), self._av.open(str(self.path)) as again:
            return sum(1 for packet in again.demux(again.streams.video[0]) if packet.size)

    def frames(self) -> Iterator[Frame]:
        """All frames in order, decoded when they are asked for.

        Raises:
            DataError: the video is damaged, or shorter than it says.
        """
        count, end, size = 0, 0.0, None
        decoded = iter(self.container.decode(self._stream))
        while True:
            with self._told(f"is damaged or cut short after {count} frames"):
                frame = next(decoded, None)
            if frame is None:
                break
            levels_HWC = self._levels(frame)
            if size not in (None, levels_HWC.shape):
                raise DataError(f"`{self.path}` changes the size of its pictures at frame {count}.")
            size = levels_HWC.shape
            pts = frame.pts if frame.pts is not None else round(count / self.rate / self.time_base)
            yield Frame(levels_HWC=levels_HWC, pts=pts)
            count, end = count + 1, float(pts * self.time_base)
        self._check_end(count, end)

    def _levels(self, frame: Any) -> Array:
        spaces = self._av.video.reformatter.Colorspace
        space = spaces.ITU709 if self.colour_space == _BT709 else spaces.ITU601
        levels_HWC: Array = frame.reformat(format="rgb24", src_colorspace=space).to_ndarray()
        quarters = round(getattr(frame, "rotation", 0) / 90) % 4
        return np.ascontiguousarray(np.rot90(levels_HWC, quarters)) if quarters else levels_HWC

    def _check_end(self, count: int, end: float) -> None:
        """Raise `DataError` where frames are missing that the container promises."""
        if count == 0:
            raise DataError(f"`{self.path}` holds no frame that can be read.")
        if self.num_frames and count < self.num_frames:
            raise DataError(
                f"`{self.path}` is cut short: {count} of its {self.num_frames} frames are there."
            )
        promised = self._seconds()
        if not self.num_frames and promised and end + _SLACK_SECONDS < promised:
            raise DataError(
                f"`{self.path}` is cut short: {end:.1f} of its {promised:.1f} seconds are there."
            )

    def _seconds(self) -> float | None:
        """That the pictures last, where the container says so of them alone."""
        said = self._stream.metadata.get("DURATION", "")
        if said.count(":") == 2:
            hours, minutes, seconds = said.split(":")
            return 3600 * float(hours) + 60 * float(minutes) + float(seconds)
        alone = len(self.container.streams) == 1 and self.container.duration
        return self.container.duration / 1e6 if alone else None

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._av.FFmpegError as error:
            self._stack.close()
            reason = (error.strerror or str(error)).partition("\n")[0].rstrip(".")
            raise DataError(f"`{self.path}` {what}: {reason}.") from error


def video_size(path: Path) -> tuple[int, int] | None:
    """Width and height, before it is turned; None where it cannot be told."""
    try:
        with VideoReader(path) as video:
            return video.size
    except (DataError, ConfigError):
        return None


class VideoWriter:
    """A video of other pictures with the rate, the times and the audio of one that is open.

    To be used in a `with` block; the file is whole when that ends without an error.

    Args:
        path: where it is written.
        name: that it will have, which decides the container.
        source: open.
        settings: codec and quality.

    Raises:
        ConfigError: no video of this name is written, or PyAV lacks the encoder.
    """

    def __init__(self, path: Path, name: Path, source: VideoReader, settings: VideoSettings):
        self._av = _library()
        self._source, self._name = source, name
        self._codec = settings.codec_for(name)
        self._encoder, usual, _, self._options = _ENCODERS[self._codec]
        self._crf = usual if settings.crf is None else settings.crf
        if self._encoder not in self._av.codecs_available:
            raise ConfigError(f"This PyAV has no {self._encoder}; choose another --codec.")
        form = _FORMATS[name.suffix.lower()]
        fast = {"movflags": "+faststart"} if form in ("mp4", "mov") else {}
        self._stack = ExitStack()
        self._file = self._stack.enter_context(
            self._av.open(str(path), "w", format=form, options=fast)
        )
        self._stream: Any = None
        self.notes: list[str] = source.notes
        """What could not be kept."""
        self._sound = _Sound(source, self._file, name, self.notes)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._told(), self._stack:
            if kind is None and self._stream is not None:
                self._file.mux(self._stream.encode(None))
                self._sound.until(None)
            self._sound.close()

    def add(self, levels_HWC: Array, pts: int) -> None:
        """One picture, uint8, at a time in units of the source's time base."""
        if self._stream is None:
            self._begin(*levels_HWC.shape[:2])
        if self._codec in _EVEN:
            odd = tuple(side % 2 for side in levels_HWC.shape[:2])
            levels_HWC = np.pad(levels_HWC, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
        spaces = self._av.video.reformatter.Colorspace
        space = spaces.ITU709 if self._source.colour_space == _BT709 else spaces.ITU601
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(levels_HWC), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=space)
        frame.pts, frame.time_base = pts, self._source.time_base
        with self._told():
            packets = self._stream.encode(frame)
            self._sound.until(float(pts * self._source.time_base))
            self._file.mux(packets)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except self._av.FFmpegError as error:
            if isinstance(error, OSError):
                raise OSError(error.errno, error.strerror) from error
            raise DataError(f"`{self._name}` cannot be written as a video: {error}.") from error

    def _begin(self, height: int, width: int) -> None:
        options = {"crf": str(self._crf), **self._options}
        self._stream = self._file.add_stream(self._encoder, rate=self._source.rate, options=options)
        even = self._codec in _EVEN
        context = self._stream.codec_context
        context.width = width + (width % 2 if even else 0)
        context.height = height + (height % 2 if even else 0)
        context.pix_fmt = "yuv420p"
        context.time_base = self._source.time_base
        context.colorspace = context.color_primaries = self._source.colour_space
        context.color_trc = self._source.colour_space
        context.color_range = 1  # limited, as nearly all videos are
        if self._codec == "hevc":
            context.codec_tag = "hvc1"  # which players of Apple want
        if self._source.pixel_aspect is not None:
            context.sample_aspect_ratio = self._source.pixel_aspect
        if (context.width, context.height) != (width, height):
            self.notes.append(
                f"{self._codec} holds even sides: {width} x {height} pixels became "
                f"{context.width} x {context.height}, with the last repeated"
            )


class _Sound:
    """The audio of a video, copied as it is between the pictures."""

    def __init__(self, source: VideoReader, file: Any, name: Path, notes: list[str]) -> None:
        self._file = file
        self._streams: dict[int, Any] = {}
        self._waiting: Any = None
        self._container = (
            source._av.open(str(source.path)) if source.container.streams.audio else None
        )
        if self._container is None:
            return
        for stream in self._container.streams.audio:
            codec = stream.codec_context.codec.canonical_name
            if codec in file.supported_codecs:
                self._streams[stream.index] = file.add_stream_from_template(stream)
            else:
                notes.append(
                    f"a {name.suffix} holds no {codec}, so the audio is left out; a .mkv "
                    "would hold it"
                )
        chosen = [s for s in self._container.streams.audio if s.index in self._streams]
        self._packets = iter(self._container.demux(*chosen)) if chosen else iter(())

    def until(self, seconds: float | None) -> None:
        """Copy what is played until then; None: the rest."""
        while self._container is not None:
            packet = self._waiting or next(self._packets, None)
            self._waiting = None
            if packet is None:
                return
            if packet.dts is None:  # the last, which is empty
                continue
            if seconds is not None and packet.dts * packet.time_base > seconds:
                self._waiting = packet
                return
            packet.stream = self._streams[packet.stream.index]
            self._file.mux(packet)

    def close(self) -> None:
        """Let go of the file."""
        if self._container is not None:
            self._container.close()


def _library() -> Any:
    try:
        import av
        import av.video.reformatter
    except ImportError as error:
        raise ConfigError(missing_extra("A video", package="av", extra="video")) from error
    av.logging.set_level(None)  # what goes wrong is raised
    return av
