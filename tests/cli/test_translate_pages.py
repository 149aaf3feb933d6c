"""`patchkin translate`: stacks, animations, formats, alpha, and files that cannot be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from bombs import BOMBS
from patchkin.images import read_image
from patchkin.images.limits import VARIABLE
from patchkin.images.pages import num_pages
from patchkin.storage.checkpoint import find_model


def _done(result) -> dict:
    code, text, err = result
    assert code == 0, err
    return json.loads(text)


def test_a_16_bit_grey_stack_becomes_a_16_bit_colour_stack(command, finished_run, tmp_path):
    array = np.random.default_rng(0).integers(0, 65536, (3, 20, 24), dtype=np.uint16)
    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.5}
    tifffile.imwrite(
        tmp_path / "a.tif",
        array,
        ome=True,
        metadata=metadata,
        compression="lzw",
        photometric="minisblack",
    )
    out = tmp_path / "out"
    result = _done(command("translate", finished_run, tmp_path / "a.tif", "-o", out, "--json"))
    told = {"grey, and came out in colour: the model gives 3 channels": [str(tmp_path / "a.tif")]}
    assert (len(result["written"]), result["notes"]) == (1, told)
    with tifffile.TiffFile(out / "a.tif") as file:
        series = file.series[0]
        assert (series.kind, series.axes, series.shape) == ("ome", "ZYXS", (3, 20, 24, 3))
        assert (series.dtype, file.pages[0].compression.name) == (np.uint16, "LZW")
        assert 'PhysicalSizeX="0.5"' in file.ome_metadata
    again = _done(command("translate", finished_run, tmp_path / "a.tif", "-o", out, "--json"))
    assert (again["written"], len(again["skipped"])) == ([], 1)
    first = (*("--pages", "first"), "--json")
    result = _done(command("translate", finished_run, tmp_path / "a.tif", "-o", out, *first))
    assert list(result["remade"].values()) == ["made with other options"]
    assert num_pages(out / "a.tif") == 1


def test_a_format_keeps_names_apart_and_belongs_to_the_record(command, finished_run, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "a.bmp", "b.webp"):
        Image.new("RGB", (24, 20), "olive").save(tmp_path / "in" / name)
    out = tmp_path / "out"
    call = ("translate", finished_run, tmp_path / "in", "-o", out, "--json", "--format")
    written = _done(command(*call, "png"))["written"]
    assert sorted(Path(path).name for path in written) == ["a_bmp.png", "a_jpg.png", "b.png"]
    assert len(_done(command(*call, "png"))["skipped"]) == 3
    assert len(_done(command(*call, "jpg", "--quality", "50"))["written"]) == 3
    assert len(_done(command(*call, "jpg", "--quality", "90"))["remade"]) == 3
    code, _, err = command(*call, "xyz")
    assert code == 2
    assert "`--format xyz` is not written" in err


def test_an_animation_stays_one(command, finished_run, tmp_path):
    frames = [Image.effect_noise((24, 20), 80).convert("RGB") for _ in range(3)]
    frames[0].save(
        tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[50, 70, 90], loop=0
    )
    _done(command("translate", finished_run, tmp_path / "a.gif", "-o", tmp_path / "out", "--json"))
    with Image.open(tmp_path / "out" / "a.gif") as copy:
        durations = []
        for page in range(copy.n_frames):
            copy.seek(page)
            durations.append(copy.info["duration"])
    assert durations == [50, 70, 90]


def test_alpha_is_put_back_or_left_out(command, finished_run, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (20, 24, 4), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    call = ("translate", finished_run, tmp_path / "a.png", "-o", tmp_path / "out", "--json")
    _done(command(*call))
    assert np.array_equal(read_image(tmp_path / "out" / "a.png").alpha, array[:, :, 3])
    _done(command(*call, "--alpha", "drop"))
    assert read_image(tmp_path / "out" / "a.png").alpha is None


def test_bombs_are_one_line_each_and_the_rest_is_translated(command, finished_run, tmp_path):
    (tmp_path / "in").mkdir()
    for name, make in BOMBS.items():
        (tmp_path / "in" / name).write_bytes(make())
    Image.new("RGB", (24, 20)).save(tmp_path / "in" / "z.png")
    code, text, err = command(
        "translate", finished_run, tmp_path / "in", "-o", tmp_path / "out", "--json"
    )
    result = json.loads(text)
    assert code == 2
    assert [Path(path).name for path in result["written"]] == ["z.png"]
    assert sorted(Path(path).name for path in result["failed"]) == sorted(BOMBS)
    assert sum("patchkin: error:" in line for line in err.splitlines()) == 3


def test_a_nan_is_an_error_of_the_file_and_no_black_picture(command, finished_run, tmp_path):
    broken = tmp_path / "broken.safetensors"
    with safe_open(find_model(finished_run), framework="pt") as file:
        tensors = {name: file.get_tensor(name) * float("nan") for name in file.keys()}  # noqa: SIM118
        save_file(tensors, broken, file.metadata())
    Image.new("RGB", (24, 20)).save(tmp_path / "a.png")
    code, _, err = command("translate", broken, tmp_path / "a.png", "-o", tmp_path / "out")
    assert code == 2
    assert f"`{tmp_path / 'a.png'}` has a translation that holds NaN or infinity" in err
    assert not (tmp_path / "out" / "a.png").exists()


def test_10_bits_in_10_bits_out(command, finished_run, tmp_path):
    levels = np.mgrid[:24, :32][1].astype(np.uint16) * 33
    avif = imagecodecs.avif_encode(np.stack([levels] * 3, axis=2), bitspersample=10, level=100)
    (tmp_path / "set" / "trainA").mkdir(parents=True)
    (tmp_path / "set" / "trainA" / "a.avif").write_bytes(avif)
    shutil.copytree(tmp_path / "set" / "trainA", tmp_path / "set" / "trainB")
    _, text, _ = command("data", "check", tmp_path / "set")
    assert "1 x 16 bits" in text
    out = tmp_path / "out"
    source = tmp_path / "set" / "trainA" / "a.avif"
    result = _done(command("translate", finished_run, source, "-o", out, "--json"))
    assert (len(result["written"]), result["notes"]) == (1, {})
    assert imagecodecs.avif_decode((out / "a.avif").read_bytes()).max() > 255
    result = _done(
        command("translate", finished_run, source, "-o", out, "--format", "heic", "--json")
    )
    assert result["notes"] == {}
    assert read_image(out / "a.heic").encoding.bits == 16


def test_max_pixels(command, finished_run, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    Image.new("RGB", (24, 20)).save(tmp_path / "a.png")
    call = ("translate", finished_run, tmp_path / "a.png", "-o", tmp_path / "out")
    code, _, err = command(*call)
    assert code == 2
    assert "--max-pixels" in err
    assert command(*call, "--max-pixels", "1000")[0] == 0
