"""Pairs for the way back, from zebras to horses, out of translations of horses to zebras.

    python benchmarks/horse2zebra/pairs_back.py datasets/horse2zebra datasets/zebra2horse-pairs \\
        --model horse2zebra-preview --model gan_compression.safetensors

translates every training horse and writes OUTPUT/train/NAME.png: the photograph (left half) and
what was made of it (right half), for methods that learn from pairs, with `--direction BtoA`. What
is to be made of stripes is known then, and is a real horse. Nothing of a test image is read; with
`--without RUN` the images that RUN holds out for validation are left out as well.

The translations are only a guide to where stripes belong. A real zebra has crisp stripes and no
tint of a horse below them, so half of the pairs get fur of a photograph of a zebra (the part of it
that is most evenly striped and grey), and half have their stripes drawn anew, grey, as steep as the
local contrast allows. Both only on what is neither green nor blue: what is striped besides is put
back. Pairs are enlarged around the stripes. A pair of whose area less than 4 % is striped, or whose
horse is not brown below its stripes, is not written: nothing in stripes says whether a horse is
black, white or brown, and of all three together the mean is learned, which is grey. What is drawn
at random depends on --seed and the name of the photograph alone. Needs scipy.

Shape suffixes: H and W pixels, C channels.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import center_of_mass, gaussian_filter, uniform_filter
from torch import Tensor

from patchkin.data.layouts import image_files
from patchkin.images import read_image, to_tensor, to_uint8
from patchkin.images.picture import LUMA
from patchkin.runs.resuming import read_record
from patchkin.translation.translator import Translator

Pixels = NDArray[np.float64]
"""Values in [0, 1]."""

_LUMA = np.array(LUMA)
_STRIPE = 6.0
"""Standard deviation, in pixels, of the blur that tells stripes from shading."""
_LEAST_CONTRAST, _FULL_CONTRAST = 0.04, 0.09
"""Of stripes, as a root of a local mean square: where the mask rises from 0 to 1."""
_LEAST_HUE, _FULL_HUE = 0.01, 0.04
"""How far green or blue are above red: where the mask falls from 1 to 0."""
_LEAST_SHARE = 0.04
_LEAST_BROWN = 0.1
"""How far red is above blue on the mean of what is striped."""
_FURS = (160, 112, 80)
"""Sides of the parts of zebras that are looked for, in pixels."""
_EVENLY = 0.85
"""How much of a part must be striped and grey."""
_SIDE = 256


@dataclass(frozen=True, slots=True)
class Drawn:
    """What is drawn at random for a pair."""

    steepness: float
    """Of the edges of stripes."""
    contrast: float
    """Half the difference of a light and a dark stripe."""
    tint: tuple[float, float, float]
    """Of the light stripes."""
    enlarged: float
    """How many times; 1 keeps the whole photograph."""
    fur: int | None
    """Number of the fur; None draws the stripes."""
    magnified: float
    """Of the fur: how much larger than needed to cover the stripes."""
    mirrored: bool
    """The fur."""

    @classmethod
    def of(cls, rng: np.random.Generator, furs: int) -> Drawn:
        """Everything a pair needs, of so many furs."""
        return cls(
            steepness=rng.uniform(0.8, 2.2),
            contrast=rng.uniform(0.28, 0.48),
            tint=(1.0, rng.uniform(0.9, 1.0), rng.uniform(0.78, 1.0)),
            enlarged=rng.uniform(1.2, 3.2),
            fur=int(rng.integers(furs)) if furs and rng.random() < 0.5 else None,
            magnified=rng.uniform(1.0, 1.6),
            mirrored=bool(rng.random() < 0.5),
        )


def striped(zebra_HWC: Pixels, horse_HWC: Pixels) -> Pixels:
    """How far each pixel got stripes and is an animal's by its colour: [H, W] in [0, 1]."""
    change_HW = (zebra_HWC - horse_HWC) @ _LUMA
    ripple_HW = change_HW - gaussian_filter(change_HW, _STRIPE)
    contrast_HW = np.sqrt(gaussian_filter(np.square(ripple_HW), _STRIPE))
    mask_HW = _rising(contrast_HW, _LEAST_CONTRAST, _FULL_CONTRAST)
    red_HW, green_HW, blue_HW = np.moveaxis(gaussian_filter(horse_HWC, (2, 2, 0)), 2, 0)
    hue_HW = np.maximum(green_HW, blue_HW) - red_HW
    mask_HW = gaussian_filter(mask_HW * (1 - _rising(hue_HW, _LEAST_HUE, _FULL_HUE)), 1.5)
    without_specks_HW: Pixels = mask_HW * (gaussian_filter(mask_HW, 5) > 0.25)
    return without_specks_HW


def crisp(zebra_HWC: Pixels, drawn: Drawn) -> Pixels:
    """Grey stripes that run as those of an image: [H, W, C]."""
    luma_HW = zebra_HWC @ _LUMA
    mean_HW = gaussian_filter(luma_HW, _STRIPE + 1)
    deviation_HW = np.sqrt(gaussian_filter(np.square(luma_HW - mean_HW), _STRIPE + 1)) + 0.03
    wave_HW = np.tanh(drawn.steepness * (luma_HW - mean_HW) / deviation_HW)
    grey_HW = np.clip(mean_HW, 0.35, 0.6) / 2 + 0.25 + drawn.contrast * wave_HW
    stripes_HWC: Pixels = np.clip(grey_HW, 0.02, 0.98)[..., None] * np.array(drawn.tint)
    return stripes_HWC


def fur(zebra_HWC: Pixels) -> Pixels | None:
    """The square of an image that is most evenly striped and grey, [S, S, C]; None if none is."""
    luma_HW = zebra_HWC @ _LUMA
    ripple_HW = luma_HW - gaussian_filter(luma_HW, 2 * _STRIPE)
    contrast_HW = np.sqrt(gaussian_filter(np.square(ripple_HW), 2 * _STRIPE))
    colour_HW = gaussian_filter(np.ptp(zebra_HWC, axis=2), 2 * _STRIPE)
    striped_HW = _rising(contrast_HW, 0.1, 0.2) * (1 - _rising(colour_HW, 0.12, 0.25))
    for side in _FURS:
        if side > min(striped_HW.shape):
            continue
        share_HW = uniform_filter(striped_HW, side, mode="constant")
        share_HW = share_HW.round(6)  # running sums: what is striped throughout is not all equal
        centre = np.unravel_index(int(share_HW.argmax()), share_HW.shape)
        if share_HW[centre] > _EVENLY:
            top, left = (
                int(np.clip(middle - side // 2, 0, length - side))
                for middle, length in zip(centre, striped_HW.shape, strict=True)
            )
            return zebra_HWC[top : top + side, left : left + side]
    return None


def pair(
    zebra_HWC: Pixels, horse_HWC: Pixels, drawn: Drawn, furs: Sequence[Pixels]
) -> Image.Image | None:
    """The horse, and stripes on it, side by side; None if too little is striped, or not brown."""
    mask_HW = striped(zebra_HWC, horse_HWC)
    brown_HW = horse_HWC[..., 0] - horse_HWC[..., 2]
    if mask_HW.mean() < _LEAST_SHARE or np.average(brown_HW, weights=mask_HW) < _LEAST_BROWN:
        return None
    if drawn.fur is None:
        stripes_HWC = crisp(zebra_HWC, drawn)
    else:
        stripes_HWC = _covering(mask_HW, furs[drawn.fur], drawn)
    mask_HW1 = mask_HW[..., None]
    made_HWC = horse_HWC * (1 - mask_HW1) + stripes_HWC * mask_HW1
    box = _box_around(mask_HW, drawn.enlarged)
    both = Image.new("RGB", (2 * _SIDE, _SIDE))
    for left, half_HWC in ((0, horse_HWC), (_SIDE, made_HWC)):
        half = _image(half_HWC).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC, box)
        both.paste(half, (left, 0))
    return both


def _covering(mask_HW: Pixels, fur_SSC: Pixels, drawn: Drawn) -> Pixels:
    """The fur over the box of the mask, or over the whole width of many animals in tiles."""
    rows, columns = np.nonzero(mask_HW > 0.5)
    top, left = rows.min(), columns.min()
    height, width = rows.max() + 1 - top, columns.max() + 1 - left
    side = min(int(drawn.magnified * max(height, width)), 2 * len(fur_SSC))
    tile = _image(fur_SSC[:, ::-1] if drawn.mirrored else fur_SSC)
    tile_SSC = np.asarray(tile.resize((side, side), Image.Resampling.BICUBIC)) / 255.0
    more = [(0, max(0, length - side)) for length in (height, width)]
    covering_HWC = np.pad(tile_SSC, (*more, (0, 0)), mode="reflect")
    stripes_HWC = np.zeros((*mask_HW.shape, 3))
    bottom, right = mask_HW.shape
    covering_HWC = covering_HWC[: bottom - top, : right - left]
    stripes_HWC[top : top + len(covering_HWC), left : left + covering_HWC.shape[1]] = covering_HWC
    return stripes_HWC


def _image(pixels_HWC: Pixels) -> Image.Image:
    return Image.fromarray(np.rint(pixels_HWC * 255).astype(np.uint8))


def _rising(values: Pixels, low: float, high: float) -> Pixels:
    rising: Pixels = np.clip((values - low) / (high - low), 0, 1)
    return rising


def _box_around(mask_HW: Pixels, enlarged: float) -> tuple[int, int, int, int]:
    """The part that is enlarged: left, top, right, bottom."""
    tops_lefts = []
    sides = [round(length / enlarged) for length in mask_HW.shape]
    for centre, side, length in zip(center_of_mass(mask_HW), sides, mask_HW.shape, strict=True):
        tops_lefts.append(int(np.clip(centre - side / 2, 0, length - side)))
    (top, left), (height, width) = tops_lefts, sides
    return left, top, left + width, top + height


def pairs(
    horses: Sequence[Path], translators: Sequence[Translator], furs: Sequence[Pixels], seed: int
) -> Iterator[tuple[str, Image.Image]]:
    """A name and a pair of each photograph with each model, where there are enough stripes."""
    for path in horses:
        x_CHW = to_tensor(read_image(path, 3))
        for number, translator in enumerate(translators):
            rng = np.random.default_rng([seed, number, zlib.crc32(path.stem.encode())])
            drawn = Drawn.of(rng, len(furs))
            made = pair(_pixels(translator(x_CHW)), _pixels(x_CHW), drawn, furs)
            if made is not None:
                yield f"{path.stem}_{number}.png", made


def _pixels(x_CHW: Tensor) -> Pixels:
    """As an 8-bit file holds them."""
    levels_HWC: Pixels = to_uint8(x_CHW).double().permute(1, 2, 0).numpy()
    return levels_HWC / 255


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", action="append", required=True, help="of horses to zebras")
    parser.add_argument("--without", type=Path, help="run whose held-out images are left out")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    held_out = _held_out(options.without) if options.without else set()
    horses, zebras = (
        [path for path in image_files(options.data / folder) if path.name not in held_out]
        for folder in ("trainA", "trainB")
    )
    found = (fur(_pixels(to_tensor(read_image(path, 3)))) for path in zebras)
    furs = [fur_SSC for fur_SSC in found if fur_SSC is not None]
    translators = [Translator.load(model, device="cpu") for model in options.model]
    folder = options.output / "train"
    folder.mkdir(parents=True)
    count = 0
    for name, made in pairs(horses, translators, furs, options.seed):
        made.save(folder / name)
        count += 1
    print(f"{count} pairs of {len(horses)} horses with {len(furs)} furs in `{folder}`")


def _held_out(run: Path) -> set[str]:
    record = read_record(run)
    if record is None:
        raise SystemExit(f"`{run}` does not tell which images it holds out.")
    return {Path(name).name for images in record.values() for name in images.val}


if __name__ == "__main__":
    main()
