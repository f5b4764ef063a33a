"""One model on an OpenAI-compatible server: requests described as calls, sent in a dialect that the server accepts.

A 200 never proves that a schema was kept, so callers validate what they read.
"""

from __future__ import annotations

import json
import os
import time
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from prefdistill.errors import PluginError
from prefdistill.protocols import TeacherRequest
from prefdistill.requests.answers import read_answer, retry_after_seconds
from prefdistill.requests.calls import Answer, Call, CallError
from prefdistill.requests.dialect import Dialect, Structured, TokensParameter
from prefdistill.requests.layer import RequestLayer

__all__ = ["ChatModel", "Dialect", "Structured", "TokensParameter", "api_key", "without_secrets"]

OVERHEAD_TOKENS = 256
"""Room in a bound for what a chat template adds once, such as a system prompt of its own."""
OVERHEAD_PER_MESSAGE = 32
UNSENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol")
"""Problems of the HTTP library in which no byte of the request left this machine."""
GATEWAY = frozenset({408, 502, 504, *range(520, 529)})
"""Statuses that something between here and the server gives, which may have done the work."""
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)
BATCH_TIMEOUT_SECONDS = 600.0
"""For a file of up to 200 MB."""
ADVICE = {
    None: "the server cannot be reached: start it, or check base_url",
    401: "the key is refused: check api_key_env and base_url",
    402: "the account has no credit left: top it up, then run again",
    403: "the key may not use this model: check api_key_env and model",
    404: "there is no such model or path: check model and base_url (it usually ends in /v1)",
}


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
            ("dialect", self.base_url, model, structured, tokens_parameter),
            Dialect(first, tokens_parameter, fixed_structure=structured != "auto"),
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
        return Call(
            request.key,
            identity,
            lambda: self._send(request),
            lambda: self._body(request),
            lambda: token_bound(request, self.extra_body),
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _send(self, request: TeacherRequest) -> Answer:
        """Make one attempt, in the dialect that the server is known to accept."""
        import openai

        body = self._body(request)
        try:
            response = self._client.post("/chat/completions", cast_to=_response_type(), body=body)
            data = response.json()
            answer = read_answer(data)
        except openai.APIStatusError as problem:
            raise self._status_error(problem, body) from None
        except openai.APITimeoutError as problem:
            lost = type(problem.__cause__).__name__ not in UNSENT
            text = f"no reply within {self.timeout_seconds:g} s (timeout_seconds)"
            raise CallError(text, "later", 408, lost=lost) from None
        except openai.APIConnectionError as problem:
            lost = type(problem.__cause__).__name__ not in UNSENT
            text = f"{problem} ({problem.__cause__})" if problem.__cause__ else str(problem)
            raise CallError(self._clean(text), "later", None, advice=ADVICE[None], lost=lost) from None
        except UNREADABLE as problem:
            raise self._unreadable(problem) from None
        self._learn(body, data, answer)
        return answer

    def _body(self, request: TeacherRequest) -> dict[str, Any]:
        """Word the request for this server."""
        return self.dialect.word(self.model, request, self.extra_body)

    def _learn(self, sent: Mapping[str, Any], data: Any, answer: Answer) -> None:
        """Note what an answer tells about the server: whether it gives log-probabilities, and who answered."""
        if answer.tokens is not None:
            self.dialect.gave_logprobs = True
        elif sent.get("logprobs"):
            self._note("gives no log-probabilities, though they were asked for")
        name = str(data.get("model") or self.model)
        if self.model.rsplit("/", 1)[-1].lower() not in name.lower():
            self._note(f"answers as the model {name[:100]}")

    def _unreadable(self, problem: Exception) -> CallError:
        """Return the problem of a reply that arrived and is no chat completion."""
        found = f"the reply is no chat completion ({type(problem).__name__}: {problem})"
        advice = "check that base_url is an OpenAI-compatible endpoint"
        return CallError(self._clean(found), "later", 502, advice=advice, lost=True)

    def batch_client(self) -> Any:
        """Return a client for files and batches, whose bodies take longer than a reply's."""
        return _connect(self.base_url, self._key, max(BATCH_TIMEOUT_SECONDS, self.timeout_seconds))

    def answer_of(self, status: int, data: Any, sent: Mapping[str, Any]) -> Answer:
        """Read the response to `sent` that came in a batch; raises CallError like a live attempt."""
        try:
            if status == 200:
                answer = read_answer(data)
                self._learn(sent, data, answer)
                return answer
            error = data["error"]
            text = str(error["message"]) if isinstance(error, Mapping) else str(error)
        except UNREADABLE as problem:
            raise self._unreadable(problem) from None
        raise self.refusal(status, text, sent)

    def refusal(self, status: int, text: str, sent: Mapping[str, Any]) -> CallError:
        """Return what an error inside a batch means for the request `sent`, adapting to what the server refuses."""
        if self._adapt(sent, status, text):
            return CallError(self._clean(text), "now", status)
        text = self._clean(text)
        retry = status in (408, 409, 429) or status >= 500
        return CallError(f"HTTP {status}: {text}", "later" if retry else "no", status, advice=ADVICE.get(status, ""))

    def _status_error(self, problem: Any, body: Mapping[str, Any]) -> CallError:
        """Return what an HTTP error means for the call."""
        status = int(problem.status_code)
        text = self._clean(str(problem.message))
        if self._adapt(body, status, str(problem.message)):
            return CallError(text, "now", status)
        if status == 429 and "insufficient_quota" in str(problem.body):
            status = 402
        retry = status in (408, 409, 429) or status >= 500
        after = retry_after_seconds(problem.response.headers)
        return CallError(
            f"HTTP {status}: {text}",
            "later" if retry else "no",
            status,
            after,
            ADVICE.get(status, ""),
            lost=status in GATEWAY,
        )

    def _adapt(self, body: Mapping[str, Any], status: int, complaint: str) -> bool:
        """Change the dialect by what the server complains of; True where the request is now worded another way."""
        return self.dialect.adapt(body, status, complaint[:5000].lower(), self.extra_body, self._note)

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


def token_bound(request: TeacherRequest, extra_body: Mapping[str, Any]) -> tuple[int, int]:
    """Return the most prompt and completion tokens that one attempt can cost.

    No tokenizer makes more tokens of a text than it has bytes, before or after Unicode normalisation; chat templates
    add some of their own.
    """
    prompt = OVERHEAD_TOKENS + sum(_bytes(each.content) + OVERHEAD_PER_MESSAGE for each in request.messages)
    if request.schema is not None:
        prompt += _bytes(json.dumps(request.schema))
    if not extra_body:
        return prompt, request.max_tokens
    own = [extra_body.get(name) for name in ("max_tokens", "max_completion_tokens")]
    several = [extra_body.get(name) for name in ("n", "best_of")]
    most = max([request.max_tokens, *(each for each in own if isinstance(each, int))])
    times = max([1, *(each for each in several if isinstance(each, int))])
    return prompt + _bytes(json.dumps(extra_body, default=str)), most * times


def _bytes(text: str) -> int:
    """Return the most bytes that a text has in UTF-8, as it is or normalised."""
    if text.isascii():
        return len(text)
    return max(len(each.encode("utf-8", "replace")) for each in (text, unicodedata.normalize("NFKC", text)))
