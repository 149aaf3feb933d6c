import math

import pytest
import torch

from patchkin.errors import ConfigError, ShapeError
from patchkin.networks import attention
from patchkin.networks.attention import (
    attention_at,
    least_entropy_places,
    log_attention_entropy,
    route_by_attention,
    saturated_share,
)

MODES = ["global", "local", "local_global"]


def maps(*shape, seed=0, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)


def neighbours(feature_CHW, place, window):
    """The features around a place, row by row; zeros outside."""
    channels, height, width = feature_CHW.shape
    y, x = divmod(place, width)
    reach = range(-(window // 2), window // 2 + 1)
    return torch.stack(
        [
            feature_CHW[:, y + dy, x + dx]
            if 0 <= y + dy < height and 0 <= x + dx < width
            else torch.zeros(channels, dtype=feature_CHW.dtype)
            for dy in reach
            for dx in reach
        ]
    )


def keys_by_loops(feature_CHW, place, window, layout):
    """What a place attends to, row by row."""
    if window is None:
        return feature_CHW.flatten(1).T
    around_PC = neighbours(feature_CHW, place, window)
    if layout == "released":  # listed channel by channel, read place by place
        around_PC = around_PC.T.reshape(around_PC.shape)
    return around_PC


def attend_by_loops(feature_CHW, window, layout):
    """The attention of every place."""
    rows_NC = feature_CHW.flatten(1).T
    return torch.stack(
        [
            (keys_by_loops(feature_CHW, place, window, layout) @ row_C).softmax(0)
            for place, row_C in enumerate(rows_NC)
        ]
    )


def entropy_of(attention_N):
    return -sum(float(a) * math.log(float(a)) for a in attention_N if a > 0)


@pytest.mark.parametrize("layout", ["window", "released"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "num_patches"), [((2, 3, 4, 6), 5), ((1, 5, 3, 2), 50)])
def test_selection_and_routing_match_loops(shape, num_patches, mode, layout):
    """With more images than one, not square, and fewer places than asked."""
    source, target = maps(*shape, seed=1, scale=0.7), maps(*shape, seed=2)
    routing = route_by_attention(source, num_patches, mode=mode, window=3, layout=layout)
    assert routing.places_BK.shape == (shape[0], min(num_patches, shape[2] * shape[3]))
    for b in range(shape[0]):
        chooser = attend_by_loops(source[b], None if mode == "global" else 3, layout)
        entropies = [entropy_of(row) for row in chooser]
        order = sorted(range(len(entropies)), key=entropies.__getitem__)[:num_patches]
        assert routing.places_BK[b].tolist() == order
        weights = attend_by_loops(source[b], 3 if mode == "local" else None, layout)[order]
        torch.testing.assert_close(routing.attention_BKN[b], weights)
        for feature in (source, target):
            expected = routed_by_loops(feature[b], weights, order, mode, layout)
            torch.testing.assert_close(routing.rows(feature)[b], expected)


def routed_by_loops(feature_CHW, weights_KN, places, mode, layout):
    if mode != "local":
        return torch.stack([row_N @ feature_CHW.flatten(1).T for row_N in weights_KN])
    windows = torch.stack([neighbours(feature_CHW, place, 3) for place in places])
    if layout == "released":  # the list [C * 9, K] of all numbers is read as [K, 9, C]
        numbers = [window_PC.T.flatten() for window_PC in windows]
        windows = torch.stack(numbers, dim=1).flatten().reshape(windows.shape)
    return torch.stack([row @ window for row, window in zip(weights_KN, windows, strict=True)])


@pytest.mark.parametrize("window", [None, 3])
def test_entropies_match_loops_at_any_length_of_features(window):
    for scale in (0.0, 0.3, 1.0, 3.0):
        feature = maps(2, 4, 3, 5, scale=scale)
        logarithms = log_attention_entropy(feature, window=window)
        for b in range(2):
            expected = [entropy_of(row) for row in attend_by_loops(feature[b], window, "window")]
            torch.testing.assert_close(
                logarithms[b].exp(), torch.tensor(expected).double(), rtol=1e-6, atol=1e-12
            )


def test_a_hand_case_beyond_the_range_of_float32():
    """One place with a feature of length r among zeros: p = 1 / (1 + 3 e^{-r^2})."""
    for length in (1.0, 5.0, 12.0, 100.0):
        feature = torch.zeros(1, 1, 2, 2)
        feature[0, 0, 0, 0] = length
        square = length**2
        rest = 3 * math.exp(-square)
        if square > 20:  # p is 1 to the last digit
            exact = math.log(3) - square + math.log1p(square)
        else:
            p, q = 1 / (1 + rest), math.exp(-square) / (1 + rest)
            exact = math.log(-p * math.log(p) - 3 * q * math.log(q))
        found = log_attention_entropy(feature)[0, 0].item()
        assert found == pytest.approx(exact, rel=1e-5)


def test_long_features_are_ranked_in_float32_as_in_float64():
    """Hundreds of entropies round to 0 in float32; their logarithms do not."""
    feature = maps(1, 64, 16, 16, seed=3, scale=1.6)
    exact, found = (log_attention_entropy(x) for x in (feature, feature.float()))
    plain = torch.stack(
        [row.softmax(0) for row in (feature[0].flatten(1).T @ feature[0].flatten(1))]
    )
    assert int((plain.float().amax(dim=1) == 1).sum()) > 50
    chosen = [set(least_entropy_places(x, 40)[0].tolist()) for x in (exact, found)]
    assert chosen[0] == chosen[1]
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4)


def test_ties_go_to_the_lowest_place_and_one_place_is_possible():
    assert route_by_attention(torch.ones(1, 2, 2, 3), 4).places_BK.tolist() == [[0, 1, 2, 3]]
    routing = route_by_attention(torch.ones(1, 2, 1, 1), 4)
    assert log_attention_entropy(torch.ones(1, 2, 1, 1)).item() == -math.inf
    assert torch.equal(routing.rows(torch.full((1, 2, 1, 1), 5.0)), torch.full((1, 1, 2), 5.0))


@pytest.mark.parametrize("window", [None, 3])
def test_blocks_change_nothing(monkeypatch, window):
    feature = maps(2, 4, 5, 6)
    whole = log_attention_entropy(feature, window=window)
    monkeypatch.setattr(attention, "_BLOCK_NUMBERS", 500)
    torch.testing.assert_close(
        log_attention_entropy(feature, window=window), whole, rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("mode", MODES)
def test_an_image_is_routed_as_if_alone(mode):
    source, target = maps(3, 4, 5, 6, seed=1), maps(3, 4, 5, 6, seed=2)
    together = route_by_attention(source, 8, mode=mode)
    rows = together.rows(target)
    for b in range(3):
        alone = route_by_attention(source[b : b + 1], 8, mode=mode)
        assert torch.equal(alone.places_BK[0], together.places_BK[b])
        torch.testing.assert_close(alone.rows(target[b : b + 1])[0], rows[b])


@pytest.mark.parametrize("mode", MODES)
def test_the_source_gets_a_gradient_only_as_released(mode):
    source = maps(1, 3, 4, 4, seed=1, scale=0.5).requires_grad_()
    target = maps(1, 3, 4, 4, seed=2).requires_grad_()
    route_by_attention(source, 5, mode=mode, window=3).rows(target).sum().backward()
    assert source.grad is None
    assert target.grad.abs().sum() > 0
    places, window = torch.tensor([[3, 0, 9]]), 3 if mode == "local" else None

    def routed(s, t):
        return attention_at(s, places, window=window, released_gradient=True).rows(t)

    assert torch.autograd.gradcheck(routed, (source, target))


def test_the_share_of_saturated_places():
    feature = torch.zeros(1, 1, 1, 4)
    feature[0, 0, 0] = torch.tensor([20.0, 0.0, 0.0, 0.0])
    assert saturated_share(log_attention_entropy(feature)).item() == 0.25
    assert saturated_share(log_attention_entropy(feature / 10)).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_maps_are_compared_in_float32(dtype):
    source = maps(1, 8, 4, 4, dtype=dtype)
    expected = route_by_attention(source.float(), 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        routing = route_by_attention(source, 6)
        rows = routing.rows(source)
    assert torch.equal(routing.places_BK, expected.places_BK)
    assert rows.dtype is torch.float32
    torch.testing.assert_close(rows, expected.rows(source.float()), rtol=0, atol=0)


def test_wording_of_errors():
    source = maps(1, 2, 3, 4)
    with pytest.raises(ConfigError, match=r"Unknown `mode` `globl`\. Did you mean `global`"):
        route_by_attention(source, 4, mode="globl")
    with pytest.raises(ConfigError, match=r"`window` must be odd, 1, 3, 5, \.\.\.; got 4"):
        route_by_attention(source, 4, mode="local", window=4)
    with pytest.raises(ConfigError, match=r"Unknown `layout` `windows`\. Did you mean `window`"):
        attention_at(source, torch.tensor([[0]]), layout="windows")
    with pytest.raises(ConfigError, match="`num_patches` must be at least 1; got 0"):
        route_by_attention(source, 0)
    with pytest.raises(ShapeError, match=r"needs a map \[B, C, H, W\]; got shape \(2, 3, 4\)"):
        route_by_attention(source[0], 4)
    with pytest.raises(ShapeError, match=r"of 1 maps of 3 x 4; got .*shape \(1, 2, 4, 3\)"):
        route_by_attention(source, 4).rows(source.mT)
