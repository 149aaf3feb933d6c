"""Data sets of the studies: held-out images at the size of training, the others as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from patchkin.data.layouts import image_files
from patchkin.data.transforms import resized
from patchkin.images import read_image

HELD_OUT = 32
"""Training images per domain that are held out for validation."""
REAL = 300
"""Real images of domain B that are scored beside the translations."""


def prepared_data(root: Path, folder: Path, size: int) -> Path:
    """The set as all rows see it: held-out images at the size of training, the others as links.

    Scores would otherwise compare small translations with large photographs. Every so many training
    images one is held out for validation.
    """
    if (folder / "ready").is_file():
        return folder
    for domain in "AB":
        files = image_files(root / f"train{domain}")
        every = max(2, len(files) // HELD_OUT)
        held_out = files[::every][:HELD_OUT]
        for path in files:
            if path not in held_out:
                link(path, folder / f"train{domain}" / path.name)
        write_resized(held_out, folder / f"val{domain}", size)
        write_resized(image_files(root / f"test{domain}"), folder / f"test{domain}", size)
    write_resized(image_files(root / "trainB")[:REAL], folder / "real", size)
    if (root / "masksA").is_dir():
        write_resized(image_files(root / "masksA"), folder / "masksA", size)
    (folder / "ready").touch()
    return folder


def link(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        target.symlink_to(path.resolve())


def write_resized(files: Sequence[Path], folder: Path, size: int) -> None:
    """As PNG; masks stay black and white."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        mask = folder.name.startswith("masks")
        image = resized(read_image(path, 1 if mask else 3).pixels, size, size)
        image = image.point(lambda level: 255 * (level > 127)) if mask else image
        image.save(folder / f"{path.stem}.png")
