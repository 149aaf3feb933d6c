"""The blocks of docs/python.md run, in order."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def test_the_blocks_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 6
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "(64, 80, 3) uint8"
    assert told[1].startswith("2 [")
    assert told[2] == "tensor(0.)"
    assert told[-1] == "done"
    assert sum(line.startswith("preview ") for line in told) == 2
