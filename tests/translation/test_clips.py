"""Videos through a translator whose result is known."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from clip_making import frames_of, make_clip, moving_square, sound_of
from patchkin.cli import main
from patchkin.errors import StorageError
from patchkin.images.video import VideoSettings
from patchkin.storage import atomic
from patchkin.translation.clips import ClipSettings, translate_clips
from patchkin.translation.exported import ExportHeader
from patchkin.translation.files import Job


class Negative:
    """Black becomes white. Grey in or out where it has one channel."""

    value_ranges = (None, None)

    def __init__(self, channels: tuple[int, int] = (3, 3)) -> None:
        self.channels = channels
        self.batches: list[int] = []

    def arrays(self, x_BCHW, styles_BS=None):
        self.batches.append(len(x_BCHW))
        return np.repeat(-x_BCHW.mean(axis=1, keepdims=True), self.channels[1], axis=1)


def translated(source: Path, target: Path, translator, **settings: object):
    chosen = ClipSettings(video=VideoSettings(crf=2), **settings)
    return translate_clips(lambda _: translator, [Job(source, target)], chosen)


def test_frames_in_batches(tmp_path):
    squares = [moving_square(number) for number in range(7)]
    source = make_clip(tmp_path / "s.mp4", squares, sound="aac")
    for name, channels in {"a.mp4": (3, 3), "b.mkv": (1, 1), "c.mov": (1, 3)}.items():
        translator = Negative(channels)
        outcome = translated(source, tmp_path / name, translator, batch_size=3)
        assert (outcome.written, outcome.failed) == ([tmp_path / name], [])
        assert translator.batches == [3, 3, 1]
        made = frames_of(tmp_path / name)
        grey = (0.299, 0.587, 0.114) if channels[0] == 1 else (1 / 3, 1 / 3, 1 / 3)
        assert len(made) == 7
        for shown, ours in zip(frames_of(source), made, strict=True):
            expected_HW = 255 - shown.astype(float) @ grey
            assert np.abs(ours - expected_HW[..., None])[4:12].max() <= 5
        assert sound_of(tmp_path / name) == sound_of(source)
        (flicker,) = outcome.flickers.values()
        assert flicker.still_share > 0.8
        assert flicker.flicker < 1  # as little as the input


def test_a_long_video_takes_the_memory_of_a_few_frames(tmp_path):
    size = (240, 320)
    squares = [moving_square(number % 100, size) for number in range(90)]
    source = make_clip(tmp_path / "s.mp4", squares)
    translated(source, tmp_path / "warm.mp4", Negative())
    tracemalloc.start()
    outcome = translated(source, tmp_path / "a.mp4", Negative())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert outcome.written
    frame = 3 * size[0] * size[1]
    assert peak < 40 * frame  # in float32 a frame is four: 90 of them would be 360


class Failing(Negative):
    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__()
        self.error = error

    def arrays(self, x_BCHW, styles_BS=None):
        if len(self.batches) < 2:
            return super().arrays(x_BCHW)
        if self.error is not None:
            raise self.error
        return np.full_like(x_BCHW, np.nan)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, "has a translation that holds NaN or infinity; nothing is written"),
        (MemoryError(), "translating it needs more memory"),
        (RuntimeError("CUDA out of memory."), "translating it needs more memory"),
    ],
)
def test_what_fails_is_one_line_and_leaves_nothing(tmp_path, error, said):
    source = make_clip(tmp_path / "s.mp4", [moving_square(number) for number in range(6)])
    (tmp_path / "out").mkdir()
    outcome = translated(source, tmp_path / "out" / "a.mp4", Failing(error))
    ((path, why),) = outcome.failed
    assert (path, outcome.written) == (source, [])
    assert said in why
    assert not list((tmp_path / "out").iterdir())


def test_other_channels_and_other_errors(tmp_path):
    source = make_clip(tmp_path / "s.mp4", [moving_square(0)] * 3)
    ((_, why),) = translated(source, tmp_path / "a.mp4", Negative((5, 3))).failed
    assert "has 3 channels, 5 are wanted" in why
    ((_, why),) = translated(source, tmp_path / "a.mp4", Negative((3, 2))).failed
    assert "a video holds 3 channels, and the model gives 2" in why
    with pytest.raises(RuntimeError, match="ours"):
        translated(source, tmp_path / "a.mp4", Failing(RuntimeError("ours")))


def test_a_full_disk_ends_the_command(tmp_path, monkeypatch):
    source = make_clip(tmp_path / "s.mp4", [moving_square(0)] * 3)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "put_in_place", full)
    with pytest.raises(StorageError, match="No space left on device"):
        translated(source, tmp_path / "a.mp4", Negative())


def test_an_exported_model_translates_videos(tmp_path, capsys):
    """Without torch at work: a graph made by hand."""
    header = ExportHeader(
        method="cut", channels=(3, 3), multiple=1, minimum=1, source_sha256="0", range="0..1"
    )
    text = """g (float[B, 3, H, W] image) => (float[B, 3, H, W] translation)
    <float one = {1.0}> { translation = Sub(one, image) }"""
    model = onnx.helper.make_model(
        onnx.parser.parse_graph(text),
        ir_version=8,
        opset_imports=[onnx.helper.make_opsetid("", 18)],
    )
    onnx.helper.set_model_props(model, header.to_metadata())
    onnx.save(model, tmp_path / "m.onnx")
    source = make_clip(tmp_path / "s.mp4", [moving_square(number) for number in range(4)])
    command = ["translate", str(tmp_path / "m.onnx"), str(source), "-o", str(tmp_path / "a.mp4")]
    assert main([*command, "--clip-norm"]) == 2
    assert "--clip-norm needs the model itself" in capsys.readouterr().err
    assert main([*command, "--crf", "2"]) == 0
    for shown, ours in zip(frames_of(source), frames_of(tmp_path / "a.mp4"), strict=True):
        assert np.abs(255 - shown.astype(int) - ours)[4:12].max() <= 5
