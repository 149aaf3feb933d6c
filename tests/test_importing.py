"""Parts that users import by themselves bring neither the command line nor what trains."""

from __future__ import annotations

import json
import os
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


def test_onnx_runtime_tells_its_makers_nothing(tmp_path):
    """Since 1.29 it sends events, on Linux too, and keeps a file of its session among temporary
    ones when it is imported; the variable is read then.
    """
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    program = "import os, patchkin, onnxruntime; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert _printed(program, environment) == "1"
    assert list(tmp_path.iterdir()) == []


def test_who_wants_its_telemetry_has_it():
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "0"}
    program = "import os, patchkin; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert _printed(program, environment) == "0"


def _printed(program, environment):
    told = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment
    )
    return told.stdout.strip()
