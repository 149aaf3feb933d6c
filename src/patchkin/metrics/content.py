"""Content: whether an output still is the picture that went in, and whether it is of the new kind.

None of these needs labels. They stand beside a Frechet distance, which a model can win with outputs
that have nothing to do with their inputs.

Images are in [-1, 1]; changes are given in 8-bit levels, 0 to 255. To score what a user gets, give
the 8-bit values back in [-1, 1].

Shape suffixes: B images, C channels, H and W pixels, h and w places of a feature map, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from patchkin.errors import ConfigError, ShapeError, check_same_shape
from patchkin.losses.relation import relation_divergence
from patchkin.metrics.checks import check_finite
from patchkin.metrics.counterpart import PIXEL_LEVELS

ZEBRA = 340
"""Class of ImageNet."""

EQUAL_LEVELS = 1.0
"""A mean change below this many levels is less than an 8-bit file's rounding can show."""
INVERTED_CORRELATION = -0.3
"""The same picture has 1, an unrelated one about 0, a negative -1."""

_MOST_ROWS, _ROWS_AT_ONCE = 4096, 256  # of relations in memory: those of 1024 x 1024 pixels
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedChange:
    """Mean absolute change in 8-bit levels; of an image without such pixels NaN."""

    inside_B: Tensor
    """Where the change belongs."""
    outside_B: Tensor
    """Should be near 0."""

    def means(self) -> dict[str, float]:
        """Means over the images that have such pixels."""
        return {
            "change_inside": self.inside_B.nanmean().item(),
            "change_outside": self.outside_B.nanmean().item(),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassRate:
    """Share of images that a classifier takes for the wanted kind, in percent."""

    top1_percent: float
    top5_percent: float
    num_images: int


def relation_change(output_map_BChw: Tensor, input_map_BChw: Tensor) -> Tensor:
    """How much the relations between the patches of an image changed: L_SRC per patch, as a score.

    The semantic relation consistency of Jung et al. 2022 (Eq. 3) between feature maps of a fixed
    network, such as `SqueezeNetExtractor.feature_map`, averaged over the patches of each image. It
    does not ask for equal features: a striped horse may keep its relations.

    Args:
        output_map_BChw: of the outputs.
        input_map_BChw: of their inputs.

    Returns:
        [B] in nats, 0 for equal relations; without a temperature it stays below 0.33 and mostly far
        below. Compare values of one network and one image size.

    Raises:
        ShapeError: the shapes differ or are not [B, C, h, w].
        DataError: values that are not finite.

    >>> map_BChw = torch.eye(4).reshape(1, 4, 2, 2)
    >>> relation_change(-map_BChw, map_BChw)  # features changed, relations did not
    tensor([0.])
    """
    check_same_shape(output_map_BChw=output_map_BChw, input_map_BChw=input_map_BChw)
    if output_map_BChw.ndim != 4:
        raise ShapeError(f"Feature maps must be [B, C, h, w]; got {tuple(output_map_BChw.shape)}.")
    check_finite(output_map_BChw, "feature maps of outputs")
    check_finite(input_map_BChw, "feature maps of inputs")
    output_BKC, input_BKC = (x.flatten(2).mT for x in (output_map_BChw, input_map_BChw))
    rows = _ROWS_AT_ONCE if output_BKC.shape[1] > _MOST_ROWS else None
    return relation_divergence(output_BKC, input_BKC, rows_at_once=rows).mean(dim=1)


def masked_change(output_BCHW: Tensor, input_BCHW: Tensor, mask_BHW: Tensor) -> MaskedChange:
    """Change of pixels inside and outside given masks.

    Args:
        output_BCHW: translations, in [-1, 1].
        input_BCHW: what was translated.
        mask_BHW: bool, true where the images are meant to differ.

    Raises:
        ShapeError: the shapes do not fit.
        DataError: values that are not finite.

    >>> input_BCHW = torch.zeros(1, 1, 1, 4)
    >>> output_BCHW = input_BCHW + torch.tensor([0.2, 0.0, 0.0, 0.1])
    >>> mask_BHW = torch.tensor([[[True, True, False, False]]])
    >>> change = masked_change(output_BCHW, input_BCHW, mask_BHW)
    >>> {name: round(value, 3) for name, value in change.means().items()}
    {'change_inside': 12.75, 'change_outside': 6.375}
    """
    _check_images(output_BCHW, input_BCHW)
    if mask_BHW.dtype is not torch.bool or mask_BHW.shape != _without_channels(output_BCHW):
        raise ShapeError(
            f"`mask_BHW` must be bool {_without_channels(output_BCHW)}; got "
            f"{mask_BHW.dtype} {tuple(mask_BHW.shape)}."
        )
    change_BHW = (output_BCHW.double() - input_BCHW.double()).abs().mean(dim=1) * PIXEL_LEVELS
    inside_B, outside_B = (
        (change_BHW * where).sum(dim=(1, 2)) / where.sum(dim=(1, 2))
        for where in (mask_BHW, ~mask_BHW)
    )
    return MaskedChange(inside_B=inside_B, outside_B=outside_B)


def class_rate(logits_BK: Tensor, classes: Sequence[int]) -> ClassRate:
    """How often a classifier sees one of the wanted classes (zebra rate).

    Args:
        logits_BK: of the outputs.
        classes: ids of the wanted kind.

    Raises:
        ShapeError: not [B, K] with at least one image and 5 classes.
        ConfigError: no class, or an id that the classifier does not have.
        DataError: values that are not finite.

    >>> logits_BK = torch.tensor([[9.0, 0, 0, 0, 0, 0], [1.0, 2, 3, 4, 5, 6]])
    >>> class_rate(logits_BK, [0])
    ClassRate(top1_percent=50.0, top5_percent=50.0, num_images=2)
    """
    if logits_BK.ndim != 2 or len(logits_BK) == 0 or logits_BK.shape[1] < 5:
        raise ShapeError(
            "`logits_BK` must be [B, K] with at least one image and 5 classes; "
            f"got {tuple(logits_BK.shape)}."
        )
    num_classes = logits_BK.shape[1]
    if not classes or not all(0 <= wanted < num_classes for wanted in classes):
        raise ConfigError(f"`classes` must name ids from 0 to {num_classes - 1}; got {classes}.")
    check_finite(logits_BK, "rows of logits")
    best_B5 = logits_BK.topk(5, dim=1).indices
    hit_B5 = torch.isin(best_B5, torch.tensor(list(classes), device=best_B5.device))
    return ClassRate(
        top1_percent=100 * hit_B5[:, 0].double().mean().item(),
        top5_percent=100 * hit_B5.any(dim=1).double().mean().item(),
        num_images=len(logits_BK),
    )


def mean_change(output_BCHW: Tensor, input_BCHW: Tensor) -> Tensor:
    """Mean absolute change of each image, [B], in 8-bit levels.

    Raises:
        ShapeError: the shapes differ or are not [B, C, H, W].
        DataError: values that are not finite.
    """
    _check_images(output_BCHW, input_BCHW)
    return (output_BCHW.double() - input_BCHW.double()).abs().mean(dim=(1, 2, 3)) * PIXEL_LEVELS


def luma_correlation(output_BCHW: Tensor, input_BCHW: Tensor) -> Tensor:
    """Correlation of the brightness of output and input over the pixels of each image, [B].

    1 for the same picture at any contrast, -1 for its negative; NaN if one of the two is flat.

    Raises:
        ShapeError: sizes differ.
        DataError: values that are not finite.

    >>> ramp_BCHW = torch.linspace(-1, 1, 4).reshape(1, 1, 2, 2)
    >>> luma_correlation(-0.5 * ramp_BCHW, ramp_BCHW)
    tensor([-1.], dtype=torch.float64)
    """
    if _without_channels(output_BCHW) != _without_channels(input_BCHW):
        raise ShapeError(
            "Output and input must have one size; got "
            f"{tuple(output_BCHW.shape)} and {tuple(input_BCHW.shape)}."
        )
    check_finite(output_BCHW, "outputs")
    check_finite(input_BCHW, "inputs")
    output_BP, input_BP = (_centred_luma(x) for x in (output_BCHW, input_BCHW))
    scale_B: Tensor = torch.linalg.vector_norm(output_BP, dim=1) * torch.linalg.vector_norm(
        input_BP, dim=1
    )
    return (output_BP * input_BP).sum(dim=1) / scale_B


def translation_warnings(output_BCHW: Tensor, input_BCHW: Tensor) -> tuple[str, ...]:
    """What at least half of a batch of translations suffers from, in words; empty if nothing.

    - the output is the input: mean change below `EQUAL_LEVELS`;
    - colours are inverted: correlation of the brightness below `INVERTED_CORRELATION`.

    Raises:
        ShapeError: sizes differ.
        DataError: values that are not finite.

    >>> image_BCHW = torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4)
    >>> translation_warnings(image_BCHW, image_BCHW)
    ('1 of 1 outputs equal their input (mean change below 1 of 255 levels).',)
    """
    warnings = []
    if output_BCHW.shape == input_BCHW.shape:
        equal_B = mean_change(output_BCHW, input_BCHW) < EQUAL_LEVELS
        if 2 * int(equal_B.sum()) >= len(equal_B):
            warnings.append(
                f"{int(equal_B.sum())} of {len(equal_B)} outputs equal their input "
                f"(mean change below {EQUAL_LEVELS:g} of 255 levels)."
            )
    inverted_B = luma_correlation(output_BCHW, input_BCHW) < INVERTED_CORRELATION
    if 2 * int(inverted_B.sum()) >= len(inverted_B):
        warnings.append(
            f"{int(inverted_B.sum())} of {len(inverted_B)} outputs look like negatives of their "
            f"input (correlation of the brightness below {INVERTED_CORRELATION:g})."
        )
    return tuple(warnings)


def _check_images(output_BCHW: Tensor, input_BCHW: Tensor) -> None:
    check_same_shape(output_BCHW=output_BCHW, input_BCHW=input_BCHW)
    _without_channels(output_BCHW)
    check_finite(output_BCHW, "outputs")
    check_finite(input_BCHW, "inputs")


def _without_channels(images_BCHW: Tensor) -> tuple[int, int, int]:
    if images_BCHW.ndim != 4 or len(images_BCHW) == 0:
        raise ShapeError(f"Images must be [B, C, H, W]; got {tuple(images_BCHW.shape)}.")
    return images_BCHW.shape[0], images_BCHW.shape[2], images_BCHW.shape[3]


def _centred_luma(images_BCHW: Tensor) -> Tensor:
    """[B, pixels] with mean 0; the mean of the channels where they are not red, green and blue."""
    images_BCHW = images_BCHW.double()
    if images_BCHW.shape[1] == len(_LUMA):
        weights_C11 = images_BCHW.new_tensor(_LUMA)[:, None, None]
        luma_BP = (images_BCHW * weights_C11).sum(dim=1).flatten(1)
    else:
        luma_BP = images_BCHW.mean(dim=1).flatten(1)
    return luma_BP - luma_BP.mean(dim=1, keepdim=True)
