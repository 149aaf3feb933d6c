"""The completion of shells: its words are the verbs and options that there are."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import time

import pytest

from patchkin.cli import VERBS
from patchkin.cli.completion import script, words_by_place
from patchkin.methods import METHODS


@pytest.fixture(scope="module")
def words():
    few = {name: METHODS[name] for name in ("cut", "starganv2")}
    verbs = {verb: VERBS[verb] for verb in ("train", "translate", "data", "compress", "models")}
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
    assert completed(bash, "patchkin", "data", "") == ["check", "toy", "split", "download"]
    assert completed(bash, "patchkin", "train", "cu") == ["cut"]
    assert completed(bash, "patchkin", "models", "--j") == ["--json"]
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


def typed_into(shell, script_file, folder, line):
    """The line as a real shell has it after Tab, with its cursor at the end."""
    if shell == "fish":
        asking = f"source {script_file}; complete -C '{line}'"
        told = subprocess.run(
            ["fish", "--no-config", "-c", asking], cwd=folder, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        assert told.stderr == ""
        offers = [offer.partition("\t")[0] for offer in told.stdout.splitlines()]
        return [f"{line.rpartition(' ')[0]} {offer}" for offer in offers]
    plain = {"bash": ["bash", "--norc", "-i"], "zsh": ["zsh", "-f", "-i"]}[shell]
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "PS1": "> ", "HOME": str(folder)}
    process = subprocess.Popen(
        plain, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment,
        start_new_session=True,
    )  # fmt: skip
    try:
        os.write(ours, f"source {script_file}; echo RE''ADY\n".encode())
        _read_until(ours, r"[\r\n]READY")
        os.write(ours, f'{line}\t\x05END"\x01echo "BEGIN\n'.encode())  # ends and begins the line
        found = _read_until(ours, r"[\r\n]BEGIN(.*?)END[\r\n]")
        return [found.rstrip()]
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


def _read_until(terminal, pattern):
    seen, begun = "", time.monotonic()
    while time.monotonic() - begun < 30:
        if select.select([terminal], [], [], 1)[0]:
            seen += os.read(terminal, 4096).decode(errors="replace")
        match = re.search(pattern, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen))
        if match:
            return "".join(match.groups())
    raise AssertionError(seen)


TYPED = {
    "patchkin transl": "patchkin translate",
    "patchkin data downl": "patchkin data download",
    "patchkin train cut --pres": "patchkin train cut --preset",
    "patchkin translate runs --outp": "patchkin translate runs --output",
    "patchkin translate runs phot": "patchkin translate runs photo_one.png",
}
"""A verb, its part, options and a file."""
shells = pytest.mark.parametrize(
    "shell",
    [
        pytest.param(
            shell,
            marks=pytest.mark.skipif(
                shutil.which(shell) is None and not os.environ.get("CI"),
                reason=f"no {shell} on this machine",
            ),
        )
        for shell in ("bash", "zsh", "fish")
    ],
)


@shells
def test_a_real_shell_completes_a_verb_an_option_and_a_file(shell, words, tmp_path):
    (tmp_path / "script").write_text(script(shell, words, VERBS))
    (tmp_path / "photo_one.png").touch()
    for line, wanted in TYPED.items():
        assert typed_into(shell, tmp_path / "script", tmp_path, line) == [wanted]


@pytest.mark.slow
@shells
def test_a_real_shell_takes_the_whole_script(shell, command, tmp_path):
    code, out, _ = command("--completion", shell)
    assert code == 0
    (tmp_path / "script").write_text(out)
    (tmp_path / "photo_one.png").touch()
    for line, wanted in TYPED.items():
        assert typed_into(shell, tmp_path / "script", tmp_path, line) == [wanted]


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_verb_and_method_is_in_the_script(command, shell):
    code, out, _ = command(f"--completion={shell}")
    assert code == 0
    for word in (*VERBS, *METHODS):
        assert word in out
