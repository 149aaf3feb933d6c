"""Whole runs: a configuration becomes data, a method, and a trained model in a folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

from patchkin.config import from_plain, merge, to_plain, to_yaml
from patchkin.data.config import DataConfig
from patchkin.data.datasets import UnpairedBatch
from patchkin.data.domains import (
    DomainBatch,
    domain_images,
    domain_loader,
    find_domain_files,
    open_domain_data,
)
from patchkin.data.layouts import TOY
from patchkin.data.loading import (
    evaluation_images,
    open_training_data,
    training_loader,
)
from patchkin.data.paired import (
    PairedBatch,
    evaluation_pairs,
    open_paired_data,
    paired_loader,
)
from patchkin.data.single import SingleImageDataset
from patchkin.data.steps import steps_per_epoch
from patchkin.data.toy import mask_file, truth_file
from patchkin.data.verify import Broken
from patchkin.errors import CheckpointError, ConfigError, DataError, nearest
from patchkin.method import Method, Preset
from patchkin.metrics import mean_scores, score_against_counterpart
from patchkin.metrics.extractors import make_extractor
from patchkin.metrics.protocols import find_protocol
from patchkin.randomness import derive_seed
from patchkin.schedules import ScheduleConfig
from patchkin.scoring.evaluate import ValidationScores
from patchkin.scoring.report import write_report
from patchkin.scoring.styles import DomainValidation
from patchkin.storage.atomic import remove_folder, storage_errors, write_json, write_text
from patchkin.storage.checkpoint import CheckpointStore, ModelHeader
from patchkin.storage.locks import FolderLock
from patchkin.training import Scorer, TrainingConfig, fit
from patchkin.training.collectives import by_first_process
from patchkin.training.fabric import Fabric
from patchkin.training.launch import launch

C = TypeVar("C")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig(Generic[C]):
    """Everything a run depends on; `config.yaml` of a run folder."""

    method: C
    """Of the method's own type."""
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


def choose_preset(kind: type[Method], name: str | None, *, toy: bool) -> Preset:
    """A preset by name; unless named, `toy` for toy data, else the method's first.

    Raises:
        ConfigError: the method has no preset of this name; the nearest is offered.
    """
    if name is None:
        name = TOY if toy and TOY in kind.presets else next(iter(kind.presets))
    if name not in kind.presets:
        raise ConfigError(f"`{kind.name}` has no preset `{name}`. {nearest(name, kind.presets)}")
    return kind.presets[name]


def preset_config(preset: Preset) -> RunConfig[Any]:
    """The run that a preset stands for."""
    return RunConfig(method=preset.method, data=preset.data, schedule=preset.schedule)


def config_to_plain(kind: type[Method], config: RunConfig[Any]) -> dict[str, Any]:
    """As written to `config.yaml`: the method's name, then the four parts."""
    parts = {
        part: to_plain(getattr(config, part)) for part in ("method", "data", "schedule", "training")
    }
    return {"name": kind.name, **parts}


def config_from_plain(
    kind: type[Method], default: RunConfig[Any], plain: Mapping[str, Any], *, where: str
) -> RunConfig[Any]:
    """A configuration with the settings of a (partial) mapping laid over a default.

    Raises:
        ConfigError: a key or value that does not belong; the nearest key is offered.
    """
    parts = {
        "method": kind.config_type,
        "data": DataConfig,
        "schedule": ScheduleConfig,
        "training": TrainingConfig,
    }
    for key in plain:
        if key not in (*parts, "name"):
            raise ConfigError(f"Unknown key `{key}` in {where}. {nearest(key, (*parts, 'name'))}")
    named = plain.get("name", kind.name)
    if named != kind.name:
        raise ConfigError(f"{where} configures `{named}`, not `{kind.name}`.")
    built: dict[str, Any] = {
        part: from_plain(
            part_kind,
            merge(to_plain(getattr(default, part)), plain.get(part) or {}),
            where=f"`{part}` of {where}",
        )
        for part, part_kind in parts.items()
    }
    return RunConfig(**built)


def train(
    kind: type[Method],
    config: RunConfig[Any],
    run_dir: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    begin: Callable[[Method], None] = lambda _: None,
) -> Path | None:
    """Train a method as configured; returns the path of the report, in the first process only.

    Args:
        kind: the method.
        config: everything else.
        run_dir: folder of the run, made if it is not there.
        resume: continue the run that the folder holds.
        overwrite: replace the run that the folder holds.
        begin: given the untrained method of a fresh run, to fill networks that do not start from
            random weights; called in every process.

    Raises:
        InUseError: another process trains in the folder.
        PatchkinError: the data, the folder or the machine does not allow it, or the run failed
            for a reason that the user can mend.
    """
    fabric = launch(config.training)
    lock = FolderLock(run_dir, remedy="choose another --run-dir")
    try:
        by_first_process(fabric, lock.acquire_if_there)
        return _train(
            kind, config, run_dir, resume=resume, overwrite=overwrite, begin=begin,
            fabric=fabric, lock=lock,
        )  # fmt: skip
    finally:
        lock.release()


def _train(
    kind: type[Method],
    config: RunConfig[Any],
    run_dir: Path,
    *,
    resume: bool,
    overwrite: bool,
    begin: Callable[[Method], None],
    fabric: Fabric,
    lock: FolderLock,
) -> Path | None:
    if resume:
        _require_a_run(run_dir)
    elif not overwrite:
        _refuse_a_run(run_dir)
    domains: tuple[str, ...] = ()
    if kind.batch_type is DomainBatch:
        domains = find_domain_files(config.data).names
        config = _for_domains(config, domains, run_dir if resume else None)
    torch.manual_seed(derive_seed(config.training.seed, "weights"))
    method = kind(config.method)
    if not resume:
        begin(method)
    _check_fit(method, config.data)
    _check_domains(method, domains)
    data = _source_kind(method)(
        config,
        channels=method.channels,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        pin_memory=fabric.device.type == "cuda",
        known_broken=_read_manifest(run_dir) if resume else None,
    )
    if not resume and fabric.is_global_zero:
        for broken in data.opened.broken:
            logger.warning("left out: %s", broken.reason)

    def write_settings() -> None:
        if not resume:  # not before the data is there, and may replace another run
            _make_folder(run_dir, lock, overwrite=overwrite)
        write_text(run_dir / "config.yaml", to_yaml(config_to_plain(kind, config)))
        _write_manifest(run_dir, data.opened.broken, domains)

    by_first_process(fabric, write_settings)
    header = ModelHeader(
        method=kind.name,
        config=to_plain(config.method),
        size=config.data.size,
        encoding={
            "value_range": config.data.value_range,
            **({"domains": list(domains)} if domains else {}),
        },
    )
    fit(
        method,
        data,
        run_dir,
        fabric=fabric,
        schedule=config.schedule,
        training=config.training,
        header=header,
        scorer=data.scorer(),
        resume=resume,
    )
    return write_report(run_dir) if fabric.is_global_zero else None


def _for_domains(
    config: RunConfig[Any], domains: tuple[str, ...], resumed: Path | None
) -> RunConfig[Any]:
    """The configuration with as many domains as the data has, and networks no larger than views.

    Raises:
        DataError: the run to resume was started with others.
    """
    if resumed is not None:
        known = tuple(_manifest(resumed).get("domains", domains))
        if known != domains:
            raise DataError(
                f"The run in `{resumed}` has the domains {', '.join(known)}; the data now has "
                f"{', '.join(domains)}. Restore the folders, or start another run."
            )
        return config
    method = _with_setting(config.method, "num_domains", len(domains))
    if method != config.method:
        logger.warning("%d domains, as the data has: %s", len(domains), ", ".join(domains))
    if config.data.size < _smallest_setting(method, "image_size"):
        logger.warning("networks for images of %d pixels, as --size says", config.data.size)
        method = _with_setting(method, "image_size", config.data.size)
    return replace(config, method=method)


def _with_setting(config: Any, name: str, value: Any) -> Any:
    """A configuration with a setting changed, in whichever of its parts it stands."""
    parts = {f.name: getattr(config, f.name) for f in fields(config)}
    nested = {
        key: _with_setting(part, name, value) for key, part in parts.items() if is_dataclass(part)
    }
    own = {name: value} if name in parts else {}
    return replace(config, **nested, **own)


def _smallest_setting(config: Any, name: str) -> int:
    """The least value of a setting among the parts of a configuration that have it; 0 if none."""
    values = [getattr(config, name)] if hasattr(config, name) else []
    parts = [getattr(config, f.name) for f in fields(config)]
    values += [_smallest_setting(part, name) for part in parts if is_dataclass(part)]
    return min((value for value in values if value), default=0)


def _check_domains(method: Method, domains: tuple[str, ...]) -> None:
    number = getattr(method, "num_domains", len(domains))
    if domains and number != len(domains):
        raise ConfigError(
            f"`{method.name}` translates into {number} domains; the data has {len(domains)}: "
            f"{', '.join(domains)}."
        )


def _check_fit(method: Method, data: DataConfig) -> None:
    """Refuse views and batches that the networks cannot take, before any image is read."""
    if data.size < method.min_training_size:
        raise ConfigError(
            f"--size {data.size} is smaller than the networks can take; "
            f"use at least {method.min_training_size}."
        )
    if data.size % method.multiple_of:
        raise ConfigError(
            f"--size {data.size}: the networks of `{method.name}` take multiples of "
            f"{method.multiple_of}."
        )
    if data.batch_size < method.min_batch_size:
        raise ConfigError(
            f"--batch-size {data.batch_size}: `{method.name}` compares the images of a batch; "
            f"use at least {method.min_batch_size}."
        )


class UnpairedRun:
    """Two unpaired domains as a `BatchSource` of the training loop, and their scores."""

    def __init__(
        self,
        config: RunConfig[Any],
        *,
        channels: tuple[int, int],
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        known_broken: Sequence[Broken] | None = None,
    ) -> None:
        self.opened = open_training_data(
            config.data,
            seed=config.training.seed,
            channels=channels,
            known_broken=known_broken,
            validate=config.training.score_every > 0,
        )
        self.steps_per_epoch = steps_per_epoch(
            len(self.opened.dataset), config.data.batch_size, world_size
        )
        self._config = config
        self._channels = channels
        self._processes = {"rank": rank, "world_size": world_size}
        self._pin_memory = pin_memory

    def batches(self, start_step: int, total_steps: int) -> Iterable[UnpairedBatch]:
        """See `patchkin.training.BatchSource`."""
        return training_loader(
            self.opened.dataset,
            start_step=start_step,
            total_steps=total_steps,
            batch_size=self._config.data.batch_size,
            workers=self._config.data.workers,
            pin_memory=self._pin_memory,
            jitter_steps=_jitter_steps(self._config.schedule, self.steps_per_epoch),
            **self._processes,
        )

    def preview_batch(self) -> UnpairedBatch | None:
        """The first held-out images of both domains; training images if nothing is held out, and
        whole where a domain is one image.
        """
        domains = self.opened.domains
        if isinstance(self.opened.dataset, SingleImageDataset):
            return self.opened.dataset.overview()
        a = self._images(domains.val_a or domains.test_a or domains.train_a, self._channels[0])
        b = self._images(domains.val_b or domains.test_b or domains.train_b, self._channels[1])
        num_images = min(len(a), len(b))
        return UnpairedBatch(a[:num_images], b[:num_images])

    def _images(self, files: Sequence[Path], channels: int, limit: int = 6) -> Tensor:
        batches = evaluation_images(
            files[:limit],
            size=self._config.data.size,
            channels=channels,
            value_range=self._config.data.value_range,
        )
        return torch.cat([batch.images_BCHW for batch in batches])

    def scorer(self) -> Scorer | None:
        """Scores of the validation images: against their hidden counterparts where they have any,
        else by protocol and content if scores were asked for.
        """
        files = self.opened.domains.val_a
        if files and all(truth_file(path).is_file() for path in files):
            return self._counterpart_scorer(files)
        return self._protocol_scorer() if self._config.training.score_every else None

    def _protocol_scorer(self) -> Scorer:
        training, domains = self._config.training, self.opened.domains
        extractor, protocol = None, None
        if training.score_weights is not None:
            protocol = find_protocol(training.score_protocol)
            extractor = make_extractor(protocol.extractor, training.score_weights)
        scores = ValidationScores(
            inputs=domains.val_a,
            real=domains.val_b,
            size=self._config.data.size,
            extractor=extractor,
            protocol=protocol,
            classes=training.score_classes,
        )
        return Scorer(score=scores, primary=scores.primary, higher_is_better=False)

    def _counterpart_scorer(self, files: Sequence[Path]) -> Scorer:
        inputs = self._images(files, self._channels[0], limit=len(files))
        truths = self._images(
            [truth_file(path) for path in files], self._channels[1], limit=len(files)
        )
        masks = self._images([mask_file(path) for path in files], 1, limit=len(files))[:, 0] > 0

        def score(method: Method) -> dict[str, float]:
            device = next(method.parameters()).device
            outputs = [method.translate(x[None].to(device))[0].float().cpu() for x in inputs]
            return scores_of(outputs)

        def scores_of(outputs: Iterable[Tensor]) -> dict[str, float]:
            rows = zip(outputs, inputs, truths, masks, strict=True)
            return mean_scores([score_against_counterpart(*row) for row in rows])

        return Scorer(
            score=score,
            primary="tone_inside",
            higher_is_better=False,
            baseline=scores_of(inputs),
        )


class PairedRun:
    """Side-by-side pairs as a `BatchSource` of the training loop."""

    def __init__(
        self,
        config: RunConfig[Any],
        *,
        channels: tuple[int, int],
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        known_broken: Sequence[Broken] | None = None,
    ) -> None:
        self.opened = open_paired_data(
            config.data, seed=config.training.seed, channels=channels, known_broken=known_broken
        )
        self.steps_per_epoch = steps_per_epoch(
            len(self.opened.dataset), config.data.batch_size, world_size
        )
        self._config = config
        self._channels = channels
        self._processes = {"rank": rank, "world_size": world_size}
        self._pin_memory = pin_memory

    def batches(self, start_step: int, total_steps: int) -> Iterable[PairedBatch]:
        """See `patchkin.training.BatchSource`."""
        return paired_loader(
            self.opened.dataset,
            start_step=start_step,
            total_steps=total_steps,
            batch_size=self._config.data.batch_size,
            workers=self._config.data.workers,
            pin_memory=self._pin_memory,
            jitter_steps=_jitter_steps(self._config.schedule, self.steps_per_epoch),
            **self._processes,
        )

    def preview_batch(self) -> PairedBatch | None:
        """The first held-out pairs; training pairs if nothing is held out."""
        pairs = self.opened.pairs
        files = (pairs.val or pairs.test or pairs.train)[:6]
        return evaluation_pairs(files, self._config.data, self._channels)

    def scorer(self) -> Scorer | None:
        """None yet: the terms of the loss say what the truth says."""
        return None


class DomainRun:
    """Several domains as a `BatchSource` of the training loop, and their scores."""

    def __init__(
        self,
        config: RunConfig[Any],
        *,
        channels: tuple[int, int],
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        known_broken: Sequence[Broken] | None = None,
    ) -> None:
        self.opened = open_domain_data(
            config.data,
            seed=config.training.seed,
            channels=channels[0],
            known_broken=known_broken,
            validate=config.training.score_every > 0,
        )
        self.steps_per_epoch = steps_per_epoch(
            len(self.opened.dataset), config.data.batch_size, world_size
        )
        self._config = config
        self._channels = channels[0]
        self._processes = {"rank": rank, "world_size": world_size}
        self._pin_memory = pin_memory

    def batches(self, start_step: int, total_steps: int) -> Iterable[DomainBatch]:
        """See `patchkin.training.BatchSource`."""
        return domain_loader(
            self.opened.dataset,
            start_step=start_step,
            total_steps=total_steps,
            batch_size=self._config.data.batch_size,
            workers=self._config.data.workers,
            pin_memory=self._pin_memory,
            **self._processes,
        )

    def preview_batch(self) -> DomainBatch:
        """Held-out images of all domains, each with references of another; training images if
        nothing is held out.
        """
        files = self.opened.files
        held_out = files.val or files.test or files.train
        number = len(files.names)
        rows = [
            (row % number, (row + 1 + index % (number - 1)) % number, index)
            for row in range(max(6, number))
            for index in (row // number,)
        ]

        def images(domains: Iterable[int], shift: int) -> Tensor:
            paths = [
                held_out[domain][(index + shift) % len(held_out[domain])]
                for domain, (_, _, index) in zip(domains, rows, strict=True)
            ]
            return domain_images(
                paths,
                size=self._config.data.size,
                channels=self._channels,
                value_range=self._config.data.value_range,
            )

        sources, targets = [row[0] for row in rows], [row[1] for row in rows]
        return DomainBatch(
            x_BCHW=images(sources, 0),
            domain_B=torch.tensor(sources),
            reference_BCHW=images(targets, 0),
            second_reference_BCHW=images(targets, 1),
            target_B=torch.tensor(targets),
        )

    def scorer(self) -> Scorer | None:
        """Scores of the validation images: against their hidden counterparts where they have any,
        else by protocol and change if scores were asked for.
        """
        training, files = self._config.training, self.opened.files
        if not files.val:
            return None
        limit = self._config.data.validation_images
        validation = DomainValidation(
            names=files.names,
            paths=tuple(paths[:limit] for paths in files.val),
            size=self._config.data.size,
            channels=self._channels,
            value_range=self._config.data.value_range,
        )
        if validation.has_truth:
            baseline = validation.baseline()
        elif not training.score_every:
            return None
        else:
            baseline = None
            if training.score_weights is not None:
                protocol = find_protocol(training.score_protocol)
                extractor = make_extractor(protocol.extractor, training.score_weights)
                validation = replace(validation, protocol=protocol, extractor=extractor)
        return Scorer(
            score=validation,
            primary=validation.primary,
            higher_is_better=False,
            baseline=baseline,
        )


Source: TypeAlias = UnpairedRun | PairedRun | DomainRun
SOURCES: dict[type, type[Source]] = {
    UnpairedBatch: UnpairedRun,
    PairedBatch: PairedRun,
    DomainBatch: DomainRun,
}
"""What a method's `batch_type` asks for."""


def _source_kind(method: Method) -> type[Source]:
    source = SOURCES.get(method.batch_type)
    if source is None:
        known = ", ".join(batch_type.__name__ for batch_type in SOURCES)
        raise ConfigError(
            f"`{method.name}` asks for batches of type {method.batch_type.__name__}; "
            f"known: {known}."
        )
    return source


def _jitter_steps(schedule: ScheduleConfig, steps_per_epoch: int) -> int:
    """Steps before the learning rate falls."""
    units = schedule.steps or schedule.epochs
    constant_units = units - round(units * schedule.decay_fraction)
    return constant_units * (1 if schedule.steps else steps_per_epoch)


def _require_a_run(run_dir: Path) -> None:
    store = CheckpointStore(run_dir)
    if not store.steps():
        raise CheckpointError(f"There is no checkpoint in `{store.folder}` to resume from.")


def _refuse_a_run(run_dir: Path) -> None:
    if CheckpointStore(run_dir).steps():
        raise CheckpointError(
            f"`{run_dir}` holds a run. Continue it with --resume, replace it with "
            "--overwrite, or choose another --run-dir."
        )


def _make_folder(run_dir: Path, lock: FolderLock, *, overwrite: bool) -> None:
    """The folder of a fresh run, without what an earlier one left there."""
    with storage_errors(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
    lock.acquire()
    if not overwrite:  # another process may have begun and ended while the data was read
        _refuse_a_run(run_dir)
    for name in ("checkpoints", "previews"):
        remove_folder(run_dir / name)
    write_text(run_dir / "log.jsonl", "")


def _write_manifest(run_dir: Path, broken: Sequence[Broken], domains: Sequence[str]) -> None:
    """What a resumed run must find again: the files that were left out, and the domains."""
    listed = [{"path": str(entry.path), "reason": entry.reason} for entry in broken]
    manifest = {"broken": listed, **({"domains": list(domains)} if domains else {})}
    write_json(run_dir / "data.json", manifest)


def _manifest(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "data.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except ValueError as error:
        raise CheckpointError(f"`{path}` is damaged: {error}.") from error


def _read_manifest(run_dir: Path) -> list[Broken] | None:
    path = run_dir / "data.json"
    if not path.is_file():
        return None
    try:
        listed = _manifest(run_dir)["broken"]
        return [Broken(Path(entry["path"]), entry["reason"]) for entry in listed]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"`{path}` is damaged: {error}.") from error
