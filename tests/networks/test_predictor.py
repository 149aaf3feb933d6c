import pytest
import torch
from torch import nn

from patchkin.errors import ConfigError, ShapeError
from patchkin.networks import ResNetConfig, ResNetGenerator
from patchkin.networks.predictor import PredictingHead, check_pairs, stage_pairs


def head_of(norm="batch", *, predictor=True, width=6):
    torch.manual_seed(0)
    return PredictingHead([3, 5], width, norm=norm, predictor=predictor).double()


def maps_and_places(seed=0):
    generator = torch.Generator().manual_seed(seed)
    maps = [
        torch.randn(2, channels, *size, generator=generator, dtype=torch.float64)
        for channels, size in ((3, (4, 6)), (5, (2, 3)))
    ]
    places = [torch.tensor([[0, 23, 7, 7], [1, 2, 3, 4]]), torch.tensor([[5, 0], [2, 2]])]
    return maps, places


def normalised(rows_NC, norm):
    if norm == "none":
        return rows_NC
    dim = 0 if norm == "batch" else 1
    centred = rows_NC - rows_NC.mean(dim=dim, keepdim=True)
    return centred / (centred.pow(2).mean(dim=dim, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize("predict", [False, True])
@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_embeddings_match_the_formula(norm, predict):
    """Layer by layer from the weights, which are new and so without scale and shift of the norm."""
    head, (maps, places) = head_of(norm), maps_and_places()
    for pair, found in enumerate(head(maps, places, predict=predict)):
        mlp, predictor = head.mlps[pair], head.predictors[pair]
        rows = torch.stack(
            [
                maps[pair][b, :, place // maps[pair].shape[3], place % maps[pair].shape[3]]
                for b in range(2)
                for place in places[pair][b]
            ]
        )
        rows = normalised(rows @ mlp[0].weight.T, norm).clamp(min=0)
        rows = normalised(rows @ mlp[3].weight.T, norm)
        if predict:
            rows = normalised(rows @ predictor[0].weight.T, norm).clamp(min=0)
            rows = rows @ predictor[3].weight.T + predictor[3].bias
        rows = rows / (rows.norm(dim=1, keepdim=True) + 1e-7)
        torch.testing.assert_close(found.flatten(0, 1), rows)


def test_without_a_predictor_both_sides_are_embedded_alike():
    head, (maps, places) = head_of("layer", predictor=False), maps_and_places()
    assert not any("predictors" in name for name in head.state_dict())
    both = [head(maps, places, predict=predict) for predict in (False, True)]
    assert all(torch.equal(*pair) for pair in zip(*both, strict=True))


def test_batch_norm_counts_both_passes_and_the_predictor_one():
    head, (maps, places) = head_of(), maps_and_places()
    head(maps, places, predict=True)
    with torch.no_grad():
        head(maps, places, predict=False)
    counts = {n: int(b) for n, b in head.named_buffers() if n.endswith("num_batches_tracked")}
    assert {n.split(".")[0]: count for n, count in counts.items()} == {"mlps": 2, "predictors": 1}


@pytest.mark.parametrize(("norm", "alone"), [("layer", True), ("none", True), ("batch", False)])
def test_an_image_is_embedded_as_if_alone_but_for_batch_norm(norm, alone):
    head, (maps, places) = head_of(norm), maps_and_places()
    together = head(maps, places, predict=True)
    single = head([m[:1] for m in maps], [p[:1] for p in places], predict=True)
    same = [torch.allclose(a[:1], b) for a, b in zip(together, single, strict=True)]
    assert same == [alone, alone]


def test_an_embedder_takes_rows_of_any_shape():
    head, (maps, places) = head_of().eval(), maps_and_places()
    rows_BKC = head(maps, places, predict=False)[1]
    embedded_BHWC = head.embedder(1)(maps[1].permute(0, 2, 3, 1))
    for b, place in ((0, 5), (1, 2)):
        k = places[1][b].tolist().index(place)
        torch.testing.assert_close(embedded_BHWC[b, place // 3, place % 3], rows_BKC[b, k])


def test_it_runs_in_float32_under_autocast():
    head, (maps, places) = head_of("layer").float(), maps_and_places()
    maps = [m.bfloat16() for m in maps]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = head(maps, places, predict=True)
    expected = head([m.float() for m in maps], places, predict=True)
    assert all(torch.equal(a, b) for a, b in zip(rows, expected, strict=True))


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("blocks", [5, 6, 9])
def test_stages_have_maps_of_one_shape(blocks, antialias):
    config = ResNetConfig(ngf=2, blocks=blocks, antialias_down=antialias, antialias_up=antialias)
    generator = ResNetGenerator(config)
    pairs = stage_pairs(generator)
    check_pairs(generator, pairs)
    for key, query in pairs:
        shapes = [
            (generator.tap_channels([tap])[0], *generator.tap_sizes([tap], 32, 48)[0])
            for tap in (key, query)
        ]
        assert shapes[0] == shapes[1]
    layers = list(generator.model)
    assert [isinstance(layers[tap], nn.ReLU) for tap, _ in pairs] == [True, not antialias, False]


def test_wording_of_errors():
    head, (maps, places) = head_of(), maps_and_places()
    with pytest.raises(ShapeError, match=r"has 2 pairs and needs .* got 1 maps and 2 sets"):
        head(maps[:1], places, predict=True)
    with pytest.raises(ShapeError, match="pair 0 must have 3 channels for this head; got 5"):
        head(maps[::-1], places[::-1], predict=True)
    generator = ResNetGenerator(ResNetConfig(ngf=1, blocks=4))
    with pytest.raises(ConfigError, match="`blocks` of at least 5; got 4"):
        stage_pairs(generator)
    with pytest.raises(ConfigError, match="at least one pair"):
        check_pairs(generator, ())
    with pytest.raises(ConfigError, match="layers of the generator, 0 to 26 with 4 blocks; got 27"):
        check_pairs(generator, [(3, 27)])
    with pytest.raises(ConfigError, match=r"layers 13 and 3 .* got 4 x 64 x 64 and 1 x 256 x 256"):
        check_pairs(generator, [(13, 3)])
