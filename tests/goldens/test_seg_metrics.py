"""Segmentation scores of the released scripts, and as their names say."""

import numpy as np
import pytest
import torch
from PIL import Image

from goldens.fixtures import Golden, golden_files
from patchkin.metrics.cityscapes import palette
from patchkin.metrics.segmentation import (
    CityscapesScorer,
    class_iou,
    confusion_matrix,
    correct_accuracy,
    enlarge,
    read_label,
    released_accuracy,
    rounded_mean_iou,
    segment_enlarged,
    swapped_classes,
)

RATIO = 1e-6
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "nearest": Image.Resampling.NEAREST}


@pytest.fixture(params=golden_files("semrel_seg_metrics"), scope="module")
def golden(request):
    return Golden(request.param)


@pytest.fixture(scope="module")
def labels(golden):
    return [Image.fromarray(array) for array in golden["label_rgb"]]


@pytest.fixture(scope="module")
def predictions(golden):
    return golden.tensor("pred_id")


def assert_ids(actual, expected):
    np.testing.assert_array_equal(actual.numpy(), expected)


def test_palette(golden):
    np.testing.assert_array_equal(palette().numpy(), golden["palette_rgb"])


def test_correct(golden, labels, predictions):
    ids = torch.stack([read_label(label) for label in labels])
    assert_ids(ids, golden["correct/label_id"])
    confusion = confusion_matrix(ids, predictions)
    assert_ids(confusion, golden["correct/confusion"])
    scores = correct_accuracy(confusion)
    expected = {
        "pixAcc_percent": scores.pixel_accuracy,
        "classAcc_percent_present": scores.class_accuracy,
        "classAcc_percent_over19": scores.class_accuracy_over_all,
        "mIoU_percent": scores.mean_iou,
    }
    for name, value in expected.items():
        assert value == pytest.approx(golden.number(f"correct/{name}"), rel=RATIO), name


def test_released_accuracy(golden, labels, predictions):
    ids = torch.stack([read_label(label, swap_red_and_blue=True) for label in labels])
    assert_ids(ids, golden["released_acc/label_id"])
    confusion = confusion_matrix(ids, swapped_classes(predictions))
    assert_ids(confusion, golden["released_acc/confusion"])
    scores = released_accuracy(confusion)
    expected = {
        "pixAcc_percent": scores.pixel_accuracy,
        "classAcc_percent": scores.class_accuracy,
        "mIoU_fraction": scores.mean_iou,
    }
    for name, value in expected.items():
        assert value == pytest.approx(golden.number(f"released_acc/{name}"), rel=RATIO), name


def test_released_map(golden, labels, predictions):
    for kind in golden.children("released_mAP"):
        prefix = f"released_mAP/{kind}"
        ids = torch.stack([read_label(label, resample=FILTERS[kind]) for label in labels])
        assert_ids(ids, golden[f"{prefix}/label_id"])
        confusion = confusion_matrix(ids, predictions)
        assert_ids(confusion, golden[f"{prefix}/hist"])
        torch.testing.assert_close(
            class_iou(confusion),
            golden.tensor(f"{prefix}/per_class_iou"),
            rtol=RATIO,
            atol=0,
            equal_nan=True,
        )
        assert rounded_mean_iou(confusion) == golden.number(f"{prefix}/mAP")


def test_compression(golden):
    targets = golden.tensor("compression/label_trainid")
    height, width = targets.shape[1:]
    log_probs = golden.tensor("compression/log_probs", torch.float32)
    first = torch.stack([enlarge(map_HW, height, width) for map_HW in log_probs[0]])
    resized = golden.tensor("compression/resized_first_image", torch.float32)
    torch.testing.assert_close(first, resized, rtol=1e-3, atol=1e-6)
    ids = torch.stack([segment_enlarged(maps_NHW, height, width) for maps_NHW in log_probs])
    assert_ids(ids, golden["compression/pred"])
    confusion = confusion_matrix(targets, ids)
    assert_ids(confusion, golden["compression/hist"])
    assert rounded_mean_iou(confusion) == golden.number("compression/mIoU")


def test_the_scorer_gives_the_same(golden, labels, predictions):
    scorer = CityscapesScorer()
    for label, predicted_HW in zip(labels, predictions, strict=True):
        scorer.add(label, predicted_HW)
    scores = scorer.scores()
    assert scores["images"] == len(labels)
    assert scores["released"]["mAP"] == golden.number("released_mAP/bicubic/mAP")
    for form, name, stored in (
        ("released", "pixAcc", "released_acc/pixAcc_percent"),
        ("released", "classAcc", "released_acc/classAcc_percent"),
        ("released", "mIoU_fraction", "released_acc/mIoU_fraction"),
        ("correct", "pixAcc", "correct/pixAcc_percent"),
        ("correct", "classAcc", "correct/classAcc_percent_present"),
        ("correct", "classAcc_over_all", "correct/classAcc_percent_over19"),
        ("correct", "mIoU", "correct/mIoU_percent"),
    ):
        assert scores[form][name] == pytest.approx(golden.number(stored), rel=RATIO), name
