"""Commands of the released CUT, FastCUT and CycleGAN, answered with ours.

Who comes from there types what the fingers know. The answer is one line that holds the whole
command in our words; nothing is run, because a default may differ (`patchkin methods NAME`). What
the command need not say, what there is none of here, and what nobody knows is named before it.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from patchkin.cli.released_table import (
    ALONE,
    COMPARED,
    NEEDLESS,
    OF_TEST,
    READ_TOGETHER,
    RELEASED,
    TELLING,
    WITH_VALUE,
    Flags,
    Here,
    Ours,
    changed,
    devices,
    fit,
    flags_of,
    grouped,
    place_of,
)
from patchkin.errors import ConfigError, nearest

if TYPE_CHECKING:
    from patchkin.method import Method

_METHODS = {"cycle_gan": "cyclegan"}
"""Models that have another name here."""
_DEFAULT_METHOD = "cut"
_PROGRAMS = ("train.py", "test.py")


@dataclass
class _Answer:
    command: Flags = field(default_factory=list)
    needless: Flags = field(default_factory=list)
    lacking: Flags = field(default_factory=list)
    unknown: Flags = field(default_factory=list)
    kept: Flags = field(default_factory=list)
    """Of a run that goes on: its own settings."""

    def error(self) -> ConfigError:
        """The line that answers."""
        told = {
            "no need of ": self.needless,
            "not offered here: ": self.lacking,
            "not known: ": self.unknown,
            "the run keeps its own settings, whatever these say: ": self.kept,
        }
        notes = "; ".join(what + ", ".join(names) for what, names in told.items() if names)
        return ConfigError(
            "These are flags of the released CUT and CycleGAN. Here it is"
            f"{f' ({notes})' if notes else ''}: {shlex.join(self.command)}"
        )


def refuse_released_flags(arguments: Sequence[str], methods: Mapping[str, type[Method]]) -> None:
    """Pass, if no flag comes from the released code.

    Args:
        arguments: of `patchkin train`, the verb left out.
        methods: those that `train` offers.

    Raises:
        ConfigError: some do; the message holds the command in our flags.

    >>> from patchkin.methods import METHODS
    >>> refuse_released_flags(["--dataroot", "d", "--name", "n", "--CUT_mode", "FastCUT"], METHODS)
    Traceback (most recent call last):
    patchkin.errors.ConfigError: These are flags of the released CUT and CycleGAN. Here it is:
    patchkin train cut --preset fastcut --data d --run-dir runs/n
    """
    program, arguments = _without_program(arguments)
    if program == "test.py":
        refuse_released_test(arguments)
    words, given = grouped(arguments)
    typos = {name for name in given if _is_typo(name)}
    if not given.keys() & TELLING and not typos:
        return
    kind, preset, lacking = _method(words, given, methods)
    ours = _ours(kind, preset, given)
    if not given.keys() & TELLING and all(place_of(name, ours) for name in typos):
        return
    here = Here(given, kind.name, ours)
    if "--continue_train" in given and "--pretrained_name" not in given:
        raise _resumed(here).error()
    raise _trained(here, kind, preset, lacking).error()


def _trained(here: Here, kind: type[Method], preset: str | None, lacking: Flags) -> _Answer:
    answer = _Answer(lacking=lacking)
    flags: Flags = []
    if preset is not None and "--preset" not in here.given:
        flags += ["--preset", preset]
    for name, values in here.given.items():
        flags += _translated(name, values, here, answer)
    start = here.value("--pretrained_name")
    if start is not None and "--continue_train" in here.given:
        flags += ["--from", _run_dir(here, start)]
    elif start is not None:
        answer.needless.append("--pretrained_name")
    run_dir = ["--run-dir", _run_dir(here)] if here.value("--name") else []
    flags += [*_epochs(here, kind, preset), *run_dir]
    answer.command = ["patchkin", "train", kind.name, *flags]
    return answer


def _resumed(here: Here) -> _Answer:
    answer = _Answer(["patchkin", "train", "--resume", _run_dir(here)])
    for name, values in here.given.items():
        if name in NEEDLESS or name == "--epoch_count":
            answer.needless.append(name)
        elif name == "--epoch" and values != ["latest"]:
            answer.lacking.append(_typed(name, values))
        elif name not in RELEASED and place_of(name, here.ours) is None:
            answer.unknown.append(_with_nearest(name, here.ours))
        elif name not in ("--name", "--checkpoints_dir", "--continue_train", "--epoch"):
            answer.kept.append(name)
    return answer


def _translated(name: str, values: Flags, here: Here, answer: _Answer) -> Flags:
    """Our flags for one of theirs, or one of ours; what has none goes into the answer."""
    if name not in RELEASED and place_of(name, here.ours) is not None:
        return [name, *values]
    if name not in RELEASED:
        answer.unknown.append(_with_nearest(name, here.ours))
        return []
    if name in READ_TOGETHER:
        return []
    value = " ".join(values)
    if name in NEEDLESS or (name, value) == ("--max_dataset_size", "inf"):
        answer.needless.append(name)
        return []
    if name == "--pool_size" and not _has_pool(here.ours):
        answer.needless.append(name)  # CUT has the option and no pool
        return []
    flags: Flags | None = None
    if name in COMPARED:
        flags = COMPARED[name](value, here)
    elif name not in OF_TEST:
        flags = ALONE.get(name) or WITH_VALUE[name](value)
    if flags is None or not fit(flags, here.ours):
        answer.lacking.append(_typed(name, values))
        return []
    if name in COMPARED:
        flags = changed(flags, here.ours)
        if not flags and not (name == "--n_layers_D" and here.value("--netD") == "n_layers"):
            answer.needless.append(_typed(name, values))
    if name == "--output_nc" and "--input_nc" in here.given:
        return []  # said by the other
    return flags


def _has_pool(ours: Ours) -> bool:
    """Whether the method was published with a pool of earlier translations."""
    owner, name = place_of("--method.pool.capacity", ours) or (None, "")
    return owner is not None and getattr(owner, name) > 0


def _typed(name: str, values: Flags) -> str:
    return " ".join([name, *values])


def _with_nearest(name: str, ours: Ours) -> str:
    """A flag that nobody knows, and the one that was meant."""
    near = difflib.get_close_matches(name, [*RELEASED, *ours], n=1)
    return f"{name} (did you mean {near[0]}?)" if near else name


def _is_typo(name: str) -> bool:
    """Whether it looks like a flag of theirs, and is none."""
    if name in RELEASED or "." in name or name == name.lower().replace("_", "-"):
        return False
    return bool(difflib.get_close_matches(name, TELLING, n=1, cutoff=0.85))


def _without_program(arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
    """`python train.py` before the flags, and what follows it."""
    for place, argument in enumerate(arguments):
        if argument.startswith("--"):
            break
        if Path(argument).name in _PROGRAMS:
            return Path(argument).name, arguments[place + 1 :]
    return "", arguments


def _method(
    words: Flags, given: Mapping[str, Flags], methods: Mapping[str, type[Method]]
) -> tuple[type[Method], str | None, Flags]:
    """The method, its preset if it is not the first, and what of both is not offered."""
    lacking: Flags = []
    model = " ".join(given.get("--model", []))
    named = _METHODS.get(model, model.replace("_", "-"))
    word = words[0] if words else ""
    owners = [kind for kind in methods.values() if word in kind.presets]
    preset = word if word not in methods and len(owners) == 1 else None
    name = word if preset is None else owners[0].name
    if name and named and name != named:
        lacking.append(f"--model {model} of {name}")
    name = name or named or _DEFAULT_METHOD
    if name not in methods:
        raise ConfigError(f"There is no method `{name}` here. {nearest(name, methods)}")
    kind = methods[name]
    mode = " ".join(given.get("--CUT_mode", []))
    if mode.lower() in ("cut", "fastcut") and mode.lower() in kind.presets:
        preset = mode.lower()
    elif mode and (mode.lower() != "cut" or name != "cut"):
        there = " (there: CUT, FastCUT)" if name == "cut" else f" of {name}"
        lacking.append(f"--CUT_mode {mode}{there}")
    preset = " ".join(given.get("--preset", [])) or preset
    return kind, None if preset == next(iter(kind.presets)) else preset, lacking


def _run_dir(here: Here, name: str | None = None) -> str:
    name = name or here.value("--name")
    root = Path(here.value("--dataroot") or "toy").name
    folder = here.value("--checkpoints_dir") or "runs"
    return Path(folder, name or f"{here.method}_{root}").as_posix()


def _epochs(here: Here, kind: type[Method], preset: str | None) -> Flags:
    """Constant and decaying epochs as their sum and a share; one that is not given is ours."""
    given = [here.value("--n_epochs", "--niter"), here.value("--n_epochs_decay", "--niter_decay")]
    if given == [None, None]:
        return []
    schedule = kind.presets[preset or next(iter(kind.presets))].schedule
    decaying = round(schedule.epochs * schedule.decay_fraction)
    published = (schedule.epochs - decaying, decaying)
    numbers = [
        int(text) if text and text.isdigit() else ours
        for text, ours in zip(given, published, strict=True)
    ]
    total = sum(numbers)
    share = f"{numbers[1] / max(total, 1):.6g}"
    return ["--epochs", str(total), "--schedule.decay-fraction", share]


def _ours(kind: type[Method], preset: str | None, given: Mapping[str, Flags]) -> Ours:
    from patchkin.cli.train import default_options  # which asks here first

    root = given.get("--dataroot") or given.get("--data") or []
    named = ["--preset", preset] if preset else []
    options = default_options(kind, [*named, *(["--data", root[0]] if root else [])])
    return {"--help": (options, ""), "-h": (options, ""), **flags_of(options)}


def refuse_released_test(arguments: Sequence[str]) -> None:
    """The same for `test.py`, which translates.

    Raises:
        ConfigError: some flag comes from the released code; the message holds the command.

    >>> refuse_released_test(["--dataroot", "d", "--name", "n", "--phase", "test"])
    Traceback (most recent call last):
    patchkin.errors.ConfigError: These are flags of the released CUT and CycleGAN. Here it is:
    patchkin translate runs/n d/testA --output results/n
    """
    words, given = grouped(_without_program(arguments)[1])
    if not given.keys() & TELLING:
        return
    from patchkin.cli.translate import TranslateOptions  # which asks here first

    model = " ".join(given.get("--model", []))
    ours = {"-o": (TranslateOptions, "output"), **flags_of(TranslateOptions)}
    here = Here(given, _METHODS.get(model, model) or _DEFAULT_METHOD, ours)
    run_dir = words[0] if words else _run_dir(here)
    answer = _Answer()
    flags: Flags = []
    for name, values in given.items():
        flags += _translated_of_test(name, values, here, answer)
    if not {"-o", "--output"} & given.keys():
        folder = Path(here.value("--results_dir") or "results", Path(run_dir).name)
        flags += ["--output", folder.as_posix()]
    inputs = words[1:] or [_tested(here)]
    if words[1:] and "--direction" in given:  # ours: of named images, which way
        flags += ["--direction", *given["--direction"]]
    answer.command = ["patchkin", "translate", run_dir, *inputs, *flags]
    raise answer.error()


_WHERE = {
    *("--dataroot", "--name", "--checkpoints_dir", "--results_dir", "--phase", "--direction"),
    "--model",
}
"""Flags that say which model and which images."""
_SIZES = {"--load_size", "--crop_size", "--num_test", "--max_dataset_size", "--aspect_ratio"}
"""Images are translated at their own size, and all of them."""


def _tested(here: Here) -> str:
    """The folder of the images that are translated."""
    root = Path(here.value("--dataroot") or "toy")
    side = "B" if here.value("--direction") == "BtoA" else "A"
    alone = here.value("--model") == "test"  # of CycleGAN: the folder holds one domain
    return (root if alone else root / f"{here.value('--phase') or 'test'}{side}").as_posix()


def _translated_of_test(name: str, values: Flags, here: Here, answer: _Answer) -> Flags:
    value = " ".join(values)
    if name not in (*TELLING, *_WHERE) and place_of(name, here.ours) is not None:
        return [name, *values]
    if name in _WHERE:
        return []
    if name == "--gpu_ids":
        return devices(value)[:2]
    if name == "--model_suffix":
        return ["--direction", "BtoA"] if value == "_B" else []
    only = {"--preprocess": "none", "--epoch": "latest"}.get(name, value)
    if name in _SIZES or value != only:
        answer.lacking.append(_typed(name, values))
    elif name in RELEASED:  # the run knows its networks
        answer.needless.append(name)
    else:
        answer.unknown.append(_with_nearest(name, here.ours))
    return []
