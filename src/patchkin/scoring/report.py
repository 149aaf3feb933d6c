"""One self-contained HTML page about a run, made from its folder alone."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from patchkin.config import read_yaml
from patchkin.errors import ConfigError, PatchkinError
from patchkin.scoring.pages import all_embedded, embedded, render
from patchkin.scoring.results import SCORES_FILE, headings, is_number, read_results
from patchkin.scoring.seen import TRAINED
from patchkin.storage.atomic import write_text
from patchkin.storage.strict_json import parsed
from patchkin.training.log import duration

MOST_PREVIEWS = 6
"""Shown on the page, evenly over the run."""
MOST_GALLERIES = 12
"""Shown on the page of each further kind of pictures, the last ones by name."""
_GALLERY = re.compile(r"step_(?P<step>\d+)_(?P<split>[a-z]+)(_(?P<digest>[0-9a-f]{8}))?")


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run folder: scores, previews, curves, how to reproduce.

    Raises:
        ConfigError: the folder holds no run, or other records than patchkin writes.
        StorageError: the page cannot be written.
    """
    with as_written(run_dir):
        page = _page(run_dir)
    target = run_dir / "report.html"
    write_text(target, page)
    return target


@contextmanager
def as_written(run_dir: Path) -> Iterator[None]:
    """Records that are something else than what a run writes become one line.

    Raises:
        ConfigError: they are.
    """
    try:
        yield
    except PatchkinError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ConfigError(
            f"`{run_dir}` holds no run that can be read: its config.yaml, log.jsonl, data.json or "
            f"{SCORES_FILE} is not as patchkin writes it ({type(error).__name__}: {error})."
        ) from error


def _page(run_dir: Path) -> str:
    config = read_yaml(run_dir / "config.yaml")
    records = read_log(run_dir)
    last_step = records[-1]["step"] if records else 0
    return render(
        "report.html",
        title=f"{config['name']} on {_data_name(config)}",
        subtitle=f"{run_dir.name}, {last_step} steps",
        facts=_facts(run_dir, records),
        scores=_score_table(records),
        test=_test_table(run_dir / SCORES_FILE),
        **_all_pictures(run_dir),
        curves=_curves(records, "terms"),
        score_curves=_curves(records, "scores"),
        changes=_changes(config, records),
        command=_command(config, run_dir.absolute()),
        configuration=(run_dir / "config.yaml").read_text(encoding="utf-8"),
    )


def _facts(run_dir: Path, records: list[dict[str, Any]]) -> dict[str, str]:
    """When and where the run was made, on how many images, and how long it took."""
    sessions = [record["session"] for record in records if "session" in record]
    facts: dict[str, str] = {}
    if sessions:
        first, last = sessions[0], sessions[-1]
        times = f"{len(sessions) - 1} time{'s' if len(sessions) > 2 else ''}"
        resumed = f"; resumed {times}, last {last['date']}"
        facts["Begun"] = first["date"] + (resumed if len(sessions) > 1 else "")
        versions = [f"patchkin {s['patchkin']}, torch {s['torch']}" for s in sessions]
        facts["Version"] = "; then ".join(dict.fromkeys(versions))
        machines = [f"{s['device']}, {s['precision']}; {s['system']}" for s in sessions]
        facts["Machine"] = "; then ".join(dict.fromkeys(machines))
        facts["Parameters"] = f"{last['parameters']:,} that learn"
    begun_from = next((r["begun_from"] for r in records if "begun_from" in r), None)
    if begun_from is not None:
        taken = ", ".join(begun_from["taken"])
        facts["Begun from"] = (
            f"{begun_from['model']} ({begun_from['method']}, step {begun_from['step']}): {taken}; "
            f"SHA-256 {begun_from['sha256'][:12]}"
        )
    images = _images(run_dir)
    if images:
        facts["Images"] = images
    facts["Training time"] = duration(_seconds(records))
    return facts


def _images(run_dir: Path) -> str:
    path = run_dir / "data.json"
    files = parsed(path.read_text(encoding="utf-8")).get("files") if path.is_file() else None
    return ", ".join(
        f"{len(part['train'])} of domain {name}"
        + (f" and {len(part['val'])} for validation" if part["val"] else "")
        for name, part in (files or {}).items()
    )


def _seconds(records: list[dict[str, Any]]) -> float:
    """Of all steps, whenever they were done; without scoring and saving between them."""
    total, before = 0.0, 0
    for record in records:
        if "seconds_per_step" in record:
            total += record["seconds_per_step"] * (record["step"] - before)
            before = record["step"]
    return total


def _changes(config: dict[str, Any], records: list[dict[str, Any]]) -> list[str]:
    """A line for every change of settings or files on the way."""
    lines = []
    for entry in config.get("history") or ():
        settings = ", ".join(
            f"{name} {now} (before: {entry['before'][name]})"
            for name, now in entry["after"].items()
        )
        lines.append(f"From step {entry['from_step']} on: {settings}.")
    lines += [
        f"From step {record['step']} on other files: {record['changed_data']}."
        for record in records
        if "changed_data" in record
    ]
    return lines


def _command(config: dict[str, Any], run_dir: Path) -> str:
    """What makes the run again, from any folder."""
    name, file = config["name"], config.get("file")
    program = f"python {shlex.quote(file)}" if file else "patchkin"
    distilled = name in ("distillation", "online-distillation")
    verb = "compress distill" if distilled else f"train {name}"
    again = run_dir.with_name(f"{run_dir.name}-again")
    settings = shlex.quote(str(run_dir / "config.yaml"))
    return f"{program} {verb} --config {settings} --run-dir {shlex.quote(str(again))}"


def read_log(run_dir: Path) -> list[dict[str, Any]]:
    """The records of `log.jsonl`; a torn last line, and what is no record, is left out."""
    path = run_dir / "log.jsonl"
    records = []
    for line in (
        path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    ):
        with suppress(ValueError):
            record = parsed(line)
            records += [record] if _is_record(record) else []
    return records


def _is_record(record: Any) -> bool:
    """Whether a line of the log tells its step, and numbers by name."""
    if not isinstance(record, dict) or not isinstance(record.get("step", 0), int):
        return False
    numbers = [record.get(name, {}) for name in ("terms", "scores", "baseline")]
    return all(isinstance(each, dict) and all(map(is_number, each.values())) for each in numbers)


def _data_name(config: dict[str, Any]) -> str:
    data = config["data"]
    if data.get("source"):
        return f"{Path(data['source']).name} to {Path(data['target']).name}"
    return Path(data["root"]).name


def _score_table(records: list[dict[str, Any]]) -> dict[str, Any] | None:
    """First, best and last scores side by side."""
    scored = [record for record in records if "scores" in record]
    if not scored:
        return None
    columns = []
    if scored[0]["step"] == 0:
        if "baseline" in scored[0]:
            columns.append(("input unchanged", {"scores": scored[0]["baseline"]}))
        columns.append(("untrained", scored[0]))
    later = [record for record in scored if record["step"] > 0]
    best = next((record for record in reversed(later) if record.get("best")), None)
    if best is not None:
        columns.append((f"best, step {best['step']}", best))
    if later:
        columns.append((f"last, step {later[-1]['step']}", later[-1]))
    return {
        "columns": [name for name, _ in columns],
        "rows": [
            (name, [f"{record['scores'][name]:.4g}" for _, record in columns])
            for name in scored[0]["scores"]
        ],
        "note": "Means over validation images, none of them seen in training.",
    }


def _test_table(path: Path) -> dict[str, Any] | None:
    """Scores of `patchkin evaluate`, one column per evaluated checkpoint."""
    results = read_results(path)
    names = list(dict.fromkeys(name for result in results for name in result["scores"]))
    if not names:
        return None
    trained = [TRAINED in str(result.get("data", {}).get("split")) for result in results]
    return {
        "heading": _of_what(any(trained), all(trained)),
        "columns": headings(results),
        "rows": [
            (name, [_number(result["scores"].get(name)) for result in results]) for name in names
        ],
        "warnings": list(
            dict.fromkeys(warning for r in results for warning in r.get("warnings", ()))
        ),
        "protocols": json.dumps([result.get("protocols") for result in results], indent=1),
    }


def _of_what(some: bool, every: bool) -> str:
    """Which images the scores are of, for a heading."""
    if every:
        return f"Scores of {TRAINED}"
    return "Scores of held-out images" + (f", and of {TRAINED}" if some else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _all_pictures(run_dir: Path) -> dict[str, Any]:
    """What the page is given of them, in a size that can be looked at.

    The captions of galleries are made of their names, which `patchkin evaluate` gives.
    """
    previews, gallery = _previews(run_dir / "previews"), _pictures(run_dir / "evaluation")
    gallery = [(_caption(stem), content) for stem, content in gallery]
    kinds = {
        "previews": previews,
        "gallery": gallery,
        "inspection": _pictures(run_dir / "inspection"),
        "search": _pictures(run_dir / "search"),
    }
    contents = [content for shown in kinds.values() for _, content in shown]
    addresses, smaller = all_embedded(contents)
    left = iter(addresses)
    return {
        **{kind: [(name, next(left)) for name, _ in shown] for kind, shown in kinds.items()},
        "smaller": smaller,
    }


def _pictures(folder: Path) -> list[tuple[str, bytes]]:
    files = sorted(folder.glob("*.png"))[-MOST_GALLERIES:]
    return [(file.stem, file.read_bytes()) for file in files]


def _caption(stem: str) -> str:
    """Of a gallery, from the name of its file.

    >>> _caption("step_00000300_test"), _caption("step_00000300_all_1f2e3d4c")
    ('Step 300, test images', 'Step 300, all images (1f2e3d4c)')
    """
    found = _GALLERY.fullmatch(stem)
    if found is None:
        return stem
    digest = f" ({found['digest']})" if found["digest"] else ""
    return f"Step {int(found['step'])}, {found['split']} images{digest}"


def _previews(folder: Path) -> list[tuple[str, bytes]]:
    files = sorted(folder.glob("step_*.png"))
    last = len(files) - 1
    places = sorted({round(place * last / (MOST_PREVIEWS - 1)) for place in range(MOST_PREVIEWS)})
    chosen = [files[place] for place in places] if files else []
    return [
        (f"step {int(file.stem.removeprefix('step_'))}", file.read_bytes())
        for file in reversed(chosen)
    ]


def _curves(records: list[dict[str, Any]], kind: str) -> str | None:
    """All terms or scores over the steps, one small plot each, as the address of a PNG."""
    logged = [record for record in records if kind in record]
    if not logged:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(logged[-1][kind])
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, place + 1)
        points = [(r["step"], r[kind][name]) for r in logged if name in r[kind]]
        marker = "o" if kind == "scores" or len(points) == 1 else ""  # a line of one is invisible
        axes.plot(*zip(*points, strict=True), linewidth=1, marker=marker, markersize=3)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    return embedded(buffer.getvalue())
