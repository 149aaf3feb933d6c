"""What stands around the package: workflows, templates of issues, how to cite it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEMPLATES = sorted(
    path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"
)
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def jobs_of(name):
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())["jobs"]


def commands_of(job):
    return [step["run"] for step in job["steps"] if "run" in step]


def apt_line(text):
    """How programs are installed beside Python, and which."""
    (line,) = re.findall(r"(apt-get install .+)$", text, re.MULTILINE)
    words = line.split()
    programs = [word for word in words[2:] if not word.startswith("-")]
    return [word for word in words if word not in programs], programs


def programs_of_ci():
    (line,) = re.findall(r"^for program in (.+); do$", CI, re.MULTILINE)
    return line.split()


def test_a_change_is_checked_by_the_script_that_everybody_has():
    (job,) = jobs_of("checks.yml").values()
    assert commands_of(job) == ["bash .ci/run"]
    assert job["steps"][1]["env"] == {"CI": "true"}  # no browser is a failure, as in .ci/run
    assert [line for line in CI.splitlines() if line.startswith("make ")] == [
        "make check",
        "make test",
    ]


def test_slow_checks_have_the_programs_of_the_quick_ones():
    for job in jobs_of("slow.yml").values():
        install, test = commands_of(job)
        assert apt_line(install) == (apt_line(CI)[0], programs_of_ci())
        target = test.removeprefix("make ")
        assert re.search(rf"^{target}: ", MAKEFILE, re.MULTILINE), target
    assert [commands_of(job)[1] for job in jobs_of("slow.yml").values()] == [
        "make slow",
        "make test-oldest",
    ]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_on_python_that_is_promised_and_write_nothing(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    promised = set(re.findall(r":: Python :: (3\.\d+)", PROJECT))
    for job in workflow["jobs"].values():
        image, version = re.fullmatch(r"(python):(3\.\d+)-bookworm", job["container"]).groups()
        assert version in promised, image
        assert job["timeout-minutes"] <= 360


def test_the_oldest_python_is_the_same_everywhere():
    (oldest,) = re.findall(r"^requires-python = .>=(.+).$", PROJECT, re.MULTILINE)
    assert f"OLDEST_PYTHON ?= python{oldest}\n" in MAKEFILE
    assert jobs_of("slow.yml")["oldest"]["container"].startswith(f"python:{oldest}-")


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_issues_ask_for_the_machine(path):
    template = yaml.safe_load(path.read_text())
    assert {"name", "description", "labels", "body"} == set(template)
    identities = [part["id"] for part in template["body"]]
    assert len(set(identities)) == len(identities)
    assert {part["type"] for part in template["body"]} <= {"textarea", "input"}
    doctor = next(part for part in template["body"] if part["id"] == "doctor")
    assert doctor["attributes"]["description"] == "The output of `patchkin doctor --json`."
    assert doctor["attributes"]["render"] == "json"
    needed = doctor.get("validations", {}).get("required", False)
    assert needed == (path.stem != "wish")


def test_there_is_a_template_for_each_kind_and_no_other_way():
    assert {path.stem for path in TEMPLATES} == {"bug", "bad-pictures", "wish"}
    config = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml").read_text())
    assert config == {"blank_issues_enabled": False}


def test_the_citation_is_of_this_package():
    """`cffconvert --validate` knows the rest."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["cff-version"] == "1.2.0"
    assert f'license = "{cited["license"]}"\n' in PROJECT
    (author,) = cited["authors"]
    assert f'authors = [{{ name = "{author["name"]}" }}]\n' in PROJECT
    assert cited["title"].startswith("patchkin")
