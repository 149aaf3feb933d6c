"""What nobody should send, and everything at once: each is answered, and memory comes back.

`pytest tests/web/test_hostile.py -m slow -s` prints the figures of benchmarks/web.
"""

from __future__ import annotations

import re
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bombs import png_bomb
from patchkin.web.examples import examples
from patchkin.web.models import Models
from patchkin.web.shown import Shown
from patchkin.web.visitors import Visitors
from web.conftest import served, small_png

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of gradio's client, which is not ours
]
TOKEN = "a-long-enough-token"
ROUNDS = (1, 2, 3)


def client_of(address, **options):
    from gradio_client import Client

    return Client(address, verbose=False, **options)


def asked(client, image, *, model="", domain="", seed=None, large="enlarge"):
    from gradio_client import handle_file

    return client.predict(
        handle_file(str(image)), model, domain, seed, large, api_name="/translate"
    )


@pytest.fixture(scope="module")
def client(server):
    return client_of(server.address)


def tell(line):
    sys.stderr.write(f"\n{line}\n")


def broken_jpeg(path):
    Image.effect_noise((64, 64), 90).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def test_what_cannot_be_translated_is_told(client, server, tmp_path):
    from gradio_client.exceptions import AppError

    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "bomb.png").write_bytes(png_bomb(20000))
    wrong = {
        "text.png": "cannot be decoded",
        "empty.png": "the file is empty",
        "bomb.png": r"400000000 pixels\) exceeds limit",
    }
    for name, said in wrong.items():
        with pytest.raises(AppError, match=said) as told:
            asked(client, tmp_path / name)
        assert "Traceback" not in str(told.value)
        assert str(server.room) not in str(told.value)
    with pytest.raises(AppError, match="cannot be decoded"):
        asked(client, broken_jpeg(tmp_path / "half.jpg"))
    small_png(tmp_path / "a.png")
    for options, said in (
        ({"model": "/etc/passwd"}, "There is no model `/etc/passwd`"),
        ({"large": "other"}, "other"),
    ):
        with pytest.raises((AppError, ValueError), match=said):
            asked(client, tmp_path / "a.png", **options)


def test_one_pixel_is_an_image(client, tmp_path):
    with Image.open(asked(client, small_png(tmp_path / "one.png", (1, 1)))) as image:
        assert image.size == (1, 1)


def test_a_file_above_the_limit_is_refused(client, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    with pytest.raises(Exception, match=r"(?i)413|size"):
        asked(client, tmp_path / "large.png")


def test_the_server_fetches_no_address_and_reads_no_file_of_its_own(client, server):
    from gradio_client.exceptions import AppError

    for held in (
        {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}},
        {"path": "http://203.0.113.7/a.png", "url": "http://203.0.113.7/a.png",
         "meta": {"_type": "gradio.FileData"}},
    ):  # fmt: skip
        begun = time.monotonic()
        with pytest.raises(AppError):
            client.predict(held, "", "", None, "enlarge", api_name="/translate")
        assert time.monotonic() - begun < 20


def test_files_of_the_machine_are_not_served(server):
    for path in ("/etc/hostname", str(server.runs / "first" / "config.yaml")):
        with pytest.raises(urllib.error.HTTPError, match=r"403|404"):
            urllib.request.urlopen(f"{server.address}gradio_api/file={path}")


def test_gradio_keeps_nothing_of_who_left(finished_run, tmp_path):
    from patchkin.web.application import build

    visitors = Visitors(tmp_path)
    shown = Shown(
        models=Models([str(finished_run)], device="cpu"),
        examples=examples(None, tmp_path / "examples"),
        visitors=visitors,
        tile=64,
        max_files=2,
    )
    mounted = build(shown, max_upload_bytes=1).routes[-1].app
    states = mounted.state_holder
    assert states["somebody"] is states["somebody"]
    assert "somebody" in states
    visitors.forget("somebody")
    assert "somebody" not in states


class Watched:
    """The memory of a server while something is done, and ten seconds later."""

    def __init__(self, server, what):
        self.server, self.what = server, what

    def __enter__(self):
        self.before, self.begun = self.server.resident_mib, time.monotonic()
        self.counted = self.server.threads, self.server.handles
        self.highest, self._ended = self.before, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._ended.wait(0.05):
            self.highest = max(self.highest, self.server.resident_mib)

    def __exit__(self, *_):
        seconds = time.monotonic() - self.begun
        self._ended.set()
        self._thread.join()
        time.sleep(10)
        self.after = self.server.resident_mib
        self.left = self.server.threads, self.server.handles
        tell(
            f"{self.what}: {seconds:.1f} s; {self.before:.0f} MiB before, {self.highest:.0f} "
            f"highest, {self.after:.0f} after 10 s; threads and handles {self.counted}, {self.left}"
        )


@pytest.mark.parametrize("round_number", ROUNDS)
def test_memory_comes_back_after_bad_files(client, server, tmp_path, round_number):
    from gradio_client.exceptions import AppError

    (tmp_path / "bomb.png").write_bytes(png_bomb(20000))
    (tmp_path / "text.png").write_text("no image")
    files = [tmp_path / "bomb.png", tmp_path / "text.png", broken_jpeg(tmp_path / "half.jpg")]
    one = small_png(tmp_path / "one.png", (1, 1))
    asked(client, one)
    with Watched(server, f"bad files, round {round_number}") as watched:
        for file in files * 3:
            with pytest.raises(AppError):
                asked(client, file)
            with Image.open(asked(client, one)) as image:
                assert image.size == (1, 1)
    assert watched.highest - watched.before < 60
    assert watched.after - watched.before < 30


@pytest.mark.parametrize("round_number", ROUNDS)
def test_thirty_at_once_are_all_served_and_memory_comes_back(
    server, client, tmp_path, round_number
):
    files = [small_png(tmp_path / f"{n}.png", (200, 200), n) for n in range(30)]
    asked(client, files[0])

    def visit(file):
        visitor = client_of(server.address)
        with Image.open(asked(visitor, file)) as image:
            visitor.close()
            return image.size

    watching = Watched(server, f"30 at once, round {round_number}")
    with watching as watched, ThreadPoolExecutor(30) as pool:
        sizes = list(pool.map(visit, files))
    assert sizes == [(200, 200)] * 30
    assert watched.after - watched.before < (60 if round_number > 1 else 200)


@pytest.mark.parametrize("round_number", ROUNDS)
def test_a_visitor_who_goes_away_stops_the_work(server, browser, client, tmp_path, round_number):
    files = [small_png(tmp_path / f"{n}.png", (256, 256), n) for n in range(100)]
    page = browser.new_page()
    page.goto(server.address)
    page.wait_for_selector("#examples img")
    there = {path.name for path in server.room.iterdir()}
    with Watched(server, f"went away, round {round_number}") as watched:
        page.set_input_files("#upload input", files)
        page.wait_for_function(
            "document.querySelector('#status').innerText.includes('Translating 2')", timeout=120_000
        )
        page.close()
        begun = time.monotonic()
        while {path.name for path in server.room.iterdir()} - there - {"uploads"}:
            assert time.monotonic() - begun < 60, "the work goes on"
            time.sleep(0.1)
        tell(f"the work ended after {time.monotonic() - begun:.1f} s")
    assert watched.after - watched.before < 60
    assert asked(client, files[0])


def test_the_call_of_the_docs_and_a_token(finished_run, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "demo.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    Image.open(small_png(tmp_path / "photo.png")).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    with served(tmp_path / "server", finished_run, "--token", TOKEN) as server:
        address = server.address.partition("?")[0]
        with pytest.raises(Exception, match="credentials were not provided"):
            client_of(address)
        told = f'"{address}", headers={{"Authorization": "Bearer {TOKEN}"}}'
        names = {}
        exec(code.replace('"http://127.0.0.1:7860/"', told), names)
        with Image.open(names["path"]) as found:
            assert (found.size, found.format) == ((48, 40), "JPEG")
