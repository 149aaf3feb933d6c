"""Makes a site of `docs/` and of the pages that stand elsewhere in the repository.

- Links are those of the repository, so that they work where the files are read as files. Pages
  outside `docs/` become pages of the site, and links to them follow.
- `<!-- method: cut -->` becomes what the code itself says about a method.
- Formulas become MathML, which browsers show without a script.
- Notebooks become pages with what their cells show; none is run.

`python docs/making/hooks.py` writes the table of released flags into `docs/coming-from.md`.
"""

from __future__ import annotations

import base64
import html
import json
import posixpath
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import latex2mathml.converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/**/*.md",
    "examples/*.py",
    "examples/*.ipynb",
    "Dockerfile",
)
CARDS = "src/patchkin/storage/shipped/*/MODEL_CARD.md"
WITH_THEM = ("benchmarks/**/*.png", "benchmarks/**/*.py")
SHOWN = {"Dockerfile": "dockerfile"}
"""Files that are shown as blocks of code, beside those of Python, and their language."""
PAGE = ROOT / "docs" / "coming-from.md"
BEGIN, END = "<!-- released flags: python docs/making/hooks.py -->", "<!-- end of them -->"
ANSWERED = (
    *("--netG resnet_6blocks", "--netG resnet_9blocks", "--netG stylegan2", "--netG unet_256"),
    *("--model pix2pix --netG unet_128", "--model sincut --netG smallstylegan2"),
    *("--netD basic", "--netD n_layers --n_layers_D 4", "--netD pixel", "--netD stylegan2"),
    *("--netF mlp_sample", "--netF sample", "--normG batch", "--normD batch", "--norm instance"),
    *("--init_type xavier", "--init_type normal", "--init_gain 0.05", "--no_antialias"),
    *("--no_antialias_up", "--no_dropout true", "--no_dropout false", "--input_nc 3 --output_nc 3"),
    *("--input_nc 1 --output_nc 1", "--input_nc 1 --output_nc 3", "--lr_policy linear"),
    *("--lr_policy cosine", "--n_epochs 200 --n_epochs_decay 200"),
)
"""Flags whose answer depends on what the method has: here of CUT, unless they say another."""
IN_TEXT = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(\))")
IN_REFERENCE = re.compile(r"^(\[[^\]]+\]: )(\S+)()$", re.MULTILINE)
METHOD = re.compile(r"<!-- method: ([\w-]+) -->")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\([(\[])(.*?)\\[)\]]\s*</\1>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside of `docs/`, and the pictures and scripts that they show."""
    for path in outside():
        source = path.relative_to(ROOT).as_posix()
        if path.suffix == ".ipynb":
            text, pictures = notebook_page(path)
            files.append(File.generated(config, f"{source}.md", content=text))
            files.append(File.generated(config, source, abs_src_path=str(path)))
            for name, content in pictures.items():
                files.append(File.generated(config, f"examples/{name}", content=content))
        elif source in SHOWN or path.suffix == ".py":
            text = path.read_text(encoding="utf-8")
            language = SHOWN.get(source, "python")
            page = f"# {path.name}\n\n`{source}`\n\n``````{language}\n{text}``````\n"
            files.append(File.generated(config, f"{source}.md", content=page))
        else:
            files.append(File.generated(config, source, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links follow the pages, and put in what the code says."""
    here = page.file.src_uri
    shown = here.removesuffix(".md")
    home = next((file for file in (here, shown) if is_outside(file)), f"docs/{here}")

    def followed(match: re.Match[str]) -> str:
        return match[1] + site_link(match[2], home, page.file.src_uri) + match[3]

    parts = re.split(r"(^```.*?^```+$)", markdown, flags=re.MULTILINE | re.DOTALL)
    for place in range(0, len(parts), 2):  # the odd ones are blocks of code
        parts[place] = IN_REFERENCE.sub(followed, IN_TEXT.sub(followed, parts[place]))
        parts[place] = METHOD.sub(lambda match: about(match[1]), parts[place])
    return "".join(parts)


def on_page_content(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas as MathML."""

    def formula(match: re.Match[str]) -> str:
        shown = "block" if match[2] == "[" else "inline"
        tex = html.unescape(match[3]).strip()
        made: str = latex2mathml.converter.convert(tex, display=shown)
        return made

    return FORMULA.sub(formula, text)


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and the pictures that it shows, by the names of their files.

    What a picture shows is told by `alt` in the metadata of its cell.
    """
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(fenced(source, "python"))
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}.{len(pictures)}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                alt = html.escape(cell["metadata"].get("alt", ""))
                parts.append(f'<img src="{name}" alt="{alt}">')
            else:
                parts.append(
                    fenced("".join(output.get("text", data.get("text/plain", ""))), "text")
                )
    about = (
        f'This page is a notebook, with what its cells showed: <a href="{path.name}" download>'
        f"{path.name}</a>, in `examples/` of the repository."
    )
    return "\n\n".join([parts[0], about, *parts[1:]]) + "\n", pictures


def fenced(text: str, language: str) -> str:
    """A block of code, whatever stands in it."""
    return f"``````{language}\n{text.rstrip()}\n``````"


@cache
def outside() -> tuple[Path, ...]:
    """Files of the repository that are pages or pictures of the site."""
    patterns = (*OUTSIDE, CARDS, *WITH_THEM)
    return tuple(sorted({path for pattern in patterns for path in ROOT.glob(pattern)}))


def is_outside(source: str) -> bool:
    """Whether a file of the repository is a page of the site though not in `docs/`."""
    return ROOT / source in outside()


def site_link(link: str, home: str, source: str) -> str:
    """A link of the repository, as one of the site.

    Args:
        link: as it stands in the page.
        home: the page's file, from the root of the repository.
        source: the page, from the root of the site's sources.
    """
    target, hash_, anchor = link.partition("#")
    if not target or re.match(r"[a-z]+:", target):
        return link
    file = posixpath.normpath(posixpath.join(posixpath.dirname(home), target))
    if file.startswith("docs/"):
        found = file.removeprefix("docs/")
    elif file == "README.md":
        found = "index.md"
    elif is_outside(file):
        found = f"{file}.md" if file in SHOWN or file.endswith((".py", ".ipynb")) else file
    elif (ROOT / file).is_dir() and is_outside(f"{file}/README.md"):
        found = f"{file}/README.md"
    elif (ROOT / file).is_dir() and file.startswith("benchmarks"):
        found = "benchmarks/README.md"
    elif file == "LICENSE":
        return "https://www.apache.org/licenses/LICENSE-2.0"
    else:
        raise PluginError(f"{home}: `{link}` leads nowhere on the site.")
    return posixpath.relpath(found, posixpath.dirname(source) or ".") + hash_ + anchor


@cache
def about(name: str) -> str:
    """What the code says about a method: paper, directions, size, presets."""
    from patchkin.cli.methods import describe
    from patchkin.methods import METHODS

    if name not in METHODS:
        raise PluginError(f"There is no method `{name}`.")
    return "\n".join(_about(describe(METHODS[name])))


def _about(row: dict[str, object]) -> Iterator[str]:
    yield "| at a glance | |\n|---|---|"
    yield f"| paper | {row['paper']} |"
    yield f"| translates | {row['sides']}, {row['data']} images |"
    yield f"| networks that learn | {row['networks']}, with {row['parameters']:,} weights |"
    yield f"| released code | {row['released code']} |"
    yield ""
    yield "| preset | what it is |\n|---|---|"
    presets = row["presets"]
    assert isinstance(presets, dict)
    yield from (f"| `{preset}` | {summary} |" for preset, summary in presets.items())


def released_flags() -> str:
    """Flags of the released CUT and CycleGAN with ours, as the command line answers."""
    from patchkin.cli import released_table as table

    told = {
        "--gpu_ids": "0,1",
        "--nce_idt": "false",
        "--nce_includes_all_negatives_from_minibatch": "true",
        "--flip_equivariance": "true",
        "--nce_layers": "0,4,8,12,16",
        "--gan_mode": "lsgan",
    }
    rows = ["| there | here |", "|---|---|"]
    for flag, translated in table.WITH_VALUE.items():
        value = told.get(flag, "V")
        rows.append(f"| `{flag} {value}` | `{' '.join(translated(value))}` |")
    rows += [f"| `{flag}` | `{' '.join(ours)}` |" for flag, ours in table.ALONE.items()]
    rows += [f"| `{typed}` | {_answered(typed)} |" for typed in ANSWERED]
    needless = ", ".join(f"`{flag}`" for flag in table.NEEDLESS)
    return "\n".join(rows) + f"\n\nNot needed: {needless}."


def _answered(typed: str) -> str:
    """What stands for some flags in the command that is answered; without any, what is said."""
    from patchkin.cli.released_flags import refuse_released_flags
    from patchkin.errors import ConfigError
    from patchkin.methods import METHODS

    try:
        refuse_released_flags(["--dataroot", "D", *typed.split()], METHODS)
    except ConfigError as error:
        answer = str(error)
    said, _, command = answer.rpartition(": patchkin train ")
    named, _, flags = command.partition(" ")
    flags = flags.replace("--data D", "").strip()
    if flags:
        return f"`{flags}`"
    if "not offered here" in said:
        return "not offered"
    return "the default" if "no need of" in said else f"`patchkin train {named}`"


def with_released_flags(text: str) -> str:
    """A page with the table between its two marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n\n{released_flags()}\n\n{end}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_released_flags(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
