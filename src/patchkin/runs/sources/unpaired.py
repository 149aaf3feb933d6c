"""Two unpaired domains, each a folder of images or one image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from patchkin.data.datasets import UnpairedBatch
from patchkin.data.loading import (
    TrainingData,
    evaluation_images,
    open_training_data,
    training_loader,
)
from patchkin.data.record import SplitFiles
from patchkin.data.scale import typical_size
from patchkin.data.single import SingleImageDataset
from patchkin.data.verify import Broken
from patchkin.runs.sources.source import PREVIEW_IMAGES, Source
from patchkin.scoring.validation import CounterpartValidation, ProtocolValidation, as_scorer
from patchkin.sides import Sides
from patchkin.training import Scorer


@final
class UnpairedSource(Source[TrainingData]):
    """Two unpaired domains as a `BatchSource` of the training loop, and their scores."""

    def _open(self, known_broken: Sequence[Broken] | None) -> TrainingData:
        return open_training_data(
            self._config.data,
            seed=self._config.training.seed,
            channels=self._channels,
            known_broken=known_broken,
            known_val=self._known_val,
            validate=self._config.training.score_every > 0,
        )

    def files(self) -> dict[str, SplitFiles]:
        """See `Source`."""
        domains = self.opened.domains
        return {
            "a": SplitFiles(domains.train_a, domains.val_a),
            "b": SplitFiles(domains.train_b, domains.val_b),
        }

    def batches(self, start_step: int, total_steps: int) -> Iterable[UnpairedBatch]:
        """See `patchkin.training.BatchSource`."""
        return training_loader(
            self.opened.dataset,
            jitter_steps=self._jitter_steps,
            **self._loading(start_step, total_steps),
        )

    def preview_batch(self) -> UnpairedBatch | None:
        """The first held-out images of both domains; training images if nothing is held out, and
        whole where a domain is one image.
        """
        domains = self.opened.domains
        if isinstance(self.opened.dataset, SingleImageDataset):
            return self.opened.dataset.overview()
        a = self._images(domains.val_a or domains.test_a or domains.train_a, 0)
        b = self._images(domains.val_b or domains.test_b or domains.train_b, 1)
        num_images = min(len(a), len(b))
        return UnpairedBatch(a[:num_images], b[:num_images])

    def typical_sizes(self) -> tuple[tuple[int, int] | None, ...]:
        """See `Source`."""
        domains, config = self.opened.domains, self._config.data
        return tuple(typical_size(files, config) for files in (domains.train_a, domains.train_b))

    def _images(self, files: Sequence[Path], side: int) -> Tensor:
        """Of the source (0) or the target domain (1)."""
        batches = evaluation_images(
            files[:PREVIEW_IMAGES],
            size=self.whole_size,
            channels=self._channels[side],
            value_range=self._config.data.value_ranges[side],
        )
        return torch.cat([batch.images_BCHW for batch in batches])

    @property
    def whole_size(self) -> Sides:
        """At which held-out images are shown and scored."""
        return self._whole_size(self.opened.domains.train_a)

    def scorer(self) -> Scorer | None:
        """Scores of the validation images: against their hidden counterparts where they have any,
        else by protocol and content if scores were asked for.
        """
        files, data = self.opened.domains.val_a, self._config.data
        if CounterpartValidation.fits(files):
            counterparts = CounterpartValidation(
                inputs=files,
                size=self.whole_size,
                channels=self._channels,
                value_ranges=data.value_ranges,
            )
            return as_scorer(counterparts)
        if not self._config.training.score_every:
            return None
        protocol, extractor = self._protocol()
        by_protocol = ProtocolValidation(
            inputs=files,
            real=self.opened.domains.val_b,
            size=self.whole_size,
            value_ranges=data.value_ranges,
            extractor=extractor,
            protocol=protocol,
            classes=self._config.training.score_classes,
        )
        return as_scorer(by_protocol)
