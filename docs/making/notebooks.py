"""Runs notebooks, and keeps what they show: `notebooks.py FOLDER NOTEBOOK...`.

They run in the folder and are written back with text and pictures in few colours, without what
belongs to the machine. With `--set NAME=VALUE` a cell behind the one that is tagged `parameters`
sets other values, as papermill does, and `--output FILE` writes elsewhere: so the tests run them in
seconds. Pages of the site are made of them by `hooks.py`, which runs nothing.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

COLOURS = (64, 32, 16)
MOST_OF_A_PICTURE = 26_000
"""Bytes, for which colours are given up."""
MOST_BYTES = 200_000
"""Of a notebook with its pictures."""
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
OF_A_MACHINE = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|mnt|opt|usr|var|Users)/|[A-Z]:\\\\")
"""Where a path begins that is of no use elsewhere."""
ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")


def executed(path: Path, folder: Path, parameters: list[str]) -> nbformat.NotebookNode:
    """A notebook after all of its cells.

    Args:
        path: of the notebook, which stays as it is.
        folder: where it runs.
        parameters: lines such as `steps = 2`, to go behind its own.

    Raises:
        CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    if parameters:
        (place,) = (n for n, cell in enumerate(notebook.cells) if "parameters" in tags(cell))
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell("\n".join(parameters)))
    os.environ["JUPYTER_PLATFORM_DIRS"] = "1"
    os.environ["OMP_NUM_THREADS"] = "1"
    folder.mkdir(parents=True, exist_ok=True)
    place_of_run = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=None, kernel_name="python3", resources=place_of_run).execute()
    return notebook


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", ()))


def kept(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """What of an executed notebook is for everybody."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [small(output, folder) for output in together(cell.outputs)]
    return notebook


def together(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Outputs of a cell, with the pieces of a stream in one."""
    joined: list[nbformat.NotebookNode] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last is not None and output.output_type == "stream" == last.output_type:
            last.text += output.text
        else:
            joined.append(output)
    return joined


def small(output: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    if output.output_type == "stream":
        output.name = "stdout"
        output.text = output.text.replace(f"{folder}{os.sep}", "").rstrip() + "\n"
        return output
    output.metadata = nbformat.from_dict({})
    text = ADDRESS.sub("", output.data.get("text/plain", ""))
    data = {"text/plain": text.replace(f"{folder}{os.sep}", "")}
    if "image/png" in output.data:
        with Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))) as picture:
            data["image/png"] = base64.b64encode(in_few_colours(picture)).decode()
    output.data = nbformat.from_dict(data)
    return output


def in_few_colours(picture: Image.Image) -> bytes:
    """As PNG."""
    for colours in COLOURS:
        buffer = io.BytesIO()
        few = picture.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
        few.save(buffer, "PNG", optimize=True)
        if len(buffer.getvalue()) < MOST_OF_A_PICTURE:
            break
    return buffer.getvalue()


def check(path: Path) -> None:
    """Refuse what does not belong into the repository."""
    text = path.read_text(encoding="utf-8")
    if found := OF_A_MACHINE.search(text):
        raise SystemExit(f"{path} names a place of this machine: {text[found.start() :][:60]}")
    if len(text) > MOST_BYTES:
        raise SystemExit(f"{path} has {len(text)} bytes; at most {MOST_BYTES}.")
    print(f"{path}: {len(text)} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("notebooks", type=Path, nargs="+")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.set and not options.output:
        parser.error("--set makes another notebook: give it an --output")
    folder = options.folder.resolve()
    for path in options.notebooks:
        notebook = kept(executed(path, folder, options.set), folder)
        target = options.output or path
        nbformat.write(notebook, target)
        check(target)


if __name__ == "__main__":
    main()
