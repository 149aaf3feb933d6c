"""EnCo: its content term, guided places, schedules, and whole steps of the released code."""

from __future__ import annotations

import math
import re

import pytest
import torch

from goldens.errors import note
from goldens.fixtures import (
    Golden,
    assert_close_to_maximum,
    discriminator_from,
    generator_from,
    golden_files,
    zero_gradient_biases,
)
from patchkin.data.datasets import UnpairedBatch
from patchkin.losses.agreement import disagreement
from patchkin.method import Progress
from patchkin.methods import enco
from patchkin.methods.enco import EnCo, EnCoConfig
from patchkin.networks import PatchGANConfig
from patchkin.networks.places import enlarged, guided_places
from patchkin.networks.predictor import PredictingHead
from patchkin.schedules import AdamConfig, ScheduleConfig
from patchkin.training import Updater
from support import FixedDraws, cpu_fabric

NORMS = {"BN": "batch", "LN": "layer", "None": "none"}
BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
NETWORKS = ("G", "D", "F")


def expect(actual, expected, *, absolute):
    actual = actual.detach().double().reshape(expected.shape)
    torch.testing.assert_close(actual, expected.double(), rtol=0, atol=absolute)


def expect_number(actual, expected, dtype):
    """1e-9 in float64, relative 1e-5 in float32."""
    actual = actual.detach() if isinstance(actual, torch.Tensor) else actual
    if dtype is torch.float64:
        assert float(actual) == pytest.approx(expected, rel=0, abs=1e-9)
    else:
        assert float(actual) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def expect_buffer(actual, expected, dtype):
    """Running statistics; some means are zero but for rounding, behind a norm without scale."""
    double = dtype is torch.float64
    if not actual.is_floating_point():
        assert torch.equal(actual, expected)
    elif expected.abs().max() < 1e-9:
        assert actual.abs().max() < (1e-9 if double else 1e-6)
    else:
        assert_close_to_maximum(actual, expected, relative=1e-6 if double else 1e-4)


def own_name(reference_name):
    """`mlp_0.1.bias` is `mlps.0.1.bias`, `prj_0.3.weight` is `predictors.0.3.weight`."""
    name = re.sub(r"^mlp_(\d+)\.", r"mlps.\1.", reference_name)
    return re.sub(r"^prj_(\d+)\.", r"predictors.\1.", name)


def head_with(weights, *, norm, predictor=True):
    """A head with these weights; its sizes from their shapes."""
    pairs = range(len({name.split(".")[0] for name in weights if name.startswith("mlp_")}))
    firsts = [weights[f"mlp_{pair}.0.weight"] for pair in pairs]
    head = PredictingHead(
        [first.shape[1] for first in firsts],
        len(firsts[0]),
        norm=NORMS[norm],
        predictor=predictor,
    )
    used = {
        own_name(name): weight
        for name, weight in weights.items()
        if predictor or not name.startswith("prj_")
    }
    head.to(firsts[0].dtype).load_state_dict(used)
    return head


@BOTH
@pytest.mark.parametrize("path", golden_files("enco_loss"))
def test_content_term(path, dtype):
    golden = Golden(path)
    assert golden.options["cases"]
    for name, case in golden.options["cases"].items():
        check_content(golden, name, case, dtype)


def check_content(golden, name, case, dtype):
    close, relative = (1e-9, 1e-6) if dtype is torch.float64 else (1e-5, 1e-4)
    pairs = range(len(case["pairs"]))
    weights = golden.state_dict(f"{name}/netF", dtype)
    head = head_with(weights, norm=case["norm"], predictor=case["predictor"])
    keys, queries = (
        [golden.tensor(f"{name}/feat_{kind}_{pair}", dtype).requires_grad_() for pair in pairs]
        for kind in "kq"
    )
    places = [golden.tensor(f"{name}/ids_{pair}") for pair in pairs]
    for pair, shape in enumerate(case["pairs"]):
        assert list(keys[pair].shape) == [case["batch"], *shape]
        assert places[pair].shape[1] == min(case["places"], math.prod(shape[1:]))
    predicted = head(queries, places, predict=True)
    embedded = head(keys, places, predict=False)
    rows = [
        disagreement(q, k, stop_gradient=case["stop_gradient"])
        for q, k in zip(predicted, embedded, strict=True)
    ]
    for pair in pairs:
        expected = golden.tensor(f"{name}/out/rows_{pair}")
        expect(rows[pair], expected, absolute=close)
        for actual, kind in ((predicted[pair], "q"), (embedded[pair], "k")):
            expected = golden.tensor(f"{name}/out/pool_{kind}_{pair}")
            assert_close_to_maximum(actual.detach().flatten(0, 1), expected, relative=relative)
    means = torch.stack([row.mean() for row in rows])
    for actual, expected in zip(means, golden.tensor(f"{name}/out/pair_losses"), strict=True):
        expect_number(actual, float(expected), dtype)
    expect_number(means.mean(), golden.number(f"{name}/out/loss"), dtype)
    means.mean().backward()
    for pair in pairs:
        expected = golden.tensor(f"{name}/out/grad_feat_q_{pair}")
        assert_close_to_maximum(queries[pair].grad, expected, relative=relative)
        stored = f"{name}/out/grad_feat_k_{pair}"
        assert (stored in golden) == (not case["stop_gradient"]) == (keys[pair].grad is not None)
        if stored in golden:
            assert_close_to_maximum(keys[pair].grad, golden.tensor(stored), relative=relative)
    parameters, buffers = dict(head.named_parameters()), dict(head.named_buffers())
    for key, expected in golden.tensors(f"{name}/out/grad_netF").items():
        if own_name(key) not in parameters:  # the release has a predictor that it does not use
            assert not case["predictor"]
            assert not expected.any()
            continue
        assert_close_to_maximum(parameters.pop(own_name(key)).grad, expected, relative=relative)
    assert not parameters
    for key, expected in golden.tensors(f"{name}/out/after_netF").items():
        if own_name(key) in buffers:
            expect_buffer(buffers.pop(own_name(key)), expected, dtype)
    assert not buffers


def draws_of(*orders_BN):
    """Draws whose numbers, sorted, give these permutations."""
    return FixedDraws(
        uniforms=[order_BN.argsort(dim=1) / order_BN.shape[1] for order_BN in orders_BN]
    )


@BOTH
@pytest.mark.parametrize("path", golden_files("enco_dag"))
def test_guided_places(path, dtype):
    golden = Golden(path)
    assert golden.options["cases"]
    for name, case in golden.options["cases"].items():
        logits_BNhw = golden.tensor(f"{name}/map", dtype)
        assert list(logits_BNhw.shape) == [case["batch"], 1, *case["map"]]
        size = tuple(case["size"])
        expected = golden.tensor(f"{name}/out/map_at_tap")
        close = 1e-9 if dtype is torch.float64 else 1e-5
        expect(enlarged(logits_BNhw, size), expected, absolute=close)
        guided = golden.tensor(f"{name}/out/guided")
        random = golden.tensor(f"{name}/out/random")
        orders = {"candidates": guided, "random": random}
        places_BK = guided_places(
            logits_BNhw,
            size,
            case["num_patches"],
            draws_of(*(golden.tensor(f"{name}/{n}") for n, part in orders.items() if part.numel())),
            oversampling=case["oversample_ratio"],
            random_share=case["random_ratio"],
        )
        num_guided = guided.shape[1]
        assert torch.equal(places_BK[:, :num_guided].sort().values, guided.sort().values), name
        assert torch.equal(places_BK[:, num_guided:], random), name


def progress_in(epoch, options, draws=None):
    total = options["n_epochs"] + options["n_epochs_decay"]
    return Progress(
        step=0, total_steps=1, epoch=epoch, total_epochs=total, draws=draws or FixedDraws()
    )


def config_of(options, **others):
    """The schedule of the identity term as a share of the run."""
    total = options["n_epochs"] + options["n_epochs_decay"]
    until = options["stop_idt_epochs"]
    return EnCoConfig(
        identity_until=(options["n_epochs"] if until < 0 else until) / total,
        identity_decays=options["decay_idt"],
        identity_weight=options["lambda_IDT"],
        content_weight=options["lambda_NCE"],
        **others,
    )


def rates_of(options):
    """The learning-rate factor of every epoch."""
    total = options["n_epochs"] + options["n_epochs_decay"]
    schedule = ScheduleConfig(
        epochs=total,
        decay_fraction=options["n_epochs_decay"] / total,
        warmup=max(0, options["warmup_epochs"]),
    )
    factors = [schedule.learning_rate_factor(epoch, total) for epoch in range(1, total + 1)]
    return torch.tensor(factors, dtype=torch.float64)


@pytest.mark.parametrize("path", golden_files("enco_schedule"))
def test_schedules(path):
    golden = Golden(path)
    assert golden.options["cases"]
    for name, case in golden.options["cases"].items():
        expect(rates_of(case), golden.tensor(f"{name}/out/lr_factor"), absolute=1e-12)
        with torch.device("meta"):
            method = EnCo(config_of(case, identity=case["nce_idt"]))
        weights, totals = [], []
        for epoch in range(1, case["n_epochs"] + case["n_epochs_decay"] + 1):
            weight = method.identity_weight(progress_in(epoch, case))
            share = 1.0 if weight is None else 0.5
            weights.append(weight or 0.0)
            totals.append(share * (method.config.content_weight + weights[-1]))
        weights, totals = (torch.tensor(x, dtype=torch.float64) for x in (weights, totals))
        expect(weights, golden.tensor(f"{name}/out/identity"), absolute=1e-12)
        expect(totals, golden.tensor(f"{name}/out/total"), absolute=1e-12)


@pytest.mark.parametrize("path", golden_files("enco_step"))
def test_learning_rates_in_step_files(path):
    golden = Golden(path)
    for name, options in golden.options["schedules"].items():
        expect(rates_of(options), golden.tensor(f"schedule/{name}"), absolute=1e-12)


def method_from(golden, config, dtype, *, norm):
    """The method with the networks of the file."""
    weights = {name: golden.state_dict(f"net{name}", dtype) for name in NETWORKS}
    method = EnCo(config).to(dtype)
    method.G = generator_from(weights["G"])
    method.D = discriminator_from(weights["D"])
    method.F = head_with(weights["F"], norm=norm, predictor=config.predictor)
    return method


def options_of(golden, options, case):
    """The configuration of a step file."""
    generator = generator_from(golden.state_dict("netG"))
    ndf = len(golden["netD/model.0.weight"])
    rates = {
        name: AdamConfig(
            learning_rate=case[f"lr_{name}"] if f"lr_{name}" in case else options[f"lr_{name}"],
            beta1=options.get("beta1", 0.5),
            beta2=options.get("beta2", 0.999),
        )
        for name in NETWORKS
    }
    return {
        "generator": generator.config,
        "discriminator": PatchGANConfig(ndf=ndf),
        "generator_adam": rates["G"],
        "head_adam": rates["F"],
        "discriminator_adam": rates["D"],
        "adversarial_weight": options["lambda_GAN"],
        "head_width": options["netF_nc"],
        "num_patches": options["num_patches"],
    }


class PinnedPlaces:
    """Stands in for `guided_places` and gives what the file gives, pair after pair."""

    def __init__(self):
        self.waiting, self.asked = [], []

    def __call__(self, logits_BNhw, size, num_patches, draws, *, oversampling, random_share):
        places_BK = self.waiting.pop(0)
        assert int(places_BK.max()) < size[0] * size[1]
        assert places_BK.shape[1] == min(num_patches, size[0] * size[1])
        self.asked.append((logits_BNhw.detach(), size))
        return places_BK


@pytest.fixture
def pinned(monkeypatch):
    places = PinnedPlaces()
    monkeypatch.setattr(enco, "guided_places", places)
    return places


def released_losses(terms, identity_share):
    """Our terms under the release's names: content and identity without the half."""
    named = {name.split(".", 1)[1]: float(value) for name, value in terms.items()}
    return {
        "D_fake": 2 * named["fake"],
        "D_real": 2 * named["real"],
        "D": named["fake"] + named["real"],
        "G_GAN": named["adversarial"],
        "BYOL": named["content"] / identity_share,
        "BYOL_Y": named.get("identity", 0.0) / identity_share,
        "G": sum(named.get(name, 0.0) for name in ("adversarial", "content", "identity")),
    }


def check_norms(method, name, names, expected, dtype):
    """Of the gradients that an update used."""
    parameters = dict(method.get_submodule(name).named_parameters())
    assert {own_name(str(n)) for n in names} >= set(parameters)
    largest = float(expected.max())
    for key, norm in zip(names, expected.tolist(), strict=True):
        ours = own_name(str(key))
        if ours not in parameters:
            assert norm == 0
            continue
        actual = float(parameters[ours].grad.norm())
        if norm < 1e-9 * max(1.0, largest):
            assert actual < (1e-9 if dtype is torch.float64 else 1e-4) * max(1.0, largest)
        else:
            relative = 1e-8 if dtype is torch.float64 else 1e-3
            assert actual == pytest.approx(norm, rel=relative), (name, key)


def check_weights(golden, prefix, method, dtype, *, close):
    """Weights within `close` times max(1, |value|), and buffers, after the last step."""
    for name in NETWORKS:
        network = method.get_submodule(name)
        expected = golden.tensors(f"{prefix}/net{name}")
        skipped = zero_gradient_biases(network) if dtype is torch.float32 else set()
        state = network.state_dict()
        for key, value in expected.items():
            ours = own_name(key)
            if key.endswith((".filt", ".kernel")) or ours in skipped:
                continue
            if key.startswith("prj_") and not method.config.predictor:
                continue  # the release has a predictor that it does not use
            actual = state[ours]
            if "running" in key or not actual.is_floating_point():
                expect_buffer(actual, value, dtype)
            else:
                floor = torch.clamp(value.abs(), min=1.0) * close
                note((actual.double() - value) / floor, torch.zeros_like(value), atol=1.0)
                assert ((actual.double() - value).abs() <= floor).all(), (name, key)


@BOTH
@pytest.mark.parametrize("path", golden_files("enco_step"))
def test_one_step(path, dtype, pinned):
    golden = Golden(path)
    options = golden.options
    assert options["gan_mode"] == "lsgan"
    assert options["steps"] == 1
    real = UnpairedBatch(*(golden.tensor(f"real_{domain}", dtype) for domain in "AB"))
    assert options["cases"]
    for name, case in options["cases"].items():
        config = config_of(
            {**options, **case},
            **options_of(golden, options, case),
            pairs=tuple(tuple(pair) for pair in options["pairs"]),
            head_norm=NORMS[options["norm"]],
            predictor=case["predictor"],
            stop_gradient=case["stop_gradient"],
        )
        method = method_from(golden, config, dtype, norm=options["norm"])
        for stored, images in (("fake_B", real.a_BCHW), ("idt_B", real.b_BCHW)):
            if f"{name}/out/{stored}" in golden:
                with torch.no_grad():
                    expected = golden.tensor(f"{name}/out/{stored}")
                    relative = 1e-6 if dtype is torch.float64 else 1e-4
                    assert_close_to_maximum(method.G(images), expected, relative=relative)
        pinned.waiting = [golden.tensor(f"{name}/ids_{i}") for i in range(len(method.pairs))]
        update = Updater(method, cpu_fabric())
        update.begin_step(1.0)
        progress = progress_in(case["epoch"], case)
        method.train_step(real, update, progress)
        assert not pinned.waiting

        share = 1.0 if method.identity_weight(progress) is None else 0.5
        losses = released_losses(update.terms, share)
        stored = golden.tensors(f"{name}/out/loss")
        assert set(stored) == set(losses)
        for key, expected in stored.items():
            expect_number(losses[key], float(expected), dtype)
        logits = golden.tensor(f"{name}/out/D_of_fake_after")
        expect(pinned.asked[-1][0], logits, absolute=1e-9 if dtype is torch.float64 else 1e-5)
        for network in NETWORKS:
            names = golden[f"gradnorm_names/{network}"]
            expected = golden.tensor(f"{name}/out/gradnorm/{network}")
            check_norms(method, network, names, expected, dtype)
            gradients = golden.tensors(f"{name}/out/grad/net{network}")
            parameters = dict(method.get_submodule(network).named_parameters())
            for key, expected in gradients.items():
                relative = 1e-6 if dtype is torch.float64 else 1e-4
                assert_close_to_maximum(parameters[own_name(key)].grad, expected, relative=relative)
        if golden.arrays(f"{name}/out/after"):
            close = 1e-7 if dtype is torch.float64 else 1e-5
            check_weights(golden, f"{name}/out/after", method, dtype, close=close)


@BOTH
@pytest.mark.parametrize("path", golden_files("enco_train"))
def test_consecutive_steps(path, dtype, pinned):
    golden = Golden(path)
    options = golden.options
    layers = options["nce_layers"]
    half = len(layers) // 2
    pairs = tuple(zip(layers[:half], reversed(layers[half:]), strict=True))
    config = config_of(
        options,
        **options_of(golden, options, options["steps"][0]),
        pairs=pairs,
        head_norm=NORMS[str(options["prj_norm"])],
        predictor=options["predictor"],
        stop_gradient=options["stop_gradient"],
    )
    method = method_from(golden, config, dtype, norm=str(options["prj_norm"]))
    update = Updater(method, cpu_fabric())
    double = dtype is torch.float64
    for number, step in enumerate(options["steps"], start=1):
        here = f"step{number}"
        real = UnpairedBatch(
            *(golden.tensor(f"{here}/real_{d}").to(dtype) / 127.5 - 1 for d in "AB")
        )
        for stored, images in (("fake_B", real.a_BCHW), ("idt_B", real.b_BCHW)):
            if f"{here}/out/{stored}" in golden:
                with torch.no_grad():
                    expected = golden.tensor(f"{here}/out/{stored}")
                    expect(method.G(images), expected, absolute=1e-6 if double else 1e-4)
        places = [golden.tensor(f"{here}/ids_{i}") for i in range(half)]
        pinned.waiting, pinned.asked = list(places), []
        update.begin_step(1.0)
        for name in NETWORKS:
            for group in update.optimizers[name].param_groups:
                group["lr"] = step[f"lr_{name}"]
        progress = progress_in(step["epoch"], options)
        method.train_step(real, update, progress)
        assert not pinned.waiting

        share = 1.0 if method.identity_weight(progress) is None else 0.5
        for key, value in released_losses(update.terms, share).items():
            expect_number(value, golden.number(f"{here}/out/loss_{key}"), dtype)
        pair_losses = golden.tensor(f"{here}/out/pair_losses")
        content = float(update.terms["G+F.content"]) / share / config.content_weight
        expect_number(content, float(pair_losses.mean()), dtype)
        expected = golden.tensor(f"{here}/out/logits")
        expect(pinned.asked[0][0], expected, absolute=1e-9 if double else 1e-5)
        if double:
            check_guidance(golden, here, options, pinned.asked, places)
        for network in NETWORKS:
            expected = golden.tensor(f"{here}/out/gradnorm/net{network}")
            check_norms(method, network, golden[f"names/net{network}"], expected, dtype)
    moved = 2.1 * sum(max(step[f"lr_{n}"] for n in NETWORKS) for step in options["steps"])
    check_weights(golden, "after", method, dtype, close=2e-7 if double else moved)


def check_guidance(golden, here, options, asked, places):
    """Our choice from the file's permutations: values of the guided places, and the random ones."""
    for pair, ((logits_BNhw, size), expected) in enumerate(zip(asked, places, strict=True)):
        num_random = int(expected.shape[1] * options["random_ratio"])
        num_guided = expected.shape[1] - num_random
        orders = [
            golden.tensor(f"{here}/perm_{kind}_{pair}")
            for kind, count in (("candidates", num_guided), ("random", num_random))
            if count
        ]
        ours = guided_places(
            logits_BNhw,
            size,
            options["num_patches"],
            draws_of(*orders),
            oversampling=options["oversample_ratio"],
            random_share=options["random_ratio"],
        )
        values = enlarged(logits_BNhw, size)
        found, stored = (
            values.gather(1, x[:, :num_guided]).sort().values for x in (ours, expected)
        )
        torch.testing.assert_close(found, stored, rtol=0, atol=1e-9)
        assert torch.equal(ours[:, num_guided:], expected[:, num_guided:])
