"""Whole runs: a configuration becomes data, a method, and a trained model in a folder."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from patchkin.config import to_plain
from patchkin.data.domains import DomainBatch, find_domain_files
from patchkin.data.record import record_files
from patchkin.errors import CheckpointError, ConfigError
from patchkin.images.limits import allow_pixels
from patchkin.method import Method
from patchkin.randomness import derive_seed
from patchkin.runs.announcement import header, session
from patchkin.runs.config import RunConfig, from_anywhere, with_domains, without_folders
from patchkin.runs.resuming import (
    KnownData,
    Resumption,
    check_domains_of_run,
    write_config,
    write_data,
)
from patchkin.runs.sources import Process, source_of
from patchkin.runs.starting import Beginning, begin_from
from patchkin.runs.views import check_settings, check_sizes, check_sizes_of_processes
from patchkin.scoring.report import write_report
from patchkin.scoring.results import SCORES_FILE
from patchkin.storage.atomic import remove_folder, storage_errors, write_text
from patchkin.storage.checkpoint import CheckpointStore, ModelHeader
from patchkin.storage.locks import FolderLock
from patchkin.training import fit
from patchkin.training.collectives import by_first_process
from patchkin.training.fabric import Fabric
from patchkin.training.launch import launch
from patchkin.training.loggers import OpenLogger, find_loggers
from patchkin.training.siblings import ending_together
from patchkin.training.stopping import interrupted_by_sigterm

logger = logging.getLogger(__name__)
_FOLDERS_OF_A_RUN = ("checkpoints", "previews")
_FOLDERS_ABOUT_A_MODEL = ("evaluation", "inspection", "search", "tensorboard")
_FILES_ABOUT_A_MODEL = (SCORES_FILE, "report.html")
"""What was said of a model that is replaced, and would be taken for what is said of the next."""


def train(
    kind: type[Method],
    config: RunConfig[Any],
    run_dir: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    change: bool = False,
    allow_changed_data: bool = False,
    begin: Callable[[Method], None] = lambda _: None,
    loggers: Mapping[str, OpenLogger] | None = None,
) -> Path | None:
    """Train a method as configured; returns the path of the report, in the first process only.

    Args:
        kind: the method.
        config: everything else.
        run_dir: folder of the run, made if it is not there.
        resume: continue the run that the folder holds.
        overwrite: replace the run that the folder holds.
        change: let settings that change what is computed hold from where it is resumed.
        allow_changed_data: go on with other files than the run began with.
        begin: given the untrained method of a fresh run, to fill networks that do not start from
            random weights; called in every process.
        loggers: told beside the log, by name, with those of the configuration.

    Raises:
        InUseError: another process trains in the folder.
        PatchkinError: the data, the folder or the machine does not allow it, or the run failed
            for a reason that the user can mend.
    """
    config = from_anywhere(config)
    allow_pixels(config.data.max_pixels)
    beside = {**find_loggers(config.training.log), **(loggers or {})}
    lock = FolderLock(run_dir, remedy="choose another --run-dir")
    with ending_together():
        fabric = launch(config.training)
        with interrupted_by_sigterm():
            try:
                by_first_process(fabric, lock.acquire_if_there)
                return _train(
                    kind, config, run_dir, resume=resume, overwrite=overwrite, change=change,
                    allow_changed_data=allow_changed_data, begin=begin, loggers=beside,
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
    change: bool,
    allow_changed_data: bool,
    begin: Callable[[Method], None],
    loggers: Mapping[str, OpenLogger],
    fabric: Fabric,
    lock: FolderLock,
) -> Path | None:
    if resume:
        _require_a_run(run_dir)
    elif not overwrite:
        _refuse_a_run(run_dir)
    resumption: Resumption | None = None
    images_per_step = config.data.batch_size * fabric.world_size
    if resume:
        resumption = Resumption(
            kind, run_dir, config, images_per_step=images_per_step, change=change,
            allow_changed_data=allow_changed_data,
        )  # fmt: skip
        by_first_process(fabric, resumption.check_settings)
    config, domains = _with_domains(kind, config, run_dir, resume=resume)
    torch.manual_seed(derive_seed(config.training.seed, "weights"))
    method = kind(config.method)
    beginning: Beginning | None = None
    if not resume:
        begin(method)
        config, beginning = _begun(method, config)
    check_settings(method, config.data, processes=fabric.world_size)
    if not resume:
        check_sizes(method, config.data)
    if fabric.world_size > 1:
        check_sizes_of_processes(method, config.data)
    _check_domains(method, domains)
    known = resumption.known_data() if resumption else KnownData(None, None)
    data = source_of(method)(
        config,
        channels=method.channels,
        multiple_of=method.multiple_of,
        process=Process(
            rank=fabric.global_rank,
            world_size=fabric.world_size,
            pin_memory=fabric.device.type == "cuda",
        ),
        known_broken=known.broken,
        known_val=known.val,
    )
    if not resume and fabric.is_global_zero:
        for broken in data.opened.broken:
            logger.warning("left out: %s", broken.reason)

    record = record_files(data.files(), config.data) if fabric.is_global_zero else {}

    def write_files() -> None:
        write_data(
            run_dir,
            broken=data.opened.broken,
            domains=domains,
            record=record,
            images_per_step=images_per_step,
        )

    def begin_folder() -> None:  # not before the data is there, and may replace another run
        _make_folder(run_dir, lock, overwrite=overwrite)
        write_config(kind, config, run_dir)
        write_files()

    def start(step: int, log: Callable[[Mapping[str, Any]], None]) -> None:
        """Changes are logged first: what is written next forgets what it was."""
        if resumption is not None:
            for told in resumption.told(step):
                log({"step": step, **told})
            resumption.write(step)
            write_files()
        log({"step": step, "session": session(method, config, fabric)})
        if beginning is not None:
            log({"step": step, "begun_from": beginning.plain()})

    by_first_process(
        fabric, partial(resumption.check_files, record) if resumption else begin_folder
    )
    if fabric.is_global_zero:
        lines = header(
            method, config, run_dir, data.files(), fabric=fabric,
            steps_per_epoch=data.steps_per_epoch,
        )  # fmt: skip
        lines += beginning.told() if beginning is not None else []
        sys.stderr.write("".join(f"{line}\n" for line in lines))
    model_header = ModelHeader(
        method=kind.name,
        config=to_plain(without_folders(config.method)),
        size=config.data.size,
        encoding={
            "value_range": config.data.value_ranges[0],  # alone read by earlier versions
            "value_ranges": config.data.value_ranges,
            **({"domains": list(domains)} if domains else {}),
            "typical_sizes": data.typical_sizes(),
        },
    )
    fit(
        method,
        data,
        run_dir,
        fabric=fabric,
        schedule=config.schedule,
        training=config.training,
        header=model_header,
        scorer=data.scorer(),
        loggers=loggers,
        resume=resume,
        on_start=start,
    )
    return write_report(run_dir) if fabric.is_global_zero else None


def _with_domains(
    kind: type[Method], config: RunConfig[Any], run_dir: Path, *, resume: bool
) -> tuple[RunConfig[Any], tuple[str, ...]]:
    """The configuration with as many domains as the data has, and their names, if any."""
    if kind.batch_type is not DomainBatch:
        return config, ()
    domains = find_domain_files(config.data).names
    if not resume:
        return with_domains(config, domains), domains
    check_domains_of_run(domains, run_dir)
    return config, domains


def _begun(method: Method, config: RunConfig[Any]) -> tuple[RunConfig[Any], Beginning | None]:
    """An untrained method with the weights that its run begins from, which the settings name."""
    training = config.training
    if training.start_from is None:
        return config, None
    beginning = begin_from(method, training.start_from, sha256=training.start_sha256)
    return replace(config, training=replace(training, start_sha256=beginning.sha256)), beginning


def _check_domains(method: Method, domains: tuple[str, ...]) -> None:
    number = getattr(method, "num_domains", len(domains))
    if domains and number != len(domains):
        raise ConfigError(
            f"`{method.name}` translates into {number} domains; the data has {len(domains)}: "
            f"{', '.join(domains)}."
        )


def _require_a_run(run_dir: Path) -> None:
    store = CheckpointStore(run_dir)
    if not store.steps():
        config = run_dir / "config.yaml"
        again = f"--config {shlex.quote(str(config))} --run-dir {shlex.quote(str(run_dir))}"
        advice = (
            "The run ended before its first one was saved (--save-every). Start it again: "
            f"`train {again}`."
            if config.is_file()
            else "Start a run: `train METHOD --data ROOT --run-dir FOLDER`."
        )
        raise CheckpointError(f"There is no checkpoint in `{run_dir}` to resume from. {advice}")


def _refuse_a_run(run_dir: Path) -> None:
    if CheckpointStore(run_dir).steps():
        raise CheckpointError(
            f"`{run_dir}` holds a run. Continue it with --resume, replace it with "
            "--overwrite, or choose another --run-dir."
        )
    if (run_dir / SCORES_FILE).is_file():
        raise CheckpointError(
            f"`{run_dir}` holds the scores of an earlier run ({SCORES_FILE}), which would be taken "
            "for those of this one. Remove them with --overwrite, or choose another --run-dir."
        )


def _make_folder(run_dir: Path, lock: FolderLock, *, overwrite: bool) -> None:
    """The folder of a fresh run, without what an earlier one left there."""
    with storage_errors(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
    lock.acquire()
    if not overwrite:  # another process may have begun and ended while the data was read
        _refuse_a_run(run_dir)
    for name in (*_FOLDERS_OF_A_RUN, *(_FOLDERS_ABOUT_A_MODEL if overwrite else ())):
        remove_folder(run_dir / name)
    for name in _FILES_ABOUT_A_MODEL if overwrite else ():
        with storage_errors(run_dir / name):
            (run_dir / name).unlink(missing_ok=True)
    write_text(run_dir / "log.jsonl", "")
