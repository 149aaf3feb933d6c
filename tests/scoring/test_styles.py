"""Scores of a model of styles, and the same on the command line."""

from __future__ import annotations

import json
import shutil
import weakref
from collections import Counter
from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import squeezenet1_1

from patchkin.cli import main
from patchkin.data.config import DataConfig
from patchkin.data.domains import domain_images, find_domain_files, views
from patchkin.data.toy import COATS, write_toy
from patchkin.errors import ConfigError, DataError
from patchkin.images import to_uint8
from patchkin.methods import METHODS
from patchkin.metrics import Features, PerceptualDistance, find_protocol, frechet_distance
from patchkin.metrics.extractors import SqueezeNetExtractor
from patchkin.metrics.statistics import file_statistics
from patchkin.randomness import SeededDraws
from patchkin.scoring import tasks
from patchkin.scoring.evaluate import EvaluationConfig
from patchkin.scoring.styles import evaluate_styles
from patchkin.scoring.tasks import (
    LatentStyles,
    outputs_of,
    styles_by_mode,
)
from patchkin.translation.translator import Translator
from scoring.tiny import Corners
from tinting import SPREAD, STYLED

SIZE = 64
METHODS_HERE = {**METHODS, **STYLED}


class TinyExtractor:
    """In the place of Inception."""

    name = "torchvision-inception-v3"
    sha256 = "a" * 64

    def __call__(self, levels_BCHW):
        return Features(levels_BCHW.float().mean(dim=(2, 3)) / 255)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PATCHKIN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.save(squeezenet1_1(weights=None).state_dict(), path)
    return path


def evaluated(translator, root, **settings):
    samples = settings.pop("samples", None)
    config = EvaluationConfig(**({"protocols": ()} | settings))
    return evaluate_styles(translator, DataConfig(root=str(root)), config, samples=samples)


def test_the_protocol_of_stargan_v2(translator, root, monkeypatch):
    made, counted = [], []
    monkeypatch.setattr(
        "patchkin.scoring.styles.make_extractor", lambda *_, **__: made.append(1) or TinyExtractor()
    )
    monkeypatch.setattr("patchkin.scoring.styles.PerceptualDistance", lambda net, **_: Corners())
    real = evaluate_styles.__globals__["cached_statistics"]
    monkeypatch.setattr(
        "patchkin.scoring.styles.cached_statistics",
        lambda paths, *rest, **settings: counted.append(paths) or real(paths, *rest, **settings),
    )
    result = evaluated(translator, root, protocols=("stargan-v2",))
    assert len(made) == 1
    assert [{path.parent.name for path in paths} for paths in counted] == [{c} for c in COATS]
    assert all("train" in str(path) for paths in counted for path in paths)
    pairs = [f"{a}2{b}" for a, b in permutations(COATS, 2)]
    assert list(result.tasks) == [f"{mode}/{p}" for mode in ("latent", "reference") for p in pairs]
    assert result.data["counts"]["outputs_per_input"] == 10
    assert result.data["counts"]["stargan-v2/real/plain"] == 4
    assert result.evaluation["lpips"] == "alex"
    for mode in ("latent", "reference"):
        for name in ("stargan-v2/frechet", "lpips_diversity", "tone_inside", "style_spread"):
            expected = np.mean([result.tasks[f"{mode}/{pair}"][name] for pair in pairs])
            assert result.scores[f"{mode}/{name}"] == pytest.approx(expected)
    # Colours of random styles spread by SPREAD in each of 3 channels; LPIPS of a shift is that of
    # its square in each of 4 corners.
    expected = 4 * 3 * 2 * SPREAD**2
    assert result.scores["latent/lpips_diversity"] == pytest.approx(expected, rel=0.15)


def test_a_frechet_distance_is_that_of_the_files_it_would_have_written(
    translator, root, squeezenet, tmp_path
):
    result = evaluated(
        translator, root, protocols=("squeezenet-256",), extractor_weights=squeezenet, samples=2
    )
    files = find_domain_files(DataConfig(root=str(root)))
    images = [domain_images(paths, size=SIZE) for paths in files.test]
    styles = styles_by_mode(translator, images, seed=0)
    for mode, (source, target) in (("latent", (0, 1)), ("reference", (0, 1))):
        folder = tmp_path / mode
        folder.mkdir()
        outputs = outputs_of(translator, images[source], styles[mode], target, 2)
        for path, made in zip(files.test[source], outputs, strict=True):
            for index, output_CHW in enumerate(made.outputs_KCHW):
                array = to_uint8(output_CHW).permute(1, 2, 0).numpy()
                Image.fromarray(array).save(folder / f"{path.stem}_{index:02d}.png")
        extractor, protocol = SqueezeNetExtractor(squeezenet), find_protocol("squeezenet-256")
        features = [
            file_statistics(paths, protocol, extractor).features_ND
            for paths in (files.test[target], sorted(folder.iterdir()))
        ]
        scores = result.tasks[f"{mode}/plain2spotted"]
        expected = frechet_distance(*features)
        assert scores["squeezenet-256/frechet"] == pytest.approx(expected, rel=1e-6)
        assert scores["relation_change"] > 0


def test_domains_are_found_by_name_in_any_order(translator, root, tmp_path):
    """A model's domains need not be sorted, and data may have more than a model knows."""
    translator.domains = ("striped", "plain", "spotted")
    shutil.copytree(root, tmp_path / "set")
    for split in ("train", "val", "test"):
        shutil.copytree(tmp_path / "set" / split / "plain", tmp_path / "set" / split / "extra")
    result = evaluated(translator, tmp_path / "set")
    assert result.data["domains"] == ["striped", "plain", "spotted"]
    assert list(result.tasks)[:2] == ["latent/striped2plain", "latent/striped2spotted"]
    shutil.rmtree(tmp_path / "set" / "test")
    shutil.rmtree(tmp_path / "set" / "val")
    with pytest.raises(DataError, match="has no test images"):
        evaluated(translator, tmp_path / "set")
    translator.domains = ("striped", "plain", "spoted")
    with pytest.raises(DataError, match=r"into `spoted`, which the data .* mean `spotted`"):
        evaluated(translator, root)
    translator.domains = ()
    with pytest.raises(DataError, match="The model has 3 domains, the data 4: extra, plain"):
        evaluated(translator, tmp_path / "set")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": (340,)}, "`classes` is a score of two domains"),
        ({"judge": "drn-d-22"}, "`judge` is a score of two domains"),
        ({"samples": 1}, "`--samples` must be at least 2 to differ; got 1"),
        ({"protocols": ("stargan-v3",)}, "Did you mean `stargan-v2`"),
    ],
)
def test_what_does_not_fit_several_domains(translator, root, settings, message):
    with pytest.raises(ConfigError, match=message):
        evaluated(translator, root, **settings)


def test_images_are_read_scored_and_forgotten_one_after_another(translator, root, monkeypatch):
    """While the next outputs are made, at most those of one input live, and no more files."""
    living: weakref.WeakSet = weakref.WeakSet()
    most: Counter = Counter()
    made, read = tasks.Made, views.finished

    def counted(what, thing):
        living.add(thing)
        most[what] = max(most[what], len(living))
        return thing

    monkeypatch.setattr(tasks, "Made", lambda *arguments: counted("made", made(*arguments)))
    evaluated(translator, root, samples=2)
    assert most == {"made": 2}
    living.clear()
    monkeypatch.setattr(views, "finished", lambda pixels: counted("read", read(pixels)))
    monkeypatch.setattr(tasks, "Made", made)
    evaluated(translator, root, samples=2)
    assert most["read"] <= 8 + 2  # references of a batch, truth and mask


# On the command line


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "tint"
    arguments = ("train", "tint", "--data", root, "--run-dir", run_dir, "--steps", "1")
    arguments += ("--size", "64", "--device", "cpu", "--workers", "0")
    assert main([str(argument) for argument in arguments], methods=METHODS_HERE) == 0
    return run_dir


def test_evaluate_report_and_compare(run, root, squeezenet, capsys):
    lpips = ("--lpips", "squeeze", "--lpips-weights", squeezenet)
    arguments = ("evaluate", run, "--data", root, "--extractor-weights", squeezenet, *lpips)
    arguments += ("--protocol", "squeezenet-256", "--samples", "2", "--device", "cpu")
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"], methods=METHODS_HERE) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert {"latent/lpips_diversity", "reference/squeezenet-256/frechet"} < set(result["scores"])
    assert set(result["tasks"]) >= {"latent/plain2spotted", "reference/striped2plain"}
    (stored,) = json.loads((run / "scores.json").read_text())
    assert stored == result
    translator = Translator.load(run, methods=METHODS_HERE, device="cpu")
    files = find_domain_files(DataConfig(root=str(root)))
    images = domain_images(files.test[0], size=64)
    outputs = list(outputs_of(translator, images, LatentStyles(translator, seed=0), 1, 2))
    distance = PerceptualDistance("squeeze", weights=squeezenet)
    pairs = [
        float(distance(a[None], b[None]))
        for made in outputs
        for a, b in combinations(made.outputs_KCHW, 2)
    ]
    found = result["tasks"]["latent/plain2spotted"]["lpips_diversity"]
    assert found == pytest.approx(np.mean(pairs), rel=1e-4)
    assert (run / "evaluation" / "step_00000001_test.png").is_file()
    assert "latent/lpips_diversity" in (run / "report.html").read_text()
    text = ["evaluate", str(run), "--data", str(root), "--protocol"]
    assert main(text, methods=METHODS_HERE) == 0
    assert "latent/style_spread" in capsys.readouterr().out
    page = run.parent / "compare.html"
    assert main(["compare", str(run), str(run), "--output", str(page)]) == 0
    assert "latent/lpips_diversity" in capsys.readouterr().out


def test_two_domains_have_the_ordinary_scores_and_the_diversity(squeezenet, tmp_path, capsys):
    root, run_dir = tmp_path / "pair", tmp_path / "run"
    write_toy(root, train=2, test=2)
    train = ("train", "tint-pair", "--data", root, "--run-dir", run_dir, "--steps", "1")
    train += ("--size", "64", "--device", "cpu", "--workers", "0")
    assert main([*map(str, train)], methods=METHODS_HERE) == 0
    base = [*map(str, ("evaluate", run_dir, "--data", root, "--json", "--protocol"))]

    def scores(*more):
        capsys.readouterr()
        assert main([*base, *map(str, more)], methods=METHODS_HERE) == 0
        (result,) = json.loads(capsys.readouterr().out)["results"]
        return result["scores"]

    plain = scores()
    lpips = ("--lpips", "squeeze", "--lpips-weights", squeezenet)
    diverse = scores("--samples", 3, *lpips)
    assert plain.items() <= diverse.items()
    assert {"counterpart/tone_inside", "lpips_diversity", "style_spread"} < set(diverse)
    assert diverse["lpips_diversity"] > 0
    capsys.readouterr()
    assert main([*base, "--samples", "3"], methods=METHODS_HERE) == 2
    assert "--samples are compared by LPIPS; name its backbone" in capsys.readouterr().err


def test_samples_of_what_has_no_styles(root, capsys):
    folder = root / "test" / "plain"
    assert main(["evaluate", str(folder), "--data", str(root), "--samples", "3"]) == 2
    assert "has one per image" in capsys.readouterr().err


def test_encoding_of_the_header_survives(run):
    translator = Translator.load(run, methods=METHODS_HERE, device="cpu")
    assert translator.header is not None
    assert translator.header.encoding["domains"] == list(COATS)
    renamed = replace(translator.header, encoding={})
    assert Translator(translator.method, header=renamed, device="cpu").domains == ()
    draws = SeededDraws(0, 0)
    assert translator.latent_styles(draws, count=2, domain=1).shape == (2, 3)
