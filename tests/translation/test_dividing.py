"""Images whole or in parts, as the memory says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from patchkin.cli import main
from patchkin.errors import ConfigError
from patchkin.methods import METHODS
from patchkin.methods.cut import Cut, CutConfig
from patchkin.networks import ResNetConfig
from patchkin.translation import dividing, image_norms, memory
from patchkin.translation.dividing import DividingTranslator
from patchkin.translation.live_maps import LiveMaps
from patchkin.translation.probing import NARROW_WORKSPACE, WORKSPACE, needs_of
from patchkin.translation.tiles import Tiles
from patchkin.translation.translator import Translator


@pytest.fixture
def translator(monkeypatch):
    monkeypatch.setattr(dividing, "SIDE", 128)
    torch.manual_seed(0)
    return Translator(
        Cut(CutConfig(generator=ResNetConfig(ngf=2, blocks=1))), device="cpu", owned=True
    )


@pytest.fixture
def free(monkeypatch):
    """Sets the memory that is said to be free."""

    def set_free(number):
        monkeypatch.setattr(dividing, "free_bytes", lambda device: number)

    return set_free


def noise(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


class Seen:
    """Sizes of the images that a translator was given."""

    def __init__(self, translator, monkeypatch, fails_above=10**9):
        self.sizes = []
        arrays = translator.arrays

        def watched(x_BCHW, styles_BS=None):
            self.sizes.append(x_BCHW.shape[-2:])
            if max(x_BCHW.shape[-2:]) > fails_above:
                raise RuntimeError("could not create a primitive")
            return arrays(x_BCHW, styles_BS)

        monkeypatch.setattr(translator, "arrays", watched)


def test_what_fits_stays_whole_and_the_rest_is_divided(translator, free, monkeypatch):
    seen, told = Seen(translator, monkeypatch), []
    divided = DividingTranslator(translator, "auto", tell=told.append)
    x_BCHW = noise(1, 3, 70, 230)
    for plenty in (10**12, None):
        free(plenty)
        whole_BCHW = divided.arrays(x_BCHW)
        assert seen.sizes.pop() == (70, 230)
        assert not told
    free(int(divided.needs.bytes_per_pixel * 70 * 230))  # of which only a share is used
    for _ in range(2):
        parts_BCHW = divided.arrays(x_BCHW)
    assert max(max(size) for size in seen.sizes) == 128
    assert len(told) == 1
    assert "230 x 70 pixels at once would take about" in told[0]
    assert np.abs(parts_BCHW - whole_BCHW).max() < 0.1
    assert divided.arrays(x_BCHW[..., :50, :60]).shape == (1, 3, 50, 60)


def test_memory_that_is_short_in_the_end_divides_too(translator, free, monkeypatch):
    free(None)
    seen = Seen(translator, monkeypatch, fails_above=128)
    y_BCHW = DividingTranslator(translator, "auto").arrays(noise(1, 3, 70, 230))
    assert y_BCHW.shape == (1, 3, 70, 230)
    assert seen.sizes[0] == (70, 230)
    with pytest.raises(RuntimeError, match="primitive"):
        DividingTranslator(translator, "none").arrays(noise(1, 3, 70, 230))


def test_without_parts_what_cannot_fit_is_refused(translator, free):
    whole = DividingTranslator(translator, "none")
    free(1000)
    with pytest.raises(memory.TooLargeError, match=r"at least .* GB .* leave out `--tile none`"):
        whole.arrays(noise(1, 3, 70, 230))


def test_methods_that_divide_images_themselves_get_them_whole(translator, free, monkeypatch):
    seen = Seen(translator, monkeypatch)
    monkeypatch.setattr(Cut, "tiling", "internal")
    DividingTranslator(translator, Tiles(side=32, overlap=8)).arrays(noise(1, 3, 70, 230))
    assert seen.sizes == [(70, 230)]


def test_parts_below_the_smallest_image_are_refused(translator, monkeypatch):
    monkeypatch.setattr(translator.method, "min_size", 40)
    with pytest.raises(ConfigError, match="must be at least 40 pixels for this model; got 32"):
        DividingTranslator(translator, Tiles(side=32, overlap=0))


def test_threads_that_the_system_refuses_end_it_in_one_line(translator, free, monkeypatch):
    start, started = image_norms.threading.Thread.start, []

    def refused(thread):
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    divided = DividingTranslator(translator, Tiles(side=32, overlap=8))
    assert divided.needs.halo
    monkeypatch.setattr(image_norms.threading.Thread, "start", refused)
    with pytest.raises(memory.TooLargeError, match="gives only 2 threads; use a larger --tile"):
        divided.arrays(noise(1, 3, 40, 90))
    for thread in started:
        thread.join(10)
        assert not thread.is_alive()


def test_free_memory_is_the_least_that_anyone_leaves(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("4000\n")
    assert list(memory._of_container(tmp_path)) == [1000]
    (tmp_path / "memory.max").write_text("max\n")
    assert list(memory._of_container(tmp_path)) == []
    monkeypatch.setattr(memory, "_of_machine", lambda: [7000])
    monkeypatch.setattr(memory, "_of_container", lambda: [6000])
    monkeypatch.setattr(memory, "_of_process", lambda: [8000])
    assert memory.free_bytes() == 6000
    assert memory.free_bytes(torch.device("mps")) is None


@pytest.mark.parametrize(
    ("precision", "bits", "workspace"),
    [("32-true", 32, WORKSPACE), ("bf16-mixed", 16, NARROW_WORKSPACE)],
)
def test_what_an_image_needs_is_its_maps_and_what_convolutions_copy(precision, bits, workspace):
    translator = Translator.load("horse2zebra-preview", device="cpu", precision=precision)
    needs = needs_of(translator)
    assert needs.workspace == workspace
    one_map = 16 * bits / 8  # bytes of a pixel, of 16 channels at full size
    assert 2 * one_map < needs.bytes_per_pixel / workspace < 5 * one_map


def test_live_maps_are_those_that_are_held():
    with LiveMaps() as live:
        kept = torch.zeros(100)
        view = kept[10:]
        (kept + 1).exp()
        other = torch.ones(50, dtype=torch.float64)
    assert view.numel() == 90
    assert other.numel() == 50
    assert sorted(storage.nbytes() for storage in live.storages()) == [400, 400]
    assert live.peak == 1200


@pytest.mark.parametrize("tile", ["none", "auto"])
def test_a_file_too_large_is_one_line_and_the_next_go_on(tmp_path, monkeypatch, capsys, tile):
    """As oneDNN fails where memory is short: in parts too."""
    arrays = Translator.arrays

    def short(self, x_BCHW, styles_BS=None):
        if max(x_BCHW.shape[-2:]) > 40:
            raise RuntimeError("could not create a primitive")
        return arrays(self, x_BCHW, styles_BS)

    monkeypatch.setattr(Translator, "arrays", short)
    for name, size in {"a": (600, 20), "b": (30, 20)}.items():
        Image.new("RGB", size, (9, 90, 200)).save(tmp_path / f"{name}.png")
    command = ["translate", "horse2zebra-preview", str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    command += ["-o", str(tmp_path / "out"), "--tile", tile, "--device", "cpu"]
    assert main(command) == 2
    told = capsys.readouterr().err.splitlines()
    errors = [line for line in told if line.startswith("patchkin: error")]
    short = "needs more memory than there is (--tile 512, or smaller parts, need less)."
    assert errors == [f"patchkin: error: `{tmp_path / 'a.png'}` {short}"]
    assert (tmp_path / "out" / "b.png").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tile", "many"], "`--tile` is a number of pixels, `auto` or `none`; got `many`"),
        (["--tile", "8"], "`--tile` must be at least 16 pixels; got 8"),
        (["--tile", "64", "--resize", "64"], "leave out --tile"),
    ],
)
def test_options_that_contradict_each_other_are_told(tmp_path, capsys, options, words):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    command = ["translate", "horse2zebra-preview", str(tmp_path / "a.png")]
    assert main([*command, "-o", str(tmp_path / "out"), *options]) == 2
    assert words in capsys.readouterr().err


def test_a_translator_that_takes_one_call_at_a_time_cannot_share_norms(translator):
    other = Translator(translator.method, device="cpu")
    with pytest.raises(ConfigError, match=r"Translator\.load"):
        DividingTranslator(other, Tiles(side=32, overlap=8))
    DividingTranslator(other, Tiles(side=32, overlap=8), norm="tile")


def test_faults_of_methods_in_parts(translator):
    (fault,) = translator.method.tiling_faults()
    assert "norms take statistics over each part" in fault
    assert translator.method.tiling_faults(norms=False) == []
    assert translator.tiling == "discouraged"
    told = {
        name: method(next(iter(method.presets.values())).method).tiling_faults(norms=False)
        for name, method in METHODS.items()
        if name in ("sincut", "pix2pix", "travelgan")
    }
    assert "noise that belongs to a place" in told["sincut"][0]
    assert "every pixel depends on the whole image" in told["pix2pix"][0]
    assert told["travelgan"] == []
