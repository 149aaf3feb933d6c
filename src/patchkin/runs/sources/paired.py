"""Side-by-side pairs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import final

from patchkin.data.paired import (
    PairedBatch,
    PairedData,
    evaluation_pairs,
    open_paired_data,
    paired_loader,
)
from patchkin.data.record import SplitFiles
from patchkin.data.scale import typical_size
from patchkin.data.verify import Broken
from patchkin.runs.sources.source import PREVIEW_IMAGES, Source
from patchkin.scoring.validation import PairValidation, as_scorer
from patchkin.training import Scorer

logger = logging.getLogger(__name__)


@final
class PairedSource(Source[PairedData]):
    """Side-by-side pairs as a `BatchSource` of the training loop."""

    def _open(self, known_broken: Sequence[Broken] | None) -> PairedData:
        return open_paired_data(
            self._config.data,
            seed=self._config.training.seed,
            channels=self._channels,
            known_broken=known_broken,
            known_val=self._known_val,
            validate=self._config.training.score_every > 0,
        )

    def files(self) -> dict[str, SplitFiles]:
        """See `Source`."""
        return {"pairs": SplitFiles(self.opened.pairs.train, self.opened.pairs.val)}

    def batches(self, start_step: int, total_steps: int) -> Iterable[PairedBatch]:
        """See `patchkin.training.BatchSource`."""
        return paired_loader(
            self.opened.dataset,
            jitter_steps=self._jitter_steps,
            **self._loading(start_step, total_steps),
        )

    def preview_batch(self) -> PairedBatch | None:
        """The first held-out pairs; training pairs if nothing is held out."""
        pairs = self.opened.pairs
        files = (pairs.val or pairs.test or pairs.train)[:PREVIEW_IMAGES]
        return self.whole(files)

    def typical_sizes(self) -> tuple[tuple[int, int] | None, ...]:
        """See `Source`."""
        size = typical_size(self.opened.pairs.train, self._config.data, side_by_side=True)
        return size, size

    def scorer(self) -> Scorer | None:
        """Scores of the validation pairs against their truths; None if there are no such pairs."""
        files = self.opened.pairs.val[: self._config.data.validation_images]
        if not files:
            if self._config.training.score_every:
                logger.warning(
                    "--score-every: no scores, because this run began without pairs held out, and "
                    "goes on with those it has; put some into val/, or start another run"
                )
            return None
        return as_scorer(PairValidation(pairs=self.whole(files)))

    def whole(self, files: Sequence[Path]) -> PairedBatch:
        """Held-out pairs as they are shown and scored."""
        size = self._whole_size(self.opened.pairs.train, side_by_side=True)
        return evaluation_pairs(files, self._config.data, self._channels, size=size)
