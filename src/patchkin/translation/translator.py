"""Translate images with a trained model. Imports no training code."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast, overload

import torch
import torch.nn.functional as nnf
from torch import Tensor

from patchkin.compression import COMPRESSED_METHODS
from patchkin.devices import Device, Precision, autocast_dtype, choose_device
from patchkin.errors import ConfigError
from patchkin.images import Array, Encoding, Picture, Ranges, declared_ranges, read_image, to_tensor
from patchkin.method import Direction, Method, StyledMethod, translating_mode
from patchkin.methods import known_methods
from patchkin.networks.cpu.layout import lay_out
from patchkin.randomness import Draws
from patchkin.storage.checkpoint import ModelHeader, find_model, open_model
from patchkin.storage.hub import PREFIX, push_folder
from patchkin.translation.enlarging import enlarged, jointly_enlarged, reduced
from patchkin.translation.given import check_styles, check_tensor, given_image
from patchkin.translation.loading import load_method
from patchkin.translation.onnx_file import OnnxTranslator, is_onnx, least_side
from patchkin.translation.pretrained import save_pretrained
from patchkin.translation.resizing import Resizing
from patchkin.translation.scale import training_size


class Translator:
    """A trained model that takes images of any size.

    >>> from patchkin.methods.cut import Cut, CutConfig
    >>> from patchkin.networks import ResNetConfig
    >>> small = Cut(CutConfig(generator=ResNetConfig(ngf=4, blocks=6)))
    >>> translator = Translator(small)
    >>> translator(torch.zeros(1, 3, 33, 50)).shape
    torch.Size([1, 3, 33, 50])
    >>> import numpy as np
    >>> translator(np.zeros((33, 50, 3), np.uint8)).dtype
    dtype('uint8')

    Several threads may call one that was loaded: its networks stay in evaluation mode, and calls
    change nothing in them. One for a method at hand, which may be in training, sets the method's
    mode for each call and takes one call at a time.
    """

    def __init__(
        self,
        method: Method,
        *,
        header: ModelHeader | None = None,
        value_ranges: Ranges | None = None,
        direction: Direction = "AtoB",
        device: Device | torch.device = "auto",
        precision: Precision = "32-true",
        resizing: Resizing | None = None,
        owned: bool = False,
    ) -> None:
        """For a method at hand; see `load` for one in a file.

        Args:
            method: whose networks translate.
            header: of its file.
            value_ranges: of the images from A to B; those of the header unless given.
            direction: BtoA for the way back of a method that has one.
            device: where to compute.
            precision: of the networks.
            resizing: of images that are larger than the model should see.
            owned: nobody else uses the method, so that its weights may be laid out for speed, and
                its networks stay in evaluation mode.
        """
        if direction not in method.directions:
            raise ConfigError(
                f"`{method.name}` translates {' and '.join(method.directions)} only; got "
                f"--direction {direction}."
            )
        self.method = method
        self.header = header
        self.file: Path | None = None
        """That it was loaded from."""
        self.weights: Literal["averaged", "live"] = "live"
        """Which of the weights in that file it uses."""
        self.precision = precision
        self.resizing = resizing
        self.direction = direction
        self.domains: tuple[str, ...] = tuple(header.encoding.get("domains", ())) if header else ()
        """Names of the target domains, where there are several and the model knows them."""
        ranges = value_ranges or declared_ranges(header.encoding if header else {})
        self.value_ranges = ranges if direction == "AtoB" else ranges[::-1]
        """Of the images it takes, and of those it gives, in files of more than 8 bits."""
        self.device = device if isinstance(device, torch.device) else choose_device(device)
        self.dtype = autocast_dtype(precision, self.device)
        """That networks compute in; None for that of the weights."""
        self.method.to(self.device)
        self._layout = torch.contiguous_format
        self._one_at_a_time = None if owned else threading.RLock()
        if owned:
            self.method.eval()
            lay_out(self.method, self.device)
        if owned and self.dtype is not None:  # 16-bit convolutions reorder any other layout
            self._layout = torch.channels_last
            self.method.to(memory_format=self._layout)

    @property
    def is_owned(self) -> bool:
        """Whether several threads may be inside of it at once."""
        return self._one_at_a_time is None

    @property
    def channels(self) -> tuple[int, int]:
        """Of the images it takes, and of those it gives."""
        source, target = self.method.channels
        return (source, target) if self.direction == "AtoB" else (target, source)

    @classmethod
    def load(
        cls,
        model: Path | str,
        *,
        methods: Mapping[str, type[Method]] | None = None,
        which: Literal["last", "best"] = "last",
        weights: Literal["averaged", "live"] = "averaged",
        complete: bool = False,
        value_ranges: Ranges | None = None,
        direction: Direction = "AtoB",
        device: Device = "auto",
        precision: Precision = "32-true",
        resizing: Resizing | None = None,
    ) -> Translator:
        """A translator from a run folder, a checkpoint folder, a model file or a shipped model.

        A .onnx file of `patchkin export` gives an `OnnxTranslator`: it is called in the same way,
        and has no `method`.

        Args:
            model: where it is, or the name of a shipped one.
            methods: known methods by name; those of patchkin and of plug-ins unless given.
            which: the checkpoint of a run folder to take.
            weights: averaged weights where there are any, or the live ones.
            complete: also load what `translate` does not use, such as a projection head. A network
                that was not loaded, or that the file has nothing of (an imported model may lack
                some), is an error when it is used.
            value_ranges: of the images from A to B; those that the model declares unless given.
            direction: BtoA for the way back of a method that has one.
            device: where to compute.
            precision: of the networks.
            resizing: of images that are larger than the model should see.

        Raises:
            CheckpointError: nothing is there, or it does not fit its own header.
            ConfigError: the method does not translate in this direction, or a .onnx file was
                exported for another use.
        """
        if is_onnx(model):
            exported = OnnxTranslator.load(
                model,
                which=which,
                weights=weights,
                complete=complete,
                value_ranges=value_ranges,
                direction=direction,
                device=device,
                precision=precision,
                resizing=resizing,
            )
            return cast(Translator, exported)
        path = find_model(Path(model), which=which)
        known = {**COMPRESSED_METHODS, **(methods or known_methods())}
        with open_model(path) as file:
            method, used = load_method(file, known, weights=weights, complete=complete)
            header = file.header
        translator = cls(
            method,
            header=header,
            value_ranges=value_ranges,
            direction=direction,
            device=device,
            precision=precision,
            resizing=resizing,
            owned=True,
        )
        translator.file, translator.weights = path, used
        return translator

    # The Hub

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, revision: str | None = None, **options: Any
    ) -> Translator:
        """A translator from the Hugging Face Hub (`patchkin[hub]`), or from a folder.

        Args:
            name: OWNER/NAME (`hf:` before it may stay), or a folder of `save_pretrained`.
            revision: branch, tag or commit; the newest unless given.
            options: of `load`.

        Raises:
            DownloadError: there is no such model, or no network.
            CheckpointError: it is no model of patchkin.
        """
        if Path(name).is_dir():
            return cls.load(name, **options)
        at = f"@{revision}" if revision else ""
        return cls.load(f"{PREFIX}{str(name).removeprefix(PREFIX)}{at}", **options)

    def save_pretrained(
        self, folder: Path | str, *, card: str | None = None, pictures: Mapping[str, Path] = {}
    ) -> None:
        """Write a model file of the networks that translate, and a model card.

        Args:
            folder: made if it is not there.
            card: README.md; a short one unless given.
            pictures: name in the folder -> file.

        Raises:
            StorageError: it cannot be written.
        """
        save_pretrained(self.method, self.header, Path(folder), card=card, pictures=pictures)

    def push_to_hub(
        self,
        name: str,
        *,
        card: str | None = None,
        pictures: Mapping[str, Path] = {},
        private: bool = False,
        token: str | None = None,
    ) -> str:
        """Put what `save_pretrained` writes on the Hub, in one commit; returns where it is.

        Raises:
            DownloadError: it is refused, or there is no network.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, card=card, pictures=pictures)
            return push_folder(Path(folder), name, private=private, token=token)

    @overload
    def __call__(self, image: Tensor, styles_BS: Tensor | None = None) -> Tensor: ...

    @overload
    def __call__(self, image: Any, styles_BS: Tensor | None = None) -> Any: ...

    def __call__(self, image: Any, styles_BS: Tensor | None = None) -> Any:
        """Translate an image of any height and width, or several; see `translation.given`.

        They are padded by reflection to what the network takes and cropped back. Those that
        `resizing` makes smaller are put back as it says.

        Args:
            image: a path, a Pillow image, an array [H, W] or [H, W, C], a tensor [C, H, W] or
                [B, C, H, W] in [-1, 1] on any device, or a list of these.
            styles_BS: for methods whose translations have a style, one for each image.

        Returns:
            The same kind: tensors in [-1, 1] on the translator's device, arrays and Pillow images
            in the levels of what was given. For a path a Pillow image, or an array where Pillow has
            no mode for it. Outputs have the channels of the model.

        Raises:
            ShapeError: an array or a tensor of another shape.
            DataError: another kind of thing, or an image that cannot be read or does not fit.

        >>> from patchkin.methods.cut import Cut, CutConfig
        >>> from patchkin.networks import ResNetConfig
        >>> translator = Translator(Cut(CutConfig(generator=ResNetConfig(ngf=4, blocks=6))))
        >>> import numpy as np
        >>> from PIL import Image
        >>> grey, colour = translator([np.zeros((40, 40)), Image.new("RGB", (40, 50))])
        >>> grey.shape, grey.dtype, colour.size
        ((40, 40, 3), dtype('float64'), (40, 50))
        """
        if isinstance(image, (list, tuple)):
            if styles_BS is None:
                return [self(each) for each in image]
            check_styles(styles_BS, len(image))
            return [self(each, s_S[None]) for each, s_S in zip(image, styles_BS, strict=True)]
        if isinstance(image, Tensor):
            check_tensor(
                tuple(image.shape),
                self.channels[0],
                is_float=image.is_floating_point(),
                dtype=image.dtype,
            )
            x_BCHW = image if image.ndim == 4 else image[None]
            y_BCHW = self._of_tensors(x_BCHW, styles_BS).to(image.dtype)
            return y_BCHW if image.ndim == 4 else y_BCHW[0]
        given = given_image(image, channels=self.channels[0], value_ranges=self.value_ranges)
        y_BCHW = self._of_tensors(torch.from_numpy(given.values_CHW)[None], styles_BS)
        return given.back(y_BCHW[0].cpu().numpy())

    def _of_tensors(self, x_BCHW: Tensor, styles_BS: Tensor | None) -> Tensor:
        x_BCHW = x_BCHW.to(self._weight_dtype())
        resizing, size = self.resizing, (x_BCHW.shape[-2], x_BCHW.shape[-1])
        if resizing is None or min(size) <= resizing.side:
            return self._at_own_size(x_BCHW, styles_BS)
        large_BCHW = x_BCHW.to(self.device)
        small_BCHW = reduced(large_BCHW, resizing.side)
        y_BCHW = self._at_own_size(small_BCHW, styles_BS)
        if resizing.enlarging == "plain":
            return enlarged(y_BCHW, size)
        return jointly_enlarged(y_BCHW, small_BCHW, large_BCHW)

    def arrays(self, x_BCHW: Array, styles_BS: Array | None = None) -> Array:
        """As a call, with arrays."""
        styles = None if styles_BS is None else torch.from_numpy(styles_BS)
        y_BCHW: Array = self(torch.from_numpy(x_BCHW), styles).cpu().numpy()
        return y_BCHW

    @property
    def method_name(self) -> str:
        """Of the method."""
        return self.method.name

    @property
    def tiling(self) -> Literal["supported", "discouraged", "internal"]:
        """Whether the parts of an image may be translated apart; see `Method.tiling`."""
        return self.method.tiling

    @property
    def smallest(self) -> int:
        """Shortest side that its networks compute; what is shorter is padded to it."""
        return least_side(self.method.min_size, self.method.multiple_of)

    @property
    def has_styles(self) -> bool:
        """Whether its translations have a style."""
        return isinstance(self.method, StyledMethod)

    @property
    def num_domains(self) -> int:
        """Target domains to choose from."""
        return self.method.num_domains if isinstance(self.method, StyledMethod) else 1

    @property
    def step(self) -> int | None:
        """Of its training, as far as its file says."""
        return None if self.header is None else self.header.step

    @property
    def training_size(self) -> tuple[int, int] | None:
        """Width and height that a whole image had in training, as far as its file says."""
        return None if self.header is None else training_size(self.header, self.direction)

    def _at_own_size(self, x_BCHW: Tensor, styles_BS: Tensor | None) -> Tensor:
        height, width = x_BCHW.shape[-2:]
        padded = pad_to(
            x_BCHW.to(self.device), self.method.multiple_of, minimum=self.method.min_size
        )
        with self._computing():
            y_BCHW = self._translate(padded.contiguous(memory_format=self._layout), styles_BS)
        return y_BCHW.float()[..., :height, :width]

    def _weight_dtype(self) -> torch.dtype:
        parameters = self.method.parameters()
        return next((p.dtype for p in parameters if p.is_floating_point()), torch.float32)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        autocast = torch.autocast(
            self.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None
        )
        if self._one_at_a_time is None:  # in evaluation mode since it was made
            with torch.no_grad(), autocast:
                yield
            return
        with self._one_at_a_time, translating_mode(self.method), autocast:
            yield

    def _translate(self, x_BCHW: Tensor, styles_BS: Tensor | None) -> Tensor:
        if isinstance(self.method, StyledMethod):
            if styles_BS is not None:
                styles_BS = styles_BS.to(self.device)
            return self.method.translate(x_BCHW, styles_BS=styles_BS, direction=self.direction)
        if self.direction == "AtoB":
            return self.method.translate(x_BCHW)
        # Only methods with both directions take the argument; `__init__` has made sure.
        return self.method.translate(x_BCHW, direction=self.direction)  # type: ignore[call-arg]

    # Styles

    @property
    def styled(self) -> StyledMethod:
        """The method, whose translations have a style.

        Raises:
            ConfigError: they have none.
        """
        if not isinstance(self.method, StyledMethod):
            raise ConfigError(
                f"The method `{self.method.name}` gives one translation per image: it has no "
                "domains, samples or references to choose from."
            )
        return self.method

    def latent_styles(self, draws: Draws, *, count: int, domain: int = 0) -> Tensor:
        """Random styles of a domain, [count, S], on the CPU.

        Raises:
            ConfigError: the method has no styles.
        """
        with self._computing():
            styles_BS = self.styled.latent_styles(
                draws, count=count, domain=domain, direction=self.direction
            )
        return styles_BS.float().cpu()

    def reference_styles(self, reference_BCHW: Tensor, *, domain: int = 0) -> Tensor:
        """The styles of images of a domain, [B, S], on the CPU.

        Args:
            reference_BCHW: in [-1, 1]; brought to the size that the model was trained at, because
                a style encoder knows no other.
            domain: which they belong to.

        Raises:
            ConfigError: the method has no styles.
        """
        if self.header is not None:
            sides = self.header.height_width
            if reference_BCHW.shape[-2:] != sides:
                reference_BCHW = nnf.interpolate(
                    reference_BCHW, sides, mode="bilinear", align_corners=False, antialias=True
                )
        with self._computing():
            styles_BS = self.styled.reference_styles(
                reference_BCHW.to(self.device), domain=domain, direction=self.direction
            )
        return styles_BS.float().cpu()

    def read(
        self,
        source: Path,
        *,
        channels: int | None = None,
        like: Literal["input", "output"] = "input",
    ) -> tuple[Tensor, Encoding]:
        """As `read_picture`, of which only the encoding is given."""
        image_CHW, picture = self.read_picture(source, channels=channels, like=like)
        return image_CHW, picture.encoding

    def read_picture(
        self,
        source: Path,
        *,
        channels: int | None = None,
        like: Literal["input", "output"] = "input",
    ) -> tuple[Tensor, Picture]:
        """A file as the model takes it, [C, H, W] in [-1, 1], and as it is decoded.

        Args:
            source: the file, or a page of it (`images.pages`).
            channels: those of the images that the model takes, unless given.
            like: whether it is of the domain of the model's inputs or of its outputs.

        Raises:
            DataError: it cannot be read, or has channels that the model does not take.
        """
        side = 0 if like == "input" else 1
        picture = read_image(source, self.channels[side] if channels is None else channels)
        return to_tensor(picture, self.value_ranges[side]), picture


def pad_to(x_BCHW: Tensor, multiple: int, *, minimum: int = 1) -> Tensor:
    """Images padded at the bottom and right to multiples of `multiple`, at least `minimum`.

    By reflection; a side too short to reflect that far repeats its border instead.

    >>> pad_to(torch.arange(5.0).view(1, 1, 1, 5), 4)[0, 0, 0]
    tensor([0., 1., 2., 3., 4., 3., 2., 1.])
    """
    for axis in (-1, -2):
        length = x_BCHW.shape[axis]
        target = max(-(-length // multiple), -(-minimum // multiple)) * multiple
        extra = target - length
        if extra == 0:
            continue
        padding = (0, extra, 0, 0) if axis == -1 else (0, 0, 0, extra)
        x_BCHW = nnf.pad(x_BCHW, padding, mode="reflect" if extra < length else "replicate")
    return x_BCHW
