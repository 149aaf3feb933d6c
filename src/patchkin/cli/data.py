"""`patchkin data download NAME`, `data check ROOT`, `data toy DIR`, `data split PAIRS`."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from patchkin.cli.parsing import MaxPixels, parse
from patchkin.cli.printing import print_json, progress_bar
from patchkin.config import flag, shown, to_plain
from patchkin.errors import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Options of `data check`."""

    root: Annotated[tyro.conf.Positional[Path | None], shown("FOLDER")] = None
    """Folder with trainA, trainB and so on, or train/<domain> for several domains."""
    source: Annotated[Path | None, flag("--data.source")] = None
    """Folder of the images to translate; with --target instead of FOLDER."""
    target: Annotated[Path | None, flag("--data.target")] = None
    """Folder of the images to resemble."""
    max_pixels: MaxPixels = None
    max_broken: float = 0.01
    """Share of the training images of a folder that may be broken, as in training."""
    json: bool = False
    """Print one JSON object."""


@dataclass(frozen=True, kw_only=True)
class ToyOptions:
    """Options of `data toy`."""

    root: Annotated[tyro.conf.Positional[Path], shown("FOLDER")]
    """Folder to write; must be empty or absent."""
    world: Literal["meadow", "farm"] = "meadow"
    """meadow: one animal on grass. farm: beside it another kind that stays plain, and fences,
    trunks and barrels that are striped in domain B, so that what the stripes belong to can be
    confused."""
    domains: bool = False
    """Write the set of three domains of the meadow: plain, spotted, striped."""
    size: int = 64
    """Side of the images in pixels, 64 to 256."""
    train: int | None = None
    """Training images per domain; by default 300 of two domains, 200 of three."""
    test: int | None = None
    """Held-out images per domain, for validation and as many for tests; by default 24 or 12."""
    seed: int = 0
    """Same seed, same images."""


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """Options of `data split`."""

    pairs: Annotated[tyro.conf.Positional[Path], shown("PAIRS")]
    """Folder with train/ (and val/, test/) of files that show A (left half) and B (right half)
    side by side."""
    output: Annotated[Path, flag("-o")]
    """Folder to write, with trainA, trainB and so on; must be empty or absent."""
    max_pixels: MaxPixels = None


@dataclass(frozen=True, kw_only=True)
class DownloadOptions:
    """Options of `data download`."""

    name: Annotated[tyro.conf.Positional[str], shown("NAME")] = ""
    """Name of a public set; none lists them."""
    output: Annotated[Path, flag("-o")] = Path("datasets")
    """Folder that receives a folder of that name."""
    mirror: tuple[str, ...] = ()
    """Addresses of the archive to try first."""
    sha256: str | None = None
    """Hash that the archive must have, in hexadecimal, where none is recorded."""
    unverified: bool = False
    """Accept an archive whose hash nobody recorded."""
    json: bool = False
    """Print one JSON object."""


def run(arguments: Sequence[str], _: Mapping[str, Any]) -> int:
    """Find the part of `data` that was asked for."""
    parts: dict[str, tuple[type[Any], Callable[[Any], int], str]] = {
        "check": (CheckOptions, _check, "Decode every image of a data set and report."),
        "toy": (ToyOptions, _toy, "Write a toy set: plain and striped (and spotted) animals."),
        "split": (SplitOptions, _split, "Write the halves of pairs as two unpaired domains."),
        "download": (DownloadOptions, _download, "Fetch a public data set and verify it."),
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, parts))
        print("usage: patchkin data PART ...\n\nparts:")
        print("\n".join(f"  {name:<{width}}  {about}" for name, (_, _, about) in parts.items()))
        return 0
    name, *rest = arguments
    if name not in parts:
        raise ConfigError(f"Unknown part `{name}` of `patchkin data`. {nearest(name, parts)}")
    kind, act, about = parts[name]
    return act(parse(kind, rest, prog=f"patchkin data {name}", about=about))


_LAYOUTS = {
    "UnpairedFolders": "two domains, unpaired",
    "TwoFolders": "two domains, unpaired",
    "SingleImages": "two domains of one image each",
    "PairedImages": "pairs side by side",
    "DomainFolders": "several domains",
    "PluggedLayout": "a layout of an installed package",
}


def _check(options: CheckOptions) -> int:
    from patchkin.data.check import check_data

    report = check_data(
        options.root,
        source=options.source,
        target=options.target,
        max_broken=options.max_broken,
    )
    if options.json:
        print_json({**to_plain(report), "ok": report.ok})
        return 0 if report.ok else 2
    print(f"{report.root}: {_LAYOUTS.get(report.layout, report.layout)}")
    width = max((len(folder.folder) for folder in report.folders), default=0)
    width = max(width, 10)
    for folder in report.folders:
        size = "nothing to decode"
        if folder.width is not None and folder.height is not None:
            size = (
                f"width {folder.width.min}-{folder.width.max} (median {folder.width.median}), "
                f"height {folder.height.min}-{folder.height.max} (median {folder.height.median})"
            )
        kinds = ", ".join(
            f"{count} x {channels} channel{'s' if channels > 1 else ''}"
            for channels, count in folder.channels.items()
        )
        grey = f", {folder.grey_in_colour} grey in colour" if folder.grey_in_colour else ""
        depth = ", ".join(f"{count} x {bits} bits" for bits, count in folder.bits.items())
        values = ""
        if folder.values is not None:
            values = ", values {:g} to {:g}".format(*folder.values)
        print(
            f"  {folder.folder:<{width}} {folder.num_images:>6} images  {size}; {kinds}; "
            f"{depth}{values}{grey}"
        )
        if folder.num_files != folder.num_images:
            print(f"    {folder.num_images} pages of {folder.num_files} files")
        if folder.note:
            print(f"    {folder.note}")
        for broken in folder.broken:
            print(f"    broken: {broken.reason}")
    for group in report.duplicates:
        print(f"  same content: {', '.join(group)}")
    for warning in report.warnings:
        print(f"  warning: {warning}")
    for error in report.errors:
        print(f"patchkin: error: {error}", file=sys.stderr)
    return 0 if report.ok else 2


def _toy(options: ToyOptions) -> int:
    from patchkin.data.toy import write_domain_toy, write_toy
    from patchkin.data.toy_farm import write_farm

    if options.domains and options.world != "meadow":
        raise ConfigError("--domains is of the world meadow: leave it out, or --world.")
    _check_empty(options.root)
    write = write_farm if options.world == "farm" else write_toy
    write = write_domain_toy if options.domains else write
    counts = {name: getattr(options, name) for name in ("train", "test")}
    with _new_set(options.root) as unfinished:
        write(
            unfinished,
            size=options.size,
            seed=options.seed,
            **{name: number for name, number in counts.items() if number is not None},
        )
    print(f"wrote {options.root}", file=sys.stderr)
    return 0


def _split(options: SplitOptions) -> int:
    from patchkin.data.splitting import pairs_to_split, write_halves

    splits = pairs_to_split(options.pairs)
    _check_empty(options.output)
    with _new_set(options.output) as unfinished, progress_bar() as bar:
        task = bar.add_task(options.pairs.name, total=sum(map(len, splits.values())))
        for _ in write_halves(splits, options.pairs, unfinished):
            bar.advance(task)
    counts = ", ".join(f"{split} {len(files)}" for split, files in splits.items())
    print(f"wrote {options.output}: {counts} of each domain", file=sys.stderr)
    return 0


def _check_empty(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"`{folder}` is not empty; choose another folder.")


@contextlib.contextmanager
def _new_set(root: Path) -> Iterator[Path]:
    """A folder to fill: half a set would be in the way of the next try."""
    from patchkin.storage.atomic import new_folder

    if not root.exists():
        with new_folder(root) as unfinished:
            yield unfinished
        return
    try:  # it may be the one that we are in, or where a disk is mounted
        yield root
    except BaseException:
        for entry in root.iterdir():
            shutil.rmtree(entry, ignore_errors=True)
        raise


def _download(options: DownloadOptions) -> int:
    from patchkin.data.catalogue import CATALOGUE
    from patchkin.data.download import fetch_dataset

    if not options.name and options.json:
        print_json({name: entry.about for name, entry in CATALOGUE.items()})
        return 0
    if not options.name:
        for name, entry in CATALOGUE.items():
            known = "" if entry.sha256 or not entry.urls else " Unverified."
            print(f"{name:<24} {entry.about}{known}")
        return 0
    with progress_bar() as bar:
        task = bar.add_task(options.name, total=None)
        fetched = fetch_dataset(
            options.name,
            options.output,
            mirrors=options.mirror,
            sha256=_hash(options.sha256),
            unverified=options.unverified,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if options.json:
        print_json(
            {
                "root": str(fetched.root),
                "sha256": fetched.sha256,
                "was_known": fetched.was_known,
            }
        )
        return 0
    trust = "as expected" if fetched.was_known else "not known before; recorded beside the data"
    print(f"{fetched.root}  sha256 {fetched.sha256} ({trust})", file=sys.stderr)
    return 0


def _hash(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise ConfigError(f"--sha256 takes 64 hexadecimal digits; got `{text}`.")
    return text.lower() if text else None
