"""The step of a view that may be taken before an image is stored."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from patchkin.data.config import DataConfig
from patchkin.data.transforms import loaded_size, resized
from patchkin.sides import Sides


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstStep:
    """The step of `transforms.view` that draws nothing, and may be taken before storing.

    >>> step = FirstStep(preprocess="resize_and_crop", crop_size=64, load_sizes=(72, 64))
    >>> sorted(step.forms(Image.new("L", (640, 480))))
    [64, 72]
    >>> list(step.forms(Image.new("L", (80, 80))))
    [None]
    """

    preprocess: str
    crop_size: Sides
    load_sizes: tuple[Sides, ...]
    """All that the run will ask for."""
    side_by_side: bool = False
    """Whether a picture is two, left and right, that are resized apart."""

    def forms(self, image: Image.Image) -> dict[Sides | None, Image.Image]:
        """What to store, by load size: the results if they are smaller, else the image itself."""
        width, height = image.size
        parts = [(0, width)]
        if self.side_by_side:
            parts = [(0, width // 2), (width - width // 2, width)]
        right = parts[0][1]
        if right == 0:
            return {None: image}
        sizes = {
            load_size: loaded_size(
                (right, height),
                preprocess=self.preprocess,
                load_size=load_size,
                crop_size=self.crop_size,
            )
            for load_size in self.load_sizes
        }
        if len(parts) * sum(w * h for w, h in sizes.values()) >= width * height:
            return {None: image}
        return {size: self._resized(image, parts, *sizes[size]) for size in sizes}

    @staticmethod
    def _resized(
        image: Image.Image, parts: list[tuple[int, int]], width: int, height: int
    ) -> Image.Image:
        result = Image.new(image.mode, (len(parts) * width, height))
        for place, (left, right) in enumerate(parts):
            part = resized(image.crop((left, 0, right, image.height)), width, height)
            assert isinstance(part, Image.Image)
            result.paste(part, (place * width, 0))
        return result


def first_step_of(config: DataConfig, *, side_by_side: bool) -> FirstStep | None:
    """The first step of the views of a configuration, or None if it draws something.

    >>> first_step_of(DataConfig(size=64, load_size=72), side_by_side=False).load_sizes
    (72, 64)
    >>> first_step_of(DataConfig(preprocess="crop"), side_by_side=False) is None
    True
    """
    steps = config.preprocess.split("_and_")
    if not {"resize", "scale_width", "shortside"} & set(steps):
        return None
    load_sizes = [config.resolved_load_size]
    if not config.jitter_in_decay:
        load_sizes.append(config.size)
    return FirstStep(
        preprocess=config.preprocess,
        crop_size=config.size,
        load_sizes=tuple(dict.fromkeys(load_sizes)),
        side_by_side=side_by_side,
    )
