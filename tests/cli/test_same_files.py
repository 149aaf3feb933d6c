"""`translate`, `data check`, training and `evaluate` see the same files of a folder."""

from __future__ import annotations

import numpy as np
import tifffile
from PIL import Image

from patchkin.data.check import check_data
from patchkin.data.config import DataConfig
from patchkin.data.layouts import find_domains
from patchkin.images.pages import each_page
from patchkin.scoring.held_out import find_held_out
from patchkin.translation.files import plan


def _fill(folder, elsewhere):
    """Three images and a stack of two pages, and all that is none."""
    (folder / "0.png").mkdir(parents=True)
    (folder / "sub" / "@eaDir").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in (
        "a.png",
        "sub/b.jpg",
        "sub/@eaDir/t.jpg",
        ".hidden/h.png",
        "._a.png",
        "0.png/c.png",
    ):
        Image.new("RGB", (16, 16)).save(folder / name)
    tifffile.imwrite(
        folder / "stack.tif", np.zeros((2, 16, 16), np.uint8), photometric="minisblack"
    )
    (folder / "Thumbs.db").write_bytes(b"x")
    elsewhere.mkdir()
    Image.new("RGB", (16, 16)).save(elsewhere / "d.png")
    (folder / "linked").symlink_to(elsewhere, target_is_directory=True)
    (folder / "sub" / "circle").symlink_to(folder, target_is_directory=True)


def test_all_verbs_see_the_same_files(tmp_path):
    root = tmp_path / "set"
    for name in ("trainA", "trainB", "testA", "testB"):
        _fill(root / name, tmp_path / f"elsewhere-{name}")
    expected = {
        *("0.png/c.png", "a.png", "linked/d.png", "sub/b.jpg"),
        *("stack.tif/stack_p000.tif", "stack.tif/stack_p001.tif"),
    }

    def names(files, folder):
        return sorted(path.relative_to(root / folder).as_posix() for path in files)

    jobs = plan([str(root / "testA")], tmp_path / "out").jobs
    assert names(each_page(job.source for job in jobs), "testA") == sorted(expected)
    data = DataConfig(root=str(root))
    domains = find_domains(data)
    assert names(domains.train_a, "trainA") == sorted(expected)
    assert names(find_held_out(data, "test").inputs.files, "testA") == sorted(expected)
    for folder in check_data(root).folders:
        assert (folder.num_images, folder.num_files) == (len(expected), len(expected) - 1)
