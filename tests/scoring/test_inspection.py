import math

import numpy as np
import pytest
import torch
from torch import nn

from patchkin.errors import ConfigError, ShapeError
from patchkin.method import Method
from patchkin.methods.cut import Cut, CutConfig
from patchkin.methods.dclgan import DclGan, DclGanConfig
from patchkin.methods.negcut import NegCut, NegCutConfig
from patchkin.methods.semantic_relation import SemanticRelation, SemanticRelationConfig
from patchkin.methods.simdcl import SimDcl, SimDclConfig
from patchkin.networks import InitConfig, PatchGANConfig, ResNetConfig, ResNetGenerator
from patchkin.scoring.inspection import TapSimilarity, draw, parse_point, similarity_maps
from patchkin.translation.translator import pad_to

TAPS = (0, 4, 8, 12)


@pytest.fixture(autouse=True)
def _same_draws_in_every_run():
    torch.manual_seed(0)


def small_method(kind=Cut, config=CutConfig, channels=(3, 3)):
    source, target = channels
    return kind(
        config(
            generator=ResNetConfig(in_channels=source, out_channels=target, ngf=2, blocks=2),
            discriminator=PatchGANConfig(in_channels=target, ndf=2),
            initialization=InitConfig(gain=1.0),
            taps=TAPS,
            head_width=5,
        )
    ).double()


def image_of(height, width, channels=3):
    return torch.rand(channels, height, width, dtype=torch.float64) * 2 - 1


def map_by_loops(generator, head, image_CHW, index, place):
    """Cosines with the patch at `place` (row, column), one place at a time."""
    with torch.no_grad():
        feature_CHW = generator.encode(image_CHW[None], TAPS)[index][0]
        first, _, second = head.mlps[index]

        def embedded(row, column):
            hidden = (first.weight @ feature_CHW[:, row, column] + first.bias).clamp_min(0)
            out = second.weight @ hidden + second.bias
            return out / (out.square().sum().sqrt() + 1e-7)

        query = embedded(*place)
        height, width = feature_CHW.shape[1:]
        return torch.stack([
            torch.stack([embedded(row, column) @ query for column in range(width)])
            for row in range(height)
        ])  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "config", "of_input", "of_output"),
    [
        (Cut, CutConfig, "GF", "GF"),
        (SemanticRelation, SemanticRelationConfig, "GF", "GF"),
        (NegCut, NegCutConfig, "GF", "GF"),
        (DclGan, DclGanConfig, ("G_AB", "F_A"), ("G_BA", "F_B")),
        (SimDcl, SimDclConfig, ("G_AB", "F_A"), ("G_BA", "F_B")),
    ],
)
def test_maps_match_loops_over_places(kind, config, of_input, of_output):
    method = small_method(kind, config)
    image_CHW = image_of(12, 20)
    points = [(0, 0), (7, 13), (11, 19)]
    found = similarity_maps(method, image_CHW, points)
    with torch.no_grad():
        output_CHW = method.translate(image_CHW[None])[0]
    torch.testing.assert_close(found.output_CHW, output_CHW)
    places = {  # layer 0 is padded by 3; layers 8 and 12 are halved once and twice
        0: [(3, 3), (10, 16), (14, 22)],
        4: [(0, 0), (7, 13), (11, 19)],
        8: [(0, 0), (3, 6), (5, 9)],
        12: [(0, 0), (1, 3), (2, 4)],
    }
    for index, tap in enumerate(found.taps):
        assert list(tap.places) == places[tap.tap]
        for point, place in enumerate(tap.places):
            for maps_PHW, picture, names in (
                (tap.input_PHW, image_CHW, of_input),
                (tap.output_PHW, output_CHW, of_output),
            ):
                expected = map_by_loops(*method.networks(names), picture, index, place)
                torch.testing.assert_close(maps_PHW[point], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(13, 22), (4, 9), (3, 3)])
def test_any_size_is_padded_for_the_generator_and_cropped(size):
    method = small_method()
    height, width = size
    image_CHW, point = image_of(*size), (height - 1, width - 1)
    padded = pad_to(image_CHW[None], 4, minimum=method.min_size)[0]
    found = similarity_maps(method, image_CHW, [point])
    whole = similarity_maps(method, padded, [point])
    assert found.output_CHW.shape == image_CHW.shape
    for cropped, full in zip(found.taps, whole.taps, strict=True):
        _, rows, columns = cropped.input_PHW.shape
        step = cropped.pixels_per_place
        pad = 2 * cropped.origin
        assert (rows, columns) == (math.ceil(height / step) + pad, math.ceil(width / step) + pad)
        assert cropped.places == full.places
        assert cropped.input_PHW[0][cropped.places[0]] == pytest.approx(1, abs=1e-5)
        torch.testing.assert_close(cropped.input_PHW, full.input_PHW[:, :rows, :columns])
        torch.testing.assert_close(cropped.output_PHW, full.output_PHW[:, :rows, :columns])


def test_points_do_not_depend_on_each_other_nor_on_the_chunks(monkeypatch):
    method, image_CHW = small_method(), image_of(8, 12)
    points = [(1, 2), (7, 11)]
    together = similarity_maps(method, image_CHW, points)
    monkeypatch.setattr("patchkin.scoring.inspection._CHUNK_PLACES", 7)
    for index, point in enumerate(points):
        alone = similarity_maps(method, image_CHW, [point], taps=[12, 4])
        assert [tap.tap for tap in alone.taps] == [4, 12]
        for tap, other in zip(alone.taps, together.taps[1::2], strict=True):
            torch.testing.assert_close(tap.input_PHW[0], other.input_PHW[index])
            torch.testing.assert_close(tap.output_PHW[0], other.output_PHW[index])


@pytest.mark.parametrize("kind", [(Cut, CutConfig), (DclGan, DclGanConfig)])
@pytest.mark.parametrize("channels", [(1, 3), (3, 1), (5, 5), (2, 2)])
def test_images_of_any_number_of_channels(kind, channels):
    method = small_method(*kind, channels=channels)
    found = similarity_maps(method, image_of(8, 8, channels[0]), [(1, 1)])
    assert found.output_CHW.shape[0] == channels[1]
    assert draw(found).mode == "RGB"


def test_values_are_cosines_and_the_mode_is_left_alone():
    method = small_method().float().train()
    found = similarity_maps(method, image_of(16, 16).float(), [(3, 5)])
    for tap in found.taps:
        assert float(tap.input_PHW.abs().max()) <= 1
        assert not tap.input_PHW.requires_grad
    assert method.training


def test_an_output_may_be_given():
    method, image_CHW = small_method(), image_of(8, 12)
    found = similarity_maps(method, image_CHW, [(1, 2)], output_CHW=image_CHW)
    for tap in found.taps:
        torch.testing.assert_close(tap.input_PHW, tap.output_PHW)
        assert tap.agreement(0) == pytest.approx(1)
    with pytest.raises(ShapeError, match=r"\(8, 12\) and \(8, 8\)"):
        similarity_maps(method, image_CHW, [(1, 2)], output_CHW=image_CHW[..., :8])


def tap_with(input_PHW, output_PHW, places):
    return TapSimilarity(
        tap=4,
        field_pixels=9,
        origin=0,
        pixels_per_place=1,
        places=places,
        input_PHW=input_PHW,
        output_PHW=output_PHW,
    )


def test_agreement_is_the_correlation_of_the_other_places():
    before, after = torch.rand(2, 2, 3, 4)
    tap = tap_with(before, after, ((2, 1), (0, 0)))
    for index, (row, column) in enumerate(tap.places):
        left_out = row * 4 + column
        pairs = [np.delete(m[index].flatten().numpy(), left_out) for m in (before, after)]
        assert tap.agreement(index) == pytest.approx(np.corrcoef(*pairs)[0, 1], abs=1e-6)
    assert math.isnan(tap_with(torch.ones(1, 3, 4), after, ((0, 0),)).agreement(0))
    assert math.isnan(tap_with(torch.ones(1, 1, 1), torch.ones(1, 1, 1), ((0, 0),)).agreement(0))


@pytest.mark.parametrize("antialias", [True, False])
def test_a_patch_sees_as_many_pixels_as_is_said(antialias):
    generator = ResNetGenerator(
        ResNetConfig(ngf=2, blocks=2, norm="none", antialias_down=antialias)
    ).double()
    for parameter in generator.parameters():
        parameter.data.abs_()  # and with a positive image no ReLU is shut
    x_BCHW = torch.rand(1, 3, 72, 96, dtype=torch.float64, requires_grad=True)
    for tap in range(13 if antialias else 11):
        (feature_BCHW,) = generator.encode(x_BCHW, [tap])
        origin, (height, width) = generator.tap_origin(tap), feature_BCHW.shape[2:]
        loss = feature_BCHW[0, :, height // 2, width // 2].square().sum()
        (gradient,) = torch.autograd.grad(loss, x_BCHW)
        seen = gradient[0].abs().sum(dim=0) > 0
        rows, columns = seen.any(dim=1).nonzero().flatten(), seen.any(dim=0).nonzero().flatten()
        side = generator.tap_fields([tap])[0]
        assert len(rows) == len(columns) == side
        step = round(72 / (height - 2 * origin))
        assert int(rows[0] + rows[-1]) == 2 * (height // 2 - origin) * step  # as drawn


@pytest.mark.parametrize("text", ["12", "1,2,3", "a,b", "", "1.5,2"])
def test_what_is_no_point(text):
    with pytest.raises(ConfigError, match=r"Y,X in pixels"):
        parse_point(text)


@pytest.mark.parametrize("point", [(-1, 0), (8, 0), (0, 12), (0, -1)])
def test_points_outside_the_image(point):
    with pytest.raises(ConfigError, match=r"y from 0 to 7 and x from 0 to 11"):
        similarity_maps(small_method(), image_of(8, 12), [point])


def test_no_point_and_an_unknown_tap():
    with pytest.raises(ConfigError, match="no point"):
        similarity_maps(small_method(), image_of(8, 12), [])
    with pytest.raises(ConfigError, match=r"at tap 5; its taps are 0, 4, 8, 12"):
        similarity_maps(small_method(), image_of(8, 12), [(0, 0)], taps=[4, 5])


class Plain(Method):
    """A method that compares no patches."""

    name = "plain"

    def __init__(self):
        super().__init__()
        self.G = nn.Conv2d(3, 3, 1)

    def adam(self):
        return {}

    def train_step(self, batch, update, progress):
        raise NotImplementedError

    def translate(self, x_BCHW):
        return self.G(x_BCHW)


def test_a_method_without_patches_says_so():
    with pytest.raises(ConfigError, match="`plain` compares no patches"):
        similarity_maps(Plain(), image_of(8, 12).float(), [(0, 0)])


@pytest.mark.parametrize("size", [(24, 24), (8, 40), (40, 8), (13, 22)])
def test_pictures_of_any_shape(size):
    found = similarity_maps(small_method(), image_of(*size), [(1, 2), (7, 6)])
    picture = draw(found, 1)
    assert picture.mode == "RGB"
    assert min(picture.size) > 300
    assert np.asarray(picture).std() > 10


def test_a_flat_image_can_be_drawn():
    found = similarity_maps(small_method(), torch.zeros(3, 16, 16).double(), [(1, 2)], taps=[4])
    assert draw(found).width > 300
