"""Whether an upstream is worth asking: nobody waits for a server that is known to be down."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from prefdistill.serve.upstream import DownError

FAILURES = 3
"""Failures in a row after which an upstream is left alone for a while."""
QUIET_SECONDS = 2.0


@dataclass
class Health:
    """Whether an upstream is worth asking: after some failures in a row it is left alone, then tried once."""

    failures: int = 0
    until: float = 0.0
    lasting: bool = False
    """Whether the last failure was a refusal that does not pass by itself: a key or a name, say."""
    now: Callable[[], float] = time.monotonic

    @property
    def resting(self) -> bool:
        """Whether it is left alone."""
        return self.failures >= FAILURES and self.now() < self.until

    def check(self) -> None:
        """Raise DownError while it is left alone; where the time is over, let one request try it."""
        if self.failures >= FAILURES:
            if self.now() < self.until:
                alone = "it failed several times in a row and is left alone for a moment"
                raise DownError(alone, lasting=self.lasting)
            self.until = self.now() + QUIET_SECONDS

    def failed(self, lasting: bool = False) -> None:
        """Note a failure."""
        self.failures += 1
        self.lasting = lasting
        self.until = self.now() + QUIET_SECONDS

    def answered(self) -> None:
        """Note an answer."""
        self.failures = 0
