"""What makes a model one that is known by name: the file, what it is compared with, its record."""

from __future__ import annotations

import hashlib
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.test_studies import BENCHMARKS, loaded, write_model
from methods.test_contract import build
from patchkin.data.toy import write_toy
from patchkin.storage import shipped
from patchkin.storage.checkpoint import find_model, read_header, read_model

TOP1, DISTANCE = "squeezenet-224/class_top1", "squeezenet-256/frechet"
SHIPPED = {TOP1: 70.0, DISTANCE: 2100.0, "relation_change": 0.2, "unknown": 3.0}
TRUTH = {DISTANCE: 900.0, "truth/psnr": 12.0, "truth/ssim": None, "truth/lpips": 0.4}


@pytest.fixture
def ship(monkeypatch):
    for name in ("model_cards", "model_tasks"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return loaded(monkeypatch, BENCHMARKS / "shipping", "ship")


@pytest.fixture
def shipping(ship, tmp_path, monkeypatch):
    """Call the script on a tiny model with given scores; returns the folder in the package."""
    write_toy(tmp_path / "data", size=64, train=2, test=3)
    (tmp_path / "how.md").write_text("By hand.")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "shipped")

    def call(name, scores, *more, method="cut", data=tmp_path / "data"):
        write_model(tmp_path / "small.safetensors", build(method))
        asked = []

        def evaluated(model, flags):
            asked.append((model, list(flags)))
            return (scores[len(asked) - 1] if isinstance(scores, list) else scores), 3

        monkeypatch.setattr(ship, "evaluated", evaluated)
        options = ["--name", name, "--data", data, "--how", tmp_path / "how.md"]
        arguments = ["ship.py", tmp_path / "small.safetensors", *options, *more]
        monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
        ship.main()
        call.asked = asked
        return shipped.FOLDER / name

    return call


def test_what_is_shipped_is_the_generator_in_half_precision(shipping):
    folder = shipping("horse2zebra", SHIPPED)
    method = build("cut")
    header, tensors = read_model(folder / "model.safetensors")
    assert (header.step, header.size) == (9, 32)
    assert tensors.keys() == {f"G.{name}" for name in method.G.state_dict()}
    for name, tensor in method.G.state_dict().items():
        assert torch.equal(tensors[f"G.{name}"], tensor.half().float())
    card = (folder / "MODEL_CARD.md").read_text()
    assert "By hand." in card
    assert "It turns horses to zebras:" in card
    assert (  # with the protocol of each
        "| taken for a zebra by SqueezeNet, % (more is better) | squeezenet-224 | 70 | 61.7 |"
        in card
    )
    assert (
        "| Frechet distance to testB, SqueezeNet (less is better) | squeezenet-256 | 2100 | 2272 |"
        in card
    )
    assert (
        "It is not worse than GAN Compression's released generator in taken for a zebra by "
        "SqueezeNet (squeezenet-224) and Frechet distance to testB (squeezenet-256)."
    ) in card
    assert "It was not timed." in card
    assert "at 32 pixels" in card


def test_its_record_holds_what_can_be_counted(shipping):
    folder = shipping("horse2zebra", SHIPPED)
    record = shipped.find_record("horse2zebra")
    content = (folder / "model.safetensors").read_bytes()
    G = build("cut").G
    assert record.parameters == sum(p.numel() for p in G.parameters())
    assert (record.bytes, record.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (record.size, record.method, record.hub) == (32, "cut", None)
    assert record.macs_256 == 64 * record.macs  # of a network of convolutions
    assert [(s.name, s.value, s.released) for s in record.scores] == [
        (TOP1, 70.0, 61.7),
        (DISTANCE, 2100.0, 2272.0),
        ("relation_change", 0.2, None),
    ]
    assert {score.command for score in record.scores} == {
        "patchkin evaluate horse2zebra --data data --classes 340 "
        "--protocol squeezenet-224 squeezenet-256"
    }
    assert record.speed is None
    assert shipped.file_of(record) == folder / "model.safetensors"


@pytest.mark.parametrize(("name", "value"), [(TOP1, 61.6), (DISTANCE, 2272.1), (TOP1, None)])
def test_a_model_that_is_worse_is_a_preview(shipping, name, value):
    scores = {**SHIPPED, name: value}
    with pytest.raises(SystemExit, match="Ship it as horse2zebra-preview"):
        shipping("horse2zebra", scores)
    assert not shipped.FOLDER.exists()
    folder = shipping("horse2zebra-preview", scores)
    card = (folder / "MODEL_CARD.md").read_text()
    assert "It is worse than GAN Compression's released generator in" in card
    assert "patchkin translate horse2zebra image.png" in card


@pytest.mark.parametrize(("name", "value"), [(TOP1, 61.7), (DISTANCE, 2272.0)])
def test_one_that_is_as_good_is_none(shipping, name, value):
    assert (shipping("horse2zebra", {**SHIPPED, name: value}) / "model.json").is_file()


def test_a_model_that_is_too_large_is_not_shipped(shipping, ship, monkeypatch):
    monkeypatch.setattr(ship, "LARGEST_BYTES", 1000)
    with pytest.raises(SystemExit, match="has less than 1,000"):
        shipping("horse2zebra", SHIPPED)
    assert not shipped.FOLDER.exists()


def test_the_other_way_is_scored_from_b_to_a(shipping):
    folder = shipping("zebra2horse", SHIPPED)
    ((_, flags),) = shipping.asked
    assert flags[2:] == [
        *("--direction", "BtoA", "--classes", "339"),
        *("--protocol", "squeezenet-224", "squeezenet-256"),
    ]
    card = (folder / "MODEL_CARD.md").read_text()
    assert "It turns zebras to horses:" in card
    assert (
        "| taken for a horse (sorrel) by SqueezeNet, % (more is better) | squeezenet-224 | 70 |\n"
        in card
    )
    assert "No released model was scored by these protocols" in card
    assert shipped.find_record("zebra2horse").compared_with is None
    with pytest.raises(SystemExit, match="translates both ways"):
        shipping("zebra2horse", SHIPPED, method="dclgan")


def test_labels_to_photos_are_scored_against_the_truth(shipping, tmp_path):
    pairs = tmp_path / "pairs"
    for split in ("train", "test"):
        (pairs / split).mkdir(parents=True)
        pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pairs / split / "1.png")
    shipping("facades", TRUTH, data=pairs, method="cut")
    record = shipped.find_record("facades")
    assert [(s.name, s.value, s.protocol) for s in record.scores] == [
        ("truth/psnr", 12.0, "own size"),
        ("truth/lpips", 0.4, "LPIPS squeeze, own size"),
        (DISTANCE, 900.0, "squeezenet-256"),
    ]
    ((_, flags),) = shipping.asked
    assert flags[2:] == ["--direction", "BtoA", "--protocol", "squeezenet-256"]
    folder = shipping("walls", TRUTH, "--task", "facades-unpaired", data=pairs)
    card = (folder / "MODEL_CARD.md").read_text()
    assert "Licence of the data: not known to us." in card
    assert "It was never told which photograph belongs to which label map." in card
    assert shipped.find_record("walls").data_licence is None


def test_another_model_takes_the_place_of_the_figures(shipping):
    both = [TRUTH, {**TRUTH, DISTANCE: 800.0}]
    more = ["--task", "zebra2horse", "--reference", "other.safetensors"]
    with pytest.raises(SystemExit, match=r"frechet: worse than other\.safetensors"):
        shipping("horses", both, *more)
    shipping("horses-preview", both, *more, "--reference-name", "the other one")
    record = shipped.find_record("horses")
    assert (record.name, record.compared_with) == ("horses-preview", "the other one")
    assert [(s.name, s.value, s.released) for s in record.scores] == [(DISTANCE, 900.0, 800.0)]


def test_it_is_timed_where_the_machine_is_named(shipping, ship, monkeypatch):
    asked = []

    def called(*arguments):
        asked.append(arguments)
        return {"latency": {"torch": {"median_ms": 12.0}, "onnx": {"median_ms": 8.0}}}

    monkeypatch.setattr(ship, "called", called)
    shipping("horse2zebra", SHIPPED, "--machine", "a desk's CPU", "--threads", 2)
    speed = shipped.find_record("horse2zebra").speed
    assert asked[0][:2] == ("compress", "cost")
    assert speed.command == (
        "patchkin compress cost horse2zebra --size 256 --time-calls 100 --threads 2 --runtime "
        "torch onnx"
    )
    assert (speed.pixels, speed.machine) == (256, "a desk's CPU, 2 threads")
    assert (speed.torch_ms, speed.onnxruntime_ms, speed.onnxruntime_times_as_fast) == (12, 8, 1.5)
    card = (shipped.FOLDER / "horse2zebra" / "MODEL_CARD.md").read_text()
    assert "takes 12.0 ms in torch and 8.0 ms in ONNX Runtime" in card


def test_the_file_of_a_model_for_the_hub_stays_outside(shipping, ship, tmp_path, monkeypatch):
    shipping("horse2zebra", SHIPPED)  # and is moved there
    size = shipped.find_record("horse2zebra").bytes
    monkeypatch.setattr(ship, "LARGEST_SUM", 2 * size - 1)
    with pytest.raises(SystemExit, match="--hub OWNER/NAME --folder DIR"):
        shipping("zebra2horse", SHIPPED)
    shipping("horse2zebra", SHIPPED)  # itself counts once
    hub = ("--hub", "me/horses", "--folder", tmp_path / "hub")
    shipping("zebra2horse", SHIPPED, *hub)
    shipping("horse2zebra", SHIPPED, "--hub", "me/zebras", "--folder", tmp_path / "more")
    assert sorted(p.name for p in shipped.FOLDER.rglob("*.*")) == ["model.json", "model.json"]
    assert shipped.remote_names() == ["horse2zebra", "zebra2horse"]
    assert sorted(p.name for p in (tmp_path / "hub").iterdir()) == [
        "README.md",
        "model.safetensors",
    ]
    record = shipped.find_record("zebra2horse")
    content = (tmp_path / "hub" / "model.safetensors").read_bytes()
    assert (record.hub, record.sha256) == ("me/horses", hashlib.sha256(content).hexdigest())
    assert read_header(find_model(tmp_path / "hub")).method == "cut"
    assert (tmp_path / "hub" / "README.md").read_text().startswith("---\nlibrary_name: patchkin\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("stripes",), "--task stripes: there is no such task. Known: facades"),
        (("horse2zebr",), "Did you mean `horse2zebra`?"),
        (("horse2zebra", "--hub", "me/a"), "--hub and --folder go together"),
        (("horse2zebra", "--hub", "a", "--folder", "f"), "expected OWNER/NAME"),
    ],
)
def test_what_the_script_refuses(shipping, arguments, said):
    name, *more = arguments
    with pytest.raises(SystemExit) as stop:
        shipping(name, SHIPPED, *more)
    assert said in str(stop.value)


def test_every_task_tells_the_scores_that_decide(ship):
    tasks = sys.modules["model_tasks"]
    assert set(tasks.TASKS) == {"horse2zebra", "zebra2horse", "facades", "facades-unpaired"}
    for task in tasks.TASKS.values():
        decide = {DISTANCE} | ({TOP1} if task.classes else set())
        assert decide <= task.scores.keys()
        assert task.released_scores.keys() <= set(tasks.COMPARED)
        assert bool(task.released) == bool(task.released_scores)
        assert all(tasks.protocol_of(name, task) for name in task.scores)
        assert all("{" not in line.format(scale="at 64 pixels") for line in task.limits)


def test_records_of_the_package_are_what_is_counted_of_their_files(ship):
    for name in shipped.shipped_names():
        record = shipped.find_record(name)
        file = shipped.FOLDER / name / shipped.MODEL_FILE
        task = sys.modules["model_tasks"].TASKS["horse2zebra"]
        counted = ship.record_of(
            file,
            read_header(file),
            task,
            name=name,
            hub=None,
            scores=record.scores,
            compared_with=record.compared_with,
            speed=record.speed,
        )
        told = {"direction", "data", "data_licence", "limits"}
        same = {key: value for key, value in counted.to_plain().items() if key not in told}
        assert {key: record.to_plain()[key] for key in same} == same
        assert json.loads((file.parent / "model.json").read_text()) == json.loads(record.to_text())
