"""What a translation keeps of its input's file: pages, depth, compression, tags, alpha, colours."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image, ImageCms

from patchkin.errors import ConfigError
from patchkin.images import read_image
from patchkin.images.container import container_of
from patchkin.images.ome import fitted_ome
from patchkin.images.pages import each_page
from patchkin.images.saving import Page, write_pages

RGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _stack(*shape: int, dtype: type = np.uint16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def _pages(path: Path) -> list[Page]:
    pages = []
    for page in each_page([path]):
        picture = read_image(page)
        levels = picture.pixels
        if isinstance(levels, Image.Image):
            array = np.asarray(levels)
            levels = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        pages.append(Page(levels, picture.alpha))
    return pages


def _copied(path: Path, target: Path, **options: int) -> list[str]:
    """Written with the pixels that were read."""
    return write_pages(target, _pages(path), container_of(path), **options)


def _same(one: Path, other: Path) -> None:
    pages = list(zip(_pages(one), _pages(other), strict=True))
    assert pages
    for first, second in pages:
        assert first.levels.dtype == second.levels.dtype
        assert np.array_equal(first.levels, second.levels)
        assert (first.alpha is None) == (second.alpha is None)
        assert first.alpha is None or np.array_equal(first.alpha, second.alpha)


OME = {
    "ome": True,
    "compression": "lzw",
    "photometric": "minisblack",
    "resolution": (20000, 20000),
    "resolutionunit": "CENTIMETER",
}
OME_METADATA = {
    "PhysicalSizeX": 0.5,
    "PhysicalSizeXUnit": "µm",
    "Channel": {"Name": ["DAPI", "GFP"]},
    "Description": "a scan",
}


def _tags(path: Path) -> dict[str, object]:
    with tifffile.TiffFile(path) as file:
        page, series = file.pages[0], file.series[0]
        names = ("Compression", "Predictor", "XResolution", "ResolutionUnit", "TileWidth")
        return {
            "kind": series.kind,
            "axes": series.axes,
            "shape": series.shape,
            "dtype": series.dtype,
            "big": file.is_bigtiff,
            "order": file.byteorder,
            **{name: page.tags[name].value for name in names if name in page.tags},
        }


def test_an_ome_stack_keeps_axes_channels_compression_and_description(tmp_path):
    metadata = {"axes": "TCYX", **OME_METADATA}
    tifffile.imwrite(tmp_path / "a.tif", _stack(5, 2, 9, 13), metadata=metadata, **OME)
    assert _copied(tmp_path / "a.tif", tmp_path / "b.tif") == []
    _same(tmp_path / "a.tif", tmp_path / "b.tif")
    assert _tags(tmp_path / "a.tif") == _tags(tmp_path / "b.tif")
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        xml = file.ome_metadata
    for words in ('PhysicalSizeX="0.5"', "µm", 'Name="DAPI"', 'Name="GFP"', "a scan"):
        assert words in xml


def test_an_ome_stack_with_other_channels_describes_them(tmp_path):
    metadata = {"axes": "ZYX", "PhysicalSizeZ": 2.0}
    tifffile.imwrite(tmp_path / "a.tif", _stack(4, 9, 13), metadata=metadata, **OME)
    three = [Page(np.concatenate([page.levels] * 3)) for page in _pages(tmp_path / "a.tif")]
    assert write_pages(tmp_path / "b.tif", three, container_of(tmp_path / "a.tif")) == []
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert (file.series[0].kind, file.series[0].axes) == ("ome", "ZYXS")
        assert file.series[0].shape == (4, 9, 13, 3)
        assert 'PhysicalSizeZ="2.0"' in file.ome_metadata


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "zstd"])
def test_an_imagej_stack_keeps_spacing_and_labels(tmp_path, compression):
    array = _stack(3, 2, 9, 13)
    metadata = {"axes": "ZCYX", "spacing": 2.5, "unit": "um", "finterval": 0.3, "Info": "by hand"}
    tifffile.imwrite(
        tmp_path / "a.tif",
        array,
        imagej=True,
        compression=compression,
        metadata=metadata,
        resolution=(3.5, 3.5),
    )
    assert _copied(tmp_path / "a.tif", tmp_path / "b.tif") == []
    _same(tmp_path / "a.tif", tmp_path / "b.tif")
    assert _tags(tmp_path / "a.tif") == _tags(tmp_path / "b.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as one, tifffile.TiffFile(tmp_path / "b.tif") as two:
        assert one.imagej_metadata == two.imagej_metadata


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (16, 16), "compression": "zlib", "predictor": True},
        {"bigtiff": True, "byteorder": ">"},
        {"photometric": "rgb", "planarconfig": "separate"},
        {"photometric": "rgb", "extrasamples": ["unassalpha"]},
        {"photometric": "rgb", "extrasamples": ["unspecified"]},
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_layouts_of_a_tiff(tmp_path, options, dtype):
    samples = 3 + len(options.get("extrasamples", ()))
    shape = {"separate": (samples, 33, 21), None: (33, 21, samples)}[options.get("planarconfig")]
    array = _stack(*shape, dtype=dtype)
    options = {"photometric": "rgb", **options}
    tifffile.imwrite(tmp_path / "a.tif", array, metadata=None, **options)
    assert _copied(tmp_path / "a.tif", tmp_path / "b.tif") == []
    _same(tmp_path / "a.tif", tmp_path / "b.tif")
    assert _tags(tmp_path / "a.tif") == _tags(tmp_path / "b.tif")


def test_a_georeference_and_words_are_kept(tmp_path):
    tags = [
        (33550, 12, 3, (0.5, 0.5, 0.0), True),
        (33922, 12, 6, (0.0, 0.0, 0.0, 500000.0, 4600000.0, 0.0), True),
        (34735, 3, 8, (1, 1, 0, 1, 1024, 0, 1, 1), True),
        (42113, 2, 5, "-999", True),
        (65000, 3, 1, 7, True),
    ]
    tifffile.imwrite(
        tmp_path / "a.tif",
        _stack(9, 13),
        metadata=None,
        description="a tile",
        software="a satellite",
        datetime="2026:11:26 10:00:00",
        extratags=tags,
    )
    (note,) = _copied(tmp_path / "a.tif", tmp_path / "b.tif")
    assert note == "TIFF tags that are not carried over: 65000 65000"
    with tifffile.TiffFile(tmp_path / "a.tif") as one, tifffile.TiffFile(tmp_path / "b.tif") as two:
        for code in (270, 305, 306, 33550, 33922, 34735, 42113):
            assert one.pages[0].tags[code].value == two.pages[0].tags[code].value


def test_tags_that_are_damaged_are_left_out_and_told(tmp_path):
    """A resolution of 0/0, and words that are not of 7 bits."""
    path, target = tmp_path / "a.tif", tmp_path / "b.tif"
    tifffile.imwrite(
        path, _stack(9, 13), metadata=None, resolution=(300, 300), resolutionunit="INCH",
        software="a café".encode(), datetime="2026:11:26 10:00:00",
    )  # fmt: skip
    with tifffile.TiffFile(path) as file:
        places = [file.pages[0].tags[code].valueoffset for code in (282, 283)]
    content = bytearray(path.read_bytes())
    for place in places:
        content[place : place + 8] = bytes(8)
    path.write_bytes(content)
    assert _copied(path, target) == ["its resolution is not kept: it is damaged"]
    _same(path, target)
    with tifffile.TiffFile(target) as file:
        tags = file.pages[0].tags
        assert tags[305].value == "a café"
        assert tags[306].value == "2026:11:26 10:00:00"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".avif", ".tif", ".heic"])
def test_profile_resolution_and_exif(tmp_path, suffix):
    if suffix == ".heic":
        pillow_heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    image = Image.fromarray(np.tile(np.arange(32, dtype=np.uint8) * 8, (16, 1))).convert("RGB")
    options = {} if suffix in (".webp", ".avif", ".heic") else {"dpi": (300, 300)}
    options |= {} if suffix == ".tif" else {"exif": exif}
    image.save(tmp_path / f"a{suffix}", icc_profile=RGB_PROFILE, **options)
    assert _copied(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}") == []
    with Image.open(tmp_path / f"b{suffix}") as copy:
        assert copy.info["icc_profile"] == RGB_PROFILE
        if "dpi" in options:
            assert copy.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        if suffix != ".tif":
            assert copy.getexif()[0x010F] == "a camera"
            assert copy.getexif().get(0x0112, 1) == 1
            if suffix != ".heic":  # pillow-heif stores no orientation
                assert copy.size == (16, 32), "upright"


def test_a_profile_of_other_colours_is_not_kept_and_this_is_said(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", icc_profile=RGB_PROFILE)
    grey = [Page(np.zeros((1, 8, 8), np.uint8))]
    (note,) = write_pages(tmp_path / "b.png", grey, container_of(tmp_path / "a.png"))
    assert note == "its colour profile is not kept: it is of other colours than the translation"


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".tga", ".jp2"])
def test_alpha_is_put_back_unchanged(tmp_path, mode, suffix):
    array = _stack(9, 13, len(mode), dtype=np.uint8)
    Image.fromarray(array, mode if mode == "RGBA" else None).save(
        tmp_path / f"a{suffix}", **({"lossless": True, "exact": True} if suffix == ".webp" else {})
    )
    assert _copied(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}") == []
    one, two = _pages(tmp_path / f"a{suffix}"), _pages(tmp_path / f"b{suffix}")
    assert np.array_equal(one[0].alpha, array[:, :, -1])
    assert np.array_equal(one[0].alpha, two[0].alpha)


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_of_16_bit_png(tmp_path, channels):
    array = _stack(9, 13, channels)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(array))
    assert _copied(tmp_path / "a.png", tmp_path / "b.png") == []
    assert np.array_equal(imagecodecs.png_decode((tmp_path / "b.png").read_bytes()), array)


def test_alpha_that_a_format_cannot_hold_is_said(tmp_path):
    Image.new("RGBA", (8, 8)).save(tmp_path / "a.png")
    (note,) = _copied(tmp_path / "a.png", tmp_path / "b.jpg")
    assert note == "alpha not kept: .jpg has no place for it"


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_an_animation_keeps_its_frames_and_durations(tmp_path, suffix):
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "lime", "blue")]
    durations = [100, 200, 50]
    options = {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(
        tmp_path / f"a{suffix}",
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=3,
        **options,
    )
    assert _copied(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}") == []
    with Image.open(tmp_path / f"b{suffix}") as copy:
        found = []
        for page in range(copy.n_frames):
            copy.seek(page)
            copy.load()
            found.append(copy.info["duration"])
        assert (found, copy.info["loop"]) == (durations, 3)


def test_what_is_beside_the_pages_is_not_dropped_silently(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(_stack(64, 64), subifds=1, metadata=None)
        file.write(_stack(32, 32), subfiletype=1, metadata=None)
    assert _copied(tmp_path / "a.tif", tmp_path / "b.tif") == [
        "its reduced copies are not carried over"
    ]
    assert len(_pages(tmp_path / "b.tif")) == 1
    frames = [Image.new("RGB", (8, 8)), Image.new("RGB", (4, 4))]
    frames[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert "the other pictures of the JPEG (MPO) are not carried over" in _copied(
        tmp_path / "a.jpg", tmp_path / "b.jpg"
    )


def test_several_pages_are_not_written_into_a_format_of_one(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", _stack(3, 9, 13), photometric="minisblack")
    for suffix in (".png", ".jpg", ".npy"):
        with pytest.raises(ConfigError, match="use --format tif, or --pages first"):
            _copied(tmp_path / "a.tif", tmp_path / f"b{suffix}")


def test_quality_is_that_of_the_file(tmp_path):
    Image.effect_noise((64, 64), 80).save(tmp_path / "a.png")
    sizes = []
    for quality in (10, 50, 95):
        _copied(tmp_path / "a.png", tmp_path / "b.jpg", quality=quality)
        sizes.append((tmp_path / "b.jpg").stat().st_size)
    assert sizes == sorted(sizes)
    assert sizes[0] * 3 < sizes[2]


@pytest.mark.parametrize("place", ["x", "-1", "1.5", "1", "9" * 5000, "\u0663"])
def test_planes_of_an_ome_tiff_that_are_not_there_are_left_out(place):
    space = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    xml = (
        f'<OME xmlns="{space}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" '
        f'SizeZ="2"><Channel ID="Channel:0:0"/><Plane TheZ="0"/><Plane TheZ="{place}"/></Pixels>'
        "</Image></OME>"
    )
    fitted = fitted_ome(xml, "Z", {"Z": 1, "Y": 4, "X": 4}, samples=1, dtype="uint16")
    assert fitted.count("<Plane ") == 1
    assert 'TheZ="0"' in fitted
