"""The methods, one file each."""

from typing import Any

from patchkin import plugins
from patchkin.method import Method
from patchkin.methods.cut import Cut
from patchkin.methods.cyclegan import CycleGan
from patchkin.methods.dclgan import DclGan
from patchkin.methods.distancegan import DistanceGan
from patchkin.methods.drit import Drit
from patchkin.methods.enco import EnCo
from patchkin.methods.gcgan import GcGan
from patchkin.methods.lsesim import LSeSim
from patchkin.methods.munit import Munit
from patchkin.methods.negcut import NegCut
from patchkin.methods.patchgcl import PatchGcl
from patchkin.methods.pix2pix import Pix2Pix
from patchkin.methods.semantic_relation import SemanticRelation
from patchkin.methods.simdcl import SimDcl
from patchkin.methods.sincut import SinCut
from patchkin.methods.starganv2 import StarGanV2
from patchkin.methods.starganv2_relation import StarGanV2Relation
from patchkin.methods.travelgan import TravelGan

METHODS: dict[str, type[Method]] = {
    Cut.name: Cut,
    CycleGan.name: CycleGan,
    DclGan.name: DclGan,
    EnCo.name: EnCo,
    PatchGcl.name: PatchGcl,
    GcGan.name: GcGan,
    NegCut.name: NegCut,
    Pix2Pix.name: Pix2Pix,
    LSeSim.name: LSeSim,
    DistanceGan.name: DistanceGan,
    TravelGan.name: TravelGan,
    Munit.name: Munit,
    Drit.name: Drit,
    SemanticRelation.name: SemanticRelation,
    SimDcl.name: SimDcl,
    SinCut.name: SinCut,
    StarGanV2.name: StarGanV2,
    StarGanV2Relation.name: StarGanV2Relation,
}
"""Name on the command line -> class. A new method is one file and one row here."""


def known_methods() -> dict[str, type[Method]]:
    """Those of patchkin, and of installed packages (`patchkin.plugins`), by name."""
    added = plugins.working_plugins(plugins.METHODS, check=_no_method, taken=METHODS)
    return {**METHODS, **added}


def _no_method(name: str, found: Any) -> str | None:
    if not (isinstance(found, type) and issubclass(found, Method)):
        return "it is no subclass of patchkin.Method"
    own = getattr(found, "name", None)
    return None if own == name else f"the method calls itself {own!r}, its entry `{name}`"


__all__ = [
    "METHODS",
    "Cut",
    "CycleGan",
    "DclGan",
    "DistanceGan",
    "Drit",
    "EnCo",
    "GcGan",
    "LSeSim",
    "Munit",
    "NegCut",
    "PatchGcl",
    "Pix2Pix",
    "SemanticRelation",
    "SimDcl",
    "SinCut",
    "StarGanV2",
    "StarGanV2Relation",
    "TravelGan",
    "known_methods",
]
