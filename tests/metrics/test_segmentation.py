import hashlib
import math

import numpy as np
import pytest
import torch
from PIL import Image

from patchkin.errors import ConfigError, DataError, DownloadError, ShapeError
from patchkin.metrics.cityscapes import CLASSES, IGNORED, JUDGES, JudgeWeights, fetch_judge, palette
from patchkin.metrics.segmentation import (
    CityscapesScorer,
    class_iou,
    confusion_matrix,
    correct_accuracy,
    enlarge,
    nearest_colour,
    read_label,
    released_accuracy,
    rounded_mean_iou,
    segment,
    segment_enlarged,
    swapped_classes,
)
from patchkin.networks.drn import DRN


@pytest.fixture(autouse=True)
def _same_draws_in_every_run():
    torch.manual_seed(0)


def some_counts():
    """Ids of two images with an absent class and ignored pixels, and the counts by a loop."""
    labels = torch.tensor([[0, 0, 1, 3, 255], [1, 19, 3, 3, 0]])
    predicted = torch.tensor([[0, 1, 1, 3, 3], [1, 1, 0, 7, 0]])
    counts = [[0] * 4 for _ in range(4)]
    for label, guess in zip(labels.flatten().tolist(), predicted.flatten().tolist(), strict=True):
        if label < 4 and guess < 4:
            counts[label][guess] += 1
    return labels, predicted, torch.tensor(counts)


# Colours


def test_nearest_colour_matches_a_loop_over_pixels():
    picture_HW3 = torch.randint(0, 256, (9, 14, 3), dtype=torch.uint8)
    colours = palette().tolist()
    expected = [
        [
            min(
                range(20), key=lambda i: sum(abs(a - b) for a, b in zip(p, colours[i], strict=True))
            )
            for p in row
        ]
        for row in picture_HW3.tolist()
    ]
    assert nearest_colour(picture_HW3).tolist() == expected


def test_the_first_of_equally_near_colours_wins():
    colours_N3 = torch.tensor([[0, 0, 0], [4, 0, 0], [0, 4, 0]], dtype=torch.uint8)
    picture_HW3 = torch.tensor([[[2, 0, 0], [2, 2, 0], [3, 3, 0], [255, 255, 255]]]).byte()
    assert nearest_colour(picture_HW3, colours_N3).tolist() == [[0, 0, 1, 1]]


def test_the_colours_of_the_classes_are_themselves():
    assert nearest_colour(palette().unsqueeze(0))[0].tolist() == list(range(IGNORED + 1))


def test_pictures_that_are_no_bytes_are_refused():
    with pytest.raises(ShapeError, match=r"uint8 \[H, W, 3\]; got torch.float32"):
        nearest_colour(torch.zeros(2, 2, 3))


def test_swapping_red_and_blue_merges_classes():
    swapped = dict(zip(CLASSES, swapped_classes(torch.arange(len(CLASSES))).tolist(), strict=True))
    names = {name: (*CLASSES, "ignored")[index] for name, index in swapped.items()}
    unchanged = {"road", "sidewalk", "building", "pole", "terrain"}
    assert unchanged == {name for name, other in names.items() if name == other}
    assert names["truck"] == "ignored"
    assert names["sky"] == "fence"
    assert names["motorcycle"] == "rider"
    assert len(set(names.values()) - {"ignored"}) == 13


def test_label_maps_of_any_size_are_read_at_the_scored_size():
    car, sidewalk, road = 13, 1, 0
    array = np.zeros((256, 32, 3), dtype=np.uint8)
    array[:129], array[129:] = palette()[car], palette()[sidewalk]
    label = Image.fromarray(array)
    ids_HW = read_label(label)
    assert ids_HW.shape == (128, 256)
    assert (ids_HW[:64] == car).all()
    assert (ids_HW[64:] == sidewalk).all()
    blended_HW = read_label(label, resample=Image.Resampling.BICUBIC)
    assert (blended_HW[64] == road).all()  # the colour between both
    assert torch.equal(read_label(label, swap_red_and_blue=True), swapped_classes(ids_HW))


# Counts


def test_confusion_matches_a_loop_over_pixels(monkeypatch):
    labels, predicted, expected = some_counts()
    assert torch.equal(confusion_matrix(labels, predicted, num_classes=4), expected)
    monkeypatch.setattr("patchkin.metrics.segmentation._BLOCK_PIXELS", 3)
    assert torch.equal(confusion_matrix(labels, predicted, num_classes=4), expected)


def test_confusion_of_a_set_is_the_sum_over_its_images():
    labels, predicted = torch.randint(0, 21, (2, 3, 6, 10))
    labels[0, 0, 0] = 255
    whole = confusion_matrix(labels, predicted)
    parts = [confusion_matrix(a, b) for a, b in zip(labels, predicted, strict=True)]
    assert torch.equal(whole, sum(parts))
    assert torch.equal(whole, confusion_matrix(labels.byte(), predicted.byte()))
    assert whole.sum() == ((labels < 19) & (predicted < 19)).sum()
    assert torch.equal(whole.T, confusion_matrix(predicted, labels))


def test_maps_of_different_sizes_are_refused():
    with pytest.raises(ShapeError, match=r"\(2, 3\) and \(3, 2\)"):
        confusion_matrix(torch.zeros(2, 3), torch.zeros(3, 2))


# Scores


def test_correct_scores_of_a_case_worked_out_by_hand():
    # Class 2 is in neither map, class 3 only predicted.
    confusion = torch.tensor([[6, 2, 0, 0], [1, 2, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]])
    scores = correct_accuracy(confusion)
    assert scores.form == "correct"
    assert scores.pixel_accuracy == pytest.approx(100 * 8 / 12)
    assert scores.class_accuracy == pytest.approx(100 * (6 / 8 + 2 / 4) / 2)
    assert scores.class_accuracy_over_all == pytest.approx(100 * (6 / 8 + 2 / 4) / 4)
    assert scores.mean_iou == pytest.approx(100 * (6 / 9 + 2 / 6 + 0 / 1) / 3)
    iou = class_iou(confusion)
    assert iou[:2].tolist() == pytest.approx([100 * 6 / 9, 100 * 2 / 6])
    assert math.isnan(iou[2])
    assert iou[3] == 0
    assert rounded_mean_iou(confusion) == 33.33


def test_released_scores_of_a_case_worked_out_by_hand():
    confusion = torch.tensor([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    scores = released_accuracy(confusion)
    assert scores.form == "released"
    assert scores.pixel_accuracy == pytest.approx(100 * 9 / (256 * 128 * 500))
    assert scores.class_accuracy == pytest.approx(100 * (6 / 8 + 3 / 4 + 0) / 3)
    assert scores.mean_iou == pytest.approx((6 / 9 + 3 / 6 + 0) / 3, rel=1e-6)


def test_a_perfect_prediction():
    ids_HW = torch.arange(19).repeat_interleave(12)[:, None].expand(-1, 7)
    scores = correct_accuracy(confusion_matrix(ids_HW, ids_HW))
    assert scores.pixel_accuracy == scores.class_accuracy == scores.mean_iou == 100
    swapped = swapped_classes(ids_HW)
    released = released_accuracy(confusion_matrix(swapped, swapped))
    assert released.class_accuracy == pytest.approx(100 * 13 / 19)


def test_the_scorer_adds_images_up():
    drawn = torch.randint(0, 20, (2, 128, 256))
    labels = [Image.fromarray(palette()[ids_HW].numpy()) for ids_HW in drawn]
    predictions = torch.randint(0, 19, (2, 128, 256))
    scorer = CityscapesScorer()
    for label, predicted_HW in zip(labels, predictions, strict=True):
        scorer.add(label, predicted_HW)
    scores = scorer.scores()
    confusion = confusion_matrix(drawn, predictions)
    assert scores["images"] == 2
    assert scores["correct"]["mIoU"] == correct_accuracy(confusion).mean_iou
    assert list(scores["correct"]["IoU"]) == list(CLASSES)


def test_classes_that_are_nowhere_have_no_iou():
    scorer = CityscapesScorer()
    scorer.add(Image.new("RGB", (8, 8), (70, 130, 180)), torch.full((128, 256), 10))
    scores = scorer.scores()
    assert scores["correct"]["IoU"]["sky"] == 100
    assert scores["correct"]["IoU"]["road"] is None


def test_scores_of_nothing_are_refused():
    scorer = CityscapesScorer()
    with pytest.raises(ConfigError, match="of no images"):
        scorer.scores()
    scorer.add(Image.new("RGB", (8, 8)), torch.zeros(128, 256, dtype=torch.int64))
    with pytest.raises(DataError, match="all are black"):
        scorer.scores()


# Predictions


def test_enlarging_and_choosing_match_whole_arrays():
    log_probs_NHW = torch.randn(5, 4, 7).log_softmax(dim=0)
    whole = torch.stack([enlarge(map_HW, 13, 30) for map_HW in log_probs_NHW])
    assert torch.equal(segment_enlarged(log_probs_NHW, 13, 30), whole.argmax(dim=0))
    expected = torch.nn.functional.interpolate(
        log_probs_NHW[None], (13, 30), mode="bilinear", align_corners=False
    )[0]
    torch.testing.assert_close(whole, expected)


def test_the_first_of_equally_likely_classes_wins():
    log_probs_NHW = torch.zeros(3, 2, 2)
    log_probs_NHW[2, 1] = 1
    assert segment_enlarged(log_probs_NHW, 2, 2).tolist() == [[0, 0], [2, 2]]


def test_photographs_are_segmented_at_the_scored_size():
    network = DRN("drn-d-22").eval()
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    ids_HW = segment(network, photo)
    resized = photo.resize((256, 128), Image.Resampling.BICUBIC)
    x_BCHW = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        expected = network(x_BCHW)[0].argmax(dim=0)
    assert (ids_HW == expected).double().mean() > 0.999  # rounding may turn a tie
    scorer = CityscapesScorer()
    scorer.add_photos(network, [(Image.new("RGB", (40, 40), (70, 70, 70)), photo)])
    assert scorer.num_images == 1


# Weights


def test_weights_put_there_by_hand_are_taken_and_their_hash_is_told(tmp_path):
    file = tmp_path / "drn-d-22_ms_cityscapes.pth"
    file.write_bytes(b"weights")
    found = fetch_judge("drn-d-22", tmp_path)
    assert found == (file, hashlib.sha256(b"weights").hexdigest())


def test_weights_are_fetched_from_a_mirror(tmp_path):
    source = tmp_path / "mirror.pth"
    source.write_bytes(b"weights")
    file, sha256 = fetch_judge("drn-d-105", tmp_path / "kept", mirrors=(source.as_uri(),))
    assert file.read_bytes() == b"weights"
    assert sha256 == hashlib.sha256(b"weights").hexdigest()


def test_weights_that_cannot_be_had(tmp_path):
    absent = {"drn-d-22": JudgeWeights(((tmp_path / "absent.pth").as_uri(),))}
    with pytest.raises(DownloadError, match="reported down since 2022") as caught:
        fetch_judge("drn-d-22", tmp_path / "kept", judges=absent)
    assert "\n" not in str(caught.value)
    assert all(entry.sha256 is None for entry in JUDGES.values())
