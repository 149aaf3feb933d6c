"""Declared scores: which way each is better, and that nothing else is produced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from patchkin.data.config import DataConfig
from patchkin.data.domains import find_domain_files
from patchkin.data.layouts import find_domains
from patchkin.data.paired import PairedBatch
from patchkin.data.toy import COATS, write_domain_toy, write_toy
from patchkin.data.toy_farm import write_farm
from patchkin.errors import ConfigError
from patchkin.metrics import find_protocol
from patchkin.scoring.evaluate import EvaluationConfig, evaluate
from patchkin.scoring.results import Result
from patchkin.scoring.scores import SCORES, best_of, declared, describe, find_score
from patchkin.scoring.styles import evaluate_styles
from patchkin.scoring.validation import (
    CounterpartValidation,
    DomainValidation,
    PairValidation,
    ProtocolValidation,
    as_scorer,
)
from patchkin.storage.checkpoint import ModelHeader
from patchkin.translation.translator import Translator
from scoring.tiny import Corners, Judge, TinySqueezeNet
from support import random_batch
from tinting import Tint, TintConfig, TintPair, TintSizes

BETTER = {
    "lower": (
        *("frechet", "kernel", "change_outside", "relation_change", "lpips", "truth_distance"),
        *("tone_inside", "detail_distance", "distance"),
        *("bystander_striping", "things_striping", "animal_lost"),
    ),
    "higher": (
        *("class_top1", "class_top5", "collapse_outputs", "collapse_ratio"),
        *("lpips_diversity", "lpips_diversity_per_image", "psnr", "ssim", "psnr_inside"),
        "stripe_iou",
        *("mAP", "pixAcc", "classAcc", "classAcc_over_all", "mIoU", "mIoU_fraction"),
    ),
    None: ("change", "change_inside", "detail_inside", "style_spread"),
}
"""Which way a perfect translator goes from one that is not; None where it may go either way."""


@pytest.mark.parametrize("better", BETTER)
def test_the_way_in_which_a_score_is_better(better):
    assert {name for name, score in SCORES.items() if score.better == better} == set(BETTER[better])


@pytest.mark.parametrize(
    ("name", "best"),
    [
        ("segmentation-correct/classAcc_over_all", 40.0),
        ("segmentation-released/mIoU_fraction", 40.0),
        ("collapse_outputs", 40.0),
        ("latent/cat2dog/stargan-v2/frechet", 30.0),
        ("latent/cat/tone_inside", 30.0),
        ("counterpart/detail_inside", None),
        ("change_inside", None),
        ("latent/style_spread", None),
        ("a score of another version", None),
    ],
)
def test_the_last_part_of_the_name_decides_which_is_best(name, best):
    assert best_of(name, [30.0, float("nan"), 40.0]) == best
    assert best_of(name, []) is None


def test_a_score_explains_itself():
    assert describe("segmentation-correct/mIoU").endswith(
        "there are (percent, 0 to 100; higher is better)."
    )
    assert describe("change").endswith("(8-bit levels, 0 to 255; neither way is better).")
    assert describe("unknown") == ""
    for name, score in SCORES.items():
        assert score.name == name
        assert score.meaning.endswith(".")
        assert score.meaning.count(". ") == 0, "one sentence"


def test_the_documentation_lists_all_of_them():
    page = (Path(__file__).parents[2] / "docs" / "scores.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [
        f"| `{score.name}` | {score.unit} | {score.better or '-'} | {score.meaning} |"
        for score in SCORES.values()
    ]


def result(**settings):
    return Result(warnings=(), protocols={}, subject={}, data={}, evaluation={}, **settings)


def test_a_score_that_is_not_declared_is_refused():
    with pytest.raises(ConfigError, match=r"Unknown score `mIou`. Did you mean `mIoU`\?"):
        find_score("segmentation-correct/mIou")
    with pytest.raises(ConfigError, match="Unknown score `sharpness`"):
        result(scores={"p/frechet": 1.0, "p/sharpness": 2.0})
    with pytest.raises(ConfigError, match="Unknown score `sharpness`"):
        result(scores={}, tasks={"latent/a2b": {"sharpness": 2.0}})

    class Sharpness:
        primary = None

        def __call__(self, method):
            return {"sharpness": 1.0}

        def baseline(self):
            return None

    with pytest.raises(ConfigError, match="Unknown score `sharpness`"):
        as_scorer(Sharpness()).score(nn.Identity())


# All evaluators, with the smallest networks that answer


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    monkeypatch.setenv("PATCHKIN_CACHE", str(tmp_path / "cache"))
    for module in ("distances", "styles"):
        monkeypatch.setattr(f"patchkin.scoring.{module}.make_extractor", TinySqueezeNet)
    for module in ("pair_scores", "styles"):
        monkeypatch.setattr(f"patchkin.scoring.{module}.PerceptualDistance", Corners)
    monkeypatch.setattr("patchkin.scoring.pair_scores.read_drn", Judge)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy")
    write_toy(root, train=2, test=2)
    return root


@pytest.fixture(scope="module")
def domains(tmp_path_factory):
    root = tmp_path_factory.mktemp("domains")
    write_domain_toy(root, train=2, test=2)
    return root


def last_parts(scores):
    return {name.rpartition("/")[2] for name in scores}


def of_two_domains(toy):
    config = EvaluationConfig(
        protocols=("squeezenet-256",),
        classes=(3,),
        masks=toy / "testA_masks",
        lpips="alex",
        judge="drn-d-22",
        judge_weights=Path("none"),
    )
    return evaluate(toy / "testA_true", DataConfig(root=str(toy)), config).scores


def of_the_farm(root):
    write_farm(root, train=2, test=2)
    config = EvaluationConfig(protocols=("squeezenet-256",))
    return evaluate(root / "testA_confused", DataConfig(root=str(root)), config).scores


def of_several_domains(domains):
    method = Tint(TintConfig(sizes=TintSizes(num_domains=3)))
    header = ModelHeader(method="tint", config={}, size=64, encoding={"domains": list(COATS)})
    translator = Translator(method, header=header, device="cpu")
    config = EvaluationConfig(protocols=("squeezenet-256",), lpips="alex")
    found = evaluate_styles(translator, DataConfig(root=str(domains)), config)
    return found.scores | found.tasks["latent/plain2striped"]


def of_training(toy, domains):
    """Every validation, as the training loop calls it."""
    two = find_domains(DataConfig(root=str(toy)))
    several = find_domain_files(DataConfig(root=str(domains)))
    with_protocol = {
        "extractor": TinySqueezeNet(),
        "protocol": find_protocol("squeezenet-256"),
        "size": 64,
    }
    pair, many = TintPair(), Tint(TintConfig(sizes=TintSizes(num_domains=3)))
    batch = random_batch(2)
    validations = [
        (
            ProtocolValidation(
                inputs=two.val_a,
                real=two.val_b,
                value_ranges=(None, None),
                classes=(3,),
                **with_protocol,
            ),
            pair,
        ),
        (
            CounterpartValidation(
                inputs=two.val_a, size=64, channels=(3, 3), value_ranges=(None, None)
            ),
            pair,
        ),
        (PairValidation(pairs=PairedBatch(batch.a_BCHW, batch.b_BCHW)), pair),
        (
            DomainValidation(
                names=several.names, paths=several.val, value_range=None, **with_protocol
            ),
            many,
        ),
    ]
    found = {}
    for validation, method in validations:
        scorer = as_scorer(validation)
        with torch.no_grad():
            scores = scorer.score(method)
        assert scorer.primary in scores
        assert scorer.higher_is_better == (find_score(scorer.primary).better == "higher")
        assert scorer.baseline is None or scorer.baseline.keys() <= scores.keys()
        found |= scores
    return found


def test_what_is_produced_is_what_is_declared(tiny, toy, domains, tmp_path):
    produced = [
        *(of_two_domains(toy), of_several_domains(domains), of_training(toy, domains)),
        of_the_farm(tmp_path / "farm"),
    ]
    names = set().union(*map(last_parts, produced))
    assert names == set(SCORES)
    for scores in produced:
        assert declared(scores) is scores
        json.dumps(scores)
    confused = produced[-1]
    assert confused["confusion/bystander_striping"] == pytest.approx(1)
    assert confused["confusion/things_striping"] == pytest.approx(1)
    assert confused["confusion/animal_lost"] == 0
