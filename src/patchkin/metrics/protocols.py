"""Protocols: everything that a distance between two sets of images depends on, under one name.

The same outputs differ by several points of FID between two resize filters. A result therefore
carries its protocol in full (`config.to_plain`), and two results are comparable if these agree.

An image passes these steps: bring it to `image_size` in 8 bits with Pillow, as the projects do when
they load real images and when they save outputs; then to `input_size` for the network.

Shape suffixes: C channels, H and W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as nnf
from PIL import Image
from torch import Tensor

from patchkin.data.layouts import Domains
from patchkin.data.transforms import Filter, resized
from patchkin.errors import ConfigError, DataError, nearest
from patchkin.images import Picture, Rounding, ValueRange, to_tensor, to_uint8
from patchkin.metrics.extractors import Extractor

InputFilter: TypeAlias = Literal["torch-bilinear", "pillow-bilinear", "pillow-bicubic-float"]
RealImages: TypeAlias = Literal["test", "train", "train+test"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """How images become features, and which images."""

    name: str
    image_size: int | None = 256
    """Height and width that real images and outputs are brought to; None: as they are."""
    image_filter: Filter = "bicubic"
    """Of that step; Pillow, 8 bits."""
    input_size: int | None = 299
    """Height and width of the network's input; None: as they are. Then all images need one size."""
    input_filter: InputFilter = "torch-bilinear"
    """`torch-bilinear`: float, between pixel centres, not antialiased. `pillow-bilinear`: 8 bits,
    antialiased. `pillow-bicubic-float`: Pillow per channel in float, antialiased, clipped to
    0..255."""
    file_format: Literal["png"] = "png"
    """What outputs go through before they are scored: 8 bits, without loss."""
    rounding: Rounding = "released"
    """Of outputs to 8 bits; see `images.to_uint8`."""
    real: RealImages = "test"
    """Images of the target domain that outputs are compared with, sorted by path."""
    real_limit: int | None = None
    """The first so many of them; None: all."""
    outputs_per_input: int = 1
    """Outputs made of each test image of the source domain."""
    kernel_subsets: int = 0
    """Random subsets for the kernel distance; 0: all images at once, without randomness."""
    kernel_subset_size: int = 1000
    """At most the smaller set."""
    seed: int = 0
    """Of the subsets, and of the styles of a multi-modal model."""
    extractor: str
    """A name of `extractors.EXTRACTORS`, or of an injected one."""
    extractor_sha256: str = ""
    """Of its weights; filled in by `with_extractor`."""

    def __post_init__(self) -> None:
        for name in ("image_size", "input_size", "real_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"`{name}` of a protocol must be positive; got {value}.")
        if self.outputs_per_input < 1 or self.kernel_subset_size < 2 or self.kernel_subsets < 0:
            raise ConfigError(
                "A protocol needs `outputs_per_input` >= 1, `kernel_subset_size` >= 2 and "
                f"`kernel_subsets` >= 0; got {self.outputs_per_input}, {self.kernel_subset_size} "
                f"and {self.kernel_subsets}."
            )

    def with_extractor(self, extractor: Extractor) -> Protocol:
        """The protocol with the hash of the weights that are really used.

        Raises:
            ConfigError: the protocol names another extractor, or other weights.
        """
        if extractor.name != self.extractor:
            raise ConfigError(
                f"Protocol `{self.name}` is defined with the extractor `{self.extractor}`; got "
                f"`{extractor.name}`. Give the result another name: replace `name` and `extractor`."
            )
        if self.extractor_sha256 not in ("", extractor.sha256):
            raise ConfigError(
                f"Protocol `{self.name}` is bound to weights of `{self.extractor}` with sha256 "
                f"{self.extractor_sha256[:12]}; got {extractor.sha256[:12]}."
            )
        return replace(self, extractor_sha256=extractor.sha256)

    def real_files(self, domains: Domains) -> tuple[Path, ...]:
        """The real images of the target domain (B).

        Raises:
            DataError: if there are none.
        """
        splits = {"train": domains.train_b, "test": domains.test_b}
        # Once each: of two folders, training and test images are the same.
        files = tuple(
            dict.fromkeys(path for split in self.real.split("+") for path in splits[split])
        )
        if not files:
            raise DataError(
                f"Protocol `{self.name}` compares with the {self.real} images of domain B, and "
                "there are none; add the folder testB, or choose another protocol."
            )
        return files[: self.real_limit]

    def prepare(self, picture: Picture, value_range: ValueRange | None = None) -> Tensor:
        """The network's input, [3, H, W], levels 0 to 255: uint8 or float32.

        Args:
            picture: of `images.read_image` with 3 channels.
            value_range: what becomes 0 and 255, see `images.to_tensor`.

        Raises:
            DataError: values of a type that needs a `value_range`, see `images.to_tensor`.
        """
        if isinstance(picture.pixels, Image.Image):
            return self._prepare(picture.pixels.convert("RGB"))
        return self.prepare_output(to_tensor(picture, value_range))

    def prepare_output(self, image_CHW: Tensor) -> Tensor:
        """As `prepare`, of an output in [-1, 1] with 1 or 3 channels, as if saved and read again.

        Raises:
            DataError: another number of channels, or values that are not finite.
        """
        if image_CHW.ndim != 3 or image_CHW.shape[0] not in (1, 3):
            raise DataError(
                f"Protocol `{self.name}` scores images with 1 or 3 channels; got "
                f"{tuple(image_CHW.shape)}. Choose the channels to score."
            )
        if not image_CHW.isfinite().all():
            raise DataError("an output holds NaN or infinity; did the training diverge?")
        array_HWC = to_uint8(image_CHW.cpu(), self.rounding).expand(3, -1, -1).permute(1, 2, 0)
        return self._prepare(Image.fromarray(array_HWC.contiguous().numpy()))

    def _prepare(self, image: Image.Image) -> Tensor:
        if self.image_size is not None:
            image = _pillow_resized(image, self.image_size, self.image_filter)
        if self.input_size is None or image.size == (self.input_size, self.input_size):
            return _levels(image)
        if self.input_filter == "pillow-bilinear":
            return _levels(_pillow_resized(image, self.input_size, "bilinear"))
        side = (self.input_size, self.input_size)
        if self.input_filter == "pillow-bicubic-float":
            bands = [
                band.convert("F").resize(side, Image.Resampling.BICUBIC) for band in image.split()
            ]
            return torch.from_numpy(np.stack([np.asarray(band) for band in bands])).clamp(0, 255)
        levels_BCHW = _levels(image).float()[None]
        return nnf.interpolate(levels_BCHW, side, mode="bilinear", align_corners=False)[0]


def _pillow_resized(image: Image.Image, size: int, resize_filter: Filter) -> Image.Image:
    pixels = resized(image, size, size, resize_filter)
    assert isinstance(pixels, Image.Image)
    return pixels


def _levels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # CUT and most papers on these sets: outputs of testA against testB, both at 256, by
        # pytorch-fid with its defaults.
        Protocol(name="pytorch-fid", extractor="inception-v3-pytorch-fid"),
        # clean-fid (Parmar et al. 2022): antialiased, unrounded resize.
        Protocol(
            name="clean",
            input_filter="pillow-bicubic-float",
            kernel_subsets=100,
            extractor="inception-v3-compat",
        ),
        # Li et al. 2020: pytorch-fid against train and test images together, hence another scale.
        Protocol(name="gan-compression", real="train+test", extractor="inception-v3-pytorch-fid"),
        # Choi et al. 2020: 10 outputs per test image against the training images.
        Protocol(
            name="stargan-v2",
            image_filter="bilinear",
            input_filter="pillow-bilinear",
            rounding="nearest",
            real="train",
            outputs_per_input=10,
            extractor="torchvision-inception-v3",
        ),
        # No Inception needed: what a classifier sees at its training size ...
        Protocol(
            name="squeezenet-224",
            image_size=None,
            input_size=224,
            input_filter="pillow-bilinear",
            extractor="torchvision-squeezenet1_1",
        ),
        # ... and distances at the size of the images.
        Protocol(
            name="squeezenet-256",
            input_size=None,
            extractor="torchvision-squeezenet1_1",
        ),
    )
}


def find_protocol(name: str) -> Protocol:
    """A protocol by name.

    Raises:
        ConfigError: an unknown name; the nearest is offered.

    >>> find_protocol("pytorch-fd")
    Traceback (most recent call last):
    patchkin.errors.ConfigError: Unknown protocol `pytorch-fd`. Did you mean `pytorch-fid`?
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"Unknown protocol `{name}`. {nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]
