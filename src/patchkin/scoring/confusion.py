"""Scores of the toy world in which it can be confused what the stripes belong to."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from patchkin.data.toy_farm import COMPANIONS, Companion, companion_file
from patchkin.images import ValueRange
from patchkin.metrics.confusion import is_lost, striping
from patchkin.scoring.pairs import Pair
from patchkin.scoring.reading import load_at, load_mask
from patchkin.scoring.scores import Scores
from patchkin.sides import Sides


class ConfusionScore:
    """A `PairScore` of images that have the companions of the world `farm`; else nothing.

    Args:
        size: that images are brought to.
        value_range: of the truths.
    """

    def __init__(self, *, size: Sides | None, value_range: ValueRange | None) -> None:
        self._size, self._value_range = size, value_range
        self._is_whole = True
        self._rows: list[Scores] = []

    def add(self, pair: Pair) -> None:
        """See `PairScore`."""
        path = pair.path
        if pair.input_CHW is None or path is None or not _has_companions(path):
            self._is_whole = False
        if not self._is_whole or path is None or pair.input_CHW is None:
            return

        def image(companion: Companion) -> Tensor:
            return load_at(
                companion_file(path, companion),
                pair.output_CHW.shape[0],
                size=self._size,
                value_range=self._value_range,
            )

        def mask(companion: Companion) -> Tensor:
            return load_mask(companion_file(path, companion), self._size)

        output_CHW, input_CHW = pair.output_CHW, pair.input_CHW
        confused_CHW = image("confused")
        lost = is_lost(output_CHW, input_CHW, image("true"), image("empty"), mask("masks"))
        self._rows.append(
            {
                "bystander_striping": striping(
                    output_CHW, input_CHW, confused_CHW, mask("bystander")
                ),
                "things_striping": striping(output_CHW, input_CHW, confused_CHW, mask("things")),
                "animal_lost": float(lost),
            }
        )

    def scores(self) -> Scores:
        """See `PairScore`. Means over the images in which a region can be seen."""
        if not self._is_whole or not self._rows:
            return {}
        found: Scores = {}
        for name in self._rows[0]:
            values = [row[name] for row in self._rows if not math.isnan(row[name])]
            if values:
                found[f"confusion/{name}"] = sum(values) / len(values)
        return found


def _has_companions(path: Path) -> bool:
    return all(companion_file(path, companion).is_file() for companion in COMPANIONS)
