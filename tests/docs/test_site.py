"""The built site: no link is dead, nothing comes from elsewhere, and a browser shows it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

from browsing import browser
from docs.blocks import ROOT

__all__ = ["browser"]
pytestmark = pytest.mark.slow
FETCHED = {"img": "src", "script": "src", "link": "href", "source": "src", "iframe": "src"}
WIDTHS = {"desk": 1280, "phone": 390}
LOOKED_AT = (
    *("index.html", "start.html", "methods/semantic-relation.html", "choosing.html"),
    *("gallery.html", "examples/own_photos.ipynb.html"),
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


class Page(HTMLParser):
    """What a page links to, what it fetches, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors.add(found.get("id") or "")
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in FETCHED and found.get(FETCHED[tag]):
            self.fetched.append(found[FETCHED[tag]])


def pages_of(site):
    return {
        path: Page(path.read_text(encoding="utf-8"))
        for path in site.rglob("*.html")
        if path.name != "404.html"
    }


def test_no_link_of_the_built_pages_is_dead(site):
    pages, dead = pages_of(site), []
    for path, page in pages.items():
        for link in page.links + page.fetched:
            address = urlsplit(link)
            if address.scheme:
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            missing = not target.exists()
            if not missing and address.fragment and target in pages:
                missing = unquote(address.fragment) not in pages[target].anchors
            if missing:
                dead.append(f"{path.relative_to(site)}: {link}")
    assert len(pages) > 60
    assert dead == []


def test_nothing_is_fetched_from_another_host(site):
    for path, page in pages_of(site).items():
        fetched = [link for link in page.fetched if urlsplit(link).netloc]
        assert fetched == [], path
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", path.read_text(encoding="utf-8")), path


def test_formulas_are_mathml_and_need_no_script(site):
    text = (site / "methods" / "cut.html").read_text(encoding="utf-8")
    assert text.count("<math") >= 3
    assert "arithmatex" not in text


@pytest.fixture(scope="module")
def address(site):
    """Where the site is served on this machine."""
    handler = partial(QuietHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


class QuietHandler(SimpleHTTPRequestHandler):
    """Says nothing of each request."""

    def log_message(self, format, *arguments):
        pass


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("name", LOOKED_AT)
def test_a_browser_shows_a_page_whole(address, browser, name, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    addresses, errors = [], []
    page.on("request", lambda request: addresses.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.goto(f"{address}/{name}")
    page.wait_for_load_state("networkidle")
    assert [asked for asked in addresses if not asked.startswith((address, "data:", "blob:"))] == []
    assert errors == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    images = page.eval_on_selector_all("article img", "images => images.map(i => i.naturalWidth)")
    assert all(images)
    page.close()
