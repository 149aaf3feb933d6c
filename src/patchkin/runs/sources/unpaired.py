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
from patchkin.data.single import SingleImageDataset
from patchkin.data.toy import mask_file, truth_file
from patchkin.data.verify import Broken
from patchkin.method import Method
from patchkin.metrics import mean_scores, score_against_counterpart
from patchkin.metrics.extractors import make_extractor
from patchkin.metrics.protocols import find_protocol
from patchkin.runs.sources.source import Source
from patchkin.scoring.validation import ValidationScores
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
            validate=self._config.training.score_every > 0,
        )

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

    def _images(self, files: Sequence[Path], side: int, limit: int = 6) -> Tensor:
        """Of the source (0) or the target domain (1)."""
        batches = evaluation_images(
            files[:limit],
            size=self._config.data.size,
            channels=self._channels[side],
            value_range=self._config.data.value_ranges[side],
        )
        return torch.cat([batch.images_BCHW for batch in batches])

    def scorer(self) -> Scorer | None:
        """Scores of the validation images: against their hidden counterparts where they have any,
        else by protocol and content if scores were asked for.
        """
        files = self.opened.domains.val_a
        if files and all(truth_file(path).is_file() for path in files):
            return self._counterpart_scorer(files)
        return self._protocol_scorer() if self._config.training.score_every else None

    def _protocol_scorer(self) -> Scorer:
        training, domains = self._config.training, self.opened.domains
        extractor, protocol = None, None
        if training.score_weights is not None:
            protocol = find_protocol(training.score_protocol)
            extractor = make_extractor(protocol.extractor, training.score_weights)
        scores = ValidationScores(
            inputs=domains.val_a,
            real=domains.val_b,
            size=self._config.data.size,
            value_ranges=self._config.data.value_ranges,
            extractor=extractor,
            protocol=protocol,
            classes=training.score_classes,
        )
        return Scorer(score=scores, primary=scores.primary, higher_is_better=False)

    def _counterpart_scorer(self, files: Sequence[Path]) -> Scorer:
        inputs = self._images(files, 0, limit=len(files))
        truths = self._images([truth_file(path) for path in files], 1, limit=len(files))
        size = self._config.data.size
        found = evaluation_images([mask_file(path) for path in files], size=size, channels=1)
        masks = torch.cat([batch.images_BCHW for batch in found])[:, 0] > 0

        def score(method: Method) -> dict[str, float]:
            device = next(method.parameters()).device
            outputs = [method.translate(x[None].to(device))[0].float().cpu() for x in inputs]
            return scores_of(outputs)

        def scores_of(outputs: Iterable[Tensor]) -> dict[str, float]:
            rows = zip(outputs, inputs, truths, masks, strict=True)
            return mean_scores([score_against_counterpart(*row) for row in rows])

        return Scorer(
            score=score,
            primary="tone_inside",
            higher_is_better=False,
            baseline=scores_of(inputs),
        )
