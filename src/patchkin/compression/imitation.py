"""What a student lowers that copies teachers while they learn (OMGD, ICCV 2021; DCD, CVPR 2023).

Shape suffixes: B images, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from patchkin.config import check_not_negative
from patchkin.losses import pixel_distance
from patchkin.losses.imitation import (
    channel_mean_distance,
    feature_distance,
    gram_distance,
    similarity_distance,
    total_variation,
)
from patchkin.method import Terms
from patchkin.networks.vgg import VGG16_WIDTH, VGGFeatures

FeatureSource = Literal["vgg16", "random", "discriminator", "encoder"]

_VGG_LAYERS = (1, 3, 6, 9)
"""relu1_2, relu2_2, relu3_3, relu4_3."""
_COMPARED = 1
"""The map of the feature term, relu2_2 with VGG16; the style term has all."""


class View(NamedTuple):
    """What a generator makes of the source images."""

    image_BCHW: Tensor
    maps: Sequence[Tensor] = ()
    """At the taps, of student and wider teacher."""

    def constant(self) -> View:
        """Without its graph."""
        return View(self.image_BCHW.detach(), [map_BCHW.detach() for map_BCHW in self.maps])


@dataclass(frozen=True, kw_only=True, slots=True)
class ImitationConfig:
    """The student's loss. Defaults are the released horse-to-zebra settings of OMGD."""

    similarity_weight: float = 10.0
    """lambda_SSIM, of 1 - SSIM. 0 leaves a term out, here and below."""
    style_weight: float = 1e4
    """lambda_style, of the distance of Gram matrices of VGG16's maps."""
    feature_weight: float = 10.0
    """lambda_feature, of the distance of VGG16's relu2_2."""
    variation_weight: float = 1e-5
    """lambda_tv, of the sum of differences of neighbouring pixels."""
    channel_weight: float = 500.0
    """lambda_CD of OMGD, of the squared distance of channel means of four maps."""
    features: Literal["auto", FeatureSource] = "auto"
    """Whose maps the style and the feature term compare: VGG16's, those of its layers with seeded
    weights that learned nothing, or what the teacher's discriminator or an encoder of the teachers
    makes of the images. The last three are ours, for where no weights can be had. `auto`: VGG16's
    with `vgg_weights`, else the discriminator's."""
    vgg_weights: str | None = None
    """File with torchvision's VGG16; needed to train, not to translate."""
    feature_width: int = VGG16_WIDTH
    """Channels of VGG16's first stage; other than 64 only with `random`."""
    relative_style_weight: float = 1.0
    """Instead of `style_weight` where the features are not VGG16's: the distance is then divided by
    the mean |Gram matrix| of the teacher's image, since other features have other scales. Ours."""
    relative_feature_weight: float = 1.0
    """Instead of `feature_weight`, in the same way."""
    discriminator_weight: float = 0.0
    """lambda_CD of DCD (there 1): four maps of student and teacher become images, and what the
    teacher's discriminator sees in these is compared."""
    adversarial_weight: float = 0.0
    """Of the teacher's discriminator on the student (DCD: 1). OMGD's student has no such term."""
    adversarial_on: Literal["student", "teacher"] = "student"
    """Whose image it judges. DCD's released code judges the teacher's, which gives the student no
    gradient; its abstract, and CRD's code, mean the student's."""

    def __post_init__(self) -> None:
        weights = [name for name in self.__dataclass_fields__ if name.endswith("_weight")]
        check_not_negative(self, *weights)

    @property
    def feature_source(self) -> FeatureSource:
        """Whose maps are compared."""
        if self.features == "auto":
            return "discriminator" if self.vgg_weights is None else "vgg16"
        return self.features

    @property
    def image_weights(self) -> tuple[float, float]:
        """Of the style and the feature term, for the features that there are."""
        if self.feature_source == "vgg16":
            return self.style_weight, self.feature_weight
        return self.relative_style_weight, self.relative_feature_weight

    def vgg(self) -> VGGFeatures | None:
        """VGG16 as the released code uses it, if it is used."""
        source = self.feature_source
        if source not in ("vgg16", "random"):
            return None
        return VGGFeatures(
            # Of random layers, the deeper maps say little (ours).
            _VGG_LAYERS if source == "vgg16" else _VGG_LAYERS[:2],
            weights=self.vgg_weights,
            random=source == "random",
            width=self.feature_width,
            normalized=False,
        )


def image_terms(
    config: ImitationConfig, student_BCHW: Tensor, teacher_BCHW: Tensor, *, suffix: str = ""
) -> Terms:
    """How far the student's images are from a teacher's, pixel by pixel, and how rough they are.

    Args:
        config: the weights.
        student_BCHW: receive the gradient.
        teacher_BCHW: constant.
        suffix: of the terms' names.

    >>> image_BCHW = torch.zeros(1, 1, 3, 4)
    >>> image_terms(ImitationConfig(), image_BCHW, image_BCHW)
    {'similarity': tensor(0.), 'variation': tensor(0.)}
    """
    terms: Terms = {}
    if config.similarity_weight:
        distance = similarity_distance(student_BCHW, teacher_BCHW)
        terms[f"similarity{suffix}"] = config.similarity_weight * distance
    if config.variation_weight:
        terms[f"variation{suffix}"] = config.variation_weight * total_variation(student_BCHW)
    return terms


def feature_terms(
    config: ImitationConfig,
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    suffix: str = "",
) -> Terms:
    """How far what a network sees in the student's images is from what it sees in a teacher's.

    Args:
        config: the weights, and whether the features are VGG16's.
        student: maps of the student's images; receive the gradient.
        teacher: maps of the teacher's; constant.
        suffix: of the terms' names.
    """
    terms: Terms = {}
    relative = config.feature_source != "vgg16"
    style_weight, feature_weight = config.image_weights
    if style_weight:
        distances = [
            gram_distance(*pair, relative=relative) for pair in zip(student, teacher, strict=True)
        ]
        terms[f"style{suffix}"] = style_weight * torch.stack(distances).sum()
    if feature_weight:
        distance = feature_distance(student[_COMPARED], teacher[_COMPARED], relative=relative)
        terms[f"feature{suffix}"] = feature_weight * distance
    return terms


def summed_over_taps(
    distance: Literal["channels", "values"],
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
) -> Tensor:
    """Distances of channel means, or mean absolute ones of all values, summed over the maps.

    Args:
        distance: which.
        student: maps; receive the gradient.
        teacher: maps; constant for channel means, receive the gradient for values.

    >>> ones, zeros = [torch.ones(1, 2, 3, 3)] * 4, [torch.zeros(1, 2, 3, 3)] * 4
    >>> summed_over_taps("channels", ones, zeros).item()
    4.0
    """
    pairs = zip(student, teacher, strict=True)
    if distance == "channels":
        return torch.stack([channel_mean_distance(*pair) for pair in pairs]).sum()
    return torch.stack([pixel_distance(*pair) for pair in pairs]).sum()
