"""The application on its port: page, interface and guard, until it is interrupted."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import closing

from patchkin.errors import ConfigError
from patchkin.web.guard import Guard
from patchkin.web.shown import Shown

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
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Answer until the process is interrupted.

    Args:
        shown: what.
        listening: of `listen`; closed at the end.
        token: that is wanted; None: only this machine may ask.
        max_upload_bytes: of one file.
        on_ready: called once everything answers.
    """
    os.environ.update(_QUIET)
    os.environ["GRADIO_TEMP_DIR"] = str(shown.visitors.root / "uploads")
    import uvicorn

    from patchkin.web.application import build

    application = Guard(build(shown, max_upload_bytes=max_upload_bytes), token=token)
    configured = uvicorn.Config(
        application,
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

    with closing(listening):
        Announced(configured).run([listening])
