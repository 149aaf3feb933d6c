"""Small generators from large ones: distil a supernet, search its widths, cut one out."""

from patchkin.compression.compressed import CompressedResNet, CompressedResNetConfig
from patchkin.compression.distillation import Distillation, DistillationConfig
from patchkin.compression.online import OnlineDistillation
from patchkin.compression.online_config import OnlineDistillationConfig
from patchkin.compression.space import NAMED_SPACES, SearchSpace
from patchkin.compression.teacher import TeacherConfig, teacher_taps
from patchkin.method import Method

COMPRESSED_METHODS: dict[str, type[Method]] = {
    CompressedResNet.name: CompressedResNet,
    Distillation.name: Distillation,
    OnlineDistillation.name: OnlineDistillation,
}
"""Methods that models can be of, but that `patchkin train` does not offer."""

__all__ = [
    "COMPRESSED_METHODS",
    "NAMED_SPACES",
    "CompressedResNet",
    "CompressedResNetConfig",
    "Distillation",
    "DistillationConfig",
    "OnlineDistillation",
    "OnlineDistillationConfig",
    "SearchSpace",
    "TeacherConfig",
    "teacher_taps",
]
