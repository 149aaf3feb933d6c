"""The walk of a microscopist: folders of 16-bit grey stacks, a model, and a stack translated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from patchkin.images.pages import each_page

TINY = (
    *("--size", "32", "--data.load-size", "36", "--workers", "0", "--device", "cpu"),
    *("--ngf", "4", "--ndf", "4", "--blocks", "5", "--method.num-patches", "8"),
    *("--method.head-width", "8", "--method.discriminator.in-channels", "1"),
    *("--method.generator.in-channels", "1", "--method.generator.out-channels", "1"),
)
METADATA = {
    "axes": "ZYX",
    "PhysicalSizeX": 0.108,
    "PhysicalSizeXUnit": "µm",
    "PhysicalSizeY": 0.108,
    "PhysicalSizeYUnit": "µm",
    "PhysicalSizeZ": 0.3,
    "PhysicalSizeZUnit": "µm",
    "Channel": {"Name": ["DAPI"]},
}


def _stack(path: Path, pages: int, *, bright: bool) -> None:
    """Round cells of 12 bits on a dark ground, or the other way round."""
    rng = np.random.default_rng(pages + 100 * bright)
    y, x = np.mgrid[:40, :48]
    stack = rng.normal(300, 40, (pages, 40, 48))
    for page in stack:
        for cy, cx, radius in zip(*rng.uniform(4, 36, (2, 4)), rng.uniform(3, 7, 4), strict=True):
            page[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] += 2500
    stack = np.clip(4095 - stack if bright else stack, 0, 4095).astype(np.uint16)
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path,
        stack,
        ome=True,
        photometric="minisblack",
        compression="lzw",
        resolution=(92592, 92592),
        resolutionunit="CENTIMETER",
        metadata=METADATA,
    )


def _told(path: Path) -> dict[str, object]:
    with tifffile.TiffFile(path) as file:
        series, page = file.series[0], file.pages[0]
        names = ("Compression", "BitsPerSample", "XResolution", "YResolution", "ResolutionUnit")
        words = ("PhysicalSizeX", "PhysicalSizeY", "PhysicalSizeZ", "µm", "DAPI")
        return {
            "kind": series.kind,
            "axes": series.axes,
            "shape": series.shape,
            "dtype": series.dtype,
            **{name: page.tags[name].value for name in names},
            **{word: word in file.ome_metadata for word in words},
        }


@pytest.mark.parametrize("steps", [3, pytest.param(200, marks=pytest.mark.slow)])
def test_stacks_train_a_model_and_a_stack_is_translated_as_it_was(command, tmp_path, steps):
    for domain, number in (("A", 3), ("B", 2)):
        for index in range(number):
            _stack(tmp_path / f"data/train{domain}/{index}.ome.tif", 4, bright=domain == "B")
    code, text, err = command("data", "check", tmp_path / "data")
    assert code == 0, err
    assert "12 pages of 3 files" in text
    run = tmp_path / "run"
    code, _, err = command(
        *("train", "cut", "--data", tmp_path / "data", "--run-dir", run, *TINY),
        *("--data.value-range", "0", "4095", "--steps", steps),
    )
    assert code == 0, err
    _stack(tmp_path / "new.ome.tif", 10, bright=False)
    code, _, err = command("translate", run, tmp_path / "new.ome.tif", "-o", tmp_path / "out")
    assert code == 0, err
    assert "1 translated" in err
    assert "note" not in err
    made = tmp_path / "out" / "new.ome.tif"
    assert _told(made) == _told(tmp_path / "new.ome.tif")
    assert len(each_page([made])) == 10
    assert tifffile.imread(made).max() <= 4095
    if steps == 200:
        mean = tifffile.imread(made).mean()
        assert mean > 2 * tifffile.imread(tmp_path / "new.ome.tif").mean(), "bright, as B is"
