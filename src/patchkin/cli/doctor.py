"""`patchkin doctor`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from patchkin import plugins
from patchkin._version import __version__
from patchkin.cli.parsing import parse
from patchkin.cli.printing import print_json
from patchkin.errors import ConfigError, missing_extra

LIBRARIES = ("pillow",)
OPTIONAL = {
    **{
        name: missing_extra("All but translating with ONNX files", package=name, extra="torch")
        for name in ("torch", "torchvision", "lightning-fabric", "safetensors")
    },
    "tifffile": missing_extra("TIFF", package="tifffile", extra="tiff"),
    "av": missing_extra("A video", package="av", extra="video"),
    "torch-fidelity": missing_extra("Inception", package="torch-fidelity", extra="metrics"),
    "torchmetrics": missing_extra("LPIPS", package="torchmetrics", extra="metrics"),
    "gradio": "`patchkin demo` needs gradio: pip install 'patchkin[web]'.",
    "onnxruntime": missing_extra("ONNX Runtime", package="onnxruntime", extra="onnx"),
}


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Options of `doctor`."""

    json: bool = False
    """Print one JSON object."""


def run(arguments: Sequence[str], _: object) -> int:
    """Report versions, devices and what is missing."""
    options = parse(
        DoctorOptions, arguments, prog="patchkin doctor", about="What this machine can do."
    )
    facts = examine()
    if options.json:
        print_json(facts)
        return 0
    for name, value in facts.items():
        print(f"{name:<18} {value}")
    return 0


def examine() -> dict[str, Any]:
    """Versions and devices, name -> value."""
    facts: dict[str, Any] = {
        "patchkin": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
    }
    if importlib.util.find_spec("torch") is not None:
        facts |= _devices()
    for library in (*LIBRARIES, *OPTIONAL):
        try:
            facts[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            facts[library] = f"not installed. {OPTIONAL.get(library, 'It is needed.')}"
    for group in (plugins.METHODS, plugins.LAYOUTS, plugins.METRICS, plugins.LOGGERS):
        for name, plugin in plugins.plugins(group).items():
            try:
                plugin.load()
                facts[f"{group} {name}"] = plugin.package
            except ConfigError as error:
                facts[f"{group} {name}"] = str(error)
    return facts


def _devices() -> dict[str, Any]:
    """What torch can compute on."""
    import torch

    return {
        "cpu instructions": torch.backends.cpu.get_cpu_capability(),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or "none",
        "mps": torch.backends.mps.is_available(),
    }
