"""What is kept, made anew and refused, by what the record of a folder says."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from patchkin.errors import DataError
from patchkin.translation.files import Job
from patchkin.translation.record import RECORD_FOLDER, Maker, Recorder, Records, makers_of
from patchkin.translation.stale import in_words, sort_jobs

A = Maker(model="runs/a", sha256="aa", method="cut", step=3, options={"direction": "AtoB"})
B = Maker(model="runs/b", sha256="bb", method="cut", step=3, options={"direction": "AtoB"})


@pytest.fixture
def jobs(tmp_path) -> list[Job]:
    """Three images, and their translations made by A."""
    for name in ("x.png", "y.png", "deep/z.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(f"source {name}".encode())
    sources = [tmp_path / "in" / name for name in ("x.png", "y.png", "deep/z.png")]
    made = [Job(path, tmp_path / "out" / path.relative_to(tmp_path / "in")) for path in sources]
    recorder = Recorder(A)
    for job in made:
        _make(job, recorder)
    return made


def _make(job: Job, recorder: Recorder, content: bytes = b"translation") -> None:
    job.target.parent.mkdir(parents=True, exist_ok=True)
    recorder.reads(job.source)
    recorder.begins([job.target])
    job.target.write_bytes(content)
    recorder.made([job.target], job.source, style=job.style)


def _sorted(jobs, maker, **options) -> tuple[int, int, str]:
    chosen = sort_jobs(jobs, maker, **options)
    return len(chosen.todo), len(chosen.kept), in_words(chosen.remade)


def test_what_the_same_model_made_is_kept(jobs):
    assert _sorted(jobs, A) == (0, 3, "")
    elsewhere = Maker(model="copy", sha256="aa", method="cut", options={"direction": "AtoB"})
    assert _sorted(jobs, elsewhere) == (0, 3, "")


def test_what_another_model_made_is_made_anew(jobs):
    words = "3 made anew: 3 made by `runs/a` (cut, step 3, live weights)"
    assert _sorted(jobs, B) == (3, 0, words)
    recorder = Recorder(B)
    _make(jobs[0], recorder, b"by b")
    assert _sorted(jobs, B)[:2] == (2, 1)
    assert _sorted(jobs, A)[:2] == (1, 2), "a file is what its content says, not its last line"


@pytest.mark.parametrize(
    "other",
    [
        Maker(model="runs/a", sha256="aa", method="cut", options={"direction": "BtoA"}),
        Maker(model="runs/a", sha256="aa", method="cut", weights="averaged", options=A.options),
        Maker(model="runs/a", sha256="aa", method="cut", options={**A.options, "resize": 64}),
    ],
)
def test_other_options_make_anew(jobs, other):
    assert _sorted(jobs, other) == (3, 0, "3 made anew: 3 made with other options")


def test_another_style_makes_anew(jobs):
    styled = [Job(job.source, job.target, style="seed 1") for job in jobs]
    assert _sorted(styled, A) == (3, 0, "3 made anew: 3 made with other options")


def test_a_changed_source_makes_anew_and_a_touched_one_does_not(jobs):
    os.utime(jobs[0].source, (1, 1))
    jobs[1].source.write_bytes(b"source Y.png")
    assert _sorted(jobs, A) == (1, 2, "1 made anew: 1 its source has changed")


def test_a_source_of_the_same_size_and_time_elsewhere_is_another(jobs, tmp_path):
    other = tmp_path / "other" / "x.png"
    other.parent.mkdir()
    other.write_bytes(b"source w.png")
    status = jobs[0].source.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert _sorted([Job(other, jobs[0].target)], A)[0] == 1
    shutil.copy2(jobs[0].source, other)
    assert _sorted([Job(other, jobs[0].target)], A)[1] == 1, "the same image in another place"


def test_files_that_are_no_translations_are_refused_before_anything_is_done(jobs, tmp_path):
    (tmp_path / "out" / "mine.png").write_bytes(b"my own")
    mine = Job(jobs[0].source, tmp_path / "out" / "mine.png")
    with pytest.raises(DataError) as caught:
        sort_jobs([*jobs, mine], B)
    assert str(caught.value) == (
        "A file is there already and not known as translations by patchkin, or changed since "
        f"(first: `{mine.target}`). Choose another --output, or replace them with --overwrite."
    )
    assert _sorted([*jobs, mine], B, overwrite=True) == (4, 0, "")


def test_an_edited_translation_is_refused(jobs):
    jobs[1].target.write_bytes(b"retouched!!")
    with pytest.raises(DataError, match="changed since"):
        sort_jobs(jobs, A)


def test_a_folder_that_was_moved_or_copied_keeps_its_makers(jobs, tmp_path):
    shutil.copytree(tmp_path / "out", tmp_path / "copy", copy_function=shutil.copy)
    shutil.move(tmp_path / "out", tmp_path / "moved")
    for folder in ("copy", "moved"):
        there = [
            Job(job.source, tmp_path / folder / job.target.relative_to(tmp_path / "out"))
            for job in jobs
        ]
        assert _sorted(there, A) == (0, 3, "")


def test_what_a_killed_process_left_is_made_anew(jobs, tmp_path):
    killed = Recorder(A, part="2of2")
    target = tmp_path / "out" / "w.png"
    job = Job(jobs[0].source, target)
    killed.begins([target])
    assert _sorted([job], A) == (1, 0, "")
    target.write_bytes(b"whole, but without its last line")
    assert _sorted([job], A) == (1, 0, "1 made anew: 1 interrupted")
    journal = next((tmp_path / "out" / RECORD_FOLDER).glob("*2of2.jsonl"))
    with journal.open("a") as file:
        file.write('{"made": "w.p')  # killed within a line
    _make(job, Recorder(A, part="2of2"))
    assert _sorted([job], A) == (0, 1, "")


def test_what_another_process_makes_meanwhile_is_known(jobs, tmp_path):
    """It appears after the record was read; the same command, called twice, met it as unknown."""
    records = Records()
    assert records.state(jobs[0].target) == "made"
    job = Job(jobs[0].source, tmp_path / "out" / "w.png")
    _make(job, Recorder(A))
    assert records.state(job.target) == "made"
    begun = tmp_path / "out" / "v.png"
    Recorder(A, part="2of2").begins([begun])
    begun.write_bytes(b"without its last line yet")
    assert records.state(begun) == "interrupted"
    (tmp_path / "out" / "u.png").write_bytes(b"of nobody")
    assert records.state(tmp_path / "out" / "u.png") == "unknown"


def test_processes_share_a_folder_each_with_a_journal(jobs, tmp_path):
    names = {path.name for path in (tmp_path / "out" / RECORD_FOLDER).iterdir()}
    other = Recorder(A, part="2of2")
    job = Job(jobs[0].source, tmp_path / "out" / "w.png")
    _make(job, other)
    after = {path.name for path in (tmp_path / "out" / RECORD_FOLDER).iterdir()}
    assert len(names) == 1
    assert len(after) == 2
    assert _sorted([*jobs, job], A) == (0, 4, "")


def test_records_that_are_newer_or_damaged_are_no_reason_to_fail(jobs, tmp_path):
    (journal,) = (tmp_path / "out" / RECORD_FOLDER).iterdir()
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([lines[0], "[1, 2]", "null", "\x00\xff", *lines[1:]]) + "\n")
    assert Records().state(jobs[0].target) == "made"
    newer = {**json.loads(lines[0]), "patchkin": 2}
    journal.write_text("\n".join([json.dumps(newer), *lines[1:]]) + "\n")
    assert Records().state(jobs[0].target) == "unknown"


def test_makers_of_a_folder(jobs, tmp_path):
    _make(jobs[0], Recorder(B), b"by b")
    (tmp_path / "out" / "mine.png").write_bytes(b"my own")
    makers = makers_of([*(job.target for job in jobs), Path(tmp_path / "out" / "mine.png")])
    assert [(maker.model, number) for maker, number in makers.counts] == [
        ("runs/a", 2),
        ("runs/b", 1),
    ]
    assert makers.unknown == 1


@pytest.mark.parametrize(
    "odd", [{"options": [1]}, {"options": None}, {"model": 3}, {"step": "x"}, {"sha256": None}]
)
def test_a_maker_that_is_none_is_nobody(jobs, odd):
    """Such a line was taken, and the next evaluation ended in a traceback."""
    target = jobs[0].target
    [journal] = (target.parent / RECORD_FOLDER).glob("*.jsonl")
    first, *others = journal.read_text().splitlines()
    header = json.loads(first)
    header["maker"].update(odd)
    journal.write_text("\n".join([json.dumps(header), *others]))
    assert Records().made(target) is None
    assert makers_of([target]).plain() == {}
