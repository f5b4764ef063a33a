"""The page's server: this machine only, one secret address, nothing kept in the browser and nothing loaded from outside.

It listens on 127.0.0.1. Every path begins with a random token, the Host header must be this server's own (a page that
rebinds its name to 127.0.0.1 is refused), and what writes must be JSON from the page itself.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

from prefdistill.errors import PrefdistillError, RunError
from prefdistill.labelling.session import LONGEST_SECONDS, Session, StaleAnswerError

HOST = "127.0.0.1"
MOST_BYTES = 16_384
"""Longest body that is read; an answer is about a hundred."""
READ_SECONDS = 20.0
ASSETS = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class RefusedError(Exception):
    """A request that gets no state: an HTTP status and a sentence."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class LabelServer(ThreadingHTTPServer):
    """Serves one session; `serve_forever` runs it.

    Raises:
        RunError: the port cannot be had.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, session: Session, kind: str, port: int = 0) -> None:
        self.session, self.kind = session, kind
        self.token = secrets.token_urlsafe(24)
        self._knock: str | None = secrets.token_urlsafe(24)
        self.assets = {name: (files(__package__) / file).read_bytes() for name, (file, _) in ASSETS.items()}
        try:
            super().__init__((HOST, port), LabelHandler)
        except (OSError, OverflowError) as problem:
            raise RunError(
                f"port {port}: cannot listen on {HOST}:{port} ({problem}); expected a free port: leave --port out"
            ) from None

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """The page's address; who has it can read and label."""
        return f"http://{HOST}:{self.port}/{self.token}/"

    @property
    def opening_url(self) -> str:
        """An address that leads to the page once: a browser's command line can be read by everyone on the machine."""
        return f"http://{HOST}:{self.port}/{self._knock}/"

    def take_knock(self, word: str) -> bool:
        """Whether `word` is the one-time address; it is used up then."""
        knock = self._knock
        if knock is None or not hmac.compare_digest(word.encode(), knock.encode()):
            return False
        self._knock = None
        return True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about a connection that a browser dropped; anything else is a bug and shows its traceback."""
        import sys

        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class LabelHandler(BaseHTTPRequestHandler):
    """Answers one connection."""

    server: LabelServer
    protocol_version = "HTTP/1.1"
    timeout = READ_SECONDS
    disable_nagle_algorithm = True  # head and body are two writes; without this a key press may wait 40 ms

    def version_string(self) -> str:
        """Return what the Server header says: no version of anything."""
        return "prefdistill"

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the terminal stays the person's."""

    def do_GET(self) -> None:
        """Serve the page, its style and script, and the state."""
        self._serve(self._get)

    def do_POST(self) -> None:
        """Take an answer, a skip or an undo."""
        self._serve(self._post)

    def _serve(self, respond: Callable[[], None]) -> None:
        try:
            respond()
        except RefusedError as problem:
            self.close_connection = True
            self._send_json({"error": str(problem)}, problem.status)
        except PrefdistillError as problem:  # a full disk, a file changed by others: nothing was saved
            self._send_json({"error": str(problem)}, HTTPStatus.INTERNAL_SERVER_ERROR)

    def _get(self) -> None:
        self._check_host()
        words = self.path.partition("?")[0].split("/")
        if len(words) == 3 and not words[2] and self.server.take_knock(words[1]):
            self._send(b"", "text/plain", HTTPStatus.SEE_OTHER, {"Location": f"/{self.server.token}/"})
            return
        name = self._inside_token()
        if name == "state":
            self._check_same_site()
            self._send_json({**self.server.session.state(), "kind": self.server.kind})
        elif name in ASSETS:
            self._send(self.server.assets[name], ASSETS[name][1])
        else:
            raise RefusedError(HTTPStatus.NOT_FOUND, "nothing here")

    def _post(self) -> None:
        self._check_host()
        name = self._inside_token()
        self._check_same_site()
        session = self.server.session
        body = self._body()
        try:
            if name == "answer":
                state = session.answer(_text(body, "task"), _text(body, "answer"), _seconds(body))
            elif name == "skip":
                state = session.skip(_text(body, "task"))
            elif name == "undo":
                state = session.undo(_text(body, "task"))
            elif name == "skipped":
                state = session.take_up_skipped()
            else:
                raise RefusedError(HTTPStatus.NOT_FOUND, "nothing here")
        except StaleAnswerError as problem:
            state = {**session.state(), "kind": self.server.kind, "notice": str(problem)}
            self._send_json(state, HTTPStatus.CONFLICT)
            return
        except ValueError as problem:
            raise RefusedError(HTTPStatus.BAD_REQUEST, str(problem)) from None
        self._send_json({**state, "kind": self.server.kind})

    def _check_host(self) -> None:
        """Refuse a Host that is not this server's: another site's name that was made to point here."""
        if self.headers.get("Host") not in self._own("{}"):
            own = " or ".join(self._own("{}"))
            raise RefusedError(HTTPStatus.MISDIRECTED_REQUEST, f"this server answers as {own} only")

    def _own(self, shape: str) -> tuple[str, ...]:
        return tuple(shape.format(f"{name}:{self.server.port}") for name in (HOST, "localhost"))

    def _check_same_site(self) -> None:
        """Refuse what another site's page sends, where the browser says so."""
        origin = self.headers.get("Origin")
        if origin is not None and origin not in self._own("http://{}"):
            raise RefusedError(HTTPStatus.FORBIDDEN, "another site's page may not read or write labels")
        if self.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise RefusedError(HTTPStatus.FORBIDDEN, "another site's page may not read or write labels")

    def _inside_token(self) -> str:
        """Return what follows the token in the path."""
        _, _, rest = self.path.partition("?")[0].partition("/")
        token, _, name = rest.partition("/")
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode()):
            raise RefusedError(
                HTTPStatus.NOT_FOUND, "nothing here; use the whole address that `prefdistill label` printed"
            )
        return name

    def _body(self) -> dict[str, Any]:
        """Read the JSON object of a request that writes."""
        if self.headers.get_content_type() != "application/json":
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
        if len(length) > 9 or int(length) > MOST_BYTES:
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected at most {MOST_BYTES} bytes")
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise RefusedError(HTTPStatus.BAD_REQUEST, "the body is not valid JSON") from None
        if not isinstance(body, dict):
            raise RefusedError(HTTPStatus.BAD_REQUEST, "expected a JSON object")
        return body

    def _send_json(self, value: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(value).encode(), "application/json", status)

    def _send(
        self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, text in {**HEADERS, **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)


def _text(body: dict[str, Any], key: str) -> str:
    """Return a text of the body."""
    value = body.get(key)
    if not isinstance(value, str):
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"`{key}` is missing or no text")
    return value


def _seconds(body: dict[str, Any]) -> float:
    """Return how long the person took; 0 where the page does not know."""
    value = body.get("seconds", 0.0)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < LONGEST_SECONDS:
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"`seconds` is no number below {LONGEST_SECONDS:.0f}")
    return float(value)
