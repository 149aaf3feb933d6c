"""Files with code in them, of every kind that unpickles somewhere: run, they make a file."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


def _written(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _packed(trace: Path) -> bytes:
    """As torch packs since 1.6."""
    state = {"model.1.weight": torch.ones(4, 3, 7, 7), "model.1.bias": Trap(trace)}
    return _written(lambda file: torch.save(state, file))


def _legacy(trace: Path) -> bytes:
    """As torch wrote before: pickles one behind the other."""
    state = {"state_dict": Trap(trace)}
    return _written(lambda file: torch.save(state, file, _use_new_zipfile_serialization=False))


def _tar(trace: Path) -> bytes:
    """As torch wrote before 0.1.10: a tar of pickles."""
    parts = {"sys_info": {}, "storages": 0, "tensors": 0, "pickle": Trap(trace)}

    def write(file: io.BytesIO) -> None:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name, content in parts.items():
                data = pickle.dumps(content, protocol=2)
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))

    return _written(write)


def _script(trace: Path) -> bytes:
    """A TorchScript archive, whose code a loader would compile, with a pickle for constants."""

    def write(file: io.BytesIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("script/code/__torch__.py", "class M(Module):\n  pass\n")
            archive.writestr("script/constants.pkl", pickle.dumps((Trap(trace),), protocol=2))
            archive.writestr("script/data.pkl", pickle.dumps(Trap(trace), protocol=2))
            archive.writestr("script/version", "3\n")

    return _written(write)


def _numpy(trace: Path) -> bytes:
    """An array of Python objects."""
    return _written(lambda file: np.save(file, np.array([Trap(trace)], object), allow_pickle=True))


def _numpys(trace: Path) -> bytes:
    """An .npz of them."""
    return _written(lambda file: np.savez(file, a=np.array([Trap(trace)], object)))


def _headed(trace: Path) -> bytes:
    """A safetensors file whose table of contents is a pickle."""
    data = pickle.dumps(Trap(trace))
    return struct.pack("<Q", len(data)) + data


def _named(trace: Path) -> bytes:
    """A safetensors file of a model whose settings call for code."""
    calls = f"!!python/object/apply:os.mkdir [{trace}]"
    told = {"method": "cut", "config": {"generator": calls, "__reduce__": calls}, "version": 2}
    text = json.dumps({"__metadata__": {"patchkin": json.dumps(told), "__class__": calls}}).encode()
    return struct.pack("<Q", len(text)) + text


def yaml_of(trace: Path) -> bytes:
    """YAML that a careless reader runs."""
    return f"method: !!python/object/apply:os.mkdir [{trace}]\n".encode()


def plain(trace: Path, protocol: int = 2) -> bytes:
    """A pickle and nothing else."""
    return pickle.dumps({"state_dict": Trap(trace)}, protocol=protocol)


KINDS: dict[str, Callable[[Path], bytes]] = {
    "packed": _packed,
    "legacy": _legacy,
    "tar": _tar,
    "script": _script,
    "plain": plain,
    "plain-0": lambda trace: plain(trace, 0),
    "numpy": _numpy,
    "numpys": _numpys,
    "headed": _headed,
    "named": _named,
    "yaml": yaml_of,
}
"""Content by name, of a file that touches the path if something in it is run."""
