"""The report of a run with one record, and the gallery of few images."""

from __future__ import annotations

import pytest
import torch
from matplotlib.axes import Axes

from patchkin.scoring.pair_scores import ContentScore
from patchkin.scoring.pairs import Pair
from patchkin.scoring.report import _caption, _curves


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
