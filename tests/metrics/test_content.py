import numpy as np
import pytest
import torch

from patchkin.errors import ConfigError, DataError, ShapeError
from patchkin.metrics import (
    class_rate,
    luma_correlation,
    masked_change,
    mean_change,
    relation_change,
    translation_warnings,
)


def unit(x):
    return x / (x.norm(dim=-1, keepdim=True) + 1e-7)


@pytest.mark.parametrize("shape", [(2, 3, 2, 4), (1, 5, 3, 1)])
def test_relation_change_matches_loops(shape):
    output, source = torch.randn(shape).double(), torch.randn(shape).double()
    expected = []
    for output_Chw, input_Chw in zip(output, source, strict=True):
        w_KC, z_KC = unit(output_Chw.flatten(1).mT), unit(input_Chw.flatten(1).mT)
        total = 0.0
        for k in range(len(z_KC)):
            p, q = (z_KC @ z_KC[k]).softmax(0), (w_KC @ w_KC[k]).softmax(0)
            m = (p + q) / 2
            total += 0.5 * (p * (p / m).log()).sum() + 0.5 * (q * (q / m).log()).sum()
        expected.append(total / len(z_KC))
    torch.testing.assert_close(relation_change(output, source), torch.stack(expected))


def test_relation_change_ignores_a_rotation_of_the_features():
    source = torch.randn(2, 4, 3, 3).double()
    rotation = torch.linalg.qr(torch.randn(4, 4).double()).Q
    rotated = torch.einsum("dc,bchw->bdhw", rotation, source)
    torch.testing.assert_close(relation_change(rotated, source), torch.zeros(2).double())


def test_masked_change_matches_loops():
    output, source = torch.rand(2, 3, 5, 4) * 2 - 1, torch.rand(2, 3, 5, 4) * 2 - 1
    mask = torch.rand(2, 5, 4) < 0.4
    change = masked_change(output, source, mask)
    levels = (np.abs(output.numpy().astype(float) - source.numpy()) * 127.5).transpose(0, 2, 3, 1)
    for b in range(2):
        assert change.inside_B[b].item() == pytest.approx(levels[b][mask[b].numpy()].mean())
        assert change.outside_B[b].item() == pytest.approx(levels[b][~mask[b].numpy()].mean())


def test_an_image_without_such_pixels_does_not_count():
    output, source = torch.full((2, 3, 2, 2), 0.2), torch.zeros(2, 3, 2, 2)
    mask = torch.stack([torch.zeros(2, 2), torch.ones(2, 2)]).bool()
    change = masked_change(output, source, mask)
    assert change.inside_B.isnan().tolist() == [True, False]
    assert change.means() == pytest.approx({"change_inside": 25.5, "change_outside": 25.5})


def test_class_rate():
    logits = torch.zeros(4, 8)
    logits[0, 3] = 1  # first
    logits[1, :5] = torch.tensor([5.0, 4, 3, 2, 1])  # class 3 is fourth
    logits[2, [0, 1, 2, 4, 5]] = 1  # sixth at best
    logits[3, 6] = 1  # another wanted class
    rate = class_rate(logits, [3, 6])
    assert (rate.top1_percent, rate.top5_percent, rate.num_images) == (50, 75, 4)
    assert class_rate(logits[1:2], [3]).top5_percent == 100


def test_mean_change_and_correlation_match_numpy():
    output, source = torch.rand(3, 3, 5, 7), torch.rand(3, 3, 5, 7)
    luma = [(x.numpy() * np.array([0.299, 0.587, 0.114])[:, None, None]) for x in (output, source)]
    for b in range(3):
        expected = np.abs(output[b].numpy() - source[b].numpy()).mean() * 127.5
        assert mean_change(output, source)[b].item() == pytest.approx(expected, rel=1e-5)
        a, c = (x[b].sum(axis=0).ravel() for x in luma)
        expected = np.corrcoef(a, c)[0, 1]
        assert luma_correlation(output, source)[b].item() == pytest.approx(expected, rel=1e-5)


def test_correlation_between_colour_and_grey():
    grey = torch.rand(1, 1, 6, 6)
    assert luma_correlation(grey.expand(-1, 3, -1, -1) * 0.3, grey).item() == pytest.approx(1)
    assert luma_correlation(torch.zeros(1, 1, 6, 6), grey).isnan().all()


def test_warnings():
    source = torch.rand(4, 3, 8, 8) * 2 - 1
    new = torch.rand(4, 3, 8, 8) * 2 - 1
    assert translation_warnings(new, source) == ()
    assert translation_warnings(source * 0.5, source) == ()
    assert translation_warnings(-source, source) == (
        "4 of 4 outputs look like negatives of their input "
        "(correlation of the brightness below -0.3).",
    )
    mixed = torch.cat([source[:2] + 0.001, new[2:]])
    (warning,) = translation_warnings(mixed, source)
    assert warning.startswith("2 of 4 outputs equal their input (mean change below 1 of 255")
    assert translation_warnings(torch.cat([source[:1], new[1:]]), source) == ()
    assert translation_warnings(torch.zeros(4, 3, 8, 8), source) == ()  # flat: no correlation


def test_errors_say_what_is_wrong():
    image = torch.zeros(2, 3, 4, 5)
    broken = image.clone()
    broken[1, 0, 0, 0] = float("inf")
    for score in (mean_change, luma_correlation, translation_warnings, relation_change):
        with pytest.raises(DataError, match=r"1 of 2 .*outputs hold NaN or infinity .*number 1"):
            score(broken, image)
        with pytest.raises(ShapeError):
            score(image[:, :, :3], image)
    with pytest.raises(ShapeError, match=r"`mask_BHW` must be bool \(2, 4, 5\); got torch.float32"):
        masked_change(image, image, torch.zeros(2, 4, 5))
    with pytest.raises(ConfigError, match=r"ids from 0 to 9; got \[10\]"):
        class_rate(torch.zeros(2, 10), [10])
    with pytest.raises(ShapeError, match=r"at least one image and 5 classes; got \(0, 10\)"):
        class_rate(torch.zeros(0, 10), [1])


def test_large_maps_are_compared_some_rows_at_a_time(monkeypatch):
    """As all at once: 5 x 7 places, of which 35 do not divide by 8."""
    output_BChw, input_BChw = torch.randn(2, 2, 6, 5, 7, generator=torch.Generator().manual_seed(0))
    whole_B = relation_change(output_BChw, input_BChw)
    monkeypatch.setattr("patchkin.metrics.content._MOST_ROWS", 8)
    monkeypatch.setattr("patchkin.metrics.content._ROWS_AT_ONCE", 8)
    torch.testing.assert_close(relation_change(output_BChw, input_BChw), whole_B)
