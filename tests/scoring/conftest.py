"""The command line and a tiny run, as its tests have them; a model and a set of several domains."""

from __future__ import annotations

import pytest

from cli.conftest import command, finished_run, run_copy, toy_root
from patchkin.data.toy import COATS, write_domain_toy
from patchkin.storage.checkpoint import ModelHeader
from patchkin.translation.translator import Translator
from tinting import Tint, TintConfig, TintSizes

__all__ = ["command", "finished_run", "run_copy", "toy_root"]


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("domains")
    write_domain_toy(folder, train=4, test=3)
    return folder


@pytest.fixture
def translator():
    method = Tint(TintConfig(sizes=TintSizes(num_domains=3)))
    header = ModelHeader(method="tint", config={}, size=64, encoding={"domains": list(COATS)})
    return Translator(method, header=header, device="cpu")
