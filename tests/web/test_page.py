"""The page in a real browser: what a visitor does, what loads, and from where."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from patchkin.cli import main
from patchkin.images import read_image
from patchkin.methods import METHODS
from patchkin.translation.styles import drawn_styles
from patchkin.translation.translator import Translator
from tinting import STYLED
from web.conftest import PHONE, small_png

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_an_image_is_translated_and_comes_back_as_it_was_given(
    visit, deep_png, finished_run, tmp_path
):
    """16 bits and alpha; the same file as `patchkin translate` writes."""
    there = visit()
    there.page.set_input_files("#upload input", deep_png)
    there.status("1 translation in")
    there.images("#slider", 2)
    with there.page.expect_download() as download:
        there.page.click("#download")
    kept = tmp_path / "kept" / download.value.suggested_filename
    download.value.save_as(kept)
    arguments = ["translate", finished_run, deep_png, "-o", tmp_path / "out", "--device", "cpu"]
    assert main([str(argument) for argument in arguments]) == 0
    found, wanted = read_image(kept), read_image(tmp_path / "out" / "deep.png")
    assert kept.name == "deep.png"
    assert found.encoding.bits == 16
    assert np.abs(np.int64(found.pixels) - np.int64(wanted.pixels)).max() <= 1
    assert np.array_equal(found.alpha, read_image(deep_png).alpha)


def test_a_point_is_compared_tap_by_tap_on_a_phone_too(visit):
    there = visit(viewport=PHONE)
    there.page.click("#examples button >> nth=0")
    there.status("1 translation in")
    there.page.locator("#before img").click(position={"x": 30, "y": 40})
    there.page.wait_for_function("document.querySelector('#agreement').innerText.includes('Tap')")
    taps = there.page.locator("#taps input")
    assert taps.count() == 5
    first = there.page.get_attribute("#before img", "src")
    taps.nth(4).check()
    there.page.wait_for_function(
        "before => document.querySelector('#before img').src !== before", arg=first
    )
    wide = there.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= PHONE["width"]


def test_styles_are_drawn_and_all_come_in_one_file(visit, tinted_run, tmp_path):
    image = small_png(tmp_path / "image.png")
    there = visit()
    there.choose_model(1)
    there.page.get_by_label("Drawn at random").check()
    there.page.wait_for_selector("text=Seed")
    there.page.set_input_files("#upload input", image)
    there.status("4 translations in")
    there.images("#results", 4)
    assert "it has no head that compares patches" in there.page.inner_text("#explore")
    assert not there.page.is_visible("#before")
    with there.page.expect_download() as download:
        there.page.click("#download")
    translator = Translator.load(tinted_run, methods={**METHODS, **STYLED}, device="cpu")
    styles = drawn_styles(translator, 4, seed=0, domain=0)
    pixels = np.asarray(Image.open(image))
    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.namelist() == [f"image_plain_s{number}.png" for number in range(4)]
        for name, style in zip(archive.namelist(), styles, strict=True):
            found = np.asarray(Image.open(archive.open(name)))
            wanted = translator(pixels, torch.as_tensor(style.vector_S)[None])
            assert np.abs(np.int64(found) - np.int64(wanted)).max() <= 1


def test_a_run_is_seen_to_grow(visit, server):
    there = visit()
    there.page.get_by_role("tab", name="Runs").click()
    there.page.wait_for_selector("text=3 of 3")
    curves = there.page.locator("#term-curves figure").count()
    assert curves > 3
    log = server.runs / "first" / "log.jsonl"
    before = log.read_text()
    last = next(line for line in reversed(before.splitlines()) if '"terms"' in line)
    record = {**json.loads(last), "step": 9}
    try:
        with log.open("a") as file:
            file.write(json.dumps(record) + "\n")
        there.page.wait_for_selector("text=step 9")
        assert there.page.locator("#term-curves figure").count() == curves
        there.page.click("#compare")
        frame = there.page.frame_locator("iframe.comparison")
        frame.get_by_text("What the scores mean").wait_for()
    finally:
        log.write_text(before)  # other tests look at this run


def test_everything_is_reached_by_keys(visit):
    there = visit()
    reached = set()
    for _ in range(40):
        there.page.keyboard.press("Tab")
        reached.add(
            there.page.evaluate(
                "(document.activeElement.closest('[id]') || document.body).id + ' ' +"
                "document.activeElement.innerText"
            ).strip()
        )
    text = " ".join(reached)
    for part in ("upload", "folder", "examples", "translate", "tab-"):
        assert part in text or part in text.lower(), (part, reached)
    there.page.focus("#examples button >> nth=0")
    there.page.keyboard.press("Enter")
    there.status("1 translation in")


@pytest.mark.slow
def test_a_job_is_cancelled_and_what_is_done_can_be_had(visit, tmp_path):
    files = [small_png(tmp_path / f"{n}.png", (256, 256), n) for n in range(60)]
    there = visit()
    there.page.set_input_files("#upload input", files)
    there.status("Translating 3 of 60")
    there.page.click("#cancel")
    there.status("Cancelled:")
    assert there.page.inner_text("#download").startswith("Download all")


def test_a_file_that_is_no_image_is_named(visit, tmp_path):
    """And the page goes on."""
    (tmp_path / "notes.png").write_text("no <b>image</b>")
    there = visit()
    there.page.set_input_files("#upload input", tmp_path / "notes.png")
    told = there.status("No image could be translated")
    assert "notes.png" in told
    there.page.click("#examples button >> nth=1")
    there.status("1 translation in")
