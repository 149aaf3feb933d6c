"""Styles, domains, directions, folders, and files that nobody should send: through the page."""

from __future__ import annotations

import io
import re
import zipfile

import numpy as np
import pytest
from PIL import Image

from bombs import png_bomb
from patchkin.methods import METHODS
from patchkin.translation.translator import Translator
from tinting import STYLED
from web.conftest import served, small_png

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def downloaded(there):
    """The name and the content of what the button gives."""
    with there.page.expect_download() as download:
        there.page.click("#download")
    return download.value.suggested_filename, download.value.path()


def pixels(file):
    with Image.open(file) as image:
        return np.int64(np.asarray(image))


@pytest.mark.slow
def test_a_domain_and_the_style_of_an_image(visit, tinted_run, tmp_path):
    """Of this model the style of an image is its mean colour, whatever the domain."""
    image = small_png(tmp_path / "image.png")
    Image.new("RGB", (20, 20), (200, 60, 120)).save(tmp_path / "style.png")
    there = visit()
    there.choose_model(1)
    there.page.get_by_label("Domain").click()
    there.page.get_by_role("option").nth(1).click()
    there.page.get_by_label("Of an image").check()
    there.page.set_input_files("#upload input", image)
    there.status("Give an image that has the style.")
    there.page.set_input_files("#reference input", tmp_path / "style.png")
    there.page.wait_for_selector("#reference >> text=style.png")
    there.page.click("#translate")
    there.status("1 translation in")
    name, file = downloaded(there)
    assert re.fullmatch(r"image_[a-z]+_style\.png", name)
    translator = Translator.load(tinted_run, methods={**METHODS, **STYLED}, device="cpu")
    assert name.split("_")[1] == translator.domains[1]
    style = translator.method.reference_styles(
        translator.read(tmp_path / "style.png")[0][None], domain=1
    )
    wanted = np.int64(np.asarray(translator(pixels(image).astype(np.uint8), style)))
    assert np.abs(pixels(file) - wanted).max() <= 1


SLOW_FIRST = """
import time
from patchkin.web.page import ModelTab
asked = ModelTab._on_model
def slowly(tab, name):
    time.sleep(5 if name == tab._shown.models.names[0] else 0)
    return asked(tab, name)
ModelTab._on_model = slowly
"""


def test_a_model_that_is_chosen_before_the_first_is_known(
    finished_run, tinted_run, tmp_path, visiting
):
    """What can be chosen is that of the model on the page, however late a former answer comes."""
    folder = tmp_path / "server"
    with served(folder, finished_run, tinted_run, before=SLOW_FIRST) as server:
        there = visiting(server)
        there.choose_model(1)
        there.page.wait_for_timeout(7000)
        assert there.page.get_by_label("Domain").is_visible()
        there.close()


def test_the_other_direction(visit, paired_run, tmp_path):
    images = {"A to B": small_png(tmp_path / "a.png"), "B to A": small_png(tmp_path / "b.png")}
    found = {}
    there = visit()
    there.choose_model(2)
    for direction, image in images.items():
        there.page.get_by_label(direction).check()
        there.page.set_input_files("#upload input", image)
        there.page.wait_for_selector(f"#download:has-text('{image.name}')")
        found[direction] = pixels(downloaded(there)[1])
        if direction == "A to B":
            there.page.get_by_label("Clear").first.click()
            there.page.wait_for_selector("#upload input", state="attached")
    for direction, name in (("A to B", "AtoB"), ("B to A", "BtoA")):
        translator = Translator.load(
            paired_run, methods={**METHODS, **STYLED}, device="cpu", direction=name
        )
        wanted = np.int64(np.asarray(translator(pixels(images[direction]).astype(np.uint8))))
        assert np.abs(found[direction] - wanted).max() <= 1, direction
    assert np.abs(found["A to B"] - found["B to A"]).max() > 5


def test_a_whole_folder_comes_back_as_one_file(visit, finished_run, tmp_path):
    """Each as the kind of file that it was."""
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    small_png(folder / "a.png", seed=1)
    small_png(folder / "below" / "a.png", seed=2)
    with Image.open(folder / "a.png") as image:
        image.save(folder / "b.jpg", quality=95)
    there = visit()
    with there.page.expect_file_chooser() as chooser:
        there.page.click("#folder")
    chooser.value.set_files(folder)
    there.status("3 translations in")
    there.images("#results", 3)
    name, file = downloaded(there)
    assert name == "translations.zip"
    translator = Translator.load(finished_run, device="cpu")
    wanted = [
        np.asarray(translator(pixels(path).astype(np.uint8)))
        for path in (folder / "a.png", folder / "below" / "a.png")
    ]
    with zipfile.ZipFile(file) as archive:
        assert sorted(archive.namelist()) == ["a.png", "a_2.png", "b.jpg"]
        assert archive.read("b.jpg").startswith(b"\xff\xd8\xff")
        found = [pixels(io.BytesIO(archive.read(name))) for name in ("a.png", "a_2.png")]
    differences = [[np.abs(one - np.int64(other)).max() for other in wanted] for one in found]
    assert sorted(np.argmin(differences, axis=1)) == [0, 1]
    assert np.min(differences, axis=1).max() <= 1


def test_bad_files_are_named_and_the_others_are_made(visit, server, tmp_path):
    noise = tmp_path / "half.jpg"
    Image.effect_noise((64, 64), 90).save(noise)
    noise.write_bytes(noise.read_bytes()[:900])
    (tmp_path / "notes.png").write_text("no <b>image</b>")
    (tmp_path / "bomb.png").write_bytes(png_bomb(20000))
    one = small_png(tmp_path / "one.png", (1, 1))
    files = [noise, tmp_path / "notes.png", tmp_path / "bomb.png", one]
    there = visit()
    there.page.set_input_files("#upload input", files)
    told = there.status("1 translation in")
    for name in ("half.jpg", "notes.png", "bomb.png"):
        assert told.count(name) == 1, told
    assert "exceeds limit" in told
    assert str(server.room) not in told
    assert "Traceback" not in told
    name, file = downloaded(there)
    assert (name, pixels(file).shape) == ("one.png", (1, 1, 3))


@pytest.mark.slow
def test_too_many_who_wait_are_told(finished_run, tmp_path, visiting):
    """A queue of one: a second and a third page ask while a first one computes."""
    files = [small_png(tmp_path / f"{n}.png", (256, 256), n) for n in range(40)]
    program = "from patchkin.web import application; application.QUEUE = 1"
    with served(tmp_path / "server", finished_run, before=program) as server:
        first, second, third = (visiting(server) for _ in range(3))
        first.page.set_input_files("#upload input", files)
        first.status("Translating 2 of 40")
        second.page.set_input_files("#upload input", files[0])
        second.status("Waiting for its turn.")
        third.page.click("#examples button >> nth=0")
        third.status("If too many wait, try again in a moment.")
        assert third.page.is_disabled("#cancel")
        third.said.clear()  # 503, as the browser tells it
        first.page.click("#cancel")
        first.status("Cancelled:")
        assert first.page.inner_text("#download").startswith("Download all")
        second.status("1 translation in")
        third.page.click("#translate")
        third.status("1 translation in")
        for one in (first, second, third):
            one.close()
