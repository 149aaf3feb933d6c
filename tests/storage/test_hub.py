"""Names on the Hub, and what its library says, as one line. Models go there in `translation`."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import logging
import sys
from pathlib import Path

import pytest

from patchkin.errors import ConfigError, DownloadError
from patchkin.storage.hub import (
    CARD_FILE,
    MODEL_FILE,
    _check,
    _reason,
    _told,
    cached_model,
    fetch_model,
    fetch_verified,
    hub_name,
    push_folder,
)
from storage.hub_server import hub  # noqa: F401 - fixture

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of its library
NOWHERE = "http://127.0.0.1:9"
"""Where nobody listens."""


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
    assert _reason(ValueError("the name is XX. ")) == "the name is XX"
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


# With a local server


def test_a_folder_is_pushed_in_one_commit_also_to_what_is_there(hub, tmp_path):  # noqa: F811
    folder = tmp_path / "model"
    folder.mkdir()
    assert (MODEL_FILE, CARD_FILE) == ("model.safetensors", "README.md")  # as the Hub has them
    for content in (b"first", b"second"):
        (folder / MODEL_FILE).write_bytes(content)
        (folder / CARD_FILE).write_bytes(b"card of " + content)
        place = push_folder(folder, "me/small", token="hf_given", message=content.decode())
        assert place.endswith("/me/small")
        assert hub.repos["me/small"] == {MODEL_FILE: content, CARD_FILE: b"card of " + content}
    assert hub.messages == ["first", "second"]
    assert hub.private == {"me/small": False}
    assert set(hub.tokens) == {"Bearer hf_given"}
    push_folder(folder, "me/hidden", private=True)
    assert hub.private["me/hidden"] is True
    assert hub.messages[-1] == "A model of patchkin"
    assert hub.tokens[-1] == "Bearer hf_of_the_test"
    for name in ("small", "me/small@v1"):
        with pytest.raises(ConfigError, match=f"`{name}` is no name on the Hub"):
            push_folder(folder, name)
    hub.refuses = True
    with pytest.raises(DownloadError, match="`me/small` cannot be pushed to the Hub: "):
        push_folder(folder, "me/small")


def test_a_model_is_fetched_unless_it_is_there(hub, monkeypatch):  # noqa: F811
    hub.repos["me/small"], hub.commits["me/small"] = {MODEL_FILE: b"first"}, ["1" * 40]
    assert cached_model("me/small") is None
    path = fetch_model("me/small", token="hf_given")
    assert (path.name, path.read_bytes()) == (MODEL_FILE, b"first")
    assert set(hub.tokens) == {"Bearer hf_given"}
    assert cached_model("me/small") == path
    assert cached_model("me/other") is None
    assert cached_model(f"me/small@{'1' * 40}") == path
    assert cached_model("me/small@v9") is None
    assert fetch_model(f"me/small@{'1' * 40}") == path
    for name, said in {
        "me/small@v9": "it has no such revision",
        "me/nothing": "there is no such repository, or it is private",
    }.items():
        with pytest.raises(DownloadError) as caught:
            fetch_model(name)
        assert str(caught.value) == f"`{name}` cannot be fetched from the Hub: {said}."
    with pytest.raises(ConfigError, match="`small` is no name on the Hub"):
        fetch_model("small")
    path.resolve().write_bytes(b"other")
    assert fetch_model("me/small").read_bytes() == b"other"
    assert fetch_model("me/small", anew=True).read_bytes() == b"first"
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    assert cached_model("me/small").read_bytes() == b"first"


def test_what_is_fetched_has_the_hash_that_was_asked_for(hub, monkeypatch):  # noqa: F811
    hub.repos["me/small"], hub.commits["me/small"] = {MODEL_FILE: b"first"}, ["1" * 40]
    sha256 = hashlib.sha256(b"first").hexdigest()
    path = fetch_verified("me/small", sha256)
    assert path.read_bytes() == b"first"
    with monkeypatch.context() as patch:
        patch.setenv("HF_ENDPOINT", NOWHERE)  # it is there
        assert fetch_verified("me/small", sha256) == path
    path.resolve().write_bytes(b"damaged")
    assert fetch_verified("me/small", sha256).read_bytes() == b"first"
    other = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(DownloadError) as caught:
        fetch_verified("me/small", other)
    assert str(caught.value) == (
        "What `me/small` on the Hub has is not the model that was asked for: its SHA-256 is "
        f"{sha256}, expected {other}."
    )


def test_without_the_library_nothing_is_there_and_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert cached_model("me/small") is None
    for call in (lambda: fetch_model("me/small"), lambda: push_folder(tmp_path, "me/small")):
        with pytest.raises(ConfigError, match=r"The Hub needs huggingface_hub: pip .*\[hub\]"):
            call()
