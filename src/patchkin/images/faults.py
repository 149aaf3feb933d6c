"""What decoders raise on damaged files, and one line about it."""

from __future__ import annotations

import struct
import tokenize
import zlib

from PIL import Image, UnidentifiedImageError

DECODING_ERRORS = (  # what Pillow, NumPy, torchvision and tifffile raise on damaged files
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    RuntimeError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    MemoryError,
    struct.error,
    tokenize.TokenError,
    zlib.error,
    Image.DecompressionBombError,
)


def reason(error: BaseException) -> str:
    """Why, in one line without a full stop.

    >>> reason(FileNotFoundError(2, "No such file or directory", "a.png"))
    'No such file or directory'
    """
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a known format"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, Image.DecompressionBombError):
        text = str(error).removesuffix(", could be decompression bomb DOS attack.")
        return f"{text}. If the file is trusted: --max-pixels N"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")
