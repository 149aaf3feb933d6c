"""The methods, one file each."""

from patchkin.method import Method
from patchkin.methods.cut import Cut
from patchkin.methods.cyclegan import CycleGan
from patchkin.methods.gcgan import GcGan
from patchkin.methods.semantic_relation import SemanticRelation

METHODS: dict[str, type[Method]] = {
    Cut.name: Cut,
    CycleGan.name: CycleGan,
    GcGan.name: GcGan,
    SemanticRelation.name: SemanticRelation,
}
"""Name on the command line -> class. A new method is one file and one row here."""

__all__ = ["METHODS", "Cut", "CycleGan", "GcGan", "SemanticRelation"]
