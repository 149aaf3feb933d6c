"""The files of every domain and split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from patchkin.data.config import DataConfig
from patchkin.data.layouts import (
    MIN_UNPAIRED_IMAGES,
    SPLITS,
    TOY,
    DomainFolders,
    Layout,
    SingleImages,
    UnpairedFolders,
    detect_layout,
    domain_folder,
    entries_beside,
    flat_domains,
    images_in,
    notes_on,
    say_which_toy,
)
from patchkin.data.toy import cached_domain_toy
from patchkin.errors import ConfigError, DataError
from patchkin.images.folders import FoundImages


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainFiles:
    """The files of every domain, in order; a split is empty or has all domains."""

    names: tuple[str, ...]
    """Sorted; the label of an image is the place of its domain here."""
    train: tuple[tuple[Path, ...], ...]
    val: tuple[tuple[Path, ...], ...] = ()
    test: tuple[tuple[Path, ...], ...] = ()
    notes: tuple[str, ...] = ()
    """One line each: what beside the domains was found and left out, or how they were read."""


def find_domain_files(config: DataConfig) -> DomainFiles:
    """The files of all domains and splits.

    A missing test split is the validation split. `max_images` cuts the training files of each
    domain.

    Raises:
        DataError: a folder is missing or empty, there are fewer than two domains, or the layout is
            another one.
        ConfigError: a setting that only two domains have.
    """
    _refuse_settings_of_two_domains(config)
    if config.root == TOY:
        say_which_toy()
        root = cached_domain_toy(max(config.height_width))
    else:
        root = Path(config.root)
    layout = domain_layout(root)
    if isinstance(layout, DomainFolders):
        names, notes = layout.names, _notes(layout)
    else:
        names, notes = ("A", "B"), ()
    found = {split: _split(layout, split, names) for split in SPLITS}
    train = tuple(images.files[: config.max_images] for images in found["train"])
    for name, files in zip(names, train, strict=True):
        if len(files) < MIN_UNPAIRED_IMAGES:
            raise DataError(
                f"Domain `{name}` of `{root}` has {len(files)} training image; at least "
                f"{MIN_UNPAIRED_IMAGES} are needed, since two references are drawn at a time."
            )
    val, test = (tuple(images.files for images in found[split]) for split in ("val", "test"))
    notes += notes_on(found["train"])
    return DomainFiles(names=names, train=train, val=val, test=test or val, notes=notes)


def domain_layout(root: Path) -> DomainFolders | UnpairedFolders:
    """The layout of a root as domains.

    Raises:
        DataError: it has no domains, or only one.
    """
    layout: Layout | None = flat_domains(root)
    trained = [root / "train", *(domain_folder(root, "train", domain) for domain in "AB")]
    if layout is None and any(folder is not None and folder.is_dir() for folder in trained):
        layout = detect_layout(root)
    if isinstance(layout, SingleImages):
        layout = UnpairedFolders(root)  # said by the caller: too few images
    if isinstance(layout, UnpairedFolders):
        return layout
    if not isinstance(layout, DomainFolders):
        raise DataError(
            f"`{root}` holds no domains; this method needs a folder for each domain in "
            f"`{root / 'train'}`: train/cat, train/dog and so on."
        )
    if len(layout.names) < 2:
        folder = root if layout.flat else root / "train"
        raise DataError(
            f"`{folder}` has one domain, `{layout.names[0]}`; at least two are needed, each in a "
            "folder of its own."
        )
    return layout


def _split(
    layout: DomainFolders | UnpairedFolders, split: str, names: tuple[str, ...]
) -> tuple[FoundImages, ...]:
    """The images of every domain; of no domain, where a split is not there."""
    root = layout.root
    if isinstance(layout, UnpairedFolders):
        folders = [layout.folder(split, name) or root / f"{split}{name}" for name in names]
    elif layout.flat:
        folders = [root / name for name in names] if split == "train" else []
    else:
        folders = [root / split / name for name in names]
    if split != "train" and not any(folder.is_dir() for folder in folders):
        return ()
    return tuple(images_in(folder) for folder in folders)


def _notes(layout: DomainFolders) -> tuple[str, ...]:
    notes = []
    if layout.flat:
        notes.append(
            f"`{layout.root}` has no folder train; its folders {', '.join(layout.names)} are taken "
            "as domains, and nothing is held out."
        )
    stray = entries_beside(layout)
    if stray:
        first = ", ".join(stray[:5]) + (", ..." if len(stray) > 5 else "")
        notes.append(f"`{layout.root}`: {first} are in no folder of a domain; left out.")
    return tuple(notes)


def _refuse_settings_of_two_domains(config: DataConfig) -> None:
    """Say so where a setting would have no effect."""
    if config.source is not None:
        raise DataError(
            "This method takes any number of domains; `source` and `target` are two folders. "
            "Give `root`, a folder with train/<domain> for each domain."
        )
    height, width = config.height_width
    if height != width:
        raise ConfigError(
            f"`--size {height} {width}`: methods of several domains take squares; give one number."
        )
    default = DataConfig()
    for name, instead in (
        ("direction", "every domain is translated into every other"),
        ("load_size", "`crop_probability` says how often a part of the picture is cut out"),
        ("preprocess", "`crop_probability` says how often a part of the picture is cut out"),
        ("pairing", "images and references are always drawn at random"),
        ("value_range_a", "`value_range` holds for all"),
        ("value_range_b", "`value_range` holds for all"),
    ):
        if getattr(config, name) != getattr(default, name):
            raise ConfigError(f"`{name}` is a setting of two domains; with several, {instead}.")
