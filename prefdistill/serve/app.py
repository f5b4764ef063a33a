"""The HTTP face: limits, keys, errors in OpenAI's shape, streams, health and metrics; every answer is noted once.

Nothing of FastAPI is asked for but routes: a request's body is read in full, up to a limit, before anything else.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import HTTPException, StarletteHTTPException
from fastapi.responses import JSONResponse, Response, StreamingResponse

from prefdistill.serve.clients import CLOSED, GoneError, Limits, check_client, read_in_time, unless_gone
from prefdistill.serve.gauges import CONTENT_TYPE, Gauges
from prefdistill.serve.journal import Journal
from prefdistill.serve.router import Answer, BothDownError, Router
from prefdistill.serve.routing import to_prompt
from prefdistill.serve.shadow import Shadow
from prefdistill.serve.upstream import DownError
from prefdistill.serve.wire import (
    Asked,
    Tokens,
    WireError,
    completion_body,
    error_chunk,
    first_chunk,
    last_chunks,
    parse_request,
    text_chunk,
)

RETRY_AFTER_SECONDS = 1
BUG = "An error of this server; its log says more."


@dataclass
class Service:
    """Everything that a request needs."""

    name: str
    """The run's, and of the model that is served."""
    created: int
    router: Router
    gauges: Gauges
    journal: Journal
    shadow: Shadow | None = None
    limits: Limits = field(default_factory=Limits)
    key: str | None = None
    """What clients must send as a bearer token; None where they need none."""
    hosts: frozenset[str] = frozenset()
    """Names by which a client may call this server; any where empty."""
    flying: int = 0

    def finish(self, answer: Answer, said: str | None = None) -> None:
        """Log, count and perhaps judge an answer that was given, or broke off."""
        row = answer.row(self.name, said)
        self.journal.add(row)
        self.gauges.count(row, answer.findings)
        if self.shadow is not None and row.route != "none" and answer.written is not None:
            self.shadow.look_at(row, answer.prompt, answer.written.finish == "length")


def build_app(service: Service) -> FastAPI:
    """Return the application."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    async def chat(request: Request) -> Response:
        try:
            check_client(request, service.key, service.hosts)
            if service.flying >= service.limits.in_flight:
                text = f"{service.flying} requests are in flight, the most that this server takes; try again soon."
                raise WireError(429, text, kind="rate_limit_error", headers={"retry-after": str(RETRY_AFTER_SECONDS)})
        except WireError as problem:
            return _refused(service, problem)
        with _Flight(service) as flight:
            try:
                asked = parse_request(await read_in_time(request, service.limits, flight.until), service.name)
            except WireError as problem:
                return _refused(service, problem)
            try:
                return await _answered(service, request, asked, flight)
            except Exception:  # handled here: raised on, it would cost the client its connection and the next request
                logging.getLogger("uvicorn.error").exception("%s: an error of this server", asked.id)
                return _refused(service, WireError(500, BUG, kind="server_error"))

    app.add_route("/v1/chat/completions", chat, methods=["POST"])  # not `app.post`, which would look for parameters

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        try:
            check_client(request, service.key, service.hosts)
        except WireError as problem:
            return _refused(service, problem)
        model = {"id": service.name, "object": "model", "created": service.created, "owned_by": "prefdistill"}
        return JSONResponse({"object": "list", "data": [model]})

    @app.get("/healthz")
    async def health() -> Response:
        states = {"student": service.router.student.state, "teacher": service.router.teacher.state}
        well = "ready" in states.values()
        return JSONResponse({"status": "ok" if well else "down", **states}, status_code=200 if well else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.gauges.text(), media_type=CONTENT_TYPE)

    @app.exception_handler(StarletteHTTPException)
    async def unknown(request: Request, problem: HTTPException) -> Response:
        text = f"{request.method} {request.url.path[:200]}: nothing here."
        return _refused(service, WireError(problem.status_code, text))

    @app.exception_handler(Exception)
    async def bug(request: Request, problem: Exception) -> Response:
        return _refused(service, WireError(500, BUG, kind="server_error"))

    return app


class _Flight:
    """One request among those in flight; of a stream until its last byte."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.until = asyncio.get_running_loop().time() + service.limits.seconds
        """When its time is over, its body, its answer and its stream together, on the loop's clock."""
        self.streams = False
        """Whether the stream ends it, and not the handler."""

    def __enter__(self) -> _Flight:
        self._service.flying += 1
        self._service.gauges.in_flight.inc()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.streams:
            self.end()

    def end(self) -> None:
        """Count it as over; once."""
        self._service.flying -= 1
        self._service.gauges.in_flight.dec()


class _Stream(StreamingResponse):
    """A stream that is logged, and leaves those in flight, however it ends: also where it never began."""

    def __init__(self, service: Service, answer: Answer, flight: _Flight, headers: dict[str, str]) -> None:
        self._service, self._answer, self._flight = service, answer, flight
        self._said: list[str] = []
        self._whole = False
        flight.streams = True
        super().__init__(self._events(), headers=headers, media_type="text/event-stream")

    async def __call__(self, *connection: Any) -> None:
        """Send the stream."""
        try:
            await super().__call__(*connection)
        finally:
            answer = self._answer
            if answer.pieces is not None:
                await answer.pieces.aclose()
            if not self._whole:
                answer.reason, answer.written = "failed", None
            self._service.finish(answer, "".join(self._said))
            self._flight.end()

    async def _events(self) -> AsyncIterator[bytes]:
        """Yield the events; a stream that breaks off ends with an error."""
        service, asked = self._service, self._answer.asked
        opening = first_chunk(asked, service.name)
        try:
            async with aclosing(service.router.rest(self._answer)) as pieces:
                while True:
                    async with asyncio.timeout_at(self._flight.until):
                        piece = await anext(pieces, None)
                    if piece is None:
                        break
                    self._said.append(piece)
                    yield opening + text_chunk(asked, service.name, piece)
                    opening = b""
        except (DownError, TimeoutError) as problem:
            service.router.say(f"{asked.id}: the answer broke off: {problem}")
            yield opening + error_chunk(
                WireError(502, "The answer broke off.", kind="server_error", code="upstream_unavailable")
            )
            return
        written = self._answer.written
        assert written is not None
        self._whole = True
        tokens = Tokens(written.prompt_tokens, written.completion_tokens)
        yield opening + last_chunks(asked, service.name, written.finish, tokens)


async def _answered(service: Service, request: Request, asked: Asked, flight: _Flight) -> Response:
    """Answer a request that was understood; log it however it ends."""
    answer, problem = None, None
    try:
        answer = await unless_gone(request, service.router.answer(asked), flight.until)
    except BothDownError as found:
        service.router.say(f"{asked.id}: nobody can answer: {found}")
        problem = _neither_can(found.too_long)
    except TimeoutError:
        text = f"No answer within {service.limits.seconds:g} seconds."
        problem = WireError(504, text, kind="server_error", code="timeout")
    except GoneError:
        problem = WireError(CLOSED, "The client went away.")
    except Exception:
        service.finish(_failed(asked))
        raise
    if problem is not None or answer is None:
        service.finish(_failed(asked))
        return _refused(service, problem or WireError(500, "No answer."))
    headers = {
        "x-request-id": asked.id,
        "x-prefdistill-route": answer.route,
        "x-prefdistill-reason": answer.reason,
        "x-prefdistill-buffered": answer.buffered,
    }
    if asked.stream:
        return _Stream(service, answer, flight, headers)
    written = answer.written
    assert written is not None
    tokens = Tokens(written.prompt_tokens, written.completion_tokens)
    body = completion_body(asked, service.name, written.text, written.finish, tokens)
    service.finish(answer)
    return Response(body, headers=headers, media_type="application/json")


def _neither_can(too_long: bool) -> WireError:
    if too_long:
        text = (
            "The prompt and the tokens for its answer do not fit into the student's context, and no teacher takes them; "
            "send a shorter prompt or a smaller max_tokens."
        )
        return WireError(400, text, param="messages", code="context_length_exceeded")
    text = "Neither student nor teacher can answer now; try again soon."
    headers = {"retry-after": "5"}
    return WireError(503, text, kind="server_error", code="upstream_unavailable", headers=headers)


def _failed(asked: Asked) -> Answer:
    return Answer(asked, to_prompt(asked.messages, asked.fields))


def _refused(service: Service, problem: WireError) -> Response:
    service.gauges.refused.labels(str(problem.status)).inc()
    return Response(json.dumps(problem.body), problem.status, headers=problem.headers, media_type="application/json")
