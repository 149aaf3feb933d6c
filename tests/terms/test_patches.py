"""Patches of two sides at the same places."""

import pytest
import torch

from patchkin.errors import ConfigError
from patchkin.methods.cut import Cut, CutConfig
from patchkin.methods.dclgan import DclGanConfig
from patchkin.methods.semantic_relation import SemanticRelation, SemanticRelationConfig
from patchkin.methods.sincut import SinCutConfig
from patchkin.methods.starganv2_relation import StarGanV2RelationConfig
from patchkin.networks import PatchGANConfig, ProjectionHead, ResNetConfig
from patchkin.networks.attention import AttentionConfig, route_by_attention
from patchkin.networks.places import GuidanceConfig, enlarged
from patchkin.randomness import SeededDraws
from patchkin.terms.patches import (
    HardNegativesConfig,
    PatchContrastConfig,
    check_patches,
    check_places,
    chosen_places,
    embedded_pairs,
    guiding_logits,
    hardness,
)

TAPS = (0, 4, 8)


def test_both_sides_are_read_at_the_same_places_by_their_own_heads():
    torch.manual_seed(0)
    query_head, key_head = ProjectionHead([3, 2], width=4), ProjectionHead([3, 2], width=4)
    queries, keys = (
        [torch.rand(2, 3, 4, 5, requires_grad=True), torch.rand(2, 2, 2, 3, requires_grad=True)]
        for _ in range(2)
    )
    places = [torch.tensor([19, 0, 7]), torch.tensor([5])]
    pairs = embedded_pairs(queries, keys, places, query_head=query_head, key_head=key_head)
    for tap, (pair, places_K) in enumerate(zip(pairs, places, strict=True)):
        for rows, head, maps in zip(pair, (query_head, key_head), (queries, keys), strict=True):
            for k, place in enumerate(places_K.tolist()):
                y, x = divmod(place, maps[tap].shape[3])
                row_BC = head.mlps[tap](maps[tap][:, :, y, x])
                row_BC = row_BC / row_BC.norm(dim=1, keepdim=True)
                torch.testing.assert_close(rows[:, k], row_BC, rtol=1e-4, atol=1e-6)
        pair[0].sum().backward()
        assert not pair[1].requires_grad
    assert all(parameter.grad is not None for parameter in query_head.parameters())
    assert all(parameter.grad is None for parameter in key_head.parameters())
    assert all(feature.grad is None for feature in keys)


def test_wording_of_errors():
    with pytest.raises(ConfigError, match="`taps` must name at least one layer"):
        check_patches((), 4)
    with pytest.raises(ConfigError, match="`num_patches` must be at least 2; got 1"):
        check_patches((0,), 1, fewest=2)


def maps(num_images=2, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((2, 7, 4), (3, 5, 3), (4, 2, 2))
    return [
        torch.randn(num_images, *shape, generator=generator, dtype=torch.float64)
        for shape in shapes
    ]


def test_attention_chooses_on_its_layers_and_leaves_the_draws_to_the_others():
    keys, config = maps(), PatchContrastConfig(num_patches=5, places="attention")
    plain = chosen_places(keys, TAPS, PatchContrastConfig(num_patches=5), SeededDraws(0, 0))
    places = chosen_places(keys, TAPS, config, SeededDraws(0, 0))
    assert torch.equal(places[0], plain[0])
    for tap in (1, 2):  # the last two; the last map has four places only
        expected = route_by_attention(keys[tap], 5)
        assert torch.equal(places[tap].places_BK, expected.places_BK)
        assert places[tap].places_BK.shape == (2, min(5, keys[tap][0, 0].numel()))
    single = [key[1:] for key in keys]
    alone = chosen_places(single, TAPS, config, SeededDraws(0, 0))
    assert torch.equal(alone[1].places_BK[0], places[1].places_BK[1]), "each image its own"


def test_routed_patches_are_sums_of_features_with_a_gradient_for_the_output_only():
    torch.manual_seed(0)
    head = ProjectionHead([2, 3, 4], width=6).double()
    keys, queries = maps(seed=1), maps(seed=2)
    for feature in (*keys, *queries):
        feature.requires_grad_()
    config = PatchContrastConfig(num_patches=3, places="attention")
    places = chosen_places(keys, TAPS, config, SeededDraws(0, 0))
    pairs = embedded_pairs(queries, keys, places, query_head=head, key_head=head)
    tap, image, patch = 1, 1, 2
    source = keys[tap][image].detach().flatten(1)
    chosen = int(places[tap].places_BK[image, patch])
    attention = [float(source[:, chosen] @ source[:, n]) for n in range(source.shape[1])]
    attention = torch.tensor(attention, dtype=torch.float64).softmax(dim=0)
    for side, rows in ((queries, pairs[tap][0]), (keys, pairs[tap][1])):
        routed = (side[tap][image].detach().flatten(1) * attention).sum(dim=1)
        expected = head.mlps[tap](routed)
        torch.testing.assert_close(rows[image, patch].detach(), expected / expected.norm())
    pairs[tap][0].sum().backward()
    assert queries[tap].grad is not None
    assert all(key.grad is None for key in keys)


def test_the_discriminator_leads_to_the_lowest_logits_among_the_candidates():
    keys = maps()
    config = PatchContrastConfig(
        num_patches=4, places="discriminator", guidance=GuidanceConfig(random_share=0.0)
    )
    logits = torch.randn(2, 1, 3, 2, generator=torch.Generator().manual_seed(5))
    places = chosen_places(keys, TAPS, config, SeededDraws(0, 0), logits_BNhw=logits)
    draws = SeededDraws(0, 0)
    for key in keys:
        draws.places(key.shape[2] * key.shape[3], 4)  # what random places would have drawn
    for key, places_BK in zip(keys, places, strict=True):
        size = (key.shape[2], key.shape[3])
        values_BN = enlarged(logits, size)
        order_BN = draws.uniform_rows(2, size[0] * size[1]).argsort(dim=1, stable=True)
        for image, row in enumerate(places_BK.tolist()):
            candidates = order_BN[image, :16].tolist()
            rising = sorted(candidates, key=lambda n, b=image: float(values_BN[b, n]))
            assert row == rising[: min(4, len(candidates))]


def test_branches_of_one_pass_draw_what_several_passes_would():
    config = PatchContrastConfig(num_patches=4, places="discriminator")
    keys, logits = maps(4), torch.randn(4, 1, 3, 2)
    drawn = [torch.arange(4)] * 3
    together, apart = SeededDraws(0, 0), SeededDraws(0, 0)
    at_once = chosen_places(
        keys, TAPS, config, together, drawn=drawn, logits_BNhw=logits, branches=2
    )
    parts = [
        chosen_places(
            [key[half] for key in keys], TAPS, config, apart, drawn=drawn, logits_BNhw=logits[half]
        )
        for half in (slice(0, 2), slice(2, 4))
    ]
    for whole, *halves in zip(at_once, *parts, strict=True):
        assert torch.equal(whole, torch.cat(halves))


def test_a_discriminator_is_asked_only_if_it_chooses():
    class Judge(torch.nn.Module):
        def forward(self, x):
            assert not torch.is_grad_enabled()
            return x

    x_BCHW = torch.arange(6.0).view(1, 1, 2, 3)
    guided = PatchContrastConfig(places="discriminator")
    assert guiding_logits(Judge(), x_BCHW, PatchContrastConfig()) is None
    assert torch.equal(guiding_logits(Judge(), x_BCHW, guided, True), x_BCHW.flip(-1))


def test_places_that_a_method_cannot_choose_are_refused():
    attention = AttentionConfig(taps=(5,))
    with pytest.raises(ConfigError, match="among the layers that are compared, 0, 4, 8; got 5"):
        CutConfig(taps=TAPS, places="attention", attention=attention)
    with pytest.raises(ConfigError, match="`adversarial_weight` 0"):
        DclGanConfig(places="discriminator", adversarial_weight=0.0)
    for kind in (SinCutConfig, StarGanV2RelationConfig):
        with pytest.raises(ConfigError, match="need one that judges patches"):
            kind(places="discriminator")
    check_places(CutConfig(places="discriminator"), TAPS, discriminator=PatchGANConfig())
    with pytest.raises(ConfigError, match="`window` must be odd"):
        AttentionConfig(window=4)
    with pytest.raises(ConfigError, match="`random_share` must be in"):
        GuidanceConfig(random_share=2.0)


def test_older_names_of_what_negatives_weigh():
    assert SemanticRelationConfig().resolved_negatives() == "released"
    assert SemanticRelationConfig(weights="paper").resolved_negatives() == "paper"
    assert SemanticRelationConfig(hard_negatives=False).resolved_negatives() == "uniform"
    assert SemanticRelationConfig(negatives="paper").resolved_negatives() == "paper"
    with pytest.raises(ConfigError, match="`negatives` replaces `hard_negatives` and `weights`"):
        SemanticRelationConfig(negatives="uniform", weights="paper")
    with pytest.raises(ConfigError, match="`negatives` replaces `weights`"):
        SinCutConfig(contrast="relation", negatives="paper", weights="fixed")
    bank = CutConfig(negatives="both")
    assert (bank.negatives, bank.negatives_from) == ("uniform", "both")
    with pytest.raises(ConfigError, match="are not weighed"):
        CutConfig(negatives="optimal-transport", negatives_from="external")
    small = {"generator": ResNetConfig(ngf=2, blocks=5), "discriminator": PatchGANConfig(ndf=2)}
    for kind, config in ((Cut, CutConfig), (SemanticRelation, SemanticRelationConfig)):
        for negatives in ("uniform", "released", "paper", "optimal-transport"):
            method = kind(config(**small, head_width=4, negatives=negatives))
            assert method.contrast.negatives == negatives


def test_a_curriculum_may_be_linear_in_the_papers_gamma():
    config = HardNegativesConfig(gamma_linear_in="gamma")
    gammas = [1 / hardness(config, fraction) for fraction in (0.0, 0.25, 0.5, 1.0)]
    assert gammas == pytest.approx([0.02, 0.04, 0.06, 0.1]), "0.02 to 0.1, as printed"
    released = [hardness(HardNegativesConfig(), fraction) for fraction in (0.25, 0.5, 1.0)]
    assert released == pytest.approx([40, 30, 10])
    assert hardness(config, 0.75, late=1.0) == 1.0
    paper = SemanticRelation.presets["paper"].method
    assert (paper.resolved_negatives(), paper.gamma_linear_in) == ("paper", "gamma")
