"""What is in a folder of images, and what is wrong with it (`patchkin data check`)."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from patchkin.data.depth import UsedValues, merged, used_values
from patchkin.data.grey import GREY_NOTE
from patchkin.data.layouts import (
    MIN_UNPAIRED_IMAGES,
    SPLITS,
    DomainFolders,
    Layout,
    PairedImages,
    PluggedLayout,
    SingleImages,
    TwoFolders,
    UnpairedFolders,
    detect_layout,
    entries_beside,
    flat_domains,
    plugged_layout,
)
from patchkin.data.verify import MAX_BROKEN_FRACTION, default_threads
from patchkin.errors import ConfigError, DataError
from patchkin.images import Encoding, Picture, read_image
from patchkin.images.folders import FoundImages, find_images
from patchkin.images.pages import each_page, file_of

_FEW_IMAGES = 100
_SMALL_PIXELS = 256


@dataclass(frozen=True, slots=True)
class Spread:
    """Smallest, middle and largest value."""

    min: int
    median: int
    max: int


@dataclass(frozen=True, slots=True)
class BrokenFile:
    """A file that cannot be decoded."""

    file: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderReport:
    """One folder of images."""

    folder: str
    """Relative to the root."""
    training: bool
    """Whether training reads it; else its images are held out."""
    num_images: int
    """Broken ones and every page of a file included."""
    ignored: dict[str, int]
    """Suffix -> number of files that are no images."""
    width: Spread | None
    """None where no image can be decoded."""
    height: Spread | None
    channels: dict[int, int]
    """Number of channels -> number of files."""
    bits: dict[int, int]
    """Bits per channel -> number of files."""
    values: tuple[float, float] | None
    """Smallest and largest value in files of more than 8 bits; None without such files."""
    grey_in_colour: int
    """Colour files whose channels are equal, to one level of 255 (lossy codecs round)."""
    broken: list[BrokenFile]
    num_files: int = 0
    """Fewer than images, where files have several pages."""
    note: str = ""
    """What was ignored, in words; empty if nothing was."""
    depth_note: str = ""
    """That fewer bits are used than the files have, with the range to give; else empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckReport:
    """All folders under a root."""

    root: str
    layout: str
    folders: list[FolderReport]
    duplicates: list[list[str]] = field(default_factory=list)
    """Files with the same bytes in training and held-out folders: scores on them mean little."""
    warnings: list[str] = field(default_factory=list)
    """What may lower the quality."""
    errors: list[str] = field(default_factory=list)
    """What training would refuse."""

    @property
    def ok(self) -> bool:
        """Whether training would start."""
        return not self.errors


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one file turned out to be."""

    path: Path
    sha256: str = ""
    size: tuple[int, int] = (0, 0)
    encoding: Encoding | None = None
    grey_in_colour: bool = False
    used: UsedValues | None = None
    reason: str = ""


def check_data(
    root: str | Path | None = None,
    *,
    source: str | Path | None = None,
    target: str | Path | None = None,
    threads: int | None = None,
    max_broken: float = MAX_BROKEN_FRACTION,
) -> CheckReport:
    """Decode every image of a data set and report.

    Args:
        root: folder with the folders of the domains.
        source: folder of the images to translate, anywhere, if there is no root.
        target: folder of the images to resemble.
        threads: for decoding.
        max_broken: share of the images of a folder that may be broken, as `DataConfig.max_broken`.

    Raises:
        DataError: if there is no such folder, or its layout is unknown.
        ConfigError: neither a root nor both folders are given.
    """
    if source is not None and target is not None and root is None:
        return _check(Path(), TwoFolders(Path(source), Path(target)), threads, max_broken)
    if root is None or source is not None or target is not None:
        raise ConfigError("Give the folder of a data set, or --source and --target.")
    root = Path(root)
    layout = plugged_layout(root) or flat_domains(root) or detect_layout(root)
    return _check(root, layout, threads, max_broken)


def _check(root: Path, layout: Layout, threads: int | None, max_broken: float) -> CheckReport:
    folders: list[FolderReport] = []
    seen: dict[str, list[_Seen]] = {}
    unreadable: list[str] = []
    with ThreadPoolExecutor(threads or default_threads()) as pool:
        for folder in _folders(root, layout):
            try:
                found = _images(folder, layout)
            except DataError as error:
                found = FoundImages(folder, ())
                unreadable.append(str(error))
            name = _shown(folder, root)
            seen[name] = list(pool.map(_look, each_page(found.files)))
            training = isinstance(layout, TwoFolders) or _is_training(name)
            folders.append(_summary(root, name, found, seen[name], training=training))
    duplicates = _duplicates(root, seen)
    return CheckReport(
        root=" and ".join(map(str, _folders(root, layout)))
        if isinstance(layout, TwoFolders)
        else str(root),
        layout=type(layout).__name__,
        folders=folders,
        duplicates=duplicates,
        warnings=_warnings(folders, duplicates, layout) + _stray_files(layout),
        errors=unreadable + _errors(folders, layout, max_broken) + _missing_domains(root, layout),
    )


def _shown(path: Path, root: Path) -> str:
    """Relative to the root, where it is below."""
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _folders(root: Path, layout: Layout) -> list[Path]:
    """Those of the layout; one that is read by a plug-in may have none, and its splits stand for
    them.
    """
    if isinstance(layout, PluggedLayout):
        return [root / name for name in _of_plugin(layout)]
    if isinstance(layout, TwoFolders):
        return [layout.source, layout.target]
    if isinstance(layout, DomainFolders) and layout.flat:
        return [root / name for name in layout.names]
    if isinstance(layout, DomainFolders):
        folders = [root / split / name for split in SPLITS for name in layout.names]
        return [folder for folder in folders if folder.is_dir()]
    if isinstance(layout, PairedImages):
        return [root / split for split in SPLITS if (root / split).is_dir()]
    spelled = UnpairedFolders(root)
    named = [spelled.folder(split, domain) for split in SPLITS for domain in "AB"]
    return [folder for folder in named if folder is not None]


def _of_plugin(layout: PluggedLayout) -> dict[str, tuple[Path, ...]]:
    found = layout.domains
    splits = {f"{s}_{d}": getattr(found, f"{s}_{d}") for s in SPLITS for d in "ab"}
    return {name: files for name, files in splits.items() if files}


def _images(folder: Path, layout: Layout) -> FoundImages:
    if isinstance(layout, PluggedLayout):
        return FoundImages(folder, _of_plugin(layout)[folder.name])
    return find_images(folder)


def _stray_files(layout: Layout) -> list[str]:
    stray = entries_beside(layout) if isinstance(layout, DomainFolders) else ()
    if not stray:
        return []
    first = ", ".join(stray[:5]) + (", ..." if len(stray) > 5 else "")
    return [f"{len(stray)} entries are in no folder of a domain and are left out: {first}."]


def _missing_domains(root: Path, layout: Layout) -> list[str]:
    if not isinstance(layout, DomainFolders):
        return []
    errors = []
    if len(layout.names) < 2:
        errors.append(f"There is one domain, {layout.names[0]}; at least two are needed.")
    for split in () if layout.flat else SPLITS:
        missing = [name for name in layout.names if not (root / split / name).is_dir()]
        if 0 < len(missing) < len(layout.names):
            errors.append(f"{split} has no folder {' and no folder '.join(missing)}.")
    return errors


def _look(path: Path) -> _Seen:
    try:
        picture = read_image(path)
        digest = hashlib.sha256(file_of(path).read_bytes()).hexdigest()
    except (DataError, OSError) as error:
        return _Seen(path, reason=str(error))
    grey = _is_grey_in_colour(picture)
    return _Seen(path, digest, picture.size, picture.encoding, grey, used_values([picture]))


def _is_grey_in_colour(picture: Picture) -> bool:
    if not isinstance(picture.pixels, Image.Image) or picture.pixels.mode != "RGB":
        return False
    red, green, blue = (np.asarray(band).astype(np.int16) for band in picture.pixels.split())
    pairs = ((red, green), (green, blue), (red, blue))
    return all(np.abs(one - other).max() <= 1 for one, other in pairs)


def _summary(
    root: Path, name: str, found: FoundImages, seen: Sequence[_Seen], *, training: bool
) -> FolderReport:
    good = [file for file in seen if file.encoding is not None]
    encodings = [file.encoding for file in good if file.encoding is not None]
    used = merged([file.used for file in good])
    return FolderReport(
        folder=name,
        training=training,
        num_images=len(seen),
        num_files=len(found.files),
        ignored=dict(found.ignored),
        note=found.note,
        width=_spread([file.size[0] for file in good]),
        height=_spread([file.size[1] for file in good]),
        channels=dict(sorted(Counter(encoding.channels for encoding in encodings).items())),
        bits=dict(sorted(Counter(int(encoding.bits) for encoding in encodings).items())),
        values=None if used is None else (used.low, used.high),
        depth_note="" if used is None else used.note(name),
        grey_in_colour=sum(file.grey_in_colour for file in good),
        broken=[
            BrokenFile(_shown(file.path, root), file.reason)
            for file in seen
            if file.encoding is None
        ],
    )


def _spread(values: Sequence[int]) -> Spread | None:
    if not values:
        return None
    return Spread(min(values), statistics.median_low(values), max(values))


def _duplicates(root: Path, seen: dict[str, list[_Seen]]) -> list[list[str]]:
    groups: dict[str, list[tuple[bool, str]]] = {}
    for folder, files in seen.items():
        for file in files:
            if file.sha256:
                name = _shown(file_of(file.path), root)
                groups.setdefault(file.sha256, []).append((_is_training(folder), name))
    return [
        sorted({name for _, name in group})
        for group in groups.values()
        if len({is_training for is_training, _ in group}) == 2
    ]


def _is_training(folder: str) -> bool:
    """Folders of domains without splits are training folders too."""
    return not folder.lower().startswith(("val", "test"))


def _warnings(
    folders: Sequence[FolderReport], duplicates: Sequence[Sequence[str]], layout: Layout
) -> list[str]:
    warnings = list(_of_folders(folders, layout))
    if duplicates:
        warnings.append(
            f"{len(duplicates)} files are in a training and in a held-out folder, "
            f"for example {' and '.join(duplicates[0][:2])}."
        )
    training = [report for report in folders if report.training]
    if training and all(set(report.channels) == {1} for report in training):
        warnings.append(GREY_NOTE)
    held_out = [report for report in folders if not report.training]
    if not held_out and not isinstance(layout, SingleImages):
        where = "test/<domain>" if isinstance(layout, DomainFolders) else "testA, testB"
        warnings.append(f"There are no held-out images ({where}); scores need some.")
    return warnings


def _of_folders(folders: Sequence[FolderReport], layout: Layout) -> Iterator[str]:
    """What is wrong with them; of folders that have the same, once."""
    alike: dict[str, list[str]] = {}
    for report in folders:
        for line in _of_folder(report, layout):
            alike.setdefault(line, []).append(report.folder)
    for line, names in alike.items():
        if len(names) == 1:
            yield line.format(folder=names[0], has="has", mixes="mixes")
        else:
            several = f"{', '.join(names[:-1])} and {names[-1]}"
            yield line.format(folder=several, has="have", mixes="mix")
    by_bits: dict[int, dict[str, UsedValues]] = {}
    for report in folders:
        if report.depth_note and report.values is not None:
            used = UsedValues(*report.values, unsigned_16=True)
            by_bits.setdefault(used.unused_bits, {})[report.folder] = used
    for group in by_bits.values():
        whole = merged(list(group.values()))
        if whole is not None:
            yield whole.note(*group)


def _of_folder(report: FolderReport, layout: Layout) -> Iterator[str]:
    """Lines with a place for the folder and its verb."""
    if report.training and report.num_images < _FEW_IMAGES and not isinstance(layout, SingleImages):
        yield (
            f"{{folder}} {{has}} {report.num_images} images; unpaired methods were published "
            "with several hundred or more."
        )
    if report.width and report.height:
        smallest = min(report.width.min, report.height.min)
        if smallest < _SMALL_PIXELS:
            yield (
                f"{{folder}} {{has}} images with a side of {smallest} pixels; they are enlarged "
                f"for training at {_SMALL_PIXELS}; train with --size set to what they have."
            )
    if report.grey_in_colour and report.grey_in_colour < report.num_images:
        images = (
            "1 grey image" if report.grey_in_colour == 1 else f"{report.grey_in_colour} grey images"
        )
        yield f"{{folder}} {{mixes}} {images} (stored in colour) with colour."
    for what, counts in (("channels", report.channels), ("bits per channel", report.bits)):
        if len(counts) > 1:
            mix = ", ".join(f"{value} ({number} files)" for value, number in counts.items())
            yield f"{{folder}} {{mixes}} files with different {what}: {mix}."
    if report.broken:
        files = "1 file" if len(report.broken) == 1 else f"{len(report.broken)} files"
        yield f"{{folder}} {{has}} {files} that cannot be used."


def _errors(folders: Sequence[FolderReport], layout: Layout, max_broken: float) -> list[str]:
    errors = []
    least = 1 if isinstance(layout, SingleImages) else MIN_UNPAIRED_IMAGES
    for report in folders:
        if not report.training:
            continue
        usable = report.num_images - len(report.broken)
        if usable < least:
            errors.append(f"{report.folder} has {usable} usable images; at least {least} needed.")
        if len(report.broken) > max_broken * report.num_images:
            share = math.ceil(100 * len(report.broken) / report.num_images) / 100
            errors.append(
                f"{len(report.broken)} of {report.num_images} images in {report.folder} cannot be "
                f"used, more than {100 * max_broken:.3g}%. Repair or remove them, or leave out "
                f"more with --max-broken {share:g}, here and in training."
            )
    return errors
