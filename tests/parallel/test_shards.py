"""Parts are disjoint, whole and balanced, whoever says which they are."""

from __future__ import annotations

import os
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as some

from patchkin.errors import ConfigError, PatchkinError
from patchkin.parallel.processes import in_processes
from patchkin.parallel.shards import Shard, chosen_shard, launched_shard, local_number, parse_shard
from process_work import work


@given(length=some.integers(0, 60), count=some.integers(1, 9), block=some.integers(1, 5))
def test_parts_are_disjoint_whole_and_balanced(length, count, block):
    parts = [Shard(number, count).of(range(length), block=block) for number in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == list(range(length))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= block
    for part in parts:
        assert part == sorted(part)
        for start in range(0, len(part), block):  # blocks of the whole list stay together
            first = part[start]
            assert first % block == 0
            expected = range(first, min(first + block, length))
            assert part[start : start + block] == list(expected)


@given(length=some.integers(0, 60), count=some.integers(1, 5), inner=some.integers(1, 4))
def test_parts_of_a_part(length, count, inner):
    for number in range(1, count + 1):
        shard = Shard(number, count)
        items = [
            item
            for process in range(1, inner + 1)
            for item in shard.divided(process, inner).of(range(length))
        ]
        assert sorted(items) == shard.of(range(length))


@pytest.mark.parametrize(
    "text", ["", "2", "2/", "/8", "a/b", "1.5/2", "-1/4", "1/2/3", "2 / 8", "²/8"]
)
def test_what_is_no_part(text):
    with pytest.raises(ConfigError, match="--shard is a part such as 2/8"):
        parse_shard(text)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "0/0"])
def test_parts_that_do_not_exist(text):
    with pytest.raises(ConfigError, match=r"There is no part .*; parts are counted from 1"):
        parse_shard(text)


TORCHRUN = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
SRUN = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "3"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (TORCHRUN, Shard(3, 4)),
        (SRUN, Shard(6, 8)),
        ({**SRUN, **TORCHRUN}, Shard(3, 4)),  # torchrun in each task of srun
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, None),
        ({"RANK": "2"}, None),
        ({**SRUN, "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0"}, Shard(6, 8)),
        # The batch script of a job with 8 tasks, which runs once.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "77"}, None),
        # A step of fewer tasks than the job.
        (
            {**SRUN, "SLURM_PROCID": "1", "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0"}
            | {"SLURM_STEP_NUM_TASKS": "2"},
            Shard(2, 2),
        ),
    ],
)
def test_launchers(environment, expected):
    assert launched_shard(environment) == expected


@pytest.mark.parametrize(("rank", "size"), [("4", "4"), ("x", "4"), ("0", "-1"), ("0", "0")])
def test_launchers_that_contradict_themselves(rank, size):
    with pytest.raises(ConfigError, match=f"RANK={rank} and WORLD_SIZE={size}"):
        launched_shard({"RANK": rank, "WORLD_SIZE": size})


def test_the_part_that_is_asked_for_counts_more_than_the_launcher(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert chosen_shard(None) == Shard(3, 4)
    assert chosen_shard("1/1") == Shard(1, 1)
    assert local_number() == 1


def run(mode):
    told = []
    results = in_processes(partial(work, mode), 2, threads=1, on_message=told.append)
    return results, sorted(told)


@pytest.mark.slow
def test_processes_are_others_and_their_results_are_in_order():
    results, told = run("well")
    assert [(number, threads) for number, threads, _ in results] == [(1, 1), (2, 1)]
    assert len({os.getpid(), *(pid for _, _, pid in results)}) == 3
    assert told == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "error", "message"),
    [
        ("raise", ConfigError, "two is not wanted"),
        ("die", PatchkinError, "Process 2 ended early, with code -9"),
        ("fault", RuntimeError, "Process 2 failed"),
    ],
)
def test_one_that_fails_ends_the_others(mode, error, message):
    """The first one would wait for ever."""
    with pytest.raises(error, match=message):
        run(mode)


@pytest.mark.slow
def test_a_process_that_is_ended_on_its_way_out_says_nothing_more(capfd):
    with pytest.raises(ConfigError, match="two is not wanted"):
        run("leave")
    assert capfd.readouterr().err == ""
