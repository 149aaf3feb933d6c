"""An exported model at work in ONNX Runtime. Imports no torch: tensors are taken where it is there.

Shape suffixes: B images, C channels, H and W pixels, S numbers of a style.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from patchkin.errors import CheckpointError, ConfigError, ShapeError, missing_extra
from patchkin.images import Array, Ranges
from patchkin.storage.hub import hub_name
from patchkin.translation.exported import IMAGE, STYLE, ExportHeader
from patchkin.translation.given import check_styles, check_tensor, given_image
from patchkin.translation.resampled import resized_translation
from patchkin.translation.style_files import Style, drawn_origin, usual_origin

if TYPE_CHECKING:
    from torch import Tensor

    from patchkin.devices import Device, Precision
    from patchkin.translation.resizing import Resizing

ONNX_SUFFIX = ".onnx"
_PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "mps": "CoreMLExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""Of ONNX Runtime, by the name of a device; in the order in which `auto` takes them."""
_MEMORY = ("bad allocation", "bad_alloc", "failed to allocate", "out of memory")


def providers_of(device: Device, available: list[str]) -> list[str]:
    """What computes on a device, and the CPU for operators that it lacks.

    Args:
        device: by name; `auto` takes an accelerator if there is one.
        available: what this build of ONNX Runtime has.

    Raises:
        ConfigError: it cannot compute there.

    >>> providers_of("auto", ["CUDAExecutionProvider", "CPUExecutionProvider"])
    ['CUDAExecutionProvider', 'CPUExecutionProvider']
    """
    names = list(_PROVIDERS) if device == "auto" else [device]
    found = next((_PROVIDERS[name] for name in names if _PROVIDERS[name] in available), None)
    if found is None:
        package = " (the package onnxruntime-gpu has)" if device == "cuda" else ""
        raise ConfigError(
            f"--device {device}: this ONNX Runtime has no {_PROVIDERS[device]}{package}. "
            "Use --device cpu."
        )
    return list(dict.fromkeys([found, _PROVIDERS["cpu"]]))


def is_onnx(model: Path | str) -> bool:
    """Whether a model is named as an exported one is.

    >>> is_onnx("h2z.ONNX"), is_onnx("runs/h2z")
    (True, False)
    """
    return Path(model).suffix.lower() == ONNX_SUFFIX and hub_name(model) is None


class OnnxTranslator:
    """A model that `patchkin export` wrote; takes images of any size, as `Translator` does.

    `Translator.load("model.onnx")` gives one. Several threads may call it.
    """

    precision: Precision = "32-true"

    def __init__(
        self,
        content: bytes | Path,
        *,
        device: Device = "auto",
        threads: int | None = None,
        value_ranges: Ranges | None = None,
        resizing: Resizing | None = None,
    ) -> None:
        """From a file, or what would be in one.

        Args:
            content: the file, or its bytes.
            device: where to compute.
            threads: of a CPU; one for each core unless given.
            value_ranges: of the images it takes and gives; those that the file declares unless
                given.
            resizing: of images that are larger than the model should see.

        Raises:
            CheckpointError: it is no ONNX model, none of patchkin's, or contradicts itself.
            ConfigError: the device is not there, or ONNX Runtime is not.
        """
        self.file = content if isinstance(content, Path) else None
        name = self.file or "the exported model"
        self._session = _opened(content, name, device=device, threads=threads)
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.header = ExportHeader.from_metadata(metadata, name)
        _check_graph(self._session, self.header, name)
        self._from_zero = self.header.range == "0..1"
        self.resizing = resizing
        self.value_ranges = value_ranges or self.header.ranges
        """Of the images it takes, and of those it gives, in files of more than 8 bits."""

    @classmethod
    def load(cls, model: Path | str, **options: Any) -> OnnxTranslator:
        """As `Translator.load`, of a file of `patchkin export`.

        Args:
            model: the file.
            options: of `Translator.load`. What was decided when the file was written (`which`,
                `weights`, `precision`, `direction`, `complete`) may be named as it is there.

        Raises:
            CheckpointError: it is no ONNX model, none of patchkin's, or contradicts itself.
            ConfigError: another way of using it than it was exported for; or it is not an exported
                model, and torch is not there to load it.
        """
        if not is_onnx(model):
            raise ConfigError(missing_extra(f"`{model}`", package="torch", extra="torch"))
        if options.pop("complete", False):
            raise ConfigError(_decided("This", model))
        if options.pop("which", "last") != "last":
            raise ConfigError(_decided("`which`", model))
        options.pop("methods", None)
        asked = {name: options.pop(name, None) for name in ("weights", "precision", "direction")}
        translator = cls(Path(model), **options)
        for name, value in asked.items():
            if value not in (None, getattr(translator, name), _USUAL[name]):
                raise ConfigError(_decided(f"{name}={value!r}", model))
        return translator

    @property
    def method_name(self) -> str:
        """Of the method that it was trained with."""
        return self.header.method

    @property
    def channels(self) -> tuple[int, int]:
        """Of the images it takes, and of those it gives."""
        return self.header.channels

    @property
    def method(self) -> Any:
        """An exported model has none.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(_decided("This", self.file or "the file"))

    def save_pretrained(self, *_: Any, **__: Any) -> None:
        """The Hub has model files, and this is none.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(_decided("The Hub", self.file or "the file"))

    push_to_hub = save_pretrained

    @property
    def direction(self) -> Literal["AtoB", "BtoA"]:
        """Of its translations."""
        return self.header.direction

    @property
    def weights(self) -> str:
        """Averaged or live."""
        return self.header.weights

    @property
    def step(self) -> int | None:
        """Of its training."""
        return self.header.step

    @property
    def training_size(self) -> tuple[int, int]:
        """Width and height that a whole image had in training."""
        return self.header.training_size

    @property
    def tiling(self) -> Literal["supported", "discouraged", "internal"]:
        """Whether the parts of an image may be translated apart; see `Method.tiling`."""
        return self.header.tiling

    @property
    def smallest(self) -> int:
        """Shortest side that its network computes; what is shorter is padded to it."""
        return least_side(self.header.minimum, self.header.multiple)

    @property
    def has_styles(self) -> bool:
        """Whether its translations have a style."""
        return bool(self.header.styles)

    @property
    def num_domains(self) -> int:
        """Target domains to choose from."""
        return self.header.num_domains

    @property
    def domains(self) -> tuple[str, ...]:
        """Their names, as far as the file knows them."""
        return self.header.domains

    def usual_style(self, domain: int) -> Style:
        """The style of a domain unless one is chosen."""
        return self._style("", usual_origin(domain))

    def drawn_styles(self, count: int, *, seed: int, domain: int) -> list[Style]:
        """The first of the random styles that were put into the file.

        Raises:
            ConfigError: it has not so many, or of another seed.
        """
        if count < 1:
            raise ConfigError(f"`--samples` must be at least 1; got {count}.")
        return [self._style(f"s{n}", drawn_origin(domain, seed, n)) for n in range(count)]

    def _style(self, name: str, origin: str) -> Style:
        for style in self.header.styles:
            if style.origin == origin:
                return Style(name, np.asarray(style.numbers, np.float32), origin=origin)
        held = ", ".join(style.origin for style in self.header.styles if style.name)
        raise ConfigError(
            f"The file holds no style of {origin}; it holds {held or 'none but the usual ones'}. "
            "`patchkin export` puts random styles into a file with --samples and --seed."
        )

    def __call__(self, image: Any, styles_BS: Any = None) -> Any:
        """Translate an image of any height and width, or several, as `Translator` does.

        Args:
            image: a path, a Pillow image, an array [H, W] or [H, W, C], a tensor [C, H, W] or
                [B, C, H, W] in [-1, 1], or a list of these.
            styles_BS: for models whose translations have a style, one for each image.

        Returns:
            The same kind; tensors on the CPU.

        Raises:
            ShapeError: an array or a tensor of another shape.
            DataError: another kind of thing, or an image that cannot be read or does not fit.
        """
        if isinstance(image, (list, tuple)):
            if styles_BS is None:
                return [self(each) for each in image]
            check_styles(styles_BS, len(image))
            return [self(each, s_S[None]) for each, s_S in zip(image, styles_BS, strict=True)]
        torch = sys.modules.get("torch")  # whoever has a tensor has imported it
        if torch is not None and isinstance(styles_BS, torch.Tensor):
            styles_BS = styles_BS.detach().cpu().float().numpy()
        if torch is not None and isinstance(image, torch.Tensor):
            return self._of_tensor(image, styles_BS)
        given = given_image(image, channels=self.channels[0], value_ranges=self.value_ranges)
        return given.back(self.arrays(given.values_CHW[None], styles_BS)[0])

    def _of_tensor(self, image: Tensor, styles_BS: Array | None) -> Tensor:
        import torch

        is_float = image.is_floating_point()
        check_tensor(tuple(image.shape), self.channels[0], is_float=is_float, dtype=image.dtype)
        x_BCHW = (image if image.ndim == 4 else image[None]).detach().cpu().float().numpy()
        y_BCHW = torch.from_numpy(self.arrays(x_BCHW, styles_BS)).to(image.dtype)
        return y_BCHW if image.ndim == 4 else y_BCHW[0]

    def arrays(self, x_BCHW: Array, styles_BS: Array | None = None) -> Array:
        """Translate images of any height and width, values in [-1, 1].

        Args:
            x_BCHW: images.
            styles_BS: for models whose translations have a style, one for each image; the usual
                one of the first domain unless given.

        Raises:
            MemoryError: there is not enough.
            ShapeError: other channels than the model takes.
        """
        channels = x_BCHW.shape[1]
        if channels != self.channels[0]:
            raise ShapeError(f"The model takes {self.channels[0]} channels; got {channels}.")
        if self.resizing is None:
            return self._at_own_size(x_BCHW, styles_BS)
        return resized_translation(
            lambda small_BCHW: self._at_own_size(small_BCHW, styles_BS), x_BCHW, self.resizing
        )

    def _at_own_size(self, x_BCHW: Array, styles_BS: Array | None) -> Array:
        height, width = x_BCHW.shape[-2:]
        feed: dict[str, Array] = {IMAGE: np.ascontiguousarray(self._padded(x_BCHW), np.float32)}
        if self._from_zero:
            feed[IMAGE] = (feed[IMAGE] + np.float32(1)) / np.float32(2)
        if self.header.styles:
            feed[STYLE] = self._styles(styles_BS, len(x_BCHW))
        y_BCHW: Array = self._run(feed)[..., :height, :width]
        return y_BCHW * 2 - 1 if self._from_zero else y_BCHW

    def _styles(self, styles_BS: Array | None, count: int) -> Array:
        if styles_BS is None:
            styles_BS = np.asarray([self.header.styles[0].numbers])
        width = len(self.header.styles[0].numbers)
        return np.ascontiguousarray(np.broadcast_to(styles_BS, (count, width)), np.float32)

    def _padded(self, x_BCHW: Array) -> Array:
        """At the bottom and right, where a side is shorter than the graph takes."""
        for axis in (-1, -2):
            if x_BCHW.shape[axis] < self.header.minimum:
                x_BCHW = _lengthened(
                    x_BCHW, axis, multiple=self.header.multiple, minimum=self.header.minimum
                )
        return x_BCHW

    def _run(self, feed: dict[str, Array]) -> Array:
        try:
            y_BCHW: Array = self._session.run(None, feed)[0]
        except Exception as error:  # the exceptions of ONNX Runtime have no base of their own
            if any(words in str(error).lower() for words in _MEMORY):
                raise MemoryError from error
            raise
        return y_BCHW


_USUAL = {"weights": "averaged", "precision": "32-true", "direction": "AtoB"}
"""What `Translator.load` takes unless it is told otherwise, and so asks of no file."""


def _decided(what: str, model: Path | str) -> str:
    return (
        f"{what} needs the model itself, and `{model}` is an exported one: leave it out, or use "
        "the run or the .safetensors file."
    )


def least_side(minimum: int, multiple: int) -> int:
    """The shortest side that a network computes.

    >>> least_side(5, 4)
    8
    """
    return -(-minimum // multiple) * multiple


def _lengthened(x_BCHW: Array, axis: int, *, multiple: int, minimum: int) -> Array:
    """As `translator.pad_to` for one axis: by reflection, or where that does not reach the border.

    >>> _lengthened(np.arange(3.0), -1, multiple=4, minimum=4)
    array([0., 1., 2., 1.])
    >>> _lengthened(np.arange(2.0), -1, multiple=4, minimum=4)
    array([0., 1., 1., 1.])
    """
    length = x_BCHW.shape[axis]
    target = max(-(-length // multiple), -(-minimum // multiple)) * multiple
    place = np.arange(target)
    beyond = 2 * length - 2 - place if target - length < length else length - 1
    return np.take(x_BCHW, np.where(place < length, place, beyond), axis=axis)


def _opened(content: bytes | Path, name: Path | str, *, device: Device, threads: int | None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        message = missing_extra("An ONNX model", package="onnxruntime", extra="onnx-runtime")
        raise ConfigError(message) from error
    try:
        graph = content.read_bytes() if isinstance(content, Path) else content
    except OSError as error:
        raise CheckpointError(f"`{name}` cannot be read: {error.strerror or error}.") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or usable_cores()
    providers = providers_of(device, onnxruntime.get_available_providers())
    try:
        return onnxruntime.InferenceSession(graph, options, providers=providers)
    except Exception as error:  # as above: no base of their own
        if any(words in str(error).lower() for words in _MEMORY):
            raise CheckpointError(f"Opening `{name}` needs more memory.") from error
        told = str(error).strip().partition("\n")[0][:200].rstrip(".")
        raise CheckpointError(f"`{name}` is no ONNX model that can be run: {told}.") from error


def usable_cores() -> int:
    """That this process may use; `OMP_NUM_THREADS` says fewer, as it does to torch."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _check_graph(session: Any, header: ExportHeader, name: Path | str) -> None:
    """Raise `CheckpointError` where a graph is not what its metadata says."""
    wanted: dict[str, tuple[Any, ...]] = {IMAGE: (4, header.channels[0])}
    if header.styles:
        wanted[STYLE] = (2, len(header.styles[0].numbers))
    found = {entry.name: (len(entry.shape), *entry.shape[1:2]) for entry in session.get_inputs()}
    if found != wanted:
        raise CheckpointError(
            f"`{name}` contradicts itself: its metadata promises the inputs {wanted}, and its "
            f"graph has {found} (number of axes, channels)."
        )
