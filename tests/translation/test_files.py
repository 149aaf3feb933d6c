"""Which files are translated, and where their translations go."""

from __future__ import annotations

import pytest

from patchkin.errors import DataError
from patchkin.translation.files import plan


def test_plan_keeps_the_structure_of_folders(tmp_path):
    for name in ("in/a.png", "in/deep/b.jpg", "in/notes.txt", "other/c.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    jobs = plan([str(tmp_path / "in"), str(tmp_path / "oth*" / "*.png")], tmp_path / "out").jobs
    targets = sorted(str(job.target.relative_to(tmp_path)) for job in jobs)
    assert targets == ["out/a.png", "out/c.png", "out/deep/b.jpg"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        plan([str(tmp_path / "empty")], tmp_path / "out")


def test_an_output_that_is_a_file_is_told_before_anything_is_done(tmp_path):
    """Not once for every image."""
    (tmp_path / "a.png").touch()
    (tmp_path / "out").touch()
    with pytest.raises(DataError, match=r"--output `.*/out` is a file; name a folder"):
        plan([str(tmp_path / "a.png")], tmp_path / "out")
