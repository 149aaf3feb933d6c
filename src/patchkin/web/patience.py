"""How much a request may bring, and how long it may take over it.

Files come as `multipart/form-data`, each within its own limit; anything else is a few words. Who
opens a connection and says nothing, or sends a byte now and then, would hold it for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol

from patchkin.web.guard import answer

MOST_WORDS_BYTES = 4 << 20
"""Of a request that is no upload."""
HEAD_SECONDS = 60.0
"""Until what is asked is said, from the beginning of the connection or of a later request."""
PIECE_SECONDS = 30.0
"""Between two pieces of a body."""
WHOLE_SECONDS = 1800.0
"""For all of it."""
GRACE_SECONDS = 1.0
"""After each of them: on a machine with more to do than it can, what came in time is read late."""
LEAST_FREE_BYTES = 1 << 30
"""Of the disk, for an upload to be taken."""


class PatientProtocol(H11Protocol):  # type: ignore[misc]
    """Ends connections on which nothing, or half a head, was said for `HEAD_SECONDS`."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Somebody is there."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Something was said."""
        super().data_received(data)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        waits = self.cycle is None or (self.cycle.response_complete and self._has_begun())
        if not waits and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        elif waits and self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._look_once_more)

    def _look_once_more(self) -> None:
        self._deadline = self.loop.call_later(GRACE_SECONDS, self.timeout_keep_alive_handler)

    def _has_begun(self) -> bool:
        return bool(self.conn.trailing_data[0])


class Patience:
    """An ASGI application in front of another: it tells who sends too much or too slowly."""

    def __init__(
        self,
        inner: Any,
        *,
        most_upload_bytes: int,
        room: Path,
        piece_seconds: float = PIECE_SECONDS,
        whole_seconds: float = WHOLE_SECONDS,
    ) -> None:
        """In front of `inner`.

        Args:
            inner: that is asked.
            most_upload_bytes: of all files of a request together.
            room: a folder on the disk that uploads are kept on.
            piece_seconds: between two pieces of a body.
            whole_seconds: for all of a body.
        """
        self._inner, self._room, self._most_upload_bytes = inner, room, most_upload_bytes
        self._seconds = piece_seconds, whole_seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Let the other answer, or answer."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        is_upload = dict(scope["headers"]).get(b"content-type", b"").startswith(b"multipart/")
        if is_upload and shutil.disk_usage(self._room).free < LEAST_FREE_BYTES:
            await answer(send, 507, "The disk of this server is nearly full: come back later.")
            return
        limit = self._most_upload_bytes if is_upload else MOST_WORDS_BYTES
        body = _Body(receive, send, limit, *self._seconds)
        with contextlib.suppress(ClientDisconnect):  # in the middle of what they sent
            await self._inner(scope, body.receive, body.send)
        if body.refusal is not None and not body.is_answered:
            await answer(send, *body.refusal)


class _Body:
    """Of a request: its pieces are counted and waited for, until one of the limits is reached."""

    def __init__(
        self, receive: Any, send: Any, limit: int, piece_seconds: float, whole_seconds: float
    ) -> None:
        self._receive, self._send = receive, send
        self._left_bytes, self._piece_seconds = limit, piece_seconds
        self._limit, self._end = limit, time.monotonic() + whole_seconds
        self._ended = False
        self.refusal: tuple[int, str] | None = None
        self.is_answered = False

    async def receive(self) -> Any:
        """The next piece; or that nobody is there any more, once a limit is reached."""
        if self._ended:
            return await self._receive()
        if self.refusal is not None:
            return {"type": "http.disconnect"}
        left = max(0.0, min(self._piece_seconds, self._end - time.monotonic()))
        message = await self._piece(left) or await self._piece(GRACE_SECONDS)
        if message is None:
            self.refusal = 408, "What was sent came too slowly: try again."
            return {"type": "http.disconnect"}
        self._left_bytes -= len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        if self._left_bytes < 0:
            self.refusal = 413, f"More than {self._limit} bytes were sent at once."
            return {"type": "http.disconnect"}
        return message

    async def _piece(self, seconds: float) -> Any:
        try:
            return await asyncio.wait_for(self._receive(), seconds)
        except asyncio.TimeoutError:
            return None

    async def send(self, message: Any) -> None:
        """To the client, unless it is refused."""
        if self.refusal is None:
            self.is_answered = True
            await self._send(message)
