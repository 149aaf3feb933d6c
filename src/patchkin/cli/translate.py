"""`patchkin translate MODEL INPUT... --output DIR`.

For methods whose translations have a style, also which: `patchkin.translation.style_files` tells
the names of files. Processes share the files by position in the list that all of them make
(`patchkin.parallel.shards`). With an ONNX file as the model nothing here imports torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, TypeAlias

import tyro

from patchkin.cli.clips import ClipOptions, Clips, flicker_json, flicker_lines
from patchkin.cli.parsing import MaxPixels, parse
from patchkin.cli.printing import print_json, progress_bar
from patchkin.cli.released_flags import refuse_released_test
from patchkin.cli.tiling import chosen_tiles, dividing, in_record
from patchkin.config import flag, shown
from patchkin.devices import Device, Precision, keep_freed_memory, take_accelerator
from patchkin.errors import ConfigError
from patchkin.parallel.processes import in_processes
from patchkin.parallel.shards import Shard, chosen_shard, local_number
from patchkin.storage.shipped import shipped_sentence
from patchkin.translation.files import (
    Job,
    Plan,
    check_output,
    plan,
    renamed,
)
from patchkin.translation.onnx_file import OnnxTranslator, is_onnx, usable_cores
from patchkin.translation.outcome import Outcome
from patchkin.translation.record import Recorder
from patchkin.translation.resizing import Enlarging, Resizing
from patchkin.translation.saving import Saving
from patchkin.translation.scale import scale_warning
from patchkin.translation.stale import in_words, maker_of, own_target, sort_jobs
from patchkin.translation.style_files import Style, domain_label, domain_of, styled_jobs
from patchkin.translation.tiles import TileNorm

if TYPE_CHECKING:
    from patchkin.method import Method
    from patchkin.translation.translator import Translator

    AnyTranslator: TypeAlias = Translator | OnnxTranslator
    Methods: TypeAlias = Mapping[str, type[Method]] | None
    """None stands for those of patchkin."""

GRID_ROWS = 32
"""Inputs that a grid shows at most."""
GRID_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, kw_only=True)
class TranslateOptions:
    """Options of `translate`."""

    model: Annotated[tyro.conf.Positional[str], shown("MODEL")]
    """A run folder, a checkpoint folder, a .safetensors file, the name of a shipped model, or a
    .onnx file of `patchkin export`, which needs no torch."""
    inputs: Annotated[tyro.conf.Positional[tuple[str, ...]], shown("INPUT...")]
    """Image files, folders (searched recursively), or quoted glob patterns."""
    output: Annotated[Path, flag("-o")]
    """Folder for the translations, where names and the structure of folders are kept; for one image
    also a file, such as out.png."""
    overwrite: bool = False
    """Translate everything again, and replace files that are no translations. Without it, what the
    same model made of the same image in the same way is kept, and the rest is made anew."""
    resize: int | None = None
    """Translate images whose shorter side is longer than this at this size, and enlarge the result:
    for images much larger than those that the model was trained on."""
    enlarge: Enlarging = "joint"
    """How: `joint` takes detail from the input, `plain` does not."""
    tile: Annotated[str, shown("auto|none|N")] = "auto"
    """Translate larger images in parts of N pixels a side: memory is that of a part. `auto` does
    so (512) where it would not suffice for the whole, `none` never."""
    overlap: int = 64
    """Pixels that neighbouring parts share, and fade into each other over."""
    tile_norm: TileNorm | None = None
    """`image`: norms of parts take the statistics of the whole image, through temporary files
    (not with .onnx files). `tile`: those of each part."""
    pages: Literal["each", "first"] = "each"
    """Of files that have several (stacks, animations): translate each, into the same kind of file,
    or the first."""
    alpha: Literal["keep", "drop"] = "keep"
    """Put the alpha channel of an input back unchanged, or leave it out."""
    format: str | None = None
    """Format of the translations, by its suffix: png, jpg, tif, webp, avif and so on. Without it,
    that of each input."""
    quality: int | None = None
    """Of JPEG, WebP, AVIF and HEIC, from 1 to 100; 95 unless given."""
    max_pixels: MaxPixels = None
    batch_size: int = 1
    """Images of one size translated at once."""
    which: Literal["last", "best"] = "last"
    """The checkpoint of a run folder: the last, or the best on validation."""
    weights: Literal["averaged", "live"] = "averaged"
    """Averaged weights if the run kept them, or the live ones."""
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """BtoA takes the way back, for methods that have one."""
    domain: str | None = None
    """Target domain, by name or number; needed where the model has several."""
    samples: int | None = None
    """So many random styles: NAME_DOMAIN_s0.png, NAME_DOMAIN_s1.png and so on, the same styles for
    every image."""
    seed: int = 0
    """Of the random styles. Same seed, same styles."""
    reference: tuple[Path, ...] = ()
    """Take the style of these images of the target domain (files or folders):
    NAME_DOMAIN_REFERENCE.png."""
    grid: Path | None = None
    """Also write one picture of all inputs (rows) in all styles (columns)."""
    interpolate: bool = False
    """Write the way between two styles (--samples 2, or two references) instead:
    NAME_DOMAIN_path.png, a strip, and NAME_DOMAIN_path.gif."""
    frames: int = 9
    """Images of that way."""
    shard: str | None = None
    """Do one part of the files, such as 2/8, the second of eight. `torchrun` and Slurm's `srun` are
    recognised and need no part here; 1/1 is everything."""
    processes: int = 1
    """Processes of this machine that share the work."""
    clips: tyro.conf.OmitArgPrefixes[ClipOptions] = field(default_factory=ClipOptions)
    device: Device = "auto"
    """Where to compute."""
    precision: Precision = "32-true"
    """Of the network."""
    json: bool = False
    """Print one JSON object with what was written, skipped and failed."""


def run(arguments: Sequence[str], methods: Methods) -> int:
    """Translate as the arguments say; 2 if a file failed."""
    refuse_released_test(arguments)
    options = parse(
        TranslateOptions,
        arguments,
        prog="patchkin translate",
        about=f"Translate images of any size with a trained model. {shipped_sentence()}".strip(),
    )
    if not options.inputs:
        raise ConfigError("Nothing to translate: give files or folders after the model.")
    if options.batch_size < 1:
        raise ConfigError(f"`--batch-size` must be at least 1; got {options.batch_size}.")
    if options.processes < 1:
        raise ConfigError(f"`--processes` must be at least 1; got {options.processes}.")
    _resizing(options)
    chosen_tiles(options)
    _saving(options)
    check_output(options.output)
    if options.grid is not None:
        check_output(options.grid, "--grid")
    shard = chosen_shard(options.shard)
    if options.grid is not None and not shard.is_all:
        raise ConfigError(
            "--grid shows all inputs, and this is a part of them: leave it out here, and run the "
            "same command with --grid and --shard 1/1 when all parts are done."
        )
    silent = options.shard is None and shard.number > 1  # the first of a launcher's shows its own
    with progress_bar(silent=silent) as bar:
        task = bar.add_task("translating", total=0)

        def show(more: int | str) -> None:
            """A positive number of files is to come; 0: one is done. Words are a warning."""
            if isinstance(more, str):
                if more:
                    print(f"patchkin: warning: {more}", file=sys.stderr)
            elif more:
                bar.update(task, total=(bar.tasks[task].total or 0) + more)
            else:
                bar.advance(task)

        work = partial(_translate, options, methods, shard)
        if options.processes > 1:
            threads = max(1, usable_cores() // options.processes)
            parts = in_processes(work, options.processes, threads=threads, on_message=show)
            outcome = _merged(parts)
            if options.grid is not None:
                translator, planned = _load(options, methods), _plan(options)
                _write_grid(options, planned, _styles(options, translator), translator)
        else:
            outcome = work(1, show)
    _tell(outcome, options, shard)
    return 2 if outcome.failed else 0


def _translate(
    options: TranslateOptions,
    methods: Methods,
    shard: Shard,
    number: int,
    tell: Callable[[int | str], None],
) -> Outcome:
    """The work of process `number` of `options.processes` on a part of the files."""
    if not is_onnx(options.model):
        place = local_number() * options.processes + number - 1
        take_accelerator(options.device, place, options.precision)
    translator = _load(options, methods)
    planned = _plan(options)
    is_first = shard.number == number == 1
    divided = dividing(translator, options, tell if is_first else lambda _: None)
    chosen = _styles(options, translator)
    styles = [] if chosen is None else chosen.styles
    mine = shard.divided(number, options.processes)
    clips = Clips(options, planned.jobs, num_styles=len(styles), is_all=mine.is_all)
    if is_first:
        sources = [job.source for job in planned.jobs]
        for line in (*planned.notes, scale_warning(translator, sources)):
            tell(line)
    if not isinstance(translator, OnnxTranslator):
        clips.collect(translator, styles[0].vector_S if styles else None)
    saving = _saving(options)
    changes = {**in_record(options), **clips.changes}
    maker = maker_of(translator, options.model, **saving.options(), **changes)
    recorder = Recorder(maker, part=f"{mine.number}of{mine.count}")
    jobs, block = planned.jobs, options.batch_size
    targets_of: Callable[[Job], Sequence[Path]] = own_target
    domain, is_file = "" if chosen is None else chosen.domain, planned.names_file
    if chosen is not None and options.interpolate:
        from patchkin.translation.styles import path_files, path_jobs

        first, last = chosen.styles
        way, frames = (first, last), options.frames
        jobs = path_jobs(jobs, way, frames=frames, domain=domain, names_file=is_file)
        targets_of, block = path_files, 1
    elif chosen is not None:
        jobs = styled_jobs(jobs, chosen.styles, domain, names_file=is_file)
    share = sort_jobs(
        mine.of(jobs, block=block), maker, overwrite=options.overwrite, targets_of=targets_of
    )
    tell(len(share.todo))
    if chosen is not None and options.interpolate:
        from patchkin.translation.styles import write_paths

        assert not isinstance(translator, OnnxTranslator)  # it is refused --interpolate
        outcome = write_paths(
            translator,
            share.todo,
            way,
            frames=frames,
            recorder=recorder,
            on_file=lambda _: tell(0),
        )
    else:
        outcome = clips.translate(divided, share.todo, saving=saving, recorder=recorder, tell=tell)
    outcome.skipped = [target for job in share.kept for target in targets_of(job)]
    outcome.remade = {
        target: share.remade[target] for target in outcome.written if target in share.remade
    }
    if options.processes == 1:
        _write_grid(options, planned, chosen, translator)
    return outcome


def _resizing(options: TranslateOptions) -> Resizing | None:
    if options.resize is None:
        return None
    return Resizing(side=options.resize, enlarging=options.enlarge)


def _saving(options: TranslateOptions) -> Saving:
    return Saving(
        pages=options.pages,
        alpha=options.alpha,
        format=options.format,
        quality=options.quality,
    )


def _plan(options: TranslateOptions) -> Plan:
    """What is to be translated, under the names of the format that was asked for."""
    planned, saving = plan(options.inputs, options.output), _saving(options)
    if saving.format is None:
        return planned
    if planned.names_file and options.output.suffix.lower() != saving.suffix:
        raise ConfigError(
            f"--output `{options.output}` and --format {options.format} name two formats; leave "
            "one out."
        )
    return replace(planned, jobs=renamed(planned.jobs, saving.renamed))


def _load(options: TranslateOptions, methods: Methods) -> AnyTranslator:
    if is_onnx(options.model):
        return _load_onnx(options)
    from patchkin.translation.translator import Translator

    translator = Translator.load(
        options.model,
        methods=methods,
        which=options.which,
        weights=options.weights,
        direction=options.direction,
        device=options.device,
        precision=options.precision,
        resizing=_resizing(options),
    )
    if translator.device.type == "cpu":
        keep_freed_memory()
    return translator


def _load_onnx(options: TranslateOptions) -> OnnxTranslator:
    """A file of `patchkin export`.

    Raises:
        ConfigError: an option is about what was decided when it was written.
    """
    asked = {
        "--which": options.which != "last",
        "--weights": options.weights != "averaged",
        "--precision": options.precision != "32-true",
        "--reference": bool(options.reference),
        "--grid": options.grid is not None,
        "--interpolate": options.interpolate,
        "--clip-norm": options.clips.clip_norm,
    }
    refused = next((name for name, given in asked.items() if given), None)
    if refused is not None:
        raise ConfigError(
            f"{refused} needs the model itself, and `{options.model}` is an exported one: leave it "
            "out, or translate with the run or the .safetensors file."
        )
    translator = OnnxTranslator(
        Path(options.model), device=options.device, resizing=_resizing(options)
    )
    if options.direction not in ("AtoB", translator.direction):
        raise ConfigError(
            f"`{options.model}` was exported for {translator.direction}; got --direction "
            f"{options.direction}."
        )
    return translator


def _write_grid(
    options: TranslateOptions, planned: Plan, chosen: _Chosen | None, translator: AnyTranslator
) -> None:
    if options.grid is None or chosen is None:
        return
    from patchkin.images import write_pillow
    from patchkin.translation.styles import style_grid

    grid = style_grid(
        planned.jobs[:GRID_ROWS],
        chosen.styles,
        domain=chosen.domain,
        names_file=planned.names_file,
        value_ranges=translator.value_ranges,
    )
    write_pillow(options.grid, grid)
    if len(planned.jobs) > GRID_ROWS:
        print(f"{options.grid}: the first {GRID_ROWS} inputs only", file=sys.stderr)


def _merged(parts: Sequence[Outcome]) -> Outcome:
    """Of several processes, in the order of paths; what failed in several is told once."""
    return Outcome(
        written=sorted(path for part in parts for path in part.written),
        skipped=sorted(path for part in parts for path in part.skipped),
        failed=sorted({failure for part in parts for failure in part.failed}),
        remade={target: why for part in parts for target, why in part.remade.items()},
        notes=_merged_notes(parts),
        flickers={path: score for part in parts for path, score in part.flickers.items()},
    )


def _merged_notes(parts: Sequence[Outcome]) -> dict[str, list[Path]]:
    notes: dict[str, list[Path]] = {}
    for part in parts:
        for line, sources in part.notes.items():
            notes.setdefault(line, []).extend(sources)
    return notes


class _Chosen(NamedTuple):
    styles: list[Style]
    domain: str
    """For the names of files; empty for methods with one target domain."""


def _styles(options: TranslateOptions, translator: AnyTranslator) -> _Chosen | None:
    """The styles that the options ask for; None for a method that has none, or its usual one.

    Raises:
        ConfigError: the options do not fit the method or each other.
    """
    asked = {
        "--domain": options.domain is not None,
        "--samples": options.samples is not None,
        "--reference": bool(options.reference),
        "--grid": options.grid is not None,
        "--interpolate": options.interpolate,
    }
    flags = [flag for flag, given in asked.items() if given]
    if not translator.has_styles:
        if flags:
            raise ConfigError(
                f"`{translator.method_name}` gives one translation per image; {flags[0]} needs a "
                "model of a method with styles, see `patchkin methods`."
            )
        return None
    number, names = translator.num_domains, translator.domains
    domain = domain_of(options.domain, number=number, names=names, method=translator.method_name)
    styles = _asked_styles(options, translator, domain)
    if options.interpolate:
        if len(styles) != 2:
            raise ConfigError(
                "--interpolate goes from one style to another: add --samples 2, or two images "
                f"with --reference; got {len(styles)} style{'s' * (len(styles) != 1)}."
            )
        if options.grid is not None:
            raise ConfigError("--interpolate writes strips of its own; leave out --grid.")
    if options.grid is not None and options.grid.suffix.lower() not in GRID_SUFFIXES:
        raise ConfigError(f"--grid writes PNG, JPEG or WebP; got `{options.grid}`.")
    if not flags:  # one target domain
        return None
    styles = styles or [_usual_style(translator, domain)]
    return _Chosen(styles, domain_label(domain, number=number, names=names))


def _asked_styles(options: TranslateOptions, translator: AnyTranslator, domain: int) -> list[Style]:
    """Drawn ones, and those of references."""
    if isinstance(translator, OnnxTranslator):
        if options.samples is None:
            return []
        return translator.drawn_styles(options.samples, seed=options.seed, domain=domain)
    from patchkin.translation.styles import drawn_styles, reference_files, referenced_styles

    styles = []
    if options.samples is not None:
        styles += drawn_styles(translator, options.samples, seed=options.seed, domain=domain)
    if options.reference:
        files = reference_files(options.reference)
        styles += referenced_styles(translator, files, domain=domain)
    return styles


def _usual_style(translator: AnyTranslator, domain: int) -> Style:
    if isinstance(translator, OnnxTranslator):
        return translator.usual_style(domain)
    from patchkin.translation.styles import usual_style

    return usual_style(translator, domain)


def _tell(outcome: Outcome, options: TranslateOptions, shard: Shard) -> None:
    if options.json:
        summary = {
            "output": str(options.output),
            "written": [str(path) for path in outcome.written],
            "skipped": [str(path) for path in outcome.skipped],
            "failed": {str(path): reason for path, reason in outcome.failed},
            "remade": {str(path): reason for path, reason in outcome.remade.items()},
            "notes": {line: list(map(str, files)) for line, files in outcome.notes.items()},
            **flicker_json(outcome.flickers),
            **({"grid": str(options.grid)} if options.grid is not None else {}),
            **({} if shard.is_all else {"shard": str(shard)}),
        }
        print_json(summary)
    part = "" if shard.is_all else f"part {shard}: "
    skipped = f", {len(outcome.skipped)} already there" if outcome.skipped else ""
    anew = in_words(outcome.remade)
    print(
        f"{part}{len(outcome.written)} translated into {options.output}{skipped}"
        f"{f'; {anew}' if anew else ''}",
        file=sys.stderr,
    )
    if options.grid is not None:
        print(f"grid: {options.grid}", file=sys.stderr)
    for line in flicker_lines(outcome.flickers):
        print(line, file=sys.stderr)
    for line, sources in outcome.notes.items():
        of = f"`{sources[0]}`" if len(sources) == 1 else f"{len(sources)} images"
        print(f"patchkin: note: {of}: {line}.", file=sys.stderr)
    for _, reason in outcome.failed:
        print(f"patchkin: error: {reason}", file=sys.stderr)
