"""A server in a process of its own, with a tiny run and a model of three styles, and a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from browsing import browser
from cli.conftest import finished_run, toy_root
from patchkin.cli import main
from patchkin.data.toy import write_domain_toy
from patchkin.methods import METHODS
from tinting import STYLED

__all__ = ["browser", "finished_run", "toy_root"]

TESTS = Path(__file__).parents[1]
PROGRAM = """
import sys
sys.path[:0] = [{tests!r}]
{before}
from patchkin.cli import main
from patchkin.methods import METHODS
from tinting import STYLED
sys.exit(main(sys.argv[1:], methods={{**METHODS, **STYLED}}))
"""


class Server:
    """A process that answers at an address."""

    def __init__(self, process, address):
        self.process, self.address = process, address

    @property
    def resident_mib(self):
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024

    @property
    def threads(self):
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    @property
    def handles(self):
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    @property
    def room(self):
        """Folders of visitors and of uploads."""
        held = Path(f"/proc/{self.process.pid}/environ").read_bytes()
        folder = re.search(rb"TMPDIR=([^\0]+)", held)[1].decode()
        (room,) = Path(folder).glob("patchkin-demo-*")
        return room


@contextmanager
def served(folder, *arguments, before=""):
    folder.mkdir(exist_ok=True)
    source = Path(main.__code__.co_filename).parents[2]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{source}",
        "TMPDIR": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-c",
        PROGRAM.format(tests=str(TESTS), before=before),
        "demo",
        *arguments,
    ]
    with (folder / "said.txt").open("w") as said:
        process = subprocess.Popen(
            [*map(str, command), "--port", "0", "--device", "cpu"],
            stdout=said, stderr=said, env=environment, cwd=folder,
        )  # fmt: skip
    try:
        address = _address(process, folder / "said.txt")
        yield Server(process, address)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(90)
    assert "Exception in ASGI" not in (folder / "said.txt").read_text()
    assert process.returncode == 0
    assert not list(folder.glob("patchkin-demo-*")), "the server leaves its files behind"


def _address(process, said):
    import time

    for _ in range(3000):
        found = re.search(r"^(http://\S+)$", said.read_text(), re.MULTILINE)
        if found and "Ctrl" in said.read_text():
            return found[1]
        assert process.poll() is None, said.read_text()
        time.sleep(0.1)
    raise AssertionError(said.read_text())


@pytest.fixture(scope="session")
def tinted_run(tmp_path_factory):
    root = tmp_path_factory.mktemp("domains")
    write_domain_toy(root, train=4, test=3)
    run_dir = tmp_path_factory.mktemp("tinted") / "tint"
    arguments = ["train", "tint", "--data", str(root), "--run-dir", str(run_dir), "--steps", "2"]
    quick = ["--size", "32", "--device", "cpu", "--workers", "0"]
    assert main([*arguments, *quick], methods={**METHODS, **STYLED}) == 0
    return run_dir


@pytest.fixture(scope="session")
def paired_run(toy_root, tmp_path_factory):
    """Of a method that translates both ways."""
    run_dir = tmp_path_factory.mktemp("paired") / "pair"
    arguments = ["train", "tint-pair", "--data", str(toy_root), "--run-dir", str(run_dir)]
    quick = ["--steps", "2", "--size", "32", "--device", "cpu", "--workers", "0"]
    assert main([*arguments, *quick], methods={**METHODS, **STYLED}) == 0
    return run_dir


@pytest.fixture(scope="session")
def server(finished_run, tinted_run, paired_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    runs = folder / "runs"
    shutil.copytree(finished_run, runs / "first")
    models = (finished_run, tinted_run, paired_run)
    with served(folder, *models, "--runs", runs, "--max-upload", "2") as server:
        server.runs = runs
        yield server


@pytest.fixture
def deep_png(tmp_path):
    """16 bits, with alpha: more than a browser or an 8-bit file holds."""
    from patchkin.images.container import Container
    from patchkin.images.saving import Page, write_pages

    rng = np.random.default_rng(0)
    levels = rng.integers(0, 1 << 16, (3, 40, 48), np.uint16)
    alpha = rng.integers(0, 1 << 16, (40, 48), np.uint16)
    path = tmp_path / "deep.png"
    write_pages(path, [Page(levels, alpha)], Container())
    return path


def small_png(path, size=(48, 40), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


OF_GRADIO = "Method not implemented."
"""What its client logs, as information, with every upload."""
PHONE = {"width": 390, "height": 844}


class Visit:
    """A page, with what it says on the console and what it asks for."""

    def __init__(self, browser, server, **options):
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(60_000)
        self.said, self.asked, self.address = [], [], server.address
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(server.address)
        self.page.wait_for_selector("#examples img")

    def choose_model(self, number):
        self.page.get_by_label("Model").click()
        self.page.get_by_role("option").nth(number).click()
        self.page.wait_for_timeout(1000)  # what can be chosen for it comes with the answer

    def status(self, part):
        wanted = f"document.querySelector('#status').innerText.includes({json.dumps(part)})"
        self.page.wait_for_function(wanted)
        return self.page.inner_text("#status")

    def images(self, selector, number):
        wanted = f"document.querySelectorAll('{selector} img').length === {number}"
        self.page.wait_for_function(wanted)

    def close(self):
        """Everything came from the server, every image is there, nothing was complained of."""
        self.page.evaluate("for (const image of document.images) image.loading = 'eager'")
        self.page.wait_for_function(
            "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
        )
        outside = [
            url for url in self.asked if not url.startswith((self.address, "data:", "blob:"))
        ]
        self.page.close()
        assert [line for line in self.said if line != OF_GRADIO] == []
        assert outside == []


@pytest.fixture
def visiting(browser):
    """Opens pages of a server; at the end each must be whole and have been silent."""
    visits = []

    def make(server, **options):
        visits.append(Visit(browser, server, **options))
        return visits[-1]

    yield make
    for one in visits:
        if not one.page.is_closed():
            one.close()


@pytest.fixture
def visit(visiting, server):
    return partial(visiting, server)
