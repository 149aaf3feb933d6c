"""Every call that could run what a file holds is known, with arguments that forbid it.

Whoever adds one adds it to `KNOWN`, and what reaches it to `WAYS` in `tests/cli/test_pickles.py`.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import patchkin

SOURCES = Path(patchkin.__file__).parent
MODULES = {
    *("pickle", "cPickle", "_pickle", "marshal", "shelve", "dbm", "dill", "cloudpickle", "joblib"),
    *("runpy", "code", "imp", "xmlrpc", "pandas", "skops", "jsonpickle"),
}
"""Not imported anywhere: they run what they read, or read what runs."""
BUILT_IN = {"eval", "exec", "compile", "__import__"}
CALLED_NOWHERE = {
    *("yaml.load", "unsafe_load", "full_load", "load_all", "Unpickler", "read_pickle"),
    *("torch.jit.load", "torch.hub.load", "load_state_dict_from_url", "add_safe_globals"),
    *("safe_globals", "unpack_archive", "exec_module", "spec_from_file_location", "os.system"),
    *("os.popen", "SourceFileLoader", "np.fromregex", "np.genfromtxt", "np.loadtxt"),
}
WATCHED = {
    *("torch.load", "torch.export.load", "np.load", "np.memmap", "np.fromfile", "open_memmap"),
    *("yaml.safe_load", "zipfile.ZipFile", "tarfile.open", "extractall", "safe_open", "load_file"),
    *("InferenceSession", "onnx.load_model", "onnx.load", "import_module", "entry.load"),
    *("subprocess.run", "subprocess.Popen", "read_pickled", "hf_hub_download", "is_zipfile"),
    *("FeatureExtractorInceptionV3", "ctypes.CDLL"),
}
"""Names of functions, with what stands before them where the name alone says too little."""
KNOWN = {
    "__init__.py": ["import_module"] * 2,  # of modules of ours, as `*/__init__.py`
    "cli/__init__.py": ["importlib.import_module"],  # of a verb
    "compression/onnx_timing.py": ["onnxruntime.InferenceSession"],  # of a graph that it made
    "config.py": ["yaml.safe_load"],
    "data/__init__.py": ["import_module"],
    "data/archives.py": ["zipfile.ZipFile", "tarfile.open", *["file.extractall"] * 3],
    "data/cache/decoded.py": ["np.memmap"],  # bytes, without a header
    "data/cache/store.py": ["np.memmap"],
    "devices.py": ["ctypes.CDLL"] * 2,  # the C library
    "export/graph.py": ["torch.export.load"],  # from memory, what it has just written
    "export/smaller.py": ["onnx.load_model"],  # what it has just written
    "export/web_runtime.py": ["subprocess.run", "tarfile.open"],  # npm; two members, by hash
    "images/__init__.py": ["import_module"],
    "images/read.py": ["np.lib.format.open_memmap"],  # which refuses objects
    "images/sizes.py": ["np.load"],
    "metrics/extractors.py": ["FeatureExtractorInceptionV3"],  # from tensors that were read
    "metrics/statistics.py": ["safe_open"],
    "metrics/weights.py": ["read_pickled"],
    "networks/drn.py": ["read_pickled"],
    "networks/pretrained.py": ["read_pickled"],
    "plugins/__init__.py": ["self.entry.load"],  # of installed packages
    "runs/benchmark.py": ["subprocess.run"],
    "scoring/__init__.py": ["import_module"],
    "storage/hub.py": ["hub.hf_hub_download", *["importlib.import_module"] * 2],
    "storage/pickled.py": ["torch.load", "zipfile.ZipFile", "zipfile.is_zipfile"],
    "storage/tensor_files.py": ["safe_open", "safe_open"],
    "training/siblings.py": ["subprocess.Popen"],
    "translation/onnx_file.py": ["onnxruntime.InferenceSession"],
    "upstream/files.py": ["read_pickled"],
    "web/translating.py": ["zipfile.ZipFile"],  # that it writes
}
ARGUMENTS = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
"""That must be written out, whatever the library takes without."""


def trees() -> dict[str, ast.Module]:
    return {
        path.relative_to(SOURCES).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(SOURCES.rglob("*.py"))
    }


def dotted(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return f"{dotted(function.value)}.{function.attr}".lstrip(".")
    return getattr(function, "id", "")


def calls(tree: ast.Module, names: set[str]) -> list[ast.Call]:
    """Calls of functions with one of these names."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [
        call
        for call in found
        if any(f".{dotted(call.func)}".endswith(f".{name}") for name in names)
    ]


def imported(tree: ast.Module) -> set[str]:
    """First parts of the names of modules."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_no_module_is_imported_that_runs_what_it_reads():
    for name, tree in trees().items():
        assert imported(tree) & MODULES == set(), name


def test_nothing_is_called_that_runs_what_it_reads():
    for name, tree in trees().items():
        assert [dotted(call.func) for call in calls(tree, CALLED_NOWHERE)] == [], name
        bare = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        words = {function.id for function in bare if isinstance(function, ast.Name)}
        assert words & BUILT_IN == set(), name


def test_every_reader_is_one_that_is_known():
    found = {
        name: sorted(dotted(call.func) for call in calls(tree, WATCHED))
        for name, tree in trees().items()
    }
    known = {name: sorted(readers) for name, readers in KNOWN.items()}
    assert {name: readers for name, readers in found.items() if readers} == known


@pytest.mark.parametrize("name", ARGUMENTS)
def test_what_forbids_code_is_written_out(name):
    argument, value = ARGUMENTS[name]
    found = [call for tree in trees().values() for call in calls(tree, {name})]
    assert found
    for call in found:
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        assert isinstance(given[argument], ast.Constant)
        assert given[argument].value is value


def test_the_search_finds_them():
    tree = ast.parse(
        "import pickle as p\nfrom torch.jit import load\nimport numpy as np\ntorch.load(f)\n"
        "np.load(f, allow_pickle=True)\nself.network.eval()\nmodel().eval()\neval('1')\n"
        "zipfile.ZipFile(p)\nyaml.load(t)\nfile.extractall(folder)\nnp.lib.format.open_memmap(p)\n"
    )
    assert imported(tree) & MODULES == {"pickle"}
    assert [dotted(call.func) for call in calls(tree, WATCHED)] == [
        *("torch.load", "np.load", "zipfile.ZipFile", "file.extractall"),
        "np.lib.format.open_memmap",
    ]
    assert [dotted(call.func) for call in calls(tree, CALLED_NOWHERE)] == ["yaml.load"]
