"""An evaluation holds one image at a time, and translates each once for all protocols."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from collections import Counter

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import squeezenet1_1

from patchkin.data.config import DataConfig
from patchkin.images import to_uint8
from patchkin.metrics.protocols import find_protocol
from patchkin.networks.drn import DRN
from patchkin.scoring import pairs as pairs_module
from patchkin.scoring.evaluate import EvaluationConfig, evaluate
from patchkin.storage.checkpoint import ModelHeader
from patchkin.translation.translator import Translator
from scoring.tiny import Corners, TinySqueezeNet
from tinting import TintPair

COUNT = 12


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    monkeypatch.setenv("PATCHKIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("patchkin.scoring.distances.make_extractor", TinySqueezeNet)
    monkeypatch.setattr("patchkin.scoring.pair_scores.PerceptualDistance", Corners)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    generator = torch.Generator().manual_seed(0)
    for folder in ("trainA", "trainB", "testA", "testB"):
        (root / folder).mkdir()
        for index in range(COUNT):
            image = torch.randint(0, 256, (24, 40, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(image.numpy()).save(root / folder / f"{index:02d}.png")
    return root


def settings(root, **changed):
    return EvaluationConfig(
        protocols=("squeezenet-224", "squeezenet-256", "pytorch-fid"), lpips="alex",
        masks=root / "testA", device="cpu", **changed,
    )  # fmt: skip


@pytest.fixture
def protocols(monkeypatch):
    """All protocols by the smallest extractor."""
    from dataclasses import replace

    def small(name):
        return replace(find_protocol(name), extractor=TinySqueezeNet.name)

    for module in ("evaluate", "two_folders"):
        monkeypatch.setattr(f"patchkin.scoring.{module}.find_protocol", small)


def test_pairs_are_forgotten_one_after_another(root, tiny, protocols, monkeypatch):
    """While the next one is made, at most the one before lives."""
    living: weakref.WeakSet = weakref.WeakSet()
    most = [0]
    made = pairs_module.Pair

    def counted(*arguments):
        gc.collect()
        most[0] = max(most[0], len(living))
        pair = made(*arguments)
        living.add(pair)
        return pair

    monkeypatch.setattr(pairs_module, "Pair", counted)
    translator = Translator(TintPair(), device="cpu")
    for subject in (translator, root / "testA"):
        most[0] = 0
        evaluate(subject, DataConfig(root=str(root)), settings(root))
        assert most[0] <= 1, subject


def test_each_image_is_translated_once_per_size(root, tiny, protocols, monkeypatch):
    """Three protocols, two sizes: as it is, and 256."""
    sizes: Counter = Counter()
    translate = Translator.__call__

    def counting(self, x_BCHW, *rest):
        sizes[tuple(x_BCHW.shape)] += 1
        return translate(self, x_BCHW, *rest)

    monkeypatch.setattr(Translator, "__call__", counting)
    data, translator = DataConfig(root=str(root)), Translator(TintPair(), device="cpu")
    one = evaluate(translator, data, settings(root))
    assert sizes == {(1, 3, 24, 40): COUNT, (1, 3, 256, 256): COUNT}
    sizes.clear()
    five = evaluate(translator, data, settings(root, batch_size=5))
    assert sizes == {
        (5, 3, 24, 40): 2, (2, 3, 24, 40): 1, (5, 3, 256, 256): 2, (2, 3, 256, 256): 1
    }  # fmt: skip
    for name, value in one.scores.items():
        assert five.scores[name] == pytest.approx(value, rel=1e-6), name


def test_images_of_several_sizes_are_batched_apart(root, tiny, tmp_path):
    for folder in ("trainA", "trainB", "testA", "testB"):
        (tmp_path / folder).mkdir()
        for index, width in enumerate((16, 16, 20, 16)):
            Image.new("RGB", (width, 12), (40 * index,) * 3).save(
                tmp_path / folder / f"{index}.png"
            )
    config = EvaluationConfig(protocols=(), batch_size=3)
    translator = Translator(TintPair(), device="cpu")
    by_three = evaluate(translator, DataConfig(root=str(tmp_path)), config)
    one = evaluate(translator, DataConfig(root=str(tmp_path)), EvaluationConfig(protocols=()))
    assert by_three.scores == pytest.approx(one.scores)
    assert by_three.worst_and_best == one.worst_and_best


def test_progress_is_told(root, tiny, protocols):
    told = []
    evaluate(
        Translator(TintPair(), device="cpu"),
        DataConfig(root=str(root)),
        settings(root),
        progress=lambda *words: told.append(words),
    )
    assert ("real images", COUNT, COUNT) in told
    assert told.count(("translating", 1, COUNT)) == 2  # sizes
    assert told[-1] == ("translating", COUNT, COUNT)


def test_extractors_and_judges_are_put_on_the_device(root, monkeypatch, tmp_path):
    """torch's `meta` stands for an accelerator."""
    from patchkin.scoring.distances import extractors_of
    from patchkin.scoring.held_out import Inputs
    from patchkin.scoring.pair_scores import SegmentationScore, perceptual_distance

    meta = torch.device("meta")
    for module in ("distances", "pair_scores"):
        monkeypatch.setattr(f"patchkin.scoring.{module}.choose_device", lambda _: meta)
    torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / "squeezenet.pth")
    torch.save(DRN("drn-d-22").state_dict(), tmp_path / "drn.pth")
    config = EvaluationConfig(
        protocols=("squeezenet-224",), extractor_weights=tmp_path / "squeezenet.pth",
        lpips="squeeze", lpips_weights=tmp_path / "squeezenet.pth",
    )  # fmt: skip
    (extractor,) = extractors_of([find_protocol("squeezenet-224")], config).values()
    assert next(extractor._network.parameters()).device == meta
    assert perceptual_distance(config)._heads_C[0].device == meta
    judge = SegmentationScore(Inputs(()), "drn-d-22", tmp_path / "drn.pth", device=meta)
    assert next(judge._network.parameters()).device == meta


def test_the_record_says_the_rounding_that_was_used(root, tiny, protocols):
    """Outputs are rounded as `translate` writes them, not as the protocol truncates its own."""
    assert find_protocol("squeezenet-256").rounding == "released"
    data = DataConfig(root=str(root))
    result = evaluate(Translator(TintPair(), device="cpu"), data, settings(root))
    assert {p["rounding"] for p in result.protocols.values()} == {"nearest"}
    # What was scored is what `to_uint8` gives by default.
    seen = []
    find = find_protocol("squeezenet-256")
    pair = pairs_module.Pair("a", None, torch.full((3, 8, 8), 0.5019))
    seen.append(find.prepare_output(pair.levels_CHW).float().mean())
    assert seen == [to_uint8(pair.output_CHW).float().mean()]
    files = evaluate(root / "testA", data, settings(root))  # rounded, if at all, by the protocol
    assert {p["rounding"] for p in files.protocols.values()} == {"released"}


def test_a_model_of_another_size_is_warned_of(root, tiny, protocols):
    header = ModelHeader(method="tint-pair", config={}, size=(128, 256))
    translator = Translator(TintPair(), header=header, device="cpu")
    result = evaluate(translator, DataConfig(root=str(root)), settings(root))
    warned = [w for w in result.warnings if "was trained at" in w]
    assert warned == [
        f"protocol `{name}` translates images at 256 pixels, and the model was trained at 256 x 128"
        for name in ("squeezenet-256", "pytorch-fid")
    ]
    fitting = Translator(TintPair(), header=ModelHeader(method="t", config={}), device="cpu")
    result = evaluate(fitting, DataConfig(root=str(root)), settings(root))
    assert not [w for w in result.warnings if "was trained at" in w]


def test_label_maps_are_scored_as_they_are_in_their_files(tiny, protocols, tmp_path, monkeypatch):
    """A size of 256 interpolates the image, never the labels that the judge's answer is held to."""
    from patchkin.metrics.cityscapes import palette
    from patchkin.metrics.segmentation import CityscapesScorer
    from scoring.tiny import Judge

    monkeypatch.setattr("patchkin.scoring.pair_scores.read_drn", Judge)
    colours = palette()[:19].to(torch.uint8)
    generator = torch.Generator().manual_seed(0)
    for folder in ("trainA", "trainB", "testA", "testB"):
        (tmp_path / folder).mkdir()
        for index in range(2):
            ids = torch.randint(0, 19, (96, 192), generator=generator)
            Image.fromarray(colours[ids].numpy()).save(tmp_path / folder / f"{index}.png")
    seen = []
    add = CityscapesScorer.add

    def adding(self, label, predicted):
        seen.append(label.copy())
        add(self, label, predicted)

    monkeypatch.setattr(CityscapesScorer, "add", adding)
    config = EvaluationConfig(
        protocols=("squeezenet-256",), judge="drn-d-22", judge_weights=tmp_path, device="cpu"
    )
    evaluate(Translator(TintPair(), device="cpu"), DataConfig(root=str(tmp_path)), config)
    for index, label in enumerate(seen):
        with Image.open(tmp_path / "testA" / f"{index}.png") as file:
            assert label.tobytes() == file.tobytes()
    assert len(seen) == 2


CHILD = """
import json, sys
import torch
torch.set_num_threads(1)
from patchkin.cli import main
from patchkin.devices import peak_memory_bytes
code = main(sys.argv[1:])
print(json.dumps({"code": code, "peak": peak_memory_bytes(torch.device("cpu"))}))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="reads the peak of a child's memory")
def test_many_images_of_2048_x_1024_need_what_few_do_and_less_than_2_gb(tmp_path):
    """At their own size: features, content, masks and truths. Eight images need no more than two;
    `benchmarks/memory` has 500.
    """
    from patchkin.config import to_plain
    from patchkin.methods.cut import Cut, CutConfig
    from patchkin.networks import ResNetConfig

    root = tmp_path / "set"
    generator = torch.Generator().manual_seed(0)
    for folder in ("trainA", "trainB", "testA", "testB"):
        (root / folder).mkdir(parents=True)
        small = torch.randint(0, 256, (16, 32, 3), generator=generator, dtype=torch.uint8)
        image = Image.fromarray(small.numpy()).resize((2048, 1024), Image.Resampling.BICUBIC)
        image.save(root / folder / "000.png", compress_level=1)
        for index in range(1, 2):
            os.link(root / folder / "000.png", root / folder / f"{index:03d}.png")
    torch.manual_seed(0)
    method = Cut(CutConfig(generator=ResNetConfig(ngf=2, blocks=5)))
    header = ModelHeader(method="cut", config=to_plain(method.config))
    save_file(method.state_dict(), tmp_path / "model.safetensors", header.to_metadata())
    torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / "squeezenet.pth")
    arguments = [
        *("evaluate", tmp_path / "model.safetensors", "--data", root, "--device", "cpu"),
        *("--protocol", "squeezenet-224", "--masks", root / "testA", "--truth", root / "testA"),
        *("--extractor-weights", tmp_path / "squeezenet.pth", "--json"),
    ]
    environment = {**os.environ, "PATCHKIN_CACHE": str(tmp_path / "cache")}
    peaks = []
    for count in (2, 8):
        for index in range(2, count):
            os.link(root / "testA" / "000.png", root / "testA" / f"{index:03d}.png")
        done = subprocess.run(
            [sys.executable, "-c", CHILD, *map(str, arguments)],
            capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        result, told = map(json.loads, done.stdout.splitlines())
        assert told["code"] == 0
        assert result["results"][0]["data"]["counts"]["inputs"] == count
        peaks.append(told["peak"])
    few, many = peaks
    assert many < 2e9, peaks
    assert many - few < 1e8, peaks
