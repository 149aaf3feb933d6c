"""Images of several domains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from patchkin.data.domains import (
    DomainBatch,
    DomainData,
    domain_images,
    domain_loader,
    open_domain_data,
)
from patchkin.data.record import SplitFiles
from patchkin.data.verify import Broken
from patchkin.runs.sources.source import PREVIEW_IMAGES, Source
from patchkin.scoring.validation import DomainValidation, as_scorer
from patchkin.training import Scorer


@final
class DomainSource(Source[DomainData]):
    """Several domains as a `BatchSource` of the training loop, and their scores."""

    def _open(self, known_broken: Sequence[Broken] | None) -> DomainData:
        return open_domain_data(
            self._config.data,
            seed=self._config.training.seed,
            channels=self._channels[0],
            known_broken=known_broken,
            known_val=self._known_val,
            validate=self._config.training.score_every > 0,
        )

    def files(self) -> dict[str, SplitFiles]:
        """See `Source`."""
        files = self.opened.files
        val = files.val or ((),) * len(files.names)
        return {
            name: SplitFiles(*splits)
            for name, *splits in zip(files.names, files.train, val, strict=True)
        }

    def batches(self, start_step: int, total_steps: int) -> Iterable[DomainBatch]:
        """See `patchkin.training.BatchSource`."""
        return domain_loader(self.opened.dataset, **self._loading(start_step, total_steps))

    def preview_batch(self) -> DomainBatch:
        """Held-out images of all domains, each with references of another; training images if
        nothing is held out.
        """
        files = self.opened.files
        held_out = files.val or files.test or files.train
        number = len(files.names)
        rows = [
            (row % number, (row + 1 + index % (number - 1)) % number, index)
            for row in range(max(PREVIEW_IMAGES, number))
            for index in (row // number,)
        ]

        def images(domains: Iterable[int], shift: int) -> Tensor:
            paths = [
                held_out[domain][(index + shift) % len(held_out[domain])]
                for domain, (_, _, index) in zip(domains, rows, strict=True)
            ]
            return domain_images(
                paths,
                size=max(self._config.data.height_width),
                channels=self._channels[0],
                value_range=self._config.data.value_range,
            )

        sources, targets = [row[0] for row in rows], [row[1] for row in rows]
        return DomainBatch(
            x_BCHW=images(sources, 0),
            domain_B=torch.tensor(sources),
            reference_BCHW=images(targets, 0),
            second_reference_BCHW=images(targets, 1),
            target_B=torch.tensor(targets),
        )

    def typical_sizes(self) -> tuple[tuple[int, int] | None, ...]:
        """See `Source`: whole images are resized to views."""
        side = max(self._config.data.height_width)
        return ((side, side),) * 2

    def scorer(self) -> Scorer | None:
        """Scores of the validation images: against their hidden counterparts where they have any,
        else by protocol and change if scores were asked for.
        """
        files, data = self.opened.files, self._config.data
        if not files.val:
            return None
        validation = DomainValidation(
            names=files.names,
            paths=tuple(paths[: data.validation_images] for paths in files.val),
            size=max(data.height_width),
            value_range=data.value_range,
            channels=self._channels[0],
        )
        if not validation.has_truth:
            if not self._config.training.score_every:
                return None
            protocol, extractor = self._protocol()
            validation = replace(validation, protocol=protocol, extractor=extractor)
        return as_scorer(validation)
