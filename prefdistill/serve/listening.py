"""Where a server listens and who may reach it: its socket, the key of its clients, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import nullcontext
from typing import Any

from prefdistill.errors import RunError

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
DRAIN_SECONDS = 30
"""How long requests in flight may take when the server is asked to end."""
BACKLOG = 2048
"""Connections that may wait to be accepted."""


def own_key(host: str, variable: str | None) -> str | None:
    """Return the key that clients must send.

    Raises:
        RunError: its variable is empty, or there is none and other machines can reach the server.
    """
    if variable is None:
        if host not in LOOPBACK:
            raise RunError(
                f"--host {host}: other machines could reach the server, and each of their requests may cost "
                "money; expected a key for clients: put one into the environment and name it with --api-key-env"
            )
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise RunError(
            f"--api-key-env {variable}: the environment variable is not set; expected the key that clients "
            "send as `Authorization: Bearer …`"
        )
    return key


async def serve_until_told(server: Any, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM, and then until what is in flight is answered; a second signal ends at once.

    uvicorn's own handling would raise the signal again when it has ended, before the log is written and the student gone.
    """
    server.capture_signals = nullcontext
    for each in (signal.SIGINT, signal.SIGTERM):  # until the loop is closed: a further one must not end the ending
        asyncio.get_running_loop().add_signal_handler(each, server.handle_exit, each, None)
    await server.serve(sockets=[listener])


def bound(host: str, port: int) -> socket.socket:
    """Return the socket, before anything is loaded.

    Raises:
        RunError: the port cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sets TCP_NODELAY; without it one answer in ten waits 40 ms for an acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as problem:
        listener.close()
        raise RunError(
            f"--port {port}: cannot listen on {host}:{port} ({problem}); expected a free port: "
            "name another, or 0 for any"
        ) from None
    return listener
