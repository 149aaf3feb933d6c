"""Public data sets that `patchkin data download` knows.

A `sha256` of None means that nobody has recorded the hash of the archive: the set is unverified,
its first download needs a hash or consent, its hash is printed and written beside the data, and
other content is refused from then on.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PublicSet:
    """Where an archive is, and what it holds."""

    urls: tuple[str, ...]
    """Tried in order; empty for a set that is only handed out on a page."""
    about: str
    sha256: str | None = None
    """Of the archive; None if not recorded (see above)."""
    page: str = ""
    """Where people get it, if there are no `urls`."""
    domains: tuple[str, ...] = ()
    """Folders below `train` and `val` that patchkin reads, if it has several domains."""


_BERKELEY = "https://efrosgans.eecs.berkeley.edu"


def _cyclegan(name: str, about: str) -> PublicSet:
    return PublicSet((f"{_BERKELEY}/cyclegan/datasets/{name}.zip",), about)


CATALOGUE: dict[str, PublicSet] = {
    "horse2zebra": _cyclegan("horse2zebra", "Horses and zebras, 256 px (ImageNet)."),
    "apple2orange": _cyclegan("apple2orange", "Apples and oranges, 256 px (ImageNet)."),
    "summer2winter_yosemite": _cyclegan("summer2winter_yosemite", "Yosemite by season (Flickr)."),
    "monet2photo": _cyclegan("monet2photo", "Paintings by Monet and landscape photos."),
    "cezanne2photo": _cyclegan("cezanne2photo", "Paintings by Cezanne and landscape photos."),
    "ukiyoe2photo": _cyclegan("ukiyoe2photo", "Ukiyo-e prints and landscape photos."),
    "vangogh2photo": _cyclegan("vangogh2photo", "Paintings by van Gogh and landscape photos."),
    "maps": _cyclegan("maps", "Aerial photos and street maps."),
    "iphone2dslr_flower": _cyclegan("iphone2dslr_flower", "Flowers by phone and by camera."),
    "ae_photos": _cyclegan("ae_photos", "The photos named ae_photos by CycleGAN."),
    "grumpifycat": PublicSet(
        (f"{_BERKELEY}/CUT/datasets/grumpifycat.zip",), "Russian Blue cats and Grumpy Cat (CUT)."
    ),
    "facades": PublicSet(
        (f"{_BERKELEY}/pix2pix/datasets/facades.tar.gz",),
        "Facades and their label maps, side by side (CMP).",
    ),
    "seasons": PublicSet(
        (),
        "The Alps by season: the Seasons of Jung et al. 2022 (ComboGAN).",
        page="https://github.com/AAnoosheh/ComboGAN",
        domains=("spring", "summer", "autumn", "winter"),
    ),
    "weather": PublicSet(
        (),
        "Five kinds of weather: the Weather of Jung et al. 2022 (IEEE DataPort, with an account).",
        page="https://ieee-dataport.org/documents/five-class-weather-image-dataset",
        domains=("sunny", "cloudy", "rainy", "foggy", "snowy"),
    ),
}
