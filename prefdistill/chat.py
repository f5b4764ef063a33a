"""One model on an OpenAI-compatible server: how a request is worded so that this server accepts it, and how its
reply is read.

Servers differ in what they accept. A parameter that one refuses with a 400 is left out or replaced, remembered for
the run and noted for the user; a 200 never proves that a schema was kept, so callers validate what they read.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from prefdistill.errors import PluginError
from prefdistill.protocols import TeacherRequest
from prefdistill.requests import Answer, Call, CallError, RequestLayer

Structured = Literal["auto", "json_schema", "json_object", "none"]
TokensParameter = Literal["max_completion_tokens", "max_tokens"]
LADDER: tuple[Structured, ...] = ("json_schema", "json_object", "none")
ADVICE = {
    None: "the server cannot be reached: start it, or check base_url",
    401: "the key is refused: check api_key_env and base_url",
    402: "the account has no credit left: top it up, then run again",
    403: "the key may not use this model: check api_key_env and model",
    404: "there is no such model or path: check model and base_url (it usually ends in /v1)",
}


@dataclass
class Dialect:
    """What one model on one server has refused so far, shared by every plug-in that asks it."""

    structured: Structured
    tokens_parameter: TokensParameter
    swapped: bool = False
    dropped: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)


def api_key(base_url: str, variable: str) -> str:
    """Return the key in the environment variable; a server on this machine may go without.

    Raises:
        PluginError: it is not set.
    """
    if key := os.environ.get(variable):
        return key
    host = urlsplit(base_url).hostname or ""
    if host in ("localhost", "::1", "0.0.0.0") or host.startswith("127."):
        return "none"
    raise PluginError(
        f"api_key_env: the environment variable {variable} is not set; it should hold the key for {base_url} "
        "(any word, if that server needs none)"
    )


def without_secrets(extra_body: dict[str, Any]) -> dict[str, Any]:
    """Return `extra_body` as it is, refusing what looks like a key: recipes are copied into the run folder.

    Raises:
        ValueError: a name in it says that its value is a secret.
    """
    for name, value in extra_body.items():
        if any(
            word in name.lower().replace("-", "_")
            for word in ("api_key", "apikey", "authorization", "secret", "password")
        ):
            raise ValueError(f"`{name}` looks like a secret; put it in the environment and name it in api_key_env")
        if isinstance(value, dict):
            without_secrets(value)
    return extra_body


class ChatModel:
    """A model behind a chat completions endpoint; its requests go through the request layer."""

    def __init__(
        self,
        layer: RequestLayer,
        *,
        model: str,
        base_url: str,
        key: str,
        timeout_seconds: float,
        tokens_parameter: TokensParameter = "max_completion_tokens",
        structured: Structured = "auto",
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        self.layer = layer
        self.model = model
        self.base_url = base_url.rstrip("/")
        self.timeout_seconds = timeout_seconds
        self.structured = structured
        self.extra_body = dict(extra_body or {})
        self._key = key
        self._client = _connect(self.base_url, key, timeout_seconds)
        first: Structured = "json_schema" if structured == "auto" else structured
        self.dialect: Dialect = layer.memory.setdefault(
            ("dialect", self.base_url, model, structured, tokens_parameter), Dialect(first, tokens_parameter)
        )

    def call(self, request: TeacherRequest) -> Call:
        """Describe `request` to the request layer; equal requests have equal identities on every server."""
        identity = {
            "model": self.model,
            "messages": [[message.role, message.content] for message in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "schema": request.schema,
            "structured": self.structured if request.schema else None,
            "logprobs": request.logprobs,
            "extra_body": self.extra_body,
            "repeat": request.repeat,
        }
        return Call(request.key, identity, lambda: self._send(request))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _send(self, request: TeacherRequest) -> Answer:
        """Make one attempt, in the dialect that the server is known to accept."""
        import openai

        body = self._body(request)
        try:
            response = self._client.post("/chat/completions", cast_to=_response_type(), body=body)
            return _to_answer(response.json())
        except openai.APIStatusError as problem:
            raise self._status_error(problem, body) from None
        except openai.APITimeoutError:
            raise CallError(f"no reply within {self.timeout_seconds:g} s (timeout_seconds)", "later", 408) from None
        except openai.APIConnectionError as problem:
            text = f"{problem} ({problem.__cause__})" if problem.__cause__ else str(problem)
            raise CallError(self._clean(text), "later", None, advice=ADVICE[None]) from None
        except (ValueError, LookupError, TypeError, AttributeError) as problem:
            found = f"the reply is no chat completion ({type(problem).__name__}: {problem})"
            advice = "check that base_url is an OpenAI-compatible endpoint"
            raise CallError(self._clean(found), "later", 502, advice=advice) from None

    def _body(self, request: TeacherRequest) -> dict[str, Any]:
        """Word the request for this server."""
        dialect = self.dialect
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [message.model_dump() for message in request.messages],
            dialect.tokens_parameter: request.max_tokens,
        }
        if request.temperature is not None and "temperature" not in dialect.dropped:
            body["temperature"] = request.temperature
        if request.logprobs and "logprobs" not in dialect.dropped:
            body |= {"logprobs": True, "top_logprobs": request.logprobs}
        if request.schema is not None and dialect.structured == "json_schema":
            schema = {"name": "verdict", "strict": True, "schema": request.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif request.schema is not None and dialect.structured == "json_object":
            body["response_format"] = {"type": "json_object"}
        return {**body, **self.extra_body}

    def _status_error(self, problem: Any, body: Mapping[str, Any]) -> CallError:
        """Return what an HTTP error means for the call."""
        status = int(problem.status_code)
        text = self._clean(str(problem.message))
        if status in (400, 422) and self._adapt(body, text.lower()):
            return CallError(text, "now", status)
        if status == 429 and "insufficient_quota" in str(problem.body):
            status = 402
        retry = status in (408, 409, 429) or status >= 500
        after = _retry_after_seconds(problem.response.headers)
        return CallError(f"HTTP {status}: {text}", "later" if retry else "no", status, after, ADVICE.get(status, ""))

    def _adapt(self, body: Mapping[str, Any], complaint: str) -> bool:
        """Leave out or replace what the server complains of; True where the request is now worded another way."""
        dialect = self.dialect
        with dialect.lock:
            used = body.get("response_format", {}).get("type")
            if used and any(
                word in complaint for word in ("response_format", "json_schema", "json_object", "structured")
            ):
                if dialect.structured == used:
                    if self.structured != "auto":
                        return False
                    dialect.structured = LADDER[LADDER.index(used) + 1]
                    self._note(f"refused response_format {used}; asking for {dialect.structured}")
                return True
            used = "max_tokens" if "max_tokens" in body else "max_completion_tokens"
            if used in complaint and used in body and used not in self.extra_body:
                if dialect.tokens_parameter == used:
                    if dialect.swapped:
                        return False
                    dialect.swapped = True
                    dialect.tokens_parameter = (
                        "max_tokens" if used == "max_completion_tokens" else "max_completion_tokens"
                    )
                    self._note(f"refused {used}; sending {dialect.tokens_parameter}")
                return True
            for name in ("temperature", "logprobs"):
                if name in complaint and name in body and name not in self.extra_body:
                    if name not in dialect.dropped:
                        dialect.dropped.add(name)
                        self._note(f"refused {name}; leaving it out")
                    return True
        return False

    def _note(self, text: str) -> None:
        self.layer.note(f"{self.base_url} ({self.model}) {text}")

    def _clean(self, text: str) -> str:
        """Keep an error message short, on one line and free of the key."""
        if len(self._key) > 4:
            text = text.replace(self._key, "…")
        return " ".join(text.split())[:500]


def _connect(base_url: str, key: str, timeout_seconds: float) -> Any:
    """Return the SDK's client; retries and limits are the request layer's.

    The SDK's timeout is for each piece of a body: one that drips in for ever is cut off here.
    """
    import httpx2
    import openai

    class TimedStream(httpx2.SyncByteStream):
        def __init__(self, stream: Any) -> None:
            self.stream, self.until = stream, time.monotonic() + timeout_seconds

        def __iter__(self) -> Iterator[bytes]:
            for chunk in self.stream:
                if time.monotonic() > self.until:
                    raise httpx2.ReadTimeout("the reply did not end in time")
                yield chunk

        def close(self) -> None:
            self.stream.close()

    def time_the_body(response: httpx2.Response) -> None:
        response.stream = TimedStream(response.stream)

    return openai.OpenAI(
        api_key=key,
        base_url=base_url,
        max_retries=0,
        timeout=timeout_seconds,
        http_client=openai.DefaultHttpxClient(
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=1024),
            event_hooks={"response": [time_the_body]},
        ),
    )


def _response_type() -> Any:
    """Return the class of the SDK's own HTTP library for an unparsed response."""
    import httpx2

    return httpx2.Response


def _to_answer(data: Any) -> Answer:
    """Read a chat completion; a shape that is none raises ValueError, LookupError, TypeError or AttributeError."""
    if not data.get("choices"):
        raise ValueError(f"no choices; error: {data.get('error')}" if data.get("error") else "no choices")
    choice = data["choices"][0]
    message = choice["message"]
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "".join(part.get("text") or "" for part in content)
    finish = choice.get("finish_reason") or "stop"
    refusal = message.get("refusal") or None
    if finish == "content_filter":
        refusal = refusal or content or "stopped by the server's content filter"
    usage = data.get("usage") or {}
    return Answer(
        text=_encodable(content),
        finish_reason=finish,
        refusal=_encodable(refusal) if refusal else None,
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
        logprobs=_logprobs(choice.get("logprobs")),
    )


def _logprobs(found: Any) -> list[list[tuple[str, float]]] | None:
    tokens = (found or {}).get("content")
    if not tokens:
        return None
    return [
        [(each["token"], float(each["logprob"])) for each in (token.get("top_logprobs") or [token])] for token in tokens
    ]


def _encodable(text: str) -> str:
    """Replace lone surrogates, which JSON can carry and no file can."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Return how long the server wants to be left alone, from `Retry-After` in seconds or as a date."""
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return max(0.0, float(milliseconds) / 1000)
        value = headers.get("retry-after")
        if not value:
            return None
        seconds = value.strip()
        if seconds.replace(".", "", 1).isdigit():
            return float(seconds)
        return max(0.0, parsedate_to_datetime(seconds).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
