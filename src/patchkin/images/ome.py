"""The XML of an OME-TIFF, made to fit the pages that are written."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping

_DIMENSIONS = "XYZCT"
_TYPES = {"float32": "float", "float64": "double"}


def fitted_ome(
    xml: str, outer: str, sizes: Mapping[str, int], *, samples: int, dtype: str
) -> str | None:
    """The description of one stack, with everything that it says beside its planes.

    Args:
        xml: of the input.
        outer: axes of the planes (Z, C, T), slowest first.
        sizes: of these, and of X and Y.
        samples: of a pixel in each plane.
        dtype: of the pixels.

    Returns:
        XML; None where it describes several stacks, or axes that it cannot name.
    """
    if not set(outer) <= set("ZCT"):
        return None
    try:
        root = ET.fromstring(xml)
    except ET.ParseError:
        return None
    space = root.tag[: root.tag.find("}") + 1]
    images = root.findall(f"{space}Image")
    pixels = images[0].find(f"{space}Pixels") if len(images) == 1 else None
    if pixels is None:
        return None
    for prefix, name in (("", space), ("xsi", "{http://www.w3.org/2001/XMLSchema-instance}")):
        ET.register_namespace(prefix, name.strip("{}"))
    order = "XY" + outer[::-1]
    order += "".join(axis for axis in _DIMENSIONS if axis not in order)
    planes = sizes.get("C", 1)
    pixels.set("DimensionOrder", order)
    for axis in "XYZT":
        pixels.set(f"Size{axis}", str(sizes.get(axis, 1)))
    pixels.set("SizeC", str(planes * samples))
    pixels.set("Type", _TYPES.get(dtype, dtype))
    for name in ("BigEndian", "Interleaved", "SignificantBits"):
        pixels.attrib.pop(name, None)
    if samples > 1:
        pixels.set("Interleaved", "true")
    _set_channels(pixels, space, planes, samples)
    _set_planes(pixels, space, sizes)
    return '<?xml version="1.0" encoding="UTF-8"?>' + ET.tostring(root, encoding="unicode")


def _set_channels(pixels: ET.Element, space: str, planes: int, samples: int) -> None:
    channels = pixels.findall(f"{space}Channel")
    if len(channels) != planes:  # other channels than those of the input
        for channel in channels:
            pixels.remove(channel)
        channels = [
            ET.Element(f"{space}Channel", {"ID": f"Channel:0:{number}"}) for number in range(planes)
        ]
        for place, channel in enumerate(channels):
            pixels.insert(place, channel)
    for channel in channels:
        channel.set("SamplesPerPixel", str(samples))


def _set_planes(pixels: ET.Element, space: str, sizes: Mapping[str, int]) -> None:
    """One block of all planes, in order; what is said of planes that are gone goes too."""
    for name in ("TiffData", "BinData", "MetadataOnly"):
        for element in pixels.findall(f"{space}{name}"):
            pixels.remove(element)
    number = sizes.get("Z", 1) * sizes.get("C", 1) * sizes.get("T", 1)
    block = ET.Element(f"{space}TiffData", {"IFD": "0", "PlaneCount": str(number)})
    children = [child.tag for child in pixels]
    last = max((n for n, tag in enumerate(children) if tag == f"{space}Channel"), default=-1)
    pixels.insert(last + 1, block)
    for plane in pixels.findall(f"{space}Plane"):
        if not all(_is_place(plane.get(f"The{axis}", "0"), sizes.get(axis, 1)) for axis in "ZCT"):
            pixels.remove(plane)


def _is_place(text: str, number: int) -> bool:
    """Whether a text is a whole number below another."""
    return text.isascii() and text.isdigit() and len(text) < 10 and int(text) < number
