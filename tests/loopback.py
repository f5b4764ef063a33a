"""An OpenAI-compatible server on this machine that misbehaves on purpose, and one that judges by a known rule.

    with Loopback(lambda body: "hello") as server:
        … base_url=server.url …
    assert len(server.served) == 1

What a request gets is decided by a function of its body: a text, or a `Served` for anything else. As a program
(`python tests/loopback.py --latency 0.3`) it prints its URL and judges by length: what the benchmark asks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class Served:
    """What one request gets."""

    text: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    finish_reason: str = "stop"
    refusal: str | None = None
    body: Any = None
    """Sent instead of a chat completion; a string as it stands."""
    delay_seconds: float = 0.0
    broken: Literal["", "reset", "cut", "drip"] = ""
    """reset: no reply; cut: the connection closes in the middle of the body; drip: a byte now and then, for ever."""
    prompt_tokens: int = 100
    completion_tokens: int = 20
    logprobs: Any = None
    """The choice's `logprobs`, as it stands."""
    model: str | None = None
    """What the reply says that it comes from; the model asked for by default."""
    reasoning: str = ""
    """Sent beside the text as `reasoning_content`, in a stream before it."""
    pieces: Sequence[str] = ()
    """What a stream is cut into; by default the text's words."""
    pace_seconds: float | None = None
    """Between two reads of a stream that is sent bit by bit, each bit cut in the middle of a line; at once by default."""


Answer = Callable[[dict[str, Any]], Served | str]


def refused(status: int, message: str, **headers: str) -> Served:
    """An error as OpenAI words it."""
    body = {"error": {"message": message, "type": "invalid_request_error", "code": None}}
    return Served(status=status, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


class Loopback:
    """The server, running while the `with` block does."""

    def __init__(self, answer: Answer, latency_seconds: float = 0.0) -> None:
        self.answer = answer
        self.latency_seconds = latency_seconds
        self.requests: list[dict[str, Any]] = []
        """Bodies, in the order they came."""
        self.times: list[float] = []
        """When each came (monotonic seconds)."""
        self.served: list[dict[str, Any]] = []
        """Bodies that were answered with 200, completely."""
        self.worked: list[tuple[str, int, int]] = []
        """What it would bill: text of the last message, prompt and completion tokens, of every request that it did the
        work for; also where the reply was lost on the way."""
        self.keys: list[str] = []
        """Authorization headers."""
        self.in_flight = self.most_in_flight = self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Loopback:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=512))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or b"{}")
        self.requests.append(body)
        self.times.append(time.monotonic())
        self.keys.append(headers.get("authorization", ""))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if head[0].split()[1] != "/v1/chat/completions":
                served = refused(404, f"no route {head[0].split()[1]}")
            else:
                given = self.answer(body)
                served = Served(given) if isinstance(given, str) else given
                if served.status == 200:
                    last = body["messages"][-1]["content"]
                    self.worked.append((last, served.prompt_tokens, served.completion_tokens))
            await asyncio.sleep(self.latency_seconds + served.delay_seconds)
        finally:
            self.in_flight -= 1
        return await self._write(writer, body, served)

    async def _write(self, writer: asyncio.StreamWriter, body: dict[str, Any], served: Served) -> bool:
        if served.broken == "reset":
            writer.transport.abort()
            return False
        content = served.body if served.body is not None else completion(body, served)
        kind = "application/json"
        if body.get("stream") is True and served.body is None and served.status == 200:
            content, kind = streamed(body, served), "text/event-stream"
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        paced = served.pace_seconds is not None
        length = "transfer-encoding: chunked" if paced else f"content-length: {len(data)}"
        headers = {"content-type": kind, **served.headers}
        lines = [f"HTTP/1.1 {served.status} X", length, *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        if served.broken == "cut":
            writer.write(data[: len(data) // 2])
            await writer.drain()
            writer.transport.abort()
            return False
        if served.broken == "drip":
            for byte in data:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.05)
            return True
        if served.pace_seconds is not None:
            for part in (*re.findall(rb"(?s).+?\n\nda|.+", data), b""):
                writer.write(b"%x\r\n%b\r\n" % (len(part), part))
                await writer.drain()
                await asyncio.sleep(served.pace_seconds)
        else:
            writer.write(data)
        await writer.drain()
        if served.status == 200:
            self.served.append(body)
        return True


def completion(body: dict[str, Any], served: Served) -> dict[str, Any]:
    """A chat completion that says `served.text`."""
    message = {"role": "assistant", "content": served.text or None, "refusal": served.refusal}
    if served.reasoning:
        message["reasoning_content"] = served.reasoning
    tokens = {"prompt_tokens": served.prompt_tokens, "completion_tokens": served.completion_tokens}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": body.get("model", "") if served.model is None else served.model,
        "choices": [
            {"index": 0, "message": message, "finish_reason": served.finish_reason, "logprobs": served.logprobs}
        ],
        "usage": {**tokens, "total_tokens": sum(tokens.values())},
    }


def streamed(body: dict[str, Any], served: Served) -> str:
    """The same as a stream of server-sent events, a word each."""
    whole = completion(body, served)
    usage = whole.pop("usage")
    words = served.pieces or re.findall(r"\S+\s*", served.text)
    thoughts = [({"reasoning_content": word}, None) for word in re.findall(r"\S+\s*", served.reasoning)]
    steps: list[tuple[dict[str, str], str | None]] = [*thoughts, *(({"content": word}, None) for word in words)]
    events = [
        {**whole, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        for delta, finish in [({"role": "assistant"}, None), *steps, ({}, served.finish_reason)]
    ]
    if (body.get("stream_options") or {}).get("include_usage"):
        events.append({**whole, "choices": [], "usage": usage})
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"


def fenced(body: dict[str, Any], kind: str) -> str | None:
    """The text that a judge's prompt shows between the markers of `kind` (draft, first, second).

    Read from the top, each fence to its own closing marker: markers that stand inside a fence are text.
    """
    content = body["messages"][-1]["content"]
    for found in re.finditer(r"<((\w+)-[0-9a-f]{12})>\n(.*?)\n</\1>", content, flags=re.DOTALL):
        if found.group(2) == kind:
            return found.group(3)
    return None


def menus(body: dict[str, Any]) -> dict[str, list[str]]:
    """The criteria that a judge's prompt asks about, with their levels."""
    system = body["messages"][0]["content"]
    found = re.findall(r'\d+\. "(\w+)": .*?Levels, worst to best: ([^\n]*)', system, flags=re.DOTALL)
    return {name: re.findall(r'"([^"]*)"', levels) for name, levels in found}


def judging_by(score: Callable[[str], float]) -> Callable[[dict[str, Any]], str]:
    """Answer as a judge that follows a rule: `score` gives a text 0..1, whatever order texts are shown in."""

    def answer(body: dict[str, Any]) -> str:
        if (draft := fenced(body, "draft")) is not None:
            levels = {
                name: {"reason": "by the rule", "level": menu[round(score(draft) * (len(menu) - 1))]}
                for name, menu in menus(body).items()
            }
            return json.dumps(levels)
        first, second = (score(fenced(body, kind) or "") for kind in ("first", "second"))
        winner = "tie" if first == second else "first" if first > second else "second"
        return json.dumps({"reason": "by the rule", "winner": winner})

    return answer


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until standard input closes."""
    import sys

    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0, help="seconds a reply takes")
    options = parser.parse_args(arguments)
    with Loopback(judging_by(lambda text: min(1.0, len(text) / 100)), options.latency) as server:
        print(server.url, flush=True)
        sys.stdin.read()
        print(json.dumps({"requests": len(server.requests), "most_in_flight": server.most_in_flight}), flush=True)


if __name__ == "__main__":
    main()
