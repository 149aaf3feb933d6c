"""The range of values belongs to the model: it reads, writes, scores and validates with it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torchvision.models import squeezenet1_1

from cli.conftest import TINY
from methods.test_contract import build
from patchkin import Translator
from patchkin.data.config import DataConfig
from patchkin.images import to_levels
from patchkin.images.picture import Encoding
from patchkin.metrics.extractors import SqueezeNetExtractor
from patchkin.metrics.protocols import find_protocol
from patchkin.scoring.evaluate import EvaluationConfig, evaluate
from patchkin.scoring.validation import ProtocolValidation

TWELVE, CT = (0.0, 4095.0), (-1000.0, 3000.0)
GREY = ("--method.generator.in-channels", "1", "--method.generator.out-channels", "1")


@pytest.fixture(scope="session")
def squeezenet(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.save(squeezenet1_1(weights=None).state_dict(), path)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PATCHKIN_CACHE", str(tmp_path / "cache"))


def write_set(root, levels_of, *, suffix="tif", number=6):
    """The same pictures, smooth and of 12 bits, as `levels_of` stores them for a domain."""
    for place, name in enumerate(("trainA", "trainB", "testA", "testB")):
        (root / name).mkdir(parents=True)
        for index in range(number):
            rng = np.random.default_rng(100 * place + index)
            coarse = rng.random((6, 6))
            fine = np.kron(coarse, np.ones((8, 8)))[:40, :40]
            levels = levels_of(np.rint(fine * 4095), name[-1])
            tifffile.imwrite(root / name / f"{index}.{suffix}", levels)
    return root


@pytest.fixture
def twelve_bits(tmp_path):
    return write_set(tmp_path / "twelve", lambda values, _: values.astype(np.uint16))


@pytest.fixture
def mr_and_ct(tmp_path):
    def levels(values, domain):
        if domain == "A":
            return values.astype(np.uint16)
        return (values / 4095 * 4000 - 1000).round().astype(np.int16)

    return write_set(tmp_path / "mr_ct", levels)


def trained(command, root, run_dir, *arguments):
    code, _, err = command(
        *("train", "cut", "--data", root, "--run-dir", run_dir, "--steps", "2", *TINY, *GREY),
        *("--method.discriminator.in-channels", "1", *arguments),
    )
    assert code == 0, err
    return run_dir


def test_12_bits_in_12_bits_out(command, twelve_bits, tmp_path):
    run_dir = trained(
        command, twelve_bits, tmp_path / "run", "--data.value-range", "0", "4095", "--preset", "cut"
    )
    code, _, err = command("translate", run_dir, twelve_bits / "testA", "-o", tmp_path / "out")
    assert code == 0, err
    translator = Translator.load(run_dir, device="cpu")
    assert translator.value_ranges == (TWELVE, TWELVE)
    for path in (twelve_bits / "testA").iterdir():
        source, written = tifffile.imread(path), tifffile.imread(tmp_path / "out" / path.name)
        assert (written.dtype, written.shape) == (source.dtype, source.shape)
        x = torch.from_numpy(source.astype(np.float32) / 4095 * 2 - 1)[None, None]
        expected = (translator(x)[0, 0].numpy().clip(-1, 1) + 1) / 2 * 4095
        np.testing.assert_allclose(written, expected, rtol=0, atol=0.51)
        assert written.max() <= 4095


def test_previews_show_pictures_of_12_bits_as_bright_as_they_are(command, twelve_bits, tmp_path):
    """Read as 16 bits they would have no level above 255 / 16."""
    wide = ("--data.value-range", "0", "4095", "--preset", "cut", "--training.preview-every", "1")
    run_dir = trained(command, twelve_bits, tmp_path / "run", *wide)
    previews = sorted((run_dir / "previews").glob("*.png"))
    assert previews
    with Image.open(previews[0]) as preview:
        shown = np.asarray(preview.convert("L"))
    first = shown[:40, :40]
    pictures = [tifffile.imread(path) for path in sorted((twelve_bits / "trainA").iterdir())]
    assert first.mean() == pytest.approx(np.mean(pictures) / 4095 * 255, abs=40)
    assert first.max() > 180


def test_each_domain_may_have_a_range(command, mr_and_ct, tmp_path):
    """MR of 12 bits to CT in Hounsfield units, and the other way."""
    ranges = ("--data.value-range-a", "0", "4095", "--data.value-range-b", "-1000", "3000")
    forth = trained(command, mr_and_ct, tmp_path / "forth", *ranges)
    back = trained(command, mr_and_ct, tmp_path / "back", *ranges, "--direction", "BtoA")
    assert Translator.load(forth, device="cpu").value_ranges == (TWELVE, CT)
    assert Translator.load(back, device="cpu").value_ranges == (CT, TWELVE)
    code, _, err = command("translate", forth, mr_and_ct / "testA", "-o", tmp_path / "ct", "--json")
    assert code == 0, err
    code, _, err = command("translate", back, mr_and_ct / "testB", "-o", tmp_path / "mr")
    assert code == 0, err
    translator = Translator.load(forth, device="cpu")
    for path in (mr_and_ct / "testA").iterdir():
        written = tifffile.imread(tmp_path / "ct" / path.name)
        assert written.dtype == np.int16
        x = torch.from_numpy(tifffile.imread(path).astype(np.float32) / 4095 * 2 - 1)[None, None]
        expected = (translator(x)[0, 0].numpy().clip(-1, 1) + 1) / 2 * 4000 - 1000
        np.testing.assert_allclose(written, expected, rtol=0, atol=0.51)
    for path in (tmp_path / "mr").glob("*.tif"):
        written = tifffile.imread(path)
        assert written.dtype == np.int16, "the type of the input, which holds 0 to 4095"
        assert 0 <= written.min() <= written.max() <= 4095


def test_training_says_which_files_need_a_range(command, mr_and_ct, tmp_path):
    code, _, err = command(
        *(
            "train",
            "cut",
            "--data",
            mr_and_ct,
            "--run-dir",
            tmp_path / "run",
            "--steps",
            "1",
            *TINY,
        ),
        *(*GREY, "--method.discriminator.in-channels", "1"),
    )
    assert code == 2
    assert "int16 values from" in err
    assert "say which range they use with `value_range`" in err


def test_12_bits_with_a_range_score_as_the_same_pictures_in_16_bits(
    command, twelve_bits, squeezenet, tmp_path
):
    sixteen = write_set(
        tmp_path / "sixteen", lambda values, _: np.rint(values * 65535 / 4095).astype(np.uint16)
    )
    scores = []
    for root, options in ((twelve_bits, ("--value-range", "0", "4095")), (sixteen, ())):
        code, out, err = command(
            *(
                "evaluate",
                root / "testA",
                "--data",
                root,
                "--extractor-weights",
                squeezenet,
                *options,
            ),
            *("--protocol", "squeezenet-224", "--json"),
        )
        assert code == 0, err
        scores.append(json.loads(out)["results"][0]["scores"])
    assert scores[0] == scores[1]
    assert scores[0]["squeezenet-224/frechet"] > 1e-6


def test_a_model_is_scored_and_validated_in_its_range(twelve_bits, squeezenet, tmp_path):
    sixteen = write_set(
        tmp_path / "sixteen", lambda values, _: np.rint(values * 65535 / 4095).astype(np.uint16)
    )
    method = build("cut").eval()
    evaluation, validation = [], []
    config = EvaluationConfig(protocols=("squeezenet-256",), extractor_weights=squeezenet)
    for root, ranges in ((twelve_bits, (TWELVE, TWELVE)), (sixteen, (None, None))):
        translator = Translator(method, value_ranges=ranges, device="cpu")
        data = DataConfig(root=str(root), size=32)
        evaluation.append(evaluate(translator, data, config))
        inputs, real = (tuple(sorted((root / name).iterdir())) for name in ("testA", "testB"))
        score = ProtocolValidation(
            inputs=inputs,
            real=real,
            size=32,
            value_ranges=ranges,
            extractor=SqueezeNetExtractor(squeezenet),
            protocol=find_protocol("squeezenet-256"),
        )
        validation.append(score(method))
    assert evaluation[0].scores.keys() == evaluation[1].scores.keys()
    for name, value in evaluation[1].scores.items():
        assert evaluation[0].scores[name] == pytest.approx(value, rel=1e-3), name
    for name, value in validation[1].items():
        assert validation[0][name] == pytest.approx(value, rel=1e-3), name
    assert evaluation[0].data["value_ranges"] == [TWELVE, TWELVE]


def test_what_a_model_writes_it_reads_again(tmp_path):
    """A translation in the model's range, read by Python, has the values that were written."""
    translator = Translator(build("cut"), value_ranges=(TWELVE, CT), device="cpu")
    values = np.linspace(-1, 1, 48, dtype=np.float32).reshape(3, 4, 4)
    levels = to_levels(values, Encoding(16, 3, "signed"), translator.value_ranges[1])
    assert (levels.min(), levels.max()) == CT
    np.save(tmp_path / "ct.npy", levels.transpose(1, 2, 0))
    again, encoding = translator.read(tmp_path / "ct.npy", like="output")
    assert encoding == Encoding(16, 3, "signed")
    np.testing.assert_allclose(again.numpy(), values, rtol=0, atol=0.51 / 2000)
