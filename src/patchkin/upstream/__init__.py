"""Checkpoints of the upstream projects become patchkin models, and back.

Upstream writes one file per network, `<epoch>_net_<NAME>.pth`, a pickled state dict and nothing
else: which method it belongs to, and with which options, is told by names and shapes alone.

    files.py           files of weights, nothing in them executed
    kinds.py           what a kind of network is, and how every tensor of one is accounted for
    generators.py, discriminators.py, heads.py, stylegan2.py, munit.py, starganv2.py, compressed.py
                       the kinds
    table.py           all of them, and the way back: `released_weights`
    inside.py          networks behind prefixes, as in a Lightning module
    families.py        the methods, with the networks that their released code saves
    importing.py       files -> model
"""

from patchkin.upstream.families import FAMILIES, Family
from patchkin.upstream.files import WeightFile, read_weight_file
from patchkin.upstream.importing import (
    ImportedModel,
    ImportedNetwork,
    Source,
    check_target,
    import_weights,
    model_name,
)
from patchkin.upstream.table import KINDS, read_network, recognize, released_weights

__all__ = [
    "FAMILIES",
    "KINDS",
    "Family",
    "ImportedModel",
    "ImportedNetwork",
    "Source",
    "WeightFile",
    "check_target",
    "import_weights",
    "model_name",
    "read_network",
    "read_weight_file",
    "recognize",
    "released_weights",
]
