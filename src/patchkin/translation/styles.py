"""Styles of a model: drawn at random, taken from references; grids of them, and paths between two.

`style_files` says what files are called.

Shape suffixes: S entries of a style, B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from patchkin.data.layouts import image_files
from patchkin.errors import ConfigError, DataError, PatchkinError
from patchkin.images import (
    Ranges,
    ValueRange,
    image_grid,
    read_image,
    to_tensor,
    to_uint8,
    write_pillow,
)
from patchkin.images.write import save_pillow
from patchkin.randomness import SeededDraws
from patchkin.storage.atomic import is_disk_trouble, new_file
from patchkin.translation.files import Job, renamed
from patchkin.translation.outcome import Outcome
from patchkin.translation.record import Recorder, sha256_of
from patchkin.translation.style_files import (
    Style,
    domain_label,
    domain_of,
    drawn_origin,
    named,
    usual_origin,
)
from patchkin.translation.translator import Translator

_FRAME_MILLISECONDS = 90


# Which


def find_domain(translator: Translator, given: str | None) -> int:
    """The target domain that a name or a number (from 0) stands for; see `style_files.domain_of`.

    Raises:
        ConfigError: as there.
    """
    number, names = translator.styled.num_domains, translator.domains
    return domain_of(given, number=number, names=names, method=translator.method.name)


def domain_name(translator: Translator, domain: int) -> str:
    """For names of files; see `style_files.domain_label`."""
    return domain_label(domain, number=translator.styled.num_domains, names=translator.domains)


def usual_style(translator: Translator, domain: int) -> Style:
    """The style of a domain unless one is chosen: always the same."""
    drawn_BS = translator.latent_styles(SeededDraws(0, 0), count=1, domain=domain)
    return Style("", drawn_BS[0], origin=usual_origin(domain))


def drawn_styles(translator: Translator, count: int, *, seed: int, domain: int) -> list[Style]:
    """Styles drawn at random. The same seed gives the same styles, however many are drawn.

    Raises:
        ConfigError: `count` is not positive, or the method has no styles.
    """
    if count < 1:
        raise ConfigError(f"`--samples` must be at least 1; got {count}.")
    return [
        Style(
            f"s{index}",
            translator.latent_styles(SeededDraws(seed, index), count=1, domain=domain)[0],
            origin=drawn_origin(domain, seed, index),
        )
        for index in range(count)
    ]


def reference_files(given: Sequence[Path]) -> list[Path]:
    """Files, and the images of folders, in order.

    Raises:
        DataError: a folder without images, or two files with one stem.
    """
    files: list[Path] = []
    for path in given:
        files += image_files(path) if path.is_dir() else [path]
    by_stem: dict[str, Path] = {}
    for file in files:
        other = by_stem.setdefault(file.stem, file)
        if other != file:
            raise DataError(
                f"The references `{other}` and `{file}` have one name; translations are named "
                "after their reference. Give one at a time."
            )
    return files


def referenced_styles(translator: Translator, files: Sequence[Path], *, domain: int) -> list[Style]:
    """The styles of images of the target domain.

    Raises:
        DataError: a file that cannot be read.
        ConfigError: the method has no styles.
    """
    styles = []
    for file in files:
        image_CHW, _ = translator.read(file, like="output")
        vector_S = translator.reference_styles(image_CHW[None], domain=domain)[0]
        origin = f"domain {domain}, reference {sha256_of(file)}"
        styles.append(Style(file.stem, vector_S, file, origin))
    return styles


# Files


def style_grid(
    jobs: Sequence[Job],
    styles: Sequence[Style],
    *,
    domain: str = "",
    names_file: bool = False,
    size: int = 256,
    value_ranges: Ranges = (None, None),
) -> Image.Image:
    """Inputs (left column) in every style (columns, under their references), from written files.

    Args:
        jobs: of the inputs, without styles; those that could not be translated are left out.
        styles: one column each.
        domain: as in the names of the files.
        names_file: as `styled_jobs`.
        size: longest side of a tile in pixels.
        value_ranges: of inputs, and of references and outputs.

    Raises:
        DataError: nothing to show, or a file that cannot be read.
    """
    rows = []
    for job in jobs:
        targets = [
            job.target if names_file else named(job.target, domain, style.name) for style in styles
        ]
        if all(target.is_file() for target in targets):
            of_input, of_output = value_ranges
            outputs = [_tile(target, size, of_output) for target in targets]
            rows.append([_tile(job.source, size, of_input), *outputs])
    if not rows:
        raise DataError("There is no translation to show in a grid.")
    if any(style.reference is not None for style in styles):
        corner_CHW = torch.ones(3, 8, 8)
        references = [
            corner_CHW if style.reference is None else _tile(style.reference, size, value_ranges[1])
            for style in styles
        ]
        rows.insert(0, [corner_CHW, *references])
    captions = ["input", *(style.name or domain or "output" for style in styles)]
    return image_grid(rows, captions)


def _tile(path: Path, size: int, value_range: ValueRange | None) -> Tensor:
    image_CHW = to_tensor(read_image(path), value_range)
    if image_CHW.shape[0] not in (1, 3):
        image_CHW = image_CHW[:1]
    array_HWC = to_uint8(image_CHW.expand(3, -1, -1)).permute(1, 2, 0).contiguous().numpy()
    image = Image.fromarray(array_HWC)
    image.thumbnail((size, size), Image.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1).float() / 127.5 - 1


# From one style to another


def between(first_S: Tensor, last_S: Tensor, frames: int) -> Tensor:
    """Styles on the straight line from one to the other, both included, [frames, S].

    >>> between(torch.zeros(2), torch.ones(2), 3)[:, 0]
    tensor([0.0000, 0.5000, 1.0000])
    """
    return torch.stack(
        [torch.lerp(first_S, last_S, weight) for weight in torch.linspace(0, 1, frames)]
    )


def path_jobs(
    jobs: Sequence[Job],
    styles: tuple[Style, Style],
    *,
    frames: int,
    domain: str = "",
    names_file: bool = False,
) -> list[Job]:
    """Jobs whose targets are the strips; see `path_files`.

    Args:
        jobs: all of a command, without styles.
        styles: where the way begins and ends.
        frames: images of the way.
        domain: for the names of files.
        names_file: whether the target of the job is the name that was asked for.

    Raises:
        DataError: two would be one file.
    """
    way = f"{styles[0].origin} to {styles[1].origin} in {frames}"
    on_the_way = [replace(job, style=way) for job in jobs]
    if names_file:
        return on_the_way
    return renamed(on_the_way, lambda target: named(target, domain, "path").with_suffix(".png"))


def path_files(job: Job) -> list[Path]:
    """The strip and the animation of a job of `path_jobs`."""
    return [job.target, job.target.with_suffix(".gif")]


def write_paths(
    translator: Translator,
    jobs: Sequence[Job],
    styles: tuple[Style, Style],
    *,
    frames: int,
    recorder: Recorder | None = None,
    on_file: Callable[[Path], None] = lambda _: None,
) -> Outcome:
    """Each input on its way from one style to the other: a strip (PNG) and an animation (GIF).

    The strip begins with the input. The animation goes there and back. One input that fails does
    not stop the others.

    Args:
        translator: the model.
        jobs: of `path_jobs`.
        styles: where the way begins and ends.
        frames: images of the way.
        recorder: of what made each file.
        on_file: called with the source of each job that is done.

    Raises:
        ConfigError: fewer than 2 frames.
    """
    if frames < 2:
        raise ConfigError(f"`--frames` must be at least 2; got {frames}.")
    styles_BS = between(styles[0].vector_S, styles[1].vector_S, frames)
    outcome = Outcome()
    for job in jobs:
        strip, animation = path_files(job)
        try:
            if recorder is not None:
                recorder.reads(job.source)
            image_CHW, _ = translator.read(job.source)
            images = [translator(image_CHW[None], style_S[None])[0] for style_S in styles_BS]
            if not all(image.isfinite().all() for image in images):
                raise DataError(f"`{job.source}` has a translation that holds NaN or infinity.")
            if recorder is not None:
                recorder.begins([strip, animation])
            write_pillow(strip, image_grid([[image_CHW, *images]]))
            _write_animation(animation, images)
            if recorder is not None:
                recorder.made([strip, animation], job.source, style=job.style)
            outcome.written += [strip, animation]
        except (PatchkinError, OSError) as error:
            if is_disk_trouble(error):
                raise
            outcome.failed.append((job.source, str(error)))
        on_file(job.source)
    return outcome


def _write_animation(path: Path, images: Sequence[Tensor]) -> None:
    frames = [image_grid([[image]]) for image in images]
    frames += frames[-2:0:-1]  # and back
    with new_file(path) as part:
        save_pillow(
            frames[0],
            part,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            duration=_FRAME_MILLISECONDS,
            loop=0,
        )
