"""`patchkin push RUN OWNER/NAME`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from patchkin.cli.parsing import parse
from patchkin.cli.printing import print_json
from patchkin.config import flag, shown
from patchkin.method import Method
from patchkin.scoring.card import PREVIEW_FILE, model_card, preview_of
from patchkin.scoring.own_data import run_of
from patchkin.translation.translator import Translator


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """Options of `push`."""

    model: Annotated[tyro.conf.Positional[str], shown("MODEL")]
    """A run folder, a checkpoint folder or a .safetensors file."""
    name: Annotated[tyro.conf.Positional[str], shown("OWNER/NAME")]
    """Of the repository on the Hub, which is made if it is not there."""
    which: Literal["last", "best"] = "last"
    """The checkpoint of a run folder: the last, or the best on validation."""
    weights: Literal["averaged", "live"] = "averaged"
    """Averaged weights if the model has them, or the live ones."""
    license: str | None = None
    """Identifier of the licence for the card, such as apache-2.0."""
    private: bool = False
    """Make the repository private."""
    output: Annotated[Path | None, flag("-o")] = None
    """Only write what would be pushed into this folder."""
    json: bool = False
    """Print one JSON object."""


def run(arguments: Sequence[str], methods: Mapping[str, type[Method]]) -> int:
    """Push a model with its card; HF_TOKEN or the library's login says who you are."""
    options = parse(
        PushOptions,
        arguments,
        prog="patchkin push",
        about="Put the networks that translate, and a model card, on the Hugging Face Hub.",
    )
    translator = Translator.load(
        options.model, methods=methods, which=options.which, weights=options.weights, device="cpu"
    )
    assert translator.file is not None
    card = model_card(translator, options.name, licence=options.license)
    preview = preview_of(run_of(translator.file))
    pictures = {} if preview is None else {PREVIEW_FILE: preview}
    if options.output is not None:
        translator.save_pretrained(options.output, card=card, pictures=pictures)
        place = str(options.output)
    else:
        place = translator.push_to_hub(
            options.name, card=card, pictures=pictures, private=options.private
        )
    if options.json:
        print_json({"place": place, "model": str(translator.file)})
    else:
        print(f"model and card: {place}", file=sys.stderr)
    return 0
