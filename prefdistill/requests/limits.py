"""How fast a server may be asked, and whether it can be asked at all: what every worker that asks it shares.

`Limits` belongs to a machine (a host name and port), whichever models and paths are asked there; `Host` to one base
URL: its health, and the quiet that it asked for.
"""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import CancelledError

from prefdistill.requests.calls import CallError, EndpointError

HOPELESS = 8
"""Calls given up, without one ever answered, after which the endpoint is taken to be unusable."""
MINUTE_SECONDS = 60.0


class Pace:
    """At most `limit` units in any minute, a second's worth of them at once."""

    def __init__(self, limit: float) -> None:
        self.burst = max(1.0, limit / 60)
        self.per_second = (limit - self.burst + 1) / MINUTE_SECONDS
        self._level = self.burst
        self._at = time.monotonic()

    def seconds_until(self, amount: float) -> float:
        """Return how long until `amount` may be taken; more than a burst has to wait for a whole burst."""
        now = time.monotonic()
        self._level = min(self.burst, self._level + (now - self._at) * self.per_second)
        self._at = now
        return max(0.0, (min(amount, self.burst) - self._level) / self.per_second)

    def take(self, amount: float) -> None:
        """Take `amount`; the level may fall below zero, and the next one waits for longer."""
        self._level -= amount


class Limits:
    """Requests and tokens a minute on one machine, kept by all workers together."""

    def __init__(self, closing: threading.Event) -> None:
        self.requests_per_minute: float | None = None
        self.tokens_per_minute: float | None = None
        self._requests: Pace | None = None
        self._tokens: Pace | None = None
        self._used = self._asked = 0.0
        self._closing = closing
        self._turn = threading.Condition()

    def tighten(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        """Set limits; of several endpoints on one machine the strictest holds."""
        with self._turn:
            if requests_per_minute is not None and requests_per_minute < (self.requests_per_minute or float("inf")):
                self.requests_per_minute, self._requests = requests_per_minute, Pace(requests_per_minute)
            if tokens_per_minute is not None and tokens_per_minute < (self.tokens_per_minute or float("inf")):
                self.tokens_per_minute, self._tokens = tokens_per_minute, Pace(tokens_per_minute)

    def take(self, bound: int) -> float:
        """Wait until one more request of at most `bound` tokens may be sent; return the tokens set aside for it.

        Of the bound, only the share that earlier replies used is set aside, and `settle` corrects it.

        Raises:
            CancelledError: the layer is closing.
        """
        if self._requests is None and self._tokens is None:
            return 0.0
        with self._turn:
            while True:
                if self._closing.is_set():
                    raise CancelledError
                tokens = bound * (self._used / self._asked if self._asked else 1.0)
                seconds = self._requests.seconds_until(1) if self._requests else 0.0
                if self._tokens is not None:
                    seconds = max(seconds, self._tokens.seconds_until(tokens))
                if seconds <= 0:
                    break
                self._turn.wait(seconds)
            if self._requests is not None:
                self._requests.take(1)
            if self._tokens is not None:
                self._tokens.take(tokens)
            return tokens

    def settle(self, taken: float, bound: int, used: int | None) -> None:
        """Correct what `take` set aside by the tokens that were used; None where nobody knows."""
        if self._tokens is None:
            return
        with self._turn:
            if used is not None:
                self._tokens.take(used - taken)
                self._used, self._asked = self._used + used, self._asked + bound
            self._turn.notify_all()

    def wake(self) -> None:
        """Let every waiting worker see that the layer closes."""
        with self._turn:
            self._turn.notify_all()


class Host:
    """What is known about one base URL: whether it ever answered, and until when it wants to be left alone."""

    def __init__(self, url: str, limits: Limits, closing: threading.Event) -> None:
        self.url = url
        self.limits = limits
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

    @property
    def quiet_seconds(self) -> float:
        """How long the server still wants to be left alone."""
        return self._quiet_until - time.monotonic()

    def wait_for_turn(self, bound: int) -> float:
        """Wait while the server wants quiet and the limits are reached; return the tokens set aside.

        After quiet a worker waits a little longer, so that not all of them come back at once.

        Raises:
            EndpointError: the server was found to be unusable in the meantime.
            CancelledError: the layer is closing.
        """
        while True:
            while (seconds := self.quiet_seconds) > 0:
                self.sleep(seconds + random.uniform(0, min(1.0, 0.1 * seconds)))
            taken = self.limits.take(bound)
            if self.quiet_seconds <= 0:
                break
            self.limits.settle(taken, bound, 0)
        if self.fatal is not None:
            raise self.fatal
        if self._closing.is_set():
            raise CancelledError
        return taken

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
