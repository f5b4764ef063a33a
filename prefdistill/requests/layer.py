"""What every paid call shares: the cache on disk, limits, retries, the budget and the count of what was spent.

A teacher, judge or sampler describes its requests as `Call`s and reads `Outcome`s as they finish; the layer keeps up
to `concurrency` of them in flight on its own threads, whoever asked. A reply is in the cache before anybody sees it,
so after a kill only requests in flight are asked again.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal
from urllib.parse import urlsplit

from prefdistill.records import Failure, Usage
from prefdistill.requests.calls import Answer, Call, CallError, EndpointError, Outcome, SetAside
from prefdistill.requests.limits import Host, Limits
from prefdistill.requests.reply_cache import ReplyCache, default_cache_directory
from prefdistill.requests.spending import Budget, Ledger
from prefdistill.requests.till import Till, price_for
from prefdistill.workers import Workers

__all__ = ["Answer", "Call", "CallError", "Endpoint", "EndpointError", "Outcome", "RequestLayer"]

ATTEMPTS = 6
"""Attempts of one call where the server fails; a rate limit is waited for until the call's deadline."""
FIRST_ATTEMPTS = 4
"""The same while the endpoint has never answered: an unreachable host should be reported soon."""
BACK_OFF_SECONDS = 0.5
LONGEST_BACK_OFF_SECONDS = 8.0
SHORTEST_WAIT_SECONDS = 1.0
"""A server that asks for less than this, or for nothing, is given up to this all the same."""
OVERLOADED = frozenset({429, 503, 529})
"""Statuses after which every worker leaves the server alone for a while."""
LOOK_AGAIN_SECONDS = (0.05, 0.5)
"""How often to look for a reply that another process is waiting for: at first, and later on."""
FROM_CACHE = Usage(cached=1)
NOT_IN_CACHE = "the reply is not in the request cache, and nothing is sent (cached only)"


class RequestLayer:
    """The cache, the endpoints and the count of what was spent; one a run, shared by all plug-ins."""

    def __init__(
        self,
        cache: str | Path = "user",
        cached_only: bool = False,
        budget: Budget | None = None,
        ledger: Path | None = None,
    ) -> None:
        """Open the cache: `user` is one per user, `off` keeps no reply, anything else is a folder.

        With `cached_only` nothing is sent: a call whose reply is not in the cache fails. `ledger` is the file in which
        what was spent is kept from process to process, so that the `budget` holds for all of them together.

        Raises:
            RunError: the cache or the ledger cannot be opened.
        """
        self.cached_only = cached_only
        directory = default_cache_directory() if cache == "user" else Path(cache)
        self.cache = None if cache == "off" else ReplyCache(directory)
        self.ledger = Ledger(budget, ledger)
        self.notes: list[str] = []
        """What a user should know about how servers were asked, such as a parameter that one refused."""
        self.memory: dict[Any, Any] = {}
        """What plug-ins remember about an endpoint for the length of the run."""
        self._hosts: dict[str, Host] = {}
        self._limits: dict[str, Limits] = {}
        self._endpoints: list[Endpoint] = []
        self._flying: dict[str, Future[Outcome]] = {}
        self._here = threading.local()
        self._usage = Usage()
        self._from_cache = 0
        self._lock = threading.RLock()
        self._closing = threading.Event()

    def endpoint(
        self,
        url: str,
        concurrency: int,
        deadline_seconds: float = 600.0,
        usd_per_million: Mapping[Literal["input", "output"], float] | None = None,
        *,
        model: str = "",
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
    ) -> Endpoint:
        """Return a door to `url` with at most `concurrency` requests in flight through it.

        Limits a minute hold for all endpoints on the same host and port together. Without `usd_per_million` the price
        is that of `model` in the price table.

        Raises:
            PluginError: the budget is in US dollars and the model has no price.
        """
        price = price_for(model, usd_per_million, None if self.cached_only else self.ledger.budget)
        with self._lock:
            limits = self._limits.setdefault(urlsplit(url).netloc or url, Limits(self._closing))
            limits.tighten(requests_per_minute, tokens_per_minute)
            host = self._hosts.setdefault(url, Host(url, limits, self._closing))
            endpoint = Endpoint(self, host, concurrency, deadline_seconds, price, model)
            self._endpoints.append(endpoint)
            return endpoint

    @property
    def usage(self) -> Usage:
        """Everything spent through this layer so far, failed attempts included."""
        with self._lock:
            return self._usage + Usage(cached=self._from_cache)

    def spend(self, usage: Usage) -> None:
        """Add to the count of what was spent."""
        with self._lock:
            if usage is FROM_CACHE:
                self._from_cache += 1
            else:
                self._usage = self._usage + usage

    @contextmanager
    def known_only(self) -> Iterator[None]:
        """In this thread, raise `SetAside` where a reply would have to be waited for."""
        self._here.known_only = True
        try:
            yield
        finally:
            self._here.known_only = False

    def cached(self, call: Call) -> Answer | None:
        """Return the reply to an equal call from the request cache, None where there is none."""
        return self.all_cached([call]).get(call.cache_key)

    def all_cached(self, calls: Sequence[Call]) -> dict[str, Answer]:
        """Return the replies that are in the request cache, by `Call.cache_key`."""
        if self.cache is None:
            return {}
        rows = self.cache.get_many([call.cache_key for call in calls])
        return {key: Answer.from_row(row) for key, row in rows.items()}

    def store(self, call: Call, answer: Answer) -> None:
        """Keep an answer as the reply to `call`; also one that came another way, such as in a batch."""
        self.keep(call.cache_key, answer, call.identity.get("model", "") if isinstance(call.identity, dict) else "")

    def keep(self, key: str, answer: Answer, model: str = "") -> None:
        """Keep an answer under a call's `cache_key`.

        Raises:
            RunError: it cannot be stored.
        """
        if self.cache is not None:
            self.cache.put(key, answer.to_row(), model)

    def note(self, text: str) -> None:
        """Keep something the user should know, once."""
        with self._lock:
            if text not in self.notes:
                self.notes.append(text)

    def close(self) -> None:
        """Cancel what is not in flight, let the rest end by itself, close the cache."""
        self._closing.set()
        for limits in self._limits.values():
            limits.wake()
        self.ledger.close()
        for endpoint in self._endpoints:
            endpoint.workers.stop()
        if self.cache is not None and not self._flying:  # a reply that still arrives is kept
            self.cache.close()


class WaitedError(Exception):
    """Another process held the claim on a request for longer than a call may take."""


@dataclass
class Claim:
    """A request that this process may make, unless its reply came from another."""

    answer: Answer | None = None
    kept: bool = False
    """Whether the reply is in the cache, where it ends the claim."""


class Endpoint(Till):
    """One plug-in's door to a server: its own limit on requests in flight, its own prices."""

    def __init__(
        self,
        layer: RequestLayer,
        host: Host,
        concurrency: int,
        deadline_seconds: float,
        price: dict[str, float],
        model: str = "",
    ) -> None:
        super().__init__(layer.ledger, price, lambda text: layer.note(f"{host.url} ({model}) {text}"))
        self.layer = layer
        self.host = host
        self.deadline_seconds = deadline_seconds
        self.workers = Workers(concurrency, "request")

    def outcomes(self, calls: Sequence[Call]) -> Iterator[Outcome]:
        """Yield each call's outcome as it finishes, cached ones first; equal calls in flight are made once.

        Raises:
            EndpointError: the server cannot be used at all.
            BudgetError: the next call does not fit into the budget; every reply that arrived is kept.
            RunError: the cache or the ledger cannot be written.
        """
        done: SimpleQueue[tuple[Call, Future[Outcome], bool]] = SimpleQueue()
        waiting = 0
        cached = self.layer.all_cached(calls)
        if getattr(self.layer._here, "known_only", False) and any(call.cache_key not in cached for call in calls):
            raise SetAside
        for call in calls:
            if (answer := cached.get(call.cache_key)) is not None:
                yield self._from_cache(call, answer)
                continue
            if self.layer.cached_only:
                failure = Failure(stage="request", key=call.key, kind="provider", message=NOT_IN_CACHE)
                yield Outcome(call, None, failure.usage, failure)
                continue
            future, mine = self._submit(call)
            future.add_done_callback(lambda future, call=call, mine=mine: done.put((call, future, mine)))  # type: ignore[misc]
            waiting += 1
        for _ in range(waiting):
            call, future, mine = done.get()
            outcome = future.result()
            if not mine:  # another caller made this very call: it is the one who paid
                usage = FROM_CACHE if outcome.answer else Usage()
                self.layer.spend(usage)
                outcome = Outcome(call, outcome.answer, usage, outcome.failure and _keyed(outcome.failure, call.key))
            yield outcome

    def _submit(self, call: Call) -> tuple[Future[Outcome], bool]:
        """Return the future of this call, and whether it is a new one."""
        flying, key = self.layer._flying, call.cache_key
        with self.layer._lock:
            future = flying.get(key)
            if future is not None:
                return future, False
            future = flying[key] = self.workers.submit(lambda: self._ask(call))
        future.add_done_callback(lambda _: flying.pop(key, None))
        return future, True

    def _from_cache(self, call: Call, answer: Answer) -> Outcome:
        self.layer.spend(FROM_CACHE)
        return Outcome(call, answer, FROM_CACHE)

    def _ask(self, call: Call) -> Outcome:
        """Make the call unless somebody else has; while it is being made no other process makes it."""
        try:
            with self._claimed(call) as claim:
                if claim.answer is not None:
                    return self._from_cache(call, claim.answer)
                outcome = self._make(call)
                claim.kept = outcome.answer is not None  # a call that was given up may be made again, by anybody
                return outcome
        except WaitedError as problem:
            failure = Failure(stage="request", key=call.key, kind="provider", message=str(problem))
            return Outcome(call, None, failure.usage, failure)

    @contextmanager
    def _claimed(self, call: Call) -> Iterator[Claim]:
        """Hold the claim on a call, or wait for the reply that another process gets; hand out that reply.

        Raises:
            WaitedError: the other process took longer than a call may take.
        """
        cache, pause = self.layer.cache, LOOK_AGAIN_SECONDS[0]
        until = time.monotonic() + self.deadline_seconds
        claim = Claim()
        while cache is not None and not cache.claim(call.cache_key):
            if (answer := self.layer.cached(call)) is not None:
                yield Claim(answer)
                return
            if time.monotonic() > until:
                raise WaitedError(
                    "another process is making this very request and has no reply yet; waited deadline_seconds "
                    f"({self.deadline_seconds:g}) for it: run again later"
                )
            self.host.sleep(pause)
            pause = min(1.5 * pause, LOOK_AGAIN_SECONDS[1])
        try:
            yield claim
        finally:
            if cache is not None and not claim.kept:
                cache.release(call.cache_key)

    def _make(self, call: Call) -> Outcome:
        """Make attempts until one is answered or no other can help, and keep the answer."""
        attempts = limited = 0
        deadline = 0.0
        while True:
            taken = self.host.wait_for_turn(sum(call.bound))
            deadline = deadline or time.monotonic() + self.deadline_seconds
            attempts += 1
            try:
                answer = self._attempt(call, taken)
            except CallError as problem:
                self.layer.spend(Usage(calls=1))
                limited += problem.status == 429 or problem.retry == "now"
                if problem.retry == "now" or self._worth_another(problem, attempts - limited, attempts, deadline):
                    continue
                self.host.give_up(problem)
                message, usage = f"{problem} (given up after {attempts} attempts)", Usage(calls=attempts)
                failure = Failure(stage="request", key=call.key, kind="provider", message=message, usage=usage)
                return Outcome(call, None, usage, failure)
            usage = self.usage_of(answer)
            self.layer.spend(usage)
            return Outcome(call, answer, usage.model_copy(update={"calls": attempts}) if attempts > 1 else usage)

    def _attempt(self, call: Call, taken: float) -> Answer:
        """Make one attempt: reserve what it can cost, send it, keep the answer, settle what it did cost.

        Raises:
            CallError: there is no answer.
        """
        limits, bound = self.host.limits, sum(call.bound)
        used: int | None = None
        try:
            name = self.reserve(call)
            try:
                answer = call.send()
                self.layer.store(call, answer)
                self.host.succeed()
                self.settle(name, answer, call.bound)
            except CallError as problem:
                if not problem.lost:
                    used = 0
                    self.ledger.settle(name, Usage())
                raise
            finally:
                self.ledger.leave(name)
            used = (answer.prompt_tokens + answer.completion_tokens) or None
            return answer
        finally:
            limits.settle(taken, bound, used)

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
        seconds = back_off if wanted is None else max(wanted, min(back_off, SHORTEST_WAIT_SECONDS))
        if time.monotonic() + seconds > deadline:
            return False
        if problem.status in OVERLOADED or wanted is not None:
            self.host.pause(seconds)
        else:
            self.host.sleep(seconds)
        return True


def _keyed(failure: Failure, key: str) -> Failure:
    """Return another caller's failure as one's own; the first caller has paid for it."""
    return failure.model_copy(update={"key": key, "usage": Usage()})
