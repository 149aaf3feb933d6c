"""Pages are looked at in Chromium, by its own means of being driven."""

from __future__ import annotations

import os
import shutil
import time

import pytest

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
needs_chromium = [
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("CI"), reason="no Chromium on this machine"
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
"""Marks; where CI is set, a machine without it fails."""


@pytest.fixture(scope="module")
def browser():
    """Of a file of tests: two drivers at once in one process do not go together."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "the pages are looked at in Chromium, which is not on this machine"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


SECONDS_TO_REST = 60
CONTRAST = r"""() => {
  const dot = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const numbers = (colour) => {
    dot.clearRect(0, 0, 1, 1);
    dot.fillStyle = colour;
    dot.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = dot.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (upper, lower, share) =>
    [0, 1, 2].map((n) => upper[n] * share + lower[n] * (1 - share));
  const channel = (x) => (x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((x) => channel(x / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    if (!node) return [255, 255, 255];
    const colour = numbers(getComputedStyle(node).backgroundColor);
    return colour[3] === 1 ? colour : over(colour, behind(node.parentElement), colour[3]);
  };
  const opacity = (node) =>
    node ? Number(getComputedStyle(node).opacity) * opacity(node.parentElement) : 1;
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const words = [...node.childNodes].filter((n) => n.nodeType === 3).map((n) => n.textContent);
    const typed = node.matches("input:is([type=text], [type=number], :not([type])), textarea");
    const text = (typed ? node.value : words.join(" ")).trim();
    const hidden = { opacityProperty: true, visibilityProperty: true };
    const isRead = /[\p{L}\p{N}]/u.test(text) && node.checkVisibility(hidden);
    if (!isRead || node.closest(":disabled, [aria-disabled=true]")) continue;
    const style = getComputedStyle(node), ground = behind(node), colour = numbers(style.color);
    const pair = [light(over(colour, ground, colour[3] * opacity(node))), light(ground)];
    pair.sort((a, b) => b - a);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    found.push([text.slice(0, 30), (pair[0] + 0.05) / (pair[1] + 0.05), large ? 3 : 4.5]);
  }
  return found;
}"""
"""What is read on a page, with its contrast and the least that WCAG 2 (AA) wants of it."""


def unreadable(page):
    """Texts of a page below that contrast once it is at rest; there must be some text."""
    end = time.monotonic() + SECONDS_TO_REST
    while True:  # what is about to change is shown pale
        found = page.evaluate(CONTRAST)
        assert found
        pale = [(text, round(ratio, 2)) for text, ratio, least in found if ratio < least]
        if not pale or time.monotonic() > end:
            return pale
        page.wait_for_timeout(100)
