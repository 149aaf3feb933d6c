"""What the contract does not cover: who learns from what, parts of a batch, styles, options."""

from dataclasses import replace

import pytest
import torch

from patchkin.errors import ConfigError, ShapeError
from patchkin.method import Progress
from patchkin.methods import METHODS
from patchkin.methods.starganv2 import StarGanV2, StarGanV2Config
from patchkin.methods.starganv2_relation import StarGanV2Relation, StarGanV2RelationConfig
from patchkin.networks.starganv2 import StyleNetworksConfig
from patchkin.randomness import SeededDraws
from patchkin.terms.structure import StructureConfig
from patchkin.training import Updater
from support import cpu_fabric, random_domain_batch

NETWORKS = StyleNetworksConfig(
    num_domains=3,
    image_size=32,
    base_width=2,
    max_width=4,
    style_width=5,
    latent_width=3,
    hidden_width=6,
)
PLAIN = StarGanV2Config(networks=NETWORKS)
RELATION = StarGanV2RelationConfig(
    networks=NETWORKS, layers=(0, 1, 2), head_width=6, num_patches=10
)
LSESIM = replace(
    RELATION,
    content="lsesim",
    structure=StructureConfig(features="random", feature_width=2, num_patches=9, window=3),
)
CONFIGS = {
    "plain": PLAIN,
    "relation": RELATION,
    "released": replace(RELATION, direction="released", cycle="released"),
    "lsesim": LSESIM,
    "none": replace(RELATION, content="none"),
}


def build(config, *, seed=0):
    torch.manual_seed(seed)
    kind = StarGanV2 if isinstance(config, StarGanV2Config) else StarGanV2Relation
    return kind(config).double()


class Watcher(Updater):
    """Notes the gradients of every update, and steps nothing."""

    def __init__(self, method):
        super().__init__(method, cpu_fabric())
        self._method, self.seen = method, []

    def _step(self, optimizers, parameters):
        named = self._method.named_parameters()
        self.seen.append({n: p.grad.clone() for n, p in named if p.grad is not None})
        for parameter in self._method.parameters():
            parameter.grad = None


def watched(method, batch, *, step=0, total_steps=10, draws=None):
    update = Watcher(method)
    update.begin_step(1.0)
    progress = Progress.of_step(step, total_steps=total_steps, draws=draws or SeededDraws(5, step))
    method.train_step(batch, update, progress)
    return update


def batch_of(num_images, **options):
    return random_domain_batch(num_images, domains=3, dtype=torch.float64, **options)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("micro_batch", [1, 2])
def test_parts_of_a_batch_give_the_gradients_of_the_whole(name, micro_batch):
    method, batch = build(CONFIGS[name]), batch_of(5)
    whole = watched(method, batch)
    method.config = replace(method.config, micro_batch=micro_batch)
    parts = watched(method, batch)
    assert len(whole.seen) == len(parts.seen)
    for one, other in zip(whole.seen, parts.seen, strict=True):
        assert one.keys() == other.keys()
        for key, gradient in one.items():
            scale = max(1.0, float(gradient.abs().max()))
            torch.testing.assert_close(other[key], gradient, rtol=1e-9, atol=1e-11 * scale)
    torch.testing.assert_close(parts.terms, whole.terms, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
def test_four_updates_in_the_released_order(name):
    """E, F and the head learn from latents alone; a selector goes first."""
    method = build(CONFIGS[name])
    learned = [{key.split(".")[0] for key in seen} for seen in watched(method, batch_of(2)).seen]
    head = {"P"} if name in ("relation", "released") else set()
    order = [{"D"}, {"D"}, {"G", "F", "E", *head}, {"G"}]
    assert learned == ([{"S"}, *order] if name == "lsesim" else order)


def test_without_content_and_with_its_cycle_it_is_stargan_v2():
    plain = build(PLAIN)
    other = build(CONFIGS["none"])
    other.load_state_dict(plain.state_dict())
    batch = batch_of(2)
    torch.testing.assert_close(watched(other, batch).terms, watched(plain, batch).terms)


@pytest.mark.parametrize("direction", ["paper", "released"])
@pytest.mark.parametrize("cycle", ["paper", "released"])
@pytest.mark.parametrize("generator", ["paper", "released"])
def test_the_decoder_learns_content_in_the_direction_of_the_paper_only(direction, cycle, generator):
    config = replace(
        RELATION,
        direction=direction,
        cycle=cycle,
        networks=replace(NETWORKS, generator=generator),
        style_weight=0.0,
        diversity_weight=0.0,
        cycle_weight=0.0,
    )

    def gradients(config):
        method = build(config)
        for parameter in method.D.parameters():  # a judge without opinion
            parameter.data.zero_()
        return watched(method, batch_of(2)).seen[2]

    def moves(seen, prefix):
        return any(float(g.abs().max()) > 1e-12 for n, g in seen.items() if n.startswith(prefix))

    seen = gradients(config)
    assert moves(seen, "G.encode")
    assert moves(seen, "P.")
    assert moves(seen, "G.decode") == moves(seen, "F.") == (direction == "paper")


def test_cycle_is_from_the_output_or_from_the_input():
    batch = batch_of(2)
    cycles = {}
    for cycle in ("paper", "released"):
        method = build(replace(RELATION, cycle=cycle))
        with torch.no_grad():
            own = method.E(batch.x_BCHW, batch.domain_B)
            dressed = method.G(batch.x_BCHW, method.E(batch.reference_BCHW, batch.target_B))
            start = dressed if cycle == "paper" else batch.x_BCHW
            expected = (method.G(start, own) - batch.x_BCHW).abs().mean()
        terms = watched(method, batch).terms
        torch.testing.assert_close(terms["G.cycle"], expected)
        cycles[cycle] = float(expected)
    assert cycles["paper"] != pytest.approx(cycles["released"])


def test_the_weight_of_diversity_follows_from_the_step_alone():
    batch, method = batch_of(1), build(replace(PLAIN, diversity_steps=4))
    values = []
    for step in (0, 2, 4, 9):
        draws = SeededDraws(1, 0)
        terms = watched(method, batch, step=step, draws=draws).terms
        values.append(float(terms["G.diversity"]))
    assert values[0] < 0
    assert values == pytest.approx([values[0], values[0] / 2, 0.0, 0.0])
    method = build(PLAIN)  # over the whole run
    half = watched(method, batch, step=5, total_steps=10, draws=SeededDraws(1, 0)).terms
    assert float(half["G.diversity"]) == pytest.approx(values[0] / 2)


def test_the_hardness_of_negatives_follows_from_the_step():
    method = build(RELATION)
    divisors = [
        method._pass(Progress.of_step(step, total_steps=10)).gamma_divisor for step in (0, 5)
    ]
    assert divisors == pytest.approx([50.0, 25.5])


@pytest.mark.parametrize("shape", [(32, 32), (36, 52)])
def test_the_smallest_image_and_sizes_that_are_not_square(shape):
    """One level: sides are even."""
    for config in (PLAIN, RELATION, CONFIGS["released"]):
        method = build(config)
        assert method.min_training_size == 32
        terms = watched(method, batch_of(1, size=shape)).terms
        assert all(value.isfinite() for value in terms.values())
    with pytest.raises(ShapeError, match="at least 32 x 32"):
        watched(build(PLAIN), batch_of(1, size=(30, 32)))


def test_translation_in_given_styles():
    method = build(PLAIN).eval()
    x = batch_of(2).x_BCHW
    latent = method.latent_styles(SeededDraws(0, 3), count=2, domain=1)
    reference = method.reference_styles(x, domain=1)
    assert latent.shape == reference.shape == (2, 5)
    assert not torch.equal(
        method.translate(x, styles_BS=latent), method.translate(x, styles_BS=reference)
    )
    torch.testing.assert_close(
        method.translate(x, styles_BS=latent)[:1], method.translate(x[:1], styles_BS=latent[:1])
    )
    assert torch.equal(method.translate(x), method.translate(x))
    other = method.latent_styles(SeededDraws(0, 3), count=2, domain=2)
    assert not torch.equal(other, latent)


@pytest.mark.parametrize("kind", [StarGanV2, StarGanV2Relation])
def test_domains_out_of_range_are_named(kind):
    method = build(PLAIN if kind is StarGanV2 else RELATION)
    assert method.num_domains == 3
    with pytest.raises(ConfigError, match="`domain` must be 0 to 2 for this model; got 3"):
        method.latent_styles(SeededDraws(0, 0), count=1, domain=3)
    with pytest.raises(ConfigError, match="`domain` must be 0 to 2 for this model; got -1"):
        method.reference_styles(torch.zeros(1, 3, 32, 32), domain=-1)
    batch = batch_of(2)
    wrong = replace(batch, target_B=torch.tensor([0, 3]))
    with pytest.raises(ShapeError, match=r"must be 0 to 2; got 3\. Does the data have more"):
        watched(method, wrong)


def test_patch_maps_embed_the_layers():
    method = build(RELATION)
    maps = method.patch_maps(torch.randn(1, 3, 32, 40, dtype=torch.float64))
    assert [patch_map.tap for patch_map in maps] == [0, 1, 2]
    assert maps[0].feature_BCHW.shape[2:] == (16, 20)
    rows = maps[1].embed(torch.randn(2, 4, dtype=torch.float64))
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(2, dtype=torch.float64))
    with pytest.raises(ConfigError, match="compares no patches"):
        build(LSESIM).patch_maps(torch.zeros(1, 3, 32, 32))


def test_content_by_lsesim_needs_its_weights():
    config = replace(LSESIM, structure=StructureConfig())
    method = StarGanV2Relation(config)
    assert not any("vgg" in name for name in method.state_dict())
    with pytest.raises(ConfigError, match="VGG16's weights are needed"):
        method.prepare([], SeededDraws(0, 0))


def test_presets_are_the_published_runs():
    for name in ("starganv2", "starganv2-relation"):
        presets = METHODS[name].presets
        for preset in list(presets.values())[:-1]:
            assert preset.schedule.steps == 100_000
            assert preset.schedule.ema_decay == 0.999
            assert preset.schedule.learning_rate_factor(100_000, 100_000) == 1
            assert preset.data.batch_size == 8
    presets = METHODS["starganv2-relation"].presets
    paper, seasons, weather = (
        presets[name].method for name in ("paper", "released-seasons", "released-weather")
    )
    assert next(iter(presets)) == "paper"
    assert (paper.networks.generator, paper.direction, paper.cycle, paper.num_patches) == (
        "paper", "paper", "paper", 256,
    )  # fmt: skip
    assert (seasons.networks.generator, seasons.direction, seasons.num_patches) == (
        "released", "released", 128,
    )  # fmt: skip
    assert (seasons.contrast_weight, weather.contrast_weight) == (1.0, 0.1)
    assert (seasons.networks.num_domains, weather.networks.num_domains) == (4, 5)


def test_wording_of_errors():
    with pytest.raises(ConfigError, match="`micro_batch` must be at least 1; got 0"):
        replace(PLAIN, micro_batch=0)
    with pytest.raises(ConfigError, match="`diversity_steps` must be at least 1; got 0"):
        replace(RELATION, diversity_steps=0)
    with pytest.raises(ConfigError, match="`gamma_divisor_end` must be positive; got 0"):
        replace(RELATION, gamma_divisor_end=0.0)
    with pytest.raises(ConfigError, match=r"VGG16 sees grey or colour .* got 4"):
        replace(LSESIM, networks=replace(NETWORKS, channels=4))
    with pytest.raises(ConfigError, match=r"`layers` must name blocks of the encoder, 0 to 2"):
        StarGanV2Relation(replace(RELATION, layers=(1, 3)))
    with pytest.raises(ConfigError, match="`window` must be at least 1; got 0"):
        StructureConfig(window=0)
