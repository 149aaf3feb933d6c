"""What `--json` prints: the only place of the command line that writes JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from patchkin.storage.strict_json import strict_text


def print_json(plain: Mapping[str, Any]) -> None:
    """One object on one line of standard output. NaN and infinities are null, and told beside it
    (`storage.strict_json`).
    """
    print(strict_text(plain))
