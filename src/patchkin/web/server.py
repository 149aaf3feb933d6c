"""The application on its port: page, interface and guard, until it is interrupted."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Callable
from contextlib import closing

from patchkin.errors import ConfigError
from patchkin.web.guard import Guard
from patchkin.web.shown import Shown

HANDLES = 1 << 16
"""Files and connections at once, as far as the machine lets a process have them."""
_GONE_SECONDS = (60, 15, 4)
"""A silent peer is asked after so long, then at this interval, so many times."""
_QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_SSR_MODE": "False",
    "GRADIO_RUN_HISTORY": "False",
}
"""Of the environment, before gradio is imported: nothing is sent anywhere."""


def listen(host: str, port: int) -> socket.socket:
    """A port to listen at, taken before anything slow begins.

    Raises:
        ConfigError: it is taken, or the address is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _notice_who_is_gone(listening)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            why = "another program listens there; choose another --port, or 0 for any free one"
        elif error.errno == errno.EACCES:
            why = "this port is reserved; choose a --port above 1023"
        else:
            why = f"{error.strerror or error}; is --host an address of this machine?"
        raise ConfigError(f"Cannot listen at {host}:{port}: {why}.") from error
    except OverflowError:
        listening.close()
        raise ConfigError(f"`--port` must be from 0 to 65535; got {port}.") from None
    return listening


def serve(
    shown: Shown,
    listening: socket.socket,
    *,
    token: str | None,
    max_upload_bytes: int,
    most_bytes: int,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Answer until the process is interrupted.

    Args:
        shown: what.
        listening: of `listen`; closed at the end.
        token: that is wanted; None: only this machine may ask.
        max_upload_bytes: of one file.
        most_bytes: of all files that come at once.
        on_ready: called once everything answers.
    """
    os.environ.update(_QUIET)
    os.environ["GRADIO_TEMP_DIR"] = str(shown.visitors.uploads)
    import uvicorn

    from patchkin.web.application import build
    from patchkin.web.patience import Patience, PatientProtocol

    page = build(shown, max_upload_bytes=max_upload_bytes)
    patient = Patience(page, most_upload_bytes=most_bytes, room=shown.visitors.root)
    configured = uvicorn.Config(
        Guard(patient, token=token),
        http=PatientProtocol,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,
        server_header=False,
    )

    class Announced(uvicorn.Server):  # type: ignore[misc]
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                on_ready()

    _allow_handles()
    with closing(listening), shown.visitors.tidied():
        Announced(configured).run([listening])


def _notice_who_is_gone(listening: socket.socket) -> None:
    """Have the system ask peers that are silent for long, where it can."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
    for name, value in zip(names, _GONE_SECONDS, strict=True):
        if hasattr(socket, name):
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _allow_handles() -> None:
    """Every visitor has several connections; Linux lets a process have 1,024 unless it asks."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = HANDLES if hard == resource.RLIM_INFINITY else min(hard, HANDLES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
