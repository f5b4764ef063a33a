"""What the teacher may cost a day while it stands behind a served student.

The most that a request can cost is set aside before it is sent, and replaced by what it did cost. All of it is in a ledger
beside the log, so that the allowance holds over restarts; with the day, in UTC, it begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefdistill.errors import RunError
from prefdistill.protocols import TeacherRequest
from prefdistill.records import Usage
from prefdistill.requests.chat import token_bound
from prefdistill.requests.spending import Budget, Ledger
from prefdistill.serve.upstream import DownError, SpentError, Writing


class Payment:
    """What one request costs: the most that it can, until that is known."""

    def __init__(self, settled: Callable[[float], None] = lambda usd: None) -> None:
        self._settled = settled

    def settle(self, usd: float | None) -> None:
        """Say what it did cost, 0 where nobody answered; None, where nobody knows, leaves it at the most."""
        if usd is not None:
            self._settled(usd)


class Allowance:
    """US dollars a UTC day; for one server, on one thread."""

    def __init__(
        self,
        usd: float,
        log: Path,
        price: Mapping[str, float],
        extra_body: Mapping[str, Any],
        say: Callable[[str], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Read what was spent today.

        Args:
            usd: the most that the teacher's answers of one day may cost.
            log: of the server; the ledger is beside it.
            price: US dollars per million tokens of `input` and `output`.
            extra_body: what every request to the teacher says besides, which may ask for more than one answer.
            say: called once a day with what a person should know.
            now: the clock, in UTC.

        Raises:
            RunError: the ledger cannot be read.
        """
        self.usd = usd
        self._log, self._price, self._extra_body, self._say, self._now = log, dict(price), extra_body, say, now
        self._stretch = 1.0
        """How many times more than it should have been able to an answer has cost."""
        self._least = float("inf")
        """The most that the cheapest request so far could cost, US dollars."""
        self._day = ""
        self._said = ""
        self._ledger = self._today()

    @property
    def left(self) -> float:
        """What is left of today's, US dollars."""
        return max(0.0, self.usd - self._today().charged.usd)

    @property
    def spent(self) -> bool:
        """Whether what is left of today's is not enough for any request as there were so far."""
        return self._least < float("inf") and not self._today().fits(Usage(calls=1, usd=self._least))

    @contextmanager
    def paying(self, asked: Writing) -> Iterator[Payment]:
        """Set the most aside that a request can cost; what was not settled in the block stays charged at that.

        Raises:
            SpentError: it does not fit into what is left of the day's.
            DownError: it cannot be written down, so that nothing may be sent.
        """
        ledger, possible = self._today(), self._possible(asked)
        most = Usage(calls=1, usd=possible * self._stretch)
        self._least = min(self._least, most.usd)
        if not ledger.fits(most):
            self._tell(ledger, most)
            dear = (
                f"it may cost ${most.usd:.4f}, and ${self.left:.4f} of the {self.usd:g} dollars of {self._day} are left"
            )
            raise SpentError(dear, lasting=True)
        try:
            name = ledger.reserve(most)
        except RunError as problem:
            raise DownError(str(problem)) from None

        def settled(usd: float) -> None:
            if possible > 0:  # a server that counts more tokens than there are, or writes more than it may
                self._stretch = max(self._stretch, usd / possible)
            try:
                ledger.settle(name, Usage(calls=1, usd=usd))
            except RunError as problem:
                self._say(str(problem))

        try:
            yield Payment(settled)
        finally:
            ledger.leave(name)

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()

    def _today(self) -> Ledger:
        """Return the day's ledger; those of earlier days are removed."""
        day = self._now().date().isoformat()
        if day != self._day:
            if self._day:
                self._ledger.close()
            mine = self._log.with_name(f"{self._log.name}.spent-{day}")
            for path in self._log.parent.glob(f"{self._log.name}.spent-*"):
                if path != mine:
                    with suppress(OSError):  # it does no harm
                        path.unlink()
            self._day, self._ledger = day, Ledger(Budget(usd=self.usd), mine)
        return self._ledger

    def _possible(self, asked: Writing) -> float:
        """Return the most that a request can cost at a server that keeps to its limits, US dollars."""
        request = TeacherRequest(asked.id, asked.messages, asked.max_tokens, asked.temperature)
        prompt, completion = token_bound(request, self._extra_body)
        return (prompt * self._price["input"] + completion * self._price["output"]) / 1e6

    def _tell(self, ledger: Ledger, most: Usage) -> None:
        if self._said == self._day or not self.spent:
            return
        self._said = self._day
        self._say(
            f"--teacher-usd {self.usd:g}: ${ledger.charged.usd:.4f} of {self._day} (UTC) are spent or set aside, and the "
            f"next answer may cost ${most.usd:.4f}: what is left goes to cheaper requests alone; the student answers the "
            "others until midnight, marked teacher_spent"
        )
