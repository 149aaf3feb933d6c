"""PatchGCL: one graph with one pooling, the contrast over taps and levels, and a whole step."""

from __future__ import annotations

import re

import pytest
import torch

from goldens.fixtures import (
    Golden,
    assert_close_to_maximum,
    discriminator_from,
    generator_from,
    golden_files,
)
from patchkin.data.datasets import UnpairedBatch
from patchkin.losses.patch_graph import (
    patch_adjacency,
    propagation,
    two_step_adjacency,
    two_way_contrast,
)
from patchkin.method import Progress
from patchkin.methods.patchgcl import PatchGcl, PatchGclConfig
from patchkin.networks import PatchGANConfig
from patchkin.networks.patch_graph import PatchGraph, PatchGraphs
from patchkin.training import Updater
from support import FixedDraws, cpu_fabric

BOTH = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
TEMPERATURE = 0.07
"""Fixed in the released code."""


def expect_loss(actual, expected, dtype):
    actual = actual.detach().double().reshape(expected.shape)
    if dtype is torch.float64:
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)
    else:
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-9)


def expect(actual, expected, dtype):
    actual = actual.detach().double().reshape(expected.shape)
    close = 1e-9 if dtype is torch.float64 else 1e-4
    torch.testing.assert_close(actual, expected.double(), rtol=0, atol=close)


def expect_gradient(actual, expected, dtype, *, of_weights):
    double = dtype is torch.float64
    if expected.abs().max() < 1e-9:  # a score that decides nothing, a bias before a norm
        assert actual is None or actual.abs().max() < (1e-9 if double else 1e-5)
        return
    relative = 1e-6 if double else 1e-3 if of_weights else 1e-4
    assert_close_to_maximum(actual, expected, relative=relative)


def own_name(reference_name):
    """`gnn_pools_1.0.conv1.lin.bias` is `graphs.1.pooled_convolutions.0.linear.bias`."""
    changes = (
        (r"^embed_(\d+)\.linear\.", r"embeddings.\1."),
        (r"^gnn_(\d+)\.conv1\.lin\.", r"graphs.\1.convolution.linear."),
        (r"^pools_(\d+)\.(\d+)\.proj\.", r"graphs.\1.poolings.\2.linear."),
        (r"^gnn_pools_(\d+)\.(\d+)\.conv1\.lin\.", r"graphs.\1.pooled_convolutions.\2.linear."),
    )
    for pattern, name in changes:
        reference_name = re.sub(pattern, name, reference_name)
    return reference_name


def graphs_with(weights, case):
    """Graphs with these weights; channels from their shapes."""
    taps = range(len({name.split(".")[0] for name in weights if name.startswith("embed_")}))
    graphs = PatchGraphs(
        [weights[f"embed_{tap}.linear.weight"].shape[1] for tap in taps],
        case["dim"],
        hops=case["hops"],
        poolings=case["poolings"],
        threshold=case["threshold"],
        down_scale=case["down_scale"],
    )
    graphs.to(next(iter(weights.values())).dtype)
    graphs.load_state_dict({own_name(name): weight for name, weight in weights.items()})
    return graphs


@BOTH
@pytest.mark.parametrize("path", golden_files("patchgcl_graph"))
def test_one_graph(path, dtype):
    golden = Golden(path)
    assert golden.options["cases"]
    for name, case in golden.options["cases"].items():
        check_graph(golden, name, case, dtype)


PARTS = {
    "gnn/conv1.lin": "convolution.linear",
    "pool/proj": "poolings.0.linear",
    "gnn_pool/conv1.lin": "pooled_convolutions.0.linear",
}


def check_graph(golden, name, case, dtype):
    source = golden.tensor(f"{name}/source", dtype)[None]
    target = golden.tensor(f"{name}/target", dtype)[None].requires_grad_()
    assert list(source.shape) == [1, case["places"], case["dim"]]
    graph = PatchGraph(
        case["dim"],
        hops=case["hops"],
        poolings=1,
        threshold=case["threshold"],
        down_scale=1,  # how many are kept is the file's
    ).to(dtype)
    graph.load_state_dict(
        {
            f"{ours}.{kind}": golden.tensor(f"{name}/{theirs}.{kind}", dtype)
            for theirs, ours in PARTS.items()
            for kind in ("weight", "bias")
        }
    )
    out = f"{name}/out"
    adjacency = patch_adjacency(source, case["threshold"])
    assert torch.equal(adjacency[0].long(), golden.tensor(f"{out}/adjacency"))
    first, _ = graph(source, target)
    assert torch.equal(first.adjacency_BKK, adjacency)
    expect(first.source_BKC, golden.tensor(f"{out}/nodes_source"), dtype)
    expect(first.target_BKC, golden.tensor(f"{out}/nodes_target"), dtype)

    (pooling,), (convolution,) = graph.poolings, graph.pooled_convolutions
    expect(pooling.scores(first.source_BKC), golden.tensor(f"{out}/scores"), dtype)
    ids = golden.tensor(f"{out}/ids")
    pooled = pooling(*first, kept=case["kept"])
    expect(pooled[0], golden.tensor(f"{out}/pooled_source"), dtype)
    expect(pooled[1], golden.tensor(f"{out}/pooled_target"), dtype)
    stored = golden.tensor(f"{out}/pooled_adjacency")
    assert torch.equal(pooled[2][0].long(), stored)
    assert torch.equal(two_step_adjacency(adjacency)[0][ids][:, ids].long(), stored)
    carried = propagation(pooled[2], dtype)
    nodes_source, nodes_target = (convolution(rows, carried) for rows in pooled[:2])
    expect(nodes_source, golden.tensor(f"{out}/pooled_nodes_source"), dtype)
    expect(nodes_target, golden.tensor(f"{out}/pooled_nodes_target"), dtype)

    losses = [
        two_way_contrast(*nodes, temperature=TEMPERATURE)
        for nodes in ((first.source_BKC, first.target_BKC), (nodes_source, nodes_target))
    ]
    total = losses[0] + case["ratio"] * losses[1]
    for loss, stored in zip((*losses, total), ("loss", "pooled_loss", "total"), strict=True):
        expect_loss(loss, golden.tensor(f"{out}/{stored}"), dtype)
    assert not first.source_BKC.requires_grad
    total.sum().backward()
    gradient = golden.tensor(f"{out}/grad_target")
    expect_gradient(target.grad[0], gradient, dtype, of_weights=False)
    parameters = dict(graph.named_parameters())
    for theirs, ours in PARTS.items():
        for kind in ("weight", "bias"):
            gradient = golden.tensor(f"{out}/grad_{theirs}.{kind}")
            actual = parameters.pop(f"{ours}.{kind}").grad
            expect_gradient(actual, gradient, dtype, of_weights=True)
    assert not parameters


@BOTH
@pytest.mark.parametrize("path", golden_files("patchgcl_loss"))
def test_contrast_over_taps_and_levels(path, dtype):
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
    assert [list(source.shape[1:]) for source in sources] == case["taps"]
    assert len(sources[0]) == case["batch"]
    places = [golden.tensor(f"{name}/ids_{tap}") for tap in taps]
    graphs = graphs_with(golden.state_dict(f"{name}/netF", dtype), case)
    with torch.device("meta"):  # for what the method makes of the levels
        method = PatchGcl(
            PatchGclConfig(
                features="random",
                feature_width=2,
                poolings=case["poolings"],
                pooling_weights=tuple(case["ratios"]),
            )
        )
    levels = graphs(sources, targets, places)
    losses = [
        [
            two_way_contrast(level.source_BKC, level.target_BKC, temperature=TEMPERATURE).mean()
            for level in tap_levels
        ]
        for tap_levels in levels
    ]
    stacked = torch.stack([torch.stack(row) for row in losses])
    expect_loss(stacked, golden.tensor(f"{name}/out/losses"), dtype)
    loss = torch.stack([method._graph_loss(tap_levels) for tap_levels in levels]).mean()
    expect_loss(loss, golden.tensor(f"{name}/out/loss"), dtype)
    loss.backward()
    for tap in taps:
        expected = golden.tensor(f"{name}/out/grad_target_{tap}")
        expect_gradient(targets[tap].grad, expected, dtype, of_weights=False)
        assert sources[tap].grad is None
    parameters = dict(graphs.named_parameters())
    for key, expected in golden.tensors(f"{name}/out/grad_netF").items():
        expect_gradient(parameters.pop(own_name(key)).grad, expected, dtype, of_weights=True)
    assert not parameters


class StandingStill(Updater):
    """Gradients without steps."""

    def _step(self, optimizers, parameters):
        pass


@BOTH
@pytest.mark.parametrize("path", golden_files("patchgcl_generator"))
def test_a_whole_step(path, dtype):
    golden, double = Golden(path), dtype is torch.float64
    options = golden.options
    method = method_from(golden, dtype)
    real = UnpairedBatch(*(golden.tensor(f"real_{domain}", dtype) for domain in "AB"))
    with torch.no_grad():
        for images, stored in ((real.a_BCHW, "fake_B"), (real.b_BCHW, "idt_B")):
            expected = golden.tensor(f"out/{stored}").double()
            actual = method.G(images).double()
            torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6 if double else 1e-4)
        for tap, feature in enumerate(method.vgg(real.a_BCHW)):
            expected = golden.tensor(f"out/tap_{tap}_mean")
            expect(feature.mean(dim=(0, 2, 3)), expected, dtype)
    taps = range(len(options["layers"]))
    draws = FixedDraws([golden.tensor(f"ids_{domain}_{tap}") for domain in "AB" for tap in taps])
    update = StandingStill(method, cpu_fabric())
    update.begin_step(1.0)
    method.train_step(real, update, Progress.of_step(0, total_steps=1, draws=draws))

    terms, share = update.terms, 2 / options["lambda_GNN"]
    losses = {
        "D_fake": 2 * terms["D.fake"],
        "D_real": 2 * terms["D.real"],
        "D": terms["D.fake"] + terms["D.real"],
        "G_GAN": terms["G+F.adversarial"],
        "GNN": share * terms["G+F.graph"],
        "GNN_Y": share * terms["G+F.identity_graph"],
        "G": sum(value for name, value in terms.items() if name.startswith("G+F.")),
    }
    for name, value in losses.items():
        expect_loss(value, golden.tensor(f"out/loss_{name}"), dtype)
    for network in ("G", "D", "F"):
        parameters = dict(method.get_submodule(network).named_parameters())
        names = [str(name) for name in golden[f"out/names_{network}"]]
        assert {own_name(name) for name in names} == set(parameters)
        norms = torch.stack([parameters[own_name(name)].grad.norm() for name in names])
        expected = golden.tensor(f"out/gradnorm_{network}")
        assert_close_to_maximum(norms, expected, relative=1e-9 if double else 1e-3)
        stored = golden.tensors(f"out/grad_net{network}")
        assert network != "G" or set(stored) == set(options["whole"])
        for name, expected in stored.items():
            actual = parameters[own_name(name)].grad
            expect_gradient(actual, expected, dtype, of_weights=True)


def method_from(golden, dtype):
    """The method with options, sizes and weights of the file, VGG16's too."""
    options = golden.options
    generator = generator_from(golden.state_dict("netG", dtype))
    weights = golden.state_dict("netF", dtype)
    method = PatchGcl(
        PatchGclConfig(
            generator=generator.config,
            discriminator=PatchGANConfig(ndf=options["ndf"]),
            adversarial_weight=options["lambda_GAN"],
            graph_weight=options["lambda_GNN"],
            features="random",
            feature_width=options["vgg_width"],
            layers=tuple(options["layers"]),
            node_width=options["dim"],
            num_patches=options["num_patches"],
            threshold=options["threshold"],
            hops=options["hops"],
            poolings=options["poolings"],
            pooling_weights=tuple(options["ratios"]),
            down_scale=options["down_scale"],
        )
    ).to(dtype)
    method.G = generator
    method.D = discriminator_from(golden.state_dict("netD", dtype))
    method.F = graphs_with(weights, options)
    vgg = golden.tensors("vgg", dtype)
    indices = sorted({int(name.split(".")[0]) for name in vgg})
    method.vgg._fill([(vgg[f"{i}.weight"], vgg[f"{i}.bias"]) for i in indices])
    return method
