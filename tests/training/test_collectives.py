"""What processes tell each other, apart from numbers (`test_two_processes.py`)."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from patchkin.cli import main
from patchkin.errors import ConfigError, StorageError
from patchkin.training.collectives import by_first_process


@dataclass
class Process:
    """One of several; what the first broadcasts comes to the others."""

    is_global_zero: bool
    world_size: int = 2
    sent: list = field(default_factory=list)

    def broadcast(self, thing):
        if self.is_global_zero:
            self.sent.append(thing)
        return self.sent[-1]


def test_what_goes_wrong_in_the_first_process_is_raised_in_all_and_told_once():
    first = Process(is_global_zero=True)
    other = Process(is_global_zero=False, sent=first.sent)
    done = []

    def write():
        done.append("x")
        raise StorageError("the disk is full")

    for process, told in ((first, False), (other, True)):
        with pytest.raises(StorageError, match="the disk is full") as caught:
            by_first_process(process, write)
        assert caught.value.told is told
    assert done == ["x"]
    for process in (first, other):
        by_first_process(process, lambda: done.append("y"))
    assert done == ["x", "y"]


def test_one_process_alone_sends_nothing():
    alone = Process(is_global_zero=True, world_size=1)
    with pytest.raises(StorageError):
        by_first_process(alone, lambda: (_ for _ in ()).throw(StorageError("full")))
    assert alone.sent == []


def test_an_error_that_is_told_elsewhere_is_silent(monkeypatch, capsys):
    error = ConfigError("which?")

    def fail(*_):
        raise error

    monkeypatch.setattr("patchkin.cli._run", fail)
    assert main(["train"]) == 2
    assert capsys.readouterr().err == "patchkin: error: which?\n"
    error.told = True
    assert main(["train"]) == 2
    assert capsys.readouterr().err == ""
