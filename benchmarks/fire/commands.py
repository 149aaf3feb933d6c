"""Commands whose files `files.py` lets fail: what they begin with, and how they go on."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from kills import PLACES, SMALL, unlike, unusable
from PIL import Image
from safetensors import safe_open

from patchkin.cli import main as patchkin
from patchkin.data.toy import write_toy
from patchkin.export import web_runtime
from patchkin.methods.cut import Cut, CutConfig
from patchkin.networks import PatchGANConfig, ResNetConfig
from patchkin.storage.checkpoint import CheckpointStore
from patchkin.upstream import released_weights

TINY = (*SMALL, *PLACES, "--workers", "0", "--schedule.ema-decay", "0.5")
WIDTHS = "4,2_4,2_4,2_4,2_4,2_4,2_4,2_4,2"
"""Of the supernet that is searched."""
Files = dict[str, bytes]


@dataclass(frozen=True)
class Command:
    """Something to do in a folder, the box."""

    arguments: Callable[[Path], list[str]]
    """As the box is: begun, or gone on with."""
    begin: Callable[[Path], None]
    """Fills the box."""
    run: str = ""
    """The run folder in the box that it trains, if it does."""
    unfinished: str = r"(?!)"
    """A pattern of files that are allowed to be other than in the end, if they can be read."""
    varying: str = r"(?!)"
    """A pattern of files that are not the same in two runs; they can be read."""
    remains: str = r"(?!)"
    """A pattern of what may be left when it fails, and is gone in the end."""

    def unlike(self, box: Path, whole: Path, *, torn: bool = False) -> list[str]:
        """What differs in the end from that of a command that nothing failed for; a line of a log
        may be half if it is `torn`.
        """
        found, expected = files_of(box), files_of(whole)
        if self.run:
            found, expected = (
                {name: data for name, data in files.items() if not name.startswith(self.run)}
                for files in (found, expected)
            )
        different = unlike(box / self.run, whole / self.run) if self.run else []
        names = sorted({*found, *expected})
        different += [
            name
            for name in names
            if (name not in found) + (name not in expected)
            or (found[name] != expected[name] and not re.search(self.varying, name))
        ]
        return different + unreadable(box, torn=torn)

    def spoiled(self, box: Path, before: Files, whole: Path, *, torn: bool) -> list[str]:
        """What is lost, or half, after a failure; a last line of a log may be, if it is `torn`."""
        found = files_of(box)
        kept = f"{self.unfinished}|{self.varying}|{self.remains}"
        faults = [
            f"lost: {name}" for name in before if name not in found and (whole / name).exists()
        ]
        for name, data in found.items():
            if self.run and name.startswith(self.run):
                continue
            wanted = whole / name
            good = data == before.get(name) or (wanted.is_file() and data == wanted.read_bytes())
            if not good and not re.search(kept, name):
                faults.append(f"half or unknown: {name}")
        if self.run and (box / self.run).is_dir():
            faults += unusable(box / self.run)
        return faults + unreadable(box, besides=self.remains, torn=torn)


def files_of(box: Path) -> Files:
    """Content of all files but temporary ones, by name."""
    return {
        path.relative_to(box).as_posix(): path.read_bytes()
        for path in box.rglob("*")
        if path.is_file() and not any(map(is_temporary, (path, *path.relative_to(box).parents)))
    }


def is_temporary(path: Path) -> bool:
    return path.name.startswith(".patchkin-") or path.name.endswith((".lock", ".owner"))


def remains(box: Path, besides: str = r"(?!)") -> list[str]:
    """Temporary files and locks, and whatever lies in the folder for temporary ones."""
    left = [path for path in box.rglob("*") if is_temporary(path) or path.name.endswith(".part")]
    left += (box / "tmp").rglob("*")
    names = (path.relative_to(box).as_posix() for path in left)
    return [name for name in names if not re.search(besides, name)]


def unreadable(box: Path, besides: str = r"(?!)", *, torn: bool = False) -> list[str]:
    """Files that say what they are and cannot be read as that."""
    faults = []
    for name, data in files_of(box).items():
        check = CHECKS.get(Path(name).suffix)
        if check is None or re.search(besides, name):
            continue
        try:
            check(box / name, _without_torn(data) if torn and check is _lines else data)
        except Exception as error:  # noqa: BLE001 (of any library)
            faults.append(f"cannot be read: {name}: {type(error).__name__}")
    return faults


def _without_torn(data: bytes) -> bytes:
    """Lines but one that was cut: what is written next begins a line of its own."""
    lines = data.splitlines(keepends=True)
    torn = next((line for line in lines if not line.endswith(b"}\n")), b"")
    return b"".join(line for line in lines if line is not torn)


def _lines(_: Path, data: bytes) -> None:
    for line in data.splitlines():
        json.loads(line)
    if data and not data.endswith(b"\n"):
        raise ValueError("half a line")


def _page(_: Path, data: bytes) -> None:
    if b"</html>" not in data:
        raise ValueError("half a page")


def _image(path: Path, _: bytes) -> None:
    with Image.open(path) as image:
        image.load()


def _tensors(path: Path, _: bytes) -> None:
    with safe_open(path, framework="pt"):
        pass


CHECKS: dict[str, Callable[[Path, bytes], object]] = {
    ".json": lambda _, data: json.loads(data),
    ".jsonl": _lines,
    ".html": _page,
    ".png": _image,
    ".jpg": _image,
    ".gif": _image,
    ".safetensors": _tensors,
}


# What commands begin with


def _toy(box: Path) -> None:
    write_toy(box / "toy", size=64, train=4, test=2)


def _done(*arguments: object) -> None:
    code = patchkin([str(argument) for argument in arguments])
    if code != 0:
        raise SystemExit(f"{arguments} ends with code {code}")


def _with_run(box: Path, *more: str) -> None:
    _toy(box)
    _done(
        "train",
        "cut",
        "--data",
        box / "toy",
        "--run-dir",
        box / "run",
        *TINY,
        "--steps",
        "2",
        *more,
    )


def _with_photos(box: Path) -> None:
    _with_run(box)
    photos = box / "photos"
    (photos / "inner").mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 40, 36, 3), dtype=np.uint8)
    for name in ("a.png", "inner/b.jpg", "c.webp"):
        Image.fromarray(pixels[0]).save(photos / name)
    Image.fromarray(pixels[0]).save(
        photos / "d.gif", save_all=True, append_images=[Image.fromarray(pixels[1])], duration=40
    )
    tifffile.imwrite(photos / "e.tif", pixels, photometric="rgb")
    np.save(photos / "f.npy", pixels[2])


def _with_extractor(box: Path) -> None:
    _with_run(box)
    from torchvision.models import squeezenet1_1  # type: ignore[import-untyped]

    torch.manual_seed(0)
    torch.save(squeezenet1_1(weights=None).state_dict(), box / "squeezenet.pth")


def _with_supernet(box: Path) -> None:
    _toy(box)
    data, plain = ("--data", box / "toy"), (*TINY[: TINY.index("--ngf")], "--workers", "0")
    places = ("--method.num-patches", "8")
    _done(
        *("train", "cut", *data, "--run-dir", box / "teacher", *plain, *PLACES, "--steps", "2"),
        *("--ngf", "4", "--ndf", "4", "--blocks", "3"),
    )
    _done(
        *("compress", "distill", box / "teacher", *data, "--run-dir", box / "run", *plain),
        *("--ngf", "4", "--ndf", "4", *places, "--method.space", WIDTHS, "--steps", "2"),
    )


def _with_released(box: Path) -> None:
    torch.manual_seed(0)
    method = Cut(
        CutConfig(
            generator=ResNetConfig(ngf=4, blocks=2),
            discriminator=PatchGANConfig(ndf=4),
            head_width=8,
        )
    )
    for name in "GDF":
        weights = released_weights(method.get_submodule(name))
        torch.save(weights, box / f"latest_net_{name}.pth")


def _with_runtime(box: Path) -> None:
    _with_run(box)
    (box / "runtime.tgz").write_bytes(small_runtime())


def small_runtime() -> bytes:
    """An archive in place of the real one of 26 MB, which is then the one that is expected."""
    parts = {web_runtime.LIBRARY: b"a library", web_runtime.WASM: b"an assembly"}
    written = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=written, mode="w", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for name, data in parts.items():
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    web_runtime.SHA512 = hashlib.sha512(written.getvalue()).hexdigest()
    web_runtime._SHA256 = {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}
    return written.getvalue()


# Commands


def _train(box: Path, *more: str) -> list[str]:
    run = box / "run"
    if CheckpointStore(run).steps():
        return ["train", "--resume", str(run), *more]
    again = ["--overwrite"] if run.exists() else []
    return ["train", "cut", "--data", str(box / "toy"), "--run-dir", str(run), *TINY, *again]


def _plain(*words: str) -> Callable[[Path], list[str]]:
    """Arguments with the box in place of BOX."""
    return lambda box: [word.replace("BOX", str(box)) for word in words]


def commands(address: str) -> dict[str, Command]:
    """By name.

    Args:
        address: of the server of `served`.
    """
    evaluate = (
        *("evaluate", "BOX/run", "--data", "BOX/toy", "--protocol", "squeezenet-256"),
        *("--extractor-weights", "BOX/squeezenet.pth", "--keep", "BOX/kept", "--device", "cpu"),
    )
    search = (
        *("compress", "search", "BOX/run", "--output", "BOX/found", "--budget", "3e6"),
        *("--population", "3", "--generations", "2", "--device", "cpu"),
    )
    scores = r"scores\.json$|report\.html$"
    return {
        "train": Command(_train, _toy, run="run"),
        "resume": Command(partial(_more, "4"), _with_run, run="run"),
        "translate": Command(
            _plain("translate", "BOX/run", "BOX/photos", "-o", "BOX/out", "--device", "cpu"),
            _with_photos,
            varying=r"\.patchkin/.*\.jsonl$",
        ),
        "evaluate": Command(
            _plain(*evaluate), _with_extractor, varying=scores, unfinished="^kept/"
        ),
        "search": Command(
            _plain(*search), _with_supernet, varying=scores, unfinished=r"^found/search\.json$"
        ),
        "download": Command(
            partial(_download, f"{address}/good/facades.tar.gz"),
            lambda _: None,
            unfinished=r"facades\.tar\.gz\.part|facades\.tar\.gz(\.sha256)?$",
            remains=r"facades\.tar\.gz\.part(\.version)?$",
        ),
        "toy": Command(
            _plain("data", "toy", "BOX/new", "--train", "3", "--test", "2"), lambda _: None
        ),
        "onnx": Command(_plain("export", "BOX/run", "-o", "BOX/m.onnx", "--overwrite"), _with_run),
        "pt2": Command(
            _plain("export", "BOX/run", "-o", "BOX/m.pt2", "--overwrite"), _with_run, varying="pt2$"
        ),
        "page": Command(
            _plain(
                *("export", "BOX/run", "--page", "BOX/page", "--overwrite"),
                *("--onnxruntime-web", "BOX/runtime.tgz"),
            ),
            _with_runtime,
        ),
        "small": Command(
            _plain(
                *("compress", "export", "BOX/run", "--channels", "_".join("22222222")),
                *("-o", "BOX/small.safetensors", "--overwrite"),
            ),
            _with_supernet,
        ),
        "import": Command(
            _plain(
                "import-weights",
                *(f"BOX/latest_net_{name}.pth" for name in "GDF"),
                *("-o", "BOX/imported.safetensors", "--overwrite"),
            ),
            _with_released,
        ),
        "push": Command(_plain("push", "BOX/run", "me/small", "-o", "BOX/hub"), _with_run),
        "inspect": Command(
            _plain(
                *("inspect", "BOX/run", "BOX/toy/testA/0000.png", "--point", "8,8"),
                *("-o", "BOX/seen", "--device", "cpu"),
            ),
            _with_run,
        ),
        "compare": Command(
            _plain("compare", "BOX/run", "BOX/run", "-o", "BOX/table.html"),
            _with_run,
            varying="html$",
        ),
    }


def _more(steps: str, box: Path) -> list[str]:
    return _train(box, "--steps", steps)


def _download(url: str, box: Path) -> list[str]:
    return ["data", "download", "facades", "-o", str(box / "sets"), "--mirror", url, "--unverified"]


# A server that is as bad as its paths say


def archive() -> bytes:
    """A set of images that nobody needs."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as packed:
        for name in ("trainA/0.png", "trainB/0.png"):
            image = io.BytesIO()
            Image.fromarray(np.full((9, 9, 3), len(name), np.uint8)).save(image, format="PNG")
            entry = tarfile.TarInfo(f"facades/{name}")
            entry.size = len(image.getvalue())
            packed.addfile(entry, io.BytesIO(image.getvalue()))
        noise = np.random.default_rng(0).bytes(600_000)
        entry = tarfile.TarInfo("facades/noise.bin")
        entry.size = len(noise)
        packed.addfile(entry, io.BytesIO(noise))
    return written.getvalue()


class Bad(BaseHTTPRequestHandler):
    """Answers as the first part of the path says."""

    content = b""

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        how, data = self.path.split("/")[1], self.content
        if how.isdecimal():
            self.send_error(int(how))
            return
        length = {"long": len(data) + 1000, "little": len(data) // 2}.get(how, len(data))
        self.send_response(200)
        if how != "nameless":
            self.send_header("Content-Length", str(length))
        self.send_header("ETag", '"1"')
        self.end_headers()
        with suppress(OSError):
            if how in ("short", "reset"):
                self.wfile.write(data[: len(data) // 2])
            else:
                self.wfile.write(data if how != "other" else bytes(len(data)))
        if how == "reset":  # with what the client has not taken
            self.connection.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER of no time
        self.close_connection = True


def served() -> ThreadingHTTPServer:
    """The server, on a free port."""
    Bad.content = archive()
    return ThreadingHTTPServer(("127.0.0.1", 0), Bad)
