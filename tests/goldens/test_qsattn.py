"""QS-Attn: entropies, chosen places, routed features, the contrast over taps, a whole step."""

from __future__ import annotations

import pytest
import torch

from goldens.fixtures import (
    Golden,
    assert_close_to_maximum,
    discriminator_from,
    generator_from,
    golden_files,
    head_from,
    own_name,
)
from patchkin.losses import generator_loss, info_nce
from patchkin.networks import gather_places
from patchkin.networks.attention import (
    attention_at,
    log_attention_entropy,
    route_by_attention,
)
from patchkin.numerics import unit_rows
from patchkin.randomness import SeededDraws
from patchkin.terms.adversary import discriminator_terms

BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
SURE = {torch.float64: 1e-12, torch.float32: 1e-4}
"""Gaps of entropy below which the order of places is open."""


def expect(actual, expected, *, absolute):
    torch.testing.assert_close(actual.detach().double(), expected, rtol=0, atol=absolute)


def settings_of(case):
    layout = "window" if case["layout"] == "none" else case["layout"]
    return {"mode": case["mode"], "window": case["window"], "layout": layout}


def is_sure(case, dtype):
    """Whether this precision decides which places are chosen, if not in which order."""
    gap = case.get("cut_gap", 1e-9)  # not every file tells
    return gap is None or gap > SURE[dtype]  # None: all are chosen


def at(source, places_BK, case, **options):
    """The attention at places of the file."""
    settings = settings_of(case)
    window = settings["window"] if settings.pop("mode") == "local" else None
    return attention_at(source, places_BK, window=window, layout=settings["layout"], **options)


@BOTH
@pytest.mark.parametrize("path", golden_files("qsattn_select"))
def test_selection_and_routing(path, dtype):
    golden = Golden(path)
    close = 1e-9 if dtype is torch.float64 else 1e-4
    assert golden.options["cases"]
    for name, case in golden.options["cases"].items():
        source, target = (golden.tensor(f"{name}/{x}", dtype) for x in ("source", "target"))
        assert list(source.shape) == case["shape"]
        settings = settings_of(case)
        entropy = log_attention_entropy(
            source,
            window=None if case["mode"] == "global" else case["window"],
            layout=settings["layout"],
        ).exp()
        expect(entropy, golden.tensor(f"{name}/out/entropy"), absolute=close)

        expected = golden.tensor(f"{name}/out/ids")
        routing = route_by_attention(source, case["num_patches"], **settings)
        ordered = case["smallest_gap"] > SURE[dtype]
        if ordered:
            assert torch.equal(routing.places_BK, expected), name
        elif is_sure(case, dtype):
            assert torch.equal(routing.places_BK.sort().values, expected.sort().values), name
        if not ordered:
            routing = at(source, expected, case)
        for actual, stored in (
            (routing.attention_BKN, "attention"),
            (routing.rows(source), "routed_source"),
            (routing.rows(target), "routed_target"),
        ):
            expect(actual, golden.tensor(f"{name}/out/{stored}"), absolute=close)


@BOTH
@pytest.mark.parametrize("path", golden_files("qsattn_loss"))
def test_contrast_over_taps(path, dtype):
    golden = Golden(path)
    assert golden.options["cases"]
    for name, case in golden.options["cases"].items():
        check_contrast(golden, name, case, dtype)


def check_contrast(golden, name, case, dtype):
    taps = range(len(case["taps"]))
    sources, targets = (
        [golden.tensor(f"{name}/{kind}_{tap}", dtype).requires_grad_() for tap in taps]
        for kind in ("source", "target")
    )
    head = head_from(golden.state_dict(f"{name}/netF", dtype)) if case["head"] else None
    places = [
        golden.tensor(f"{name}/{'out/' if tap in case['routed'] else ''}ids_{tap}") for tap in taps
    ]
    rows, released_sources = [], {}
    for tap, places_K in enumerate(places):
        embed = head.embedder(tap) if head else unit_rows
        source, target = sources[tap], targets[tap]
        if tap not in case["routed"]:
            pair = [gather_places(x, places_K) for x in (target, source)]
            rows.append(contrast(pair, embed, case))
            continue
        routing = route_by_attention(source, case["num_patches"], **settings_of(case))
        if is_sure(case, dtype):
            assert torch.equal(routing.places_BK.sort().values, places_K.sort().values)
        routing = at(source, places_K, case)
        assert not routing.attention_BKN.requires_grad
        rows.append(contrast([routing.rows(x) for x in (target, source)], embed, case))
        routing = at(source, places_K, case, released_gradient=True)
        through = contrast([routing.rows(x) for x in (target, source)], embed, case)
        share = case["lambda_NCE"] / len(taps)
        (released_sources[tap],) = torch.autograd.grad(share * through.mean(), source)
    loss = case["lambda_NCE"] * torch.stack([row.mean() for row in rows]).mean()
    double = dtype is torch.float64
    for tap, row in enumerate(rows):
        expected = golden.tensor(f"{name}/out/rows_{tap}")
        if double:
            expect(row.flatten(), expected, absolute=1e-9)
    expected = golden.tensor(f"{name}/out/loss")
    torch.testing.assert_close(
        loss.detach().double(), expected, rtol=0 if double else 1e-5, atol=1e-9 if double else 0
    )
    loss.backward()
    relative = 1e-6 if double else 1e-4
    for tap in taps:
        expected = golden.tensor(f"{name}/out/grad_target_{tap}")
        assert_close_to_maximum(targets[tap].grad, expected, relative=relative)
        assert sources[tap].grad is None
    assert set(released_sources) == set(case["routed"])
    for tap, gradient in released_sources.items():
        expected = golden.tensor(f"{name}/out/grad_source_released_{tap}")
        assert_close_to_maximum(gradient, expected, relative=relative)
    if head:
        parameters = dict(head.named_parameters())
        expected = golden.tensors(f"{name}/out/grad_netF")
        assert {own_name(key) for key in expected} == set(parameters)
        for key, gradient in expected.items():
            assert_close_to_maximum(parameters[own_name(key)].grad, gradient, relative=relative)


def contrast(pair, embed, case):
    """PatchNCE per place of routed or plain feature vectors."""
    query_BKC, key_BKC = (embed(rows) for rows in pair)
    return info_nce(query_BKC, key_BKC, temperature=case["T"])


@BOTH
@pytest.mark.parametrize("path", golden_files("qsattn_generator"))
def test_a_whole_step(path, dtype):
    golden, double = Golden(path), dtype is torch.float64
    options = golden.options
    networks = {
        "G": generator_from(golden.state_dict("netG", dtype)),
        "D": discriminator_from(golden.state_dict("netD", dtype)),
        "F": head_from(golden.state_dict("netF", dtype)),
    }
    real = {domain: golden.tensor(f"real_{domain}", dtype) for domain in "AB"}
    outputs, sources = networks["G"].forward_with_taps(torch.cat([*real.values()]), options["taps"])
    fake, again = outputs.chunk(2)
    close = 1e-6 if double else 1e-4
    expect(fake, golden.tensor("out/fake_B"), absolute=close)
    expect(again, golden.tensor("out/idt_B"), absolute=close)

    terms = discriminator_terms(
        networks["D"], fake.detach(), real["B"], mode="lsgan", draws=SeededDraws(0, 0)
    )
    losses = {"D_fake": 2 * terms["fake"], "D_real": 2 * terms["real"]}
    losses["D"] = terms["fake"] + terms["real"]
    losses["G_GAN"] = options["lambda_GAN"] * generator_loss("lsgan", networks["D"](fake))
    queries = networks["G"].encode(outputs, options["taps"])
    gradients = {"": None, "_released": None}
    for ending in gradients:
        for number, (domain, name) in enumerate((("A", "NCE"), ("B", "NCE_Y"))):
            half = slice(number * len(fake), (number + 1) * len(fake))
            losses[name] = whole_contrast(
                golden,
                domain,
                networks["F"],
                [feature[half] for feature in queries],
                [feature[half] for feature in sources],
                released=ending == "_released",
            )
        losses["G"] = losses["G_GAN"] + (losses["NCE"] + losses["NCE_Y"]) / 2
        learning = [p for x in "GF" for p in networks[x].parameters()]
        found = torch.autograd.grad(losses["G"], learning, retain_graph=True)
        names = [(x, name) for x in "GF" for name, _ in networks[x].named_parameters()]
        gradients[ending] = dict(zip(names, found, strict=True))
    for name, loss in losses.items():
        torch.testing.assert_close(
            loss.detach().double(),
            golden.tensor(f"out/loss_{name}"),
            rtol=0 if double else 1e-4,
            atol=1e-9 if double else 0,
        )
    weights = list(networks["D"].named_parameters())
    found = torch.autograd.grad(losses["D"], [p for _, p in weights])
    gradients[""] |= {("D", name): g for (name, _), g in zip(weights, found, strict=True)}
    for network, endings in (("G", gradients), ("D", [""]), ("F", [""])):
        names = [own_name(str(name)) for name in golden[f"out/names_{network}"]]
        for ending in endings:
            norms = torch.stack([gradients[ending][network, name].norm() for name in names])
            expected = golden.tensor(f"out/gradnorm_{network}{ending}")
            assert_close_to_maximum(norms, expected, relative=1e-9 if double else 2e-3)
            stored = golden.tensors(f"out/grad_net{network}{ending}")
            assert network != "G" or set(stored) == set(options["whole"])
            for name, expected in stored.items():
                gradient = gradients[ending][network, own_name(name)]
                assert_close_to_maximum(gradient, expected, relative=1e-6 if double else 2e-3)


def whole_contrast(golden, domain, head, queries, sources, *, released):
    """PatchNCE of a pair, routed at the positions whose places the file expects."""
    options = golden.options
    losses = []
    for tap, (query, source) in enumerate(zip(queries, sources, strict=True)):
        if f"ids_{domain}_{tap}" in golden:
            places_K = golden.tensor(f"ids_{domain}_{tap}")
            pair = [gather_places(x, places_K) for x in (query, source)]
        else:
            expected = golden.tensor(f"out/ids_{domain}_{tap}")
            routing = route_by_attention(
                source.detach(), options["num_patches"], **settings_of(options)
            )
            if is_sure(options, source.dtype):
                assert torch.equal(routing.places_BK.sort().values, expected.sort().values)
            routing = at(source, expected, options, released_gradient=released)
            pair = [routing.rows(x) for x in (query, source)]
        losses.append(contrast(pair, head.embedder(tap), options).mean())
    return options["lambda_NCE"] * torch.stack(losses).mean()
