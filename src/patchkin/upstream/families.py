"""Which networks the released methods consist of, and how their files become a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, cast

from torch import nn

from patchkin.compression import CompressedResNet
from patchkin.errors import CheckpointError, ConfigError
from patchkin.method import Method
from patchkin.methods.cut import Cut
from patchkin.methods.cyclegan import CycleGan
from patchkin.methods.dclgan import DclGan
from patchkin.methods.enco import EnCo
from patchkin.methods.gcgan import GcGan
from patchkin.methods.lsesim import LSeSim
from patchkin.methods.munit import Munit
from patchkin.methods.negcut import NegCut
from patchkin.methods.patchgcl import PatchGcl
from patchkin.methods.pix2pix import Pix2Pix, Pix2PixConfig
from patchkin.methods.semantic_relation import SemanticRelation
from patchkin.methods.simdcl import SimDcl
from patchkin.methods.sincut import SinCut
from patchkin.methods.starganv2 import StarGanV2
from patchkin.methods.starganv2_relation import StarGanV2Relation
from patchkin.networks import (
    ResNetConfig,
    ResNetGenerator,
    StyleGan2DiscriminatorConfig,
    StyleGan2GeneratorConfig,
    UNetConfig,
)
from patchkin.networks.predictor import stage_pairs
from patchkin.networks.starganv2 import StyleGenerator, joined_sizes
from patchkin.networks.vgg import VGGFeatures
from patchkin.storage.outlines import outline
from patchkin.upstream import starganv2
from patchkin.upstream.compressed import COMPRESSED
from patchkin.upstream.discriminators import PATCHGAN, PIXEL
from patchkin.upstream.generators import RESNET, UNET
from patchkin.upstream.heads import (
    GRAPHS,
    NEGATIVES,
    PREDICTOR,
    PROJECTION,
    SELECTOR,
    SUMMARY,
    GraphShape,
    HeadShape,
    NegativesShape,
    PredictorShape,
    SelectorShape,
)
from patchkin.upstream.kinds import NetworkKind, Taken
from patchkin.upstream.munit import LICENCE, MUNIT_DISCRIMINATOR, MUNIT_GENERATOR
from patchkin.upstream.stylegan2 import STYLEGAN2_DISCRIMINATOR, STYLEGAN2_GENERATOR, at_size

Found = Mapping[str, Taken]
"""Networks of files by our names for them."""

_TAPS = ((0, 4, 8, 12, 16), (4, 8, 12, 16))
"""Of the published runs of CUT and DCLGAN, tried in turn: no file tells them."""


def _released(base: Any, found: Found, taps: Sequence[int] | None) -> Any:
    """The configuration of a method of generators, discriminators and heads."""
    heads = {n: t.config for n, t in found.items() if isinstance(t.config, HeadShape)}
    generator = _agreed(list(_generators(found)), "generators")
    if generator is None:
        generator = _generator_behind(base.generator, heads, found)
    discriminator = _discriminator(base, found, generator)
    if isinstance(generator, StyleGan2GeneratorConfig) and isinstance(
        discriminator, StyleGan2DiscriminatorConfig
    ):
        generator = at_size(generator, discriminator.working_size) or generator
    changes: dict[str, Any] = {"generator": generator, "discriminator": discriminator}
    if hasattr(base, "taps"):
        changes["taps"] = _taps(base, generator, heads, taps)
    elif taps and not hasattr(base, "pairs"):
        raise ConfigError("This method has no head with taps; leave out --taps.")
    for taken in found.values():
        match taken.config:
            case HeadShape(width=width):
                changes["head_width"] = width
            case NegativesShape(width=width, noise_width=noise_width):
                changes |= {"head_width": width, "noise_width": noise_width}
            case SelectorShape():
                changes["learned"] = True
            case PredictorShape(channels=channels, width=width, norm=norm):
                changes |= {"head_width": width, "head_norm": norm}
                changes["pairs"] = _pairs(generator, channels, taps)
            case GraphShape() as shape:
                _check_graphs(base, shape)
                changes |= {"node_width": shape.width, "hops": shape.hops}
                changes["poolings"] = shape.poolings
    if "G_gc" in found:
        changes["generators"] = "cross"
    return replace(base, **changes)


def _pairs(
    generator: ResNetConfig, channels: tuple[int, ...], taps: Sequence[int] | None
) -> tuple[tuple[int, int], ...]:
    """EnCo's pairs of layers, as the release's `nce_layers` lists them; none if they are its own.

    The first half is the encoder's; the second the decoder's, in reversed order.
    """
    network = _meta_generator(generator)
    pairs: tuple[tuple[int, int], ...] = ()
    if taps:
        half = len(taps) // 2
        pairs = tuple(zip(taps[:half], reversed(taps[-half:]), strict=True))
    keys = tuple(key for key, _ in (pairs or stage_pairs(cast(ResNetGenerator, network))))
    if _channels(network, keys) != channels:
        raise CheckpointError(
            f"The head takes {', '.join(map(str, channels))} channels, which the generator's "
            f"layers {' '.join(map(str, keys))} do not have; give the layers that it was trained "
            "with as --taps, the encoder's and then the decoder's (upstream: nce_layers)."
        )
    return pairs


def _check_graphs(base: Any, shape: GraphShape) -> None:
    """Refuse graphs of other maps than those of VGG16 that the release reads."""
    found = tuple(VGGFeatures(base.layers).channels)
    if base.features == "encoder" or shape.channels != found:
        raise CheckpointError(
            f"The graphs take {', '.join(map(str, shape.channels))} channels; those that the "
            f"release makes take {', '.join(map(str, found))}, of VGG16's layers "
            f"{' '.join(map(str, base.layers))}."
        )


def _compressed(base: Any, found: Found, taps: Sequence[int] | None) -> Any:
    return found["G"].config


def _munit(base: Any, found: Found, taps: Sequence[int] | None) -> Any:
    """Autoencoders and discriminators of domains a and b."""
    changes: dict[str, Any] = {}
    for letter, name in (("A", "in_channels"), ("B", "out_channels")):
        channels = [
            (network, taken.config.channels)
            for network, taken in found.items()
            if network.endswith(letter)
        ]
        if channels:
            changes[name] = channels[0][1]
    for first, name in (("G", "generator"), ("D", "discriminator")):
        configs = [(n, taken.config.config) for n, taken in found.items() if n.startswith(first)]
        if configs:
            changes[name] = _agreed(configs, f"{name}s")
    return replace(base, **changes)


def _starganv2(base: Any, found: Found, taps: Sequence[int] | None) -> Any:
    """Networks that share their sizes, and perhaps a head behind some blocks of the encoder."""
    told = {letter: taken.config for letter, taken in found.items() if letter != "P"}
    if not told:
        raise CheckpointError("A head alone does not tell the sizes of the other networks.")
    changes: dict[str, Any] = {"networks": joined_sizes(told)}
    head = found.get("P")
    if head is None:
        if taps:
            raise ConfigError("These files have no head with taps; leave out --taps.")
        return replace(base, **changes)
    layers = tuple(taps or base.layers)
    generator = outline(partial(StyleGenerator, changes["networks"]), source="What the files tell")
    if _channels(generator, layers) != head.config.channels:
        raise CheckpointError(
            f"The head takes {', '.join(map(str, head.config.channels))} channels, which blocks "
            f"{' '.join(map(str, layers))} of the encoder do not have; give the blocks that it was "
            "trained with as --taps."
        )
    return replace(base, **changes, layers=layers, head_width=head.config.width)


@dataclass(frozen=True, kw_only=True)
class Family:
    """A method, and the files that its released code writes."""

    method: type[Method]
    networks: Mapping[str, str]
    """The name in a file's name -> ours."""
    kinds: tuple[NetworkKind, ...]
    """Of networks that the method can have."""
    configure: Callable[[Any, Found, Sequence[int] | None], Any] = _released
    """The method's configuration with the networks of the files, from one that tells what no file
    does, the networks, and the layers that the heads read if the user knows them. Raises
    `CheckpointError` if they do not go together, `ConfigError` if the method refuses them."""
    note: str = ""
    """What everybody who imports its files should know."""

    def fits(self, found: Found) -> bool:
        """Whether networks with these released names can be this method's."""
        return found.keys() <= self.networks.keys() and all(
            taken.kind in self.kinds for taken in found.values()
        )


_JUDGES = (PATCHGAN, PIXEL)
_ONE_SIDED = {"G": "G", "D": "D", "F": "F"}
_TWO_SIDED = {"G_A": "G_AB", "G_B": "G_BA", "D_A": "D_B", "D_B": "D_A"}
"""CycleGAN's code names a discriminator by the direction of the generator that it plays against."""
_DUAL = _TWO_SIDED | {"F1": "F_A", "F2": "F_B"}

FAMILIES = (
    Family(method=Cut, networks=_ONE_SIDED, kinds=(RESNET, *_JUDGES, PROJECTION)),
    Family(method=SemanticRelation, networks=_ONE_SIDED, kinds=(RESNET, *_JUDGES, PROJECTION)),
    Family(
        method=SinCut,
        networks=_ONE_SIDED,
        kinds=(STYLEGAN2_GENERATOR, STYLEGAN2_DISCRIMINATOR, PROJECTION),
    ),
    Family(
        method=LSeSim,
        networks=_ONE_SIDED | {"F": "S.selector"},
        kinds=(RESNET, *_JUDGES, SELECTOR),
    ),
    Family(
        method=NegCut,
        networks=_ONE_SIDED | {"N": "N", "F_": "F_average"},
        kinds=(RESNET, *_JUDGES, PROJECTION, NEGATIVES),
    ),
    Family(method=EnCo, networks=_ONE_SIDED, kinds=(RESNET, *_JUDGES, PREDICTOR)),
    Family(method=PatchGcl, networks=_ONE_SIDED, kinds=(RESNET, *_JUDGES, GRAPHS)),
    Family(method=CycleGan, networks=_TWO_SIDED, kinds=(RESNET, *_JUDGES)),
    Family(method=DclGan, networks=_DUAL, kinds=(RESNET, *_JUDGES, PROJECTION)),
    Family(
        method=SimDcl,
        networks=_DUAL | {"F3": "S_A.real", "F4": "S_B.fake", "F5": "S_B.real", "F6": "S_A.fake"},
        kinds=(RESNET, *_JUDGES, PROJECTION, SUMMARY),
    ),
    Family(
        method=GcGan,
        networks={"G_AB": "G", "D_B": "D", "D_gc_B": "D_gc", "G_gc_AB": "G_gc"},
        kinds=(RESNET, *_JUDGES),
    ),
    Family(method=Pix2Pix, networks={"G": "G", "D": "D"}, kinds=(UNET, RESNET, *_JUDGES)),
    Family(
        method=CompressedResNet,
        networks={"G": "G"},
        kinds=(COMPRESSED,),
        configure=_compressed,
    ),
    Family(
        method=Munit,
        networks={"gen.a": "G_A", "gen.b": "G_B", "dis.a": "D_A", "dis.b": "D_B"},
        kinds=(MUNIT_GENERATOR, MUNIT_DISCRIMINATOR),
        configure=_munit,
        note=LICENCE,
    ),
    Family(
        method=StarGanV2,
        networks=starganv2.NETWORKS,
        kinds=starganv2.STARGAN_KINDS,
        configure=_starganv2,
        note=starganv2.LICENCE,
    ),
    Family(
        method=StarGanV2Relation,
        networks=starganv2.NETWORKS | starganv2.HEAD,
        kinds=(*starganv2.STARGAN_KINDS, PROJECTION),
        configure=_starganv2,
        note=starganv2.LICENCE,
    ),
)
"""The first that fits the files is taken. Files of CUT and of the semantic relation are alike, as
are those of a method's presets: what differs is only how they were trained."""


def _generators(found: Found) -> Iterator[tuple[str, Any]]:
    """The generators' configurations, as of the direction from A to B."""
    for name, taken in found.items():
        if name == "G_BA":
            yield name, _turned(taken.config)
        elif name.startswith("G"):
            yield name, taken.config


def _turned(config: ResNetConfig) -> ResNetConfig:
    """The configuration of the way back."""
    return replace(config, in_channels=config.out_channels, out_channels=config.in_channels)


def _agreed(named: Sequence[tuple[str, Any]], what: str) -> Any:
    """What all say alike; None if there are none."""
    if not named:
        return None
    first_name, first = named[0]
    for name, config in named[1:]:
        for part in fields(first):
            values = getattr(first, part.name), getattr(config, part.name)
            if values[0] != values[1]:
                raise CheckpointError(
                    f"The {what} {first_name} and {name} are not of one model: `{part.name}` is "
                    f"{values[0]} and {values[1]}."
                )
    return first


def _generator_behind(default: Any, heads: Mapping[str, HeadShape], found: Found) -> Any:
    """What heads and discriminators that come without a generator tell about it."""
    changes = {}
    if isinstance(default, ResNetConfig):
        for head in heads.values():
            changes["ngf"] = max(max(head.channels) // 4, 1)  # of the residual blocks
    for name in ("D", "D_B"):
        if name in found and not isinstance(default, UNetConfig):
            changes["out_channels"] = found[name].config.in_channels
    return replace(default, **changes)


def _discriminator(base: Any, found: Found, generator: Any) -> Any:
    """The configuration of D and D_B; that of D_A is the same for other channels."""
    seen = generator.out_channels
    if isinstance(base, Pix2PixConfig):  # judges source and translation together
        seen += generator.in_channels
    judges = [
        (name, taken.config if name != "D_A" else replace(taken.config, in_channels=seen))
        for name, taken in found.items()
        if name.startswith("D")
    ]
    return _agreed(judges, "discriminators") or replace(base.discriminator, in_channels=seen)


def _taps(
    base: Any, generator: Any, heads: Mapping[str, HeadShape], taps: Sequence[int] | None
) -> tuple[int, ...]:
    """The layers whose channels are those that the heads take."""
    candidates = [tuple(taps)] if taps else list(dict.fromkeys([base.taps, *_TAPS]))
    for name, head in heads.items():
        tapped = _meta_generator(_turned(generator) if name == "F_B" else generator)
        for candidate in candidates:
            if _channels(tapped, candidate) == head.channels:
                return candidate
        listed = ", ".join(map(str, head.channels))
        tried = " ".join(map(str, candidates[0]))
        raise CheckpointError(
            f"The projection head takes {listed} channels, which the generator's layers {tried} do "
            "not have; give the layers that it was trained with as --taps (upstream: nce_layers)."
        )
    return candidates[0]


def _meta_generator(config: Any) -> nn.Module:
    kind = STYLEGAN2_GENERATOR if isinstance(config, StyleGan2GeneratorConfig) else RESNET
    return outline(partial(kind.build, config), source="What the files tell")


def _channels(generator: Any, taps: tuple[int, ...]) -> tuple[int, ...]:
    """Of the maps at the taps; none if there are no such layers."""
    try:
        return tuple(generator.tap_channels(taps))
    except ConfigError:
        return ()
