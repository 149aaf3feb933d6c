"""The model card of a run, for the Hub: method, data, protocol, scores, licence, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from patchkin.config import to_yaml
from patchkin.method import Method
from patchkin.scoring.own_data import configured_data, name_of_data, run_of
from patchkin.scoring.results import SCORES_FILE, headings, read_results
from patchkin.scoring.scores import describe
from patchkin.translation.translator import Translator

PREVIEW_FILE = "preview.png"


def model_card(translator: Translator, name: str, *, licence: str | None = None) -> str:
    """A card in Markdown, with what the Hub reads at its top.

    Args:
        translator: loaded from a file; what is known of its run is told.
        name: OWNER/NAME.
        licence: its identifier, such as apache-2.0.
    """
    kind, header = translator.method, translator.header
    about: dict[str, Any] = {
        "library_name": "patchkin",
        "pipeline_tag": "image-to-image",
        "tags": ["patchkin", kind.name, "unpaired-image-translation"],
        **({"license": licence} if licence else {}),
    }
    run = None if translator.file is None else run_of(translator.file)
    parameters = sum(p.numel() for p in kind.parameters())
    rows = [
        ("Method", f"`{kind.name}`: {kind.paper}"),
        ("Parameters", f"{parameters:,} that translate"),
        ("Weights", f"{translator.weights}, of step {header.step if header else 'unknown'}"),
        ("Channels", f"{translator.channels[0]} in, {translator.channels[1]} out"),
        ("Trained at", f"{header.size} pixels" if header else "unknown"),
        ("Large images in parts", _tiling(kind)),
        ("Data", "not recorded" if run is None else _data(run)),
        ("Licence", licence or "not stated"),
    ]
    parts = [
        f"---\n{to_yaml(about)}---\n\n# {name.rpartition('/')[2]}\n",
        "An image-to-image translator trained with patchkin.\n",
        "| | |\n|---|---|\n" + "".join(f"| {what} | {_cell(said)} |\n" for what, said in rows),
    ]
    if preview_of(run) is not None:
        parts.append(f"![previews of the run: inputs and translations]({PREVIEW_FILE})\n")
    parts.append(
        "## Use\n\n```sh\n"
        f"patchkin translate hf:{name} photo.jpg --output translated\n```\n\n```python\n"
        f'from patchkin import Translator\n\ntranslator = Translator.from_pretrained("{name}")\n'
        'translated = translator("photo.jpg")\n```\n'
    )
    parts.append(_scores([] if run is None else read_results(run / SCORES_FILE), header))
    return "\n".join(parts)


def preview_of(run: Path | None) -> Path | None:
    """The last preview of a run."""
    found = [] if run is None else sorted((run / "previews").glob("step_*.png"))
    return found[-1] if found else None


def _tiling(kind: Method) -> str:
    faults = "; ".join(kind.tiling_faults())
    return f"{kind.tiling}{f' ({faults})' if faults else ''}"


def _data(run: Path) -> str:
    data = configured_data(run)
    return f"{Path(name_of_data(data)).name}, {data.direction}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _scores(results: Sequence[Mapping[str, Any]], header: Any) -> str:
    """Those of the checkpoint, under the protocols that they depend on."""
    step = None if header is None else header.step
    own = [result for result in results if result.get("subject", {}).get("step") == step]
    if not own:
        return "## Scores\n\nNone were measured of this checkpoint.\n"
    text = "## Scores\n"
    for result, heading in zip(own, headings(own), strict=True):
        protocols = ", ".join(result.get("protocols", {})) or "none that needs weights"
        text += (
            f"\n{heading}; data {_cell(str(result['data'].get('root')))}, "
            f"{result['data'].get('counts', {}).get('inputs')} inputs; protocols: {protocols}\n\n"
            "| score | value | what it is |\n|---|---|---|\n"
        )
        for name, value in result["scores"].items():
            told = "-" if value is None else f"{value:.5g}"
            text += f"| {name} | {told} | {_cell(describe(name))} |\n"
    return text
