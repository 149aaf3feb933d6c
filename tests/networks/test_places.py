import math

import pytest
import torch
import torch.nn.functional as nnf

from patchkin.errors import ConfigError, ShapeError
from patchkin.networks import gather_places
from patchkin.networks.places import enlarged, gather_each, guided_places
from patchkin.randomness import SeededDraws
from support import FixedDraws


def test_each_image_has_its_own_places():
    feature_BCHW = torch.randn(3, 4, 5, 7)
    places_BK = torch.tensor([[0, 34, 8], [3, 3, 20], [11, 6, 6]])
    rows_BKC = gather_each(feature_BCHW, places_BK)
    for b in range(3):
        for k in range(3):
            y, x = divmod(int(places_BK[b, k]), 7)
            assert torch.equal(rows_BKC[b, k], feature_BCHW[b, :, y, x])
    shared = places_BK[:1].expand(3, -1)
    assert torch.equal(gather_each(feature_BCHW, shared), gather_places(feature_BCHW, places_BK[0]))


def test_the_gradient_of_a_place_that_comes_twice_is_summed():
    feature_BCHW = torch.zeros(1, 2, 2, 2, requires_grad=True)
    rows_BKC = gather_each(feature_BCHW, torch.tensor([[3, 1, 3]]))
    rows_BKC.backward(torch.tensor([[[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]]]))
    expected = torch.tensor([[[0.0, 10.0], [0.0, 101.0]], [[0.0, 20.0], [0.0, 202.0]]])
    assert torch.equal(feature_BCHW.grad[0], expected)


def test_wording_of_errors():
    feature_BCHW = torch.zeros(2, 1, 3, 4)
    with pytest.raises(ShapeError, match=r"0 to 11; got 2 to 12. Were they drawn for another tap"):
        gather_each(feature_BCHW, torch.tensor([[2], [12]]))
    with pytest.raises(ShapeError, match=r"must be \[2, K\], a row for each image; got \(1, 1\)"):
        gather_each(feature_BCHW, torch.tensor([[2]]))


def guided_by_loops(values_N, num_patches, candidates, spare, random_share):
    num_chosen = min(num_patches, len(values_N))
    num_random = math.floor(num_chosen * random_share)
    few = candidates[: num_chosen * 4]
    few = sorted(few, key=lambda place: values_N[place])  # stable: earlier candidates first
    return few[: num_chosen - num_random] + spare[len(spare) - num_random :]


@pytest.mark.parametrize("random_share", [0.0, 0.3, 0.5])
@pytest.mark.parametrize(("size", "num_patches"), [((6, 5), 8), ((2, 3), 50)])
def test_guided_places_match_loops(size, num_patches, random_share):
    """With more images than one, not square, and fewer places than asked."""
    logits_BNhw = torch.randn(3, 1, 3, 4, generator=torch.Generator().manual_seed(1))
    uniforms = [torch.rand(3, size[0] * size[1]) for _ in range(2)]
    draws = FixedDraws(uniforms=uniforms)
    found_BK = guided_places(logits_BNhw, size, num_patches, draws, random_share=random_share)
    values_BN = nnf.interpolate(logits_BNhw, size=size, mode="bilinear").flatten(1)
    orders = [[row.argsort().tolist() for row in uniform_BN] for uniform_BN in uniforms]
    for b in range(3):
        expected = guided_by_loops(
            values_BN[b].tolist(), num_patches, orders[0][b], orders[1][b], random_share
        )
        assert found_BK[b].tolist() == expected


def test_random_places_alone_are_a_permutation_and_draw_once():
    logits_BNhw = torch.zeros(2, 1, 2, 2)
    numbers = torch.tensor([[0.3, 0.1, 0.2, 0.4], [0.9, 0.8, 0.7, 0.6]])
    draws = FixedDraws(uniforms=[numbers])
    places_BK = guided_places(logits_BNhw, (1, 4), 3, draws, random_share=1.0)
    assert places_BK.tolist() == [[2, 0, 3], [2, 1, 0]]


def test_the_lowest_logits_are_found_if_all_places_are_candidates():
    logits_BNhw = torch.arange(12.0).view(1, 1, 3, 4).flip(3)
    draws = SeededDraws(3, 1)
    places_BK = guided_places(logits_BNhw, (3, 4), 4, draws, oversampling=3, random_share=0.0)
    assert places_BK.tolist() == [[3, 2, 1, 0]]


def test_equal_logits_leave_the_order_of_the_candidates():
    numbers = torch.tensor([[0.4, 0.1, 0.2, 0.3]])
    draws = FixedDraws(uniforms=[numbers])
    places_BK = guided_places(torch.zeros(1, 1, 1, 1), (2, 2), 2, draws, random_share=0.0)
    assert places_BK.tolist() == [[1, 2]]


@pytest.mark.parametrize("size", [(18, 24), (17, 23), (2, 3), (3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_maps_are_enlarged_as_torch_does_with_exact_borders(dtype, size):
    """Else which of the repeated values is least would hang on the last bit of the logits."""
    logits_BNhw = torch.randn(2, 1, 3, 4, generator=torch.Generator().manual_seed(2)).to(dtype)
    map_BHW = enlarged(logits_BNhw, size).unflatten(1, size)
    expected = nnf.interpolate(logits_BNhw, size=size, mode="bilinear")[:, 0]
    torch.testing.assert_close(map_BHW, expected, rtol=1e-6, atol=1e-6)
    if size[0] > 6:
        for _ in range(20):
            map_BHW = enlarged(logits_BNhw * (1 + torch.rand(()) * 1e-6), size).unflatten(1, size)
            for rows in (map_BHW, map_BHW.mT):  # 17 / 3 and 23 / 4: 2.3 and 2.4 are repeated
                assert torch.equal(rows[:, 0], rows[:, 1])
                assert torch.equal(rows[:, -1], rows[:, -2])


def test_guided_places_need_no_gradient_and_any_precision():
    logits_BNhw = torch.randn(1, 1, 4, 4).requires_grad_()
    expected = guided_places(logits_BNhw.bfloat16().float(), (8, 8), 9, SeededDraws(0, 0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = guided_places(logits_BNhw.bfloat16(), (8, 8), 9, SeededDraws(0, 0))
    assert torch.equal(found, expected)
    assert not enlarged(logits_BNhw, (2, 2)).requires_grad


def test_of_several_judgements_the_mean_guides():
    """Means of 1, 1, 2, 3 where neither judgement alone has that order."""
    logits_BNhw = torch.tensor([[[[5.0, 0.0, 4.0, 0.0]], [[-3.0, 2.0, 0.0, 6.0]]]])
    assert enlarged(logits_BNhw, (1, 4)).tolist() == [[1.0, 1.0, 2.0, 3.0]]
    found = guided_places(logits_BNhw, (1, 4), 3, SeededDraws(0, 0), random_share=0.0)
    assert sorted(found[0].tolist()) == [0, 1, 2]


def test_wording_of_errors_of_guided_places():
    logits_BNhw, draws = torch.zeros(1, 1, 2, 2), SeededDraws(0, 0)
    with pytest.raises(ConfigError, match=r"`random_share` must be in \[0, 1\]; got 1.5"):
        guided_places(logits_BNhw, (4, 4), 3, draws, random_share=1.5)
    with pytest.raises(ConfigError, match="`oversampling` must be at least 1; got 0"):
        guided_places(logits_BNhw, (4, 4), 3, draws, oversampling=0)
    with pytest.raises(ShapeError, match=r"must give a map \[B, N, h, w\]; got \(1, 1\)"):
        guided_places(logits_BNhw[..., 0, 0], (4, 4), 3, draws)
