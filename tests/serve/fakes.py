"""Upstreams that do as they are told, and a server in a thread in front of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import openai
import uvicorn

from prefdistill.rubric import RubricSet
from prefdistill.serve.app import Service, build_app
from prefdistill.serve.clients import Limits
from prefdistill.serve.gauges import Gauges
from prefdistill.serve.journal import Journal
from prefdistill.serve.router import Decoding, Router
from prefdistill.serve.routing import TESTS, Screen, TestName, Thresholds, Written
from prefdistill.serve.shadow import Shadow
from prefdistill.serve.upstream import DownError, TooLongError, Writing
from prefdistill.served import Served, ServedLog, read_served
from tests.making import LENGTH, make_rubric

GOOD = "See you on Friday at noon."
RUBRIC = make_rubric(LENGTH, gates=[{"name": "facts", "check": "mentions", "all_of": ["{day}"]}])


def broken_check(prompt: Any, text: str) -> float:
    """A check that cannot read what it is given."""
    raise ValueError("cannot read it")


@dataclass
class Fake:
    """An upstream with one answer."""

    text: str = GOOD
    log_prob: float | None = -0.2
    finish: Any = "stop"
    usd: float | None = 0.0
    delay: float = 0.0
    problem: Exception | None = None
    breaks_after: int | None = None
    """Pieces after which a stream breaks off."""
    comes_back: bool = False
    """Whether waiting for it mends it."""
    asked: list[Writing] = field(default_factory=list)
    cancelled: int = 0

    @property
    def state(self) -> str:
        return "down" if self.problem else "ready"

    async def write(self, asked: Writing) -> Written:
        self.asked.append(asked)
        try:
            await asyncio.sleep(self.delay)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.problem is not None:
            raise self.problem
        return Written(self.text, self.finish, 10, 5, self.log_prob, self.usd)

    async def stream(self, asked: Writing) -> AsyncGenerator[str | Written]:
        whole = await self.write(asked)
        for number, word in enumerate(self.text.split(" ")):
            if number == self.breaks_after:
                raise DownError("broke")
            yield word if not number else f" {word}"
            try:
                await asyncio.sleep(self.delay)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        yield whole

    async def back(self, seconds: float) -> bool:
        if self.comes_back:
            self.problem = None
        return self.comes_back

    async def close(self) -> None:
        pass


def down() -> Fake:
    return Fake(problem=DownError("down"))


def too_long() -> Fake:
    return Fake(problem=TooLongError("too long"))


def make_tests(*on: TestName, thresholds: Thresholds | None = None, scope: Any = None, tags: Any = None) -> Screen:
    return Screen(frozenset(on or TESTS), RubricSet(rubrics={"": RUBRIC}), thresholds or Thresholds(), scope, tags)


def make_router(student: Fake, teacher: Fake, tests: Screen | None = None, **changes: Any) -> Router:
    router = Router(tests or make_tests(), student, teacher, Decoding(0.7, 1.0, 100), say=lambda line: None)
    return replace(router, **changes)


@dataclass
class Running:
    """A server that answers."""

    service: Service
    url: str
    log: Path

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=key, max_retries=0, timeout=20)

    def ask(self, text: str = "Write it.", **changes: Any) -> Any:
        """Ask by the openai client; return the raw response, whose `parse()` is the answer."""
        client = self.client(changes.pop("key", "none"))
        arguments = {"model": "run", "messages": [{"role": "user", "content": text}], **changes}
        return client.chat.completions.with_raw_response.create(**arguments)

    def rows(self) -> list[Served]:
        """Return the log; it is complete once the server has ended."""
        return list(read_served([self.log]))


@contextmanager
def running(
    tmp_path: Path,
    router: Router,
    redact: bool = False,
    shadow: Callable[[Gauges, Journal], Shadow] | None = None,
    **changes: Any,
) -> Iterator[Running]:
    """Serve in a thread until the block ends; the log is complete then."""
    log = ServedLog(tmp_path / "served.jsonl")
    gauges = Gauges(0.1, 0.1)
    journal = Journal(log, redact, lambda line: None, gauges.log_lost.inc)
    looking = shadow(gauges, journal) if shadow else None
    service = Service("run", 0, router, gauges, journal, looking, **{"limits": Limits(), **changes})
    config = uvicorn.Config(build_app(service), port=0, log_level="error", http="httptools", ws="none", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Running(service, f"http://127.0.0.1:{port}/v1", log.path)
    finally:
        server.should_exit = True
        thread.join(10)
        if looking is not None:
            looking.close()
        journal.close()
