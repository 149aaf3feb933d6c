"""`patchkin translate`: what is done, kept, made anew and refused; names, folders, scale."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from cli.conftest import TINY
from patchkin.storage.checkpoint import find_model
from patchkin.translation.enlarging import enlarged, jointly_enlarged, reduced
from patchkin.translation.record import RECORD_FOLDER
from patchkin.translation.resizing import Resizing
from patchkin.translation.translator import Translator


@pytest.fixture(scope="module")
def other_model(finished_run, tmp_path_factory):
    """The model of the run with other weights."""
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    with safe_open(find_model(finished_run), framework="pt") as file:
        tensors = {name: file.get_tensor(name) * 1.5 for name in file.keys()}  # noqa: SIM118
        save_file(tensors, path, file.metadata())
    return path


@pytest.fixture
def photos(tmp_path):
    """Two images of 40 x 32 pixels."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        pixels = rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def _levels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def _tensor(path):
    return torch.from_numpy(_levels(path).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def test_translations_of_another_model_are_made_anew(
    command, finished_run, other_model, photos, tmp_path
):
    out = tmp_path / "out"
    assert command("translate", finished_run, photos, "-o", out)[0] == 0
    first = _levels(out / "a.png")
    code, text, err = command("translate", other_model, photos, "-o", out, "--json")
    assert code == 0
    assert len(json.loads(text)["written"]) == 2
    assert "2 translated" in err
    assert f"2 made anew: 2 made by `{finished_run}` (cut, step 3, live weights)" in err
    expected = Translator.load(other_model, device="cpu")(_tensor(photos / "a.png"))[0]
    again = torch.from_numpy(_levels(out / "a.png").copy()).permute(2, 0, 1)
    assert float((again / 127.5 - 1 - expected.clamp(-1, 1)).abs().max()) <= 0.5 / 127.5 + 1e-4
    assert not np.array_equal(first, _levels(out / "a.png"))
    _, text, err = command("translate", other_model, photos, "-o", out, "--json")
    assert (len(json.loads(text)["skipped"]), json.loads(text)["remade"]) == (2, {})
    assert "2 already there" in err


def test_options_and_sources_that_change_make_anew(command, finished_run, photos, tmp_path):
    arguments = ("translate", finished_run, photos, "-o", tmp_path / "out")
    assert command(*arguments)[0] == 0
    _, _, err = command(*arguments, "--resize", "16")
    assert "2 made anew: 2 made with other options" in err
    shutil.copy(photos / "b.png", photos / "a.png")
    _, _, err = command(*arguments, "--resize", "16")
    assert "1 translated" in err
    assert "1 already there; 1 made anew: 1 its source has changed" in err


@pytest.mark.parametrize("processes", ["1", "2"])
def test_files_of_others_are_not_replaced(command, finished_run, photos, tmp_path, processes):
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(photos / "b.png", out / "a.png")
    before = (out / "a.png").read_bytes()
    arguments = ("translate", finished_run, photos, "-o", out, "--processes", processes)
    code, _, err = command(*arguments)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert f"(first: `{out / 'a.png'}`)" in err
    assert (out / "a.png").read_bytes() == before
    assert command(*arguments, "--overwrite")[0] == 0
    assert (out / "a.png").read_bytes() != before
    _, text, _ = command(*arguments, "--json")
    assert len(json.loads(text)["skipped"]) == 2
    journals = list((out / RECORD_FOLDER).iterdir())
    assert len(journals) == int(processes)


def test_one_image_into_a_file(command, finished_run, photos, tmp_path):
    code, text, err = command(
        "translate", finished_run, photos / "a.png", "-o", tmp_path / "made" / "x.webp", "--json"
    )
    assert code == 0, err
    assert json.loads(text)["written"] == [str(tmp_path / "made" / "x.webp")]
    with Image.open(tmp_path / "made" / "x.webp") as image:
        assert (image.format, image.size) == ("WEBP", (40, 32))


def test_a_file_for_several_images_is_refused(command, finished_run, photos, tmp_path):
    code, _, err = command("translate", finished_run, photos, "-o", tmp_path / "x.png")
    assert code == 2
    assert f"`{tmp_path / 'x.png'}` is the name of one file, and 2 images are to be tr" in err
    (tmp_path / "folder.png").mkdir()
    assert command("translate", finished_run, photos, "-o", tmp_path / "folder.png")[0] == 0
    assert (tmp_path / "folder.png" / "b.png").is_file()


def test_linked_folders_are_translated_and_thumbnails_are_not(
    command, finished_run, photos, tmp_path
):
    elsewhere = shutil.copytree(photos, tmp_path / "elsewhere")
    (photos / "more").symlink_to(elsewhere, target_is_directory=True)
    (elsewhere / "back").symlink_to(photos, target_is_directory=True)
    shutil.copytree(elsewhere, photos / "@eaDir", symlinks=True)
    (photos / "0.png").mkdir()
    (photos / "scan.pdf").write_bytes(b"")
    code, text, err = command("translate", finished_run, photos, "-o", tmp_path / "out", "--json")
    assert code == 0, err
    names = sorted(os.path.relpath(path, tmp_path / "out") for path in json.loads(text)["written"])
    assert names == ["a.png", "b.png", "more/a.png", "more/b.png"]
    assert f"`{photos}`: 4 images of 5 files; ignored: 1 .pdf (export its pages)" in err
    pattern = str(photos / "**" / "*.png")
    code, text, _ = command("translate", finished_run, pattern, "-o", tmp_path / "flat", "--json")
    assert code == 2, "a.png is there twice"


def test_a_pattern_finds_every_file_once(command, finished_run, photos, tmp_path):
    (photos / "circle").symlink_to(photos, target_is_directory=True)
    shutil.copytree(photos, photos / "@eaDir", symlinks=True)
    pattern = str(photos / "**" / "*.png")
    code, text, err = command("translate", finished_run, pattern, "-o", tmp_path / "out", "--json")
    assert code == 0, err
    names = sorted(os.path.relpath(path, tmp_path / "out") for path in json.loads(text)["written"])
    assert names == ["a.png", "b.png"]


def test_an_output_that_cannot_be_written_is_said_before_the_model_is_read(
    command, photos, tmp_path
):
    (tmp_path / "file").write_bytes(b"")
    code, _, err = command("translate", "no-model", photos, "-o", tmp_path / "file" / "out")
    assert code == 2
    assert f"`{tmp_path / 'file'}` is a file. Choose another --output." in err
    code, _, err = command("translate", "no-model", photos, "-o", tmp_path / "new" / "out")
    assert "no-model" in err
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
)
def test_a_read_only_folder(command, photos, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    code, _, err = command("translate", "no-model", photos, "-o", closed)
    assert code == 2
    assert f"Cannot write into `{closed}`: Permission denied. Choose another --output." in err


# Scale


def test_images_beyond_the_training_size_are_said_once(command, finished_run, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, size in (("a.png", (60, 60)), ("b.png", (300, 100)), ("c.png", (200, 90))):
        Image.new("RGB", size, (90, 120, 30)).save(photos / name)
    out = tmp_path / "out"
    code, _, err = command("translate", finished_run, photos, "-o", out, "--processes", "2")
    assert code == 0
    warnings = [line for line in err.splitlines() if "warning" in line]
    assert warnings == [
        "patchkin: warning: 2 of 3 images are more than 2 times as large a side as in training (36 "
        f"x 36 pixels); the largest, `{photos / 'b.png'}`, has 300 x 100. The model does not know "
        "things of that size. Use --resize 36: it translates at that size and enlarges the result."
    ]
    _, _, err = command("translate", finished_run, photos, "-o", out, "--resize", "36")
    assert "warning" not in err
    _, _, err = command("translate", finished_run, photos / "b.png", "-o", tmp_path / "one.png")
    told = f"`{photos / 'b.png'}` has 300 x 100 pixels, more than 2 times as large a side as in "
    assert told in err


@pytest.mark.parametrize("enlarging", ["plain", "joint"])
def test_resize_translates_small_and_puts_back(command, finished_run, tmp_path, enlarging):
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (50, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    Image.fromarray(pixels[:16]).save(tmp_path / "small.png")
    flags = ("--resize", "20", "--enlarge", enlarging)
    code, _, err = command(
        *("translate", finished_run, tmp_path / "large.png", tmp_path / "small.png"),
        *("-o", tmp_path / "out", *flags),
    )
    assert code == 0, err
    plain = Translator.load(finished_run, device="cpu")
    x = _tensor(tmp_path / "large.png")
    small = reduced(x, 20)
    assert small.shape[-2:] == (20, 32)
    y = plain(small)
    expected = {"plain": enlarged(y, (50, 80)), "joint": jointly_enlarged(y, small, x)}[enlarging]
    written = _tensor(tmp_path / "out" / "large.png")
    assert float((written - expected.clamp(-1, 1)).abs().max()) <= 0.5 / 127.5 + 1e-4
    untouched = plain(_tensor(tmp_path / "small.png")).clamp(-1, 1)
    written = _tensor(tmp_path / "out" / "small.png")
    assert float((written - untouched).abs().max()) <= 0.5 / 127.5 + 1e-4
    resized = Translator.load(
        finished_run, device="cpu", resizing=Resizing(side=20, enlarging=enlarging)
    )
    torch.testing.assert_close(resized(x), expected)


def test_a_size_that_is_too_small_to_translate(command, finished_run, photos, tmp_path):
    code, _, err = command("translate", finished_run, photos, "-o", tmp_path, "--resize", "4")
    assert code == 2
    assert "`--resize` must be at least 8 pixels; got 4." in err


# What an evaluation says of a folder


def test_evaluate_says_who_made_a_folder(command, finished_run, other_model, toy_root, tmp_path):
    out, photos = tmp_path / "out", toy_root / "testA"
    assert command("translate", finished_run, photos, "-o", out)[0] == 0
    arguments = ("evaluate", out, "--data", toy_root, "--protocol")
    code, text, err = command(*arguments)
    assert code == 0, err
    assert f"made by: {finished_run} (cut, step 3, live), 3 files" in text
    assert "warning: translations of several makers" not in err
    (first, *_) = sorted(out.glob("*.png"))
    code, _, err = command(
        "translate", other_model, photos / first.name, "-o", out / first.name, "--overwrite"
    )
    assert code == 0, err
    code, text, err = command(*arguments, "--json")
    (result,) = json.loads(text)["results"]
    makers = [(maker["model"], maker["files"]) for maker in result["subject"]["made_by"]]
    assert makers == [(str(finished_run), 2), (str(other_model), 1)]
    assert result["subject"]["unknown_files"] == 0
    (warning,) = [line for line in result["warnings"] if "several makers" in line]
    assert warning == (
        "translations of several makers are scored together: 2 by "
        f"`{finished_run}` (cut, step 3, live weights), 1 by `{other_model}` (cut, step 3, live "
        "weights)"
    )


def test_a_link_to_itself_is_one_line_and_the_rest_is_translated(command, finished_run, tmp_path):
    folder, output = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    Image.new("RGB", (32, 32)).save(folder / "a.png")
    (folder / "itself.png").symlink_to("itself.png")
    code, _, err = command("translate", finished_run, folder, "-o", output)
    assert code == 2
    assert [path.name for path in output.glob("*.png")] == ["a.png"]
    (line,) = [line for line in err.splitlines() if line.startswith("patchkin: error")]
    assert "itself.png`" in line


def test_grey_images_that_come_out_in_colour_are_told(command, finished_run, toy_root, tmp_path):
    """And colour ones are not."""
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    with Image.open(toy_root / "testA" / "0000.png") as image:
        image.save(inputs / "colour.png")
        image.convert("L").save(inputs / "grey0.png")
        image.convert("L").save(inputs / "grey1.png")
    code, _, err = command("translate", finished_run, inputs, "-o", tmp_path / "out")
    assert code == 0
    with Image.open(tmp_path / "out" / "grey0.png") as image:
        assert image.mode == "RGB"
    lines = [line for line in err.splitlines() if "note" in line]
    assert lines == [
        "patchkin: note: 2 images: grey, and came out in colour: the model gives 3 channels."
    ]
    grey = ("--ngf", "4", "--ndf", "4", "--channels", "1", "--steps", "1")
    run = tmp_path / "run"
    assert command("train", "cut", "--data", toy_root, "--run-dir", run, *TINY, *grey)[0] == 0
    code, _, err = command("translate", run, inputs, "-o", tmp_path / "kept")
    assert (code, "colour:" in err) == (0, False)
