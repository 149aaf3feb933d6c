"""The second toy world, in which it can be confused what the stripes belong to.

As in the first (`data.toy`), domain A shows an animal with a plain coat and domain B one with
stripes. But its ground is cluttered, an animal of another kind stands beside it that is plain in
both domains, and so do a fence, trunks and barrels, of which many are striped in domain B: a method
that learns that B has stripes, and not where, puts them everywhere. Held-out A images have the
companions of the first world, and more, which tell the confusions apart:

    testA_masks testA_true     the animal, and the same scene with its stripes, all else as it was
    testA_bystander            white where a pixel belongs to the animal of the other kind
    testA_things               white where it belongs to fence, trunks or barrels
    testA_confused             the same scene with these striped, and the animal plain
    testA_empty                the same scene without the animal

What they are for is in `metrics.confusion`. Lengths are shares of the canvas; x to the right, y
down. Shape suffixes: H and W pixels of the supersampled canvas; a last C is colour channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from patchkin.data import toy
from patchkin.data.toy import Animal, Array, Capsule, Coat, Colour
from patchkin.errors import ConfigError

Companion: TypeAlias = Literal["masks", "true", "bystander", "things", "confused", "empty"]
COMPANIONS: tuple[Companion, ...] = ("masks", "true", "bystander", "things", "confused", "empty")
"""Folders beside one of held-out images of domain A."""
_STRIPED_SHARE = 0.6
"""Of the things of domain B."""
_STRIPE = 0.034
"""Width of a board or band; a stripe of the animal has about as much."""


class FarmScene:
    """A horse, a hog and things, to be shown with any of them striped.

    Args:
        size: side in pixels, 64 to 256.
        seed: decides everything.

    Raises:
        ConfigError: if the size is out of range.

    >>> FarmScene(64, seed=0).shown(striped=True).size
    (64, 64)
    """

    def __init__(self, size: int, seed: int) -> None:
        if not toy.MIN_SIZE <= size <= toy.MAX_SIZE:
            raise ConfigError(
                f"Toy images have {toy.MIN_SIZE} to {toy.MAX_SIZE} pixels; got {size}."
            )
        rng = np.random.default_rng(seed)
        self._size, canvas = size, size * toy._SUPERSAMPLING
        ground, horizon, self._light = _ground(rng, canvas)
        self._things = _things(rng, horizon)
        self._in_target = [bool(rng.uniform() < _STRIPED_SHARE) for _ in self._things]
        self._horse, self._hog = _placed(rng, toy._animal(rng), _hog(rng))
        self._horse_layers = toy._layers(self._horse, canvas)
        self._hog_layers = toy._layers(self._hog, canvas)
        self._plain, self._striped = toy._plain_coat(rng), toy._striped_coat(rng)
        self._hog_coat = _hog_coat(rng)
        self._ground = ground

    def shown(self, *, striped: bool) -> Image.Image:
        """An image of domain A, or of domain B, where some of the things are striped too."""
        things = self._in_target if striped else [False] * len(self._things)
        return self._rendered(self._striped if striped else self._plain, things)

    def truth(self) -> Image.Image:
        """What a translation of the image of domain A should be: the animal alone is striped."""
        return self._rendered(self._striped, [False] * len(self._things))

    def confused(self) -> Image.Image:
        """What it should not be: all is striped but the animal."""
        hog = replace(self._striped, base=self._hog_coat.base)
        return self._rendered(self._plain, [True] * len(self._things), hog=hog)

    def empty(self) -> Image.Image:
        """The image of domain A without its animal and its shadow."""
        return self._rendered(None, [False] * len(self._things))

    def mask(self) -> Image.Image:
        """Mode L, 255 where a pixel belongs to the animal, even in part."""
        return self._as_mask(self._touched(self._horse_layers))

    def bystander_mask(self) -> Image.Image:
        """Mode L, 255 where a pixel belongs to the animal of the other kind and not to this one."""
        return self._as_mask(self._touched(self._hog_layers), but=[self._horse_layers])

    def things_mask(self) -> Image.Image:
        """Mode L, 255 where a pixel belongs to a thing and to no animal."""
        image = Image.new("L", self._ground.size)
        for thing in self._things:
            thing.outline(image)
        touched_HW = np.asarray(image) > 0
        return self._as_mask(touched_HW, but=[self._horse_layers, self._hog_layers])

    def _rendered(
        self, horse: Coat | None, striped: list[bool], *, hog: Coat | None = None
    ) -> Image.Image:
        image = self._ground.copy()
        for thing, is_striped in zip(self._things, striped, strict=True):
            thing.paint(image, striped=is_striped)
        image_HWC = toy._shadow(np.asarray(image, dtype=np.float32), self._hog)
        image_HWC = toy._painted(image_HWC, self._hog_layers, self._hog, hog or self._hog_coat)
        if horse is not None:
            image_HWC = toy._shadow(image_HWC, self._horse)
            image_HWC = toy._painted(image_HWC, self._horse_layers, self._horse, horse)
        blocks = (image_HWC * self._light).reshape(
            self._size, toy._SUPERSAMPLING, self._size, toy._SUPERSAMPLING, 3
        )
        return Image.fromarray(blocks.mean((1, 3)).round().clip(0, 255).astype(np.uint8))

    def _touched(self, layers: tuple[toy._Layer, toy._Layer]) -> Array:
        touched_HW: Array = np.zeros(self._ground.size[::-1], bool)
        for layer in layers:
            touched_HW[layer.window] |= layer.alpha_HW > 0
        return touched_HW

    def _as_mask(
        self, touched_HW: Array, *, but: list[tuple[toy._Layer, toy._Layer]] | None = None
    ) -> Image.Image:
        blocks = (self._size, toy._SUPERSAMPLING, self._size, toy._SUPERSAMPLING)
        inside = touched_HW.reshape(blocks).any((1, 3))
        for layers in but or []:
            inside &= ~self._touched(layers).reshape(blocks).any((1, 3))
        return Image.fromarray(np.where(inside, 255, 0).astype(np.uint8))


# Ground


def _ground(rng: np.random.Generator, canvas: int) -> tuple[Image.Image, float, Array]:
    """Sky, hills and cluttered grass; where the grass begins; the colour of the light."""
    image = Image.new("RGB", (canvas, canvas))
    horizon = float(rng.uniform(0.34, 0.44))
    dusk = float(rng.uniform(0, 1) ** 2)
    haze = toy._mix((196, 220, 238), (246, 186, 140), dusk)
    sky = toy._mix((92, 150, 220), (88, 84, 140), dusk)
    toy._gradient(image, 0, horizon + 0.02, sky, haze)
    toy._clouds(rng, image, horizon, toy._mix((250, 251, 255), (255, 214, 190), dusk))
    grass = toy._mix((96, 150, 62), (164, 154, 84), float(rng.uniform(0, 0.8)))
    distant = toy._mix(toy._mix(grass, (60, 90, 70), 0.4), haze, 0.5)
    toy._hills(rng, image, horizon - 0.05, distant)
    near = toy._mix(grass, (30, 50, 20), 0.32)
    toy._gradient(image, horizon, 1, toy._mix(grass, haze, 0.22), near)
    _clutter(rng, image, horizon, grass)
    toy._tufts(rng, image, horizon, grass)
    warmth = rng.uniform(-0.04, 0.06)
    light = rng.uniform(0.84, 1.06) * np.array([1 + warmth, 1.0, 1 - warmth])
    return image, horizon, light.astype(np.float32)


def _clutter(rng: np.random.Generator, image: Image.Image, horizon: float, grass: Colour) -> None:
    """Bare patches, bushes and stones, the far ones first."""
    draw, canvas = ImageDraw.Draw(image), image.width
    for depth in sorted(rng.uniform(0.04, 1, 22)):
        kind = rng.integers(3)
        x, y = rng.uniform(0, 1), horizon + (1 - horizon) * depth
        width = (0.02 + 0.06 * depth) * rng.uniform(0.6, 1.5)
        height = width * (0.22, 0.8, 0.6)[kind]
        colour = toy._mix(
            ((140, 112, 78), toy._mix(grass, (24, 56, 26), 0.6), (150, 148, 142))[kind],
            ((170, 140, 96), grass, (108, 104, 100))[kind],
            float(rng.uniform(0, 1)),
        )
        for puff in range(3):
            shift = (puff - 1) * 0.45 * width
            lifted = y - (0.3 * height if puff == 1 else 0)
            box = [x + shift - width / 2, lifted - height, x + shift + width / 2, lifted]
            draw.ellipse([float(value) * canvas for value in box], fill=toy._paint(colour))


# Things


@dataclass(frozen=True, slots=True)
class _Thing:
    """Boxes side by side or on top of each other, in one colour or two that take turns."""

    boxes: tuple[tuple[float, float, float, float], ...]
    """Left, top, right, bottom."""
    light: Colour
    dark: Colour

    def paint(self, image: Image.Image, *, striped: bool) -> None:
        """Both forms have about the same mean."""
        plain = toy._mix(self.light, self.dark, 0.5)
        for turn, box in enumerate(self.boxes):
            colour = (self.light, self.dark)[turn % 2] if striped else plain
            self._box(image, box, toy._paint(colour))

    def outline(self, image: Image.Image) -> None:
        """White where it stands, on an image of one channel."""
        for box in self.boxes:
            self._box(image, box, 255)

    def _box(
        self, image: Image.Image, box: tuple[float, ...], fill: int | tuple[int, int, int]
    ) -> None:
        corners = [value * image.width for value in box]
        ImageDraw.Draw(image).rectangle(corners, fill=fill)


def _things(rng: np.random.Generator, horizon: float) -> list[_Thing]:
    """The far ones first."""
    made: list[_Thing] = []
    if rng.uniform() < 0.7:
        made.append(_fence(rng, horizon))
    made += [_trunk(rng, horizon) for _ in range(rng.integers(1, 4))]
    made += [_barrel(rng, horizon) for _ in range(rng.integers(0, 3))]
    return made


def _colours(rng: np.random.Generator) -> tuple[Colour, Colour]:
    light = toy._mix((226, 220, 208), (200, 184, 158), float(rng.uniform()))
    dark = toy._mix((44, 38, 38), (84, 62, 46), float(rng.uniform()))
    return light, dark


def _fence(rng: np.random.Generator, horizon: float) -> _Thing:
    """Boards side by side."""
    left, base = float(rng.uniform(-0.1, 0.4)), horizon + float(rng.uniform(0.03, 0.08))
    top, count = base - float(rng.uniform(0.12, 0.2)), int(rng.integers(10, 22))
    boxes = tuple(
        (left + board * _STRIPE, top, left + (board + 1) * _STRIPE, base) for board in range(count)
    )
    return _Thing(boxes, *_colours(rng))


def _trunk(rng: np.random.Generator, horizon: float) -> _Thing:
    """Bands from the ground to beyond the picture."""
    x, width = float(rng.uniform(0.03, 0.97)), float(rng.uniform(0.045, 0.08))
    base = horizon + float(rng.uniform(0.02, 0.12))
    count = int(base / _STRIPE) + 1
    boxes = tuple(
        (x - width / 2, base - (band + 1) * _STRIPE, x + width / 2, base - band * _STRIPE)
        for band in range(count)
    )
    return _Thing(boxes, *_colours(rng))


def _barrel(rng: np.random.Generator, horizon: float) -> _Thing:
    """Hoops, the middle ones wider."""
    x, base = float(rng.uniform(0.05, 0.95)), float(rng.uniform(horizon + 0.15, 0.98))
    width, count = float(rng.uniform(0.1, 0.15)), int(rng.integers(4, 7))
    boxes = []
    for hoop in range(count):
        bulge = 1 - 0.25 * abs(2 * (hoop + 0.5) / count - 1) ** 2
        half = width / 2 * bulge
        boxes.append((x - half, base - (hoop + 1) * _STRIPE, x + half, base - hoop * _STRIPE))
    return _Thing(tuple(boxes), *_colours(rng))


# Animals


def _hog(rng: np.random.Generator) -> Animal:
    """Round, on short legs, with its snout low; nothing of it is like the horse."""
    swing = float(rng.uniform(-0.06, 0.06))
    period = 0.2

    def leg(hip: float, lean: float) -> Capsule:
        return Capsule(hip, 0.12, 0.13, hip + lean, 0.47, 0.075, phase=0.3, period=period)

    head = Capsule(0.36, -0.02, 0.25, 0.72, 0.12, 0.13, phase=3.5, period=period)
    ears = tuple(
        Capsule(x, -0.2, 0.08, x - 0.03, -0.38, 0.02, phase=4.0, period=period) for x in (0.4, 0.53)
    )
    tail = (Capsule(-0.62, -0.12, 0.035, -0.76, -0.24, 0.02, period=period),)
    return Animal(
        far=(leg(-0.28, -swing), leg(0.36, swing)),
        near=(
            Capsule(-0.34, -0.02, 0.32, 0.3, 0.0, 0.31, period=period),
            head,
            *ears,
            leg(-0.42, swing),
            leg(0.24, -swing),
            *tail,
        ),
        mane=(),
        tail=tail,
        muzzle=Capsule(0.74, 0.12, 0.09, 0.8, 0.15, 0.1),
        hoof_y=0.48,
        eye=Capsule(0.53, -0.04, 0.028, 0.545, -0.04, 0.028),
        scale=float(rng.uniform(0.22, 0.27)),
        x=0.0,
        y=float(rng.uniform(0.66, 0.82)),
        facing=1 if rng.uniform() < 0.5 else -1,
        wobble=(float(rng.uniform(-0.2, 0.2)), 0.8, float(rng.uniform())),
    )


def _hog_coat(rng: np.random.Generator) -> Coat:
    shades: tuple[Colour, ...] = ((222, 166, 152), (214, 206, 196), (92, 84, 86), (186, 120, 92))
    base = shades[rng.integers(len(shades))]
    base = toy._mix(base, shades[rng.integers(len(shades))], float(rng.uniform(0, 0.3)))
    return Coat(base, toy._mix(base, (40, 30, 30), 0.3), toy._mix(base, (60, 30, 34), 0.6), False)


def _placed(rng: np.random.Generator, horse: Animal, hog: Animal) -> tuple[Animal, Animal]:
    """Side by side, either of them on the left; the hog's place is a little behind."""
    on_left = bool(rng.uniform() < 0.5)
    scale = float(rng.uniform(0.36, 0.42))
    behind, before = (0.78, 0.9) if horse.facing == 1 else (0.9, 0.78)
    edge = float(rng.uniform(0.0, 0.05))
    x = edge + behind * scale if on_left else 1 - edge - before * scale
    ground = float(rng.uniform(0.84, 0.95))
    other = float(rng.uniform(0.12, 0.2))
    return (
        replace(horse, scale=scale, x=x, y=ground - (horse.hoof_y + 0.05) * scale),
        replace(hog, x=1 - other if on_left else other),
    )


# Files


def companion_file(path: Path, companion: Companion) -> Path:
    """Where a companion of a held-out image of domain A lies, if it has one.

    >>> companion_file(Path("farm/testA/0000.png"), "empty").as_posix()
    'farm/testA_empty/0000.png'
    """
    return path.parent.with_name(f"{path.parent.name}_{companion}") / f"{path.stem}.png"


def write_farm(
    root: str | Path,
    *,
    size: int = 64,
    train: int = 300,
    test: int = 24,
    val: int | None = None,
    seed: int = 0,
) -> None:
    """Render the set into a folder, as `data.toy.write_toy` does the first world.

    Args:
        root: folder; existing files of the same names are replaced.
        size: side in pixels, 64 to 256.
        train: images per domain.
        test: images per domain.
        val: images per domain; by default as many as for the test.
        seed: another seed gives other images.

    Raises:
        ConfigError: if the size is out of range.
        StorageError: if a file cannot be written.
    """

    def shown(seed: int) -> toy.Shown:
        scene = FarmScene(size, seed)
        return toy.Shown(
            lambda: scene.shown(striped=False),
            lambda: scene.shown(striped=True),
            {str(name): image for name, image in _companions(scene).items()},
        )

    counts = {"train": train, "val": test if val is None else val, "test": test}
    toy.write_world(Path(root), "farm", counts, shown, seed=seed)


def _companions(scene: FarmScene) -> dict[Companion, Callable[[], Image.Image]]:
    return {
        "masks": scene.mask,
        "true": scene.truth,
        "bystander": scene.bystander_mask,
        "things": scene.things_mask,
        "confused": scene.confused,
        "empty": scene.empty,
    }
