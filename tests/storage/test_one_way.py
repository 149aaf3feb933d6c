"""Nothing in the package writes a file but by `storage.atomic`."""

from __future__ import annotations

import ast
from pathlib import Path

import patchkin

SOURCES = Path(patchkin.__file__).parent
WRITING = {
    *("write_text", "write_bytes", "rename", "replace", "save_file", "imwrite", "savefig"),
    *("save", "touch", "symlink_to", "hardlink_to", "copyfile", "copy2", "copytree", "move"),
    *("mkstemp", "mkdtemp", "NamedTemporaryFile"),
}
"""Names of methods, and of functions of modules, that write files or give them names."""
KNOWN = {
    "cli/import_weights.py": ["model.save"],  # of ImportedModel, which is below
    "data/archives.py": ["folder.rename", "entry.rename"],  # within new_folder
    "data/cache/store.py": ["part.open"],  # within new_file
    "data/download.py": ["part.open"],  # a download goes on
    "export/graph.py": ["torch.export.save"],  # into memory
    "images/deep.py": [
        "path.write_bytes",
        "path.write_bytes",
        "file.save",
    ],  # within new_file, as all of images
    "images/gif.py": ["image.save", "path.open"],  # into memory, and within new_file
    "images/png16.py": ["path.write_bytes"],
    "images/pnm.py": ["path.write_bytes"],
    "images/saving.py": ["save", "image.save", "part.write_bytes"],
    "images/tiff.py": ["tifffile.imwrite", "tifffile.imwrite"],
    "images/tiff_writing.py": ["tifffile.imwrite"] * 2,  # one of them into memory
    "images/video.py": ["self._av.open"],  # within new_file
    "images/write.py": ["image.save", "path.open", "np.save"],
    "metrics/extractors.py": ["torch.save"],  # into memory
    "runs/compression.py": ["figure.savefig"],  # within new_file
    "scoring/inspection.py": ["figure.savefig"],  # into memory
    "scoring/pages.py": ["picture.save"],  # into memory
    "scoring/report.py": ["figure.savefig"],  # into memory
    "storage/checkpoint.py": ["save_file"],  # within new_folder and new_file
    "storage/locks.py": ["self._owner.write_text"],  # who holds a lock is no more than told
    "training/loop.py": ["self.store.save"],
    "translation/live_maps.py": ["file.open"],  # in a temporary folder, for the same process
}


def writes(path: Path) -> list[str]:
    """Calls in a file that may write."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name == "open" and any(_is_for_writing(argument) for argument in node.args):
            found.append(_dotted(function))
        elif name in WRITING and (isinstance(function, ast.Attribute) or name == "save_file"):
            if name in ("replace", "rename") and len(node.args) != 1:
                continue  # of a text, or `dataclasses.replace`
            found.append(_dotted(function))
    return found


def _is_for_writing(argument: ast.expr) -> bool:
    values = [node.value for node in ast.walk(argument) if isinstance(node, ast.Constant)]
    return any(
        isinstance(value, str) and 0 < len(value) <= 3 and set(value) & set("wax+")
        for value in values
    )


def _dotted(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return f"{_dotted(function.value)}.{function.attr}".lstrip(".")
    if isinstance(function, ast.Subscript):
        return _dotted(function.value)
    return getattr(function, "id", "")


def test_every_write_is_one_that_is_known():
    found = {}
    for path in sorted(SOURCES.rglob("*.py")):
        name = path.relative_to(SOURCES).as_posix()
        if name != "storage/atomic.py" and (calls := writes(path)):
            found[name] = sorted(calls)
    assert found == {name: sorted(calls) for name, calls in KNOWN.items()}


def test_the_search_finds_writes(tmp_path):
    (tmp_path / "a.py").write_text(
        'p.write_text("x")\nopen(p, "w")\np.open("ab")\nq.parent.rename(r)\nnp.save(p, a)\n'
        'p.open("rb")\nopen(p)\n"a".replace("b", "c")\nreplace(config, a=1)\nwrite_text(p, "x")\n'
    )
    assert writes(tmp_path / "a.py") == [
        "p.write_text", "open", "p.open", "q.parent.rename", "np.save",
    ]  # fmt: skip
