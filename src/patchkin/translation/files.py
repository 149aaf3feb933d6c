"""Files to translate: which, where their translations go, and what became of them.

Imports no torch: what translates takes and gives arrays.

Shape suffixes: S entries of a style, B images, C channels, H and W pixels.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from patchkin.errors import ConfigError, DataError, PatchkinError, StorageError
from patchkin.images import (
    IMAGE_SUFFIXES,
    Array,
    Encoding,
    Picture,
    Ranges,
    is_image_file,
    output_form,
    read_image,
    to_levels,
    to_values,
)
from patchkin.images.container import Container, container_of
from patchkin.images.faults import reason
from patchkin.images.folders import find_images, ignored_kinds, is_left_out
from patchkin.images.pages import each_page
from patchkin.images.saving import Page as SavedPage
from patchkin.images.saving import write_pages
from patchkin.images.video import VIDEO_SUFFIXES
from patchkin.images.write import check_sides
from patchkin.parallel.overlap import Fed, ahead, behind
from patchkin.storage.atomic import is_disk_trouble, remove_remains
from patchkin.translation.memory import TooLargeError, is_memory_trouble
from patchkin.translation.outcome import Outcome
from patchkin.translation.record import Recorder
from patchkin.translation.saving import Saving


@dataclass(frozen=True)
class Job:
    """A file to translate and where its translation goes."""

    source: Path
    target: Path
    style_S: Array | None = field(default=None, compare=False)
    """For methods whose translations have a style; the same for all images unless given."""
    style: str = ""
    """What `style_S` is, for the record."""


# Which


@dataclass(frozen=True)
class Plan:
    """What is to be translated."""

    jobs: list[Job]
    notes: tuple[str, ...] = ()
    """One line each: what of the inputs was ignored."""
    names_file: bool = False
    """Whether the output is the name of a file, for one translation."""


def plan(inputs: Sequence[str], output: Path) -> Plan:
    """Files, folders (searched as `patchkin.images.folders` says) and glob patterns as jobs.

    Names and the structure below each folder are kept. Where the output lies inside an input,
    what is in it already is no input: the same command gives the same jobs again.

    Args:
        inputs: files, folders and patterns.
        output: folder; or, for one image, a file with the suffix of an image.

    Raises:
        ConfigError: a file for several images.
        DataError: an input matches nothing, holds no image, would be overwritten by its own
            translation, or two inputs would be written to one file.
    """
    suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    names_file = output.suffix.lower() in suffixes and not output.is_dir()
    if output.is_file() and not names_file:
        raise DataError(f"--output `{output}` is a file; name a folder, or a file such as out.png.")
    jobs: dict[Path, Job] = {}
    notes: list[str] = []
    for source, name in _named_files(inputs, output, notes):
        target = output / name
        other = jobs.get(target)
        if other is not None and _real(other.source) != _real(source):
            raise DataError(
                f"`{other.source}` and `{source}` would both be written to `{target}`. "
                "Translate their folders one at a time, or give the folder above both."
            )
        jobs[target] = Job(source, target)
    if names_file and len(jobs) > 1:
        raise ConfigError(
            f"--output `{output}` is the name of one file, and {len(jobs)} images are to be "
            "translated; name a folder."
        )
    chosen = [replace(job, target=output) if names_file else job for job in jobs.values()]
    for job in chosen:
        if _real(job.target) == _real(job.source):
            raise DataError(f"`{job.source}` would be overwritten; choose another --output.")
    return Plan(chosen, tuple(notes), names_file)


def _named_files(
    inputs: Sequence[str], output: Path, notes: list[str]
) -> Iterator[tuple[Path, Path]]:
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            found = find_images(path)
            if not found.files:
                others = f" It has {ignored_kinds(found.ignored)}." if found.ignored else ""
                raise DataError(f"`{path}` holds no image.{others}")
            if found.note:
                notes.append(f"`{path}`: {found.note}")
            kept = _outside(output, found.files)
            yield from ((file, file.relative_to(path)) for file in kept)
        elif path.is_file():
            yield path, Path(path.name)
        else:
            files = _matches(text)
            if not files:
                raise DataError(f"`{text}`: no such file or folder, and no image matches it.")
            yield from ((file, Path(file.name)) for file in _outside(output, files))


def _matches(pattern: str) -> list[Path]:
    """The images that a pattern matches."""
    parts = Path(pattern).parts
    first = next((place for place, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    if "**" in parts:  # by the search that knows of links in circles, where glob does not end
        root = Path(*parts[:first])
        found = find_images(root).files if root.is_dir() else ()
        return [file for file in found if _fits(file.relative_to(root).parts, parts[first:])]
    files = [Path(text) for text in glob.glob(pattern)]  # noqa: PTH207 (absolute patterns too)
    return sorted(
        file
        for file in files
        if is_image_file(file)
        and not file.is_dir()
        and not any(map(is_left_out, file.parts[first:-1]))
    )


def _fits(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a pattern; `**` is any number of folders.

    >>> _fits(("a", "b", "x.png"), ("**", "*.png")), _fits(("x.png",), ("**", "b", "*.png"))
    (True, False)
    """
    if not pattern:
        return not names
    if pattern[0] == "**":
        return any(_fits(names[start:], pattern[1:] or ("*",)) for start in range(len(names)))
    return bool(names) and fnmatch.fnmatch(names[0], pattern[0]) and _fits(names[1:], pattern[1:])


def _outside(folder: Path, files: Sequence[Path]) -> Sequence[Path]:
    """The files that are not below the folder; all of them if all are."""
    folder = _real(folder)
    return [file for file in files if folder not in _real(file).parents] or files


def renamed(jobs: Sequence[Job], rename: Callable[[Path], Path]) -> list[Job]:
    """The jobs with other targets, where `a.jpg` and `a.png` stay apart.

    Those that would get one name are told apart by the suffix of their source: `a_jpg.png` and
    `a_png.png`.

    Args:
        jobs: all of a command, so that every process gives the same names.
        rename: a target to another.

    Raises:
        DataError: two would still be one file.

    >>> jobs = [Job(Path(name), Path("out", name)) for name in ("a.jpg", "a.png", "b.jpg")]
    >>> [job.target.name for job in renamed(jobs, lambda target: target.with_suffix(".png"))]
    ['a_jpg.png', 'a_png.png', 'b.png']
    """
    targets = [rename(job.target) for job in jobs]
    shared = {target for target, number in Counter(targets).items() if number > 1}
    taken: dict[Path, Path] = {}
    changed = []
    for job, target in zip(jobs, targets, strict=True):
        if target in shared:
            suffix = job.source.suffix.lower().removeprefix(".")
            own = rename(job.target.with_stem(f"{job.target.stem}_{suffix}"))
        else:
            own = target
        other = taken.setdefault(own, job.source)
        if other != job.source:
            raise DataError(
                f"`{other}` and `{job.source}` would both be written to `{own}`; rename one of "
                "them."
            )
        changed.append(replace(job, target=own))
    return changed


def check_output(output: Path, flag: str = "--output") -> None:
    """Find out whether a folder, or a file, can be written, without leaving anything there.

    Args:
        output: the folder or file.
        flag: that named it.

    Raises:
        StorageError: it cannot.
    """
    folder = output
    while not folder.is_dir():
        if folder.exists() and folder != output:
            raise StorageError(
                f"Cannot write `{output}`: `{folder}` is a file. Choose another {flag}."
            )
        if folder == folder.parent:
            break
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".patchkin-"):
            pass
    except OSError as error:
        raised = StorageError(
            f"Cannot write into `{folder}`: {reason(error)}. Choose another {flag}."
        )
        raised.errno = error.errno
        raise raised from error


# Translating


class ArrayTranslator(Protocol):
    """What translates images as arrays."""

    @property
    def channels(self) -> tuple[int, int]:
        """Of the images it takes, and of those it gives."""

    @property
    def value_ranges(self) -> Ranges:
        """Of the images it takes, and of those it gives, in files of more than 8 bits."""

    def arrays(self, x_BCHW: Array, styles_BS: Array | None = None) -> Array:
        """Images in [-1, 1], translated."""


def translate_files(
    translator: ArrayTranslator,
    jobs: Sequence[Job],
    *,
    saving: Saving | None = None,
    recorder: Recorder | None = None,
    batch_size: int = 1,
    on_file: Callable[[Path], None] = lambda _: None,
) -> Outcome:
    """Translate files, page by page; one that cannot be read or written does not stop the others,
    unless the disk is full or fails.

    Files are read ahead and written behind by other threads. Targets that are there are replaced;
    `patchkin.translation.stale` says which jobs need not be done. A file of several pages is
    written as they come, under another name until the last is there.

    Args:
        translator: the model.
        jobs: those of one file next to each other, so that it is read once. Either all have a
            style or none has.
        saving: what is kept of the inputs, and how; everything unless given.
        recorder: of what made each file.
        batch_size: images of one size translated at once.
        on_file: called with the source of each job that is done.

    Raises:
        StorageError: the disk is full, fails, or cannot be written at all.
    """
    outcome = Outcome()
    writing = _Writing(translator, saving or Saving(), outcome, recorder, on_file)
    pages = _pages(translator, jobs, writing)
    with closing(writing), behind() as later:
        for batch in ahead(_batches(pages, batch_size)):
            styles = [page.job.style_S for page in batch if page.job.style_S is not None]
            try:
                images_BCHW = _together([page.image_CHW for page in batch])
                y_BCHW = translator.arrays(images_BCHW, np.stack(styles) if styles else None)
            except (MemoryError, RuntimeError) as error:
                if not is_memory_trouble(error):
                    raise
                why = f"{error}" if isinstance(error, TooLargeError) else _NO_MEMORY
                for page in batch:
                    later(partial(writing.fail, page, why))
                continue
            for page, y_CHW in zip(batch, y_BCHW, strict=True):
                later(partial(writing.take, replace(page, image_CHW=y_CHW[:, :0]), y_CHW))
            # A large image is not held while its translation is written, nor that while the next
            # one is made.
            del page, images_BCHW, y_BCHW, y_CHW
            batch.clear()
    return outcome


_COLOURED = "grey, and came out in colour: the model gives 3 channels"
_NO_MEMORY = "needs more memory than there is (--tile 512, or smaller parts, need less)"


def _together(images: Sequence[Array]) -> Array:
    """A batch; one large image is not copied for it."""
    return images[0][None] if len(images) == 1 else np.stack(images)


@dataclass(frozen=True)
class _Page:
    """A page on its way."""

    job: Job
    number: int
    of: int
    container: Container
    image_CHW: Array
    encoding: Encoding
    alpha_HW: Array | None

    @property
    def name(self) -> str:
        """For messages."""
        page = f", page {self.number + 1}," if self.of > 1 else ""
        return f"`{self.job.source}`{page}"


class _Writing:
    """Writes the pages of a file as they come; the file appears when all are there."""

    def __init__(
        self,
        translator: ArrayTranslator,
        saving: Saving,
        outcome: Outcome,
        recorder: Recorder | None,
        on_file: Callable[[Path], None],
    ) -> None:
        self.saving = saving
        self.outcome = outcome
        self.recorder = recorder
        self.on_file = on_file
        self._ranges, self._channels = translator.value_ranges, translator.channels
        self._open: Fed[SavedPage, list[str]] | None = None
        """The file of several pages that is being written."""
        self._failed: set[Path] = set()

    def unreadable(self, job: Job, reason: str) -> None:
        """A file, or a page of it, cannot be read."""
        if (job.source, reason) not in self.outcome.failed:
            self.outcome.failed.append((job.source, reason))
        self.on_file(job.source)

    def fail(self, page: _Page, why: str) -> None:
        """A page cannot be made; the others of its file are not written either."""
        if page.job.target not in self._failed:
            self._failed.add(page.job.target)
            self.outcome.failed.append((page.job.source, f"{page.name} {why}."))
        self.close()
        if page.number == page.of - 1:
            self.on_file(page.job.source)

    def close(self) -> None:
        """Leave a file that is not finished as it was before."""
        if self._open is not None:
            self._open.abandon()
            self._open = None

    def take(self, page: _Page, y_CHW: Array) -> None:
        """A translated page."""
        if page.number == 0:
            self.close()
        if page.job.target in self._failed:
            self.fail(page, "")
            return
        try:
            self._take(page, y_CHW)
        except MemoryError:
            self.fail(page, "needs more memory to write than there is")

    def _take(self, page: _Page, y_CHW: Array) -> None:
        if not all(np.isfinite(y_HW).all() for y_HW in y_CHW):
            self.fail(page, "has a translation that holds NaN or infinity; nothing is written")
            return
        form = output_form(page.encoding, y_CHW.shape[0], self._ranges)
        if form.note:
            self.outcome.note(form.note, page.job.source)
        if page.encoding.channels == 1 and self._channels == (3, 3):
            self.outcome.note(_COLOURED, page.job.source)
        levels_CHW = to_levels(y_CHW, form.encoding, form.value_range)
        alpha_HW = page.alpha_HW if self.saving.alpha == "keep" else None
        saved = SavedPage(levels_CHW, alpha_HW)
        is_last = page.number == page.of - 1
        try:
            if page.of > 1:
                self._give(page, saved)
            if is_last:
                self._finish(page, saved)
        except (PatchkinError, OSError, MemoryError) as error:
            if is_disk_trouble(error):
                raise
            self._failed.add(page.job.target)
            self.outcome.failed.append((page.job.source, f"`{page.job.source}`: {reason(error)}."))
            self.close()
        if is_last:
            self.on_file(page.job.source)

    def _give(self, page: _Page, saved: SavedPage) -> None:
        if page.number == 0:
            remove_remains(page.job.target.parent)  # a stack is under way for long
            self._open = Fed(partial(self._write, page))
        assert self._open is not None, "a page that follows another of its file"
        self._open.give(saved)

    def _write(self, page: _Page, pages: Iterable[SavedPage]) -> list[str]:
        quality = self.saving.quality
        return write_pages(page.job.target, pages, page.container, number=page.of, quality=quality)

    def _finish(self, page: _Page, saved: SavedPage) -> None:
        job, recorder, opened = page.job, self.recorder, self._open
        if recorder is not None:
            recorder.begins([job.target])
        notes = self._write(page, [saved]) if opened is None else opened.finish()
        self._open = None
        for note in notes:
            self.outcome.note(note, job.source)
        if recorder is not None:
            recorder.made([job.target], job.source, style=job.style)
        self.outcome.written.append(job.target)


def _pages(translator: ArrayTranslator, jobs: Iterable[Job], writing: _Writing) -> Iterator[_Page]:
    """The pages of all jobs, in order. Of a file that cannot be read none is given, or not the
    last, so that it is not written.
    """
    source: Path | None = None
    container = Container()
    last: tuple[Path, tuple[Array, Picture]] | None = None
    for job in jobs:
        try:
            if job.source != source:
                if writing.recorder is not None:
                    writing.recorder.reads(job.source)
                container, last = writing.saving.of(container_of(job.source)), None
                source = job.source
            paths = each_page([job.source])[: container.num_pages]
            for number, path in enumerate(paths):
                if last is None or last[0] != path:
                    last = (path, _read(translator, path))
                image_CHW, picture = last[1]
                check_sides(job.target, *image_CHW.shape[:0:-1])
                yield _Page(
                    job, number, len(paths), container, image_CHW, picture.encoding, picture.alpha
                )
        except (DataError, ConfigError, OSError, MemoryError) as error:
            source, is_memory = None, isinstance(error, MemoryError)
            told = f"`{job.source}` needs more memory to read than there is." if is_memory else ""
            writing.unreadable(job, told or str(error) or reason(error))


def _read(translator: ArrayTranslator, path: Path) -> tuple[Array, Picture]:
    """A page as the model takes it, [C, H, W] in [-1, 1], and as it is decoded."""
    picture = read_image(path, translator.channels[0])
    return to_values(picture, translator.value_ranges[0]), picture


def _batches(pages: Iterable[_Page], batch_size: int) -> Iterator[list[_Page]]:
    """Neighbouring images of one size, up to `batch_size` at once."""
    batch: list[_Page] = []
    for page in pages:
        if batch and (len(batch) == batch_size or batch[0].image_CHW.shape != page.image_CHW.shape):
            yield batch
            batch = []
        batch.append(page)
    if batch:
        yield batch


def _real(path: Path) -> Path:
    """The file that links lead to, also where they lead to each other."""
    return Path(os.path.realpath(path))
