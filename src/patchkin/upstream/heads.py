"""Released heads: projections (CUT), negatives (NEGCUT), summaries (SimDCL), selectors (LSeSim),
predictors (EnCo), graphs (PatchGCL).

What a head's configuration does not tell, such as which layers its taps are, is in no file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from patchkin.errors import CheckpointError
from patchkin.networks import ProjectionHead, SimilarityHead
from patchkin.networks.negative_generator import NegativeGenerator
from patchkin.networks.patch_graph import PatchGraphs
from patchkin.networks.predictor import PredictingHead, RowNorm
from patchkin.networks.vgg import FeatureSelector
from patchkin.upstream.kinds import Layout, NetworkKind, numbers, shape_of


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """Of a projection head."""

    channels: tuple[int, ...]
    """That it takes, per tap."""
    width: int
    """Of an embedded patch."""


@dataclass(frozen=True, kw_only=True)
class NegativesShape:
    """Of a generator of negatives."""

    taps: int
    width: int
    noise_width: int


@dataclass(frozen=True, kw_only=True)
class SummaryShape:
    """Of a similarity head."""

    taps: int


@dataclass(frozen=True, kw_only=True)
class SelectorShape:
    """Of a selector."""

    channels: tuple[int, ...]
    """That it takes, per layer."""


@dataclass(frozen=True, kw_only=True)
class PredictorShape:
    """Of EnCo's heads and predictors."""

    channels: tuple[int, ...]
    """That it takes, per pair of layers."""
    width: int
    """Of an embedded patch."""
    norm: RowNorm


@dataclass(frozen=True, kw_only=True)
class GraphShape:
    """Of PatchGCL's graphs."""

    channels: tuple[int, ...]
    """That they take, per layer."""
    width: int
    """Of a node."""
    hops: int
    poolings: int


def _mlp_shapes(layout: Layout) -> Iterator[tuple[int, ...]]:
    """(out, in) of the first layer of each perceptron."""
    for index in range(len(numbers(layout, r"mlp_(\d+)\."))):
        yield shape_of(layout, f"mlp_{index}.0.weight", 2)


def _has_mlps(layout: Layout) -> bool:
    return any(re.match(r"mlp[_.]\d+\.0\.weight$", name) for name in layout)


def _is_negatives(layout: Layout) -> bool:
    """Every perceptron takes as many numbers: an embedded patch's, and noise."""
    firsts = [shape for name, shape in layout.items() if re.match(r"mlp_\d+\.0\.weight$", name)]
    return (
        bool(firsts)
        and len(set(firsts)) == 1
        and len(firsts[0]) == 2
        and firsts[0][1] > firsts[0][0]
    )


def _head_shape(layout: Layout) -> HeadShape:
    firsts = list(_mlp_shapes(layout))
    return HeadShape(channels=tuple(shape[1] for shape in firsts), width=firsts[0][0])


def _negatives_shape(layout: Layout) -> NegativesShape:
    firsts = list(_mlp_shapes(layout))
    width, into = firsts[0]
    if into <= width:
        raise CheckpointError(
            f"takes {into} numbers, which leaves none for noise beside the {width} of a patch."
        )
    return NegativesShape(taps=len(firsts), width=width, noise_width=into - width)


def _released_mlp(name: str) -> str:
    """Ours -> released.

    >>> _released_mlp("mlps.3.0.weight")
    'mlp_3.0.weight'
    """
    return re.sub(r"^mlps\.(\d+)\.", r"mlp_\1.", name)


def _current_mlp(name: str) -> str:
    """Names of StarGAN v2 with semantic relations.

    >>> _current_mlp("mlp.3.0.weight")
    'mlp_3.0.weight'
    """
    return re.sub(r"^mlp\.(\d+)\.", r"mlp_\1.", name)


NEGATIVES = NetworkKind(
    title="generator of negatives",
    roles=("N",),
    network=NegativeGenerator,
    signature=_is_negatives,
    configure=_negatives_shape,
    build=lambda shape: NegativeGenerator(shape.taps, shape.width, shape.noise_width),
    released_name=_released_mlp,
)

PROJECTION = NetworkKind(
    title="projection head",
    roles=("F", "F_", "F1", "F2", "nets.patch_sample"),
    network=ProjectionHead,
    signature=_has_mlps,
    configure=_head_shape,
    build=lambda shape: ProjectionHead(shape.channels, shape.width),
    released_name=_released_mlp,
    current_name=_current_mlp,
)


def _is_summary(layout: Layout) -> bool:
    """The file of a summary head has a convolution of 3 x 3 where a discriminator's has 4 x 4."""
    first = layout.get("model.0.weight", ())
    return len(first) == 4 and first[2:] == (3, 3) and len(layout) == 6


def _current_summary(name: str) -> str:
    """Names from before 2021-04-13.

    >>> _current_summary("linear.2.bias")
    'model.6.bias'
    """
    return re.sub(r"^linear\.(\d)\.", lambda match: f"model.{int(match[1]) + 4}.", name)


SUMMARY = NetworkKind(
    title="similarity head",
    roles=("F3", "F4", "F5", "F6"),
    network=SimilarityHead,
    signature=_is_summary,
    configure=lambda layout: SummaryShape(taps=shape_of(layout, "model.0.weight", 4)[1]),
    build=lambda shape: SimilarityHead(shape.taps),
    current_name=_current_summary,
)


def _selector_shape(layout: Layout) -> SelectorShape:
    count = len(numbers(layout, r"conv_(\d+)\."))
    firsts = [shape_of(layout, f"conv_{index}.0.weight", 4) for index in range(count)]
    return SelectorShape(channels=tuple(shape[1] for shape in firsts))


SELECTOR = NetworkKind(
    title="selector of features",
    roles=("F",),
    network=FeatureSelector,
    signature=lambda layout: "conv_0.0.weight" in layout,
    configure=_selector_shape,
    build=lambda shape: FeatureSelector(shape.channels),
    released_name=lambda name: re.sub(r"^convs\.(\d+)\.", r"conv_\1.", name),
)


def _predictor_shape(layout: Layout) -> PredictorShape:
    firsts = list(_mlp_shapes(layout))
    norm: RowNorm = "none"
    if "mlp_0.1.weight" in layout:
        norm = "batch" if "mlp_0.1.running_mean" in layout else "layer"
    return PredictorShape(
        channels=tuple(shape[1] for shape in firsts), width=firsts[0][0], norm=norm
    )


def _released_predictor(name: str) -> str:
    """Ours -> released.

    >>> _released_predictor("mlps.0.1.bias"), _released_predictor("predictors.2.3.weight")
    ('mlp_0.1.bias', 'prj_2.3.weight')
    """
    return re.sub(r"^predictors\.(\d+)\.", r"prj_\1.", _released_mlp(name))


PREDICTOR = NetworkKind(
    title="predicting head",
    roles=("F",),
    network=PredictingHead,
    signature=lambda layout: "prj_0.0.weight" in layout and "mlp_0.0.weight" in layout,
    configure=_predictor_shape,
    build=lambda shape: PredictingHead(shape.channels, shape.width, norm=shape.norm),
    released_name=_released_predictor,
)


def _graph_shape(layout: Layout) -> GraphShape:
    count = len(numbers(layout, r"embed_(\d+)\."))
    embeddings = [shape_of(layout, f"embed_{tap}.linear.weight", 2) for tap in range(count)]
    width = embeddings[0][0]
    return GraphShape(
        channels=tuple(shape[1] for shape in embeddings),
        width=width,
        hops=shape_of(layout, "gnn_0.conv1.lin.weight", 2)[1] // width - 1,
        poolings=len(numbers(layout, r"pools_0\.(\d+)\.")),
    )


_GRAPH_NAMES = (
    (r"^embeddings\.(\d+)\.", r"embed_\1.linear."),
    (r"^graphs\.(\d+)\.convolution\.linear\.", r"gnn_\1.conv1.lin."),
    (r"^graphs\.(\d+)\.poolings\.(\d+)\.linear\.", r"pools_\1.\2.proj."),
    (
        r"^graphs\.(\d+)\.pooled_convolutions\.(\d+)\.linear\.",
        r"gnn_pools_\1.\2.conv1.lin.",
    ),
)


def _released_graph(name: str) -> str:
    """Ours -> released.

    >>> _released_graph("graphs.1.pooled_convolutions.0.linear.bias")
    'gnn_pools_1.0.conv1.lin.bias'
    """
    for ours, released in _GRAPH_NAMES:
        name = re.sub(ours, released, name)
    return name


GRAPHS = NetworkKind(
    title="patch graphs",
    roles=("F",),
    network=PatchGraphs,
    signature=lambda layout: "embed_0.linear.weight" in layout,
    configure=_graph_shape,
    build=lambda shape: PatchGraphs(
        shape.channels, shape.width, hops=shape.hops, poolings=shape.poolings
    ),
    released_name=_released_graph,
)
