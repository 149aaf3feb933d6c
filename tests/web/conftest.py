"""A server in a process of its own, with a tiny run and a model of three styles, and a browser."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
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
    def room(self):
        """Folders of visitors and of uploads."""
        held = Path(f"/proc/{self.process.pid}/environ").read_bytes()
        folder = re.search(rb"TMPDIR=([^\0]+)", held)[1].decode()
        (room,) = Path(folder).glob("patchkin-demo-*")
        return room


@contextmanager
def served(folder, *arguments):
    folder.mkdir(exist_ok=True)
    source = Path(main.__code__.co_filename).parents[2]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{source}",
        "TMPDIR": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", PROGRAM.format(tests=str(TESTS)), "demo", *arguments]
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
def server(finished_run, tinted_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    runs = folder / "runs"
    shutil.copytree(finished_run, runs / "first")
    with served(folder, finished_run, tinted_run, "--runs", runs, "--max-upload", "2") as server:
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
