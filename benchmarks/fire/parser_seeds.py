"""Files as patchkin and other libraries write them: what `parsers.py` begins with."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import seeds
import torch
from PIL import Image
from safetensors.torch import save

from patchkin.compression.search import EvolutionSearch, SearchConfig
from patchkin.compression.space import SearchSpace
from patchkin.config import to_plain
from patchkin.data.cache.index import FORMAT, decoder_versions
from patchkin.data.config import DataConfig
from patchkin.metrics.protocols import Protocol
from patchkin.networks import ResNetConfig, ResNetGenerator
from patchkin.networks.separable import Channels
from patchkin.schedules import ScheduleConfig
from patchkin.storage.checkpoint import open_model
from patchkin.storage.shipped import FOLDER
from patchkin.training import TrainingConfig
from patchkin.translation.exported import ExportedStyle, ExportHeader
from patchkin.translation.record import Maker

SIDE = 6
"""Of images."""
STORAGES = (24, 8)
"""Bytes of the tensors of a pickle."""
SHIPPED = "horse2zebra-preview"
RESULT = {
    "scores": {"p/frechet": 40.0, "psnr": None},
    "not_finite": {"/scores/psnr": "Infinity"},
    "subject": {"step": 3, "sha256": "12", "method": "cut", "model": "m", "weights": "live"},
    "data": {"split": "test", "root": "toy", "direction": "AtoB", "counts": {"source": 2}},
    "protocols": {"p": {"extractor_sha256": "ab", "image_size": 256}},
    "evaluation": {"seed": 1},
}
CONFIG = (
    b"name: cut\nmethod: {tau: 0.07}\ndata: {root: toy, size: 32, direction: AtoB}\n"
    b"schedule: {steps: 3, ema_decay: 0.0}\ntraining: {seed: 0}\n"
    b"history:\n- {from_step: 2, before: {a: 1}, after: {a: 2}}\n"
)
"""Of a run; a whole one takes PyYAML 50 ms."""
ODD_JSON = (
    *(b"[" * 900 + b"]" * 900, b'{"a":' * 900 + b"1" + b"}" * 900, b'[{"scores": {}, "data": 3}]'),
    *(b'{"a": [1e999, -Infinity, NaN, "\\ud800"]}', b'{"a": null, "not_finite": {"/a": "NaN"}}'),
)
ODD_YAML = (
    b"name: cut\nmethod:\n  tau: &a [1, 2.5]\n  x: *a\ndata: {batch_size: 0x10, size: [256, 12]}\n",
    b"schedule:\n  <<: {steps: 3}\n  other: !!int '7'\nhistory: [!!float '1', !!bool yes]\n",
    b"training: {seed: 1:30, x: 2001-12-14t21:59:43.10-05:00, y: !!binary aGk=}\n---\n? [a]\n: b\n",
)
REQUESTS = [
    b"GET\n/\ntoken=a-long-enough-token\nhost: 127.0.0.1:7860\ncookie: a=b; patchkin=c",
    b"POST\n/x\n\nhost: [::1]:7860\norigin: http://localhost:1\nauthorization: Bearer a-long",
]
OME = (
    b'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    b'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="4" '
    b'SizeY="4" SizeC="2" SizeZ="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
    b'<TiffData IFD="0" PlaneCount="2"/><Plane TheC="1" TheZ="0" TheT="0"/></Pixels></Image></OME>'
)


def texts(run: Path, model: Path) -> dict[str, list[bytes]]:
    """Contents by the name of their target."""
    parts = parts_of(run)
    whole_config = (run / "config.yaml").read_bytes()
    state = (model.parent / "state.json").read_bytes()
    for name, digest in json.loads(state)["sha256"].items():
        state = state.replace(digest.encode(), f"<{Path(name).stem}>".encode())
    kinds = (DataConfig(), ScheduleConfig(), TrainingConfig())
    return {
        "bench": [_json({"cases": [{"case": "cut"}], "peak_gflops": {"32-true": 1.0}})],
        "cache_index": [_cache_body()],
        "checkpoint": [b"step_00000001\n" + state],
        "exported": [_json(_export_header())],
        "header": [header_of(model)],
        "journal": [_journal()],
        "ome": [OME],
        "pickled": _pickles(),
        "released_names": [_released()],
        "request": REQUESTS,
        "results": [_json([RESULT]), *ODD_JSON],
        "run_folder": [bytes((place,)) + parts[name] for place, name in enumerate(sorted(parts))],
        "search": [_searched()],
        "settings": [whole_config, *ODD_YAML],
        "settings_of_parts": [_json(to_plain(kind)) for kind in kinds],
        "shipped_record": [(FOLDER / SHIPPED / "model.json").read_bytes()],
        "statistics": [_statistics(), _statistics() + b"\nfeatures"],
        "strict_json": [_json(RESULT), *ODD_JSON],
        "tensors": [
            b"\0" + save({"model.1.weight": torch.ones(2, 3)}),
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}\n' + bytes(8),
        ],
        "words": [b"2/8", b"me/m@v1", b"a_p003.tif", b"8_8_8_8_8_8"],
    }


def parts_of(run: Path) -> dict[str, bytes]:
    """The records of a run, with a short configuration and scores."""
    records = {name: (run / name).read_bytes() for name in ("log.jsonl", "data.json")}
    return {"config.yaml": CONFIG, "scores.json": _json([RESULT]), **records}


def header_of(model: Path) -> bytes:
    """What a model says of itself."""
    with open_model(model) as file:
        return file.file.metadata["patchkin"].encode()


def small_model(model: Path) -> bytes:
    """A file with the header of a model, and one tensor."""
    return save({"G.x": torch.ones(2)}, {"patchkin": header_of(model).decode()})


def images() -> dict[str, list[bytes]]:
    """Contents by target: `image` with a suffix, and `png16`."""
    seeds.SIDE = SIDE
    found: dict[str, list[bytes]] = {}
    for name, content in seeds.images().items():
        found.setdefault(f"image{Path(name).suffix}", []).append(content)
    deep = io.BytesIO()
    pixels = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) * 500
    Image.fromarray(pixels).save(deep, format="PNG", dpi=(72, 72))
    found["png16"] = [deep.getvalue(), seeds.images()["deep_colour.png"]]
    words = b"P3\n# a comment\n2 1\n300\n0 150 300\n1 2 3\n"
    found["image.ppm"] += [words, b"P6 2 1 65535\n" + bytes(12)]
    return found


def _json(plain: Any) -> bytes:
    return json.dumps(plain).encode()


def _cache_body() -> bytes:
    stored = [None, "RGB", [2, 2, 3], 0, 12, 0]
    entry = ["/a.png", 3, 1, 1, "uint8", 3, [stored]]
    body = {
        "format": FORMAT, "decoder": decoder_versions(),
        "pixels": "set.0a.pixels", "entries": [entry],
    }  # fmt: skip
    return _json(body)


def _export_header() -> dict[str, str]:
    style = ExportedStyle(domain=0, name="", origin="domain 0, its own", numbers=(0.5, 1.0))
    header = ExportHeader(
        method="cut", channels=(3, 1), multiple=4, minimum=5, source_sha256="12", styles=(style,)
    )
    return header.to_metadata()


def _journal() -> bytes:
    maker = Maker(model="m", sha256="12", method="cut", options={"direction": "AtoB"})
    content = {"size": 4, "mtime_ns": 1, "sha256": "12"}
    lines = [
        {"patchkin": 1, "maker": {**vars(maker), "options": dict(maker.options)}},
        {"begins": "a.png"},
        {"made": "a.png", "file": content, "source": {"path": "x", **content}, "style": ""},
    ]
    return b"\n".join(map(_json, lines))


def _pickles() -> list[bytes]:
    """A state dict in its three forms; of the newest its pickle alone, too."""
    tensors = {"model.1.weight": torch.ones(2, 3), "model.1.bias": torch.zeros(2)}
    found = []
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save({"state_dict": tensors, "epoch": 3}, file, _use_new_zipfile_serialization=zipped)
        found.append(b"\0" + file.getvalue())
    file = io.BytesIO()
    torch.save(tensors, file)
    with zipfile.ZipFile(file) as packed:
        name = next(name for name in packed.namelist() if name.endswith("data.pkl"))
        return [packed.read(name), *found]


def _released() -> bytes:
    """Names and shapes of a released generator."""
    state = ResNetGenerator(ResNetConfig(ngf=2, blocks=1)).state_dict()
    lines = [" ".join([name, *map(str, each.shape)]) for name, each in state.items()]
    return "\n".join(lines).encode()


def searching(generations: int) -> EvolutionSearch:
    """A search that takes milliseconds."""
    space = SearchSpace.parse("2,1_2,1_2,1_1_1_1_2,1_2,1")
    config = SearchConfig(budget=4e6, population=4, generations=generations)
    return EvolutionSearch(space, config, height=64, width=64)


def narrowness(channels: Channels) -> float:
    """What it searches for."""
    return float(sum(channels))


def _searched() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "search.json"
        searching(1).run(narrowness, state_file=path)
        return path.read_bytes()


def _statistics() -> bytes:
    protocol = to_plain(Protocol(name="p", extractor="inception", extractor_sha256="ab"))
    return _json({"protocol": protocol, "names": ["a.png", "b.png"]})
