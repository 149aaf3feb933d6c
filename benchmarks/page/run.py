"""The page that translates, in Chromium: what a visitor loads, and how long it takes.

    python benchmarks/page/run.py PAGE PHOTO --sizes 256 512

PAGE is a folder that `patchkin export --page` wrote. A size is the longer side of the photo; the
second translation counts. Beside it stands ONNX Runtime in Python on one thread, in the same run.
Tables go to standard output.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import tempfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from patchkin.images import read_image, to_values
from patchkin.images.values import levels_8bit
from patchkin.translation.onnx_file import OnnxTranslator

DONE = "#status:text('Translated'), #alert:visible"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    options = parser.parse_args()
    print_sizes(options.page)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        print(f"\nChromium {browser.version}\n")
        print_opening(browser, options.page)
        print_translations(browser, options)


def print_sizes(page: Path) -> None:
    """Of each file, as it is and compressed as a server may send it."""
    print("| file | MB | MB as gzip |\n| --- | --- | --- |")
    for file in sorted(page.rglob("*")):
        if file.is_file():
            content = file.read_bytes()
            packed = len(gzip.compress(content)) / 1e6
            name = file.relative_to(page).as_posix()
            print(f"| {name} | {len(content) / 1e6:.2f} | {packed:.2f} |")


def print_opening(browser: Browser, folder: Path) -> None:
    print("| opened | seconds until it can translate |\n| --- | --- |")
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        addresses = {
            "from a disk": (folder / "index.html").as_uri(),
            "from a server": f"http://127.0.0.1:{server.server_port}/",
        }
        for name, address in addresses.items():
            page, seconds = opened(browser, address)
            page.close()
            print(f"| {name} | {seconds:.1f} |")
        server.shutdown()


def opened(browser: Browser, address: str) -> tuple[Page, float]:
    """A page that is ready, and the seconds until then."""
    page = browser.new_page()
    page.set_default_timeout(600_000)
    start = time.perf_counter()
    page.goto(address)
    page.evaluate("() => engine.prepare(() => {})")
    return page, time.perf_counter() - start


def print_translations(browser: Browser, options: argparse.Namespace) -> None:
    print("\n| in Chromium | ONNX Runtime, one thread | levels apart |\n| --- | --- | --- |")
    runner = OnnxTranslator(options.page / "model.onnx", device="cpu", threads=1)
    page, _ = opened(browser, (options.page / "index.html").as_uri())
    for side in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            photo = Path(folder) / "photo.png"
            resized(options.photo, side).save(photo)
            told = [translated(page, photo) for _ in range(2)][-1]
            x_CHW = to_values(read_image(photo, runner.channels[0]))
        start = time.perf_counter()
        y_BCHW = runner.arrays(x_CHW[None])
        seconds = time.perf_counter() - start
        apart = np.abs(shown(page, x_CHW.shape) - levels_8bit(y_BCHW[0]).astype(int)).max()
        print(f"| {told} | {seconds:.2f} s | {apart} |")


def resized(photo: Path, side: int) -> Image.Image:
    with Image.open(photo) as image:
        scale = side / max(image.size)
        width, height = (round(length * scale) for length in image.size)
        return image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def translated(page: Page, photo: Path) -> str:
    """What the page says of a photo, as large as it is."""
    page.set_input_files("#file", photo)
    page.locator(DONE).first.wait_for()
    if page.is_visible("#size"):
        page.select_option("#size", index=page.locator("#size option").count() - 1)
        page.locator(DONE).first.wait_for()
    return page.inner_text("#told").strip()


def shown(page: Page, shape: tuple[int, ...]) -> np.ndarray:
    """Levels [C, H, W] of the translation on the page."""
    _, height, width = shape
    levels = page.evaluate(
        "([w, h]) => [...element('after').getContext('2d').getImageData(0, 0, w, h).data]",
        [width, height],
    )
    return np.reshape(levels, (height, width, 4)).transpose(2, 0, 1)[:3]


if __name__ == "__main__":
    main()
