"""The part of a list of work that one of several processes does.

Processes that share a list need not talk to each other: each takes its part by its number alone,
so long as all of them see the same list. Parts differ by one block at most.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from patchkin.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `number` of `count`, counted from 1.

    >>> Shard(2, 3).of("abcdefg")
    ['b', 'e']
    >>> Shard(2, 3).of("abcdefg", block=2)
    ['c', 'd']
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ConfigError(
                f"There is no part {self.number} of {self.count}; parts are counted from 1."
            )

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def is_all(self) -> bool:
        """Whether there is no other part."""
        return self.count == 1

    def of(self, items: Sequence[T], *, block: int = 1) -> list[T]:
        """The items of this part, in order: blocks `number`, `number + count`, and so on.

        Args:
            items: all of them; the same in every process.
            block: neighbours that stay together, such as those of a batch.
        """
        starts = range((self.number - 1) * block, len(items), self.count * block)
        return [item for start in starts for item in items[start : start + block]]

    def divided(self, number: int, count: int) -> Shard:
        """Part `number` of `count` of this part.

        >>> whole = Shard(2, 3).of("abcdefgh")
        >>> [Shard(2, 3).divided(number, 2).of("abcdefgh") for number in (1, 2)], whole
        ([['b', 'h'], ['e']], ['b', 'e', 'h'])
        """
        inner = Shard(number, count)
        return Shard(self.number + self.count * (inner.number - 1), self.count * inner.count)


def parse_shard(text: str) -> Shard:
    """A part as it is written on the command line.

    Raises:
        ConfigError: it is not two numbers, or there is no such part.

    >>> parse_shard("2/8")
    Shard(number=2, count=8)
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip(), flags=re.ASCII)
    if match is None:
        raise ConfigError(f"--shard is a part such as 2/8 (the second of eight); got `{text}`.")
    return Shard(int(match[1]), int(match[2]))


def launched_shard(environment: Mapping[str, str] | None = None) -> Shard | None:
    """The part of a process that `torchrun` or Slurm's `srun` started among others; else None.

    `torchrun` sets RANK and WORLD_SIZE, `srun` SLURM_PROCID and SLURM_NTASKS. A batch script of
    Slurm sees these two as well, and runs once: with a job but no step it is no task of `srun`.

    Raises:
        ConfigError: the variables contradict each other.

    >>> launched_shard({"RANK": "2", "WORLD_SIZE": "8"})
    Shard(number=3, count=8)
    >>> launched_shard({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) is None
    True
    """
    environment = os.environ if environment is None else environment
    names = ("RANK", "WORLD_SIZE")
    if not all(environment.get(name) for name in names):
        in_step = "SLURM_JOB_ID" not in environment or "SLURM_STEP_ID" in environment
        tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
        names = ("SLURM_PROCID", tasks)
        if not in_step or not all(environment.get(name) for name in names):
            return None
    rank, size = (environment[name] for name in names)
    if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        raise ConfigError(
            f"The environment says {names[0]}={rank} and {names[1]}={size}, which is no process "
            "of a group. Unset them, or name the part: --shard 1/1 is everything."
        )
    return Shard(int(rank) + 1, int(size)) if int(size) > 1 else None


def local_number(environment: Mapping[str, str] | None = None) -> int:
    """Which of the processes of its launcher on this machine this is, from 0.

    >>> local_number({"SLURM_LOCALID": "3"}), local_number({})
    (3, 0)
    """
    environment = os.environ if environment is None else environment
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        if environment.get(name, "").isdecimal():
            return int(environment[name])
    return 0


def chosen_shard(given: str | None) -> Shard:
    """The part of this command: the one that was asked for, its launcher's, or everything.

    Raises:
        ConfigError: `given`, or the launcher's variables, are no part.
    """
    return parse_shard(given) if given is not None else launched_shard() or Shard()
