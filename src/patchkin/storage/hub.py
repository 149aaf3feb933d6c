"""Models on the Hugging Face Hub: `hf:OWNER/NAME`, or `hf:OWNER/NAME@REVISION`, for a model.

A repository there has `model.safetensors`, `README.md` (the model card) and pictures. The library
`huggingface_hub` keeps what it has fetched, and reads `HF_TOKEN`, `HF_ENDPOINT` and
`HF_HUB_OFFLINE` as it does elsewhere.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from patchkin.errors import ConfigError, DownloadError, missing_extra
from patchkin.storage.hashes import file_sha256

PREFIX = "hf:"
MODEL_FILE, CARD_FILE = "model.safetensors", "README.md"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def hub_name(text: str | Path) -> str | None:
    """What stands behind `hf:`; None for anything else.

    >>> hub_name("hf:me/horse2zebra"), hub_name("runs/horse2zebra")
    ('me/horse2zebra', None)
    """
    plain = text.as_posix() if isinstance(text, Path) else text
    return plain.removeprefix(PREFIX) if plain.startswith(PREFIX) else None


def is_hub_name(text: str) -> bool:
    """Whether it is OWNER/NAME, or OWNER/NAME@REVISION.

    >>> is_hub_name("me/horse2zebra"), is_hub_name("me/horse2zebra@v1"), is_hub_name("../x")
    (True, True, False)
    """
    repository, at, revision = text.partition("@")
    named = _NAME.fullmatch(repository) is not None
    return named and (not at or re.fullmatch(r"[\w./-]+", revision) is not None)


def fetch_model(name: str, *, token: str | None = None, anew: bool = False) -> Path:
    """The model file of a repository, fetched unless it is there.

    Args:
        name: OWNER/NAME, with @REVISION if it is not the newest.
        token: of a private repository; that of the machine unless given.
        anew: fetch it though it is there.

    Raises:
        ConfigError: no such name, or the library is not installed.
        DownloadError: there is no such repository or file, or no network.
    """
    repository, _, revision = name.partition("@")
    hub = _library()
    _check(repository)
    with _told(f"`{name}` cannot be fetched from the Hub"):
        found: str = hub.hf_hub_download(
            repository,
            MODEL_FILE,
            revision=revision or None,
            token=token,
            endpoint=_endpoint(),
            force_download=anew,
        )
    return Path(found)


def cached_model(name: str) -> Path | None:
    """The model file of a repository if it was fetched before; nobody is asked for it."""
    repository, _, revision = name.partition("@")
    try:
        hub = _library()
    except ConfigError:
        return None
    found = hub.try_to_load_from_cache(repository, MODEL_FILE, revision=revision or None)
    return Path(found) if isinstance(found, str) else None


def fetch_verified(name: str, sha256: str) -> Path:
    """The model file of a repository that has this hash. One that was fetched before needs no
    network, and is fetched anew if it is damaged.

    Args:
        name: OWNER/NAME, with @REVISION if it is not the newest.
        sha256: of the file, in hexadecimal.

    Raises:
        ConfigError: the library is not installed.
        DownloadError: there is no such file, no network, or what came is something else.
    """
    cached = cached_model(name)
    if cached is not None and file_sha256(cached) == sha256:
        return cached
    path = fetch_model(name, anew=cached is not None)
    found = file_sha256(path)
    if found != sha256:
        raise DownloadError(
            f"What `{name}` on the Hub has is not the model that was asked for: its SHA-256 is "
            f"{found}, expected {sha256}."
        )
    return path


def push_folder(
    folder: Path,
    name: str,
    *,
    private: bool = False,
    token: str | None = None,
    message: str = "A model of patchkin",
) -> str:
    """Upload the files of a folder, in one commit; the repository is made if it is not there.

    Returns:
        Where the repository is.

    Raises:
        ConfigError: no such name, or the library is not installed.
        DownloadError: it is refused, or there is no network.
    """
    hub = _library()
    _check(name)
    api = hub.HfApi(endpoint=_endpoint(), token=token)
    with _told(f"`{name}` cannot be pushed to the Hub"):
        place = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
    return str(place)


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ConfigError(
            missing_extra("The Hub", package="huggingface_hub", extra="hub")
        ) from error
    if not sys.stderr.isatty():
        importlib.import_module("huggingface_hub.utils").disable_progress_bars()
    return huggingface_hub


def _endpoint() -> str | None:
    """Read now: the library reads it once, when it is imported."""
    return os.environ.get("HF_ENDPOINT")


def _check(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"`{name}` is no name on the Hub; expected OWNER/NAME.")


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Anything that the library says, as one line; it tells of its tries to nobody."""
    importlib.import_module("huggingface_hub.utils.logging")  # which sets the level, once
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        raise DownloadError(f"{what}: {_reason(error)}.") from error
    except Exception as error:
        if not type(error).__module__.startswith(("http", "huggingface_hub", "requests")):
            raise
        raise DownloadError(f"{what}: {_reason(error)}.") from error
    finally:
        logger.setLevel(before)


def _reason(error: BaseException) -> str:
    known = {
        "RepositoryNotFoundError": "there is no such repository, or it is private",
        "RevisionNotFoundError": "it has no such revision",
        "EntryNotFoundError": f"it has no {MODEL_FILE}",
        "RemoteEntryNotFoundError": f"it has no {MODEL_FILE}",
        "GatedRepoError": "its owner must let you in first",
        "LocalEntryNotFoundError": "there is no network, or the Hub is not reachable",
        "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set",
        "ConnectError": "there is no network, or the Hub is not reachable",
    }
    if type(error).__name__ in known:
        return known[type(error).__name__]
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(". ")[:200]
