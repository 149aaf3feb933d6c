"""The cache that a configuration asks for."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from patchkin.data.cache.decoded import DecodedImages
from patchkin.data.cache.first_step import first_step_of
from patchkin.data.cache.store import Store
from patchkin.data.config import AUTO, DataConfig
from patchkin.data.folders import cache_folder
from patchkin.data.layouts import TOY
from patchkin.data.verify import Broken, default_threads


def open_cache(
    config: DataConfig,
    wanted: Sequence[tuple[Path, int]],
    *,
    left_out: Collection[Broken] = (),
    takes_first_step: bool = True,
    side_by_side: bool = False,
    threads: int | None = None,
) -> DecodedImages | None:
    """The decoded images of a set, or None if `config` asks for no cache.

    Those that are missing, changed or damaged are decoded first.

    Args:
        config: of the data.
        wanted: files, each with the number of channels that it will be read with.
        left_out: files of these that are known to be broken.
        takes_first_step: whether `load_size` and `preprocess` make the views.
        side_by_side: whether the halves of a picture become views.
        threads: for decoding.

    Raises:
        StorageError: the cache cannot be read or written.
    """
    without = {entry.path for entry in left_out}
    wanted = [(path, channels) for path, channels in wanted if path not in without]
    if config.cache is None or not wanted:
        return None
    folder = cache_folder() / "decoded" if config.cache == AUTO else Path(config.cache)
    step = first_step_of(config, side_by_side=side_by_side) if takes_first_step else None
    where = [config.root] if config.source is None else sorted([config.source, str(config.target)])
    if where == [TOY]:
        where = [str(wanted[0][0].parent.parent)]
    where = [str(Path(place).absolute()) for place in where]
    settings = {"set": where, "first_step": None if step is None else asdict(step)}
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    name = re.sub(r"[^\w.-]", "_", Path(where[0]).name) or "images"
    store = Store(folder.expanduser(), f"{name}-{digest[:12]}", step, threads or default_threads())
    return store.open(wanted)
