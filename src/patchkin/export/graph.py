"""A translation as a graph: images of any number and size, and with them styles.

Shape suffixes: B images, C channels, H and W pixels, S numbers of a style.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from patchkin._version import __version__
from patchkin.errors import CheckpointError, ConfigError, missing_extra
from patchkin.method import Direction, Method, StyledMethod
from patchkin.translation.exported import IMAGE, STYLE, TRANSLATION, Range

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18
"""Of the operators. ONNX Runtime has them since 1.14, in the browser too."""
_HEADER_FILE = "patchkin.json"
"""Inside a .pt2 file."""


class TranslationGraph(nn.Module):
    """What is exported: takes any sides from the method's smallest, and gives the same back.

    Sides that the networks do not take are padded by reflection to the next that they do, at the
    bottom and right, and cut off the result, as a `Translator` does. The padding picks rows and
    columns by number: runtimes have that for any size, and reflection of a length that is only
    known when it runs not everywhere.
    """

    def __init__(self, method: Method, *, direction: Direction, numbers: Range = "-1..1") -> None:
        super().__init__()
        self.method = method
        self._direction = direction
        self._from_zero = numbers == "0..1"
        self._multiple = method.multiple_of

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        """Images [B, C, H, W] in the range of the graph."""
        x_BCHW = image * 2 - 1 if self._from_zero else image
        height, width = x_BCHW.shape[-2:]
        y_BCHW = self._translated(self._padded(x_BCHW), style)[..., :height, :width]
        return ((y_BCHW + 1) / 2).clamp(0, 1) if self._from_zero else y_BCHW

    def _translated(self, x_BCHW: Tensor, style: Tensor | None) -> Tensor:
        method = self.method
        if isinstance(method, StyledMethod):
            return method.translate(x_BCHW, styles_BS=style, direction=self._direction)
        if self._direction == "AtoB":
            return method.translate(x_BCHW)
        return method.translate(x_BCHW, direction=self._direction)  # type: ignore[call-arg]

    def _padded(self, x_BCHW: Tensor) -> Tensor:
        if self._multiple == 1:
            return x_BCHW
        for axis in (-1, -2):
            length = x_BCHW.shape[axis]
            padded_length = (length + self._multiple - 1) // self._multiple * self._multiple
            place = torch.arange(padded_length, device=x_BCHW.device)
            mirrored = torch.where(place < length, place, 2 * length - 2 - place)
            x_BCHW = x_BCHW.index_select(axis, mirrored)
        return x_BCHW


@dataclass(frozen=True)
class Example:
    """Inputs that a graph is traced with."""

    image_BCHW: Tensor
    style_BS: Tensor | None = None

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        """In the order of the graph."""
        return (self.image_BCHW,) if self.style_BS is None else (self.image_BCHW, self.style_BS)


def traced(graph: TranslationGraph, example: Example) -> ExportedProgram:
    """The graph as a program of torch, for any number of images of any height and width.

    Raises:
        ConfigError: it cannot be traced.
    """
    free = [{0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}]
    if example.style_BS is not None:
        free.append({0: Dim.DYNAMIC})
    graph.eval()
    try:
        with torch.no_grad(), _quietly():
            return torch.export.export(
                graph, example.arguments, dynamic_shapes=tuple(free), strict=False
            )
    except (RuntimeError, ValueError, TypeError) as error:
        raise ConfigError(f"This model cannot be exported: {_first_line(error)}") from error


def to_onnx(program: ExportedProgram, metadata: Mapping[str, str]) -> ModelProto:
    """A traced graph as an ONNX model.

    Args:
        program: of `traced`.
        metadata: to be put into the file.

    Raises:
        ConfigError: an operator has no counterpart, or the extra `onnx` is not installed.
    """
    check_installed()
    names = [IMAGE, STYLE][: len(program.graph_signature.user_inputs)]
    try:
        with torch.no_grad(), _quietly():
            exported: Any = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=names,
                output_names=[TRANSLATION],
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ConfigError(f"This model has no form in ONNX: {_first_line(error)}") from error
    model: ModelProto = exported.model_proto
    _name_axes(model)
    model.producer_name, model.producer_version = "patchkin", __version__
    with_metadata(model, metadata)
    return model


def with_metadata(model: ModelProto, metadata: Mapping[str, str]) -> None:
    """Replace the metadata of a model."""
    del model.metadata_props[:]
    for name, text in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, text


def to_pt2(program: ExportedProgram, metadata: str) -> bytes:
    """A traced graph as the content of a `.pt2` file, which `torch.export.load` reads.

    Args:
        program: of `traced`.
        metadata: JSON, the extra file `patchkin.json` in it.
    """
    content = io.BytesIO()
    with _quietly():
        torch.export.save(program, content, extra_files={_HEADER_FILE: metadata})
    return content.getvalue()


def from_pt2(content: bytes) -> tuple[nn.Module, str]:
    """What `to_pt2` was made of, as a module, and the metadata."""
    found = {_HEADER_FILE: ""}
    with _quietly():
        program = torch.export.load(io.BytesIO(content), extra_files=found)
    return program.module(), found[_HEADER_FILE]


def check_installed() -> None:
    """Refuse to go on without the extra `onnx`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        message = missing_extra("Writing ONNX", package=str(error.name), extra="onnx")
        raise ConfigError(message) from error


def _name_axes(model: ModelProto) -> None:
    """Words in place of the symbols that torch gave the free axes."""
    for value in (*model.graph.input, *model.graph.output):
        axes = value.type.tensor_type.shape.dim
        names = ("batch", None, "height", "width") if len(axes) == 4 else ("batch", None)
        for axis, name in zip(axes, names, strict=True):
            if name is not None:
                if axis.HasField("dim_value"):
                    raise CheckpointError(
                        f"The {name} of `{value.name}` came out fixed at {axis.dim_value}; "
                        "an exported model takes any."
                    )
                axis.dim_param = name
    del model.graph.value_info[:]  # their sizes are in terms of the symbols


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch's exporter tells on its way."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".") + "."
