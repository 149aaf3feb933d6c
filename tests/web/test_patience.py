"""What is too much, too slow, or never said; against a stand-in, and on a port of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time

import pytest
import uvicorn
from starlette.requests import ClientDisconnect

from patchkin.web import patience
from patchkin.web.patience import MOST_WORDS_BYTES, Patience, PatientProtocol
from patchkin.web.server import HANDLES, _allow_handles, listen

HEAD_SECONDS, GRACE_SECONDS = 0.4, 0.1


def shorten(monkeypatch):
    monkeypatch.setattr(patience, "HEAD_SECONDS", HEAD_SECONDS)
    monkeypatch.setattr(patience, "GRACE_SECONDS", GRACE_SECONDS)


async def behind(scope, receive, send):
    """Answers with the number of bytes that came; complains, as starlette does, of who left."""
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(length).encode()})


def ask(room, pieces, *, kind="application/json", pause=0.0, end=True, **options):
    """Status and text of the answer, if there is one."""
    coming, sent = list(pieces), []

    async def receive():
        await asyncio.sleep(pause)
        if coming:
            body = coming.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(coming) or not end}
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "headers": [(b"content-type", kind.encode())]}
    asked = Patience(behind, most_upload_bytes=8 << 20, room=room, **options)
    asyncio.run(asked(scope, receive, send))
    return (sent[0]["status"], sent[1]["body"].decode()) if sent else None


def test_what_is_asked_is_passed_on(tmp_path):
    assert ask(tmp_path, [b"abc", b"de"]) == (200, "5")
    assert ask(tmp_path, [b"x" * (5 << 20)], kind="multipart/form-data; boundary=a") == (
        200,
        f"{5 << 20}",
    )


def test_too_much_is_refused_with_the_limit(tmp_path):
    many = [b"x" * (1 << 20)] * 9
    assert ask(tmp_path, many) == (413, f"More than {MOST_WORDS_BYTES} bytes were sent at once.")
    told = ask(tmp_path, many, kind="multipart/form-data; boundary=a")
    assert told == (413, f"More than {8 << 20} bytes were sent at once.")


def test_what_comes_too_slowly_is_refused(tmp_path, monkeypatch):
    shorten(monkeypatch)
    slow = (408, "What was sent came too slowly: try again.")
    assert ask(tmp_path, [b"a", b"b"], pause=0.5, piece_seconds=0.1) == slow
    assert ask(tmp_path, [b"a"] * 9, pause=0.1, piece_seconds=5, whole_seconds=0.4) == slow
    assert ask(tmp_path, [b"a", b"b"], pause=0.05, piece_seconds=5) == (200, "2")


def test_who_leaves_in_the_middle_is_no_fault_of_ours(tmp_path):
    assert ask(tmp_path, [b"a"], end=False) is None


def test_no_upload_is_taken_by_a_full_disk(tmp_path, monkeypatch):
    class Usage:
        free = 1 << 20

    monkeypatch.setattr(patience.shutil, "disk_usage", lambda folder: Usage)
    status, said = ask(tmp_path, [b"abc"], kind="multipart/form-data; boundary=a")
    assert status == 507
    assert "nearly full" in said
    assert ask(tmp_path, [b"abc"]) == (200, "3")


@contextlib.contextmanager
def serving(application, protocol=PatientProtocol):
    """Its port."""
    with listen("127.0.0.1", 0) as listening:
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(application, http=protocol, log_level="critical"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def seconds_until_closed(port, *sent):
    """From the last of what is sent; before it, the answer to the others or half of the limit."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as talking:
        for words in sent:
            with contextlib.suppress(ConnectionError):
                talking.sendall(words)
            if words.endswith(b"\r\n\r\n") and words is not sent[-1]:
                assert talking.recv(4096).startswith(b"HTTP/1.1 200")
            elif words is not sent[-1]:
                time.sleep(HEAD_SECONDS / 2)
        begun = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while talking.recv(4096):
                pass
        return time.monotonic() - begun


def is_after_the_limit(seconds):
    """And long before the five seconds that uvicorn keeps a connection without being asked."""
    return HEAD_SECONDS - 0.1 < seconds < HEAD_SECONDS + 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_connections_that_ask_nothing_are_ended(tmp_path, monkeypatch):
    shorten(monkeypatch)

    async def late(scope, receive, send):
        if scope["type"] == "http":
            await asyncio.sleep(2 * HEAD_SECONDS)  # an answer may take its time
            await behind(scope, receive, send)

    whole = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
    with serving(late) as port:
        assert is_after_the_limit(seconds_until_closed(port, b""))
        assert is_after_the_limit(seconds_until_closed(port, whole[:9]))
        dripping = [whole[n : n + 1] for n in range(4)]
        assert seconds_until_closed(port, *dripping) < HEAD_SECONDS
        answered = seconds_until_closed(port, whole[:9], whole[9:-2] + b"connection: close\r\n\r\n")
        assert answered > 1.5 * HEAD_SECONDS
        after_an_answer = seconds_until_closed(port, whole, whole[:9])
        assert is_after_the_limit(after_an_answer)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_came_in_time_and_is_read_late_is_answered(monkeypatch):
    """By a machine that has too much to do."""
    shorten(monkeypatch)

    class Late(PatientProtocol):
        def connection_made(self, transport):
            super().connection_made(transport)
            time.sleep(2 * HEAD_SECONDS)

    with serving(behind, Late) as port, socket.create_connection(("127.0.0.1", port)) as talking:
        talking.settimeout(10)
        talking.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert talking.recv(4096).startswith(b"HTTP/1.1 200")


def test_a_silent_peer_is_asked_whether_it_is_there():
    with listen("127.0.0.1", 0) as listening:
        assert listening.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60


def test_more_handles_than_usual_are_taken():
    resource = pytest.importorskip("resource", reason="limits of handles are of POSIX")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
        _allow_handles()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, HANDLES)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
