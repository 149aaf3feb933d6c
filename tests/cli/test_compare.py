"""`compare`: one table in five formats, of runs, models, folders and files of results."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil

import pytest
import yaml
from PIL import Image

from patchkin.storage.hashes import file_sha256
from scoring.test_comparison import make_run

AWKWARD = "50%_of & all #1"
"""A name that LaTeX, HTML and CSV each would misread."""


def entry(scores, *, subject, data="/data/zebras", classes=(), split="test", **more):
    return {
        "scores": scores,
        "subject": {"method": "cut", "weights": "live", **subject},
        "data": {"root": data, "direction": "AtoB", "split": split, "counts": {"inputs": 3}},
        "protocols": {
            "squeezenet-224": {
                "image_size": None,
                "extractor": "squeezenet",
                "extractor_sha256": "c" * 64,
            }
        },
        "evaluation": {
            "classes": list(classes),
            "split": "test",
            "extractor_weights": "squeeze net.pth",
            "masks": None,
        },
        **more,
    }


def write_scores(path, *entries):
    path.write_text(json.dumps(list(entries)))
    return path


def set_data(run, root):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"] = {"root": root, "direction": "AtoB"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


@pytest.fixture
def runs(tmp_path):
    """Two seeds with test scores, and a run of other settings that was not evaluated."""
    made = []
    for seed, name in enumerate((AWKWARD, "s1")):
        run = make_run(tmp_path / name, seed=seed, validation={10: 1.0, 20: 0.5})
        scores = {"squeezenet-224/class_top1": 20.0 + seed, "change": 3.5}
        write_scores(
            run / "scores.json",
            entry(scores, subject={"step": 20, "model": str(run)}, classes=[340]),
        )
        made.append(set_data(run, "/data/zebras"))
    other = make_run(tmp_path / "b c", validation={20: 2.0}, rate=2.0)
    return [*made, set_data(other, "/data/zebras")]


FACTS = ("method", "seeds", "last step")
COMMAND = (
    "patchkin evaluate '{}' --protocol squeezenet-224 --extractor-weights 'squeeze net.pth' "
    "--classes 340"
)


def test_text_has_runs_across_and_says_what_was_not_evaluated(command, runs):
    code, out, err = command("compare", *runs)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "data /data/zebras, AtoB"
    assert re.split(r" {2,}", lines[1]) == [
        *("score", "better", "images", "checkpoint"),
        *(f"{AWKWARD} and 1 more", "b c"),
    ]
    cells = [re.split(r" {2,}", line) for line in lines]
    assert ["n", "2", "1"] in cells
    assert ["seeds", "0, 1", "0"] in cells
    assert [
        *("squeezenet-224/class_top1", "higher", "test", "last"),
        *("20.5 ± 0.71 (n=2)", "not evaluated [1]"),
    ] in cells
    assert ["change", "-", "test", "last", "3.5 ± 0 (n=2)", "not evaluated [1]"] in cells
    assert lines[-1] == f"[1] not evaluated: run {COMMAND.format(runs[2])}"
    widths = {len(line) for line in lines[1:-1] if line.endswith(("]", "c"))}
    assert len(widths) == 1  # the last column ends at one place


def test_csv_is_read_back_with_all_digits(command, runs, tmp_path):
    target = tmp_path / "t.csv"
    assert command("compare", *runs, "--output", target)[0] == 0
    with target.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    name = f"{AWKWARD} and 1 more"
    (row,) = [
        row
        for row in rows
        if row["score"] == "squeezenet-224/class_top1" and row["checkpoint"] == "last"
    ]
    assert (row["better"], row["unit"], row["images"]) == ("higher", "percent, 0 to 100", "test")
    assert (float(row[name]), float(row[f"{name}: deviation"])) == (20.5, 0.7071067811865476)
    assert row[f"{name}: n"] == "2"
    assert (row["b c"], row["b c: n"]) == ("", "0")
    assert "b c: deviation" not in row
    assert row["not evaluated"] == f"b c: run {COMMAND.format(runs[2])}"
    numbers = [row[name] for row in rows] + [row["b c"] for row in rows]
    assert all(number == "" or float(number) >= 0 for number in numbers)  # nothing but numbers


def test_csv_says_of_each_column_what_the_text_says_above_it(command, runs, tmp_path):
    folder = tmp_path / "translated"  # has no method, no seed and no step
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    code, out, err = command("compare", *runs, folder, "--format", "csv")
    assert code == 0, err
    header, *rows = csv.reader(out.splitlines())
    name = f"{AWKWARD} and 1 more"
    facts = [f"{column}: {fact}" for column in (name, "b c", "translated") for fact in FACTS]
    assert header[-10:] == [*facts, "not evaluated"]  # behind all numbers
    assert len(rows) > 1
    for row in rows:
        of_runs = [*("cut", "0, 1", "20"), *("cut", "0", "20")]
        assert row[-10:-1] == [*of_runs, *("folder of images", "", "")]


def test_json_has_every_number_of_every_run(command, runs, tmp_path):
    target = tmp_path / "t.json"
    assert command("compare", *runs, "-o", target)[0] == 0
    plain = json.loads(target.read_text())
    code, out, _ = command("compare", *runs, "--format", "json")
    assert code == 0
    assert json.loads(out) == plain
    assert json.loads(command("compare", *runs, "--json")[1]) == plain
    assert [column["n"] for column in plain["columns"]] == [2, 1]
    assert [member["seed"] for member in plain["columns"][0]["members"]] == [0, 1]
    top1 = plain["rows"][0]
    assert (top1["score"], top1["better"]) == ("squeezenet-224/class_top1", "higher")
    assert top1["cells"][0]["values"] == [20.0, 21.0]
    assert top1["cells"][1] == {
        **{"mean": None, "deviation": None, "n": 0, "values": []},
        "not_evaluated": [COMMAND.format(runs[2])],
    }
    assert next(row for row in plain["rows"] if row["score"] == "change")["better"] is None


def test_latex_escapes_and_needs_no_package(command, runs, tmp_path):
    target = tmp_path / "t.tex"
    assert command("compare", *runs, "-o", target)[0] == 0
    lines = target.read_text().splitlines()
    table = [line for line in lines if not line.startswith("%")]
    assert table[0] == r"\begin{tabular}{lllrr}"
    assert table[2] == (r"score & images & checkpoint & 50\%\_of \& all \#1 and 1 more & b c \\")
    assert table[4] == (
        r"squeezenet-224/class\_top1 $\uparrow$ & test & last & "
        r"20.5 $\pm$ 0.71 (n=2) & not evaluated [1] \\"
    )
    for line in table:
        assert not re.search(r"(?<!\\)[_%#]", line), line
        if line.endswith(r"\\"):
            assert len(re.findall(r"(?<!\\)&", line)) == 4, line
    assert lines[-1] == f"% [1] not evaluated: run {COMMAND.format(runs[2])}"


def test_the_format_goes_by_the_suffix_and_is_chosen_before_it(command, runs, tmp_path):
    page = tmp_path / "t.html"
    assert command("compare", *runs, "-o", page)[0] == 0
    text = page.read_text()
    assert text.startswith("<!doctype html>")
    assert "50%_of &amp; all #1" in text
    assert "chosen by the test set itself" in text
    assert "takes for the wanted kind (percent, 0 to 100; higher is better)." in text
    code, _, err = command("compare", *runs, "-o", page, "--format", "csv")
    assert code == 0
    assert page.read_text().startswith("score,better,unit,")
    assert f"written: {page} (csv)" in err
    code, _, err = command("compare", *runs, "-o", tmp_path / "t.xls")
    assert code == 2
    assert "--format text|csv|latex|json|html" in err
    assert not (tmp_path / "t.xls").exists()


def test_results_are_not_written_over(command, runs, tmp_path):
    before = (runs[0] / "scores.json").read_bytes()
    for target in (runs[0] / "scores.json", tmp_path / "scores.json"):
        code, _, err = command("compare", *runs, "-o", target)
        assert code == 2, err
    other = write_scores(tmp_path / "other.json", entry({"change": 1.0}, subject={"step": 1}))
    code, _, err = command("compare", runs[0], other, "-o", other)
    assert (code, "holds results" in err) == (2, True)
    assert (runs[0] / "scores.json").read_bytes() == before


def test_models_are_columns_by_the_hash_of_their_weights(command, runs, run_copy, tmp_path):
    model = shutil.copy(
        next((run_copy / "checkpoints").glob("step_*")) / "model.safetensors",
        tmp_path / "imported.safetensors",
    )
    code, out, err = command("compare", runs[0], model)
    assert code == 0, err
    told = shlex.split(out.splitlines()[-1].partition(": run ")[2])
    assert told[:5] == ["patchkin", "evaluate", str(model), "--data", "/data/zebras"]
    assert told[-2:] == ["--output", str(tmp_path / "scores.json")]
    subject = {"model": "elsewhere", "sha256": file_sha256(tmp_path / "imported.safetensors")}
    stranger = {"model": "gone.safetensors", "sha256": "0" * 64, "step": 7}
    write_scores(
        tmp_path / "scores.json",
        entry({"squeezenet-224/class_top1": 61.7}, subject=subject, classes=[340]),
        entry({"squeezenet-224/class_top1": 5.0}, subject=stranger, classes=[340]),
    )
    _, out, _ = command("compare", runs[0], model, "--json")
    top1 = json.loads(out)["rows"][0]
    assert [cell["mean"] for cell in top1["cells"]] == [20.0, 61.7]
    _, out, _ = command("compare", runs[0], model, tmp_path / "scores.json", "--json")
    plain = json.loads(out)
    names = [column["name"] for column in plain["columns"]]
    assert names == [AWKWARD, "imported.safetensors", "gone.safetensors"]
    assert [cell["mean"] for cell in plain["rows"][0]["cells"]] == [20.0, 61.7, 5.0]


def test_a_models_own_evaluation_is_found(command, run_copy, toy_root, tmp_path):
    """The command that the table tells is run as it stands, and fills the cell."""
    model = shutil.copy(
        next((run_copy / "checkpoints").glob("step_*")) / "model.safetensors",
        tmp_path / "small.safetensors",
    )
    assert command("evaluate", run_copy, "--protocol")[0] == 0
    _, out, _ = command("compare", run_copy, model)
    program, *arguments = shlex.split(out.splitlines()[-1].partition(": run ")[2])
    assert program == "patchkin"
    assert ["--data", str(toy_root)] == arguments[2:4]
    code, _, err = command(*arguments)
    assert code == 0, err
    _, out, _ = command("compare", run_copy, model, "--json")
    rows = [row for row in json.loads(out)["rows"] if row["images"] == "test"]
    assert rows
    for row in rows:
        if row["checkpoint"] == "last":
            assert row["cells"][0]["values"] == row["cells"][1]["values"]
            assert row["cells"][1]["n"] == 1


def test_two_plain_folders(command, toy_root, tmp_path):
    outputs = [shutil.copytree(toy_root / name, tmp_path / name) for name in ("testA", "testB")]
    code, out, err = command("compare", *outputs)
    assert code == 0, err
    assert out.splitlines()[-1] == (
        f"[2] not evaluated: run patchkin evaluate {outputs[1]} --data ROOT "
        f"--output {tmp_path / 'scores.json'}"
    )
    for folder in outputs:
        arguments = ("--data", toy_root, "--protocol", "--output", tmp_path / "scores.json")
        assert command("evaluate", folder, *arguments)[0] == 0
    _, out, _ = command("compare", *outputs, "--json")
    change = next(row for row in json.loads(out)["rows"] if row["score"] == "change")
    assert change["cells"][0]["mean"] == 0
    assert change["cells"][1]["mean"] > 0


def test_one_row_is_of_one_measurement(command, runs):
    """Another class, other data, other weights of the extractor: rows of their own, told apart."""
    path = runs[1] / "scores.json"
    (first,) = json.loads(path.read_text())
    of_other_class = {**first, "evaluation": {**first["evaluation"], "classes": [3]}}
    of_other_class["scores"] = {"squeezenet-224/class_top1": 99.0}
    elsewhere = {**first, "data": {**first["data"], "root": "/data/cats"}}
    write_scores(path, first, of_other_class, elsewhere)
    _, out, _ = command("compare", *runs, "--json")
    rows = json.loads(out)["rows"]
    top1 = {
        row["images"]: row["cells"][0]["values"]
        for row in rows
        if (row["score"], row["checkpoint"]) == ("squeezenet-224/class_top1", "last")
    }
    assert top1 == {
        "test, classes 340": [20.0, 21.0],
        "test, classes 3": [99.0],
        "test, data /data/cats": [21.0],
    }


def test_what_is_no_subject_is_one_line(command, tmp_path):
    (tmp_path / "net_G.pth").write_bytes(b"x")
    for subject, told in (
        (tmp_path / "net_G.pth", "patchkin import-weights"),
        (tmp_path / "absent", "no such file or folder"),
        (write_scores(tmp_path / "scores.json"), "holds no results"),
    ):
        code, _, err = command("compare", subject)
        assert code == 2
        assert told in err
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", "training: {seed: 1}"),
        ("config.yaml", "name: [cut]\ntraining: 3"),
        ("config.yaml", "a: 2026-13-45"),
        ("config.yaml", "a: " + "[" * 50_000),
        ("log.jsonl", '{"scores": {"psnr": 3}}'),
        ("log.jsonl", "[1, 2]"),
    ],
)
def test_records_that_are_something_else_are_one_line(command, runs, name, content):
    (runs[0] / name).write_text(content)
    code, out, err = command("compare", *runs)
    assert (code, out) == (2, "")
    assert err.startswith(f"patchkin: error: `{runs[0]}")
    assert len(err.splitlines()) == 1
