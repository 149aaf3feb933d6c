"""Which images a model is scored on, and whether they are what a score should be of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

from patchkin.data.config import DataConfig
from patchkin.data.layouts import TOY, Domains, PairedImages, detect_layout, find_domains
from patchkin.data.paired import Side, find_pairs
from patchkin.errors import ConfigError, DataError
from patchkin.scoring.matching import files_by_name, relative_names
from patchkin.scoring.reading import Half, Read, load_at

Split: TypeAlias = Literal["test", "val"]

ALL = "all"
"""What the split of two folders is called, of which every image is scored."""
SELECTED = "val, also used for selection"
"""What a split is called whose images choose checkpoints."""
_SELECTED_WARNING = (
    "{why}: these images choose the checkpoint during training, so scores on them are no test "
    "scores"
)


@dataclass(frozen=True)
class Inputs:
    """Images of the source domain, to translate."""

    files: tuple[Path, ...]
    folder: Path | None = None
    """That names are paths below of; by default the one that all files have in common."""
    read: Read = load_at

    @cached_property
    def names(self) -> dict[Path, str]:
        """Of each file."""
        if not self.files:
            return {}
        common = self.folder or Path(os.path.commonpath([path.parent for path in self.files]))
        return dict(relative_names(self.files, common))


@dataclass(frozen=True)
class Truths:
    """What the translation of each image should be."""

    files: dict[str, Path] = field(default_factory=dict)
    """By the name of the input."""
    read: Read = load_at


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The images that are translated, and those they are compared with."""

    inputs: Inputs
    domains: Domains
    """Of side-by-side pairs, the files of both domains are the same."""
    real: Half | None = None
    """Which half of the files of `domains` is the real image; None: each is one."""
    truths: Truths = field(default_factory=Truths)
    split: str
    """As a result tells it: test, `SELECTED` or `ALL`."""
    warnings: tuple[str, ...] = ()


def find_held_out(
    data: DataConfig, split: Split, *, truth: Path | None = None, paired: bool = False
) -> HeldOut:
    """The held-out images of a set; of two folders (`source` and `target`) all images.

    Args:
        data: the set: unpaired domains, side-by-side pairs, or two folders.
        split: of it.
        truth: folder with what the translations should be, named as the inputs; the other halves
            of pairs need none.
        paired: whether the toy set is that of pairs.

    Raises:
        DataError: there are none, or as `find_domains`; an input has no truth.
        ConfigError: two folders have no val split.
    """
    found = _find(data, split, paired=paired)
    if truth is None:
        return found
    names = list(found.inputs.names.values())
    return replace(found, truths=Truths(files_by_name(truth, names, "truth")))


def _find(data: DataConfig, split: Split, *, paired: bool) -> HeldOut:
    if data.source is None and (
        paired if data.root == TOY else isinstance(detect_layout(Path(data.root)), PairedImages)
    ):
        return _of_pairs(data, split)
    domains = find_domains(data)
    if data.source is not None:
        if split != "test":
            raise ConfigError(
                "Two folders have no splits: all their images are scored; leave out --split."
            )
        inputs = Inputs(domains.train_a, domains.folders.get("train_a"))
        domains = replace(domains, train_a=(), test_a=domains.train_a, test_b=domains.train_b)
        return HeldOut(inputs=inputs, domains=domains, split=ALL)
    files = _present(data, split, domains.test_a if split == "test" else domains.val_a)
    name, warnings = told_split(split, test=domains.test_a, val=domains.val_a)
    inputs = Inputs(files, domains.folders.get("test_a" if name == "test" else "val_a"))
    return HeldOut(inputs=inputs, domains=domains, split=name, warnings=warnings)


def _of_pairs(data: DataConfig, split: Split) -> HeldOut:
    pairs = find_pairs(data)
    files = _present(data, split, pairs.test if split == "test" else pairs.val)
    name, warnings = told_split(split, test=pairs.test, val=pairs.val)
    sides: tuple[Side, Side] = ("left", "right")
    source, target = map(Half, sides if data.direction == "AtoB" else sides[::-1])
    inputs = Inputs(files, read=source)
    return HeldOut(
        inputs=inputs,
        domains=Domains(
            train_a=pairs.train,
            train_b=pairs.train,
            val_a=pairs.val,
            val_b=pairs.val,
            test_a=files,
            test_b=files,
        ),
        real=target,
        truths=Truths({name: file for file, name in inputs.names.items()}, target),
        split=name,
        warnings=warnings,
    )


def _present(data: DataConfig, split: Split, files: tuple[Path, ...]) -> tuple[Path, ...]:
    if not files:
        raise DataError(
            f"`{data.root}` has no {split} images of the source domain. Give it {split}A and "
            f"{split}B (of pairs, {split}), or name folders of images that were not trained on: "
            "--data.source FOLDER --data.target FOLDER."
        )
    return files


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
