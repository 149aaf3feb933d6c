"""What reads files of others, as functions of bytes, and files to begin with: for `parsers.py`.

A target takes bytes and an empty folder. It gives them to a reader, as the content of a file or as
the part of one that the reader parses itself (a header, a chunk, a record), and returns; or raises
one of patchkin's own errors. Checksums and lengths around that part are made right, or nothing
but them would be tried.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import parser_seeds
import seeds
import torch
from PIL import Image
from safetensors.torch import save

from patchkin.cli import bench as bench_verb
from patchkin.compression import COMPRESSED_METHODS
from patchkin.config import from_plain, read_yaml, to_plain, to_yaml
from patchkin.data.archives import Limits, extract_archive
from patchkin.data.cache.store import Store
from patchkin.data.config import DataConfig
from patchkin.errors import PatchkinError
from patchkin.images import declared_ranges, read_image
from patchkin.images.container import container_of
from patchkin.images.limits import allow_pixels
from patchkin.images.ome import fitted_ome
from patchkin.images.pages import num_pages, split_page
from patchkin.images.saving import Page, write_pages
from patchkin.images.sizes import image_size
from patchkin.methods import METHODS
from patchkin.metrics.statistics import read_statistics
from patchkin.networks.separable import parse_channels
from patchkin.parallel.shards import parse_shard
from patchkin.runs.compression import found_best
from patchkin.runs.config import choose_preset, config_from_plain, config_to_plain, preset_config
from patchkin.runs.resuming import history_of, read_data, read_record
from patchkin.schedules import ScheduleConfig
from patchkin.scoring import report
from patchkin.scoring.comparison.formats import as_text
from patchkin.scoring.comparison.reading import read_all
from patchkin.scoring.comparison.scored import group_by_settings
from patchkin.scoring.comparison.table import make_table
from patchkin.scoring.own_data import own_data
from patchkin.scoring.seen import trained_on
from patchkin.storage.checkpoint import CheckpointStore, open_model
from patchkin.storage.hub import is_hub_name
from patchkin.storage.shipped.records import read_record as read_shipped_record
from patchkin.storage.strict_json import parsed, restored, strict_text
from patchkin.training import TrainingConfig
from patchkin.training.log import RunLog
from patchkin.training.loggers import logged_run
from patchkin.translation.exported import ExportHeader
from patchkin.translation.loading import check_method
from patchkin.translation.onnx_file import OnnxTranslator
from patchkin.translation.record import Records, makers_of
from patchkin.upstream.importing import Source, import_weights
from patchkin.web.guard import Guard
from patchkin.web.watching import facts

MOST_PIXELS = 1 << 18
"""That an image may have, so that those it refuses are many."""
_TOLD = dict(METHODS) | dict(COMPRESSED_METHODS)
_WHOLE_FILE = b"\0"
"""First byte of what is a file itself, and not the part of one."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader."""

    read: Callable[[bytes, Path], object]
    seeds: list[bytes]
    longest: int = 8192
    """Bytes that are tried."""


# Text: settings and records


def settings(data: bytes, box: Path) -> None:
    """A file of settings, whose configuration is written and read once more."""
    path = _file(box / "config.yaml", data)
    kind = METHODS["cut"]
    default = preset_config(choose_preset(kind, None, toy=False))
    config = config_from_plain(kind, default, read_yaml(path), where=f"`{path}`")
    path.write_text(to_yaml(config_to_plain(kind, config)), encoding="utf-8")
    again = config_from_plain(kind, default, read_yaml(path), where=f"`{path}`")
    if repr(again) != repr(config):  # NaN is no equal of itself
        raise AssertionError("other settings than were written")


def strict_json(data: bytes, _: Path) -> None:
    """JSON, whose value is written and read once more."""
    with suppress(ValueError):
        value = parsed(data)
        if isinstance(value, dict) and "not_finite" not in value:
            again = restored(parsed(strict_text(value)))
            if repr(again) != repr(value):
                raise AssertionError(f"{again!r:.80} of {value!r:.80}")


def settings_of_parts(data: bytes, _: Path) -> None:
    """JSON as settings of each part of a run."""
    try:
        plain = parsed(data)
    except ValueError:
        return
    for kind in (DataConfig, ScheduleConfig, TrainingConfig):
        with suppress(PatchkinError):
            to_plain(from_plain(kind, plain))


def run_folder(run: dict[str, bytes], data: bytes, box: Path) -> None:
    """A run of which one file is another: compared, shown, reported, and looked at for a resume."""
    folder = box / "run"
    names = sorted(run)
    changed = names[data[0] % len(names)] if data else ""
    for name, content in run.items():
        _file(folder / name, data[1:] if name == changed else content)
    RunLog(folder / "log.jsonl", total_steps=3).truncate_after(2)
    looks: list[Callable[[], object]] = [
        lambda: logged_run(folder / "log.jsonl"),
        lambda: facts(folder, report.read_log(folder)),
        lambda: report.write_report(folder),
        lambda: (read_data(folder), read_record(folder), history_of(folder)),
        lambda: own_data(folder),
        lambda: trained_on(folder, [folder / "log.jsonl"]),
        lambda: _compared(folder),
    ]
    _all_of(looks)


def _compared(path: Path) -> None:
    table = make_table(group_by_settings(read_all([str(path)])), METHODS)
    as_text(table)


def results(data: bytes, box: Path) -> None:
    """A file of scores alone."""
    _compared(_file(box / "scores.json", data))


def checkpoint(model: bytes, data: bytes, box: Path) -> None:
    """`state.json` beside whole weights; the first line is what `last` says."""
    store = CheckpointStore(box)
    pointer, _, state = data.partition(b"\n")
    _file(store.folder / "last", pointer)
    folder = store.path(1)
    _file(folder / "model.safetensors", model)
    _file(folder / "optimizers.safetensors", model)
    for name in ("model", "optimizers"):
        state = state.replace(f"<{name}>".encode(), hashlib.sha256(model).hexdigest().encode())
    _file(folder / "state.json", state)
    _all_of([lambda: store.total_steps(1), lambda: store.pointed("last"), lambda: store.load(1)])


def search(data: bytes, box: Path) -> None:
    """The state of a search, which is read and gone on with."""
    path = _file(box / "search.json", data)
    _all_of([
        lambda: found_best(box),
        lambda: parser_seeds.searching(2).run(parser_seeds.narrowness, state_file=path),
    ])  # fmt: skip


def shipped_record(data: bytes, box: Path) -> None:
    """What is told of a shipped model."""
    read_shipped_record(_file(box / parser_seeds.SHIPPED / "model.json", data)).to_text()


def bench(data: bytes, box: Path) -> None:
    """A result of `patchkin bench`."""
    bench_verb._read(_file(box / "bench.json", data))


def journal(data: bytes, box: Path) -> None:
    """The record of a folder of translations, of which one is there."""
    image = _file(box / "a.png", b"made")
    _file(box / ".patchkin" / "a-b-1of1.jsonl", data)
    Records().state(image)
    makers = makers_of([image, box / "b.png"])
    strict_text(makers.plain())
    str(makers.warning)


def cache_index(data: bytes, box: Path) -> None:
    """The index of decoded images, with the checksum that it should have."""
    with suppress(ValueError):
        body = parsed(data)
        digest = hashlib.sha256(json.dumps(body, separators=(",", ":")).encode()).hexdigest()
        data = json.dumps({"body": body, "sha256": digest}).encode()
    _file(box / "set.json", data)
    _file(box / "set.0a.pixels", bytes(12))
    image = box / "a.png"
    Image.new("RGB", (2, 2)).save(image)
    Store(box, "set", None, 1).open([(image, 3)])


def words(data: bytes, _: Path) -> None:
    """Short texts of the command line and of names."""
    text = data.decode(errors="replace")
    is_hub_name(text)
    split_page(Path("a.tif") / text.replace("\0", ""))
    _all_of([lambda: parse_shard(text), lambda: parse_channels(text)])


def request(data: bytes, _: Path) -> None:
    """The head of a request to the page: method, path, query, and a header in each further line."""
    method, path, query, *lines = [*data.replace(b"\r", b"").split(b"\n"), b"", b"", b""]
    headers = [tuple(line.partition(b": ")[::2]) for line in lines if line]
    scope = {
        "type": "http", "method": method.decode("latin1"), "path": path.decode(errors="replace"),
        "query_string": query, "headers": [(name.lower(), text) for name, text in headers],
    }  # fmt: skip
    answered: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        answered.append(message)

    async def behind(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    for token in (None, "a-long-enough-token"):
        answered.clear()
        asyncio.run(Guard(behind, token=token)(scope, None, send))
        if not answered:
            raise AssertionError("no answer")


# Weights


def header(model: bytes, data: bytes, box: Path) -> None:
    """The header of a model, in a file whose tensors are whole."""
    length = int.from_bytes(model[:8], "little")
    contents = json.loads(model[8 : 8 + length])
    contents["__metadata__"] = {"patchkin": data.decode(errors="replace")}
    text = json.dumps(contents).encode()
    path = box / "m.safetensors"
    _file(path, len(text).to_bytes(8, "little") + text + model[8 + length :])
    with open_model(path) as file:
        declared_ranges(file.header.encoding)
        check_method(file, _TOLD)


def tensors(data: bytes, box: Path) -> None:
    """A safetensors file: as a model, and as weights of others. It begins with its contents."""
    if not data.startswith(_WHOLE_FILE):
        text, _, numbers = data.partition(b"\n")
        data = _WHOLE_FILE + len(text).to_bytes(8, "little") + text + numbers
    path = _file(box / "m.safetensors", data[1:])
    _all_of([lambda: _opened(path), lambda: import_weights([Source.of(str(path))])])


def _opened(path: Path) -> None:
    with open_model(path) as file:
        file.tensors()


def pickled(data: bytes, box: Path) -> None:
    """A file of torch: its pickle, packed with two storages; or all of it."""
    if not data.startswith(_WHOLE_FILE):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("archive/data.pkl", data)
            archive.writestr("archive/byteorder", b"little")
            archive.writestr("archive/version", b"3\n")
            for number, length in enumerate(parser_seeds.STORAGES):
                archive.writestr(f"archive/data/{number}", bytes(length))
        data = _WHOLE_FILE + packed.getvalue()
    import_weights([Source.of(str(_file(box / "latest_net_G.pth", data[1:])))])


def released_names(data: bytes, box: Path) -> None:
    """Names and shapes of tensors, as of a file of another project: `NAME 1 2 3` in each line."""
    named = {}
    for line in data.decode(errors="replace").splitlines()[:64]:
        name, *sides = line.split(" ")
        shape = [int(side) for side in sides if side.isascii() and side.isdigit() and len(side) < 4]
        if len(shape) <= 4 and np.prod(shape, dtype=np.int64) <= 1 << 14:
            named[name] = torch.zeros(shape)
    import_weights([Source.of(str(_file(box / "net_G.safetensors", save(named))))])


def statistics(data: bytes, box: Path) -> None:
    """Features of images: what their file says of itself."""
    header, _, names = data.partition(b"\n")
    features = {"features": torch.ones(2, 3), "logits": torch.ones(2, 1008)}
    if names:
        features = {names.decode(errors="replace")[:40]: torch.ones(names[0] % 4, 3)}
    content = save(features, {"patchkin-statistics": header.decode(errors="replace")})
    read_statistics(_file(box / "s.safetensors", content))


def exported(data: bytes, _: Path) -> None:
    """The metadata of an exported model."""
    with suppress(ValueError):
        metadata = parsed(data)
        if isinstance(metadata, dict):
            told = {name: str(value) for name, value in metadata.items()}
            str(ExportHeader.from_metadata(told, "m.onnx").ranges)


def onnx(data: bytes, _: Path) -> None:
    """An ONNX file."""
    OnnxTranslator(data, device="cpu", threads=1)


# Images and archives


def image(suffix: str, data: bytes, box: Path) -> None:
    """An image: what is told of it, its pixels, and a file like it with other pixels."""
    path = _file(box / f"a{suffix}", data)
    image_size(path)
    num_pages(path)
    container = container_of(path)
    picture = read_image(path)
    width, height = picture.size
    levels = np.zeros((picture.encoding.channels, height, width), picture.encoding.dtype)
    pages = [Page(levels, picture.alpha)] * min(container.num_pages, 3)
    if container.num_pages <= 3 and width * height <= 4096:
        write_pages(box / f"b{suffix}", pages, container)


def png16(data: bytes, box: Path) -> None:
    """A PNG of 16 bits, whose chunks have the right checksums."""
    at, parts = 8, [data[:8]]
    while at + 8 <= len(data):
        length = min(int.from_bytes(data[at : at + 4], "big"), len(data) - at - 8)
        body = data[at + 4 : at + 8 + length]
        parts += [struct.pack(">I", length), body, struct.pack(">I", zlib.crc32(body))]
        at += 12 + length
    image(".png", b"".join(parts), box)


def ome(data: bytes, _: Path) -> None:
    """The description of an OME-TIFF."""
    sizes = {"Z": 1, "C": 2, "T": 1, "Y": 4, "X": 4}
    fitted_ome(data.decode(errors="replace"), "ZCT", sizes, samples=1, dtype="uint16")


def archive(suffix: str, data: bytes, box: Path) -> None:
    """An archive, unpacked."""
    path = _file(box / f"a{suffix}", data)
    extract_archive(path, box / "out", limits=Limits(most_bytes=1 << 20, most_files=200))


# All of them


def make_targets(run: Path, model: Path, onnx_model: bytes) -> dict[str, Target]:
    """Every reader, by name.

    Args:
        run: of CUT, with a checkpoint; best a tiny one.
        model: of it.
        onnx_model: the same, exported.
    """
    allow_pixels(MOST_PIXELS)
    report._curves = lambda *_: None  # drawing and filling in a page take most of the time
    report.render = lambda *_, **__: ""
    parts = parser_seeds.parts_of(run)
    begin = parser_seeds.texts(run, model)
    readers: dict[str, Callable[[bytes, Path], object]] = {
        "bench": bench,
        "cache_index": cache_index,
        "checkpoint": partial(checkpoint, parser_seeds.small_model(model)),
        "exported": exported,
        "header": partial(header, model.read_bytes()),
        "journal": journal,
        "ome": ome,
        "pickled": pickled,
        "released_names": released_names,
        "request": request,
        "results": results,
        "run_folder": partial(run_folder, parts),
        "search": search,
        "settings": settings,
        "settings_of_parts": settings_of_parts,
        "shipped_record": shipped_record,
        "statistics": statistics,
        "strict_json": strict_json,
        "tensors": tensors,
        "words": words,
    }
    found = {name: Target(read=read, seeds=begin[name]) for name, read in readers.items()}
    found["onnx"] = Target(read=onnx, seeds=[onnx_model], longest=2 * len(onnx_model))
    for name, contents in parser_seeds.images().items():
        read = png16 if name == "png16" else partial(image, f".{name.partition('.')[2]}")
        found[name] = Target(read=read, seeds=contents)
    for suffix in (".zip", ".tar", ".tar.gz"):
        contents = [data for name, data in seeds.archives().items() if name.endswith(suffix)]
        read = partial(archive, suffix)
        found[f"archive{suffix}"] = Target(read=read, seeds=contents, longest=16_384)
    return dict(sorted(found.items()))


def _file(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _all_of(looks: list[Callable[[], object]]) -> None:
    """Each, whatever the others refuse."""
    refused: list[PatchkinError] = []
    for look in looks:
        try:
            look()
        except PatchkinError as error:
            refused.append(error)
    if refused:
        raise refused[0]
