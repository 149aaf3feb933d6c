"""`patchkin evaluate` with a SqueezeNet of random weights: protocols, content, files of results."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import squeezenet1_1

from patchkin.errors import DownloadError
from patchkin.metrics.frechet import frechet_distance


@pytest.fixture(scope="session")
def squeezenet(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.save(squeezenet1_1(weights=None).state_dict(), path)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PATCHKIN_CACHE", str(tmp_path / "cache"))


def evaluated(command, *arguments):
    code, out, err = command("evaluate", *arguments, "--json")
    assert code == 0, err
    (result,) = json.loads(out)["results"]
    return result


def test_the_real_images_themselves(command, toy_root, squeezenet):
    """Frechet 0; the class of the first image is found for as many images as have it."""
    result = evaluated(
        *(command, toy_root / "testB", "--data", toy_root, "--extractor-weights", squeezenet),
        *("--protocol", "squeezenet-256", "squeezenet-224"),
    )
    assert result["scores"]["squeezenet-256/frechet"] == pytest.approx(0, abs=1e-9)
    assert result["data"]["counts"]["squeezenet-256/real"] == 3
    assert result["protocols"]["squeezenet-256"]["extractor_sha256"] != ""
    assert result["subject"] == {"folder": str(toy_root / "testB")}


def test_a_model_is_scored_on_what_its_files_would_hold(
    command, run_copy, toy_root, squeezenet, tmp_path
):
    arguments = (
        "--data",
        toy_root,
        "--extractor-weights",
        squeezenet,
        "--protocol",
        "squeezenet-224",
    )
    of_model = evaluated(command, run_copy, *arguments)
    command("translate", run_copy, toy_root / "testA", "--output", tmp_path / "out")
    of_files = evaluated(command, tmp_path / "out", *arguments)
    assert of_model["scores"].keys() == of_files["scores"].keys()
    for name, value in of_model["scores"].items():
        assert of_files["scores"][name] == pytest.approx(value, rel=1e-9, abs=1e-9), name
    stored = json.loads((run_copy / "scores.json").read_text())
    assert [entry["scores"] for entry in stored] == [of_model["scores"]]
    assert stored[0]["subject"]["step"] == 3
    evaluated(command, run_copy, *arguments)
    assert len(json.loads((run_copy / "scores.json").read_text())) == 1


def test_scores_against_the_hidden_truth(command, toy_root, squeezenet):
    """The truth as the translation: nothing outside the animal has changed."""
    result = evaluated(
        *(command, toy_root / "testA_true", "--data", toy_root, "--extractor-weights", squeezenet),
        *("--protocol", "squeezenet-224", "--masks", toy_root / "testA_masks"),
    )
    assert result["scores"]["counterpart/detail_inside"] == pytest.approx(1)
    assert result["scores"]["counterpart/change_outside"] == pytest.approx(0, abs=1e-9)
    assert result["scores"]["change_outside"] == pytest.approx(0, abs=1e-9)
    changes = []
    for path in sorted((toy_root / "testA").iterdir()):
        before, after, mask = (
            np.asarray(Image.open(folder / path.name).convert(mode)).astype(float)
            for folder, mode in (
                (toy_root / "testA", "RGB"),
                (toy_root / "testA_true", "RGB"),
                (toy_root / "testA_masks", "L"),
            )
        )
        changes.append(np.abs(after - before).mean(axis=2)[mask > 127].mean())
    assert result["scores"]["change_inside"] == pytest.approx(np.mean(changes), rel=1e-4)


def test_outputs_that_equal_their_inputs_are_noticed(command, toy_root, squeezenet):
    result = evaluated(
        *(command, toy_root / "testA", "--data", toy_root, "--extractor-weights", squeezenet),
        *("--protocol", "squeezenet-224"),
    )
    assert result["scores"]["change"] == 0
    assert result["scores"]["relation_change"] == pytest.approx(0, abs=1e-7)
    assert result["warnings"][0].startswith("3 of 3 outputs equal their input")


def test_the_distance_is_that_of_the_features(command, toy_root, squeezenet):
    from patchkin.metrics.extractors import SqueezeNetExtractor
    from patchkin.metrics.protocols import find_protocol
    from patchkin.metrics.statistics import file_statistics

    result = evaluated(
        *(command, toy_root / "testA", "--data", toy_root, "--extractor-weights", squeezenet),
        *("--protocol", "squeezenet-256"),
    )
    extractor = SqueezeNetExtractor(squeezenet)
    features = [
        file_statistics(
            sorted((toy_root / name).iterdir()), find_protocol("squeezenet-256"), extractor
        ).features_ND
        for name in ("testA", "testB")
    ]
    expected = frechet_distance(*features)
    assert result["scores"]["squeezenet-256/frechet"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("protocol", ["squeezenet-256", "squeezenet-224"])
def test_kept_features_on_a_full_disk_are_one_line_with_the_file(
    command, run_copy, toy_root, squeezenet, *, tmp_path, monkeypatch, protocol
):
    """The cache, which PATCHKIN_CACHE names, is not what failed."""
    replaced, kept = Path.replace, tmp_path / "kept"

    def full(path, target):
        if Path(target).parent == kept / "statistics":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replaced(path, target)

    monkeypatch.setattr(Path, "replace", full)
    code, _, err = command(
        *("evaluate", run_copy, "--data", toy_root, "--extractor-weights", squeezenet),
        *("--protocol", protocol, "--keep", kept, "--device", "cpu"),
    )
    assert code == 2
    (line,) = [line for line in err.splitlines() if "error" in line]
    file, _, reason = line.removeprefix("patchkin: error: Cannot write `").partition("`: ")
    assert Path(file).parent == kept / "statistics"
    assert Path(file).name.startswith(protocol)
    assert reason == "No space left on device. What was saved before is untouched."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--protocol", "squeeznet-224"), "Did you mean `squeezenet-224`?"),
        (("--protocol", "squeezenet-224", "--classes", "5000"), "must name ids from 0 to 999"),
        (("--protocol", "squeezenet-224", "--masks", "nowhere"), "`nowhere` does not exist"),
        (("--split", "val", "--data", "nowhere"), "`nowhere` does not exist"),
    ],
)
def test_bad_input_is_one_line(command, toy_root, squeezenet, arguments, message):
    data = () if "--data" in arguments else ("--data", toy_root)
    code, out, err = command(
        "evaluate", toy_root / "testB", *data, "--extractor-weights", squeezenet, *arguments
    )
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert message in err


def test_one_image_has_no_covariance(command, toy_root, squeezenet, tmp_path):
    (tmp_path / "one").mkdir()
    shutil.copy(toy_root / "testB" / "0000.png", tmp_path / "one")
    code, _, err = command(
        *("evaluate", tmp_path / "one", "--data", toy_root, "--extractor-weights", squeezenet),
        *("--protocol", "squeezenet-224"),
    )
    assert code == 2
    assert "needs at least 2 images; got 1" in err


def test_weights_of_another_network(command, toy_root, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    code, _, err = command(
        *("evaluate", toy_root / "testB", "--data", toy_root),
        *("--extractor-weights", tmp_path / "other.pth", "--protocol", "squeezenet-224"),
    )
    assert code == 2
    assert len(err.splitlines()) == 1


def test_label_maps_are_scored_by_a_segmentation_network(command, tmp_path):
    from patchkin.images import read_image
    from patchkin.metrics.cityscapes import palette
    from patchkin.metrics.segmentation import CityscapesScorer
    from patchkin.networks.drn import DRN, read_drn

    torch.manual_seed(0)
    torch.save(DRN("drn-d-22").state_dict(), tmp_path / "drn.pth")
    rng = np.random.default_rng(0)
    colours = palette().numpy().astype(np.uint8)
    for name in ("trainA", "trainB", "testA", "testB", "outputs"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for index in range(2):
            pixels = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
            if name.endswith("A"):  # label maps: blocks of the palette's colours
                pixels = colours[rng.integers(0, 19, (8, 8))].repeat(32, 0).repeat(32, 1)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{index}.png")
    result = evaluated(
        *(command, tmp_path / "set" / "outputs", "--data", tmp_path / "set", "--protocol"),
        *("--judge", "drn-d-22", "--judge-weights", tmp_path / "drn.pth"),
    )
    scorer = CityscapesScorer()
    scorer.add_photos(
        read_drn(tmp_path / "drn.pth", "drn-d-22"),
        [
            tuple(
                read_image(tmp_path / "set" / name / f"{index}.png").pixels
                for name in ("testA", "outputs")
            )
            for index in range(2)
        ],
    )
    expected = scorer.scores()
    assert result["scores"]["segmentation-released/mAP"] == expected["released"]["mAP"]
    for name in ("pixAcc", "classAcc", "mIoU"):
        assert result["scores"][f"segmentation-correct/{name}"] == expected["correct"][name]


def test_where_weights_cannot_be_fetched_the_scores_without_are_named(
    command, run_copy, monkeypatch
):
    def offline(published, *, option, progress=None):
        raise DownloadError(f"`{published.file_name}` cannot be had; give {option} FILE.")

    monkeypatch.setattr("patchkin.metrics.extractors.fetch", offline)
    code, _, err = command("evaluate", run_copy)
    assert code == 2
    assert "--extractor-weights FILE" in err
    assert "`--protocol` with no name after it gives the scores that need no weights." in err
    assert command("evaluate", run_copy, "--protocol")[0] == 0
