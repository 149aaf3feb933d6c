"""Pages: the images in a file that has several, such as a stack, or the frames of an animation.

A page has a path of its own below that of its file, so that it can stand wherever an image can:

    cells.tif/cells_p003.tif      the fourth page of cells.tif

A file of one page is its own page. The paths of pages lead to no file; `file_of` tells which they
are of.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from patchkin.errors import DataError
from patchkin.images.faults import DECODING_ERRORS
from patchkin.images.heic import HEIC_SUFFIXES, register_heic
from patchkin.images.tiff import TIFF_SUFFIXES, is_tiff, num_tiff_pages

PAGED_SUFFIXES = frozenset((*TIFF_SUFFIXES, *HEIC_SUFFIXES, ".gif", ".webp", ".png", ".avif"))
"""Of files that may have several pages. A JPEG's other pictures (MPO) are previews of the first."""
_THREADS = 8
_PNG_ANIMATION = b"acTL"


def page_path(file: Path, page: int) -> Path:
    """The path of a page, from 0.

    >>> page_path(Path("a/cells.tif"), 3).as_posix()
    'a/cells.tif/cells_p003.tif'
    """
    return file / f"{file.stem}_p{page:03d}{file.suffix}"


def split_page(path: Path) -> tuple[Path, int | None]:
    """The file and the number of a page; None for a path that is that of a file.

    >>> file, page = split_page(Path("a/cells.tif/cells_p003.tif"))
    >>> file.as_posix(), page
    ('a/cells.tif', 3)
    """
    file = path.parent
    if file.suffix != path.suffix or not path.suffix:
        return path, None
    match = re.fullmatch(re.escape(file.stem) + r"_p(\d{3,})", path.stem)
    if match is None or path.exists():  # a folder may have the name of an image
        return path, None
    return file, int(match[1])


def file_of(path: Path) -> Path:
    """The file that an image is in: that of a page, or the path itself."""
    return split_page(path)[0]


def num_pages(file: Path) -> int:
    """How many pages a file has, without decoding them; 1 for one that is missing or damaged."""
    if file.suffix.lower() not in PAGED_SUFFIXES:
        return 1
    try:
        with file.open("rb") as opened:
            head = opened.read(16)
        if is_tiff(head):
            return num_tiff_pages(file)
        if file.suffix.lower() == ".png" and not _is_animated_png(file):
            return 1
        register_heic(head)
        with Image.open(file) as image:
            return max(1, int(getattr(image, "n_frames", 1)))
    except (DataError, *DECODING_ERRORS):
        return 1


def _is_animated_png(file: Path) -> bool:
    """Pillow would read the whole file."""
    with file.open("rb") as opened:
        opened.seek(8)
        while len(head := opened.read(8)) == 8:
            if head[4:] in (_PNG_ANIMATION, b"IDAT"):
                return head[4:] == _PNG_ANIMATION
            opened.seek(int.from_bytes(head[:4], "big") + 4, 1)
    return False


def each_page(files: Iterable[Path]) -> tuple[Path, ...]:
    """The files, where those that have several pages are replaced by their pages."""
    files = list(files)
    counts = _counts(files)
    return tuple(
        path
        for file in files
        for path in (
            [page_path(file, page) for page in range(counts[file])]
            if counts.get(file, 1) > 1
            else [file]
        )
    )


def _counts(files: Sequence[Path]) -> dict[Path, int]:
    """Of the files that may have several."""
    asked = [file for file in files if file.suffix.lower() in PAGED_SUFFIXES]
    if len(asked) < 2:
        return {file: num_pages(file) for file in asked}
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(asked, pool.map(num_pages, asked), strict=True))
