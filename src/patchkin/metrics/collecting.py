"""Features of images that come one at a time, so that a set need not be in memory.

Shape suffixes: N images, D features, K classes, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from patchkin.errors import DataError
from patchkin.metrics.checks import check_count, check_finite
from patchkin.metrics.extractors import Extractor, Features
from patchkin.metrics.protocols import Protocol

Progress: TypeAlias = Callable[[int], None]
"""Called with the number of images done so far."""


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Statistics:
    """Features of a set of images, and how they were made."""

    protocol: Protocol
    """With the hash of the extractor's weights."""
    names: tuple[str, ...]
    features_ND: Tensor
    """float32."""
    logits_NK: Tensor | None = None
    """Of ImageNet's classes, where the extractor is a classifier."""

    def __len__(self) -> int:
        return len(self.names)


class FeatureCollector:
    """Batches images for an extractor and keeps their features.

    Args:
        protocol: how the images became the network's input.
        extractor: the one that the protocol names.
        batch_size: of the extractor; batches are the same however the images come.
        progress: for a progress bar.

    Raises:
        ConfigError: the protocol names another extractor.
    """

    def __init__(
        self,
        protocol: Protocol,
        extractor: Extractor,
        *,
        batch_size: int = 16,
        progress: Progress | None = None,
    ) -> None:
        self.protocol = protocol.with_extractor(extractor)
        self._extractor = extractor
        self._batch_size = batch_size
        self._progress = progress
        self._names: list[str] = []
        self._parts: list[Features] = []
        self._waiting: list[Tensor] = []
        self._first: tuple[str, Tensor] | None = None

    def add(self, name: str, levels_CHW: Tensor) -> None:
        """An image as `Protocol.prepare` gives it.

        Raises:
            DataError: it has another size than the first one, or its features are not finite.
        """
        first = self._first = self._first or (name, levels_CHW)
        if levels_CHW.shape != first[1].shape:
            raise DataError(
                f"`{first[0]}` is {_size(first[1])} and `{name}` {_size(levels_CHW)}, and protocol "
                f"`{self.protocol.name}` does not resize; choose one that does, or resize the "
                "files."
            )
        self._names.append(name)
        self._waiting.append(levels_CHW)
        if len(self._waiting) == self._batch_size:
            self._finish()

    def statistics(self, *, is_set: bool = True) -> Statistics:
        """Of all images so far.

        Args:
            is_set: whether that is a whole set, which needs at least 2 images.

        Raises:
            DataError: it is, and has fewer.
        """
        if self._waiting:
            self._finish()
        if is_set:
            check_count(len(self._names), f"Protocol `{self.protocol.name}`")
        logits = [part.logits_BK for part in self._parts if part.logits_BK is not None]
        return Statistics(
            protocol=self.protocol,
            names=tuple(self._names),
            features_ND=torch.cat([part.pooled_BD for part in self._parts]).float().cpu(),
            logits_NK=torch.cat(logits).float().cpu() if logits else None,
        )

    def _finish(self) -> None:
        features = self._extractor(torch.stack(self._waiting))
        check_finite(features.pooled_BD, "feature vectors", self._names[-len(self._waiting) :])
        self._parts.append(features)
        self._waiting.clear()
        if self._progress is not None:
            self._progress(len(self._names))


def _size(levels_CHW: Tensor) -> str:
    return f"{levels_CHW.shape[2]} x {levels_CHW.shape[1]}"
