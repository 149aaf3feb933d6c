"""Colour profile and EXIF in the boxes of JPEG 2000 and AVIF, where no library puts them.

Both formats are boxes (ISO 14496-12, 4.2): a length, a kind of four letters, and a content that may
be boxes again. Pillow reads none of these two from JPEG 2000, and imagecodecs writes them to
neither format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from patchkin.errors import DataError
from patchkin.images.faults import DECODING_ERRORS

_EXIF_HEAD = b"Exif\0\0"
_EXIF_OF_JP2 = b"JpgTiffExif->JP2"
"""The name (UUID) of the box that programs put EXIF in."""
_NAMED, _RESTRICTED_ICC, _ANY_ICC = 1, 2, 3
"""How a box of JPEG 2000 tells colours (ISO 15444-1, I.5.3.3)."""
_SRGB, _GREY = 16, 17
_TABLES = b"A2B0"


class Box(NamedTuple):
    """Where it lies: its head from `start`, its content up to `end`."""

    kind: bytes
    start: int
    content: int
    end: int


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Box]:
    r"""The boxes that follow each other in a part of a file.

    Raises:
        DataError: a length leads outside.

    >>> [box.kind for box in boxes(b"\0\0\0\x0bftypabc" + b"\0\0\0\x08free")]
    [b'ftyp', b'free']
    """
    end = len(data) if end is None else end
    while start + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, start)
        content = start + 8
        if length == 1 and content + 8 <= end:
            (length,) = struct.unpack_from(">Q", data, content)
            content += 8
        stop = end if length == 0 else min(start + length, end)
        if stop < content:
            return
        yield Box(kind, start, content, stop)
        start = stop


def box(kind: bytes, content: bytes) -> bytes:
    """A box as it stands in a file."""
    return struct.pack(">I4s", 8 + len(content), kind) + content


# JPEG 2000


def tell_pillow(image: Image.Image, path: Path) -> None:
    """Let a JPEG 2000 image that Pillow opened have the profile and the EXIF of its file."""
    if image.format != "JPEG2000":
        return
    with suppress(*DECODING_ERRORS):
        icc_profile, exif = jp2_metadata(path)
        if icc_profile is not None:
            image.info["icc_profile"] = icc_profile
        if exif is not None:
            image.info["exif"] = _EXIF_HEAD + exif


def jp2_metadata(path: Path) -> tuple[bytes | None, bytes | None]:
    """Colour profile, and EXIF from its byte order on; None for what is not there."""
    icc: bytes | None = None
    exif: bytes | None = None
    for kind, content in _outer_boxes(path):
        if kind == b"uuid" and content.startswith(_EXIF_OF_JP2):
            exif = content.removeprefix(_EXIF_OF_JP2).removeprefix(_EXIF_HEAD)
        for inner in boxes(content) if kind == b"jp2h" else ():
            told = inner.kind == b"colr" and content[inner.content] in (_RESTRICTED_ICC, _ANY_ICC)
            if told and icc is None:
                icc = content[inner.content + 3 : inner.end]
    return icc or None, exif or None


def _outer_boxes(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Those of a file that may tell something, without its pixels."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = 0
        while start + 16 <= size:
            file.seek(start)
            length, kind, long = struct.unpack(">I4sQ", file.read(16))
            content = start + (16 if length == 1 else 8)
            end = size if length == 0 else start + (long if length == 1 else length)
            if end < content:
                return
            if kind in (b"jp2h", b"uuid"):
                file.seek(content)
                yield kind, file.read(min(end, size) - content)
            start = end


def fits_jp2(icc_profile: bytes) -> bool:
    """Whether JPEG 2000 (Part 1) has a place for it: for curves and a matrix, not for tables."""
    number = int.from_bytes(icc_profile[128:132], "big")
    table = icc_profile[132 : 132 + 12 * number]
    return _TABLES not in (table[place : place + 4] for place in range(0, len(table), 12))


def with_jp2_metadata(data: bytes, icc_profile: bytes | None, exif: bytes | None) -> bytes:
    """A file as encoders write it, with a profile in place of named colours, and with EXIF."""
    parts: list[bytes] = []
    for outer in boxes(data):
        whole = data[outer.start : outer.end]
        if outer.kind == b"jp2h" and icc_profile is not None:
            told = bytes((_RESTRICTED_ICC, 0, 0)) + icc_profile
            whole = box(b"jp2h", _with_colours(data, outer, told))
        if outer.kind == b"jp2c" and exif is not None:
            parts.append(box(b"uuid", _EXIF_OF_JP2 + exif.removeprefix(_EXIF_HEAD)))
        parts.append(whole)
        if outer.kind == b"jp2c":  # older imagecodecs let memory follow
            break
    return b"".join(parts)


def without_jp2_profile(data: bytes) -> bytes:
    """A JPEG 2000 file whose decoder leaves the values as they are stored."""
    parts: list[bytes] = []
    for outer in boxes(data):
        whole = data[outer.start : outer.end]
        if outer.kind == b"jp2h":
            header = {part.kind: data[part.content :] for part in boxes(data, *outer[2:])}
            if header.get(b"colr", b"")[:1] in (bytes((_RESTRICTED_ICC,)), bytes((_ANY_ICC,))):
                channels = int.from_bytes(header.get(b"ihdr", b"")[8:10], "big")
                named = struct.pack(">BBBI", _NAMED, 0, 0, _SRGB if channels > 2 else _GREY)
                whole = box(b"jp2h", _with_colours(data, outer, named))
        parts.append(whole)
    return b"".join(parts)


def _with_colours(data: bytes, header: Box, colours: bytes) -> bytes:
    """The boxes in a header, where the first that tells colours is this, and no other does."""
    inner = list(boxes(data, header.content, header.end))
    first = next(part for part in inner if part.kind == b"colr")
    return b"".join(
        box(b"colr", colours) if part is first else data[part.start : part.end]
        for part in inner
        if part is first or part.kind != b"colr"
    )


# AVIF


def with_avif_metadata(data: bytes, icc_profile: bytes | None, exif: bytes | None) -> bytes:
    """An AVIF of one picture, as imagecodecs writes it, with a colour profile and EXIF.

    Raises:
        DataError: its boxes are of versions that are not known here.
    """
    if icc_profile is None and exif is None:
        return data
    meta = next(part for part in boxes(data) if part.kind == b"meta")
    old = _Meta.of(data, meta)
    exif_item = b"" if exif is None else struct.pack(">I", 0) + exif.removeprefix(_EXIF_HEAD)
    length = len(old.with_more(icc_profile, exif_item, moved=0, exif_at=0))
    moved = length - (meta.end - meta.start)
    exif_at = len(data) + moved + 8
    new = old.with_more(icc_profile, exif_item, moved=moved, exif_at=exif_at)
    tail = box(b"mdat", exif_item) if exif_item else b""
    return data[: meta.start] + new + data[meta.end :] + tail


class _Meta(NamedTuple):
    """The box of an AVIF that lists its items (ISO 14496-12, 8.11), in parts."""

    head: bytes
    parts: dict[bytes, bytes]
    """Contents by kind, in order."""

    @classmethod
    def of(cls, data: bytes, meta: Box) -> _Meta:
        inner = boxes(data, meta.content + 4, meta.end)
        parts = {part.kind: data[part.content : part.end] for part in inner}
        known = (
            parts.get(b"iloc", b"\1")[0] == 0
            and parts.get(b"iinf", b"\1")[0] == 0
            and parts.get(b"pitm", b"\1")[0] == 0
            and parts.get(b"iref", b"\0")[0] == 0
        )
        if not known:
            raise DataError("its list of items is of a version that is not known.")
        return cls(data[meta.content : meta.content + 4], parts)

    def with_more(
        self, icc_profile: bytes | None, exif_item: bytes, *, moved: int, exif_at: int
    ) -> bytes:
        """The box anew; what lies behind it has moved by some bytes."""
        parts = dict(self.parts)
        primary = struct.unpack_from(">H", parts[b"pitm"], 4)[0]
        places, last = _moved(parts[b"iloc"], moved)
        if exif_item:
            new = last + 1
            places += [_place(new, exif_at, len(exif_item))]
            entry = struct.pack(">BBHHH4sB", 2, 0, 0, new, 0, b"Exif", 0)
            count = struct.unpack_from(">H", parts[b"iinf"], 4)[0]
            parts[b"iinf"] = (
                parts[b"iinf"][:4]
                + struct.pack(">H", count + 1)
                + parts[b"iinf"][6:]
                + box(b"infe", entry)
            )
            told = box(b"cdsc", struct.pack(">HHH", new, 1, primary))
            before = {name: parts.pop(name) for name in (b"iprp",)}
            parts[b"iref"] = parts.get(b"iref", bytes(4)) + told
            parts |= before
        parts[b"iloc"] = struct.pack(">IBBH", 0, 0x44, 0, len(places)) + b"".join(places)
        if icc_profile is not None:
            parts[b"iprp"] = _with_property(
                parts[b"iprp"], primary, box(b"colr", b"prof" + icc_profile)
            )
        whole = b"".join(box(kind, content) for kind, content in parts.items())
        return box(b"meta", self.head + whole)


def _place(item: int, offset: int, length: int) -> bytes:
    """Where an item lies, in one piece."""
    return struct.pack(">HHHII", item, 0, 1, offset, length)


def _moved(locations: bytes, moved: int) -> tuple[list[bytes], int]:
    """The places of the items after that, and the highest number of an item."""
    sizes, more, count = struct.unpack_from(">BBH", locations, 4)
    if (sizes, more) != (0x44, 0):
        raise DataError("its list of places is of a kind that is not known.")
    places, last, at = [], 0, 8
    for _ in range(count):
        item, reference, pieces = struct.unpack_from(">HHH", locations, at)
        if pieces != 1 or reference:
            raise DataError("an item of it lies in several pieces.")
        offset, length = struct.unpack_from(">II", locations, at + 6)
        places.append(_place(item, offset + moved, length))
        last, at = max(last, item), at + 14
    return places, last


def _with_property(properties: bytes, item: int, added: bytes) -> bytes:
    """The properties of the items (`iprp`) with another one, of one item."""
    store, links = boxes(properties)
    held = properties[store.content : store.end]
    number = sum(1 for _ in boxes(held)) + 1
    table = properties[links.content : links.end]
    version, wide = table[0], table[3] & 1
    at, count = 8, struct.unpack_from(">I", table, 4)[0]
    parts = [table[:8]]
    for _ in range(count):
        head = ">IB" if version else ">HB"
        of, length = struct.unpack_from(head, table, at)
        begin = at + struct.calcsize(head)
        end = begin + length * (2 if wide else 1)
        own = table[begin:end]
        if of == item:
            own += number.to_bytes(2 if wide else 1, "big")
            length += 1
        parts.append(struct.pack(head, of, length) + own)
        at = end
    return box(b"ipco", held + added) + box(b"ipma", b"".join(parts))
