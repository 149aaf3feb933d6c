"""Settings of the data: where it is, and how a picture becomes a training view."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from patchkin.config import flag
from patchkin.errors import ConfigError
from patchkin.sides import Sides, height_width, simplest

Preprocess: TypeAlias = Literal[
    "resize_and_crop",
    "crop",
    "scale_width",
    "scale_width_and_crop",
    "scale_shortside_and_crop",
    "shortside_and_crop",
    "zoom_and_crop",
    "zoom_and_patch",
    "none",
]
SIDE_MULTIPLE = 4
"""Sides of every view are multiples of this: generators halve the size twice and double it."""
_CROPPED_AFTER_LOADING = (
    "resize_and_crop",
    "scale_shortside_and_crop",
    "shortside_and_crop",
)
AUTO = "auto"
"""The cache of decoded images in its default place."""


def _folder_of_flag(words: list[str]) -> str | None:
    """What follows `--cache`: nothing, a folder, or None."""
    if len(words) > 1:
        raise ValueError(f"expected at most one folder; got {' '.join(words)}")
    word = words[0] if words else AUTO
    return None if word == "None" else word


def _optional_folder() -> Any:
    from tyro.constructors import PrimitiveConstructorSpec  # as in `config.flag`

    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="[DIR]",
        instance_from_str=_folder_of_flag,
        is_instance=lambda value: value is None or isinstance(value, str),
        str_from_instance=lambda value: [str(value)],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Where the images are and how views are made. Defaults are those of CycleGAN and CUT."""

    root: Annotated[str, flag("--data")] = "toy"
    """Folder with trainA and trainB (or, for methods of several domains, train/<domain>), or
    `toy`: the built-in set (`./toy` is a folder of yours)."""
    source: str | None = None
    """Folder of the images to translate (or one image, with `preprocess` zoom_and_patch); with
    `target` it replaces `root`."""
    target: str | None = None
    """Folder of the images to resemble (or one image)."""
    direction: Annotated[Literal["AtoB", "BtoA"], flag("--direction")] = "AtoB"
    """Which domain is translated into which. A batch's `a` is always the source."""
    size: Annotated[Sides, flag("--size")] = 256
    """Side of a training view in pixels, or its height and width (CUT: `crop_size` 256); multiples
    of 4."""
    load_size: Sides | None = None
    """Size before the crop; by default size * 286 / 256, CUT's ratio."""
    preprocess: Preprocess = "resize_and_crop"
    """Steps from picture to view (CUT's names). `crop` alone keeps the pixels as they are.
    `scale_shortside` only enlarges, as CUT's does; `shortside` also shrinks, as MUNIT's does.
    `zoom_and_patch` (SinCUT) is enough for one image per domain: views are crops of it at many
    scales. Of several images it takes a patch of each."""
    max_reduction: float = 3.0
    """Crops of a single image are taken from the image made smaller by up to this factor, drawn for
    width and height apart (SinCUT: `random_scale_max` 3)."""
    crops_per_epoch: int = 100_000
    """Crops of a single image that count as an epoch (SinCUT)."""
    flip: bool = True
    """Mirror left and right with probability one half."""
    crop_probability: float = 0.5
    """How often a view shows 80 to 100 % of the picture instead of all (StarGAN v2). Only with
    several domains, where it takes the place of `preprocess` and `load_size`."""
    jitter_in_decay: bool = False
    """Go on scaling and cropping once the learning rate falls. CUT's code does not: `load_size`
    becomes `size` there."""
    pairing: Literal["random", "serial"] = "random"
    """`random` draws a target image for every source image; `serial` takes both in order."""
    batch_size: Annotated[int, flag("--batch-size")] = 1
    """Images per step and process (CUT: 1, its authors' advice)."""
    workers: Annotated[int, flag("--workers")] = 2
    """Processes that decode images; 0 decodes in the training process. No effect on the images."""
    cache: Annotated[str | None, flag("--cache"), _optional_folder()] = None
    """Decode every image once into a file that all processes and later runs map into memory.
    `--cache` alone (`auto`) puts it below the user's cache folder, `--cache DIR` into DIR. No
    effect on the images. One image per domain is in memory anyway."""
    value_range: tuple[float, float] | None = None
    """Values that become -1 and 1 in files of more than 8 bits (12 bits: 0 4095; CT: -1000 3000).
    By default 0 and 65535 in uint16, and 0 and 1 in floats; int16, int32 and uint32 need it. The
    model keeps it, for what it reads and for what it writes."""
    value_range_a: tuple[float, float] | None = None
    """Instead of `value_range`, in the files of domain A (trainA, `source`, left halves)."""
    value_range_b: tuple[float, float] | None = None
    """Instead of `value_range`, in the files of domain B (trainB, `target`, right halves)."""
    validation_images: int = 32
    """Images per domain held out of training for scores during training, chosen by the seed, where
    the set has no val split and scores are asked for (`--score-every`). At most a quarter. A run
    with and one without such scores therefore train on different images."""
    max_images: int | None = None
    """Use only the first so many training images of a domain, in the order of their names."""
    max_pixels: Annotated[int | None, flag("--max-pixels")] = None
    """Pixels that an image may have; unless given, Pillow's limit, 178,956,970."""
    max_broken: Annotated[float, flag("--max-broken")] = 0.01
    """Share of a domain's training images that may be unusable and are left out; above it training
    does not start, since then something is wrong with the folder."""

    def __post_init__(self) -> None:
        if (self.source is None) != (self.target is None):
            raise ConfigError("`source` and `target` go together; give both folders, or `root`.")
        for side in height_width(self.size):
            if side < SIDE_MULTIPLE or side % SIDE_MULTIPLE:
                raise ConfigError(f"`size` must be a multiple of {SIDE_MULTIPLE}; got {side}.")
        for name in ("size", "load_size"):  # two equal numbers are one
            sides = getattr(self, name)
            if sides is not None:
                object.__setattr__(self, name, simplest(*height_width(sides)))
        loaded = height_width(self.resolved_load_size)
        smaller = any(load < side for load, side in zip(loaded, self.height_width, strict=True))
        if smaller and self.preprocess in _CROPPED_AFTER_LOADING:
            raise ConfigError(
                f"`load_size` ({self.load_size}) must be at least `size` ({self.size}): "
                "views are cropped from the loaded image."
            )
        for name, least in (
            ("batch_size", 1),
            ("workers", 0),
            ("validation_images", 2),
            ("max_reduction", 1),
            ("crops_per_epoch", 1),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"`{name}` must be at least {least}; got {getattr(self, name)}.")
        for name, value in (
            ("load_size", min(loaded)),
            ("max_images", self.max_images),
            ("max_pixels", self.max_pixels),
        ):
            if value is not None and value < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if self.cache == "":
            raise ConfigError("`cache` must name a folder, or be `auto`; got an empty name.")
        for name in ("crop_probability", "max_broken"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"`{name}` must be from 0 to 1; got {getattr(self, name)}.")
        for name in ("value_range", "value_range_a", "value_range_b"):
            values = getattr(self, name)
            if values is not None and not -math.inf < values[0] < values[1] < math.inf:
                raise ConfigError(f"`{name}` must be low, then high; got {values}.")

    @property
    def height_width(self) -> tuple[int, int]:
        """Of a view."""
        return height_width(self.size)

    @property
    def resolved_load_size(self) -> Sides:
        """`load_size`, or its default.

        >>> DataConfig().resolved_load_size, DataConfig(size=(128, 256)).resolved_load_size
        (286, (143, 286))
        """
        if self.load_size is not None:
            return self.load_size
        height, width = (round(side * 286 / 256) for side in self.height_width)
        return simplest(height, width)

    @property
    def value_ranges(self) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
        """Of the source and the target domain.

        >>> DataConfig(value_range=(0, 4095), value_range_b=(0, 1), direction="BtoA").value_ranges
        ((0, 1), (0, 4095))
        """
        a = self.value_range_a or self.value_range
        b = self.value_range_b or self.value_range
        return (a, b) if self.direction == "AtoB" else (b, a)

    @property
    def crops_single_images(self) -> bool:
        """Whether one image per domain is enough, because crops of it stand for the domain."""
        return self.preprocess == "zoom_and_patch"
