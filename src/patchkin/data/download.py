"""Fetching archives: resumed where they stopped, checked by hash."""

from __future__ import annotations

import contextlib
import http.client
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from patchkin.data.archives import extract_archive
from patchkin.data.catalogue import CATALOGUE, PublicSet
from patchkin.errors import ConfigError, DownloadError, nearest
from patchkin.storage.atomic import put_in_place, storage_errors, write_text
from patchkin.storage.hashes import file_sha256
from patchkin.storage.locks import alone_at

ProgressBar: TypeAlias = Callable[[int, "int | None"], None]
"""Called with bytes so far and in total (None if the server does not say)."""

_CHUNK_BYTES = 1 << 18
_ATTEMPTS_PER_URL = 3
_TIMEOUT_SECONDS = 30


class _FetchError(Exception):
    """One attempt failed; `again` says whether the same address is worth another."""

    def __init__(self, reason: str, *, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


@dataclass(frozen=True, slots=True)
class Fetched:
    """A data set on this machine."""

    root: Path
    """For `--data`."""
    sha256: str
    """Of the archive."""
    was_known: bool
    """Whether the hash was known before; otherwise this download was trusted (first use)."""


# One file


def download(
    urls: Sequence[str],
    target: Path,
    *,
    sha256: str | None = None,
    progress: ProgressBar | None = None,
    remedy: str = "use --mirror URL",
) -> str:
    """Fetch a file into `target`, which appears whole and checked or not at all.

    What has come of an interrupted download stays in `target` + `.part` and is continued, provided
    that the server still has the same content (by its ETag or date, or because `sha256` is known).

    Args:
        urls: mirrors, tried in order.
        target: file to write; if it exists, it is only checked.
        sha256: expected hash in hexadecimal; None accepts any content.
        progress: for a progress bar.
        remedy: what to do where no mirror gives it.

    Returns:
        The hash of the file.

    Raises:
        DownloadError: if no mirror gives the file, or an existing file has another hash.
        StorageError: if the file cannot be written.
    """
    if target.exists():
        return _checked(target, sha256)
    with alone_at(target, f"downloads `{target}`"):
        if target.exists():
            return _checked(target, sha256)
        reasons = []
        for url in urls:
            try:
                with storage_errors(target, advice="What has come is kept."):
                    return _from_one(url, target, sha256, progress)
            except _FetchError as failure:
                reasons.append(str(failure))
    raise DownloadError(
        f"Cannot download `{target.name}`: {'; '.join(dict.fromkeys(reasons))}. "
        f"Put the file at `{target}`, or {remedy}."
    )


def _checked(target: Path, sha256: str | None) -> str:
    found = file_sha256(target)
    if sha256 not in (None, found):
        raise DownloadError(
            f"`{target}` has sha256 {found}, expected {sha256}; remove it to fetch it again."
        )
    _forget_version(target)  # of a download whose last step failed
    return found


def _from_one(url: str, target: Path, sha256: str | None, progress: ProgressBar | None) -> str:
    part = _beside(target, ".part")
    for attempt in range(1, _ATTEMPTS_PER_URL + 1):
        resumed = part.exists()
        try:
            _fetch(url, target, trust_part=sha256 is not None, progress=progress)
            found = file_sha256(part)
            if sha256 not in (None, found):
                _forget_part(target)
                # after a resume the old half may be the bad one: worth a fresh attempt
                raise _FetchError(f"{url} has sha256 {found}, expected {sha256}", again=resumed)
        except _FetchError as failure:
            if not failure.again or attempt == _ATTEMPTS_PER_URL:
                raise
            continue
        put_in_place(part, target)
        _forget_version(target)
        return found
    raise AssertionError("unreachable")


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(target.name + ending)


def _forget_part(target: Path) -> None:
    for ending in (".part", ".part.version"):
        _beside(target, ending).unlink(missing_ok=True)


def _forget_version(target: Path) -> None:
    with contextlib.suppress(OSError):  # the file is there, and what is left is in nobody's way
        _beside(target, ".part.version").unlink(missing_ok=True)


def _fetch(url: str, target: Path, *, trust_part: bool, progress: ProgressBar | None) -> None:
    """Complete `target.part`, or raise `_FetchError` with what has come so far kept."""
    part, version_file = _beside(target, ".part"), _beside(target, ".part.version")
    target.parent.mkdir(parents=True, exist_ok=True)
    version = version_file.read_text("utf-8") if version_file.exists() else ""
    if part.exists() and not version and not trust_part:
        _forget_part(target)  # nothing says that the rest would belong to this half
    done = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "patchkin", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
        if version:
            headers["If-Range"] = version
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS
        )
    except urllib.error.HTTPError as error:
        with error:
            _answer_http_error(error, url, target, done)
        return
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise _FetchError(_unreachable(url, error)) from error
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT or not _starts_at(response, done):
            done = 0  # the server sends the file from its beginning
        write_text(version_file, _version(response))
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with part.open("r+b" if done else "wb") as file:
            file.seek(done)
            for chunk in _chunks(response, url):
                file.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
    if total is not None and done < total:
        raise _FetchError(f"{url} broke off after {done} of {total} bytes", again=True)


def _answer_http_error(error: urllib.error.HTTPError, url: str, target: Path, done: int) -> None:
    if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise _FetchError(f"{url} answers {error.code} {error.reason}") from error
    if error.headers.get("Content-Range") == f"bytes */{done}":
        return  # the part is the whole file already
    _forget_part(target)
    raise _FetchError(f"{url} refuses to continue at byte {done}", again=True) from error


def _starts_at(response: http.client.HTTPResponse, done: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {done}-")


def _version(response: http.client.HTTPResponse) -> str:
    """What `If-Range` takes: a strong ETag, else the date, else nothing."""
    etag = response.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return response.headers.get("Last-Modified", "")


def _chunks(response: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(_CHUNK_BYTES)
        except (http.client.HTTPException, OSError) as error:
            raise _FetchError(f"{url} broke off", again=True) from error
        if not chunk:
            return
        yield chunk


def _unreachable(url: str, error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    text = getattr(reason, "strerror", None) or str(reason) or type(error).__name__
    return f"cannot reach {urllib.parse.urlsplit(url).netloc or url} ({text})"


# One data set


def fetch_dataset(
    name: str,
    folder: Path,
    *,
    mirrors: Sequence[str] = (),
    sha256: str | None = None,
    unverified: bool = False,
    catalogue: dict[str, PublicSet] = CATALOGUE,
    progress: ProgressBar | None = None,
) -> Fetched:
    """Download and unpack a public data set into `folder/name`.

    One process fetches a set while others wait for it. The hash of the archive is kept in
    `folder/<archive>.sha256` (as `sha256sum` writes it), also when the archive itself is removed
    after unpacking. Where nobody knows the hash, the first download needs consent, and other
    content is refused from then on.

    Args:
        name: of the catalogue.
        folder: where data sets live.
        mirrors: tried before the addresses of the catalogue.
        sha256: that the archive must have, in hexadecimal, where the catalogue has none.
        unverified: consent to an archive whose hash nobody knows.
        catalogue: for tests.
        progress: for a progress bar.

    Raises:
        ConfigError: if the name is unknown.
        DownloadError: if the archive cannot be fetched, has changed, is unverified without
            consent, or is not safe to unpack; or the set is handed out on a page only, which the
            message names.
    """
    if name not in catalogue:
        raise ConfigError(f"Unknown data set `{name}`. {nearest(name, catalogue)}")
    entry = catalogue[name]
    urls = [*mirrors, *entry.urls]
    if not urls:
        folders = ", ".join(f"train/{domain}" for domain in entry.domains)
        raise DownloadError(
            f"`{name}` has no address of its own: get it from {entry.page}, sort the images into "
            f"{folders} (and val/... for those held out), or give an archive with --mirror URL."
        )
    archive = folder / Path(urllib.parse.urlsplit((entry.urls or urls)[0]).path).name
    demanded = entry.sha256 or sha256
    if not (demanded or unverified or _beside(archive, ".sha256").exists()):
        raise DownloadError(
            f"`{name}` is unverified: nobody recorded the hash of its archive, and {urls[0]} may "
            "give anything. Say which hash it must have with --sha256 HEX, or accept what comes "
            "with --unverified."
        )
    with alone_at(folder / name, f"fetches `{folder / name}`"):
        return _fetched(folder / name, archive, urls, demanded, progress)


def _fetched(
    root: Path,
    archive: Path,
    urls: Sequence[str],
    demanded: str | None,
    progress: ProgressBar | None,
) -> Fetched:
    record = _beside(archive, ".sha256")
    recorded = record.read_text("utf-8").split()[0] if record.exists() else None
    expected = demanded or recorded
    if root.exists() and recorded:
        with contextlib.suppress(OSError):  # of a call whose last step failed
            if file_sha256(archive) == recorded:
                archive.unlink()
        return Fetched(root, recorded, was_known=True)
    if root.exists():
        raise DownloadError(f"`{root}` exists and did not come from here; move it away first.")
    was_there = archive.exists()
    try:
        found = download(urls, archive, sha256=expected, progress=progress)
    except DownloadError as error:
        if recorded and not demanded:
            raise DownloadError(
                f"{error} The expected hash is that of the first download, in `{record}`; "
                "remove it to accept changed content."
            ) from error
        raise
    try:
        extract_archive(
            archive, root, before=lambda: write_text(record, f"{found}  {archive.name}\n")
        )
    except DownloadError as error:
        if expected is not None:
            raise
        if was_there:
            raise DownloadError(f"{error} Remove it to fetch it again.") from error
        archive.unlink(missing_ok=True)  # nobody vouched for it, and it would stay in the way
        raise DownloadError(f"{error} It is not kept.") from error
    with contextlib.suppress(OSError):  # it is of no more use, and in nobody's way
        archive.unlink()
    return Fetched(root, found, was_known=expected is not None)
