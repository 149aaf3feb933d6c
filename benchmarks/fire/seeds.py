"""Files as other libraries write them, and ways to spoil them: what `inputs.py` begins with."""

from __future__ import annotations

import io
import json
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import imagecodecs
import numpy as np
import pillow_heif
import tifffile
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

SIDE = 40
Chance = random.Random


def images() -> dict[str, bytes]:
    """Content by name, of every kind of file that is read."""
    rng = np.random.default_rng(0)
    grey, colour, alpha = (
        rng.integers(0, 256, (SIDE, SIDE + 3, *channels), dtype=np.uint8)
        for channels in ((), (3,), (4,))
    )
    deep, deep_colour = (
        rng.integers(0, 65536, (SIDE, SIDE + 3, *channels), dtype=np.uint16)
        for channels in ((), (3,))
    )
    return {
        **_by_pillow(grey, colour, alpha, deep),
        **_by_tifffile(grey, colour, deep, deep_colour),
        "deep_colour.png": imagecodecs.png_encode(deep_colour),
        "deep.jp2": imagecodecs.jpeg2k_encode(deep_colour),
        "grey.npy": _written(lambda file: np.save(file, grey)),
        "deep.npy": _written(lambda file: np.save(file, deep_colour)),
        "plain.heic": _written(pillow_heif.from_pillow(Image.fromarray(colour)).save),
    }


def _by_pillow(
    grey: np.ndarray, colour: np.ndarray, alpha: np.ndarray, deep: np.ndarray
) -> dict[str, bytes]:
    picture = Image.fromarray(colour)
    exif = Image.Exif()
    exif[274], exif[305] = 6, "of a camera"
    words = PngImagePlugin.PngInfo()
    words.add_text("Title", "x" * 50, zip=True)
    frames = [Image.fromarray(np.roll(colour, shift, 0)) for shift in (3, 6)]
    moving: dict[str, Any] = {"save_all": True, "append_images": frames, "duration": 50}
    files: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "colour.png": (picture, {"exif": exif, "pnginfo": words, "dpi": (72, 72)}),
        "grey.png": (Image.fromarray(grey), {}),
        "alpha.png": (Image.fromarray(alpha), {}),
        "palette.png": (picture.quantize(16), {}),
        "deep.png": (Image.fromarray(deep), {}),
        "plain.jpeg": (picture, {"exif": exif, "quality": 90}),
        "progressive.jpeg": (picture, {"progressive": True}),
        "cmyk.jpeg": (picture.convert("CMYK"), {}),
        "plain.bmp": (picture, {}),
        "palette.gif": (picture.quantize(16), {}),
        "moving.gif": (picture, moving),
        "plain.webp": (picture, {}),
        "moving.webp": (picture, {**moving, "lossless": True}),
        "plain.avif": (picture, {}),
        "plain.ppm": (picture, {}),
    }
    return {
        name: _written(partial(image.save, format=name.partition(".")[2], **options))
        for name, (image, options) in files.items()
    }


def _by_tifffile(
    grey: np.ndarray, colour: np.ndarray, deep: np.ndarray, deep_colour: np.ndarray
) -> dict[str, bytes]:
    planes, stack = deep_colour.transpose(2, 0, 1), np.stack([deep, deep])
    files: dict[str, tuple[np.ndarray, dict[str, Any], dict[str, Any]]] = {
        "plain.tif": (colour, {}, {"photometric": "rgb", "compression": "lzw", "predictor": True}),
        "jpeg.tif": (colour, {}, {"photometric": "rgb", "compression": "jpeg"}),
        "tiled.tif": (deep, {}, {"tile": (16, 16), "compression": "deflate"}),
        "planar.tif": (planes, {}, {"photometric": "rgb", "planarconfig": "separate"}),
        "big.tif": (grey, {"bigtiff": True, "byteorder": ">"}, {"compression": "packbits"}),
        "imagej.tif": (stack, {"imagej": True}, {"metadata": {"axes": "ZYX"}}),
        "ome.tif": (stack, {"ome": True}, {"metadata": {"axes": "CYX"}}),
        "pages.tif": (np.stack([grey, grey, grey]), {}, {"photometric": "minisblack"}),
    }

    def write(file: IO[bytes], array: np.ndarray, of_file: Any, of_page: Any) -> None:
        with tifffile.TiffWriter(file, **of_file) as writer:
            writer.write(array, **of_page)

    return {
        name: _written(lambda file, parts=parts: write(file, *parts))
        for name, parts in files.items()
    }


def _written(write: Callable[[IO[bytes]], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def archives() -> dict[str, bytes]:
    """Content by name."""
    members = {"trainA/0.png": b"a" * 99, "trainB/0.png": b"b" * 999, "../out.png": b"c"}
    inside = dict(list(members.items())[:2])
    found: dict[str, bytes] = {}
    for name, some in (("plain", inside), ("leaving", members)):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, content in some.items():
                archive.writestr(path, content)
        found[f"{name}.zip"] = file.getvalue()
        for mode, ending in (("w", "tar"), ("w:gz", "tar.gz"), ("w:bz2", "tar.bz2")):
            file = io.BytesIO()
            with tarfile.open(fileobj=file, mode=mode) as tar:  # type: ignore[call-overload]
                for path, content in some.items():
                    member = tarfile.TarInfo(path)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                if name == "leaving":
                    link = tarfile.TarInfo("trainA/1.png")
                    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
                    tar.addfile(link)
            found[f"{name}.{ending}"] = file.getvalue()
    return found


def weights(folder: Path, model: Path) -> dict[str, bytes]:
    """Content by name: models, state dicts, checkpoints of torch, ONNX files beside them."""
    tensors = {"model.1.weight": torch.ones(4, 3, 7, 7), "model.1.bias": torch.zeros(4)}
    made = folder / "made"
    save_file(tensors, made)
    found = {"model.safetensors": model.read_bytes(), "foreign.safetensors": made.read_bytes()}
    torch.save(tensors, made)
    found["latest_net_G.pth"] = made.read_bytes()
    torch.save({"state_dict": tensors, "epoch": 3}, made, _use_new_zipfile_serialization=False)
    found["old.pth"] = made.read_bytes()
    made.unlink()
    return found


# Spoiling


def spoiled(content: bytes, chance: Chance) -> bytes:
    """The bytes with one to three faults."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        content = chance.choice(WAYS)(content, chance)
    return content


def _cut(content: bytes, chance: Chance) -> bytes:
    return content[: chance.randint(0, len(content))]


def _flip(content: bytes, chance: Chance) -> bytes:
    """Some bits, most of them near the beginning, where headers are."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 2, 8, 64)) if changed else 0):
        reach = chance.choice((64, 512, len(changed)))
        changed[chance.randrange(min(reach, len(changed)))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _number(content: bytes, chance: Chance) -> bytes:
    """An extreme number somewhere."""
    number = chance.choice((0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63, 2**64 - 1))
    width = chance.choice(("B", "H", "I", "Q"))
    packed = struct.pack(
        chance.choice("<>") + width, number & (2 ** (8 * struct.calcsize(width)) - 1)
    )
    start = chance.randint(0, min(len(content), chance.choice((64, 4096))))
    return content[:start] + packed + content[start + len(packed) :]


def _insert(content: bytes, chance: Chance) -> bytes:
    start = chance.randint(0, len(content))
    return content[:start] + chance.randbytes(chance.choice((1, 4, 300))) + content[start:]


def _repeat(content: bytes, chance: Chance) -> bytes:
    start = chance.randint(0, len(content))
    part = content[start : start + chance.choice((4, 100, 2000))]
    return content[:start] + part * chance.choice((2, 50)) + content[start:]


def _zeros(content: bytes, chance: Chance) -> bytes:
    start = chance.randint(0, len(content))
    length = chance.choice((4, 100, 2000))
    return content[:start] + bytes(length) + content[start + length :]


def _tail(content: bytes, chance: Chance) -> bytes:
    return content + chance.randbytes(chance.choice((1, 1000)))


WAYS: tuple[Callable[[bytes, Chance], bytes], ...] = (
    *(_cut, _flip, _flip, _number, _number, _insert, _repeat, _zeros, _tail),
)

STRANGE = (
    *(
        None,
        True,
        -1,
        0,
        10**400,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "x" * 10_000,
        "\x00\x1b[2J",
    ),
    *([], {}, [[[]]], {"a": {"b": []}}, "../../x", "!!python/object:os.system", "2026-13-45"),
)


def strange(tree: Any, chance: Chance) -> Any:
    """A tree of JSON with something else at one to three places."""
    tree = json.loads(json.dumps(tree))
    for _ in range(chance.choice((1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return chance.choice(STRANGE)
        owner, key = chance.choice(places)
        way = chance.random()
        if way < 0.7:
            owner[key] = chance.choice(STRANGE)
        elif way < 0.85 and isinstance(owner, dict):
            owner[f"{key}{chance.choice(('s', ' ', '.', chr(0)))}"] = owner.pop(key)
        else:
            del owner[key]
    return tree


def _places(tree: Any) -> Any:
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in list(keys):
        yield tree, key
        yield from _places(tree[key])


def name(chance: Chance) -> str:
    """Of a file, as a user or another system could have called it: up to 255 bytes."""
    parts = (
        "a",
        " ",
        "\n",
        "é",
        "e\u0301",
        "\udcff",
        "\u202e",
        "日本",
        "-",
        ".",
        "~",
        "'",
        '"',
        "\\",
    )
    text = "".join(
        chance.choice((*parts, "%s", "{0}", "*", "[1]", "$HOME", "CON", "\t", "#", "\x7f"))
        for _ in range(chance.randint(1, 9))
    )
    text += "n" * chance.choice((0, 0, 0, 300))
    while len(text.encode(errors="surrogateescape")) > 255 - len(".png"):
        text = text[:-1]
    return f"{text}.png"
