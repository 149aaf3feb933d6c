"""The report of a run with one record, and the gallery of few images."""

from __future__ import annotations

import json

import pytest
import torch
from matplotlib.axes import Axes

from patchkin.errors import PatchkinError
from patchkin.scoring.pair_scores import ContentScore
from patchkin.scoring.pairs import Pair
from patchkin.scoring.report import _caption, _curves, read_log, write_report


def pair(number):
    image_CHW = torch.zeros(3, 8, 8)
    output_CHW = image_CHW + 0.05 * number
    return Pair(name=f"{number}.png", input_CHW=image_CHW, output_CHW=output_CHW)


@pytest.mark.parametrize("count", [1, 2, 3, 11, 12, 13, 20])
def test_no_image_is_among_the_worst_and_the_best(count):
    content = ContentScore(None)
    for number in torch.randperm(count, generator=torch.Generator().manual_seed(count)).tolist():
        content.add(pair(number))
    shown = min(6, count // 2)
    names = [f"{number}.png" for number in range(count)]
    if count == 1:
        assert content.ranking == {"least_kept": names}
    else:
        assert content.ranking == {
            "least_kept": names[::-1][:shown],
            "best_kept": names[:shown],
        }
    assert content.gallery().size[0] > 8


def test_a_single_record_is_a_marker(monkeypatch):
    """A line through one point shows nothing."""
    drawn = []
    plot = Axes.plot
    monkeypatch.setattr(
        Axes, "plot", lambda axes, *a, **k: drawn.append(k["marker"]) or plot(axes, *a, **k)
    )
    first = {"step": 50, "terms": {"GAN": 1.0, "NCE": 2.0}}
    assert _curves([first], "terms")
    assert drawn == ["o", "o"]
    drawn.clear()
    assert _curves([first, {"step": 100, "terms": {"GAN": 1.5, "NCE": 1.0}}], "terms")
    assert drawn == ["", ""]


def test_a_gallery_has_a_caption_in_words():
    assert _caption("step_00000300_test") == "Step 300, test images"
    assert _caption("step_00000300_all_1f2e3d4c") == "Step 300, all images (1f2e3d4c)"
    assert _caption("a_file_of_someone") == "a_file_of_someone"


def test_lines_of_the_log_that_are_no_records_are_left_out(tmp_path):
    good = {"step": 3, "terms": {"G": 0.5}}
    odd = [3, "x", [], None, {"step": "x"}, {"step": 1, "terms": [1]}, {"scores": {"psnr": "x"}}]
    lines = [json.dumps(line) for line in (good, *odd, {"session": {}})]
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, '{"torn']))
    assert read_log(tmp_path) == [good, {"session": {}}]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.yaml", "name: cut"),
        ("config.yaml", "name: cut\ndata: [1]"),
        ("log.jsonl", '{"session": 3}'),
        ("log.jsonl", '{"step": 1, "begun_from": {}}'),
        ("data.json", "{"),
        ("data.json", "[]"),
        ("data.json", '{"files": {"a": 3}}'),
        ("scores.json", "{}x"),
    ],
)
def test_records_that_no_run_wrote_are_one_line(tmp_path, name, text):
    """A report is written when a run is evaluated, and such a run may be anybody's."""
    (tmp_path / "config.yaml").write_text("name: cut\ndata: {root: toy}")
    (tmp_path / name).write_text(text)
    with pytest.raises(PatchkinError) as caught:
        write_report(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert not (tmp_path / "report.html").exists()
