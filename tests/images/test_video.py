"""Videos read and written: pictures, times, sound; and what is no video."""

from __future__ import annotations

import struct
import sys
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from clip_making import RATE, frames_of, make_clip, moving_square, sound_of
from patchkin.errors import ConfigError, DataError
from patchkin.images.limits import check_pixels
from patchkin.images.sizes import image_size
from patchkin.images.video import VideoReader, VideoSettings, VideoWriter

SQUARES = [moving_square(number) for number in range(8)]


def copied(source: Path, target: Path, settings: VideoSettings | None = None) -> list[str]:
    """Written again, picture by picture; returns the notes."""
    with (
        VideoReader(source) as reader,
        VideoWriter(target, target, reader, settings or VideoSettings(crf=4)) as writer,
    ):
        for frame in reader.frames():
            writer.add(frame.levels_HWC, frame.pts)
    return writer.notes


def apart(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """Mean difference in levels, away from edges of colour, which 4:2:0 blurs."""
    flat = (slice(20, 28), slice(0, None))
    pairs = zip(one, other, strict=True)
    return float(np.mean([np.abs(a[flat].astype(int) - b[flat]).mean() for a, b in pairs]))


def test_gif_as_pillow_decodes_it(tmp_path):
    """Another decoder, of a format without loss: the same pixels."""
    pictures = [Image.fromarray(levels).quantize(8) for levels in SQUARES]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=40)
    with VideoReader(tmp_path / "a.gif") as reader:
        ours = [frame.levels_HWC for frame in reader.frames()]
    with Image.open(tmp_path / "a.gif") as animation:
        assert len(ours) == animation.n_frames == 8
        for number, levels_HWC in enumerate(ours):
            animation.seek(number)
            np.testing.assert_array_equal(levels_HWC, np.asarray(animation.convert("RGB")))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_pictures_times_and_sound_come_through(tmp_path, name):
    times = [0, 1, 2, 5, 6, 7, 9, 10]  # frames were dropped
    source = make_clip(tmp_path / "s.mp4", SQUARES, times=times, sound="aac")
    notes = copied(source, tmp_path / name)
    assert notes == []
    assert apart(frames_of(tmp_path / name), SQUARES) < 2.5
    assert sound_of(tmp_path / name) == sound_of(source)
    with av.open(str(tmp_path / name)) as file:
        stream = file.streams.video[0]
        found = [frame.pts * stream.time_base for frame in file.decode(stream)]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    for time, number in zip(found, times, strict=True):
        assert abs(time - found[0] - number / RATE) <= Fraction(1, 1000)  # of Matroska


def test_steady_rate_is_kept(tmp_path):
    source = make_clip(tmp_path / "s.mp4", SQUARES)
    copied(source, tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as file:
        assert file.streams.video[0].average_rate == RATE
        assert file.streams.video[0].frames == 8


def test_odd_sides(tmp_path):
    odd = [levels_HWC[:47, :63] for levels_HWC in SQUARES]
    source = make_clip(tmp_path / "s.webm", odd, codec="libvpx-vp9", sound="libopus")
    assert copied(source, tmp_path / "a.webm") == []
    assert frames_of(tmp_path / "a.webm")[0].shape == (47, 63, 3)
    assert sound_of(tmp_path / "a.webm") == sound_of(source)
    (note,) = copied(source, tmp_path / "a.mp4")
    assert note.startswith("h264 holds even sides: 63 x 47 pixels became 64 x 48")
    for even, levels_HWC in zip(frames_of(tmp_path / "a.mp4"), odd, strict=True):
        assert even.shape == (48, 64, 3)
        assert np.abs(even[:10, 63].astype(int) - levels_HWC[:10, 62]).max() <= 6
        assert np.abs(even[47].astype(int) - even[46]).mean() < 3


def test_sound_that_does_not_fit_is_said(tmp_path):
    source = make_clip(tmp_path / "s.mp4", SQUARES[:3], sound="aac")
    (note,) = copied(source, tmp_path / "a.webm", VideoSettings())
    assert note == "a .webm holds no aac, so the audio is left out; a .mkv would hold it"
    with av.open(str(tmp_path / "a.webm")) as file:
        assert [stream.type for stream in file.streams] == ["video"]


@pytest.mark.parametrize(("space", "matrix"), [(1, "ITU709"), (6, "ITU601")])
def test_colours_by_the_space_that_the_file_names(tmp_path, space, matrix):
    """Saturated colours differ by 20 levels between the two spaces."""
    colours = {"colorspace": space, "color_primaries": space, "color_trc": space}
    path = tmp_path / "s.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE, options={"crf": "1"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for name, value in colours.items():
            setattr(stream.codec_context, name, value)
        frame = av.VideoFrame.from_ndarray(
            np.full((32, 32, 3), (20, 200, 40), np.uint8), format="rgb24"
        )
        frame = frame.reformat(format="yuv420p", dst_colorspace=matrix)
        frame.pts, frame.time_base = 0, 1 / RATE
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    copied(path, tmp_path / "a.mp4")
    for file in (path, tmp_path / "a.mp4"):
        with VideoReader(file) as reader:
            (only,) = reader.frames()
            assert reader.colour_space == space
        assert np.abs(only.levels_HWC.astype(int) - (20, 200, 40)).max() <= 4


def test_pictures_are_upright(tmp_path):
    """A camera held upright writes a matrix that turns by 90 degrees into the track's header."""
    source = make_clip(tmp_path / "s.mp4", SQUARES[:3])
    content = bytearray(source.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    content[place : place + 36] = turned
    source.write_bytes(content)
    with VideoReader(source) as reader:
        first = next(iter(reader.frames())).levels_HWC
    expected_HWC = np.rot90(SQUARES[0], -1)  # to the right, as players show it
    assert first.shape == (64, 48, 3)
    assert apart([first[4:]], [np.ascontiguousarray(expected_HWC)[4:]]) < 6
    copied(source, tmp_path / "a.mp4")
    assert frames_of(tmp_path / "a.mp4")[0].shape == (64, 48, 3)


def test_what_is_no_video_or_not_all_of_one_is_one_sentence(tmp_path):
    whole = make_clip(tmp_path / "s.mp4", [moving_square(n % 20) for n in range(40)])
    fast = tmp_path / "fast.mp4"
    copied(whole, fast)  # its index comes first
    cut, text = tmp_path / "cut.mp4", tmp_path / "text.mp4"
    text.write_text("no video")
    for content, said in {
        whole.read_bytes()[:3000]: "cannot be read as a video: ",
        fast.read_bytes()[: fast.stat().st_size * 2 // 3]: "is damaged or cut short after ",
        b"": "cannot be read as a video: ",
    }.items():
        cut.write_bytes(content)
        assert said in refused(cut), said
    assert "cannot be read as a video" in refused(text)
    assert "No such file or directory" in refused(tmp_path / "nowhere.mp4")
    with wave.open(str(tmp_path / "sound.avi"), "wb") as file:
        file.setparams((1, 2, 48000, 0, "NONE", ""))
        file.writeframes(bytes(9600))
    assert "holds no pictures" in refused(tmp_path / "sound.avi")
    damaged = bytearray(fast.read_bytes())
    start = damaged.index(b"mdat") + 4
    damaged[start : len(damaged)] = b"\xa5" * (len(damaged) - start)
    cut.write_bytes(damaged)
    assert "is damaged or cut short after 0 frames" in refused(cut)
    matroska = make_clip(tmp_path / "s.mkv", [moving_square(n % 20) for n in range(90)])
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(matroska.read_bytes()[: matroska.stat().st_size // 3])
    assert "is cut short" in refused(cut)
    assert "of its 3.0 seconds" in refused(cut)


def refused(path: Path) -> str:
    with pytest.raises(DataError) as error, VideoReader(path) as reader:
        for _ in reader.frames():
            pass
    said = str(error.value)
    assert said.startswith(f"`{path}` ")
    assert "\n" not in said
    return said


def test_size_and_limit(tmp_path, monkeypatch):
    source = make_clip(tmp_path / "s.mp4", SQUARES[:2])
    assert image_size(source) == (64, 48)
    (tmp_path / "b.mp4").write_bytes(b"nothing")
    assert image_size(tmp_path / "b.mp4") is None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match="more than the limit of 2000"):
        check_pixels(64, 48)
    assert "more than the limit of 2000" in refused_by_size(source)


def refused_by_size(path: Path) -> str:
    with pytest.raises(DataError) as error:
        VideoReader(path)
    return str(error.value)


def test_settings_that_do_not_fit(tmp_path):
    for settings, name, said in (
        (VideoSettings(), "a.gif", r"written as \.mp4, \.m4v, \.mov, \.mkv, \.webm"),
        (VideoSettings(codec="h264"), "a.webm", "a .webm holds vp9; got --codec h264"),
    ):
        with pytest.raises(ConfigError, match=said):
            settings.codec_for(tmp_path / name)
    with pytest.raises(ConfigError, match="`--crf` must be from 0 to 51; got 60"):
        VideoSettings(codec="hevc", crf=60)


def test_without_its_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"A video needs av: pip install av, .*'\.\[video\]'"):
        VideoReader(tmp_path / "a.mp4")
