"""`patchkin export MODEL -o model.onnx`, and `--page out` for a page that translates."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from patchkin.cli.parsing import parse
from patchkin.cli.printing import print_json
from patchkin.config import flag, shown, to_plain
from patchkin.data.layouts import image_files
from patchkin.errors import ConfigError, StorageError
from patchkin.export.web_page import INDEX, ExportedPage, check_page_folder, export_page
from patchkin.export.web_runtime import web_runtime
from patchkin.export.writing import Exported, ExportSettings, export_model
from patchkin.method import Direction, Method
from patchkin.translation.exported import Range
from patchkin.translation.files import check_output
from patchkin.translation.translator import Translator

MOST_CALIBRATION = 100
"""Images that are looked at, of those given."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of `export`."""

    model: Annotated[tyro.conf.Positional[str], shown("MODEL")]
    """A run folder, a checkpoint folder, a .safetensors file, or the name of a shipped model."""
    output: Annotated[Path | None, flag("-o")] = None
    """The file to write: .onnx, or .pt2 for `torch.export.load`."""
    page: Path | None = None
    """Instead of a file: a folder with a web page that translates photos in the browser, to be
    opened as it is or put on any web server."""
    onnxruntime_web: Path | None = None
    """For --page: the archive of onnxruntime-web, or a folder that npm has put it in. Unless given,
    npm fetches it, once."""
    range: Range = "-1..1"
    """Of the numbers that it takes and gives, of levels 0 to 255: 0..1 is what most programs
    expect of a model of images."""
    half: bool = False
    """Convolutions and weights in float16, norms in float32: half the size."""
    int8: bool = False
    """Convolutions in 8 bits, with ranges taken from --calibrate; written only if that is faster on
    this machine."""
    calibrate: tuple[Path, ...] = ()
    """Images (files or folders) like those that will be translated, for --int8; the first 100. A
    fifth of them is kept for the comparison with the network."""
    samples: int = 0
    """For methods with styles: put so many random styles into the file, for each domain; a page has
    8 unless it is given."""
    seed: int = 0
    """Of the random styles."""
    direction: Direction = "AtoB"
    """BtoA takes the way back, for methods that have one."""
    which: Literal["last", "best"] = "last"
    """The checkpoint of a run folder: the last, or the best on validation."""
    weights: Literal["averaged", "live"] = "averaged"
    """Averaged weights if the run kept them, or the live ones."""
    overwrite: bool = False
    """Replace the file, or the page."""
    json: bool = False
    """Print one JSON object about the file or the page."""


def run(arguments: Sequence[str], methods: Mapping[str, type[Method]]) -> int:
    """Write the file and say what it is."""
    options = parse(
        ExportOptions,
        arguments,
        prog="patchkin export",
        about="Write a trained model for other programs, compared with its network before.",
    )
    target = _target(options)
    _check(options)
    runtime = None if options.page is None else web_runtime(options.onnxruntime_web)
    settings = _settings(options)
    translator = Translator.load(
        options.model,
        methods=methods,
        which=options.which,
        weights=options.weights,
        direction=options.direction,
        device="cpu",
    )
    if runtime is None:
        exported = export_model(translator, target, settings)
        _tell(exported, as_json=options.json)
        return 0
    title = _title(options.model)
    page = export_page(
        translator, target, runtime, settings, title=title, overwrite=options.overwrite
    )
    _tell(page.model, page, as_json=options.json)
    return 0


def _target(options: ExportOptions) -> Path:
    """The file or the folder, which may be written."""
    if options.page is not None and options.output is not None:
        raise ConfigError("--page writes a folder and --output a file; leave one out.")
    if options.page is not None:
        check_page_folder(options.page, overwrite=options.overwrite)
        check_output(options.page.parent)
        return options.page
    if options.output is None:
        raise ConfigError("Name the file to write with --output, or a folder with --page.")
    if options.onnxruntime_web is not None:
        raise ConfigError("--onnxruntime-web is for --page; add it, or leave both out.")
    if options.output.exists() and not options.overwrite:
        raise StorageError(
            f"`{options.output}` is there already. Choose another --output, or add --overwrite."
        )
    check_output(options.output.parent)
    return options.output


def _check(options: ExportOptions) -> None:
    if options.half and options.int8:
        raise ConfigError("--half and --int8 are two kinds of file; leave one out.")
    if options.calibrate and not options.int8:
        raise ConfigError("--calibrate is for --int8; add it, or leave both out.")
    if options.samples < 0:
        raise ConfigError(f"`--samples` must not be negative; got {options.samples}.")


def _settings(options: ExportOptions) -> ExportSettings:
    return ExportSettings(
        range=options.range,
        numbers="float16" if options.half else "int8" if options.int8 else "float32",
        calibration=_images(options.calibrate),
        samples=options.samples,
        seed=options.seed,
    )


def _title(model: str) -> str:
    """What a page is called: the run, the file, or the shipped model.

    >>> _title("runs/h2z"), _title("small/model.safetensors"), _title("zebra.safetensors")
    ('h2z', 'small', 'zebra')
    """
    path = Path(model)
    whole = path if path.suffix != ".safetensors" else path.with_suffix("")
    named = whole.parent if whole.name == "model" else whole
    return named.name or path.resolve().parent.name or "Translation"


def _images(given: Sequence[Path]) -> list[Path]:
    """Files, and the images of folders."""
    files = [file for path in given for file in (image_files(path) if path.is_dir() else [path])]
    return files[:MOST_CALIBRATION]


def _tell(exported: Exported, page: ExportedPage | None = None, *, as_json: bool) -> None:
    header, found = exported.header, exported.difference
    if as_json:
        plain = {name: value for name, value in to_plain(header).items() if name != "styles"}
        about = {
            "output": str(exported.path),
            "bytes": exported.bytes,
            "styles": [style.origin for style in header.styles],
            "compared_on": exported.compared_on,
            "times_faster": exported.times_faster,
        }
        if page is not None:
            about |= {"page": str(page.path), "page_bytes": page.bytes, "loaded": page.loaded}
        print_json({**plain, **about})
    faster = exported.times_faster
    speed = "" if faster is None else f"; {faster:.2f} times as fast as float32 here"
    print(
        f"{exported.path}: {header.method}, {header.numbers}, {header.channels[0]} to "
        f"{header.channels[1]} channels in {header.range}, any size from {header.minimum} x "
        f"{header.minimum}, {exported.bytes / 1e6:.1f} MB; from the network on "
        f"{exported.compared_on}: {found}{speed}",
        file=sys.stderr,
    )
    if page is not None:
        print(
            f"{page.path / INDEX}: open it in a browser, or put the folder on a web server. It has "
            f"{page.bytes / 1e6:.1f} MB, of which a server sends {page.loaded / 1e6:.1f} MB.",
            file=sys.stderr,
        )
