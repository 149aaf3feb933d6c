"""No command, flag, target or script of a page is one that there is not."""

from __future__ import annotations

import re

import pytest

from docs.blocks import PAGES, ROOT, blocks_of, commands_of, inline_codes, patchkin_arguments
from docs.parsing import complaint, flags, verbs_that_only_read

SHELL = {"sh", "bash", "console"}
FLAG = re.compile(r"(?<![\w-])--[a-z][\w.-]*\w")
OF_OTHERS = {
    *("--node-rank", "--nproc-per-node", "--nnodes"),  # torchrun
    "--signal",  # Slurm
    *("--shm-size", "--gpus", "--user"),  # Docker
    "--no-deps",  # pip
    "--set",  # docs/making/notebooks.py
    "--validate",  # cffconvert
    "--rounds",  # benchmarks/scaling/processes.py
    "--w_hpf",  # of the released StarGAN v2
    *("--method.field-name", "--method.colour-weight"),  # made up, and of an example
    *("--sizes", "--batches", "--patches", "--precisions"),  # benchmarks/scaling/run.py
    *("--rows", "--list"),  # benchmarks/toy/stability.py
    *("--user", "--no-deps"),  # pip and docker
    *("--method.field-name", "--method.colour-weight"),  # stand for any field; of an example
}
"""Flags of other programs that the text speaks of."""
OF_RELEASED = {"docs/coming-from.md", "docs/walks.md"}
"""Pages that tell the flags of other projects."""


def shell_commands(path):
    for block in blocks_of(path):
        if block.language in SHELL:
            for words in commands_of(block.text):
                yield block, words


@pytest.fixture(scope="module", autouse=True)
def reading():
    with verbs_that_only_read():
        yield


def named(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_every_command_line_can_be_read(path):
    wrong = []
    for block, words in shell_commands(path):
        arguments = patchkin_arguments(words)
        problem = None if arguments is None else complaint(arguments)
        if problem is not None:
            wrong.append(f"{block.place}: {' '.join(words)}: {problem}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_what_is_installed_is_a_checkout(path):
    """The package is on no index, so that its name brings nothing."""
    for block, words in shell_commands(path):
        line = " ".join(words)
        assert not re.search(r"pip install .*\bpatchkin\b", line), f"{block.place}: {line}"


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_every_block_of_code_says_its_language(path):
    assert [block.place for block in blocks_of(path) if not block.language] == []


def test_targets_and_scripts_are_there():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in PAGES:
        for block, words in shell_commands(path):
            if words[0] == "make":
                given = {word for word in words[1:] if "=" not in word}
                assert given <= targets, block.place
            script = words[1] if words[0] == "python" and len(words) > 1 else ""
            if script.startswith(("benchmarks/", "examples/", "tests/", "docs/")):
                assert (ROOT / script).is_file(), block.place


def test_flags_that_the_text_speaks_of_are_flags():
    wrong = [
        f"{named(path)}: {flag}"
        for path in PAGES
        if named(path) not in OF_RELEASED
        for code in inline_codes(path)
        if "benchmarks/" not in code and not code.startswith(("pip ", "docker ", "ship.py"))
        for flag in FLAG.findall(code)
        if flag not in flags() and not any(known.startswith(f"{flag}.") for known in flags())
        if flag not in OF_OTHERS
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "line",
    [
        "patchkin train cut --data d --stepz 3",
        "patchkin train --resume runs/a --gone 1",
        "patchkin translate runs/a photos",
        "patchkin data chek d",
        "patchkin trian cut",
        "torchrun --nnodes 2 -m patchkin train cutt --data d",
        "patchkin compress cost a.safetensors --agianst b",
    ],
)
def test_a_line_that_is_no_command_is_found(line):
    (words,) = commands_of(line)
    arguments = patchkin_arguments(words)
    assert arguments is not None
    assert complaint(arguments) is not None
