"""`patchkin translate` on videos, animations and folders of frames."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image

from clip_making import RATE, frames_of, make_clip, moving_square, sound_of
from exported_models import saved
from patchkin.cli import main
from patchkin.translation.flicker import Flicker
from patchkin.translation.translator import Translator

LARGER = "times as large a side as in training (32 x 32 pixels)"
SQUARES = [moving_square(6 * number, (48, 192)) for number in range(6)]
"""At the left; what is at the right is out of its reach, but for norms."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"), "resnet")


@pytest.fixture
def run(model, capsys):
    """`translate` with the model; returns exit code, output and lines of errors."""

    def translate(*arguments):
        capsys.readouterr()
        code = main(["translate", str(model), *map(str, arguments), "--device", "cpu"])
        told = capsys.readouterr()
        lines = told.err.strip().splitlines()
        return code, told.out, [line for line in lines if LARGER not in line]

    return translate


def test_a_video_is_translated_frame_by_frame(tmp_path, model, run):
    source = make_clip(tmp_path / "s.mp4", SQUARES, sound="aac")
    command = (source, "-o", tmp_path / "out.mp4", "--crf", 0, "--batch-size", 4)
    code, out, err = run(*command, "--json")
    assert code == 0, err
    translator = Translator.load(model, device="cpu")
    shown, made = frames_of(source), frames_of(tmp_path / "out.mp4")
    expected, flicker = [translator(levels_HWC) for levels_HWC in shown], Flicker()
    for levels_HWC, ours_HWC in zip(expected, made, strict=True):
        ours, theirs = (np.asarray(Image.fromarray(a).convert("L")) for a in (ours_HWC, levels_HWC))
        assert np.abs(ours.astype(int) - theirs).mean() < 3  # 4:2:0 halves colours, not brightness
    assert sound_of(tmp_path / "out.mp4") == sound_of(source)
    for x_HWC in shown:
        x_CHW = np.float32(x_HWC.transpose(2, 0, 1) / 127.5 - 1)
        flicker.add(x_CHW, translator.arrays(x_CHW[None])[0])
    (told,) = json.loads(out)["flicker"].values()
    assert told["flicker"] == pytest.approx(flicker.score.flicker, rel=1e-3)
    assert told["still_share"] == pytest.approx(flicker.score.still_share, abs=1e-3)
    assert "of 255 levels where the input stands still" in err[1]
    _, _, err = run(*command)
    assert err == [f"0 translated into {tmp_path / 'out.mp4'}, 1 already there"]
    _, _, err = run(*command[:-2], "--clip-norm")
    assert "1 made with other options" in err[0]


def test_norms_over_the_clip_flicker_less(tmp_path, run):
    source = make_clip(tmp_path / "s.mkv", SQUARES)
    told = []
    for number, options in enumerate(((), ("--clip-norm",))):
        code, out, err = run(source, "-o", tmp_path / f"{number}.mkv", "--json", *options)
        assert code == 0, err
        told += json.loads(out)["flicker"].values()
    assert told[1]["flicker"] < told[0]["flicker"]


def test_frames_in_a_folder_and_in_an_animation(tmp_path, run):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, levels_HWC in enumerate(SQUARES):
        Image.fromarray(levels_HWC).save(folder / f"{number}.png")
    pictures = [Image.fromarray(levels_HWC) for levels_HWC in SQUARES]
    pictures[0].save(
        tmp_path / "a.webp", save_all=True, append_images=pictures[1:], lossless=True, duration=40
    )
    told = []
    for options in ((), ("--clip-norm",)):
        for given in (folder, tmp_path / "a.webp"):
            out = tmp_path / f"out{len(told)}"
            code, text, err = run(given, "-o", out, "--flicker", "--json", *options)
            assert code == 0, err
            (score,) = json.loads(text)["flicker"].values()
            told.append(score["flicker"])
    assert told[0] == pytest.approx(told[1], rel=1e-3)  # the same frames
    assert told[2] == pytest.approx(told[3], rel=1e-3)
    assert told[2] < told[0]
    (folder / "5.png").unlink()
    code, _, err = run(folder, "-o", tmp_path / "out2", "--flicker", "--clip-norm")
    assert code == 0
    assert "5 made with other options" in err[0]  # the statistics are of other frames
    (tmp_path / "out2" / "0.png").unlink()
    code, _, err = run(folder, "-o", tmp_path / "out2", "--flicker", "--clip-norm")
    assert "no flicker is told: not all frames were translated now" in err[1]


def test_one_that_is_broken_does_not_stop_the_others(tmp_path, run):
    whole = make_clip(tmp_path / "b.mp4", SQUARES)
    (tmp_path / "a.mp4").write_bytes(whole.read_bytes()[:2000])
    Image.fromarray(SQUARES[0]).save(tmp_path / "c.png")
    inputs = [tmp_path / name for name in ("a.mp4", "b.mp4", "c.png")]
    code, _, err = run(*inputs, "-o", tmp_path / "out")
    assert code == 2
    assert err[0].startswith("2 translated into")
    assert err[-1].startswith(f"patchkin: error: `{inputs[0]}` cannot be read as a video: ")
    assert sorted(p.name for p in (tmp_path / "out").glob("[!.]*")) == ["b.mp4", "c.png"]


def test_commands_that_are_refused(tmp_path, model, run, monkeypatch):
    source = make_clip(tmp_path / "s.mp4", SQUARES[:2])
    Image.fromarray(SQUARES[0]).save(tmp_path / "a.png")
    for command, said in {
        (source, "-o", tmp_path / "a.gif"): "videos are written as .mp4",
        (tmp_path / "a.png", "-o", tmp_path / "a.mp4"): "is no video; name an image or a folder",
        (source, "-o", tmp_path / "o.webm", "--codec", "hevc"): "a .webm holds vp9",
        (source, "-o", tmp_path / "o.mp4", "--quality", "90"): "--quality is of images",
        (source, "-o", tmp_path / "o.mp4", "--crf", "99"): "`--crf` must be from 0 to 51; got 99",
        (source, "-o", tmp_path / "o.mp4", "--clip-norm", "--tile", "128"): "leave out --tile",
        (tmp_path / "none.mp4", "-o", tmp_path / "o.mp4"): "no such file or folder",
        (
            tmp_path / "a.png",
            "-o",
            tmp_path / "o",
            "--flicker",
            "--shard",
            "1/2",
        ): "--flicker needs",
    }.items():
        code, _, err = run(*command)
        assert (code, len(err)) == (2, 1), err
        assert said in err[0]
    monkeypatch.setitem(sys.modules, "av", None)
    code, _, err = run(source, "-o", tmp_path / "o.mp4")
    assert (code, len(err)) == (2, 1), err
    assert "A video needs av: pip install av" in err[0]
    assert not list(tmp_path.glob("o.*"))


def test_a_video_beyond_the_scale_of_the_model_is_told(tmp_path, model, capsys):
    source = make_clip(tmp_path / "s.mp4", SQUARES[:2])
    command = ["translate", str(model), str(source), "-o", str(tmp_path / "o.mp4")]
    assert main([*command, "--device", "cpu"]) == 0
    assert f"`{source}` has 192 x 48 pixels, more than 2 {LARGER}" in capsys.readouterr().err
    assert main([*command, "--device", "cpu", "--resize", "32", "--overwrite"]) == 0
    assert LARGER not in capsys.readouterr().err


def test_a_rate_of_its_own(tmp_path, run):
    source = make_clip(tmp_path / "s.mp4", SQUARES)
    assert run(source, "-o", tmp_path)[0] == 2  # it would be overwritten
    code, _, err = run(source, "-o", tmp_path / "out", "--codec", "hevc")
    assert code == 0, err
    import av

    with av.open(str(tmp_path / "out" / "s.mp4")) as file:
        stream = file.streams.video[0]
        assert (stream.average_rate, stream.frames) == (RATE, 6)
        assert stream.codec_context.name == "hevc"
