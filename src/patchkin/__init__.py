"""Contrastive unpaired image-to-image translation: two folders of images in, a translator out.

The names below are imported on first use, so that `import patchkin` and the command line start at
once.
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module

from patchkin._version import __version__

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
"""Read when ONNX Runtime is imported, which tells its makers what it does since 1.29."""

TYPE_CHECKING = False  # `typing` takes longer than all else here, and nothing is said of Ctrl-C yet
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from patchkin.method import Method, Preset, Progress, Terms, Update
    from patchkin.runs.run import Run, fit
    from patchkin.translation.translator import Translator

__all__ = [
    "Method",
    "Preset",
    "Progress",
    "Run",
    "Terms",
    "Translator",
    "Update",
    "__version__",
    "fit",
    "run",
]

_HOMES = {
    "Method": "patchkin.method",
    "Preset": "patchkin.method",
    "Progress": "patchkin.method",
    "Run": "patchkin.runs.run",
    "Terms": "patchkin.method",
    "Translator": "patchkin.translation.translator",
    "Update": "patchkin.method",
    "fit": "patchkin.runs.run",
}
_RENAMED: dict[str, tuple[str, str]] = {}
"""Former name here -> what it is now, with its module; and the first version without the former."""


def run(method: type[Method]) -> NoReturn:
    """The whole command line for a method of your own; the last line of its file.

    `python my_method.py train --data ROOT`, `python my_method.py translate RUN IMAGE ...` and so
    on. The methods of patchkin stay available beside it.
    """
    from patchkin.cli import main
    from patchkin.methods import known_methods

    others = {name: kind for name, kind in known_methods().items() if name != method.name}
    sys.exit(main(methods={method.name: method, **others}, default_method=method.name))


def __getattr__(name: str) -> Any:
    if name == "Translator":
        from importlib.util import find_spec

        if find_spec("torch") is None:
            from patchkin.translation.onnx_file import OnnxTranslator

            return OnnxTranslator  # which loads what can be loaded there
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _RENAMED:
        now, until = _RENAMED[name]
        message = f"`patchkin.{name}` is `{now}` now; version {until} will not have the old name."
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        module, _, attribute = now.rpartition(".")
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module `patchkin` has no attribute `{name}`")
