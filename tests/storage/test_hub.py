"""Names on the Hub, and what its library says, as one line. Models go there in `translation`."""

from __future__ import annotations

import contextlib
import importlib
import logging
from pathlib import Path

import pytest

from patchkin.errors import ConfigError, DownloadError
from patchkin.storage.hub import _check, _reason, _told, hub_name


def test_what_stands_behind_the_prefix():
    for name in ("hf:me/a", Path("hf:me/a")):
        assert hub_name(name) == "me/a"
    for name in ("me/a", "runs/hf:x", Path("hf/a"), "HF:me/a"):
        assert hub_name(name) is None


def test_the_reason_of_the_library_is_one_line():
    for name, said in {
        "RepositoryNotFoundError": "there is no such repository, or it is private",
        "RevisionNotFoundError": "it has no such revision",
        "EntryNotFoundError": "it has no model.safetensors",
        "RemoteEntryNotFoundError": "it has no model.safetensors",
        "GatedRepoError": "its owner must let you in first",
        "LocalEntryNotFoundError": "there is no network, or the Hub is not reachable",
        "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set",
        "ConnectError": "there is no network, or the Hub is not reachable",
    }.items():
        assert _reason(type(name, (Exception,), {})("anything")) == said
    assert _reason(ValueError("\n first. \nsecond")) == "first"
    assert _reason(ValueError("")) == "ValueError"
    assert _reason(ValueError("a" * 300)) == "a" * 200


def test_the_librarys_log_is_as_it_was():
    importlib.import_module("huggingface_hub.utils.logging")  # which sets its level
    logger = logging.getLogger("huggingface_hub")
    ours = type("HTTPError", (Exception,), {"__module__": "httpx._exceptions"})
    for raised, told in (
        (None, None),
        (OSError("full"), DownloadError),
        (ours("gone"), DownloadError),
        (KeyError("a fault"), KeyError),
    ):
        before = logger.level
        with pytest.raises(told) if told else contextlib.nullcontext() as caught, _told("It fails"):
            assert logger.level == logging.ERROR
            if raised is not None:
                raise raised
        assert logger.level == before
        if told is DownloadError:
            assert str(caught.value) == f"It fails: {raised}."


def test_what_is_a_name():
    for name in ("me/a", "Me-1/a.b_c-d", "m.e/1"):
        _check(name)
    for name in ("me", "me/", "/a", "-me/a", "me/a/b", "me/a b", "me/a@v1", ""):
        with pytest.raises(ConfigError, match=f"`{name}` is no name on the Hub"):
            _check(name)
