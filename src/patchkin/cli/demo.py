"""`patchkin demo [MODEL...]`."""

from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from patchkin.cli.parsing import parse
from patchkin.config import shown
from patchkin.devices import Device
from patchkin.errors import ConfigError, DataError
from patchkin.images.limits import allow_pixels
from patchkin.method import Method
from patchkin.storage.shipped import shipped_sentence
from patchkin.translation.tiles import Tiles
from patchkin.web.examples import examples
from patchkin.web.guard import is_this_machine, new_token
from patchkin.web.models import Models
from patchkin.web.server import listen, serve
from patchkin.web.shown import Shown
from patchkin.web.visitors import Visitors, own_room

MEGABYTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Options of `demo`."""

    models: Annotated[tyro.conf.Positional[tuple[str, ...]], shown("MODEL...")] = ()
    """Run folders, checkpoint folders, .safetensors files and names of shipped models; the shipped
    ones unless given."""
    examples: Path | None = None
    """Folder of images to try; the first 12 are shown. Some are rendered unless given."""
    runs: Path | None = None
    """Folder of runs to watch: curves, previews and a comparison, while they train too."""
    host: str = "127.0.0.1"
    """Address to listen at. Any but this machine's own wants a token of who asks."""
    port: int = 7860
    """Port to listen at; 0 for any that is free."""
    token: str | None = None
    """That who asks must have. Without it one is made and printed where --host needs it."""
    tile: int = 512
    """Side in pixels of the parts that large images are translated in."""
    max_upload: int = 64
    """Megabytes that a file may have."""
    max_files: int = 200
    """Files of one job."""
    max_pixels: int = 36_000_000
    """Pixels that an image may have."""
    device: Device = "auto"
    """Where to compute."""


def run(arguments: Sequence[str], methods: Mapping[str, type[Method]]) -> int:
    """Show a page until interrupted."""
    options = parse(
        DemoOptions,
        arguments,
        prog="patchkin demo",
        about=(
            "A page in the browser: drop an image, see it translated, click a point to see what it "
            f"relates to, watch runs. {shipped_sentence()}"
        ).strip(),
    )
    _check(options)
    token = options.token
    if token is None and not is_this_machine(options.host):
        token = new_token()
    listening = listen(options.host, options.port)
    address = _address(options.host, listening.getsockname()[1], token)
    with listening, own_room() as room:
        what = Shown(
            models=Models(options.models, methods=methods, device=options.device),
            examples=examples(options.examples, room / "examples"),
            visitors=Visitors(room),
            tile=options.tile,
            max_files=options.max_files,
            runs=options.runs,
            methods=methods,
        )
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as by Ctrl+C, files removed
        try:
            serve(
                what,
                listening,
                token=token,
                max_upload_bytes=options.max_upload * MEGABYTE,
                most_bytes=options.max_upload * options.max_files * MEGABYTE,
                on_ready=lambda: print(f"{address}\nCtrl+C ends it.", file=sys.stderr, flush=True),
            )
        except KeyboardInterrupt:
            print("ended", file=sys.stderr)
    return 0


def _check(options: DemoOptions) -> None:
    """Refuse what would fail later.

    Raises:
        ConfigError: an option is out of range, or gradio is missing.
        DataError: the folder of runs is none.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError("`patchkin demo` needs gradio: pip install 'patchkin[web]'.")
    for name in ("max_upload", "max_files"):
        if getattr(options, name) < 1:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"`{flag}` must be at least 1; got {getattr(options, name)}.")
    if options.token is not None and len(options.token) < 8:
        raise ConfigError("`--token` must have at least 8 characters.")
    if options.runs is not None and not options.runs.is_dir():
        raise DataError(f"`{options.runs}` is no folder; give one of runs to --runs.")
    Tiles(side=options.tile, overlap=0)
    allow_pixels(options.max_pixels)


def _address(host: str, port: int, token: str | None) -> str:
    """To open; of an address that stands for all of a machine's, its own.

    >>> _address("0.0.0.0", 80, "abc"), _address("::1", 7860, None)
    ('http://127.0.0.1:80/?token=abc', 'http://[::1]:7860/')
    """
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}/{f'?token={token}' if token else ''}"
