"""Two hundred clients at once at the page of `patchkin demo`: patient, slow, gone and bad ones.

    python benchmarks/fire/clients.py FOLDER --clients 200 --rounds 3 --seed 0

Starts a server on this machine with the shipped model and a folder of runs, sends the clients, and
says of each kind what became of it. What a client of a kind does is decided by seed, round and
number. The code is 1 if one of them was not answered, or the server is not as it was.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import itertools
import json
import random
import re
import resource
import socket
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
from demo_server import Looked, Server
from PIL import Image

LONGEST_SECONDS = 600.0
"""A client that waits longer for its answer was forgotten."""
TRIES = 200
"""Of one that is told to wait; each after half a second to two."""
IMAGES = 12
SIDES = (48, 96)
CALM_SECONDS = 20.0
"""After the clients of a round, before the server is looked at."""
KINDS = {
    "patient": 80,
    "page": 30,
    "slow sender": 20,
    "slow reader": 10,
    "silent": 12,
    "stalled": 8,
    "gone": 28,
    "bad": 12,
}
"""How many of 200."""
BOUNDARY = "a-boundary-of-this-script"


@dataclass
class Told:
    """What became of a client."""

    kind: str
    outcome: str
    seconds: float = 0.0
    fault: str | None = None
    waits: int = 0


class FaultyError(Exception):
    """Something that should not be."""


class Crowd:
    """Clients of one round."""

    def __init__(self, server: Server, images: list[tuple[bytes, np.ndarray]]) -> None:
        self.server, self.images = server, images
        self.address = server.address
        parts = urlsplit(server.address)
        self.host, self.port = str(parts.hostname), int(parts.port or 0)
        self.behaviours: dict[str, Callable[[random.Random, Told], Awaitable[None]]] = {
            "patient": self.patient,
            "page": self.page,
            "slow sender": self.slow_sender,
            "slow reader": self.slow_reader,
            "silent": self.silent,
            "stalled": self.stalled,
            "gone": self.gone,
            "bad": self.bad,
        }

    async def one(self, kind: str, chance: random.Random) -> Told:
        """From the beginning of a client to its end."""
        told = Told(kind, "not answered")
        begun = time.monotonic()
        await asyncio.sleep(chance.uniform(0, 3))
        try:
            await asyncio.wait_for(self.behaviours[kind](chance, told), LONGEST_SECONDS)
        except (FaultyError, httpx.HTTPError, OSError, asyncio.TimeoutError) as error:
            asked = f" of {error.request.url.path}" if isinstance(error, httpx.RequestError) else ""
            told.fault = f"{type(error).__name__}: {error}{asked}"
        told.seconds = time.monotonic() - begun
        return told

    def client(self) -> httpx.AsyncClient:
        """One connection for each request: one that is kept may be closed while it is asked."""
        limits = httpx.Limits(max_keepalive_connections=0)
        return httpx.AsyncClient(
            base_url=self.address,
            timeout=LONGEST_SECONDS,
            trust_env=False,
            limits=limits,
            verify=False,
        )

    # Those who wait

    async def patient(self, chance: random.Random, told: Told, read=None) -> None:
        """Sends an image, waits its turn, and gets what the model makes of it."""
        content, wanted = chance.choice(self.images)
        async with self.client() as client:
            path = await self.uploaded(client, content)
            file = await self.translated(client, path, chance, told)
            found = await (read or self.read)(client, file)
        if not np.array_equal(np.asarray(Image.open(io.BytesIO(found))), wanted):
            raise FaultyError("another translation")
        told.outcome = "answered"

    async def slow_reader(self, chance: random.Random, told: Told) -> None:
        """Takes a little at a time."""

        async def read(client: httpx.AsyncClient, url: str) -> bytes:
            found = b""
            async with client.stream("GET", url) as response:
                async for piece in response.aiter_raw(512):
                    found += piece
                    await asyncio.sleep(0.05)
            return found

        await self.patient(chance, told, read)

    async def slow_sender(self, chance: random.Random, told: Told) -> None:
        """Sends in pieces with pauses, which is no reason to refuse."""
        content, _ = chance.choice(self.images)
        body = multipart(content)
        pieces = chance.randint(4, 8)
        cuts = [len(body) * n // pieces for n in range(pieces + 1)]

        async def pieced():
            for begin, end in itertools.pairwise(cuts):
                await asyncio.sleep(chance.uniform(0.3, 1.5))
                yield body[begin:end]

        async with self.client() as client:
            headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
            response = await client.post("/gradio_api/upload", content=pieced(), headers=headers)
            (path,) = fine(response).json()
            await self.translated(client, path, chance, told)
        told.outcome = "answered"

    async def page(self, chance: random.Random, told: Told) -> None:
        """Opens the page with what it loads, stays a while, and leaves."""
        session = f"{chance.getrandbits(48):x}"
        async with self.client() as client:
            text = fine(await client.get("/")).text
            for asset in re.findall(r'(?:src|href)="\.?(/?assets/[^"]+\.(?:js|css))"', text)[:6]:
                fine(await client.get(f"/{asset.lstrip('/')}"))
            config = fine(await client.get("/config")).json()
            looks = [
                one["id"]
                for one in config["dependencies"]
                if any(event == "tick" for _, event in one["targets"])
            ]
            url = f"/gradio_api/heartbeat/{session}"
            async with client.stream("GET", url) as beat:
                fine(beat)
                for _ in range(chance.randint(1, 4)):
                    await asyncio.sleep(2)
                    data = {"data": [None, ""], "fn_index": looks[0], "session_hash": session}
                    response = await client.post("/gradio_api/run/predict", json=data)
                    if "no run" not in fine(response).text:
                        raise FaultyError(f"of the runs: {response.text[:200]}")
        told.outcome = "answered"

    # Those who do not

    async def silent(self, chance: random.Random, told: Told) -> None:
        """Says nothing, or half of what it wants: its connection is ended."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        head = f"GET / HTTP/1.1\r\nhost: {self.host}\r\n".encode()
        writer.write(head[: chance.choice((0, 0, 5, len(head)))])
        await ended(reader, LONGEST_SECONDS)
        writer.close()
        told.outcome = "ended"

    async def stalled(self, chance: random.Random, told: Told) -> None:
        """Sends half of a file and no more: it is told that it is too slow."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        body = multipart(chance.choice(self.images)[0])
        writer.write(self.head(len(body)) + body[: chance.randint(1, len(body) - 1)])
        answer = await ended(reader, LONGEST_SECONDS)
        writer.close()
        if not answer.startswith(b"HTTP/1.1 408") or b"too slowly" not in answer:
            raise FaultyError(f"told {answer[:200]!r}")
        told.outcome = "told why"

    async def gone(self, chance: random.Random, told: Told) -> None:
        """Goes away at any moment, without a word."""
        told.outcome = "gone"
        content, _ = chance.choice(self.images)
        moment = chance.choice(("head", "body", "body", "waiting", "waiting", "reading"))
        if moment in ("head", "body"):
            _, writer = await asyncio.open_connection(self.host, self.port)
            body, head = multipart(content), self.head(len(multipart(content)))
            sent = head[: chance.randint(1, len(head))] if moment == "head" else head
            writer.write(sent + (body[: chance.randint(1, len(body))] if moment == "body" else b""))
            await asyncio.sleep(chance.uniform(0, 1))
            vanish(writer)
            return
        async with self.client() as client:
            path = await self.uploaded(client, content)
            event = await self.joined(client, path, chance, told)
        _, writer = await asyncio.open_connection(self.host, self.port)
        path = f"/gradio_api/call/translate/{event}"
        writer.write(f"GET {path} HTTP/1.1\r\nhost: {self.host}\r\n\r\n".encode())
        await writer.drain()
        await asyncio.sleep(chance.uniform(0, 1) if moment == "waiting" else 3)
        vanish(writer)

    async def bad(self, chance: random.Random, told: Told) -> None:
        """Sends what nobody should, and is told so."""
        files = {
            "text": (b"no image", "cannot be decoded"),
            "half": (self.images[0][0][:60], "cannot be|ended|broken|truncated"),
            "bomb": (bomb(20_000), "exceeds limit"),
            "empty": (b"", "the file is empty"),
        }
        way = chance.choice((*files, "words", "no json", "of the server", "model"))
        async with self.client() as client:
            if way == "words":
                many = json.dumps({"data": ["x" * (6 << 20)]})
                response = await client.post("/gradio_api/call/translate", content=many)
                expect(response, 413, "bytes were sent")
            elif way == "no json":
                headers = {"content-type": "application/json"}
                response = await client.post(
                    "/gradio_api/call/translate", content=b"[[[{", headers=headers
                )
                expect(response, 422, "JSON")
            elif way == "of the server":
                await self.refused(client, "/etc/hostname", chance, told, wanted=".+")
            elif way == "model":
                path = await self.uploaded(client, chance.choice(self.images)[0])
                said = "There is no model"
                await self.refused(client, path, chance, told, wanted=said, model="/etc/passwd")
            else:
                content, said = files[way]
                path = await self.uploaded(client, content)
                await self.refused(client, path, chance, told, wanted=said)
        told.outcome = "told why"

    # Calls

    def head(self, length: int) -> bytes:
        """Of an upload."""
        lines = (
            "POST /gradio_api/upload HTTP/1.1",
            f"host: {self.host}",
            f"content-type: multipart/form-data; boundary={BOUNDARY}",
            f"content-length: {length}",
        )
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def uploaded(self, client: httpx.AsyncClient, content: bytes) -> str:
        """Where the server has it now."""
        headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
        response = await client.post(
            "/gradio_api/upload", content=multipart(content), headers=headers
        )
        (path,) = fine(response).json()
        return str(path)

    async def joined(
        self, client: httpx.AsyncClient, path: str, chance: random.Random, told: Told, model=""
    ) -> str:
        """The name of a call that waits now; who is told to come back does."""
        image = {"path": path, "meta": {"_type": "gradio.FileData"}}
        data = {"data": [image, model, "", None, "enlarge"]}
        for _ in range(TRIES):
            response = await client.post("/gradio_api/call/translate", json=data)
            if response.status_code != 503:
                return str(fine(response).json()["event_id"])
            if not response.text.strip():
                raise FaultyError("503 without a word")
            told.waits += 1
            await asyncio.sleep(chance.uniform(0.5, 2))
        raise FaultyError(f"told to wait {TRIES} times")

    async def results(self, client: httpx.AsyncClient, event: str) -> tuple[str, str]:
        """Name and data of the last thing that is said of a call."""
        kind, data = "", ""
        async with client.stream("GET", f"/gradio_api/call/translate/{event}") as stream:
            fine(stream)
            async for line in stream.aiter_lines():
                name, _, rest = line.partition(": ")
                kind, data = (rest, data) if name == "event" else (kind, rest or data)
        return kind, data

    async def translated(
        self, client: httpx.AsyncClient, path: str, chance: random.Random, told: Told
    ) -> str:
        """Where the translation is."""
        event = await self.joined(client, path, chance, told)
        kind, data = await self.results(client, event)
        if kind != "complete":
            raise FaultyError(f"{kind}: {data[:300]}")
        return str(json.loads(data)[0]["url"])

    async def refused(
        self,
        client: httpx.AsyncClient,
        path: str,
        chance: random.Random,
        told: Told,
        *,
        wanted: str,
        model: str = "",
    ) -> None:
        """The call fails, and says why."""
        event = await self.joined(client, path, chance, told, model)
        kind, data = await self.results(client, event)
        if kind != "error" or not re.search(wanted, data) or "Traceback" in data:
            raise FaultyError(f"instead of {wanted}: {kind}: {data[:300]}")

    async def read(self, client: httpx.AsyncClient, url: str) -> bytes:
        """A file of the server."""
        return fine(await client.get(url)).content


def multipart(content: bytes) -> bytes:
    head = 'content-disposition: form-data; name="files"; filename="image.png"'
    return (
        f"--{BOUNDARY}\r\n{head}\r\ncontent-type: image/png\r\n\r\n".encode()
        + content
        + f"\r\n--{BOUNDARY}--\r\n".encode()
    )


def fine(response: httpx.Response) -> httpx.Response:
    if response.status_code >= 400:
        raise FaultyError(f"{response.status_code} of {response.request.url.path}")
    return response


def expect(response: httpx.Response, status: int, said: str) -> None:
    if response.status_code != status or said not in response.text:
        raise FaultyError(f"{response.status_code}: {response.text[:300]}")


async def ended(reader: asyncio.StreamReader, seconds: float) -> bytes:
    """What is read until the server closes."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while piece := await asyncio.wait_for(reader.read(4096), seconds):
            found += piece
    return found


def vanish(writer: asyncio.StreamWriter) -> None:
    """Gone with a reset, as a process that is killed."""
    held = writer.get_extra_info("socket")
    held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def bomb(side: int) -> bytes:
    """A PNG that says it is large."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    content = bytearray(file.getvalue())
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    return bytes(content)


def images(chance: random.Random) -> list[tuple[bytes, np.ndarray]]:
    """Files, with what the shipped model makes of them."""
    from patchkin.translation.translator import Translator

    translator = Translator.load("horse2zebra", device="cpu")
    found = []
    for _ in range(IMAGES):
        side = chance.randint(*SIDES)
        pixels = np.frombuffer(chance.randbytes(side * side * 3), np.uint8).reshape(side, side, 3)
        picture = Image.fromarray(pixels).resize((side, side + 8), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        picture.save(file, "PNG")
        found.append((file.getvalue(), np.asarray(translator(picture))))
    return found


def crowd_of(number: int) -> list[str]:
    """Kinds of so many clients, in proportion; at least one of each."""
    total = sum(KINDS.values())
    kinds = [kind for kind, part in KINDS.items() for _ in range(max(1, part * number // total))]
    return [*kinds, *["patient"] * (number - len(kinds))]


async def round_of(
    server: Server, crowd: Crowd, number: int, seed: str
) -> tuple[list[Told], Looked]:
    """What became of each, and the most that the server held."""
    kinds = crowd_of(number)
    random.Random(seed).shuffle(kinds)
    clients = [
        asyncio.create_task(crowd.one(kind, random.Random(f"{seed}-{index}")))
        for index, kind in enumerate(kinds)
    ]
    most = server.look()
    while not all(client.done() for client in clients):
        await asyncio.sleep(0.3)
        most = most.or_more(server.look())
    return [client.result() for client in clients], most


def summary(found: list[Told]) -> str:
    """Of a round, as lines."""
    lines = []
    for kind in KINDS:
        some = [told for told in found if told.kind == kind]
        outcomes = ", ".join(f"{n} {what}" for what, n in Counter(t.outcome for t in some).items())
        longest = max((told.seconds for told in some), default=0)
        waits = sum(told.waits for told in some)
        lines.append(
            f"  {kind}: {len(some)}: {outcomes}; longest {longest:.0f} s, "
            f"told to wait {waits} times"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    made = images(random.Random(options.seed))
    server = Server(options.folder.resolve())
    crowd = Crowd(server, made)
    faults: list[str] = []
    print(f"at the beginning: {server.look()}", flush=True)
    try:
        for number in range(options.rounds):
            seed = f"{options.seed}-{number}"
            begun = time.monotonic()
            found, most = asyncio.run(round_of(server, crowd, options.clients, seed))
            seconds = time.monotonic() - begun
            time.sleep(CALM_SECONDS)
            print(f"round {number + 1}: {len(found)} clients in {seconds:.0f} s\n{summary(found)}")
            print(f"  most: {most}\n  after: {server.look()}", flush=True)
            faults += [
                f"{told.kind}, after {told.seconds:.0f} s: {told.fault}"
                for told in found
                if told.fault
            ]
        last = asyncio.run(crowd.one("patient", random.Random(options.seed)))
        faults += [f"at the end: {last.fault}"] if last.fault else []
    finally:
        faults += server.end()
    print(f"{len(faults)} faults", *faults, sep="\n  ")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
