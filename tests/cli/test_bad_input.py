"""What a user can mend: one line that names thing and remedy, and exit code 2."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cli.conftest import TINY
from patchkin.config import from_plain
from patchkin.methods import METHODS


def one_line_error(command, *arguments):
    code, out, err = command(*arguments)
    assert code == 2, err
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("patchkin: error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0].removeprefix("patchkin: error: ")


@pytest.fixture
def images(tmp_path):
    """A folder of two unpaired domains that a test may spoil."""
    for name in ("trainA", "trainB"):
        folder = tmp_path / "set" / name
        folder.mkdir(parents=True)
        for index in range(3):
            pixels = np.full((40, 40, 3), 40 * index, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "set"


def test_unknown_verb(command):
    assert one_line_error(command, "trian") == "Unknown verb `trian`. Did you mean `train`?"


def test_unknown_method(command):
    message = one_line_error(command, "train", "semantic-relatin")
    assert message == "Unknown method `semantic-relatin`. Did you mean `semantic-relation`?"


def test_unknown_preset(command):
    message = one_line_error(command, "train", "cut", "--preset", "fastcat")
    assert message == "`cut` has no preset `fastcat`. Did you mean `fastcut`?"


@pytest.mark.parametrize(
    ("flag", "near"),
    [("--step", "--steps"), ("--method.temprature", "--method.temperature"), ("--sise", "--size")],
)
def test_unknown_flag(command, flag, near):
    message = one_line_error(command, "train", "cut", flag, "3")
    assert message == f"Unrecognized options: {flag}, 3. Did you mean `{near}`?"


def test_a_value_that_cannot_be_read(command):
    message = one_line_error(command, "train", "cut", "--steps", "many")
    assert "--steps" in message
    assert "many" in message


def test_a_value_out_of_range(command):
    message = one_line_error(command, "train", "cut", "--method.temperature", "-1")
    assert "`--method.temperature` must be positive; got -1.0." in message


def test_unknown_key_in_a_file(command, tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("method: {temprature: 0.1}")
    message = one_line_error(command, "train", "cut", "--config", path)
    assert message.startswith("Unknown key `temprature` in `method` of ")
    assert message.endswith("Did you mean `temperature`?")


def test_missing_folder(command, images):
    message = one_line_error(command, "train", "cut", "--data", images.parent / "sett", *TINY)
    assert f"`{images.parent / 'sett'}` does not exist" in message
    assert "Did you mean `set`?" in message


def test_missing_domain(command, images):
    (images / "trainB").rename(images / "trainC")
    message = one_line_error(command, "train", "cut", "--data", images, *TINY)
    assert "trainB` is missing" in message
    assert "trainC" in message


def test_empty_domain(command, images):
    for path in (images / "trainB").iterdir():
        path.unlink()
    message = one_line_error(command, "train", "cut", "--data", images, *TINY)
    assert "trainB` holds no image" in message


def test_one_image_domain(command, images):
    for index in (1, 2):
        (images / "trainB" / f"{index}.png").unlink()
    message = one_line_error(command, "train", "cut", "--data", images, *TINY)
    assert "trainB` gives 1 image; unpaired training needs at least 2 per domain" in message


def test_unreadable_files(command, images):
    (images / "trainA" / "1.png").write_bytes(b"no image")
    message = one_line_error(command, "train", "cut", "--data", images, *TINY)
    assert "1 of 3 images cannot be used, more than 1%" in message
    assert "1.png" in message


def test_a_size_that_the_networks_cannot_take(command, images, tmp_path):
    message = one_line_error(
        command, "train", "cut", "--data", images, "--size", "16", "--run-dir", tmp_path / "r",
        "--ngf", "4", "--ndf", "4", "--device", "cpu",
    )  # fmt: skip
    assert message == "--size 16 is smaller than the networks can take; use at least 24."


def test_resuming_another_method(command, run_copy):
    message = one_line_error(command, "train", "semantic-relation", "--resume", run_copy)
    assert "configures `cut`, not `semantic-relation`" in message


def test_resuming_with_other_networks(command, run_copy):
    message = one_line_error(command, "train", "--resume", run_copy, "--ngf", "8")
    assert "has other settings: --ngf 4, now 8." in message
    message = one_line_error(command, "train", "--resume", run_copy, "--ngf", "8", "--change")
    assert "does not fit this method and configuration" in message


def test_resuming_nothing(command, tmp_path):
    message = one_line_error(command, "train", "cut", "--resume", tmp_path / "nothing")
    assert "holds no run to resume" in message


def test_a_folder_that_holds_a_run(command, run_copy, toy_root):
    message = one_line_error(
        command, "train", "cut", "--data", toy_root, "--run-dir", run_copy, *TINY
    )
    assert "holds a run. Continue it with --resume, replace it with --overwrite" in message


def test_missing_data_neither_replaces_a_run_nor_leaves_a_folder(command, run_copy, tmp_path):
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    train = ("train", "cut", "--data", tmp_path / "none", *TINY, "--run-dir")
    one_line_error(command, *train, run_copy, "--overwrite")
    assert {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()} == before
    one_line_error(command, *train, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_no_such_device(command, toy_root):
    message = one_line_error(command, "train", "cut", "--data", toy_root, "--device", "mps")
    assert message == "--device mps: this machine has none. Use --device cpu."


def test_half_precision_needs_a_gpu(command, toy_root, tmp_path):
    message = one_line_error(
        command, "train", "cut", "--data", toy_root, *TINY, "--precision", "16-mixed"
    )
    assert message.startswith("--precision 16-mixed needs a GPU.")


def test_translating_with_nothing(command, tmp_path):
    message = one_line_error(command, "translate", tmp_path / "no", "x.png", "--output", tmp_path)
    assert message == f"There is no model at `{tmp_path / 'no'}`: no such file or folder."


def test_translating_a_file_that_is_no_model(command, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"rubbish")
    message = one_line_error(command, "translate", path, "x.png", "--output", tmp_path)
    assert message.startswith(f"`{path}` cannot be read as a model")


def test_translating_no_image(command, finished_run, tmp_path):
    message = one_line_error(command, "translate", finished_run, "x*.png", "--output", tmp_path)
    assert message == "`x*.png`: no such file or folder, and no image matches it."


def test_unknown_part_of_data(command):
    message = one_line_error(command, "data", "chek")
    assert message == "Unknown part `chek` of `patchkin data`. Did you mean `check`?"


def test_unknown_public_set(command, tmp_path):
    message = one_line_error(command, "data", "download", "horse2zebr", "--output", tmp_path)
    assert "Did you mean `horse2zebra`?" in message


@pytest.mark.skipif(os.name != "posix", reason="mounts a file system")
@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_disk_that_cannot_be_written(toy_root, tmp_path, trouble):
    """In a mount namespace of its own: a file system of 1 MiB, or one without permission."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = "size=1m" if trouble == "full" else "ro"
    script = f'mount -t tmpfs -o {options} none {disk} && exec "$@"'
    train = [
        *(sys.executable, "-m", "patchkin", "train", "cut", "--data", str(toy_root)),
        *("--run-dir", str(disk / "run"), *TINY, "--steps", "2", "--ngf", "32"),
    ]
    result = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", *train],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unshare" in result.stderr or "mount:" in result.stderr:
        pytest.skip("this machine does not let us mount a file system")
    assert result.returncode == 2, result.stderr
    reason = "No space left on device" if trouble == "full" else "Read-only file system"
    errors = [line for line in result.stderr.splitlines() if "error" in line]
    assert len(errors) == 1
    assert errors[0].startswith("patchkin: error: Cannot write")
    assert reason in errors[0]


@pytest.mark.skipif(os.name != "posix", reason="mounts a file system")
def test_resuming_on_a_full_disk_leaves_the_run_as_it_was(run_copy, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        f"mount -t tmpfs -o size=1m none {disk} && cp -r {run_copy} {disk}/run && "
        f"(cat /dev/zero > {disk}/zero 2> /dev/null; true) && "
        f'"$@"; code=$?; cp -r {disk}/run {tmp_path}/after; exit $code'
    )
    train = [sys.executable, "-m", "patchkin", "train", "--resume", f"{disk}/run", "--steps", "5"]
    result = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", *train],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unshare" in result.stderr or "mount:" in result.stderr:
        pytest.skip("this machine does not let us mount a file system")
    assert result.returncode == 2, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if "error" in line]
    assert line.startswith(f"patchkin: error: Cannot write `{disk}/run")
    assert line.endswith(": No space left on device. What was saved before is untouched.")
    for path in (path for path in run_copy.rglob("*") if path.is_file()):
        after = tmp_path / "after" / path.relative_to(run_copy)
        assert after.read_bytes() == path.read_bytes(), path


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")  # noqa: PTH110
@pytest.mark.parametrize("arguments", [["--help"], ["data", "download"]])
def test_a_full_standard_output(arguments):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        result = subprocess.run(
            [sys.executable, "-m", "patchkin", *arguments],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr == (
        "patchkin: error: Cannot write to standard output: No space left on device.\n"
    )


def test_translating_to_a_full_disk_stops_with_one_line(
    command, finished_run, toy_root, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        message = one_line_error(
            command, "translate", finished_run, toy_root / "trainA", "--output", out
        )
    assert message.startswith(f"Cannot write `{out}")
    assert "No space left on device" in message
    assert list(out.glob("*.png")) == []


def test_a_batch_too_small_to_compare_images(command, toy_root):
    message = one_line_error(
        command, "train", "travelgan", "--data", toy_root, "--size", "64", "--batch-size", "1",
        "--data.load-size", "64", "--ngf", "4", "--device", "cpu",
    )  # fmt: skip
    assert message == (
        "--batch-size 1: `travelgan` compares the images of a batch; use at least 2."
    )


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["translate"], "Missing: MODEL, --output."),
        (["translate", "a", "b"], "Missing: --output."),
        (["inspect", "a"], "Missing: IMAGE."),
        (["compress", "export", "a"], "Missing: --output."),
    ],
)
def test_missing_arguments_are_named_by_their_flags(command, arguments, missing):
    assert one_line_error(command, *arguments).startswith(missing)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["cut", "--data.size", "30"], "`--size` must be a multiple of 4; got 30."),
        (["cut", "--data.source", "x"], "`--data.source` and `--data.target` go together"),
        (["cyclegan", "--method.pool.side", "0"], "`--method.pool.side` must be at least 1"),
        (["cut", "--method.num-patches", "0"], "`--method.num-patches` must be at least 1"),
        (["cut", "--log-every", "0"], "Unrecognized options: --log-every, 0."),
        (["cut", "--training.log-every", "0"], "`--training.log-every` must be at least 1"),
    ],
)
def test_a_value_out_of_range_is_told_by_the_flag(command, arguments, told):
    assert one_line_error(command, "train", *arguments).startswith(told)


def test_a_preset_of_one_method_stands_for_both(command):
    named = command("train", "fastcut", "--print-config", "--data", "d")
    assert named == command("train", "cut", "--preset", "fastcut", "--print-config", "--data", "d")
    assert named[0] == 0
    line = one_line_error(command, "train", "paper")
    assert "`paper` is a preset of several methods; name one: cyclegan --preset paper," in line


def test_a_console_that_cannot_show_a_name_does_not_end_the_command(tmp_path):
    (tmp_path / "写真").mkdir()
    command = [sys.executable, "-m", "patchkin", "data", "check", str(tmp_path / "写真")]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, check=False, env=environment, capture_output=True, timeout=60)
    assert done.returncode == 2
    line = done.stderr.decode("cp1252")
    assert r"\u5199\u771f" in line
    assert line.count("\n") == 1


def test_the_table_of_methods_fits_80_columns(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = command("methods")[1].splitlines()
    rows = lines[1 : 1 + len(METHODS)]
    assert [row.split()[0] for row in rows] == list(METHODS)  # one line each
    assert all("…" not in line and len(line) <= 80 for line in lines)
    cut = next(row for row in rows if row.startswith("cut "))
    assert cut.split(" M  ")[-1].strip() == "Park et al., ECCV 2020"


@pytest.mark.parametrize("method", METHODS)
def test_one_flag_sets_the_channels_of_every_network(command, method):
    code, out, _ = command(
        "train", method, "--preset", "toy", "--channels", "1", "--data", "d", "--print-config"
    )
    assert code == 0
    kind = METHODS[method]
    config = from_plain(kind.config_type, yaml.safe_load(out)["method"])
    with torch.device("meta"):
        assert kind(config).channels == (1, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has it")
def test_a_file_that_cannot_be_read_to_its_end_is_named(command, tmp_path):
    """The system names a file where it is opened; /proc/self/mem can be, and fails to be read."""
    page = ("export", "none", "--page", tmp_path / "page")
    code, _, err = command(*page, "--onnxruntime-web", "/proc/self/mem")
    assert (code, err) == (2, "patchkin: error: `/proc/self/mem`: Input/output error.\n")
