"""`patchkin import-weights FILE... [--output MODEL]`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from patchkin.cli.parsing import parse
from patchkin.cli.printing import print_json
from patchkin.config import flag, shown
from patchkin.errors import ConfigError
from patchkin.method import Method
from patchkin.storage.checkpoint import MODEL_FILE
from patchkin.upstream import (
    ImportedModel,
    ImportedNetwork,
    Source,
    check_target,
    import_weights,
    model_name,
)

ABOUT = """Turn checkpoints of upstream projects into a patchkin model: CUT, FastCUT, SinCUT,
CycleGAN, pix2pix, DCLGAN, SimDCL, Hneg_SRC, NEGCUT, F-LSeSim, GcGAN, EnCo, PatchGCL, MUNIT, StarGAN
v2, GAN Compression; also inside a checkpoint of Lightning, DataParallel or a module of several. The
files of one model are given together; the generator alone is enough to translate. Nothing in a file
is executed, and a file with a tensor too many or too few is refused."""
_SUFFIX = ".safetensors"
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class ImportWeightsOptions:
    """Options of `import-weights`."""

    files: Annotated[tyro.conf.Positional[tuple[str, ...]], shown("FILE...")]
    """Files of one model, such as latest_net_G.pth, or a model imported from some of them before.
    Where a name does not say which network a file holds, write it: G_A=horse2zebra.pth."""
    output: Annotated[Path | None, flag("-o")] = None
    """The .safetensors file to write, or a folder that receives model.safetensors. By default a
    file in this folder, called after the first file or its folder."""
    method: str | None = None
    """Whose networks they are. By default told by the files; those of CUT, FastCUT and Hneg_SRC
    (semantic-relation) are alike, and taken for cut."""
    preset: str | None = None
    """Of the method (`patchkin methods`), for settings of the training, which no file tells."""
    taps: tuple[int, ...] = ()
    """Layers that the projection head reads (upstream: nce_layers), if not the published ones."""
    size: int = 256
    """Height and width of the training images in pixels, which no file tells."""
    overwrite: bool = False
    """Replace the output if it exists."""
    dry_run: bool = False
    """Tell what would be imported, and write nothing."""
    json: bool = False
    """Print one JSON object."""


def run(arguments: Sequence[str], _: Mapping[str, type[Method]]) -> int:
    """Import as the arguments say."""
    options = parse(ImportWeightsOptions, arguments, prog="patchkin import-weights", about=ABOUT)
    if not options.files:
        raise ConfigError("Nothing to import: give the files of the networks.")
    if options.size < 1:
        raise ConfigError(f"`--size` must be at least 1; got {options.size}.")
    sources = [Source.of(text) for text in options.files]
    target = _target(options.output, sources)
    if not options.dry_run:
        check_target(target, overwrite=options.overwrite)
    model = import_weights(
        sources,
        method=options.method,
        preset=options.preset,
        taps=options.taps or None,
        size=options.size,
    )
    if not options.dry_run:
        model.save(target, overwrite=options.overwrite)
    if options.json:
        print_json(_summary(model, target, written=not options.dry_run))
    else:
        print("\n".join(_lines(model)))
    what = "would write" if options.dry_run else "wrote"
    print(f"{what} {target}: a model of {model.header.method}", file=sys.stderr)
    if not model.can_translate:
        print(
            "patchkin: warning: this is a part of a model and cannot translate yet; import it "
            "again together with the generator",
            file=sys.stderr,
        )
    return 0


def _target(output: Path | None, sources: Sequence[Source]) -> Path:
    if output is None:
        return Path(f"{model_name(sources)}{_SUFFIX}")
    return output if output.suffix == _SUFFIX else output / MODEL_FILE


def _summary(model: ImportedModel, target: Path, *, written: bool) -> dict[str, Any]:
    return {
        "output": str(target),
        "written": written,
        "method": model.header.method,
        "config": model.header.config,
        "can_translate": model.can_translate,
        "networks": [
            {
                "name": network.name,
                "file": str(network.path),
                "released_name": network.released,
                "kind": network.taken.kind.title,
                "options": network.taken.options,
                "tensors": len(network.taken.tensors),
                "parameters": _num_parameters(network),
                "dropped": network.taken.dropped,
                "filled": network.taken.filled,
                "notes": list(network.notes),
            }
            for network in model.networks
        ],
        "missing": list(model.missing),
        "notes": list(model.notes),
    }


def _lines(model: ImportedModel) -> list[str]:
    lines = [f"method: {model.header.method}"]
    for network in model.networks:
        options = ", ".join(f"{name} {_short(v)}" for name, v in network.taken.options.items())
        lines += [
            f"{network.name}: {network.taken.kind.title} from {network.path}",
            f"  {options}",
            f"  {len(network.taken.tensors)} tensors taken, {_num_parameters(network)} numbers",
            *_grouped("dropped", network.taken.dropped),
            *_grouped("filled", network.taken.filled),
            *(f"  note: {note}" for note in network.notes),
        ]
    if model.missing:
        lines.append(f"missing: {', '.join(model.missing)}")
    return lines + [f"note: {note}" for note in model.notes]


def _grouped(what: str, reasons: Mapping[str, str]) -> list[str]:
    """One line for each reason.

    >>> _grouped("dropped", {"a": "old", "b": "old", "c": "odd"})
    ['  dropped 2 (a, b): old', '  dropped 1 (c): odd']
    """
    lines = []
    for reason in dict.fromkeys(reasons.values()):
        names = [name for name, why in reasons.items() if why == reason]
        more = ", ..." if len(names) > _SHOWN else ""
        lines.append(f"  {what} {len(names)} ({', '.join(names[:_SHOWN])}{more}): {reason}")
    return lines


def _short(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _num_parameters(network: ImportedNetwork) -> int:
    return sum(tensor.numel() for tensor in network.taken.tensors.values())
