"""Which images a model is scored on, and whether they are what a score should be of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from patchkin.data.config import DataConfig
from patchkin.data.layouts import Domains, find_domains
from patchkin.errors import ConfigError, DataError

Split: TypeAlias = Literal["test", "val"]

ALL = "all"
"""What the split of two folders is called, of which every image is scored."""
SELECTED = "val, also used for selection"
"""What a split is called whose images choose checkpoints."""
_SELECTED_WARNING = (
    "{why}: these images choose the checkpoint during training, so scores on them are no test "
    "scores"
)


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The images that are translated, and those they are compared with."""

    inputs: tuple[Path, ...]
    """Of the source domain."""
    domains: Domains
    split: str
    """As a result tells it: test, `SELECTED` or `ALL`."""
    warnings: tuple[str, ...] = ()


def find_held_out(data: DataConfig, split: Split) -> HeldOut:
    """The held-out images of a set; of two folders (`source` and `target`) all images.

    Raises:
        DataError: there are none, or as `find_domains`.
        ConfigError: two folders have no val split.
    """
    domains = find_domains(data)
    if data.source is not None:
        if split != "test":
            raise ConfigError(
                "Two folders have no splits: all their images are scored; leave out --split."
            )
        domains = replace(domains, train_a=(), test_a=domains.train_a, test_b=domains.train_b)
        return HeldOut(inputs=domains.test_a, domains=domains, split=ALL)
    inputs = domains.test_a if split == "test" else domains.val_a
    if not inputs:
        raise DataError(f"`{data.root}` has no {split} images of the source domain.")
    name, warnings = told_split(split, test=domains.test_a, val=domains.val_a)
    return HeldOut(inputs=inputs, domains=domains, split=name, warnings=warnings)


def told_split(
    split: Split, *, test: Sequence[object], val: Sequence[object]
) -> tuple[str, tuple[str, ...]]:
    """What a split is called in results, and what to warn of.

    Args:
        split: that was asked for.
        test: its images; those of `val` where a set has no test split.
        val: the images that scores during training are of.

    >>> told_split("test", test=["a"], val=["b"])
    ('test', ())
    >>> told_split("test", test=["b"], val=["b"])[0]
    'val, also used for selection'
    """
    if split == "test" and test != val:
        return "test", ()
    why = "--split val" if split == "val" else "the set has no test split, so val is taken"
    return SELECTED, (_SELECTED_WARNING.format(why=why),)
