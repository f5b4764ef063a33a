"""OpenAI-compatible servers as upstreams: a hosted teacher, or a student behind vLLM.

A server that is known to be down is not waited for, and what it refuses of a request is left out from then on. aiohttp
rather than the openai SDK, whose client takes three to four times the processor time a request.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from prefdistill.protocols import TeacherRequest
from prefdistill.requests.answers import FORCED, read_answer
from prefdistill.requests.dialect import Dialect
from prefdistill.serve.allowance import Allowance, Payment
from prefdistill.serve.health import Health
from prefdistill.serve.routing import Written
from prefdistill.serve.streams import MOST_TEXT, Read, events_of
from prefdistill.serve.upstream import DownError, TooLongError, Writing

CONNECT_SECONDS = 5.0
LINGER_SECONDS = 1.0
"""For so long a connection is kept whose stream said that it is over, until it really is."""
PASSING = (408, 409, 425, 429)
"""Refusals that pass: the same request may be answered a little later."""
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)


@dataclass
class Server:
    """An OpenAI-compatible server: a hosted teacher, or a student behind vLLM."""

    base_url: str
    model: str
    key: str
    timeout_seconds: float
    concurrency: int = 256
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    price: Mapping[str, float] = field(default_factory=dict)
    """US dollars per million tokens of `input` and `output`; empty where nobody knows."""
    allowance: Allowance | None = None
    """What its answers may cost a day; None is no limit."""
    free: bool = False
    """Whether answers cost nothing, whatever the price says: the student's."""
    wants_log_probs: bool = False
    reasons: bool = False
    """Whether it may write reasoning and no answer, which then counts as an empty answer that was cut: the student's."""
    dialect: Dialect = field(default_factory=lambda: Dialect("none", "max_completion_tokens"))
    note: Callable[[str], None] = print
    """Called with what a person should know of the server."""
    health: Health = field(default_factory=Health)
    gives_usage: bool = True
    """Whether it takes `stream_options`."""
    _told: bool = False
    _session: Any = None
    _via: dict[str, str] = field(default_factory=dict)
    _turns: asyncio.Semaphore | None = None

    @property
    def state(self) -> str:
        """One word: ready, or what is wrong."""
        if self.health.resting:
            return "down"
        return "spent" if self.allowance is not None and self.allowance.spent else "ready"

    async def back(self, seconds: float) -> bool:
        """Return False: nobody here starts it again."""
        return False

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
        if self.allowance is not None:
            self.allowance.close()

    async def models(self) -> list[dict[str, Any]]:
        """Return what the server lists at /models.

        Raises:
            DownError: it cannot be reached, or lists nothing that can be read.
        """
        import aiohttp

        try:
            client = self._client()
            async with client.get(f"{self.base_url}/models", headers=self._headers(), **self._via) as reply:
                return [dict(each) for each in json.loads(await reply.read())["data"]]
        except (aiohttp.ClientError, TimeoutError, *UNREADABLE) as problem:
            raise DownError(f"{type(problem).__name__}: {problem}") from None

    async def write(self, asked: Writing) -> Written:
        """Return a whole answer."""
        async with self._asking():
            with self._paying(asked) as payment:
                async with self._posted(asked, payment, stream=False) as reply:
                    found = self._read(await reply.read())
                payment.settle(found.usd)
        if self.wants_log_probs and found.log_prob is None and not self._told:
            self._told = True
            self._said(
                "gives no log-probabilities, so the test log_prob never fires and fewer requests go to the teacher"
            )
        return found

    async def stream(self, asked: Writing) -> AsyncGenerator[str | Written]:
        """Yield pieces of text as the server sends them, then the whole."""
        async with self._asking():
            with self._paying(asked) as payment:
                async with self._posted(asked, payment, stream=True) as reply:
                    if "text/event-stream" not in reply.headers.get("content-type", ""):
                        whole = self._read(await reply.read())
                        yield whole.text
                    else:
                        read = Read(self.reasons)
                        async for events in events_of(reply.content):
                            if text := read.add(events):
                                yield text
                        whole = self._read(read.body())
                payment.settle(whole.usd)
        yield whole

    def _paying(self, asked: Writing) -> AbstractContextManager[Payment]:
        return nullcontext(Payment()) if self.allowance is None else self.allowance.paying(asked)

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        """Keep to the most requests in flight, leave a server alone that is down, and note how it went."""
        import aiohttp

        self.health.check()
        if self._turns is None:
            self._turns = asyncio.Semaphore(self.concurrency)
        waited = self._turns.locked()
        async with self._turns:
            if waited and self.health.resting:
                down = "it went down while this request waited for its turn"
                raise DownError(down, lasting=self.health.lasting)
            try:
                yield
            except (aiohttp.ClientError, TimeoutError, OSError) as problem:
                self.health.failed()
                text = f"no answer within {self.timeout_seconds:g} s" if isinstance(problem, TimeoutError) else problem
                raise DownError(self._clean(f"{type(problem).__name__}: {text}")) from None
            except UNREADABLE as problem:
                self.health.failed()
                raise DownError(self._clean(f"the reply is no chat completion ({problem})")) from None
            else:
                self.health.answered()

    @asynccontextmanager
    async def _posted(self, asked: Writing, payment: Payment, stream: bool) -> AsyncIterator[Any]:
        """Send a request, again where the server had closed the connection meanwhile or wants it worded otherwise.

        What no server took, and what one refused, costs nothing.
        """
        import aiohttp

        body, again = self._body(asked, stream), True
        while True:
            connection: dict[str, bool] = {}
            try:
                client = self._client()
                reply = await client.post(
                    f"{self.base_url}/chat/completions",
                    json=body,
                    headers=self._headers(),
                    trace_request_ctx=connection,
                    **self._via,
                )
            except aiohttp.ConnectionTimeoutError:
                payment.settle(0.0)
                raise
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as problem:
                if again and connection.get("kept"):  # the other side may have closed it before it saw the request
                    again = False
                    continue
                if isinstance(problem, aiohttp.ClientConnectorError):
                    payment.settle(0.0)
                raise
            if reply.status == 200:
                try:
                    yield reply
                except BaseException:
                    reply.close()  # so that the server stops writing
                    raise
                # The last bytes of a stream come after its text; once they are there, the connection is free again.
                asyncio.get_running_loop().call_later(LINGER_SECONDS, reply.close)
                return
            text = (await reply.content.read(20_000)).decode("utf-8", "replace")
            reply.close()
            if self._worded_anew(body, reply.status, text):
                body = self._body(asked, stream)
                continue
            payment.settle(0.0)
            raise self._refusal(reply.status, text)

    def _refusal(self, status: int, text: str) -> Exception:
        lower = text.lower()
        if status in (400, 413, 422) and ("context" in lower or "too long" in lower or "max_model_len" in lower):
            return TooLongError(self._clean(text))
        lasting = 400 <= status < 500 and status not in PASSING
        if status in (401, 402, 403, 404, 429) or status >= 500:
            self.health.failed(lasting)
        return DownError(self._clean(f"HTTP {status}: {text}"), lasting=lasting)

    def _worded_anew(self, body: Mapping[str, Any], status: int, text: str) -> bool:
        """Whether the request should be sent once more, without what the server complains of."""
        if status in (400, 422) and "stream_options" in text and "stream_options" in body:
            self.gives_usage = False
            return True
        return self.dialect.adapt(body, status, text[:5000].lower(), self.extra_body, self._said)

    def _body(self, asked: Writing, stream: bool) -> dict[str, Any]:
        request = TeacherRequest(asked.id, asked.messages, asked.max_tokens, asked.temperature)
        body = self.dialect.word(self.model, request, self.extra_body)
        for name, value in (("top_p", asked.top_p), ("seed", asked.seed)):
            if value is not None:
                body[name] = value
        if self.wants_log_probs and not stream and "logprobs" not in self.dialect.dropped:
            body["logprobs"] = True
        if stream:
            body["stream"] = True
            if self.gives_usage:
                body["stream_options"] = {"include_usage": True}
        return body

    def _read(self, content: bytes) -> Written:
        answer = read_answer(json.loads(content))
        text = answer.text or answer.refusal or ""
        reasoned = self.reasons and answer.reasoning is not None
        if not text.strip() and not reasoned:
            raise DownError("the answer is empty", lasting=True)
        text = text.lstrip() if reasoned else text
        known = bool(answer.prompt_tokens or answer.completion_tokens)
        log_probs = [token.log_prob for token in answer.tokens or () if token.log_prob != FORCED]
        usd: float | None = 0.0
        if not self.free:
            parts = (answer.prompt_tokens * self.price.get("input", 0.0),
                     answer.completion_tokens * self.price.get("output", 0.0))  # fmt: skip
            usd = sum(parts) / 1e6 if known and len(self.price) >= 2 else None
        return Written(
            text=text[:MOST_TEXT],
            finish="length" if answer.finish_reason == "length" or not text else "stop",
            prompt_tokens=answer.prompt_tokens if known else None,
            completion_tokens=answer.completion_tokens if known else None,
            log_prob=sum(log_probs) / len(log_probs) if log_probs else None,
            usd=usd,
        )

    def _client(self) -> Any:
        import aiohttp

        if self._session is None:
            self._via = _proxy_for(self.base_url)
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self.timeout_seconds, sock_connect=CONNECT_SECONDS),
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
                trace_configs=[_noting_kept_connections()],
                read_bufsize=1 << 20,
                auto_decompress=True,
            )
        return self._session

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def _said(self, text: str) -> None:
        self.note(f"{self.base_url} ({self.model}) {text}")

    def _clean(self, text: str) -> str:
        """Keep a message short, on one line and free of the key."""
        if len(self.key) > 4:
            text = text.replace(self.key, "…")
        return " ".join(text.split())[:300]


def _noting_kept_connections() -> Any:
    """Return what has aiohttp note `kept` in the context of a request that goes over a connection of an earlier one."""
    import aiohttp

    async def kept(session: Any, context: Any, parameters: Any) -> None:
        context.trace_request_ctx["kept"] = True

    tracing = aiohttp.TraceConfig()
    tracing.on_connection_reuseconn.append(kept)
    return tracing


def _proxy_for(url: str) -> dict[str, str]:
    """Return the proxy that the environment names for a server, none for one on this machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxy = getproxies().get(parts.scheme)
    if not proxy or host == "localhost" or host.startswith("127.") or host == "::1" or proxy_bypass(host):
        return {}
    return {"proxy": proxy}
