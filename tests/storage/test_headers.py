"""What a model file says of itself: what is taken, and one line for anything else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from patchkin.errors import CheckpointError
from patchkin.storage.checkpoint import ModelHeader
from patchkin.storage.headers import checked_header

PATH = Path("m.safetensors")
LEAST = {"method": "cut", "config": {}}


def checked(header, newest=2):
    text = header if isinstance(header, str) else json.dumps(header)
    return checked_header(text, PATH, newest=newest)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"step": 0},
        {"step": 2**63 - 1},
        {"size": 1},
        {"size": 65_536},
        {"version": 0},
        {"version": 2},
        {"method": "m" * 100},
        {"config": {"generator": {"ngf": 4}}},
        {"encoding": {}},
        {"encoding": {"domains": ["photo", "d" * 100], "range_a": [0, 1]}},
        {"encoding": {"typical_sizes": None}},
        {"encoding": {"typical_sizes": [None, [640, 480]]}},
        {"encoding": {"typical_sizes": [[1, 1], None]}},
    ],
)
def test_what_is_taken_comes_as_it_is(more):
    assert checked(LEAST | more) == LEAST | more


def test_a_size_of_two_comes_as_numbers_that_belong_together():
    assert checked(LEAST | {"size": [1, 65_536]})["size"] == (1, 65_536)


def test_what_is_written_is_taken():
    header = ModelHeader(
        method="cut", config={"a": 1}, step=7, size=(32, 64), encoding={"domains": ["x", "y"]}
    )
    assert ModelHeader.from_metadata(header.to_metadata(), PATH) == header
    assert (ModelHeader(**LEAST).size, ModelHeader(**LEAST).step) == (256, 0)


SIDES = "expected is one or two whole numbers from 1 to 65536"
WHOLE = "expected is a whole number"
ENTRIES = "expected is entries by name, with names and sizes of domains"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("<html>", "is no JSON (Expecting value: line 1 column 1 (char 0))"),
        ("[" * 100_000, "is no JSON (it is nested too deeply)"),
        ([LEAST], "is a list in place of entries by name"),
        (None, "is null in place of entries by name"),
        (True, "is true or false in place of entries by name"),
        (3, "is a number in place of entries by name"),
        (LEAST | {"version": "2"}, "has the version '2'"),
        (LEAST | {"version": -1}, "has the version -1"),
        (LEAST | {"version": True}, "has the version True"),
        (LEAST | {"version": "x" * 90}, f"has the version '{'x' * 39}"),
        (LEAST | {"run": 1, "a": 2}, "has the entry `a`, which is not known"),
        ({"config": {}}, "lacks the entry `method`"),
        ({"method": "cut"}, "lacks the entry `config`"),
        ({}, "lacks the entry `method`"),
        (LEAST | {"method": ""}, "has the method ''; expected is a name"),
        (LEAST | {"method": 3}, "has the method 3; expected is a name"),
        (LEAST | {"method": "m" * 101}, f"has the method '{'m' * 59}; expected is a name"),
        (LEAST | {"method": "a\nb"}, r"has the method 'a\nb'; expected is a name"),
        (LEAST | {"config": []}, "has the config of the type list; expected is settings by name"),
        (LEAST | {"step": -1}, f"has the step -1; {WHOLE}"),
        (LEAST | {"step": 1.5}, f"has the step 1.5; {WHOLE}"),
        (LEAST | {"step": False}, f"has the step False; {WHOLE}"),
        (LEAST | {"step": 2**63}, f"has the step {2**63}; {WHOLE}"),
        (LEAST | {"step": 2**64 - 1}, f"has the step {2**64 - 1}; {WHOLE}"),
        (LEAST | {"step": 2**64}, f"has the step of the type int; {WHOLE}"),
        (LEAST | {"step": -(2**64)}, f"has the step of the type int; {WHOLE}"),
        (LEAST | {"size": 0}, f"has the size 0; {SIDES}"),
        (LEAST | {"size": 65_537}, f"has the size 65537; {SIDES}"),
        (LEAST | {"size": True}, f"has the size True; {SIDES}"),
        (LEAST | {"size": [32]}, f"has the size of the type tuple; {SIDES}"),
        (LEAST | {"size": [32, 32, 32]}, f"has the size of the type tuple; {SIDES}"),
        (LEAST | {"size": [32, 0]}, f"has the size of the type tuple; {SIDES}"),
        (LEAST | {"encoding": [1]}, f"has the encoding of the type list; {ENTRIES}"),
        *(
            (LEAST | {"encoding": encoding}, f"has the encoding of the type dict; {ENTRIES}")
            for encoding in (
                {"domains": "photo"},
                {"domains": ["photo", ""]},
                {"typical_sizes": {"a": 1, "b": 2}},
                {"typical_sizes": [None]},
                {"typical_sizes": [None, None, None]},
                {"typical_sizes": [None, 5]},
                {"typical_sizes": [None, [640]]},
                {"typical_sizes": [[640, 0], None]},
                {"typical_sizes": [[640, "480"], None]},
            )
        ),
    ],
)
def test_what_is_not_taken_is_one_line(header, said):
    with pytest.raises(CheckpointError) as caught:
        checked(header)
    assert str(caught.value) == f"`m.safetensors` cannot be read as a model: its header {said}."


def test_a_newer_version_is_told_from_a_wrong_one():
    with pytest.raises(CheckpointError) as caught:
        checked(LEAST | {"version": 3, "unknown": 1})
    assert str(caught.value) == "`m.safetensors` was written by a newer patchkin; update patchkin."
    assert checked(LEAST | {"version": 3}, newest=3)["version"] == 3


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_a_file_of_another_project_is_told(metadata):
    with pytest.raises(CheckpointError, match="but no patchkin model: it names no method"):
        ModelHeader.from_metadata(metadata, PATH)
