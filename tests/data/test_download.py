from __future__ import annotations

import hashlib
import io
import logging
import os
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from patchkin.cli import main
from patchkin.data.catalogue import CATALOGUE, PublicSet
from patchkin.data.download import download, fetch_dataset
from patchkin.errors import ConfigError, DownloadError, StorageError
from patchkin.storage.hashes import file_sha256

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _Server(ThreadingHTTPServer):
    """Serves `content` at every path; behaves as its attributes say and remembers requests."""

    content = CONTENT
    etag: str | None = '"v1"'
    ranges = True
    break_after: int | None = None
    """Bytes of the first answer before the connection drops."""
    go_on: threading.Event | None = None
    """What an answer waits for after half of it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/set.zip"


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        server, content = self.server, self.server.content
        server.requests.append(dict(self.headers))
        if "missing" in self.path:
            self.send_error(404)
            return
        wanted = self.headers.get("Range", "") if server.ranges else ""
        same = self.headers.get("If-Range", server.etag) == server.etag
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and same else 0
        if wanted and same and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if wanted and same else 200)
        if wanted and same:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content)
        if server.break_after is not None:
            end, server.break_after = start + server.break_after, None
        half = (start + end) // 2
        self.wfile.write(content[start:half])
        if server.go_on is not None:
            self.wfile.flush()
            server.go_on.wait(60)
        self.wfile.write(content[half:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def other() -> Iterator[_Server]:
    with _Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def _left(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _interrupted(folder, number: int, version: str | None = '"v1"', content: bytes = CONTENT):
    (folder / "set.zip.part").write_bytes(content[:number])
    if version is not None:
        (folder / "set.zip.part.version").write_text(version)


# One file


def test_whole_file_with_progress(server, tmp_path):
    seen = []
    target = tmp_path / "new" / "set.zip"
    found = download(
        [server.url], target, sha256=SHA256, progress=lambda *numbers: seen.append(numbers)
    )
    assert found == SHA256 == file_sha256(target)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert _left(target.parent) == ["set.zip"]


def test_what_a_failed_last_step_left_goes_with_the_next_call(server, tmp_path):
    """The disk failed when the file was in its place already."""
    (tmp_path / "set.zip").write_bytes(CONTENT)
    (tmp_path / "set.zip.part.version").write_text('"v1"')
    assert download([server.url], tmp_path / "set.zip", sha256=SHA256) == SHA256
    assert _left(tmp_path) == ["set.zip"]
    assert server.requests == []


def test_interrupted_download_continues(server, tmp_path):
    _interrupted(tmp_path, 1000)
    seen = []
    download([server.url], tmp_path / "set.zip", progress=lambda done, _: seen.append(done))
    assert server.requests[0]["Range"] == "bytes=1000-"
    assert server.requests[0]["If-Range"] == '"v1"'
    assert seen[0] > 1000
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert _left(tmp_path) == ["set.zip"]


def test_a_record_that_cannot_be_removed_is_in_nobodys_way(server, tmp_path, monkeypatch):
    remove = Path.unlink

    def unlink(path, *, missing_ok=False):
        if path.name.endswith(".version"):
            raise OSError(5, "Input/output error")
        remove(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        assert download([server.url], tmp_path / "set.zip") == SHA256
    assert (tmp_path / "set.zip").read_bytes() == CONTENT


def test_dropped_connection_is_continued_at_once(server, tmp_path):
    server.break_after = 70000
    assert download([server.url], tmp_path / "set.zip") == SHA256
    assert [request.get("Range") for request in server.requests] == [None, "bytes=70000-"]


def test_server_without_ranges_starts_over(server, tmp_path):
    server.ranges = False
    _interrupted(tmp_path, 1000)
    assert download([server.url], tmp_path / "set.zip") == SHA256


def test_content_that_changed_since_starts_over(server, tmp_path):
    _interrupted(tmp_path, 1000, version='"v0"', content=b"x" * 5000)
    assert download([server.url], tmp_path / "set.zip") == SHA256


def test_half_of_unknown_origin_is_used_only_if_a_hash_will_tell(server, tmp_path):
    _interrupted(tmp_path, 1000, version=None)
    download([server.url], tmp_path / "set.zip")
    assert "Range" not in server.requests[0]
    (tmp_path / "set.zip").unlink()
    _interrupted(tmp_path, 1000, version=None)
    download([server.url], tmp_path / "set.zip", sha256=SHA256)
    assert server.requests[1]["Range"] == "bytes=1000-"


def test_wrong_half_is_thrown_away_and_fetched_afresh(server, tmp_path):
    _interrupted(tmp_path, 1000, content=b"x" * 5000)
    assert download([server.url], tmp_path / "set.zip", sha256=SHA256) == SHA256
    assert [request.get("Range") for request in server.requests] == ["bytes=1000-", None]


def test_complete_half_is_recognised_by_416(server, tmp_path):
    _interrupted(tmp_path, len(CONTENT))
    assert download([server.url], tmp_path / "set.zip") == SHA256
    assert len(server.requests) == 1


def test_too_long_half_is_thrown_away_after_416(server, tmp_path):
    _interrupted(tmp_path, len(CONTENT) + 7, content=CONTENT + b"y" * 7)
    assert download([server.url], tmp_path / "set.zip") == SHA256


def test_wrong_hash_names_both_and_leaves_nothing(server, tmp_path):
    with pytest.raises(DownloadError) as caught:
        download([server.url], tmp_path / "set.zip", sha256="0" * 64)
    assert f"has sha256 {SHA256}, expected {'0' * 64}" in str(caught.value)
    assert _left(tmp_path) == []


def test_mirrors_are_tried_in_order(server, other, tmp_path):
    server.content = b"not this"
    urls = [server.url.replace("set.zip", "missing.zip"), server.url, other.url]
    assert download(urls, tmp_path / "set.zip", sha256=SHA256) == SHA256
    assert (len(server.requests), len(other.requests)) == (2, 1)


def test_offline_says_which_host_and_what_to_do(tmp_path):
    with _Server() as closed:
        url = closed.url
    with pytest.raises(DownloadError) as caught:
        download([url, url], tmp_path / "set.zip")
    message = str(caught.value)
    assert message.count("cannot reach") == 1  # the same reason of two mirrors is told once
    host = url.removeprefix("http://").removesuffix("/set.zip")
    assert f"cannot reach {host} (Connection refused)" in message
    assert f"Put the file at `{tmp_path / 'set.zip'}`, or use --mirror URL." in message
    assert "\n" not in message


def test_not_found_is_told(server, tmp_path):
    with pytest.raises(DownloadError, match=r"missing\.zip answers 404 Not Found"):
        download([server.url.replace("set", "missing")], tmp_path / "set.zip")


def test_existing_file_is_checked_not_fetched(tmp_path):
    (tmp_path / "set.zip").write_bytes(CONTENT)
    assert download([], tmp_path / "set.zip", sha256=SHA256) == SHA256
    with pytest.raises(DownloadError, match="remove it to fetch it again"):
        download([], tmp_path / "set.zip", sha256="0" * 64)


def test_unwritable_target(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Cannot write"):
        download([server.url], tmp_path / "file" / "set.zip")


# Data sets


def _zip(*entries: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return file.getvalue()


@pytest.fixture
def catalogue(server) -> dict[str, PublicSet]:
    server.content = _zip(("tiny/trainA/a.png", b"1"), ("tiny/trainB/b.png", b"2"))
    return {"tiny": PublicSet((server.url,), "Two files.")}


def test_first_use_is_trusted_and_recorded(server, catalogue, tmp_path):
    fetched = fetch_dataset("tiny", tmp_path, unverified=True, catalogue=catalogue)
    assert (fetched.root, fetched.was_known) == (tmp_path / "tiny", False)
    assert fetched.sha256 == hashlib.sha256(server.content).hexdigest()
    assert (tmp_path / "set.zip.sha256").read_text() == f"{fetched.sha256}  set.zip\n"
    assert _left(tmp_path) == ["set.zip.sha256", "tiny"]
    again = fetch_dataset("tiny", tmp_path, unverified=True, catalogue=catalogue)
    assert (again.sha256, again.was_known) == (fetched.sha256, True)
    assert len(server.requests) == 1


def _with_both(act, server, caplog) -> list[object]:
    """What two threads get that act at once: the second once the first has half of an answer."""
    server.go_on = threading.Event()
    found: list[object] = []

    def work() -> None:
        try:
            found.append(act())
        except Exception as error:  # noqa: BLE001 (told)
            found.append(error)

    threads = [threading.Thread(target=work) for _ in "12"]
    deadline = time.monotonic() + 60
    with caplog.at_level(logging.WARNING):
        threads[0].start()
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.01)
        threads[1].start()
        while not caplog.messages and time.monotonic() < deadline:
            time.sleep(0.01)
        server.go_on.set()
        for thread in threads:
            thread.join()
    return found


def test_an_archive_that_a_failed_last_step_left_goes_with_the_next_call(
    server, catalogue, tmp_path
):
    """The disk failed when the set was in its place already. Another archive is nobody's to
    remove.
    """
    fetch_dataset("tiny", tmp_path, catalogue=catalogue, unverified=True)
    for content, left in ((server.content, []), (b"of somebody", ["set.zip"])):
        (tmp_path / "set.zip").write_bytes(content)
        assert fetch_dataset("tiny", tmp_path, catalogue=catalogue).was_known
        assert _left(tmp_path) == [*left, "set.zip.sha256", "tiny"]


def test_the_second_download_of_a_set_waits_for_the_first(server, catalogue, tmp_path, caplog):
    found = _with_both(
        lambda: fetch_dataset("tiny", tmp_path, unverified=True, catalogue=catalogue),
        server,
        caplog,
    )
    assert [fetched.root for fetched in found] == [tmp_path / "tiny"] * 2
    assert len(server.requests) == 1
    (message,) = caplog.messages
    assert message.startswith(f"waiting for process {os.getpid()} on ")
    assert message.endswith(f", which fetches `{tmp_path / 'tiny'}`")
    assert _left(tmp_path) == ["set.zip.sha256", "tiny"]
    assert (tmp_path / "tiny" / "trainA" / "a.png").read_bytes() == b"1"


def test_the_second_download_of_a_file_waits_for_the_first(server, tmp_path, caplog):
    target = tmp_path / "weights" / "set.zip"
    found = _with_both(lambda: download([server.url], target), server, caplog)
    assert found == [SHA256] * 2
    assert len(server.requests) == 1
    assert caplog.messages[0].endswith(f", which downloads `{target}`")
    assert _left(target.parent) == ["set.zip"]


def test_where_the_first_download_fails_the_second_goes_on(server, tmp_path, caplog):
    answers = iter([404])

    class MissingAtFirst(_Handler):
        def do_GET(self) -> None:
            if next(answers, None) is None:
                super().do_GET()
                return
            self.server.requests.append({})
            self.server.go_on.wait(60)
            self.send_error(404)

    server.RequestHandlerClass = MissingAtFirst
    target = tmp_path / "set.zip"
    found = _with_both(lambda: download([server.url], target), server, caplog)
    failed, fetched = found
    assert isinstance(failed, DownloadError)
    assert fetched == SHA256
    assert _left(tmp_path) == ["set.zip"]


@pytest.mark.parametrize(("on", "number"), [("fsync", 3), ("replace", 2)])
def test_a_disk_that_fails_in_the_end_keeps_what_has_come(
    server, tmp_path, monkeypatch, on, number
):
    """What comes first is done to the version, beside the part: file, rename, folder."""
    owner = os if on == "fsync" else Path
    original, calls = getattr(owner, on), []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) >= number:
            raise OSError(28, "No space left on device")
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, on, fail)
        with pytest.raises(StorageError) as caught:
            download([server.url], tmp_path / "set.zip")
    assert str(caught.value) == (
        f"Cannot write `{tmp_path / 'set.zip'}`: No space left on device. What has come is kept."
    )
    assert not (tmp_path / "set.zip").exists()
    assert download([server.url], tmp_path / "set.zip") == SHA256
    assert _left(tmp_path) == ["set.zip"]


def test_a_set_is_recorded_just_before_it_appears(server, catalogue, tmp_path, monkeypatch):
    """So that a process that dies in between leaves what the next one takes up."""
    original = Path.rename

    def die(path, target):
        if Path(target) == tmp_path / "tiny":
            raise KeyboardInterrupt
        return original(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            fetch_dataset("tiny", tmp_path, unverified=True, catalogue=catalogue)
    assert _left(tmp_path) == ["set.zip", "set.zip.sha256"]
    fetched = fetch_dataset("tiny", tmp_path, unverified=True, catalogue=catalogue)
    assert (fetched.root, fetched.was_known) == (tmp_path / "tiny", True)
    assert len(server.requests) == 1
    assert _left(tmp_path) == ["set.zip.sha256", "tiny"]


def test_an_archive_that_nobody_vouches_for_is_not_kept_if_it_is_none(server, catalogue, tmp_path):
    whole, server.content = server.content, server.content[:60]
    with pytest.raises(DownloadError, match=r"cannot be unpacked: .*\. It is not kept\."):
        fetch_dataset("tiny", tmp_path, unverified=True, catalogue=catalogue)
    assert _left(tmp_path) == []
    server.content = whole
    assert fetch_dataset("tiny", tmp_path, unverified=True, catalogue=catalogue).root.is_dir()


def test_a_damaged_archive_that_was_there_is_kept_and_told(server, catalogue, tmp_path):
    (tmp_path / "set.zip").write_bytes(server.content[:60])
    with pytest.raises(DownloadError, match=r"unpacked: .*\. Remove it to fetch it again\."):
        fetch_dataset("tiny", tmp_path, unverified=True, catalogue=catalogue)
    assert _left(tmp_path) == ["set.zip"]
    assert server.requests == []


def test_changed_content_is_refused_from_then_on(server, catalogue, tmp_path):
    fetch_dataset("tiny", tmp_path, unverified=True, catalogue=catalogue)
    (tmp_path / "tiny").rename(tmp_path / "old")
    server.content = _zip(("tiny/trainA/a.png", b"other"))
    with pytest.raises(
        DownloadError, match=r"that of the first download, in .*remove it to accept"
    ):
        fetch_dataset("tiny", tmp_path, unverified=True, catalogue=catalogue)
    assert not (tmp_path / "tiny").exists()


def test_known_hash_is_demanded(server, catalogue, tmp_path):
    known = {
        "tiny": PublicSet(catalogue["tiny"].urls, "", hashlib.sha256(server.content).hexdigest())
    }
    assert fetch_dataset("tiny", tmp_path, catalogue=known).was_known
    wrong = {"tiny": PublicSet(catalogue["tiny"].urls, "", "0" * 64)}
    with pytest.raises(DownloadError, match="expected 0000"):
        fetch_dataset("tiny", tmp_path / "other", catalogue=wrong)


def test_given_mirror_comes_first(server, other, catalogue, tmp_path):
    other.content = server.content
    fetch_dataset("tiny", tmp_path, mirrors=[other.url], unverified=True, catalogue=catalogue)
    assert (len(other.requests), len(server.requests)) == (1, 0)


def test_archive_put_there_by_hand_is_used(server, catalogue, tmp_path):
    (tmp_path / "set.zip").write_bytes(server.content)
    fetch_dataset("tiny", tmp_path, unverified=True, catalogue=catalogue)
    assert (tmp_path / "tiny" / "trainA" / "a.png").exists()
    assert server.requests == []


def test_folder_of_the_users_own_is_not_touched(catalogue, tmp_path):
    (tmp_path / "tiny").mkdir()
    with pytest.raises(DownloadError, match="did not come from here; move it away"):
        fetch_dataset("tiny", tmp_path, unverified=True, catalogue=catalogue)


def test_unknown_name_offers_the_nearest(tmp_path):
    with pytest.raises(
        ConfigError, match=r"Unknown data set `hors2zebra`\. Did you mean `horse2zebra`"
    ):
        fetch_dataset("hors2zebra", tmp_path)


def test_a_set_on_a_page_says_where_and_in_which_folders(server, tmp_path):
    with pytest.raises(DownloadError) as caught:
        fetch_dataset("weather", tmp_path)
    message = str(caught.value)
    assert "https://ieee-dataport.org/documents/five-class-weather-image-dataset" in message
    assert "train/sunny, train/cloudy, train/rainy, train/foggy, train/snowy" in message
    assert "\n" not in message
    server.content = _zip(("data/train/sunny/a.png", b"1"), ("data/train/snowy/b.png", b"2"))
    fetched = fetch_dataset("weather", tmp_path, mirrors=[server.url], unverified=True)
    assert fetched.root == tmp_path / "weather"


def test_catalogue_claims_no_hash_that_nobody_measured():
    for entry in CATALOGUE.values():
        assert bool(entry.urls) != bool(entry.page)
        assert all(url.startswith("https://") for url in entry.urls)
        assert entry.sha256 is None or len(entry.sha256) == 64


def test_an_unverified_set_needs_a_hash_or_consent(server, catalogue, tmp_path):
    with pytest.raises(DownloadError, match=r"`tiny` is unverified: .*--sha256 HEX.*--unverified"):
        fetch_dataset("tiny", tmp_path, catalogue=catalogue)
    assert server.requests == []
    with pytest.raises(DownloadError, match=f"expected {'0' * 64}"):
        fetch_dataset("tiny", tmp_path, sha256="0" * 64, catalogue=catalogue)
    assert not (tmp_path / "tiny").exists()
    found = hashlib.sha256(server.content).hexdigest()
    fetched = fetch_dataset("tiny", tmp_path, sha256=found, catalogue=catalogue)
    assert (fetched.sha256, fetched.was_known) == (found, True)


def test_every_set_without_a_hash_is_called_unverified(capsys):
    assert main(["data", "download"]) == 0
    lines = capsys.readouterr().out.splitlines()
    marked = {line.split()[0] for line in lines if line.endswith("Unverified.")}
    assert marked == {name for name, e in CATALOGUE.items() if e.urls and not e.sha256}
    assert main(["data", "download", "horse2zebra", "--sha256", "abc"]) == 2
    assert "--sha256 takes 64 hexadecimal digits; got `abc`" in capsys.readouterr().err
