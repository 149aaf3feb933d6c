"""A result is found by all it is of, so that none takes the place of another."""

from __future__ import annotations

import copy
import itertools
import json
import logging

import pytest

from patchkin.errors import DataError
from patchkin.scoring.results import Result, read_results, result_key, write_result

_OF_MODEL = ("step", "sha256", "weights", "precision")


def a_result(score: float = 1.0, **changed) -> Result:
    told = {
        "root": "toy", "direction": "AtoB", "split": "test", "protocol": "p", "step": 3,
        "sha256": "a" * 64, "weights": "live", "precision": "32-true", **changed,
    }  # fmt: skip
    return Result(
        scores={"change": score},
        warnings=(),
        protocols={told["protocol"]: {"extractor_sha256": told.get("extractor", "b")}},
        subject={"model": "run", **{name: told[name] for name in _OF_MODEL}},
        data={name: told[name] for name in ("root", "direction", "split")},
        evaluation={"classes": told.get("classes", [])},
    )


CHANGES = (
    {"root": "/elsewhere"},
    {"direction": "BtoA"},
    {"split": "val, also used for selection"},
    {"protocol": "q"},
    {"extractor": "c"},
    {"step": 4},
    {"sha256": "c" * 64},
    {"weights": "averaged"},
    {"precision": "bf16-mixed"},
    {"classes": [340]},
)


def test_no_result_replaces_one_of_anything_else(tmp_path):
    path = tmp_path / "scores.json"
    for number, changed in enumerate(({}, *CHANGES)):
        write_result(a_result(float(number), **changed), path)
    scores = [entry["scores"]["change"] for entry in read_results(path)]
    assert scores == [float(number) for number in range(1 + len(CHANGES))]
    for changed in ({}, *CHANGES):  # the same once more
        write_result(a_result(50.0, **changed), path)
    assert [entry["scores"]["change"] for entry in read_results(path)] == [50.0] * (
        1 + len(CHANGES)
    )


def test_the_key_stands_in_the_file_and_names_what_it_is_of(tmp_path):
    path = tmp_path / "scores.json"
    write_result(a_result(), path)
    (entry,) = json.loads(path.read_text())
    assert entry["key"] == {
        "data": "toy",
        "direction": "AtoB",
        "split": "test",
        "protocol": {"p": "b"},
        "checkpoint": {"step": 3, "sha256": "a" * 64},
        "weights": "live",
        "precision": "32-true",
        "asked": {},
        "samples": None,
        "value_ranges": None,
    }


def test_one_set_has_one_name_from_wherever_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "sets").mkdir()
    monkeypatch.chdir(tmp_path)
    relative = {"scores": {}, "data": {"root": "sets"}, "subject": {}}
    absolute = {"scores": {}, "data": {"root": str(tmp_path / "sets")}, "subject": {}}
    assert result_key(relative) == result_key(absolute)


@pytest.fixture
def old_file(tmp_path):
    """As version 0.1 wrote it: no key, and nothing of weights or of the file of the model."""
    entries = []
    for step, split in itertools.product((1, 2), ("test", "val")):
        entry = copy.deepcopy(a_result(float(step)).__dict__)
        del entry["gallery"]
        entry["data"]["split"] = split
        entry["subject"] = {"model": "run", "method": "cut", "step": step}
        entries.append(entry)
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(entries))
    return path


def test_files_of_earlier_versions_are_read_and_converted_with_a_line(old_file, caplog):
    known = read_results(old_file)
    assert [entry["key"]["checkpoint"]["step"] for entry in known] == [1, 1, 2, 2]
    assert {entry["key"]["weights"] for entry in known} == {None}
    with caplog.at_level(logging.WARNING):
        write_result(a_result(step=2), old_file)
    assert "4 results of an earlier version are kept" in caplog.text
    converted = json.loads(old_file.read_text())
    assert [entry["key"] for entry in converted[:4]] == [entry["key"] for entry in known]
    assert len(converted) == 5  # the new one knows its weights, and replaces none of these
    caplog.clear()
    write_result(a_result(step=2), old_file)
    assert caplog.text == ""


ODD = {
    "no object": [3],
    "data is a number": [{"scores": {}, "data": 3}],
    "a score is a text": [{"scores": {"change": "x"}, "subject": {}}],
    "a score is huge": [{"scores": {"change": 10**400}, "subject": {}}],
    "the key is a list": [{"scores": {}, "key": []}],
    "images of the key are a list": [{"scores": {}, "key": {"data": ["toy"]}}],
    "a protocol is a text": [{"scores": {}, "protocols": {"p": "x"}}],
    "the folder is a number": [{"scores": {}, "subject": {"folder": 3}}],
    "the model is a number": [{"scores": {}, "subject": {"model": 3}}],
    "the step is a text": [{"scores": {}, "subject": {"step": "x"}}],
    "a place that is not there": [{"scores": {}, "not_finite": {"/scores/x/y": "NaN"}}],
    "a number that is none": [{"scores": {"x": None}, "not_finite": {"/scores/x": "huge"}}],
    "a text": "scores",
}


@pytest.mark.parametrize("name", list(ODD))
def test_entries_that_are_none_are_one_line(tmp_path, name):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(ODD[name]))
    with pytest.raises(DataError, match=r"scores\.json` holds no results: ") as caught:
        read_results(path)
    assert "\n" not in str(caught.value)
