"""Small generators from large ones: distil a supernet, search its widths, cut one out."""

from patchkin.compression.compressed import CompressedResNet, CompressedResNetConfig
from patchkin.method import Method

COMPRESSED_METHODS: dict[str, type[Method]] = {CompressedResNet.name: CompressedResNet}
"""Methods that models can be of, but that `patchkin train` does not offer."""

__all__ = ["COMPRESSED_METHODS", "CompressedResNet", "CompressedResNetConfig"]
