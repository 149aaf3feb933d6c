"""What MUNIT and DRIT do beyond the contract: styles, and DRIT's losses and order of updates."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as nnf

from patchkin.data.datasets import UnpairedBatch
from patchkin.errors import ConfigError, ShapeError
from patchkin.method import Progress, StyledMethod
from patchkin.methods.drit import Drit, DritConfig
from patchkin.methods.munit import Munit, MunitConfig
from patchkin.networks import InitConfig
from patchkin.networks.drit import ContentDiscriminatorConfig, DritNetworkConfig
from patchkin.networks.munit import MultiScaleConfig, MunitGeneratorConfig
from patchkin.randomness import SeededDraws
from patchkin.schedules import AdamConfig
from patchkin.training import Updater
from support import cpu_fabric, random_batch

MUNIT = MunitConfig(
    out_channels=1,
    generator=MunitGeneratorConfig(width=2, blocks=1, style_width=4, mlp_width=5),
    discriminator=MultiScaleConfig(width=2, layers=2, scales=2),
)
DRIT = DritConfig(
    out_channels=1,
    networks=DritNetworkConfig(width=2, blocks=1, attribute_width=4, mlp_width=5),
    discriminator=MultiScaleConfig(width=2, layers=2, scales=2, slope=0.01),
    content_discriminator=ContentDiscriminatorConfig(layers=1, kernel=3),
    initialization=InitConfig(gain=1.0),
)
MIX = replace(DRIT, networks=replace(DRIT.networks, form="mix"))
KINDS = {"munit": (Munit, MUNIT), "drit": (Drit, DRIT), "drit-mix": (Drit, MIX)}
DIRECTIONS = ("AtoB", "BtoA")
WIDTH = 4


@pytest.fixture(params=KINDS)
def method(request) -> StyledMethod:
    torch.manual_seed(0)
    kind, config = KINDS[request.param]
    return kind(config).double().eval()


def images(method, direction, num_images=2, size=(20, 32), *, seed=0, target=False):
    """Of the source domain of a direction, or of the target."""
    generator = torch.Generator().manual_seed(seed)
    channels = method.channels[(direction == "BtoA") != target]
    numbers = torch.rand(num_images, channels, *size, generator=generator, dtype=torch.float64)
    return 2 * numbers - 1


# Styles


@pytest.mark.parametrize("direction", DIRECTIONS)
@torch.no_grad()
def test_the_same_draws_give_the_same_images_and_others_give_others(method, direction):
    x = images(method, direction, 3)
    results = []
    for seed in (5, 5, 6):
        styles = method.latent_styles(SeededDraws(seed, 0), count=3, direction=direction)
        assert styles.shape == (3, WIDTH)
        results.append(method.translate(x, styles_BS=styles, direction=direction))
    assert results[0].shape == (3, method.channels[direction == "AtoB"], 20, 32)
    assert torch.equal(results[0], results[1])
    assert (results[0] - results[2]).abs().amax(dim=(1, 2, 3)).min() > 1e-4


def test_latent_styles_are_normal(method):
    styles = method.latent_styles(SeededDraws(0, 0), count=5000)
    torch.testing.assert_close(styles.mean(0), torch.zeros(WIDTH), rtol=0, atol=0.06)
    torch.testing.assert_close(styles.T.cov(), torch.eye(WIDTH), rtol=0, atol=0.08)


@pytest.mark.parametrize("direction", DIRECTIONS)
@torch.no_grad()
def test_without_styles_all_images_have_one_that_never_changes(method, direction):
    x = images(method, direction)
    fixed = SeededDraws(0, 0).normal(1, WIDTH).double()
    expected = method.translate(x, styles_BS=fixed.expand(2, WIDTH), direction=direction)
    torch.manual_seed(123)
    assert torch.equal(method.translate(x, direction=direction), expected)
    assert torch.equal(method.translate(x, styles_BS=fixed, direction=direction), expected)
    assert not [name for name in method.state_dict() if "style" in name and "enc" not in name]


@pytest.mark.parametrize("direction", DIRECTIONS)
@torch.no_grad()
def test_the_style_of_a_reference_is_used(method, direction):
    x = images(method, direction)
    references = images(method, direction, 2, (17, 23), seed=1, target=True)
    styles = method.reference_styles(references, direction=direction)
    assert styles.shape == (2, WIDTH)
    single = method.reference_styles(references[1:], direction=direction)
    torch.testing.assert_close(styles[1:], single, rtol=1e-10, atol=1e-12)
    translated = method.translate(x, styles_BS=styles, direction=direction)
    swapped = method.translate(x, styles_BS=styles.flip(0), direction=direction)
    assert (translated - swapped).abs().max() > 1e-6
    rows = [
        method.translate(x[i : i + 1], styles_BS=styles[i : i + 1], direction=direction)
        for i in range(2)
    ]
    torch.testing.assert_close(translated, torch.cat(rows), rtol=1e-9, atol=1e-11)


@torch.no_grad()
def test_styles_and_contents_come_from_the_right_networks():
    torch.manual_seed(0)
    munit, drit = Munit(MUNIT).eval(), Drit(DRIT).eval()
    a, b = torch.rand(1, 3, 16, 20), torch.rand(1, 1, 16, 20)
    style_a, style_b = torch.randn(1, WIDTH), torch.randn(1, WIDTH)
    cases = [
        (munit, a, style_b, "AtoB", munit.G_B.decode(munit.G_A.content(a), style_b)),
        (munit, b, style_a, "BtoA", munit.G_A.decode(munit.G_B.content(b), style_a)),
        (drit, a, style_b, "AtoB", drit.G(drit.E_content(a, "A"), style_b, "B")),
        (drit, b, style_a, "BtoA", drit.G(drit.E_content(b, "B"), style_a, "A")),
    ]
    for method, x, style, direction, expected in cases:
        assert torch.equal(method.translate(x, styles_BS=style, direction=direction), expected)
    assert torch.equal(munit.reference_styles(b), munit.G_B.style(b))
    assert torch.equal(munit.reference_styles(a, direction="BtoA"), munit.G_A.style(a))
    assert torch.equal(drit.reference_styles(b), drit.E_attribute(b, "B").mean_BS)
    assert torch.equal(drit.reference_styles(a, direction="BtoA"), drit.E_attribute(a, "A").mean_BS)


def test_wording_of_errors_about_styles(method):
    x = images(method, "AtoB")
    with pytest.raises(ShapeError, match=r"must hold 4 numbers for each of the 2 images; got"):
        method.translate(x, styles_BS=torch.zeros(3, WIDTH))
    with pytest.raises(ConfigError, match="has one target domain in each direction, 0; got 1"):
        method.latent_styles(SeededDraws(0, 0), count=1, domain=1)
    with pytest.raises(ConfigError, match="has one target domain in each direction, 0; got 2"):
        method.reference_styles(x, domain=2)
    with pytest.raises(ShapeError, match="at least 16 x 16 pixels; got 8 x 8"):
        method.reference_styles(images(method, "AtoB", 1, (8, 8), target=True))


@torch.no_grad()
def test_previews_show_the_style_of_the_target(method):
    batch = UnpairedBatch(images(method, "AtoB"), images(method, "BtoA"))
    columns = method.previews(batch)
    styles = method.reference_styles(batch.b_BCHW)
    expected = method.translate(batch.a_BCHW, styles_BS=styles)
    assert torch.equal(columns["in the target's style"], expected)
    back = method.translate(batch.b_BCHW, direction="BtoA")
    assert torch.equal(columns["target to source"], back)


# DRIT: which networks learn when


class Watching(Updater):
    """Remembers who was updated, and the method as it was before each update."""

    def __init__(self, method):
        super().__init__(method, cpu_fabric())
        self.method, self.updated, self.before = method, [], []
        self.begin_step(1.0)

    def __call__(self, *networks, loss):
        self.updated.append(networks)
        self.before.append(copy.deepcopy(self.method))
        super().__call__(*networks, loss=loss)


class Remembered(SeededDraws):
    """Draws that keep the normal numbers they gave, in order."""

    def __init__(self):
        super().__init__(3, 0)
        self.normals = []

    def normal(self, *shape):
        self.normals.append(super().normal(*shape))
        return self.normals[-1]


def drit(config=DRIT, dtype=torch.float64, **changes):
    torch.manual_seed(0)
    return Drit(replace(config, **changes)).to(dtype)


def drit_batch(num_images=2, dtype=torch.float64):
    return random_batch(num_images, size=(32, 36), channels=(3, 1), dtype=dtype)


EVERYTHING = [
    ("D_A", "D_B", "D_A2", "D_B2", "D_content"),
    ("E_content", "E_attribute", "G"),
    ("E_content", "G"),
]
ALONE = [("D_content",)]


def updates(method, step, **run):
    update = Watching(method)
    progress = Progress.of_step(step, **run)
    method.train_step(drit_batch(dtype=torch.float32), update, progress)
    return update.updated


def test_two_of_three_steps_teach_the_content_discriminator_alone():
    method = drit(dtype=torch.float32)
    rhythm = [updates(method, step, total_steps=7) for step in range(7)]
    assert rhythm == [ALONE, ALONE, EVERYTHING, ALONE, ALONE, EVERYTHING, ALONE]
    method = drit(dtype=torch.float32, generator_every=1)
    assert [updates(method, step, total_steps=2) for step in range(2)] == [EVERYTHING] * 2


def test_the_rhythm_begins_anew_in_every_epoch_whose_last_two_steps_teach_all():
    method = drit(dtype=torch.float32)
    run = {"total_steps": 14, "steps_per_epoch": 7, "counts_epochs": True}
    rhythm = [updates(method, step, **run) for step in range(14)]
    epoch = [ALONE, ALONE, EVERYTHING, ALONE, ALONE, EVERYTHING, EVERYTHING]
    assert rhythm == epoch * 2


def test_a_gradient_of_the_content_discriminator_is_clipped():
    method = drit(
        split_batch=False,
        content_adam=AdamConfig(learning_rate=4e-5, clip_norm=1e-3),
        generator_every=1,
    )
    assert DritConfig().content_adam.clip_norm == 5
    method.train_step(drit_batch(), Watching(method), Progress.of_step(0, total_steps=1))

    def length(network):
        return torch.cat([p.grad.flatten() for p in network.parameters()]).norm().item()

    assert length(method.D_content) == pytest.approx(1e-3, rel=1e-2)
    assert length(method.D_A) > 1e-2


# DRIT: what they learn


def bce(logits, label):
    return nnf.binary_cross_entropy(logits.sigmoid(), torch.full_like(logits, label))


def scales(network, x, label):
    return sum(bce(logits, label) for logits in network(x))


def l1(one, other):
    return (one - other).abs().mean()


@pytest.mark.parametrize("form", ["concat", "mix"])
@pytest.mark.parametrize("seeking", [0.0, 0.7])
@torch.no_grad()
def test_losses_match_the_definition_written_out(form, seeking):
    """On a batch of two: the first image is encoded, the second only shown as real.

    The discriminators' terms are of the weights before the step, the first pass's of those after
    the discriminators learned, and the second pass's of those after the first.
    """
    networks = replace(DRIT.networks, form=form)
    method = drit(
        networks=networks, mode_seeking_weight=seeking, generator_every=1, content_weight=2.0
    )
    batch, draws, update = drit_batch(), Remembered(), Watching(method)
    with torch.enable_grad():
        method.train_step(batch, update, Progress.of_step(0, total_steps=1, draws=draws))
    normals = iter([numbers.double() for numbers in draws.normals])
    a, other_a = batch.a_BCHW[:1], batch.a_BCHW[1:]
    b, other_b = batch.b_BCHW[:1], batch.b_BCHW[1:]

    def attribute(m, x, side, eps):
        mean, log_variance = m.E_attribute(x, side)
        return mean if form == "mix" else mean + (log_variance / 2).exp() * eps

    noise_a, noise_b, eps_a, eps_b = (next(normals) for _ in range(4))
    z_r = [next(normals) for _ in range(2 if seeking else 1)]
    noise_u, noise_v, eps_u, eps_v = (next(normals) for _ in range(4))
    assert next(normals, None) is None

    m = update.before[0]
    c_a, c_b = m.E_content(a, "A") + noise_a, m.E_content(b, "B") + noise_b
    z_a, z_b = attribute(m, a, "A", eps_a), attribute(m, b, "B", eps_b)
    u, v = m.G(c_b, z_a, "A"), m.G(c_a, z_b, "B")
    expected = {
        "fake_A": scales(m.D_A, u, 0.0),
        "real_A": scales(m.D_A, a, 1.0),
        "fake_B": scales(m.D_B, v, 0.0),
        "real_B": scales(m.D_B, b, 1.0),
        "fake_A2": sum(scales(m.D_A2, m.G(c_b, z, "A"), 0.0) for z in z_r),
        "real_A2": len(z_r) * scales(m.D_A2, other_a, 1.0),
        "fake_B2": sum(scales(m.D_B2, m.G(c_a, z, "B"), 0.0) for z in z_r),
        "real_B2": len(z_r) * scales(m.D_B2, other_b, 1.0),
        "content_A": bce(m.D_content(c_a), 1.0),
        "content_B": bce(m.D_content(c_b), 0.0),
    }
    check(update, "D_A+D_B+D_A2+D_B2+D_content.", expected)

    m = update.before[1]
    again_c_b, again_c_a = m.E_content(u, "A") + noise_u, m.E_content(v, "B") + noise_v
    again_z_a, again_z_b = attribute(m, u, "A", eps_u), attribute(m, v, "B", eps_v)
    expected = {}
    for side, x, fake, c, z, back in (
        ("A", a, u, c_a, z_a, m.G(again_c_a, again_z_a, "A")),
        ("B", b, v, c_b, z_b, m.G(again_c_b, again_z_b, "B")),
    ):
        mean, log_variance = m.E_attribute(x, side)
        if form == "mix":
            prior = mean.square().mean()
        else:
            prior = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()
        expected |= {
            f"adversarial_{side}": scales(m.D_A if side == "A" else m.D_B, fake, 1.0),
            f"undecided_{side}": 2.0 * bce(m.D_content(c), 0.5),
            f"prior_{side}": 0.01 * prior,
            f"size_{side}": 0.01 * c.square().mean(),
            f"self_{side}": 10 * l1(m.G(c, z, side), x),
            f"cycle_{side}": 10 * l1(back, x),
        }
    check(update, "E_content+E_attribute+G.", expected)

    m = update.before[2]
    c_a, c_b = m.E_content(a, "A") + noise_a, m.E_content(b, "B") + noise_b
    expected = {}
    for side, content, judge in (("A", c_b, m.D_A2), ("B", c_a, m.D_B2)):
        fakes = [m.G(content, z, side) for z in z_r]
        expected |= {
            f"adversarial_{side}2": sum(scales(judge, fake, 1.0) for fake in fakes),
            f"latent_{side}": 10 * l1(m.E_attribute(fakes[0], side)[0], z_r[0]),
        }
        if seeking:
            ratio = l1(*fakes) / l1(*z_r)
            expected[f"modes_{side}"] = seeking / (ratio + 1e-5)
    check(update, "E_content+G.", expected)


def check(update, prefix, expected):
    actual = {
        name.removeprefix(prefix): value
        for name, value in update.terms.items()
        if name.startswith(prefix)
    }
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-9, atol=1e-12, msg=name)


def test_the_step_of_the_content_discriminator_alone_sees_noisy_contents():
    method, batch, draws = drit(), drit_batch(), Remembered()
    update = Watching(method)
    method.train_step(batch, update, Progress.of_step(0, total_steps=9, draws=draws))
    noise_a, noise_b = (numbers.double() for numbers in draws.normals)
    m = update.before[0]
    with torch.no_grad():
        c_a = m.E_content(batch.a_BCHW[:1], "A") + noise_a
        c_b = m.E_content(batch.b_BCHW[:1], "B") + noise_b
        expected = {
            "content_A": bce(m.D_content(c_a), 1.0),
            "content_B": bce(m.D_content(c_b), 0.0),
        }
    check(update, "D_content.", expected)


def test_a_batch_too_small_to_halve():
    method = drit(generator_every=1)
    assert method.min_batch_size == 2
    with pytest.raises(ConfigError, match=r"at least 2 images; got 1\. Use --batch-size 2"):
        method.train_step(drit_batch(1), Watching(method), Progress.of_step(0, total_steps=1))
    assert drit(split_batch=False).min_batch_size == 1


def test_wording_of_errors_about_settings():
    with pytest.raises(ConfigError, match="`latent_weight` must not be negative; got -1"):
        DritConfig(latent_weight=-1.0)
    with pytest.raises(ConfigError, match="`generator_every` must be at least 1; got 0"):
        DritConfig(generator_every=0)
    with pytest.raises(ConfigError, match="`cycle_weight` must not be negative; got -1"):
        MunitConfig(cycle_weight=-1.0)
    with pytest.raises(ConfigError, match="`in_channels` must be at least 1; got 0"):
        MunitConfig(in_channels=0)


# MUNIT


def test_discriminators_see_other_styles_than_generators():
    torch.manual_seed(0)
    method, draws = Munit(MUNIT), Remembered()
    batch = random_batch(3, size=(16, 20), channels=(3, 1))
    method.train_step(batch, Watching(method), Progress.of_step(0, total_steps=1, draws=draws))
    assert [tuple(numbers.shape) for numbers in draws.normals] == [(3, WIDTH)] * 4
    assert len({numbers[0, 0].item() for numbers in draws.normals}) == 4


def test_the_published_rates_halve_every_100000_steps():
    schedule = Munit.presets["released"].schedule
    factors = {
        step: schedule.learning_rate_factor(step, schedule.steps)
        for step in (1, 99_999, 100_000, 199_999, 200_000, 1_000_000)
    }
    assert list(factors.values()) == [1, 1, 0.5, 0.5, 0.25, 2**-10]
