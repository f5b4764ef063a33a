"""Who asks: the key and the name by which they call, a body that comes in time, and whether they are still there."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fastapi import Request
from starlette.requests import ClientDisconnect

from prefdistill.serve.wire import WireError

CLOSED = 499
"""Of a client that went away; nobody sees it."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class Limits:
    """What one client, or all together, may ask for."""

    body_bytes: int = 262_144
    in_flight: int = 64
    seconds: float = 120.0
    """For one request, from its first byte to its last: body and stream included."""


def check_client(request: Request, key: str | None, hosts: frozenset[str]) -> None:
    """Refuse who has no key, and other sites' pages in a browser.

    Args:
        request: its head.
        key: what clients must send as a bearer token; None where they need none.
        hosts: names by which a client may call this server; any where empty.

    Raises:
        WireError: it is refused.
    """
    if hosts and _host(request) not in hosts:
        raise WireError(421, f"This server answers as {' or '.join(sorted(hosts))} only.")
    if key is not None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), key.encode()):
            raise WireError(401, "Incorrect API key.", code="invalid_api_key")


def _host(request: Request) -> str | None:
    """Return the name by which the client calls this server, without a port."""
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:
        return None


async def read_in_time(request: Request, limits: Limits, until: float) -> bytes:
    """Read the body of a request from a client that neither dawdles nor hangs up.

    Raises:
        WireError: it is too large, too slow, no JSON, or the client went away.
    """
    try:
        async with asyncio.timeout_at(until):
            return await _read_body(request, limits.body_bytes)
    except TimeoutError:
        text = f"The body was not there within {limits.seconds:g} seconds."
        raise WireError(408, text, code="timeout", headers={"connection": "close"}) from None
    except ClientDisconnect:
        raise WireError(CLOSED, "The client went away.") from None


async def _read_body(request: Request, most: int) -> bytes:
    """Read the body of a request, no more than `most` bytes."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise WireError(415, "Expected application/json.")
    too_large = WireError(413, f"The body is larger than {most} bytes, the most that this server takes.")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > most:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise too_large
        parts.append(part)
    return b"".join(parts)


class GoneError(Exception):
    """The client closed its connection."""


async def unless_gone(request: Request, work: Awaitable[Found], until: float) -> Found:
    """Return what `work` gives; cancel it where the client goes away or the time is over.

    Raises:
        GoneError: the client closed its connection.
        TimeoutError: the time is over.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request.receive))
    seconds = max(0.0, until - asyncio.get_running_loop().time())
    try:
        done, _ = await asyncio.wait({working, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if working in done:
            return working.result()
        raise GoneError if gone in done else TimeoutError
    finally:
        gone.cancel()
        if not working.done():
            working.cancel()


async def _gone(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
