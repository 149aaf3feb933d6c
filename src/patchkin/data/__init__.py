"""Images on disk to batches on the machine.

`config` holds the settings, `layouts` finds the files, `verify` decodes them once, `transforms`
cuts views out of them, `datasets` and `loading` make batches (`paired`, `domains` and `single` of
pairs, several domains and single images), `cache` keeps what was decoded; `check` reports on a
folder, `catalogue` and `download` fetch public sets, `toy` renders one.

The names below are imported on first use: the command line reads `config` without waiting for
torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchkin.data.catalogue import CATALOGUE, PublicSet
    from patchkin.data.check import CheckReport, check_data
    from patchkin.data.config import DataConfig
    from patchkin.data.datasets import ImageBatch, UnpairedBatch, UnpairedDataset
    from patchkin.data.domains import (
        DomainBatch,
        DomainData,
        DomainDataset,
        domain_images,
        domain_loader,
        open_domain_data,
    )
    from patchkin.data.download import fetch_dataset
    from patchkin.data.layouts import Domains
    from patchkin.data.loading import (
        TrainingData,
        evaluation_images,
        open_training_data,
        training_loader,
    )
    from patchkin.data.paired import (
        PairedBatch,
        PairedData,
        PairedDataset,
        evaluation_pairs,
        open_paired_data,
        paired_loader,
        write_paired_toy,
    )
    from patchkin.data.toy import write_domain_toy, write_toy

__all__ = [
    "CATALOGUE",
    "CheckReport",
    "DataConfig",
    "DomainBatch",
    "DomainData",
    "DomainDataset",
    "Domains",
    "ImageBatch",
    "PairedBatch",
    "PairedData",
    "PairedDataset",
    "PublicSet",
    "TrainingData",
    "UnpairedBatch",
    "UnpairedDataset",
    "check_data",
    "domain_images",
    "domain_loader",
    "evaluation_images",
    "evaluation_pairs",
    "fetch_dataset",
    "open_domain_data",
    "open_paired_data",
    "open_training_data",
    "paired_loader",
    "training_loader",
    "write_domain_toy",
    "write_paired_toy",
    "write_toy",
]

_HOMES = {
    "CATALOGUE": "patchkin.data.catalogue",
    "CheckReport": "patchkin.data.check",
    "DataConfig": "patchkin.data.config",
    "DomainBatch": "patchkin.data.domains",
    "DomainData": "patchkin.data.domains",
    "DomainDataset": "patchkin.data.domains",
    "Domains": "patchkin.data.layouts",
    "ImageBatch": "patchkin.data.datasets",
    "PairedBatch": "patchkin.data.paired",
    "PairedData": "patchkin.data.paired",
    "PairedDataset": "patchkin.data.paired",
    "PublicSet": "patchkin.data.catalogue",
    "TrainingData": "patchkin.data.loading",
    "UnpairedBatch": "patchkin.data.datasets",
    "UnpairedDataset": "patchkin.data.datasets",
    "check_data": "patchkin.data.check",
    "domain_images": "patchkin.data.domains",
    "domain_loader": "patchkin.data.domains",
    "evaluation_images": "patchkin.data.loading",
    "evaluation_pairs": "patchkin.data.paired",
    "fetch_dataset": "patchkin.data.download",
    "open_domain_data": "patchkin.data.domains",
    "open_paired_data": "patchkin.data.paired",
    "open_training_data": "patchkin.data.loading",
    "paired_loader": "patchkin.data.paired",
    "training_loader": "patchkin.data.loading",
    "write_domain_toy": "patchkin.data.toy",
    "write_paired_toy": "patchkin.data.paired",
    "write_toy": "patchkin.data.toy",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module `patchkin.data` has no attribute `{name}`")
