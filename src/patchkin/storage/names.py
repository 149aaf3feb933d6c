"""Names that tensors had in files of earlier versions.

A model file says which version of its header it has (`ModelHeader.version`). What has been renamed
since is renamed when it is read, so that models, checkpoints and run folders stay readable; they
are written with today's names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor

Value = TypeVar("Value")

_TWO_SIDED = {
    "G_A": "G_AB",
    "G_B": "G_BA",
    "D_A": "D_B",
    "D_B": "D_A",
    "pool_A": "pool_B",
    "pool_B": "pool_A",
}
_RENAMED_IN_2: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(("cyclegan", "dclgan", "simdcl", "distancegan", "travelgan"), _TWO_SIDED),
    "lsesim": {"F": "S.selector"},
    "cut": {"bank_LMC": "bank.rows_LMC", "bank_position": "bank.position"},
}
"""Method -> first part of a name in version 1 -> today's."""
_POOL_SIZE = ".size_HW"


def current_names(
    named: Mapping[str, Value], *, method: str, version: int, prefix: str = ""
) -> dict[str, Value]:
    """What a file holds, under today's names.

    Args:
        named: tensors of a model or of its optimizers, by the names in the file.
        method: whose they are.
        version: of the file's header.
        prefix: that a name may have in front, such as that of averaged weights.

    >>> old = {"ema.G_A.model.1.bias": 1, "D_A.x": 2}
    >>> current_names(old, method="cyclegan", version=1, prefix="ema.")
    {'ema.G_AB.model.1.bias': 1, 'D_B.x': 2}
    >>> current_names({"D_A.x": 2}, method="cyclegan", version=2)
    {'D_A.x': 2}
    """
    renamed = _RENAMED_IN_2.get(method, {}) if version < 2 else {}
    return {_current_name(name, renamed, prefix): value for name, value in named.items()}


def with_pool_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model with a size for each image of a pool, where one stood for all.

    >>> import torch
    >>> old = {"pool_A.images_PN": torch.zeros(2, 12), "pool_A.size_HW": torch.tensor([2, 3])}
    >>> with_pool_sizes(old)["pool_A.sizes_P2"].tolist()
    [[2, 3], [2, 3]]
    """
    sized = dict(tensors)
    for name in tensors:
        if name.endswith(_POOL_SIZE):
            pool = name.removesuffix(_POOL_SIZE)
            images_PN = tensors.get(f"{pool}.images_PN")
            if images_PN is None or not images_PN.dim() or tensors[name].shape != (2,):
                raise ValueError(f"`{name}` goes with no pool of images")
            capacity = len(images_PN)
            sized[f"{pool}.sizes_P2"] = sized.pop(name).expand(capacity, 2).clone()
    return sized


def _current_name(name: str, renamed: Mapping[str, str], prefix: str) -> str:
    before = prefix if name.startswith(prefix) else ""
    first, dot, rest = name.removeprefix(before).partition(".")
    return f"{before}{renamed.get(first, first)}{dot}{rest}"
