"""HEIC and HEIF, which Pillow reads and writes with pillow-heif."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

from patchkin.errors import DataError

HEIC_SUFFIXES = (".heic", ".heif", ".hif")
_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


@cache
def reads_heic() -> bool:
    """Whether pillow-heif is installed."""
    return find_spec("pillow_heif") is not None


def is_heic(head: bytes) -> bool:
    """Whether a file that begins with these 12 bytes is HEIC or HEIF."""
    return head[4:8] == b"ftyp" and head[8:12] in _BRANDS


def register_heic(head: bytes) -> None:
    """Let Pillow open a file that begins so, if it is HEIC.

    Raises:
        DataError: it is, and pillow-heif is not installed.
    """
    if is_heic(head):
        register_heif()


@cache
def register_heif() -> None:
    """Let Pillow read and write HEIC.

    Raises:
        DataError: pillow-heif is not installed.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise DataError("HEIC needs pillow-heif; run `pip install patchkin[heic]`.") from error
    pillow_heif.register_heif_opener()
