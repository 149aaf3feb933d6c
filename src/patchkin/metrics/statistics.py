"""Features of a set of images under a protocol, kept on disk for real sets, and their comparison.

A cached file is found by a hash of the images, the protocol and the weights of the extractor. The
images count by content: sizes and dates would miss an edited file of equal size after a restore,
and would recompute everything when a set is copied. Hashing reads each file once, which is little
beside decoding it and running a network.

All features are kept, not only moments: the kernel distance and class rates need them, and 1,500
images of 2048 features are 12 MB.

Shape suffixes: N images, D features, K classes, C channels, H and W pixels.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from patchkin.config import from_plain, to_plain
from patchkin.data.folders import ADVICE, cache_folder
from patchkin.errors import ConfigError, DataError, PatchkinError
from patchkin.images import ValueRange, read_image
from patchkin.images.pages import file_of
from patchkin.metrics.checks import check_count
from patchkin.metrics.collecting import FeatureCollector, Progress, Statistics
from patchkin.metrics.extractors import Extractor
from patchkin.metrics.frechet import frechet_distance
from patchkin.metrics.kernel import kernel_distance, kernel_distance_subsets
from patchkin.metrics.protocols import Protocol
from patchkin.parallel.shards import Shard
from patchkin.storage.atomic import UNTOUCHED, storage_errors, write_bytes
from patchkin.storage.hashes import file_sha256
from patchkin.storage.locks import alone_at
from patchkin.storage.strict_json import parsed

_METADATA = "patchkin-statistics"


@dataclass(frozen=True, kw_only=True, slots=True)
class DistributionScores:
    """Distances between outputs and real images, with all they depend on."""

    frechet: float
    """Squared Frechet distance; FID with an Inception protocol. Lower is better."""
    kernel: float
    """Squared MMD; KID with an Inception protocol, not multiplied by 100 or 1000."""
    kernel_deviation: float | None
    """Over the random subsets; None if all images were used at once."""
    num_real: int
    num_outputs: int
    protocol: Protocol


def compare(real: Statistics, outputs: Statistics) -> DistributionScores:
    """Distances between two sets under the protocol that both were made with.

    Raises:
        ConfigError: the sets were made with different protocols or weights.
        DataError: fewer than 2 images.
    """
    _check_protocol(real.protocol, outputs.protocol, "the statistics of the real images")
    protocol = real.protocol
    a_ND, b_ND = real.features_ND, outputs.features_ND
    deviation: float | None = None
    frechet = frechet_distance(a_ND, b_ND)
    if protocol.kernel_subsets:
        kernel, deviation = kernel_distance_subsets(
            a_ND,
            b_ND,
            subsets=protocol.kernel_subsets,
            subset_size=min(protocol.kernel_subset_size, len(a_ND), len(b_ND)),
            seed=protocol.seed,
        )
    else:
        kernel = kernel_distance(a_ND, b_ND)
    return DistributionScores(
        frechet=frechet,
        kernel=kernel,
        kernel_deviation=deviation,
        num_real=len(real),
        num_outputs=len(outputs),
        protocol=protocol,
    )


# Computing


def file_statistics(
    paths: Sequence[Path],
    protocol: Protocol,
    extractor: Extractor,
    *,
    value_range: ValueRange | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Statistics:
    """Features of image files.

    Args:
        paths: the files.
        protocol: how they become features.
        extractor: the one that the protocol names.
        value_range: of 16-bit and float files, see `images.to_tensor`.
        batch_size: of the extractor.
        progress: for a progress bar.

    Raises:
        DataError: fewer than 2 images, a file that cannot be decoded, or sizes that differ under a
            protocol that does not resize.
        ConfigError: the protocol names another extractor.
    """
    check_count(len(paths), f"Protocol `{protocol.name}`")
    prepared = _prepared_files(paths, protocol, value_range)
    return _statistics(prepared, protocol, extractor, batch_size, progress)


def output_statistics(
    outputs: Iterable[tuple[str, Tensor]],
    protocol: Protocol,
    extractor: Extractor,
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Statistics:
    """Features of images in memory, as if they had been saved and read again.

    Args:
        outputs: names and images [C, H, W] in [-1, 1] with 1 or 3 channels.
        protocol: how they become features.
        extractor: the one that the protocol names.
        batch_size: of the extractor.
        progress: for a progress bar.

    Raises:
        DataError: fewer than 2 images, values that are not finite, or sizes that differ under a
            protocol that does not resize.
        ConfigError: the protocol names another extractor.
    """
    return _statistics(_prepared(outputs, protocol), protocol, extractor, batch_size, progress)


def _prepared_files(
    paths: Iterable[Path], protocol: Protocol, value_range: ValueRange | None
) -> Iterator[tuple[str, Tensor]]:
    for path in paths:
        yield str(path), protocol.prepare(read_image(path, 3), value_range)


def _prepared(
    outputs: Iterable[tuple[str, Tensor]], protocol: Protocol
) -> Iterator[tuple[str, Tensor]]:
    for name, image_CHW in outputs:
        try:
            yield name, protocol.prepare_output(image_CHW)
        except DataError as error:
            raise DataError(f"`{name}`: {error}") from error


def _statistics(
    prepared: Iterable[tuple[str, Tensor]],
    protocol: Protocol,
    extractor: Extractor,
    batch_size: int,
    progress: Progress | None,
    *,
    is_set: bool = True,
) -> Statistics:
    collector = FeatureCollector(protocol, extractor, batch_size=batch_size, progress=progress)
    for name, levels_CHW in prepared:
        collector.add(name, levels_CHW)
    return collector.statistics(is_set=is_set)


# The cache


def cached_statistics(
    paths: Sequence[Path],
    protocol: Protocol,
    extractor: Extractor,
    *,
    value_range: ValueRange | None = None,
    folder: Path | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Statistics:
    """`file_statistics`, from the cache where they are known; one that was interrupted goes on.

    Args:
        paths: the real images.
        protocol: how they become features.
        extractor: the one that the protocol names.
        value_range: as `file_statistics`.
        folder: of the cache; by default `statistics` in `$PATCHKIN_CACHE`.
        batch_size: of the extractor.
        progress: for a progress bar.

    Raises:
        DataError: as `file_statistics`; or a damaged cached file.
        ConfigError: the protocol names another extractor, or a cached file was made with another.
        StorageError: the cache cannot be written.
    """
    check_count(len(paths), f"Protocol `{protocol.name}`")
    protocol = protocol.with_extractor(extractor)
    folder = folder or _own_folder()
    target = _cached_file(folder, paths, protocol, value_range)
    names = tuple(map(str, paths))  # not those of the file: the set may have been copied
    if target.is_file():
        return replace(read_statistics(target, protocol), names=names)
    with storage_errors(folder, advice=_advice(folder)):
        folder.mkdir(parents=True, exist_ok=True)  # before minutes of work, not after
    with alone_at(target, f"computes the same features, into `{folder}`"):
        if target.is_file():
            return replace(read_statistics(target, protocol), names=names)
        return _computed(
            target,
            paths,
            protocol,
            extractor,
            value_range=value_range,
            batch_size=batch_size,
            progress=progress,
        )


def _computed(
    target: Path,
    paths: Sequence[Path],
    protocol: Protocol,
    extractor: Extractor,
    *,
    value_range: ValueRange | None,
    batch_size: int,
    progress: Progress | None,
) -> Statistics:
    """`cached_statistics` of a set that is not known; batches that are there are used."""
    if not _in_batches(protocol):
        statistics = file_statistics(
            paths,
            protocol,
            extractor,
            value_range=value_range,
            batch_size=batch_size,
            progress=progress,
        )
        write_statistics(target, statistics)
        return statistics
    parts, files = [], []
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        files.append(_cached_file(target.parent, batch, protocol, value_range))
        parts.append(_cached_batch(files[-1], batch, protocol, extractor, value_range))
        if progress is not None:
            progress(start + len(batch))
    logits = [part.logits_NK for part in parts if part.logits_NK is not None]
    statistics = Statistics(
        protocol=protocol,
        names=tuple(map(str, paths)),
        features_ND=torch.cat([part.features_ND for part in parts]),
        logits_NK=torch.cat(logits) if logits else None,
    )
    write_statistics(target, statistics)
    for file in files:
        if file != target:
            file.unlink(missing_ok=True)
    return statistics


def fill_statistics(
    paths: Sequence[Path],
    protocol: Protocol,
    extractor: Extractor,
    shard: Shard,
    *,
    value_range: ValueRange | None = None,
    folder: Path | None = None,
    batch_size: int = 16,
) -> None:
    """Put the batches of one part of a set into the cache, where `cached_statistics` joins them.

    Batches are the same whoever computes them, so the joined features are those of one process.

    Args:
        paths: of the whole set; those of other parts may not be there yet.
        protocol: how they become features.
        extractor: the one that the protocol names.
        shard: the part.
        value_range: as `file_statistics`.
        folder: as `cached_statistics`.
        batch_size: as `cached_statistics`.

    Raises:
        DataError, ConfigError, StorageError: as `cached_statistics`.
    """
    protocol = protocol.with_extractor(extractor)
    folder = folder or _own_folder()
    whole = all(file_of(path).is_file() for path in paths)
    if not _in_batches(protocol):
        return
    if whole and _cached_file(folder, paths, protocol, value_range).is_file():
        return
    mine = shard.of(paths, block=batch_size)
    for start in range(0, len(mine), batch_size):
        batch = mine[start : start + batch_size]
        file = _cached_file(folder, batch, protocol, value_range)
        if not file.is_file():
            _cached_batch(file, batch, protocol, extractor, value_range)


def _own_folder() -> Path:
    return cache_folder() / "statistics"


def _advice(folder: Path) -> str:
    """For one that cannot be written, which may be another than the cache's."""
    return ADVICE if folder == _own_folder() else UNTOUCHED


def _in_batches(protocol: Protocol) -> bool:
    """Whether the images of a set need not be seen together: all have one size."""
    return protocol.image_size is not None or protocol.input_size is not None


def _cached_file(
    folder: Path, paths: Sequence[Path], protocol: Protocol, value_range: ValueRange | None
) -> Path:
    key = statistics_key(paths, protocol, value_range)
    return folder / f"{protocol.name}-{key[:32]}.safetensors"


def _cached_batch(
    file: Path,
    batch: Sequence[Path],
    protocol: Protocol,
    extractor: Extractor,
    value_range: ValueRange | None,
) -> Statistics:
    try:
        return read_statistics(file, protocol)
    except DataError:
        if file.is_file():
            raise  # it is damaged; else it is missing, or was joined and removed just now
    prepared = _prepared_files(batch, protocol, value_range)
    statistics = _statistics(prepared, protocol, extractor, len(batch), None, is_set=False)
    write_statistics(file, statistics)
    return statistics


def statistics_key(
    paths: Sequence[Path], protocol: Protocol, value_range: ValueRange | None = None
) -> str:
    """Hash of the images (names below their common folder, and contents), protocol and extractor,
    and of a value range where there is one.

    Raises:
        DataError: if a file cannot be read.
    """
    common = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    digest = hashlib.sha256(json.dumps(to_plain(protocol), sort_keys=True).encode())
    contents: dict[Path, str] = {}
    for path in paths:
        file = file_of(path)
        try:
            contents[file] = contents.get(file) or file_sha256(file)
        except OSError as error:
            raise DataError(f"Cannot read `{path}`: {error.strerror or error}.") from error
        name = path.absolute().relative_to(common).as_posix()
        digest.update(f"\0{name}\0{contents[file]}".encode())
    if value_range is not None:
        digest.update(json.dumps(["value range", *map(float, value_range)]).encode())
    return digest.hexdigest()


def write_statistics(path: Path, statistics: Statistics) -> None:
    """Write a safetensors file with protocol and names in its header; whole or not at all.

    Raises:
        StorageError: if it cannot be written.
    """
    header = {"protocol": to_plain(statistics.protocol), "names": statistics.names}
    tensors = {"features": statistics.features_ND.contiguous()}
    if statistics.logits_NK is not None:
        tensors["logits"] = statistics.logits_NK.contiguous()
    metadata = {_METADATA: json.dumps(header)}
    write_bytes(path, save(tensors, metadata), advice=_advice(path.parent))


def read_statistics(path: Path, protocol: Protocol | None = None) -> Statistics:
    """The inverse of `write_statistics`.

    Args:
        path: the file.
        protocol: the one in use, with the hash of its extractor; None accepts any.

    Raises:
        DataError: the file is missing, damaged, or holds no statistics.
        ConfigError: it was made with another extractor, other weights or another protocol.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, Any] = parsed((file.metadata() or {})[_METADATA])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            statistics = Statistics(
                protocol=from_plain(Protocol, header["protocol"], where=f"`{path}`"),
                names=tuple(header["names"]),
                features_ND=tensors["features"],
                logits_NK=tensors.get("logits"),
            )
    except PatchkinError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise DataError(
            f"`{path}` cannot be read as statistics of images ({reason}); remove it."
        ) from error
    if protocol is not None:
        _check_protocol(statistics.protocol, protocol, f"`{path}`")
    return statistics


def _check_protocol(found: Protocol, wanted: Protocol, where: str) -> None:
    for field, about in (
        ("extractor", "the extractor"),
        ("extractor_sha256", "an extractor whose weights have sha256"),
    ):
        a, b = getattr(found, field), getattr(wanted, field)
        if a != b:
            raise ConfigError(
                f"{where} came from {about} `{a[:16]}`, this score uses `{b[:16]}`: the features "
                "are not comparable. Use the same weights, or compute the statistics again."
            )
    plain_a, plain_b = to_plain(found), to_plain(wanted)
    for field in plain_a:
        if plain_a[field] != plain_b[field]:
            raise ConfigError(
                f"{where} followed another protocol: `{field}` is {plain_a[field]!r}, this score "
                f"uses {plain_b[field]!r}. Compute the statistics again."
            )
