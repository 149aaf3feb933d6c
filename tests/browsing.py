"""Pages are looked at in Chromium, by its own means of being driven."""

from __future__ import annotations

import os
import shutil

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
