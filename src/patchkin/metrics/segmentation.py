"""Label-to-photo translation, judged by a segmentation network: pixAcc, classAcc and mean IoU.

A translated photograph is segmented (DRN, trained on real ones) and compared with the label map it
was made from. The numbers in papers come from released scripts that differ from what their names
say, so every score has two forms:

| score    | `released` (Hneg_SRC: get_mAP.py, get_Acc.py)         | `correct`                     |
|----------|-------------------------------------------------------|-------------------------------|
| "mAP"    | is mean IoU; label map resized bicubically, so that   | is mIoU, below; label map     |
|          | blended border colours become other classes           | resized to the nearest pixel  |
| pixAcc   | red and blue swapped, which merges classes; divided   | divided by the labelled       |
|          | by the pixels of 500 images, whatever their number    | pixels                        |
| classAcc | mean over 19 classes, an absent one counting 0        | mean over classes in labels   |
| mIoU     | likewise, and a fraction                              | over classes in either map    |

Only `released` numbers can be compared with the semantic-relation paper's own row; baseline rows of
such tables were taken from other papers and may follow other protocols.

Confusion matrices count pixels, rows are labels and columns predictions.
Shape suffixes: B images, H and W pixels, N classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from patchkin.errors import ConfigError, DataError, ShapeError
from patchkin.images import pillow_to_tensor
from patchkin.metrics.cityscapes import CLASSES, IGNORED, palette
from patchkin.networks.drn import DRN

Form: TypeAlias = Literal["released", "correct"]

SCORED_WIDTH, SCORED_HEIGHT = 256, 128
"""Size at which labels and predictions are compared: that of the scenes, halved to 2:1 again."""
RELEASED_PIXELS = SCORED_WIDTH * SCORED_HEIGHT * 500
"""What the released pixAcc divides by: the validation set has 500 images."""

_BLOCK_PIXELS = 1 << 22


# Classes from pictures


def nearest_colour(picture_HW3: Tensor, colours_N3: Tensor | None = None) -> Tensor:
    """The colour nearest to each pixel, by the sum of absolute differences; the first one on ties.

    Args:
        picture_HW3: uint8.
        colours_N3: uint8; those of the classes and black unless given.

    Returns:
        Positions in `colours_N3`, int64 [H, W].

    >>> sky, nearly_black = (70, 131, 180), (2, 0, 1)
    >>> nearest_colour(torch.tensor([[sky, nearly_black]], dtype=torch.uint8))
    tensor([[10, 19]])
    """
    if picture_HW3.dtype != torch.uint8 or picture_HW3.ndim != 3 or picture_HW3.shape[2] != 3:
        raise ShapeError(
            "`picture_HW3` must be uint8 [H, W, 3]; got "
            f"{picture_HW3.dtype} {tuple(picture_HW3.shape)}."
        )
    colours_N3 = palette() if colours_N3 is None else colours_N3
    pixels_M3 = picture_HW3.reshape(-1, 3).to(torch.int16)
    smallest_M = torch.full((len(pixels_M3),), 3 * 256, dtype=torch.int16)
    nearest_M = torch.zeros(len(pixels_M3), dtype=torch.int64)
    for index, colour_3 in enumerate(colours_N3.to(torch.int16)):  # one at a time: no [M, N] array
        distance_M = (pixels_M3 - colour_3).abs_().sum(dim=1, dtype=torch.int16)
        nearer_M = distance_M < smallest_M
        nearest_M[nearer_M] = index
        smallest_M = torch.minimum(smallest_M, distance_M)
    return nearest_M.view(picture_HW3.shape[:2])


def read_label(
    label: Image.Image,
    *,
    resample: Image.Resampling = Image.Resampling.NEAREST,
    swap_red_and_blue: bool = False,
) -> Tensor:
    """Classes of a label map given as colours, at the size where scores are taken.

    Args:
        label: of any size; RGB.
        resample: how it gets to 256 x 128. Nearest is right; the released "mAP" took Pillow's
            default, which is bicubic since Pillow 7 and was nearest before.
        swap_red_and_blue: as the released pixAcc, which hands BGR pixels to an RGB palette.

    Returns:
        int64 [128, 256], `IGNORED` where black is nearest.
    """
    resized = label.convert("RGB").resize((SCORED_WIDTH, SCORED_HEIGHT), resample)
    picture_HW3 = torch.from_numpy(np.array(resized))
    return nearest_colour(picture_HW3.flip(-1) if swap_red_and_blue else picture_HW3)


def swapped_classes(class_ids: Tensor) -> Tensor:
    """What becomes of classes that are painted, then read with red and blue swapped.

    Thirteen classes survive as something, the car as a bicycle; the truck is lost.

    >>> [(CLASSES[i], CLASSES[j]) for i, j in [(13, int(swapped_classes(torch.tensor(13))))]]
    [('car', 'bicycle')]
    """
    colours_N3 = palette()
    return nearest_colour(colours_N3.flip(-1).unsqueeze(0))[0][class_ids.long()]


def segment(network: DRN, photo: Image.Image) -> Tensor:
    """Classes of a photograph as the released "mAP" predicts them: resized bicubically.

    Returns:
        int64 [128, 256] on the CPU.
    """
    resized = photo.convert("RGB").resize((SCORED_WIDTH, SCORED_HEIGHT), Image.Resampling.BICUBIC)
    parameter = network.seg.weight
    x_BCHW = pillow_to_tensor(resized).unsqueeze(0).to(parameter.device, parameter.dtype)
    with torch.no_grad():
        log_probs_NHW: Tensor = network(x_BCHW)[0]
    return log_probs_NHW.argmax(dim=0).cpu()


def segment_enlarged(log_probs_NHW: Tensor, height: int, width: int) -> Tensor:
    """Classes at the size of the label map, as GAN Compression's mIoU predicts them.

    Each class's log-probabilities are enlarged on their own, bilinearly, by Pillow; the largest
    wins, the first one on ties. Two maps are in memory at a time, not one per class.

    Args:
        log_probs_NHW: float32, of one image.
        height: of the label map; 1024 in Cityscapes.
        width: of the label map; 2048.

    Returns:
        int64 [height, width].
    """
    best_HW = torch.full((height, width), -math.inf)
    winner_HW = torch.zeros((height, width), dtype=torch.int64)
    for index, map_HW in enumerate(log_probs_NHW):
        enlarged_HW = enlarge(map_HW, height, width)
        larger_HW = enlarged_HW > best_HW
        winner_HW[larger_HW] = index
        best_HW = torch.maximum(best_HW, enlarged_HW)
    return winner_HW


def enlarge(map_HW: Tensor, height: int, width: int) -> Tensor:
    """A float map resized by Pillow, bilinearly.

    >>> enlarge(torch.tensor([[0.0, 1.0]]), 1, 4)
    tensor([[0.0000, 0.2500, 0.7500, 1.0000]])
    """
    image = Image.fromarray(map_HW.detach().float().cpu().numpy())
    return torch.from_numpy(np.array(image.resize((width, height), Image.Resampling.BILINEAR)))


# Counts and scores


def confusion_matrix(
    label_ids: Tensor, predicted_ids: Tensor, *, num_classes: int = len(CLASSES)
) -> Tensor:
    """How many pixels of each class were taken for which.

    Pixels whose label or prediction is no class (20 and more, 255) are left out.

    Args:
        label_ids: whole numbers, any shape.
        predicted_ids: of the same shape.
        num_classes: N.

    Returns:
        int64 [N, N], rows are labels. Matrices of several images may be added.

    Raises:
        ShapeError: if the shapes differ.

    >>> confusion_matrix(torch.tensor([0, 1, 1, 255]), torch.tensor([0, 1, 0, 0]), num_classes=2)
    tensor([[1, 0],
            [1, 1]])
    """
    if label_ids.shape != predicted_ids.shape:
        raise ShapeError(
            "`label_ids` and `predicted_ids` must have the same shape; got "
            f"{tuple(label_ids.shape)} and {tuple(predicted_ids.shape)}. Resize the label map "
            "with nearest neighbours."
        )
    counts = torch.zeros(num_classes * num_classes, dtype=torch.int64)
    blocks = zip(
        torch.split(label_ids.reshape(-1), _BLOCK_PIXELS),
        torch.split(predicted_ids.reshape(-1), _BLOCK_PIXELS),
        strict=True,
    )
    for label_block_M, predicted_block_M in blocks:
        label_M, predicted_M = label_block_M.long(), predicted_block_M.long()
        counted_M = _is_class(label_M, num_classes) & _is_class(predicted_M, num_classes)
        cells = label_M[counted_M] * num_classes + predicted_M[counted_M]
        counts += torch.bincount(cells, minlength=num_classes * num_classes).cpu()
    return counts.view(num_classes, num_classes)


def _is_class(ids: Tensor, num_classes: int) -> Tensor:
    return (ids >= 0) & (ids < num_classes)


def class_iou(confusion_NN: Tensor) -> Tensor:
    """Intersection over union of each class in percent; NaN where a class is in neither map.

    >>> class_iou(torch.tensor([[1, 1], [0, 2]]))
    tensor([50.0000, 66.6667], dtype=torch.float64)
    """
    hits_N, labelled_N, predicted_N = _margins(confusion_NN)
    return 100 * hits_N / (labelled_N + predicted_N - hits_N)


def rounded_mean_iou(confusion_NN: Tensor) -> float:
    """What the released scripts print: mean IoU over the classes present, percent, two decimals.

    get_mAP.py calls it "mAP"; GAN Compression's cityscapes_mIoU.py calls it mIoU.
    """
    return round(float(class_iou(confusion_NN).nanmean()), 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyScores:
    """pixAcc, classAcc and mean IoU of one confusion matrix."""

    form: Form
    pixel_accuracy: float
    """Percent."""
    class_accuracy: float
    """Percent; over the classes present in the labels, or over all if `released`."""
    class_accuracy_over_all: float
    """Percent; a class that no label has counts 0."""
    mean_iou: float
    """Percent, or a fraction if `released`."""


def correct_accuracy(confusion_NN: Tensor) -> AccuracyScores:
    """The scores as their names say.

    >>> scores = correct_accuracy(torch.tensor([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
    >>> scores.pixel_accuracy, scores.class_accuracy
    (83.33333333333333, 87.5)
    """
    hits_N, labelled_N, _ = _margins(confusion_NN)
    recall_N = hits_N / labelled_N  # NaN for a class that no label has
    return AccuracyScores(
        form="correct",
        pixel_accuracy=float(100 * hits_N.sum() / labelled_N.sum()),
        class_accuracy=float(100 * recall_N.nanmean()),
        class_accuracy_over_all=float(100 * recall_N.nan_to_num().mean()),
        mean_iou=float(class_iou(confusion_NN).nanmean()),
    )


def released_accuracy(confusion_NN: Tensor) -> AccuracyScores:
    """The scores as get_Acc.py computes them from a confusion matrix of swapped colours.

    Absent classes count 0, so a perfect prediction has at most 13 / 19 = 68.4 % class accuracy, and
    a set of other than 500 images a pixAcc out of proportion.
    """
    hits_N, labelled_N, predicted_N = _margins(confusion_NN)
    class_accuracy = float(100 * (hits_N / (labelled_N + 1e-12)).mean())
    return AccuracyScores(
        form="released",
        pixel_accuracy=float(100 * hits_N.sum() / RELEASED_PIXELS),
        class_accuracy=class_accuracy,
        class_accuracy_over_all=class_accuracy,
        mean_iou=float((hits_N / (labelled_N + predicted_N - hits_N + 1e-6)).mean()),
    )


def _margins(confusion_NN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hits, labelled and predicted pixels of each class, float64."""
    counts_NN = confusion_NN.double()
    return counts_NN.diagonal(), counts_NN.sum(dim=1), counts_NN.sum(dim=0)


def _square() -> Tensor:
    return torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.int64)


@dataclass
class CityscapesScorer:
    """All the single-image scores of a set of label maps and their translations, in both forms.

    >>> scorer = CityscapesScorer()
    >>> road = Image.new("RGB", (256, 256), (128, 64, 128))
    >>> scorer.add(road, torch.zeros(128, 256, dtype=torch.int64))
    >>> scores = scorer.scores()
    >>> scores["correct"]["pixAcc"], scores["released"]["pixAcc"], scores["images"]
    (100.0, 0.2, 1)
    """

    num_images: int = 0
    _bicubic_NN: Tensor = field(default_factory=_square)
    _nearest_NN: Tensor = field(default_factory=_square)
    _swapped_NN: Tensor = field(default_factory=_square)

    def add(self, label: Image.Image, predicted_ids_HW: Tensor) -> None:
        """Count one image.

        Args:
            label: the label map that was translated, as colours.
            predicted_ids_HW: what `segment` says of its translation, [128, 256].
        """
        bicubic_HW = read_label(label, resample=Image.Resampling.BICUBIC)
        self._bicubic_NN += confusion_matrix(bicubic_HW, predicted_ids_HW)
        self._nearest_NN += confusion_matrix(read_label(label), predicted_ids_HW)
        self._swapped_NN += confusion_matrix(
            read_label(label, swap_red_and_blue=True), swapped_classes(predicted_ids_HW)
        )
        self.num_images += 1

    def add_photos(self, network: DRN, pairs: Iterable[tuple[Image.Image, Image.Image]]) -> None:
        """Segment and count pairs of a label map and its translation."""
        for label, photo in pairs:
            self.add(label, segment(network, photo))

    def scores(self) -> dict[str, Any]:
        """The scores by form, under the names of the tables. Percent, but the released mIoU.

        Raises:
            ConfigError: if no image was added.
            DataError: if no label map has a class anywhere.
        """
        if self.num_images == 0:
            raise ConfigError("There are no segmentation scores of no images; add one first.")
        if not self._nearest_NN.any():
            raise DataError(
                "No pixel of the label maps has a class: all are black. Are they label maps in "
                "the colours of Cityscapes?"
            )
        released = released_accuracy(self._swapped_NN)
        correct = correct_accuracy(self._nearest_NN)
        iou_N = class_iou(self._nearest_NN).tolist()
        return {
            "images": self.num_images,
            "released": {
                "mAP": rounded_mean_iou(self._bicubic_NN),
                "pixAcc": released.pixel_accuracy,
                "classAcc": released.class_accuracy,
                "mIoU_fraction": released.mean_iou,
            },
            "correct": {
                "pixAcc": correct.pixel_accuracy,
                "classAcc": correct.class_accuracy,
                "classAcc_over_all": correct.class_accuracy_over_all,
                "mIoU": correct.mean_iou,
                "IoU": {
                    name: None if math.isnan(value) else value
                    for name, value in zip(CLASSES, iou_N, strict=True)
                },
            },
        }


__all__ = [
    "IGNORED",
    "AccuracyScores",
    "CityscapesScorer",
    "class_iou",
    "confusion_matrix",
    "correct_accuracy",
    "enlarge",
    "nearest_colour",
    "read_label",
    "released_accuracy",
    "rounded_mean_iou",
    "segment",
    "segment_enlarged",
    "swapped_classes",
]
