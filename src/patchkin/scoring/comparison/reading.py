"""What the arguments of `compare` stand for: run folders, models, folders of translations, and
files of results.

Results of a model or a folder are those in the file of results beside it and in those that are
named; they belong to it by the hash of its weights, or by the folder.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patchkin.config import read_yaml
from patchkin.errors import ConfigError, DataError
from patchkin.images.folders import find_images
from patchkin.scoring.comparison.scored import TEST, VALIDATION, Images, Key, Scored
from patchkin.scoring.own_data import CONFIG_FILE, full_name, names_of_own_data, own_name, run_of
from patchkin.scoring.report import as_written, read_log
from patchkin.scoring.results import SCORES_FILE, read_results
from patchkin.storage.checkpoint import CheckpointStore, find_model, read_header
from patchkin.storage.hashes import file_sha256

_ASKED_BY = {
    "classes": ("class_top1", "class_top5"),
    "masks": ("change_inside", "change_outside"),
    "lpips": ("collapse_outputs", "collapse_ratio", "lpips", "lpips_diversity"),
    "judge": ("mAP", "pixAcc", "classAcc", "classAcc_over_all", "mIoU", "mIoU_fraction"),
}
"""Which setting of an evaluation a score depends on, by the last part of its name."""


@dataclass(kw_only=True)
class _Measured:
    """Scores of one subject, as they are found."""

    values: dict[Key, dict[int, float]] = field(default_factory=dict)
    results: dict[Key, Mapping[str, Any]] = field(default_factory=dict)

    def add(self, score: str, images: Images, step: int, value: float) -> None:
        """The later of two counts, and its images come last."""
        found = self.values.pop((score, images), {})
        self.values[score, images] = {**found, step: value}


def read_all(paths: Sequence[str]) -> list[Scored]:
    """What the arguments stand for, in their order; then what only files of results tell of.

    Raises:
        ConfigError: an argument is none of what can be compared.
        CheckpointError: a model that cannot be read.
        DataError: a file of results that cannot be.
    """
    named = [Path(path) for path in paths]
    files = [path for path in named if path.suffix == ".json" and path.is_file()]
    subjects = [_read(path, files) for path in named if path not in files]
    known = {_file_of(subject.folder) for subject in subjects}
    for file in files:
        run = file.parent
        if file.name == SCORES_FILE and _is_run(run):
            subjects += [read_run(run)] if _file_of(run) not in known else []
        else:
            subjects += _only_told(file, subjects)
    return subjects


def _read(path: Path, files: Sequence[Path]) -> Scored:
    if _is_run(path):
        return read_run(path, files)
    if path.suffix.lower() in (".pth", ".pt", ".ckpt") and path.is_file():
        raise ConfigError(
            f"`{path}` is a checkpoint of another project; make a model of it: patchkin "
            f"import-weights {shlex.quote(str(path))}"
        )
    if path.is_dir() and not CheckpointStore(path).steps() and find_images(path).files:
        return read_folder(path, files)
    return read_model(path, files)


def _is_run(path: Path) -> bool:
    return (path / CONFIG_FILE).is_file()


def _file_of(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - links stay


# Runs


def read_run(folder: Path, files: Sequence[Path] = ()) -> Scored:
    """The scores in a run folder.

    Args:
        folder: of the run.
        files: further files of results, which may have some of its checkpoints.

    Raises:
        ConfigError: the folder holds no run.
    """
    if not _is_run(folder):
        raise ConfigError(f"`{folder}` holds no run: it has no config.yaml.")
    with as_written(folder):
        return _read_run(folder, files)


def _read_run(folder: Path, files: Sequence[Path]) -> Scored:
    config = read_yaml(folder / CONFIG_FILE)
    records = read_log(folder)
    log = folder / "log.jsonl"
    if not records and log.is_file() and log.stat().st_size:
        raise ValueError("no line of the log is a record")
    data = config.get("data") or {}
    own = Images(split=TEST, data=own_name(folder), direction=str(data.get("direction", "AtoB")))
    measured = _Measured()
    for result in _results_of_run(folder, files):
        step = result["subject"].get("step")
        if step is not None:
            _add_result(measured, result, step, _images_of_run(folder, config, own, result))
    pixels = (("size", f"{data['size']} pixels"),) if "size" in data else ()
    scored = [record for record in records if "scores" in record]
    for record in scored:
        for score, value in record["scores"].items():
            images = Images(split=VALIDATION, data=own.data, direction=own.direction, more=pixels)
            measured.add(score, images, record["step"], value)
    file = config.get("file")
    return Scored(
        folder=folder,
        name=config["name"],
        seed=config["training"]["seed"],
        settings=_settings(config),
        last_step=max((record["step"] for record in records), default=0),
        best_step=max((r["step"] for r in scored if r.get("best")), default=None),
        own=own,
        program=f"python {shlex.quote(file)}" if file else "patchkin",
        measured=measured.values,
        results=measured.results,
    )


def _results_of_run(folder: Path, files: Sequence[Path]) -> Iterable[dict[str, Any]]:
    yield from read_results(folder / SCORES_FILE)
    hashes = {}
    for step in CheckpointStore(folder).steps() if files else ():
        hashes[file_sha256(find_model(CheckpointStore(folder).path(step)))] = step
    for file in files:
        if _file_of(file) != _file_of(folder / SCORES_FILE):
            yield from (r for r in read_results(file) if r["subject"].get("sha256") in hashes)


def _images_of_run(
    folder: Path, config: Mapping[str, Any], own: Images, result: Mapping[str, Any]
) -> Images:
    """What an earlier version did not record was as the run has it."""
    key = result["key"]
    data, direction = key["data"], key["direction"]
    averaged = (config.get("schedule") or {}).get("ema_decay", 0) > 0
    default = "averaged" if averaged else "live"
    return Images(
        split=str(key["split"]),
        data=own.data if data is None or data in names_of_own_data(folder) else data,
        direction=own.direction if direction in (None, "all pairs") else direction,
        weights=None if key["weights"] in (None, default) else key["weights"],
    )


def _settings(config: Mapping[str, Any]) -> str:
    parts = {part: config[part] for part in ("method", "data", "schedule")}
    return json.dumps(parts, sort_keys=True)


# What is no run


def read_model(path: Path, files: Sequence[Path] = ()) -> Scored:
    """The scores of a model file, a checkpoint or a shipped model.

    Raises:
        CheckpointError: it is none.
    """
    model = find_model(path)
    header, sha256 = read_header(model), file_sha256(model)
    beside = run_of(path) or (model.parent if path.exists() else Path())  # or a shipped model
    kept_in = beside / SCORES_FILE
    found = _results_in([kept_in, *files])
    results = [r for r in found if r["subject"].get("sha256") == sha256]
    return _without_steps(
        path, results, name=header.method, kind="model", step=header.step, kept_in=kept_in
    )


def read_folder(folder: Path, files: Sequence[Path] = ()) -> Scored:
    """The scores of a folder of translations.

    Raises:
        DataError: a file of results cannot be read.
    """
    name = full_name(str(folder))
    kept_in = folder.parent / SCORES_FILE
    found = _results_in([folder / SCORES_FILE, kept_in, *files])
    results = [r for r in found if r["key"]["checkpoint"].get("folder") == name]
    makers = {maker["method"] for r in results for maker in r["subject"].get("made_by") or ()}
    method = makers.pop() if len(makers) == 1 else "folder of images"
    return _without_steps(folder, results, name=method, kind="folder", kept_in=kept_in)


def _only_told(file: Path, known: Sequence[Scored]) -> list[Scored]:
    """What a file of results tells of and nothing that was named stands for."""
    shown = [result for subject in known for result in subject.results.values()]
    by_subject: dict[str, list[dict[str, Any]]] = {}
    for result in read_results(file):
        if result not in shown:
            identity = json.dumps(result["key"]["checkpoint"], sort_keys=True)
            by_subject.setdefault(identity, []).append(result)
    if not by_subject and not shown:
        raise DataError(f"`{file}` holds no results.")
    return [_told_subject(results, file) for results in by_subject.values()]


def _told_subject(results: Sequence[dict[str, Any]], file: Path) -> Scored:
    subject = results[-1]["subject"]
    where = Path(subject.get("folder") or subject.get("model") or file.stem)
    return _without_steps(
        where,
        results,
        name=subject.get("method") or "folder of images",
        kind="folder" if "folder" in subject else "model",
        step=subject.get("step"),
        kept_in=file,
    )


def _results_in(places: Iterable[Path]) -> list[dict[str, Any]]:
    """Of several files, each once."""
    files = dict.fromkeys(map(_file_of, places))
    return [result for file in files for result in read_results(Path(file))]


def _without_steps(
    path: Path,
    results: Sequence[Mapping[str, Any]],
    *,
    name: str,
    kind: str,
    kept_in: Path,
    step: int | None = None,
) -> Scored:
    measured = _Measured()
    several = len({result["key"]["weights"] for result in results} - {None}) > 1
    for result in results:
        key = result["key"]
        images = Images(
            split=str(key["split"]),
            data=key["data"],
            direction=None if key["direction"] == "all pairs" else key["direction"],
            weights="live" if several and key["weights"] == "live" else None,
        )
        _add_result(measured, result, step or 0, images)
    return Scored(
        folder=path,
        name=name,
        kind=kind,
        settings=f"{kind} {_file_of(path)}",
        last_step=step,
        measured=measured.values,
        results=measured.results,
        kept_in=kept_in,
    )


# What a score depends on


def _add_result(measured: _Measured, result: Mapping[str, Any], step: int, images: Images) -> None:
    for score, value in result["scores"].items():
        more = tuple(_more(score, result).items())
        of = Images(
            split=images.split,
            data=images.data,
            direction=images.direction,
            weights=images.weights,
            more=more,
        )
        measured.add(score, of, step, value)
        measured.results[score, of] = result


def _more(score: str, result: Mapping[str, Any]) -> dict[str, str]:
    """What a score depends on beside its images and its model, in words; without what an earlier
    version did not record.
    """
    key, protocols = result["key"], result.get("protocols") or {}
    *before, last = score.split("/")
    found: dict[str, str] = {}
    named = next((name for name in protocols if name in before), None)
    if named is not None:
        extractor = str(protocols[named].get("extractor_sha256") or "")
        if extractor:
            found["extractor"] = f"extractor {extractor[:8]}"
    elif any("image_size" in protocol for protocol in protocols.values()):
        sizes = (protocol.get("image_size") for protocol in protocols.values())
        size = next((size for size in sizes if size is not None), None)
        found["size"] = "own size" if size is None else f"{size} pixels"
    if last == "relation_change" and protocols:
        found["extractor"] = f"features of {list(protocols.values())[-1].get('extractor')}"
    for name, scores in _ASKED_BY.items():
        if last in scores and name in key["asked"]:
            found[name] = f"{name} {_asked(key['asked'][name])}"
    if before[:1] == ["truth"] and "truth" in key["asked"]:
        found["truth"] = f"truth {key['asked']['truth']}"
    if key.get("precision"):
        found["precision"] = str(key["precision"])
    if key.get("samples"):
        found["samples"] = f"{key['samples']} outputs per input"
    if key.get("value_ranges"):
        found["value_ranges"] = f"value ranges {key['value_ranges']}"
    return found


def _asked(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
