"""The second toy world: what is striped where, masks that part, and the first world as it was."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from PIL import Image

from patchkin.cli import main
from patchkin.data.config import DataConfig
from patchkin.data.layouts import find_domains
from patchkin.data.toy import Scene, mask_file, truth_file
from patchkin.data.toy_farm import COMPANIONS, FarmScene, companion_file, write_farm
from patchkin.errors import ConfigError


@pytest.fixture(scope="module")
def scenes():
    return [FarmScene(64, seed) for seed in range(24)]


def levels(image):
    return np.asarray(image).astype(int)


def inside(mask):
    return np.asarray(mask) > 0


def test_the_first_world_is_the_same_to_the_bit():
    """Of `data/toy.py` as it was before the second world came, unchanged since."""
    digest = hashlib.sha256()
    for seed in range(4):
        scene = Scene(64, seed)
        for image in (scene.plain(), scene.striped(), scene.spotted(), scene.mask()):
            digest.update(np.asarray(image).tobytes())
    assert digest.hexdigest() == FIRST_WORLD


FIRST_WORLD = "00cbce1ca3dbef04ef6acd98e57ea0e73994b3bce20fe00f1a2484d03329a4c8"


def test_the_truth_changes_the_animal_and_nothing_else(scenes):
    for scene in scenes:
        shown, truth, mask = scene.shown(striped=False), scene.truth(), inside(scene.mask())
        assert np.array_equal(levels(shown)[~mask], levels(truth)[~mask])
        assert np.abs(levels(shown) - levels(truth))[mask].mean() > 20


def test_what_is_confused_is_the_rest(scenes):
    """Fence, trunks, barrels and the other animal are striped, and the animal is as it was."""
    for scene in scenes:
        shown, confused = levels(scene.shown(striped=False)), levels(scene.confused())
        things, bystander = inside(scene.things_mask()), inside(scene.bystander_mask())
        mask, changed = inside(scene.mask()), np.abs(shown - confused).max(2) > 0
        assert not (things & bystander).any()
        assert not (mask & (things | bystander)).any()
        edges = mask & changed  # of the animal, through whose edge pixels the rest can be seen
        assert edges.sum() < 0.12 * mask.sum()
        assert (changed & ~mask & ~things & ~bystander).sum() == 0
        assert np.abs(shown - confused)[bystander].mean() > 10


def test_the_bystander_is_plain_in_both_domains_and_things_are_striped_in_the_target_only(scenes):
    striped_things = 0
    for scene in scenes:
        plain, target = levels(scene.shown(striped=False)), levels(scene.shown(striped=True))
        bystander, things = inside(scene.bystander_mask()), inside(scene.things_mask())
        whole = bystander.copy()  # without its edge, through which things can be seen
        for down, right in itertools.product((-1, 0, 1), repeat=2):
            whole &= np.roll(bystander, (down, right), (0, 1))
        assert whole.sum() > 0.3 * bystander.sum()
        differs = np.abs(plain - target).max(2) > 0
        assert differs[whole].mean() < 0.06, "narrow notches between the limbs at most"
        striped_things += np.abs(plain - target)[things].mean() > 5
    assert 12 < striped_things < 24, "most scenes have some, some have none"


def test_stripes_of_things_are_no_change_of_brightness(scenes):
    changes = [
        (levels(scene.confused()) - levels(scene.shown(striped=False)))[inside(scene.things_mask())]
        for scene in scenes
    ]
    assert abs(np.mean([change.mean() for change in changes])) < 6


def test_sizes_of_what_is_seen(scenes):
    shares = {
        name: [inside(mask(scene)).mean() for scene in scenes]
        for name, mask in (
            ("animal", FarmScene.mask),
            ("bystander", FarmScene.bystander_mask),
            ("things", FarmScene.things_mask),
        )
    }
    assert 0.1 < min(shares["animal"]) <= max(shares["animal"]) < 0.25
    assert 0.015 < min(shares["bystander"]) <= max(shares["bystander"]) < 0.1
    assert 0.01 < min(shares["things"]) <= max(shares["things"]) < 0.35
    gone = [
        np.abs(levels(s.empty()) - levels(s.shown(striped=False)))[inside(s.mask())].mean()
        for s in scenes
    ]
    assert min(gone) > 8


def test_same_seed_same_pixels_and_companions_for_held_out_sources(tmp_path):
    write_farm(tmp_path / "few", train=2, test=1)
    write_farm(tmp_path / "many", train=2, test=2)
    few = {p.relative_to(tmp_path / "few"): p.read_bytes() for p in tmp_path.glob("few/*/*")}
    for path, content in few.items():
        assert (tmp_path / "many" / path).read_bytes() == content
    domains = find_domains(DataConfig(root=str(tmp_path / "many")))
    assert [len(f) for f in (domains.train_a, domains.val_b, domains.test_a)] == [2, 2, 2]
    (first, _) = domains.test_a
    assert all(companion_file(first, companion).is_file() for companion in COMPANIONS)
    assert companion_file(first, "masks") == mask_file(first)
    assert companion_file(first, "true") == truth_file(first)
    assert not companion_file(domains.test_b[0], "masks").exists()


def test_the_command_writes_either_world(tmp_path, capsys):
    counts = ("--train", "1", "--test", "1")
    assert main(["data", "toy", str(tmp_path / "farm"), "--world", "farm", *counts]) == 0
    assert main(["data", "toy", str(tmp_path / "first"), *counts]) == 0
    with Image.open(tmp_path / "farm" / "testA_confused" / "0000.png") as image:
        assert image.size == (64, 64)
    assert not (tmp_path / "first" / "testA_confused").exists()
    code = main(["data", "toy", str(tmp_path / "x"), "--world", "farm", "--domains"])
    assert code == 2
    assert "--domains is of the world meadow" in capsys.readouterr().err


def test_size_out_of_range():
    with pytest.raises(ConfigError, match="64 to 256 pixels; got 32"):
        FarmScene(32, 0)
