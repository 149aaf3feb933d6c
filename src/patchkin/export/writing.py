"""`patchkin export`: a model into one file, compared with its network before it is written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from patchkin.config import to_plain
from patchkin.errors import CheckpointError, ConfigError
from patchkin.export.checking import (
    MOST_DIFFERENCE,
    MOST_MEAN_DIFFERENCE,
    Case,
    Difference,
    cases_of,
    difference,
    example_styles,
)
from patchkin.export.graph import (
    Example,
    TranslationGraph,
    check_installed,
    from_pt2,
    to_onnx,
    to_pt2,
    traced,
    with_metadata,
)
from patchkin.export.smaller import in_float16, in_int8, times_faster
from patchkin.images import Array
from patchkin.method import StyledMethod
from patchkin.storage.atomic import write_bytes
from patchkin.translation.enlarging import reduced
from patchkin.translation.exported import IMAGE, STYLE, ExportedStyle, ExportHeader, Numbers, Range
from patchkin.translation.onnx_file import OnnxTranslator
from patchkin.translation.record import sha256_of
from patchkin.translation.scale import training_size
from patchkin.translation.styles import drawn_styles, usual_style
from patchkin.translation.translator import Translator

if TYPE_CHECKING:
    from onnx import ModelProto

SUFFIXES = (".onnx", ".pt2")
_CALIBRATION_SIDE = 512
"""Longer images are reduced to this, their shorter side, before ranges are taken from them."""
_KEPT_PART = 5
"""Every so many images given for ranges, one is kept for the comparison."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportSettings:
    """How a file is to be."""

    range: Range = "-1..1"
    """Of the numbers that it takes and gives."""
    numbers: Numbers = "float32"
    """That it computes in."""
    calibration: Sequence[Path] = ()
    """Images that ranges are taken from; for int8."""
    samples: int = 0
    """Random styles to put beside the usual one, for methods that have styles."""
    seed: int = 0
    """Of those."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    path: Path
    header: ExportHeader
    bytes: int
    difference: Difference
    compared_on: str = "three sizes"
    """Random images, or some that were given."""
    times_faster: float | None = None
    """As float32 in ONNX Runtime; for int8."""


def export_model(
    translator: Translator, path: Path, settings: ExportSettings | None = None
) -> Exported:
    """Write a model as `.onnx` or `.pt2`.

    Args:
        translator: loaded from a file, on the CPU in float32.
        path: of the new file; its suffix says which.
        settings: how it is to be.

    Raises:
        ConfigError: the model cannot be written so.
        CheckpointError: the file would not translate as the network does; nothing is written.
        StorageError: it cannot be written.
    """
    settings = settings or ExportSettings()
    as_onnx = path.suffix.lower() == ".onnx"
    _check(path, settings)
    if as_onnx:
        check_installed()
    translator.method.eval()
    header = _header(translator, settings)
    cases = cases_of(translator, minimum=header.minimum)
    graph = TranslationGraph(
        translator.method, direction=translator.direction, numbers=settings.range
    )
    example_BCHW = torch.zeros(2, translator.channels[0], *_example_sides(header))
    program = traced(graph, Example(example_BCHW, example_styles(translator, 2)))
    compared_on, faster = "three sizes", None
    if as_onnx:
        model = to_onnx(program, header.to_metadata())
        found = _checked(model.SerializeToString(), cases, "float32")
        if settings.numbers == "float16":
            model = in_float16(model)
            with_metadata(model, replace(header, numbers="float16").to_metadata())
            found = _checked(model.SerializeToString(), cases, "float16")
        elif settings.numbers == "int8":
            model, found, compared_on, faster = _in_int8(model, header, translator, settings, cases)
        header = replace(header, numbers=settings.numbers, difference=(found.mean, found.largest))
        with_metadata(model, header.to_metadata())
        content = model.SerializeToString()
    else:
        content, header, found = _as_pt2(program, header, cases)
    write_bytes(path, content)
    return Exported(
        path=path,
        header=header,
        bytes=len(content),
        difference=found,
        compared_on=compared_on,
        times_faster=faster,
    )


def _example_sides(header: ExportHeader) -> tuple[int, int]:
    """To trace with: none must be a multiple, or padding would be traced as if it did nothing."""
    least = math.ceil(header.minimum / header.multiple) * header.multiple
    return 2 * least + 1, 3 * least + max(1, header.multiple - 1)


def _check(path: Path, settings: ExportSettings) -> None:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(
            f"--output `{path}` must end in {' or '.join(SUFFIXES)}, which says the format."
        )
    if suffix == ".pt2" and settings.numbers != "float32":
        raise ConfigError("--half and --int8 are of ONNX files; a .pt2 file holds float32.")
    if settings.numbers == "int8" and not settings.calibration:
        raise ConfigError(
            "--int8 takes the ranges of maps from images: name some with --calibrate."
        )


def _header(translator: Translator, settings: ExportSettings) -> ExportHeader:
    method = translator.method
    assert translator.file is not None
    assert translator.header is not None
    return ExportHeader(
        method=method.name,
        channels=translator.channels,
        multiple=method.multiple_of,
        minimum=max(method.min_size, method.multiple_of, 2),
        range=settings.range,
        value_ranges=translator.value_ranges,
        tiling=method.tiling,
        source_sha256=sha256_of(translator.file),
        weights=translator.weights,
        step=translator.header.step,
        direction=translator.direction,
        training_size=training_size(translator.header, translator.direction),
        num_domains=method.num_domains if isinstance(method, StyledMethod) else 1,
        domains=translator.domains,
        styles=_styles(translator, settings),
    )


def _styles(translator: Translator, settings: ExportSettings) -> tuple[ExportedStyle, ...]:
    if not isinstance(translator.method, StyledMethod):
        if settings.samples:
            raise ConfigError(
                f"`{translator.method.name}` gives one translation per image; --samples needs a "
                "model of a method with styles."
            )
        return ()
    found = []
    for domain in range(translator.method.num_domains):
        styles = [usual_style(translator, domain)]
        if settings.samples:
            styles += drawn_styles(translator, settings.samples, seed=settings.seed, domain=domain)
        found += [
            ExportedStyle(
                domain=domain,
                name=style.name,
                origin=style.origin,
                numbers=tuple(style.vector_S.tolist()),
            )
            for style in styles
        ]
    return tuple(found)


def _as_pt2(
    program: torch.export.ExportedProgram, header: ExportHeader, cases: list[Case]
) -> tuple[bytes, ExportHeader, Difference]:
    content = to_pt2(program, json.dumps(to_plain(header)))
    module, _ = from_pt2(content)
    scale, shift = (0.5, 0.5) if header.range == "0..1" else (1.0, 0.0)

    def run(x_BCHW: Array, styles_BS: Array | None) -> Array:
        arguments = [torch.from_numpy(x_BCHW) * scale + shift]
        arguments += [] if styles_BS is None else [torch.from_numpy(styles_BS)]
        with torch.no_grad():
            y_BCHW: Array = ((module(*arguments) - shift) / scale).numpy()
        return y_BCHW

    found = difference(_as_the_range_allows(cases, header.range), run)
    _refuse(found, "float32")
    header = replace(header, difference=(found.mean, found.largest))
    return to_pt2(program, json.dumps(to_plain(header))), header, found


def _checked(content: bytes, cases: list[Case], numbers: Numbers) -> Difference:
    runner = OnnxTranslator(content, device="cpu", threads=torch.get_num_threads())
    found = difference(_as_the_range_allows(cases, runner.header.range), runner.arrays)
    _refuse(found, numbers)
    return found


def _as_the_range_allows(cases: list[Case], numbers: Range) -> list[Case]:
    """A graph from 0 to 1 cuts off what lies outside, as a file would."""
    if numbers == "-1..1":
        return cases
    return [replace(case, expected_BCHW=case.expected_BCHW.clamp(-1, 1)) for case in cases]


def _refuse(found: Difference, numbers: Numbers) -> None:
    """Raise `CheckpointError` for a file that is too far from the network."""
    if numbers == "float32":
        good, limit = found.largest <= MOST_DIFFERENCE, f"{MOST_DIFFERENCE:g} at most"
    else:
        bound = MOST_MEAN_DIFFERENCE[numbers]
        good, limit = found.mean <= bound, f"{bound:.2g} on the mean"
    if not good:
        raise CheckpointError(
            f"The exported model in {numbers} does not translate as the network does: they differ "
            f"by {found} in [-1, 1], and {limit} is allowed. Nothing is written."
        )


def _in_int8(
    model: ModelProto,
    header: ExportHeader,
    translator: Translator,
    settings: ExportSettings,
    cases: list[Case],
) -> tuple[ModelProto, Difference, str, float]:
    """The graph in 8 bits, compared on images that its ranges do not know, if it is faster."""
    paths = list(settings.calibration)
    kept = math.ceil(len(paths) / _KEPT_PART) if len(paths) > 1 else 0
    known, unknown = paths[: len(paths) - kept], paths[-kept:]
    small = in_int8(model, [_feed(case, header) for case in _cases(translator, header, known)])
    with_metadata(small, replace(header, numbers="int8").to_metadata())
    content = small.SerializeToString()
    runner = OnnxTranslator(content, device="cpu", threads=torch.get_num_threads())
    difference(_as_the_range_allows(cases, header.range), runner.arrays)  # sizes, and finite
    found = _checked(content, list(_cases(translator, header, unknown)), "int8")
    wide = model.SerializeToString()
    faster = times_faster(_timed(content, header), _timed(wide, header))
    if faster <= 1:
        raise ConfigError(
            f"int8 is not faster than float32 on this machine ({faster:.2f} times as fast), so "
            "nothing is written: leave out --int8."
        )
    count = "the image given" if not kept else f"{kept} images" if kept > 1 else "an image"
    return small, found, count + " that ranges were not taken from" * bool(kept), faster


def _cases(translator: Translator, header: ExportHeader, paths: Sequence[Path]) -> Iterator[Case]:
    """Images as the network takes them, and what it makes of them in the usual style."""
    style_BS = torch.tensor([header.styles[0].numbers]) if header.styles else None
    for path in paths:
        image_CHW, _ = translator.read(path)
        x_BCHW = image_CHW[None]
        if min(x_BCHW.shape[-2:]) > _CALIBRATION_SIDE:
            x_BCHW = reduced(x_BCHW, _CALIBRATION_SIDE)
        short = [max(0, header.minimum - side) for side in x_BCHW.shape[-2:]]
        x_BCHW = torch.nn.functional.pad(x_BCHW, (0, short[1], 0, short[0]), mode="replicate")
        yield Case(x_BCHW, style_BS, translator(x_BCHW, style_BS).cpu())


def _feed(case: Case, header: ExportHeader) -> dict[str, Array]:
    """An image as the graph takes it."""
    x_BCHW = case.image_BCHW
    feed = {IMAGE: (x_BCHW if header.range == "-1..1" else (x_BCHW + 1) / 2).numpy()}
    return feed if case.style_BS is None else {**feed, STYLE: case.style_BS.numpy()}


def _timed(content: bytes, header: ExportHeader) -> Callable[[], Any]:
    """A call with one image of the training size."""
    runner = OnnxTranslator(content, device="cpu", threads=torch.get_num_threads())
    width, height = (
        math.ceil(max(side, header.minimum) / header.multiple) * header.multiple
        for side in header.training_size
    )
    x_BCHW = np.zeros((1, header.channels[0], height, width), np.float32)
    return lambda: runner.arrays(x_BCHW)
