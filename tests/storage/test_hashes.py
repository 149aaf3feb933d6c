"""The hash of a file, however large it is."""

from __future__ import annotations

import hashlib
import os

import pytest

from patchkin.storage.hashes import file_sha256


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 5])
def test_a_file_is_summed_whole(tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "a").write_bytes(content)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
