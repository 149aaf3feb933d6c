"""What an evaluation is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from patchkin.devices import Device
from patchkin.errors import ConfigError
from patchkin.metrics.perceptual import PerceptualNet
from patchkin.networks.drn import DRNName
from patchkin.scoring.held_out import Split

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is done now, how many images it has done, and of how many."""


def silent(*_: object) -> None:
    """No progress."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """What to score, and with what."""

    protocols: tuple[str, ...] = ("pytorch-fid",)
    """Names of protocols; each gives a Frechet and a kernel distance. Without any, only what needs
    no weights is scored, at the images' own size."""
    split: Split = "test"
    """Which held-out images of the source domain are translated."""
    extractor_weights: Path | None = None
    """File of the extractor's weights; downloaded unless given."""
    classes: tuple[int, ...] = ()
    """Classes of ImageNet that outputs should be taken for (340: zebra)."""
    masks: Path | None = None
    """Folder of masks named as the inputs: white where the change belongs."""
    truth: Path | None = None
    """Folder with what each translation should be, named as the inputs; side-by-side pairs need
    none."""
    lpips: PerceptualNet | None = None
    """Backbone of LPIPS, for mode collapse and the distance to a truth. None: not scored."""
    lpips_weights: Path | None = None
    """File of that backbone's weights; downloaded unless given."""
    judge: DRNName | None = None
    """Segmentation network that reads translations of Cityscapes label maps. None: not scored."""
    judge_weights: Path | None = None
    """File of its weights; downloaded unless given."""
    metrics: tuple[str, ...] = ()
    """Of installed packages (`patchkin.plugins`), by name."""
    batch_size: int = 1
    """Images of one size translated at once."""
    device: Device = "auto"
    """Of the extractors, LPIPS and the judge."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"`--batch-size` must be at least 1; got {self.batch_size}.")
