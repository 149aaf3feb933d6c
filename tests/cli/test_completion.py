"""The completion of shells: its words are the verbs and options that there are."""

from __future__ import annotations

import re
import subprocess

import pytest

from patchkin.cli import VERBS
from patchkin.cli.completion import script, words_by_place
from patchkin.methods import METHODS


@pytest.fixture(scope="module")
def words():
    few = {name: METHODS[name] for name in ("cut", "starganv2")}
    verbs = {verb: VERBS[verb] for verb in ("train", "translate", "data", "compress")}
    return words_by_place(few, verbs)


def completed(bash, *typed):
    """What bash offers for the last of the words."""
    quoted = " ".join(f"'{word}'" for word in typed)
    place = f"COMP_WORDS=({quoted})\nCOMP_CWORD={len(typed) - 1}"
    asking = f'{bash}\n{place}\n_patchkin\nprintf "%s\\n" "${{COMPREPLY[@]}}"'
    shell = subprocess.run(
        ["bash", "--norc", "-c", asking], capture_output=True, text=True, check=True
    )
    assert shell.stderr == ""
    return shell.stdout.split()


def test_bash_completes_verbs_parts_methods_and_options(words):
    bash = script("bash", words, VERBS)
    assert completed(bash, "patchkin", "tra") == ["train", "translate"]
    assert completed(bash, "patchkin", "compress", "s") == ["search"]
    assert completed(bash, "patchkin", "data", "") == ["check", "toy", "download"]
    assert completed(bash, "patchkin", "train", "cu") == ["cut"]
    assert completed(bash, "patchkin", "train", "cut", "--pres") == ["--preset"]
    assert "--blocks" in completed(bash, "patchkin", "train", "cut", "--data", "x", "--b")
    assert "--blocks" not in completed(bash, "patchkin", "train", "starganv2", "--b")
    assert completed(bash, "patchkin", "translate", "runs/a", "--out") == ["--output"]
    assert (
        completed(bash, "patchkin", "translate", "runs/a", "photo") == []
    )  # then bash takes files


def test_options_are_those_that_the_parser_takes(words):
    assert {"--data", "--data.root", "--preset", "--steps"} <= set(words["train cut"])
    assert not [
        word for options in words.values() for word in options if not re.fullmatch(r"[\w.-]+", word)
    ]


def test_fish_and_zsh_hold_the_same_words(words):
    fish, zsh = script("fish", words, VERBS), script("zsh", words, VERBS)
    for place, options in words.items():
        assert f"printf '%s\\n' {' '.join(options)}" in fish, place
        assert f'words="{" ".join(options)}"' in zsh, place


def test_the_command_prints_a_script_or_says_what_it_needs(command):
    code, _, err = command("--completion")
    assert (code, err) == (
        2,
        "patchkin: error: `--completion` needs the name of a shell. Known: bash, zsh, fish.\n",
    )
    code, _, err = command("--completion", "bsh")
    assert code == 2
    assert "bash" in err


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_verb_and_method_is_in_the_script(command, shell):
    code, out, _ = command(f"--completion={shell}")
    assert code == 0
    for word in (*VERBS, *METHODS):
        assert word in out
