"""Which files belong to which domain and split.

Layouts that are read, under one root unless said otherwise:

    UnpairedFolders   trainA trainB [valA valB] [testA testB]; also TrainA, train_A, train/A
    TwoFolders        any two folders (or images), or A and B; for training only
    SingleImages      trainA and trainB with one image each
    PairedImages      train/*: files that show A and B side by side
    DomainFolders     train/<domain>/: any number of domains; or <domain>/ without splits
    PluggedLayout     what a package adds (`patchkin.plugins`); asked where there is no trainA

What of a folder counts as its images is decided in `patchkin.images.folders`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TypeAlias

from patchkin import plugins
from patchkin.data.config import DataConfig
from patchkin.errors import DataError, nearest
from patchkin.images import IMAGE_SUFFIXES, is_image_file
from patchkin.images.folders import FoundImages, find_images, ignored_kinds, is_left_out
from patchkin.images.pages import each_page

logger = logging.getLogger(__name__)
MIN_UNPAIRED_IMAGES = 2
TOY = "toy"
SPLITS = ("train", "val", "test")
_OTHER = {"a": "b", "b": "a"}
_SPLIT_OF_DOMAIN = re.compile(r"(train|val|test)[ _-]?([ab])", re.IGNORECASE)
_SINGLE_HINT = ", or train with --data.preprocess zoom_and_patch"
_SPLIT_HINT = "; `patchkin data split PAIRS -o FOLDER` makes these of pairs"


@dataclass(frozen=True, slots=True)
class UnpairedFolders:
    """CycleGAN's layout, however its folders are spelled."""

    root: Path

    def folder(self, split: str, domain: str) -> Path | None:
        """That of a split (train, val, test) and a domain (A, B), if it is there.

        Raises:
            DataError: there are several.
        """
        return domain_folder(self.root, split, domain)


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Domains:
    """Files of a source domain a and a target domain b, in order; a split may be empty."""

    train_a: tuple[Path, ...]
    train_b: tuple[Path, ...]
    val_a: tuple[Path, ...] = ()
    val_b: tuple[Path, ...] = ()
    test_a: tuple[Path, ...] = ()
    test_b: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    """One line each: what was ignored, and which folder was taken for which."""
    folders: Mapping[str, Path] = field(default_factory=dict)
    """Of the splits that are there, by the names of these fields."""

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
            notes=self.notes,
            folders={f"{name[:-1]}{_OTHER[name[-1]]}": p for name, p in self.folders.items()},
        )


@dataclass(frozen=True, slots=True)
class PluggedLayout:
    """What a function of an installed package found."""

    root: Path
    name: str
    domains: Domains


Layout: TypeAlias = (
    UnpairedFolders | TwoFolders | SingleImages | PairedImages | DomainFolders | PluggedLayout
)


def image_files(folder: Path) -> tuple[Path, ...]:
    """All images below a folder, sorted by path; see `images_in`.

    Raises:
        DataError: as `images_in`.
    """
    return images_in(folder).files


def images_in(folder: Path) -> FoundImages:
    """The images below a folder, of which there is at least one, and what else is there.

    Every page of a file with several is an image (`patchkin.images.pages`).

    Raises:
        DataError: if the folder is missing (an existing name like it is offered), cannot be read,
            or has no image (what it has instead is counted).
    """
    check_folder(folder)
    found = find_images(folder)
    if not found.files:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        others = f" It has {ignored_kinds(found.ignored)}." if found.ignored else ""
        raise DataError(f"`{folder}` holds no image (looked for {suffixes}).{others}")
    return replace(found, files=each_page(found.files))


def notes_on(found: Iterable[FoundImages]) -> tuple[str, ...]:
    """One line for each folder that holds files which are no images."""
    return tuple(f"`{images.folder}`: {images.note}" for images in found if images.note)


def images_at(path: Path) -> FoundImages:
    """One image, or `images_in` a folder.

    Raises:
        DataError: as `images_in`; a missing image is answered with the nearest beside it.
    """
    if not is_image_file(path) or path.is_dir():
        return images_in(path)
    if path.is_file():
        return FoundImages(path.parent, each_page([path]))
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
    return sorted(p.name for p in parent.iterdir() if p.is_dir() and not is_left_out(p.name))


def domain_folder(root: Path, split: str, domain: str) -> Path | None:
    """The folder of a split and a domain: `trainA`, TrainA, train_A, train-A, `train A`, train/A.

    Raises:
        DataError: `trainA` itself is not there, and several others are.
    """
    exact = root / f"{split}{domain}"
    if exact.is_dir() or not root.is_dir():
        return exact if exact.is_dir() else None
    found = []
    for name in _folder_names(root):
        match = _SPLIT_OF_DOMAIN.fullmatch(name)
        if match and match[1].lower() == split and match[2].upper() == domain:
            found.append(root / name)
        if name.lower() == split:
            inner = _folder_names(root / name)
            found += [root / name / other for other in inner if other.upper() == domain]
    if len(found) > 1:
        names = " and ".join(f"`{folder.relative_to(root).as_posix()}`" for folder in found)
        raise DataError(f"`{root}` has {names}; name the one that counts `{split}{domain}`.")
    return found[0] if found else None


def _spelling_notes(layout: UnpairedFolders) -> tuple[str, ...]:
    """One line for all folders that are not spelled as expected."""
    spelled = []
    for split in SPLITS:
        for domain in "AB":
            folder = layout.folder(split, domain)
            if folder is not None and folder.name != f"{split}{domain}":
                name = folder.relative_to(layout.root).as_posix()
                spelled.append(f"{name} is read as {split}{domain}")
    return (f"`{layout.root}`: {', '.join(spelled)}.",) if spelled else ()


def detect_layout(root: Path) -> Layout:
    """The layout of a folder, from the names in it.

    Raises:
        DataError: if there is no such folder or it has no known layout; says what is missing.
    """
    check_folder(root)
    names = _folder_names(root)
    found_a, found_b = (domain_folder(root, "train", domain) for domain in "AB")
    are_domains = "train" in names and {f.parent for f in (found_a, found_b) if f} == {
        root / "train"
    }
    if found_a and found_b and not are_domains:
        counts = [len(image_files(folder)) for folder in (found_a, found_b)]
        return SingleImages(root) if counts == [1, 1] else UnpairedFolders(root)
    for folder, missing in ((found_a, "B"), (found_b, "A")):
        if folder and not are_domains:
            others = [name for name in names if name != folder.name]
            hint = f" {nearest(f'train{missing}', others)}" if others else ""
            present = folder.relative_to(root).as_posix()
            raise DataError(f"`{root / f'train{missing}'}` is missing beside `{present}`.{hint}")
    plugged = plugged_layout(root)
    if plugged is not None:
        return plugged
    if "train" in names:
        domains = tuple(_folder_names(root / "train"))
        return DomainFolders(root, domains) if domains else PairedImages(root)
    by_domain = {domain: [name for name in names if name.upper() == domain] for domain in "AB"}
    if len(by_domain["A"]) == len(by_domain["B"]) == 1:
        return TwoFolders(root / by_domain["A"][0], root / by_domain["B"][0])
    found = f"It has {', '.join(names[:8])}." if names else "It has no folders."
    raise DataError(
        f"`{root}` needs the folders trainA and trainB (and testA, testB for scores). {found} "
        "Two folders elsewhere: train with --data.source DIR --data.target DIR."
    )


def plugged_layout(root: Path) -> PluggedLayout | None:
    """What the first plug-in that knows the layout of a root says of it.

    Raises:
        DataError: it fails, or finds no training images.
    """
    if not root.is_dir():
        return None
    for name, find in plugins.working_plugins(plugins.LAYOUTS, check=_no_function).items():
        try:
            found = find(root)
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"The layout `{name}` of a plug-in fails on `{root}`: {type(error).__name__}: "
                f"{error}"
            ) from error
        if found is None:
            continue
        if not isinstance(found, Domains) or not found.train_a or not found.train_b:
            raise DataError(
                f"The layout `{name}` of a plug-in gives no training images of both domains for "
                f"`{root}`."
            )
        return PluggedLayout(root, name, found)
    return None


def _no_function(_: str, found: object) -> str | None:
    return None if callable(found) else "it is no function"


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
    parents = [root] if layout.flat else [root / split for split in SPLITS]
    return tuple(
        path.relative_to(root).as_posix()
        for parent in parents
        if parent.is_dir()
        for path in sorted(parent.iterdir())
        if path.name not in layout.names and not is_left_out(path.name)
    )


def _has_image(folder: Path) -> bool:
    return bool(find_images(folder).files)


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
    if isinstance(layout, DomainFolders) and _are_two_domains(layout):
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
                "layout: exactly one in trainA and one in trainB, to train with "
                "--data.preprocess zoom_and_patch."
            )
    return domains


def say_which_toy() -> None:
    """Where a folder has the name of the built-in set: which of them is taken."""
    if Path(TOY).is_dir():
        _say_once(Path(TOY).resolve())


@cache
def _say_once(_: Path) -> None:
    logger.warning(
        "`%s` is the built-in toy set; the folder of that name here is `--data ./%s`.", TOY, TOY
    )


def _layout(config: DataConfig) -> Layout:
    if config.source is not None and config.target is not None:
        return TwoFolders(Path(config.source), Path(config.target))
    if config.root == TOY:
        from patchkin.data.toy import cached_toy

        say_which_toy()
        return UnpairedFolders(cached_toy(max(config.height_width)))
    return detect_layout(Path(config.root))


def _are_two_domains(layout: DomainFolders) -> bool:
    """Whether the domains are called A and B, so that it is said which is the source."""
    return not layout.flat and [name.upper() for name in layout.names] == ["A", "B"]


def _domains_of(layout: Layout) -> Domains:
    if isinstance(layout, TwoFolders):
        source, target = images_at(layout.source), images_at(layout.target)
        return Domains(
            train_a=source.files,
            train_b=target.files,
            notes=notes_on((source, target)),
            folders={"train_a": source.folder, "train_b": target.folder},
        )
    if isinstance(layout, PluggedLayout):
        found = layout.domains
        return replace(
            found, test_a=found.test_a or found.val_a, test_b=found.test_b or found.val_b
        )
    if isinstance(layout, UnpairedFolders):
        splits = {split: [_split_of(layout, split, domain) for domain in "AB"] for split in SPLITS}
        train = [
            found or images_in(layout.root / f"train{domain}")  # which says that it is missing
            for found, domain in zip(splits["train"], "AB", strict=True)
        ]
        val = [found.files if found else () for found in splits["val"]]
        test = [found.files if found else () for found in splits["test"]]
        return Domains(
            train_a=train[0].files,
            train_b=train[1].files,
            val_a=val[0],
            val_b=val[1],
            test_a=test[0] or val[0],
            test_b=test[1] or val[1],
            notes=_spelling_notes(layout) + notes_on(train),
            folders={
                f"{split}_{domain}": images.folder
                for split, both in splits.items()
                for domain, images in zip("ab", both, strict=True)
                if images
            },
        )
    if isinstance(layout, DomainFolders):
        root = layout.root / "train"
        first, second, *_ = (*layout.names, "B")
        raise DataError(
            f"`{layout.root}` holds several domains in train/ (domains layout), not supported yet "
            f"for this method, which asks what is translated into what: train with "
            f"--data.source {root / first} --data.target {root / second}, or name two folders "
            "trainA and trainB."
        )
    kinds = {
        SingleImages: "one image per domain (single-image layout)",
        PairedImages: "side-by-side pairs in train/ (paired layout)",
    }
    raise DataError(
        f"`{layout.root}` holds {kinds[type(layout)]}, not supported yet for this method; "
        "it needs trainA and trainB with at least 2 images each"
        f"{_SINGLE_HINT if isinstance(layout, SingleImages) else _SPLIT_HINT}."
    )


def _split_of(layout: UnpairedFolders, split: str, domain: str) -> FoundImages | None:
    folder = layout.folder(split, domain)
    return None if folder is None else images_in(folder)
