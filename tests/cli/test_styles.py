"""Domains, random styles and references on the command line, with colours for styles."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from patchkin import Translator
from patchkin.cli import main
from patchkin.data.toy import write_domain_toy, write_toy
from patchkin.methods import METHODS
from patchkin.randomness import SeededDraws
from patchkin.storage.checkpoint import CheckpointStore
from tinting import STYLED, Tint, TintConfig, TintSizes

METHODS_HERE = {**METHODS, **STYLED}
NAMES = ("plain", "spotted", "striped")
QUICK = ("--size", "32", "--device", "cpu", "--workers", "0")


@pytest.fixture(scope="session")
def domain_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("domains")
    write_domain_toy(root, train=4, test=3)
    return root


@pytest.fixture(scope="session")
def pair_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("pair")
    write_toy(root, train=4, test=3)
    return root


@pytest.fixture
def styled(capsys):
    """Run the command line with the methods of this file."""

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments], methods=METHODS_HERE)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def trained(method, root, run_dir):
    arguments = ["train", method, "--data", str(root), "--run-dir", str(run_dir), "--steps", "2"]
    assert main([*arguments, *QUICK], methods=METHODS_HERE) == 0
    return run_dir


@pytest.fixture(scope="session")
def domain_run(domain_root, tmp_path_factory):
    return trained("tint", domain_root, tmp_path_factory.mktemp("runs") / "tint")


@pytest.fixture(scope="session")
def pair_run(pair_root, tmp_path_factory):
    return trained("tint-pair", pair_root, tmp_path_factory.mktemp("runs") / "pair")


@pytest.fixture
def inputs(domain_root, tmp_path):
    """Two images of plain animals, one of them not square."""
    folder = tmp_path / "in"
    folder.mkdir()
    for index, box in enumerate(((0, 0, 64, 64), (0, 0, 50, 33))):
        with Image.open(domain_root / "test" / "plain" / f"000{index}.png") as image:
            image.crop(box).save(folder / f"{'ab'[index]}.png")
    return folder


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(float)


def tinted(path, colour_S):
    """What the method does to a file, in 8 bits."""
    shifted = pixels(path) + 127.5 * np.asarray(colour_S)
    return shifted.round().clip(0, 255)


def loaded(run_dir):
    return Translator.load(run_dir, methods=METHODS_HERE, device="cpu")


# Training


def test_a_run_has_as_many_domains_as_the_data(domain_run, domain_root):
    config = yaml.safe_load((domain_run / "config.yaml").read_text())
    assert config["method"]["sizes"]["num_domains"] == 3
    translator = loaded(domain_run)
    assert translator.domains == NAMES
    assert translator.method.num_domains == 3
    manifest = json.loads((domain_run / "data.json").read_text())
    assert (manifest["broken"], manifest["domains"]) == ([], list(NAMES))
    assert list(manifest["files"]) == list(NAMES)
    records = [json.loads(line) for line in (domain_run / "log.jsonl").read_text().splitlines()]
    (first, *_, last) = [record for record in records if "scores" in record]
    assert first["baseline"]["latent/change_outside"] == 0
    assert first["baseline"].keys() == last["scores"].keys()
    assert last["scores"]["latent/striped/tone_inside"] > 0
    assert (domain_run / "previews" / "step_00000002.png").is_file()
    assert "latent/style_spread" in (domain_run / "report.html").read_text()


def test_the_change_of_a_setting_is_told(styled, domain_root, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        code, _, err = styled(
            *("train", "tint", "--data", domain_root / "train", "--run-dir", tmp_path / "r"),
            *(*QUICK, "--steps", "1", "--method.sizes.num-domains", "5"),
        )
    assert code == 0, err
    assert "3 domains, as the data has: plain, spotted, striped" in caplog.text


def test_a_resumed_run_is_the_one_that_was_not_stopped(styled, domain_root, tmp_path):
    root = domain_root / "train"  # without scores, which take longer than the steps
    arguments = ("train", "tint", "--data", root, *QUICK, "--batch-size", "2")
    assert styled(*arguments, "--run-dir", tmp_path / "whole", "--steps", "4")[0] == 0
    again = tmp_path / "again"
    assert styled(*arguments, "--run-dir", again, "--steps", "4", "--save-every", "2")[0] == 0
    shutil.rmtree(CheckpointStore(again).path(4))
    code, _, err = styled("train", "tint", "--resume", again, "--workers", "2")
    assert code == 0, err
    whole, resumed = (
        CheckpointStore(folder).load(4).model for folder in (tmp_path / "whole", again)
    )
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_resuming_with_other_domains_is_refused(styled, domain_root, domain_run, tmp_path):
    root, run_dir = tmp_path / "set", tmp_path / "run"
    shutil.copytree(domain_root, root)
    shutil.copytree(domain_run, run_dir)
    for split in ("train", "val", "test"):
        (root / split / "plain").rename(root / split / "a-plain")
    code, _, err = styled("train", "tint", "--resume", run_dir, "--data", root)
    assert code == 2
    assert "has the domains plain, spotted, striped; the data now has a-plain, spotted" in err


def test_domains_without_a_truth_are_scored_by_change(styled, domain_root, tmp_path):
    root, run_dir = tmp_path / "set", tmp_path / "run"
    shutil.copytree(domain_root / "train", root)  # no splits: some are held out
    shutil.copytree(domain_root / "val", root, dirs_exist_ok=True)
    for coat in NAMES:
        for index in range(12):
            shutil.copy(root / coat / "0000.png", root / coat / f"1{index:03d}.png")
    code, out, err = styled(
        *("train", "tint", "--data", root, "--run-dir", run_dir, *QUICK, "--steps", "2"),
        *("--score-every", "1", "--json"),
    )
    assert code == 0, err
    scores = json.loads(out)["scores"]
    assert set(scores) == {"0", "1", "2"}
    assert set(scores["2"]) == {
        f"{mode}/{name}" for mode in ("latent", "reference") for name in ("change", "style_spread")
    }


def test_a_set_of_two_domains_trains_a_method_of_several(styled, pair_root, tmp_path):
    code, _, err = styled(
        *("train", "tint", "--data", pair_root, "--run-dir", tmp_path / "r", *QUICK),
        *("--steps", "1"),
    )
    assert code == 0, err
    assert loaded(tmp_path / "r").domains == ("A", "B")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "does not exist"),
        (lambda root: (root / "train" / "cat").mkdir(parents=True), "has one domain, `cat`"),
    ],
)
def test_folders_that_are_no_domains_are_one_line(styled, tmp_path, prepare, message):
    prepare(tmp_path / "set")
    code, _, err = styled(
        *("train", "tint", "--data", tmp_path / "set", "--run-dir", tmp_path / "r", *QUICK)
    )
    assert code == 2
    assert len(err.splitlines()) == 1
    assert message in err


# Translating


def test_samples_are_the_same_styles_for_every_image(styled, domain_run, inputs, tmp_path):
    code, out, err = styled(
        *("translate", domain_run, inputs, "--output", tmp_path / "o", "--domain", "striped"),
        *("--samples", "3", "--seed", "5", "--json"),
    )
    assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "o").glob("[!.]*")) == [
        f"{name}_striped_s{index}.png" for name in "ab" for index in range(3)
    ]
    assert len(json.loads(out)["written"]) == 6
    method = loaded(domain_run).method
    for index in range(3):
        style_S = method.latent_styles(SeededDraws(5, index), count=1, domain=2)[0]
        colour = (method.G.strength * style_S).detach().numpy()
        for name in "ab":
            shown = pixels(tmp_path / "o" / f"{name}_striped_s{index}.png")
            assert np.abs(shown - tinted(inputs / f"{name}.png", colour)).max() <= 1
    code, _, err = styled(
        *("translate", domain_run, inputs, "--output", tmp_path / "one", "--domain", "2"),
        *("--samples", "1", "--seed", "5"),
    )
    assert code == 0, err
    first = tmp_path / "one" / "a_striped_s0.png"
    assert first.read_bytes() == (tmp_path / "o" / "a_striped_s0.png").read_bytes()


def test_what_is_there_is_skipped_and_what_fails_is_listed_once(
    styled, domain_run, inputs, tmp_path
):
    (inputs / "bad.png").write_bytes(b"no image")
    arguments = ("translate", domain_run, inputs, "--output", tmp_path / "o", "--json")
    arguments += ("--domain", "plain", "--samples", "2")
    code, out, _ = styled(*arguments)
    assert code == 2
    told = json.loads(out)
    assert list(told["failed"]) == [str(inputs / "bad.png")]
    assert (len(told["written"]), len(told["skipped"])) == (4, 0)
    code, out, _ = styled(*arguments)
    told = json.loads(out)
    assert (len(told["written"]), len(told["skipped"])) == (0, 4)


def test_a_domain_alone_takes_its_usual_style(styled, domain_run, inputs, tmp_path):
    shown = {}
    for domain in ("plain", "striped"):
        for _ in range(2):
            code, _, err = styled(
                *("translate", domain_run, inputs, "--output", tmp_path / "o", "--overwrite"),
                *("--domain", domain),
            )
            assert code == 0, err
        shown[domain] = pixels(tmp_path / "o" / f"a_{domain}.png")
    assert np.abs(shown["plain"] - shown["striped"]).mean() > 10


def test_references_of_any_size_give_their_colour(
    styled, domain_run, domain_root, inputs, tmp_path
):
    references = tmp_path / "refs"
    references.mkdir()
    for name, size in (("small", (20, 31)), ("same", (32, 32))):
        with Image.open(domain_root / "test" / "spotted" / "0000.png") as image:
            image.resize(size).save(references / f"{name}.png")
    code, _, err = styled(
        *("translate", domain_run, inputs / "a.png", "--output", tmp_path / "o"),
        *("--domain", "spotted", "--reference", references),
    )
    assert code == 0, err
    method = loaded(domain_run).method
    for name in ("small", "same"):
        colour = pixels(references / f"{name}.png").mean(axis=(0, 1)) / 127.5 - 1
        colour = colour * method.E.factor.item() * method.G.strength.item()
        shown = pixels(tmp_path / "o" / f"a_spotted_{name}.png")
        assert np.abs(shown - tinted(inputs / "a.png", colour)).max() <= 2


def test_a_grid_shows_inputs_in_rows_and_styles_in_columns(
    styled, domain_run, domain_root, inputs, tmp_path
):
    reference = domain_root / "test" / "striped" / "0001.png"
    arguments = ("translate", domain_run, inputs, "--output", tmp_path / "o", "--domain", "striped")
    arguments += ("--samples", "2", "--reference", reference, "--grid", tmp_path / "g.png")
    code, out, err = styled(*arguments, "--json")
    assert code == 0, err
    assert json.loads(out)["grid"] == str(tmp_path / "g.png")
    assert len(json.loads(out)["written"]) == 6
    grid = pixels(tmp_path / "g.png")
    top, gap = 14, 2
    assert grid.shape[:2] == (top + 64 + gap + 64 + gap + 33, 4 * 64 + 3 * gap)
    shown = grid[top + 64 + gap : top + 64 + gap + 64]
    names = ("a_striped_s0.png", "a_striped_s1.png", "a_striped_0001.png")
    columns = [inputs / "a.png", *(tmp_path / "o" / name for name in names)]
    for column, path in enumerate(columns):
        left = column * (64 + gap)
        assert np.array_equal(shown[:, left : left + 64], pixels(path))
    left = 3 * (64 + gap)
    assert np.array_equal(grid[top : top + 64, left : left + 64], pixels(reference))
    before = (tmp_path / "g.png").read_bytes()
    assert styled(*arguments)[0] == 0  # everything skipped, the grid is the same
    assert (tmp_path / "g.png").read_bytes() == before


def test_the_way_between_two_styles(styled, domain_run, inputs, tmp_path):
    arguments = ("translate", domain_run, inputs, "--output", tmp_path / "o", "--domain", "plain")
    arguments += ("--samples", "2", "--interpolate", "--frames", "5")
    code, out, err = styled(*arguments, "--json")
    assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "o").glob("[!.]*")) == [
        f"{name}_plain_path.{kind}" for name in "ab" for kind in ("gif", "png")
    ]
    strip = pixels(tmp_path / "o" / "a_plain_path.png")
    assert strip.shape[:2] == (64, 6 * 64 + 5 * 2)
    tiles = [strip[:, i * 66 : i * 66 + 64] for i in range(6)]
    assert np.array_equal(tiles[0], pixels(inputs / "a.png"))
    method = loaded(domain_run).method
    styles = [method.latent_styles(SeededDraws(0, index), count=1)[0] for index in range(2)]
    for index in range(5):
        style_S = styles[0] + (styles[1] - styles[0]) * index / 4
        expected = tinted(inputs / "a.png", (method.G.strength * style_S).detach().numpy())
        assert np.abs(tiles[index + 1] - expected).max() <= 1
    with Image.open(tmp_path / "o" / "a_plain_path.gif") as animation:
        assert animation.n_frames == 8  # there and back
        assert animation.size == (64, 64)
    code, out, _ = styled(*arguments, "--json")
    assert len(json.loads(out)["skipped"]) == 4


def test_inputs_that_differ_in_their_suffix_stay_apart(styled, pair_run, inputs, tmp_path):
    with Image.open(inputs / "b.png") as image:
        image.save(inputs / "a.jpg")
    arguments = ("translate", pair_run, inputs, "--output", tmp_path / "o", "--samples", "2")
    code, _, err = styled(*arguments)
    assert code == 0, err
    code, _, err = styled(*arguments, "--interpolate", "--frames", "2")
    assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "o").glob("[!.]*")) == [
        *("a_jpg_path.gif", "a_jpg_path.png", "a_png_path.gif", "a_png_path.png"),
        *("a_s0.jpg", "a_s0.png", "a_s1.jpg", "a_s1.png"),
        *("b_path.gif", "b_path.png", "b_s0.png", "b_s1.png"),
    ]
    assert pixels(tmp_path / "o" / "a_png_path.png").shape[:2] == (64, 3 * 64 + 2 * 2)
    assert pixels(tmp_path / "o" / "a_jpg_path.png").shape[:2] == (33, 3 * 50 + 2 * 2)


def test_one_style_of_one_image_into_a_file(styled, domain_run, inputs, tmp_path):
    arguments = ("translate", domain_run, inputs / "a.png", "--domain", "striped", "--output")
    target = tmp_path / "o" / "x.png"
    assert styled(*arguments, target)[0] == 0
    assert [path.name for path in (tmp_path / "o").glob("[!.]*")] == ["x.png"]
    code, _, err = styled(*arguments, target, "--samples", "2")
    assert code == 2
    assert f"--output `{target}` is the name of one file, and 2 styles make 2" in err
    way = ("--samples", "2", "--interpolate", "--frames", "2")
    assert styled(*arguments, tmp_path / "way" / "x.png", *way)[0] == 0
    assert sorted(path.name for path in (tmp_path / "way").glob("[!.]*")) == ["x.gif", "x.png"]


def test_another_seed_is_another_style(styled, pair_run, inputs, tmp_path):
    arguments = ("translate", pair_run, inputs, "--output", tmp_path / "o", "--samples", "1")
    assert styled(*arguments)[0] == 0
    before = pixels(tmp_path / "o" / "a_s0.png")
    code, out, err = styled(*arguments, "--seed", "1", "--json")
    assert code == 0
    assert len(json.loads(out)["remade"]) == 2
    assert "2 made anew: 2 made with other options" in err
    assert not np.array_equal(before, pixels(tmp_path / "o" / "a_s0.png"))


def test_names_of_240_letters_are_written(styled, pair_run, inputs, tmp_path):
    name = "n" * 236
    (inputs / "a.png").rename(inputs / f"{name}.png")
    arguments = ("translate", pair_run, inputs / f"{name}.png", "--output", tmp_path / "o")
    for flags in ((), ("--samples", "2", "--interpolate", "--frames", "2")):
        code, _, err = styled(*arguments, *flags)
        assert code == 0, err
    written = sorted(path.name for path in (tmp_path / "o").glob("[!.]*"))
    assert written == [f"{name}.png", f"{name}_path.gif", f"{name}_path.png"]


def test_methods_with_one_target_domain_need_no_domain(styled, pair_run, inputs, tmp_path):
    arguments = ("translate", pair_run, inputs, "--output", tmp_path / "o")
    assert styled(*arguments)[0] == 0
    assert styled(*arguments, "--samples", "2")[0] == 0
    assert sorted(path.name for path in (tmp_path / "o").glob("[!.]*")) == [
        *("a.png", "a_s0.png", "a_s1.png"),
        *("b.png", "b_s0.png", "b_s1.png"),
    ]
    back = ("translate", pair_run, inputs, "--output", tmp_path / "back", "--direction", "BtoA")
    assert styled(*back, "--samples", "1")[0] == 0
    there, back = (pixels(tmp_path / name / "a_s0.png") for name in ("o", "back"))
    assert np.abs(there - back).mean() > 5


@pytest.mark.parametrize(
    "case",
    [
        ((), "translates into 3 domains; add --domain: 0 plain, 1 spotted, 2 striped"),
        (("--domain", "stripd"), "Unknown domain `stripd`. Did you mean `striped`?"),
        (("--domain", "3"), "Unknown domain `3`. Known: 0 plain, 1 spotted, 2 striped."),
        (("--domain", "plain", "--samples", "0"), "`--samples` must be at least 1; got 0"),
        (("--domain", "plain", "--interpolate"), "add --samples 2, or two images"),
        (
            ("--domain", "plain", "--samples", "3", "--interpolate"),
            "add --samples 2, or two images with --reference; got 3 styles",
        ),
        (
            ("--domain", "plain", "--samples", "2", "--interpolate", "--frames", "1"),
            "`--frames` must be at least 2; got 1",
        ),
        (("--domain", "plain", "--reference", "nowhere.png"), "`nowhere.png` does not exist"),
        (("--domain", "plain", "--grid", "x.gif"), "--grid writes PNG, JPEG or WebP; got `x.gif`"),
    ],
)
def test_options_that_do_not_fit_are_one_line(styled, domain_run, inputs, tmp_path, case):
    flags, message = case
    code, _, err = styled("translate", domain_run, inputs, "--output", tmp_path / "o", *flags)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert message in err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ("--domain", "plain"),
        ("--samples", "2"),
        ("--reference", "x.png"),
        ("--grid", "g.png"),
        ("--interpolate",),
    ],
)
def test_methods_without_styles_say_so(styled, finished_run, inputs, tmp_path, flags):
    code, _, err = styled("translate", finished_run, inputs, "--output", tmp_path / "o", *flags)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert f"`cut` gives one translation per image; {flags[0]} needs" in err


def test_one_target_domain_cannot_be_chosen(styled, pair_run, inputs, tmp_path):
    code, _, err = styled(
        *("translate", pair_run, inputs, "--output", tmp_path / "o", "--domain", "plain")
    )
    assert code == 2
    assert "`tint-pair` has one target domain; leave out --domain." in err


def test_two_references_of_one_name(styled, domain_run, domain_root, inputs, tmp_path):
    code, _, err = styled(
        *("translate", domain_run, inputs, "--output", tmp_path / "o", "--domain", "plain"),
        *("--reference", domain_root / "test" / "plain" / "0000.png"),
        domain_root / "val" / "plain" / "0000.png",
    )
    assert code == 2
    assert "have one name; translations are named after their reference" in err


def test_a_model_without_names_takes_numbers(inputs):
    from patchkin.errors import ConfigError
    from patchkin.translation.styles import domain_name, find_domain

    translator = Translator(Tint(TintConfig(sizes=TintSizes(num_domains=4))), device="cpu")
    assert find_domain(translator, "3") == 3
    assert domain_name(translator, 3) == "3"
    with pytest.raises(ConfigError, match=r"Unknown domain `cat`. Known: 0 to 3."):
        find_domain(translator, "cat")
    with pytest.raises(ConfigError, match="add --domain: 0 to 3"):
        find_domain(translator, None)


# The toy set


def test_data_toy_writes_domains(styled, tmp_path):
    arguments = ("data", "toy", tmp_path / "toy", "--domains", "--train", "2", "--test", "1")
    assert styled(*arguments)[0] == 0
    assert {path.name for path in (tmp_path / "toy" / "train").iterdir()} == set(NAMES)
    code, out, _ = styled("data", "check", tmp_path / "toy", "--json")
    assert code == 0
    assert json.loads(out)["layout"] == "DomainFolders"
