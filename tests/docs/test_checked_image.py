"""The script that does what the Dockerfile says; here without root and apt."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def making():
    file = ROOT / "docs" / "making" / "checked_image.py"
    spec = importlib.util.spec_from_file_location("checked_image", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["checked_image"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["checked_image"]


@pytest.fixture
def walked(making, tmp_path, monkeypatch):
    """The image after its instructions, with the commands that were to be run."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text(
        "root:x:0:0::/root:/bin/sh\npatchkin:x:1000:1001::/home/patchkin:/bin/sh\n"
    )
    ran = []

    def note(self, words, who, environment):
        ran.append((words[-1], who, self.folder, dict(environment)))
        return ""

    monkeypatch.setattr(making.Image, "inside_call", note)
    image = making.Image(tmp_path, {"TORCH_INDEX": "address"})
    for step in making.steps_of(DOCKERFILE):
        image.do(step)
    return image, ran


def test_variables_are_docker_s(making):
    values = {"A": "1", "EMPTY": ""}
    assert making.expanded("${A:+--index $A} ${EMPTY:+x}${NONE:-y} $A.", values) == "--index 1 y 1."


def test_the_whole_file_is_understood(walked, making):
    image, ran = walked
    assert image.base == "debian:bookworm-slim"
    assert image.user == "patchkin"
    assert image.identity(image.user) == (1000, 1001)
    assert (image.folder, image.volumes) == ("/work", ["/cache"])
    assert (image.entrypoint, image.command) == (["patchkin"], ["--help"])
    assert image.environment["PATH"] == f"/opt/patchkin/bin:{making.PATH}"
    assert image.environment["PATCHKIN_CACHE"] == "/cache"
    assert "TORCH_INDEX" not in image.environment
    assert len(ran) == len(re.findall(r"^RUN ", DOCKERFILE, re.MULTILINE))
    assert {who for _, who, *_ in ran} == {(0, 0)}
    assert all(environment["TORCH_INDEX"] == "address" for *_, environment in ran)
    assert (image.root / "src" / "src" / "patchkin" / "_version.py").is_file()
    assert (image.root / "src" / "constraints.txt").is_file()


def test_a_user_is_the_one_of_the_image_or_any_number(walked):
    image, ran = walked
    image.container("--version")
    image.container(user=(1234, 1234))
    (_, image_user, folder, _), (help_, stranger, *_) = ran[-2:]
    assert (image_user, folder, help_, stranger) == ((1000, 1001), "/work", "--help", (1234, 1234))
    assert image.home(1000) == "/home/patchkin"
    assert image.home(1234) == "/"


def test_what_is_not_known_is_said(making, tmp_path):
    with pytest.raises(ValueError, match="Dockerfile:3: HEALTHCHECK is not known"):
        making.Image(tmp_path, {}).do(making.Step("HEALTHCHECK", "", 3))


def test_all_that_is_copied_is_sent_to_docker(making):
    allowed = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        source
        for step in making.steps_of(DOCKERFILE)
        if step.word == "COPY"
        for source in step.text.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_what_needs_a_home_has_a_place_in_the_volume(walked):
    """A user of no name has no home: nothing may be kept there."""
    image, _ = walked
    places = {
        name: value
        for name, value in image.environment.items()
        if name != "PATH" and not name.startswith("PIP_")
    }
    assert {"PATCHKIN_CACHE", "TORCH_HOME", "MPLCONFIGDIR"} <= set(places)
    (volume,) = image.volumes
    assert {name: value for name, value in places.items() if not value.startswith(volume)} == {}
