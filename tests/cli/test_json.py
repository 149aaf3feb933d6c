"""`--json` prints one object that any reader of JSON reads."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path

import patchkin
from patchkin.scoring.results import read_results
from storage.test_strict_json import refused


def test_the_command_line_has_one_writer_of_json():
    """What does not come by `print_json` could print NaN."""
    for path in sorted((Path(patchkin.__file__).parent / "cli").glob("*.py")):
        names = [
            node.attr if isinstance(node, ast.Attribute) else node.name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, (ast.Attribute, ast.alias))
        ]
        assert "dumps" not in names, path.name
        assert "dump" not in names, path.name


def test_a_perfect_translation_has_an_infinite_psnr_and_valid_json(command, toy_root, tmp_path):
    """The truth as the translation: PSNR is infinite, in the line, the file and the table."""
    target = tmp_path / "scores.json"
    code, out, err = command(
        *("evaluate", toy_root / "testA_true", "--data", toy_root, "--protocol", "--json"),
        *("--output", target),
    )
    assert code == 0, err
    (result,) = json.loads(out, parse_constant=refused)["results"]
    assert result["scores"]["counterpart/psnr"] is None
    assert result["not_finite"]["/scores/counterpart~1psnr"] == "Infinity"
    json.loads(target.read_text(), parse_constant=refused)
    (stored,) = read_results(target)
    assert stored["scores"]["counterpart/psnr"] == math.inf
    code, out, _ = command(
        "evaluate", toy_root / "testA_true", "--data", toy_root, "--protocol", "--output", target
    )
    assert "inf" in out


def test_scores_of_earlier_versions_with_nan_are_compared(command, run_copy, tmp_path):
    (run_copy / "scores.json").write_text(
        '[{"scores": {"collapse_ratio": NaN, "psnr": Infinity}, "subject": {"step": 3},'
        ' "data": {"split": "test"}, "protocols": {}}]'
    )
    page = tmp_path / "page.html"
    code, out, err = command("compare", run_copy, "--output", page, "--json")
    assert code == 0, err
    plain = json.loads(out, parse_constant=refused)
    psnr = [row for row in plain["rows"] if (row["score"], row["images"]) == ("psnr", "test")]
    assert psnr[0]["cells"][0]["mean"] is None
    place = f"/rows/{plain['rows'].index(psnr[0])}/cells/0/mean"
    assert plain["not_finite"][place] == "Infinity"
    code, out, err = command("compare", run_copy, "--output", page)
    assert code == 0, err
