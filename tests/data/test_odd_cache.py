"""An index of decoded images that somebody else wrote."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from patchkin.data.cache.store import Store


def rewritten(index, change):
    """The index with its body changed, and the checksum that goes with it."""
    body = json.loads(index.read_text())["body"]
    change(body)
    text = json.dumps(body, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    index.write_text(json.dumps({"sha256": digest, "body": body}))


def form(body):
    """What it says of the pixels of the first image."""
    return body["entries"][0][-1][0]


ODD = {
    "no entries": lambda body: body.pop("entries"),
    "entries are a number": lambda body: body.update(entries=3),
    "an entry is short": lambda body: body.update(entries=[["a"]]),
    "a path is a number": lambda body: body["entries"][0].__setitem__(0, 3),
    "a place before the file": lambda body: form(body).__setitem__(3, -4),
    "a length that is no number": lambda body: form(body).__setitem__(4, "x"),
    "a shape of other pixels": lambda body: form(body).__setitem__(2, [9, 9, 3]),
    "a type of Python objects": lambda body: form(body).__setitem__(1, "O"),
    "a type that is none": lambda body: form(body).__setitem__(1, "x"),
}


@pytest.fixture
def store(tmp_path):
    Image.fromarray(np.arange(36, dtype=np.uint8).reshape(3, 4, 3)).save(tmp_path / "a.png")
    store = Store(tmp_path / "cache", "set", None, 1)
    (tmp_path / "cache").mkdir()
    store.open([(tmp_path / "a.png", 3)])
    return store


@pytest.mark.parametrize("name", list(ODD))
def test_an_index_with_something_else_is_made_anew(store, tmp_path, name):
    rewritten(store.index, ODD[name])
    images = store.open([(tmp_path / "a.png", 3)])
    picture = images(tmp_path / "a.png", 3)
    np.testing.assert_array_equal(np.asarray(picture.pixels).ravel(), np.arange(36))


@pytest.mark.parametrize("named", ["{elsewhere}", "../precious.pixels", "set.json", "x.pixels"])
def test_no_other_file_is_taken_for_pixels_and_removed(store, tmp_path, named):
    """Pixels that are replaced are removed: an index named any file of the user's."""
    elsewhere = tmp_path / "precious.pixels"
    elsewhere.write_bytes(bytes(36))
    other = tmp_path / "cache" / "x.pixels"
    other.write_bytes(bytes(36))
    Image.new("RGB", (5, 5)).save(tmp_path / "b.png")
    name = named.format(elsewhere=elsewhere)
    rewritten(store.index, lambda body: body.update(pixels=name))
    store.open([(tmp_path / "a.png", 3), (tmp_path / "b.png", 3)])
    assert elsewhere.read_bytes() == other.read_bytes() == bytes(36)
