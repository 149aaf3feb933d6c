import pytest
import torch

from patchkin.errors import ShapeError
from patchkin.networks import gather_places
from patchkin.networks.places import gather_each


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
