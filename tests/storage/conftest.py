"""A tiny set for runs that take a fraction of a second."""

from __future__ import annotations

import pytest

from patchkin.data.toy import write_toy


@pytest.fixture(scope="session")
def small_toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("small_toy")
    write_toy(root, size=64, train=2, test=2)
    return root
