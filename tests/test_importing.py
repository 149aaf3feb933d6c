"""Parts that users import by themselves bring neither the command line nor what trains."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

COMMAND_LINE = ("tyro", "rich", "matplotlib", "jinja2", "lightning_fabric", "patchkin.cli")
TRAINING = ("patchkin.training", "patchkin.runs")
_TELL = """
import json, sys, time
begin = time.perf_counter()
import torch, yaml, cattrs, PIL.Image, numpy
middle = time.perf_counter()
import {module}
end = time.perf_counter()
print(json.dumps([middle - begin, end - middle, sorted(sys.modules)]))
"""


@pytest.mark.parametrize("module", ["patchkin.losses", "patchkin.methods"])
def test_it_is_imported_alone(module):
    told = subprocess.run(
        [sys.executable, "-c", _TELL.format(module=module)],
        check=True,
        capture_output=True,
        text=True,
    )
    libraries, own, modules = json.loads(told.stdout)
    assert module in modules
    assert [name for name in (*COMMAND_LINE, *TRAINING) if name in modules] == []
    assert own < libraries, f"{own:.2f} s beside {libraries:.2f} s for the libraries"


def test_the_package_itself_imports_nothing_heavy():
    program = "import sys, json, patchkin; print(json.dumps(sorted(sys.modules)))"
    told = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    modules = json.loads(told.stdout)
    assert "patchkin" in modules
    assert [name for name in ("torch", "numpy", "PIL", *COMMAND_LINE) if name in modules] == []
