"""Distances between two plain folders, of which nothing else is known."""

from __future__ import annotations

from pathlib import Path

from patchkin.config import to_plain
from patchkin.data.layouts import image_files
from patchkin.errors import ConfigError
from patchkin.images import ValueRange
from patchkin.metrics.protocols import find_protocol
from patchkin.metrics.statistics import cached_statistics
from patchkin.scoring.distances import BATCH_SIZE, common_size, distances_of, extractors_of, telling
from patchkin.scoring.held_out import ALL, Inputs, Truths
from patchkin.scoring.matching import files_by_name, relative_names
from patchkin.scoring.pair_scores import TruthScore, perceptual_distance
from patchkin.scoring.pairs import pairs_of
from patchkin.scoring.results import Result
from patchkin.scoring.settings import EvaluationConfig, Progress, silent
from patchkin.scoring.subjects import described, mixture


def compare_folders(
    folder: Path,
    against: Path,
    config: EvaluationConfig,
    *,
    value_range: ValueRange | None = None,
    progress: Progress = silent,
) -> Result:
    """Distances between the images of two folders, of which nothing else is known.

    Args:
        folder: the outputs.
        against: the real images.
        config: the protocols; and `truth`, if each image of `folder` has one.
        value_range: of files of more than 8 bits.
        progress: for a progress bar.

    Raises:
        DataError, ConfigError, DownloadError: as `evaluate`; or a score that needs inputs.
    """
    for name in ("masks", "judge"):
        if getattr(config, name):
            raise ConfigError(f"--{name} is a score of inputs; two folders have none.")
    protocols = [find_protocol(name) for name in config.protocols]
    if not protocols and config.truth is None:
        raise ConfigError("Two folders are compared by distances; name a --protocol.")
    extractors = extractors_of(protocols, config)
    sides = [image_files(folder), image_files(against)]
    statistics = [
        {
            protocol.name: cached_statistics(
                files,
                protocol,
                extractors[protocol.extractor],
                value_range=value_range,
                batch_size=BATCH_SIZE,
                progress=telling(progress, "comparing", len(files)),
            )
            for protocol in protocols
        }
        for files in sides
    ]
    found = distances_of(statistics[1], statistics[0], config, rounds=None)
    scores, truths = found.scores, Truths()
    if config.truth is not None:
        names = relative_names(sides[0], folder)
        truths = Truths(files_by_name(config.truth, list(names.values()), "truth"))
        size = common_size(protocols)
        truth = TruthScore(truths, perceptual_distance(config), size=size, value_range=value_range)
        for pair in pairs_of(folder, Inputs(()), size=size, value_ranges=(None, value_range)):
            truth.add(pair)
        scores |= truth.scores()
    return Result(
        scores=scores,
        warnings=mixture(folder),
        protocols=found.protocols,
        subject=described(folder),
        data={
            "root": str(against),
            "direction": None,
            "split": ALL,
            **({"value_ranges": [None, value_range]} if value_range else {}),
            "counts": {"inputs": 0, "truths": len(truths.files)} | found.counts,
        },
        evaluation=to_plain(config),
    )
