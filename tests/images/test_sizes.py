"""The size of a file that is damaged is not known before it is decoded."""

from __future__ import annotations

import numpy as np
import pytest

from patchkin.images.sizes import image_size


@pytest.mark.parametrize("head", [b"{'descr': '|u1'", b"(((", b"'", b"{'shape': (3,"])
def test_a_damaged_head_of_an_array(tmp_path, head):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((5, 7), np.uint8))
    assert image_size(path) == (7, 5)
    content = path.read_bytes()
    path.write_bytes(content[:10] + head.ljust(118) + content[128:])
    assert image_size(path) is None
