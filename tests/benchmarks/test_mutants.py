"""The script of faults: what tests find is found, what they leave is shown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.test_scaling_scripts import loaded

FIRE = Path(__file__).parents[2] / "benchmarks" / "fire"
TRY = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import mutants
laboratory = mutants.Laboratory(Path(sys.argv[1]))
file = "losses/style.py"
source, baseline = laboratory.source(file), laboratory.baseline(file)
laboratory.warm_up(baseline)
for before, after in (
    ("return start * max(", "return start + max("),
    ("1 - step / fade_steps)", "1 - (step / fade_steps))"),
    ("fade_steps < 1", "fade_steps <"),
):
    line = source[: source.index(before)].count("\\n") + 1
    mutant = mutants.Mutant(
        file, 0, line, (line - 3, line), lambda: source.replace(before, after)
    )
    found = laboratory.tried(mutant, baseline)
    print(json.dumps([found["result"], found["by"], found["change"]]))
print(json.dumps(laboratory.source(file) == source))
"""


@pytest.fixture
def mutants(monkeypatch):
    return loaded(FIRE / "mutants.py", monkeypatch)


def test_lines_that_differ(mutants):
    assert mutants.change("a\nb\nc\n", "a\nd\nc\n") == ["-b", "+d"]


def test_the_table_counts_the_last_word_on_each_fault(mutants):
    def line(number, result):
        return {"file": "losses/pixel.py", "number": number, "result": result}

    lines = [line(0, "survived"), line(1, "killed"), line(2, "timed out"), line(3, "none")]
    before = mutants.summary(lines, {"losses/pixel.py": 10}).splitlines()
    after = mutants.summary([*lines, line(0, "killed")], {"losses/pixel.py": 10}).splitlines()
    assert before[2] == "| losses/pixel.py | 9 | 3 | 1 | 1 | 1 | 0 | 66.7 % |"
    assert after[3] == "| all | 9 | 3 | 2 | 1 | 0 | 0 | 100.0 % |"


@pytest.mark.slow
def test_a_fault_is_found_and_what_no_test_sees_is_not(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", TRY, str(tmp_path), str(FIRE)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    *found, whole = map(json.loads, process.stdout.splitlines())
    assert [result for result, _, _ in found] == ["killed", "survived", "none"]
    assert found[0][1].endswith("::patchkin.losses.style.fading_weight")
    assert found[0][2] == [
        "-    return start * max(0.0, 1 - step / fade_steps)",
        "+    return start + max(0.0, 1 - step / fade_steps)",
    ]
    assert whole, "what was written stands in the copy"


def test_every_file_has_tests(mutants):
    for file in mutants.files([]):
        assert all((FIRE.parents[1] / path).is_file() for path in mutants.tests_of(file))
    assert mutants.files(["pixel"]) == ["losses/pixel.py"]
