"""The crowd of `benchmarks/fire/clients.py`: a good server passes, a bad one does not."""

from __future__ import annotations

import asyncio
import io
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from benchmarks.test_scaling_scripts import loaded
from patchkin.errors import DataError
from patchkin.images import read_image

FIRE = Path(__file__).parents[2] / "benchmarks" / "fire"


@pytest.fixture
def clients(monkeypatch):
    monkeypatch.syspath_prepend(str(FIRE))
    return loaded(FIRE / "clients.py", monkeypatch)


def told_by(clients, kind, answer, monkeypatch, closes=True):
    """What becomes of a client of a server that answers everything alike."""
    monkeypatch.setattr(clients, "LONGEST_SECONDS", 20)

    async def meet():
        async def serve(reader, writer):
            if kind != "silent":
                await reader.read(100)
            writer.write(answer)
            if closes:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "PNG")
        image = (file.getvalue(), np.zeros((8, 8, 3), np.uint8))
        place = SimpleNamespace(address=f"http://127.0.0.1:{port}")
        crowd = clients.Crowd(place, [image])
        try:
            return await crowd.one(kind, random.Random(0))
        finally:
            server.close()

    return asyncio.run(meet())


def http(status, text):
    lines = (f"HTTP/1.1 {status}", "connection: close", f"content-length: {len(text)}", "", text)
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize(
    ("kind", "answer", "fault"),
    [
        ("patient", http("500 Internal Server Error", "no"), "500 of /gradio_api/upload"),
        ("page", http("404 Not Found", "no"), "404 of /"),
        ("stalled", http("200 OK", "thanks"), "told b'HTTP/1.1 200"),
        ("slow sender", b"", "Server disconnected|ReadError|RemoteProtocolError"),
        ("silent", b"", None),
    ],
)
def test_a_bad_answer_is_a_fault(clients, kind, answer, fault, monkeypatch):
    monkeypatch.setattr(clients.random.Random, "uniform", lambda self, low, high: low)
    monkeypatch.setattr(clients.random.Random, "choice", lambda self, some: some[0])
    told = told_by(clients, kind, answer, monkeypatch)
    if fault is None:
        assert told.fault is None
    else:
        assert told.outcome == "not answered"
        with pytest.raises(AssertionError, match=fault):
            raise AssertionError(told.fault)


def test_the_crowd_is_of_all_kinds_and_as_many_as_were_asked_for(clients):
    assert sorted(clients.crowd_of(200)) == sorted(
        kind for kind, number in clients.KINDS.items() for _ in range(number)
    )
    few = clients.crowd_of(20)
    assert len(few) == 20
    assert set(few) == set(clients.KINDS)


def test_the_bomb_is_one(clients, tmp_path):
    (tmp_path / "bomb.png").write_bytes(clients.bomb(20_000))
    with pytest.raises(DataError, match="exceeds limit"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.slow
def test_twenty_clients_are_all_answered(tmp_path):
    done = subprocess.run(
        [sys.executable, FIRE / "clients.py", tmp_path, "--clients", "20", "--rounds", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("0 faults")
