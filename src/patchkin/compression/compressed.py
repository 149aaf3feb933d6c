"""The model that compression ends with: a narrow generator, ready to translate.

GAN Compression: Li, Lin, Ding, Liu, Zhu and Han, CVPR 2020 (arXiv 2003.08936); distilled with
semantic relations by Jung, Kwon and Ye, CVPR 2022, Sec. 4.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

from torch import Tensor

from patchkin.errors import ConfigError
from patchkin.method import Method, Preset, Progress, Update
from patchkin.networks import NormKind
from patchkin.networks.separable import (
    SeparableGenerator,
    check_configuration,
    parse_channels,
)
from patchkin.schedules import AdamConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressedResNetConfig:
    """Defaults are GAN Compression's released horse-to-zebra model: 356,867 parameters."""

    channels: tuple[int, ...] = (16, 16, 32, 16, 32, 32, 16, 16)
    """The configuration c0 ... c7; see `patchkin.networks.separable`."""
    in_channels: int = 3
    """Channels of the source domain."""
    out_channels: int = 3
    """Channels of the target domain."""
    norm: NormKind = "instance"
    """After every convolution but the last; as its supernet. Batch norm is of students of OMGD."""

    def __post_init__(self) -> None:
        check_configuration(self.channels)
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1; got {getattr(self, name)}.")


def _published(summary: str, channels: str) -> Preset:
    return Preset(summary=summary, method=CompressedResNetConfig(channels=parse_channels(channels)))


PRESETS: Mapping[str, Preset] = {
    "gan-compression-horse2zebra": _published(
        "GAN Compression, retrained: 0.357 M parameters", "16_16_32_16_32_32_16_16"
    ),
    "horse2zebra": _published(
        "Jung et al., Table 2: 0.412 M parameters, 2.962 G MACs", "16_16_32_16_16_64_16_24"
    ),
    "map2sat": _published(
        "Jung et al., Table 2: 0.667 M parameters, 4.495 G MACs", "16_16_48_32_32_40_24_16"
    ),
    "cityscapes": _published(
        "Jung et al., Table 2: 0.685 M parameters, 4.390 G MACs", "40_16_48_16_48_48_16_16"
    ),
}


@final
class CompressedResNet(Method):
    """A narrow generator, cut out of a distilled supernet. It translates and does not learn."""

    name: ClassVar[str] = "compressed-resnet"
    paper: ClassVar[str] = "Li, Lin, Ding, Liu, Zhu, Han, CVPR 2020 (arXiv 2003.08936)"
    config_type: ClassVar[type] = CompressedResNetConfig
    presets: ClassVar[Mapping[str, Preset]] = PRESETS

    config: CompressedResNetConfig

    def __init__(self, config: CompressedResNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CompressedResNetConfig()
        self.G = SeparableGenerator(
            config.channels, config.in_channels, config.out_channels, norm=config.norm
        )
        self.channels = (config.in_channels, config.out_channels)
        self.multiple_of = self.G.multiple_of
        self.min_size = self.min_training_size = self.G.min_size

    def adam(self) -> dict[str, AdamConfig]:
        """None: nothing of it learns."""
        return {}

    def train_step(self, batch: Any, update: Update, progress: Progress) -> None:
        """Refused.

        Raises:
            ConfigError: always; such a generator is distilled from a teacher.
        """
        raise ConfigError(
            "A compressed generator does not learn from images alone: distil a teacher with "
            "`patchkin compress distill TEACHER --data ROOT`."
        )

    def translate(self, x_BCHW: Tensor) -> Tensor:
        """G(x)."""
        y_BCHW: Tensor = self.G(x_BCHW)
        return y_BCHW
