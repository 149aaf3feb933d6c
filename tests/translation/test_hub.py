"""Models to the Hub and back, over a local server that speaks its protocol."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from cli.conftest import command, finished_run, run_copy, toy_root  # noqa: F401 - fixtures
from methods.test_contract import build
from patchkin.errors import ConfigError, DownloadError
from patchkin.storage.checkpoint import find_model
from patchkin.storage.hub import hub_name
from patchkin.translation.translator import Translator
from storage.hub_server import hub  # noqa: F401 - fixture
from support import random_batch

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of its library


def test_pushed_and_fetched_it_translates_the_same(hub):  # noqa: F811
    method = build("cut")
    place = Translator(method, device="cpu").push_to_hub("me/small", private=True)
    assert place.endswith("/me/small")
    assert set(hub.repos["me/small"]) == {"model.safetensors", "README.md"}
    assert hub.private["me/small"] is True
    assert len(hub.commits["me/small"]) == 1
    assert set(hub.tokens) == {"Bearer hf_of_the_test"}
    x_BCHW = random_batch(1, size=(33, 36)).a_BCHW
    expected = Translator(method, device="cpu", owned=True)(x_BCHW)
    for translator in (
        Translator.from_pretrained("me/small", device="cpu"),
        Translator.from_pretrained("hf:me/small", device="cpu"),
        Translator.from_pretrained("me/small", revision=hub.commits["me/small"][0], device="cpu"),
        Translator.load("hf:me/small", device="cpu"),
    ):
        assert torch.equal(translator(x_BCHW), expected)
        assert translator.method.name == "cut"


def test_a_folder_of_it(tmp_path):
    styled = build("starganv2")
    translator = Translator(styled, device="cpu")
    translator.save_pretrained(tmp_path / "model")
    again = Translator.from_pretrained(tmp_path / "model", device="cpu")
    x_BCHW = random_batch(1).a_BCHW
    styles_BS = translator.latent_styles(torch_draws(), count=1)
    torch.testing.assert_close(again(x_BCHW, styles_BS), translator(x_BCHW, styles_BS))
    front = (tmp_path / "model" / "README.md").read_text().split("---")[1]
    assert yaml.safe_load(front)["pipeline_tag"] == "image-to-image"


def torch_draws():
    from patchkin.randomness import SeededDraws

    return SeededDraws(0, 0)


def test_a_run_with_its_card(hub, run_copy, command, tmp_path):  # noqa: F811
    code, _, err = command("evaluate", run_copy, "--protocol", "--device", "cpu")
    assert code == 0, err
    code, _, err = command("push", run_copy, "me/stripes", "--license", "apache-2.0")
    assert code == 0, err
    files = hub.repos["me/stripes"]
    assert set(files) == {"model.safetensors", "README.md", "preview.png"}
    card = files["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    assert (front["library_name"], front["license"]) == ("patchkin", "apache-2.0")
    (result,) = json.loads((run_copy / "scores.json").read_text())
    for name, value in result["scores"].items():
        assert f"| {name} | {value:.5g} |" in card
    assert "patchkin translate hf:me/stripes photo.jpg" in card
    assert "Park, Efros, Zhang, Zhu, ECCV 2020" in card
    x_BCHW = random_batch(1).a_BCHW
    expected = Translator.load(run_copy, device="cpu")(x_BCHW)
    assert torch.equal(Translator.load("hf:me/stripes", device="cpu")(x_BCHW), expected)
    code, out, _ = command("push", run_copy, "me/stripes", "--output", tmp_path / "out", "--json")
    assert (code, json.loads(out)["place"]) == (0, str(tmp_path / "out"))
    written = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert written == files["model.safetensors"]


def test_what_goes_wrong_is_one_line(hub, run_copy, command, monkeypatch):  # noqa: F811
    hub.repos["me/empty"], hub.commits["me/empty"] = {}, ["0" * 40]
    for name, said in {
        "me/nothing": "`me/nothing` cannot be fetched from the Hub: there is no such repository",
        "me/empty": "it has no model.safetensors",
        "me/empty@v9": "it has no such revision",
    }.items():
        with pytest.raises(DownloadError, match=said):
            find_model(Path(f"hf:{name}"))
    with pytest.raises(ConfigError, match="`stripes` is no name on the Hub; expected OWNER/NAME"):
        Translator.load("hf:stripes")
    hub.refuses = True
    code, _, err = command("push", run_copy, "me/stripes")
    assert (code, len(err.strip().splitlines())) == (2, 1), err
    assert "`me/stripes` cannot be pushed to the Hub" in err
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(DownloadError, match="there is no network, or the Hub is not reachable"):
        find_model(Path("hf:me/stripes"))


def test_without_its_library(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"The Hub needs huggingface_hub: pip install"):
        find_model(Path("hf:me/stripes"))
    assert hub_name("hf:me/stripes") == "me/stripes"
