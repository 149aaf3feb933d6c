"""What an error or a warning advises is an option that the verb has.

The walk is over every text of the package that names an option. A text of `cli/VERB.py` may name
options of this verb, one of the rooms below those of every verb that can come to it. Who does not
have the option is told of another verb: "train with --option".
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import patchkin
from patchkin.cli import VERBS, main

SOURCES = Path(patchkin.__file__).parent
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*(?:\.[a-z][\w-]*)*")
OF_TRAINING = re.compile(r"[Tt]rain(?:ed|s)? with (?:--[\w.-]+ ?\S* ?)+")

ACTIONS = {
    "data": ("download", "check", "toy", "split"),
    "compress": ("distill", "search", "export", "cost"),
}
TRAIN = ("train cut", "train pix2pix", "train starganv2", "train sincut", "train munit")
TRAINING = ("train cut", "compress distill")
EVALUATE = ("evaluate",)
SEARCH = ("compress search",)
READING = ("train cut", "data check", *EVALUATE, "inspect", "compress distill", *SEARCH, "bench")

REACHED = {
    "cli/train.py": TRAINING,
    "compression/compressed.py": ("train cut",),
    "compression/distillation.py": ("compress distill",),
    "compression/search.py": SEARCH,
    "data": ("train cut",),
    "data/check.py": ("data check",),
    "data/download.py": ("data download",),
    "devices.py": ("train cut", "translate", "evaluate"),
    "export": ("export",),
    "images": ("translate",),
    "images/faults.py": (*READING, "translate"),
    "images/limits.py": (*READING, "translate"),
    "methods": ("train cut",),
    "methods/munit.py": ("train munit",),
    "metrics/cityscapes.py": (*EVALUATE, *SEARCH),
    "metrics/extractors.py": (*EVALUATE, *SEARCH),
    "metrics/perceptual.py": EVALUATE,
    "networks": ("train cut",),
    "networks/image_pool.py": ("train cyclegan",),
    "networks/munit/config.py": ("train munit",),
    "networks/starganv2": ("train starganv2", "train starganv2-relation"),
    "networks/starganv2/config.py": ("train starganv2",),
    "networks/starganv2/generator.py": ("train starganv2-relation",),
    "parallel/shards.py": ("translate", "evaluate"),
    "runs/compression.py": ("compress search", "compress export"),
    "method.py": ("translate",),  # of what parts of an image lack
    "runs": TRAINING,
    "runs/fitness.py": (*SEARCH, "compress distill"),
    "schedules.py": TRAINING,
    "scoring": EVALUATE,
    "scoring/comparison": ("compare",),
    "scoring/report.py": TRAINING,
    "storage": (),
    "terms": ("train drit",),
    "training": TRAINING,
    "translation/files.py": ("translate",),
    "translation": ("translate",),
    "translation/translator.py": ("translate", "evaluate"),
    "upstream": ("import-weights",),
    "web": ("demo",),
}
"""Where a text stands -> verbs that can come to it. Of several entries the longest counts."""
ONE_HAS_IT = {"runs/compression.py", "runs/fitness.py", "cli/compress.py", "cli/data.py"}
"""Files of several verbs, in which a text is of one of them."""
NOT_OURS = {
    ("networks/starganv2/released.py", "--w_hpf"),  # of the released code
    ("data/shared_memory.py", "--shm-size"),  # of Docker
    ("runs/views.py", "--method.pool.side"),  # of `travelgan`
    ("runs/views.py", "--method.pool.capacity"),  # of those with a pool
}


@cache
def options_of(verb: str) -> frozenset[str]:
    import contextlib
    import io

    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        main([*verb.split(), "--help"])
    return frozenset(re.findall(r"(?<![\w-])--[a-z][\w.-]*", told.getvalue()))


def texts_of(path: Path) -> list[str]:
    """The strings of a file but for docstrings; the parts of one f-string are one."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documents = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    found, inside = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part for part in node.values if isinstance(part, ast.Constant)]
            inside |= {id(part) for part in parts}
            found.append("X".join(str(part.value) for part in parts))
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "flag":
            inside |= {id(argument) for argument in node.args}  # a declaration, no message
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in documents | inside:
            found.append(node.value)
    return found


def verbs_of(name: str) -> tuple[str, ...]:
    if name.startswith("cli/") and name not in REACHED:
        verb = name.removeprefix("cli/").removesuffix(".py").replace("_", "-")
        if verb not in VERBS:
            return ()
        return tuple(f"{verb} {action}" for action in ACTIONS.get(verb, ())) or (verb,)
    places = [place for place in REACHED if name == place or name.startswith(f"{place}/")]
    assert places, f"{name} names options; which verbs come to it?"
    return REACHED[max(places, key=len)]


def advice() -> list[tuple[str, str]]:
    """File and option, of every text that names one; what is said of another verb is left out."""
    found = []
    for path in sorted(SOURCES.rglob("*.py")):
        name = path.relative_to(SOURCES).as_posix()
        for text in texts_of(path):
            if text.startswith("--") and " " not in text:  # an argument, no message
                options = [text] if name.startswith("metrics/") else []
            else:
                options = OPTION.findall(OF_TRAINING.sub("", text))
                assert all(
                    option in options_of("train cut")
                    for said in OF_TRAINING.findall(text)
                    for option in OPTION.findall(said)
                ), text
            found += [(name, option) for option in options if option not in ("--help", "--version")]
    return sorted(set(found) - NOT_OURS)


@pytest.mark.parametrize(("name", "option"), advice())
def test_an_advice_is_an_option_of_the_verb(name, option):
    verbs = verbs_of(name)
    having = [verb for verb in verbs if option in options_of(verb)]
    wanted = 1 if name in ONE_HAS_IT else len(verbs)
    assert len(having) >= min(wanted, len(verbs)), f"{option} in {name}: of {verbs} {having}"


def test_the_walk_sees_a_wrong_advice(tmp_path):
    """Texts in one piece, in several, and behind values."""
    (tmp_path / "a.py").write_text(
        '"""--not-this"""\nraise ValueError(f"{x} is bad; "\n    f"give --wrong {y} or --other.")\n'
    )
    (text,) = texts_of(tmp_path / "a.py")
    assert OPTION.findall(text) == ["--wrong", "--other"]
    assert "--wrong" not in options_of("evaluate")
    assert "--lpips-weights" in options_of("evaluate")
