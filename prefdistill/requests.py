"""What every paid call shares: the cache on disk, limits, retries and the count of what was spent.

A teacher, judge or sampler describes its requests as `Call`s and reads `Outcome`s as they finish; the layer keeps up
to `concurrency` of them in flight on its own threads, whoever asked. A reply is in the cache before anybody sees it,
so after a kill only requests in flight are asked again.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

from prefdistill.errors import PrefdistillError
from prefdistill.records import Failure, Usage, digest
from prefdistill.reply_cache import ReplyCache, default_cache_directory
from prefdistill.workers import Workers

ATTEMPTS = 6
"""Attempts of one call where the server fails; a rate limit is waited for until the call's deadline."""
FIRST_ATTEMPTS = 4
"""The same while the endpoint has never answered: an unreachable host should be reported soon."""
HOPELESS = 8
"""Calls given up, without one ever answered, after which the endpoint is taken to be unusable."""
BACK_OFF_SECONDS = 0.5
LONGEST_BACK_OFF_SECONDS = 8.0


class EndpointError(PrefdistillError):
    """An endpoint cannot be used at all: unreachable, unauthorised, or without the model asked for."""


class CallError(Exception):
    """One attempt that gave no answer."""

    def __init__(
        self,
        message: str,
        retry: Literal["no", "now", "later"],
        status: int | None = None,
        retry_after_seconds: float | None = None,
        advice: str = "",
    ) -> None:
        super().__init__(message)
        self.retry = retry
        """now: the request itself was mended (a refused parameter left out); later: after a back-off."""
        self.status = status
        """HTTP status; None where there was no reply."""
        self.retry_after_seconds = retry_after_seconds
        self.advice = advice
        """What to do where nothing from this endpoint ever works."""


@dataclass(frozen=True)
class Answer:
    """What a server replied: paid for, settled, and what the cache keeps."""

    text: str
    finish_reason: str
    refusal: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    logprobs: list[list[tuple[str, float]]] | None = None


@dataclass(frozen=True)
class Call:
    """One request to make."""

    key: str
    """The caller's name for it."""
    identity: Any
    """Everything that the answer depends on, without endpoint and key: the cache key is its hash."""
    send: Callable[[], Answer]
    """Make one attempt; raises CallError."""


@dataclass(frozen=True)
class Outcome:
    """How one call ended: with an answer, or with a failure of kind provider."""

    call: Call
    answer: Answer | None
    usage: Usage
    failure: Failure | None = None


class RequestLayer:
    """The cache, the endpoints and the count of what was spent; one a run, shared by all plug-ins."""

    def __init__(self, cache: str | Path = "user") -> None:
        """Open the cache: `user` is one per user, `off` keeps no reply, anything else is a folder."""
        directory = default_cache_directory() if cache == "user" else Path(cache)
        self.cache = None if cache == "off" else ReplyCache(directory)
        self.notes: list[str] = []
        """What a user should know about how servers were asked, such as a parameter that one refused."""
        self.memory: dict[Any, Any] = {}
        """What plug-ins remember about an endpoint for the length of the run."""
        self._hosts: dict[str, Host] = {}
        self._endpoints: list[Endpoint] = []
        self._flying: dict[str, Future[Outcome]] = {}
        self._usage = Usage()
        self._lock = threading.RLock()
        self._closing = threading.Event()

    def endpoint(
        self,
        url: str,
        concurrency: int,
        deadline_seconds: float = 600.0,
        usd_per_million: Mapping[Literal["input", "output"], float] | None = None,
    ) -> Endpoint:
        """Return a door to `url` with at most `concurrency` requests in flight through it."""
        with self._lock:
            host = self._hosts.setdefault(url, Host(url, self._closing))
            endpoint = Endpoint(self, host, concurrency, deadline_seconds, dict(usd_per_million or {}))
            self._endpoints.append(endpoint)
            return endpoint

    @property
    def usage(self) -> Usage:
        """Everything spent through this layer so far, failed attempts included."""
        with self._lock:
            return self._usage

    def spend(self, usage: Usage) -> None:
        """Add to the count of what was spent."""
        with self._lock:
            self._usage = self._usage + usage

    def note(self, text: str) -> None:
        """Keep something the user should know, once."""
        with self._lock:
            if text not in self.notes:
                self.notes.append(text)

    def close(self) -> None:
        """Cancel what is not in flight, let the rest end by itself, close the cache."""
        self._closing.set()
        for endpoint in self._endpoints:
            endpoint.workers.stop()
        if self.cache is not None and not self._flying:  # a reply that still arrives is kept
            self.cache.close()


class Host:
    """What is known about one server: whether it ever answered, and until when it wants to be left alone."""

    def __init__(self, url: str, closing: threading.Event) -> None:
        self.url = url
        self.answered = 0
        self.given_up = 0
        self.fatal: EndpointError | None = None
        self._quiet_until = 0.0
        self._closing = closing
        self._lock = threading.Lock()

    def pause(self, seconds: float) -> None:
        """Keep every worker from this server for `seconds`."""
        with self._lock:
            self._quiet_until = max(self._quiet_until, time.monotonic() + seconds)

    def wait_for_turn(self) -> None:
        """Wait while the server wants quiet, then a little longer so that not all workers come back at once.

        Raises:
            EndpointError: the server was found to be unusable in the meantime.
        """
        while (seconds := self._quiet_until - time.monotonic()) > 0:
            self.sleep(seconds + random.uniform(0, min(1.0, 0.1 * seconds)))
        if self.fatal is not None:
            raise self.fatal

    def sleep(self, seconds: float) -> None:
        """Sleep, or raise when the layer closes."""
        if self._closing.wait(seconds):
            raise CancelledError

    def succeed(self) -> None:
        """Note an answer."""
        with self._lock:
            self.answered += 1

    def give_up(self, problem: CallError) -> None:
        """Note a call that was given up.

        Raises:
            EndpointError: nothing ever worked, and this problem will not go away by itself.
        """
        with self._lock:
            self.given_up += 1
            telling = problem.status in (None, 401, 402, 403, 404) or self.given_up >= HOPELESS
            if self.answered == 0 and telling and self.fatal is None:
                self.fatal = EndpointError(f"{self.url}: {problem}{'; ' if problem.advice else ''}{problem.advice}")
        if self.fatal is not None:
            raise self.fatal

    def give_out(self, message: str) -> EndpointError:
        """Declare the server unusable for now."""
        with self._lock:
            self.fatal = self.fatal or EndpointError(f"{self.url}: {message}")
            return self.fatal


class Endpoint:
    """One plug-in's door to a server: its own limit on requests in flight, its own prices."""

    def __init__(
        self, layer: RequestLayer, host: Host, concurrency: int, deadline_seconds: float, price: dict[Any, float]
    ) -> None:
        self.layer = layer
        self.host = host
        self.deadline_seconds = deadline_seconds
        self.price = price
        self.workers = Workers(concurrency, "request")

    def outcomes(self, calls: Sequence[Call]) -> Iterator[Outcome]:
        """Yield each call's outcome as it finishes, cached ones first; equal calls in flight are made once.

        Raises:
            EndpointError: the server cannot be used at all.
            RunError: the cache cannot be written.
        """
        done: SimpleQueue[tuple[Call, Future[Outcome], bool]] = SimpleQueue()
        waiting = 0
        for call in calls:
            key = digest(call.identity, 40)
            if (answer := self._cached(key)) is not None:
                yield self._from_cache(call, answer)
                continue
            future, mine = self._submit(call, key)
            future.add_done_callback(lambda future, call=call, mine=mine: done.put((call, future, mine)))  # type: ignore[misc]
            waiting += 1
        for _ in range(waiting):
            call, future, mine = done.get()
            outcome = future.result()
            if not mine:  # another caller made this very call: it is the one who paid
                usage = Usage(cached=1) if outcome.answer else Usage()
                self.layer.spend(usage)
                outcome = Outcome(call, outcome.answer, usage, outcome.failure and _keyed(outcome.failure, call.key))
            yield outcome

    def _submit(self, call: Call, key: str) -> tuple[Future[Outcome], bool]:
        """Return the future of this call, and whether it is a new one."""
        flying = self.layer._flying
        with self.layer._lock:
            future = flying.get(key)
            if future is not None:
                return future, False
            future = flying[key] = self.workers.submit(lambda: self._ask(call, key))
        future.add_done_callback(lambda _: flying.pop(key, None))
        return future, True

    def _cached(self, key: str) -> Answer | None:
        stored = self.layer.cache.get(key) if self.layer.cache is not None else None
        return None if stored is None else Answer(**stored)

    def _from_cache(self, call: Call, answer: Answer) -> Outcome:
        usage = Usage(cached=1)
        self.layer.spend(usage)
        return Outcome(call, answer, usage)

    def _ask(self, call: Call, key: str) -> Outcome:
        """Make the call, again where that can help, and keep the answer."""
        if (answer := self._cached(key)) is not None:  # it arrived between the first look and this one
            return self._from_cache(call, answer)
        attempts = limited = 0
        self.host.wait_for_turn()
        deadline = time.monotonic() + self.deadline_seconds
        while True:
            self.host.wait_for_turn()
            attempts += 1
            try:
                answer = call.send()
            except CallError as problem:
                self.layer.spend(Usage(calls=1))
                limited += problem.status == 429 or problem.retry == "now"
                if problem.retry == "now":
                    continue
                if not self._worth_another(problem, attempts - limited, attempts, deadline):
                    self.host.give_up(problem)
                    failure = Failure(
                        stage="request",
                        key=call.key,
                        kind="provider",
                        message=f"{problem} (given up after {attempts} attempts)",
                        usage=Usage(calls=attempts),
                    )
                    return Outcome(call, None, failure.usage, failure)
                continue
            usage = self._usage_of(answer)
            if self.layer.cache is not None:
                self.layer.cache.put(key, asdict(answer))
            self.host.succeed()
            self.layer.spend(usage)
            return Outcome(call, answer, usage.model_copy(update={"calls": attempts}))

    def _worth_another(self, problem: CallError, failures: int, attempts: int, deadline: float) -> bool:
        """Wait as long as it takes until the call may be tried again; False where it should not be.

        Raises:
            EndpointError: the server wants to be left alone for longer than a call may take.
        """
        if problem.retry == "no":
            return False
        wanted = problem.retry_after_seconds
        if wanted is not None and wanted > self.deadline_seconds:
            raise self.host.give_out(
                f"{problem}; the server asks to be left alone for {wanted:.0f} s, longer than deadline_seconds "
                f"({self.deadline_seconds:.0f}); every reply that arrived is kept: run again later"
            )
        if failures >= (ATTEMPTS if self.host.answered else FIRST_ATTEMPTS):
            return False
        back_off = min(LONGEST_BACK_OFF_SECONDS, BACK_OFF_SECONDS * 2 ** (attempts - 1)) * random.uniform(0.75, 1.25)
        seconds = back_off if wanted is None else wanted
        if time.monotonic() + seconds > deadline:
            return False
        if problem.status == 429 or wanted is not None:
            self.host.pause(seconds)
        else:
            self.host.sleep(seconds)
        return True

    def _usage_of(self, answer: Answer) -> Usage:
        """Return what one answered attempt cost."""
        usd = answer.prompt_tokens * self.price.get("input", 0.0) + answer.completion_tokens * self.price.get(
            "output", 0.0
        )
        return Usage(
            calls=1,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            usd=usd / 1e6,
        )


def _keyed(failure: Failure, key: str) -> Failure:
    """Return another caller's failure as one's own; the first caller has paid for it."""
    return failure.model_copy(update={"key": key, "usage": Usage()})
