"""Paired data is scored against the truth; two plain folders by distances alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.image import structural_similarity_index_measure
from torchvision.models import squeezenet1_1

from patchkin.cli import main
from patchkin.data.paired import write_paired_toy
from patchkin.metrics.perceptual import PerceptualDistance
from patchkin.scoring.reading import Half
from patchkin.translation.translator import Translator

SMALL = (
    *("--size", "64", "--workers", "0", "--ngf", "4", "--ndf", "4", "--device", "cpu"),
    *("--steps", "2", "--method.generator.levels", "5", "--method.generator.no-dropout"),
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    write_paired_toy(root, counts={"train": 4, "val": 2, "test": 3})
    return root


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.save(squeezenet1_1(weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def run(pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "pix2pix"
    code = main(["train", "pix2pix", "--data", str(pairs), "--run-dir", str(folder), *SMALL])
    assert code == 0
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PATCHKIN_CACHE", str(tmp_path / "cache"))


def evaluated(command, *arguments):
    code, out, err = command("evaluate", *arguments, "--json")
    assert code == 0, err
    (result,) = json.loads(out)["results"]
    return result


def halves(path):
    pair = Image.open(path).convert("RGB")
    return pair.crop((0, 0, 64, 64)), pair.crop((64, 0, 128, 64))


def as_levels(image):
    return np.asarray(image).astype(float)


def test_a_pix2pix_run_is_scored_against_the_other_halves(
    command, run, pairs, squeezenet, tmp_path
):
    result = evaluated(
        *(command, run, "--protocol", "squeezenet-224", "--extractor-weights", squeezenet),
        *("--lpips", "squeeze", "--lpips-weights", squeezenet),
    )
    assert result["data"]["root"] == str(pairs)
    assert result["data"]["counts"]["inputs"] == 3
    assert result["data"]["counts"]["squeezenet-224/real"] == 3
    translator = Translator.load(run, device="cpu")
    perceptual = PerceptualDistance("squeeze", weights=squeezenet)
    psnr, ssim, distance, lpips = [], [], [], []
    for folder in ("in", "out", "real"):
        (tmp_path / folder).mkdir()
    for path in sorted((pairs / "test").iterdir()):
        source, truth = halves(path)
        x_CHW = torch.from_numpy(as_levels(source)).permute(2, 0, 1).float() / 127.5 - 1
        y_CHW = translator(x_CHW[None])[0]
        output_HWC = ((y_CHW.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).double().numpy()
        error = output_HWC - as_levels(truth)
        psnr.append(10 * np.log10(255**2 / (error**2).mean()))
        distance.append(np.abs(error).mean())
        images = [
            torch.from_numpy(levels).permute(2, 0, 1)[None]
            for levels in (output_HWC, as_levels(truth))
        ]
        _, full = structural_similarity_index_measure(
            *images, data_range=255.0, return_full_image=True
        )
        ssim.append(float(full[..., 5:-5, 5:-5].mean()))
        lpips.append(float(perceptual(*(image.float() / 127.5 - 1 for image in images))))
        Image.fromarray(output_HWC.astype(np.uint8)).save(tmp_path / "out" / path.name)
        truth.save(tmp_path / "real" / path.name)
    found = result["scores"]
    assert found["truth/psnr"] == pytest.approx(np.mean(psnr), rel=1e-6)
    assert found["truth/ssim"] == pytest.approx(np.mean(ssim), rel=1e-5)
    assert found["truth/truth_distance"] == pytest.approx(np.mean(distance), rel=1e-6)
    assert found["truth/lpips"] == pytest.approx(np.mean(lpips), rel=1e-4)
    # The distance is that of two folders with the outputs and the right halves ...
    compared = evaluated(
        *(command, tmp_path / "out", "--against", tmp_path / "real", "--truth", tmp_path / "real"),
        *("--protocol", "squeezenet-224", "--extractor-weights", squeezenet),
    )
    frechet = "squeezenet-224/frechet"
    assert compared["scores"][frechet] == pytest.approx(found[frechet], rel=1e-9)
    assert compared["scores"]["truth/psnr"] == pytest.approx(found["truth/psnr"], rel=1e-9)
    assert compared["data"]["split"] == "all"
    # ... and a folder of translations has the scores of the model.
    of_files = evaluated(command, tmp_path / "out", "--data", pairs, "--protocol")
    assert of_files["scores"]["truth/ssim"] == pytest.approx(found["truth/ssim"], rel=1e-9)
    kept = evaluated(command, run, "--protocol", "--keep", tmp_path / "kept")
    assert kept["scores"]["truth/psnr"] == pytest.approx(found["truth/psnr"], rel=1e-9)


def test_the_other_direction_takes_the_other_halves(command, pairs, tmp_path):
    """The left halves as translations of the right ones are perfect."""
    (tmp_path / "left").mkdir()
    for path in sorted((pairs / "test").iterdir()):
        halves(path)[0].save(tmp_path / "left" / path.name)
    arguments = (tmp_path / "left", "--data", pairs, "--protocol")
    backwards = evaluated(command, *arguments, "--direction", "BtoA")
    assert backwards["scores"]["truth/psnr"] is None
    assert backwards["not_finite"]["/scores/truth~1psnr"] == "Infinity"
    assert backwards["scores"]["truth/ssim"] == 1
    forwards = evaluated(command, *arguments)
    assert forwards["scores"]["change"] == 0
    assert forwards["scores"]["truth/truth_distance"] == backwards["scores"]["change"] > 0


def test_the_middle_column_of_an_odd_width_belongs_to_no_half(tmp_path):
    levels = np.arange(7, dtype=np.uint8)[None].repeat(2, axis=0)
    Image.fromarray(levels).save(tmp_path / "odd.png")
    for side, expected in (("left", [0, 1, 2]), ("right", [4, 5, 6])):
        image_CHW = Half(side)(tmp_path / "odd.png", 1, size=None, value_range=None)
        assert ((image_CHW[0, 0] + 1) * 127.5).round().tolist() == expected


def test_pairs_are_scored_while_pix2pix_trains(run):
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    scored = [record for record in records if "scores" in record]
    assert [record["step"] for record in scored] == [0, 2]
    assert list(scored[-1]["scores"]) == ["truth_distance", "psnr", "ssim"]
    assert scored[0]["baseline"].keys() == scored[0]["scores"].keys()
    assert (run / "checkpoints" / "best").is_file()


def test_a_truth_is_given_for_unpaired_data(command, toy_root, tmp_path):
    result = evaluated(
        *(command, toy_root / "testA_true", "--data", toy_root, "--protocol"),
        *("--truth", toy_root / "testA_true"),
    )
    assert result["scores"]["truth/ssim"] == 1
    assert result["scores"]["truth/truth_distance"] == 0
    Image.new("RGB", (64, 64)).save(tmp_path / "0000.png")
    code, _, err = command(
        *("evaluate", toy_root / "testA", "--data", toy_root, "--protocol", "--truth", tmp_path),
    )
    assert code == 2
    assert f"`{tmp_path}` has no truth for `0001.png`" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--protocol",), "name a --protocol"),
        (("--data", "toy"), "leave out --data"),
        (("--masks", "m"), "--masks is a score of inputs"),
    ],
)
def test_two_folders_have_no_inputs(command, toy_root, options, message):
    code, out, err = command(
        "evaluate", toy_root / "testA", "--against", toy_root / "testB", *options
    )
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_model_is_no_folder_of_images(command, finished_run, toy_root):
    code, _, err = command("evaluate", finished_run, "--against", toy_root / "testB")
    assert code == 2
    assert "translate with the model first" in err
    code, _, err = command("evaluate", finished_run, "--batch-size", "0", "--protocol")
    assert code == 2
    assert "`--batch-size` must be at least 1" in err
