"""Records of models that are known by name: what is read is what was written, or refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from patchkin.errors import CheckpointError
from patchkin.storage import shipped
from patchkin.storage.shipped.records import (
    MeasuredScore,
    MeasuredSpeed,
    Record,
    read_record,
)

FULL = Record(
    name="zebras",
    direction="horses to zebras",
    method="cut",
    parameters=12,
    size=128,
    macs=3_000,
    macs_256=12_000,
    bytes=99,
    sha256="ab" * 32,
    hub="me/zebras@v1",
    scores=(
        MeasuredScore(
            name="squeezenet-256/frechet",
            meaning="Frechet distance (less is better)",
            protocol="squeezenet-256",
            value=12.5,
            released=20,
            command="patchkin evaluate zebras --data d",
        ),
    ),
    compared_with="another",
    speed=MeasuredSpeed(pixels=256, machine="one core", command="c", torch_ms=10.0),
    data="photographs",
    data_licence="none",
    limits=("Horses only.",),
)


def written(folder, content):
    path = folder / "zebras" / "model.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def refused(folder, content):
    path = written(folder, content)
    with pytest.raises(CheckpointError) as caught:
        read_record(path)
    line = str(caught.value)
    assert line.isprintable()
    assert line.startswith(f"`{path}` is no record of a model: ")
    assert len(line) < 300 + len(str(path))
    return line


def test_what_is_written_is_read(tmp_path):
    path = written(tmp_path, FULL.to_text().encode())
    assert read_record(path) == FULL


def test_what_nobody_measured_is_null_and_may_be_absent(tmp_path):
    bare = Record(name="zebras")
    plain = json.loads(bare.to_text())
    assert {name for name, value in plain.items() if value is not None} == {
        "name",
        "scores",
        "limits",
    }
    assert read_record(written(tmp_path, plain)) == bare
    assert read_record(written(tmp_path, {"name": "zebras"})) == bare


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe{", "codec can't decode"),
        (b"[" * 100_000, "nested too deeply"),
        ([], "a list stands in place of entries by name"),
        (7, "a int stands"),
        ({}, "it lacks the entry `name`"),
        ({"name": "others"}, "it is of `others`"),
        ({"name": "../../zebras"}, "it is of `../../zebras`"),
        ({"name": 3}, "its `name` is not a line of text"),
        ({"name": "zebras\x1b[2J"}, "its `name` is not a line of text"),
    ],
)
def test_what_is_no_record(tmp_path, content, said):
    assert said in refused(tmp_path, content)


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ("colour", 1, "the entry `colour` is not known"),
        ("colour\x1b" + "x" * 5_000, 1, "is not known"),
        ("parameters", 0, "`parameters` is not a positive whole number"),
        ("parameters", -5, "`parameters` is not a positive whole number"),
        ("parameters", True, "`parameters` is not a positive whole number"),
        ("bytes", 1.5, "`bytes` is not a positive whole number"),
        ("macs", 10**400, "`macs` is not a positive whole number"),
        ("sha256", "AB" * 32, "64 digits in hexadecimal"),
        ("sha256", "ab" * 31, "64 digits in hexadecimal"),
        ("sha256", 7, "64 digits in hexadecimal"),
        ("hub", "zebras", "`hub` is not OWNER/NAME"),
        ("hub", "../../etc", "`hub` is not OWNER/NAME"),
        ("hub", "me/zebras@", "`hub` is not OWNER/NAME"),
        ("hub", "https://elsewhere/me/zebras", "`hub` is not OWNER/NAME"),
        ("scores", {}, "`scores` is not a list"),
        ("scores", [3], "a int stands in place"),
        ("scores", [{"name": "f"}], "it lacks the entry `meaning`"),
        ("speed", [], "`speed` is not entries by name"),
        ("speed", {"pixels": 256, "machine": "m"}, "it lacks the entry `command`"),
        ("limits", "none", "`limits` is not lines"),
        ("limits", ["two\nlines"], "`limits` is not lines"),
        ("direction", "x" * 2_001, "`direction` is not a line of text"),
        ("data", "", "`data` is not a line of text"),
    ],
)
def test_an_entry_that_is_wrong(tmp_path, entry, value, said):
    assert said in refused(tmp_path, {"name": "zebras", entry: value})


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", '"5"', "true"])
def test_a_score_is_a_finite_number(tmp_path, number):
    text = FULL.to_text().replace("12.5", number)
    assert "its `value` is not a finite number" in refused(tmp_path, text.encode())


@pytest.mark.parametrize("number", ["0", "-1.0", "NaN"])
def test_a_time_is_positive(tmp_path, number):
    text = FULL.to_text().replace("10.0", number)
    assert "its `torch_ms` is not a positive number" in refused(tmp_path, text.encode())


def test_a_record_that_cannot_be_read(tmp_path):
    (tmp_path / "zebras" / "model.json").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="cannot be read: "):
        read_record(tmp_path / "zebras" / "model.json")


def test_records_of_the_package_are_of_the_files_beside_them():
    """Bytes and hash; parameters and multiply-accumulates are counted in `benchmarks`' tests."""
    names = shipped.shipped_names()
    assert names
    for name in names:
        record = shipped.find_record(name)
        file = shipped.FOLDER / name / shipped.MODEL_FILE
        assert record.bytes == file.stat().st_size
        assert shipped.file_of(record) == file  # whose hash it compares
        assert record.scores
        card = (file.parent / shipped.CARD_FILE).read_text(encoding="utf-8")
        assert record.sha256 in card
        for score in record.scores:
            row = f"| {score.meaning} | {score.protocol} | {score.value:.4g} |"
            if record.compared_with is not None:
                row += " - |" if score.released is None else f" {score.released:.4g} |"
            assert row in card, row
            assert score.command in card


def test_the_package_brings_less_than_five_megabytes():
    files = [shipped.FOLDER / name / shipped.MODEL_FILE for name in shipped.shipped_names()]
    assert 0 < sum(file.stat().st_size for file in files) < 5_000_000


def test_a_score_that_is_no_number_is_not_written():
    for value in (math.nan, math.inf):
        record = replace(FULL, scores=(replace(FULL.scores[0], value=value),))
        with pytest.raises(ValueError, match="not JSON compliant"):
            record.to_text()


def test_times_of_less_than_a_millisecond_and_those_that_nobody_took(tmp_path):
    speed = {"pixels": 1, "machine": "m", "command": "c", "onnxruntime_ms": 0.25}
    read = read_record(written(tmp_path, {"name": "zebras", "speed": speed})).speed
    assert read == MeasuredSpeed(pixels=1, machine="m", command="c", onnxruntime_ms=0.25)
    assert (read.torch_ms, read.onnxruntime_times_as_fast) == (None, None)


def test_the_largest_count(tmp_path):
    largest = {"name": "zebras", "macs": 2**63 - 1}
    assert read_record(written(tmp_path, largest)).macs == 2**63 - 1
    assert "`macs` is not a positive" in refused(tmp_path, {"name": "zebras", "macs": 2**63})
