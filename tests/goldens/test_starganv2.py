"""StarGAN v2 and its semantic-relation form: networks, losses and iterations of the released code.

The files tell all sizes by their weights. All runs are in float64.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from goldens.fixtures import Golden, golden_files
from patchkin.data.domains import DomainBatch
from patchkin.losses import decoupled, hard_negative_weights, info_nce, relation_consistency
from patchkin.losses.style import fading_weight
from patchkin.method import Progress
from patchkin.methods.starganv2 import StarGanV2, StarGanV2Config
from patchkin.methods.starganv2_relation import StarGanV2Relation, StarGanV2RelationConfig
from patchkin.networks import ProjectionHead, gather_places
from patchkin.networks.starganv2 import (
    SIZES_OF,
    DomainDiscriminator,
    MappingNetwork,
    StyleEncoder,
    StyleGenerator,
    StyleNetworksConfig,
    StyleTask,
    joined_sizes,
    read_released,
)
from patchkin.schedules import AdamConfig
from patchkin.training import Updater
from patchkin.training.averaging import WeightAverage
from support import FixedDraws, cpu_fabric

SCALAR = {"rtol": 1e-6, "atol": 1e-12}
TINY = {
    "networks": StyleNetworksConfig(image_size=16, base_width=1, max_width=1, hidden_width=1),
    "layers": (0, 1),
}
"""Of a method whose networks do not matter."""
EMA_DECAY = 0.999
"""As released; the files do not repeat it."""
ARRAY = {"rtol": 1e-5, "atol": 1e-6}
NETWORKS = {"G": "generator", "F": "mapping_network", "E": "style_encoder", "D": "discriminator"}
"""The files' letter, which is ours -> the released checkpoints' name."""


def images(golden, name):
    return golden.tensor(name).double() / 127.5 - 1


def own_name(key):
    """The patch sampler's perceptrons are ours under another name."""
    return f"mlps.{key.removeprefix('mlp.')}" if key.startswith("mlp.") else key


def sizes_of(golden):
    """As an import finds them."""
    state = {name: golden.state_dict(f"net{letter}") for letter, name in NETWORKS.items()}
    return read_released(state).config


def networks_of(golden):
    """The networks with their weights, by letter; a file may bound G's widths by another number."""
    sizes = sizes_of(golden)
    weights = golden.state_dict("netG")
    last = max(int(key.split(".")[1]) for key in weights if key.startswith("encode."))
    widest = weights[f"encode.{last}.conv1.weight"].shape[0]
    built = {
        "G": StyleGenerator(replace(sizes, max_width=widest)),
        "F": MappingNetwork(sizes),
        "E": StyleEncoder(sizes),
        "D": DomainDiscriminator(sizes),
    }
    for letter, network in built.items():
        network.double().load_state_dict(golden.state_dict(f"net{letter}"))
    return built


@pytest.mark.parametrize("path", golden_files("stargan_v2_nets"))
def test_networks(path):
    golden = Golden(path)
    networks = networks_of(golden)
    G, F, E, D = (networks[letter] for letter in "GFED")
    x_BCHW, source_B, target_B = images(golden, "x_u8"), *map(golden.tensor, ("y_src", "y_trg"))

    statistics = []

    def note(module, inputs, map_BCHW):
        size = map_BCHW.shape[1:3]
        statistics.append([*size, map_BCHW.mean(), map_BCHW.std(), map_BCHW.abs().max()])

    with torch.no_grad():
        style_BS, encoded_BS = F(golden.tensor("z"), target_B), E(x_BCHW, source_B)
        for block in (G.from_rgb, *G.encode, *G.decode):
            block.register_forward_hook(note)
        fake_BCHW = G(x_BCHW, style_BS)
        actual = {
            "s_map": style_BS,
            "s_map_all": F.all_domains(golden.tensor("z")),
            "s_enc": encoded_BS,
            "s_enc_all": E.all_domains(x_BCHW),
            "d_src": D(x_BCHW, source_B),
            "d_all": D.all_domains(x_BCHW),
            "d_fake": D(fake_BCHW, target_B),
            "x_fake_map_s": fake_BCHW[..., 1::4, 2::4],
            "g_stats": torch.tensor(statistics, dtype=torch.float64),
        }
        dressed_BCHW = G(x_BCHW, encoded_BS)
        means, deviations = dressed_BCHW.mean(dim=(1, 2, 3)), dressed_BCHW.std(dim=(1, 2, 3))
        actual["x_fake_enc_stats"] = torch.stack([means, deviations])
    assert set(golden.arrays("out")) == set(actual)
    for name, value in actual.items():
        stored = golden[f"out/{name}"]
        close = ARRAY if stored.dtype == "float32" else SCALAR
        torch.testing.assert_close(value, golden.tensor(f"out/{name}"), **close, msg=name)


def assert_losses(golden, prefix, terms, total):
    """Unweighted parts and the weighted total."""
    for name, value in terms.items():
        expected = golden.tensor(f"{prefix}/{name}")
        torch.testing.assert_close(value.detach(), expected, **SCALAR, msg=f"{prefix}/{name}")
    torch.testing.assert_close(total.detach(), golden.tensor(f"{prefix}/total"), **SCALAR)


def assert_gradient_norms(golden, prefix, total, networks):
    """Per weight, in the file's order; 0 where there is none."""
    stored = golden.children(f"{prefix}/gradnorm")
    assert stored
    for name in stored:
        parameters = dict(networks[name.removeprefix("net")].named_parameters())
        keys = [own_name(key) for key in golden[f"keys/{name}"].tolist()]
        assert set(keys) == set(parameters)
        gradients = torch.autograd.grad(
            total, [parameters[key] for key in keys], retain_graph=True, allow_unused=True
        )
        norms = torch.stack(
            [total.new_zeros(()) if g is None else g.norm() for g in gradients]
        ).detach()
        expected = golden.tensor(f"{prefix}/gradnorm/{name}")
        floor = 1e-9 * max(1.0, float(expected.max()))  # biases before a norm: rounding noise
        torch.testing.assert_close(norms, expected, rtol=1e-6, atol=floor, msg=f"{prefix} {name}")


def plain_method(golden):
    options = golden.options
    networks = networks_of(golden)
    adam = AdamConfig(
        learning_rate=options["lr"],
        beta1=options["beta1"],
        beta2=options["beta2"],
        weight_decay=options["weight_decay"],
    )
    method = StarGanV2(
        StarGanV2Config(
            networks=sizes_of(golden),
            adam=adam,
            mapping_adam=replace(adam, learning_rate=options["f_lr"]),
            penalty_weight=options["lambda_reg"],
            style_weight=options["lambda_sty"],
            diversity_weight=options["lambda_ds"],
            diversity_steps=options["ds_iter"],
            cycle_weight=options["lambda_cyc"],
        )
    ).double()
    for letter, network in networks.items():
        setattr(method, letter, network)
    return method


def batch_of(golden):
    return DomainBatch(
        x_BCHW=images(golden, "x_real_u8"),
        domain_B=golden.tensor("y_org"),
        reference_BCHW=images(golden, "x_ref_u8"),
        second_reference_BCHW=images(golden, "x_ref2_u8"),
        target_B=golden.tensor("y_trg"),
    )


def tasks_of(golden):
    """What each pass works on, by the file's name for it."""
    batch = batch_of(golden)
    domains = (batch.x_BCHW, batch.domain_B, batch.target_B)
    return {
        "latent": StyleTask(*domains, golden.tensor("z"), golden.tensor("z2")),
        "ref": StyleTask(*domains, batch.reference_BCHW, batch.second_reference_BCHW),
    }


def unweighted(golden, terms):
    """Ours -> the file's names and parts without their weights."""
    options = golden.options
    return {
        "adv": terms["adversarial"],
        "sty": terms["style"] / options["lambda_sty"],
        "ds": -terms["diversity"] / options["lambda_ds"],
        "cyc": terms["cycle"] / options["lambda_cyc"],
    }


@pytest.mark.parametrize("path", golden_files("stargan_v2_step"))
def test_losses_and_gradients_of_the_four_passes(path):
    golden = Golden(path)
    method = plain_method(golden)
    networks = {letter: method.get_submodule(letter) for letter in "GFED"}
    for kind, task in tasks_of(golden).items():
        terms = method._discriminator_terms(task, kind)
        total = sum(terms.values())
        parts = {
            "real": terms[f"{kind}_real"],
            "fake": terms[f"{kind}_fake"],
            "reg": terms[f"{kind}_penalty"] / golden.options["lambda_reg"],
        }
        assert_losses(golden, f"out/d_{kind}", parts, total)
        assert_gradient_norms(golden, f"out/d_{kind}", total, networks)

        terms = method._generator_terms(task, golden.options["lambda_ds"])
        total = sum(terms.values())
        assert_losses(golden, f"out/g_{kind}", unweighted(golden, terms), total)
        assert_gradient_norms(golden, f"out/g_{kind}", total, networks)


@pytest.mark.parametrize("path", golden_files("stargan_v2_step"))
@pytest.mark.parametrize("micro_batch", [None, 2])
def test_iterations_with_averaged_networks(path, micro_batch):
    golden = Golden(path)
    options = golden.options
    method = plain_method(golden)
    method.config = replace(method.config, micro_batch=micro_batch)
    update, average = Updater(method, cpu_fabric()), WeightAverage(method)
    batch, latents = batch_of(golden), [golden.tensor("z"), golden.tensor("z2")]
    for step in range(options["n_iter"]):
        update.begin_step(1.0)
        draws = FixedDraws(normals=latents)
        method.train_step(batch, update, Progress.of_step(step, total_steps=10**6, draws=draws))
        average.update(EMA_DECAY)
        weight = fading_weight(options["lambda_ds"], step, options["ds_iter"])
        row = iteration_row(golden, update.terms, weight)
        torch.testing.assert_close(row, golden.tensor("out/iter/losses")[step], **SCALAR)
        left = fading_weight(options["lambda_ds"], step + 1, options["ds_iter"])
        assert left == pytest.approx(golden["out/iter/lambda_ds"][step], rel=1e-9)
    latent, target_B = latents[0], batch.target_B
    with torch.no_grad():
        x_fake = method.G(batch.x_BCHW, method.F(latent, target_B))
        found = {"x_fake": x_fake, "d_fake": method.D(x_fake, target_B)}
        with average.in_place():
            found["ema_s"] = method.F(latent, target_B)
            found["ema_e"] = method.E(batch.reference_BCHW, target_B)
            found["ema_x_fake"] = method.G(batch.x_BCHW, found["ema_s"])
    assert set(golden.arrays("out/iter")) == {*found, "losses", "lambda_ds"}
    for name, value in found.items():
        close = ARRAY if golden[f"out/iter/{name}"].dtype == "float32" else SCALAR
        expected = golden.tensor(f"out/iter/{name}")
        torch.testing.assert_close(value, expected, **close, msg=name)


def iteration_row(golden, logged, diversity_weight):
    """The 18 columns of a row of losses, from what an iteration logs."""
    options, row = golden.options, []
    for kind in ("latent", "reference"):
        real, fake, penalty = (logged[f"D.{kind}_{part}"] for part in ("real", "fake", "penalty"))
        row += [real + fake + penalty, real, fake, penalty / options["lambda_reg"]]
    for updated in ("G+F+E", "G"):
        names = ("adversarial", "style", "diversity", "cycle")
        terms = {name: logged[f"{updated}.{name}"] for name in names}
        fading = {**options, "lambda_ds": diversity_weight}
        weights = [fading[name] for name in ("lambda_sty", "lambda_ds", "lambda_cyc")]
        row += [sum(terms.values()), terms["adversarial"], terms["style"] / weights[0]]
        row += [-terms["diversity"] / weights[1], terms["cycle"] / weights[2]]
    return torch.stack(row)


# The semantic-relation form


def head_from(weights):
    """The patch sampler; widths from its shapes."""
    firsts = [weights[f"mlp.{tap}.0.weight"] for tap in range(count_taps(weights))]
    head = ProjectionHead([first.shape[1] for first in firsts], width=firsts[0].shape[0]).double()
    head.load_state_dict({own_name(key): weight for key, weight in weights.items()})
    return head


def count_taps(weights):
    return len({key.split(".")[1] for key in weights})


def relation_method(options, networks, sizes, *, num_images, direction="released"):
    """The released form: every block whose map is as high as at the first sampled one."""
    assert options["use_hard"]
    assert options["use_curriculum"]
    layers = tuple(range(1, 1 + len(networks["P"].mlps)))
    nce = options["lambda_nce"] > 0
    method = StarGanV2Relation(
        StarGanV2RelationConfig(
            networks=sizes,
            style_weight=options["lambda_sty"],
            diversity_weight=options["lambda_ds"],
            cycle_weight=options["lambda_cyc"],
            cycle="released",
            direction=direction,
            layers=layers,
            head_width=options["nc"],
            num_patches=options["n_patch"],
            relation_weight=options["lambda_src"] * num_images,  # the release sums over images
            contrast="nce" if nce else "dce",
            contrast_weight=options["lambda_nce"] if nce else options["lambda_dce"],
            gamma_divisor_start=options["gamma_start"],
            gamma_divisor_end=options["gamma_end"],
        )
    ).double()
    for letter, network in networks.items():
        setattr(method, letter, network)
    return method


def shared_by(method, options, places):
    progress = Progress.of_step(
        options["iters"], total_steps=options["total_iters"], draws=FixedDraws(places=places)
    )
    shared = method._pass(progress)
    shared.diversity_weight = options["lambda_ds"]  # the files do not let it fade
    return shared


def logged_contrast(shared, terms, num_images):
    """The InfoNCE that the release logs where it differentiates the decoupled form."""
    logs = isinstance(shared.as_nce, torch.Tensor)
    return shared.as_nce / num_images if logs else terms["contrast"]


@pytest.mark.parametrize("path", golden_files("stargan_v2_hneg"))
def test_losses_of_the_semantic_relation_form(path):
    golden = Golden(path)
    options, networks = golden.options, hneg_networks(golden)
    places = list(golden.tensor("patch_ids"))
    method = relation_method(options, networks, sizes_of(golden), num_images=options["batch_size"])
    for kind, task in tasks_of(golden).items():
        shared = shared_by(method, options, places)
        terms = method._generator_terms(task, shared)
        patch = logged_contrast(shared, terms, len(task))
        parts = {**unweighted(golden, terms), "src": terms["relation"], "patch": patch}
        total = sum(terms.values())
        assert_losses(golden, f"out/g_{kind}", parts, total - terms["contrast"] + patch)
        assert_gradient_norms(golden, f"out/g_{kind}", total, networks)


@pytest.mark.parametrize("path", golden_files("stargan_v2_hneg"))
@pytest.mark.parametrize(("direction", "name"), [("released", "as_released"), ("paper", "swapped")])
def test_the_semantic_term_alone_in_both_directions(path, direction, name):
    """The decoder and F learn from it as the paper has it, and do not as released."""
    golden = Golden(path)
    options, networks = golden.options, hneg_networks(golden)
    places = list(golden.tensor("patch_ids"))
    method = relation_method(
        options,
        networks,
        sizes_of(golden),
        num_images=options["batch_size"],
        direction=direction,
    )
    task = tasks_of(golden)["latent"]
    style_BS = method.F(task.source, task.target_B)
    maps = method.G.encodings(task.x_BCHW)
    fake_BCHW = method.G.decoded(maps[-1], style_BS)
    fake_maps = method.G.encodings(fake_BCHW)
    shared = shared_by(method, options, places)
    terms = method._relation_terms(maps, fake_maps, shared)
    check_embeddings(golden, method, maps=maps, fake_maps=fake_maps, fake_BCHW=fake_BCHW, name=name)
    patch = logged_contrast(shared, terms, len(task))
    torch.testing.assert_close(
        (terms["relation"] + patch).detach(), golden.tensor(f"out/{name}/total"), **SCALAR
    )
    total = sum(terms.values())
    assert_gradient_norms(golden, f"out/{name}", total, networks)

    def learns(network):
        gradients = torch.autograd.grad(
            total, list(network.parameters()), retain_graph=True, allow_unused=True
        )
        return any(g is not None and bool(g.abs().max() > 0) for g in gradients)

    behind = (method.G.decode, method.G.to_rgb, method.F)
    assert {learns(network) for network in behind} == {direction == "paper"}
    assert learns(method.G.encode)


def hneg_networks(golden):
    return networks_of(golden) | {"P": head_from(golden.state_dict("netP"))}


def check_embeddings(golden, method, *, maps, fake_maps, fake_BCHW, name):
    """Features at the places, embeddings, and the losses of each layer."""
    options, config = golden.options, method.config
    places = list(golden.tensor("patch_ids"))
    with torch.no_grad():
        real, fake = (
            method.P([side[layer] for layer in config.layers], places) for side in (maps, fake_maps)
        )
        queries, keys = (fake, real) if name == "swapped" else (real, fake)
        gamma = method._pass(
            Progress.of_step(options["iters"], total_steps=options["total_iters"])
        ).gamma_divisor
        found = {
            "emb_real": torch.stack(real).flatten(1, 2),
            "emb_fake": torch.stack(fake).flatten(1, 2),
            "feat_real_sampled": torch.stack(
                [
                    gather_places(maps[layer], places_K).mT
                    for layer, places_K in zip(config.layers, places, strict=True)
                ]
            ),
            "x_fake_s": fake_BCHW[..., 1::4, 2::4],
            "x_fake_mean_std": torch.stack(
                [fake_BCHW.mean(dim=(1, 2, 3)), fake_BCHW.std(dim=(1, 2, 3))]
            ),
        }
        relations, contrasts = [], []
        for query_BKC, key_BKC in zip(queries, keys, strict=True):
            relations.append(config.relation_weight * relation_consistency(query_BKC, key_BKC))
            contrast = info_nce(
                query_BKC,
                key_BKC,
                temperature=config.temperature,
                weights_BKK=hard_negative_weights(key_BKC, gamma),
            )
            contrasts.append(config.contrast_weight * contrast.mean())
        found[f"{name}/src_per_layer"] = torch.stack(relations)
        found[f"{name}/patch_per_layer"] = torch.stack(contrasts)
    for key, value in found.items():
        close = ARRAY if golden[f"out/{key}"].dtype == "float32" else SCALAR
        torch.testing.assert_close(value, golden.tensor(f"out/{key}"), **close, msg=key)
    weights_BKK = hard_negative_weights(keys[0], gamma)
    expected_BKK = golden.tensor(f"out/{name}/weight0")
    diagonal = torch.eye(weights_BKK.shape[-1], dtype=torch.bool)
    torch.testing.assert_close(
        weights_BKK.masked_fill(diagonal, 0), expected_BKK.masked_fill(diagonal, 0), **ARRAY
    )


@pytest.mark.parametrize("path", golden_files("semrel_multimodal_g_loss"))
def test_the_whole_loss_of_the_reference_pass_and_its_gradients(path):
    """Tighter than the other files: 1e-8 for scalars, 2e-6 for arrays."""
    golden = Golden(path)
    options = golden.options
    networks, sizes = reference_networks(golden)
    method = relation_method(options, networks, sizes, num_images=options["batch_size"])
    x_BCHW, *references = (enlarged(golden, options, name) for name in ("real", "ref", "ref2"))
    task = StyleTask(x_BCHW, golden.tensor("y_org"), golden.tensor("y_trg"), *references)
    places = list(golden.tensor("patch_ids"))

    shared = shared_by(method, options, places)
    images = []
    hook = method.G.to_rgb.register_forward_hook(lambda _, inputs, made: images.append(made))
    terms = method._generator_terms(task, shared)
    hook.remove()
    patch = logged_contrast(shared, terms, len(task))
    total = sum(terms.values())
    found = {**unweighted(golden, terms), "src": terms["relation"], "patch": patch}
    found["total"] = total - terms["contrast"] + patch
    for name, value in found.items():
        expected = golden.tensor(f"loss_{name}")
        torch.testing.assert_close(value.detach(), expected, rtol=1e-8, atol=0, msg=name)
    assert_stored_gradients(golden, "grad_total", total, networks)
    semantic = terms["relation"] + terms["contrast"]
    assert_stored_gradients(golden, "grad_semrel", semantic, networks)
    fake_BCHW = images[0]
    (gradient,) = torch.autograd.grad(semantic, fake_BCHW, allow_unused=True)
    assert (gradient is None) == bool(golden["fake_grad_is_none"])
    layers = method.config.layers
    with torch.no_grad():
        for name, side_BCHW in (("pool_real", x_BCHW), ("pool_fake", fake_BCHW)):
            maps = method.G.encodings(side_BCHW)
            rows = method.P([maps[layer] for layer in layers], places)
            expected = golden.tensor(name)
            pool = torch.stack(rows).flatten(1, 2)
            torch.testing.assert_close(pool, expected, rtol=0, atol=2e-6, msg=name)


def assert_stored_gradients(golden, prefix, total, networks):
    """Of every weight in the file; weights that are not in it have none."""
    for letter, name in {**NETWORKS, "P": "patch_sample"}.items():
        stored = golden.tensors(f"{prefix}/net_{name}")
        parameters = dict(networks[letter].named_parameters()) if stored else {}
        keys = {own_name(key): key for key in stored}
        gradients = (
            torch.autograd.grad(
                total, list(parameters.values()), retain_graph=True, allow_unused=True
            )
            if parameters
            else ()
        )
        for key, gradient in zip(parameters, gradients, strict=True):
            if key in keys:
                torch.testing.assert_close(gradient, stored[keys[key]], rtol=0, atol=2e-6, msg=key)
            else:
                assert gradient is None or float(gradient.abs().max()) == 0, key


def enlarged(golden, options, name):
    """Images by the repetition of their pixels."""
    small = golden.tensor(f"x_{name}_32")
    times = options["img_size"] // small.shape[-1]
    return small.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)


def reference_networks(golden):
    """G, E, D and P of a file that has no mapping network, and a mapping network of any size."""
    state = {
        name: golden.state_dict(f"net_{name}")
        for name in ("generator", "style_encoder", "discriminator")
    }
    sizes = joined_sizes(
        {
            letter: SIZES_OF[letter](
                {key: tuple(weight.shape) for key, weight in state[NETWORKS[letter]].items()}
            )
            for letter in "GED"
        }
    )
    built = {
        "G": StyleGenerator(sizes),
        "E": StyleEncoder(sizes),
        "D": DomainDiscriminator(sizes),
    }
    for letter, network in built.items():
        network.double().load_state_dict(state[NETWORKS[letter]])
    head = head_from(golden.state_dict("net_patch_sample"))
    return {**built, "F": MappingNetwork(sizes).double(), "P": head}, sizes


@pytest.mark.parametrize("path", golden_files("semrel_multimodal_loss"))
def test_the_losses_of_one_layer_over_the_curriculum(path):
    """The release sums SRC over images; the logged contrast is the InfoNCE."""
    golden = Golden(path)
    options = golden.options
    num_images = options["batch_size"]
    key_BKC = golden.tensor("feat_k").unflatten(0, (num_images, -1))
    for step in options["iters"]:
        settings = {
            "gamma_divisor_start": options["gamma_start"],
            "gamma_divisor_end": options["gamma_end"],
        }
        method = StarGanV2Relation(StarGanV2RelationConfig(**TINY, **settings))
        at = Progress.of_step(step, total_steps=options["total_iters"])
        gamma = method._pass(at).gamma_divisor
        prefix = f"iter{step}"
        assert gamma == pytest.approx(golden.number(f"{prefix}/gamma"), rel=1e-8)

        query = golden.tensor("feat_q").requires_grad_()
        query_BKC = query.unflatten(0, (num_images, -1))
        weights_BKK = hard_negative_weights(key_BKC, gamma)
        contrast = {"temperature": method.config.temperature, "weights_BKK": weights_BKK}
        relation = options["lambda_src"] * num_images * relation_consistency(query_BKC, key_BKC)
        as_nce = options["lambda_dce"] * info_nce(query_BKC, key_BKC, **contrast)
        dce = options["lambda_dce"] * decoupled(query_BKC, key_BKC, **contrast).mean()
        scalar, array = {"rtol": 1e-8, "atol": 0}, {"rtol": 0, "atol": 2e-6}
        expected = {name: golden.tensor(f"{prefix}/{name}") for name in golden.arrays(prefix)}
        expected.pop("gamma")
        diagonal = torch.eye(weights_BKK.shape[-1], dtype=torch.bool)  # never used
        found = {
            "src_loss_times_lambda": relation,
            "dce_mean": as_nce.mean(),
            "dce_vec_times_lambda": as_nce.flatten(),
            "weight": weights_BKK.masked_fill(diagonal, 0),
            "src_grad_feat_q": torch.autograd.grad(relation, query)[0],
            "dce_grad_feat_q": torch.autograd.grad(dce, query)[0],
        }
        expected["weight"] = expected["weight"].masked_fill(diagonal, 0)
        assert set(expected) == set(found)
        for name, value in found.items():
            close = array if value.ndim else scalar
            torch.testing.assert_close(value, expected[name], **close, msg=name)
