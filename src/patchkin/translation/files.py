"""Files to translate: which, where their translations go, and what became of them.

Shape suffixes: S entries of a style, B images, C channels, H and W pixels.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from patchkin.errors import DataError, PatchkinError
from patchkin.images import Encoding, OutputForm, is_image_file, output_form, write_image
from patchkin.parallel.overlap import ahead, behind
from patchkin.translation.translator import Translator


@dataclass(frozen=True)
class Job:
    """A file to translate and where its translation goes."""

    source: Path
    target: Path
    style_S: Tensor | None = field(default=None, compare=False)
    """For methods whose translations have a style; the same for all images unless given."""


@dataclass
class Outcome:
    """What became of a list of files."""

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    """Already there."""
    failed: list[tuple[Path, str]] = field(default_factory=list)
    """With the reason, one line each."""


def plan(inputs: Sequence[str], output: Path) -> list[Job]:
    """Files, folders (searched recursively) and glob patterns as jobs.

    Names and the structure below each folder are kept. Where the output lies inside an input,
    what is in it already is no input: the same command gives the same jobs again.

    Raises:
        DataError: an input matches nothing, holds no image, would be overwritten by its own
            translation, or two inputs would be written to one file.
    """
    jobs: dict[Path, Job] = {}
    for source, name in _named_files(inputs, output):
        target = output / name
        if target.resolve() == source.resolve():
            raise DataError(f"`{source}` would be overwritten; choose another --output.")
        other = jobs.get(target)
        if other is not None and other.source.resolve() != source.resolve():
            raise DataError(
                f"`{other.source}` and `{source}` would both be written to `{target}`. "
                "Translate their folders one at a time, or give the folder above both."
            )
        jobs[target] = Job(source, target)
    return list(jobs.values())


def _named_files(inputs: Sequence[str], output: Path) -> Iterator[tuple[Path, Path]]:
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if is_image_file(file))
            if not files:
                raise DataError(f"`{path}` holds no image.")
            kept = _outside(output, files)
            yield from ((file, file.relative_to(path)) for file in kept)
        elif path.is_file():
            yield path, Path(path.name)
        else:
            matches = sorted(Path(match) for match in glob.glob(text, recursive=True))  # noqa: PTH207 (absolute patterns too)
            files = [match for match in matches if is_image_file(match)]
            if not files:
                raise DataError(f"`{text}`: no such file or folder, and no image matches it.")
            yield from ((file, Path(file.name)) for file in _outside(output, files))


def _outside(folder: Path, files: Sequence[Path]) -> Sequence[Path]:
    """The files that are not below the folder; all of them if all are."""
    folder = folder.resolve()
    return [file for file in files if folder not in file.resolve().parents] or files


def translate_files(
    translator: Translator,
    jobs: Sequence[Job],
    *,
    overwrite: bool = False,
    batch_size: int = 1,
    on_file: Callable[[Path], None] = lambda _: None,
) -> Outcome:
    """Translate files; one that cannot be read or written does not stop the others.

    Files are read ahead and written behind by other threads.

    Args:
        translator: the model.
        jobs: those of one file next to each other, so that it is read once. Either all have a
            style or none has.
        overwrite: also those whose target is there.
        batch_size: images of one size translated at once.
        on_file: called with the source of each job that is done.
    """
    outcome = Outcome()
    todo = []
    for job in jobs:
        if job.target.exists() and not overwrite:
            outcome.skipped.append(job.target)
            on_file(job.source)
        else:
            todo.append(job)
    with behind() as later:
        for batch in ahead(_batches(translator, todo, batch_size, outcome, on_file)):
            styles = [job.style_S for job, _, _ in batch if job.style_S is not None]
            y_BCHW = translator(
                torch.stack([image for _, image, _ in batch]),
                torch.stack(styles) if styles else None,
            ).cpu()
            for (job, _, encoding), y_CHW in zip(batch, y_BCHW, strict=True):
                form = output_form(encoding, y_CHW.shape[0], translator.value_ranges)
                later(partial(_write, job, y_CHW, form, outcome, on_file))
    return outcome


def _batches(
    translator: Translator,
    jobs: Iterable[Job],
    batch_size: int,
    outcome: Outcome,
    on_file: Callable[[Path], None],
) -> Iterator[list[tuple[Job, Tensor, Encoding]]]:
    """Neighbouring images of one size, up to `batch_size` at once."""
    batch: list[tuple[Job, Tensor, Encoding]] = []
    source: Path | None = None
    content: tuple[Tensor, Encoding] | None = None
    for job in jobs:
        if job.source != source:
            source = job.source
            try:
                content = translator.read(source)
            except (DataError, OSError) as error:
                outcome.failed.append((source, str(error)))
                content = None
        if content is None:
            on_file(job.source)
            continue
        image, encoding = content
        if batch and (len(batch) == batch_size or batch[0][1].shape != image.shape):
            yield batch
            batch = []
        batch.append((job, image, encoding))
    if batch:
        yield batch


def _write(
    job: Job,
    y_CHW: Tensor,
    form: OutputForm,
    outcome: Outcome,
    on_file: Callable[[Path], None],
) -> None:
    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        write_image(job.target, y_CHW, form.encoding, value_range=form.value_range)
        outcome.written.append(job.target)
    except (PatchkinError, OSError) as error:
        outcome.failed.append((job.source, str(error)))
    on_file(job.source)
