"""`patchkin import-weights`, as a user types it."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from patchkin.methods.cut import Cut, CutConfig
from patchkin.networks import PatchGANConfig, ResNetConfig, UNet, UNetConfig
from patchkin.upstream import released_weights


@pytest.fixture(scope="module")
def method():
    torch.manual_seed(0)
    cut = Cut(
        CutConfig(
            generator=ResNetConfig(ngf=4, blocks=5),
            discriminator=PatchGANConfig(ndf=4),
            head_width=8,
        )
    )
    with torch.no_grad():
        for parameter in cut.parameters():
            parameter.normal_(0, 0.3)
    return cut


@pytest.fixture
def files(method, tmp_path, monkeypatch):
    """The files of a run of the released CUT; the command runs beside their folder."""
    folder = tmp_path / "maps_cut"
    folder.mkdir()
    for name in "GDF":
        weights = released_weights(method.get_submodule(name))
        torch.save(weights, folder / f"latest_net_{name}.pth")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_a_whole_model(command, files, tmp_path, image):
    code, out, err = command("import-weights", *sorted(files.iterdir()))
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "method: cut"
    generator = lines.index(f"G: ResNet generator from {files / 'latest_net_G.pth'}")
    assert lines[generator + 1].startswith("  in_channels 3, out_channels 3, ngf 4, blocks 5, norm")
    assert "  dropped 4 (model.11.filt, model.17.filt, model.21.filt, ...): fixed blur" in out
    assert "missing" not in out
    assert err == "wrote maps_cut.safetensors: a model of cut\n"

    model = tmp_path / "maps_cut.safetensors"
    assert command("translate", model, image, "-o", "out", "--device", "cpu")[0] == 0
    with Image.open(tmp_path / "out" / "image.png") as translated:
        assert translated.size == (50, 37)
    inspected = ("inspect", model, image, "--point", "3,4", "--device", "cpu", "--json")
    code, out, err = command(*inspected)
    assert code == 0, err
    assert [tap["tap"] for tap in json.loads(out)["points"][0]["taps"]] == [0, 4, 8, 12, 16]


def test_one_json_object(command, files):
    code, out, err = command(
        "import-weights", files / "latest_net_G.pth", "--json", "--output", "models/new.safetensors"
    )
    assert code == 0, err
    told = json.loads(out)
    assert told["output"] == "models/new.safetensors"
    assert told["written"]
    assert (told["method"], told["can_translate"]) == ("cut", True)
    assert told["missing"] == ["D", "F"]
    (network,) = told["networks"]
    assert network["kind"] == "ResNet generator"
    assert network["options"]["ngf"] == 4
    assert network["tensors"] == 32
    assert set(network["dropped"].values()) == {"fixed blur filter, made anew"}
    assert (files.parent / "models" / "new.safetensors").is_file()


def test_a_dry_run_writes_nothing(command, files):
    before = sorted(files.parent.rglob("*"))
    code, out, err = command("import-weights", files / "latest_net_G.pth", "--dry-run")
    assert code == 0
    assert "missing: D, F" in out
    assert err == "would write maps_cut.safetensors: a model of cut\n"
    code, out, _ = command("import-weights", files / "latest_net_G.pth", "--dry-run", "--json")
    assert not json.loads(out)["written"]
    assert sorted(files.parent.rglob("*")) == before


def test_a_part_is_told_to_be_one(command, files, image):
    code, _, err = command("import-weights", files / "latest_net_F.pth", "-o", "head.safetensors")
    assert code == 0
    assert "cannot translate yet; import it again together with the generator" in err
    code, _, err = command("translate", "head.safetensors", image, "-o", "out")
    assert code == 2
    assert "network G" in err
    parts = ("head.safetensors", files / "latest_net_G.pth")
    assert command("import-weights", *parts, "-o", "both.safetensors")[0] == 0
    inspected = ("inspect", "both.safetensors", image, "--point", "3,4", "--device", "cpu")
    assert command(*inspected)[0] == 0


def test_names_method_preset_taps_and_size(command, files):
    generator = files / "latest_net_G.pth"
    code, out, err = command(
        *("import-weights", f"G_AB={generator}", "--method", "gcgan", "--preset", "horse2zebra"),
        *("--size", "128", "--output", "folder", "--json"),
    )
    assert code == 0, err
    told = json.loads(out)
    assert told["output"] == "folder/model.safetensors"
    assert told["config"]["generators"] == "cross"
    assert told["missing"] == ["D", "D_gc", "G_gc"]
    assert command("translate", "folder", generator.parent, "-o", "x")[0] == 2  # no images there
    code, out, _ = command("import-weights", generator, "--taps", "0", "4", "--dry-run", "--json")
    assert json.loads(out)["config"]["taps"] == [0, 4]


def error_of(command, *arguments):
    code, out, err = command("import-weights", *arguments)
    assert (code, out) == (2, ""), err
    assert "Traceback" not in err
    (line,) = err.splitlines()
    return line.removeprefix("patchkin: error: ")


def test_nothing_is_overwritten_unasked(command, files):
    generator = files / "latest_net_G.pth"
    assert command("import-weights", generator)[0] == 0
    before = (files.parent / "maps_cut.safetensors").read_bytes()
    assert error_of(command, files / "latest_net_F.pth") == (
        "`maps_cut.safetensors` exists; replace it with --overwrite, or choose another --output."
    )
    assert (files.parent / "maps_cut.safetensors").read_bytes() == before
    assert command("import-weights", generator, files / "latest_net_F.pth", "--overwrite")[0] == 0
    assert (files.parent / "maps_cut.safetensors").read_bytes() != before


def test_a_folder_that_cannot_be_written(command, files):
    (files.parent / "plain").write_text("")
    message = error_of(command, files / "latest_net_G.pth", "-o", "plain/model.safetensors")
    assert message.startswith("Cannot write `plain/model.safetensors`: ")


class Malicious:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_code_in_a_file(command, files):
    torch.save({"model.1.weight": torch.zeros(1), "x": Malicious()}, "latest_net_G.pth")
    message = error_of(command, "latest_net_G.pth")
    assert "`latest_net_G.pth` holds more than tensors (`posix.system`)" in message
    assert not (files.parent / "executed").exists()
    assert not list(files.parent.glob("*.safetensors"))


def test_what_is_no_model(command, files, tmp_path):
    whole = (files / "latest_net_G.pth").read_bytes()
    (tmp_path / "cut_short.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pth").write_text("<html>404</html>")
    torch.save({}, tmp_path / "empty.pth")
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "vgg.pth")
    torch.save({"lin.weight": torch.zeros(1)}, tmp_path / "other.pth")
    for name, expected in (
        ("cut_short.pth", "cannot be read as weights"),
        ("text.pth", "cannot be read as weights"),
        ("empty.pth", "is empty: it holds no tensors"),
        ("vgg.pth", "holds a classifier, which patchkin does not import"),
        ("other.pth", "holds no network that patchkin knows: 1 tensors, the first"),
        ("none.pth", "`none.pth`: no such file."),
        ("maps_cut", "`maps_cut` is a folder; name its files, such as `maps_cut/latest_net_D.pth`"),
    ):
        assert expected in error_of(command, name)
    assert error_of(command) == "Nothing to import: give the files of the networks."
    assert not list(tmp_path.glob("*.safetensors"))


def test_networks_that_do_not_fit(command, files, tmp_path):
    weights = torch.load(files / "latest_net_G.pth", weights_only=True)
    weights["model.4.weight"] = torch.zeros(8, 4, 5, 5)
    torch.save(weights, tmp_path / "wide_net_G.pth")
    torch.save(released_weights(UNet(UNetConfig(ngf=2, levels=3))), tmp_path / "unet_net_G.pth")
    os.link(files / "latest_net_D.pth", tmp_path / "wrong_net_G.pth")
    os.link(files / "latest_net_G.pth", tmp_path / "again_net_G.pth")
    assert error_of(command, "wide_net_G.pth") == (
        "`wide_net_G.pth` looks like a ResNet generator but does not fit one: tensors 1 of another "
        "shape (model.4.weight (8, 4, 5, 5) for (8, 4, 3, 3))."
    )
    for given, expected in (
        (["wrong_net_G.pth"], "is called G but holds a PatchGAN discriminator"),
        (["unet_net_G.pth", "--method", "cut"], "these files hold G (U-Net generator)"),
        (["unet_net_G.pth", files / "latest_net_F.pth"], "No method has these networks together"),
        ([files / "latest_net_G.pth", "again_net_G.pth"], "both hold G; give one"),
        ([files / "latest_net_G.pth", "--method", "cutt"], "Did you mean `cut`?"),
        ([files / "latest_net_G.pth", "--preset", "fast"], "`cut` has no preset `fast`"),
        ([files / "latest_net_G.pth", "--size", "0"], "`--size` must be at least 1; got 0."),
    ):
        assert expected in error_of(command, *given)


def test_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        command("import-weights", "--help")
    assert stop.value.code == 0
    said = capsys.readouterr().out
    for flag in (
        "--output",
        "--method",
        "--preset",
        "--taps",
        "--overwrite",
        "--dry-run",
        "--json",
    ):
        assert flag in said
