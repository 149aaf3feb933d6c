import pytest
import torch
from torchvision.models import alexnet

from patchkin.storage.checkpoint import CheckpointStore, read_model
from patchkin.translation.translator import Translator

SMALL = (
    *("--size", "64", "--ngf", "4", "--ndf", "4", "--device", "cpu", "--workers", "0"),
    *("--method.generator.blocks", "1", "--method.num-patches", "16"),
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.manual_seed(0)
    torch.save(alexnet(weights=None).features.state_dict(), path)
    return path


def test_a_run_resumes_elsewhere_and_its_model_holds_no_features(
    file, tmp_path, command, toy_root, monkeypatch
):
    monkeypatch.chdir(file.parent)
    run = tmp_path / "run"
    code, _, err = command(
        *("train", "cut", "--data", toy_root, "--run-dir", run, "--steps", "1", *SMALL),
        *("--method.taps", "0", "4"),
        *("--method.discriminator.features", "alexnet"),
        *("--method.discriminator.alexnet-weights", file.name),
    )
    assert code == 0, err
    monkeypatch.chdir(tmp_path)
    code, _, err = command("train", "--resume", run, "--steps", "2")
    assert code == 0, err
    header, tensors = read_model(CheckpointStore(run).path(2) / "model.safetensors")
    assert header.config["discriminator"]["alexnet_weights"] == file.name  # no folder of this one
    assert {name.split(".")[1] for name in tensors if name.startswith("D.")} == {"patches", "heads"}
    translated = Translator.load(run, device="cpu")(torch.zeros(1, 3, 64, 64))
    assert translated.isfinite().all()
