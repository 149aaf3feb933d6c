"""Unpaired images for training: found, checked, held out, and loaded step by step."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from patchkin.data.cache import from_file, open_cache
from patchkin.data.config import DataConfig
from patchkin.data.datasets import (
    ImageBatch,
    UnpairedDataset,
    collate,
    finished,
    transformable,
)
from patchkin.data.depth import warn_of_depth
from patchkin.data.grey import GreyWatch
from patchkin.data.layouts import Domains, find_domains
from patchkin.data.record import as_recorded
from patchkin.data.scale import check_views
from patchkin.data.single import SingleImageDataset
from patchkin.data.steps import StepBatches, StepLoader, held_out
from patchkin.data.transforms import resized
from patchkin.data.verify import Broken, verify_images, without_broken
from patchkin.errors import DataError
from patchkin.images import ValueRange, read_image
from patchkin.sides import Sides, height_width

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a run trains on, and what is held out."""

    dataset: UnpairedDataset | SingleImageDataset
    domains: Domains
    """All files, in this order; broken ones are left out of the training splits."""
    broken: tuple[Broken, ...]
    """Training files that cannot be used; keep the list beside the run, and pass it on resume."""


def open_training_data(
    config: DataConfig,
    *,
    seed: int,
    channels: tuple[int, int] = (3, 3),
    known_broken: Sequence[Broken] | None = None,
    known_val: Mapping[str, Collection[str]] | None = None,
    validate: bool = False,
    threads: int | None = None,
) -> TrainingData:
    """Find the files, decode each once (those in the cache were), leave out the broken ones.

    Args:
        config: where the files are, and how views are made.
        seed: of the run.
        channels: of the source and the target domain.
        known_broken: of the run that is resumed; nothing is decoded then, and the order of the
            images is the same even if a file broke in between.
        known_val: names (`record.name_of`) of its validation images, by domain (a, b); no others
            are held out.
        validate: whether validation images are needed; a set without a val split gives some of its
            training images.
        threads: for decoding.

    Raises:
        DataError: if folders are missing or empty, or more than 1 % of a domain is broken.
        StorageError: the cache of decoded images cannot be written.
    """
    domains = find_domains(config)
    if known_broken is None:
        for note in domains.notes:
            logger.warning("%s", note)
    if domains.single:
        return _single_images(config, domains, seed=seed, channels=channels, validate=validate)
    if known_broken is None:
        for files in (domains.train_a, domains.train_b):
            check_views(files, config)
    broken: list[Broken] = list(known_broken or ())
    both = (domains.train_a, domains.train_b)
    training = list(zip(both, channels, config.value_ranges, strict=True))
    cache = open_cache(
        config,
        [(path, number) for files, number, _ in training for path in files],
        left_out=broken,
        threads=threads,
    )
    if known_broken is None:
        watch = GreyWatch(cache.check if cache else read_image)
        for files, number, value_range in training:
            broken += verify_images(
                files,
                channels=number,
                value_range=value_range,
                threads=threads,
                read=watch,
            )
            warn_of_depth(files, value_range)
        watch.warn(channels)
    usable = replace(
        domains,
        train_a=without_broken(domains.train_a, broken, config.max_broken),
        train_b=without_broken(domains.train_b, broken, config.max_broken),
    )
    if known_val is not None:
        train_a, val_a = as_recorded(usable.train_a, known_val.get("a", ()), config)
        train_b, val_b = as_recorded(usable.train_b, known_val.get("b", ()), config)
        usable = replace(
            usable,
            train_a=train_a,
            train_b=train_b,
            val_a=usable.val_a or val_a,
            val_b=usable.val_b or val_b,
        )
    elif validate and not usable.val_a:
        held = partial(held_out, number=config.validation_images, seed=seed)
        train_a, val_a = held(usable.train_a, domain="a", folder="valA")
        train_b, val_b = held(usable.train_b, domain="b", folder="valB")
        usable = replace(usable, train_a=train_a, train_b=train_b, val_a=val_a, val_b=val_b)
    dataset = UnpairedDataset(
        usable.train_a,
        usable.train_b,
        config,
        seed=seed,
        channels=channels,
        read=cache or from_file,
    )
    return TrainingData(dataset, usable, tuple(broken))


def _single_images(
    config: DataConfig, domains: Domains, *, seed: int, channels: tuple[int, int], validate: bool
) -> TrainingData:
    if validate and not domains.val_a:
        raise DataError(
            "One image per domain leaves none to score; add valA and valB, or leave out "
            "--score-every."
        )
    (source,), (target,) = domains.train_a, domains.train_b
    dataset = SingleImageDataset(source, target, config, seed=seed, channels=channels)
    return TrainingData(dataset, domains, ())


def training_loader(
    dataset: UnpairedDataset | SingleImageDataset,
    *,
    batch_size: int,
    total_steps: int,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
    jitter_steps: int | None = None,
) -> StepLoader:
    """One pass over the batches of steps `start_step` to `total_steps - 1`.

    Args:
        dataset: its seed decides the order.
        batch_size: images per process.
        total_steps: of the run.
        start_step: the first step to run; that of the checkpoint on resume.
        rank: of this process.
        world_size: number of processes; N with a batch of b see the images of one with N * b.
        workers: processes that decode; they live for the whole run.
        pin_memory: for GPUs.
        jitter_steps: steps before the learning rate falls; from then on `load_size` is `size`,
            unless the configuration has `jitter_in_decay`. None: scale and crop in all steps.
    """
    config = dataset.config
    batches = StepBatches(
        len(dataset),
        batch_size=batch_size,
        total_steps=total_steps,
        seed=dataset.seed,
        start_step=start_step,
        rank=rank,
        world_size=world_size,
        shuffle=config.pairing == "random",  # CUT's serial batches are not shuffled either
        jitter_steps=None if config.jitter_in_decay else jitter_steps,
    )
    return StepLoader(
        dataset,
        batches,
        collate=collate,
        seed=dataset.seed,
        workers=workers,
        pin_memory=pin_memory,
    )


def evaluation_images(
    paths: Sequence[Path],
    *,
    size: Sides,
    channels: int = 3,
    value_range: ValueRange | None = None,
    batch_size: int = 1,
) -> Iterator[ImageBatch]:
    """Whole images at one size, in order, without crop or flip: the published test view.

    Raises:
        DataError: if a file cannot be used.
    """
    height, width = height_width(size)
    for start in range(0, len(paths), batch_size):
        chunk = paths[start : start + batch_size]
        whole = [transformable(read_image(path, channels), value_range) for path in chunk]
        images = [finished(resized(pixels, width, height)) for pixels in whole]
        yield ImageBatch(torch.stack(images), tuple(path.stem for path in chunk))
