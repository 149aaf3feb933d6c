"""Clips whose frames are known, made by PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = Fraction(30000, 1001)


def moving_square(number: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """[H, W, 3]: a red square on blue that goes to the right, two pixels a frame."""
    levels_HWC = np.empty((*size, 3), np.uint8)
    levels_HWC[:] = (30, 60, 200)
    levels_HWC[16:32, 2 * number : 2 * number + 16] = (220, 40, 30)
    return levels_HWC


def make_clip(
    path: Path,
    frames: list[np.ndarray],
    *,
    codec: str = "libx264",
    times: list[int] | None = None,
    sound: str = "",
    **options: object,
) -> Path:
    """A video of these pictures. `times` are in units of a frame, and `options` the stream's."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=RATE, options={"crf": "4"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for name, value in options.items():
            setattr(stream.codec_context, name, value)
        audio = file.add_stream(sound, rate=48000) if sound else None
        for time, levels_HWC in zip(times or range(len(frames)), frames, strict=True):
            frame = av.VideoFrame.from_ndarray(levels_HWC, format="rgb24")
            frame.pts, frame.time_base = time, 1 / RATE
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        if audio is not None:
            samples = np.arange(int(48000 * len(frames) / RATE))
            wave = (np.sin(samples / 20) * 9000).astype(np.int16)
            played = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            played.sample_rate, played.pts = 48000, 0
            file.mux(audio.encode(played))
            file.mux(audio.encode(None))
    return path


def frames_of(path: Path) -> list[np.ndarray]:
    """As PyAV decodes them."""
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def sound_of(path: Path) -> list[bytes]:
    """The packets of the audio, as they are in the file."""
    with av.open(str(path)) as file:
        return [bytes(packet) for packet in file.demux(audio=0) if packet.dts is not None]
