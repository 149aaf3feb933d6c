"""`patchkin --completion bash|zsh|fish`: a script that lets a shell complete verbs and options.

The words are read from what `--help` tells, so they are those of this version; nothing is imported
while a user types.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from patchkin.errors import ConfigError, nearest

SHELLS = ("bash", "zsh", "fish")

_BASH = """\
_patchkin() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{verbs}"
    else
        local second=""
        [ "$COMP_CWORD" -gt 2 ] && second="${{COMP_WORDS[2]}}"
        case "${{COMP_WORDS[1]}} $second" in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _patchkin patchkin
"""
_ZSH = """\
(( $+functions[compdef] )) || { autoload -U +X compinit && compinit }
autoload -U +X bashcompinit && bashcompinit
"""
_FISH = """\
function __patchkin_words
    set -l words (commandline -opc)
    if test (count $words) -eq 1
        printf '%s\\n' {verbs}
        return
    end
    set -l second ''
    test (count $words) -gt 2; and set second $words[3]
    switch "$words[2] $second"
{cases}
    end
end
complete -c patchkin -a '(__patchkin_words)'
"""


def run(arguments: Sequence[str], methods: Mapping[str, Any], verbs: Mapping[str, str]) -> int:
    """Print the script of a shell.

    Raises:
        ConfigError: the shell is not named, or not known.
    """
    shell = arguments[0] if arguments else ""
    if shell not in SHELLS:
        hint = nearest(shell, SHELLS) if shell else f"Known: {', '.join(SHELLS)}."
        raise ConfigError(f"`--completion` needs the name of a shell. {hint}")
    print(script(shell, words_by_place(methods, verbs), [*verbs, "--help", "--version"]), end="")
    return 0


def script(shell: str, words: Mapping[str, Sequence[str]], verbs: Iterable[str]) -> str:
    """The script of a shell.

    Args:
        shell: one of `SHELLS`.
        words: verb, or verb and the word after it -> what may follow.
        verbs: what may stand first.

    >>> print(script("bash", {"data": ["check"], "data check": ["--json"]}, ["data"]))
    _patchkin() {
        local word="${COMP_WORDS[COMP_CWORD]}" words=""
        if [ "$COMP_CWORD" -eq 1 ]; then
            words="data"
        else
            local second=""
            [ "$COMP_CWORD" -gt 2 ] && second="${COMP_WORDS[2]}"
            case "${COMP_WORDS[1]} $second" in
                "data check") words="--json" ;;
                "data "*) words="check" ;;
            esac
        fi
        COMPREPLY=($(compgen -W "$words" -- "$word"))
    }
    complete -o default -F _patchkin patchkin
    <BLANKLINE>
    """
    longest_first = sorted(words, key=lambda place: -len(place.split()))
    if shell == "fish":
        cases = [
            f"        case '{place}{'' if ' ' in place else ' *'}'\n"
            f"            printf '%s\\n' {' '.join(words[place])}"
            for place in longest_first
        ]
        return _FISH.format(verbs=" ".join(verbs), cases="\n".join(cases))
    cases = [
        f'            "{place}{"" if " " in place else " "}"{"" if " " in place else "*"}) '
        f'words="{" ".join(words[place])}" ;;'
        for place in longest_first
    ]
    bash = _BASH.format(verbs=" ".join(verbs), cases="\n".join(cases))
    return bash if shell == "bash" else _ZSH + bash


def words_by_place(
    methods: Mapping[str, Any], verbs: Mapping[str, str]
) -> dict[str, Sequence[str]]:
    """Verb, or verb and the word after it -> parts and options that may follow."""
    words: dict[str, Sequence[str]] = {}
    for verb in verbs:
        told = _help_of([verb])
        parts = tuple(methods) if verb == "train" else tuple(parts_told(told))
        words[verb] = (*parts, *options_told(told))
        for part in parts:
            words[f"{verb} {part}"] = options_told(_help_of([verb, part]))
    return words


def options_told(text: str) -> list[str]:
    r"""The options that a help lists, in its order.

    >>> options_told("│ --data, --data.root STR  Folder. │\n│ See --preset. │\n│ --no-flip │")
    ['--data', '--data.root', '--no-flip']
    """
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    listed = re.findall(r"^[│ ]*(-(?:[^ ]| (?! )|, )*)", plain, flags=re.MULTILINE)
    names = [name for line in listed for name in re.findall(r"--[a-z][\w.-]*\w", line)]
    return list(dict.fromkeys(names))


def parts_told(text: str) -> list[str]:
    r"""The parts of a verb that its help lists, if it has any.

    >>> parts_told("usage: patchkin compress {distill,search} ...")
    ['distill', 'search']
    >>> parts_told("usage: patchkin data PART ...\n\nparts:\n  check  Decode.\n  toy    Write.")
    ['check', 'toy']
    """
    in_usage = re.match(r"usage: patchkin [\w-]+ \{([\w,-]+)\}", text)
    if in_usage:
        return in_usage[1].split(",")
    _, _, listed = text.partition("parts:\n")
    return [line.split()[0] for line in listed.splitlines() if line.startswith("  ")]


def _help_of(arguments: list[str]) -> str:
    """What `patchkin ... --help` prints."""
    from patchkin.cli import main

    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        main([*arguments, "--help"])
    return told.getvalue()
