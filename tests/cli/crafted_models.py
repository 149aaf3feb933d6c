"""Model files that were made to do harm, and a process that reads them all.

Run as a script with a folder: every verb that reads a model reads every file; the lines that come
are printed as JSON, with the memory that all of it took.
"""

from __future__ import annotations

import contextlib
import io
import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ASKED_NGF = 10_240
"""CUT's networks with as many channels take 29 GB."""


def safetensors(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A file with this table of contents, and perhaps another length told for it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def model(entries: object, tensors: dict[str, object] | None = None, data: bytes = b"") -> bytes:
    """A model file whose header holds these entries; text is taken as it is."""
    text = entries if isinstance(entries, str) else json.dumps(entries)
    return safetensors({"__metadata__": {"patchkin": text}, **(tensors or {})}, data)


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    """A tensor in the table of contents."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def cut(**changes: object) -> dict[str, object]:
    """The header of a small model of CUT."""
    config = {"generator": {"ngf": 4, "blocks": 1}, "head_width": 4}
    return {"method": "cut", "config": config, "size": 32, "version": 2, **changes}


FIRST = "G.model.1.weight"


def _settings(**generator: object) -> dict[str, object]:
    return cut(config={"generator": generator})


def crafted() -> dict[str, bytes]:
    """Content by name."""
    some = {FIRST: entry([4, 3, 7, 7], 0, 2352)}
    numbers = bytes(2352)
    deep = "[" * 100_000 + "]" * 100_000
    return {
        "asks-for-29-GB": model(_settings(ngf=ASKED_NGF), some, numbers),
        "a-billion-blocks": model(_settings(ngf=4, blocks=10**9), some, numbers),
        "a-billion-halvings": model(cut(config={"discriminator": {"layers": 10**9}})),
        "huge-number": model('{"method": "cut", "config": {"taps": [' + "9" * 5000 + "]}}"),
        "number-of-64-bits": model(_settings(ngf=2**63)),
        "negative": model(_settings(ngf=-4)),
        "wrong-kind-of-value": model(_settings(ngf=[4])),
        "unknown-setting": model(_settings(nfg=4)),
        "long-unknown-setting": model(_settings(**{"\x1b[2J" * 100_000: 4})),
        "settings-are-a-list": model(cut(config=[1, 2])),
        "header-is-a-list": model([cut()]),
        "header-is-no-json": model("<html>"),
        "header-is-deep": model(deep),
        "settings-are-deep": model('{"method": "cut", "config": {"taps": ' + deep + "}}"),
        "no-method": model({"config": {}}),
        "method-is-a-list": model(cut(method=["cut"])),
        "method-with-escapes": model(cut(method="\x1b[2Jcut")),
        "unknown-entry": model(cut(run="rm -rf /")),
        "size-is-text": model(cut(size="256")),
        "size-of-three": model(cut(size=[1, 2, 3])),
        "size-is-huge": model(cut(size=10**9)),
        "step-is-text": model(cut(step="x")),
        "version-is-text": model(cut(version="x")),
        "encoding-is-a-list": model(cut(encoding=[1])),
        "domains-are-numbers": model(cut(encoding={"domains": [1]})),
        "typical-sizes-are-text": model(cut(encoding={"typical_sizes": "ab"})),
        "lacks-tensors": model(cut(), some, numbers),
        "another-shape": model(cut(), {FIRST: entry([4, 3, 14, 14], 0, 9408)}, bytes(9408)),
        "no-elements": model(_settings(ngf=10**9), {FIRST: entry([10**9, 0, 7, 7], 0, 0)}),
        "whole-numbers": model(
            cut(), {FIRST: entry([4, 3, 7, 7], 0, 2352, "I32")}, numbers
        ),
        "unknown-type": model(
            cut(), {FIRST: entry([4, 3, 7, 7], 0, 588, "F8_E4M3")}, bytes(588)
        ),
        "beyond-its-end": model(cut(), {FIRST: entry([4, 3, 7, 7], 2352, 4704)}, numbers),
        "short-of-numbers": model(cut(), {FIRST: entry([10**9, 3, 7, 7], 0, 2352)}, numbers),
        "overlapping": model(
            cut(), some | {"G.model.4.weight": entry([4, 3, 7, 7], 1176, 3528)}, bytes(3528)
        ),
        "old-pool-without-images": model(
            {"method": "cyclegan", "config": {}, "version": 1},
            {"pool_A.size_HW": entry([2], 0, 8)},
            bytes(8),
        ),
        "metadata-is-a-list": safetensors({"__metadata__": [1, 2]}),
        "contents-are-a-list": safetensors([1, 2]),
        "contents-are-no-json": safetensors(b"{" * 100),
        "length-of-all-memory": safetensors({}, length=2**63),
        "length-beyond-its-end": safetensors({}, length=10_000),
        "contents-of-20-MB": safetensors(b"{}" + b" " * (20 << 20)),
        "another-project": safetensors({"x": entry([1], 0, 4)}, bytes(4)),
        "empty": b"",
        "seven-bytes": b"1234567",
        "web-page": b"<!DOCTYPE html>\n<html><body>Sign in</body></html>",
        "zeros": bytes(4096),
    }  # fmt: skip


def write_crafted(folder: Path) -> list[Path]:
    """The files, and a folder with a name like one."""
    for name, content in crafted().items():
        (folder / f"{name}.safetensors").write_bytes(content)
    (folder / "folder.safetensors").mkdir()
    return sorted(folder.glob("*.safetensors"))


def _commands(path: Path, folder: Path) -> Iterator[list[str]]:
    image, output = str(folder / "0.png"), str(folder / "output")
    yield ["translate", str(path), image, "--output", output]
    yield ["inspect", str(path), image, "--point", "1,1", "--output", output]
    yield ["evaluate", str(path), "--data", str(folder)]
    yield ["compress", "distill", str(path), "--data", str(folder), "--run-dir", output]
    yield ["compress", "cost", str(path)]
    yield [
        "compress",
        "export",
        str(path),
        "--channels",
        "4_4_4_4_4_4_4_4",
        "--output",
        output + ".safetensors",
    ]
    yield ["import-weights", str(path), "--output", output]


def main(folder: Path) -> None:
    """Read every file with every verb."""
    import resource

    from patchkin.cli import main as patchkin

    told = []
    paths = write_crafted(folder)
    for arguments in _commands(
        folder / "lacks-tensors.safetensors", folder
    ):  # imports all there is
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            patchkin(arguments)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in paths:
        for arguments in _commands(path, folder):
            out, err, start = io.StringIO(), io.StringIO(), time.process_time()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = patchkin(arguments)
            told.append(
                {
                    "file": path.stem,
                    "verb": " ".join(arguments[:2]) if arguments[0] == "compress" else arguments[0],
                    "code": code,
                    "out": out.getvalue(),
                    "err": err.getvalue(),
                    "seconds": time.process_time() - start,
                }
            )
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    json.dump({"told": told, "before_mib": before / 1024, "grown_mib": grown / 1024}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
