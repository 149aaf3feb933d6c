"""One number of channels for all networks of a method (`--channels`)."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from patchkin.data.paired import PairedBatch
from patchkin.method import Method

_NAMES = ("in_channels", "out_channels", "channels")


def with_channels(kind: type[Method], config: Any, number: int) -> Any:
    """A method's configuration for images with so many channels in both domains.

    >>> from patchkin.methods import METHODS
    >>> pix2pix = METHODS["pix2pix"]
    >>> grey = with_channels(pix2pix, next(iter(pix2pix.presets.values())).method, 1)
    >>> grey.generator.in_channels, grey.generator.out_channels, grey.discriminator.in_channels
    (1, 1, 2)
    """
    changes: dict[str, Any] = {}
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value) and not isinstance(value, type):
            # pix2pix's discriminator sees both images at once
            pair = item.name == "discriminator" and issubclass(kind.batch_type, PairedBatch)
            changes[item.name] = with_channels(kind, value, 2 * number if pair else number)
        elif item.name in _NAMES:
            changes[item.name] = number
    return replace(config, **changes)
