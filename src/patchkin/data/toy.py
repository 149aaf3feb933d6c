"""The built-in toy sets: animals on grass, rendered and seeded.

Of two domains, plain-coated (A) and striped (B); of three domains, plain, spotted and striped.

The domains share one distribution of sky, hills, grass, light, pose, size and place; only the
coat differs, its mean brightness not much. There is no pixel noise: a discriminator would win by
it. Held-out A images come with a mask of the animal and with the hidden truth, the same scene with
a striped coat, so that a translation can be scored exactly:

    trainA trainB valA valB testA testB   the domains
    valA_masks testA_masks                white where a pixel belongs to the animal, even in part
    valA_true testA_true                  the counterpart; equal to the image outside the mask

With three domains each held-out image has two truths, one for each other coat:

    train/plain train/spotted train/striped   and so for val and test
    val_masks/plain/...                       white where a pixel belongs to the animal
    val_true/plain2striped/...                the counterpart of val/plain with stripes

The animal is the smooth union of tapered capsules (Inigo Quilez' distance functions); stripes run
across each capsule and bend where two meet; spots lie on a jittered grid. Lengths are in units of
the trunk; x to the right, y down. Shape suffixes: H and W pixels of the supersampled canvas, R and
C rows and columns of the grid; a last C is colour channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from patchkin.data.folders import made_once
from patchkin.errors import ConfigError
from patchkin.images import write_pillow
from patchkin.randomness import derive_seed
from patchkin.storage.atomic import storage_errors, sync_tree

Array: TypeAlias = npt.NDArray[Any]
Colour: TypeAlias = tuple[float, float, float]

TOY_VERSION = 1
"""Goes up when the pictures change; part of the cache folder's name."""
MIN_SIZE, MAX_SIZE = 64, 256
COATS = ("plain", "spotted", "striped")
"""The domains of the set of three."""
_SUPERSAMPLING = 3
_DOMAIN_COUNTS = {"train": 200, "val": 12, "test": 12}
_SPOT_GRID = 0.135
"""Distance of the spots."""


class Scene:
    """One animal on its ground, to be shown with any coat.

    Args:
        size: side in pixels, 64 to 256.
        seed: decides everything.

    Raises:
        ConfigError: if the size is out of range.

    >>> Scene(64, seed=0).striped().size
    (64, 64)
    """

    def __init__(self, size: int, seed: int) -> None:
        if not MIN_SIZE <= size <= MAX_SIZE:
            raise ConfigError(f"Toy images have {MIN_SIZE} to {MAX_SIZE} pixels; got {size}.")
        rng = np.random.default_rng(seed)
        self._size = size
        scenery_HWC, self._light = _scenery(rng, size * _SUPERSAMPLING)
        self._animal = _animal(rng)
        self._scenery_HWC = _shadow(scenery_HWC, self._animal)
        self._layers = _layers(self._animal, size * _SUPERSAMPLING)
        self._plain_coat = _plain_coat(rng)
        self._striped_coat = _striped_coat(rng)
        self._spotted_coat = _spotted_coat(rng)  # last: the set of two must not change

    def plain(self) -> Image.Image:
        """With a coat of one colour."""
        return self._shown(self._plain_coat)

    def striped(self) -> Image.Image:
        """With stripes; outside the mask the same pixels as `plain`."""
        return self._shown(self._striped_coat)

    def spotted(self) -> Image.Image:
        """With spots; outside the mask the same pixels as `plain`."""
        return self._shown(self._spotted_coat)

    def with_coat(self, name: str) -> Image.Image:
        """With one of `COATS`."""
        coats = {
            "plain": self._plain_coat,
            "spotted": self._spotted_coat,
            "striped": self._striped_coat,
        }
        return self._shown(coats[name])

    def mask(self) -> Image.Image:
        """Mode L, 255 where a pixel belongs to the animal, even in part."""
        touched_HW = np.zeros(self._scenery_HWC.shape[:2], bool)
        for layer in self._layers:
            touched_HW[layer.window] |= layer.alpha_HW > 0
        blocks = touched_HW.reshape(self._size, _SUPERSAMPLING, self._size, _SUPERSAMPLING)
        return Image.fromarray(np.where(blocks.any((1, 3)), 255, 0).astype(np.uint8))

    def _shown(self, coat: Coat) -> Image.Image:
        image_HWC = _painted(self._scenery_HWC, self._layers, self._animal, coat) * self._light
        blocks = image_HWC.reshape(self._size, _SUPERSAMPLING, self._size, _SUPERSAMPLING, 3)
        return Image.fromarray(blocks.mean((1, 3)).round().clip(0, 255).astype(np.uint8))


# Scenery


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    """Share 0 is a, 1 is b."""
    return tuple((1 - share) * x + share * y for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def _paint(colour: Colour) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, round(value))) for value in colour)
    return red, green, blue


def _gradient(image: Image.Image, top: float, bottom: float, upper: Colour, lower: Colour) -> None:
    """Fill the rows from `top` to `bottom` (shares of the height)."""
    first, last = int(top * image.height), int(bottom * image.height)
    draw = ImageDraw.Draw(image)
    for row in range(first, last):
        share = (row - first) / max(1, last - first)
        draw.line([(0, row), (image.width, row)], fill=_paint(_mix(upper, lower, share)))


def _scenery(rng: np.random.Generator, canvas: int) -> tuple[Array, Array]:
    """Sky, clouds, hills, trees, grass, fence; and the colour of the light."""
    image = Image.new("RGB", (canvas, canvas))
    horizon = rng.uniform(0.36, 0.52)
    dusk = rng.uniform(0, 1) ** 2
    sky = _mix((92, 150, 220), (88, 84, 140), dusk)
    haze = _mix((196, 220, 238), (246, 186, 140), dusk)
    _gradient(image, 0, horizon + 0.02, sky, haze)
    _clouds(rng, image, horizon, _mix((250, 251, 255), (255, 214, 190), dusk))
    fresh, dry = (96.0, 150.0, 62.0), (164.0, 154.0, 84.0)
    grass = _mix(fresh, dry, rng.uniform(0, 0.8))
    for distance in (0.65, 0.35)[rng.integers(2) :]:
        _hills(
            rng,
            image,
            horizon - 0.1 * distance,
            _mix(_mix(grass, (60, 90, 70), 0.4), haze, distance),
        )
    _trees(rng, image, horizon, _mix((44, 88, 46), haze, 0.15))
    _gradient(image, horizon, 1, _mix(grass, haze, 0.22), _mix(grass, (30, 50, 20), 0.32))
    if rng.uniform() < 0.25:
        _fence(rng, image, horizon)
    _tufts(rng, image, horizon, grass)
    warmth = rng.uniform(-0.04, 0.06)
    light = rng.uniform(0.84, 1.06) * np.array([1 + warmth, 1.0, 1 - warmth])
    return np.asarray(image, dtype=np.float32), light.astype(np.float32)


def _clouds(rng: np.random.Generator, image: Image.Image, horizon: float, colour: Colour) -> None:
    canvas = image.width
    mask = Image.new("L", image.size)
    draw = ImageDraw.Draw(mask)
    for _ in range(rng.integers(0, 4)):
        x, y = rng.uniform(0, 1), rng.uniform(0.03, horizon * 0.7)
        width = rng.uniform(0.12, 0.3)
        for _ in range(5):
            puff_x = (x + rng.uniform(-0.5, 0.5) * width) * canvas
            puff_y = (y + rng.uniform(-0.1, 0.1) * width) * canvas
            rx, ry = rng.uniform(0.3, 0.5) * width * canvas, rng.uniform(0.1, 0.18) * width * canvas
            draw.ellipse([puff_x - rx, puff_y - ry, puff_x + rx, puff_y + ry], fill=215)
    mask = mask.filter(ImageFilter.GaussianBlur(canvas * 0.012))
    image.paste(_paint(colour), mask=mask)


def _hills(rng: np.random.Generator, image: Image.Image, height: float, colour: Colour) -> None:
    canvas = image.width
    x = np.linspace(0, 1, 65)
    line = np.full_like(x, height)
    for wave in (0.7, 1.6, 3.1):
        swell = rng.uniform(0.01, 0.04) / wave
        line += swell * np.sin(2 * math.pi * (wave * x + rng.uniform()))
    points = [(float(a * canvas), float(b * canvas)) for a, b in zip(x, line, strict=True)]
    ImageDraw.Draw(image).polygon([*points, (canvas, canvas), (0, canvas)], fill=_paint(colour))


def _trees(rng: np.random.Generator, image: Image.Image, horizon: float, colour: Colour) -> None:
    canvas = image.width
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 5)):
        x, height = rng.uniform(0, 1), rng.uniform(0.06, 0.2)
        shade = _mix(colour, (20, 40, 20), rng.uniform(0, 0.3))
        trunk = 0.05 * height
        box = [x - trunk, horizon - height * 0.5, x + trunk, horizon + 0.02]
        draw.rectangle([value * canvas for value in box], fill=(84, 66, 50))
        for _ in range(5):
            crown_x = x + rng.uniform(-0.22, 0.22) * height
            crown_y = horizon - rng.uniform(0.5, 0.85) * height
            r = rng.uniform(0.2, 0.3) * height
            box = [crown_x - r, crown_y - r, crown_x + r, crown_y + r]
            draw.ellipse([value * canvas for value in box], fill=_paint(shade))


def _fence(rng: np.random.Generator, image: Image.Image, horizon: float) -> None:
    canvas = image.width
    draw = ImageDraw.Draw(image)
    wood = _paint(_mix((120, 96, 74), (190, 182, 170), rng.uniform()))
    base, height = horizon + rng.uniform(0.05, 0.1), rng.uniform(0.09, 0.13)
    thick = 0.012
    for rail in (0.35, 0.8):
        y = base - rail * height
        draw.rectangle([0, y * canvas, canvas, (y + thick) * canvas], fill=wood)
    for x in np.arange(rng.uniform(0, 0.2), 1, 0.22):
        box = [x, base - height, x + 1.6 * thick, base + 0.01]
        draw.rectangle([float(value) * canvas for value in box], fill=wood)


def _tufts(rng: np.random.Generator, image: Image.Image, horizon: float, grass: Colour) -> None:
    canvas = image.width
    draw = ImageDraw.Draw(image)
    for _ in range(26):
        depth = rng.uniform(0.1, 1)
        x, y = rng.uniform(0, 1) * canvas, (horizon + (1 - horizon) * depth) * canvas
        length = (0.015 + 0.045 * depth) * canvas
        colour = _mix(_mix(grass, (30, 50, 20), 0.3 * depth), (225, 220, 130), rng.uniform(0, 0.3))
        for lean in (-0.45, 0.0, 0.45):
            tip = (x + lean * length, y - length * (1 - 0.3 * abs(lean)))
            draw.line([(x, y), tip], fill=_paint(colour), width=max(2, round(0.008 * canvas)))


# Animal


class Capsule(NamedTuple):
    """A tapered limb between two discs."""

    x0: float
    y0: float
    r0: float
    x1: float
    y1: float
    r1: float
    phase: float = 0.0
    """Stripes before the first disc."""
    period: float = 0.19
    """Length of a stripe and its gap."""


@dataclass(frozen=True, slots=True)
class Animal:
    """A posed body and its place on the canvas."""

    far: tuple[Capsule, ...]
    """Legs on the side turned away."""
    near: tuple[Capsule, ...]
    """Everything else."""
    mane: tuple[Capsule, ...]
    tail: tuple[Capsule, ...]
    muzzle: Capsule
    hoof_y: float
    """Below it are the hooves."""
    eye: Capsule
    scale: float
    """Length of a unit as a share of the canvas."""
    x: float
    """Of the origin (middle of the trunk), share of the canvas."""
    y: float
    facing: int
    """1 right, -1 left."""
    wobble: tuple[float, float, float]
    """Tilt, bow and shift of the stripes."""


def _animal(rng: np.random.Generator) -> Animal:
    scale = rng.uniform(0.47, 0.57)
    facing = 1 if rng.uniform() < 0.5 else -1
    period = rng.uniform(0.175, 0.215)

    lift = math.radians(rng.uniform(-66, -28) if rng.uniform() < 0.75 else rng.uniform(12, 30))
    reach = rng.uniform(0.44, 0.5)
    poll = (0.36 + reach * math.cos(lift), -0.06 + reach * math.sin(lift))
    nod = lift + math.radians(rng.uniform(78, 96) if lift < 0 else rng.uniform(40, 55))
    nose = (poll[0] + 0.34 * math.cos(nod), poll[1] + 0.34 * math.sin(nod))
    up = (math.sin(nod), -math.cos(nod))  # away from the jaw
    neck_phase = 0.8 / period
    trunk = (
        Capsule(-0.36, -0.02, 0.25, 0.34, 0.0, 0.235, period=period),
        Capsule(-0.1, 0.06, 0.215, 0.16, 0.06, 0.215, phase=0.26 / period, period=period),
    )
    neck = Capsule(0.36, -0.06, 0.19, *poll, 0.1, phase=neck_phase, period=period * 0.85)
    head_phase = neck_phase + reach / (period * 0.85)
    head = (
        Capsule(*poll, 0.115, *nose, 0.062, phase=head_phase, period=period * 0.6),
        *(
            Capsule(
                poll[0] + 0.09 * up[0] + shift,
                poll[1] + 0.09 * up[1],
                0.032,
                poll[0] + 0.2 * up[0] + shift - 0.03,
                poll[1] + 0.2 * up[1],
                0.01,
                phase=head_phase,
            )
            for shift in (-0.03, 0.035)
        ),
    )
    gait, stride = rng.uniform(0, 2 * math.pi), rng.uniform(0.02, 0.16)
    hoof_y = 0.74
    legs = [
        _leg(hip, hoof_y, stride * math.sin(gait + offset), thick, period * 0.78)
        for hip, offset, thick in (
            (-0.44, 0.0, 0.15),
            (0.36, 2.2, 0.12),
            (-0.34, math.pi, 0.14),
            (0.27, math.pi + 2.2, 0.11),
        )
    ]
    swish = rng.uniform(-0.06, 0.1)
    tail = (
        Capsule(-0.58, -0.12, 0.04, -0.7 - swish, 0.1, 0.055, period=0.1),
        Capsule(-0.7 - swish, 0.1, 0.055, -0.71 - 1.5 * swish, 0.36, 0.03, period=0.1),
    )
    across = (math.sin(lift), -math.cos(lift))
    mane = (
        Capsule(
            0.3 + 0.15 * (poll[0] - 0.3) + 0.15 * across[0],
            -0.06 + 0.15 * (poll[1] + 0.06) + 0.15 * across[1],
            0.05,
            poll[0] + 0.09 * across[0],
            poll[1] + 0.09 * across[1],
            0.045,
            phase=neck_phase,
            period=period * 0.85,
        ),
    )
    muzzle = Capsule(
        poll[0] + 0.82 * (nose[0] - poll[0]),
        poll[1] + 0.82 * (nose[1] - poll[1]),
        0.075,
        *nose,
        0.08,
    )
    eye_x = poll[0] + 0.24 * (nose[0] - poll[0]) + 0.035 * up[0]
    eye_y = poll[1] + 0.24 * (nose[1] - poll[1]) + 0.035 * up[1]
    ground = rng.uniform(0.86, 0.96)
    return Animal(
        far=(*legs[2], *legs[3]),
        near=(*trunk, neck, *head, *legs[0], *legs[1], *tail, *mane),
        mane=mane,
        tail=tail,
        muzzle=muzzle,
        hoof_y=hoof_y - 0.01,
        eye=Capsule(eye_x - 0.008, eye_y, 0.019, eye_x + 0.008, eye_y, 0.019),
        scale=scale,
        x=0.5 - facing * 0.055 + rng.uniform(-0.06, 0.06),
        y=ground - (hoof_y + 0.05) * scale,
        facing=facing,
        wobble=(rng.uniform(-0.25, 0.25), rng.uniform(0.5, 1.3), rng.uniform()),
    )


def _leg(
    hip: float, hoof_y: float, swing: float, thick: float, period: float
) -> tuple[Capsule, Capsule]:
    knee = (hip + 0.45 * swing, 0.42)
    hoof = (hip + swing - (0.04 if swing < 0 else 0.0), hoof_y)
    return (
        Capsule(hip, 0.1, thick, *knee, 0.062, phase=0.25, period=period),
        Capsule(*knee, 0.06, *hoof, 0.05, phase=0.25 + 0.33 / period, period=period),
    )


# Painting


@dataclass(frozen=True, slots=True)
class _Layer:
    """A group of limbs, within a window of the canvas."""

    window: tuple[slice, slice]
    x_HW: Array
    y_HW: Array
    alpha_HW: Array
    depth_HW: Array
    """Distance inside the outline."""
    stripes_HW: Array
    """Sine of the stripes' phase."""
    is_near: bool


def _layers(animal: Animal, canvas: int) -> tuple[_Layer, _Layer]:
    places = (np.arange(canvas, dtype=np.float32) + 0.5) / canvas
    x_W = (places - np.float32(animal.x)) * np.float32(animal.facing / animal.scale)
    y_H = (places - np.float32(animal.y)) / np.float32(animal.scale)
    unit = animal.scale * canvas
    far = _layer(animal.far, animal.wobble, x_W, y_H, unit, is_near=False)
    return far, _layer(animal.near, animal.wobble, x_W, y_H, unit, is_near=True)


def _layer(
    limbs: tuple[Capsule, ...],
    wobble: tuple[float, float, float],
    x_W: Array,
    y_H: Array,
    pixels_per_unit: float,
    *,
    is_near: bool,
) -> _Layer:
    window = _window(limbs, x_W, y_H)
    x_W, y_H = x_W[window[1]], y_H[window[0]]
    shape = (len(y_H), len(x_W))
    distance_HW = np.full(shape, 10, np.float32)
    weight_HW = np.full(shape, 1e-9, np.float32)
    phase_HW = np.zeros(shape, np.float32)
    tilt, bow, shift = wobble
    for limb in limbs:
        part = _window([limb], x_W, y_H)
        d_HW, along_HW, across_HW = _capsule(limb, x_W[part[1]], y_H[part[0]])
        distance_HW[part] = _smooth_minimum(distance_HW[part], d_HW, 0.05)
        w_HW = np.exp(np.clip(d_HW / -0.035, -20, 20))  # stripes bend over this length
        bent_HW = along_HW + (tilt - bow * across_HW) * across_HW
        phase_HW[part] += w_HW * (bent_HW / limb.period + limb.phase)
        weight_HW[part] += w_HW
    return _Layer(
        window,
        *np.meshgrid(x_W, y_H),
        alpha_HW=np.clip(0.5 - distance_HW * pixels_per_unit, 0, 1),
        depth_HW=-distance_HW,
        stripes_HW=np.sin(2 * math.pi * (phase_HW / weight_HW + shift)),
        is_near=is_near,
    )


def _window(limbs: Iterable[Capsule], x_W: Array, y_H: Array) -> tuple[slice, slice]:
    """The rows and columns that the limbs can reach, with room for where they melt together."""
    room = 0.18
    left = min(min(limb.x0 - limb.r0, limb.x1 - limb.r1) for limb in limbs) - room
    right = max(max(limb.x0 + limb.r0, limb.x1 + limb.r1) for limb in limbs) + room
    top = min(min(limb.y0 - limb.r0, limb.y1 - limb.r1) for limb in limbs) - room
    bottom = max(max(limb.y0 + limb.r0, limb.y1 + limb.r1) for limb in limbs) + room
    return _between(y_H, top, bottom), _between(x_W, left, right)


def _between(places: Array, low: float, high: float) -> slice:
    inside = np.flatnonzero((places >= low) & (places <= high))
    return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)


def _capsule(limb: Capsule, x_W: Array, y_H: Array) -> tuple[Array, Array, Array]:
    """Signed distance to the outline, and the coordinates along and across the axis."""
    dx, dy = limb.x1 - limb.x0, limb.y1 - limb.y0
    length = math.hypot(dx, dy)
    ux, uy = dx / length, dy / length
    px_W, py_H1 = x_W - np.float32(limb.x0), y_H[:, None] - np.float32(limb.y0)
    along_HW = px_W * ux + py_H1 * uy
    across_HW = py_H1 * ux - px_W * uy
    inside_HW = np.clip(along_HW, 0, length)
    radius_HW = limb.r0 + inside_HW * ((limb.r1 - limb.r0) / length)
    distance_HW = np.sqrt((along_HW - inside_HW) ** 2 + across_HW**2) - radius_HW
    return distance_HW, along_HW, across_HW


def _smooth_minimum(a: Array, b: Array, width: float) -> Array:
    overlap = np.maximum(width - np.abs(a - b), 0) / width
    joined: Array = np.minimum(a, b) - overlap * overlap * (width / 4)
    return joined


@dataclass(frozen=True, eq=False, slots=True)
class Spots:
    """A jittered grid of discs; each point of the body looks at those of its cell's neighbours."""

    shift_RC2: Array
    """Of the centre of each cell from its middle, in cells; rows and columns of the torus."""
    radius_RC: Array
    """In cells."""


@dataclass(frozen=True, slots=True)
class Coat:
    """Colours of an animal."""

    base: Colour
    hair: Colour
    """Mane and tail."""
    dark: Colour
    """Stripes and spots; muzzle and hooves of all kinds."""
    striped: bool
    duty: float = 0.0
    """Moves the edge of the stripes: higher is more light."""
    socks: float = 0.0
    """How much the lower legs darken."""
    spots: Spots | None = None


def _plain_coat(rng: np.random.Generator) -> Coat:
    shades: tuple[Colour, ...] = (
        (150, 92, 54),  # chestnut
        (118, 76, 48),  # bay
        (176, 128, 78),  # dun
        (140, 132, 126),  # grey
        (196, 168, 124),  # palomino
        (104, 82, 70),  # dark brown
    )
    base = shades[rng.integers(len(shades))]
    base = _mix(base, shades[rng.integers(len(shades))], rng.uniform(0, 0.3))
    hair = _mix(_mix(base, (30, 22, 20), 0.65), (220, 200, 160), rng.uniform() * 0.25)
    return Coat(base, hair, (44, 36, 34), striped=False, socks=rng.uniform(0, 0.6))


def _striped_coat(rng: np.random.Generator) -> Coat:
    base = _mix((228, 222, 212), (206, 192, 170), rng.uniform())
    dark = _mix((30, 26, 28), (62, 46, 40), rng.uniform())
    return Coat(base, dark, dark, striped=True, duty=rng.uniform(-0.1, 0.2))


def _spotted_coat(rng: np.random.Generator) -> Coat:
    base = _mix((226, 186, 120), (206, 158, 104), rng.uniform())
    dark = _mix((48, 32, 24), (84, 54, 36), rng.uniform())
    cells = (12, 12)
    spots = Spots(rng.uniform(-0.24, 0.24, (*cells, 2)), rng.uniform(0.24, 0.4, cells))
    return Coat(base, _mix(base, dark, 0.75), dark, striped=False, spots=spots)


def _painted(
    scenery_HWC: Array, layers: tuple[_Layer, _Layer], animal: Animal, coat: Coat
) -> Array:
    image_HWC = scenery_HWC.copy()
    for layer in layers:
        window_HWC = image_HWC[layer.window]
        alpha_HW1 = layer.alpha_HW[:, :, None]
        window_HWC += (_coat(layer, animal, coat) - window_HWC) * alpha_HW1
    return image_HWC


def _coat(layer: _Layer, animal: Animal, coat: Coat) -> Array:
    x_HW, y_HW = layer.x_HW, layer.y_HW
    colour_HWC = np.empty((*x_HW.shape, 3), np.float32)
    colour_HWC[:] = coat.base
    if coat.striped:
        edge = coat.duty + (1.2 * _belly(x_HW, y_HW) if layer.is_near else 0)
        _lay(colour_HWC, coat.dark, np.clip(0.5 + 2.2 * (layer.stripes_HW - edge), 0, 1))
    elif coat.spots is not None:
        _lay(colour_HWC, coat.dark, _spots(coat.spots, x_HW, y_HW))
    else:
        _lay(colour_HWC, coat.dark, coat.socks * np.clip((y_HW - 0.35) / 0.25, 0, 1))
    if layer.is_near:
        hair = animal.tail if coat.striped else (*animal.tail, *animal.mane)
        for limb in hair:
            _cover(colour_HWC, coat.hair, limb, layer, softness=0.02)
        _cover(colour_HWC, coat.dark, animal.muzzle, layer, softness=0.03)
    _lay(colour_HWC, coat.dark, np.clip((y_HW - animal.hoof_y) / 0.02, 0, 1))
    height_HW = np.clip((y_HW + 0.3) / 0.65, 0, 1)
    roundness_HW = np.clip(layer.depth_HW / 0.09, 0, 1)
    shade_HW = (1.12 - 0.3 * height_HW) * (0.8 + 0.2 * roundness_HW)
    colour_HWC *= (shade_HW if layer.is_near else 0.66 * shade_HW)[:, :, None]
    if layer.is_near:
        _cover(colour_HWC, (18, 14, 14), animal.eye, layer, softness=0.012)
    return colour_HWC


def _spots(spots: Spots, x_HW: Array, y_HW: Array) -> Array:
    """How dark each point is, 0 to 1."""
    rows, columns = spots.radius_RC.shape
    cell_y_HW, cell_x_HW = y_HW / _SPOT_GRID, x_HW / _SPOT_GRID
    row_HW, column_HW = np.floor(cell_y_HW).astype(int), np.floor(cell_x_HW).astype(int)
    amount_HW = np.zeros_like(x_HW)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            r_HW, c_HW = row_HW + down, column_HW + right
            shift_HW2 = spots.shift_RC2[r_HW % rows, c_HW % columns]
            offset = 0.5 * (r_HW % 2)  # every second row lies between the cells of the others
            away_y_HW = cell_y_HW - (r_HW + 0.5 + shift_HW2[..., 0])
            away_x_HW = cell_x_HW - (c_HW + offset + 0.5 + shift_HW2[..., 1])
            inside_HW = spots.radius_RC[r_HW % rows, c_HW % columns]
            inside_HW = inside_HW - np.hypot(away_x_HW, away_y_HW)
            amount_HW = np.maximum(amount_HW, np.clip(0.5 + 4 * inside_HW, 0, 1))
    return amount_HW


def _belly(x_HW: Array, y_HW: Array) -> Array:
    """Where stripes fade: low on the trunk, between the legs."""
    return np.clip((y_HW - 0.12) / 0.16, 0, 1) * np.clip((0.24 - np.abs(x_HW)) / 0.06, 0, 1)


def _cover(
    colour_HWC: Array, colour: Colour, limb: Capsule, layer: _Layer, *, softness: float
) -> None:
    """Colour a limb, in place."""
    x_W, y_H = layer.x_HW[0], layer.y_HW[:, 0]
    part = _window([limb], x_W, y_H)
    distance_HW = _capsule(limb, x_W[part[1]], y_H[part[0]])[0]
    _lay(colour_HWC[part], colour, np.clip(0.5 - distance_HW / softness, 0, 1))


def _lay(colour_HWC: Array, colour: Colour, amount_HW: Array) -> None:
    """Mix a colour in, in place."""
    colour_HWC += (np.array(colour, np.float32) - colour_HWC) * amount_HW[:, :, None]


def _shadow(scenery_HWC: Array, animal: Animal) -> Array:
    """A soft ellipse under the hooves; the same for both coats."""
    canvas = scenery_HWC.shape[0]
    places = (np.arange(canvas, dtype=np.float32) + 0.5) / canvas
    x_W = (places - np.float32(animal.x)) / np.float32(animal.scale * 0.68)
    ground = animal.y + (animal.hoof_y + 0.03) * animal.scale
    y_H = (places - np.float32(ground)) / np.float32(animal.scale * 0.1)
    amount_HW = 0.42 * np.clip(1.25 - np.hypot(*np.meshgrid(x_W, y_H)), 0, 0.5) * 2
    darkened_HWC: Array = scenery_HWC * (1 - amount_HW[:, :, None])
    return darkened_HWC


# Files


def mask_file(path: Path) -> Path:
    """Where the mask of a held-out image of domain A lies, if it has one.

    >>> mask_file(Path("toy/valA/0000.png")).as_posix()
    'toy/valA_masks/0000.png'
    """
    return path.parent.with_name(f"{path.parent.name}_masks") / f"{path.stem}.png"


def truth_file(path: Path) -> Path:
    """Where the striped counterpart of a held-out image of domain A lies, if it has one."""
    return path.parent.with_name(f"{path.parent.name}_true") / f"{path.stem}.png"


def write_toy(
    root: str | Path,
    *,
    size: int = 64,
    train: int = 300,
    test: int = 24,
    val: int | None = None,
    seed: int = 0,
) -> None:
    """Render the set into a folder. Image i is the same whatever the number of images.

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

    def shown(seed: int) -> Shown:
        scene = Scene(size, seed)
        more = {"masks": scene.mask, "true": scene.striped}
        return Shown(scene.plain, scene.striped, more)

    counts = {"train": train, "val": test if val is None else val, "test": test}
    write_world(Path(root), "toy", counts, shown, seed=seed)


class Shown(NamedTuple):
    """A scene, painted when it is asked for."""

    plain: Callable[[], Image.Image]
    """As an image of domain A."""
    striped: Callable[[], Image.Image]
    """As an image of domain B."""
    companions: Mapping[str, Callable[[], Image.Image]]
    """What lies in a folder of this name beside held-out images of domain A."""


def write_world(
    root: Path, name: str, counts: Mapping[str, int], shown: Callable[[int], Shown], *, seed: int
) -> None:
    """Render two domains of scenes, each of which is in one image only.

    Args:
        root: folder; existing files of the same names are replaced.
        name: of the world, for the seeds of its scenes.
        counts: images of each domain in a split.
        shown: the scene of a seed.
        seed: of them all.

    Raises:
        StorageError: if a file cannot be written.
    """
    for split, number in counts.items():
        for domain in "AB":
            for index in range(number):
                scene = shown(derive_seed(seed, name, split + domain, index))
                path = root / f"{split}{domain}" / f"{index:04d}.png"
                write_pillow(
                    path, scene.plain() if domain == "A" else scene.striped(), synced=False
                )
                held_out = domain == "A" and split != "train"
                for companion, image in scene.companions.items() if held_out else ():
                    beside = path.parent.with_name(f"{path.parent.name}_{companion}") / path.name
                    write_pillow(beside, image(), synced=False)
    with storage_errors(root):
        sync_tree(root)


def write_domain_toy(
    root: str | Path,
    *,
    size: int = 64,
    train: int = _DOMAIN_COUNTS["train"],
    test: int = _DOMAIN_COUNTS["test"],
    val: int | None = None,
    seed: int = 0,
) -> None:
    """Render the set of three domains into a folder.

    Image i of a domain is the same whatever the number of images. No scene is shown twice in
    training, so that nothing is paired.

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
    root = Path(root)
    for split, number in (("train", train), ("val", test if val is None else val), ("test", test)):
        for coat in COATS:
            for index in range(number):
                scene = Scene(size, derive_seed(seed, "toy domains", split, coat, index))
                path = root / split / coat / f"{index:04d}.png"
                write_pillow(path, scene.with_coat(coat), synced=False)
                if split == "train":
                    continue
                write_pillow(domain_mask_file(path), scene.mask(), synced=False)
                for other in COATS:
                    if other != coat:
                        truth = domain_truth_file(path, other)
                        write_pillow(truth, scene.with_coat(other), synced=False)
    with storage_errors(root):
        sync_tree(root)


def domain_mask_file(path: Path) -> Path:
    """Where the mask of a held-out image of the set of three domains lies, if it has one.

    >>> domain_mask_file(Path("toy/val/plain/0000.png")).as_posix()
    'toy/val_masks/plain/0000.png'
    """
    split, domain = path.parent.parent, path.parent.name
    return split.with_name(f"{split.name}_masks") / domain / f"{path.stem}.png"


def domain_truth_file(path: Path, target: str) -> Path:
    """Where the counterpart of such an image in another domain lies, if it has one.

    >>> domain_truth_file(Path("toy/val/plain/0000.png"), "striped").as_posix()
    'toy/val_true/plain2striped/0000.png'
    """
    split, domain = path.parent.parent, path.parent.name
    return split.with_name(f"{split.name}_true") / f"{domain}2{target}" / f"{path.stem}.png"


def cached_toy(size: int = 64) -> Path:
    """The toy set for this training size, rendered on first use.

    It lies in `folders.cache_folder()`, in `toy-<size>-<version>`.

    Raises:
        StorageError: if the cache cannot be written.
    """
    size = min(max(size, MIN_SIZE), MAX_SIZE)
    return made_once(f"toy-{size}-{TOY_VERSION}", lambda root: write_toy(root, size=size))


def cached_domain_toy(size: int = 64) -> Path:
    """The set of three domains for this training size, rendered on first use beside the other.

    Raises:
        StorageError: if the cache cannot be written.
    """
    size = min(max(size, MIN_SIZE), MAX_SIZE)
    return made_once(
        f"toy-domains-{size}-{TOY_VERSION}", lambda root: write_domain_toy(root, size=size)
    )
