"""Pages stay small, however long a run was and however large its pictures are."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from patchkin.cli import main
from patchkin.scoring.pages import all_embedded
from patchkin.scoring.report import MOST_GALLERIES, MOST_PREVIEWS, write_report

LIMIT = 3_000_000


def png(array_HWC):
    buffer = io.BytesIO()
    Image.fromarray(array_HWC).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def noise(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return png(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def slope(height, width):
    rows, columns = np.mgrid[0:height, 0:width]
    levels = [rows * 230 // height, columns * 230 // width, (rows + columns) * 0]
    grain = np.random.default_rng(0).integers(0, 17, (height, width, 3))
    return (np.stack(levels, axis=2) + grain).astype(np.uint8)


def content(address):
    kind, _, text = address.partition(";base64,")
    return kind, base64.b64decode(text)


def test_pictures_that_fit_stay_as_they_are():
    pictures = [png(slope(20, 30)), noise(10, 10)]
    addresses, smaller = all_embedded(pictures, room=sum(map(len, pictures)))
    assert [content(address) for address in addresses] == [("data:image/png", p) for p in pictures]
    assert not smaller
    assert all_embedded([], room=0) == ([], False)


def test_what_small_pictures_leave_is_for_the_large_ones():
    pictures = [noise(300, 400, seed) for seed in range(3)]
    pictures.insert(1, noise(10, 10))
    room = 150_000
    addresses, smaller = all_embedded(pictures, room=room)
    kinds, contents = zip(*map(content, addresses), strict=True)
    assert smaller
    assert kinds == ("data:image/jpeg", "data:image/png", "data:image/jpeg", "data:image/jpeg")
    assert contents[1] == pictures[1]
    assert room / 2 < sum(map(len, contents)) <= room


def test_a_smaller_picture_shows_the_same():
    array_HWC = slope(600, 900)
    whole = png(array_HWC)
    (address,), _ = all_embedded([whole], room=len(whole) // 20)
    kind, made = content(address)
    assert kind == "data:image/jpeg"
    assert len(made) <= len(whole) // 20
    with Image.open(io.BytesIO(made)) as image:
        assert image.width / image.height == pytest.approx(1.5, rel=0.02)
        shown = np.asarray(image.resize((900, 600)), float)
    assert np.abs(shown - array_HWC)[:, :, :2].mean() < 6  # the grain alone is 4


def test_nothing_is_left_of_a_large_picture_that_cannot_be_read():
    whole = noise(300, 300)
    addresses, _ = all_embedded([whole[: len(whole) // 2], whole], room=100_000)
    assert content(addresses[0]) == ("data:image/png", b"")
    assert len(content(addresses[1])[1]) > 10_000


def test_the_pages_of_a_long_run_of_large_images(run_copy, tmp_path):
    log = run_copy / "log.jsonl"
    last = json.loads(log.read_text().splitlines()[-1])
    terms = {f"G.term{number}": 0.1 for number in range(12)}
    with log.open("a") as file:
        for step in range(10, 30_010, 10):
            varied = {name: value + step % 70 for name, value in terms.items()}
            file.write(json.dumps({**last, "step": step, "terms": varied}) + "\n")
    picture = noise(700, 700)
    for step in range(10, 20):
        (run_copy / "previews" / f"step_{step:08d}.png").write_bytes(picture)
    for folder in ("evaluation", "inspection"):
        (run_copy / folder).mkdir()
        for number in range(MOST_GALLERIES + 2):
            (run_copy / folder / f"step_{number:08d}_test.png").write_bytes(picture)
    page = write_report(run_copy).read_text()
    assert len(page) < LIMIT
    assert page.count("data:image/jpeg") > MOST_PREVIEWS + MOST_GALLERIES
    assert "shown smaller" in page
    assert "Step 13, test images" in page  # the last ones of many
    assert "Step 1, test images" not in page
    comparison = tmp_path / "comparison.html"
    assert main(["compare", *[str(run_copy)] * 2, "--output", str(comparison)]) == 0
    assert comparison.stat().st_size < LIMIT
    assert comparison.read_text().count("data:image/jpeg") == 2
