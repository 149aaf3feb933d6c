"""Faults put into our own code, one at a time: is there a test that fails with each of them?

    pip install "mutmut==3.8.1"
    python benchmarks/fire/mutants.py FOLDER [FILE ...] [--minutes 60] [--seed 0] [--again]

The faults are those of mutmut's operators (another number, another comparison, an argument less, a
condition turned round, ...). Left out are annotations, decorators, imports, docstrings, and the
text of messages (in `raise`, in calls of something that is called an error, and of `logger`).

A copy of `src` and `tests` is made in FOLDER. There each test is run once, and it is noted which
lines of the file it executes. Then, for each fault, the file is written with it, and the tests that
execute the function it is in are run, the quick ones first, those of more than 5 s not, until one
fails. A process that has imported torch and the like, but nothing of ours, is forked for that. The
order of the faults is drawn over all files, so that what has been done is a sample at any time.
Tests that are marked as slow, and those that need files from outside of the repository, do not
count.

What was found stands in FOLDER/mutants.jsonl, a line for each fault; begun again, the script goes
on behind the last of them. With --again it tries those that were not found so far, with the tests
as they are now. FILE is a part of a name below `src/patchkin`, such as `losses/pixel.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import gc
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path("src", "patchkin")
TESTS = {
    "losses/adversarial.py": ("losses/test_adversarial.py", "losses/test_latent.py"),
    "losses/contrast.py": ("losses/test_contrast.py",),
    "losses/contrastive.py": ("losses/test_contrastive.py", "losses/test_contrast.py"),
    "losses/similarity.py": ("losses/test_similarity.py", "losses/test_contrast.py"),
    "losses/transport.py": ("losses/test_transport.py", "losses/test_contrast.py"),
    "randomness.py": ("test_randomness.py", "losses/test_augmentation.py"),
    "data/steps.py": ("data/test_loading.py", "data/test_shared_memory.py"),
    "storage/atomic.py": ("storage/test_atomic.py", "storage/test_atomic_edges.py"),
    "storage/checkpoint.py": ("storage/test_checkpoint.py", "storage/test_damaged_state.py"),
    "storage/hashes.py": ("storage/test_hashes.py",),
    "storage/headers.py": ("storage/test_headers.py", "storage/test_names.py"),
    "storage/hub.py": ("storage/test_hub.py",),
    "storage/locks.py": ("storage/test_locks.py",),
    "storage/names.py": ("storage/test_names.py",),
    "storage/outlines.py": ("storage/test_outlines.py",),
    "storage/pickled.py": ("storage/test_pickled.py",),
    "storage/shipped/__init__.py": ("storage/test_shipped.py", "storage/test_remote_models.py"),
    "storage/shipped/records.py": ("storage/test_records.py", "storage/test_shipped.py"),
    "storage/strict_json.py": ("storage/test_strict_json.py",),
    "storage/tensor_files.py": ("storage/test_tensor_files.py", "storage/test_names.py"),
}
"""Of a file, below `tests`, beside its own examples; of others `losses/test_NAME.py`."""
LEFT = ("len", "isinstance", "TypeVar")  # calls, as mutmut leaves the first two
QUICK_SECONDS, MOST_SECONDS = 1.0, 5.0
FOUND = ("killed", "timed out")


def files(parts: Iterable[str]) -> list[str]:
    """The files that are mutated, below `src/patchkin`."""
    losses = (f"losses/{path.name}" for path in (ROOT / PACKAGE / "losses").glob("[!_]*.py"))
    known = sorted({*losses, *TESTS})
    return [name for name in known if not parts or any(part in name for part in parts)]


def tests_of(file: str) -> list[str]:
    """Paths of the tests of a file, and its own for its examples."""
    own = TESTS.get(file, (f"losses/test_{Path(file).name}",))
    return [(PACKAGE / file).as_posix(), *(f"tests/{name}" for name in own)]


# Faults


@dataclass(frozen=True)
class Mutant:
    """A file with one fault."""

    file: str
    number: int
    line: int
    span: tuple[int, int] | None
    """First and last line of the function it is in; None for what is executed at import."""
    changed: Callable[[], str] = field(compare=False)
    """The file's text with it."""


def mutants_of(file: str, source: str) -> list[Mutant]:
    """All faults of a file, in its order."""
    import libcst as cst
    from libcst.metadata import MetadataWrapper, PositionProvider
    from mutmut.mutation.mutators import mutation_operators

    wrapper = MetadataWrapper(cst.parse_module(source))
    places, module = wrapper.resolve(PositionProvider), wrapper.module
    found: list[Mutant] = []
    for node, span_of in _nodes(module, None, False):
        span = None
        if span_of is not None:
            span = (places[span_of].start.line, places[span_of].end.line)
        for kind, operator in mutation_operators:
            for other in operator(node) if isinstance(node, kind) else ():

                def changed(node: Any = node, other: Any = other) -> str:
                    return module.deep_replace(node, other).code

                line = places[node].start.line
                found.append(Mutant(file, len(found), line, span, changed))
    return found


def _nodes(node: Any, function: Any, is_message: bool) -> Iterator[tuple[Any, Any]]:
    """Nodes of a tree that may be changed, each with the outermost function it is in."""
    import libcst as cst

    if isinstance(node, (cst.Annotation, cst.Decorator, cst.Import, cst.ImportFrom)):
        return
    text = node.value if isinstance(node, cst.Expr) else node if is_message else None
    if isinstance(text, cst.BaseString):
        return
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value in LEFT:
        return
    yield node, function
    is_message = is_message or _is_message(node)
    for child in node.children:
        inside = function
        if inside is None and isinstance(node, cst.FunctionDef) and child is node.body:
            inside = node
        yield from _nodes(child, inside, is_message)


def _is_message(node: Any) -> bool:
    """Whether the text in it is for people."""
    import libcst as cst

    if isinstance(node, cst.Raise):
        return True
    if not isinstance(node, cst.Call):
        return False
    name = node.func
    if isinstance(name, cst.Attribute):
        return isinstance(name.value, cst.Name) and name.value.value == "logger"
    return isinstance(name, cst.Name) and name.value.endswith(("Error", "refused"))


# Tests


class Watching:
    """Notes which lines of a file each test executes, and the seconds that it takes."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.tests: dict[str, dict[str, Any]] = {}
        self.failed: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        lines: set[int] = set()

        def within(frame: Any, event: str, _: Any) -> Any:
            if event == "line":
                lines.add(frame.f_lineno)
            return within

        def entered(frame: Any, *_: Any) -> Any:
            return within if frame.f_code.co_filename == self.path else None

        begun = time.monotonic()
        threading.settrace(entered)
        sys.settrace(entered)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
            seconds = round(time.monotonic() - begun, 3)
            self.tests[item.nodeid] = {"lines": sorted(lines), "seconds": seconds}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


class Chosen:
    """Runs some tests and any that were not there without the fault, the quick ones first, and
    says which failed.
    """

    def __init__(self, seconds: dict[str, float], known: Iterable[str]) -> None:
        self.seconds = seconds
        self.left_out = set(known) - seconds.keys()
        self.killer = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if item.nodeid not in self.left_out]
        items[:] = sorted(chosen, key=lambda i: self.seconds.get(i.nodeid, 0.0) > QUICK_SECONDS)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.killer = report.nodeid


class Laboratory:
    """A copy of the repository, in which files have faults."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree = folder / "tree"
        shutil.rmtree(self.tree, ignore_errors=True)
        ignored = shutil.ignore_patterns("__pycache__")
        for name in ("src", "tests", "benchmarks"):
            shutil.copytree(ROOT / name, self.tree / name, ignore=ignored)
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, self.tree)
        self._written = 0

    def source(self, file: str) -> str:
        """A file without a fault."""
        return (ROOT / PACKAGE / file).read_text(encoding="utf-8")

    def baseline(self, file: str) -> dict[str, Any]:
        """What each test of a file executes, and the modules of others that they import."""
        names = [path for path in tests_of(file) if (self.tree / path).is_file()]
        texts = [(self.tree / path).read_bytes() for path in names]
        state = hashlib.sha256(b"\0".join([*map(str.encode, names), *texts])).hexdigest()
        kept = self.folder / "baselines" / f"{file.replace('/', '-')}.json"
        if kept.is_file():
            known = json.loads(kept.read_text())
            if known["state"] == state:
                return known

        def watched() -> dict[str, Any]:
            watching = Watching(self.tree / PACKAGE / file)
            self._pytest(names, watching)
            modules = [
                name
                for name, module in sys.modules.items()
                if not str(getattr(module, "__file__", None) or "").startswith(str(self.tree))
            ]
            if watching.failed or not watching.tests:
                raise AssertionError(f"without a fault: {watching.failed or 'no tests'}")
            return {"state": state, "tests": watching.tests, "modules": modules}

        known = self._forked(watched, limit=900)
        if known is None or "tests" not in known:
            raise SystemExit(f"the tests of {file} do not pass; see {self.folder / 'said'}")
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps(known))
        return known

    def tried(self, mutant: Mutant, baseline: dict[str, Any]) -> dict[str, Any]:
        """What became of a fault."""
        source = self.source(mutant.file)
        changed = mutant.changed()
        record = {
            "file": mutant.file,
            "number": mutant.number,
            "line": mutant.line,
            "source": digest(source),
            "change": change(source, changed),
            "by": "",
            "seconds": 0.0,
        }
        if changed == source or not _compiles(changed):
            return {**record, "result": "none"}
        tests, executed = _tests_for(mutant, baseline["tests"])
        if not tests:
            return {**record, "result": "not executed"}
        self._write(mutant.file, changed)
        begun = time.monotonic()
        answer = self._tested(tests, baseline["tests"])
        self._write(mutant.file, source)
        record["seconds"] = round(time.monotonic() - begun, 2)
        if answer is None:
            return {**record, "result": "timed out"}
        record["by"] = answer["by"] or ("import" if answer["code"] else "")
        if answer["code"]:
            return {**record, "result": "killed"}
        return {**record, "result": "survived" if executed else "not executed"}

    def check(self, baseline: dict[str, Any]) -> None:
        """That tests pass without a fault, run as they are for one."""
        tests = {name: test["seconds"] for name, test in baseline["tests"].items()}
        answer = self._tested(tests, tests)
        if answer is None or answer["code"]:
            raise SystemExit(f"without a fault: {answer}; see {self.folder / 'said'}")

    def _tested(self, tests: dict[str, float], known: Iterable[str]) -> dict[str, Any] | None:
        def work() -> dict[str, Any]:
            chosen = Chosen(tests, known)
            code = self._pytest(sorted({name.split("::")[0] for name in tests}), chosen)
            return {"code": int(code), "by": chosen.killer}

        return self._forked(work, limit=60 + 10 * sum(tests.values()))

    def warm_up(self, baseline: dict[str, Any]) -> None:
        """Import what is not ours."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in sorted(baseline["modules"]):
                if (
                    name not in sys.modules
                    and name != "__main__"
                    and not name.startswith("patchkin")
                ):
                    with contextlib.suppress(BaseException):
                        importlib.import_module(name)
        assert "patchkin" not in sys.modules
        gc.collect()
        gc.freeze()

    def _write(self, file: str, text: str) -> None:
        """With a time of its own, by which Python knows that what it compiled before is stale."""
        path = self.tree / PACKAGE / file
        path.write_text(text, encoding="utf-8")
        self._written += 1
        os.utime(path, (1_000_000_000 + self._written,) * 2)

    def _pytest(self, names: list[str], plugin: object) -> int:
        os.chdir(self.tree)
        sys.path.insert(0, str(self.tree / "src"))
        os.environ["PYTHONPATH"] = str(self.tree / "src")
        places = ("--rootdir", str(self.tree), "--basetemp", str(self.folder / "temporary"))
        options = ("-x", "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist")
        warnings_ = ("-W", "ignore::pytest.PytestAssertRewriteWarning")  # of what is warm
        return pytest.main([*options, *warnings_, *places, *names], plugins=[plugin])

    def _forked(self, work: Callable[[], dict[str, Any]], limit: float) -> dict[str, Any] | None:
        """What work returns in a fork of this process; None if it takes longer."""
        answer = self.folder / "answer"
        answer.unlink(missing_ok=True)
        process = os.fork()
        if not process:
            os.setsid()
            said = os.open(self.folder / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(said, 1)
            os.dup2(said, 2)
            try:
                answer.write_text(json.dumps(work()))
            except BaseException:  # noqa: BLE001 - a fault can raise anything
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        until = time.monotonic() + limit
        while not os.waitpid(process, os.WNOHANG)[0]:
            if time.monotonic() > until:
                os.killpg(process, signal.SIGKILL)
                os.waitpid(process, 0)
                break
            time.sleep(0.005)
        with contextlib.suppress(OSError):  # what it started
            os.killpg(process, signal.SIGKILL)
        if answer.is_file():
            return json.loads(answer.read_text())
        return None if time.monotonic() > until else {"code": 1, "by": "its process died"}


def _tests_for(mutant: Mutant, known: dict[str, Any]) -> tuple[dict[str, float], bool]:
    """Tests by name, with their seconds, and whether they execute its function; if none does, those
    that execute nothing of the file, but may in another process.
    """
    quick = {name: test for name, test in known.items() if test["seconds"] <= MOST_SECONDS}
    span = mutant.span
    chosen = [name for name, test in quick.items() if span is None or _meets(span, test["lines"])]
    others = [name for name, test in quick.items() if not test["lines"]]
    return {name: quick[name]["seconds"] for name in chosen or others}, bool(chosen)


def _meets(span: tuple[int, int], lines: list[int]) -> bool:
    return any(span[0] < line <= span[1] for line in lines)


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def digest(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def change(before: str, after: str) -> list[str]:
    """The lines that differ."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


# What was found


def newest(lines: Iterable[dict[str, Any]]) -> dict[tuple[str, int], dict[str, Any]]:
    """The last line about each fault."""
    return {(line["file"], line["number"]): line for line in lines}


def summary(lines: Iterable[dict[str, Any]], totals: dict[str, int]) -> str:
    """A table, as text."""
    kinds = ("killed", "timed out", "survived", "not executed")
    counts: dict[str, Counter[str]] = {}
    for line in newest(lines).values():
        counts.setdefault(line["file"], Counter())[line["result"]] += 1
    rows = ["| file | faults | tried | " + " | ".join(kinds) + " | found |", "|---" * 8 + "|"]
    whole: Counter[str] = Counter()
    for file, count in sorted(counts.items()):
        rows.append(_row(file, totals.get(file, 0) - count["none"], count, kinds))
        whole += count
    everything = sum(totals.get(file, 0) for file in counts) - whole["none"]
    return "\n".join([*rows, _row("all", everything, whole, kinds)])


def _row(name: str, total: int, count: Counter[str], kinds: tuple[str, ...]) -> str:
    tried = sum(count[kind] for kind in kinds)
    found = sum(count[kind] for kind in FOUND)
    share = f"{100 * found / tried:.1f} %" if tried else ""
    cells = (name, total, tried, *(count[kind] for kind in kinds), share)
    return f"| {' | '.join(map(str, cells))} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="for the copy, and what was found")
    parser.add_argument("files", nargs="*", help="parts of names; all unless given")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="those that were not found")
    parser.add_argument("--show", action="store_true", help="only what is known")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    found = options.folder.resolve() / "mutants.jsonl"
    lines = [json.loads(line) for line in found.read_text().splitlines()] if found.exists() else []
    chosen = files(options.files)
    sources = {file: (ROOT / PACKAGE / file).read_text(encoding="utf-8") for file in chosen}
    lines = [line for line in lines if line["source"] == digest(sources.get(line["file"], ""))]
    mutants = {file: mutants_of(file, sources[file]) for file in chosen}
    totals = {file: len(of_file) for file, of_file in mutants.items()}
    if options.show:
        for line in newest(lines).values():
            if line["result"] in ("survived", "not executed"):
                print(f"{line['file']}:{line['line']} [{line['number']}] {line['result']}")
                print("\n".join(f"    {text}" for text in line["change"]))
        print(summary(lines, totals))
        return 0
    known = newest(lines)
    wanted = [mutant for of_file in mutants.values() for mutant in of_file]
    if options.again:
        missed = {key for key, line in known.items() if line["result"] not in (*FOUND, "none")}
        wanted = [mutant for mutant in wanted if (mutant.file, mutant.number) in missed]
    else:
        wanted = [mutant for mutant in wanted if (mutant.file, mutant.number) not in known]
    random.Random(options.seed).shuffle(wanted)
    laboratory = Laboratory(options.folder.resolve())
    baselines = {}
    for name in sorted({mutant.file for mutant in wanted}):
        baselines[name] = laboratory.baseline(name)
        laboratory.warm_up(baselines[name])
    until = time.monotonic() + 60 * options.minutes
    for mutant in wanted:
        if time.monotonic() > until:
            break
        line = laboratory.tried(mutant, baselines[mutant.file])
        lines.append(line)
        with found.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    passed = {line["file"] for line in lines if line["result"] == "survived"}
    for name in baselines.keys() - passed:  # of the others that is known
        laboratory.check(baselines[name])
    print(summary(lines, totals))
    return 0


if __name__ == "__main__":
    sys.exit(main())
