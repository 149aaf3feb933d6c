"""Which files belong to which domain and split.

Layouts that are read, under one root unless said otherwise:

    UnpairedFolders   trainA trainB [valA valB] [testA testB]
    TwoFolders        any two folders (or images), one per domain, for training only
    SingleImages      trainA and trainB with one image each
    PairedImages      train/*: files that show A and B side by side
    DomainFolders     train/<domain>/: any number of domains; or <domain>/ without splits

Folders are read recursively and sorted by path; hidden files and folders are left out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from patchkin.data.config import DataConfig
from patchkin.errors import DataError, nearest
from patchkin.images import IMAGE_SUFFIXES, is_image_file

MIN_UNPAIRED_IMAGES = 2
TOY = "toy"
_SINGLE_HINT = ", or --data.preprocess zoom_and_patch"


@dataclass(frozen=True, slots=True)
class UnpairedFolders:
    """CycleGAN's layout."""

    root: Path


@dataclass(frozen=True, slots=True)
class TwoFolders:
    """One folder, or one image, per domain, anywhere."""

    source: Path
    target: Path


@dataclass(frozen=True, slots=True)
class SingleImages:
    """One source and one target image (SinCUT)."""

    root: Path


@dataclass(frozen=True, slots=True)
class PairedImages:
    """Side-by-side pairs (pix2pix)."""

    root: Path


@dataclass(frozen=True, slots=True)
class DomainFolders:
    """Several domains (StarGAN v2)."""

    root: Path
    names: tuple[str, ...]
    flat: bool = False
    """Whether the domains lie in the root itself: then nothing is held out."""


Layout: TypeAlias = UnpairedFolders | TwoFolders | SingleImages | PairedImages | DomainFolders


@dataclass(frozen=True, kw_only=True, slots=True)
class Domains:
    """Files of a source domain a and a target domain b, in order; a split may be empty."""

    train_a: tuple[Path, ...]
    train_b: tuple[Path, ...]
    val_a: tuple[Path, ...] = ()
    val_b: tuple[Path, ...] = ()
    test_a: tuple[Path, ...] = ()
    test_b: tuple[Path, ...] = ()

    @property
    def single(self) -> bool:
        """Whether each domain is one image."""
        return len(self.train_a) == len(self.train_b) == 1

    def reversed(self) -> Domains:
        """Source and target exchanged."""
        return Domains(
            train_a=self.train_b,
            train_b=self.train_a,
            val_a=self.val_b,
            val_b=self.val_a,
            test_a=self.test_b,
            test_b=self.test_a,
        )


def image_files(folder: Path) -> tuple[Path, ...]:
    """All images below a folder, sorted by path.

    Raises:
        DataError: if the folder is missing (an existing name like it is offered) or has no image.
    """
    check_folder(folder)
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        found += [path for name in files if is_image_file(path := Path(parent, name))]
    if not found:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"`{folder}` holds no image (looked for {suffixes}).")
    return tuple(sorted(found, key=lambda path: path.relative_to(folder).as_posix()))


def images_at(path: Path) -> tuple[Path, ...]:
    """One image, or `image_files` of a folder.

    Raises:
        DataError: as `image_files`; a missing image is answered with the nearest beside it.
    """
    if not is_image_file(path) or path.is_dir():
        return image_files(path)
    if path.is_file():
        return (path,)
    beside = [other.name for other in path.parent.glob("*") if is_image_file(other)]
    hint = f" {nearest(path.name, beside)}" if beside else ""
    raise DataError(f"`{path}` does not exist.{hint}")


def check_folder(folder: Path) -> None:
    """Raise `DataError` unless this is a folder."""
    if folder.is_dir():
        return
    if folder.exists():
        raise DataError(f"`{folder}` is a file; expected a folder of images.")
    parent = folder.parent
    if not parent.is_dir():
        raise DataError(f"`{folder}` does not exist, nor does `{parent}`.")
    names = _folder_names(parent)
    hint = nearest(folder.name, names) if names else f"`{parent}` has no folders."
    raise DataError(f"`{folder}` does not exist. {hint}")


def _folder_names(parent: Path) -> list[str]:
    return sorted(p.name for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))


def detect_layout(root: Path) -> Layout:
    """The layout of a folder, from the names in it.

    Raises:
        DataError: if there is no such folder or it has no known layout; says what is missing.
    """
    check_folder(root)
    names = _folder_names(root)
    if "trainA" in names and "trainB" in names:
        counts = [len(image_files(root / name)) for name in ("trainA", "trainB")]
        return SingleImages(root) if counts == [1, 1] else UnpairedFolders(root)
    for present, missing in (("trainA", "trainB"), ("trainB", "trainA")):
        if present in names:
            others = [name for name in names if name != present]
            hint = f" {nearest(missing, others)}" if others else ""
            raise DataError(f"`{root / missing}` is missing beside `{present}`.{hint}")
    if "train" in names:
        domains = tuple(_folder_names(root / "train"))
        return DomainFolders(root, domains) if domains else PairedImages(root)
    found = f"It has {', '.join(names[:8])}." if names else "It has no folders."
    raise DataError(
        f"`{root}` needs the folders trainA and trainB (and testA, testB for scores). {found} "
        "Two folders elsewhere: --data.source DIR --data.target DIR."
    )


def flat_domains(root: Path) -> DomainFolders | None:
    """The folders of a root as domains, if it has some with images and none is a split.

    Methods of two domains do not read this layout, which does not say what is the source.
    """
    check_folder(root)
    names = _folder_names(root)
    if any(name.startswith(("train", "val", "test")) for name in names):
        return None
    domains = tuple(name for name in names if _has_image(root / name))
    return DomainFolders(root, domains, flat=True) if domains else None


def entries_beside(layout: DomainFolders) -> tuple[str, ...]:
    """What lies beside the folders of the domains, relative to the root: misplaced images."""
    root = layout.root
    parents = [root] if layout.flat else [root / split for split in ("train", "val", "test")]
    return tuple(
        path.relative_to(root).as_posix()
        for parent in parents
        if parent.is_dir()
        for path in sorted(parent.iterdir())
        if path.name not in layout.names and not path.name.startswith(".")
    )


def _has_image(folder: Path) -> bool:
    return any(is_image_file(path) for path in folder.rglob("*"))


def find_domains(config: DataConfig) -> Domains:
    """The files of both domains, source first.

    A missing test split is the validation split. `max_images` cuts the training files after
    sorting (the published code cuts before, which leaves the choice to the file system).

    Raises:
        DataError: if a folder is missing or empty, a domain has one image where several are needed,
            or the layout is one that unpaired methods do not take.
    """
    layout = _layout(config)
    if isinstance(layout, SingleImages) and config.crops_single_images:
        layout = UnpairedFolders(layout.root)
    domains = _domains_of(layout)
    if config.direction == "BtoA":
        domains = domains.reversed()
    if config.max_images is not None:
        limit = config.max_images
        domains = replace(domains, train_a=domains.train_a[:limit], train_b=domains.train_b[:limit])
    if domains.single and config.crops_single_images:
        return domains
    for files in (domains.train_a, domains.train_b):
        if len(files) < MIN_UNPAIRED_IMAGES:
            raise DataError(
                f"`{files[0].parent}` gives {len(files)} image; unpaired training needs at least "
                f"{MIN_UNPAIRED_IMAGES} per domain. One image per domain is the single-image "
                "layout: exactly one in trainA and one in trainB, and --data.preprocess "
                "zoom_and_patch."
            )
    return domains


def _layout(config: DataConfig) -> Layout:
    if config.source is not None and config.target is not None:
        return TwoFolders(Path(config.source), Path(config.target))
    if config.root == TOY:
        from patchkin.data.toy import cached_toy

        return UnpairedFolders(cached_toy(config.size))
    return detect_layout(Path(config.root))


def _domains_of(layout: Layout) -> Domains:
    if isinstance(layout, TwoFolders):
        return Domains(train_a=images_at(layout.source), train_b=images_at(layout.target))
    if isinstance(layout, UnpairedFolders):
        root = layout.root
        val = _optional_split(root, "val")
        test = _optional_split(root, "test")
        return Domains(
            train_a=image_files(root / "trainA"),
            train_b=image_files(root / "trainB"),
            val_a=val[0],
            val_b=val[1],
            test_a=test[0] or val[0],
            test_b=test[1] or val[1],
        )
    kinds = {
        SingleImages: "one image per domain (single-image layout)",
        PairedImages: "side-by-side pairs in train/ (paired layout)",
        DomainFolders: "several domains in train/ (domains layout)",
    }
    raise DataError(
        f"`{layout.root}` holds {kinds[type(layout)]}, not supported yet for this method; "
        "it needs trainA and trainB with at least 2 images each"
        f"{_SINGLE_HINT if isinstance(layout, SingleImages) else ''}."
    )


def _optional_split(root: Path, split: str) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    a, b = root / f"{split}A", root / f"{split}B"
    return (image_files(a) if a.is_dir() else (), image_files(b) if b.is_dir() else ())
