"""`patchkin export --page`: a folder that translates in a browser, without a server.

index.html, page.css, page.js   ours; index.html holds what the page must know of the model
model.onnx                      as `patchkin export -o` writes it
onnxruntime-web-VERSION/        what computes, as npm has it, and its licence
embedded.js                     model and runtime again, as text: a page that is opened from a
                                disk may load scripts, but no other files
"""

from __future__ import annotations

import base64
import gzip
import html
import json
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from string import Template

from patchkin._version import __version__
from patchkin.errors import ConfigError, StorageError
from patchkin.export.web_runtime import LIBRARY, NAME, VERSION, WASM, WebRuntime
from patchkin.export.writing import Exported, ExportSettings, export_model
from patchkin.method import StyledMethod
from patchkin.storage.atomic import new_folder, write_bytes
from patchkin.translation.exported import ExportHeader
from patchkin.translation.translator import Translator

USUAL_STYLES = 8
"""Random styles of each domain in a page, unless a number is given."""
INDEX, MODEL, EMBEDDED = "index.html", "model.onnx", "embedded.js"
PARTS = {"page.css": ["page.css"], "page.js": ["page.js", "worker.js"]}
"""Of the page -> what they are made of."""
RUNTIME = f"{NAME}-{VERSION}"
LIBRARY_FILE, WASM_FILE = f"{RUNTIME}/{LIBRARY}", f"{RUNTIME}/{WASM}"
_PAGE = files("patchkin.export") / "page"
_OF_HEADER = ("channels", "multiple", "minimum", "range", "training_size")
_LETTERS = 1 << 24
"""Of Base64 in one piece, since browsers hold no text of any length. A multiple of 4."""


@dataclass(frozen=True, kw_only=True)
class ExportedPage:
    """What was written."""

    path: Path
    model: Exported
    bytes: int
    """Of the folder."""
    loaded: int
    """Of that, what a visitor loads from a server."""


def export_page(
    translator: Translator,
    path: Path,
    runtime: WebRuntime,
    settings: ExportSettings | None = None,
    *,
    title: str,
    overwrite: bool = False,
) -> ExportedPage:
    """Write a folder that translates photos in a browser.

    Args:
        translator: as `export_model` takes it.
        path: of the folder.
        runtime: of `web_runtime`.
        settings: of the model file. A method with styles gets 8 random ones of each domain,
            unless `samples` says how many.
        title: what the page is called.
        overwrite: whether a page that is there may be replaced.

    Raises:
        ConfigError: the model is not one of photos, or cannot be written so.
        CheckpointError, StorageError: as `export_model` and `check_page_folder`.
    """
    check_page_folder(path, overwrite=overwrite)
    _check_model(translator)
    settings = settings or ExportSettings()
    if isinstance(translator.method, StyledMethod) and not settings.samples:
        settings = replace(settings, samples=USUAL_STYLES)
    with new_folder(path, replace=True) as folder:
        model = export_model(translator, folder / MODEL, settings)
        contents = {MODEL: (folder / MODEL).read_bytes(), **_runtime_files(runtime)}
        for name, content in {**contents, **_written(model.header, title, contents)}.items():
            write_bytes(folder / name, content, synced=False)
        sizes = {file: file.stat().st_size for file in folder.rglob("*") if file.is_file()}
        whole, embedded = sum(sizes.values()), sizes[folder / EMBEDDED]
    return ExportedPage(
        path=path,
        model=replace(model, path=path / MODEL),
        bytes=whole,
        loaded=whole - embedded,
    )


def check_page_folder(path: Path, *, overwrite: bool) -> None:
    """Refuse to put a page where something else is.

    Raises:
        StorageError: the folder holds a page and `overwrite` is off, or it holds other things.
    """
    if not path.exists():
        return
    if path.resolve() == Path.cwd():
        raise StorageError(f"--page `{path}` is the folder that you are in; name another.")
    if not path.is_dir():
        raise StorageError(f"--page `{path}` is a file; name a folder.")
    names = sorted(entry.name for entry in path.iterdir())
    ours = {INDEX, MODEL, EMBEDDED, *PARTS}
    others = [name for name in names if name not in ours and not name.startswith(f"{NAME}-")]
    if others:
        raise StorageError(
            f"`{path}` holds other things than a page (`{others[0]}`), which would be lost. Choose "
            "another --page."
        )
    if names and not overwrite:
        raise StorageError(f"`{path}` is there already. Choose another --page, or add --overwrite.")


def _check_model(translator: Translator) -> None:
    channels, (range_in, _) = translator.channels, translator.value_ranges
    if not {1, 3} >= set(channels):
        raise ConfigError(
            f"A page takes and shows photos, grey or in colour; this model goes from {channels[0]} "
            f"to {channels[1]} channels. Write a file with --output instead."
        )
    if range_in is not None:
        raise ConfigError(
            f"This model was trained on values from {range_in[0]:g} to {range_in[1]:g}, and a "
            "browser reads 8 bits of a file. Write a file with --output instead."
        )


def _runtime_files(runtime: WebRuntime) -> dict[str, bytes]:
    licence = (_PAGE / "onnxruntime-LICENSE.txt").read_bytes()
    return {LIBRARY_FILE: runtime.library, WASM_FILE: runtime.wasm, f"{RUNTIME}/LICENSE": licence}


def _written(header: ExportHeader, title: str, contents: dict[str, bytes]) -> dict[str, bytes]:
    """What is ours: the page, its parts as they are, and the other files as text."""
    loaded = {"runtime": LIBRARY_FILE, "wasm": WASM_FILE, "model": MODEL}
    settings = {
        "title": title,
        **{name: getattr(header, name) for name in _OF_HEADER},
        "domains": [*header.domains] or [str(n) for n in range(header.num_domains)],
        "styles": [{"domain": s.domain, "numbers": s.numbers} for s in header.styles],
        "files": loaded,
        "bytes": sum(len(contents[name]) for name in loaded.values()),
    }
    index = Template((_PAGE / INDEX).read_text("utf-8")).substitute(
        title=html.escape(title),
        settings=json.dumps(settings).replace("<", "\\u003c"),
        training=" × ".join(map(str, header.training_size)),
        version=__version__,
        method=html.escape(header.method),
        runtime_version=VERSION,
    )
    return {
        INDEX: index.encode(),
        EMBEDDED: _embedded({name: contents[name] for name in loaded.values()}),
        **{
            name: b"\n".join((_PAGE / source).read_bytes() for source in sources)
            for name, sources in PARTS.items()
        },
    }


def _embedded(contents: dict[str, bytes]) -> bytes:
    """Files as a script: gzip in Base64, in pieces; the same bytes each time."""
    pieces = {}
    for name, content in contents.items():
        text = base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()
        pieces[name] = [text[start : start + _LETTERS] for start in range(0, len(text), _LETTERS)]
    return f"window.patchkinFiles = {json.dumps(pieces)};\n".encode()
