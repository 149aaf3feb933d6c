"""Whether the page can be read and used: light and dark, on a phone, by keys."""

from __future__ import annotations

import pytest

from browsing import unreadable
from web.conftest import PHONE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def width(page):
    return page.evaluate("document.documentElement.scrollWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast_and_nothing_is_wider_than_a_phone(visit, scheme):
    """Before and after a translation, of a styled model, after a point, and of the runs."""
    there = visit(viewport=PHONE, color_scheme=scheme)
    page = there.page
    dark = page.evaluate("document.body.classList.contains('dark')")
    assert dark == (scheme == "dark")
    assert unreadable(page) == []
    page.click("#examples button >> nth=0")
    there.status("1 translation in")
    page.locator("#before img").click(position={"x": 30, "y": 40})
    page.wait_for_function("document.querySelector('#agreement').innerText.includes('Tap')")
    assert unreadable(page) == []
    assert width(page) <= PHONE["width"]
    there.choose_model(1)
    page.get_by_label("Drawn at random").check()
    page.wait_for_selector("text=Seed")
    assert unreadable(page) == []
    page.get_by_role("tab", name="Runs").click()
    page.wait_for_selector("text=3 of 3")
    assert unreadable(page) == []
    assert width(page) <= PHONE["width"]


def test_all_is_done_by_keys_alone(visit):
    """An example, the download, a point by its numbers."""
    there = visit()
    page, number = there.page, "#by-numbers input[type=number]"

    def reach(selector):
        for _ in range(80):
            page.keyboard.press("Tab")
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                return
        raise AssertionError(selector)

    reach("#examples button")
    page.keyboard.press("Enter")
    there.status("1 translation in")
    reach("#download, #download *")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename.endswith(".png")
    reach("#by-numbers button")
    page.keyboard.press("Enter")
    for _ in range(20):  # the page may redraw the field in between, and a person types again
        if not page.evaluate("s => document.activeElement.matches(s)", number):
            reach(number)
        page.keyboard.press("Control+A")
        page.keyboard.type("25")
        page.wait_for_timeout(250)
        if page.evaluate("document.activeElement.value") == "25":
            break
    else:
        raise AssertionError(page.evaluate("document.activeElement.outerHTML"))
    reach("#compare-point")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#agreement').innerText.includes('Tap')")
