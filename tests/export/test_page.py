"""The page that translates, in Chromium: its pixels are those of ONNX Runtime.

onnxruntime-web comes from npm, once for each machine (`patchkin.export.web_runtime`).
"""

from __future__ import annotations

import io
import shutil
import struct
import threading
import zlib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from browsing import CONTRAST, browser, needs_chromium
from exported_models import STYLED, resnet_method, saved
from metrics.conftest import horse2zebra  # noqa: F401
from patchkin.export.web_page import MODEL, export_page
from patchkin.export.web_runtime import web_runtime
from patchkin.export.writing import ExportSettings
from patchkin.images import read_image, to_values
from patchkin.images.values import levels_8bit
from patchkin.translation.onnx_file import OnnxTranslator
from patchkin.translation.translator import Translator

__all__ = ["browser"]
pytestmark = needs_chromium
LONGEST_WAIT = 60_000


def page_of(folder: Path, model: Path, **settings) -> Path:
    translator = Translator.load(model, device="cpu")
    export_page(
        translator, folder / "page", web_runtime(), ExportSettings(**settings), title="<Tiny> & co"
    )
    return folder / "page"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    return page_of(folder, saved(folder, "resnet"))


class Visitor:
    """A person at the page; what the page logs and asks for is kept."""

    def __init__(self, browser, address: str, **options) -> None:
        self.page = browser.new_page(**options)
        self.messages: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.set_default_timeout(LONGEST_WAIT)
        self.page.goto(address)

    def give(self, path: Path) -> str:
        """Choose a file; returns what the page says of it in the end."""
        self.page.set_input_files("#file", path)
        return self.answer()

    def answer(self) -> str:
        self.page.locator("#status:text('Translated'), #alert:visible").first.wait_for()
        return self.page.inner_text("#told").strip()

    def downloaded(self) -> tuple[str, Image.Image]:
        with self.page.expect_download() as download:
            self.page.click("#download")
        with Image.open(io.BytesIO(Path(download.value.path()).read_bytes())) as image:
            image.load()
            return download.value.suggested_filename, image


@pytest.fixture
def visit(browser):
    """Opens a page; at the end it must have been silent, and have asked nothing elsewhere."""
    visitors = []

    def open_page(folder: Path, address: str | None = None, **options) -> Visitor:
        address = address or (folder / "index.html").as_uri()
        visitors.append((Visitor(browser, address, **options), address))
        return visitors[-1][0]

    yield open_page
    for visitor, address in visitors:
        elsewhere = [
            url for url in visitor.asked if not url.startswith(("file:", "data:", "blob:"))
        ]
        if not address.startswith("file:"):
            elsewhere = [url for url in elsewhere if not url.startswith(address)]
        visitor.page.close()
        assert elsewhere == []
        assert visitor.messages == []


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format, *arguments):
        pass


@pytest.fixture
def served():
    """Serves a folder on this machine."""
    servers = []

    def serve(folder: Path) -> str:
        handler = partial(_Handler, directory=str(folder))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def expected(folder: Path, photo: Path, style: int | None = None) -> np.ndarray:
    """Levels [H, W, C] that ONNX Runtime makes of a file as `translate` reads it."""
    runner = OnnxTranslator(folder / MODEL, device="cpu", threads=1)
    x_CHW = to_values(read_image(photo, runner.channels[0]))
    styles_BS = None if style is None else np.float32([runner.header.styles[style].numbers])
    return levels_8bit(runner.arrays(x_CHW[None], styles_BS)[0]).transpose(1, 2, 0)


def apart(image: Image.Image, levels_HWC: np.ndarray) -> int:
    """Largest difference in levels."""
    got_HWC = np.asarray(image.convert("RGB")).astype(int)
    return int(np.abs(got_HWC - np.broadcast_to(levels_HWC, got_HWC.shape)).max())


# Pixels


@pytest.mark.parametrize("from_server", [False, True], ids=["from a disk", "from a server"])
def test_pixels_are_those_of_onnx_runtime(tiny, visit, served, tmp_path, from_server):
    photo = tmp_path / "my photo.v2.png"
    Image.fromarray(noise(61, 38)).save(photo)
    visitor = visit(tiny, served(tiny) if from_server else None)
    assert visitor.give(photo).startswith("Translated 61 × 38 pixels in ")
    name, image = visitor.downloaded()
    assert name == "my photo.v2_translated.png"
    levels_HWC = expected(tiny, photo)
    assert levels_HWC.std() > 5
    assert apart(image, levels_HWC) <= 1
    assert visitor.page.title() == "<Tiny> & co"
    assert "embedded.js" not in "".join(visitor.asked) or not from_server


def _turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(noise(40, 24)).resize((80, 48)).save(path, quality=95, exif=exif)


def _with_profile(path: Path) -> None:
    """Of a colour space whose red is green: applied, it would be seen."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    Image.fromarray(noise(31, 22)).save(path, icc_profile=bytes(profile))


PHOTOS = {
    "smaller than the model takes.png": lambda path: Image.fromarray(noise(3, 2)).save(path),
    "grey.png": lambda path: Image.fromarray(noise(31, 22, 1)).save(path),
    "palette.png": lambda path: Image.fromarray(noise(31, 22)).quantize(16).save(path),
    "lossless.webp": lambda path: Image.fromarray(noise(31, 22)).save(path, lossless=True),
    "with a profile.png": _with_profile,
    "turned.jpg": _turned,
}


def test_photos_of_many_kinds(tiny, visit, tmp_path):
    visitor = visit(tiny)
    for name, write in PHOTOS.items():
        photo = tmp_path / name
        write(photo)
        levels_HWC = expected(tiny, photo)
        height, width = levels_HWC.shape[:2]
        assert visitor.give(photo).startswith(f"Translated {width} × {height} pixels"), name
        got, image = visitor.downloaded()
        assert got == f"{photo.stem}_translated.png"
        assert apart(image, levels_HWC) <= 1, name


def test_transparency_stays_and_hides_black(tiny, visit, tmp_path):
    levels_HWC = noise(26, 19, 4)
    levels_HWC[..., 3] = np.where(levels_HWC[..., 3] > 99, 255, 0)
    Image.fromarray(levels_HWC).save(tmp_path / "a.png")
    seen_HW = levels_HWC[..., 3] == 255
    Image.fromarray(levels_HWC[..., :3] * seen_HW[..., None]).save(tmp_path / "black.png")
    visitor = visit(tiny)
    visitor.give(tmp_path / "a.png")
    _, image = visitor.downloaded()
    got_HWC = np.asarray(image).astype(int)
    np.testing.assert_array_equal(got_HWC[..., 3], levels_HWC[..., 3])
    apart_HWC = np.abs(got_HWC[..., :3] - expected(tiny, tmp_path / "black.png"))
    assert apart_HWC[seen_HW].max() <= 1


def test_large_photos_are_made_smaller_unless_one_chooses(tiny, visit, tmp_path):
    """Slopes, so that it does not matter how a browser makes images smaller."""
    slopes_HWC = np.stack(np.broadcast_arrays(*np.ogrid[0:180:150j, 0:250:700j], 80), -1)
    whole = Image.fromarray(slopes_HWC.astype(np.uint8))
    whole.save(tmp_path / "wide.png")
    visitor = visit(tiny)
    assert visitor.give(tmp_path / "wide.png").startswith("Translated 256 × 55 pixels")
    sizes = visitor.page.eval_on_selector_all("#size option", "all => all.map(o => o.label)")
    assert sizes == ["256 × 55", "384 × 82", "512 × 110", "700 × 150, as it is"]
    shown = visitor.page.evaluate(
        "() => [...element('before').getContext('2d').getImageData(0, 0, 256, 55).data]"
    )
    shown_HWC = np.reshape(shown, (55, 256, 4))[..., :3]
    assert apart(whole.resize((256, 55), Image.Resampling.BOX), shown_HWC) <= 2
    visitor.page.select_option("#size", label=sizes[-1])
    assert visitor.answer().startswith("Translated 700 × 150 pixels")
    assert apart(visitor.downloaded()[1], expected(tiny, tmp_path / "wide.png")) <= 1


# What goes wrong


def _png_of(width: int, height: int) -> bytes:
    """A header that promises, and no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(10**6))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def test_what_is_no_photo_is_told_and_the_next_is_translated(tiny, visit, tmp_path):
    whole = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(whole, "JPEG")
    files = {
        "text.png": (b"no image", "text.png cannot be read as an image by this browser."),
        "empty.jpg": (b"", "empty.jpg cannot be read as an image"),
        "head.jpg": (whole.getvalue()[:150], "head.jpg cannot be read as an image"),
        "bomb.png": (_png_of(20_000, 20_000), "bomb.png has 20000 × 20000 pixels; this page"),
        "paper.pdf": (b"%PDF-1.4", "paper.pdf cannot be read as an image"),
    }
    visitor = visit(tiny)
    for name, (content, told) in files.items():
        (tmp_path / name).write_bytes(content)
        assert visitor.give(tmp_path / name).startswith(told)
    Image.new("RGB", (1, 1), (9, 99, 200)).save(tmp_path / "dot.png")
    assert visitor.give(tmp_path / "dot.png").startswith("Translated 1 × 1 pixels")
    assert not visitor.page.is_visible("#alert")
    visitor.give(tmp_path / "text.png")  # what was there before stays
    assert visitor.downloaded()[0] == "dot_translated.png"


def test_files_that_are_not_there(tiny, visit, served, tmp_path):
    part = shutil.copytree(tiny, tmp_path / "part")
    (part / MODEL).unlink()
    (part / "embedded.js").unlink()
    visitor = visit(part)
    assert visitor.answer() == "embedded.js is missing. Was the whole folder copied?"
    visitor.messages.clear()  # the browser's own word on it
    visitor = visit(part, served(part))
    told = visitor.answer()
    assert told == "model.onnx cannot be loaded (404). Was the whole folder copied?"
    visitor.messages.clear()


def test_a_browser_without_webassembly_is_told(tiny, browser):
    page = browser.new_page()
    page.add_init_script("delete globalThis.WebAssembly")
    page.goto((tiny / "index.html").as_uri())
    page.locator("#alert:visible").wait_for()
    assert page.inner_text("#alert").startswith("This browser has no WebAssembly with SIMD")
    page.close()


def test_too_little_memory_is_told_and_the_next_is_translated(tiny, visit, tmp_path):
    Image.fromarray(noise(40, 30)).save(tmp_path / "a.png")
    visitor = visit(tiny)
    visitor.give(tmp_path / "a.png")
    visitor.page.evaluate(
        "() => { const ask = engine.ask; engine.ask = () => { engine.ask = ask; "
        "return Promise.reject(new Error('std::bad_alloc')); }; }"
    )
    told = visitor.give(tmp_path / "a.png")
    assert told.startswith("Translating 40 × 30 pixels needs more memory than the browser gives.")
    visitor.page.click("#again")
    assert visitor.answer().startswith("Translated 40 × 30")
    assert apart(visitor.downloaded()[1], expected(tiny, tmp_path / "a.png")) <= 1


def test_a_translation_can_be_cancelled_and_begun_again(tiny, visit, tmp_path):
    Image.fromarray(noise(500, 400)).save(tmp_path / "a.png")
    visitor = visit(tiny)
    visitor.page.evaluate(
        "() => { const post = Worker.prototype.postMessage; Worker.prototype.postMessage = "
        "function (message) { if (message.step === 'open') post.call(this, message); else "
        "Worker.prototype.postMessage = post; }; }"  # the first translation never ends
    )
    visitor.page.set_input_files("#file", tmp_path / "a.png")
    visitor.page.locator("#status:text('Translating 256 × 205')").wait_for()
    visitor.page.click("#cancel")
    assert visitor.page.inner_text("#status") == "Cancelled."
    assert not visitor.page.is_visible("#download")
    visitor.page.click("#again")
    assert visitor.answer().startswith("Translated 256 × 205")


# People


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_can_be_read_and_used_without_a_mouse(tiny, visit, tmp_path, scheme):
    Image.fromarray(noise(120, 90)).save(tmp_path / "a.png")
    phone = {"viewport": {"width": 390, "height": 800}, "color_scheme": scheme, "has_touch": True}
    visitor = visit(tiny, **phone)
    page = visitor.page
    before = page.evaluate(CONTRAST)
    visitor.give(tmp_path / "a.png")
    after = page.evaluate(CONTRAST)
    assert {"<Tiny> & co", "Choose a photo"} <= {text for text, *_ in before}
    assert {"photo", "translation", "Download PNG"} <= {text for text, *_ in after}
    assert [told for told in before + after if told[1] < told[2]] == []
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    reached = []
    page.evaluate("() => document.activeElement.blur()")
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.id"))
    assert reached[:3] == ["split", "download", "choose"]
    page.focus("#split")
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    clip = page.evaluate("() => getComputedStyle(element('after')).clipPath")
    assert clip == "inset(0px 0px 0px 40%)"


def test_photos_are_dropped_and_pasted(tiny, visit, tmp_path):
    photo = tmp_path / "a.png"
    Image.fromarray(noise(33, 21)).save(photo)
    carried = """([kind, levels, count]) => {
      const carrier = new DataTransfer();
      for (let n = 0; n < count; n++) {
        carrier.items.add(new File([Uint8Array.from(levels)], "a.png", { type: "image/png" }));
      }
      const event = kind === "drop"
        ? new DragEvent("drop", { dataTransfer: carrier, cancelable: true })
        : new ClipboardEvent("paste", { clipboardData: carrier });
      window.dispatchEvent(event);
    }"""
    visitor = visit(tiny)
    for kind, count, told in (("drop", 3, "the first of 3."), ("paste", 1, "s.")):
        visitor.page.evaluate(carried, [kind, [*photo.read_bytes()], count])
        assert visitor.answer().startswith("Translated 33 × 21")
        assert visitor.answer().endswith(told)
    visitor.page.evaluate(carried, ["drop", [], 0])
    assert visitor.answer().startswith("What was dropped is no file.")


# Other models


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(STYLED))
def test_styles_and_domains(tmp_path, visit, family):
    folder = page_of(tmp_path, saved(tmp_path, family), samples=2)
    Image.fromarray(noise(34, 27)).save(tmp_path / "a.png")
    visitor = visit(folder)
    assert visitor.give(tmp_path / "a.png").endswith("style 1 of 3.")
    if family == "starganv2":
        visitor.page.select_option("#domain", "2")
        visitor.page.locator("#status:text('Translated')").wait_for()
    visitor.page.click("#another-style")
    visitor.page.locator("#status:text('style 2 of 3')").wait_for()
    style = 2 * 3 + 1 if family == "starganv2" else 1
    levels_HWC = expected(folder, tmp_path / "a.png", style)
    assert apart(visitor.downloaded()[1], levels_HWC) <= 1
    if family == "starganv2":  # the untrained networks of the others hardly hear of their styles
        usual_HWC = expected(folder, tmp_path / "a.png", 0)
        assert np.abs(levels_HWC.astype(int) - usual_HWC).max() > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("unet", {"range": "0..1"}),
        (resnet_method(in_channels=1, out_channels=1), {}),
        (resnet_method(in_channels=1, out_channels=3), {"range": "0..1"}),
        ("resnet", {"numbers": "float16"}),
        ("stylegan2", {}),
    ],
    ids=["unet", "grey", "grey to colour", "float16", "stylegan2"],
)
def test_other_networks(tmp_path, visit, model, settings):
    folder = page_of(tmp_path, saved(tmp_path, model), **settings)
    Image.fromarray(noise(37, 50)).save(tmp_path / "a.png")
    visitor = visit(folder)
    assert visitor.give(tmp_path / "a.png").startswith("Translated 37 × 50")
    assert apart(visitor.downloaded()[1], expected(folder, tmp_path / "a.png")) <= 1


@pytest.mark.slow
def test_a_horse_with_the_shipped_model(tmp_path, visit, horse2zebra):  # noqa: F811
    folder = page_of(tmp_path, Path("horse2zebra"))
    photo = sorted((horse2zebra / "testA").iterdir())[0]
    visitor = visit(folder)
    assert visitor.give(photo).startswith("Translated 256 × 256 pixels")
    assert apart(visitor.downloaded()[1], expected(folder, photo)) <= 1
