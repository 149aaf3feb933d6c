"""What the page does, without the page: against the translator, the inspection and by hand."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from cli.crafted_models import write_crafted
from patchkin.cli import main
from patchkin.errors import CheckpointError, ConfigError, DataError
from patchkin.scoring.inspection import similarity_maps
from patchkin.storage.checkpoint import find_model, read_model, write_tensors
from patchkin.translation.translator import Translator
from patchkin.web.curves import curves
from patchkin.web.examples import examples
from patchkin.web.models import KEPT, Models
from patchkin.web.points import related
from patchkin.web.translating import Made, Wish, translations
from patchkin.web.visitors import Visitors
from web.conftest import small_png


@pytest.fixture(scope="module")
def translator(finished_run):
    return Translator.load(finished_run, complete=True, device="cpu")


def last(translator, files, folder, *, tile=512, cancelled=None, **wish):
    wanted = Wish(model="", **wish)
    *_, result = translations(
        translator, files, wanted, folder, tile=tile, cancelled=cancelled or threading.Event()
    )
    return result


def test_files_of_one_name_do_not_overwrite_each_other(translator, tmp_path):
    files = []
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        files.append(small_png(tmp_path / str(number) / "a.png", seed=number))
    result = last(translator, files, tmp_path / "out")
    assert [made.target.name for made in result.made] == ["a.png", "a_2.png", "a_3.png"]
    for file, made in zip(files, result.made, strict=True):
        wanted = np.asarray(translator(Image.open(file)))
        assert np.array_equal(np.asarray(Image.open(made.target)), wanted)


def test_a_broken_file_stops_no_other(translator, tmp_path):
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    files = [tmp_path / "b.jpg", small_png(tmp_path / "a.png")]
    result = last(translator, files, tmp_path / "out")
    assert [made.source.name for made in result.made] == ["a.png"]
    assert len(result.failed) == 1
    assert str(tmp_path) not in result.failed[0], "folders of the server are not told"


def test_large_images_are_reduced_or_cut(translator, tmp_path):
    """Training had 36 pixels: 100 are beyond twice that."""
    file = small_png(tmp_path / "a.png", (100, 90))
    tiled = last(translator, [file], tmp_path / "t", tile=64, large="tiles").made[0].target
    whole = last(translator, [file], tmp_path / "w", tile=64, large="enlarge").made[0].target
    arguments = ["translate", translator.file, file, "--device", "cpu", "-o"]
    cut = [*arguments, tmp_path / "1.png", "--tile", "64", "--overlap", "16"]
    side = str(min(translator.training_size))
    for command, found in (
        (cut, tiled),
        ([*arguments, tmp_path / "2.png", "--resize", side], whole),
    ):
        assert main([str(argument) for argument in command]) == 0
        wanted = next(part for part in command if str(part).endswith(("1.png", "2.png")))
        assert np.array_equal(np.asarray(Image.open(found)), np.asarray(Image.open(wanted)))


def test_nothing_is_made_once_it_is_not_wanted(translator, tmp_path):
    cancelled = threading.Event()
    cancelled.set()
    result = last(translator, [small_png(tmp_path / "a.png")], tmp_path, cancelled=cancelled)
    assert result.cancelled
    assert result.made == []


def test_points_are_those_of_the_inspection(translator, tmp_path):
    file = small_png(tmp_path / "a.png", (40, 36))
    made = last(translator, [file], tmp_path / "out").made[0]
    found = related(translator, made, (0.5, 0.25), tmp_path)
    input_CHW, _ = translator.read(file)
    output_CHW, _ = translator.read(made.target, like="output")
    wanted = similarity_maps(translator.method, input_CHW, [(18, 10)], output_CHW=output_CHW)
    assert [tap.tap for tap in found.taps] == [tap.tap for tap in wanted.taps]
    for pictures, tap in zip(found.taps, wanted.taps, strict=True):
        assert pictures.agreement == pytest.approx(tap.agreement(0), nan_ok=True)
        with Image.open(pictures.before) as image:
            assert image.size == (40 * 13, 36 * 13)
    tap = wanted.taps[2]
    picture = np.asarray(Image.open(found.taps[2].before)).astype(float)[6::13, 6::13]
    lowest = min(float(tap.input_PHW.min()), float(tap.output_PHW.min()), 1 - 1e-3)
    rows, columns = np.indices((36, 40)) // tap.pixels_per_place
    shares_HW = (tap.input_PHW[0].numpy()[rows, columns] - lowest) / (1 - lowest)
    grey_HW = np.asarray(Image.open(file)).mean(axis=2)
    colours_HWC = colormaps["viridis"](shares_HW)[..., :3] * 255
    expected_HWC = 0.72 * colours_HWC + 0.28 * grey_HW[..., None]
    is_off_HW = np.abs(picture - expected_HWC).max(axis=2) > 1
    assert is_off_HW.any(), "the point and its square are drawn"
    assert is_off_HW.mean() < 0.1


def test_a_point_at_the_very_end_is_the_last_pixel(translator, tmp_path):
    file = small_png(tmp_path / "a.png", (40, 36))
    assert related(translator, Made(file, file, ""), (1.0, 1.0), tmp_path).taps


def test_curves_by_hand():
    records = [{"step": n, "terms": {"G<b>": float(n), "D": None}} for n in (0, 10)]
    drawn = curves([*records, {"step": 5}], "terms")
    assert drawn.count("<figure") == 1
    assert 'points="2.0,90.0 298.0,6.0"' in drawn
    assert "G&lt;b&gt;" in drawn
    assert "<b>10<" in drawn
    assert curves([{"step": 1, "terms": {"D": float("nan")}}], "terms") == ""


def test_models_are_only_those_that_were_named(finished_run, tmp_path):
    models = Models([str(finished_run)], device="cpu")
    with pytest.raises(ConfigError, match="There is no model `/etc/passwd`"):
        models.translator("/etc/passwd")
    with pytest.raises(CheckpointError, match="There is no model"):
        Models(["nothing-of-the-kind"])
    with pytest.raises(CheckpointError, match="exported model"):
        Models([str(tmp_path / "model.onnx")])
    first = models.translator(str(finished_run))
    assert models.translator(str(finished_run)) is first
    assert KEPT == 2


@pytest.fixture
def demo(capsys, monkeypatch):
    """Starts the page of a model; returns exit code, what was said, and whether it was served."""
    served = []
    monkeypatch.setattr("patchkin.cli.demo.serve", lambda *_, **__: served.append(True))

    def start(model):
        served.clear()
        code = main(["demo", str(model), "--port", "0", "--device", "cpu"])
        return code, capsys.readouterr().err, bool(served)

    return start


def test_models_with_which_nobody_could_translate_are_refused_at_start(demo, tmp_path):
    for path in write_crafted(tmp_path):
        code, told, is_served = demo(path)
        assert (code, is_served) == (2, False), path.stem
        assert told.startswith("patchkin: error: "), path.stem
        assert told.count("\n") == 1, path.stem
        assert path.stem in told


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "cuts"}, "Did you mean `cut`?"),
        ({"config": {"generator": {"ngf": 5}}}, "of another shape"),
        ({"config": {"generator": {"ngf": "many"}}}, "ngf"),
        ({"config": {"num_patches": 0}}, "num_patches"),
        ({"encoding": {"value_range": "all"}}, "declares the value ranges"),
        ({}, None),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_start(
    demo, finished_run, tmp_path, change, said
):
    path = tmp_path / "changed.safetensors"
    header, tensors = read_model(find_model(finished_run))
    write_tensors(path, tensors, replace(header, **change).to_metadata())
    code, told, is_served = demo(path)
    if said is None:
        assert (code, told, is_served) == (0, "", True)
        return
    assert (code, is_served) == (2, False)
    assert told.startswith("patchkin: error: ")
    assert told.count("\n") == 1
    assert path.name in told
    assert said in told


def test_examples_are_rendered_or_those_of_a_folder(tmp_path):
    small_png(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("broken")
    (found,) = examples(tmp_path, tmp_path / "room")
    assert found.file == (tmp_path / "a.png").resolve()
    with pytest.raises(DataError, match="is no folder"):
        examples(tmp_path / "missing", tmp_path / "room")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        examples(tmp_path / "empty", tmp_path / "room")


def test_a_visitor_who_leaves_takes_the_files_along(tmp_path):
    visitors = Visitors(tmp_path)
    visitor = visitors.of("../../etc")
    folders = [visitor.new_folder() for _ in range(3)]
    assert all(tmp_path in folder.parents and ".." not in folder.parts for folder in folders)
    assert [folder.exists() for folder in folders] == [False, True, True]
    visitor.begin()
    visitors.forget("../../etc")
    assert visitor.wish.is_set()
    assert list(tmp_path.iterdir()) == []
    assert len(visitors) == 0


def test_who_does_not_come_back_is_forgotten_unless_a_job_runs(tmp_path):
    visitors, told = Visitors(tmp_path), []
    visitors.when_forgotten(told.append)
    page, call, busy = (visitors.of(name) for name in ("page", "call", "busy"))
    call.patience_seconds = busy.patience_seconds = 0.0
    folders = [visitor.new_folder() for visitor in (page, call, busy)]
    with busy.working():
        visitors.tidy()
        assert [folder.exists() for folder in folders] == [True, False, True]
    assert told == ["call"]
    assert len(visitors) == 2
    assert visitors.of("call").new_folder() != folders[1]
    visitors.forget("nobody")
    assert told == ["call", "nobody"]  # whoever keeps something of a session is told of each


def test_uploads_that_ended_in_the_middle_are_removed_later(tmp_path):
    visitors = Visitors(tmp_path)
    visitors.uploads.mkdir()
    half, coming, whole = (visitors.uploads / name for name in ("tmpold", "tmpnew", "tmpdir"))
    half.write_bytes(b"half")
    coming.write_bytes(b"coming")
    whole.mkdir()
    os.utime(half, (0, 0))
    with visitors.tidied(every_seconds=0.05):
        for _ in range(100):
            if not half.exists():
                break
            time.sleep(0.02)
    assert sorted(visitors.uploads.iterdir()) == [whole, coming]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing-of-the-kind"], "There is no model"),
        (["--max-upload", "0"], "`--max-upload` must be at least 1"),
        (["--token", "short"], "`--token` must have at least 8 characters"),
        (["--runs", "missing"], "`missing` is no folder"),
        (["--tile", "3"], "`--tile` must be at least 16"),
        (["--port", "99999"], "`--port` must be from 0 to 65535"),
        (["--host", "203.0.113.7", "--port", "0"], "is --host an address of this machine?"),
    ],
)
def test_a_mistake_is_one_line(arguments, said, capsys):
    assert main(["demo", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_port_that_is_taken_is_one_line(capsys):
    from patchkin.web.server import listen

    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        assert main(["demo", "--port", str(taken.getsockname()[1])]) == 2
    assert "another program listens there" in capsys.readouterr().err


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "gradio" else found(name)
    )
    assert main(["demo"]) == 2
    assert "pip install 'patchkin[web]'" in capsys.readouterr().err
